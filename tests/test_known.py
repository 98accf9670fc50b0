# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of known levels, regions, masks, and images that are held or left out."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable, Table
from astropy.wcs import WCS
from helpers import succeed
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.inputs import collect_frames
from levelmatch.images.selection import selection_of
from levelmatch.sky.vectors import lonlat

LEVELS = np.array([0.0, 5.0, -3.0, 8.0])
PLACES = ((0, 0), (40, 10), (5, 45), (45, 50))
SHAPE = (90, 100)


def wcs_at(place):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 20)
    wcs.wcs.cdelt, wcs.wcs.crpix = (-1e-3, 1e-3), (50 - place[0], 45 - place[1])
    return wcs


@pytest.fixture
def paths(tmp_path):
    """Return four images of one sky in adu, whose levels are known in order."""
    rng = np.random.default_rng(8)
    (tmp_path / "in").mkdir()
    out = []
    for k, (place, level) in enumerate(zip(PLACES, LEVELS, strict=True)):
        y, x = np.indices(SHAPE)
        sky = 3 * np.exp(-((x + place[0] - 60) ** 2 + (y + place[1] - 60) ** 2) / 500)
        header = wcs_at(place).to_header()
        header["BUNIT"] = "adu"
        data = 100 + sky + level + rng.normal(0, 0.4, SHAPE)
        out.append(tmp_path / "in" / f"k{k}.fits")
        fits.PrimaryHDU(data.astype("f4"), header).writeto(out[-1])
    return out


def match(paths, *, solve=None, **read):
    read = lm.ReadOptions(**read)
    return lm.match_levels(paths, reference=0, group_by="FILENAME", read=read, solve=solve)


# Levels


def known_levels(kind, folder, paths):
    """Return levels that are one too small, in each admitted form."""
    names, values = [path.name for path in paths], LEVELS - [0, 1, 1, 1]
    if kind == "list":
        return list(values)
    if kind == "mapping":
        return dict(zip(names, values, strict=True))
    if kind == "quantities":
        return dict(zip(names, values * u.adu, strict=True))
    table = Table({"image": names, "level": values, "Name": names})
    if kind == "table":
        return QTable({"name": names, "level": values * u.adu})
    if kind in ("csv", "ecsv", "txt"):
        path = folder / f"levels.{kind}"
        table = table["image", "level"]
        table.write(path, format={"csv": "ascii.csv", "ecsv": "ascii.ecsv", "txt": "ascii"}[kind])
        return str(path) if kind == "txt" else path
    return None


@pytest.mark.parametrize("kind", ["list", "mapping", "quantities", "table", "csv", "ecsv", "txt"])
def test_known_levels_are_subtracted_first(paths, tmp_path, kind):
    result = match(paths, levels=known_levels(kind, tmp_path, paths))
    table = result.table
    assert_allclose(table["level_known"].value, LEVELS - [0, 1, 1, 1])
    assert_allclose(table["level_mosaic"].value, [0, 1, 1, 1], atol=0.03)
    assert_allclose(table["level"].value, LEVELS, atol=0.03)
    written = result.write(tmp_path / "out")
    header = fits.getheader(written[3])
    assert (header["LMKLEV"], header["LMKREF"]) == (7.0, "levels")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert len(lm.verify_record(record, written)) == 4
    assert_allclose(record.table["level_known"].value, table["level_known"].value)
    for one, other in zip(lm.undo_record(record, written, tmp_path / "back"), paths, strict=True):
        assert_allclose(fits.getdata(one), fits.getdata(other), atol=1e-4)
        assert "LMKLEV" not in fits.getheader(one)


def test_the_corrections_of_a_record_are_known_levels(paths, tmp_path):
    first = lm.match_levels(paths, reference=0, group_by="FILENAME", fit_type="level+slope")
    first.write(tmp_path / "first")
    for levels in (first, first.record, tmp_path / "first" / "levelmatch.asdf"):
        second = match(paths, levels=levels)
        assert_allclose(second.table["level_mosaic"].value, 0, atol=0.02)
        assert_allclose(second.table["slope_u"].value, first.table["slope_u"].value, rtol=1e-6)
    images = second.write(tmp_path / "second")
    assert len(lm.verify_record(tmp_path / "second" / "levelmatch.asdf", images)) == 4


