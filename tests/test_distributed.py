# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that a cluster of worker processes gives the same results as threads, bit by bit."""

import asyncio
import os
import signal
from dataclasses import fields
from functools import partial

import pytest
from astropy.nddata import CCDData
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch
from levelmatch.measure.table import PairTable
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
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
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
    images = [CCDData.read(path, hdu="SCI", unit="MJy/sr") for path in paths[:4]]
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
    with distributed.Client(**local, dashboard_address=None) as client:
        found = client.submit(_levels, paths, pure=False).result(timeout=60)
        here = _levels(paths)
    assert_array_equal(found, expected.table["level"].value)
    assert_array_equal(here, expected.table["level"].value)


def test_an_asynchronous_client_is_refused(paths):
    async def match():
        async with distributed.Client(
            asynchronous=True, processes=False, n_workers=1, dashboard_address=None
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
