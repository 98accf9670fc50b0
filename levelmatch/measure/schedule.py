# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure all pairs in threads or on a cluster, in an order that keeps few images in memory."""

from collections import Counter
from dataclasses import dataclass
from operator import methodcaller

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from levelmatch.cluster import compute_distributed, current_client
from levelmatch.images.background import source_mask
from levelmatch.images.frame import Frame
from levelmatch.images.sources import MemorySource
from levelmatch.measure._cells import peak_map
from levelmatch.measure.pairs import Image, measure_pair, needed_box
from levelmatch.measure.table import pair_table
from levelmatch.options import MeasureOptions
from levelmatch.sky._geometry import convex_overlap
from levelmatch.sky.grid import Footprint
from levelmatch.sky.overlaps import MANY
from levelmatch.sky.vectors import tangent_axes

__all__ = ["measure_pairs", "n_threads", "reading_order"]


# Approximate number of pixels that a task compares, and the fixed cost of a pair in pixels.
BATCH_PIXELS = 2**20
PAIR_PIXELS = 2**15
# Number of images that are read ahead of the measurement, for each worker.
AHEAD = 3
# An image with a pair more than NEAR places later is cut to the section that this pair needs, if
# this is less than MAX_CUT of the image and whole images would exceed MIN_CUT pixels.
NEAR = 3
MAX_CUT = 0.6
MIN_CUT = 2**24
# Number of directions in which sweeps over the sky are tried.
N_SWEEPS = 60


def measure_pairs(
    frames,
    pairs,
    depth_maps,
    options,
    *,
    with_sky=False,
    progress_bar=None,
    on_rows=None,
    on_fills=None,
):
    """Measure every pair; read each image once and release it after its last pair.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, in an order that does not depend on the order of the input.
    pairs : `~numpy.ndarray` of intp, shape (n, 2)
        Indices of the images of each pair.
    depth_maps : list of tuple of `~levelmatch.sky.overlaps.DepthMap`, length n
        Depth maps of the two images of each pair: the number of images that share their noise.
    options : `MeasureOptions`
        How pairs are measured.
    with_sky : bool
        Whether to measure the sigma-clipped sky level of each image.
    progress_bar : callable or None
        Wraps an iterable over the pairs, as `tqdm.tqdm` does.
    on_rows : callable or None
        Called in this thread for finished pairs, with their indices and the list of their rows,
        see `~levelmatch.measure.pairs.measure_pair`.
    on_fills : callable or None
        Called at the end with the fill values of images, by index of the image.

    Returns
    -------
    table : `PairTable`
        The pairs in the given order; ``npix`` is 0 for pairs without a common good pixel.
    sky : `~numpy.ndarray`, shape (n_images,), or None
        Sky levels, or `None` without ``with_sky``.
    """
    plan = _plan(frames, pairs, depth_maps, options, with_sky)
    watch = _Watch(len(pairs), progress_bar, on_rows)
    client = current_client()
    if client is None:
        sky = _compute(plan, options, watch)
    else:
        sky = compute_distributed(client, plan, watch, _sky_level, AHEAD)
    table = pair_table(pairs, [watch.rows[p] for p in range(len(pairs))])
    if on_fills is not None:
        on_fills(watch.fills)
    return table, np.array([sky[k] for k in range(len(frames))]) if with_sky else None


