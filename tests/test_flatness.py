# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of planes that overlaps do not determine, and of the choice of a flat reference."""

import warnings

import numpy as np
import pytest
from astropy.nddata import CCDData
from helpers import DARK
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch import summary
from levelmatch.exceptions import LevelMatchWarning
from levelmatch.sky.vectors import tangent_axes, transfer_matrix
from levelmatch.testing import simulate_generic

SHAPE = (80, 80)


def mosaic(*, slopes=(), seed=1, n_images=9, noise=0.5, **options):
    """Return images without slopes, except for some, in units per pixel along x."""
    simulated = simulate_generic(
        n_images=n_images,
        shape=SHAPE,
        noise=noise,
        seed=seed,
        **DARK,
        **{"layout": "grid", "overlap": 0.3, "slope": 0.0, **options},
    )
    images = list(simulated.images)
    for k, slope in dict(slopes).items():
        images[k].data = images[k].data + slope * (np.arange(SHAPE[1]) - SHAPE[1] / 2)
    return images


def match(images, *, slope_gauge="reference", **options):
    options = {"fit_type": "level+slope", "group_by": "FILENAME", **options}
    return lm.match_mosaic(images, solve=lm.SolveOptions(slope_gauge=slope_gauge), **options)


def slopes_of(result):
    """Return the slopes of all images about the centre of the mosaic, shape (n, 2)."""
    frames = result.sorted_frames
    axes = np.array([f.whole_grid.axes for f in frames])
    centre = tangent_axes(axes[:, 0].sum(axis=0))
    planes = np.array([f.correction.coefficients(f.whole_grid.axes) for f in frames])
    return np.einsum("gij,gj->gi", transfer_matrix(axes, centre), planes)[:, 1:]


@pytest.mark.parametrize("fit_type", ["level+slope", "auto"])
def test_mean_slope_is_zero_and_the_level_the_reference_s(fit_type):
    images = mosaic(slopes={4: 0.02})
    result = match(images, slope_gauge="mean", fit_type=fit_type, reference=4)
    assert result.reference == images[4].meta["FILENAME"]
    assert_allclose(result.table["level"][4].value, 0, atol=1e-11)
    assert_allclose(result.table["error"][4].value, 0, atol=1e-9)
    if fit_type == "level+slope":
        assert_allclose(slopes_of(result).mean(axis=0), 0, atol=1e-10)
        assert "the mean slope of each connected set" in result.gauge
    else:
        # Only the steep image gets a slope.
        assert np.count_nonzero(result.table["slope_u"]) == 1
    # The slope belongs to the reference, and its negative does not go to all others.
    steep = np.abs(slopes_of(result)[:, 0])
    assert steep[4] > 3 * np.delete(steep, 4).max()


def test_the_gauges_differ_by_one_plane():
    images = mosaic(slopes={4: 0.02, 2: -0.01}, seed=3)
    results = [match(images, slope_gauge=gauge, reference=4) for gauge in ("reference", "mean")]
    vectors = [
        np.array([f.correction.coefficients(np.eye(3)) for f in r.sorted_frames]) for r in results
    ]
    difference = vectors[1] - vectors[0]
    assert_allclose(difference, np.broadcast_to(difference[0], (9, 3)), atol=1e-7)
    assert_allclose(
        results[0].pairs["residual"].value, results[1].pairs["residual"].value, atol=1e-9
    )


def test_errors_follow_from_those_relative_to_the_reference():
    images = mosaic(seed=2)
    result, mean = (match(images, slope_gauge=g, reference=4) for g in ("reference", "mean"))
    p, q = result.passes[-1], mean.passes[-1]
    held, axes = p.solution.reference[0], p.group_axes
    centre = tangent_axes(axes[:, 0].sum(axis=0))

    def in_mean_gauge(vector):
        planes = vector.reshape(-1, 3)
        about = np.einsum("gij,gj->gi", transfer_matrix(axes, centre), planes)
        plane = np.array([0.0, *about[:, 1:].mean(axis=0)])
        # The constant keeps the level of the reference.
        of_level = transfer_matrix(centre, axes[held])[0]
        plane[0] = -(of_level @ plane) / of_level[0]
        return (planes - np.einsum("gij,j->gi", transfer_matrix(centre, axes), plane)).ravel()

    change = np.array([in_mean_gauge(unit) for unit in np.eye(27)]).T
    change[3 * held] = 0
    expected = change @ p.solution.covariance_matrix @ change.T
    scale = np.sqrt(np.diagonal(expected)).max()
    assert_allclose(q.solution.covariance_matrix, expected, atol=1e-6 * scale**2)
    assert_allclose(q.solution.errors.ravel() ** 2, np.diagonal(expected), atol=1e-6 * scale**2)


