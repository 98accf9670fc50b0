# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Interruption of commands by Ctrl-C within about a second."""

import os
import signal
import sys
import threading
from contextlib import contextmanager

__all__ = ["INTERRUPTED", "prompt_interrupts"]

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
