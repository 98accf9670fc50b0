# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the uncertainty that earlier passes carry into later ones, by simulations."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.solve import cumulative_covariance

SHAPE = (32, 48)
N_TRIALS = 60


def four_images(paint, seed):
    """Return two tiles of two dithers; only the second dithers overlap the other tile."""
    shifts = {"a0": (0, 0), "a1": (0, 24), "b0": (0, 48), "b1": (0, 72)}
    images = [
        paint(f"{name}.fits", shift, noise=0.5, seed=seed, shape=SHAPE, sky=(5, 0, 0))
        for name, shift in shifts.items()
    ]
    for image in images:
        image.meta["TILE"] = image.meta["FILENAME"][0]
    return images


@pytest.fixture(scope="module")
def results(paint):
    return [lm.match_levels(four_images(paint, s), group_by="TILE") for s in range(N_TRIALS)]


def test_errors_of_a_step_between_tiles(results):
    errors, stated = [], []
    for result in results:
        level = result.table["level"].value
        errors.append(level[3] - level[0])
        c = result.covariance
        stated.append(np.sqrt(c(0, 0)[0, 0] + c(3, 3)[0, 0] - 2 * c(0, 3)[0, 0]))
    pull = np.std(errors) / np.mean(stated)
    # Without the carried covariance it is at least sqrt(3) / sqrt(2).
    assert 0.8 < pull < 1.2


def test_the_table_has_the_whole_error(results):
    result = results[0]
    for i in range(4):
        assert_allclose(result.table["error"][i].value ** 2, result.covariance(i, i)[0, 0])


def test_a_record_knows_it(results):
    result = results[0]
    for i, j in ((0, 0), (0, 3), (1, 2)):
        assert_allclose(result.record.covariance(i, j), result.covariance(i, j), atol=1e-12)


def test_a_covariance_that_is_too_large_is_not_held(paint, monkeypatch):
    images = four_images(paint, 0)
    small = lm.match_levels(images, group_by="TILE")
    monkeypatch.setattr(cumulative_covariance, "MAX_DENSE", 3)
    large = lm.match_levels(images, group_by="TILE")
    assert cumulative_covariance.Carried.of(large.frames) is None
    assert_allclose(large.table["level"].value, small.table["level"].value, atol=1e-12)
    assert (large.table["error"].value > 0).all()
