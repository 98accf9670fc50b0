# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Changes of the package's own cards in the text of a header are those of astropy."""

import numpy as np
import pytest
from astropy.io import fits

from levelmatch.results.own_cards import changed_text

CARDS = [
    "SIMPLE  =                    T / conforms",
    "NUMBER  =               -1.5E3",
    "TEXT    = 'it''s / no comment' / one",
    "EMPTY   =                      / no value",
    "LMDLEV  =                  0.5 / [adu] dithers",
    "LMRECORD= 'old.asdf'           / record",
    "MDRIZSKY=                 12.0 / level",
    "HISTORY of others",
    "HISTORY levelmatch 0.1 2020-01-01T00:00:00 dithers: subtracted",
    "COMMENT = 5",
    "        text without keyword",
    "",
]


def change(header):
    header["LMDLEV"] = (header.get("LMDLEV", 0.0) + 1.25, "[adu] dithers: level subtracted")
    header["LMDREF"] = ("mean", "")
    header.add_history("levelmatch 1 2026-01-01T00:00:00 dithers: subtracted level 1.25 +- 0.1")
    header["LMRECORD"] = ("levelmatch.asdf", "record of the run")
    if header.get("MDRIZSKY"):
        header["MDRIZSKY"] = 0.0
        header.add_history("levelmatch 1 sky level of a later step set to 0: MDRIZSKY was 12.0")


@pytest.mark.parametrize("seed", range(60))
def test_any_order_of_cards(seed):
    rng = np.random.default_rng(seed)
    order = rng.choice(len(CARDS), rng.integers(1, 16))
    # Without keywords that are there twice.
    order = [k for i, k in enumerate(order) if k > 6 or k not in order[:i]]
    text = "".join(CARDS[k].ljust(80) for k in order)
    expected = fits.Header.fromstring(text)
    change(expected)
    assert changed_text(text, change) == expected.tostring()


@pytest.mark.parametrize(
    "card",
    ["lower   = 1", "BAD     = 'open", "NUMBER  = 1,5", "HIERARCH ESO DET = 5", "CONTINUE  'more'"],
)
def test_other_cards_are_left_to_astropy(card):
    assert changed_text(CARDS[0].ljust(80) + card.ljust(80), change) is None
    assert changed_text(CARDS[0].ljust(80) + "COMMENT \x07".ljust(80), change) is None