@dataclass(frozen=True, eq=False)
class _Source:
    """Callable that reads an image in a task.

    Dask does not look into it, and it is small when it is sent to a worker.
    """

    frame: object
    maps: tuple
    options: MeasureOptions

    def __call__(self, *_):
        """Return the image; mask its sources if the options require it."""
        frame = self.frame.opened()
        data, fills = frame.read()
        if fills and fills[0].alone:
            # An image of one value has no scatter, and would get an infinite weight.
            data[:] = np.nan
        if self.options.mask_sources:
            data[source_mask(data)] = np.nan
        maps = tuple(depth.placed(frame.grid) for depth in self.maps)
        # The pixels are still in the processor's cache.
        return Image(data, frame.grid, maps, fills=fills, known_peaks=peak_map(data))

    @property
    def in_memory(self):
        """Return whether the pixels are in memory and not in a file."""
        return isinstance(getattr(self.frame, "source", None), MemorySource)

    def __getstate__(self):
        frame = self.frame
        if isinstance(frame, Frame):
            frame = frame.for_workers()
        return {"frame": frame, "maps": self.maps, "options": self.options}

    def __setstate__(self, state):
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pairs that one task measures.

    Parameters
    ----------
    pairs : list of int
        Indices of the pairs.
    images : list of tuple (str, int)
        The images: ``"load"`` for a whole image or ``"cut"`` for a section, and the index.
    members : list of tuple of int, shape (n, 4)
        For each pair, the places of its two images in ``images``, and of its two depth maps.
    options : `MeasureOptions`
        How pairs are measured.
    """

    pairs: list
    images: list
    members: list
    options: MeasureOptions

    def __call__(self, *images):
        """Return the rows of the pairs, and the fill values by index of the image."""
        rows = [
            measure_pair(images[a], images[b], (images[a].maps[m], images[b].maps[n]), self.options)
            for a, b, m, n in self.members
        ]
        filled = zip(self.images, images, strict=False)
        return rows, {k: image.fills for (_, k), image in filled if image.fills}


@dataclass(frozen=True, eq=False)
class _Plan:
    """The tasks of a measurement, in an order that keeps few images in memory.

    Parameters
    ----------
    order : list of int
        The images, in the order in which they are read.
    sources : dict of int to `_Source`
        Callable that reads each image.
    batches : dict of int to list of `_Batch`
        Batches that can start after an image is read, by index of the image.
    cuts : dict of int to callable
        Cuts an image to the section that its pairs with much later images need.
    sky : list of int
        Images whose sky level is measured.
    """

    order: list
    sources: dict
    batches: dict
    cuts: dict
    sky: list

    def before(self, ahead):
        """Return for each image the keys of the tasks that must end before it is read.

        At most ``ahead`` images are read ahead of the measurement, however the scheduler orders
        its tasks.
        """
        before, last = {}, []
        for r, k in enumerate(self.order):
            if r >= ahead:
                done = self.order[r - ahead]
                keys = [("pairs", done, n) for n in range(len(self.batches[done]))]
                last = [*keys, *([("cut", done)] if done in self.cuts else [])] or last
            before[k] = last
        return before


def reading_order(grids, pairs):
    """Return the images in an order in which few images are in memory at a time.

    The candidates are sweeps over the sky in many directions, and the reverse Cuthill-McKee order.
    The candidate that needs the least memory is used. A slightly inclined sweep along the longer
    side of a mosaic needs one row of images.

    Parameters
    ----------
    grids : list of `~levelmatch.sky.grid.Grid`
        The images.
    pairs : `~numpy.ndarray` of intp, shape (m, 2)
        Indices of the images of each pair.

    Returns
    -------
    order : `~numpy.ndarray` of intp, shape (n,)
        Indices of the images.
    """
    n = len(grids)
    if n == 0:
        return np.zeros(0, np.intp)
    graph = coo_array(
        (np.ones(2 * len(pairs), np.int8), (pairs.ravel("F"), pairs[:, ::-1].ravel("F"))),
        shape=(n, n),
    ).tocsr()
    candidates = [reverse_cuthill_mckee(graph, symmetric_mode=True).astype(np.intp)]
    centres = np.array([grid.centre for grid in grids])
    _, east, north = tangent_axes(centres.sum(axis=0) + 1e-9)
    for angle in np.pi * np.arange(N_SWEEPS) / N_SWEEPS:
        along = centres @ (np.cos(angle) * east + np.sin(angle) * north)
        candidates.append(np.argsort(along, kind="stable"))
    size = _sizes(grids)
    return min(candidates, key=lambda order: _most_in_memory(order, pairs, size))


def _sizes(grids):
    """Return the number of pixels of each image."""
    return np.array([float(np.prod(grid.shape)) for grid in grids])


def _most_in_memory(order, pairs, size):
    """Return the largest number of pixels in memory for an order of reading."""
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    last = rank.copy()
    latest = rank[pairs].max(axis=1)
    np.maximum.at(last, pairs.ravel(), np.repeat(latest, 2))
    released = np.bincount(last, weights=size, minlength=len(order))
    return (np.cumsum(size[order]) - np.cumsum(released) + released).max()


def _plan(frames, pairs, depth_maps, options, with_sky):
    """Return the tasks of a measurement, in an order that keeps few images in memory."""
    wanted = np.arange(len(frames)) if with_sky else np.unique(pairs)
    grids = [frame.grid for frame in frames]
    order = reading_order(grids, pairs)
    # The sections are computed from the WCS, which a catalogue lacks.
    whole = options.method != "direct" or any(isinstance(grid, Footprint) for grid in grids)
    cuts = {} if whole else _cuts(grids, pairs, order)
    order = order[np.isin(order, wanted)].tolist()
    rank = {k: r for r, k in enumerate(order)}
    maps = {k: {} for k in order}
    for (i, j), (own_i, own_j) in zip(pairs.tolist(), depth_maps, strict=True):
        maps[i].setdefault(id(own_i), own_i)
        maps[j].setdefault(id(own_j), own_j)
    sources = {k: _Source(frames[k], tuple(maps[k].values()), options) for k in order}
    place = {k: {key: m for m, key in enumerate(maps[k])} for k in order}
    after = {k: [] for k in order}
    for p, (i, j) in enumerate(pairs.tolist()):
        after[max(i, j, key=rank.get)].append(p)
    work = _work(frames, pairs)
    batches = {}
    for k in order:
        own = sorted(after[k], key=lambda p: min(rank[i] for i in pairs[p].tolist()))

        def key(i, k=k):
            return ("cut" if i in cuts and rank[k] - rank[i] > NEAR else "load"), i

        batches[k] = [
            _batch(group, pairs, depth_maps, place, key, options) for group in _groups(own, work)
        ]
    return _Plan(order, sources, batches, cuts, wanted.tolist() if with_sky else [])


def _cuts(grids, pairs, order):
    """Return the cuts of images with much later pairs; none if whole images need little memory."""
    size = _sizes(grids)
    if len(pairs) == 0 or _most_in_memory(order, pairs, size) < MIN_CUT:
        return {}
    rank = np.argsort(order)
    later = {}
    for pair in pairs.tolist():
        early, late = sorted(pair, key=lambda i: rank[i])
        if rank[late] - rank[early] > NEAR:
            later.setdefault(early, []).append(grids[late])
    cuts = {}
    for k, others in later.items():
        y0, y1, x0, x1 = box = needed_box(grids[k], others)
        if (y1 - y0) * (x1 - x0) < MAX_CUT * size[k]:
            cuts[k] = methodcaller("cut", box)
        if len(grids) > MANY:
            grids[k].forget()
    return cuts


def _work(frames, pairs):
    """Return the approximate number of pixels that each pair compares."""
    if len(pairs) == 0:
        return np.zeros(0)
    grids = [frame.grid for frame in frames]
    area = convex_overlap(np.ascontiguousarray([g.polygon for g in grids]), pairs)
    pixel = np.array([g.pixel_area for g in grids])
    return area / np.minimum(pixel[pairs[:, 0]], pixel[pairs[:, 1]])


def _groups(members, work):
    """Divide a list of pairs into lists that each make a task."""
    groups, total = [], np.inf
    for p in members:
        if total + work[p] > BATCH_PIXELS:
            groups.append([])
            total = 0
        groups[-1].append(p)
        total += work[p] + PAIR_PIXELS
    return groups


def _batch(group, pairs, depth_maps, place, key, options):
    images = list(dict.fromkeys(map(key, pairs[group].ravel().tolist())))
    members = [
        (
            images.index(key(i)),
            images.index(key(j)),
            place[i][id(depth_maps[p][0])],
            place[j][id(depth_maps[p][1])],
        )
        for p in group
        for i, j in [pairs[p].tolist()]
    ]
    return _Batch(group, images, members, options)


def _sky_level(image):
    """Return the sigma-clipped median of the good pixels, from a sample of about a million."""
    from astropy.stats import sigma_clipped_stats

    data = image.pixels
    step = max(1, int(np.sqrt(data.size / 1e6)))
    good = data[::step, ::step]
    good = good[np.isfinite(good)]
    return sigma_clipped_stats(good, sigma=3.0)[1] if good.size else 0.0


def _compute(plan, options, watch):
    """Run the tasks of a plan in threads; return the sky levels."""
    from dask.callbacks import Callback

    n_workers = n_threads(options)
    before = plan.before(AHEAD * n_workers)
    graph, batches = {}, {}
    for k in plan.order:
        graph["load", k] = (plan.sources[k], *before[k])
        if k in plan.cuts:
            graph["cut", k] = (plan.cuts[k], ("load", k))
        for n, batch in enumerate(plan.batches[k]):
            batches["pairs", k, n] = batch
            graph["pairs", k, n] = (batch, *batch.images)
    skies = {("sky", k): k for k in plan.sky}
    graph.update({key: (_sky_level, ("load", k)) for key, k in skies.items()})

    uses = Counter(i for batch in batches.values() for _, i in batch.images)

    def posttask(key, result, dsk, state, worker_id):
        if key not in batches:
            return
        watch.done(batches[key].pairs, *result)
        for _, i in batches[key].images:
            uses[i] -= 1
            if uses[i] == 0 and len(plan.order) > MANY:
                plan.sources[i].frame.grid.forget()

    # The callback is not registered globally, because tasks of other runs have the same names.
    callbacks = [*Callback.active, Callback(posttask=posttask)._callback]
    results = _run_threads(graph, [*skies, *batches], n_workers, callbacks)
    watch.finish()
    return dict(zip(skies.values(), results, strict=False))


def n_threads(options):
    """Return the number of threads: the option, else Dask's configuration, else one per core."""
    import dask.config
    from dask.system import CPU_COUNT

    return options.n_workers or dask.config.get("num_workers", None) or CPU_COUNT


