# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The terminal: printed text, the log, and interruption by Ctrl-C."""

import errno
import logging
import os
import shlex
import signal
import sys
import threading
import unicodedata
from contextlib import contextmanager
from pathlib import Path

import click

__all__ = [
    "INTERRUPTED",
    "command_text",
    "echo",
    "keep_arguments",
    "logging_flags",
    "printable",
    "prompt_interrupts",
    "start_log",
    "tell",
]


# Categories of characters that may move the cursor, or hide or reorder text.
_ACTIVE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str, keep: str = "\n") -> str:
    """Return text with control characters escaped.

    Parameters
    ----------
    text : str
        The text.
    keep : str
        Characters that are not escaped.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in keep or unicodedata.category(c) not in _ACTIVE else _escaped(c) for c in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\U{code:08x}"


def echo(text: str, *, err: bool = False) -> None:
    """Print text with control characters escaped.

    Parameters
    ----------
    text : str
        One or more lines.
    err : bool
        Whether to print to the standard error stream.
    """
    try:
        click.echo(printable(text), err=err)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        # For example a full disk, to which the output is redirected.
        # At its end, Python writes the rest of the buffer, which would fail again.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), (sys.stderr if err else sys.stdout).fileno())
        stream = "standard error" if err else "standard output"
        raise OSError(error.errno, error.strerror, stream) from error


# --------------------------------------------------------------------------------------
# The log

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
        path = Path(arg or "")
        is_file = path.is_file() or (path.suffix != "" and path.name != arg)
        if words and is_file and not arg.startswith("-"):
            files.append(shlex.quote(arg))
            continue
        if len(files) > MAX_FILES:
            files = [files[0], "...", files[-1], f"({len(files)} files)"]
        words += files + ([] if arg is None else [shlex.quote(arg)])
        files = []
    # File names may contain bytes that are not valid text.
    text = " ".join(["levelmatch", *words]).encode(errors="backslashreplace").decode()
    return text if args else ""


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


def logging_flags():
    """Return the flags -v and --log."""
    verbose = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_verbose,
        help="Show each step.",
    )
    log = click.option(
        "--log",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        expose_value=False,
        callback=_log_file,
        help="Append all steps, warnings and errors to a file.",
    )
    return [verbose, log]


# --------------------------------------------------------------------------------------
# Interruption

INTERRUPTED = (
    "interrupted; the inputs are unchanged, and files already written are complete. A run that is "
    "started again continues from the pairs that it has measured"
)

# Time, in seconds, after which a command that does not react to an interrupt is ended.
PATIENCE = 1.0
# Exit status after an interrupt.
INTERRUPT_STATUS = 130


@contextmanager
def prompt_interrupts():
    """Raise `KeyboardInterrupt` at an interrupt, even if libraries catch it.

    A library may swallow the exception or replace it. After an interrupt, every exception becomes
    `KeyboardInterrupt`. If a computation does not return to Python in time, the process ends.
    """
    state: dict = {}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Scripts run commands in the background, which ignore interrupts.
        yield
        return
    try:
        before = signal.signal(signal.SIGINT, lambda *_: _interrupt(state))
    except ValueError:
        # Signal handlers exist only in the main thread.
        yield
        return
    try:
        yield
    except BaseException as error:
        if state and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        if state:
            state["timer"].cancel()
            _end_threads()


def _interrupt(state):
    """Raise `KeyboardInterrupt`; at the first interrupt, also start the timer that ends all."""
    if not state:
        state["timer"] = _after(PATIENCE, _end)
    raise KeyboardInterrupt


def _after(seconds, function, *arguments):
    """Call a function after a time, in a daemon thread."""
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()
    return timer


def _end():
    """End the process if its main thread has not reacted; remove incomplete files."""
    from levelmatch.atomic import remove_parts

    remove_parts()
    _exit(f"Error: {INTERRUPTED}\n")


def _end_threads():
    """End the process soon if threads of an interrupted command still compute."""
    busy = [t for t in threading.enumerate() if t.name.startswith("levelmatch") and t.is_alive()]
    if busy:
        _after(PATIENCE / 2, _exit, "")


def _exit(text):
    """End the process immediately, with the exit status of an interrupt."""
    try:
        sys.stderr.write(text)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(INTERRUPT_STATUS)
