# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the simulated sets themselves."""

from functools import partial

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import map_coordinates

from levelmatch.testing import (
    level_errors,
    miri_regions,
    plane_errors,
    simulate_generic,
    simulate_miri,
    simulate_nircam_short,
)

MIRI = partial(simulate_miri, tiles=(1, 2), n_dithers=2, shape=(128, 129))
NIRCAM = partial(simulate_nircam_short, n_tiles=1, n_dithers=2, shape=(96, 96))
GENERIC = partial(simulate_generic, n_images=4, cosmic_rays=True, bad_pixels=True)
SETS = pytest.mark.parametrize(
    "simulate",
    [
        pytest.param(MIRI, id="miri"),
        pytest.param(partial(MIRI, lyot=True), id="lyot"),
        pytest.param(NIRCAM, id="nircam"),
        pytest.param(GENERIC, id="generic"),
    ],
)
CLEAN = {"noise": 0, "cosmic_rays": False, "bad_pixels": False}

# RA and Dec (degrees) of pixels (x, y; 1-based) by pysiaf 0.29.0, PRDOPSSOC-075, with its
# attitude_matrix at 24.174, 15.783, PA 40: MIRIM_FULL's reference point there, or the mean of
# the four NRCB*_FULL.
PYSIAF = [
    ("mirimage", 1, 1, 24.178259104, 15.757010507),
    ("mirimage", 1032, 1, 24.154828213, 15.779255895),
    ("mirimage", 1, 1024, 24.201072783, 15.779248860),
    ("mirimage", 1032, 1024, 24.177893298, 15.801329458),
    ("mirimage", 400, 600, 24.182634564, 15.778592567),
    ("nrcb1", 1, 1, 24.173834677, 15.783899212),
    ("nrcb1", 2048, 2048, 24.171801749, 15.808579912),
    ("nrcb1", 1500, 600, 24.167136748, 15.796140101),
    ("nrcb2", 1, 2048, 24.173121724, 15.782894594),
    ("nrcb2", 2048, 1, 24.147093318, 15.780987298),
    ("nrcb3", 1, 1, 24.189032263, 15.771732505),
    ("nrcb3", 2048, 2048, 24.186623834, 15.796476449),
    ("nrcb4", 1, 2048, 24.188211127, 15.770872726),
    ("nrcb4", 2048, 1, 24.162187977, 15.768516558),
]


@pytest.fixture(scope="module")
def full_wcs():
    """Return the WCS of the full detectors, by name, at the position of the table."""
    options = {"n_dithers": 1, "stars": False, "nebula": False, "galaxy": False, **CLEAN}
    miri = simulate_miri(tiles=(1, 1), **options)
    nircam = simulate_nircam_short(n_tiles=1, **options)
    names = ["mirimage", "nrcb1", "nrcb2", "nrcb3", "nrcb4"]
    images = [*miri.images, *nircam.images]
    return {name: image.wcs for name, image in zip(names, images, strict=True)}


def unit_vectors(wcs, y, x):
    ra, dec = np.radians(wcs.all_pix2world(x, y, 0))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def tangent_axes(ra, dec):
    east = [-np.sin(ra), np.cos(ra), 0]
    north = [-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)]
    return np.array([east, north])


def true_background(image, row, prefix=""):
    """Return the background of all pixels, from the definition of a plane."""
    y, x = np.indices(image.shape)
    s = unit_vectors(image.wcs, y.ravel(), x.ravel())
    axes = tangent_axes(row["ra"].to_value(u.rad), row["dec"].to_value(u.rad))
    uv = s @ axes.T * u.rad
    level, slope_u, slope_v = (row[prefix + name] for name in ("level", "slope_u", "slope_v"))
    return (level + slope_u * uv[:, 0] + slope_v * uv[:, 1]).value.reshape(image.shape)


@pytest.mark.parametrize(("name", "x", "y", "ra", "dec"), PYSIAF)
def test_geometry_is_that_of_the_siaf(full_wcs, name, x, y, ra, dec):
    found = full_wcs[name].all_world2pix(ra, dec, 1)
    assert_allclose(found, (x, y), atol=0.005, rtol=0)


