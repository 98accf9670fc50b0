# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that a cluster of worker processes gives the same results as threads, bit by bit."""

import asyncio
import os
import shutil
import signal
from dataclasses import fields
from functools import partial

import dask
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch
from levelmatch import cluster
from levelmatch.images import inputs
from levelmatch.images.sources import FileSource
from levelmatch.measure.table import PairTable
from levelmatch.results import files
from levelmatch.testing import simulate_miri

distributed = pytest.importorskip(
    "distributed", reason="the extra 'distributed' is not installed: no cluster to test"
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Return eight small exposures of two tiles."""
    simulation = simulate_miri(tiles=(2, 1), n_dithers=4, shape=(128, 136), seed=3)
    return simulation.write(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def expected(paths):
    return levelmatch.match_levels(paths, progress_bar=None)


@pytest.fixture
def client():
    """Return a client of two worker processes with one thread each."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def check_same(found, expected):
    for field in fields(PairTable):
        one, two = (getattr(result.measured, field.name) for result in (found, expected))
        assert_array_equal(one, two, err_msg=field.name)
    assert_array_equal(found.table["level"], expected.table["level"])
    assert_array_equal(found.table["error"], expected.table["error"])


def test_a_cluster_gives_the_same(client, paths, expected):
    steps = []

    def bar(iterable):
        for step in iterable:
            steps.append(step)
            yield step

    found = levelmatch.match_levels(paths, progress_bar=bar)
    check_same(found, expected)
    assert steps == list(range(len(expected.pairs)))
    images = [CCDData.read(path, hdu="SCI", hdu_mask="DQ", unit="MJy/sr") for path in paths[:4]]
    in_memory = levelmatch.match_levels(images)
    client.close()
    check_same(in_memory, levelmatch.match_levels(images))


def test_a_killed_worker_changes_nothing(client, paths, expected):
    pids = list(client.run(os.getpid).values())
    killed = []

    def bar(iterable):
        for step in iterable:
            if step == 1:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
            yield step

    found = levelmatch.match_levels(paths, progress_bar=bar)
    assert killed == pids[:1]
    check_same(found, expected)


def test_fill_values_are_noted_by_workers(client, paint, tmp_path):
    images = []
    for k in range(3):
        image = paint(f"{k}.fits", (0, 20.5 * k), level=float(k))
        image.data[:20, :25] = -999
        images.append(image)
    match = partial(levelmatch.match_mosaic, images, group_by="FILENAME")
    with pytest.warns(levelmatch.LevelMatchWarning, match=r"0\.fits \(-999 in .*2\.fits \(-999"):
        found = match()
    assert_allclose(found.table["level"].value, [-1, 0, 1], atol=0.01)


def _levels(paths):
    return levelmatch.match_levels(paths).table["level"].value


def test_a_task_on_the_only_thread_of_a_cluster_matches(paths, expected):
    local = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with distributed.Client(**local, dashboard_address=":0") as client:
        found = client.submit(_levels, paths, pure=False).result(timeout=60)
        here = _levels(paths)
    assert_array_equal(found, expected.table["level"].value)
    assert_array_equal(here, expected.table["level"].value)


def test_an_asynchronous_client_is_refused(paths):
    async def match():
        async with distributed.Client(
            asynchronous=True, processes=False, n_workers=1, dashboard_address=":0"
        ):
            with pytest.raises(levelmatch.LevelMatchError, match="asynchronous"):
                levelmatch.match_levels(paths)

    asyncio.run(match())


@pytest.mark.filterwarnings("ignore::levelmatch.PatternWarning")
@pytest.mark.parametrize("moment", [0, 3, 7])
def test_a_worker_killed_while_images_are_sent_changes_nothing(client, paths, monkeypatch, moment):
    images = [CCDData.read(path, hdu="SCI", unit="MJy/sr") for path in paths]
    for image, path in zip(images, paths, strict=True):
        image.meta["FILENAME"] = path.name
    pids = list(client.run(os.getpid).values())
    sent = []

    def scatter(self, *arguments, **keywords):
        if len(sent) == moment:
            os.kill(pids[0], signal.SIGKILL)
        sent.append(1)
        return original(self, *arguments, **keywords)

    original = distributed.Client.scatter
    monkeypatch.setattr(distributed.Client, "scatter", scatter)
    found = levelmatch.match_levels(images)
    assert len(sent) >= len(images)
    monkeypatch.undo()
    client.close()
    check_same(found, levelmatch.match_levels(images))


@pytest.mark.filterwarnings("ignore::levelmatch.PatternWarning")
def test_tasks_that_no_worker_takes_are_repeated(client, paths, expected, monkeypatch, caplog):
    refused = []

    def submit(self, *arguments, **keywords):
        if not refused and "-pairs-" in keywords.get("key", ""):
            refused.append(keywords["key"])
            keywords["workers"] = ["127.0.0.1:1"]
        return original(self, *arguments, **keywords)

    original = distributed.Client.submit
    monkeypatch.setattr(distributed.Client, "submit", submit)
    monkeypatch.setattr(cluster, "PAUSE", 1)
    found = levelmatch.match_levels(paths)
    assert refused
    assert "sent again" in caplog.text
    check_same(found, expected)


# Headers and writing


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """More files than one task opens."""
    simulation = simulate_miri(tiles=(2, 2), n_dithers=3, shape=(64, 72), seed=4)
    return simulation.write(tmp_path_factory.mktemp("many") / "raw")


def _contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _pixels(folder):
    return {path.name: fits.getdata(path, "SCI") for path in sorted(folder.glob("*.fits"))}


def test_workers_open_and_write_the_files(client, many, tmp_path, monkeypatch):
    calls = []

    def spread(client, function, *arguments, **keywords):
        calls.append(function.__name__)
        return original(client, function, *arguments, **keywords)

    original = cluster.spread
    for module in (inputs, files):
        monkeypatch.setattr(module, "spread", spread)
    steps = []

    def bar(iterable):
        for step in iterable:
            steps.append(step)
            yield step

    found = levelmatch.match_levels(many)
    with monkeypatch.context() as patch:
        # The workers have sent the digests of the files.
        patch.setattr(FileSource, "_read", None)
        assert all(found.record.inputs["digest"])
    found.write(tmp_path / "cluster", progress_bar=bar)
    assert calls == ["read_batch", "write_images"]
    assert len(steps) == len(many)
    client.close()
    expected = levelmatch.match_levels(many)
    check_same(found, expected)
    # The two runs differ in their times alone.
    object.__setattr__(expected.run, "created", found.run.created)
    expected.run.history[:] = found.run.history
    expected.write(tmp_path / "threads")
    assert _contents(tmp_path / "cluster") == _contents(tmp_path / "threads")


def test_workers_tell_errors_notes_and_warnings(client, many, tmp_path):
    copies = [tmp_path / path.name for path in many]
    for path, copy in zip(many, copies, strict=True):
        shutil.copy(path, copy)
    with fits.open(copies[9], mode="update") as hdus:
        hdus["SCI"].header["BKGLEVEL"] = 1.5
    with pytest.warns(levelmatch.LevelMatchWarning, match=r"BKGLEVEL = 1\.5"):
        levelmatch.match_levels(copies)
    copies[10].write_bytes(b"SIMPLE  = no FITS")
    copies[11].write_bytes(b"neither")
    with pytest.raises(levelmatch.FrameError, match=copies[10].name):
        levelmatch.match_levels(copies)
    with (
        pytest.warns(levelmatch.LevelMatchWarning, match=r"BKGLEVEL = 1\.5"),
        pytest.warns(levelmatch.LevelMatchWarning, match="left out because of on_error='skip'"),
    ):
        found = levelmatch.match_levels(copies, read=levelmatch.ReadOptions(on_error="skip"))
    assert len(found) == len(many) - 2


def test_a_worker_killed_while_it_writes_leaves_no_half_file(client, many, tmp_path):
    result = levelmatch.match_levels(many)
    pids = list(client.run(os.getpid).values())
    folder = tmp_path / "out"
    seen = []

    def bar(iterable):
        for step in iterable:
            if len(seen) == 2:
                os.kill(pids[0], signal.SIGKILL)
            seen.append(len(list(folder.glob("*.fits"))))
            yield step

    result.write(folder, progress_bar=bar)
    assert pids[0] not in client.run(os.getpid).values()
    found = _pixels(folder)
    assert sorted(found) == sorted(path.name for path in many)
    # Neither a half file nor a temporary one.
    assert {path.suffix for path in folder.iterdir()} == {".fits", ".asdf"}
    client.close()
    result.write(tmp_path / "threads")
    for name, data in _pixels(tmp_path / "threads").items():
        assert_array_equal(found[name], data)


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_item_that_kills_its_workers_is_named():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, processes=True, dashboard_address=":0") as local,
        distributed.Client(local) as client,
        pytest.raises(levelmatch.LevelMatchError, match=r"b\.fits: the workers of the cluster"),
    ):
        cluster.spread(client, _die, [(1,)], ["b.fits"])
