# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of pair errors from noise shared by strips and blocks of the overlap."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.measure import pairs as measure
from levelmatch.measure.cells import PAIR_CELL
from levelmatch.measure.correlated_errors import LOWER, pooled, pooled_passes, shared_noise
from levelmatch.measure.pairs import summarise
from levelmatch.measure.table import pair_table
from levelmatch.sky.vectors import plane_terms, tangent_axes, unit_vectors

N_Y, N_X = 20, 24
SIGMA = 0.02


def cells_of(location, *, turn=0.0, shift=(3, 5), variance=None):
    """Return cells of a full grid with given levels."""
    n_y, n_x = location.shape
    y, x = (axis.ravel() for axis in np.indices((n_y, n_x)))
    cells = np.zeros(n_y * n_x, PAIR_CELL)
    variance = np.full(len(cells), SIGMA**2) if variance is None else variance
    cells["vector"] = unit_vectors(30 - x / 450, 1 + y / 450)
    cells["location"] = cells["clipped"] = location.ravel()
    cells["variance"], cells["weight"] = variance, 1 / variance
    cells["pixel_variance"], cells["scatter"] = 64 * variance, 8 * np.sqrt(variance)
    cells["npix"] = 64
    cells["y"], cells["x"] = y, x
    cells["other_y"], cells["other_x"] = y + shift[0], x + shift[1]
    if turn == 90:
        cells["other_y"], cells["other_x"] = x, -y
    samples = np.full(len(cells), 64)
    return measure._Cells(cells, None, samples, turn=turn)


def row_of(location, depth=2, **options):
    return summarise(cells_of(location, **options), np.full(location.size, depth))


def table_of(offsets, *, seed=0, n=6, depth=2, **options):
    """Return pairs of n images; ``offsets(rng)`` returns the pattern of each."""
    rng = np.random.default_rng(seed)
    patterns = [offsets(rng) for _ in range(n)]
    noises = SIGMA / np.sqrt(2) * rng.standard_normal((n, N_Y, N_X))
    images = [np.broadcast_to(p, (N_Y, N_X)) + e for p, e in zip(patterns, noises, strict=True)]
    pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n)])
    return pair_table(pairs, [row_of(images[i] - images[j], depth, **options) for i, j in pairs])


