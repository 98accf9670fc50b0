# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of files with many images: HST's two chips, DECam's sixty, MegaCam's compressed ones."""

import io

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.utils.masked import Masked
from astropy.wcs import WCS
from helpers import run, succeed
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.extensions import Extension, sky_images
from levelmatch.images.inputs import collect_frames
from levelmatch.option_values import hdu_choices
from levelmatch.results import files

NOISE = 0.5
PIXEL = 1 / 3600


def sky(x, y):
    """Return a smooth field of emission at pixels of the tangent plane."""
    return 20 * np.exp(-(((x - 60) / 150) ** 2 + ((y + 40) / 110) ** 2)) + 0.02 * x


def chip_header(corner, pointing, shape, **cards):
    """Return the header of a chip whose first pixel lies at a position in the focal plane."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.cunit = "deg", "deg"
    wcs.wcs.crval = 150, 20
    wcs.wcs.cdelt = -PIXEL, PIXEL
    wcs.wcs.crpix = 1 - corner[0] - pointing[0], 1 - corner[1] - pointing[1]
    header = wcs.to_header()
    header.update(BUNIT="ELECTRONS", **cards)
    return header


def chip_pixels(corner, pointing, shape, level, rng):
    y, x = np.indices(shape)
    values = sky(x + corner[0] + pointing[0], y + corner[1] + pointing[1])
    return (values + level + rng.normal(0, NOISE, shape)).astype("f4")


def write_hst(path, pointing, levels, rng, shape=(100, 200)):
    """Write a file in the layout of calacs: SCI, ERR and DQ of each chip, and a table IVM."""
    primary = fits.PrimaryHDU()
    primary.header.update(TELESCOP="HST", INSTRUME="ACS", FILENAME=path.name, EXPTIME=500.0)
    hdus = [primary]
    for chip, level in enumerate(levels):
        corner = (-100, -105 if chip == 0 else 5)
        header = chip_header(corner, pointing, shape, CCDCHIP=2 - chip, INHERIT=True)
        data = chip_pixels(corner, pointing, shape, level, rng)
        dq = np.zeros(shape, "i2")
        dq[3:6, 50:90] = 4
        data[3:6, 50:90] = 900
        version = {"ver": chip + 1}
        hdus += [
            fits.ImageHDU(data, header, name="SCI", **version),
            fits.ImageHDU(np.full(shape, NOISE, "f4"), header, name="ERR", **version),
            fits.ImageHDU(dq, header, name="DQ", **version),
        ]
    table = fits.BinTableHDU.from_columns([fits.Column("A", "E", array=[1, 2])], name="WCSCORR")
    fits.HDUList([*hdus, table]).writeto(path)
    return path


POINTINGS = ((0, 0), (70, 45), (-60, 80), (30, -50))


@pytest.fixture
def hst(tmp_path):
    """Return four exposures of two chips, and the level of each chip of each exposure."""
    rng = np.random.default_rng(3)
    levels = rng.normal(0, 5, (len(POINTINGS), 2))
    folder = tmp_path / "hst"
    folder.mkdir()
    paths = [
        write_hst(folder / f"j{k}_flc.fits", p, levels[k], rng) for k, p in enumerate(POINTINGS)
    ]
    return paths, levels


def relative(levels):
    return np.ravel(levels) - np.mean(levels)


@pytest.mark.parametrize("group_by", ["auto", "FILENAME"])
@pytest.mark.parametrize("function", [lm.match_levels, lm.match_mosaic])
def test_all_chips_are_matched_and_written_whole(hst, tmp_path, function, group_by):
    paths, levels = hst
    result = function(paths, group_by=group_by)
    assert result.names[:3] == ["j0_flc.fits[SCI,1]", "j0_flc.fits[SCI,2]", "j1_flc.fits[SCI,1]"]
    assert len(result) == 8
    assert result.files == [path.name for path in paths]
    found = result.table["level"].value
    assert_allclose(relative(found), relative(levels), atol=0.03)
    written = result.write(tmp_path / "out")
    assert [path.name for path in written] == result.files
    for k, (before, after) in enumerate(zip(paths, written, strict=True)):
        with fits.open(before) as old, fits.open(after) as new:
            assert [h.name for h in new] == [h.name for h in old]
            for a, b in zip(old, new, strict=True):
                if a.name != "SCI":
                    assert fits.HDUDiff(a, b).identical
                    continue
                level = found[2 * k + a.ver - 1]
                assert_allclose(b.data, a.data - level, atol=1e-4)
                assert_allclose(b.header["LMMLEV"] + b.header.get("LMDLEV", 0), level, rtol=1e-6)
                kept = b.header.copy(strip=True)
                assert all(kept[key] == a.header[key] for key in ("CCDCHIP", "INHERIT", "CRPIX1"))


def test_a_record_of_chips_is_applied_verified_and_undone(hst, tmp_path):
    paths, _ = hst
    result = lm.match_levels(paths, group_by="FILENAME")
    written = result.write(tmp_path / "out")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert record.names == result.names
    assert record.files == result.files
    assert lm.verify_record(record, written) == result.names
    for one, other in zip(lm.apply_record(record, paths, tmp_path / "again"), written, strict=True):
        assert one.read_bytes() == other.read_bytes()
    for one, other in zip(lm.undo_record(record, written, tmp_path / "back"), paths, strict=True):
        with fits.open(one) as a, fits.open(other) as b:
            for x, y in zip(a, b, strict=True):
                assert x.header == y.header
                if x.is_image and x.data is not None:
                    assert_allclose(x.data, y.data, atol=1e-4)
    # The error names the changed chip.
    with fits.open(written[1], mode="update") as hdus:
        hdus["SCI", 2].data[5, 5] += 1
    with pytest.raises(lm.RecordError, match=r"j1_flc\.fits: 1 pixels do not follow"):
        lm.verify_record(record, written)
    without = lm.solve_record(record, exclude="j3_flc.fits")
    assert without.files == [path.name for path in paths[:3]]


def test_matched_chips_are_refused(hst, tmp_path):
    written = lm.match_levels(hst[0]).write(tmp_path / "out")
    with pytest.raises(lm.FrameError, match=r"j0_flc\.fits\[SCI,1\]: already matched"):
        lm.match_levels(written)


def test_choices_of_chips(hst, tmp_path):
    paths, levels = hst
    two = lm.match_levels(paths, read=lm.ReadOptions(hdu=("SCI", 2)))
    assert two.names == [path.name for path in paths]
    assert_allclose(relative(two.table["level"].value), relative(levels[:, 1]), atol=0.03)
    for hdu in ("auto", "all", "SCI", [1, 4], [("SCI", 1), ("SCI", 2)], (1, ("SCI", 2))):
        names = [f.name for f in collect_frames(paths[:1], lm.ReadOptions(hdu=hdu))]
        assert names == ["j0_flc.fits[SCI,1]", "j0_flc.fits[SCI,2]"]
    turned = collect_frames(paths[:1], lm.ReadOptions(hdu=[4, 1]))
    assert [f.extension for f in turned] == ["SCI,2", "SCI,1"]
    # Chips that are not selected are unchanged.
    after = two.write(tmp_path / "out")[0]
    with fits.open(paths[0]) as old, fits.open(after) as new:
        assert fits.HDUDiff(old["SCI", 1], new["SCI", 1]).identical


@pytest.mark.parametrize("hdu", [1.5, True, [None], {"SCI": 1}])
def test_choices_that_are_none(hdu):
    with pytest.raises(TypeError, match="hdu: .* is neither 'auto', 'all', an index"):
        lm.ReadOptions(hdu=hdu)
    with pytest.raises(ValueError, match="names no extension"):
        lm.ReadOptions(hdu=[])


def test_forms_of_choices():
    assert hdu_choices(None) == hdu_choices("AUTO") == "auto"
    assert hdu_choices(["SCI", 1]) == hdu_choices(("SCI", 1)) == [("SCI", 1)]
    assert hdu_choices([["SCI", 1], 3]) == [("SCI", 1), 3]
    assert hdu_choices((1, 2)) == [1, 2]


# Cameras


def write_camera(path, pointing, levels, rng, kind, shape=(60, 40)):
    """Write a file of many chips in rows of ten, named as in DECam or MegaCam."""
    primary = fits.PrimaryHDU()
    primary.header.update(RADESYS="FK5", EQUINOX=2000.0, OBJECT="field", EXPTIME=90.0)
    hdus = [primary]
    for chip, level in enumerate(levels):
        corner = (44 * (chip % 10) - 220, 66 * (chip // 10) - 200)
        name = {"names": f"N{chip + 1}", "numbers": "", "ccd": f"ccd{chip:02d}"}[kind]
        header = chip_header(corner, pointing, shape, CCDNUM=chip + 1, INHERIT=True)
        del header["RADESYS"]
        data = chip_pixels(corner, pointing, shape, level, rng)
        if kind == "ccd":
            options = {"compression_type": "RICE_1", "quantize_level": 64.0}
            hdus.append(fits.CompImageHDU(data, header, name=name, **options))
        else:
            hdus.append(fits.ImageHDU(data, header, name=name or None))
    fits.HDUList(hdus).writeto(path)
    return path


def dithered(n_chips, kind, folder, rng, suffix=".fits"):
    levels = rng.normal(0, 3, (4, n_chips))
    pointings = ((0, 0), (21, 13), (-15, 30), (9, -25))
    paths = [
        write_camera(folder / f"c{k}{suffix}", p, levels[k], rng, kind)
        for k, p in enumerate(pointings)
    ]
    return paths, levels


@pytest.mark.parametrize(
    ("kind", "label", "suffix"),
    [("names", "N12", ".fits"), ("numbers", "12", ".fits"), ("ccd", "CCD11", ".fits.fz")],
)
def test_chips_of_a_camera(tmp_path, kind, label, suffix):
    rng = np.random.default_rng(5)
    paths, levels = dithered(12, kind, tmp_path, rng, suffix)
    result = lm.match_levels(paths)
    assert result.names[11] == f"c0{suffix}[{label}]"
    assert_allclose(relative(result.table["level"].value), relative(levels), atol=0.15)
    written = result.write(tmp_path / "out")
    assert [path.name for path in written] == [path.name for path in paths]
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert lm.verify_record(record, written) == result.names
    for one, other in zip(lm.undo_record(record, written, tmp_path / "back"), paths, strict=True):
        with fits.open(one) as a, fits.open(other) as b:
            assert [h.name for h in a] == [h.name for h in b]
            for x, y in zip(a[1:], b[1:], strict=True):
                assert_allclose(x.data, y.data, atol=1e-4)


def test_sixty_chips_are_as_accurate_as_one(tmp_path):
    """The levels of each chip are as accurate as in a run of this chip alone."""
    rng = np.random.default_rng(7)
    paths, levels = dithered(60, "names", tmp_path, rng)
    result = lm.match_levels(paths)
    found = result.table["level"].value.reshape(4, 60)
    error = found - levels

    def scatter(error):
        return float(np.sqrt(np.mean((error - error.mean(axis=0)) ** 2) * 4 / 3))

    alone = [
        lm.match_levels(paths, read=lm.ReadOptions(hdu=f"N{chip}")).table["level"].value
        - levels[:, chip - 1]
        for chip in range(1, 61, 12)
    ]
    assert scatter(error) < 1.05 * scatter(np.transpose(alone)) + 0.002
    assert np.std(error) < 0.1


def test_one_dead_chip_does_not_stop_the_others(tmp_path):
    rng = np.random.default_rng(5)
    paths, levels = dithered(4, "names", tmp_path, rng)
    for path in paths:
        with fits.open(path, mode="update") as hdus:
            hdus["N4"].data[:] = np.nan
    with pytest.warns(lm.LevelMatchWarning) as caught:
        result = lm.match_levels(paths, group_by="FILENAME")
    said = " ".join(str(w.message) for w in caught)
    assert "no pixel is good; the image is compared with no other" in said
    assert "c0.fits[N4]" in said
    keep = np.arange(4) != 3
    found = result.table["level"].value.reshape(4, 4)
    assert (found[:, 3] == 0).all()
    assert_allclose(relative(found[:, keep]), relative(levels[:, keep]), atol=0.15)


def test_a_chip_that_cannot_be_used_may_be_left_out(hst):
    paths, _ = hst
    fits.setval(paths[0], "CRPIX1", value="x", extname="SCI", extver=2)
    with pytest.raises(lm.FrameError, match=r"j0_flc\.fits\[SCI,2\]: the WCS card CRPIX1"):
        collect_frames(paths)
    with pytest.warns(lm.LevelMatchWarning, match=r"left out.*j0_flc\.fits\[SCI,2\]"):
        frames = collect_frames(paths, lm.ReadOptions(on_error="skip"))
    assert [f.name for f in frames][:2] == ["j0_flc.fits[SCI,1]", "j1_flc.fits[SCI,1]"]


# Chips as one image


def test_exposures_whose_chips_have_one_level(tmp_path):
    """Chips of an exposure with equal levels get one level."""
    rng = np.random.default_rng(9)
    steps = rng.normal(0, 4, len(POINTINGS))
    paths = [
        write_hst(tmp_path / f"j{k}_flc.fits", p, (steps[k], steps[k]), rng)
        for k, p in enumerate(POINTINGS)
    ]
    for path in paths:
        fits.setval(path, "EXPNUM", value=path.name[:2])
    by = {path.name: [path] for path in paths}
    for images, group_by in ((paths, "exposure"), (paths, "EXPNUM"), (by, "auto")):
        result = lm.match_levels(images, group_by=group_by)
        found = result.table["level"].value.reshape(-1, 2)
        assert (found[:, 0] == found[:, 1]).all()
        assert_allclose(relative(found[:, 0]), relative(steps), atol=0.02)
    # A record that is solved again keeps one level per exposure.
    again = lm.solve_record(result.record, weights="equal").table["level"].value.reshape(-1, 2)
    assert (again[:, 0] == again[:, 1]).all()
    assert result.table["error"][0] < lm.match_levels(paths).table["error"][0]


@pytest.fixture
def offsets(tmp_path):
    """Return two pointings of four dithers of three chips, with levels of dithers and chips."""
    rng = np.random.default_rng(11)
    dithers = rng.normal(0, 2, (2, 4))
    chips = np.array([0.0, 6.0, -3.0])
    paths, levels = [], []
    for tile, x in enumerate((0, 80)):
        for k, (dx, dy) in enumerate(((0, 0), (19, 7), (-14, 12), (8, -15))):
            levels.append(dithers[tile, k] + chips)
            path = tmp_path / f"t{tile}d{k}.fits"
            paths.append(write_camera(path, (x + dx, dy), levels[-1], rng, "names"))
            fits.setval(path, "OBJECT", value=f"tile{tile}")
    return paths, np.array(levels)


@pytest.mark.parametrize("keyword", ["auto", "CCDNUM"])
def test_detectors_of_a_tile_are_combined(offsets, keyword):
    paths, levels = offsets
    solve = lm.SolveOptions(combine_detectors=keyword)
    result = lm.match_levels(paths, group_by="OBJECT", solve=solve)
    assert [p.name for p in result.passes] == ["dithers", "detectors", "mosaic"]
    assert_allclose(relative(result.table["level"].value), relative(levels), atol=0.15)
    # The mosaic has one correction per tile, and the detectors pass one per chip.
    assert len(set(np.round(result.table["level_mosaic"].value, 9))) == 2
    assert len(set(np.round(result.table["level_detectors"].value, 9))) == 6
    first = lm.match_dithers(paths, group_by="OBJECT", solve=solve)
    second = lm.combine_detectors(first, detector=keyword)
    last = lm.match_mosaic(second)
    assert_allclose(last.table["level"].value, result.table["level"].value, atol=1e-4)
    again = lm.solve_record(result.record)
    assert_allclose(again.table["level"].value, result.table["level"].value, atol=1e-9)


@pytest.mark.filterwarnings("ignore:pass mosaic")
def test_tiles_are_of_exposures(offsets):
    """By overlap, the chips of a pointing's dithers form one tile, unlike those of a lone one."""
    paths, _ = offsets
    tiles = lm.match_dithers(paths[:4]).table["tile"]
    assert set(tiles) == {"t0d0.fits[N1]"}
    # Chip N3 of the first and N1 of the second exposure share most of their area.
    alone = lm.match_levels([paths[0], paths[4]])
    assert len(set(alone.table["tile"])) == 5


