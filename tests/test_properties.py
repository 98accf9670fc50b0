# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Property tests: any levels, order, position and unit."""

from functools import lru_cache

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData
from hypothesis import assume, given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.corrections import Correction
from levelmatch.sky.grid import Grid
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import lonlat, plane_terms, tangent_axes, transfer_matrix, unit_vectors
from levelmatch.testing import simulate_generic

few = settings(derandomize=True, max_examples=12, deadline=None)
many = settings(derandomize=True, max_examples=100, deadline=None)
levels = st.floats(-1e3, 1e3, width=32)
longitudes = st.sampled_from([0.0, 1e-9, 359.9999999, 180.0, 90.0]) | st.floats(0, 360)
latitudes = st.sampled_from([90.0, -90.0, 0.0, 89.99999]) | st.floats(-90, 90)
fit_types = st.sampled_from(["level", "level+slope"])


@lru_cache(maxsize=1)
def images():
    """Return four images in float64, so that added levels can be subtracted exactly."""
    sim = simulate_generic(n_images=4, shape=(40, 40), overlap=0.4, noise=0.1, stars=False)
    out = []
    for image in sim.images:
        image.data = image.data.astype(float)
        out.append(image)
    return out


@lru_cache(maxsize=8)
def matched(fit_type="level", reference="mean"):
    return lm.match_mosaic(images(), fit_type=fit_type, reference=reference)


def with_data(image, data, unit=None):
    return CCDData(
        data, wcs=image.wcs, unit=unit or image.unit, meta=image.meta.copy(), mask=image.mask
    )


def column(result, name="level"):
    return np.asarray(result.table[name])


@few
@given(k=st.integers(0, 3), step=levels, fit_type=fit_types)
def test_a_constant_shifts_its_own_image_only(k, step, fit_type):
    changed = [
        with_data(image, image.data + (step if i == k else 0)) for i, image in enumerate(images())
    ]
    # The first image is held, so that the gauge does not mix the images.
    reference = (k + 1) % 4
    before = matched(fit_type, reference)
    after = lm.match_mosaic(changed, fit_type=fit_type, reference=reference)
    expected = column(before)
    expected[k] += step
    assert_allclose(column(after), expected, atol=1e-7 * (1 + abs(step)))
    assert_allclose(
        column(after, "slope_u"), column(before, "slope_u"), atol=1e-6 * (1 + abs(step))
    )


@few
@given(scale=st.floats(1e-6, 1e6), fit_type=fit_types)
def test_scaling_scales(scale, fit_type):
    changed = [with_data(image, image.data * scale) for image in images()]
    before = matched(fit_type)
    after = lm.match_mosaic(changed, fit_type=fit_type, reference="mean")
    for name in ("level", "error", "slope_u", "slope_v"):
        reference = np.abs(column(before, name)).max() + 1e-12
        assert_allclose(column(after, name) / scale, column(before, name), atol=1e-6 * reference)


@few
@given(order=st.permutations(range(4)), fit_type=fit_types)
def test_order_does_not_matter(order, fit_type):
    result = lm.match_mosaic([images()[k] for k in order], fit_type=fit_type, reference="mean")
    for name in ("level", "error", "slope_u", "slope_v", "n_pairs", "isolated"):
        assert_array_equal(column(result, name), column(matched(fit_type), name)[list(order)])
    assert_array_equal(result.pairs["level"], matched(fit_type).pairs["level"])


@few
@given(names=st.permutations("abcd"), fit_type=fit_types)
def test_names_do_not_matter(names, fit_type):
    renamed = [with_data(image, image.data) for image in images()]
    for image, name in zip(renamed, names, strict=True):
        image.meta["FILENAME"] = f"{name}.fits"
    result = lm.match_mosaic(renamed, fit_type=fit_type, reference="mean")
    assert list(result.table["name"]) == [f"{name}.fits" for name in names]
    for name in ("level", "error", "slope_u", "slope_v"):
        want = column(matched(fit_type), name)
        assert_allclose(column(result, name), want, rtol=1e-9, atol=1e-9)


@few
@given(ra=longitudes, dec=latitudes)
def test_place_does_not_matter(ra, dec):
    moved = []
    for image in images():
        wcs = image.wcs.deepcopy()
        moved.append(CCDData(image.data, wcs=wcs, unit=image.unit, meta=image.meta.copy()))
    # All images share one tangent point, so that they can be moved together.
    centre = images()[0].wcs.wcs.crval
    for image, old in zip(moved, images(), strict=True):
        x, y = old.wcs.world_to_pixel_values(*centre)
        image.wcs.wcs.crpix = x + 1, y + 1
        image.wcs.wcs.crval = ra, dec
        image.wcs.wcs.lonpole = 180.0
        image.wcs.wcs.set()
    result = lm.match_mosaic(moved, reference="mean")
    assert len(result.pairs) == len(matched().pairs)
    assert_allclose(column(result), column(matched()), atol=1e-3)


