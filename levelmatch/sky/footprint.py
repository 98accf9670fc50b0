# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The position of an image on the sky, without its WCS."""

from dataclasses import dataclass
from functools import cached_property

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
    shape : tuple of int
        The image's shape, (ny, nx), where it is needed to plan.
    """

    axes: np.ndarray
    polygon: np.ndarray
    pixel_area: float
    centre: np.ndarray
    shape: tuple = (0, 0)

    @property
    def radius(self):
        """Angle in radian from the centre to the farthest vertex."""
        return float(np.arccos(np.clip(self.polygon @ self.centre, -1, 1).min()))

    @cached_property
    def normals(self):
        """Inward normals of the planes through the outline's edges; zero for those of no length."""
        return np.cross(self.polygon, np.roll(self.polygon, -1, axis=0))

    def forget(self):
        """Let go of nothing: there are no positions of nodes."""
