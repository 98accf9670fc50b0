# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of patterns that stay with the detector, on flat skies."""

import warnings

import numpy as np
import pytest
from helpers import DARK

import levelmatch as lm
from levelmatch.solve.slope_fit import SlopeFit
from levelmatch.summary import notes
from levelmatch.testing import simulate_generic

SIDE = 64


def grid_of(paint, n, pattern, *, seed=0, noise=0.05, step=44):
    """Return images of an n x n mosaic, each with its level and the pattern of its detector."""
    rng = np.random.default_rng(seed)
    images = []
    for k in range(n * n):
        offset = step * (k // n), step * (k % n)
        image = paint(f"{k:03d}.fits", offset, level=rng.normal(), noise=noise, shape=(SIDE, SIDE))
        image.data = image.data + pattern.astype(image.data.dtype)
        images.append(image)
    return images


def bowl(size):
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, SIDE)], indexing="ij")
    return size * (x**2 + y**2 - 2 / 3)


def solved(images, **options):
    return lm.match_mosaic(images, reference="mean", group_by="FILENAME", **options)


def test_a_bowl_shows_in_levels(paint):
    images = grid_of(paint, 3, bowl(0.5))
    with pytest.warns(lm.PatternWarning, match="the 9 images of the detector share a pattern"):
        result = solved(images)
    (found,) = result.passes[0].patterns
    # The standard deviation of x**2 + y**2 over the square is sqrt(8/45).
    assert found.size == pytest.approx(0.5 * np.sqrt(8 / 45), rel=0.05)
    assert not found.followed
    assert any("share a pattern" in note for note in notes(result))


def test_planes_follow_a_bowl(paint):
    images = grid_of(paint, 5, bowl(0.5))
    with pytest.warns(lm.PatternWarning, match="the slopes of their planes grow linearly"):
        result = solved(images, fit_type="level+slope")
    (found,) = result.passes[0].patterns
    # Planes of slope -2 a x on a mosaic with steps of 44 pixels form a paraboloid.
    place = 44 / (SIDE - 1) * 2 * (np.arange(5) - 2)
    bent = 0.5 * (place[:, None] ** 2 + place[None, :] ** 2)
    assert found.size == pytest.approx(np.std(bent), rel=0.05)
    assert found.followed


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_noise_is_no_pattern(paint, fit_type):
    for seed in range(3):
        result = solved(grid_of(paint, 3, np.zeros((SIDE, SIDE)), seed=seed), fit_type=fit_type)
        assert result.passes[0].patterns == ()


@pytest.mark.parametrize("own", [0.0, 0.5, 3.0])
def test_slopes_that_add_up_by_noise_are_no_pattern(own):
    """Errors of planes add up along a mosaic: slopes change smoothly across it by noise alone.

    Each neighbour has the slope of the other and a normal error; each image has a slope of its own.
    """
    places = np.argwhere(np.ones((3, 3), dtype=bool)).astype(float)
    links = np.linalg.norm(places[:, None] - places, axis=2) == 1
    covariance = np.linalg.pinv(np.diag(links.sum(axis=0)) - 1.0 * links)
    root = np.linalg.cholesky(covariance + 1e-9 * np.eye(9))
    rng, alone, known = np.random.default_rng(8), [], []
    for _ in range(4000):
        slopes = root @ rng.standard_normal((9, 2)) + own * rng.standard_normal((9, 2))
        fit = SlopeFit.of(places, slopes)
        errors = sum(w @ covariance @ w.T for w in fit.weights.swapaxes(0, 1))
        alone.append(fit.chance())
        known.append(fit.chance(errors))
    rates = [np.mean(np.array(chances) < 0.01) for chances in (alone, known)]
    assert rates[1] < 0.014
    assert rates[0] > 0.04 or own > 0


def test_a_gradient_of_slopes_is_found():
    places = np.argwhere(np.ones((4, 5), dtype=bool)).astype(float)
    gradient = np.array([[0.3, -0.1], [-0.1, 0.2]])
    noise = 0.02 * np.random.default_rng(3).standard_normal((20, 2))
    fit = SlopeFit.of(places, 5 + places @ gradient + noise)
    np.testing.assert_allclose(fit.gradient, gradient, atol=0.02)
    assert fit.chance(4e-4 * np.eye(3)) < 1e-6
    row = SlopeFit.of(places[:5], 5 + places[:5] @ gradient + noise[:5])
    assert row.n_terms == 2
    assert row.chance() < 1e-4


