# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images that were reprojected to one common grid, and are mostly empty."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from helpers import succeed
from numpy.testing import assert_allclose

from levelmatch import make_mosaic, match_levels

SIDE, STEP, N = 60, 45, 6
WHOLE = STEP * (N - 1) + SIDE
LEVELS = np.random.default_rng(5).normal(0, 5, N * N)


def wcs_at(y=0, x=0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 2)
    wcs.wcs.cdelt, wcs.wcs.crpix = (-4e-4, 4e-4), (WHOLE / 2 - x, WHOLE / 2 - y)
    return wcs


def images_of(*, cut=False, fill=np.nan, plane=0.0, dtype="f4"):
    """Return N x N overlapping images, cut out or on the common grid."""
    y, x = np.mgrid[:WHOLE, :WHOLE]
    sky = 3 * np.sin(x / 40) * np.cos(y / 55)
    images = []
    for k, level in enumerate(LEVELS):
        rng = np.random.default_rng([5, k])
        place = (
            slice(k // N * STEP, k // N * STEP + SIDE),
            slice(k % N * STEP, k % N * STEP + SIDE),
        )
        slope = plane * rng.normal() * (x[place] - x[place].mean()) / SIDE
        data = sky[place] + level + slope + rng.normal(0, 0.3, (SIDE, SIDE))
        wcs = wcs_at(place[0].start, place[1].start) if cut else wcs_at()
        if not cut:
            part, data = data, np.full((WHOLE, WHOLE), fill)
            data[place] = part
        meta = {"FILENAME": f"{k:02d}.fits"}
        images.append(CCDData(data.astype(dtype), unit="adu", wcs=wcs, meta=meta))
    return images


def errors_of(result):
    off = result.table["level"].value - LEVELS
    return off - off.mean()


@pytest.mark.parametrize("fill", [np.nan, 0.0])
@pytest.mark.filterwarnings("ignore:large regions of one value")
def test_levels_are_those_of_cut_images(fill):
    cut = match_levels(images_of(cut=True), reference="mean")
    result = match_levels(images_of(fill=fill), reference="mean")
    assert_allclose(errors_of(result), errors_of(cut), atol=0.01)
    assert_allclose(result.table["error"].value, cut.table["error"].value, rtol=0.2)
    # All pairs that share pixels are measured, and no others.
    assert len(result.pairs) == len(cut.pairs) == 2 * N * (N - 1) + 2 * (N - 1) ** 2
    assert np.sqrt(np.mean(errors_of(result) ** 2)) < 1.3 * result.table["error"].value.max()


def test_results_do_not_depend_on_the_order():
    images = images_of()
    result = match_levels(images)
    turned = match_levels(images[::-1])
    assert_allclose(turned.table["level"].value[::-1], result.table["level"].value, rtol=1e-12)


def test_planes_are_verified_and_undone(tmp_path):
    paths = []
    for image in images_of(plane=4.0, dtype="f8"):
        paths.append(tmp_path / image.meta["FILENAME"])
        header = image.wcs.to_header()
        header["BUNIT"] = "adu"
        fits.PrimaryHDU(image.data, header).writeto(paths[-1])
    result = match_levels(paths, fit_type="level+slope")
    written = result.write(tmp_path / "out")
    succeed("verify", tmp_path / "out")
    succeed("undo", tmp_path / "out", "-o", tmp_path / "back")
    for path, out in zip(paths, written, strict=True):
        before, after = fits.getdata(path), fits.getdata(tmp_path / "back" / path.name)
        assert_allclose(after, before, atol=1e-9)
        assert np.isfinite(fits.getdata(out)).sum() == SIDE**2


@pytest.mark.parametrize("fit_type", ["level", "auto"])
def test_one_tile_with_a_mean_of_zero(fit_type):
    """Solved by fronts; the summary tries planes."""
    result = match_levels(images_of(), reference="mean", fit_type=fit_type)
    assert "36 images in 1 tile" in result.summary()
    assert np.abs(errors_of(result)).max() < 0.1


def test_mosaics_are_those_of_cut_images():
    """The grid of the mosaic is that of the images, except for rounding errors."""
    cut, whole = (make_mosaic(images_of(cut=cut)) for cut in (True, False))
    assert_allclose(whole[1], cut[1])
    # Positions are accurate to 1e-4 pixel, and neighbours differ by up to 3.
    assert_allclose(whole[0].data, cut[0].data, atol=1e-3)
    assert np.count_nonzero(whole[1]) == WHOLE**2