def test_levels_that_are_none(paths, tmp_path):
    for levels, words in (
        ([1, 2], "levels: 2 levels for 4 images"),
        ({"k0.fits": 1}, r"k1\.fits: levels: there is no level"),
        ([0, np.nan, 0, 0], r"k1\.fits: levels: .* is not a finite number"),
        ([0, "x", 0, 0], r"k1\.fits: levels: 'x' is not a finite number"),
    ):
        with pytest.raises(ValueError, match=words):
            match(paths, levels=levels)
    with pytest.raises(TypeError, match="levels: 3 is neither a list"):
        match(paths, levels=3)
    with pytest.raises(FileNotFoundError, match="levels: there is no file"):
        match(paths, levels=tmp_path / "none.txt")
    with pytest.raises(u.UnitsError, match=r"k0\.fits: levels: 1\.0 m cannot be converted to"):
        match(paths, levels=[1 * u.m] * 4)
    known = match(paths, levels=[0, 0, 0, 0])
    with pytest.raises(lm.FrameError, match=r"k0\.fits: levels: known levels are already"):
        lm.match_mosaic(known, read=lm.ReadOptions(levels=[0, 0, 0, 0], rematch=True))


def test_command_takes_known_levels(paths, tmp_path):
    table = known_levels("csv", tmp_path, paths)
    out = tmp_path / "out"
    options = ["--levels", table, "--reference", "k0.fits", "--group-by", "FILENAME"]
    succeed("run", *paths, "-o", out, *options)
    assert fits.getheader(out / "k3.fits")["LMKLEV"] == 7.0
    succeed("verify", out, out)
    succeed("undo", out, out, "-o", tmp_path / "back")


# Regions and masks


@pytest.fixture
def spoiled(paths):
    """Return two of the images with a bright ghost in the overlap, and its position."""
    for k in (1, 3):
        with fits.open(paths[k], mode="update") as hdus:
            wcs = WCS(hdus[0].header)
            x, y = wcs.world_to_pixel_values(149.95, 20.03)
            rows, columns = np.indices(SHAPE)
            inside = np.hypot(rows - y, columns - x) < 25
            hdus[0].data[inside] += 30 + 10 * k
    return paths


CIRCLE = 'icrs\ncircle(149.95,20.03,100")\n'


def region_kinds(folder):
    regions = pytest.importorskip("regions")
    circle = regions.CircleSkyRegion(SkyCoord(149.95, 20.03, unit="deg"), 100 * u.arcsec)
    path = folder / "ghost.reg"
    path.write_text(CIRCLE)
    return {"region": circle, "list": [circle], "file": path, "text": CIRCLE}


@pytest.mark.filterwarnings("ignore:k3.fits differ in flux scale")
@pytest.mark.parametrize("kind", ["region", "list", "file", "text"])
def test_regions_are_left_out(spoiled, tmp_path, kind):
    regions = region_kinds(tmp_path)[kind]
    assert np.abs(match(spoiled).table["level"].value - LEVELS).max() > 0.5
    result = match(spoiled, regions=regions)
    assert_allclose(result.table["level"].value, LEVELS, atol=0.03)
    # Pixels inside of the region are corrected like the others.
    before = fits.getdata(spoiled[1])
    assert_allclose(result[1].data, before - result.table["level"].value[1], atol=1e-3)
    assert not result[1].mask.any()
    written = result.write(tmp_path / "out")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert "circle" in str(record.options["read"]["regions"])
    assert len(lm.verify_record(record, written)) == 4
    whole, masked = lm.make_mosaic(spoiled)[0], lm.make_mosaic(result)[0]
    assert np.isfinite(masked).sum() == np.isfinite(whole).sum()


FAR = {
    "circle": 'circle(330,-20,100")',
    "near circle": 'circle(153,20,100")',
    "polygon": "polygon(330,-20,331,-20,331,-19)",
    "ellipse": 'ellipse(330,-20,100",50",30)',
    "annulus": 'annulus(330,-20,50",100")',
    "box": 'box(60,0,100",50",30)',
}


