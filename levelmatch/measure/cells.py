# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure pairs of images in healpix cells."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from levelmatch.images.sky_cells import cell_area, cell_vectors
from levelmatch.measure._summary import PAIR_CELL, summarise_pairs
from levelmatch.measure.schedule import n_threads
from levelmatch.measure.table import PAIR, empty_pair, pair_table

__all__ = ["CellRows"]

# Number of rows of pairs that are compared at once.
CHUNK = 300_000
# Levels of blocks: differences are clipped and averaged in blocks of 4 ** level cells, at the first
# level at which a typical image has at least BLOCKS blocks.
LEVELS = (2, 1, 0)
BLOCKS = 200
# Smallest number of pixels of a used cell, as a fraction of the median. In other cells, the mean
# position of the pixels is far from the middle.
MIN_COVERAGE = 0.3
# Smallest error of a cell, as a fraction of the median error of its image; and a lower limit.
LEAST = 0.25
TINY = float(np.finfo(np.float32).tiny)


class CellRows:
    """The cells of all images, with the corrections of the images subtracted.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.

    Attributes
    ----------
    nside : int
        Resolution of the cells.
    n_images : int
        Number of images.
    image : `~numpy.ndarray` of intp, shape (n,)
        Image of each row. Rows are sorted by cell and image.
    cell : `~numpy.ndarray` of intp, shape (n,)
        Place of each row's cell in ``cells``.
    cells : `~numpy.ndarray` of int64, shape (m,)
        Nested indices of the cells, ascending.
    value, variance : `~numpy.ndarray`, shape (n,)
        Value and squared error, in the common unit.
    """

    def __init__(self, frames):
        self.frames, self.n_images = frames, len(frames)
        self.nside = frames[0].source.cells.nside
        parts = [_rows(frame) for frame in frames]
        index, value, variance = (np.concatenate(part) for part in zip(*parts, strict=True))
        image = np.repeat(np.arange(len(frames)), [len(part[0]) for part in parts])
        # Images follow one another, so a stable sort by cell keeps their order.
        order = np.argsort(index, kind="stable")
        index, self.image = index[order], image[order]
        self.value, self.variance = value[order], variance[order]
        first = np.concatenate([[True], index[1:] != index[:-1]])
        self.cell, self.cells = np.cumsum(first) - 1, index[first]

    @cached_property
    def end(self):
        """Index after the last row of each row's cell, shape (n,)."""
        return np.cumsum(np.bincount(self.cell))[self.cell]

    @cached_property
    def by_image(self):
        """Rows sorted by image and cell, and the first of each image in this order."""
        count = np.bincount(self.image, minlength=self.n_images)
        start = np.concatenate([[0], np.cumsum(count)])
        return np.argsort(self.image, kind="stable"), start

    @cached_property
    def vectors(self):
        """Unit vectors to the middles of the cells, shape (m, 3)."""
        return cell_vectors(self.cells, self.nside)

    @cached_property
    def level(self):
        """Level of the blocks: 4 ** level healpix cells form a cell of a pair."""
        typical = np.median(np.diff(self.by_image[1]))
        return next(k for k in LEVELS if typical >= BLOCKS * 4**k or k == 0)

    @cached_property
    def places(self):
        """Row and column of each row's block in its image, shape (n, 2)."""
        nside = self.nside >> self.level
        side = np.sqrt(cell_area(nside))
        blocks = self.cells >> (2 * self.level)
        vectors = cell_vectors(blocks, nside)
        out = np.empty((len(self.cell), 2), dtype=np.int32)
        rows, start = self.by_image
        for k, frame in enumerate(self.frames):
            own = rows[start[k] : start[k + 1]]
            along = frame.source.cells.rows_and_columns[::-1] / side
            place = np.floor(vectors[self.cell[own]] @ along.T)
            out[own] = place - (place.min(axis=0) if len(own) else 0)
        return out

    def pairs(self):
        """Return the pairs of images that share cells, and the area that they share.

        They have the format of `~levelmatch.sky.overlaps.find_pairs`.
        """
        shape = self.n_images, len(self.cells)
        rows, start = self.by_image
        member = csr_array((np.ones(len(rows), np.int32), self.cell[rows], start), shape=shape)
        shared = (member @ member.T).tocoo()
        upper = shared.row < shared.col
        pairs = np.stack([shared.row[upper], shared.col[upper]], axis=1).astype(np.intp)
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        area = shared.data[upper] * cell_area(self.nside)
        return np.ascontiguousarray(pairs[order]), area[order]

    def depth(self, domain, counts):
        """Return the number of images of a domain in the cell of each row, shape (n,).

        Parameters
        ----------
        domain : `~numpy.ndarray` of int, shape (n_images,)
            Label of each image's domain.
        counts : `~numpy.ndarray` of bool, shape (n_images,)
            Whether an image counts.
        """
        place = self.cell
        if domain.max() > 0:
            code = self.cell * (int(domain.max()) + 1) + domain[self.image]
            place = np.unique(code, return_inverse=True)[1].ravel()
        return np.bincount(place, counts[self.image])[place].astype(np.float32)

    def measure(self, pairs, pass_of, depths, options):
        """Return the `~levelmatch.measure.table.PairTable` of pairs.

        Parameters
        ----------
        pairs : `~numpy.ndarray` of intp, shape (n, 2)
            The pairs, in ascending order.
        pass_of : `~numpy.ndarray` of int, shape (n,)
            Index of the pass of each pair.
        depths : list of `~numpy.ndarray`
            For each pass, `depth`.
        options : `~levelmatch.options.MeasureOptions`
            How to measure.
        """
        out = np.empty(len(pairs), PAIR)
        out[:] = empty_pair()
        depths = np.stack(depths)
        code = pairs[:, 0] * self.n_images + pairs[:, 1]
        # Compute these before threads use them.
        self.places, self.vectors, self._sides, self._rows_along  # noqa: B018

        def fill(images):
            """Measure the pairs that begin with an image of a range."""
            first, second = self._joined(*images)
            known = self.image[first] * self.n_images + self.image[second]
            row = np.searchsorted(code, known)
            row[row == len(code)] = 0
            wanted = np.flatnonzero(code[row] == known)
            # The rows of a pair are sorted by cell, because the rows of an image are.
            wanted = wanted[np.argsort(row[wanted], kind="stable")]
            if len(wanted):
                first, second, row = first[wanted], second[wanted], row[wanted]
                depth = depths[pass_of[row], first]
                self._summarise(first, second, row, depth, options, out)

        with ThreadPoolExecutor(n_threads(options)) as pool:
            for _ in pool.map(fill, self._chunks() if len(code) else ()):
                pass
        return pair_table(pairs, out)

    def _chunks(self):
        """Yield ranges of images whose rows share cells with about `CHUNK` other rows."""
        rows, start = self.by_image
        partners = np.cumsum((self.end - np.arange(len(self.end)) - 1)[rows])
        total = np.concatenate([[0], partners])[start]
        first = 0
        while first < self.n_images:
            last = int(np.searchsorted(total, total[first] + CHUNK, side="right")) - 1
            last = min(max(last, first + 1), self.n_images)
            yield first, last
            first = last

    def _joined(self, start, stop):
        """Return rows of some images, each paired with rows of later images in the same cell."""
        rows, starts = self.by_image
        own = rows[starts[start] : starts[stop]]
        count = self.end[own] - own - 1
        first = np.repeat(own, count)
        before = np.cumsum(count) - count
        return first, first + 1 + np.arange(len(first)) - np.repeat(before, count)

    def _summarise(self, first, second, row, depth, options, out):
        """Fill the rows of pairs from their cells; ``row`` is the ascending index of the pair."""
        difference = self.value[first] - self.value[second]
        variance = self.variance[first] + self.variance[second]
        block = self.cells[self.cell[first]] >> (2 * self.level)
        new = _begins(row, block)
        if self.level > 0:
            kept = _clip(difference, variance, np.cumsum(new) - 1, row - row[0], options.clip)
            first, second, row, depth, difference, variance, block = (
                part[kept] for part in (first, second, row, depth, difference, variance, block)
            )
            new = _begins(row, block)
        weight, starts, block = 1 / variance, np.flatnonzero(new), np.cumsum(new) - 1
        total, number = np.add.reduceat(weight, starts), np.diff(starts, append=len(row))

        def mean(values):
            return np.add.reduceat(weight * values, starts) / total

        cells = np.zeros(len(starts), PAIR_CELL)
        cells["location"] = cells["clipped"] = mean(difference)
        if options.location == "median" and self.level > 0:
            from scipy.ndimage import median

            cells["location"] = median(difference, block, np.arange(len(starts)))
        cells["brightness"] = mean(0.5 * (self.value[first] + self.value[second]))
        vectors = self.vectors[self.cell[first]]
        for k in range(3):
            cells["vector"][:, k] = mean(vectors[:, k])
        cells["pixel_variance"] = number / total
        typical = _typical(np.sqrt(cells["pixel_variance"]), row[starts])
        cells["weight"], cells["variance"] = total, 1 / total
        square = mean((difference - cells["clipped"][block]) ** 2)
        inner = square * number / np.maximum(number - 1, 1)
        cells["scatter"] = np.where(number > 1, np.sqrt(inner), typical)
        cells["npix"] = number
        cells["depth"] = np.maximum(mean(depth), 2)
        for names, side in ((("y", "x"), first), (("other_y", "other_x"), second)):
            for axis, name in enumerate(names):
                cells[name] = self.places[side[starts], axis]
        self._fill(cells, row[starts], first[starts], second[starts], out)

    def _fill(self, cells, row, first, second, out):
        """Summarise the cells of pairs into their rows."""
        starts = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
        count, sides = np.diff(starts, append=len(row)), []
        for y, x in (("y", "x"), ("other_y", "other_x")):
            sizes = []
            for name in (y, x):
                low = np.minimum.reduceat(cells[name], starts)
                sizes.append(np.maximum.reduceat(cells[name], starts) - low + 1)
                cells[name] -= np.repeat(low, count)
            sides.append(np.maximum(*sizes))
        summary = summarise_pairs(cells, np.append(starts, len(cells)))
        images = self.image[first[starts]], self.image[second[starts]]
        for k in range(2):
            summary["extent"][:, k] = np.minimum(sides[k] / self._sides[images[k]], 1.0)
        summary["turn"] = self._turns(*images)
        out[row[starts]] = summary

    @cached_property
    def _sides(self):
        """Longer side of each image, in blocks."""
        out = np.zeros(self.n_images)
        np.maximum.at(out, self.image, self.places.max(axis=1) + 1)
        return out

    @cached_property
    def _rows_along(self):
        return np.array([frame.source.cells.rows_and_columns[0] for frame in self.frames])

    def _turns(self, first, second):
        """Return the angle between the rows of two images, 0 to 90 degrees."""
        cosine = np.einsum("nk,nk->n", self._rows_along[first], self._rows_along[second])
        return np.degrees(np.arccos(np.minimum(np.abs(cosine), 1)))