def test_detector_that_no_header_names(offsets):
    solve = lm.SolveOptions(combine_detectors="CHIP")
    with pytest.raises(lm.FrameError, match=r"N1\]: combine_detectors: .*no keyword 'CHIP'"):
        lm.match_levels(offsets[0], solve=solve)
    with pytest.raises(TypeError, match="combine_detectors: 3 is neither"):
        lm.SolveOptions(combine_detectors=3)


def test_command_combines_detectors(offsets, tmp_path):
    out = tmp_path / "out"
    options = ["--group-by", "OBJECT", "--combine-detectors", "auto"]
    succeed("run", *offsets[0], "-o", out, *options)
    header = fits.getheader(sorted(out.glob("*.fits"))[0], "N2")
    assert {"LMDLEV", "LMCLEV", "LMMLEV"} <= set(header)
    succeed("verify", out, out)
    succeed("run", "--extend", out, offsets[0][0], "-o", tmp_path / "more")


# INHERIT


def inheriting(path, inherit, **cards):
    primary = fits.PrimaryHDU()
    primary.header.update(BUNIT="Jy/beam", FILTER="g", EXPTIME=7.0, **cards)
    hdus = [primary]
    for chip in range(2):
        corner = (50 * chip, 0)
        header = chip_header(corner, (0, 0), (40, 40))
        del header["BUNIT"], header["RADESYS"]
        if inherit is not None:
            header["INHERIT"] = inherit
        hdus.append(fits.ImageHDU(np.ones((40, 40), "f4"), header, name=f"CCD{chip}"))
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize(("inherit", "value"), [(True, 7.0), (None, 7.0), (False, None)])
def test_inherit_decides_on_the_cards_of_the_primary_header(tmp_path, inherit, value):
    for frame in collect_frames([inheriting(tmp_path / "a.fits", inherit)]):
        assert frame.meta.get("EXPTIME") == value
        assert (frame.unit is None) == (value is None)


