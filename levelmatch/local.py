# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The local background of an image, its sources masked."""

import numpy as np

__all__ = ["local_level"]

# PJPipe's: sources above 3 sigma, at least 10 pixels, the mask grown by 11.
N_SIGMA = 3.0
N_PIXELS = 10
GROWTH = 11


def local_level(frame):
    """Return the sigma-clipped median of an image outside of its sources.

    Parameters
    ----------
    frame : `~levelmatch.frames.Frame`
        The image, with its corrections.

    Returns
    -------
    level : float
        In the common unit; the clipped median of all good pixels if sources cover them.
    """
    from astropy.stats import SigmaClip, sigma_clipped_stats
    from photutils.segmentation import detect_sources, detect_threshold
    from photutils.utils import circular_footprint

    data = frame.load().astype(float)
    bad = ~np.isfinite(data)
    threshold = detect_threshold(data, N_SIGMA, mask=bad, sigma_clip=SigmaClip(3.0))
    sources = _detect(detect_sources, data, threshold, bad)
    mask = bad
    if sources is not None:
        grown = sources.make_source_mask(footprint=circular_footprint(GROWTH))
        mask = bad | grown if not (bad | grown).all() else bad
    return float(sigma_clipped_stats(data, mask=mask, sigma=3.0)[1])


def _detect(detect_sources, data, threshold, bad):
    """Detected sources, or `None`: photutils warns where there are none."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No sources were found")
        return detect_sources(np.where(bad, 0, data), threshold, N_PIXELS, mask=bad)