def test_strips_are_quadratic_forms_of_the_residuals():
    rng = np.random.default_rng(1)
    n_y, n_x = 9, 10
    location = 0.1 * rng.standard_normal((n_y, n_x))
    variance = 0.01 * rng.uniform(0.5, 2, n_y * n_x)
    depth = rng.integers(2, 5, n_y * n_x)
    cells = cells_of(location, variance=variance, shift=(-7, 30))
    row = summarise(cells, depth)
    terms = plane_terms(cells.cells["vector"], row["axes"])
    weight = 1 / variance / np.sum(1 / variance) / row["sigma"] ** 2
    stated = variance * row["sigma"] ** 2 * np.sum(1 / variance)
    gram = terms.T @ (weight[:, None] * terms)
    # Weights times residuals equal P times the levels of the cells.
    p = np.diag(weight) - (weight[:, None] * terms) @ np.linalg.solve(gram, terms.T * weight)
    total = weight.sum()
    y, x = cells.cells["y"], cells.cells["x"]
    families = [y, x, y, x, *(y // k * 10 + x // k for k in (2, 4, 8, 16))]
    for family, found in zip(families, row["strips"], strict=True):
        z = (family[:, None] == np.unique(family)).astype(float)
        score = z.T @ p @ location.ravel()
        spread = np.einsum("sn,nk->sk", z.T * weight * np.sqrt(2 / depth), terms)
        expected = [
            np.sum(score**2) / total,
            np.trace(z.T @ p @ np.diag(stated) @ p.T @ z) / total,
            np.sum((z.T @ p @ z) ** 2) / total**2,
            *((spread.T @ spread)[i, j] / total**2 for i, j in LOWER),
        ]
        assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * max(map(abs, expected)))


def test_independent_cells_stay_as_they_are():
    ratio = []
    for seed in range(10):
        table = table_of(lambda rng: np.zeros((1, 1)), seed=seed)
        ratio.append((pooled(table).sigma / table.sigma) ** 2)
    assert np.mean(ratio) < 1.06
    assert np.median(ratio) == 1


@pytest.mark.parametrize("size", [1.0, 5.0])
def test_rows_widen_the_error_as_they_should(size):
    table = table_of(lambda rng: size * SIGMA / np.sqrt(2) * rng.standard_normal((N_Y, 1)))
    found = pooled(table)
    # Variance of the mean of N_Y offsets relative to that of N_Y * N_X cells.
    variance = SIGMA**2 * (size**2 / N_Y + 1 / (N_Y * N_X))
    assert_allclose(np.mean(found.sigma**2), variance, rtol=0.25)
    assert_allclose(found.level, table.level, rtol=1e-12)
    assert_allclose(found.gram[:, 0, 0] * found.sigma**2, 1, rtol=1e-9)


def test_planes_of_pairs_stay_and_count_less():
    table = table_of(lambda rng: 5 * SIGMA * rng.standard_normal((N_Y, 1)))
    found = pooled(table, planes=True)
    planes = [np.einsum("pij,pj->pi", np.linalg.inv(t.gram), t.rhs) for t in (table, found)]
    assert_allclose(*planes, atol=1e-9)
    factor = (found.sigma / table.sigma) ** 2
    assert factor.min() > 10
    assert_allclose(found.gram * factor[:, None, None], table.gram)


@pytest.mark.parametrize("axis", [0, 1])
def test_shared_noise_of_planes_is_that_of_the_rows_or_columns(axis):
    shape = (N_Y, 1) if axis == 0 else (1, N_X)
    size, found = 5 * SIGMA / np.sqrt(2), []
    cells = cells_of(np.zeros((N_Y, N_X))).cells
    for seed in range(20):
        table = table_of(lambda rng: size * rng.standard_normal(shape), seed=seed)
        inverse = np.linalg.inv(table.gram)
        stated = inverse @ (table.gram + shared_noise(table)) @ inverse
        found.append([np.diagonal(v, axis1=1, axis2=2).mean(axis=0) for v in (stated, inverse)])
    found, by_cells = np.median(found, axis=0)
    terms = plane_terms(cells["vector"], table.axes[0])
    response = np.linalg.pinv(terms)
    lines = response.reshape(3, N_Y, N_X).sum(axis=2 - axis)
    # The variances of the level and of the slopes: of the cells, and of the offsets of the lines.
    white = SIGMA**2 * np.sum(response**2, axis=1)
    expected = white + 2 * size**2 * np.sum(lines**2, axis=1)
    along, across = (1, 2) if axis == 0 else (2, 1)
    assert_allclose(found[[0, across]] / expected[[0, across]], 1, atol=0.4)
    assert (by_cells < 0.2 * expected)[[0, across]].all()
    # The offsets do not change the slope along the lines.
    assert found[along] < 0.2 * by_cells[along]


def test_independent_cells_have_little_shared_noise():
    part = []
    for seed in range(10):
        table = table_of(lambda rng: np.zeros((1, 1)), seed=seed)
        noise = shared_noise(table)
        part.append(0.0 if noise is None else np.mean(noise[:, 0, 0] / table.gram[:, 0, 0]))
    assert np.median(part) == 0
    assert np.mean(part) < 0.2


def test_slopes_are_patterns_of_levels_alone():
    """Without a fitted plane, the slope of an overlap adds to the error of its level."""
    table = table_of(lambda rng: rng.normal(0, 10 * SIGMA) * np.linspace(-1, 1, N_Y)[:, None])
    levels, planes = ((pooled(table, planes=p).sigma / table.sigma) ** 2 for p in (False, True))
    assert np.median(levels) > 20
    assert np.median(planes) < 1.2


def grid_at(place):
    """Return the grid of an image whose centre is at a place (y, x), cells from the overlap's."""
    y, x = np.add(place, (N_Y / 2 - 0.5, N_X / 2 - 0.5))
    axes = tangent_axes(unit_vectors(30 - x / 450, 1 + y / 450))
    return SimpleNamespace(pixel_area=1.0, axes=axes)


def gradients(rng, places, size=10 * SIGMA):
    """Return gradients across the cells; each is zero at the centre of its image."""
    y, x = np.indices((N_Y, N_X)) - np.array([N_Y / 2 - 0.5, N_X / 2 - 0.5])[:, None, None]
    slopes = rng.normal(0, size / N_X, (len(places), 2))
    return [s[0] * (y - p[0]) + s[1] * (x - p[1]) for s, p in zip(slopes, places, strict=True)]


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_gradients_count_by_their_levers(spread):
    """Images whose centres nearly coincide agree at the centre of their overlap."""
    rng, pulls, widened = np.random.default_rng(7), [], []
    for seed in range(30):
        places = rng.normal(0, spread, (6, 2))
        patterns = iter(gradients(rng, places))
        table = table_of(lambda _, p=patterns: next(p), seed=seed)
        found = pooled(table, [grid_at(place) for place in places])
        pulls.append(found.level / found.sigma)
        widened.append(pooled(table).sigma / found.sigma)
    assert 0.8 < np.sqrt(np.mean(np.square(pulls))) < 1.2
    assert np.median(widened) > 2


def test_gradients_of_distant_images_are_patterns():
    rng = np.random.default_rng(8)
    places = np.array([(0, 40), (0, -40)] * 3)
    patterns = iter(gradients(rng, places))
    table = table_of(lambda _: next(patterns))
    found = pooled(table, [grid_at(place) for place in places])
    assert_array_equal(found.sigma, pooled(table).sigma)


@pytest.mark.parametrize("n", [2, 6])
def test_other_patterns_count_although_centres_coincide(n):
    def offsets(rng):
        return 3 * SIGMA * rng.standard_normal((N_Y, 1))

    table = table_of(offsets, n=n)
    found = pooled(table, n * [grid_at((0, 0))])
    assert_array_equal(found.sigma, pooled(table).sigma)


def test_gradients_hide_no_other_pattern():
    rng, squares = np.random.default_rng(9), []
    for seed in range(20):
        steep = iter(gradients(rng, np.zeros((6, 2)), 50 * SIGMA))
        table = table_of(
            lambda r, g=steep: 3 * SIGMA / np.sqrt(2) * r.standard_normal((N_Y, 1)) + next(g),
            seed=seed,
        )
        found = [pooled(table, 6 * [grid_at((0, 0))]).sigma, pooled(table).sigma]
        squares.append([np.mean(v**2) for v in (table.level, *found)])
    true = np.mean(squares, axis=0)[0]
    # An image whose gradient is far steeper than those of the others keeps larger errors.
    _, stated, with_slopes = np.median(squares, axis=0)
    # The rows count more than alone, see `MOST_SLOPED`.
    assert 0.25 < np.sqrt(true / stated) < 1.1
    assert with_slopes > 2 * stated


@pytest.mark.parametrize("bright", [20 * SIGMA / 0.02, -20 * SIGMA / 0.02])
def test_slopes_of_emission_are_patterns(bright):
    """Emission with wrong astrometry or flux has slopes, too."""
    patterns = iter(gradients(np.random.default_rng(10), np.zeros((6, 2))))
    table = table_of(lambda _: next(patterns))
    grids = 6 * [grid_at((0, 0))]
    assert pooled(table, grids).sigma.max() < 0.5 * pooled(table).sigma.min()
    table = replace(table, bright=np.full(len(table), bright))
    assert_array_equal(pooled(table, grids).sigma, pooled(table).sigma)


def test_one_pair_does_not_tell_gradients_from_patterns():
    places = np.array([(0, 1), (0, -1)])
    patterns = iter(gradients(np.random.default_rng(11), places))
    table = table_of(lambda _: next(patterns), n=2)
    found = pooled(table, [grid_at(place) for place in places])
    assert_array_equal(found.sigma, pooled(table).sigma)


def test_stated_errors_of_rows_and_columns():
    """Pulls of pairs are computed from the truth; the offsets of each image are independent."""
    pulls = []
    for seed in range(20):
        table = pooled(
            table_of(
                lambda rng: 3 * SIGMA * (rng.standard_normal((N_Y, 1)) + rng.standard_normal(N_X)),
                seed=seed,
            )
        )
        pulls.append(table.level / table.sigma)
    assert 0.85 < np.sqrt(np.mean(np.square(pulls))) < 1.2


def test_smooth_patterns_widen_the_error():
    y, x = np.indices((N_Y, N_X))

    def blob(rng):
        out = np.zeros((N_Y, N_X))
        for _ in range(12):
            cy, cx = rng.uniform(-4, 28, 2)
            out += rng.normal() * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 3.0**2))
        return 2 * SIGMA * out

    squares = []
    for seed in range(20):
        table = table_of(blob, seed=seed)
        found = pooled(table)
        squares.append([np.mean(v**2) for v in (table.level, table.sigma, found.sigma)])
    true, before, after = np.mean(squares, axis=0)
    assert true / before > 20
    assert 0.6 < true / after < 1.6


