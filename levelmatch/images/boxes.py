# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Find the part with data of images on a common grid, whose outlines are those of the grid."""

import numpy as np

from levelmatch.exceptions import FrameError
from levelmatch.images.frame import Frame
from levelmatch.sky.overlaps import MANY

__all__ = ["with_boxes"]

# Smallest number of images on one grid. Two images need no choice of pairs.
SEVERAL = 3
# Largest fraction of an image with data for which its outline is that of the data.
SPARSE = 0.75


def with_boxes(frames: list[Frame]) -> list[Frame]:
    """Return the frames; those on a common grid have the box of their good pixels.

    The outlines of such images say nothing of their overlaps, so the pixels are read.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    """
    by_place: dict[tuple, list[int]] = {}
    for k, frame in enumerate(frames):
        if frame.footprint is None and frame.region is None:
            place = frame.shape, frame.whole_grid.polygon.tobytes()
            by_place.setdefault(place, []).append(k)
            if len(frames) > MANY:
                frame.whole_grid.forget()
    frames = list(frames)
    for members in by_place.values():
        for k in members if len(members) >= SEVERAL else ():
            frames[k] = frames[k].with_keys(box=_box_of(frames[k]))
    return frames


def _box_of(frame):
    """Return the limits of the good pixels of a sparse image, otherwise `None`."""
    top, bottom, left, right = frame.whole_grid.box
    try:
        good = np.isfinite(frame.load()[top:bottom, left:right])
    except FrameError:
        # Measuring raises this error.
        return None
    ys, xs = (np.flatnonzero(good.any(axis=axis)) for axis in (1, 0))
    if min(len(ys), len(xs)) < 2:
        return None
    y0, y1, x0, x1 = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    if (y1 - y0) * (x1 - x0) >= SPARSE * good.size:
        return None
    return top + y0, top + y1, left + x0, left + x1