def test_the_frame_of_reference_is_inherited(tmp_path):
    old = {"RADESYS": "FK4", "EQUINOX": 1950.0}
    place = {}
    for inherit in (True, False):
        path = inheriting(tmp_path / f"{inherit}.fits", inherit, **old)
        place[inherit] = collect_frames([path])[0].grid.centre
    # In half a century the equinox moves by 0.64 degree.
    assert 0.5 < np.degrees(np.linalg.norm(place[True] - place[False])) < 1.0


# Command line


@pytest.mark.parametrize("how", ["folder", "pattern", "files"])
def test_command_takes_folders_and_patterns(hst, tmp_path, how):
    paths, _ = hst
    (paths[0].parent / "notes.txt").write_text("no image")
    files = {"folder": [paths[0].parent], "pattern": [paths[0].parent / "j*.fits"], "files": paths}
    out = tmp_path / "out"
    done = succeed("run", *files[how], "-o", out)
    assert "Written: 8 images in 4 files to " in done.stdout
    assert "j0_flc.fits[SCI,2]" in done.stdout or "SCI,2" in done.stdout
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*(p.name for p in paths), "levelmatch.asdf"]
    )
    checked = succeed("verify", out, out)
    assert "8 images follow" in checked.stdout
    assert run("verify", out).stdout == checked.stdout
    for name, images in (("back", [out / "*.fits"]), ("again", [])):
        succeed("undo", out, *images, "-o", tmp_path / name)


