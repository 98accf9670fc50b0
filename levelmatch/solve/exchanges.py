# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Exchanges of wrong pairs: other pairs that connect the same few images to the rest."""

from functools import cached_property
from itertools import combinations

import numpy as np

__all__ = ["Neighbours"]

# Largest number of images that are shifted together, and of the pairs that connect them to others.
MAX_MOVED = 3
MAX_CUT = 9
# Images with more pairs than this are shifted alone.
MAX_DEGREE = 8
# A pair is in doubt if one of its images has at most this many more right pairs than wrong ones.
MAX_SPARE = 3
# Largest number of additional wrong pairs of an explanation.
MAX_MORE = 1


class Neighbours:
    """The graph of images and pairs.

    A constant added to some images changes only the differences of the pairs that connect them to
    the others. These pairs are a cut of the graph. If some pairs of a cut are wrong by
    the same amount, the other pairs of the cut may be wrong in their place.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of int, shape (n,)
        The images of each pair.
    n_images : int
        Number of images.
    """

    def __init__(self, first, second, n_images):
        self.ends = np.stack([first, second], axis=1)
        ends = np.concatenate([first, second])
        self._rows = np.argsort(ends, kind="stable") % max(len(first), 1)
        self._start = np.searchsorted(np.sort(ends), np.arange(n_images + 1))
        self._cuts = {}

    def in_doubt(self, rows):
        """Return flags of wrong pairs with an image that has few right pairs, shape (r,)."""
        wrong = np.bincount(self.ends[rows].ravel(), minlength=len(self._start) - 1)
        right = np.diff(self._start) - 2 * wrong
        return right[self.ends[rows]].min(axis=1, initial=MAX_SPARE + 1) <= MAX_SPARE

    def pairs(self, image):
        """Return the rows of the pairs of an image."""
        return self._rows[self._start[image] : self._start[image + 1]].tolist()

    @cached_property
    def _links(self):
        return {}

    def others(self, image):
        """Return the images that share a pair with an image."""
        if image not in self._links:
            ends = self.ends[self.pairs(image)]
            self._links[image] = set(ends.ravel().tolist()) - {image}
        return self._links[image]

    def cut(self, images):
        """Return the rows of the pairs between a set of images and all others, a frozenset."""
        if images not in self._cuts:
            rows = set()
            for image in images:
                rows ^= set(self.pairs(image))
            self._cuts[images] = frozenset(rows)
        return self._cuts[images]

    def near(self, image):
        """Yield the connected sets of up to `MAX_MOVED` images that contain an image."""
        new = {frozenset([image])}
        for _ in range(MAX_MOVED):
            yield from sorted(new, key=sorted)
            new = {
                images | {other}
                for images in new
                if all(len(self.pairs(i)) <= MAX_DEGREE for i in images)
                for i in images
                for other in self.others(i) - images
            }

    def flips(self, row, wrong):
        """Yield explanations in which a wrong pair is right, and others are wrong in its place.

        Parameters
        ----------
        row : int
            The pair.
        wrong : frozenset of int
            Rows of all wrong pairs.

        Yields
        ------
        back, out : frozenset of int
            Rows of the pairs that are right, and of those that are wrong in their place.
        """
        for image in self.ends[row].tolist():
            for images in self.near(image):
                cut = self.cut(images)
                if row not in cut or len(cut) > MAX_CUT:
                    continue
                out = cut - wrong
                inside = sorted(cut & wrong - {row})
                for n in range(max(len(out) - MAX_MORE - 1, 0), len(inside) + 1):
                    for more in combinations(inside, n):
                        yield frozenset([row, *more]), out
