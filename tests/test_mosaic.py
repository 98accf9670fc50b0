# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of mosaics."""

import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty, UnknownUncertainty
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.frame import Frame
from levelmatch.results import coadd, layers
from levelmatch.testing import simulate_generic, simulate_miri

FLAT = (7.25, 0.0, 0.0)


@pytest.fixture
def flat(paint):
    """Return four noisy images of one constant sky; the last is rotated."""
    places = [(0.4, 0.3), (0.2, 30.6), (25.3, 0.1), (24.7, 31.2)]
    return [
        paint(f"{n}.fits", place, sky=FLAT, angle=20.0 * (n == "d"))
        for n, place in zip("abcd", places, strict=True)
    ]


def counted_loads(monkeypatch):
    loads, load = [], Frame.load

    def counted(frame):
        loads.append(frame.name)
        return load(frame)

    monkeypatch.setattr(Frame, "load", counted)
    return loads


@pytest.mark.parametrize("method", ["auto", "interp", "exact", "adaptive"])
@pytest.mark.parametrize("combine", ["mean", "median"])
def test_constant_sky_stays(flat, method, combine):
    mosaic, coverage = lm.make_mosaic(flat, combine=combine, coadd=lm.CoaddOptions(method=method))
    assert isinstance(mosaic, CCDData)
    assert mosaic.data.dtype == np.float32
    assert mosaic.unit == u.MJy / u.sr
    assert_array_equal(mosaic.mask, coverage == 0)
    assert_array_equal(np.isnan(mosaic.data), mosaic.mask)
    assert coverage.max() == 4
    assert 0.6 < (coverage > 0).mean() < 0.95
    assert_allclose(mosaic.data[~mosaic.mask], FLAT[0], atol=0.06)
    assert abs(mosaic.data[~mosaic.mask].mean() - FLAT[0]) < 2e-3


def test_plane_sky_lies_where_it_should(paint, plane_of):
    images = [paint("a.fits", noise=0, angle=33), paint("b.fits", (10.3, 20.7), noise=0)]
    mosaic, _ = lm.make_mosaic(images)
    inner = ~mosaic.mask
    truth = plane_of(mosaic.wcs, mosaic.data.shape, [5.0, 0.6, -0.9])
    # Within half a pixel of an image's edge, its last value is repeated.
    assert_allclose(mosaic.data[inner], truth[inner], atol=0.02)
    assert np.median(abs(mosaic.data - truth)[inner]) < 1e-5


@pytest.mark.parametrize("method", ["auto", "interp", "exact", "adaptive"])
@pytest.mark.parametrize("ratio", [1.7, 4, 11])
def test_coarse_grid_has_no_holes(paint, plane_of, method, ratio):
    images = [paint(f"{n}.fits", noise=0, angle=33, shape=(160, 180)) for n in "ab"]
    # The pixels of the images are 1 arcsec.
    mosaic, coverage = lm.make_mosaic(
        images, pixel_scale=ratio, coadd=lm.CoaddOptions(method=method)
    )
    y, x = np.indices(mosaic.data.shape)
    column, row = images[0].wcs.world_to_pixel(mosaic.wcs.pixel_to_world(x, y))
    # The kernel of "adaptive" reaches over two pixels of the mosaic.
    inner = np.abs(column - 89.5) < 90 - 2 * ratio
    inner &= np.abs(row - 79.5) < 80 - 2 * ratio
    assert np.count_nonzero(inner) >= 20
    assert (coverage[inner] == 2).all()
    truth = plane_of(mosaic.wcs, mosaic.data.shape, [5.0, 0.6, -0.9])
    assert_allclose(mosaic.data[inner], truth[inner], atol=0.01)


def test_levels_are_removed(row):
    levels, images = row
    truth = np.array(list(levels.values()))
    before, _ = lm.make_mosaic(images)
    result = lm.match_mosaic(images, group_by="FILENAME", reference="mean")
    after, coverage = lm.make_mosaic(result)
    assert_allclose(result.table["level"].value, truth - truth.mean(), atol=0.01)
    seam = np.diff(np.nanmean(before.data, axis=0))
    assert abs(seam).max() > 0.5
    assert abs(np.diff(np.nanmean(after.data, axis=0))).max() < 0.02
    assert coverage.max() == 2


