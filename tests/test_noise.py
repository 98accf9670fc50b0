# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the noise of images from their pairs: weights of depths, and rounding errors."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

import levelmatch as lm
from levelmatch.measure.cells import PAIR_CELL
from levelmatch.measure.noise import image_variances, weigh_depths
from levelmatch.measure.pairs import Image
from levelmatch.measure.rounding import (
    Rounding,
    common_steps,
    rounding_of,
    rounding_step,
    rounding_variance,
    squared_errors,
    widen_rounded,
)
from levelmatch.measure.table import PAIR, pair_table


def coincident(noise, n_pixels=1000, step=0.0):
    """Return pairs of images of one patch of sky, as the kernel measures them."""
    n = len(noise)
    pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n)])
    rows = np.zeros(len(pairs), PAIR)
    for row, (i, j) in zip(rows, pairs, strict=True):
        square = noise[i] ** 2 + noise[j] ** 2
        row["sigma"], row["scatter"] = np.sqrt(square / n_pixels), np.sqrt(square)
        row["gram"] = np.diag([2 / n * n_pixels / square, 1.0, 1.0])
        row["npix"], row["step"], row["neighbours"] = n_pixels, step, np.nan
    return pair_table(pairs, list(rows))


@pytest.mark.parametrize("noise", [[1.0, 1, 1], [1, 1.7, 0.6, 2.0], [0.5, 0.9] * 3])
def test_pairs_weigh_as_the_joint_fit(noise):
    table = weigh_depths(coincident(noise), np.ones(len(noise)))
    weight = 1000 / np.square(noise)
    expected = weight[table.first] * weight[table.second] / weight.sum()
    assert_allclose(table.gram[:, 0, 0], expected, rtol=0.02)
    assert_allclose(table.sigma, coincident(noise).sigma)


def test_scatter_that_leaves_an_image_without_noise_is_not_weighed():
    """Stars of unequal flux scales add to the scatter of each pair by its own scales."""
    table = coincident([1.0, 1, 1])
    table.scatter[:] = 53.9, 40.4, 35.8
    assert weigh_depths(table, np.ones(3)) is table
    # An image of a third of the noise is possible.
    deep = coincident([1.0, 1, 0.3])
    assert weigh_depths(deep, np.ones(3)) is not deep


def test_coarse_pixels_weigh_by_their_area():
    noise, area = np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 4.0])
    table = weigh_depths(coincident(noise), area)
    weight = 1 / area
    factor = (weight[table.first] + weight[table.second]) / (2 * weight.mean())
    assert_allclose(table.gram[:, 0, 0] / coincident(noise).gram[:, 0, 0], factor, rtol=1e-6)


def test_variances_of_images_add_up_to_those_of_pairs():
    noise = np.array([0.3, 0.5, 0.4, 1.0, 0.7])
    assert_allclose(image_variances(coincident(noise)), noise**2, rtol=0.02)
    assert_allclose(image_variances(coincident(noise[:2])).sum(), 0.34, rtol=1e-6)
    none = pair_table(np.array([(0, 1)]), [np.zeros((), PAIR)])
    assert np.isnan(image_variances(none)).all()


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_error_of_rounding(noise):
    phase = (np.arange(4000) + 0.5) / 4000 - 0.5
    whole = np.arange(-8, 9)
    if noise > 0:
        edges = norm.cdf((np.append(whole, 9) - 0.5 - phase[:, None]) / noise)
        chance = np.diff(edges, axis=1)
    else:
        chance = (whole == np.round(phase)[:, None]).astype(float)
    bias = chance @ whole - phase
    for step in (1.0, 0.02):
        found = rounding_variance(noise * step, step)
        assert_allclose(found, step**2 * np.mean(bias**2), rtol=0.02, atol=1e-8 * step**2)


@pytest.mark.parametrize("noise", [0.15, 0.2, 0.3, 0.4, 0.7])
def test_squared_errors_of_rounding(noise):
    # Sets of six images of 4000 pixels, of which each mean is clipped as differences of two are.
    rng = np.random.default_rng(5)
    true, found = [], []
    for _ in range(300):
        level = rng.uniform(-0.5, 0.5, (6, 1))
        pixels = np.round(level + rng.normal(0, noise, (6, 4000)))
        mean, variance = pixels.mean(axis=1, keepdims=True), pixels.var(axis=1, keepdims=True)
        near = np.abs(pixels - mean) <= 3 * np.sqrt(2 * variance)
        true.append(np.square(pixels.mean(axis=1, where=near) - level[:, 0]).mean())
        found.append(squared_errors(variance[:, 0]).mean())
    # Beside the error of rounding there is that of the noise.
    expected = np.mean(true) - noise**2 / 4000
    assert_allclose(np.mean(found), expected, rtol=0.4, atol=3e-5)
    if noise < 0.4:
        pull = np.sqrt(np.mean(np.divide(true, found)))
        assert 0.8 < pull < 1.25


