# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of stars whose wings differ between images, on analytic skies of Moffat profiles."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.nddata import CCDData

import levelmatch as lm
from conftest import painted_wcs
from levelmatch.measure.table import PAIR, empty_pair, pair_table
from levelmatch.solve.equations import NONE_KNOWN, KnownErrors
from levelmatch.solve.groups import solve_groups
from levelmatch.solve.solution import GaugedCovariance
from levelmatch.solve.solve_pass import equations_of
from levelmatch.solve.wings import Wings, _wings_of_term, find_wings
from levelmatch.summary import notes

SIDE = 200
STEP = 170
SCALE = 0.1
NOISE = 0.25
SLOPES = "slope_u", "slope_v"


def moffat(x, y, flux, fwhm, beta):
    """Return a Moffat profile of a given flux, at distances in pixels."""
    width = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    return flux * (beta - 1) / (np.pi * width**2) * (1 + (x**2 + y**2) / width**2) ** -beta


def draw_stars(rng, number, most=3e4):
    """Return columns, rows and fluxes of stars, in pixels of the middle image."""
    uniform = rng.uniform(size=number)
    flux = (100**-0.8 + uniform * (most**-0.8 - 100**-0.8)) ** (-1 / 0.8)
    return np.stack([*rng.uniform(-STEP - 60, STEP + SIDE + 60, (2, number)), flux], axis=1)


def render(stars, shift, fwhm, beta=3.0):
    """Return an image, at a shift (x, y), of the stars through a PSF: means of 3 x 3 points."""
    fine = np.arange(3 * SIDE) / 3 - 1 / 3
    out = np.zeros((SIDE, SIDE))
    for x, y, flux in stars:
        reach = 20 + 40 * min(flux / 1e4, 1)
        x, y = x - shift[0], y - shift[1]
        if max(abs(x - SIDE / 2), abs(y - SIDE / 2)) > SIDE / 2 + reach:
            continue
        rows, columns = (np.flatnonzero(np.abs(np.arange(SIDE) - at) < reach) for at in (y, x))
        fine_y, fine_x = ((3 * part[:, None] + np.arange(3)).ravel() for part in (rows, columns))
        values = moffat(fine[fine_x][None] - x, fine[fine_y][:, None] - y, flux, fwhm, beta)
        means = values.reshape(len(rows), 3, len(columns), 3).mean((1, 3))
        out[np.ix_(rows, columns)] += means
    return out


def image_of(rng, sky, shift, name):
    """Return an image of a sky, with the noise of photons and of the detector."""
    data = sky + rng.normal(0, 1, sky.shape) * np.sqrt(NOISE**2 + 0.02 * sky)
    wcs = painted_wcs(shape=(SIDE, SIDE), scale=SCALE)
    wcs.wcs.crpix -= shift
    return CCDData(data, unit="MJy/sr", wcs=wcs, meta={"FILENAME": name})


