# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Text for the terminal, in which foreign names and headers must not act as control codes."""

import unicodedata

import click

__all__ = ["echo", "printable"]

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
    return "".join(c if c in keep or not _is_active(c) else _escaped(c) for c in text)


def _is_active(character: str) -> bool:
    return unicodedata.category(character) in _ACTIVE


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
    click.echo(printable(text), err=err)