def test_command_matches_the_chips_of_one_file_if_there_are_several(hst, tmp_path):
    paths, _ = hst
    done = run("run", paths[0], "-o", tmp_path / "out", "--hdu", "SCI,1")
    assert "only one image" in done.stderr
    done = run("run", paths[0], "-o", tmp_path / "out")
    assert "none of the 2 images overlap" in done.stderr


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SCI,1,SCI,2", ["SCI,1", "SCI,2"]),
        ("1,4", ["SCI,1", "SCI,2"]),
        ("all", ["SCI,1", "SCI,2"]),
        ("SCI,2", [""]),
    ],
)
def test_command_chooses_chips(hst, tmp_path, text, names):
    succeed("run", *hst[0], "-o", tmp_path / "out", "--hdu", text)
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert [frame.extension for frame in record.frames] == names * 4


# Images in memory


def opened(paths):
    """Return lists of HDUs without a file."""
    out = []
    for path in paths:
        with fits.open(path, memmap=False) as hdus:
            out.append(fits.HDUList([hdu.copy() for hdu in hdus]))
    return out


def test_lists_of_hdus_are_inputs(hst, tmp_path):
    paths, levels = hst
    lists = opened(paths)
    before = opened(paths)
    result = lm.match_levels(lists, group_by="FILENAME")
    assert result.names[:2] == ["j0_flc.fits[SCI,1]", "j0_flc.fits[SCI,2]"]
    assert_allclose(
        result.table["level"].value,
        lm.match_levels(paths, group_by="FILENAME").table["level"].value,
        atol=1e-6,
    )
    image = result["j0_flc.fits[SCI,2]"]
    assert image.unit == "electron"
    assert image.mask.sum() == 120
    assert image.uncertainty is not None
    written = result.write(tmp_path / "out")
    assert [path.name for path in written] == [path.name for path in paths]
    for old, new, level in zip(
        paths, written, result.table["level"].value.reshape(4, 2), strict=True
    ):
        with fits.open(old) as a, fits.open(new) as b:
            assert [h.name for h in a] == [h.name for h in b]
            for version in (1, 2):
                assert_allclose(
                    b["SCI", version].data, a["SCI", version].data - level[version - 1], atol=1e-4
                )
                assert fits.HDUDiff(a["DQ", version], b["DQ", version]).identical
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert lm.verify_record(record, written, paths) == result.names
    back = lm.undo_record(record, written, tmp_path / "back")
    for old, new in zip(paths, back, strict=True):
        assert_allclose(fits.getdata(new, ("SCI", 2)), fits.getdata(old, ("SCI", 2)), atol=1e-4)
    # The inputs are unchanged.
    for hdus, kept in zip(lists, before, strict=True):
        assert fits.FITSDiff(hdus, kept).identical
    one = lm.match_levels(lists[0:1] + lists[3:], read=lm.ReadOptions(hdu=("SCI", 1)))
    assert one.names == ["j0_flc.fits", "j3_flc.fits"]


