# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Add the package's cards to the text of a header, without parsing the others.

astropy takes longer to parse and to verify the cards of a chip than to copy its pixels.
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits

from levelmatch.images._decode import sum_words

__all__ = ["CHECKSUM_COMMENT", "OwnCards", "is_simple", "with_cards", "with_checksums"]

# Comment of checksums, in place of astropy's time, so that equal runs write equal files.
CHECKSUM_COMMENT = "updated by levelmatch"

CARD, BLANK = 80, " " * 80
COMMENTARY = ("COMMENT ", "HISTORY ", "        ")
# Cards that `levelmatch.results.header` reads or changes.
_OWN = re.compile(r"LM|BKG(?:LEVEL|SUB  |METH )=|MDRIZSKY")
# Cards that astropy writes unchanged.
_STANDARD = re.compile(
    r"(?:COMMENT |HISTORY |        ).*"
    r"|(?=[A-Z0-9_-]{1,8} *= )[A-Z0-9_ -]{8}= "
    r"(?:'(?:[^']|'')*'| *[TF]| *[+-]?\d+(?:\.\d*)?(?:E[+-]?\d+)?|) *(?:/.*)?"
)


class OwnCards(dict):
    """New cards and HISTORY of a header that has no cards of the package."""

    def __init__(self) -> None:
        self.cards: dict[str, str] = {}
        self.history: list[str] = []

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value[0])
        self.cards[key] = _card(key, *value, str(value[0]))

    def add_history(self, text: str) -> None:
        """Add a text to HISTORY."""
        lines = (text[i : i + CARD - 8] for i in range(0, len(text), CARD - 8))
        self.history += [f"HISTORY {line}".ljust(CARD) for line in lines]


# Each header is checked before the first output is written, and again when it is written.
@lru_cache(maxsize=1024)
def is_simple(text: str) -> bool:
    """Return whether cards can be added to a header's text.

    Parameters
    ----------
    text : str
        The cards, of 80 characters each, without END. All must have the standard form. Except
        for HISTORY, none may be a card of the package.
    """
    cards = (text[i : i + CARD] for i in range(0, len(text), CARD))
    return text.isprintable() and all(map(_is_simple, cards))


# The cache is useful because the chips of a camera have many cards in common. The text of the value
# is part of the key, because 0.0 and -0.0 are equal but are written differently.
@lru_cache(maxsize=4096, typed=True)
def _card(key: str, value: Any, comment: str, _: str) -> str:
    return str(fits.Card(key, value, comment))


@lru_cache(maxsize=4096)
def _is_simple(card: str) -> bool:
    return _STANDARD.fullmatch(card) is not None and _OWN.match(card) is None


def with_cards(text: str, own: OwnCards) -> str:
    """Return a header with new cards at the places where astropy puts them.

    Parameters
    ----------
    text : str
        A header for which `is_simple` is true.
    own : `OwnCards`
        The new cards.

    Returns
    -------
    text : str
        The header with END and padding.
    """
    cards = [text[i : i + CARD] for i in range(0, len(text), CARD)]
    # Values go before the commentary cards at the end, new HISTORY after the last HISTORY card.
    filled = _stop(cards, (BLANK,))
    last = _stop(cards, COMMENTARY)
    earlier = [i for i, card in enumerate(cards) if card.startswith("HISTORY ")]
    history = earlier[-1] + 1 if earlier else filled
    places = [(last, [*own.cards.values()]), (history, own.history)]
    for place, new in places if history < last else reversed(places):
        cards[place:place] = new
    whole = "".join(cards) + "END".ljust(CARD)
    return whole + " " * (-len(whole) % 2880)


def _stop(cards: list[str], starts: tuple[str, ...]) -> int:
    """Return the number of cards before the last ones that begin with one of the texts."""
    stop = len(cards)
    while stop and cards[stop - 1].startswith(starts):
        stop -= 1
    return stop


def with_checksums(text: str, total: int) -> str:
    """Return a header with the checksums of its data, if it has such cards.

    Parameters
    ----------
    text : str
        A header with END and padding, with DATASUM if it has CHECKSUM.
    total : int
        Sum of the 32-bit words of the data, without carries.

    Returns
    -------
    text : str
        The header.
    """
    place = _place(text, "DATASUM ")
    if place is None:
        return text
    total = _with_carries(total)
    text = _with_text(text, place, f"{total:<8}")
    place = _place(text, "CHECKSUM")
    if place is None:
        return text
    text = _with_text(text, place, "0" * 16)
    total += sum_words(np.frombuffer(text.encode("ascii"), np.uint32))
    return _with_text(text, place, _as_characters(~_with_carries(total)))


def _place(text: str, key: str) -> int | None:
    """Return the start of the last card with a keyword of eight characters, or `None`."""
    place = text.rfind(key)
    while place >= 0 and place % CARD:
        place = text.rfind(key, 0, place + len(key) - 1)
    return None if place < 0 else place


def _with_text(text: str, place: int, value: str) -> str:
    """Return a header with a text as the value of the card at a place."""
    quoted = f"'{value}'"
    card = f"{text[place : place + 8]}= {quoted:<20} / {CHECKSUM_COMMENT}".ljust(CARD)
    return text[:place] + card + text[place + CARD :]


def _with_carries(total: int) -> int:
    """Return a sum of 32-bit words with the carries added at the lower end."""
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _as_characters(total: int) -> str:
    """Return the 16 characters whose four words have a sum, as the FITS standard defines them."""
    columns = [_four_characters(byte) for byte in (total & 0xFFFFFFFF).to_bytes(4, "big")]
    characters = "".join(column[row] for row in range(4) for column in columns)
    return characters[-1] + characters[:-1]


@lru_cache(maxsize=256)
def _four_characters(byte: int) -> str:
    """Return four characters whose codes, less 48 each, have a sum."""
    quotient, rest = divmod(byte, 4)
    four = [quotient + rest + 48, *[quotient + 48] * 3]
    # Pairs of characters move apart until all are digits or letters.
    while not all(chr(code).isalnum() for code in four):
        for k in (0, 2):
            if not all(chr(code).isalnum() for code in four[k : k + 2]):
                four[k] += 1
                four[k + 1] -= 1
    return "".join(map(chr, four))