def _rows(frame):
    """Return the used cells of a frame: index, value and variance in the common unit."""
    cells, correction = frame.source.cells, frame.correction
    counts = cells.coverage >= MIN_COVERAGE * np.median(cells.coverage)
    value = cells.value[counts]
    if correction.vector.any():
        value = value - cells.vectors[counts] @ correction.vector
    value = (value - correction.constant) * frame.scale
    error = cells.error[counts] * frame.scale
    error = np.maximum(error, max(LEAST * np.median(error), TINY))
    return cells.index[counts], value, error**2


def _clip(difference, variance, block, pair, clip):
    """Return whether each difference lies within ``clip`` sigma of the median of its block.

    Sigma is the stated error times the ratio of the pair's scatter to the stated errors.
    """
    from scipy.ndimage import median

    residual = difference - median(difference, block, np.arange(block[-1] + 1))[block]
    square = residual**2 / variance
    # The variance about the median of n values is smaller by a factor of about 1 - 1 / n.
    freedom = 1 - 1 / np.bincount(block)[block]
    kept = np.ones(len(square), dtype=bool)
    for _ in range(3):
        total = np.bincount(pair[kept], square[kept], minlength=int(pair.max()) + 1)
        expected = np.bincount(pair[kept], freedom[kept], minlength=len(total))
        more = np.maximum(total / np.maximum(expected, 1e-9), 1.0)[pair]
        kept = square <= clip**2 * more
    return kept


def _begins(row, block):
    """Return whether a block of a pair begins at each row."""
    return np.concatenate([[True], (row[1:] != row[:-1]) | (block[1:] != block[:-1])])


def _typical(values, label):
    """Return, for each value, the mean of all values with its label."""
    _, place = np.unique(label, return_inverse=True)
    place = place.ravel()
    return (np.bincount(place, values) / np.bincount(place))[place]