@pytest.mark.parametrize("kind", ["hdu", "header", "wcs", "compressed"])
def test_arrays_and_hdus_are_inputs(hst, tmp_path, kind):
    paths, levels = hst
    images = []
    for path in paths:
        hdu = opened([path])[0]["SCI", 2]
        hdu.data[3:6, 50:90] = np.nan
        if kind == "compressed":
            hdu = fits.CompImageHDU(hdu.data, hdu.header, compression_type="RICE_1")
        if kind in ("hdu", "compressed"):
            images.append(hdu)
        else:
            images.append((hdu.data, hdu.header if kind == "header" else WCS(hdu.header)))
    result = lm.match_levels(images, group_by="FILENAME")
    assert result.names == [f"image{k:04d}" for k in range(4)]
    found = result.table["level"]
    found = getattr(found, "value", found)
    assert_allclose(relative(found), relative(levels[:, 1]), atol=0.03)
    given = images[1][0] if isinstance(images[1], tuple) else images[1].data
    assert_allclose(np.nanmean(result[1].data), np.nanmean(given) - found[1], atol=1e-3)
    written = result.write(tmp_path / "out")
    assert [path.name for path in written] == [f"image{k:04d}.fits" for k in range(4)]
    back = lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back")
    assert len(back) == 4


@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize("position", ["wcs", "header"])
@pytest.mark.parametrize("kind", ["masked", "Masked", "Masked quantity", "quantity"])
def test_arrays_keep_their_masks_and_units(paint, tmp_path, kind, position, option):
    images = []
    for k in range(3):
        image = paint(shift=(0.3, 20.5 * k), level=k)
        data = image.data.copy()
        bad = np.zeros(data.shape, bool)
        if kind != "quantity":
            bad[10:30, 5:50] = True
            data[bad] += 1e3
        if kind == "masked":
            array = np.ma.array(data, mask=bad)
        else:
            array = data * u.MJy / u.sr if "quantity" in kind else data
            array = Masked(array, mask=bad) if "Masked" in kind else array
        if k == 2 and hasattr(array, "unit"):
            array = array.to("kJy/sr")
        header = image.wcs.to_header()
        # The unit of the array replaces this one.
        header["BUNIT"] = "MJy/sr"
        images.append((array, header if position == "header" else image.wcs))
    result = lm.match_mosaic(
        images, group_by="FILENAME", read=lm.ReadOptions(mask_extensions=option)
    )
    levels = [u.Quantity(row["level"]).value for row in result.table]
    if "quantity" in kind:
        levels[2] /= 1e3
        assert result[2].unit == "kJy/sr"
    assert_allclose(relative(levels), [-1, 0, 1], atol=0.01)
    assert result[1].mask is None or result[1].mask.sum() == (0 if kind == "quantity" else 900)
    written = result.write(tmp_path / "out")
    back = lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back")
    assert_allclose(fits.getdata(back[0])[0], images[0][0][0].view(np.ndarray), atol=1e-5)


