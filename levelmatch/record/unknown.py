# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Errors of corrections, which are unknown where nothing joins an image to others."""

from typing import Any

import numpy as np

from levelmatch.solve.passes import Pass, linked_sets

__all__ = ["Joined", "total_variances"]


class Joined:
    """The sets in which the overlaps of all passes join the images.

    Parameters
    ----------
    passes : list of `~levelmatch.solve.passes.Pass`
        The solved passes.
    n_images : int
        Number of images, sorted by name.

    Attributes
    ----------
    sets : `~numpy.ndarray` of int, shape (n_images,)
        Set of each image.
    without_pairs : `~numpy.ndarray` of bool, shape (n_images,)
        Flags of images of which a pass has no usable pair.
    unknown : `~numpy.ndarray` of bool, shape (n_images,)
        Flags of images whose level no overlap determines.
    """

    def __init__(self, passes: list[Pass], n_images: int) -> None:
        self.sets = linked_sets(passes, n_images)
        self.without_pairs = np.zeros(n_images, dtype=bool)
        for p in passes:
            self.without_pairs |= p.isolated[p.group]
        alone = np.bincount(self.sets, minlength=1)[self.sets] == 1
        self.unknown = alone & self.without_pairs

    def known(self, i: int, j: int) -> bool:
        """Whether the covariance of two images is known."""
        return bool(self.sets[i] == self.sets[j] and not self.unknown[i])


def total_variances(levels: Any, joined: Joined) -> np.ndarray:
    """Variances of level and slopes of each frame, NaN if they are not known; shape (n, 3)."""
    names, out = {p.name for p in levels.passes}, []
    for frame, i in zip(levels.frames, levels.rank.tolist(), strict=True):
        if joined.unknown[i]:
            planes = any(p.solution.coefficients.shape[1] > 1 for p in levels.passes)
            out.append(np.where([True, planes, planes], np.nan, 0.0))
            continue
        # A pass without any pair of the image adds nothing to what another pass determines.
        parts = [
            np.nan_to_num(a.variance) if a.name in names else a.variance for a in frame.corrections
        ]
        out.append(sum(parts, np.zeros(3)))
    return np.array(out)
