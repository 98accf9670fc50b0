# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of flux scales: differences are found, and flats, astrometry and seeing cause none."""

import warnings

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.measure import gains
from levelmatch.measure._gains import deviation, median
from levelmatch.measure.table import empty_pair, pair_table
from levelmatch.solve.flux_scales import (
    ScaleDifference,
    flux_differences,
    flux_text,
    scale_scatter,
    scatter_text,
    shift_variances,
)
from levelmatch.summary import notes

SIDE, STEP = 160, 90


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1001])
@pytest.mark.parametrize("kind", ["counts", "noise", "sorted", "reversed", "constant", "valley"])
def test_medians_are_those_of_numpy(n, kind):
    rng = np.random.default_rng(n)
    values = rng.integers(0, 7, n) * 0.1 if kind == "counts" else rng.normal(size=n)
    if kind in ("sorted", "reversed"):
        values = np.ascontiguousarray(np.sort(values)[:: 1 if kind == "sorted" else -1])
    elif kind == "constant":
        values[:] = values[0]
    elif kind == "valley":
        values = np.abs(np.arange(n) - n / 2)
    kept = values.copy()
    assert median(values) == np.median(values)
    np.testing.assert_array_equal(values, kept)
    with pytest.raises(ValueError, match="there are none"):
        median(np.zeros(0))


def test_deviation_is_that_of_numpy():
    values = 1e6 + np.random.default_rng(0).normal(size=500)
    assert_allclose(deviation(values), values.std(), rtol=1e-9)


class Sky:
    """Field of stars, clouds of emission, or both."""

    def __init__(self, rng, *, stars, clouds):
        size = SIDE + 2 * STEP
        self.stars = np.stack(
            [*rng.uniform(0, size, (2, stars)), 300 * (0.3 + rng.pareto(1.5, stars)).clip(0, 30)]
        ).T
        self.clouds = np.stack(
            [*rng.uniform(0, size, (2, clouds)), rng.uniform(10, 40, clouds)]
            + [rng.uniform(15, 60, clouds)]
        ).T

    def at(self, y0, x0, fwhm):
        """Return the image of the field from a corner on."""
        y, x = np.mgrid[:SIDE, :SIDE] + np.array([y0, x0])[:, None, None]
        s2 = (fwhm / 2.3548) ** 2
        out = np.zeros((SIDE, SIDE))
        for b, a, peak, width in self.clouds:
            w2 = width**2 + s2
            r2 = (y - b) ** 2 + (x - a) ** 2
            out += peak * width**2 / w2 * np.exp(-r2 / (2 * w2))
        for b, a, flux in self.stars:
            if -20 < b - y0 < SIDE + 20 and -20 < a - x0 < SIDE + 20:
                profile = (
                    np.exp(-((y[:, 0] - b) ** 2) / (2 * s2)),
                    np.exp(-((x[0] - a) ** 2) / (2 * s2)),
                )
                out += flux / (2 * np.pi * s2) * np.outer(*profile)
        return out


def compare_emission(index, count, first, second):
    """Compare two images without stars, whose cells count equally."""
    columns = (first, second, 0.5 * (first + second), np.ones(len(count)))
    return gains.compare_emission(index, count, columns, index.astype(float))


def waves(rng):
    """Return a pattern of low frequency with unit scatter."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    out = sum(np.cos(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(-1.2, 1.2, (3, 3)))
    return (out - out.mean()) / out.std()


def images_of(seed, kind="", *, stars=0, clouds=0, n=3, factor=1.0):
    """Return images in ``n`` rows of ``n``; the last has another flux scale."""
    rng = np.random.default_rng([seed, 5])
    sky = Sky(rng, stars=stars, clouds=clouds)
    images = []
    for k in range(n * n if n > 2 else 2):
        row, column = divmod(k, n)
        y0, x0 = row * STEP + rng.uniform(-2, 2), column * STEP + rng.uniform(-2, 2)
        shift = rng.normal(0, 0.3, 2) if kind == "astrometry" else (0, 0)
        fwhm = rng.uniform(3, 6) if kind == "seeing" else 3.0
        data = sky.at(y0 + shift[0], x0 + shift[1], fwhm) + 100
        if kind == "flats":
            data *= 1 + 0.01 * waves(rng)
        if kind in ("flats", "gradients"):
            data += rng.normal(0, 1) * waves(rng)
        scale = factor if k == (n * n if n > 2 else 2) - 1 else 1.0
        data = scale * (data + rng.normal(0, 1, data.shape)) + rng.normal(0, 3)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval = 150, 2
        wcs.wcs.cdelt = -1 / 3600, 1 / 3600
        wcs.wcs.crpix = 200 - x0, 200 - y0
        name = f"i{k}.fits"
        images.append(CCDData(data.astype("f4"), unit="adu", wcs=wcs, meta={"FILENAME": name}))
    return images


def match(images, **options):
    """Return the result, and the warnings of flux scales."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = lm.match_mosaic(images, group_by="FILENAME", **options)
    return result, [str(w.message) for w in seen if w.category is lm.FluxScaleWarning]