@pytest.mark.filterwarnings("ignore:k3.fits differ in flux scale")
@pytest.mark.parametrize("sip", [False, True])
@pytest.mark.parametrize("far", FAR.values(), ids=FAR)
def test_regions_far_from_the_images(spoiled, far, sip):
    """A region of the other side of the sky has no place in the pixels of an image."""
    pytest.importorskip("regions")
    for path in spoiled if sip else ():
        with fits.open(path, mode="update") as hdus:
            cards = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2}
            hdus[0].header.update(cards | {"B_ORDER": 2, "A_2_0": 1e-6, "B_0_2": 1e-6})
    alone = match(spoiled, regions=CIRCLE)
    both = match(spoiled, regions=f"{CIRCLE}{far}\n")
    assert_allclose(both.table["level"].value, alone.table["level"].value, atol=1e-9)


@pytest.mark.parametrize("axes", ["GLON GLAT", "ELON ELAT", "SLON SLAT"])
def test_regions_of_images_in_other_frames(axes):
    regions = pytest.importorskip("regions")
    wcs = wcs_at((0, 0))
    wcs.wcs.ctype = [f"{axis}-TAN" for axis in axes.split()]
    image = CCDData(np.random.default_rng(1).normal(0, 1, SHAPE), unit="adu", wcs=wcs)
    (frame,) = collect_frames([image])
    ra, dec = lonlat(frame.transform.to_sky(20, 30))
    circle = regions.CircleSkyRegion(SkyCoord(ra, dec, unit="deg"), 5.9 * 3.6 * u.arcsec)
    rows, columns = np.indices(SHAPE)
    bad = selection_of(circle, only=False).left_out(frame)
    assert_array_equal(bad, np.hypot(rows - 30, columns - 20) < 5.9)


def test_regions_that_have_no_place(paths):
    regions = pytest.importorskip("regions")
    wide = regions.CircleSkyRegion(SkyCoord(330, -20, unit="deg"), 80 * u.deg)
    with pytest.raises(ValueError, match=r"k\d\.fits: regions: .*CircleSkyRegion"):
        match(paths, regions=wide)


def test_only_regions_are_compared(paths, tmp_path):
    regions = pytest.importorskip("regions")
    for k in range(4):
        with fits.open(paths[k], mode="update") as hdus:
            hdus[0].data[:, 90:] += 40 * k
    box = regions.RectanglePixelRegion(regions.PixCoord(44.5, 44.5), 90, 90)
    result = match(paths, regions=box, only_regions=True)
    assert_allclose(result.table["level"].value, LEVELS, atol=0.04)
    with pytest.raises(ValueError, match="only_regions: there are no regions"):
        lm.ReadOptions(only_regions=True)
    with pytest.raises(ValueError, match=r"k\d\.fits: regions: PointPixelRegion has no area"):
        match(paths, regions=regions.PointPixelRegion(regions.PixCoord(3, 3)))
    with pytest.raises(ValueError, match=r"regions: .*none\.reg cannot be read"):
        match(paths, regions=tmp_path / "none.reg")
    with pytest.raises(TypeError, match="regions: 3 is not a region"):
        match(paths, regions=[3])


def test_command_takes_regions(spoiled, tmp_path):
    path = region_kinds(tmp_path)["file"]
    out = tmp_path / "out"
    options = ["--ignore-regions", path, "--reference", "k0.fits", "--group-by", "FILENAME"]
    succeed("run", *spoiled, "-o", out, *options)
    assert_allclose(lm.read_record(out / "levelmatch.asdf").table["level"].value, LEVELS, atol=0.03)
    succeed("verify", out, out)


def test_a_segmentation_map_beside_each_image_is_a_mask(spoiled, tmp_path):
    for path in spoiled:
        data = fits.getdata(path)
        labels = (data > np.median(data) + 10).astype("i4") * 7
        fits.PrimaryHDU(labels).writeto(path.with_name(f"{path.stem}_seg.fits"))
    result = match(spoiled, mask_files="{stem}_seg.fits")
    assert_allclose(result.table["level"].value, LEVELS, atol=0.03)
    written = result.write(tmp_path / "out")
    assert len(lm.verify_record(tmp_path / "out" / "levelmatch.asdf", written)) == 4


