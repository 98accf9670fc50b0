# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of automatic planes, closures, flux scales, ties by the sky, and budgets of pairs."""

import warnings

import numpy as np
import pytest
from helpers import DARK
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.sky.overlaps import components, thin_pairs
from levelmatch.solve.loops import find_closures
from levelmatch.summary import notes
from levelmatch.testing import level_errors, plane_errors, simulate_generic


def images_of(**options):
    simulation = simulate_generic(**{"shape": (96, 96), "overlap": 0.3, **DARK, **options})
    return simulation, list(simulation.images)


@pytest.mark.parametrize("reference", ["mean", 4])
def test_auto_leaves_levels_alone(reference):
    simulation, images = images_of(noise=0.3, slope=0.0, seed=1)
    options = {"reference": reference, "group_by": "FILENAME"}
    auto = lm.match_mosaic(images, fit_type="auto", **options)
    level = lm.match_mosaic(images, fit_type="level", **options)
    # The floor differs from that of levels, so the weights differ slightly.
    assert_allclose(auto.table["level"].value, level.table["level"].value, atol=0.02)
    assert (auto.table["slope_n_sigma"] == 0).all()
    # Values agree exactly, because headers and tables show them.
    for name in ("slope_u", "slope_u_error", "slope_v", "slope_v_error"):
        assert (auto.table[name].value == 0).all()


def test_auto_finds_the_one_slope():
    simulation, images = images_of(noise=0.3, slope=0.0, seed=2)
    y, x = np.mgrid[:96, :96]
    images[4].data += (0.01 * (x - 47.5)).astype("f4")
    result = lm.match_mosaic(images, fit_type="auto", reference="mean", group_by="FILENAME")
    significant = result.table["slope_n_sigma"] > 0
    assert list(np.flatnonzero(significant)) == [4]
    assert list(np.flatnonzero(result.table["slope_u"].value)) == [4]
    assert result.table["slope_n_sigma"][4] > 10
    clean = lm.match_mosaic(images, fit_type="level", reference="mean", group_by="FILENAME")
    assert np.std(level_errors(result.table["level"].value, simulation.truth).value) < np.std(
        level_errors(clean.table["level"].value, simulation.truth).value
    )


def test_auto_finds_all_slopes():
    simulation, images = images_of(noise=0.1, slope=2.0, seed=3)
    result = lm.match_mosaic(images, fit_type="auto", reference="mean", group_by="FILENAME")
    table = result.table
    found = np.stack([table[c].value for c in ("level", "slope_u", "slope_v")], axis=1)
    names = dict(zip(table["name"], found, strict=True))
    assert np.max(np.asarray(plane_errors(names, simulation.truth))) < 0.05


