# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of common grids and stacks."""

import numpy as np
import pytest
from astropy.nddata import CCDData
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.inputs import collect_frames
from levelmatch.sky.reprojection import common_grid, reproject_to


def grids_of(*images):
    return [frame.grid for frame in collect_frames(images)]


@pytest.mark.parametrize("centre", [(150.0, 2.0), (0.0, 0.0), (30.0, 89.999)])
def test_common_grid_holds_all_images(paint, centre):
    images = [paint("a.fits", centre=centre), paint("b.fits", (20, 50), centre=centre, angle=30)]
    wcs, shape = common_grid(grids_of(*images))
    for image in images:
        y, x = np.array([[0, 0, 47, 47], [0, 63, 0, 63]])
        px, py = wcs.world_to_pixel_values(*image.wcs.pixel_to_world_values(x, y))
        assert (px > -0.5).all()
        assert (py > -0.5).all()
        assert (px < shape[1] - 0.5).all()
        assert (py < shape[0] - 0.5).all()
    assert wcs.array_shape == shape
    assert_allclose(wcs.wcs.cdelt, [-1 / 3600, 1 / 3600], rtol=1e-5)
    assert shape[0] * shape[1] < 4 * 2 * 48 * 64


def test_common_grid_takes_the_finest_scale(paint):
    wcs, _ = common_grid(grids_of(paint("a.fits", scale=2.0), paint("b.fits", scale=0.5)))
    assert_allclose(wcs.wcs.cdelt[1], 0.5 / 3600, rtol=1e-5)


def test_common_grid_of_what_is_shared(paint):
    _, shape = common_grid(grids_of(paint("a.fits"), paint("b.fits", (10, 20))), overlap=True)
    assert abs(shape[0] - 38) <= 3
    assert abs(shape[1] - 44) <= 3
    assert common_grid(grids_of(paint("a.fits"), paint("b.fits", (0, 99))), overlap=True) is None


@pytest.mark.parametrize("method", ["interp", "exact", "adaptive"])
def test_reprojected_image(paint, plane_of, method):
    image = paint("a.fits", angle=20.0, noise=0)
    (frame,) = collect_frames([image])
    data = frame.load()
    data[20:23, 30:33] = np.nan
    wcs, shape = common_grid([frame.grid])
    out = reproject_to(data, frame.grid, wcs, shape, method)
    assert out.dtype == data.dtype
    good = np.isfinite(out)
    assert 0.7 * data.size < good.sum() < 1.1 * data.size
    # At an edge, a sample may repeat the value of the last pixel.
    assert_allclose(out[good], plane_of(wcs, shape, [5.0, 0.6, -0.9])[good], atol=0.02)
    x, y = wcs.world_to_pixel_values(*image.wcs.pixel_to_world_values(31, 21))
    assert np.isnan(out[round(float(y)), round(float(x))])


@pytest.mark.parametrize("method", ["interp", "exact", "adaptive"])
def test_stack_is_the_mean(paint, with_planes, plane_of, method):
    images = [with_planes(paint(f"{n}.fits", (0.4, 10.3 * k), level=k)) for k, n in enumerate("ab")]
    stack = lm.stack_tile(images, method=method)
    assert isinstance(stack, CCDData)
    assert stack.data.dtype == np.float32
    assert stack.unit == images[0].unit
    assert_array_equal(stack.mask, ~np.isfinite(stack.data))
    assert stack.meta["FILENAME"] == "stack.fits"
    rise = stack.data - plane_of(stack.wcs, stack.data.shape, [5.0, 0.6, -0.9])
    values = rise[~stack.mask]
    levels = [np.mean(abs(values - v) < 0.1) for v in (0, 0.5, 1)]
    assert sum(levels) > 0.98
    # 54 of 74 columns are common.
    # A masked pixel also removes its neighbours, more of them in "adaptive".
    assert 0.4 < levels[1] < 0.8


def test_stack_of_a_result_is_seamless(paint):
    images = [paint(f"{n}.fits", (0.4, 10.3 * k), level=k) for k, n in enumerate("ab")]
    result = lm.match_dithers(images, group_by=lambda name, meta: "tile")
    stack = lm.stack_tile(result)
    assert stack.meta["FILENAME"] == "tile.fits"
    smooth = np.nanstd(np.diff(stack.data, axis=1))
    assert smooth < 0.03


def test_stack_without_a_good_pixel(paint):
    (frame,) = collect_frames([paint("a.fits")])
    from levelmatch.results.mosaic import stack_frames

    image = paint("a.fits")
    image.data[:, ::2] = np.nan
    image.data[::2] = np.nan
    frame = collect_frames([paint("b.fits", (0.5, 0.5))])[0]
    frame.source.image.data[:] = image.data
    with pytest.raises(lm.NoOverlapError, match=r"t\.fits: the stacked images have no good pixel"):
        stack_frames([frame], name="t.fits", method="interp", unit=None)
