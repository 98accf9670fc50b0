# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From pairs of images to a handful of numbers each: the only place that reads pixels."""

from dataclasses import dataclass, fields
from logging import getLogger
from numbers import Integral, Real
from uuid import uuid4

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.special import erf

from levelmatch.frames import Frame, MemorySource
from levelmatch.local import source_mask
from levelmatch.overlaps import DepthMap
from levelmatch.sampling import convex_overlap, difference_cells, reached_cells
from levelmatch.sky import MAP_TOLERANCE, Grid, SkyTransform, tangent_axes
from levelmatch.summary import cell_vectors, map_error, summarise_cells

__all__ = ["METHODS", "ROW", "MeasureOptions", "PairTable", "measure_pairs", "pair_table"]

logger = getLogger(__name__)

METHODS = ("direct", "interp", "exact", "adaptive")
LOCATIONS = ("mean", "median")
# Cells with less than this part of their pixels sampled tell too little of their scatter.
MIN_FILLED = 0.02
# How much more of a cell's noise its neighbours share if its pixels are much finer than those
# of the other image, and the least part, along an axis, that it has to itself.
LOST_COARSE = 0.5
MIN_OWN = 0.3
# A task compares about this many pixels; a pair costs as much as some more.
BATCH_PIXELS = 2**20
PAIR_PIXELS = 2**15
# Images read ahead of those measured, for each worker.
AHEAD = 3
# Directions of sweeps over the sky that are tried.
N_SWEEPS = 60
# How often images that a worker lost are sent to the cluster.
N_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How the difference of two images is measured.

    Parameters
    ----------
    method : {"direct", "interp", "exact", "adaptive"}
        ``"direct"`` samples both images at points midway between their pixels;
        the others reproject both to a common grid, by
        `~reproject.reproject_interp`, `~reproject.reproject_exact` or
        `~reproject.reproject_adaptive`.
    location : {"mean", "median"}
        The centre of the clipped differences in each cell.
    clip : float
        Differences farther than this many sigma from their cell's centre are left out.
    structure : bool
        Weigh each cell by its own scatter, so that stars and steep structure count for
        less; else by that of all. Symmetric sampling leaves little for it to mend: on
        simulated MIRI and NIRCam sets and on 2MASS tiles it measures no better.
    mask_sources : bool
        Leave out the sources of each image, found by ``photutils.segmentation``, and with
        them what the other image of a pair has there.
    n_workers : int or None
        Threads; `None` for as many as Dask takes. A current
        `dask.distributed.Client` goes before this.
    """

    method: str = "direct"
    location: str = "mean"
    clip: float = 3.0
    structure: bool = False
    mask_sources: bool = False
    n_workers: int | None = None

    def __post_init__(self):
        if self.method not in METHODS:
            msg = f"method: {self.method!r} is none of {METHODS}"
            raise ValueError(msg)
        if self.location not in LOCATIONS:
            msg = f"location: {self.location!r} is none of {LOCATIONS}"
            raise ValueError(msg)
        if not (isinstance(self.clip, Real) and np.isfinite(self.clip) and self.clip > 0):
            msg = f"clip: {self.clip!r} is not a positive number"
            raise ValueError(msg)
        if self.n_workers is not None and not (
            isinstance(self.n_workers, Integral) and self.n_workers >= 1
        ):
            msg = f"n_workers: {self.n_workers!r} is not a positive whole number"
            raise ValueError(msg)

    @property
    def truncation(self):
        """Scatter of a normal variable over its scatter once clipped."""
        density = np.sqrt(2 / np.pi) * np.exp(-0.5 * self.clip**2)
        return 1 / np.sqrt(1 - self.clip * density / erf(self.clip / np.sqrt(2)))


@dataclass(frozen=True, eq=False)
class PairTable:
    """What was measured of each pair; ``n`` pairs, in ascending order of their images.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of intp, shape (n,)
        Indices of the two images; differences are first minus second.
    gram : `~numpy.ndarray`, shape (n, 3, 3)
        Normal matrix of the plane (1, u, v) about the pair's centre, in 1 / unit**2.
    rhs : `~numpy.ndarray`, shape (n, 3)
        Right-hand side of the normal equations, in 1 / unit.
    axes : `~numpy.ndarray`, shape (n, 3, 3)
        Centre, East and North of the pair.
    sigma : `~numpy.ndarray`, shape (n,)
        Standard error of the pair's level by itself.
    scatter : `~numpy.ndarray`, shape (n,)
        Scatter of the differences about their plane.
    chi2 : `~numpy.ndarray`, shape (n,)
        Variance of the cells about the plane over that expected of their pixels' noise.
    npix : `~numpy.ndarray` of int, shape (n,)
        Differences kept.
    extent : `~numpy.ndarray`, shape (n, 2)
        Longest side of the overlap over that of the first and the second image.
    gain, gain_error : `~numpy.ndarray`, shape (n,)
        Relative difference of the flux scales, first less second, and its
        standard error; NaN and infinity where nothing tells.
    multiplicity : `~numpy.ndarray`, shape (n,)
        For how many pairs it counts in a solution: more than 1 where others of its images
        are not measured. All other columns are the pair's own.
    """

    first: np.ndarray
    second: np.ndarray
    gram: np.ndarray
    rhs: np.ndarray
    axes: np.ndarray
    sigma: np.ndarray
    scatter: np.ndarray
    chi2: np.ndarray
    npix: np.ndarray
    extent: np.ndarray
    gain: np.ndarray
    gain_error: np.ndarray
    multiplicity: np.ndarray

    def __len__(self):
        return len(self.first)

    @property
    def level(self):
        """Level of each difference, shape (n,); NaN where nothing was measured."""
        weight = np.where(self.npix > 0, self.gram[:, 0, 0], np.nan)
        return self.rhs[:, 0] / weight

    def take(self, rows):
        """Return the table of some of the pairs."""
        return PairTable(*(getattr(self, f.name)[rows] for f in fields(self)))


# The columns of a pair that are measured, and the shape of one value of each.
ROW = {
    "gram": (3, 3),
    "rhs": (3,),
    "axes": (3, 3),
    "sigma": (),
    "scatter": (),
    "chi2": (),
    "npix": (),
    "extent": (2,),
    "gain": (),
    "gain_error": (),
}


@dataclass(frozen=True)
class _Cells:
    """The measured cells of one pair."""

    location: np.ndarray
    brightness: np.ndarray
    star_diff: np.ndarray
    star_flux: np.ndarray
    variance: np.ndarray
    scatter: np.ndarray
    npix: np.ndarray
    vectors: np.ndarray
    grid: object
    index: np.ndarray
    extent: tuple
    # What a median adds to the variance, of that of a mean; it is not shared between pairs.
    excess: np.ndarray
    # Pixel scale of the coarser image over that of the finer, squared, and the part of
    # its noise in a cell's variance that the cell has to itself.
    coarseness: float
    own_part: float


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
    """Measure every pair, each image read once and let go after its last pair.

    Parameters
    ----------
    frames : list of `~levelmatch.frames.Frame`
        The images, in an order that does not depend on the input's.
    pairs : `~numpy.ndarray` of intp, shape (n, 2)
        Which of them to compare.
    depth_maps : list of tuple of `~levelmatch.overlaps.DepthMap`, length n
        For each pair those of its two images: how many images share their pixels' noise.
    options : `MeasureOptions`
        How.
    with_sky : bool
        Also measure each image's clipped sky level.
    progress_bar : callable or None
        Wraps an iterable over the pairs, as `tqdm.tqdm` does.
    on_rows : callable or None
        Called as pairs finish, with their indices into ``pairs`` and the list of
        their rows, see `measure_pair`: always in the thread that called this function.

    Returns
    -------
    table : `PairTable`
        The pairs in the given order; those without a common good pixel have ``npix`` 0.
    sky : `~numpy.ndarray`, shape (n_images,), or None
        Sky levels, if asked for.
    """
    plan = _plan(frames, pairs, depth_maps, options, with_sky)
    watch = _Watch(len(pairs), progress_bar, on_rows)
    client = _client()
    if client is None:
        sky = _compute(plan, options, watch)
    else:
        sky = _compute_distributed(client, plan, watch)
    table = pair_table(pairs, [watch.rows[p] for p in range(len(pairs))])
    return table, np.array([sky[k] for k in range(len(frames))]) if with_sky else None


@dataclass(frozen=True, eq=False)
class _Source:
    """How a task gets an image: opaque to Dask, and small where it is sent to a worker."""

    frame: object
    maps: tuple
    options: MeasureOptions

    def __call__(self, *_):
        """Read the image, its sources masked if asked for."""
        data = self.frame.load()
        if self.options.mask_sources:
            data[source_mask(data)] = np.nan
        return _Image(data, self.frame.grid, self.maps)

    @property
    def in_memory(self):
        """Whether the pixels come with it."""
        return isinstance(getattr(self.frame, "source", None), MemorySource)

    def __getstate__(self):
        frame = self.frame
        if isinstance(frame, Frame):
            frame = frame.for_workers()
        return {"frame": frame, "maps": self.maps, "options": self.options}

    def __setstate__(self, state):
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False)
class _Image:
    """An image in memory: its pixels, where they lie, and how many images cover them."""

    pixels: np.ndarray
    grid: Grid
    maps: tuple


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pairs that one task measures.

    Parameters
    ----------
    pairs : list of int
        Which.
    images : list of int
        The images that it takes.
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
        """Return the rows of the pairs, given the images and whatever had to come before."""
        return [
            _measure(
                images[a].pixels,
                images[b].pixels,
                images[a].grid,
                images[b].grid,
                (images[a].maps[m], images[b].maps[n]),
                self.options,
            )
            for a, b, m, n in self.members
        ]


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is to be done, in an order that keeps few images in memory.

    Parameters
    ----------
    order : list of int
        The images, in the order in which they are read.
    sources : dict of int to `_Source`
        How.
    batches : dict of int to list of `_Batch`
        Those that can be done once an image has been read.
    sky : list of int
        The images whose sky level is wanted.
    """

    order: list
    sources: dict
    batches: dict
    sky: list