def test_result_keeps_its_flux_scales(paint):
    """An image with another flux scale is scaled to the others, as in the comparison."""
    good = paint("a.fits")
    double = paint("b.fits", (3.3, 4.2))
    double.data *= 2
    result = lm.match_mosaic(
        [good, double], group_by="FILENAME", read=lm.ReadOptions(flux_scale=[1.0, 0.5])
    )
    for combined in (lm.make_mosaic(result)[0], lm.stack_tile(result)):
        assert abs(np.nanmedian(combined.data) - 5.0) < 0.1


def test_lyot_and_science_parts_make_one_mosaic():
    # Smaller images have no Lyot region.
    simulated = simulate_miri(tiles=(1, 1), n_dithers=3, lyot=True, dither_size=24, seed=4)
    result = lm.match_levels(list(simulated.images), recombine_lyot=True)
    mosaic, coverage = lm.make_mosaic(result)
    header = mosaic.wcs.to_header()
    header["NAXIS1"], header["NAXIS2"] = mosaic.data.shape[::-1]
    whole, _ = lm.make_mosaic(list(result), wcs=header)
    both = ~mosaic.mask & ~whole.mask
    assert both.mean() > 0.2
    assert coverage.max() == 3
    assert np.median(abs(mosaic.data - whole.data)[both]) < 1e-3


def test_coverage_counts_good_pixels(paint):
    images = [paint("a.fits"), paint("b.fits")]
    images[1].mask = np.zeros(images[1].data.shape, dtype=bool)
    images[1].mask[10:20, 30:40] = True
    _, coverage = lm.make_mosaic(
        images, wcs=images[0].wcs, coadd=lm.CoaddOptions(shape=images[0].data.shape)
    )
    assert coverage.dtype == np.int32
    assert (coverage[11:19, 31:39] == 1).all()
    assert (coverage[1:8, 1:25] == 2).all()


def test_median_leaves_out_an_outlier(flat):
    for image, value in zip(flat, (1e4, -1e4, 3e3, 8e3), strict=True):
        image.data[20:24, 30:34] = value
    same = dict(wcs=flat[0].wcs, coadd=lm.CoaddOptions(shape=(48, 64)))
    images = [*flat, *[CCDData(i.data + 0, unit=i.unit, wcs=i.wcs) for i in flat]]
    for image in images[4:]:
        image.data[20:24, 30:34] = FLAT[0]
    median, coverage = lm.make_mosaic(images, combine="median", **same)
    mean, _ = lm.make_mosaic(images, **same)
    deep = coverage >= 3
    assert deep.sum() > 1000
    assert abs(mean.data[deep] - FLAT[0]).max() > 500
    assert_allclose(median.data[deep], FLAT[0], atol=0.1)


def test_median_is_numpys(paint):
    rng = np.random.default_rng(3)
    images = [paint(f"{k}.fits", sky=FLAT) for k in range(5)]
    for image in images:
        y, x = rng.integers(0, 24), rng.integers(0, 32)
        image.data[y : y + 24, x : x + 32] = np.nan
    mosaic, coverage = lm.make_mosaic(
        images, wcs=images[0].wcs, combine="median", coadd=lm.CoaddOptions(shape=(48, 64))
    )
    stack = np.array([image.data for image in images])
    # On the grid of the images almost nothing is interpolated, except beside bad pixels.
    some = (coverage == np.isfinite(stack).sum(axis=0)) & (coverage > 0)
    assert set(coverage[some]) == {1, 2, 3, 4, 5}
    assert_allclose(mosaic.data[some], np.nanmedian(stack[:, some], axis=0), atol=1e-4)