@pytest.mark.parametrize("kind", ["flats", "gradients", "astrometry", "seeing"])
@pytest.mark.parametrize("sky", [{"stars": 400}, {"clouds": 6}, {"stars": 400, "clouds": 6}])
def test_nothing_is_said_of_equal_scales(kind, sky):
    said = [text for seed in range(4) for text in match(images_of(seed, kind, **sky))[1]]
    assert said == []


@pytest.mark.parametrize("factor", [1.05, 0.9, 1.5, 3.2, 0.25, 20.0, 900.0])
@pytest.mark.parametrize("sky", [{"stars": 1200}, {"clouds": 40}])
@pytest.mark.parametrize("n", [2, 3])
def test_other_scales_are_found(factor, sky, n):
    result, said = match(images_of(1, **sky, n=n, factor=factor))
    assert len(said) == 1
    (difference,) = flux_differences(result.measured, 0.03)
    names = [frame.name for frame in result.frames]
    assert names[difference.image] == f"i{n * n - 1 if n > 2 else 1}.fits"
    assert abs(np.log(difference.factor / factor)) < 4 * difference.error
    assert said[0].startswith(f"{names[difference.image]} differ in flux scale by more than 3%")
    assert f"{said[0]}." in notes(result)


def test_the_record_says_so_too(tmp_path):
    result, said = match(images_of(1, stars=600, n=2, factor=4.0))
    result.write(tmp_path)
    assert f"{said[0]}." in notes(lm.read_record(tmp_path / "levelmatch.asdf"))


# One pair


def cells(rng, shape=(12, 20), noise=0.05, emission=3.0):
    """Return cells of emission that two images share, and their noise."""
    index = np.argwhere(np.ones(shape, dtype=bool))
    bright = emission * rng.pareto(2.0, len(index)).clip(0, 20)
    return (
        index,
        np.full(len(index), 256.0),
        bright,
        *(noise * rng.standard_normal((2, len(index)))),
    )


@pytest.mark.parametrize("factor", [0.002, 0.3, 0.95, 1.0, 1.4, 50.0])
def test_gain_of_cells(factor):
    rng = np.random.default_rng(4)
    index, count, bright, one, two = cells(rng)
    gain, error = compare_emission(index, count, factor * (bright + one) + 70, bright + two - 5)[:2]
    truth = 2 * (factor - 1) / (factor + 1)
    assert abs(gain - truth) < 4 * error < 0.05
    other = compare_emission(index, count, bright + two - 5, factor * (bright + one) + 70)[0]
    assert_allclose(other, -gain, atol=error)


def test_errors_of_gains():
    rng = np.random.default_rng(11)
    sigmas = []
    for _ in range(60):
        index, count, bright, one, two = cells(rng, noise=0.3)
        gain, error = compare_emission(index, count, bright + one, bright + two)[:2]
        sigmas.append(gain / error)
    assert 0.6 < np.std(sigmas) < 1.2


@pytest.mark.parametrize(
    "case", ["noise", "one image alone", "constant", "few cells", "opposite", "not a number"]
)
def test_nothing_to_compare(case):
    rng = np.random.default_rng(2)
    index, count, bright, one, two = cells(rng)
    first, second = {
        "noise": (one, two),
        "one image alone": (bright + one, two),
        "constant": (0 * one, 0 * two),
        "few cells": (bright, bright),
        "opposite": (bright, -bright),
        "not a number": (np.zeros(len(one)), bright),
    }[case]
    rows = slice(10) if case == "few cells" else slice(None)
    gain, error = compare_emission(index[rows], count[rows], first[rows], second[rows])[:2]
    assert np.isnan(gain)
    assert error == np.inf


def test_an_artefact_of_one_image_is_no_scale():
    rng = np.random.default_rng(3)
    index, count, bright, one, two = cells(rng)
    one[:4] += 6
    gain, error = compare_emission(index, count, bright + one, bright + two)[:2]
    assert abs(gain) < max(4 * error, 0.03)


def test_many_cells_and_thin_overlaps():
    rng = np.random.default_rng(7)
    for shape in ((80, 70), (2, 40), (40, 1)):
        index, count, bright, one, two = cells(rng, shape)
        gain, error = compare_emission(index, count, 1.2 * (bright + one), bright + two)[:2]
        assert abs(gain - 0.4 / 2.2) < 4 * error < 0.2


