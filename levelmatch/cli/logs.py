# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The log, shown on the terminal by -v and --debug, and written to a file by --log."""

import logging
import shlex
from pathlib import Path

import click

__all__ = ["command_text", "keep_arguments", "logging_flags", "start_log", "tell"]

# Logger of lines that are printed anyway, so that only a log file receives them.
SHOWN = "levelmatch.terminal"
# Without a handler, Python would print its errors.
logging.getLogger(SHOWN).addHandler(logging.NullHandler())
# Key of the arguments in the context of click.
ARGUMENTS = "levelmatch.arguments"
# Largest number of successive file names that the text of a command shows in full.
MAX_FILES = 3


def tell(level, text):
    """Log a line that is printed on the terminal."""
    logging.getLogger(SHOWN).log(level, text)


def keep_arguments(ctx, args):
    """Store the arguments of the command line for `command_text`."""
    ctx.meta[ARGUMENTS] = list(args)


def command_text():
    """Return the command line with shortened lists of files; empty outside of a command."""
    ctx = click.get_current_context(silent=True)
    args = [] if ctx is None else ctx.meta.get(ARGUMENTS, [])
    words, files = [], []
    for arg in [*args, None]:
        if arg is not None and not arg.startswith("-") and words and _is_file(arg):
            files.append(shlex.quote(arg))
            continue
        if len(files) > MAX_FILES:
            files = [files[0], "...", files[-1], f"({len(files)} files)"]
        words += files + ([] if arg is None else [shlex.quote(arg)])
        files = []
    # File names may contain bytes that are not valid text.
    text = " ".join(["levelmatch", *words]).encode(errors="backslashreplace").decode()
    return text if args else ""


def _is_file(arg):
    return Path(arg).suffix != "" and Path(arg).name != arg or Path(arg).is_file()


def _add_handler(ctx, handler, level, form):
    """Add a handler to the log until the command ends."""
    logger = logging.getLogger("levelmatch")
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter(form))
    before = logger.level
    logger.setLevel(min(level, before or logging.WARNING))
    logger.addHandler(handler)

    def remove():
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before)

    ctx.call_on_close(remove)


def _on_terminal(ctx, level):
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.name != SHOWN)
    _add_handler(ctx, handler, level, "%(name)s: %(message)s")


def _verbose(ctx, param, value):
    if value:
        _on_terminal(ctx, logging.INFO)


def start_log(*, debug):
    """Show the whole log, for ``--debug``."""
    if debug:
        _on_terminal(click.get_current_context(), logging.DEBUG)


def _log_file(ctx, param, path):
    """Append the log to a file; the callback of --log."""
    if path is None:
        return
    from levelmatch.atomic import refuse_data

    try:
        refuse_data(path)
        handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    except OSError as error:
        msg = f"{path}: {error.strerror}" if error.strerror else str(error)
        raise click.BadParameter(msg, ctx, param) from error
    _add_handler(ctx, handler, logging.DEBUG, "%(asctime)s %(levelname)s %(name)s: %(message)s")
    tell(logging.INFO, command_text())


def logging_flags(option):
    """Return the flags -v and --log.

    Parameters
    ----------
    option : callable
        Function that makes a flag, such as `click.option`.
    """
    verbose = option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_verbose,
        help="Show each step.",
    )
    log = option(
        "--log",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        expose_value=False,
        callback=_log_file,
        help="Append all steps, warnings and errors to a file.",
    )
    return [verbose, log]
