# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""HISTORY of a header: the texts of a run, each of one or more cards."""

import re
from textwrap import wrap
from typing import Any

from astropy.io.fits import Header

from levelmatch.record.run import Provenance

__all__ = ["SIGNED", "add_history", "ascii_text", "history_texts", "own_history", "signature"]


# Characters of text in a HISTORY card.
HISTORY_WIDTH = 72
SIGNED = "levelmatch "
# Begins a card that continues the text of the one before.
CONTINUED = "    "


def signature(provenance: Provenance) -> str:
    """Return the beginning of the HISTORY texts of a run."""
    return f"{SIGNED}{provenance.version} {provenance.created}"


def own_history(header: Header, signature: str) -> list[int]:
    """Return the indices of the HISTORY cards of a run, continuations included."""
    own: list[int] = []
    before: str | None = None
    for index, card in enumerate(header.cards):
        if card.keyword != "HISTORY":
            continue
        text = str(card.value)
        begins = text.startswith(SIGNED)
        if text.startswith(signature) if begins else before is not None and _goes_on(before, text):
            own.append(index)
            before = text
        else:
            before = None
    return own


def _goes_on(before: str, line: str) -> bool:
    """Return whether a card continues the one before it."""
    return line.startswith(CONTINUED) or len(before) >= HISTORY_WIDTH - 1


def history_texts(header: Header) -> list[str]:
    """Return the texts of HISTORY, each of one or more cards."""
    out: list[str] = []
    before = ""
    for line in map(str, header.get("HISTORY", [])):
        if not out or line.startswith(SIGNED) or not _goes_on(before, line):
            out.append(line)
        elif line.startswith(CONTINUED):
            out[-1] += " " + line.removeprefix(CONTINUED)
        else:
            # The card before has lost its trailing blank.
            cards = -(-len(out[-1]) // HISTORY_WIDTH)
            out[-1] = out[-1].ljust(cards * HISTORY_WIDTH) + line
        before = line
    return out


def ascii_text(text: str) -> str:
    """Return text in printable ASCII, as FITS headers require; other characters are escaped."""
    text = text.encode("ascii", "backslashreplace").decode()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def add_history(meta: Any, text: str) -> None:
    """Add a text to HISTORY, in place, such that `history_texts` finds it again."""
    text = ascii_text(text)
    if hasattr(meta, "add_history"):
        for line in _history_lines(text):
            meta.add_history(line)
    else:
        history = meta.get("HISTORY", [])
        meta["HISTORY"] = [*([history] if isinstance(history, str) else history), text]


def _history_lines(text: str) -> list[str]:
    """Return the text broken at words, or as one line, which the header breaks anywhere.

    Shorter lines than a card's cannot be taken for a full card, which continues in the next.
    """
    # The name of a record stays beside its word.
    whole = re.sub(r" record (?=\S)", " record\0", text)
    lines = [
        line.replace("\0", " ")
        for line in wrap(
            whole,
            HISTORY_WIDTH - 2,
            subsequent_indent=CONTINUED,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
    joined = " ".join([*lines[:1], *(line.removeprefix(CONTINUED) for line in lines[1:])])
    if joined == text and max(map(len, lines), default=0) <= HISTORY_WIDTH - 2:
        return lines
    # A card loses its trailing blank, and a full or nearly full card continues in the next: the
    # text ends so that `history_texts` finds it again.
    return [text + " ."] if len(text) % HISTORY_WIDTH in (0, HISTORY_WIDTH - 1) else [text]
