# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Stored integers: the cards of their scale, and their restoration when a run is undone."""

from typing import Any

import numpy as np
from astropy.io import fits

from levelmatch.exceptions import warn_user
from levelmatch.record.run import Provenance
from levelmatch.results.history import add_history, history_texts, signature

__all__ = [
    "STORED",
    "needs_cards",
    "remove_scaling",
    "restore_integers",
    "rounded_integers",
    "stored_cards",
]

# Words of the HISTORY texts, and the keywords that they keep.
STORED = " stored as integers: "
SCALING = ("BSCALE", "BZERO", "BLANK")
# Largest distance of a restored value from an integer, and largest rounding error.
TOLERANCE = 0.25


def remove_scaling(header: fits.Header, provenance: Provenance | None = None) -> None:
    """Remove the cards of stored integers from a header, in place.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header of integers, or of floats.
    provenance : `~levelmatch.record.run.Provenance` or None
        The run whose HISTORY gets the cards and their places; by default they are lost.
    """
    if provenance is not None and header.get("BITPIX", 0) > 0:
        for place, card in enumerate(list(header.cards)):
            if card.keyword in ("BITPIX", *SCALING):
                text = f"{signature(provenance)}{STORED}{place} {str(card).rstrip()}"
                add_history(header, text)
    for key in SCALING:
        header.remove(key, ignore_missing=True, remove_all=True)


def needs_cards(hdu: Any) -> bool:
    """Return whether the cards of an HDU's integers are needed to restore them.

    Compressed integers follow from the pixels, but for the value of blank pixels. astropy does not
    write compressed integers with a scale.
    """
    if not isinstance(hdu, fits.CompImageHDU):
        return True
    return "BLANK" in hdu.header and not {"BSCALE", "BZERO"}.intersection(hdu.header)


def stored_cards(header: fits.Header, provenance: Provenance) -> dict[int, fits.Card]:
    """Return the cards of stored integers in the HISTORY of a run, by place in the header."""
    start = signature(provenance) + STORED
    texts = [t.removeprefix(start) for t in history_texts(header) if t.startswith(start)]
    cards = (text.removesuffix(" .").partition(" ") for text in texts)
    return {int(place): fits.Card.fromstring(card) for place, _, card in cards}


def restore_integers(
    header: fits.Header, cards: dict[int, fits.Card], data: np.ndarray
) -> np.ndarray | None:
    """Return restored pixels as the integers of a file; add the cards of their scale.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The restored header without the cards; it is unchanged if the pixels stay floats.
    cards : dict of int to `~astropy.io.fits.Card`
        See `stored_cards`.
    data : `~numpy.ndarray`
        The restored pixels, NaN where blank.

    Returns
    -------
    integers : `~numpy.ndarray` or None
        The stored integers; `None` if they do not follow from the pixels.
    """
    values = {card.keyword: card.value for card in cards.values()}
    n_bytes = values.get("BITPIX", 0) // 8
    if not n_bytes:
        return None
    dtype = np.dtype("u1" if n_bytes == 1 else f"i{n_bytes}")
    with np.errstate(all="ignore"):
        exact = (data.astype(np.float64) - values.get("BZERO", 0)) / values.get("BSCALE", 1)
    blank = np.isnan(exact)
    exact[blank] = values.get("BLANK", np.nan)
    integers = np.rint(exact)
    limits = np.iinfo(dtype)
    if not _largest_spacing(data) <= TOLERANCE * abs(values.get("BSCALE", 1)):
        return None
    good = np.abs(exact - integers) <= TOLERANCE
    good &= (integers >= limits.min) & (integers <= limits.max)
    if not good.all():
        return None
    for place, card in sorted(cards.items()):
        header.remove(card.keyword, ignore_missing=True)
        header.insert(place, card, useblanks=False)
    return integers.astype(dtype)


def rounded_integers(data: np.ndarray, dtype: np.dtype, name: str) -> tuple[np.ndarray, np.dtype]:
    """Return restored pixels as whole numbers, and the type in which they can be written.

    Parameters
    ----------
    data : `~numpy.ndarray`
        The restored pixels, NaN where blank.
    dtype : `~numpy.dtype`
        The integer type of the original.
    name : str
        The image, for the warning if the pixels stay floats: they have too few digits, or do not
        follow from integers.
    """
    spacing = _largest_spacing(data)
    if spacing > TOLERANCE:
        # The integers, the correction and the restoration were each rounded to half of it.
        warn_user(
            f"{name}: its integers have more digits than the corrected pixels; they are restored "
            f"as floating-point numbers with errors of up to {1.5 * spacing:.4g}"
        )
        return data, data.dtype
    whole = np.rint(data)
    distance = np.max(np.abs(data - whole), initial=0.0, where=~np.isnan(data))
    if distance > max(TOLERANCE, 1.5 * spacing):
        warn_user(
            f"{name}: its pixels were changed after matching: the restored pixels are no integers, "
            "and stay floating-point numbers"
        )
        return data, data.dtype
    # Integers have no NaN, so pixels with NaN stay floats.
    return whole, data.dtype if np.isnan(data).any() else dtype


def _largest_spacing(data: np.ndarray) -> float:
    """Return the distance between floats at the largest absolute value that is not NaN."""
    return float(np.spacing(np.max(np.abs(data), initial=0.0, where=~np.isnan(data))))