@few
@given(values=st.lists(levels, min_size=4, max_size=4), fit_type=fit_types)
def test_gauge_is_exact(values, fit_type):
    changed = [with_data(i, i.data + v) for i, v in zip(images(), values, strict=True)]
    size = 1 + np.abs(values).max()
    mean = lm.match_mosaic(changed, reference="mean", fit_type=fit_type)
    if fit_type == "level":
        assert abs(column(mean).mean()) < 1e-13 * size
    held = lm.match_mosaic(changed, reference=2, fit_type=fit_type)
    for name in ("level", "slope_u", "slope_v", "error"):
        assert column(held, name)[2] == 0
    tiles = lm.match_dithers(changed, group_by=lambda name, meta: "one", fit_type="level")
    assert abs(column(tiles).mean()) < 1e-13 * size


@few
@given(
    units=st.lists(
        st.sampled_from(["MJy / sr", "Jy / arcsec2", "nW Hz-1 m-2 sr-1", "uJy / deg2"]),
        min_size=4,
        max_size=4,
    )
)
def test_units_convert(units):
    changed = [
        with_data(image, image.data * image.unit.to(unit), u.Unit(unit))
        for image, unit in zip(images(), units, strict=True)
    ]
    result = lm.match_mosaic(changed, reference="mean")
    for k, (frame, unit) in enumerate(zip(result.frames, units, strict=True)):
        found = (frame.correction.constant * u.Unit(unit)).to_value("MJy / sr")
        assert_allclose(found, column(matched())[k], rtol=1e-6, atol=1e-8)
        assert result[k].unit == u.Unit(unit)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_units_per_pixel_compare_by_the_area_of_a_pixel(paint, scale):
    # The same sky in Jy per pixel; larger pixels hold more.
    sky = (4.0, 0.1, 0.0)
    first = paint("a.fits", sky=sky, unit="Jy", noise=0.001)
    second = paint("b.fits", (0.2, 20.3), sky=sky, level=1.0, unit="Jy", noise=0.001, scale=scale)
    second.data *= np.float32(scale**2)
    result = lm.match_mosaic([first, second], reference=0, group_by="FILENAME")
    assert_allclose(column(result)[1], scale**2, rtol=2e-3)


# The geometry beneath


@many
@given(ra=longitudes, dec=latitudes)
def test_axes_are_orthonormal_anywhere(ra, dec):
    axes = tangent_axes(unit_vectors(ra, dec))
    assert_allclose(axes @ axes.T, np.eye(3), atol=1e-14)
    assert_allclose(np.linalg.det(axes), 1, rtol=1e-12)
    back = unit_vectors(*lonlat(axes[0]))
    assert_allclose(back, axes[0], atol=1e-14)


@many
@given(
    ra=longitudes,
    dec=latitudes,
    east=st.floats(-1, 1),
    north=st.floats(-1, 1),
    plane=st.lists(st.floats(-10, 10), min_size=3, max_size=3),
)
def test_a_plane_is_the_same_about_any_centre(ra, dec, east, north, plane):
    # The level of a plane times the first component of the vector equals the level up to 1 - cos.
    # Without slopes it is a constant, without this difference.
    assume(any(plane[1:]))
    first = tangent_axes(unit_vectors(ra, dec))
    step = np.radians(0.1)
    second = tangent_axes(first[0] + step * (east * first[1] + north * first[2]))
    moved = transfer_matrix(first, second) @ plane
    one = Correction.from_coefficients(np.array(plane), first)
    two = Correction.from_coefficients(moved, second)
    assert_allclose(two.vector, one.vector, atol=1e-9)
    assert_allclose(one.coefficients(second), moved, atol=1e-9)
    point = first[0] + step * 0.3 * first[1]
    point /= np.linalg.norm(point)
    expected = plane_terms(point, first) @ plane
    assert_allclose(one.vector @ point, expected, atol=abs(plane[0]) * 1e-5 + 1e-9)


@few
@given(ra=longitudes, dec=latitudes, angle=st.floats(0, 360))
def test_map_there_and_back(wcs_of, ra, dec, angle):
    shape = (60, 90)
    wcs = wcs_of((0, 0), shape=shape, centre=(ra, dec), angle=angle, scale=30.0)
    grid = Grid(SkyTransform(wcs, "a"), shape, (0, 60, 0, 90), 8)
    x, y = np.meshgrid(np.linspace(0, 89, 13), np.linspace(0, 59, 11))
    px, py = grid.to_pixel(grid.transform.to_sky(x, y))
    assert_allclose(px, x, atol=0.005)
    assert_allclose(py, y, atol=0.005)
