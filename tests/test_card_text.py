# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Cards of the package that are added to the text of a header stand where astropy puts them."""

import numpy as np
import pytest
from astropy.io import fits

from levelmatch.results.card_text import OwnCards, is_simple, with_cards
from levelmatch.results.history import keeps_blanks

CARDS = [
    "SIMPLE  =                    T / conforms",
    "NUMBER  =               -1.5E3",
    "TEXT    = 'it''s / no comment' / one",
    "EMPTY   =                      / no value",
    "HISTORY of others",
    "HISTORY levelmatch 0.1 2020-01-01T00:00:00 dithers: subtracted",
    "COMMENT = 5",
    "        text without keyword",
    "",
]


@keeps_blanks
def add(header):
    header.add_history("levelmatch 1 2026-01-01T00:00:00 dithers: subtracted level 1.25 +- 0.1")
    header["LMDLEV"] = (1.25, "[adu] dithers: level subtracted")
    header["LMDERR"] = (None, "")
    header.add_history("x" * 150)
    header["LMDREF"] = ("it's", "")


@pytest.mark.parametrize("seed", range(80))
def test_any_order_of_cards(seed):
    rng = np.random.default_rng(seed)
    order = rng.choice(len(CARDS), rng.integers(0, 16))
    # Without keywords that are there twice, and often with blank cards at the end.
    order = [k for i, k in enumerate(order) if k > 3 or k not in order[:i]] + [8] * (seed % 7)
    text = "".join(CARDS[k].ljust(80) for k in order)
    expected, own = fits.Header.fromstring(text), OwnCards()
    add(expected)
    add(own)
    assert is_simple(text)
    assert with_cards(text, own) == expected.tostring()


OTHERS = ["lower   = 1", "BAD     = 'open", "NUMBER  = 1,5", "HIERARCH ESO DET = 5"]
OTHERS += ["CONTINUE  'more'", "COMMENT \x07", "LMDLEV  = 1.0", "MDRIZSKY= 2.0", "BKGSUB  = F"]


@pytest.mark.parametrize("card", OTHERS)
def test_other_cards_are_left_to_astropy(card):
    assert not is_simple(CARDS[0].ljust(80) + card.ljust(80))