def test_squared_errors_of_images_of_much_noise():
    # Images of much noise are not widened by those of little.
    found = squared_errors(np.array([0.0, 0.02, 0.05, 1.1, 1.1]))
    assert (found[:3] > 0.01).all()
    assert (found[3:] < 1e-9).all()


def test_squared_errors_of_many_images_in_little_memory():
    rng = np.random.default_rng(4)
    variance = np.tile(rng.uniform(0.05, 0.3, 40), 500)
    tracemalloc.start()
    found = squared_errors(variance)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000 * len(variance)
    # The order of images does not matter, also across blocks of them.
    assert_allclose(squared_errors(np.sort(variance)), found, rtol=1e-9)
    # All images share one noise, which is known the better the more there are.
    few = squared_errors(variance[:40])
    assert_allclose(found, found[0])
    assert 0.5 < found[0] / few[0] < 2


def test_step_of_values():
    rng = np.random.default_rng(1)
    plain = rng.normal(100, 3, (300, 200))
    assert rounding_step(plain) == 0
    assert rounding_step(np.round(plain)) == 1
    assert rounding_step(np.zeros((50, 50))) == 0
    assert rounding_step(np.full((50, 50), np.nan)) == 0
    # All pixels but a few have one value.
    few = np.full((300, 200), 5.0)
    few[7, 3:9] = 6
    assert rounding_step(few) == 1
    scaled = (7.3 + 0.25 * np.round(plain)).astype("f4")
    scaled[rng.random(scaled.shape) < 0.3] = np.nan
    assert_allclose(rounding_step(scaled), 0.25, rtol=1e-3)
    # Equal values alone are not a rounding step: a third of the pixels are zero.
    assert rounding_step(np.where(rng.random(plain.shape) < 0.9, 0, plain)) == 0


def star_field(rng, n_stars):
    """Return a flat sky with round stars of unequal fluxes, 200 x 200 pixels."""
    y, x = np.mgrid[:200, :200]
    sky = np.zeros((200, 200))
    stars = np.stack([*rng.uniform(0, 200, (2, n_stars)), rng.pareto(1, n_stars)], axis=1)
    for at_y, at_x, flux in stars:
        near = np.s_[max(int(at_y) - 8, 0) : int(at_y) + 9, max(int(at_x) - 8, 0) : int(at_x) + 9]
        square = (y[near] - at_y) ** 2 + (x[near] - at_x) ** 2
        sky[near] += 10 * (1 + min(flux, 1000)) * np.exp(-square / 2)
    return sky


@pytest.mark.parametrize("n_stars", [0, 400])
@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("position", [0.0, 0.25, 0.5])
def test_background_beside_stars(noise, position, n_stars):
    rng = np.random.default_rng(3)
    level = 7 + position
    pixels = star_field(rng, n_stars) + rng.normal(level, noise, (200, 200))
    found = rounding_of(2.5 * np.round(pixels), 2.5)
    chance = np.diff(norm.cdf((np.arange(20) - 0.5 - level) / noise))
    equal, one = chance @ chance, 2 * chance[1:] @ chance[:-1]
    assert_allclose(found.neighbours, one / (equal + one), atol=0.03)
    # Without stars, the cells tell whether brightness spreads.
    assert found.coherence > 0.75 if n_stars else (found.coherence == 0 or noise > 0.4)


def test_background_of_unlike_levels_and_fills():
    rng = np.random.default_rng(4)
    stars = star_field(rng, 400)
    for rise, expected in ((5, 0), (0.5, 2 / np.pi)):
        sky = stars + np.linspace(0, rise, 200) + rng.normal(20, 0.3, stars.shape)
        assert_allclose(rounding_of(np.round(sky), 1.0).coherence, expected, atol=0.1)
    # A third of the image has one value, and is not masked.
    plain = np.round(rng.normal(20, 1.0, (200, 200)))
    filled = plain.copy()
    filled[:70] = 0
    expected = rounding_of(plain, 1.0).neighbours
    assert_allclose(rounding_of(filled, 1.0).neighbours, expected, atol=0.02)
    # Nothing is known of small images, or without a step.
    for pixels, step in ((plain[:9, :9], 1.0), (plain[:2], 1.0), (plain, 0.0), (plain * np.nan, 1)):
        assert np.isnan(rounding_of(pixels, step).neighbours)


def test_a_section_has_the_rounding_of_its_image():
    pixels = np.round(np.random.default_rng(5).normal(50, 1, (200, 200)))
    pixels[:100] *= 4
    whole = Image(pixels, None)
    assert whole.rounding.step == 1
    assert whole.cut((0, 80, 0, 200)).rounding == whole.rounding


def test_stars_do_not_average_rounding():
    cells = np.zeros(100, PAIR_CELL)
    cells["weight"] = 1
    cells["brightness"] = np.linspace(0, 20, 100)
    flat, sloped = Rounding(1.0, 0.2, 0.9), Rounding(1.0, 0.2, 0.1)
    assert_allclose(common_steps(cells, (flat, sloped)), [0.9, 0.1])