def draw_set(seed, layout, widths, number=1400, beta=3.0):
    """Return images of one sky, and their levels: a mosaic of 3 x 3, or dithers."""
    rng = np.random.default_rng([seed, 77])
    widths = rng.uniform(*widths, 9 if layout == "mosaic" else 6)
    stars, levels = draw_stars(rng, number), rng.uniform(0, 3, len(widths))
    images = []
    for k, (fwhm, level) in enumerate(zip(widths, levels, strict=True)):
        shift = STEP * (k % 3 - 1), STEP * (k // 3 - 1)
        shift = shift if layout == "mosaic" else rng.uniform(-12, 12, 2)
        image = image_of(rng, render(stars, shift, fwhm, beta) + 2, shift, f"{k}.fits")
        images.append(image.add(level * image.unit, handle_meta="first_found"))
    return images, levels


def draw_halos(seed, width):
    """Return dithers of stars with halos of 8 to 32 % of their light, and their levels."""
    rng = np.random.default_rng([seed, 78])
    stars, levels = draw_stars(rng, 1000), rng.uniform(0, 3, 6)
    images = []
    for k, level in enumerate(levels):
        shift, part = rng.uniform(-12, 12, 2), 0.2 * rng.uniform(0.4, 1.6)
        sky = (1 - part) * render(stars, shift, 2.5) + part * render(stars, shift, width)
        images.append(image_of(rng, sky + 2 + level, shift, f"{k}.fits"))
    return images, levels


def match(images, layout="mosaic", **options):
    """Return the result, and the texts of warnings of wings."""
    function = lm.match_mosaic if layout == "mosaic" else lm.match_dithers
    if layout == "mosaic":
        options |= {"group_by": lambda name, meta: name, "reference": "mean"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(images, **options)
    return result, [str(w.message) for w in caught if w.category is lm.WingsWarning]


def pulls_of(result, levels):
    """Return errors without their mean, in units of the stated ones."""
    error = result.table["level"].value - levels
    return (error - error.mean()) / result.table["error"].value


def rms(values):
    """Return the root of the mean square."""
    return np.sqrt(np.mean(np.square(values)))


@pytest.mark.parametrize(("layout", "beta"), [("mosaic", 2.5), ("mosaic", 3.0), ("dithers", 3.0)])
def test_seeing_that_varies_is_in_the_errors(layout, beta):
    """Without the effect, true errors are 2.2 and more times the stated ones."""
    pulls, warned = [], 0
    for seed in range(6):
        images, levels = draw_set(seed, layout, (2.5, 4.5), beta=beta)
        result, said = match(images, layout)
        pulls.append(pulls_of(result, levels))
        warned += len(said)
    assert 0.7 < rms(pulls) < (1.7 if layout == "mosaic" else 1.4)
    assert warned >= (2 if layout == "mosaic" else 5)


@pytest.mark.parametrize("layout", ["mosaic", "dithers"])
def test_one_psf_changes_nothing(layout, monkeypatch):
    for seed in range(6):
        images, _ = draw_set(seed, layout, (3.5, 3.5))
        result, said = match(images, layout)
        assert said == []
        assert np.count_nonzero(np.isfinite(result.measured.wings)) > 0.5 * len(result.pairs)
        with monkeypatch.context() as patch:
            without_effects(patch)
            other, _ = match(images, layout)
        np.testing.assert_array_equal(result.table["error"], other.table["error"])


def test_the_warning_names_the_image_and_the_remedy():
    rng = np.random.default_rng(3)
    stars, images = draw_stars(rng, 700), []
    for k, fwhm in enumerate([3.0, 3.0, 4.5, 3.0]):
        shift = rng.uniform(-12, 12, 2)
        images.append(image_of(rng, render(stars, shift, fwhm) + 2, shift, f"{'abcd'[k]}.fits"))
    result, said = match(images, "dithers")
    assert len(said) == 1
    assert "The widest are those of c.fits. mask_sources masks stars" in said[0]
    assert any("Wings of stars differ" in note for note in notes(result))
    assert np.argmax(result.table["level"]) == 2
    _, masked = match(images, "dithers", measure=lm.MeasureOptions(mask_sources=True))
    assert masked == []


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_wide_halos_are_in_the_errors(fit_type, monkeypatch):
    """Without the light of wide surroundings, true errors are twice the stated ones and more."""
    pulls, near, warned = [], [], 0
    for seed in range(4):
        images, levels = draw_halos(seed, 25)
        result, said = match(images, "dithers", fit_type=fit_type)
        pulls.append(pulls_of(result, levels))
        warned += len(said)
        with monkeypatch.context() as patch:
            patch.setattr("levelmatch.solve.run.find_wings", _wings_of_term)
            other, _ = match(images, "dithers", fit_type=fit_type)
        near.append(pulls_of(other, levels))
    assert rms(near) > 1.8
    assert 0.6 < rms(pulls) < 1.4
    assert warned >= 3


def without_effects(patch):
    """Leave the errors of levels as they are."""
    none = lambda table: Wings(np.zeros(0), np.zeros(len(table)), 1.0)  # noqa: E731
    patch.setattr("levelmatch.solve.run.find_wings", none)


@pytest.mark.parametrize("layout", ["mosaic", "dithers"])
def test_levels_stay_where_errors_grow(layout, monkeypatch):
    images, _ = draw_set(2, layout, (2.5, 4.5))
    result, said = match(images, layout)
    assert said
    without_effects(monkeypatch)
    before, _ = match(images, layout)
    ratio = result.table["error"] / before.table["error"]
    assert np.all(ratio > 1.1)
    np.testing.assert_allclose(ratio, ratio[0])
    np.testing.assert_array_equal(result.table["level"], before.table["level"])


def test_less_certain_wings_are_in_the_errors_without_a_warning(monkeypatch):
    images, _ = draw_set(2, "dithers", (2.5, 4.5))
    result, _ = match(images, "dithers")
    monkeypatch.setattr("levelmatch.solve.wings.CHANCE_WARNED", 0.0)
    other, said = match(images, "dithers")
    assert said == []
    np.testing.assert_array_equal(other.table["error"], result.table["error"])


def test_seeing_that_varies_is_in_the_errors_of_planes(monkeypatch):
    """Without the effect, true errors of levels are many times the stated ones."""
    pulls, before, slopes = [], [], []
    for seed in range(4):
        images, levels = draw_set(seed, "dithers", (2.5, 4.5))
        result, said = match(images, "dithers", fit_type="level+slope")
        assert "Errors of levels include this" in said[0]
        pulls.append(pulls_of(result, levels))
        slopes += [result.table[f"{c}"] / result.table[f"{c}_error"] for c in SLOPES]
        with monkeypatch.context() as patch:
            without_effects(patch)
            other, _ = match(images, "dithers", fit_type="level+slope")
        before.append(pulls_of(other, levels))
        np.testing.assert_array_equal(result.table["level"], other.table["level"])
        for c in SLOPES:
            np.testing.assert_array_equal(result.table[f"{c}_error"], other.table[f"{c}_error"])
    assert rms(before) > 2
    assert 0.6 < rms(pulls) < 1.3
    assert rms(slopes) < 1.4


def test_blocks_of_planes_are_computed_once(monkeypatch):
    """Most of the time of large solutions of planes is theirs."""
    calls, blocks = [], GaugedCovariance._blocks
    monkeypatch.setattr(GaugedCovariance, "_blocks", lambda c: calls.append(1) or blocks(c))
    images, _ = draw_set(2, "dithers", (2.5, 4.5))
    solution = match(images, "dithers", fit_type="level+slope")[0].passes[0].solution
    calls.clear()
    covariance = solution.covariance_of()
    assert np.ptp(covariance.inflation) > 0
    assert len(covariance.blocks(3)) == len(images)
    assert len(calls) == 1


def test_errors_of_planes_are_those_of_their_covariance():
    images, _ = draw_set(2, "dithers", (2.5, 4.5))
    for options in ({}, {"slope_gauge": "mean", "slope_prior": 0.1}):
        options = {"fit_type": "level+slope", "solve": lm.SolveOptions(**options)}
        solution = match(images, "dithers", **options)[0].passes[0].solution
        blocks = solution._covariance.blocks(3)
        whole = solution.covariance_matrix
        columns = np.eye(len(whole))
        np.testing.assert_allclose(np.einsum("gii->gi", blocks).ravel(), np.diag(whole), rtol=1e-6)
        np.testing.assert_allclose(
            solution.covariance_of_sums(columns), whole, atol=1e-6 * whole.max()
        )
        assert np.linalg.eigvalsh(whole)[0] > -1e-9 * np.trace(whole)


def test_equal_psfs_have_no_effect():
    for seed in range(3):
        images, _ = draw_set(seed, "dithers", (3.5, 3.5))
        measured = match(images[:3], "dithers")[0].measured
        assert np.all(np.abs(measured.wings) < 3.5 * measured.wings_error)
        assert np.all(measured.wings_light > 0)


@pytest.fixture(scope="module")
def two():
    """Return two dithers with different PSFs, and the measured pair."""
    images = draw_set(1, "dithers", (2.5, 4.5))[0][:2]
    measured = match(images, "dithers")[0].measured
    assert abs(measured.wings[0]) > 3 * measured.wings_error[0]
    return images, measured


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_effects_have_the_unit_of_the_images(two, factor):
    images, measured = two
    scaled = [CCDData(factor * im.data, unit=im.unit, wcs=im.wcs, meta=im.meta) for im in images]
    other = match(scaled, "dithers")[0].measured
    for name in ("wings", "wide_wings"):
        for column in (name, f"{name}_error"):
            expected = factor * getattr(measured, column)
            np.testing.assert_allclose(getattr(other, column), expected, rtol=1e-6)
        term = f"{name}_term"
        np.testing.assert_allclose(getattr(other, term), getattr(measured, term), rtol=1e-6)
    np.testing.assert_allclose(other.wings_light, factor * measured.wings_light, rtol=1e-6)


def test_the_order_of_images_changes_the_sign(two):
    images, measured = two
    renamed = [
        CCDData(im, meta={"FILENAME": name}) for im, name in zip(images, ("b", "a"), strict=True)
    ]
    other = match(renamed, "dithers")[0].measured
    for name in ("wings", "wide_wings"):
        np.testing.assert_allclose(getattr(other, name), -getattr(measured, name), rtol=1e-6)
        error = f"{name}_error"
        np.testing.assert_allclose(getattr(other, error), getattr(measured, error), rtol=1e-6)


def ring_of(effect, *, error=0.02, sigma=0.1, light=10.0):
    """Return a table of pairs in a ring with effects of wings, the first minus the second."""
    n = len(effect)
    first = np.arange(n)
    second = (first + 1) % n
    rows = np.array([empty_pair()] * n, PAIR)
    rows["gram"] = sigma**-2 * np.eye(3)
    rows["rhs"], rows["sigma"], rows["npix"] = 0.0, sigma, 1000
    rows["wings"], rows["wings_error"] = 2 * effect, 2 * error
    rows["wings_term"], rows["wings_light"] = 0.5, light
    return pair_table(np.stack([first, second], axis=1), rows)


def solved_ring(table, counts=None):
    """Return the solution of a ring of pairs, each of which counts several times."""
    n = len(table)
    table = replace(table, multiplicity=np.ones(n) if counts is None else counts)
    axes = np.broadcast_to(np.eye(3), (n, 3, 3))
    equations = equations_of(table, np.arange(n), axes, 1)
    equations = replace(equations, known=KnownErrors(of_wings=find_wings(table).effects))
    return solve_groups(equations, lm.SolveOptions(floor=0.0, robust=None))


def effects_of(heights):
    """Return the effects on pairs in a ring of images with wings of given heights."""
    return heights - np.roll(heights, -1)


def test_errors_grow_by_the_effects_of_images():
    rng = np.random.default_rng(8)
    effect = effects_of(rng.normal(0, 0.5, 400))
    plain = solved_ring(ring_of(np.zeros(400)))
    found = solved_ring(ring_of(effect))
    ratio = found.errors / plain.errors
    np.testing.assert_allclose(ratio, ratio[0, 0])
    # The difference of two images has twice the variance of one.
    np.testing.assert_allclose(ratio[0, 0] ** 2, 1 + 2 * 0.5**2 / 0.1**2, rtol=0.15)
    np.testing.assert_array_equal(found.coefficients, plain.coefficients)


def test_errors_grow_with_any_weights():
    rng = np.random.default_rng(8)
    table = ring_of(effects_of(rng.normal(0, 0.5, 400)))
    axes = np.broadcast_to(np.eye(3), (400, 3, 3))
    equations = equations_of(table, np.arange(400), axes, 1)
    with_effects = replace(equations, known=KnownErrors(of_wings=find_wings(table).effects))
    options = lm.SolveOptions(floor=0.0, weights="equal")
    plain, found = (solve_groups(e, options) for e in (equations, with_effects))
    np.testing.assert_allclose(found.errors / plain.errors, np.sqrt(51), rtol=0.1)


def test_heights_of_wings_are_those_of_the_images():
    rng = np.random.default_rng(8)
    heights = rng.normal(0, 0.02, 40)
    table = ring_of(effects_of(heights) + rng.normal(0, 1e-3, 40), error=1e-3, sigma=0.01)
    found = find_wings(table)
    # The effects are halves of the differences of heights.
    np.testing.assert_allclose(
        found.heights, 2 * (heights - np.median(heights)), atol=2 * 4e-3 * np.sqrt(40) / 4
    )
    np.testing.assert_allclose(found.effects, effects_of(heights), atol=4e-3)


def test_larger_effects_of_the_two_terms_are_used():
    rng = np.random.default_rng(8)
    heights = rng.normal(0, 0.5, 60)
    table = ring_of(effects_of(heights))
    alone = find_wings(table)
    more = {"wide_wings_error": table.wings_error, "wide_wings_term": table.wings_term}
    for factor, larger in ((2.0, 2.0), (0.5, 1.0)):
        found = find_wings(replace(table, wide_wings=factor * table.wings, **more))
        np.testing.assert_allclose(found.effects, larger * alone.effects, rtol=0.01)
        np.testing.assert_allclose(found.heights, larger * alone.heights, rtol=0.01)
        assert found.chance <= alone.chance
    noise = np.tile([0.01, -0.01], 30)
    found = find_wings(replace(table, wings=noise, wide_wings=table.wings, **more))
    np.testing.assert_array_equal(found.effects, alone.effects)
    assert found is not find_wings(table)
    assert find_wings(table) is alone


def test_wide_term_is_not_used_where_the_near_one_is_unknown():
    heights = np.random.default_rng(8).normal(0, 0.5, 60)
    table = ring_of(effects_of(heights))
    wide = {f"wide_{name}": getattr(table, name) for name in ("wings", "wings_error", "wings_term")}
    unknown = np.full(60, np.nan)
    found = find_wings(replace(table, wings=unknown, wings_error=unknown, **wide))
    assert not found.effects.any()
    assert find_wings(replace(table, **wide)).effects.any()


def test_groups_share_the_effects_of_their_images():
    """Wings of single images average out in groups of several."""
    rng = np.random.default_rng(8)
    table = ring_of(effects_of(rng.normal(0, 0.5, 400)))
    effects = find_wings(table).effects
    axes = np.broadcast_to(np.eye(3), (20, 3, 3))
    equations = replace(
        equations_of(table, np.arange(400) % 20, axes, 1), known=KnownErrors(of_wings=effects)
    )
    solved = [
        solve_groups(e, lm.SolveOptions(floor=0.0, robust=None))
        for e in (equations, replace(equations, known=NONE_KNOWN))
    ]
    ratio = solved[0].errors / solved[1].errors
    assert 2 < ratio[0, 0] < 0.7 * np.sqrt(1 + 20 * 2 * 0.5**2 / 0.1**2)


def test_pairs_that_stand_for_several_count_several_times():
    rng = np.random.default_rng(8)
    table = ring_of(effects_of(rng.normal(0, 0.5, 400)))
    one, four = solved_ring(table), solved_ring(table, counts=np.full(400, 4.0))
    # Errors are those of four times the pairs; the effect of an image is the same.
    np.testing.assert_allclose(four.errors, one.errors, rtol=0.02)


@pytest.mark.parametrize(
    "case", ["noise", "one star", "unknown", "no light", "inconsistent", "gains"]
)
def test_effects_that_are_not_those_of_wings(case):
    rng = np.random.default_rng(9)
    effect, light, error = rng.normal(0, 0.02, 60), 10.0, 0.02
    if case == "one star":
        effect[3] = 5.0
    elif case == "unknown":
        effect[:], error = np.nan, np.inf
    elif case == "no light":
        effect, light = effects_of(rng.normal(0, 0.5, 60)), 0.2
    elif case == "inconsistent":
        effect = np.full(60, 0.2)
    elif case == "gains":
        effect = effects_of(rng.normal(0, 0.1, 60))
    table = ring_of(effect, error=error, light=light)
    if case == "gains":
        assert find_wings(table).effects.any()
        table = replace(table, gain=np.full(60, 0.05), gain_error=np.full(60, 1e-3))
    found = find_wings(table)
    assert not found.effects.any()
    assert not found.heights.any()
