# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Errors of corrections, which are unknown for images without a connection to others."""

from typing import Any

import numpy as np

from levelmatch.solve.passes import Pass, linked_sets

__all__ = ["ConnectedSets", "total_variances"]


class ConnectedSets:
    """Sets of images that are connected by the overlaps of all passes.

    Parameters
    ----------
    passes : list of `~levelmatch.solve.passes.Pass`
        The solved passes.
    n_images : int
        Number of images, sorted by name.

    Attributes
    ----------
    sets : `~numpy.ndarray` of int, shape (n_images,)
        Index of the set of each image.
    without_pairs : `~numpy.ndarray` of bool, shape (n_images,)
        True for an image without a usable pair in at least one pass.
    unknown : `~numpy.ndarray` of bool, shape (n_images,)
        True for an image whose level no overlap determines.
    """

    def __init__(self, passes: list[Pass], n_images: int) -> None:
        self.sets = linked_sets(passes, n_images)
        self.without_pairs = np.zeros(n_images, dtype=bool)
        for p in passes:
            self.without_pairs |= p.isolated[p.group]
        alone = np.bincount(self.sets, minlength=1)[self.sets] == 1
        self.unknown = alone & self.without_pairs

    def known(self, i: int, j: int) -> bool:
        """Return whether the covariance of two images is known."""
        return bool(self.sets[i] == self.sets[j] and not self.unknown[i])


def total_variances(levels: Any, joined: ConnectedSets) -> np.ndarray:
    """Return variances of level and slopes of each frame, NaN if unknown; shape (n, 3)."""
    names, out = {p.name for p in levels.passes}, []
    for frame, i in zip(levels.frames, levels.rank.tolist(), strict=True):
        if joined.unknown[i]:
            planes = any(p.solution.coefficients.shape[1] > 1 for p in levels.passes)
            out.append(np.where([True, planes, planes], np.nan, 0.0))
            continue
        # A pass without a pair of the image adds no variance to a level known from other passes.
        variances = [
            np.nan_to_num(a.variance) if a.name in names else a.variance for a in frame.corrections
        ]
        out.append(sum(variances, np.zeros(3)))
    return np.array(out)
