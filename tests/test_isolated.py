# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of images whose level no overlap determines, and of their unknown errors."""

import json
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from helpers import succeed
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm

# Corners on the sky, in pixels: three images that overlap, a lone one, and two that overlap.
PLACES = {
    "a.fits": (0, 0),
    "b.fits": (30, 5),
    "c.fits": (10, 30),
    "d.fits": (500, 0),
    "e.fits": (0, 500),
    "f.fits": (25, 510),
}
APART = "ignore:.*the images form .* sets without overlap:levelmatch.DisconnectedWarning"
pytestmark = pytest.mark.filterwarnings(APART)


def image(name, place, level=0.0, size=50):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.cdelt = [10, 0], [-1e-4, 1e-4]
    wcs.wcs.crpix = [25 - place[0], 25 - place[1]]
    noise = np.random.default_rng(list(name.encode())).normal(0, 0.1, (size, size))
    return CCDData(level + noise, unit="MJy/sr", wcs=wcs, meta={"FILENAME": name})


@pytest.fixture
def images():
    return [image(name, place, k) for k, (name, place) in enumerate(PLACES.items())]


def one_tile(name, meta=None):
    return "tile"


@pytest.mark.parametrize("fit_type", ["level", "level+slope", "auto"])
@pytest.mark.parametrize(
    ("function", "key"), [(lm.match_mosaic, "FILENAME"), (lm.match_dithers, one_tile)]
)
def test_errors_of_what_nothing_joins(images, function, key, fit_type):
    result = function(images, group_by=key, fit_type=fit_type)
    table = result.table
    assert_array_equal(table["isolated"], np.array(list(PLACES)) == "d.fits")
    assert_array_equal(np.isnan(table["error"]), table["isolated"])
    if fit_type != "level":
        assert_array_equal(np.isnan(table["slope_u_error"]), table["isolated"])
    assert table["level"][3] == 0
    for i in range(6):
        for j in range(6):
            same = any({i, j} <= members for members in ({0, 1, 2}, {4, 5}))
            assert np.isfinite(result.covariance(i, j)[0, 0]) == same
    letter = "M" if function is lm.match_mosaic else "D"
    assert result[3].meta[f"LM{letter}ERR"] is None
    assert result[1].meta[f"LM{letter}ERR"] >= 0


def test_a_later_pass_can_join_an_image():
    # The second image is alone in its tile, but overlaps the other tile.
    near = {"a1": (0, 0), "a2": (200, 0), "b1": (40, 0), "b2": (80, 0), "b3": (120, 0)}
    near["b4"] = (160, 0)
    images = {"a": [], "b": []}
    for k, (name, place) in enumerate(near.items()):
        images[name[0]].append(image(f"{name}.fits", place, k))
    result = lm.match_levels(images, reference="mean")
    table = result.table
    assert table["isolated"].sum() == 2
    assert np.isfinite(table["error"]).all()
    assert (table["error"] > 0).all()
    assert_allclose(np.diff(table["level"].value), 1, atol=0.1)
    assert np.isfinite(result.covariance("a1.fits", "a2.fits")[0, 0])


@pytest.mark.parametrize("group_by", ["auto", "overlap"])
def test_images_that_are_tiles_of_their_own(group_by):
    """Dithers that are no dithers are named, because nothing is corrected."""
    images = [image("a.fits", (0, 0)), image("b.fits", (0, 30))]
    with pytest.warns(lm.LevelMatchWarning, match="no image is corrected: each of the 2 images"):
        result = lm.match_dithers(images, group_by=group_by)
    assert_array_equal(result.table["level"].value, 0)
    # The tiles are matched, or named by the user, so nothing is said.
    assert lm.match_mosaic(result).table["level"].value.any()
    assert lm.match_mosaic(images, group_by=group_by).table["level"].value.any()
    lm.match_dithers(images, group_by="FILENAME")


def test_one_image_alone_is_no_finding():
    result = lm.match_dithers({"one": [image("a.fits", (0, 0))], "two": [image("b.fits", (9, 0))]})
    assert_array_equal(result.table["error"].value, 0)


def test_files_records_and_commands(images, tmp_path):
    for ccd in images:
        ccd.write(tmp_path / ccd.meta["FILENAME"])
    out = tmp_path / "out"
    done = succeed("run", *(tmp_path / name for name in PLACES), "-o", out, "--report")
    (line,) = [line for line in done.output.splitlines() if line.startswith("d.fits")]
    assert "+-" not in line
    header = fits.getheader(out / "d.fits")
    assert header["LMMERR"] in (None, "")
    assert header["LMMLEV"] == 0
    assert fits.getheader(out / "b.fits")["LMMERR"] > 0
    record = out / "levelmatch.asdf"
    found = lm.read_record(record)
    assert_array_equal(np.isnan(found.table["error"]), found.table["isolated"])
    assert np.isnan(found.covariance("a.fits", "e.fits")).all()
    assert np.isfinite(found.covariance("e.fits", "f.fits")[0, 0])
    page = re.sub(
        "(?s)<script.*?</script>|<style.*?</style>|<svg.*?</svg>|<img[^>]*>",
        "",
        (out / "levelmatch.html").read_text(),
    )
    assert not re.search(r"\bnan\b", page)
    shown = succeed("show", record).output
    (line,) = [line for line in shown.splitlines() if line.startswith("d.fits")]
    assert "+-" not in line
    plain = json.loads(succeed("show", "--json", record).output)
    (row,) = [row for row in plain["images"] if row["name"] == "d.fits"]
    assert row["error"] is None
    lm.undo_record(record, [str(out / name) for name in PLACES], tmp_path / "back")
    assert not list(fits.getheader(tmp_path / "back" / "d.fits")["LM*"])


def test_the_only_pair_is_never_cut():
    # 400 pixels along 2 % of a side, below ``min_linear`` and ``min_area``.
    small = {"a.fits": (0, 0), "b.fits": (120, 30), "c.fits": (30, 120), "d.fits": (-196, 0)}
    images = [image(name, place, k, size=200) for k, (name, place) in enumerate(small.items())]
    result = lm.match_mosaic(images, group_by="FILENAME")
    assert not result.table["isolated"].any()
    assert_allclose(
        result.table["level"].value - np.arange(4), -result.table["level"][0].value, atol=0.1
    )
    assert result.table["error"][3].value > 0
    pairs = result.pairs
    row = np.flatnonzero((pairs["image1"] == "a.fits") & (pairs["image2"] == "d.fits"))
    assert pairs["kept"][row].all()