@pytest.mark.parametrize(("name", "limit"), [("mirimage", 0.03), ("nrcb1", 1e-4)])
def test_approximate_inverse_of_the_distortion(full_wcs, name, limit):
    wcs = full_wcs[name]
    nx, ny = wcs.pixel_shape
    x, y = np.array([0, nx - 1, 0, nx - 1, 700.0]), np.array([0, 0, ny - 1, ny - 1, 300.0])
    back = wcs.sip_foc2pix(*wcs.sip_pix2foc(x, y, 0), 0)
    assert_allclose(back, (x, y), atol=limit, rtol=0)


@SETS
def test_images_are_complete(simulate):
    sim = simulate()
    assert len(sim.images) == len(sim.truth)
    for image, name in zip(sim.images, sim.truth["name"], strict=True):
        assert isinstance(image, CCDData)
        assert image.data.dtype == image.uncertainty.array.dtype == np.float32
        assert image.flags.dtype == np.uint32
        assert image.shape == image.wcs.array_shape
        assert image.unit == u.MJy / u.sr
        assert image.meta["FILENAME"] == name
        assert_array_equal(image.mask, (image.flags & 1) == 1)
        assert np.all(image.uncertainty.array >= 0.3)
        assert np.isfinite(image.data[~image.mask]).all()
        assert np.isnan(image.data).any()


@SETS
def test_same_seed_same_bits_in_any_order(simulate):
    one, two, other = simulate(seed=5), simulate(seed=5), simulate(seed=6)
    last, first = two.images[-1], two.images[0]
    for a, b in ((one.images[0], first), (one.images[len(one.images) - 1], last)):
        assert_array_equal(a.data, b.data)
        assert_array_equal(a.flags, b.flags)
        assert_array_equal(a.uncertainty.array, b.uncertainty.array)
    assert np.all(one.truth["level"] == two.truth["level"])
    assert np.all(one.truth["level"] != other.truth["level"])
    assert not np.array_equal(other.images[0].data, first.data, equal_nan=True)
    assert not np.array_equal(one.images[1].data, first.data, equal_nan=True)


def test_images_are_a_sequence():
    images = GENERIC().images
    assert [image.meta["FILENAME"] for image in images[1:3]] == [
        "image_00001.fits",
        "image_00002.fits",
    ]
    assert len(list(images)) == 4
    with pytest.raises(IndexError):
        images[4]


@SETS
def test_truth_is_what_was_added(simulate):
    options = {"slope": 0.6, "stars": False, **CLEAN}
    flat = simulate(offset_rms=0, **{**options, "slope": 0})
    if "lyot_level" in flat.truth.colnames:
        flat = simulate(offset_rms=0, lyot_offset_rms=0, **{**options, "slope": 0})
        options["lyot_slope"] = 0.4
    sim = simulate(**options)
    for i in (0, len(sim.truth) - 1):
        image, row = sim.images[i], sim.truth[i]
        added = image.data - flat.images[i].data.astype(float)
        expected = true_background(image, row)
        use = ~image.mask
        if "lyot_level" in sim.truth.colnames:
            lyot = use & miri_regions(image.shape)[1]
            assert lyot.sum() > 500
            expected[lyot] += true_background(image, row, "lyot_")[lyot]
        assert_allclose(added[use], expected[use], atol=2e-5)


def test_lyot_is_common_to_the_dithers_of_a_tile():
    truth = MIRI(lyot=True, lyot_slope=0.2).truth
    for name in ("lyot_level", "lyot_slope_u", "lyot_slope_v"):
        first, second, third, fourth = truth[name]
        assert first == second
        assert third == fourth
        assert first != third


def test_slope_is_an_amplitude():
    truth = simulate_generic(n_images=400, slope=0.6, pixel_scale=1.0, shape=(60, 60)).truth
    amplitude = np.hypot(truth["slope_u"], truth["slope_v"]) * (0.5 * u.arcmin)
    assert_allclose(np.sqrt(np.mean(amplitude**2)).value, 0.6, rtol=0.1)