def test_a_steep_reference_is_said():
    slope = 0.02
    images = mosaic(slopes={4: slope})
    result = match(images)
    (reference,) = result.references
    assert reference.name == images[4].meta["FILENAME"]
    # Three images of 80 pixels that overlap by 30 % span 192 pixels.
    assert_allclose(reference.tilt, 192 * slope, rtol=0.25)
    assert reference.tilt_sigma > 2.5
    sentence = next(note for note in result.notes if "not flat" in note)
    assert reference.name in sentence
    assert f"{reference.tilt:.3g} MJy/sr from edge to edge" in sentence
    assert "slope_gauge" in sentence
    assert any("gradient of the reference" in line for line in summary.headline(result))
    record = result.record
    assert record.references == result.references
    assert sentence in record.notes
    mean = match(images, slope_gauge="mean")
    assert not any("not flat" in note for note in mean.notes)
    assert "mean slope" in " ".join(summary.trust_lines(mean))


def test_a_record_keeps_the_tilt(tmp_path):
    result = match(mosaic(slopes={4: 0.02}))
    result.record.write(tmp_path / "record.asdf")
    record = lm.read_record(tmp_path / "record.asdf")
    assert record.references == result.references
    again = lm.solve_record(record, solve={"slope_gauge": "mean"})
    assert again.references[0].tilt == 0
    assert "mean slope of each connected set" in again.gauge


def test_a_flat_reference_is_not_blamed():
    results = [match(mosaic(seed=seed), reference=4) for seed in range(8)]
    assert [r.references[0].tilt for r in results] == [0.0] * 8


def test_a_reference_no_steeper_than_the_others_is_rarely_blamed():
    """The scatter of slopes enters the test for a flat reference among tilted images."""
    tilts = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        slopes = {k: s for k, s in enumerate(rng.normal(0, 0.01, 9)) if k != 4}
        tilts.append(match(mosaic(slopes=slopes, seed=seed), reference=4).references[0].tilt)
    assert np.count_nonzero(tilts) <= 1


def test_of_equal_overlaps_the_flattest_is_chosen():
    # In a mosaic of 2 x 2, each image overlaps the three others. If levels are fitted, slopes are
    # part of the errors and are not significant.
    fit_type = "level+slope"
    images = mosaic(n_images=4, slopes={0: 0.02, 1: -0.015, 3: 0.025}, overlap=0.4)
    result = match(images, fit_type=fit_type)
    assert result.reference == images[2].meta["FILENAME"]
    assert result.reference_reason == "most overlaps (3), flattest by its pairs of 4 such images"
    flat = match(mosaic(n_images=4, overlap=0.4), fit_type=fit_type)
    assert flat.reference_reason == "most overlaps (3)"


def test_a_named_reference_without_overlap_is_not_replaced_in_silence():
    images = mosaic()
    lone = mosaic(seed=7)[0]
    header = lone.wcs.deepcopy()
    header.wcs.crval = header.wcs.crval + [0.0, 2.0]
    far = CCDData(lone.data, unit=lone.unit, wcs=header, meta={"FILENAME": "far.fits"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = match([*images, far], reference="far.fits", fit_type="level")
    words = [str(w.message) for w in caught if w.category is LevelMatchWarning]
    assert len(words) == 1
    assert words[0].startswith("reference: far.fits has no pair that is kept")
    assert f"{result.reference} is held at zero" in words[0]
    assert result.reference_reason == (
        "most overlaps (8); far.fits, which was named, is not in its set"
    )
    assert_array_equal(result.table["isolated"], [False] * 9 + [True])
