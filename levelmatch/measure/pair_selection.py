# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Select the pairs to measure, and the images that share their noise."""

from dataclasses import dataclass, replace

import numpy as np

from levelmatch.exceptions import NoOverlapError
from levelmatch.images.frame import EXCLUDE
from levelmatch.images.sky_cells import corrected_cells, of_cells
from levelmatch.measure.cells import CellRows
from levelmatch.measure.pair_store import known_rows
from levelmatch.measure.schedule import measure_pairs
from levelmatch.measure.table import pair_table
from levelmatch.sky.overlaps import DepthMap, find_pairs, thin_pairs
from levelmatch.text import list_names

__all__ = ["Overlaps", "assign_pairs"]


def assign_pairs(passes, pairs):
    """Return the index of the pass that uses each pair, -1 for none; shape (n,).

    A pair is used by the first pass in which its images belong to one domain and to two groups.
    """
    pass_of = np.full(len(pairs), -1)
    i, j = pairs.T
    for k, p in enumerate(passes):
        new = (p.domain[i] == p.domain[j]) & (p.group[i] != p.group[j]) & (pass_of < 0)
        pass_of[new] = k
    return pass_of


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs to measure, with their passes and the images that share their noise.

    Parameters
    ----------
    pairs : `~numpy.ndarray` of intp, shape (n, 2)
        Indices of the images of each pair.
    pass_of : `~numpy.ndarray` of int, shape (n,)
        Index of the pass that uses each pair.
    fraction : `~numpy.ndarray`, shape (n,)
        Fraction of the pairs of its images that is measured.
    depth_maps : list of tuple
        Depth maps of the two images of each pair.
    cells : `~levelmatch.measure.cells.CellRows` or None
        Cells of images that are given by healpix cells.
    depths : tuple of `~numpy.ndarray`
        For each pass, the number of images in each cell.
    """

    pairs: np.ndarray
    pass_of: np.ndarray
    fraction: np.ndarray
    depth_maps: list
    cells: CellRows | None = None
    depths: tuple = ()

    @classmethod
    def of(cls, frames, passes, options):
        """Return the pairs of frames that passes use, limited to ``max_pairs`` for each image."""
        grids = [frame.grid for frame in frames]
        cells = CellRows(frames) if of_cells(frames) else None
        found, area = find_pairs(grids) if cells is None else cells.pairs()
        pass_of, influence = _assigned(frames, passes, found)
        keep, fraction = pass_of >= 0, np.ones(len(found))
        if options.max_pairs is not None:
            for k in range(len(passes)):
                rows = np.flatnonzero(pass_of == k)
                kept, fraction[rows] = thin_pairs(
                    found[rows], area[rows], len(frames), options.max_pairs
                )
                keep[rows[~kept]] = False
        if cells is not None:
            counts = np.array([frame.role != EXCLUDE for frame in frames])
            depths = tuple(
                cells.depth(p.domain, counts | (p.name == "fit_exclude")) for p in passes
            )
            return cls(found[keep], pass_of[keep], fraction[keep], [], cells, depths)
        maps = [
            _depth_maps(
                grids,
                found if p.name == "fit_exclude" else found[influence],
                p.domain,
                np.unique(found[pass_of == k]),
            )
            for k, p in enumerate(passes)
        ]
        pairs, pass_of, fraction = found[keep], pass_of[keep], fraction[keep]
        depth_maps = [
            (maps[k][i], maps[k][j])
            for k, (i, j) in zip(pass_of.tolist(), pairs.tolist(), strict=True)
        ]
        return cls(pairs, pass_of, fraction, depth_maps)

    def check(self, frames, passes):
        """Refuse a mosaic without any overlap."""
        mosaic = [p for p in passes if p.name == "mosaic"]
        if len(self.pairs) == 0 and mosaic and mosaic[-1].group.max() > 0:
            names = list_names([frame.name for frame in frames], most=3)
            msg = (
                f"none of the {len(frames)} images overlap ({names}): there is nothing to match; "
                "look at their WCSs"
            )
            raise NoOverlapError(msg)

    def measure(self, frames, settings, known=None, notes=None):
        """Return the table of the pairs, and the sky levels if the options tie sets by them.

        Parameters
        ----------
        frames : list of `~levelmatch.images.frame.Frame`
            The images.
        settings : object
            Settings with ``measure``, ``solve`` and ``progress_bar``.
        known : tuple or None
            Known rows and the file of new rows, see `~levelmatch.measure.pair_store.known_rows`.
        notes : `~levelmatch.images.notes.Notes` or None
            Receives notes on fill values.
        """
        if self.cells is not None:
            return self._measure_cells(frames, settings)
        rows, keep = {}, None
        if known is not None:
            rows, keep = known_rows(*known, frames, self, settings.measure)
        todo = np.array([p for p in range(len(self.pairs)) if p not in rows], dtype=np.intp)

        def add(indices, new):
            rows.update(zip(todo[indices].tolist(), new, strict=True))
            keep(todo[indices], new)

        measured, sky, fills = measure_pairs(
            frames,
            self.pairs[todo],
            [self.depth_maps[p] for p in todo],
            settings.measure,
            with_sky=settings.solve.disconnected == "sky",
            progress_bar=settings.progress_bar,
            on_rows=None if known is None else add,
        )
        if known is not None:
            measured = pair_table(self.pairs, [rows[p] for p in range(len(self.pairs))])
        if notes is not None:
            unread = set(self.pairs.ravel().tolist()) - set(self.pairs[todo].ravel().tolist())
            fills |= {k: frames[k].read()[1] for k in unread}
            for k in sorted(fills):
                notes.add_fills(frames[k].name, fills[k])
        return replace(measured, multiplicity=1 / self.fraction), sky

    def _measure_cells(self, frames, settings):
        """Measure images in healpix cells, see `measure`."""
        pairs = range(len(self.pairs))
        table = self.cells.measure(self.pairs, self.pass_of, self.depths, settings.measure)
        for _ in pairs if settings.progress_bar is None else settings.progress_bar(pairs):
            pass
        sky = None
        if settings.solve.disconnected == "sky":
            sky = np.array([_sky_of_cells(frame) for frame in frames])
        return replace(table, multiplicity=1 / self.fraction), sky


def _sky_of_cells(frame):
    """Return the sigma-clipped median of an image's cells, in the common unit."""
    from astropy.stats import sigma_clipped_stats

    return frame.scale * sigma_clipped_stats(corrected_cells(frame).value, sigma=3.0)[1]


def _assigned(frames, passes, found):
    """Return the pass of each pair, see `assign_pairs`, and whether it influences all images.

    Only the pass ``fit_exclude`` uses the pairs of an image that is excluded from the fit.
    """
    pass_of = assign_pairs(passes, found)
    excluded = np.array([frame.role == EXCLUDE for frame in frames])[found]
    touching = excluded.any(axis=1)
    own = next((k for k, p in enumerate(passes) if p.name == "fit_exclude"), -1)
    pass_of[touching] = own
    pass_of[excluded.all(axis=1)] = -1
    return pass_of, ~touching


def _depth_maps(grids, found, domain, images):
    """Return the depth maps of some images, from all overlapping images of the same domain.

    Images of one group also share noise.
    """
    same = found[domain[found[:, 0]] == domain[found[:, 1]]]
    ends = np.concatenate([same, same[:, ::-1]])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    start = np.searchsorted(ends[:, 0], images, side="left").tolist()
    stop = np.searchsorted(ends[:, 0], images, side="right").tolist()
    others = ends[:, 1].tolist()
    return {
        i: DepthMap(grids[i], [grids[j] for j in others[a:b]])
        for i, a, b in zip(images.tolist(), start, stop, strict=True)
    }
