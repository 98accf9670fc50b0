# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of levels that are kept in headers for a later step, in place of corrected pixels."""

import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from helpers import succeed
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.images.known_levels import pending_levels
from levelmatch.images.notes import Notes, chips_are_left_out
from levelmatch.testing import simulate_miri

KEEP = lm.SolveOptions(subtract=False)
LEVELS = np.array([[0.0, 4.0], [3.0, -2.0], [-1.0, 6.0]])


def write_chips(path, pointing, levels, telescope, rng, **cards):
    """Write a file of two chips, with levels in electrons."""
    primary = fits.PrimaryHDU()
    primary.header.update(TELESCOP=telescope, EXPTIME=cards.pop("EXPTIME", 100.0))
    hdus = [primary]
    for chip, level in enumerate(levels):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval, wcs.wcs.cdelt = (150, 20), (-1e-4, 1e-4)
        wcs.wcs.crpix = 60 - pointing[0], 60 - pointing[1] - 85 * chip
        header = wcs.to_header()
        header.update(BUNIT="ELECTRONS", **cards)
        data = 50 + level + rng.normal(0, 0.3, (80, 120))
        dq = np.zeros((80, 120), "i2")
        dq[:4] = 8
        version = {"ver": chip + 1}
        hdus += [
            fits.ImageHDU(data.astype("f4"), header, name="SCI", **version),
            fits.ImageHDU(dq, header, name="DQ", **version),
        ]
    fits.HDUList(hdus).writeto(path, checksum="checked" in path.name)
    return path


def files(folder, telescope, *, stem="j", **cards):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(4)
    pointings = ((0, 0), (30, 40), (-25, 55))
    return [
        write_chips(folder / f"{stem}{k}_flc.fits", p, LEVELS[k], telescope, rng, **cards)
        for k, p in enumerate(pointings)
    ]


def check_round_trip(result, paths, folder):
    """Write, verify, apply and undo; return the outputs."""
    written = result.write(folder / "out")
    record = lm.read_record(folder / "out" / "levelmatch.asdf")
    assert lm.verify_record(record, written) == result.names
    again = lm.apply_record(record, paths, folder / "again")
    back = lm.undo_record(record, written, folder / "back")
    for one, other in zip([*again, *back], [*written, *paths], strict=True):
        if "checked" in one.name:
            # Checksums of headers depend on the time in their comments.
            with fits.open(one) as a, fits.open(other) as b:
                assert fits.FITSDiff(
                    a,
                    b,
                    ignore_keywords=["CHECKSUM", "DATASUM"],
                    ignore_comments=["CHECKSUM", "DATASUM"],
                ).identical
        else:
            assert one.read_bytes() == other.read_bytes()
    return written, record


@pytest.mark.parametrize(("telescope", "key"), [("HST", "MDRIZSKY"), ("Blanco", "LMSKY")])
@pytest.mark.parametrize("stem", ["j", "checked"])
def test_each_chip_keeps_its_level_in_its_header(tmp_path, telescope, key, stem):
    paths = files(tmp_path / "in", telescope, stem=stem)
    result = lm.match_levels(paths, group_by="FILENAME", solve=KEEP)
    levels = result.table["level"].value.reshape(3, 2)
    assert_allclose(levels - levels.mean(), LEVELS - LEVELS.mean(), atol=0.03)
    written, _ = check_round_trip(result, paths, tmp_path)
    for k, (before, after) in enumerate(zip(paths, written, strict=True)):
        with fits.open(before) as old, fits.open(after, checksum=True) as new:
            for a, b in zip(old, new, strict=True):
                assert a.data is None or (a.data == b.data).all()
                if a.name == "SCI":
                    assert b.header[key] == pytest.approx(levels[k, a.ver - 1], rel=1e-12)
                    assert b.header["LMRECORD"] == "levelmatch.asdf"
                    assert "LMMLEV" not in b.header
                else:
                    assert fits.HDUDiff(a, b).identical
            # The next step subtracts equal sky levels.
            skies = [np.mean(new["SCI", v].data[4:]) - new["SCI", v].header[key] for v in (1, 2)]
        assert_allclose(skies, 50 + np.mean(LEVELS - levels), atol=0.05)


def test_a_changed_level_is_found(tmp_path):
    paths = files(tmp_path / "in", "HST")
    written = lm.match_levels(paths, group_by="FILENAME", solve=KEEP).write(tmp_path / "out")
    fits.setval(written[1], "MDRIZSKY", value=3.0, extname="SCI", extver=2)
    with pytest.raises(lm.RecordError, match=r"j1_flc\.fits: its header has MDRIZSKY = 3\.0 inst"):
        lm.verify_record(tmp_path / "out" / "levelmatch.asdf", written)