def test_brightness_over_many_steps_averages_rounding():
    cells = np.zeros(100, PAIR_CELL)
    cells["weight"] = 1
    cells["location"] = 0.4
    assert_allclose(common_steps(cells, (Rounding(1.0), Rounding())), [1, 0])
    cells["brightness"] = np.linspace(0, 20, 100)
    assert max(common_steps(cells, (Rounding(1.0), Rounding(1.0)))) < 0.05
    assert_allclose(common_steps(cells, (Rounding(1e4), Rounding())), [1e4, 0], rtol=1e-4)
    # The noise exceeds the step by so much that nothing is expected to be left of it.
    cells["variance"] = 1e6
    assert_allclose(common_steps(cells, (Rounding(1.0), Rounding())), [1, 0])


def test_noise_of_cells_does_not_average_rounding():
    rng = np.random.default_rng(2)
    cells = np.zeros(4000, PAIR_CELL)
    cells["weight"], cells["variance"] = 1, 0.1**2
    # Half of the difference's variance is that of each image, and a quarter that of their mean.
    cells["brightness"] = rng.normal(3.3, 0.05, 4000)
    assert_allclose(common_steps(cells, (Rounding(1.0), Rounding())), [1, 0], rtol=5e-3)
    cells["brightness"] += np.linspace(0, 0.5, 4000)
    assert_allclose(common_steps(cells, (Rounding(1.0), Rounding())), [2 / np.pi, 0], rtol=0.02)


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3])
def test_squared_errors_of_neighbours(noise):
    """Variances are those of stars, and tell nothing."""
    rng = np.random.default_rng(6)
    level = rng.uniform(-0.5, 0.5, (200, 6))
    whole = np.arange(-6, 7)
    edges = (np.append(whole, 7) - 0.5 - level[..., None]) / noise
    chance = np.diff(norm.cdf(edges), axis=-1)
    equal, one = np.sum(chance**2, -1), 2 * np.sum(chance[..., 1:] * chance[..., :-1], -1)
    neighbours = one / (equal + one) + rng.normal(0, 0.005, level.shape)
    found = np.array([squared_errors(np.full(6, 30.0), row).mean() for row in neighbours])
    true = np.square(chance @ whole - level).mean(axis=1)
    # Clipping of few values adds to the errors of means.
    assert 0.8 < np.sqrt(found.mean() / true.mean()) < 2
    # Nothing is added with much noise.
    assert (squared_errors(np.full(6, 30.0), np.full(6, 0.6)) < 1e-9).all()


def test_rounded_images_widen_their_pairs():
    # Levels at positions between two steps that are even, with noise of 0.2 of a step.
    level = np.linspace(-0.5, 0.5, 12, endpoint=False)
    chance = norm.cdf((level - 0.5) / 0.2), norm.cdf((-level - 0.5) / 0.2)
    error = chance[0] - chance[1] - level
    after = np.sqrt(chance[0] + chance[1] - (chance[0] - chance[1]) ** 2)
    table = coincident(after, step=(1.0, 1.0))
    found = widen_rounded(table)
    added = (found.sigma**2 - table.sigma**2) / (2 * np.mean(error**2))
    assert_allclose(added, 1, rtol=0.3)
    assert_allclose(found.level, table.level)
    assert widen_rounded(coincident(after)).sigma[0] == coincident(after).sigma[0]


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_stated_errors_of_whole_numbers(paint, step):
    pulls = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        levels = rng.normal(0, 3, 4)
        images = []
        for k, level in enumerate(levels):
            shift = tuple(rng.uniform(-8, 8, 2))
            image = paint(
                f"{k}.fits", shift, noise=0.2 * step, seed=seed, dtype="f8", sky=(5, 0, 0)
            )
            image.data[:] = step * np.round((image.data + level) / step)
            images.append(image)
        table = lm.match_dithers(images, group_by=lambda name, meta: "one").table
        error = table["level"].value - (levels - levels.mean())
        pulls.append(error / table["error"].value)
    assert 0.6 < np.sqrt(np.mean(np.square(pulls))) < 1.3


def test_rows_of_a_table_keep_constant_columns_small():
    rows = np.zeros(6, PAIR)
    rows["sigma"] = np.arange(6) + 1.0
    rows["strips"] = np.arange(6)[:, None, None]
    table = pair_table(np.stack([np.zeros(6, int), np.arange(6) + 1], axis=1), rows)
    assert table.take(np.ones(6, dtype=bool)) is table
    for chosen in (np.array([4, 1]), np.arange(6) > 3, slice(2, 5)):
        assert_allclose(table.take(chosen).sigma, rows["sigma"][chosen])
        assert_allclose(table.take(chosen).strips, rows["strips"][chosen])
        bare = table.without_strips().take(chosen)
        assert bare.strips.shape == table.take(chosen).strips.shape
        assert not bare.strips.any()
        assert bare.strips.strides[0] == 0
        assert_allclose(bare.sigma, rows["sigma"][chosen])