@pytest.mark.parametrize("method", ["interp", "exact", "adaptive"])
@pytest.mark.parametrize("combine", ["mean", "median"])
def test_no_seams_between_tiles(flat, plane_of, method, combine):
    def mosaic(tile_size):
        coadd = lm.CoaddOptions(method=method, tile_size=tile_size)
        return lm.make_mosaic(flat, combine=combine, coadd=coadd)

    whole, coverage = mosaic(1000)
    for size in (37, (16, 200)):
        tiled, tiled_coverage = mosaic(size)
        assert_array_equal(tiled_coverage, coverage)
        assert_allclose(tiled.data, whole.data, rtol=2e-6)


def test_a_large_median_is_made_in_parts(flat, monkeypatch):
    whole, coverage = lm.make_mosaic(flat, combine="median")
    monkeypatch.setattr(coadd, "STACK", 4000)
    parts, parts_coverage = lm.make_mosaic(flat, combine="median")
    assert_array_equal(parts_coverage, coverage)
    assert_allclose(parts.data, whole.data, rtol=2e-6)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (359.9999, -45.0), (10.0, 89.9999), (77.0, -90.0)])
@pytest.mark.parametrize("angle", [0.0, 130.0])
def test_anywhere_on_the_sky(paint, plane_of, wcs_of, centre, angle):
    places = [(0.4, 0.3), (0.2, 30.6), (25.3, 0.1)]
    images = [
        paint(f"{n}.fits", place, centre=centre, noise=0, sky=(5.0, 0.6, 0.9))
        for n, place in zip("abc", places, strict=True)
    ]
    wcs = wcs_of(shape=(90, 110), centre=centre, angle=angle, scale=0.9)
    mosaic, coverage = lm.make_mosaic(
        images, wcs=wcs, coadd=lm.CoaddOptions(shape=(90, 110), tile_size=32)
    )
    truth = plane_of(wcs, (90, 110), [5.0, 0.6, 0.9], centre)
    some = coverage > 0
    assert some.mean() > 0.3
    assert_allclose(mosaic.data[some], truth[some], atol=0.02)
    own, own_coverage = lm.make_mosaic(images)
    assert (own_coverage > 0).sum() > 3000
    truth = plane_of(own.wcs, own.data.shape, [5.0, 0.6, 0.9], centre)
    assert_allclose(own.data[own_coverage > 0], truth[own_coverage > 0], atol=0.02)