def test_hdus_of_closed_files(hst):
    lists = []
    for path in hst[0]:
        with fits.open(path, lazy_load_hdus=False) as hdus:
            lists.append(hdus)
    with pytest.raises(lm.FrameError, match=r"^j0_flc\.fits\[SCI,1\]: .* keep its file open"):
        lm.match_levels(lists)


def test_array_without_masked_pixels(paint):
    image = paint()
    (frame,) = collect_frames([(np.ma.array(image.data), image.wcs.to_header())])
    assert len(frame.source.hdus) == 1


def test_one_list_of_hdus_is_no_list_of_images(hst):
    (hdus,) = opened(hst[0][:1])
    assert [f.extension for f in collect_frames(hdus)] == ["SCI,1", "SCI,2"]
    with pytest.raises(TypeError, match="image 0 is of type ndarray, not a CCDData, NDData, path"):
        collect_frames([np.zeros((4, 4))])
    with pytest.raises(TypeError, match="image 0 is of type tuple"):
        collect_frames([(np.zeros((4, 4)), "x")])


# Files written without astropy


@pytest.mark.parametrize("checksum", [False, True, "datasum"])
@pytest.mark.parametrize("fill", [False, True])
def test_plain_files_are_those_of_astropy(hst, tmp_path, monkeypatch, fill, checksum):
    """Outputs are identical byte by byte, also with missing and non-finite pixels."""
    paths, _ = hst
    for path in paths:
        with fits.open(path, mode="update") as hdus:
            hdus["SCI", 1].data[20:25, 30:60] = np.nan
            hdus["SCI", 1].data[0, :3] = np.inf, -np.inf, -0.0
            if fill:
                hdus["SCI", 2].data[:, :60] = -999
        if checksum:
            content = path.read_bytes()
            with fits.open(io.BytesIO(content)) as hdus:
                hdus.writeto(path, overwrite=True, checksum=checksum)
    result = lm.match_levels(paths, group_by="FILENAME", read=lm.ReadOptions(blank=-999))
    plain = result.write(tmp_path / "plain")
    with monkeypatch.context() as patch:
        patch.setattr(files, "plain_replacement", lambda *args: None)
        by_astropy = result.write(tmp_path / "astropy")
    for one, other in zip(plain, by_astropy, strict=True):
        assert one.read_bytes() == other.read_bytes()
        # astropy warns of wrong checksums.
        with fits.open(one, checksum=True) as hdus:
            assert ("DATASUM" in hdus["SCI", 1].header) == bool(checksum)
            assert ("CHECKSUM" in hdus["SCI", 1].header) == (checksum is True)
            assert hdus["SCI", 1].data.shape


