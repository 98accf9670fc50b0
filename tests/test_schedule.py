# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the measurement of many pairs: the paths of Dask, and images in memory."""

import multiprocessing
import sys
import time
import warnings
import weakref
from dataclasses import fields
from threading import get_ident
from types import ModuleType, SimpleNamespace

import dask.threaded
import numpy as np
import pytest
from dask.callbacks import Callback
from numpy.testing import assert_allclose, assert_array_equal

from levelmatch import match_levels
from levelmatch.measure import schedule
from levelmatch.measure.schedule import measure_pairs, reading_order
from levelmatch.measure.table import PairTable
from levelmatch.options import MeasureOptions
from levelmatch.sky.grid import Grid, default_spacing
from levelmatch.sky.overlaps import DepthMap
from levelmatch.sky.transform import SkyTransform


def grid_of(wcs, shape):
    box = (0, shape[0], 0, shape[1])
    return Grid(SkyTransform(wcs, "test"), shape, box, default_spacing(box))


class Painted(SimpleNamespace):
    """Stand-in of a frame for the measurement."""

    source = None

    def read(self):
        return self.load(), ()

    def opened(self):
        return self


@pytest.fixture
def frames(paint):
    """Return five images in a row."""
    out = []
    for k in range(5):
        image = paint(f"{k}.fits", (0.3 * k, 20.4 * k), level=k, shape=(40, 48))
        out.append(Painted(grid=grid_of(image.wcs, (40, 48)), load=image.data.copy))
    return out


PAIRS = np.array([(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)])


def measured(frames, pairs=PAIRS, options=None, **keywords):
    """Return the table of some pairs, whose noise is shared with no other image."""
    maps = [
        tuple(DepthMap(frames[k].grid, [frames[m].grid]) for k, m in ((i, j), (j, i)))
        for i, j in pairs
    ]
    options = options or MeasureOptions(n_workers=1)
    return measure_pairs(frames, pairs, maps, options, **keywords)[0]


def as_arrays(table):
    return [getattr(table, f.name) for f in fields(PairTable)]


