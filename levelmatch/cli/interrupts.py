# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Ctrl-C ends a command soon, whatever it computes."""

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

# Seconds until a command that does not react to an interrupt is ended.
PATIENCE = 1.0
INTERRUPT_STATUS = 130


@contextmanager
def prompt_interrupts():
    """Raise `KeyboardInterrupt` at an interrupt, however libraries treat it meanwhile.

    A library may swallow the exception, or turn it into another: after an interrupt any
    exception becomes `KeyboardInterrupt`. A computation that does not return to Python in time
    is ended with the process.
    """
    state: dict = {}
    try:
        before = signal.signal(signal.SIGINT, lambda *_: _interrupt(state))
    except ValueError:
        # Not the main thread.
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
    if not state:
        state["timer"] = _after(PATIENCE, _end)
    raise KeyboardInterrupt


def _after(seconds, function, *arguments):
    """Call a function in a thread that the end of the process does not wait for."""
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()
    return timer


def _end():
    """End the process, whose main thread has not reacted."""
    from levelmatch.atomic import remove_parts

    remove_parts()
    _exit(f"Error: {INTERRUPTED}\n")


def _end_threads():
    """At the end of an interrupted command, do not wait for the threads that still compute."""
    busy = [t for t in threading.enumerate() if t.name.startswith("levelmatch") and t.is_alive()]
    if busy:
        _after(PATIENCE / 2, _exit, "")


def _exit(text):
    """End the process at once, with the status of an interrupt."""
    try:
        sys.stderr.write(text)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(INTERRUPT_STATUS)
