# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure all pairs in threads or on a cluster, in an order that keeps few images in memory."""

from collections import Counter, deque
from functools import partial
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

    Returns
    -------
    table : `PairTable`
        The pairs in the given order; ``npix`` is 0 for pairs without a common good pixel.
    sky : `~numpy.ndarray`, shape (n_images,), or None
        Sky levels, or `None` without ``with_sky``.
    fills : dict of int to tuple
        Fill values of images, by index of the image.
    """
    client = current_client()
    if client is not None:
        # Tasks are small when they are sent to a worker.
        frames = [f.for_workers() if isinstance(f, Frame) else f for f in frames]
    bar = range(len(pairs)) if progress_bar is None else progress_bar(range(len(pairs)))
    steps = iter(bar)

    def finished(done, rows):
        if on_rows is not None:
            on_rows(done, rows)
        for _ in done:
            next(steps, None)

    work = _Work(frames, pairs, depth_maps, options, with_sky, finished)
    if client is None:
        _compute(work, options)
    else:
        compute_distributed(client, work, AHEAD)
    # The progress bar closes at the end of its iterable.
    deque(steps, maxlen=0)
    table = pair_table(pairs, [work.rows[p] for p in range(len(pairs))])
    sky = np.array([work.levels[k] for k in range(len(frames))]) if with_sky else None
    return table, sky, work.fills


def _read_image(frame, maps, options, *_):
    """Return an image; mask its sources if the options require it."""
    frame = frame.opened()
    data, fills = frame.read()
    if fills and fills[0].alone:
        # An image of one value has no scatter, and would get an infinite weight.
        data[:] = np.nan
    if options.mask_sources:
        data[source_mask(data)] = np.nan
    maps = tuple(depth.placed(frame.grid) for depth in maps)
    state = getattr(frame.source, "state", None)
    digests = None if state is None else state.digests
    # The pixels are still in the processor's cache.
    peaks = peak_map(data)
    return Image(data, frame.grid, maps, fills=fills, digests=digests, known_peaks=peaks)


def _measure_batch(keys, members, options, *images):
    """Return the rows of pairs, and fill values and digests by index of the image.

    ``members`` holds for each pair the places of its two images, and of its two depth maps.
    """
    rows = [
        measure_pair(images[a], images[b], (images[a].maps[m], images[b].maps[n]), options)
        for a, b, m, n in members
    ]
    found = zip(keys, images, strict=False)
    return rows, {k: (image.fills, image.digests) for (_, k), image in found}


class _Work:
    """Tasks of a measurement, in an order that keeps few images in memory, and their results.

    Dask does not look into the functions of the tasks.

    Parameters
    ----------
    frames, pairs, depth_maps, options, with_sky
        See `measure_pairs`.
    finished : callable
        Called for finished pairs, with their indices and the list of their rows.

    Attributes
    ----------
    order : list of int
        The images, in the order in which they are read.
    readers : dict of int to callable
        Function that reads each image.
    cuts : dict of int to callable
        Function that cuts an image to the section that its pairs with much later images need.
    batches : dict of int to list of tuple
        Pairs that one task measures, the keys of their images, and the function of these images,
        by the last image that is needed. A key is ``"load"`` for a whole image or ``"cut"`` for a
        section, and the index of the image.
    sky : list of int
        Images whose sky level is measured.
    rows, levels, fills : dict
        Rows of finished pairs, and sky levels and fill values of images.
    """

    def __init__(self, frames, pairs, depth_maps, options, with_sky, finished):
        self.frames, self.finished = frames, finished
        self.rows, self.levels, self.fills = {}, {}, {}
        wanted = np.arange(len(frames)) if with_sky else np.unique(pairs)
        self.sky = wanted.tolist() if with_sky else []
        grids = [frame.grid for frame in frames]
        order = reading_order(grids, pairs)
        # The sections are computed from the WCS, which a catalogue lacks.
        whole = options.method != "direct" or any(isinstance(grid, Footprint) for grid in grids)
        self.cuts = {} if whole else _cuts(grids, pairs, order)
        self.order = order[np.isin(order, wanted)].tolist()
        maps = {k: {} for k in self.order}
        for (i, j), (own_i, own_j) in zip(pairs.tolist(), depth_maps, strict=True):
            maps[i].setdefault(id(own_i), own_i)
            maps[j].setdefault(id(own_j), own_j)
        self.readers = {
            k: partial(_read_image, frames[k], tuple(maps[k].values()), options) for k in self.order
        }
        place = {k: {key: m for m, key in enumerate(maps[k])} for k in self.order}
        self.batches = self._batches(pairs, depth_maps, place, options)

    def _batches(self, pairs, depth_maps, place, options):
        """Return `batches`; ``place`` has the places of the depth maps of each image."""
        rank = {k: r for r, k in enumerate(self.order)}
        after = {k: [] for k in self.order}
        for p, (i, j) in enumerate(pairs.tolist()):
            after[max(i, j, key=rank.get)].append(p)
        size = _compared_pixels(self.frames, pairs)

        def batch(k, group):
            keys, members = {}, []
            for p in group:
                own = []
                for i in pairs[p].tolist():
                    kind = "cut" if i in self.cuts and rank[k] - rank[i] > NEAR else "load"
                    own.append(keys.setdefault((kind, i), len(keys)))
                sides = zip(pairs[p].tolist(), depth_maps[p], strict=True)
                members.append((*own, *(place[i][id(depth)] for i, depth in sides)))
            return group, list(keys), partial(_measure_batch, list(keys), members, options)

        batches = {}
        for k in self.order:
            own = sorted(after[k], key=lambda p: min(rank[i] for i in pairs[p].tolist()))
            batches[k] = [batch(k, group) for group in _groups(own, size)]
        return batches

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

    def is_in_memory(self, k):
        """Return whether the pixels of an image are in memory and not in a file."""
        return isinstance(getattr(self.frames[k], "source", None), MemorySource)

    def add(self, pairs, rows, found):
        """Add the rows of the pairs of a finished task, and fill values and digests of images."""
        self.rows.update(zip(pairs, rows, strict=True))
        for k, (fills, digests) in found.items():
            if fills:
                self.fills[k] = fills
            if digests is not None:
                # A worker may have read the file.
                self.frames[k].source.state.check_digests(self.frames[k].name, digests)
        self.finished(pairs, rows)

    @staticmethod
    def sky_level(image):
        """Return the sigma-clipped median of the good pixels, from a sample of about a million."""
        from astropy.stats import sigma_clipped_stats

        data = image.pixels
        step = max(1, int(np.sqrt(data.size / 1e6)))
        good = data[::step, ::step]
        good = good[np.isfinite(good)]
        return sigma_clipped_stats(good, sigma=3.0)[1] if good.size else 0.0


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


def _compared_pixels(frames, pairs):
    """Return the approximate number of pixels that each pair compares."""
    if len(pairs) == 0:
        return np.zeros(0)
    grids = [frame.grid for frame in frames]
    area = convex_overlap(np.ascontiguousarray([g.polygon for g in grids]), pairs)
    pixel = np.array([g.pixel_area for g in grids])
    return area / np.minimum(pixel[pairs[:, 0]], pixel[pairs[:, 1]])


def _groups(members, size):
    """Divide a list of pairs, given the pixels that each compares, into lists for one task."""
    groups, total = [], np.inf
    for p in members:
        if total + size[p] > BATCH_PIXELS:
            groups.append([])
            total = 0
        groups[-1].append(p)
        total += size[p] + PAIR_PIXELS
    return groups


def _compute(work, options):
    """Run the tasks of a measurement in threads."""
    from dask.callbacks import Callback

    n_workers = n_threads(options)
    before = work.before(AHEAD * n_workers)
    graph, batches = {}, {}
    for k in work.order:
        graph["load", k] = (work.readers[k], *before[k])
        if k in work.cuts:
            graph["cut", k] = (work.cuts[k], ("load", k))
        for n, batch in enumerate(work.batches[k]):
            _, images, measure = batches["pairs", k, n] = batch
            graph["pairs", k, n] = (measure, *images)
    skies = {("sky", k): k for k in work.sky}
    graph.update({key: (work.sky_level, ("load", k)) for key, k in skies.items()})
    uses = Counter(i for _, images, _ in batches.values() for _, i in images)

    def posttask(key, result, dsk, state, worker_id):
        if key not in batches:
            return
        pairs, images, _ = batches[key]
        work.add(pairs, *result)
        for _, i in images:
            uses[i] -= 1
            if uses[i] == 0 and len(work.order) > MANY:
                work.frames[i].grid.forget()

    # The callback is not registered globally, because tasks of other runs have the same names.
    callbacks = [*Callback.active, Callback(posttask=posttask)._callback]
    results = _run_threads(graph, [*skies, *batches], n_workers, callbacks)
    work.levels = dict(zip(skies.values(), results, strict=False))


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