@pytest.mark.parametrize(
    ("simulate", "stars", "limit"),
    [
        (partial(MIRI, lyot=True, lyot_offset_rms=0), False, 4e-3),
        (partial(NIRCAM, detectors=["nrca3"]), False, 4e-3),
        (partial(GENERIC, rotation_rms=20), False, 4e-3),
        (partial(GENERIC, n_images=2, layout="pile", overlap=0.7, center=(0, 90)), False, 4e-3),
        (partial(MIRI, star_density=4000), True, 0.2),
    ],
)
def test_images_see_the_same_sky(simulate, stars, limit):
    sim = simulate(offset_rms=0, stars=stars, **CLEAN)
    one, two = sim.images[0], sim.images[1]
    y, x = np.indices(one.shape)
    sky = one.wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    x, y = two.wcs.all_world2pix(*sky, 0, quiet=True)
    ny, nx = two.shape
    on = (x > 3) & (x < nx - 4) & (y > 3) & (y < ny - 4)
    on[on] = ~two.mask[np.rint(y[on]).astype(int), np.rint(x[on]).astype(int)]
    on &= ~one.mask.ravel()
    assert on.sum() > 200
    other = map_coordinates(two.data.astype(float), (y[on], x[on]))
    difference = one.data.ravel()[on] - other
    # A masked region's edge may be within reach of the spline.
    assert np.percentile(abs(difference), 90) < limit
    assert abs(np.median(difference)) < 0.1 * limit
    assert one.data[~one.mask].std() > 0.3


def test_stars_add_the_same_flux_to_all_images():
    options = {
        "n_images": 3,
        "layout": "pile",
        "overlap": 0.9,
        "offset_rms": 0,
        "shape": (128, 128),
    }
    options.update(nebula=False, galaxy=False, star_density=100, rotation_rms=30, seed=3, **CLEAN)
    sums = [image.data[20:-20, 20:-20].sum() for image in simulate_generic(**options).images]
    assert_allclose(sums, sums[0], rtol=2e-3)


def test_noise_is_as_stated():
    images = [simulate_generic(n_images=1, shape=(200, 200), noise=n).images[0] for n in (0, 0.5)]
    pull = (images[1].data - images[0].data) / images[1].uncertainty.array
    assert images[0].uncertainty is None
    assert_allclose(pull.std(), 1, rtol=0.02)
    assert_allclose(pull.mean(), 0, atol=0.02)


def test_cosmic_rays_are_mostly_flagged():
    options = {"n_images": 1, "shape": (300, 300)}
    clean = simulate_generic(**options, **CLEAN).images[0]
    image = simulate_generic(**options, cosmic_rays=True).images[0]
    hit = image.data - clean.data > 6 * image.uncertainty.array
    assert hit.sum() > 150
    assert 0.9 < image.mask[hit].mean() < 1
    assert_array_equal(np.unique(image.flags), [0, 1 | 4])


def test_bad_pixels_belong_to_the_detector():
    images = NIRCAM(cosmic_rays=False).images
    assert_array_equal(images[0].flags, images[4].flags)
    assert (images[0].flags != images[1].flags).any()
    assert_allclose(images[0].mask.mean(), 0.005, rtol=0.1)


@pytest.mark.parametrize("lyot", [False, True])
def test_miri_regions(lyot):
    flags = (
        simulate_miri(tiles=(1, 1), n_dithers=1, lyot=lyot, stars=False, **CLEAN).images[0].flags
    )
    assert np.all(flags[:, 360:1028] == 0)
    for y, x in ((500, 100), (800, 330), (734, 100), (880, 145), (10, 1030)):
        assert flags[y, x] == 1 | 512
    assert flags[760, 50] == (0 if lyot else 1 | 512)


def test_tiles_and_dithers_overlap():
    truth = simulate_miri(n_dithers=2, shape=(256, 258)).truth
    ra, dec = truth["ra"].to_value(u.arcmin), truth["dec"].to_value(u.arcmin)
    ra = (ra - ra[0]) * np.cos(truth["dec"][0])
    distance = np.hypot(ra[:, None] - ra, dec[:, None] - dec) * 60 / 0.111
    assert 2 < distance[0, 1] < 20
    assert_allclose(distance[0, 2], 0.88 * 167, rtol=0.02)
    assert_allclose(distance[0, 4], 0.88 * 256, rtol=0.02)