@pytest.mark.parametrize("unit", [1e-20, 1e20])
def test_unit_of_the_images_does_not_matter(unit):
    def offsets(rng):
        return 3 * SIGMA * rng.standard_normal((N_Y, 1))

    table = table_of(offsets)
    scaled = replace(
        table, gram=table.gram / unit**2, rhs=table.rhs / unit, sigma=table.sigma * unit
    )
    assert_allclose(pooled(scaled).sigma / scaled.sigma, pooled(table).sigma / table.sigma)


def test_depth_does_not_matter():
    def offsets(rng):
        return 3 * SIGMA * rng.standard_normal((N_Y, 1))

    two, six = (pooled(table_of(offsets, depth=depth)) for depth in (2, 6))
    assert_allclose(six.sigma, two.sigma, rtol=1e-5)
    assert_allclose(six.gram[:, 0, 0], two.gram[:, 0, 0] / 3, rtol=1e-5)


@pytest.mark.parametrize("turn", [0.0, 90.0])
def test_rows_of_both_images_count_once(turn):
    """In rotated images, the rows of one lie along the columns of the other."""
    table = table_of(lambda rng: 3 * SIGMA / np.sqrt(2) * rng.standard_normal((N_Y, 1)), turn=turn)
    variance = SIGMA**2 * (9 / N_Y + 1 / (N_Y * N_X))
    assert_allclose(np.mean(pooled(table).sigma ** 2), variance, rtol=0.3)


