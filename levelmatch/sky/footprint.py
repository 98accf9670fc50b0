# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The position of an image on the sky, without its WCS."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Footprint"]


@dataclass(frozen=True, eq=False)
class Footprint:
    """Position of an image on the sky: the attributes of a `Grid` that need no WCS.

    Parameters
    ----------
    axes : `~numpy.ndarray`, shape (3, 3)
        Unit vectors to the image's centre, and toward East and North there.
    polygon : `~numpy.ndarray`, shape (n, 3)
        Unit vectors to the vertices of its convex outline.
    pixel_area : float
        Mean solid angle of a pixel, in steradian.
    centre : `~numpy.ndarray`, shape (3,)
        Unit vector to the middle of the part that can hold good pixels.
    """

    axes: np.ndarray
    polygon: np.ndarray
    pixel_area: float
    centre: np.ndarray