def false_alarms(n_trials, factor=1.0):
    """Return the fraction of sets of six images, one of them noisy, with a reported difference."""
    found = 0
    pairs = np.array([(i, j) for i in range(6) for j in range(i + 1, 6)])
    error = np.array([0.002, 0.002, 0.03, 0.002, 0.002, 0.002])
    for seed in range(n_trials):
        rng = np.random.default_rng(seed)
        logs = error * rng.standard_normal(6)
        logs[2] += np.log(factor)
        rows = [empty_pair().copy() for _ in pairs]
        for row, (i, j) in zip(rows, pairs, strict=True):
            row["gain"] = 2 * np.tanh((logs[i] - logs[j]) / 2)
            row["gain_error"] = np.hypot(error[i], error[j])
        differences = flux_differences(pair_table(pairs, rows), 0.03)
        assert {d.image for d in differences} <= {2}
        found += len(differences)
    return found / n_trials


def test_the_noise_of_an_image_is_in_all_of_its_gains():
    """The mean of the gains of a noisy image with five others is not better than one of them."""
    assert false_alarms(200) <= 0.01
    assert false_alarms(20, factor=1.3) == 1


def test_sentence_on_flux_scales(paint):
    frames = [type("F", (), {"name": name}) for name in "abc"]
    assert flux_text(frames, [], 0.03) == ""
    several = [ScaleDifference(2, 0, 1.08, 0.01), ScaleDifference(1, 0, 0.9, 0.02)]
    text = flux_text(frames, several, 0.03)
    assert text.startswith("c and 1 more differ in flux scale by more than 3% from the other")
    assert "the first by +8.0% +- 1.0% relative to a" in text
    assert "by a factor 5 +- 1.0%" in flux_text(frames, [ScaleDifference(2, 0, 5.0, 0.01)], 0.03)


# --------------------------------------------------------------------------------------
# Scales that scatter


def galaxy_dithers(seed, scatter, kind="", *, n=6):
    """Return dithers of a galaxy, and their levels where the sky is dark."""
    rng = np.random.default_rng(seed)
    images, levels = [], rng.normal(0, 3, n)
    for k, level in enumerate(levels):
        y0, x0 = rng.uniform(-15, 15, 2)
        y, x = np.mgrid[:SIDE, :SIDE] + np.array([y0, x0])[:, None, None]
        radius = np.hypot((y - 80) / 0.6, x - 75)
        data = 50 * np.exp(-np.hypot(radius, 2) / 20)
        if kind == "compact":
            peaks = {4: 100, 10: 50, 20: 20, 35: 5}
            data = sum(p * np.exp(-0.5 * (radius / w) ** 2) for w, p in peaks.items())
        data *= 1 + scatter * rng.standard_normal()
        noise = 1.5 if kind == "depth" and k == 1 else 0.5
        data += level + noise * rng.standard_normal(data.shape)
        if kind == "rows":
            data += 0.5 * rng.standard_normal(SIDE)[:, None]
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval = 30.0, 1.0
        wcs.wcs.crpix = 80 - x0, 80 - y0
        wcs.wcs.cdelt = -1e-4, 1e-4
        images.append(CCDData(data, unit="MJy/sr", wcs=wcs, meta={"FILENAME": f"i{k}.fits"}))
    return images, levels


def pulls_of(result, levels):
    error = result.table["level"].value - levels
    error -= error.mean()
    return error / result.table["error"].value


def test_scales_that_scatter_widen_the_errors_and_are_said():
    """The true errors were 3 stated errors, without a warning."""
    pulls, texts = [], []
    for seed in range(12):
        images, levels = galaxy_dithers(seed, 0.01)
        result, said = match(images, reference="mean")
        pulls.append(pulls_of(result, levels))
        texts += said
        assert all(f"{text[:1].upper()}{text[1:]}." in notes(result) for text in said)
    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.3
    # By chance, the scales of one set hardly scatter.
    assert len(texts) >= 11
    scatter = [
        float(t.partition("scales of the images scatter by ")[2].split("%")[0]) for t in texts
    ]
    assert 0.7 < np.mean(scatter) < 1.3


@pytest.mark.parametrize(("n", "least"), [(3, 0.3), (4, 0.5), (6, 0.6)])
def test_bright_parts_that_hardly_count_widen_the_errors_less(n, least):
    """Stated errors were 2 to 8 times the true ones: bright cells count less, or not at all."""
    pulls = []
    for seed in range(12):
        images, levels = galaxy_dithers(seed, 0.1, "compact", n=n)
        result, _ = match(images, reference="mean")
        pulls.append(pulls_of(result, levels))
    assert least < np.sqrt(np.mean(np.square(pulls))) < 1.3