def test_plain_files_are_checked_for_changes(hst, tmp_path):
    paths, _ = hst
    result = lm.match_levels(paths, group_by="FILENAME")
    with open(paths[2], "r+b") as file:
        file.truncate(paths[2].stat().st_size - 2880)
    with pytest.raises(lm.FrameError, match=r"j2_flc\.fits.* changed"):
        result.write(tmp_path / "out")


def test_hsc_mask_is_found_by_its_type(real_data):
    """The extensions have EXTTYPE and no EXTNAME, and the mask names its bits."""
    path = real_data / "real" / "lsst_hsc" / "HSC-0908120-056-small.fits"
    if not path.exists():
        pytest.skip(f"no real images: {path} is missing")
    (frame,) = collect_frames([path])
    assert [(mask.hdu, mask.kind) for mask in frame.source.masks] == [(2, "flags")]
    # Named bits select the bad pixels.
    assert 0 < frame.dq_bits < 1 << 16


@pytest.mark.parametrize(
    "names",
    [
        ("N0", "MASK0", "N1", "MASK1"),
        ("N1", "N1_MASK", "S1", "S1_MASK"),
        ("CCD1", "MASK_CCD1", "CCD2", "MASK_CCD2"),
        ("IM_1", "ERR1", "IM_2", "DQ2"),
        ("DET11.SCI", "DET11.DQ", "DET12.SCI", "DET12.DQ"),
        ("3-4.E.SCI", "3-4.E.FLG", "3-4.F.SCI", "3-4.F.RMS"),
    ],
)
def test_arrays_named_by_their_image(tmp_path, names):
    rng = np.random.default_rng(1)
    levels = np.array([[1.0, 5.0], [3.0, 4.0]])
    paths = []
    for k, pointing in enumerate([(0, 0), (50, 40)]):
        hdus = [fits.PrimaryHDU()]
        for chip, corner in enumerate([(-100, -105), (-100, 5)]):
            header = chip_header(corner, pointing, (100, 200))
            data = chip_pixels(corner, pointing, (100, 200), levels[k, chip], rng)
            mask = np.zeros((100, 200), "u1")
            mask[:, 150:190] = 1
            beside = names[2 * chip + 1]
            if "ERR" not in beside and "RMS" not in beside:
                data[:, 150:190] += 50 * (k + 1)
            hdus += [
                fits.ImageHDU(data, header, name=names[2 * chip]),
                fits.ImageHDU(mask, header, name=beside),
            ]
        paths.append(tmp_path / f"e{k}.fits")
        fits.HDUList(hdus).writeto(paths[-1])
    result = lm.match_levels(paths)
    assert result.names == [f"{p.name}[{n}]" for p in paths for n in names[::2]]
    assert_allclose(relative(result.table["level"].value), relative(levels.ravel()), atol=0.1)
    result = lm.match_levels(paths, read=lm.ReadOptions(hdu="all"))
    assert len(result) == 4