def reading_order(grids, pairs):
    """Return the images in an order in which few have to be in memory at a time.

    Of sweeps over the sky in many directions and of the order of a narrow graph (reverse
    Cuthill-McKee), that which needs the least memory. A sweep along a mosaic's longer
    side, a little aslant, needs one row of it.

    Parameters
    ----------
    grids : list of `~levelmatch.sky.Grid`
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
    size = np.array([float(np.prod(grid.shape)) for grid in grids])
    return min(candidates, key=lambda order: _most_in_memory(order, pairs, size))


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
    order = reading_order([frame.grid for frame in frames], pairs)
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
        batches[k] = [
            _batch(group, pairs, depth_maps, place, options) for group in _groups(own, work)
        ]
    return _Plan(order, sources, batches, wanted.tolist() if with_sky else [])


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


def _batch(group, pairs, depth_maps, place, options):
    images = list(dict.fromkeys(pairs[group].ravel().tolist()))
    members = [
        (
            images.index(i),
            images.index(j),
            place[i][id(depth_maps[p][0])],
            place[j][id(depth_maps[p][1])],
        )
        for p in group
        for i, j in [pairs[p].tolist()]
    ]
    return _Batch(group, images, members, options)


def _before(plan, ahead):
    """For each image the batches, by image and number, that must be done before it is read.

    They hold the reading back, so that however the scheduler orders its tasks no more
    than some images are read ahead of those that are measured.
    """
    before, last = {}, []
    for r, k in enumerate(plan.order):
        if r >= ahead:
            done = plan.order[r - ahead]
            last = [(done, n) for n in range(len(plan.batches[done]))] or last
        before[k] = last
    return before


def _sky_level(image):
    """Sigma-clipped median of the good pixels; of at most about a million."""
    from astropy.stats import sigma_clipped_stats

    data = image.pixels
    step = max(1, int(np.sqrt(data.size / 1e6)))
    good = data[::step, ::step]
    good = good[np.isfinite(good)]
    return sigma_clipped_stats(good, sigma=3.0)[1] if good.size else 0.0


def _compute(plan, options, watch):
    """Carry out a plan by threads of this process; return the sky levels."""
    from dask.callbacks import Callback
    from dask.system import CPU_COUNT
    from dask.threaded import get

    before = _before(plan, AHEAD * (options.n_workers or CPU_COUNT))
    graph, batches = {}, {}
    for k in plan.order:
        graph["load", k] = (plan.sources[k], *(("pairs", *b) for b in before[k]))
        for n, batch in enumerate(plan.batches[k]):
            batches["pairs", k, n] = batch
            graph["pairs", k, n] = (batch, *(("load", i) for i in batch.images))
    skies = {("sky", k): k for k in plan.sky}
    graph.update({key: (_sky_level, ("load", k)) for key, k in skies.items()})

    def posttask(key, result, dsk, state, worker_id):
        if key in batches:
            watch.done(batches[key].pairs, result)

    with Callback(posttask=posttask):
        results = get(graph, [*skies, *batches], num_workers=options.n_workers)
    watch.finish()
    return dict(zip(skies.values(), results, strict=False))


def _client():
    """The current distributed client, if the user has one."""
    import sys

    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        client = default_client()
    except ValueError:
        return None
    # A closed one remains the current one for as long as its block lasts.
    return client if client.status == "running" else None


def _compute_distributed(client, plan, watch):
    """Carry out a plan on a cluster; results come in as they are ready.

    What was sent to a worker from memory is lost with that worker; all else the
    scheduler does again by itself.
    """
    from concurrent.futures import CancelledError

    sky = {}
    for attempt in range(N_ATTEMPTS):
        try:
            _run_distributed(client, plan, watch, sky)
            break
        except CancelledError:
            if attempt == N_ATTEMPTS - 1:
                raise
            logger.warning("images in the memory of a worker were lost with it: sent again")
    watch.finish()
    return sky


def _run_distributed(client, plan, watch, sky):
    """Submit what is not yet done, and take the results; ``sky`` is filled in."""
    from distributed import as_completed

    # Keys of this run alone: a cluster may hold those of others.
    run = uuid4().hex
    before = _before(plan, AHEAD * max(sum(client.nthreads().values()), 1))
    loads, batches, wanted = {}, {}, {}

    def submit(name, *args):
        return client.submit(*args, key=f"levelmatch-{name}-{run}", pure=False)

    for k in plan.order:
        source = plan.sources[k]
        if source.in_memory:
            source = client.scatter(source, hash=False)
        waited = [batches[b] for b in before[k] if b in batches]
        loads[k] = submit(f"load-{k}", _call, source, *waited)
        for n, batch in enumerate(plan.batches[k]):
            if batch.pairs[0] not in watch.rows:
                future = submit(f"pairs-{k}-{n}", _call, batch, *(loads[i] for i in batch.images))
                batches[k, n] = future
                wanted[future] = batch
        if k in plan.sky and k not in sky:
            wanted[submit(f"sky-{k}", _sky_level, loads[k])] = k
    # The cluster lets go of an image that nobody here asks for.
    del loads, batches
    for future, result in as_completed(list(wanted), with_results=True):
        what = wanted.pop(future)
        if isinstance(what, _Batch):
            watch.done(what.pairs, result)
        else:
            sky[what] = result


def _call(function, *args):
    return function(*args)


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
        self.rows = {}
        self.on_rows = on_rows
        self.steps = iter(range(n_pairs) if progress_bar is None else progress_bar(range(n_pairs)))

    def done(self, pairs, rows):
        """Note that a task has finished, with the rows of its pairs."""
        self.rows.update(zip(pairs, rows, strict=True))
        if self.on_rows is not None:
            self.on_rows(pairs, rows)
        for _ in pairs:
            next(self.steps, None)

    def finish(self):
        """Let the bar close itself, at the end of what it wraps."""
        for _ in self.steps:
            pass


def pair_table(pairs, rows):
    """Return the `PairTable` of pairs, shape (n, 2), and their rows, see `measure_pair`."""
    columns = {key: np.array([row[key] for row in rows]) for key in ROW} if rows else {}
    n = len(rows)
    return PairTable(
        first=pairs[:, 0],
        second=pairs[:, 1],
        multiplicity=np.ones(n),
        **{name: columns.get(name, np.zeros(0)).reshape(n, *shape) for name, shape in ROW.items()},
    )


def measure_pair(a, b, grid_a, grid_b, others, options):
    """Measure the difference of two images.

    Parameters
    ----------
    a, b : 2D `~numpy.ndarray`
        The images, NaN where bad.
    grid_a, grid_b : `~levelmatch.sky.Grid`
        Where they lie.
    others : list of `~levelmatch.sky.Grid`
        The other images that share their noise.
    options : `MeasureOptions`
        How.

    Returns
    -------
    row : dict
        The columns of `PairTable` that `ROW` names.
    """
    maps = DepthMap(grid_a, [grid_b, *others]), DepthMap(grid_b, [grid_a, *others])
    return _measure(a, b, grid_a, grid_b, maps, options)


def _measure(a, b, grid_a, grid_b, depth_maps, options):
    """`measure_pair`, with the depth maps of the two images."""
    if options.method == "direct":
        cells = _direct_cells(a, b, grid_a, grid_b, options)
    else:
        cells = _reprojected_cells(a, b, grid_a, grid_b, options)
    if cells is None:
        return _empty_row()
    own = depth_maps[1] if cells.grid is grid_b else depth_maps[0]
    return summarise(cells, np.maximum(own.at(cells.grid, cells.index, cells.vectors), 2))


def _empty_row():
    return {
        "gram": np.zeros((3, 3)),
        "rhs": np.zeros(3),
        "axes": np.full((3, 3), np.nan),
        "sigma": np.nan,
        "scatter": np.nan,
        "chi2": np.nan,
        "npix": 0,
        "extent": np.zeros(2),
        "gain": np.nan,
        "gain_error": np.inf,
    }


def _direct_cells(a, b, grid_a, grid_b, options):
    """Cells of the finer image, mapped straight into the coarser one; `None` if none."""
    swap = grid_a.pixel_area > grid_b.pixel_area * (1 + 1e-6)
    if swap:
        a, b, grid_a, grid_b = b, a, grid_b, grid_a
    grid, map_x, map_y, cells = _map_cells(grid_a, grid_b)
    if len(cells) == 0:
        return None
    measured = _kernel(a, b, grid, map_x, map_y, cells, options)
    if measured is None:
        return None
    keep, values = measured
    cells = cells[keep]
    vectors = _vectors(grid, cells, values)
    scale = np.sqrt(grid_a.pixel_area / grid_b.pixel_area)
    side = max(
        np.ptp(values[:, 4]) + grid.cell[0],
        np.ptp(values[:, 3]) + grid.cell[1],
    )
    extent = (min(side / grid_a.side, 1.0), min(side * scale / grid_b.side, 1.0))
    return _as_cells(values, vectors, grid, cells, extent, swap, options, scale)


def _as_cells(values, vectors, grid, index, extent, swap, options, scale):
    location, scatter, bright, _, _, smooth, kept, _, star_diff, star_flux = values.T
    # The noise of a mean is that of the pixels, whatever the smoothing of the samples.
    excess = 0 * smooth if options.location == "mean" else (np.pi / 2 - 1) * smooth
    scatter = scatter / np.sqrt(smooth)
    typical = np.median(scatter)
    # Images that are copies of each other differ by nothing; float32 tells no less than this.
    rounding = 1e-7 * np.abs(bright).max()
    # A cell of a few equal values must not take all of the weight.
    floor = np.maximum(
        scatter if options.structure else typical, max(0.25 * typical, rounding, 1e-30)
    )
    sign = -1 if swap else 1
    return _Cells(
        location=sign * location,
        brightness=bright,
        star_diff=sign * star_diff,
        star_flux=star_flux,
        variance=(1 + excess) * floor**2 / kept,
        scatter=scatter,
        npix=kept.astype(int),
        vectors=vectors,
        grid=grid,
        index=index,
        extent=extent[::-1] if swap else extent,
        excess=excess,
        coarseness=1 / scale**2,
        own_part=_own_part(grid, scale, np.median(smooth)),
    )


def _own_part(grid, scale, smooth):
    """Part of the coarser image's noise in a cell's variance that no other cell shares.

    Samples to both sides of a cell's border use the same pixels of the coarser image, by
    interpolation and as the border runs through pixels: along an axis that takes from the cell the
    part ``lost / width`` of the variance that it has in the mean of many cells.
    """
    lost = (1 - np.sqrt(smooth)) * (1 + LOST_COARSE * min(1 / scale - 1, 1.0))
    height, width = (side * scale for side in grid.cell)
    return float(max(1 - lost / height, MIN_OWN) * max(1 - lost / width, MIN_OWN))


def _map_cells(grid_a, grid_b):
    """Pixel coordinates in the second image of the first's nodes, and the cells that reach it.

    The grid is refined until bilinear interpolation in it is exact to
    `~levelmatch.sky.MAP_TOLERANCE` pixel.
    """
    grid = grid_a
    while True:
        margin = 1.5 * grid.spacing * np.sqrt(grid.pixel_area / grid_b.pixel_area)
        x, y = grid_b.to_pixel(grid.nodes, margin)
        cells = reached_cells(x, y, *grid_b.box)
        if len(cells) == 0 or grid.spacing <= 4:
            break
        error = _map_error(grid, grid_b, x, y, cells)
        if error < 2 * MAP_TOLERANCE:
            break
        logger.debug("map error %.3f pixel at spacing %d: refined", error, grid.spacing)
        grid = grid.refined
    return grid, x, y, cells


def _map_error(grid, grid_b, x, y, cells):
    """Largest error, in pixels, of bilinear interpolation at the cells' middles in the box."""
    exact = grid_b.to_pixel(grid.middles[cells[:, 0], cells[:, 1]])
    return map_error(x, y, cells, *exact)


