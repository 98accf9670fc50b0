# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The log: on the terminal by -v and --debug, in a file by --log."""

import logging
import shlex
from pathlib import Path

import click

__all__ = ["command_text", "keep_arguments", "logging_flags", "start_log", "tell"]

# Lines that the terminal shows in any case, which only a file logs.
SHOWN = "levelmatch.terminal"
# Without a handler, Python itself would print errors.
logging.getLogger(SHOWN).addHandler(logging.NullHandler())
# Place of the arguments in the context of click.
ARGUMENTS = "levelmatch.arguments"
# Runs of more file names than this are shortened in the text of a command.
MAX_FILES = 3


def tell(level, text):
    """Log a line that the terminal shows already."""
    logging.getLogger(SHOWN).log(level, text)


def keep_arguments(ctx, args):
    """Keep the arguments of the command line, for its text."""
    ctx.meta[ARGUMENTS] = list(args)


def command_text():
    """Return the command line, long lists of files shortened; blank outside of a command."""
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
    return " ".join(["levelmatch", *words]) if args else ""


def _is_file(arg):
    return Path(arg).suffix != "" and Path(arg).name != arg or Path(arg).is_file()


def _add_handler(ctx, handler, level, form):
    """Send the log to a handler until the command ends."""
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
    if path is None:
        return
    try:
        handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise click.BadParameter(msg, ctx, param) from error
    _add_handler(ctx, handler, logging.DEBUG, "%(asctime)s %(levelname)s %(name)s: %(message)s")
    tell(logging.INFO, command_text())


def logging_flags(option):
    """Return the flags -v and --log.

    Parameters
    ----------
    option : callable
        Makes a flag, as `click.option` does.
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
