# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Wrong pairs that others can replace, because they cut the same few images off."""

from functools import cached_property
from itertools import combinations

import numpy as np

__all__ = ["Neighbours"]

# Images that are moved together, at most, and the pairs that join them with all others.
MAX_MOVED = 3
MAX_CUT = 9
# Images with more pairs are moved alone.
MAX_DEGREE = 8
# Right pairs of an image of a doubtful pair, at most, less the wrong ones.
MAX_SPARE = 3
# Further wrong pairs that an explanation may need.
MAX_MORE = 1


class Neighbours:
    """The pairs of each image, and those that join a few images with all others.

    A constant added to some images changes the differences of the pairs that cut them off, and
    no others. If some of these pairs are wrong by about as much, the others may be wrong in
    their place, and the images off.

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
        """Flags of wrong pairs that others may replace, as an image has few others; (r,)."""
        wrong = np.bincount(self.ends[rows].ravel(), minlength=len(self._start) - 1)
        right = np.diff(self._start) - 2 * wrong
        return right[self.ends[rows]].min(axis=1, initial=MAX_SPARE + 1) <= MAX_SPARE

    def pairs(self, image):
        """Rows of the pairs of an image."""
        return self._rows[self._start[image] : self._start[image + 1]].tolist()

    @cached_property
    def _links(self):
        return {}

    def others(self, image):
        """Images that share a pair with an image."""
        if image not in self._links:
            ends = self.ends[self.pairs(image)]
            self._links[image] = set(ends.ravel().tolist()) - {image}
        return self._links[image]

    def cut(self, images):
        """Rows of the pairs with one end in a set of images, as a frozenset."""
        if images not in self._cuts:
            rows = set()
            for image in images:
                rows ^= set(self.pairs(image))
            self._cuts[images] = frozenset(rows)
        return self._cuts[images]

    def near(self, image):
        """Yield connected sets of few images that contain an image."""
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
        """Yield other explanations of a wrong pair, among the wrong pairs of a set.

        Parameters
        ----------
        row : int
            The pair.
        wrong : frozenset of int
            Rows of all wrong pairs.

        Yields
        ------
        back, out : frozenset of int
            Rows of pairs that are right in it, and of those that are wrong instead.
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
