# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Errors and warnings, shown on one line each."""

import atexit
import errno
import gc
import logging
import os
import re
import sys
import traceback
import warnings
from contextlib import contextmanager

import click

from levelmatch.cli.flags import CLASSES, flag_name
from levelmatch.cli.options import MATCH, MEASURE, READ, SOLVE
from levelmatch.cli.terminal import (
    INTERRUPTED,
    echo,
    keep_arguments,
    printable,
    prompt_interrupts,
    start_log,
    tell,
)

__all__ = ["Failure", "Group", "one_error", "reporting", "shown_warnings", "spell"]

# Flag of each option of the package.
FLAGS = {
    name: flag_name(name)
    for name in (*MEASURE, *SOLVE, *READ, *MATCH, "fit_type", "overwrite", "force")
} | {"regions": "--ignore-regions"}
ANY = "|".join(sorted(FLAGS, key=len, reverse=True))
LONG = "|".join(name for name in FLAGS if "_" in name)
CLASS_NAMES = "|".join(options.__name__ for options in CLASSES)
# An option in its class, as in "read=ReadOptions(rematch=True)".
IN_CLASS = re.compile(rf"(?:\b\w+=)?\b(?:{CLASS_NAMES})\(((?:[^()]|\([^()]*\))*)\)")
# Patterns that name an option in a message, and their replacements. An option of one word is also
# an English word, so it is replaced only where the pattern marks it as an option.
FORMS = (
    (re.compile(rf"\b(?P<name>{ANY})=True\b"), "{flag}"),
    (re.compile(rf"\b(?P<name>{ANY})=\('(?P<a>\w+)', (?P<b>\w+)\)"), "{flag} {a},{b}"),
    (re.compile(rf"\b(?P<name>{ANY})=['\"]?(?P<value>[\w.+-]+)['\"]?"), "{flag} {value}"),
    (re.compile(rf"\((?P<name>{ANY})\)"), "({flag})"),
    (re.compile(rf"^(?P<name>{ANY}): "), "{flag}: "),
    (re.compile(rf"\b(?P<word>by|see|without) (?P<name>{ANY})\b"), "{word} {flag}"),
    (re.compile(rf"(?<![\w./-])(?P<name>{LONG})(?![\w./=-]|\.\w)"), "{flag}"),
)
# Number of new objects between two garbage collections.
ALLOCATIONS = 20_000
# End of a message on a header without CTYPE cards.
EMPTY = " (CTYPE ['', ''])"


class Failure(click.ClickException):
    """Error message on one line, with an exit status."""

    def __init__(self, message, exit_code):
        super().__init__(printable(" ".join(message.split())))
        self.exit_code = exit_code
        tell(logging.ERROR, self.message)


class Group(click.Group):
    """Group of commands that reports wrong use on one line."""

    def main(self, *args, **extra):
        """Run the command line; text for a closed stream is lost."""
        for name in ("stdin", "stdout", "stderr"):
            if getattr(sys, name) is None:
                # An output file would else get the descriptor of the stream.
                setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
        # The solver uses one thread of BLAS; others wait in busy loops, which slow the measurement.
        # The libraries prefer a variable of their own.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return super().main(*args, **extra)

    def make_context(self, info_name, args, parent=None, **extra):
        """Parse the command line."""
        given = list(args)
        with _one_line(None, info_name):
            ctx = super().make_context(info_name, args, parent, **extra)
        keep_arguments(ctx, given)
        return ctx

    def invoke(self, ctx):
        """Run the command."""
        with _one_line(ctx), _rare_collections():
            return super().invoke(ctx)


@contextmanager
def _rare_collections():
    """Collect garbage less often, because imports make many objects that are never freed."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    before = gc.get_threshold()
    gc.set_threshold(max(ALLOCATIONS, before[0]) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _one_line(ctx, path=""):
    """Turn errors of use and interrupts into one line and an exit status."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Failure(INTERRUPTED, 130) from error
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        if error.ctx is not None:
            path = error.ctx.command_path
        elif ctx is not None:
            # For an option that it cannot parse, click does not name the command.
            path = " ".join([ctx.command_path, ctx.invoked_subcommand or ""]).rstrip()
        msg = f"{error.format_message().rstrip('.')} (see '{path} --help')"
        raise Failure(msg, 2) from error
    except PermissionError as error:
        # Of an argument in a folder that the user must not search.
        raise _failure(error) from error


@contextmanager
def one_error(*, debug):
    """Turn exceptions into one line and an exit status; with ``debug``, show the traceback."""
    try:
        with prompt_interrupts():
            yield
    except KeyboardInterrupt as error:
        if debug:
            echo(traceback.format_exc(), err=True)
        raise Failure(INTERRUPTED, 130) from error
    except (click.ClickException, click.exceptions.Exit, click.Abort) as error:
        if debug and error.__cause__ is not None:
            echo(traceback.format_exc(), err=True)
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise
        if debug:
            echo(traceback.format_exc(), err=True)
        raise _failure(error) from error


def _failure(error):
    """Return the message and exit status of an exception."""
    from astropy.units import UnitsError

    from levelmatch.exceptions import LevelMatchError

    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    bad = (
        LevelMatchError,
        UnitsError,
        ValueError,
        TypeError,
        FileExistsError,
        FileNotFoundError,
        NotADirectoryError,
    )
    if isinstance(error, bad):
        return Failure(spell(text), 2)
    if isinstance(error, OSError):
        return Failure(text, 1)
    return Failure(f"{type(error).__name__}: {text}; --debug shows where", 1)


def spell(text):
    """Return a message of the package with the options written as flags."""
    text = IN_CLASS.sub(r"\1", text)
    for form, spelling in FORMS:
        text = form.sub(
            lambda match, spelling=spelling: spelling.format(
                flag=FLAGS[match["name"]], **match.groupdict()
            ),
            text,
        )
    return text.replace(EMPTY, "")


@contextmanager
def reporting(*, debug):
    """Show the errors and warnings of a command on one line each; with ``debug``, also the log."""
    start_log(debug=debug)
    with one_error(debug=debug), shown_warnings():
        yield


@contextmanager
def shown_warnings():
    """Show each warning as one line, once.

    Yields
    ------
    shown : list of (type, str)
        Category and text of each warning of the package; it grows during the context.
    """
    shown, seen = [], set()
    # Astropy replaces the function that shows warnings when it is first imported.
    import astropy  # noqa: F401
    from astropy.utils.exceptions import AstropyUserWarning

    from levelmatch.exceptions import LevelMatchWarning

    def show(message, category, filename, lineno, file=None, line=None):
        kind = "" if issubclass(category, LevelMatchWarning) else f"{category.__name__}: "
        text = " ".join(str(message).split())
        if (category, text) in seen:
            return
        seen.add((category, text))
        if not kind:
            shown.append((category, text))
        echo(f"Warning: {kind}{spell(text)}", err=True)
        tell(logging.WARNING, f"{kind}{spell(text)}")

    with warnings.catch_warnings():
        # By default Python shows a warning of astropy for the first image only, because all come
        # from the same line of code.
        warnings.simplefilter("always", AstropyUserWarning)
        warnings.showwarning = show
        yield shown
