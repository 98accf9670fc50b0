# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The position of an image on the sky, without its WCS."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Footprint"]


@dataclass(frozen=True, eq=False)
class Footprint:
    """Position of an image on the sky: the attributes of a `Grid` that need no WCS.

    It takes the place of the grid of an image in a record or a catalogue.

    Parameters
    ----------
    axes : `~numpy.ndarray`, shape (3, 3)
        Unit vectors to the image's centre, and toward East and North at the centre.
    polygon : `~numpy.ndarray`, shape (n, 3)
        Unit vectors to the vertices of the convex outline.
    pixel_area : float
        Mean solid angle of a pixel, in steradian.
    centre : `~numpy.ndarray`, shape (3,)
        Unit vector to the middle of the pixels that can be good.
    shape : tuple of int
        The image's shape, (ny, nx), for an image in a catalogue.
    """

    axes: np.ndarray
    polygon: np.ndarray
    pixel_area: float
    centre: np.ndarray
    shape: tuple = (0, 0)

    @property
    def radius(self):
        """Angle from the centre to the farthest vertex, in radian."""
        return float(np.arccos(np.clip(self.polygon @ self.centre, -1, 1).min()))

    @cached_property
    def normals(self):
        """Inward normals of the planes through the outline's edges; zero for edges of no length."""
        return np.cross(self.polygon, np.roll(self.polygon, -1, axis=0))

    def forget(self):
        """Do nothing, because a footprint has no nodes, see `Grid.forget`."""