def test_jwst_keywords():
    miri = MIRI(backgrounds=True)
    meta = miri.images[3].meta
    assert meta["FILENAME"] == "jw02107002001_02101_00002_mirimage_cal.fits"
    assert (meta["INSTRUME"], meta["DETECTOR"]) == ("MIRI", "MIRIMAGE")
    assert (meta["OBSERVTN"], meta["EXPOSURE"]) == ("002", "00002")
    assert "CHANNEL" not in meta
    times = [image.meta["DT_BGR"] - image.meta["MJD-AVG"] for image in miri.images]
    assert_allclose(times, times[0])
    meta = NIRCAM().images[5].meta
    assert meta["FILENAME"] == "jw02107001001_02101_00002_nrcb2_cal.fits"
    assert (meta["CHANNEL"], meta["MODULE"], meta["DETECTOR"]) == ("SHORT", "B", "NRCB2")
    assert "DT_BGR" not in meta


@SETS
def test_write(simulate, tmp_path):
    sim = simulate()
    paths = sim.write(tmp_path / "new")
    assert [path.name for path in paths] == list(sim.truth["name"])
    image = sim.images[1]
    with fits.open(paths[1]) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "ERR", "DQ"]
        assert hdus[0].header["FILENAME"] == paths[1].name
        assert hdus["SCI"].header["BUNIT"] == "MJy/sr"
        assert_array_equal(hdus["SCI"].data, image.data)
        assert_array_equal(hdus["ERR"].data, image.uncertainty.array)
        assert_array_equal(hdus["DQ"].data, image.flags)
        wcs = WCS(hdus["SCI"].header)
    ny, nx = image.shape
    sky = image.wcs.all_pix2world([0, nx, 3], [0, 5, ny], 0)
    assert_allclose(wcs.all_world2pix(*sky, 0), [[0, nx, 3], [0, 5, ny]], atol=1e-4)
    with pytest.raises(FileExistsError, match="exist already.*overwrite=True replaces"):
        sim.write(tmp_path / "new")
    sim.write(tmp_path / "new", overwrite=True)


def test_write_without_noise(tmp_path):
    (path,) = simulate_generic(n_images=1, noise=0).write(tmp_path)
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "DQ"]


@pytest.mark.parametrize("center", [(0, 0), (359.999, -60), (0, 90), (77, -90)])
def test_anywhere_on_the_sky(center):
    sim = simulate_generic(n_images=9, center=center, slope=0.5, rotation=33, offset_rms=0)
    axes = tangent_axes(*np.radians(center))
    ra, dec = sim.truth["ra"].to_value(u.rad), sim.truth["dec"].to_value(u.rad)
    s = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    x, y = np.degrees(axes @ s.T) * 3600 / 0.5
    # Along the axes of the images, steps of (1 - overlap) * 64 pixels.
    along = x * np.sin(np.radians(33)) + y * np.cos(np.radians(33))
    assert_allclose(along, np.repeat([-51.2, 0, 51.2], 3), atol=1)
    image, row = sim.images[8], sim.truth[8]
    flat = simulate_generic(n_images=9, center=center, rotation=33, offset_rms=0).images[8]
    assert_allclose(image.data - flat.data, true_background(image, row), atol=1e-4)


@pytest.mark.parametrize(("layout", "n_rows"), [("grid", 3), ("chain", 1)])
def test_rows_of_images(layout, n_rows):
    truth = simulate_generic(n_images=7, layout=layout, center=(100, 0)).truth
    x = -truth["ra"].to_value(u.arcsec) / 0.5
    y = truth["dec"].to_value(u.arcsec) / 0.5
    assert len(np.unique(np.round(y / 51.2))) == n_rows
    assert_allclose([x[1] - x[0], x[2] - x[1]], 51.2, atol=1.1)


def test_pile_overlaps_everywhere():
    truth = simulate_generic(n_images=7, layout="pile", center=(100, 0)).truth
    for name in ("ra", "dec"):
        assert 10 < np.ptp(truth[name].to_value(u.arcsec)) / 0.5 < 51.2


def test_gram_gives_the_rms_of_a_plane():
    sim = MIRI(slope=0.6)
    image, row = sim.images[1], sim.truth[1]
    plane = np.array([row[name].value for name in ("level", "slope_u", "slope_v")])
    science = (image.flags & 512) == 0
    rms = np.sqrt(np.mean(true_background(image, row)[science] ** 2))
    assert_allclose(np.sqrt(plane @ row["gram"] @ plane), rms, rtol=0.02)