def _run_threads(graph, keys, n_workers, callbacks):
    """Compute keys of a graph in threads of this call.

    Dask's own pool outlives a call, and would be broken in a forked process.
    """
    from concurrent.futures import ThreadPoolExecutor

    from dask.threaded import get

    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="levelmatch")
    try:
        results = get(graph, keys, pool=pool, callbacks=callbacks)
    except BaseException:
        # After an interrupt, do not wait for running tasks.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return results


class _Watch:
    """Rows of finished pairs, which are also passed to the caller and its progress bar.

    Parameters
    ----------
    n_pairs : int
        Number of pairs.
    progress_bar, on_rows : callable or None
        See `measure_pairs`.
    """

    def __init__(self, n_pairs, progress_bar, on_rows):
        self.rows, self.fills = {}, {}
        self.on_rows = on_rows
        self.steps = iter(range(n_pairs) if progress_bar is None else progress_bar(range(n_pairs)))

    def done(self, pairs, rows, fills):
        """Add the rows of a finished task's pairs, and the fill values that it found."""
        self.rows.update(zip(pairs, rows, strict=True))
        self.fills.update(fills)
        if self.on_rows is not None:
            self.on_rows(pairs, rows)
        for _ in pairs:
            next(self.steps, None)

    def finish(self):
        """Exhaust the iterable, at whose end the progress bar closes."""
        for _ in self.steps:
            pass