def test_each_pass_is_pooled_by_itself():
    table = table_of(lambda rng: 3 * SIGMA * rng.standard_normal((N_Y, 1)))
    used = np.where(np.arange(len(table)) < 7, 0, -1)
    found = pooled_passes(table, used, ["level", "level+slope"], 6 * [grid_at((0, 0))])
    assert_allclose(found.sigma[:7], pooled(table.take(np.arange(7))).sigma)
    assert_array_equal(found.sigma[7:], table.sigma[7:])
    assert_allclose(found.rhs[7:], table.rhs[7:], rtol=1e-12)
    without = replace(table, strips=np.zeros_like(table.strips))
    assert_array_equal(pooled(without).sigma, table.sigma)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_a_copy_of_an_image_leaves_the_errors_of_the_others(paint, fit_type, dtype):
    """A pair without noise has a weight beside which those of the others are rounding errors."""
    rng = np.random.default_rng(5)
    images = [
        paint(f"{k}.fits", rng.uniform(-9, 9, 2), noise=0.5, level=k, shape=(100, 100), dtype=dtype)
        for k in range(5)
    ]
    copy = images[0].copy()
    copy.data, copy.meta["FILENAME"] = copy.data + 3.7, "copy.fits"
    errors = []
    for some, warned in (
        (images, nullcontext()),
        ([*images, copy], pytest.warns(match=r"same noise at one place: 0\.fits and copy\.fits")),
    ):
        with warned:
            result = lm.match_mosaic(some, reference="mean", group_by="FILENAME", fit_type=fit_type)
        errors.append(result.passes[0].solution.errors[1:5])
    assert_allclose(errors[1] / errors[0], 1, atol=0.35)