@pytest.mark.parametrize("center", [(24.174, 15.783), (0, 0), (10, 90)])
def test_level_errors(center):
    truth = simulate_generic(n_images=6, center=center).truth
    found = truth["level"].value + 7.5
    assert_allclose(level_errors(found, truth).value, 0, atol=1e-12)
    found[2] += 0.6
    expected = np.where(np.arange(6) == 2, 0.5, -0.1)
    assert_allclose(level_errors(found, truth).value, expected)
    by_name = dict(zip(truth["name"], (found * u.MJy / u.sr).to(u.kJy / u.sr), strict=True))
    assert_allclose(level_errors(by_name, truth).value, expected)
    groups = ["a", "a", "b", "b", "b", "b"]
    expected = [0, 0, 0.45, -0.15, -0.15, -0.15]
    errors = level_errors(found, truth, groups=groups)
    assert errors.unit == truth["level"].unit
    assert_allclose(errors.value, expected, atol=1e-12)


def true_planes(truth):
    return np.transpose([truth[name].value for name in ("level", "slope_u", "slope_v")])


@pytest.mark.parametrize("center", [(24.174, 15.783), (0, 0), (10, 90)])
def test_plane_errors_ignore_one_plane_over_the_mosaic(center):
    truth = simulate_generic(n_images=9, center=center, slope=1.0).truth
    # The mosaic-wide plane 3 + 40 u - 25 v about a point near by, seen from each centre.
    gradient = np.array([40, -25]) @ tangent_axes(*np.radians(np.add(center, (0.01, -0.02))))
    arcmin = np.radians(1 / 60)
    common = []
    for ra, dec in zip(truth["ra"].to_value(u.rad), truth["dec"].to_value(u.rad), strict=True):
        s = [np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)]
        common.append([3 + gradient @ s / arcmin, *(tangent_axes(ra, dec) @ gradient)])
    errors = plane_errors(true_planes(truth) + common, truth)
    # Exact but for the curvature of the sky: (1 arcmin)**2 of a plane of 40 per arcmin.
    assert_allclose(errors.value, 0, atol=1e-4)


def test_plane_errors_are_recovered():
    truth = simulate_generic(n_images=100, slope=1.0).truth
    wrong = np.zeros((100, 3))
    wrong[50] = [0.3, 2.0, -1.0]
    expected = np.sqrt(wrong[50] @ truth["gram"][50] @ wrong[50])
    found = dict(zip(truth["name"], true_planes(truth) + wrong, strict=True))
    errors = plane_errors(found, truth).value
    assert_allclose(errors[50], expected, rtol=0.05)
    assert np.median(errors) < 0.05 * expected


def test_wrong_findings():
    truth = simulate_generic(n_images=3).truth
    with pytest.raises(ValueError, match=r"found must have shape \(3,\), not \(2,\)"):
        level_errors([1, 2], truth)
    with pytest.raises(ValueError, match=r"found must have shape \(3, 3\), not \(3,\)"):
        plane_errors([1, 2, 3], truth)
    with pytest.raises(ValueError, match="2 images are not in found, the first is image_00001"):
        level_errors({"image_00000.fits": 1.0}, truth)
    with pytest.raises(ValueError, match="groups must have shape"):
        level_errors([1, 2, 3], truth, groups=[1, 2])


@pytest.mark.parametrize(
    ("simulate", "options", "match"),
    [
        (simulate_miri, {"shape": (4, 100)}, "shape must be"),
        (simulate_miri, {"noise": -1}, "noise must be finite and not negative, not -1"),
        (simulate_miri, {"n_dithers": 0}, "n_dithers must be at least 1, not 0"),
        (simulate_miri, {"tiles": (0, 2)}, "numbers of tiles"),
        (simulate_nircam_short, {"detectors": ["nrcblong"]}, "detectors must be some of"),
        (simulate_nircam_short, {"detectors": []}, "detectors must be some of"),
        (simulate_nircam_short, {"n_tiles": 0}, "n_tiles must be at least 1, not 0"),
        (simulate_generic, {"n_images": 0}, "n_images must be at least 1"),
        (simulate_generic, {"overlap": 1.0}, "overlap must be"),
        (simulate_generic, {"layout": "ring"}, "layout must be 'grid', 'chain' or 'pile'"),
    ],
)
def test_wrong_arguments(simulate, options, match):
    with pytest.raises(ValueError, match=match):
        simulate(**options)
