# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Errors and warnings, each as one line."""

import errno
import traceback
import warnings
from contextlib import contextmanager

import click

from levelmatch.cli.options import MATCH, MEASURE, READ, SOLVE

__all__ = ["Failure", "Group", "one_error", "shown_warnings", "spell"]

# How the library's options are spelt here.
SPELLING = {
    "overwrite=True": "--overwrite",
    "rematch=True": "--rematch",
    "group_by='jwst'": "--group-by jwst",
    "hdu=('SCI', n)": "--hdu SCI,n",
    "disconnected='sky'": "--disconnected sky",
    "force=True": "--force",
    "flux_scale brings": "--flux-scale brings",
    "see dq_bits": "see --dq-bits",
    "extension by hdu": "extension by --hdu",
    "group_by: ": "--group-by: ",
    "(see group_by)": "(see --group-by)",
    "group_by='FILENAME'": "--group-by FILENAME",
    "without flux_scale": "without --flux-scale",
    "fit_type: the record": "--fit-type: the record",
    # Of a header without any.
    " (CTYPE ['', ''])": "",
}
SPELLING |= {f"({name})": f"(--{name.replace('_', '-')})" for name in SOLVE}
OPTION_PREFIXES = (*MEASURE, *SOLVE, *READ, *MATCH)


class Failure(click.ClickException):
    """One line of error, and an exit status."""

    def __init__(self, message, exit_code):
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


class Group(click.Group):
    """A group that tells of wrong use in one line."""

    def make_context(self, info_name, args, parent=None, **extra):
        """Parse the command line."""
        with _one_line(None, info_name):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx):
        """Run the command."""
        with _one_line(ctx):
            return super().invoke(ctx)


@contextmanager
def _one_line(ctx, path=""):
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        if error.ctx is not None:
            path = error.ctx.command_path
        elif ctx is not None:
            # Click does not say whose option it could not parse.
            path = " ".join([ctx.command_path, ctx.invoked_subcommand or ""]).rstrip()
        msg = f"{error.format_message().rstrip('.')} (see '{path} --help')"
        raise Failure(msg, 2) from error


@contextmanager
def one_error(*, debug):
    """Turn exceptions into one line and an exit status, with the traceback if asked for."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort) as error:
        if debug and error.__cause__ is not None:
            traceback.print_exc()
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise
        if debug:
            traceback.print_exc()
        raise _failure(error) from error


def _failure(error):
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
    """An error of the library in the words of the command line."""
    for python, option in SPELLING.items():
        text = text.replace(python, option)
    name, colon, rest = text.partition(":")
    return f"--{name.replace('_', '-')}{colon}{rest}" if name in OPTION_PREFIXES else text


@contextmanager
def shown_warnings():
    """Show every warning as a line of its own."""
    # It puts its own function in place when it is first imported.
    import astropy  # noqa: F401

    from levelmatch.exceptions import LevelMatchWarning

    def show(message, category, filename, lineno, file=None, line=None):
        kind = "" if issubclass(category, LevelMatchWarning) else f"{category.__name__}: "
        text = spell(" ".join(str(message).split()))
        click.echo(f"Warning: {kind}{text}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", LevelMatchWarning)
        warnings.showwarning = show
        yield