def test_any_number_of_workers_gives_the_same(frames, monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    one, two, any_number = (
        measured(frames, options=MeasureOptions(n_workers=n)) for n in (1, 2, None)
    )
    for x, y, z in zip(*map(as_arrays, (one, two, any_number)), strict=True):
        assert_array_equal(x, y)
        assert_array_equal(x, z)
    assert_allclose(one.level, PAIRS[:, 0] - PAIRS[:, 1], atol=0.01)
    assert_array_equal(np.stack([one.first, one.second], axis=1), PAIRS)


def fake_distributed(monkeypatch, client):
    module = ModuleType("distributed")

    def default_client():
        if client is None:
            msg = "No clients found"
            raise ValueError(msg)
        return client

    module.default_client = default_client
    module.as_completed = lambda futures, **_: ((f, f.result) for f in futures)
    monkeypatch.setitem(sys.modules, "distributed", module)


def test_without_a_client_threads_are_used(frames, monkeypatch):
    fake_distributed(monkeypatch, None)
    table = measured(frames)
    assert (table.npix > 0).all()


def test_a_client_goes_before_threads(frames, monkeypatch):
    asked = []

    def submit(function, *args, key, pure):
        assert not pure
        asked.append(key)
        values = [a.result if isinstance(a, Future) else a for a in args]
        return Future(function(*values))

    client = SimpleNamespace(submit=submit, nthreads=lambda: {"w": 1}, status="running")
    fake_distributed(monkeypatch, client)
    table = measured(frames)
    assert len(asked) == len(set(asked)) >= len(frames) + 1
    assert (table.npix > 0).all()


class Future:
    """Result of a fake cluster, computed immediately."""

    def __init__(self, result):
        self.result = result


def test_each_image_is_read_once(frames, monkeypatch):
    read = []
    for k, frame in enumerate(frames):
        frame.load = lambda k=k, load=frame.load: read.append(k) or load()
    measured(frames, options=MeasureOptions(n_workers=2))
    assert sorted(read) == list(range(5))


def test_progress_bar_takes_a_step_a_pair(frames, monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    steps = []

    def bar(iterable):
        assert len(iterable) == len(PAIRS)
        for step in iterable:
            yield step
            # Reached when the next step is requested, or at the end.
            steps.append(step)
        steps.append("closed")

    measured(frames, options=MeasureOptions(n_workers=2), progress_bar=bar)
    assert steps == [*range(len(PAIRS)), "closed"]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_rows_are_handed_over_as_pairs_finish(frames, monkeypatch, n_workers):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    rows, threads = {}, set()

    def on_rows(indices, found):
        threads.add(get_ident())
        rows.update(zip(indices, found, strict=True))

    table = measured(frames, options=MeasureOptions(n_workers=n_workers), on_rows=on_rows)
    assert sorted(rows) == list(range(len(PAIRS)))
    assert_array_equal([rows[p]["rhs"] for p in range(len(PAIRS))], table.rhs)
    assert threads == {get_ident()}


def test_an_error_of_an_image_is_raised(frames, monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)

    def load():
        msg = "no such file"
        raise OSError(msg)

    frames[2].load = load
    with pytest.raises(OSError, match="no such file"):
        measured(frames, progress_bar=iter)


def test_no_pairs():
    table = measured([], np.zeros((0, 2), np.intp))
    assert len(table) == 0
    assert table.level.shape == (0,)
    assert table.gram.shape == (0, 3, 3)


def test_sky_levels(frames):
    maps = [tuple(DepthMap(frames[k].grid, []) for k in pair) for pair in PAIRS]
    frames[1].load = lambda: np.full((40, 48), np.nan)
    _, sky, _ = measure_pairs(frames, PAIRS, maps, MeasureOptions(), with_sky=True)
    assert sky.shape == (5,)
    # Median clipping keeps the plane of the sky; an image without good pixels has no level.
    assert_allclose(sky[[0, 2, 3, 4]], [np.median(frames[k].load()) for k in (0, 2, 3, 4)])
    assert sky[1] == 0


def test_taking_rows(frames):
    table = measured(frames)
    some = table.take(np.array([4, 1]))
    assert_array_equal(some.first, [2, 0])
    assert_array_equal(some.level, table.level[[4, 1]])
    assert len(some) == 2


@pytest.fixture
def mosaic(paint):
    """Return a mosaic of 8 x 3 small images, and the pairs of neighbours."""
    out, places = [], [(y, x) for y in range(8) for x in range(3)]
    for y, x in places:
        image = paint(f"{y}{x}.fits", (20.3 * y, 24.4 * x), shape=(24, 28))
        out.append(Painted(grid=grid_of(image.wcs, (24, 28)), load=image.data.copy))
    pairs = [
        (i, j)
        for i, (y, x) in enumerate(places)
        for j, (v, w) in enumerate(places)
        if i < j and max(abs(y - v), abs(x - w)) == 1
    ]
    return out, np.array(pairs)


def most_in_memory(order, pairs):
    """Return the largest number of images in memory, if pairs are measured in turn."""
    order, most = list(order), 0
    for k in range(len(order)):
        seen, rest = set(order[: k + 1]), set(order[k + 1 :])
        needed = {i for i in seen if any(i in p and (set(p) & rest) for p in pairs.tolist())}
        most = max(most, len(needed | set(order[k : k + 1])))
    return most


def test_images_are_read_in_a_sweep(mosaic):
    frames, pairs = mosaic
    grids = [frame.grid for frame in frames]
    order = reading_order(grids, pairs)
    assert sorted(order) == list(range(24))
    # A row of three images and the next image.
    assert most_in_memory(order, pairs) <= 5
    shuffled = np.random.default_rng(0).permutation(24)
    rank = np.argsort(shuffled)
    again = reading_order([grids[k] for k in shuffled], rank[pairs])
    assert most_in_memory(shuffled[again], pairs) <= 5
    assert len(reading_order([], np.zeros((0, 2), np.intp))) == 0


def test_few_images_are_in_memory(mosaic, monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    frames, pairs = mosaic
    read, most = [], []

    class Image(np.ndarray):
        pass

    for frame in frames:

        def load(load=frame.load):
            image = load().view(Image)
            read.append(weakref.ref(image))
            most.append(sum(reference() is not None for reference in read))
            return image

        frame.load = load
    measured(frames, pairs, MeasureOptions(n_workers=1))
    assert len(most) == 24
    assert max(most) <= 5 + schedule.AHEAD + 1


@pytest.mark.parametrize("n_workers", [1, 2])
def test_parts_are_kept_in_place_of_images(mosaic, monkeypatch, n_workers):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    frames, pairs = mosaic
    options = MeasureOptions(n_workers=n_workers)
    expected = measured(frames, pairs, options)
    monkeypatch.setattr(schedule, "MIN_CUT", 0)
    monkeypatch.setattr(schedule, "MAX_CUT", 1.0)
    monkeypatch.setattr(schedule, "NEAR", 1)
    # Grids without nodes, as for very many images.
    monkeypatch.setattr(schedule, "MANY", 0)
    cut = []
    original = schedule.Image.cut
    monkeypatch.setattr(
        schedule.Image, "cut", lambda self, box: cut.append(box) or original(self, box)
    )
    found = measured(frames, pairs, options)
    assert len(cut) > 10
    assert all((y1 - y0) * (x1 - x0) < 24 * 28 for y0, y1, x0, x1 in cut)
    for one, two in zip(as_arrays(found), as_arrays(expected), strict=True):
        assert_array_equal(one, two)
    assert not any({"nodes", "middles"} & vars(frame.grid).keys() for frame in frames)


def test_runs_in_two_threads_do_not_meet(frames, monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    seen = []
    original = dask.threaded.get

    def get(*args, **keywords):
        seen.append(set(Callback.active))
        return original(*args, **keywords)

    monkeypatch.setattr(dask.threaded, "get", get)
    measured(frames)
    # A function registered for the process serves the tasks of all threads.
    assert seen == [set()]
    keys = []
    with Callback(posttask=lambda key, *_: keys.append(key)):
        measured(frames)
    assert ("load", 0) in keys


def test_batches_hold_every_pair_once(mosaic, monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    frames, pairs = mosaic
    handed = []
    options = MeasureOptions(n_workers=2)
    whole = measured(frames, pairs, options, on_rows=lambda p, rows: handed.append(list(p)))
    assert sorted(sum(handed, [])) == list(range(len(pairs)))
    assert len(handed) < len(pairs)
    monkeypatch.setattr(schedule, "BATCH_PIXELS", 1)
    handed.clear()
    single = measured(frames, pairs, options, on_rows=lambda p, rows: handed.append(list(p)))
    assert len(handed) == len(pairs)
    for one, two in zip(as_arrays(whole), as_arrays(single), strict=True):
        assert_array_equal(one, two)


def test_a_forked_process_matches_after_its_parent(row, monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)
    images = row[1]
    expected = match_levels(images).table["level"].value
    with warnings.catch_warnings():
        # New versions of Python warn of forks in processes with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.apply_async(_levels, (images,)).get(timeout=60)
    # The copies have their own WCS.
    assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def _levels(images):
    return match_levels(images).table["level"].value


def test_an_interrupt_does_not_wait_for_the_tasks(frames, monkeypatch):
    monkeypatch.delitem(sys.modules, "distributed", raising=False)

    def slow(*arguments):
        time.sleep(1.5)
        return original(*arguments)

    def interrupted(pairs, rows):
        raise KeyboardInterrupt

    original = schedule._measure_batch
    monkeypatch.setattr(schedule, "_measure_batch", slow)
    monkeypatch.setattr(schedule, "BATCH_PIXELS", 1)
    options = MeasureOptions(n_workers=2)
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        measured(frames, PAIRS, options, on_rows=interrupted)
    assert time.perf_counter() - start < 2.5
