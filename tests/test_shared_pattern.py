# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of patterns that stay with the detector, solved for with the levels."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch import summary
from levelmatch.exceptions import PatternWarning, RecordError
from levelmatch.images.corrections import Correction
from levelmatch.results.header import history_texts

SHAPE = (64, 72)
NOISE = 0.3
BOWL = np.array([0.0, 0.0, 0.6, -0.2, 0.4])


def terms(shape=SHAPE):
    """Return the terms of a pattern at all pixels, shape (5, ny, nx)."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.array([x, y, x**2 - 1 / 3, x * y, y**2 - 1 / 3])


def wcs_at(y, x, angle=0.0, shape=SHAPE):
    """Return a WCS of 0.5 arcsec per pixel, whose image is centred at pixels of a common grid."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 30.0, 10.0
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # The middle of the image lies at (x, y).
    wcs.wcs.crpix = np.array([(shape[1] + 1) / 2, (shape[0] + 1) / 2]) - rotation.T @ [x, y]
    wcs.wcs.cd = 0.5 / 3600 * np.diag([-1, 1]) @ rotation
    return wcs


def simulate(seed=1, n=4, *, pattern=BOWL, angles=(0.0,), slopes=0.0, level=2.0, detectors=("",)):
    """Return a mosaic of images, each with a level, a plane and the pattern of its detector."""
    rng = np.random.default_rng(seed)
    images, levels = [], []
    patterns = np.broadcast_to(pattern, (len(detectors), 5))
    for k in range(n * n):
        y, x = 44 * (k // n) + rng.uniform(-2, 2), 50 * (k % n) + rng.uniform(-2, 2)
        own = rng.normal(0, level)
        plane = slopes * rng.standard_normal(2)
        data = own + np.einsum("t,tyx->yx", patterns[k % len(detectors)], terms())
        data += plane[0] * terms()[0] + plane[1] * terms()[1]
        data += NOISE * rng.standard_normal(SHAPE)
        detector = detectors[k % len(detectors)]
        name = f"jw01234{k:03d}001_02101_00001_{detector}_cal.fits" if detector else f"{k:03d}.fits"
        meta = {"FILENAME": name}
        wcs = wcs_at(y, x, angles[k % len(angles)])
        images.append(CCDData(data, unit="MJy/sr", wcs=wcs, meta=meta))
        levels.append(own)
    return images, np.array(levels)


def match(images, pattern="quadratic", **options):
    options = {"reference": "mean", "group_by": "FILENAME", **options}
    with warnings.catch_warnings():
        if pattern is None:
            warnings.simplefilter("ignore", PatternWarning)
        return lm.match_mosaic(images, solve=lm.SolveOptions(pattern=pattern), **options)


def errors_of(result, levels):
    error = result.table["level"].value - levels
    return error - error.mean()


# Corrections


def test_a_correction_with_a_pattern():
    correction = Correction(1.5, pattern=BOWL)
    total = (correction + Correction(0.5, np.zeros(3), BOWL)).scaled(2.0)
    assert_allclose(total.pattern, 4 * BOWL)
    assert total.constant == 4
    grid = SimpleNamespace(shape=SHAPE)
    expected = np.einsum("t,tyx->yx", BOWL, terms())
    assert_allclose(correction.evaluate(grid), 1.5 + expected)
    # The level is the mean over the detector, up to the finite number of pixels.
    assert_allclose(expected.mean(), 0, atol=0.02)
    assert_allclose(correction.coefficients(np.eye(3)), [1.5, 0, 0])


def test_corrected_images_are_without_the_pattern():
    images, levels = simulate()
    result = match(images)
    (pattern,) = result.passes[0].pattern.coefficients
    surfaces = [image.data - result[k].data for k, image in enumerate(images)]
    expected = np.einsum("t,tyx->yx", pattern, terms())
    for surface, level in zip(surfaces, result.table["level"].value, strict=True):
        assert_allclose(surface, level + expected, atol=1e-12)
    # Pattern and levels are removed.
    assert_allclose(pattern, BOWL, atol=0.06)
    assert np.abs(errors_of(result, levels)).max() < 0.06


# Levels


def test_levels_with_a_bowl():
    images, levels = simulate(seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PatternWarning)
        result = match(images)
    found = result.passes[-1].pattern or result.passes[0].pattern
    assert_array_equal(found.coefficients[0, :2], 0)
    sigma = (found.coefficients[0] - BOWL)[2:] / found.errors[0, 2:]
    assert np.abs(sigma).max() < 4
    assert found.errors[0, 2:].max() < 0.05
    # Images of one orientation cannot distinguish a gradient from a trend of levels.
    assert found.trends == ["gradient"]
    assert "do not determine its gradient" in result.gauge
    assert found.errors[0, 0] > 0.1
    with pytest.warns(PatternWarning, match="or solve for it"):
        lm.match_mosaic(images, reference="mean", group_by="FILENAME")


@pytest.mark.parametrize("count", [4, 5, 6])
def test_few_dithers_with_a_bowl(count):
    """Their trends could reproduce all levels, which leaves no scatter to weight them by."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        levels, images = rng.normal(0, 2, count), []
        for k, level in enumerate(levels):
            data = level + np.einsum("t,tyx->yx", BOWL, terms()) + NOISE * rng.normal(size=SHAPE)
            meta = {"FILENAME": f"{k}.fits"}
            wcs = wcs_at(*rng.uniform(-12, 12, 2))
            images.append(CCDData(data, unit="MJy/sr", wcs=wcs, meta=meta))
        result = match(images)
        pattern = result.passes[0].pattern
        sigma = (pattern.coefficients[0] - BOWL)[2:] / pattern.errors[0, 2:]
        assert np.abs(sigma).max() < 4
        assert pattern.errors[0, 2:].max() < 0.3
        assert np.abs(errors_of(result, levels)).max() < 0.05
        # A gradient may replace all of the levels, and no more.
        assert 0.01 < result.table["error"].value.max() < 4


def test_pulls_of_the_pattern():
    pulls = []
    for seed in range(12):
        images, _ = simulate(seed=seed)
        found = match(images).passes[0].pattern
        pulls.append(((found.coefficients[0] - BOWL) / found.errors[0])[2:])
    assert 0.6 < np.sqrt(np.mean(np.square(pulls))) < 1.3


def test_a_significant_gradient_is_found_by_its_trend():
    gradient = np.array([1.5, -1.0, 0.0, 0.0, 0.0])
    images, levels = simulate(seed=3, pattern=gradient, level=0.1)
    result = match(images, pattern="gradient")
    found = result.passes[0].pattern
    assert_allclose(found.coefficients[0], gradient, atol=0.1)
    assert np.abs(errors_of(result, levels)).max() < 0.2
    # Without the pattern, the levels tilt the mosaic.
    assert np.abs(errors_of(match(images, pattern=None), levels)).max() > 1


def test_the_error_of_a_trend_enters_the_errors():
    """The gradient is as large as its error, and the stated errors include it."""
    squares = np.zeros(2)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        gradient = np.array([*rng.normal(0, 0.5, 2), 0, 0, 0])
        images, levels = simulate(seed=seed, pattern=gradient)
        result = match(images, pattern="gradient")
        squares += np.sum(errors_of(result, levels) ** 2), np.sum(result.table["error"].value ** 2)
    assert 0.5 < np.sqrt(squares[0] / squares[1]) < 1.6


def test_two_orientations_determine_the_gradient():
    pattern = np.array([0.5, -0.3, 0.4, 0.1, -0.2])
    images, levels = simulate(seed=4, pattern=pattern, angles=(0.0, 90.0, 180.0))
    result = match(images)
    found = result.passes[0].pattern
    assert found.trends == []
    assert_allclose(found.coefficients[0], pattern, atol=0.1)
    assert found.errors[0].max() < 0.06
    assert np.abs(errors_of(result, levels)).max() < 0.1


def test_each_detector_has_its_own():
    patterns = np.array([BOWL, -BOWL])
    images, levels = simulate(seed=5, n=5, pattern=patterns, detectors=("nrca1", "nrca2"))
    result = match(images, group_by="jwst")
    found = result.passes[0].pattern
    assert found.detectors == ["nrca1", "nrca2"]
    assert_allclose(found.coefficients[:, 2:], patterns[:, 2:], atol=0.08)


def test_without_a_pattern_little_changes():
    images, levels = simulate(seed=6, pattern=np.zeros(5))
    plain, found = match(images, pattern=None), match(images)
    assert np.std(errors_of(found, levels)) < 1.5 * np.std(errors_of(plain, levels))
    pattern = found.passes[0].pattern
    assert (np.abs(pattern.coefficients) < 4 * pattern.errors + 1e-12).all()


# Planes


def test_planes_along_a_mosaic_with_a_bowl():
    images, levels = simulate(seed=7, n=6)
    bent, flat = (
        match(images, pattern=pattern, fit_type="level+slope") for pattern in (None, "quadratic")
    )
    y, x = np.divmod(np.arange(36), 6)
    plane = np.stack([np.ones(36), y, x], axis=1)

    def rms(result):
        error = errors_of(result, levels)
        return np.std(error - plane @ np.linalg.lstsq(plane, error, rcond=None)[0])

    assert rms(flat) < 0.1 * rms(bent)
    found = flat.passes[0].pattern
    assert_allclose(found.coefficients[0], BOWL, atol=0.1)
    assert "quadratic part" in found.trends
    assert rms(flat) < 2 * np.sqrt(np.mean(flat.table["error"].value ** 2))


# Records and files


@pytest.fixture
def written(tmp_path):
    images, _ = simulate(seed=8, n=3)
    (tmp_path / "raw").mkdir()
    paths = []
    for image in images:
        header = image.wcs.to_header()
        header["BUNIT"] = "MJy/sr"
        path = tmp_path / "raw" / image.meta["FILENAME"]
        fits.HDUList([fits.PrimaryHDU(image.data, header)]).writeto(path)
        paths.append(path)
    result = match(paths)
    result.write(tmp_path / "out")
    return paths, result, tmp_path


def test_record_keeps_the_pattern(written):
    paths, result, folder = written
    result.record.write(folder / "record.asdf")
    record = lm.read_record(folder / "record.asdf")
    kept, found = record.passes[0].pattern, result.passes[0].pattern
    for name in ("coefficients", "errors", "of_image", "step", "columns"):
        assert_array_equal(getattr(kept, name), getattr(found, name))
    assert record.gauge == result.gauge
    assert_allclose(record.covariance(0, 5), result.covariance(0, 5), atol=1e-9)
    assert_allclose(record.closures["closure"].value, result.closures["closure"].value)
    again = lm.solve_record(record)
    assert_allclose(again.table["level"].value, result.table["level"].value, atol=1e-9)
    assert_allclose(again.table["error"].value, result.table["error"].value, rtol=1e-6)
    without = lm.solve_record(record, exclude=paths[0].name)
    assert len(without.passes[0].pattern.of_image) == 8
    plain = lm.solve_record(record, solve={"pattern": None})
    assert plain.passes[0].pattern is None
    with pytest.raises(RecordError, match="pattern: 'gradient' cannot be solved for without"):
        lm.solve_record(record, solve={"pattern": "gradient"})


def test_files_carry_the_pattern(written):
    paths, result, folder = written
    record = next((folder / "out").glob("*.asdf"))
    corrected = sorted((folder / "out").glob("*.fits"))
    assert len(corrected) == len(paths)
    for k, path in enumerate(corrected):
        with fits.open(path) as hdus, fits.open(paths[k]) as raw:
            assert_allclose(hdus[0].data, result[k].data, rtol=1e-6, atol=1e-6)
            surface = raw[0].data - hdus[0].data
            history = " ".join(history_texts(hdus[0].header))
        assert np.ptp(surface) > 0.5
        assert "pattern x y x2-1/3 xy y2-1/3" in history
    lm.verify_record(record, corrected)
    undone = lm.undo_record(record, corrected, folder / "undone")
    assert len(list(undone or (folder / "undone").glob("*.fits"))) == len(paths)
    for path in paths:
        with fits.open(folder / "undone" / path.name) as hdus, fits.open(path) as raw:
            assert_allclose(hdus[0].data, raw[0].data, atol=1e-5)
    for one, path in zip(lm.apply_record(record, paths, folder / "again"), corrected, strict=False):
        if path.suffix == ".fits":
            assert one.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("pattern", "true", "angles"),
    [("gradient", [0.6, -0.3, 0, 0, 0], (0.0, 90.0)), ("quadratic", BOWL, (0.0,))],
)
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_integers_are_restored_exactly(tmp_path, pattern, true, angles, fit_type):
    """With one image held at its level, and known levels subtracted first."""
    images, levels = simulate(seed=8, n=3, pattern=true, angles=angles)
    (tmp_path / "raw").mkdir()
    paths = []
    for one in images:
        hdu = fits.PrimaryHDU(np.round(100 * one.data).astype("i2"), one.wcs.to_header())
        hdu.header.update({"BUNIT": "MJy/sr", "BSCALE": 0.01})
        paths.append(tmp_path / "raw" / one.meta["FILENAME"])
        hdu.writeto(paths[-1])
    names = [path.name for path in paths]
    result = lm.match_mosaic(
        paths,
        group_by="FILENAME",
        fit_type=fit_type,
        read=lm.ReadOptions(levels=dict(zip(names, np.round(levels), strict=True))),
        solve=lm.SolveOptions(pattern=pattern, hold={names[4]: levels[4]}),
    )
    assert result.passes[0].pattern is not None
    found = result.table["level"].value
    assert found[4] == pytest.approx(levels[4])
    assert np.std(found - levels) < 0.1
    result.write(tmp_path / "out")
    record = next((tmp_path / "out").glob("*.asdf"))
    corrected = sorted((tmp_path / "out").glob("*.fits"))
    assert lm.verify_record(record, corrected) == names
    lm.undo_record(record, corrected, tmp_path / "undone")
    for path in paths:
        raw, back = (
            fits.getdata(p, do_not_scale_image_data=True)
            for p in (path, tmp_path / "undone" / path.name)
        )
        assert raw.dtype == back.dtype
        assert_array_equal(raw, back)


def test_the_mosaic_is_made_of_corrected_pixels(written):
    _, result, _ = written
    data = np.asarray(lm.make_mosaic(result)[0], dtype=float)
    # Levels and pattern are removed, and the noise remains.
    assert np.nanstd(data) < 1.3 * NOISE


def test_what_is_said(written):
    _, result, _ = written
    trust = " ".join(summary.trust_lines(result))
    assert "a pattern of the detector" in trust
    assert "MJy/sr (rms) is subtracted from all images" in trust
    (line,) = [line for line in summary.summary_lines(result) if "pattern" in line]
    assert line.startswith("A pattern of the detector")
    assert line.endswith("MJy/sr (rms) is subtracted from all images.")


def test_unknown_patterns_are_refused():
    with pytest.raises(ValueError, match="pattern: 'cubic'"):
        lm.SolveOptions(pattern="cubic")