def test_offsets_of_rows_and_columns_are_no_pattern(paint):
    for axis in (0, 1):
        for seed in range(3):
            images = grid_of(paint, 3, np.zeros((SIDE, SIDE)), seed=seed)
            rng = np.random.default_rng([seed, axis])
            for image in images:
                offsets = 0.3 * rng.standard_normal(SIDE).astype(image.data.dtype)
                image.data += offsets[:, None] if axis == 0 else offsets
            assert solved(images).passes[0].patterns == ()


def test_gradients_of_single_images_are_no_pattern(paint):
    images = grid_of(paint, 3, np.zeros((SIDE, SIDE)))
    rng = np.random.default_rng(3)
    for image in images:
        image.data += rng.normal(0, 0.3) * np.linspace(-1, 1, SIDE, dtype=image.data.dtype)
    assert solved(images).passes[0].patterns == ()


def test_images_with_bowls_of_their_own():
    """Levels and planes do not follow individual bowls; individual planes are no pattern."""
    for kind, warned in (("bowl", True), ("plane", False)):
        images = list(
            simulate_generic(
                n_images=9,
                shape=(96, 96),
                overlap=0.35,
                noise=0.3,
                slope=0.0,
                seed=2,
                **DARK,
            ).images
        )
        y, x = np.meshgrid(*2 * [np.linspace(-1, 1, 96)], indexing="ij")
        for size, image in zip(np.random.default_rng(3).normal(0, 1, 9), images, strict=True):
            image.data += size * (x**2 + y**2 if kind == "bowl" else x - y)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = lm.match_mosaic(images, group_by="FILENAME")
        words = [str(w.message) for w in caught if w.category is lm.PatternWarning]
        assert bool(words) == warned
        if warned:
            assert "in ways that neither levels nor planes follow" in words[0]
            assert any("of their own or of the detector" in note for note in result.notes)


Y, X = np.meshgrid(*2 * [np.linspace(-1, 1, SIDE)], indexing="ij")
WAVE = np.cos(2.5 * np.pi * X) * np.cos(2 * np.pi * Y + 0.5)


def patterns_of(added, n_trials):
    """Return the patterns found in mosaics of 3 x 3 images; ``added(rng, k)`` is in image k."""
    options = {"n_images": 9, "shape": (SIDE, SIDE), "overlap": 0.35, "noise": 0.3, "slope": 0.0}
    out = []
    for seed in range(n_trials):
        plain = simulate_generic(**options, seed=seed, stars=False, nebula=False, galaxy=False)
        rng, images = np.random.default_rng([seed, 1]), list(plain.images)
        for k, image in enumerate(images):
            image.data += np.asarray(added(rng, k), dtype="f4")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lm.PatternWarning)
            out.append(solved(images).passes[0].patterns)
    return out


@pytest.mark.parametrize(
    "added",
    [
        lambda rng, k: 0.0,
        lambda rng, k: rng.normal(0, 0.2) * X + rng.normal(0, 0.2) * Y,
        # One bad image, in the middle and at a corner.
        lambda rng, k: 3.0 * (X < -0.4) * (k == 4),
        lambda rng, k: 2.0 * (Y > 0.3) * (k == 0),
    ],
    ids=["noise", "planes", "bad image", "bad image at a corner"],
)
def test_rate_of_false_alarms(added):
    assert sum(bool(found) for found in patterns_of(added, 16)) <= 1


@pytest.mark.parametrize("size", [0.2, 0.5])
def test_bowls_of_their_own_are_found(size):
    """Random bowls are told by slopes that planes do not follow, or by loops that close."""
    found = patterns_of(lambda rng, k: rng.normal(0, size) * (X**2 + Y**2), 16)
    assert sum(bool(f) for f in found) >= 14
    assert sum(not f[0].common for f in found if f) >= 9


def test_patterns_of_any_shape_are_found_where_offsets_repeat():
    """A wave is no polynomial; pairs of equal offset have equal slopes by it."""
    found = patterns_of(lambda rng, k: 0.3 * WAVE, 16)
    assert sum(bool(f) and f[0].common for f in found) >= 15