@pytest.mark.parametrize("kind", ["", "rows", "depth"])
def test_equal_scales_of_a_galaxy_change_nothing(kind):
    for seed in range(6):
        images, levels = galaxy_dithers(seed, 0.0, kind)
        result, said = match(images, reference="mean")
        assert said == []
        assert np.sqrt(np.mean(pulls_of(result, levels) ** 2)) < 2
        variance, scatter = scale_scatter(result.measured)
        assert not variance.any()
        assert scatter == 0


def test_crowded_stars_of_unequal_scales_are_said():
    """Stars do not widen the errors, so the sentence says that errors lack the scales."""
    n, pairs = 6, np.array([(i, j) for i in range(6) for j in range(i)])
    rows = np.array([empty_pair()] * len(pairs))
    logs = 0.01 * np.random.default_rng(4).standard_normal(n)
    rows["gain"] = logs[pairs[:, 0]] - logs[pairs[:, 1]]
    rows["gain_error"], rows["npix"], rows["sigma"] = 0.002, 30000, 0.005
    for bright, words in ((8.0, "errors include"), (-8.0, "errors do not include")):
        rows["bright"] = bright
        table = pair_table(pairs, rows)
        assert words in scatter_text(table, "MJy / sr")
        assert scale_scatter(table)[0].any() == (bright > 0)
    rows["gain"] /= 100
    assert scatter_text(pair_table(pairs, rows), "MJy / sr") == ""


# --------------------------------------------------------------------------------------
# Shifts


def blob(y, x):
    """Return round emission whose middle is at a corner of the cells below."""
    return 30 * np.exp(-0.5 * ((y - 2) ** 2 + (x - 3) ** 2) / 16)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.02, 0.0), (-0.03, 0.05)])
def test_effect_of_a_shift_is_found(offset):
    index = np.argwhere(np.ones((24, 24), dtype=bool))
    y, x = index.T
    first, second = blob(y, x), blob(y + offset[0], x + offset[1])
    rng = np.random.default_rng(6)
    one, two = first + 0.01 * rng.standard_normal((2, len(y)))
    two += second - first - 7
    _, _, shift, error = compare_emission(index, np.full(len(y), 200.0), one, two)
    true = np.mean(first - second)
    assert abs(shift - true) < 0.15 * abs(true) + 3 * error
    assert 0 < error < 0.005


def test_noise_shows_no_shift():
    index = np.argwhere(np.ones((24, 24), dtype=bool))
    one, two = np.random.default_rng(7).standard_normal((2, len(index)))
    found = compare_emission(index, np.full(len(index), 200.0), one, two)
    assert np.isnan(found[2])
    assert np.isinf(found[3])


def misplaced_galaxies(seed, size):
    """Return six dithers of galaxies whose astrometry is wrong by a size in pixels."""
    rng = np.random.default_rng(seed)
    images, levels = [], rng.normal(0, 3, 6)
    galaxies = rng.uniform([-20, -20, 5, 50], [180, 180, 20, 300], (5, 4))
    for k, level in enumerate(levels):
        y0, x0 = rng.uniform(-15, 15, 2)
        y, x = np.mgrid[:SIDE, :SIDE] + np.array([y0, x0])[:, None, None]
        data = sum(peak * np.exp(-np.hypot(y - a, x - b) / r) for a, b, r, peak in galaxies)
        data += level + 0.5 * rng.standard_normal(data.shape)
        angle = rng.uniform(0, 2 * np.pi)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval = 30.0, 1.0
        wcs.wcs.crpix = 80 - x0 + size * np.cos(angle), 80 - y0 + size * np.sin(angle)
        wcs.wcs.cdelt = -1e-4, 1e-4
        images.append(CCDData(data, unit="MJy/sr", wcs=wcs, meta={"FILENAME": f"i{k}.fits"}))
    return images, levels


def test_misplaced_galaxies_widen_the_errors():
    """The true errors were 1.9 stated errors."""
    pulls = []
    for seed in range(24):
        images, levels = misplaced_galaxies(seed, 0.5)
        result, _ = match(images, reference="mean")
        pulls.append(pulls_of(result, levels))
    assert 0.6 < np.sqrt(np.mean(np.square(pulls))) < 1.4


def test_galaxies_in_place_change_nothing():
    for seed in range(6):
        images, levels = misplaced_galaxies(seed, 0.0)
        result, said = match(images, reference="mean")
        assert not shift_variances(result.measured).any()
        assert said == []
        assert np.sqrt(np.mean(pulls_of(result, levels) ** 2)) < 2