def test_the_callers_keyword(tmp_path):
    paths = files(tmp_path / "in", "HST", OLDSKY=2.5)
    solve = lm.SolveOptions(subtract=False, sky_keyword="oldsky")
    result = lm.match_levels(paths, group_by="FILENAME", solve=solve)
    written, _ = check_round_trip(result, paths, tmp_path)
    header = fits.getheader(written[1], ("SCI", 2))
    assert header["OLDSKY"] == header["MDRIZSKY"] == result.table["level"].value[3]
    image = result[3]
    assert image.meta["OLDSKY"] == header["OLDSKY"]
    assert (image.data == fits.getdata(paths[1], ("SCI", 2))).all()


def test_levels_that_a_file_carries_are_replaced_or_cleared(tmp_path):
    paths = files(tmp_path / "in", "HST", MDRIZSKY=12.0)
    kept = lm.match_levels(paths, group_by="FILENAME", solve=KEEP)
    assert "the new level replaces it" in " ".join(kept.table.meta["notes"])
    written, _ = check_round_trip(kept, paths, tmp_path)
    found = fits.getheader(written[0], ("SCI", 1))["MDRIZSKY"]
    assert found == kept.table["level"].value[0]
    # Matching the outputs again finds the same levels, because no pixel has changed.
    with pytest.warns(lm.LevelMatchWarning, match="MDRIZSKY"):
        second = lm.match_levels(written, group_by="FILENAME")
    assert_allclose(second.table["level"].value, kept.table["level"].value, atol=1e-6)
    last = second.write(tmp_path / "last")
    assert fits.getheader(last[0], ("SCI", 1))["MDRIZSKY"] == 0


def test_planes_and_other_changes_are_refused(tmp_path):
    paths = files(tmp_path / "in", "HST")
    for fit_type in ("level+slope", "auto"):
        with pytest.raises(ValueError, match="subtract=False: the pass 'dithers' fits"):
            lm.match_levels(paths, fit_type={"dithers": fit_type}, solve=KEEP)
    planes = lm.match_dithers(paths, fit_type="level+slope")
    with pytest.raises(lm.FrameError, match="its correction is a plane or a pattern"):
        lm.match_mosaic(planes, solve=KEEP).write(tmp_path / "out")
    assert not (tmp_path / "out" / "j0_flc.fits").exists()
    with pytest.warns(lm.LevelMatchWarning, match="sky_keyword: the levels are subtracted"):
        lm.match_levels(paths, group_by="FILENAME", solve=lm.SolveOptions(sky_keyword="X"))
    for path, time in zip(paths, (50.0, 200.0, 300.0), strict=True):
        fits.setval(path, "EXPTIME", value=time)
    read = lm.ReadOptions(flux_scale="1/EXPTIME", apply_flux_scale=True)
    with pytest.raises(ValueError, match=r"j1_flc\.fits\[SCI,1\]: subtract=False: apply_flux"):
        lm.match_levels(paths, read=read, solve=KEEP)
    with pytest.raises(ValueError, match="sky_keyword: 'A KEYWORD' is not a header keyword"):
        lm.SolveOptions(sky_keyword="A KEYWORD")


@pytest.mark.parametrize(
    "keyword",
    ["NAXIS", "NAXIS1", "bzero", "BUNIT", "EXTNAME", "CRVAL1", "CD1_2", "A_2_0", "DATE-OBS"]
    + ["END", "HISTORY", "CHECKSUM", "LMMLEV", "LMRECSHA", "LONPOLE", "WCSAXES"],
)
def test_keywords_with_a_meaning_are_refused(keyword):
    with pytest.raises(ValueError, match=f"sky_keyword: '{keyword}' has another meaning"):
        lm.SolveOptions(subtract=False, sky_keyword=keyword)


def test_cards_with_text_are_not_replaced(tmp_path):
    paths = files(tmp_path / "in", "HST", TARGNAME="NGC 1")
    solve = lm.SolveOptions(subtract=False, sky_keyword="targname")
    with pytest.raises(ValueError, match=r"j0_flc.*: sky_keyword: its TARGNAME is 'NGC 1'; name"):
        lm.match_levels(paths, group_by="FILENAME", solve=solve)


def test_skyfile_has_a_level_for_each_chip(tmp_path):
    paths = files(tmp_path / "in", "HST")
    result = lm.match_levels(paths, group_by="FILENAME", solve=KEEP)
    path = lm.write_skyfile(result.record, tmp_path / "sky.txt")
    first, *lines = path.read_text().splitlines()
    assert first == "# applied = no"
    assert [line.split()[0] for line in lines] == [p.name for p in paths]
    found = [[float(word) for word in line.split()[1:]] for line in lines]
    assert_allclose(found, result.table["level"].value.reshape(3, 2), rtol=1e-12)
    with pytest.raises(FileExistsError, match="exists; overwrite=True"):
        lm.write_skyfile(result, path)
    planes = lm.match_levels(paths, fit_type="level+slope")
    with pytest.raises(lm.FrameError, match="a plane or a pattern, and a skyfile"):
        lm.write_skyfile(planes, tmp_path / "other.txt")


