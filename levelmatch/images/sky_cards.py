# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sky levels in headers that a later step of another pipeline subtracts."""

import warnings
from numbers import Real

import numpy as np

from levelmatch.exceptions import LevelMatchWarning

__all__ = ["pending_levels", "warn_pending_levels"]


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
        ``MDRIZSKY`` of AstroDrizzle. Zero levels are left out.
    """
    subtracted = meta.get("BKGSUB") in (True, "T", "True")
    keys = ("MDRIZSKY",) if subtracted else ("BKGLEVEL", "MDRIZSKY")
    levels = {key: meta.get(key) for key in keys}
    return {key: float(value) for key, value in levels.items() if _is_level(value)}


def _is_level(value):
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and np.isfinite(value) and value != 0


def warn_pending_levels(frames):
    """Warn of images whose header has a sky level that is not subtracted yet."""
    found = [(frame, pending_levels(frame.meta)) for frame in frames]
    found = [(frame, levels) for frame, levels in found if levels]
    if not found:
        return
    frame, levels = found[0]
    key, value = next(iter(levels.items()))
    how = (
        f", BKGSUB = {frame.meta['BKGSUB']}" if key == "BKGLEVEL" and "BKGSUB" in frame.meta else ""
    )
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    msg = (
        f"{frame.name}{more}: the header has a sky level that is not subtracted yet ({key} = "
        f"{value:g}{how}). The pixels are matched with it; the card is set to 0 in the "
        "corrected image, so that no later step subtracts it again"
    )
    warnings.warn(msg, LevelMatchWarning, stacklevel=4)
