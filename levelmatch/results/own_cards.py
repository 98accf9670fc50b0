# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Change the package's own cards in the text of a header, without parsing the others.

astropy takes longer to parse and to verify the cards of a chip than to copy its pixels.
"""

import re
from collections.abc import Callable

from astropy.io import fits

__all__ = ["changed_text"]

CARD = 80
COMMENTARY = ("COMMENT ", "HISTORY ", "        ")
# Cards that `levelmatch.results.header` reads or changes.
_OWN = re.compile(r"LM|HISTORY |BKGLEVEL|BKGSUB  |MDRIZSKY|BKGMETH |S_SKYMAT")
# Cards that astropy leaves as they are.
_STANDARD = re.compile(
    r"(?:COMMENT |HISTORY |        ).*"
    r"|(?=[A-Z0-9_-]{1,8} *= )[A-Z0-9_ -]{8}= "
    r"(?:'(?:[^']|'')*'| *[TF]| *[+-]?\d+(?:\.\d*)?(?:E[+-]?\d+)?|) *(?:/.*)?"
)


def changed_text(text: str, change: Callable[[fits.Header], None]) -> str | None:
    """Return the text of a header after a change of the package's own cards.

    Parameters
    ----------
    text : str
        The cards, of 80 characters each, without END.
    change : callable
        Changes a `~astropy.io.fits.Header`, in place. Cards that are not the package's are not
        there, or are there as others.

    Returns
    -------
    text : str or None
        The header as astropy writes it, with END and padding; `None` if a card is not of
        standard form, so that astropy must write the header.
    """
    cards = [text[i : i + CARD] for i in range(0, len(text), CARD)]
    if not text.isprintable() or not all(map(_STANDARD.fullmatch, cards)):
        return None
    # Cards are added before or after the commentary at the end.
    last = max((i for i, card in enumerate(cards) if card[:8] not in COMMENTARY), default=-1)
    few: list[str] = []
    runs: dict[str, str] = {}
    start = 0
    for stop, card in enumerate(cards):
        if stop <= last and _OWN.match(card) is None:
            continue
        few += [*_run(cards[start:stop], runs), card]
        start = stop + 1
    few += _run(cards[start:], runs)
    header = fits.Header.fromstring("".join(few))
    change(header)
    changed = header.tostring(endcard=False, padding=False)
    out = [changed[i : i + CARD] for i in range(0, len(changed), CARD)]
    whole = "".join(runs.get(card, card) for card in out) + "END".ljust(CARD)
    return whole + " " * (-len(whole) % 2880)


def _run(cards: list[str], runs: dict[str, str]) -> list[str]:
    """Return a card that stands for others, which are put into ``runs``."""
    if not cards:
        return []
    card = f"RUN{len(runs):05d}=                    T".ljust(CARD)
    runs[card] = "".join(cards)
    return [card]