@pytest.mark.parametrize("hdu", [("SCI", 2), ("SCI", 1), [("SCI", 2), ("SCI", 1)]])
def test_skyfile_of_some_chips_is_refused(tmp_path, hdu):
    paths = files(tmp_path / "in", "HST")
    read = lm.ReadOptions(hdu=hdu)
    result = lm.match_levels(paths, group_by="FILENAME", solve=KEEP, read=read)
    for levels in (result, result.record):
        with pytest.raises(lm.FrameError, match=r"j0_flc\.fits: a skyfile needs .* of all chips"):
            lm.write_skyfile(levels, tmp_path / "sky.txt")


def test_notes_tell_which_file_lacks_chips():
    notes = Notes()
    notes.add("no wcs", "a.fits", "SCI,2")
    notes.add("fill", "b.fits")
    for k in range(40):
        notes.add("no wcs", f"c{k}.fits", "SCI,2")
    options = {"notes": notes.sentences, "noted": notes.noted}
    assert chips_are_left_out("a.fits", options)
    assert chips_are_left_out("c39.fits", options)
    assert not chips_are_left_out("b.fits", options)


def test_records_without_kinds_of_notes_are_read():
    notes = Notes()
    notes.add("no wcs", "a.fits", "SCI,2")
    assert chips_are_left_out("a.fits", {"notes": notes.sentences})
    assert not chips_are_left_out("b.fits", {"notes": notes.sentences})
    assert not chips_are_left_out("b.fits", {})
    for k in range(40):
        notes.add("no wcs", f"c{k}.fits", "SCI,2")
    # The sentence names only some of the files.
    assert chips_are_left_out("b.fits", {"notes": notes.sentences})


# Exposure times


@pytest.mark.parametrize("text", ["1/EXPTIME", " 1.0 / exptime "])
def test_counts_of_unequal_exposures(tmp_path, text):
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:90, :130]
    paths, rates, times = [], (0.0, 0.4, -0.3), (100.0, 50.0, 400.0)
    for k, (dx, dy) in enumerate(((0, 0), (30, 40), (-25, 35))):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 20)
        wcs.wcs.cdelt, wcs.wcs.crpix = (-1e-4, 1e-4), (60 - dx, 60 - dy)
        sky = 5 + 2 * np.exp(-(((x + dx - 60) ** 2 + (y + dy - 60) ** 2) / 900))
        counts = times[k] * (sky + rates[k]) + rng.normal(0, 2, x.shape)
        header = wcs.to_header()
        header.update(BUNIT="electron", EXPTIME=times[k])
        paths.append(tmp_path / f"e{k}.fits")
        fits.PrimaryHDU(counts.astype("f4"), header).writeto(paths[-1])
    read = lm.ReadOptions(flux_scale=text)
    result = lm.match_levels(paths, reference=0, group_by="FILENAME", read=read)
    assert_allclose(result.table["level"].value / times, rates, atol=0.01)
    kept = lm.match_levels(paths, reference=0, group_by="FILENAME", read=read, solve=KEEP)
    written, _ = check_round_trip(kept, paths, tmp_path)
    levels = [fits.getheader(path)["LMSKY"] for path in written]
    assert_allclose(levels, np.multiply(rates, times), atol=2)
    with pytest.raises(ValueError, match="the keyword 'ITIME' is missing"):
        lm.match_levels(paths, read=lm.ReadOptions(flux_scale="1/ITIME"))


