# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""HISTORY texts of runs in a header."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from astropy.io import fits

from levelmatch.record.run import Provenance

__all__ = [
    "SIGNED",
    "add_history",
    "as_header",
    "ascii_text",
    "history_texts",
    "keeps_blanks",
    "own_history",
    "signature",
]

# Number of characters of text in a HISTORY card.
HISTORY_WIDTH = 72
# Beginning of each text.
SIGNED = "levelmatch "
# Beginning of a card that continues the text of the previous card.
CONTINUED = "    "


def signature(provenance: Provenance) -> str:
    """Return the beginning of the HISTORY texts of a run."""
    return f"{SIGNED}{provenance.version} {provenance.created}"


def own_history(header: fits.Header, signature: str) -> list[int]:
    """Return the indices of the HISTORY cards of a run, including continuations."""
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
    """Return whether a card continues the previous card."""
    return line.startswith(CONTINUED) or len(before) >= HISTORY_WIDTH - 1


def history_texts(header: fits.Header) -> list[str]:
    """Return the texts of HISTORY, joined from their cards."""
    out: list[str] = []
    before = ""
    for line in map(str, header.get("HISTORY", [])):
        if not out or line.startswith(SIGNED) or not _goes_on(before, line):
            out.append(line)
        elif line.startswith(CONTINUED):
            out[-1] += " " + line.removeprefix(CONTINUED)
        else:
            # The previous card may have lost a trailing blank.
            cards = -(-len(out[-1]) // HISTORY_WIDTH)
            out[-1] = out[-1].ljust(cards * HISTORY_WIDTH) + line
        before = line
    return out


def keeps_blanks(change: Callable) -> Callable:
    """Let a function that adds cards to a header keep the blank cards at its end.

    astropy uses these up for new cards, and nothing could restore them.
    """

    @wraps(change)
    def changed(meta: Any, *args: Any, **options: Any) -> None:
        before = _blanks(meta)
        change(meta, *args, **options)
        for _ in range(before - _blanks(meta)):
            meta.append(end=True)

    return changed


def _blanks(meta: Any) -> int:
    """Return the number of blank cards at the end of a header."""
    if not isinstance(meta, fits.Header):
        return 0
    cards = meta.cards
    n = 0
    while n < len(cards) and cards[-1 - n].is_blank:
        n += 1
    return n


def ascii_text(text: str) -> str:
    """Return text in printable ASCII, as FITS headers require; escape other characters."""
    text = text.encode("ascii", "backslashreplace").decode()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def add_history(meta: Any, text: str) -> None:
    """Add a text to HISTORY, in place, so that `history_texts` returns it unchanged."""
    text = ascii_text(text)
    if hasattr(meta, "add_history"):
        for line in _history_lines(text):
            meta.add_history(line)
    else:
        history = meta.get("HISTORY", [])
        meta["HISTORY"] = [*([history] if isinstance(history, str) else history), text]


def as_header(meta: Any) -> fits.Header:
    """Return metadata as a header, in which each text of HISTORY is one entry."""
    if isinstance(meta, fits.Header):
        return meta
    history = meta.get("HISTORY", [])
    header = fits.Header({key: value for key, value in meta.items() if key != "HISTORY"})
    for text in [history] if isinstance(history, str) else history:
        add_history(header, str(text))
    return header


def _history_lines(text: str) -> list[str]:
    """Return the text broken at words, or in one line, which astropy breaks anywhere.

    The lines are shorter than a card, because a full card counts as continued.
    """
    # A break must not separate the word "record" from the name.
    first, *words = re.sub(r" record (?=\S)", " record\0", text).split(" ")
    lines = [first]
    for word in words:
        if len(lines[-1]) + 1 + len(word) <= HISTORY_WIDTH - 2:
            lines[-1] += " " + word
        else:
            lines.append(CONTINUED + word)
    lost = any(line.endswith(" ") or line.startswith(CONTINUED + " ") for line in lines)
    if not lost and max(map(len, lines)) <= HISTORY_WIDTH - 2:
        return [line.replace("\0", " ") for line in lines]
    # A full or nearly full last card would count as continued, so the text is extended.
    return [text + " ."] if len(text) % HISTORY_WIDTH in (0, HISTORY_WIDTH - 1) else [text]
