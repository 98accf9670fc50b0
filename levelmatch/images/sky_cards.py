# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sky levels in headers that a later step of another pipeline subtracts."""

from numbers import Real

import numpy as np
from astropy import units as u

__all__ = ["OWN_KEYWORD", "note_pending_levels", "pending_levels"]

# Keyword of the levels that the package keeps in headers of telescopes without one of their own.
OWN_KEYWORD = "LMSKY"


def pending_levels(meta):
    """Return the sky levels of a header that are not subtracted yet.

    Parameters
    ----------
    meta : mapping
        Header.

    Returns
    -------
    levels : dict of str to float
        By keyword: ``BKGLEVEL`` of JWST's skymatch step, unless ``BKGSUB`` is true, and
        ``MDRIZSKY`` of AstroDrizzle, and ``LMSKY`` of levels kept by an earlier run. Zero
        levels are left out.
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
    """Note images whose header has a sky level that is not subtracted yet, or gets one.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    notes : `~levelmatch.images.notes.Notes`
        Takes the notes.
    keep : bool
        Whether the run keeps levels in the headers.
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