def test_the_scatter_of_slopes_is_the_injected_one():
    from levelmatch.sky.vectors import tangent_axes, unit_vectors
    from levelmatch.solve.equations import Equations
    from levelmatch.solve.groups import solve_groups
    from levelmatch.solve.plane_choice import slope_scatter

    number = np.arange(64).reshape(8, 8)
    first = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    second = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    axes = tangent_axes(unit_vectors(10 + 0.1 * (number.ravel() % 8), 0.1 * (number.ravel() // 8)))
    gram = np.tile(np.diag([1e4, 1e4, 1e4]), (len(first), 1, 1))
    middle = tangent_axes(axes[first, 0] + axes[second, 0])
    sizes = []
    for seed, size in enumerate([0.0] * 5 + [0.1] * 5):
        rng = np.random.default_rng(seed)
        equations = Equations(first, second, gram, np.zeros((len(first), 3)), middle, axes)
        true = size * rng.standard_normal((64, 3))
        difference = equations.differences(true) + 0.01 * rng.standard_normal((len(first), 3))
        equations = Equations(first, second, gram, 1e4 * difference, middle, axes)
        whole = solve_groups(equations, lm.SolveOptions(floor=0.0, robust=None))
        fitted, found = slope_scatter(equations, whole)
        assert found == (size > 0)
        sizes.append(fitted)
    # The trial scatters differ by factors of 1.5.
    assert_allclose(sizes[5:], 0.1, rtol=0.4)


def planes_of(images, reference, fit_type, prior=None):
    """Return levels and slopes, shape (n, 3), and their errors."""
    solve = lm.SolveOptions(slope_prior=prior)
    options = {"reference": reference, "group_by": "FILENAME", "solve": solve}
    table = lm.match_mosaic(images, fit_type=fit_type, **options).table
    columns = np.array([table[c].value for c in ("level", "slope_u", "slope_v")])
    errors = np.array([table[c].value for c in ("error", "slope_u_error", "slope_v_error")])
    return columns.T, errors.T


@pytest.mark.parametrize("reference", ["mean", 5])
@pytest.mark.parametrize("slope", [0.0, 0.3, 3.0])
def test_the_prior_from_the_data_is_near_the_best(slope, reference):
    squares = []
    fits = [("level", None), ("auto", None), ("level+slope", None), ("level+slope", "auto")]
    for seed in range(4):
        simulation, images = images_of(n_images=16, noise=0.5, slope=slope, seed=seed)
        for fit_type, prior in fits:
            found, _ = planes_of(images, reference, fit_type, prior)
            names = dict(zip(simulation.truth["name"], found, strict=True))
            squares.append(np.mean(np.asarray(plane_errors(names, simulation.truth)) ** 2))
    error = np.sqrt(np.mean(np.reshape(squares, (4, 4)), axis=0))
    assert error[3] < 1.1 * error[:3].min()


@pytest.mark.parametrize("slope", [0.3, 1.0])
def test_errors_with_the_prior_from_the_data(slope):
    pulls = []
    for seed in range(8):
        simulation, images = images_of(n_images=16, noise=0.5, slope=slope, seed=seed)
        found, errors = planes_of(images, "mean", "level+slope", "auto")
        truth = simulation.truth
        true = np.array([truth[c].value for c in ("slope_u", "slope_v")]).T
        true -= true.mean(axis=0)
        pulls.append((found[:, 1:] - true) / errors[:, 1:])
    assert 0.8 < np.sqrt(np.mean(np.square(pulls))) < 1.25


def test_the_prior_from_the_data_has_the_size_of_the_slopes():
    """Slopes with a prior of the true scatter are nearly the same."""
    simulation, images = images_of(n_images=16, noise=0.5, slope=0.6, seed=1)
    truth = simulation.truth
    size = float(np.hypot(truth["slope_u"].value.std(), truth["slope_v"].value.std()) / np.sqrt(2))
    found, errors = planes_of(images, "mean", "level+slope", "auto")
    known, with_known = planes_of(images, "mean", "level+slope", size)
    free, _ = planes_of(images, "mean", "level+slope")
    assert_allclose(errors[:, 1:], with_known[:, 1:], rtol=0.25)
    change = np.abs(found - known)[:, 1:].max()
    assert change < 0.3 * np.abs(free - known)[:, 1:].max()


def test_the_prior_of_auto_is_from_the_data():
    _, images = images_of(n_images=16, noise=0.5, slope=0.6, seed=2)
    one, two = (planes_of(images, "mean", "auto", prior) for prior in (None, "auto"))
    assert_allclose(one, two, rtol=0, atol=0)


def test_records_and_passes_of_levels_take_the_prior_from_the_data():
    _, images = images_of(n_images=9, noise=0.5, slope=0.6, seed=2)
    solve = lm.SolveOptions(slope_prior="auto")
    options = {"group_by": "FILENAME", "reference": "mean"}
    result = lm.match_mosaic(images, fit_type="level+slope", solve=solve, **options)
    level = lm.match_mosaic(images, **options)
    again = lm.solve_record(
        level.record, fit_type={"mosaic": "level+slope"}, solve={"slope_prior": "auto"}
    )
    assert again.options["solve"]["slope_prior"] == "auto"
    assert_allclose(again.table["slope_u"].value, result.table["slope_u"].value, rtol=1e-6)
    back = lm.solve_record(result.record, fit_type={"mosaic": "level"})
    assert_allclose(back.table["level"].value, level.table["level"].value, rtol=1e-6)


def test_closures_of_exact_levels():
    level = np.array([3.0, 1.0, -2.0, 0.5])
    first, second = np.array([0, 1, 0, 2, 0]), np.array([1, 2, 2, 3, 3])
    difference = level[first] - level[second]
    _, loops, closure, sigma = find_closures(first, second, difference, np.full(5, 0.1))
    assert len(closure) == 5 - 4 + 1
    assert_allclose(closure, 0, atol=1e-12)
    assert_allclose(sigma, 0.1 * np.sqrt([len(pairs) for pairs in loops]))


@pytest.mark.parametrize("bad", range(5))
def test_closures_tell_the_wrong_pair(bad):
    level = np.array([3.0, 1.0, -2.0, 0.5])
    first, second = np.array([0, 1, 0, 2, 0]), np.array([1, 2, 2, 3, 3])
    difference = level[first] - level[second]
    difference[bad] += 1.0
    _, loops, closures, _ = find_closures(first, second, difference, np.full(5, 0.1))
    for pairs, closure in zip(loops, closures, strict=True):
        assert_allclose(abs(closure), 1.0 if bad in pairs else 0.0, atol=1e-12)
    assert any(bad in pairs for pairs in loops)


def test_closures_of_a_result():
    simulation, images = images_of(noise=0.3, seed=4)
    result = lm.match_mosaic(images, group_by="FILENAME")
    closures = result.closures
    kept = int(result.pairs["kept"].sum())
    assert len(closures) == kept - len(images) + 1
    assert 0.3 < closures.meta["rms"] < 1.6
    assert closures["closure"].unit == images[0].unit


def test_covariance_is_that_of_the_table():
    _, images = images_of(noise=0.3, seed=4)
    result = lm.match_mosaic(images, fit_type="level+slope", group_by="FILENAME", reference="mean")
    for i in (0, 5):
        covariance = result.covariance(i, i)
        assert_allclose(np.sqrt(covariance[0, 0]), result.table["error"][i].value)
        assert_allclose(np.sqrt(covariance[1, 1]), result.table["slope_u_error"][i].value)
    assert_allclose(result.covariance(1, 2), result.covariance(2, 1).T, atol=1e-12)


def wrong_scale():
    simulation = simulate_generic(n_images=4, shape=(160, 160), noise=0.05, overlap=0.5, seed=6)
    images = list(simulation.images)
    images[2].data *= 1.1
    return simulation, images


def test_a_wrong_flux_scale_is_warned_of():
    _, images = wrong_scale()
    with pytest.warns(
        lm.FluxScaleWarning, match=r"differ in flux scale by more than 3%.*flux_scale"
    ):
        result = lm.match_mosaic(images, group_by="FILENAME")
    pairs = result.pairs
    odd = (pairs["image1"] == "image_00002.fits") | (pairs["image2"] == "image_00002.fits")
    sure = pairs["gain_error"] < 0.02
    assert sure[odd].any()
    assert_allclose(np.abs(pairs["gain"][odd & sure]), 0.095, atol=0.03)
    assert_allclose(pairs["gain"][~odd & sure], 0, atol=0.02)


def test_flux_scale_mends_it():
    simulation, images = wrong_scale()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_name = lm.match_mosaic(
            images,
            group_by="FILENAME",
            reference=0,
            read=lm.ReadOptions(
                flux_scale={f"image_{k:05d}.fits": 1 / 1.1 if k == 2 else 1 for k in range(4)}
            ),
        )
        in_order = lm.match_mosaic(
            images,
            group_by="FILENAME",
            reference=0,
            read=lm.ReadOptions(flux_scale=[1, 1, 1 / 1.1, 1]),
        )
    levels = by_name.table["level"].value
    assert_allclose(in_order.table["level"].value, levels)
    truth = simulation.truth["level"].value - simulation.truth["level"].value[0]
    # The true level was scaled together with the image, and the reference was not.
    shift = simulation.truth["level"].value[0]
    expected = truth.copy()
    expected[2] = 1.1 * (truth[2] + shift) - 1.1 * shift
    assert_allclose(levels, expected, atol=0.02)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([1, 2], "flux_scale: 2 factors for 3 images"),
        ([1, 0, 1], "image_00001.fits: flux_scale: the factor"),
        ({"image_00000.fits": 1}, "image_00001.fits: flux_scale: the factor is missing"),
        ("MAGZP", "image_00000.fits: flux_scale: the keyword 'MAGZP' is missing"),
    ],
)
def test_bad_flux_scale(value, match):
    _, images = images_of(n_images=3, seed=1)
    with pytest.raises(ValueError, match=match):
        lm.match_mosaic(images, read=lm.ReadOptions(flux_scale=value))
    with pytest.raises(TypeError, match="flux_scale: 3 is neither a keyword, a list nor"):
        lm.match_mosaic(images, read=lm.ReadOptions(flux_scale=3))


def two_fields():
    images = []
    for center, seed in (((10.0, 0.0), 1), ((20.0, 0.0), 2)):
        simulation = simulate_generic(
            n_images=4, shape=(64, 64), overlap=0.4, noise=0.1, center=center, seed=seed, **DARK
        )
        for k, image in enumerate(simulation.images):
            image.meta["FILENAME"] = f"{seed}-{k}.fits"
            images.append(image)
    return images


def test_disconnected_sets_are_refused_if_asked():
    with pytest.raises(
        lm.DisconnectedError,
        match="pass mosaic: the images form 2 sets without overlap between them",
    ):
        lm.match_mosaic(
            two_fields(), group_by="FILENAME", solve=lm.SolveOptions(disconnected="error")
        )


def test_disconnected_sets_are_tied_by_their_sky():
    images = two_fields()
    for image in images[4:]:
        image.data += np.float32(50)
    result = lm.match_mosaic(images, group_by="FILENAME", solve=lm.SolveOptions(disconnected="sky"))
    sky = [np.median(image.data[~image.mask]) for image in result]
    assert_allclose(sky, np.mean(sky), atol=0.02)
    assert "clipped sky level" in result.gauge
    words = "2 sets without overlap were tied by their sky; errors do not include that tie."
    assert words in notes(result)
    assert not any("do not compare" in note for note in notes(result))


def test_budget_keeps_all_linked():
    rng = np.random.default_rng(0)
    n = 60
    pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n)])
    area = rng.random(len(pairs))
    keep, part = thin_pairs(pairs, area, n, 10)
    assert components(pairs[keep], n)[0] == 1
    degree = np.bincount(pairs[keep].ravel(), minlength=n)
    # The connecting pairs may exceed the budget slightly.
    assert degree.max() <= 14
    assert np.median(degree) == 10
    assert_allclose(part.mean(), 10 / (n - 1), rtol=0.1)


