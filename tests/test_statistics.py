# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that stated errors are true and near the smallest possible, with few trials.

``benchmarks/calibration.py`` holds the simulations, and runs them often enough for tight figures.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.solve.equations import Equations
from levelmatch.solve.groups import solve_groups

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "calibration.py"


@pytest.fixture(scope="module")
def bench():
    if not SCRIPT.exists():
        pytest.skip("the benchmarks are not beside the tests")
    # Loaded by path, because its name is that of a module of the standard library.
    spec = importlib.util.spec_from_file_location("benchmark_statistics", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("location", ["mean", "median"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_pulls(bench, fit_type, location):
    n = 12 if fit_type == "level" else 60
    pulls = bench.simulated_pulls(n, fit_type=fit_type, location=location, shape=(64, 64))
    # 96 independent levels determine the figure to 7 %. The planes of one mosaic are far from
    # independent, because a few tilts make most of their errors.
    assert (np.abs(pulls.std(axis=(0, 1)) - 1) < 0.25).all()


def test_pulls_of_a_pile(bench):
    pulls = bench.simulated_pulls(15, layout="pile", n_images=6, overlap=0.8, shape=(64, 64))
    assert abs(pulls.std() - 1) < 0.3


@pytest.mark.parametrize("robust", [None, "tukey"])
def test_pulls_with_a_systematic_scatter(bench, robust):
    pulls, floors = bench.scattered_pulls(20, floor=10.0, robust=robust)
    assert 0.85 < pulls.std() < 1.2
    assert_allclose(floors.mean(), 10, rtol=0.15)


def test_a_few_spoilt_pairs_cost_little(bench):
    assert bench.spoilt_growth(40) < 1.2
    assert bench.spoilt_growth(10, robust=None) > 2


@pytest.mark.parametrize("name", ["5 coincident", "5 dithered", "4 of a mosaic"])
@pytest.mark.parametrize(("location", "most"), [("mean", 1.2), ("median", 1.4)])
def test_errors_are_near_the_bound(bench, name, location, most):
    ratio, pull = bench.bound_ratio(45, bench.STACKS[name], location=location, offset=0.3)
    assert 0.8 < ratio < most
    assert 0.8 < pull < 1.2


def test_the_bound_itself(bench):
    # Two images with N common pixels; each level takes its part of the error of the difference.
    n = 96 * 96
    assert_allclose(bench.level_bound([(0, 0), (0, 0)]), np.sqrt(2 / n) / 2)
    assert_allclose(bench.level_bound([(0, 0), (0, 48)]), np.sqrt(4 / n) / 2)
    # k images of one field: 1/N for each, minus the part of the mean.
    assert_allclose(bench.level_bound([(0, 0)] * 5), np.sqrt((1 - 1 / 5) / n))


@pytest.mark.parametrize(
    ("ratio", "angle", "noise"),
    [(1.0, 30.0, 1.0), (2.0, 0.0, 1.0), (4.0, 45.0, 1.0), (4.0, 0.0, 0.25)],
)
def test_pulls_of_unlike_pixels(bench, ratio, angle, noise):
    # 40 trials determine the figure to 11 %.
    assert 0.75 < bench.unlike_pulls(40, ratio, angle, noise=noise) < 1.3


def triangles(rng, n_sets, floor):
    """Return the pulls of sets of three images with one loop each, shape (n_sets, 3)."""
    true = rng.normal(0, 3, (n_sets, 3))
    groups = np.arange(3 * n_sets).reshape(n_sets, 3)
    first, second = groups[:, [0, 0, 1]].ravel(), groups[:, [1, 2, 2]].ravel()
    sigma = 0.05 * rng.uniform(0.7, 1.4, len(first))
    scatter = np.hypot(sigma, floor * 0.05)
    difference = true.ravel()[first] - true.ravel()[second]
    difference = difference + scatter * rng.standard_normal(len(first))
    axes = np.broadcast_to(np.eye(3), (3 * n_sets, 3, 3))
    equations = Equations(
        first, second, sigma[:, None, None] ** -2.0, (difference / sigma**2)[:, None], axes, axes
    )
    solution = solve_groups(equations, lm.SolveOptions())
    errors = solution.coefficients[:, 0].reshape(true.shape) - true
    errors -= errors.mean(axis=1, keepdims=True)
    return errors / solution.errors.reshape(true.shape)


def test_sets_of_one_loop_show_together_that_there_is_no_floor():
    """Without the other sets, the errors would be three times too wide."""
    rng = np.random.default_rng(0)
    alone = [triangles(rng, 1, 0.0) for _ in range(60)]
    together = [triangles(rng, 12, 0.0) for _ in range(10)]
    assert np.sqrt(np.mean(np.square(alone))) < 0.5
    assert 0.85 < np.sqrt(np.mean(np.square(together))) < 1.15


@pytest.mark.parametrize("floor", [1.0, 3.0])
def test_sets_of_one_loop_with_a_floor(floor):
    rng = np.random.default_rng(1)
    pulls = np.array([triangles(rng, 12, floor) for _ in range(20)])
    assert np.mean(np.abs(pulls) < 1.96) > 0.9
    assert np.sqrt(np.mean(pulls**2)) < 1.25