def _kernel(a, b, grid, map_x, map_y, cells, options):
    """Run the kernel, return which cells were filled enough and their values."""
    if a.dtype != b.dtype:
        a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    values = difference_cells(
        a,
        b,
        grid.ys,
        grid.xs,
        map_x,
        map_y,
        cells,
        options.clip,
        options.truncation,
        options.location == "median",
    )
    size = grid.cell[0] * grid.cell[1]
    keep = values[:, 6] >= max(2, MIN_FILLED * size)
    return (keep, values[keep]) if keep.any() else None


def _vectors(grid, cells, values):
    """Unit vectors of the cells' centroids."""
    y, x = np.ascontiguousarray(values[:, 4]), np.ascontiguousarray(values[:, 3])
    return cell_vectors(grid.nodes, grid.ys, grid.xs, cells, y, x)


def _reprojected_cells(a, b, grid_a, grid_b, options):
    """Cells of a common grid that both images are reprojected to; `None` if none."""
    from levelmatch.stack import common_grid, reproject_to

    common = common_grid([grid_a, grid_b], overlap=True)
    if common is None:
        return None
    header_wcs, shape = common
    planes = [
        np.ascontiguousarray(reproject_to(image, grid, header_wcs, shape, options.method))
        for image, grid in ((a, grid_a), (b, grid_b))
    ]
    spacing = grid_a.spacing
    grid = Grid(SkyTransform(header_wcs, "common grid"), shape, (0, shape[0], 0, shape[1]), spacing)
    map_x, map_y = (m.astype(float) for m in np.meshgrid(grid.xs, grid.ys))
    cells = np.ascontiguousarray(
        np.argwhere(np.ones((len(grid.ys) - 1, len(grid.xs) - 1), dtype=bool))
    )
    measured = _kernel(*planes, grid, map_x, map_y, cells, options)
    if measured is None:
        return None
    keep, values = measured
    cells = cells[keep]
    vectors = _vectors(grid, cells, values)
    side = max(np.ptp(values[:, 4]) + spacing, np.ptp(values[:, 3]) + spacing)
    extent = tuple(
        min(side * np.sqrt(grid.pixel_area / g.pixel_area) / g.side, 1.0) for g in (grid_a, grid_b)
    )
    return _as_cells(values, vectors, grid, cells, extent, False, options, 1.0)