@pytest.mark.parametrize("plane", ["DQ", "MASK", "WHT"])
@pytest.mark.parametrize("names", [("SCI", "SCI"), ("CCD1", "CCD2"), ("", "")])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_masks_of_equal_names_follow_the_order(tmp_path, plane, names, order):
    rng = np.random.default_rng(1)
    hdus, bad = [], np.zeros((2, 40, 50), bool)
    for chip, corner in enumerate([(-25, -45), (-25, 5)]):
        bad[chip, :, 10 + 20 * chip :][:, :5] = True
        data = chip_pixels(corner, (0, 0), (40, 50), 1, rng)
        mask = ~bad[chip] if plane == "WHT" else bad[chip]
        header = chip_header(corner, (0, 0), (40, 50))
        hdus.append(fits.ImageHDU(data, header, name=names[chip]))
        hdus.append(fits.ImageHDU(mask.astype("i2"), name=plane))
    primary, path = fits.PrimaryHDU(), tmp_path / "a.fits"
    fits.HDUList([primary, *(hdus[k] for k in order)]).writeto(path)
    for frame, expected in zip(collect_frames([path]), bad, strict=True):
        assert_array_equal(np.isnan(frame.load()), expected)
    fits.HDUList([primary, *hdus, hdus[1]]).writeto(path, overwrite=True)
    with pytest.raises(lm.FrameError, match=rf"a\.fits\[.*: 3 extensions are called {plane}, and"):
        collect_frames([path])
    if plane != "DQ":
        # Masks that are not read need no order.
        for frame in collect_frames([path], lm.ReadOptions(mask_extensions=False)):
            assert np.isfinite(frame.load()).all()


@pytest.mark.parametrize("names", [("EXP1", "EXP2"), ("N1", "S1", "MASK1")])
def test_numbers_that_belong_to_no_image(names):
    found = [Extension(name, 1, True, (9, 9), True) for name in names]
    assert sky_images(found) == list(range(len(names)))


# Images of other filters in one file


def two_bands(tmp_path, names, filters=None):
    """Return two dithers, whose files hold two images of the same sky."""
    paths = []
    for k in range(2):
        hdus = fits.HDUList([fits.PrimaryHDU()])
        rng = np.random.default_rng(k)
        for band, name in enumerate(names):
            wcs = WCS(naxis=2)
            wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
            wcs.wcs.crval, wcs.wcs.cdelt = [150.0, 2.0], [-1e-4, 1e-4]
            wcs.wcs.crpix = [30 + 10 * k, 30]
            header = wcs.to_header()
            header["BUNIT"] = "adu"
            if filters is not None:
                header["FILTER"] = filters[band]
            data = 5 * k + 50 * band + rng.normal(0, 1, (60, 60))
            hdus.append(fits.ImageHDU(data.astype("f4"), header, name=name))
        paths.append(tmp_path / f"k{k}.fits")
        hdus.writeto(paths[-1])
    return paths


@pytest.mark.parametrize("hdu", ["all", ["J", "K"]])
@pytest.mark.parametrize("as_hdus", [False, True])
def test_images_of_unknown_filters_at_one_place_are_named(tmp_path, hdu, as_hdus):
    paths = two_bands(tmp_path, ("J", "K"))
    opened = [fits.open(path) for path in paths]
    text = r"no header names their filters: k0.fits \(J, K\), k1.fits \(J, K\)\. .* hdu chooses"
    with pytest.warns(lm.LevelMatchWarning, match=text):
        result = lm.match_levels(opened if as_hdus else paths, read=lm.ReadOptions(hdu=hdu))
    for hdus in opened:
        hdus.close()
    assert len(result) == 4


def test_images_of_one_filter_at_one_place_are_matched(tmp_path):
    """Neither a known filter nor exposures of one name cause a warning."""
    for k, (names, filters) in enumerate([(("J", "K"), ("r", "r")), (("SCI", "SCI"), None)]):
        (tmp_path / str(k)).mkdir()
        paths = two_bands(tmp_path / str(k), names, filters)
        assert len(lm.match_levels(paths, read=lm.ReadOptions(hdu="all"))) == 4


def test_one_image_of_unknown_filters_is_chosen(tmp_path):
    paths = two_bands(tmp_path, ("J", "K"))
    result = lm.match_levels(paths, read=lm.ReadOptions(hdu="K"))
    assert abs(np.diff(result.table["level"].value)[0] - 5) < 0.2