def test_across_the_seam_of_an_all_sky_map(paint):
    """Right ascension 180 is the edge of this map, so the image lies on both sides."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---CAR", "DEC--CAR"
    wcs.wcs.crval = 0.0, 0.0
    wcs.wcs.cdelt = -2.0, 2.0
    wcs.wcs.crpix = 90.5, 45.5
    images = [
        paint(f"{k}.fits", centre=(ra, dec), scale=1800.0, sky=FLAT)
        for k, (ra, dec) in enumerate([(180.0, 10.0), (40.0, 90.0)])
    ]
    _, coverage = lm.make_mosaic(
        images, wcs=wcs, coadd=lm.CoaddOptions(shape=(90, 180), method="interp")
    )
    assert coverage[48:52, :4].all()
    assert coverage[48:52, -4:].all()
    assert coverage[-3:].all()
    assert not coverage[:30].any()


@pytest.mark.parametrize("method", ["auto", "interp"])
def test_no_column_is_lost_at_the_seam_of_a_coarse_map(paint, method):
    images = [paint(centre=(0.2, 0.0), scale=60.0, shape=(96, 96), sky=FLAT, noise=0.1)]
    images[0].data[40:44, 40:44] = np.nan
    maps = []
    for centre in (0.0, 180.0):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---CAR", "DEC--CAR"
        wcs.wcs.crval = centre, 0.0
        wcs.wcs.cdelt = -0.1, 0.1
        wcs.wcs.crpix = 1800.5, 20.5
        mosaic, _ = lm.make_mosaic(
            images, wcs=wcs, coadd=lm.CoaddOptions(shape=(40, 3600), method=method)
        )
        maps.append(np.roll(mosaic.data, 1800 if centre else 0, axis=1))
    assert np.isfinite(maps[0]).sum() > 200
    assert_array_equal(np.isfinite(maps[0]), np.isfinite(maps[1]))
    # At the seam a pixel has the noise of one image pixel, not of an average.
    assert_allclose(maps[1], maps[0], atol=0.5)


def test_weights_of_an_unknown_kind_of_uncertainty(paint):
    image = paint("a.fits")
    image.uncertainty = UnknownUncertainty(np.ones(image.shape))
    with pytest.raises(lm.FrameError, match=r"a\.fits: weights='ivar': .*\(UnknownUncertainty\)"):
        lm.make_mosaic([image], coadd=lm.CoaddOptions(weights="ivar"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_a_file_is_not_mapped_to_memory(flat, tmp_path):
    seen = []

    def bar(tiles):
        for tile in tiles:
            yield tile
            seen.append(str(tmp_path) in Path("/proc/self/maps").read_text())

    path = lm.make_mosaic(
        flat, output=tmp_path / "mosaic.fits", progress_bar=bar, coadd=lm.CoaddOptions(tile_size=32)
    )
    assert len(seen) > 4
    assert not any(seen)
    assert np.isfinite(fits.getdata(path)).any()


def test_other_frames_of_the_sky(flat):
    centre = flat[0].wcs.pixel_to_world(45, 40).galactic
    header = fits.Header({"NAXIS": 2, "NAXIS1": 120, "NAXIS2": 100})
    header.update({"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR", "CRVAL1": centre.l.deg})
    header.update({"CRVAL2": 0.0, "CRPIX1": 60.0, "CRPIX2": 50 - centre.b.deg * 3600})
    header.update({"CDELT1": -1 / 3600, "CDELT2": 1 / 3600})
    mosaic, coverage = lm.make_mosaic(flat, wcs=header)
    assert mosaic.data.shape == (100, 120)
    assert mosaic.wcs.wcs.ctype[0] == "GLON-CAR"
    assert coverage.max() == 4
    assert_allclose(mosaic.data[~mosaic.mask], FLAT[0], atol=0.06)


@pytest.mark.parametrize("scale", [3.0, 3 * u.arcsec, 0.05 * u.arcmin])
def test_coarse_pixels_average(flat, scale):
    mosaic, _ = lm.make_mosaic(flat, pixel_scale=scale)
    assert_allclose(mosaic.wcs.wcs.cdelt, [-3 / 3600, 3 / 3600])
    assert mosaic.meta["REPROJ"] == "adaptive"
    inner = mosaic.data[~mosaic.mask]
    nearest, _ = lm.make_mosaic(flat, pixel_scale=scale, coadd=lm.CoaddOptions(method="interp"))
    # The noise is averaged over nine pixels, not over the four nearest.
    assert np.std(inner) < 0.7 * np.std(nearest.data[~nearest.mask])
    assert_allclose(inner, FLAT[0], atol=0.03)


def test_bad_pixels_do_not_spread_over_coarse_ones(flat):
    for image in flat:
        image.data[::7, ::5] = np.nan
    mosaic, _ = lm.make_mosaic(flat, pixel_scale=4.0)
    assert (~mosaic.mask).mean() > 0.6
    assert_allclose(mosaic.data[~mosaic.mask], FLAT[0], atol=0.03)


def test_units_are_compared(paint):
    a = paint("a.fits", sky=FLAT)
    b = paint("b.fits", (1, 2), sky=FLAT)
    b = CCDData(b.data * 1e6, unit="Jy/sr", wcs=b.wcs, meta=b.meta)
    mosaic, _ = lm.make_mosaic([b, a])
    assert mosaic.unit == u.MJy / u.sr
    assert_allclose(mosaic.data[~mosaic.mask], FLAT[0], atol=0.06)
    fine = paint("c.fits", sky=(100.0, 0, 0), unit="adu")
    coarse = paint("d.fits", sky=(400.0, 0, 0), unit="adu", scale=2.0)
    mosaic, _ = lm.make_mosaic([coarse, fine])
    assert_allclose(mosaic.data[~mosaic.mask], 100.0, atol=0.1)
    with pytest.raises(u.UnitsError, match=r"c\.fits: its unit \(adu\) cannot be compared"):
        lm.make_mosaic([a, fine])


class TestWeights:
    @pytest.fixture
    def two(self, paint):
        a, b = (paint(f"{n}.fits", sky=(v, 0, 0), noise=0) for n, v in (("a", 1.0), ("b", 2.0)))
        a.meta["XPOSURE"], b.meta["XPOSURE"] = 30.0, 10.0
        return [a, b]

    @pytest.mark.parametrize("weights", ["XPOSURE", [3, 1], {"a.fits": 3, "b.fits": 1}])
    def test_of_images(self, two, weights):
        mosaic, coverage = lm.make_mosaic(two, coadd=lm.CoaddOptions(weights=weights))
        assert coverage.dtype == np.float32
        assert mosaic.meta["WEIGHTS"] == "by image"
        assert_allclose(mosaic.data[~mosaic.mask], 1.25)
        top = 40.0 if isinstance(weights, str) else 4.0
        assert_allclose(coverage.max(), top)

    def test_of_pixels(self, two):
        for image, variance in zip(two, (0.01, 0.03), strict=True):
            image.uncertainty = StdDevUncertainty(np.full(image.data.shape, variance**0.5))
            image.uncertainty.array[5, 5] = 0.0
        mosaic, coverage = lm.make_mosaic(
            two, wcs=two[0].wcs, coadd=lm.CoaddOptions(weights="ivar", shape=two[0].data.shape)
        )
        inner = np.s_[8:40, 8:50]
        assert_allclose(mosaic.data[inner], 1.25, rtol=1e-6)
        assert_allclose(coverage[inner], 100 + 100 / 3, rtol=1e-6)
        # A pixel with a zero error is not used.
        assert coverage[5, 5] == 0

    def test_of_errors_in_another_unit(self, two):
        for image, error, unit in zip(two, (0.1, 173.205), ("MJy/sr", "kJy/sr"), strict=True):
            image.uncertainty = StdDevUncertainty(np.full(image.data.shape, error), unit=unit)
        mosaic, _ = lm.make_mosaic(two, coadd=lm.CoaddOptions(weights="ivar"))
        assert_allclose(mosaic.data[~mosaic.mask], 1.25, rtol=1e-5)

    def test_of_errors_in_a_wrong_unit(self, two):
        for image in two:
            image.uncertainty = StdDevUncertainty(np.ones(image.data.shape), unit="MJy/sr")
            image.unit = "adu"
        with pytest.raises(lm.FrameError, match=r"the uncertainty \(MJy / sr\) does not .*\(adu\)"):
            lm.make_mosaic(two, coadd=lm.CoaddOptions(weights="ivar"))

    def test_of_negative_errors(self, two):
        """They mark bad pixels, whose square is no variance."""
        for image, error in zip(two, (0.1, -0.1), strict=True):
            image.uncertainty = StdDevUncertainty(np.full(image.data.shape, error))
        mosaic, _ = lm.make_mosaic(two, coadd=lm.CoaddOptions(weights="ivar"))
        assert_allclose(mosaic.data[~mosaic.mask], 1.0)

    def test_read_noise_goes_before_all_noise(self, two, tmp_path, write):
        paths = []
        for k, image in enumerate(two):
            shape = image.data.shape
            planes = [fits.ImageHDU(np.full(shape, (0.01, 0.03)[k], "f4"), name="VAR_RNOISE")]
            err = np.full(shape, (5.0, 1.0)[k], "f4")
            paths.append(write(image, tmp_path / f"{k}.fits", err=err, extra=planes))
        mosaic, _ = lm.make_mosaic(paths, coadd=lm.CoaddOptions(weights="ivar"))
        assert_allclose(mosaic.data[~mosaic.mask], 1.25, rtol=1e-6)

    def test_that_cannot_be(self, two):
        with pytest.raises(lm.FrameError, match=r"a\.fits: weights='ivar': the image has no unc"):
            lm.make_mosaic(two, coadd=lm.CoaddOptions(weights="ivar"))
        with pytest.raises(ValueError, match=r"a\.fits: weights: the keyword 'EXPTIME' is missing"):
            lm.make_mosaic(two, coadd=lm.CoaddOptions(weights="EXPTIME"))
        with pytest.raises(ValueError, match="weights: 3 factors for 2 images"):
            lm.make_mosaic(two, coadd=lm.CoaddOptions(weights=[1, 2, 3]))
        with pytest.raises(ValueError, match=r"b\.fits: weights: the factor is .* -1"):
            lm.make_mosaic(two, coadd=lm.CoaddOptions(weights=[1, -1]))
        with pytest.raises(TypeError, match="weights: 3 is neither"):
            lm.make_mosaic(two, coadd=lm.CoaddOptions(weights=3))
        with pytest.raises(ValueError, match="weights: a median has no weights"):
            lm.make_mosaic(two, combine="median", coadd=lm.CoaddOptions(weights="ivar"))


class TestFile:
    def test_is_the_mosaic_in_memory(self, flat, tmp_path):
        memory, coverage = lm.make_mosaic(flat, coadd=lm.CoaddOptions(tile_size=40))
        path = lm.make_mosaic(
            flat, output=tmp_path / "new" / "mosaic.fits", coadd=lm.CoaddOptions(tile_size=40)
        )
        assert path == tmp_path / "new" / "mosaic.fits"
        with fits.open(path) as hdus:
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "COVERAGE"]
            assert_array_equal(hdus[0].data, memory.data)
            assert_array_equal(hdus[1].data, coverage)
            assert hdus[1].data.dtype.kind == "i"
            assert hdus[0].header["BUNIT"] == "MJy sr-1"
            assert hdus[0].header["COMBINE"] == "mean"
            for hdu in hdus:
                assert_allclose(WCS(hdu.header).wcs.crval, memory.wcs.wcs.crval)
        again = CCDData.read(path)
        assert again.unit == u.MJy / u.sr
        assert [p.name for p in path.parent.iterdir()] == ["mosaic.fits"]

    def test_is_an_image_for_this_package(self, flat, tmp_path):
        path = lm.make_mosaic(flat, output=tmp_path / "mosaic.fits")
        mosaic, _ = lm.make_mosaic([path], wcs=fits.getheader(path))
        assert_allclose(mosaic.data[~mosaic.mask], FLAT[0], atol=0.06)
        assert (~mosaic.mask).sum() > 0.9 * np.isfinite(fits.getdata(path)).sum()

    def test_has_weights(self, flat, tmp_path):
        path = lm.make_mosaic(
            flat, output=str(tmp_path / "m.fits"), coadd=lm.CoaddOptions(weights=[0.5, 1, 1, 2])
        )
        coverage = fits.getdata(path, "COVERAGE")
        assert coverage.dtype.kind == "f"
        assert_allclose(coverage.max(), 4.5)

    def test_is_whole_or_not_there(self, flat, tmp_path, monkeypatch):
        path = tmp_path / "mosaic.fits"
        path.write_text("old")
        calls = []
        load = Frame.load

        def breaks(frame):
            calls.append(frame.name)
            if len(calls) == 3:
                msg = "the disk is gone"
                raise OSError(msg)
            return load(frame)

        monkeypatch.setattr(Frame, "load", breaks)
        with pytest.raises(OSError, match="the disk is gone"):
            lm.make_mosaic(flat, output=path, overwrite=True)
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["mosaic.fits"]

    def test_a_full_disk_is_named_before_any_pixel_is_read(self, flat, tmp_path, monkeypatch):
        def full(handle, start, size):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        loads = counted_loads(monkeypatch)
        with pytest.raises(OSError, match=r"m\.fits: No space left on device; the mosaic needs \d"):
            lm.make_mosaic(flat, output=tmp_path / "m.fits")
        assert list(tmp_path.iterdir()) == []
        assert loads == []

    def test_is_not_overwritten_nor_an_input(self, flat, tmp_path, write):
        path = write(flat[0], tmp_path / "a.fits")
        with pytest.raises(FileExistsError, match=r"a\.fits exists; overwrite=True replaces it"):
            lm.make_mosaic([path], output=path)
        before = path.read_bytes()
        with pytest.raises(lm.FrameError, match=r"a\.fits: output: .* is this input"):
            lm.make_mosaic([path], output=path, overwrite=True)
        assert path.read_bytes() == before
        lm.make_mosaic([path], output=tmp_path / "b.fits")
        lm.make_mosaic([path], output=tmp_path / "b.fits", overwrite=True)

    def test_of_a_sip_grid(self, tmp_path):
        image = simulate_miri(tiles=(1, 1), n_dithers=1, shape=(128, 129)).images[0]
        path = lm.make_mosaic(
            [image],
            wcs=image.wcs,
            output=tmp_path / "m.fits",
            coadd=lm.CoaddOptions(shape=(128, 129)),
        )
        wcs = WCS(fits.getheader(path))
        assert wcs.sip is not None
        x, y = wcs.world_to_pixel(image.wcs.pixel_to_world(100.0, 20.0))
        assert_allclose([x, y], [100, 20], atol=1e-3)


class TestMemory:
    def test_each_image_is_read_about_once(self, monkeypatch):
        images = list(simulate_generic(n_images=9, shape=(64, 64), stars=False).images)
        loads = counted_loads(monkeypatch)
        lm.make_mosaic(images, coadd=lm.CoaddOptions(tile_size=50))
        assert len(set(loads)) == len(loads) == 9

    def test_a_small_cache_reads_what_touches_a_tile(self, monkeypatch):
        images = list(simulate_generic(n_images=9, shape=(64, 64), stars=False).images)
        monkeypatch.setattr(layers, "CACHE", 0)
        loads = counted_loads(monkeypatch)
        lm.make_mosaic(images, coadd=lm.CoaddOptions(tile_size=50))
        # A tile of 50 pixels touches at most four of these images.
        assert 9 < len(loads) <= 4 * 25

    def test_does_not_grow_with_the_mosaic(self, tmp_path, paint, write, monkeypatch):
        monkeypatch.setattr(layers, "CACHE", 1 << 17)
        peaks = []
        for n in (3, 12):
            paths = [
                write(
                    paint(f"{n}-{k}.fits", (0, 100 * k), shape=(110, 110)),
                    tmp_path / f"{n}-{k}.fits",
                )
                for k in range(n)
            ]
            tracemalloc.start()
            lm.make_mosaic(
                paths, output=tmp_path / f"m{n}.fits", coadd=lm.CoaddOptions(tile_size=128)
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.5 * peaks[0]
        assert fits.getdata(tmp_path / "m12.fits").shape[1] > 1200


def test_images_off_the_grid_are_not_read(flat, wcs_of, monkeypatch):
    loads = counted_loads(monkeypatch)
    wcs = wcs_of((54.0, 14.0), shape=(4, 4))
    lm.make_mosaic(flat, wcs=wcs, coadd=lm.CoaddOptions(shape=(4, 4)))
    assert loads == ["d.fits"]


def test_progress_and_inputs_unchanged(flat, snapshot):
    before = snapshot(flat)
    seen = []

    def bar(tiles):
        seen.append(len(tiles))
        return tiles

    lm.make_mosaic(flat, progress_bar=bar, coadd=lm.CoaddOptions(tile_size=64))
    assert seen == [4]
    assert snapshot(flat) == before


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"combine": "sum"}, ValueError, r"combine: 'sum' is none of \('mean', 'median'\)"),
        ({"pixel_scale": 0}, ValueError, "pixel_scale: 0 is not positive"),
        ({"pixel_scale": -1 * u.arcsec}, ValueError, "pixel_scale: .* is not positive"),
        ({"pixel_scale": np.nan}, ValueError, "pixel_scale: nan is not positive"),
        ({"pixel_scale": 1 * u.m}, TypeError, "pixel_scale: .* expected an angle"),
        ({"pixel_scale": "1"}, TypeError, "pixel_scale: '1': expected an angle"),
        ({"pixel_scale": 1e-9}, ValueError, "pixel_scale: 1e-09 arcsec, where an image has 1 arcs"),
        ({"pixel_scale": 1e6}, ValueError, r"pixel_scale: 1e\+06 arcsec, where an image has 1 a"),
        (
            {"pixel_scale": 50},
            ValueError,
            r"a\.fits: a pixel of the mosaic is 50 pixels of this im",
        ),
        (
            {"pixel_scale": 2e-4},
            ValueError,
            r"the mosaic would have .* larger pixel_scale, or an o",
        ),
        (
            {"coadd": lm.CoaddOptions(shape=(10, 10))},
            ValueError,
            r"shape: \(10, 10\) belongs to a wcs",
        ),
        ({"coadd": lm.ReadOptions()}, TypeError, "coadd: expected CoaddOptions, not ReadOptions"),
        ({"wcs": "TAN"}, TypeError, "wcs: expected a WCS or a FITS header, not str"),
        ({"wcs": fits.Header()}, lm.FrameError, "wcs: the WCS is not celestial|wcs: the WCS"),
        ({"progress_bar": 3}, TypeError, "progress_bar: 3 is not callable"),
        ({"output": 3}, TypeError, "output: expected a path, not int"),
        ({"output": "m.fits.gz"}, ValueError, "output: 'm.fits.gz' does not end in .fits"),
    ],
)
def test_wrong_arguments(flat, options, error, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "wcs" in options:
        options = {**options, "coadd": lm.CoaddOptions(shape=(10, 10))}
    with pytest.raises(error, match=match):
        lm.make_mosaic(flat, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "direct"}, ValueError, "method: 'direct' is none of"),
        ({"tile_size": 0}, ValueError, r"tile_size: \(0, 0\): expected 16 pixels or more"),
        ({"tile_size": 100.5}, TypeError, "tile_size: .* expected two whole numbers"),
        ({"tile_size": (64, True)}, TypeError, "tile_size: .* expected two whole numbers"),
        ({"tile_size": "64"}, TypeError, "tile_size: .*'64'.*: expected two whole numbers"),
    ],
)
def test_wrong_options(options, error, match):
    with pytest.raises(error, match=match):
        lm.CoaddOptions(**options)


def test_keywords_of_earlier_releases(flat):
    new, _ = lm.make_mosaic(flat, coadd=lm.CoaddOptions(method="interp", weights=[1, 2, 3, 4]))
    match = r"make_mosaic: give coadd=CoaddOptions\(method='interp', weights=\[1, 2, 3, 4\]\)"
    with pytest.warns(lm.LevelMatchDeprecationWarning, match=match):
        old, _ = lm.make_mosaic(flat, method="interp", weights=[1, 2, 3, 4])
    assert_array_equal(old.data, new.data)
    with pytest.raises(TypeError, match="unexpected keyword argument 'scale'"):
        lm.make_mosaic(flat, scale=3)


def test_wrong_grids(flat, wcs_of, paint):
    wcs = wcs_of()
    with pytest.raises(
        ValueError, match=r"shape: the wcs has none; give coadd=CoaddOptions\(shape=\(ny, nx\)"
    ):
        lm.make_mosaic(flat, wcs=wcs)
    with pytest.raises(ValueError, match="pixel_scale: the wcs determines it"):
        lm.make_mosaic(flat, wcs=wcs, pixel_scale=1, coadd=lm.CoaddOptions(shape=(9, 9)))
    with pytest.raises(TypeError, match=r"shape: \(9, 9.5\): expected two whole numbers"):
        lm.make_mosaic(flat, wcs=wcs, coadd=lm.CoaddOptions(shape=(9, 9.5)))
    with pytest.raises(ValueError, match=r"shape: \(0, 9\): expected 1 pixels or more"):
        lm.make_mosaic(flat, wcs=wcs, coadd=lm.CoaddOptions(shape=(0, 9)))
    away = wcs_of(centre=(10.0, 2.0))
    with pytest.raises(lm.NoOverlapError, match="none of the 4 images has a good pixel on the mos"):
        lm.make_mosaic(flat, wcs=away, coadd=lm.CoaddOptions(shape=(9, 9)))
    far = [paint("a.fits", centre=(0.0, 0.0)), paint("b.fits", centre=(178.0, 0.0))]
    with pytest.raises(lm.FrameError, match=r"a\.fits: a plane cannot hold images so far apart"):
        lm.make_mosaic(far)
