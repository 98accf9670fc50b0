# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The local background of an image with its sources masked."""

import numpy as np

__all__ = ["local_level", "source_mask"]


# Parameters of source detection, equal to those of PJPipe.
# Threshold, in standard deviations.
N_SIGMA = 3.0
# Smallest number of connected pixels of a source.
N_PIXELS = 10
# Radius, in pixels, of the footprint that grows the mask.
GROWTH = 11


def source_mask(data):
    """Return the grown mask of an image's sources, detected by ``photutils.segmentation``.

    Parameters
    ----------
    data : 2D `~numpy.ndarray`
        The image, NaN where bad.

    Returns
    -------
    mask : 2D `~numpy.ndarray` of bool
        True in sources; False everywhere if the mask would cover every good pixel.
    """
    from astropy.stats import SigmaClip
    from photutils.segmentation import detect_sources, detect_threshold
    from photutils.utils import circular_footprint

    bad = ~np.isfinite(data)
    if bad.all():
        return np.zeros(data.shape, dtype=bool)
    threshold = detect_threshold(data, N_SIGMA, mask=bad, sigma_clip=SigmaClip(3.0))
    sources = _detect(detect_sources, data, threshold, bad)
    if sources is None:
        return np.zeros(data.shape, dtype=bool)
    grown = sources.make_source_mask(footprint=circular_footprint(GROWTH))
    return grown if not (bad | grown).all() else np.zeros(data.shape, dtype=bool)


def local_level(frame):
    """Return the sigma-clipped median of an image outside of its sources.

    Parameters
    ----------
    frame : `~levelmatch.images.frame.Frame`
        The image, with its corrections.

    Returns
    -------
    level : float
        Level in the common unit. If sources cover all good pixels, all of them are used.
    """
    from astropy.stats import sigma_clipped_stats

    data = frame.load().astype(float)
    mask = ~np.isfinite(data) | source_mask(data)
    return float(sigma_clipped_stats(data, mask=mask, sigma=3.0)[1])


def _detect(detect_sources, data, threshold, bad):
    """Return the detected sources, or `None` without any.

    photutils warns if there are no sources. Threads share the warning filters and cannot ignore
    this warning, so images without sources are recognised first.
    """
    from scipy.ndimage import label

    data = np.where(bad, 0, data)
    groups, n = label((data > threshold) & ~bad, np.ones((3, 3)))
    if n == 0 or np.bincount(groups.ravel())[1:].max() < N_PIXELS:
        return None
    return detect_sources(data, threshold, N_PIXELS, mask=bad)
