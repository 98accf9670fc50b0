# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Header cards with sky levels that later steps of other pipelines subtract."""

from numbers import Real

import numpy as np
from astropy import units as u

__all__ = ["OWN_KEYWORD", "note_pending_levels", "pending_levels"]

# Keyword of kept levels in headers of telescopes that define no keyword for them.
OWN_KEYWORD = "LMSKY"


def pending_levels(meta):
    """Return the sky levels of a header that are not yet subtracted.

    Parameters
    ----------
    meta : mapping
        Header.

    Returns
    -------
    levels : dict of str to float
        Levels by keyword, without zeros: ``BKGLEVEL`` of JWST's skymatch step, unless
        ``BKGSUB`` is true; ``MDRIZSKY`` of AstroDrizzle; ``LMSKY`` of an earlier run that kept
        levels.
    """
    subtracted = meta.get("BKGSUB") in (True, "T", "True")
    keys = ("MDRIZSKY", OWN_KEYWORD)
    if not subtracted:
        keys = ("BKGLEVEL", *keys)
    levels = {key: meta.get(key) for key in keys}
    return {key: float(value) for key, value in levels.items() if _is_level(value)}


def _is_level(value):
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and np.isfinite(value) and value != 0


def note_pending_levels(frames, notes, *, keep=False):
    """Add notes on images whose header has a sky level that is not yet subtracted, or gets one.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    notes : `~levelmatch.images.notes.Notes`
        Receives the notes.
    keep : bool
        Whether the run writes levels to headers and does not subtract them.
    """
    for frame in frames:
        levels = pending_levels(frame.meta)
        words = [f"{key} = {value:g}" for key, value in levels.items()]
        if "BKGLEVEL" in levels and "BKGSUB" in frame.meta:
            words.insert(1, f"BKGSUB = {frame.meta['BKGSUB']}")
        if keep and frame.meta.get("TELESCOP") == "ROMAN" and frame.unit == u.DN / u.s:
            notes.add("kept rate", frame.product)
        if words:
            notes.add("kept level" if keep else "sky level", frame.product, ", ".join(words))