def test_budget_of_equal_overlaps_is_not_used_up():
    n = 60
    pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n)])
    area = np.random.default_rng(0).uniform(0.7, 1, len(pairs))
    keep, part = thin_pairs(pairs, area, n, 12)
    assert components(pairs[keep], n)[0] == 1
    assert np.median(np.bincount(pairs[keep].ravel(), minlength=n)) == 8
    assert_allclose(part.mean(), 8 / (n - 1), rtol=0.1)


def test_budget_of_a_chain_is_the_chain():
    pairs = np.stack([np.arange(50), np.arange(1, 51)], axis=1)
    keep, part = thin_pairs(pairs, np.ones(50), 51, 2)
    assert keep.all()
    assert (part == 1).all()


def test_budget_costs_little():
    simulation, images = images_of(
        n_images=20, shape=(64, 64), layout="pile", overlap=0.85, noise=0.5, seed=7
    )
    errors = []
    for budget in (None, 6):
        result = lm.match_dithers(
            images, group_by=lambda name, meta: "t", solve=lm.SolveOptions(max_pairs=budget)
        )
        errors.append(np.std(level_errors(result.table["level"].value, simulation.truth).value))
    assert len(result.pairs) < 0.4 * 190
    assert errors[1] < 1.4 * errors[0]
    # Noise of the mean over all pixels of an image.
    assert_allclose(result.table["error"].value.mean(), 0.5 / 64, rtol=0.2)


def test_sources_can_be_masked():
    simulation = simulate_generic(n_images=4, shape=(128, 128), overlap=0.4, noise=0.2, seed=8)
    images = list(simulation.images)
    plain = lm.match_mosaic(images, group_by="FILENAME")
    masked = lm.match_mosaic(
        images, group_by="FILENAME", measure=lm.MeasureOptions(mask_sources=True)
    )
    assert masked.pairs["npix"].sum() < 0.99 * plain.pairs["npix"].sum()
    errors = level_errors(masked.table["level"].value, simulation.truth).value
    assert np.std(errors) < 0.03