def exposed(times, *, smooth, scale, unit="electron", key="EXPTIME"):
    """Return images of one sky, whose counts are multiplied by a factor for each."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:90, :130]
    images = []
    for k, time in enumerate(times):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 20)
        wcs.wcs.cdelt, wcs.wcs.crpix = (-1e-4, 1e-4), (60 - 30 * k, 60 - 10 * k)
        nebula = 900 * np.exp(-(((x + 30 * k - 90) ** 2 + (y + 10 * k - 50) ** 2) / 500))
        data = scale[k] * (500 + (0 if smooth else nebula)) + rng.normal(0, 2, x.shape)
        meta = {"FILENAME": f"e{k}.fits", key: time}
        images.append(CCDData(data, unit=unit, wcs=wcs, meta=meta))
    return images


def match_exposed(images, **read):
    return lm.match_mosaic(images, group_by="FILENAME", read=lm.ReadOptions(**read))


@pytest.mark.parametrize("key", ["EXPTIME", "EXPOSURE", "EXP_TIME"])
def test_counts_of_unequal_exposures_are_warned_of(key):
    """No emission shows that the flux scales differ."""
    images = exposed((100.0, 300.0), smooth=True, scale=(1, 3), key=key)
    expected = rf"e0\.fits and e1\.fits are counts of 100 and 300 s \({key}\), .*'1/{key}'"
    with pytest.warns(lm.FluxScaleWarning, match=expected):
        match_exposed(images)
    for scale in (f"1/{key}", [1, 1]):
        match_exposed(images, flux_scale=scale)


@pytest.mark.parametrize(
    ("times", "smooth", "unit"),
    [
        ((100.0, 300.0), False, "electron"),
        ((100.0, 101.0), True, "electron"),
        ((100.0, 300.0), True, "electron / s"),
        ((100.0, "long"), True, "electron"),
        ((100.0, 300.0), True, "MJy / sr"),
    ],
    ids=["emission on one scale", "similar times", "rates", "unknown time", "brightness"],
)
def test_images_on_one_scale_need_no_warning(times, smooth, unit):
    match_exposed(exposed(times, smooth=smooth, scale=(1, 1), unit=unit))


def test_times_that_are_not_fits_are_passed_over(tmp_path):
    images, paths = exposed((100.0, 300.0), smooth=True, scale=(1, 1)), []
    version = images[0].copy()
    version.data, version.meta["FILENAME"] = version.data + 5, "version.fits"
    for image in (*images, version):
        paths.append(tmp_path / image.meta["FILENAME"])
        image.meta["MJD-OBS"] = 6e4
        image.write(paths[-1])
        content = paths[-1].read_bytes()
        broken = re.sub(rb"(EXPTIME |MJD-OBS )=.{21}", rb"\1= 12,5'               ", content)
        assert len(broken) == len(content)
        assert broken.count(b"12,5") == 2
        paths[-1].write_bytes(broken)
    with pytest.warns(lm.LevelMatchWarning, match="same noise at one place"):
        levels = match_exposed(paths).table["level"].value
    assert_allclose(levels[2] - levels[0], 5, atol=1e-3)


# JWST


@pytest.fixture
def miri(tmp_path):
    small = {"tiles": (1, 2), "n_dithers": 2, "shape": (96, 100)}
    paths = simulate_miri(**small, lyot=False, seed=3).write(tmp_path / "miri")
    for path in paths:
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["S_SKYMAT"] = "SKIPPED"
    return paths


def test_jwst_carries_its_level_as_skymatch_does(miri, tmp_path):
    result = lm.match_levels(miri, solve=KEEP)
    written, _ = check_round_trip(result, miri, tmp_path)
    for path, level in zip(written, result.table["level"].value, strict=True):
        header = fits.getheader(path)
        assert header["BKGLEVEL"] == level
        assert header["BKGSUB"] is False
        assert (header["BKGMETH"], header["S_SKYMAT"]) == ("match", "COMPLETE")
        assert pending_levels(header) == ({"BKGLEVEL": level} if level else {})


def test_jwst_models_read_the_level(miri, tmp_path):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    result = lm.match_levels(miri, solve=KEEP)
    for path, level in zip(
        result.write(tmp_path / "out"), result.table["level"].value, strict=True
    ):
        with datamodels.ImageModel(path) as model:
            assert model.meta.background.level == pytest.approx(level)
            assert model.meta.background.subtracted is False
            assert model.meta.cal_step.skymatch == "COMPLETE"


def test_levels_in_the_primary_header_are_cleared_and_restored(miri, tmp_path):
    for path in miri:
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["BKGLEVEL"], hdus[0].header["BKGSUB"] = 1.5, False
    with pytest.warns(lm.LevelMatchWarning, match="BKGLEVEL = 1.5"):
        result = lm.match_levels(miri)
    written = result.write(tmp_path / "out")
    for path in written:
        assert fits.getheader(path)["BKGLEVEL"] == 0
    back = lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back")
    for one, other in zip(back, miri, strict=True):
        assert fits.getheader(one) == fits.getheader(other)


# Command line


def test_command_keeps_levels(tmp_path):
    paths = files(tmp_path / "in", "HST")

    out = tmp_path / "out"
    words = ["--no-subtract", "--group-by", "FILENAME", "--skyfile", tmp_path / "sky.txt"]
    done = succeed("run", *paths, "-o", out, *words)
    assert "give it to AstroDrizzle as its skyfile" in done.stdout
    assert len((tmp_path / "sky.txt").read_text().splitlines()) == 4
    assert "MDRIZSKY" in fits.getheader(out / "j1_flc.fits", ("SCI", 1))
    succeed("verify", out, out)
    succeed("undo", out, out, "-o", tmp_path / "back")
    assert (tmp_path / "back" / "j1_flc.fits").read_bytes() == paths[1].read_bytes()
    # The outputs do not count as matched images.
    succeed("run", out, "-o", tmp_path / "second", "--group-by", "FILENAME")
