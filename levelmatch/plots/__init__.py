# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plots of a result or of its record. They need matplotlib, the extra ``plot``.

Each function draws into given axes, or into the axes of a new figure, and returns the axes. The
colours can be distinguished with every kind of colour vision.
"""

from levelmatch.plots.levels import plot_closures, plot_gains, plot_levels, plot_residuals
from levelmatch.plots.mosaics import QuickLook, plot_mosaic, quick_look
from levelmatch.plots.pairs import plot_pair
from levelmatch.plots.sky import plot_overlaps, sky_wcs

__all__ = [
    "QuickLook",
    "plot_closures",
    "plot_gains",
    "plot_levels",
    "plot_mosaic",
    "plot_overlaps",
    "plot_pair",
    "plot_residuals",
    "quick_look",
    "sky_wcs",
]