def test_exclusions_alone_are_refused(spoiled):
    pytest.importorskip("regions")
    circle = CIRCLE.splitlines()[-1]
    with pytest.raises(ValueError, match="regions: each has a minus sign"):
        match(spoiled, regions=CIRCLE.replace(circle, f"-{circle}"))


def test_regions_of_images_in_memory(spoiled):
    pytest.importorskip("regions")
    images = [CCDData.read(path, unit="adu") for path in spoiled]
    result = match(images, regions=CIRCLE)
    assert_allclose(result.table["level"].value, LEVELS, atol=0.03)


# Images that are held, or that do not influence the others


def options(**solve):
    return lm.SolveOptions(**solve)


def levels_of(result):
    return result.table["level"].value


@pytest.mark.parametrize("group_by", ["FILENAME", "overlap", "OBJECT"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_several_images_are_held(paths, tmp_path, group_by, fit_type):
    for k, path in enumerate(paths):
        fits.setval(path, "OBJECT", value="ab"[k % 2])
    solve = options(hold=["k1.fits", "k2.fits"])
    calls = {"group_by": group_by, "fit_type": fit_type, "solve": solve}
    result = lm.match_levels(paths, **calls)
    table = result.table
    assert (levels_of(result)[1:3] == 0).all()
    assert (table["slope_u"].value[1:3] == 0).all()
    assert list(table["reference"]) == [False, True, True, False]
    if group_by != "OBJECT":
        # The images in between lie halfway between the two held images.
        assert -5.5 < levels_of(result)[0] < 3.5
        assert abs(levels_of(result)[3] - levels_of(result)[0] - 8) < 2
    else:
        # Each image agrees with the held image of its tile.
        assert_allclose(levels_of(result)[[0, 3]], 3, atol=0.05)
    written = result.write(tmp_path / "out")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert len(lm.verify_record(record, written)) == 4
    again = lm.solve_record(record)
    assert_allclose(again.table["level"].value, levels_of(result), atol=1e-9)


def test_images_are_held_at_levels(paths, tmp_path):
    solve = options(hold={"k0.fits": 2.0, "k3.fits": 10.0 * u.adu})
    result = lm.match_levels(paths, group_by="FILENAME", solve=solve)
    assert_allclose(levels_of(result), LEVELS + 2, atol=0.03)
    assert_allclose(levels_of(result)[[0, 3]], [2, 10], rtol=1e-12)
    written = result.write(tmp_path / "out")
    for one, other in zip(
        lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back"),
        paths,
        strict=True,
    ):
        assert_allclose(fits.getdata(one), fits.getdata(other), atol=1e-4)
    both = match(paths, levels=[1, 1, 1, 1], solve=options(hold={"k0.fits": 2.0}))
    assert_allclose(levels_of(both), LEVELS + 2, atol=0.03)


def test_all_images_are_held(paths):
    names = [path.name for path in paths]
    result = lm.match_levels(paths, solve=options(hold=dict.fromkeys(names, 1.5)))
    assert_allclose(levels_of(result), 1.5)
    assert result.reference_reason == result.gauge == "the caller holds all images"
    for text in (result.summary(), result.record.summary()):
        assert text.startswith("No seam was matched: the caller holds all images.")
        assert "Reference: none, the caller holds all images." in text
        assert "isolated" not in text
        assert "not corrected" not in text


def test_held_images_without_pairs_are_not_isolated(paths):
    """The only pair of the fit joins an image to the held image of its own tile."""
    solve = options(hold=["k0.fits", "k1.fits", "k2.fits"])
    tiles = {"a": paths[:2], "b": paths[2:]}
    text = lm.match_levels(tiles, solve=solve).summary()
    assert "1 of 1 pair kept" in text
    assert "isolated" not in text


def test_the_mean_is_kept_in_tiles_without_held_images(paths):
    tiles = {"a": paths[:2], "b": paths[2:]}
    result = lm.match_dithers(tiles, solve=options(hold="k0.fits"))
    found = levels_of(result)
    assert found[0] == 0
    assert_allclose(found[1], 5, atol=0.05)
    assert_allclose(found[2:], [-5.5, 5.5], atol=0.05)


def test_one_image_does_not_influence_the_others(paths, tmp_path):
    with fits.open(paths[1], mode="update") as hdus:
        # A gradient that would affect its neighbours.
        hdus[0].data += np.linspace(-20, 20, SHAPE[1], dtype="f4")
    without = lm.match_levels([paths[0], *paths[2:]], reference=0, group_by="FILENAME")
    for group_by in ("FILENAME", "overlap"):
        result = lm.match_levels(
            paths,
            reference="k0.fits",
            group_by=group_by,
            solve=options(fit_exclude=["k1.fits"]),
        )
        found = levels_of(result)
        if group_by == "FILENAME":
            assert_allclose(found[[0, 2, 3]], levels_of(without), atol=1e-9)
        assert_allclose(found[[0, 2, 3]], LEVELS[[0, 2, 3]], atol=0.03)
        # The image gets its own correction, from its overlaps with the others.
        assert abs(found[1] - 5) < 12
        assert "level_fit_exclude" in result.table.colnames
        assert result.table["n_pairs"][1] > 0
    written = result.write(tmp_path / "out")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert len(lm.verify_record(record, written)) == 4
    again = lm.solve_record(record)
    assert_allclose(again.table["level"].value, levels_of(result), atol=1e-9)
    back = lm.undo_record(record, written, tmp_path / "back")
    for one, other in zip(back, paths, strict=True):
        assert_allclose(fits.getdata(one), fits.getdata(other), atol=1e-4)
        assert not [key for key in fits.getheader(one) if key.startswith("LM")]


def test_a_good_image_that_is_left_out_gets_its_level(paths):
    result = lm.match_levels(
        paths, reference="k0.fits", group_by="FILENAME", solve=options(fit_exclude="k3.fits")
    )
    assert_allclose(levels_of(result), LEVELS, atol=0.03)
    error = result.table["error"].value
    assert 0 < error[3] < 0.05
    planes = lm.match_levels(
        paths,
        reference="k0.fits",
        group_by="FILENAME",
        fit_type="level+slope",
        solve=options(fit_exclude="k3.fits"),
    )
    assert_allclose(levels_of(planes), LEVELS, atol=0.2)


def test_roles_that_contradict(paths):
    for solve, words in (
        ({"hold": "x.fits"}, r"hold: there is no image 'x\.fits'"),
        ({"fit_exclude": ["x.fits"]}, r"fit_exclude: there is no image 'x\.fits'"),
        ({"hold": "k0.fits", "fit_exclude": "k0.fits"}, r"k0\.fits: it is named by hold and"),
        ({"fit_exclude": [p.name for p in paths]}, "fit_exclude: it names all images"),
        ({"hold": {"k0.fits": "x"}}, r"k0\.fits: hold: 'x' is not a finite number"),
        ({"hold": "k0.fits", "disconnected": "sky"}, "hold: disconnected='sky' moves"),
    ):
        with pytest.raises(ValueError, match=words):
            lm.match_levels(paths, group_by="FILENAME", solve=options(**solve))
    with pytest.raises(ValueError, match=r"reference: k1\.fits is not among the images of hold"):
        lm.match_levels(
            paths, group_by="FILENAME", reference="k1.fits", solve=options(hold="k0.fits")
        )
    with pytest.raises(u.UnitsError, match=r"k1\.fits: hold: 2\.0 m cannot be converted to"):
        lm.match_levels(paths, solve=options(hold={"k1.fits": 2 * u.m}))
    with pytest.raises(TypeError, match="hold: 3 is neither a name"):
        lm.match_levels(paths, solve=options(hold=3))


def test_command_holds_and_leaves_out(paths, tmp_path):
    out = tmp_path / "out"
    words = ["--hold", "k0.fits", "--hold", "k3.fits=8", "--fit-exclude", "k1.fits"]
    succeed("run", *paths, "-o", out, "--group-by", "FILENAME", *words)
    table = lm.read_record(out / "levelmatch.asdf").table
    assert_allclose(table["level"].value, LEVELS, atol=0.03)
    assert_allclose(table["level"].value[[0, 3]], [0, 8])
    succeed("verify", out, out)
    succeed("solve", out, "-o", tmp_path / "new.asdf")
