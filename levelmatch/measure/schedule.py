# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Order of reading and comparing images, by threads or on a cluster."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from levelmatch.cluster import current_client
from levelmatch.images.background import source_mask
from levelmatch.images.frame import Frame
from levelmatch.images.sources import MemorySource
from levelmatch.measure.cluster import compute_distributed
from levelmatch.measure.pairs import Image, measure_row, needed_box
from levelmatch.measure.table import pair_table
from levelmatch.options import MeasureOptions
from levelmatch.sky._geometry import convex_overlap
from levelmatch.sky.footprint import Footprint
from levelmatch.sky.overlaps import MANY
from levelmatch.sky.vectors import tangent_axes

__all__ = ["measure_pairs", "n_threads", "reading_order"]


# A task compares about this many pixels; a pair costs as much as some more.
BATCH_PIXELS = 2**20
PAIR_PIXELS = 2**15
# Images read ahead of those measured, for each worker.
AHEAD = 3
# Of an image that is needed for one so many places later, or more, only the part is kept that
# it needs, if that is less than this part of it, and if else more pixels would be in memory.
NEAR = 3
MAX_PART = 0.6
MIN_PARTED = 2**24
# Directions of sweeps over the sky that are tried.
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
    """Measure every pair, each image read once and let go after its last pair.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, in an order that does not depend on the input's.
    pairs : `~numpy.ndarray` of intp, shape (n, 2)
        Which of them to compare.
    depth_maps : list of tuple of `~levelmatch.sky.overlaps.DepthMap`, length n
        For each pair those of its two images: how many images share their pixels' noise.
    options : `MeasureOptions`
        How.
    with_sky : bool
        Also measure each image's clipped sky level.
    progress_bar : callable or None
        Wraps an iterable over the pairs, as `tqdm.tqdm` does.
    on_rows : callable or None
        Called as pairs finish, with their indices into ``pairs`` and the list of
        their rows, see `~levelmatch.measure.pairs.measure_pair`: always in the thread that called
        this function.
    on_fills : callable or None
        Called in the end with the fill values found in images, by their index.

    Returns
    -------
    table : `PairTable`
        The pairs in the given order; those without a common good pixel have ``npix`` 0.
    sky : `~numpy.ndarray`, shape (n_images,), or None
        Sky levels, if asked for.
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
    """How a task gets an image: opaque to Dask, and small where it is sent to a worker."""

    frame: object
    maps: tuple
    options: MeasureOptions

    def __call__(self, *_):
        """Read the image, its sources masked if asked for."""
        frame = self.frame.opened()
        data, fills = frame.read()
        if fills and fills[0].alone:
            # An image of one value would be the most precise of all.
            data[:] = np.nan
        if self.options.mask_sources:
            data[source_mask(data)] = np.nan
        maps = tuple(depth.placed(frame.grid) for depth in self.maps)
        return Image(data, frame.grid, maps, fills=fills)

    @property
    def in_memory(self):
        """Return whether the pixels come with it."""
        return isinstance(getattr(self.frame, "source", None), MemorySource)

    def __getstate__(self):
        frame = self.frame
        if isinstance(frame, Frame):
            frame = frame.for_workers()
        return {"frame": frame, "maps": self.maps, "options": self.options}

    def __setstate__(self, state):
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False)
class _Part:
    """How a task keeps of an image what later pairs take."""

    box: tuple

    @property
    def n_pixels(self):
        """How many pixels that is."""
        y0, y1, x0, x1 = self.box
        return (y1 - y0) * (x1 - x0)

    def __call__(self, image):
        """Return the part."""
        return image.cut(self.box)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pairs that one task measures.

    Parameters
    ----------
    pairs : list of int
        Which.
    images : list of tuple (str, int)
        The images that it takes: ``"load"`` for a whole one, ``"part"`` for a part.
    members : list of tuple of int, shape (n, 4)
        For each pair the places of its two images in that list, and of their depth maps.
    options : `MeasureOptions`
        How.
    """

    pairs: list
    images: list
    members: list
    options: MeasureOptions

    def __call__(self, *images):
        """Return the rows of the pairs and the fill values by image, given the images."""
        rows = [
            measure_row(images[a], images[b], (images[a].maps[m], images[b].maps[n]), self.options)
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
        How.
    batches : dict of int to list of `_Batch`
        Those that can be done once an image has been read.
    parts : dict of int to `_Part`
        Parts of an image that wait for its pairs with much later ones.
    sky : list of int
        The images whose sky level is wanted.
    """

    order: list
    sources: dict
    batches: dict
    parts: dict
    sky: list

    def before(self, ahead):
        """Return for each image the keys of the tasks that must end before it is read.

        No more than ``ahead`` images are read ahead of those that are measured, however
        the scheduler orders its tasks.
        """
        before, last = {}, []
        for r, k in enumerate(self.order):
            if r >= ahead:
                done = self.order[r - ahead]
                keys = [("pairs", done, n) for n in range(len(self.batches[done]))]
                last = [*keys, *([("part", done)] if done in self.parts else [])] or last
            before[k] = last
        return before


def reading_order(grids, pairs):
    """Return the images in an order in which few have to be in memory at a time.

    Candidates are sweeps over the sky in many directions, and the order of a narrow graph (reverse
    Cuthill-McKee). The one that needs the least memory is taken. A sweep along a mosaic's
    longer side, a little aslant, needs one row of it.

    Parameters
    ----------
    grids : list of `~levelmatch.sky.grid.Grid`
        The images.
    pairs : `~numpy.ndarray` of intp, shape (m, 2)
        Which are compared.

    Returns
    -------
    order : `~numpy.ndarray` of intp, shape (n,)
        The images.
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
    """Pixels of images."""
    return np.array([float(np.prod(grid.shape)) for grid in grids])


def _most_in_memory(order, pairs, size):
    """Pixels in memory at most, if each image is read in turn and let go after its last pair."""
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    last = rank.copy()
    latest = rank[pairs].max(axis=1)
    np.maximum.at(last, pairs.ravel(), np.repeat(latest, 2))
    released = np.bincount(last, weights=size, minlength=len(order))
    return (np.cumsum(size[order]) - np.cumsum(released) + released).max()


def _plan(frames, pairs, depth_maps, options, with_sky):
    """Order the images so that those that overlap are read soon after each other."""
    wanted = np.arange(len(frames)) if with_sky else np.unique(pairs)
    grids = [frame.grid for frame in frames]
    order = reading_order(grids, pairs)
    # The part that others need follows from the WCS, which a catalogue lacks.
    whole = options.method != "direct" or any(isinstance(grid, Footprint) for grid in grids)
    parts = {} if whole else _parts(grids, pairs, order)
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
            return ("part" if i in parts and rank[k] - rank[i] > NEAR else "load"), i

        batches[k] = [
            _batch(group, pairs, depth_maps, place, key, options) for group in _groups(own, work)
        ]
    return _Plan(order, sources, batches, parts, wanted.tolist() if with_sky else [])


def _parts(grids, pairs, order):
    """Return the part of each image that waits for much later ones; none if all fit in memory."""
    size = _sizes(grids)
    if len(pairs) == 0 or _most_in_memory(order, pairs, size) < MIN_PARTED:
        return {}
    rank = np.argsort(order)
    later = {}
    for pair in pairs.tolist():
        early, late = sorted(pair, key=lambda i: rank[i])
        if rank[late] - rank[early] > NEAR:
            later.setdefault(early, []).append(grids[late])
    parts = {}
    for k, others in later.items():
        parts[k] = _Part(needed_box(grids[k], others))
        if len(grids) > MANY:
            grids[k].forget()
    return {k: part for k, part in parts.items() if part.n_pixels < MAX_PART * size[k]}


def _work(frames, pairs):
    """Pixels that each pair compares, about."""
    if len(pairs) == 0:
        return np.zeros(0)
    grids = [frame.grid for frame in frames]
    area = convex_overlap(np.ascontiguousarray([g.polygon for g in grids]), pairs)
    pixel = np.array([g.pixel_area for g in grids])
    return area / np.minimum(pixel[pairs[:, 0]], pixel[pairs[:, 1]])


def _groups(members, work):
    """Parts of a list of pairs that are each about enough work for a task."""
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
    """Carry out a plan by threads of this process; return the sky levels."""
    from dask.callbacks import Callback

    n_workers = n_threads(options)
    before = plan.before(AHEAD * n_workers)
    graph, batches = {}, {}
    for k in plan.order:
        graph["load", k] = (plan.sources[k], *before[k])
        if k in plan.parts:
            graph["part", k] = (plan.parts[k], ("load", k))
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

    # Not for all threads of the process: another run's tasks have the same names.
    callbacks = [*Callback.active, Callback(posttask=posttask)._callback]
    results = _run_threads(graph, [*skies, *batches], n_workers, callbacks)
    watch.finish()
    return dict(zip(skies.values(), results, strict=False))


def n_threads(options):
    """Return the threads of a run: the option, else Dask's configuration, else one per core."""
    import dask.config
    from dask.system import CPU_COUNT

    return options.n_workers or dask.config.get("num_workers", None) or CPU_COUNT


def _run_threads(graph, keys, n_workers, callbacks):
    """Compute keys of a graph by threads of this call.

    Dask's own pool is kept for the next call, and lost to a process that is forked meanwhile.
    """
    from concurrent.futures import ThreadPoolExecutor

    from dask.threaded import get

    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="levelmatch")
    try:
        results = get(graph, keys, pool=pool, callbacks=callbacks)
    except BaseException:
        # An interrupt does not wait for the tasks that are running.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return results


class _Watch:
    """Keeps the rows of pairs as they finish, tells the caller, and advances its progress bar.

    Parameters
    ----------
    n_pairs : int
        How many there are.
    progress_bar, on_rows : callable or None
        See `measure_pairs`.
    """

    def __init__(self, n_pairs, progress_bar, on_rows):
        self.rows, self.fills = {}, {}
        self.on_rows = on_rows
        self.steps = iter(range(n_pairs) if progress_bar is None else progress_bar(range(n_pairs)))

    def done(self, pairs, rows, fills):
        """Note that a task has finished, with the rows of its pairs and the fill values found."""
        self.rows.update(zip(pairs, rows, strict=True))
        self.fills.update(fills)
        if self.on_rows is not None:
            self.on_rows(pairs, rows)
        for _ in pairs:
            next(self.steps, None)

    def finish(self):
        """Let the bar close itself, at the end of its iterable."""
        for _ in self.steps:
            pass