def summarise(cells, depth):
    """Return the row of a pair: its normal equations, from cells that agree on a plane.

    Parameters
    ----------
    cells : `_Cells`
        The cells.
    depth : `~numpy.ndarray`, shape (n,)
        Number of images that cover each cell.

    Returns
    -------
    row : dict
        See `measure_pair`.

    Notes
    -----
    Each cell's weight is the inverse variance of its location, times 2 / depth:
    the information of all pairs of n images of one patch of sky then adds up
    to that of the joint fit of sky and levels, identity - 1/n. What a median adds to the
    variance is not shared between pairs, and so goes down as they are averaged.
    """
    columns = (
        cells.vectors,
        cells.location,
        cells.brightness,
        cells.variance,
        cells.scatter,
        cells.npix,
        depth,
        cells.star_diff,
        cells.star_flux,
        cells.excess,
    )
    numbers = summarise_cells(
        *(np.ascontiguousarray(column, dtype=float) for column in columns),
        np.ascontiguousarray(cells.index, dtype=np.intp),
        cells.coarseness,
        cells.own_part,
    )
    return {
        "gram": numbers[:9].reshape(3, 3),
        "rhs": numbers[9:12],
        "axes": numbers[12:21].reshape(3, 3),
        "sigma": numbers[21],
        "scatter": numbers[22],
        "chi2": numbers[23],
        "npix": int(numbers[24]),
        "extent": np.array(cells.extent),
        "gain": numbers[25],
        "gain_error": numbers[26],
    }
