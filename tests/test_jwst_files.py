# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that JWST files keep their format, compared card by card and byte by byte."""

import io
import warnings

import asdf
import numpy as np
import pytest
import yaml
from astropy.io import fits
from numpy.testing import assert_array_equal

import levelmatch as lm
from levelmatch.results import files
from levelmatch.results.asdf_trees import add_to_asdf, remove_from_asdf
from levelmatch.testing import simulate_miri

SHAPE = (48, 64)
OWN = ("LM", "HISTORY")


@pytest.fixture
def calibrated(paint, tmp_path):
    """Return files with all kinds of extensions and an ASDF tree with arrays."""
    paths = []
    (tmp_path / "in").mkdir()
    for k, name in enumerate(("a_cal.fits", "b_cal.fits", "c_cal.fits")):
        image = paint(name, (0.3, 20.5 * k), level=k)
        rng = np.random.default_rng(k)
        primary = fits.PrimaryHDU()
        primary.header["TELESCOP"] = "JWST"
        primary.header["LONGKEY"] = ("x" * 100, "a value on several cards")
        header = image.wcs.to_header(relax=True)
        header["BUNIT"] = "MJy/sr"
        header["COMMENT"] = "of the science extension"
        header["HISTORY"] = "of an earlier step"
        table = fits.BinTableHDU.from_columns(
            [
                fits.Column("GROUP", "I", array=np.arange(5)),
                fits.Column("TEXT", "8A", array=["a", "b", "c", "d", "e"]),
            ],
            name="GROUP",
        )
        hdus = [
            primary,
            fits.ImageHDU(image.data, header, name="SCI"),
            fits.ImageHDU(rng.random(SHAPE, "f4"), name="ERR"),
            fits.ImageHDU(np.zeros(SHAPE, "u4"), name="DQ"),
            fits.ImageHDU(rng.random(SHAPE, "f4"), name="AREA"),
            fits.ImageHDU(rng.random((3, *SHAPE), "f8"), name="VAR_RNOISE"),
            table,
            asdf_table(rng),
        ]
        paths.append(tmp_path / "in" / name)
        fits.HDUList(hdus).writeto(paths[-1], checksum=True)
    return paths


def asdf_table(rng):
    """Return a tree with arrays as an extension."""
    buffer = io.BytesIO()
    tree = {"meta": {"filename": "a", "nested": [1, 2.5, None]}, "map": rng.random((7, 9))}
    asdf.AsdfFile(tree).write_to(buffer)
    content = np.frombuffer(buffer.getvalue(), np.uint8)[None]
    column = fits.Column("ASDF_METADATA", f"{content.size}B", array=content)
    return fits.BinTableHDU.from_columns([column], name="ASDF")


def match(paths):
    return lm.match_mosaic(paths, group_by=lambda name, meta: name, reference=0)


def raw_hdus(path):
    """Return the bytes of each HDU of a file: its header and its data."""
    content = path.read_bytes()
    with fits.open(path) as hdus:
        places = [hdu.fileinfo() for hdu in hdus]
        names = [(hdu.name, hdu.ver) for hdu in hdus]
    return names, [content[p["hdrLoc"] : p["datLoc"] + p["datSpan"]] for p in places]


def test_nothing_else_changes(calibrated, tmp_path):
    outputs = match(calibrated).write(tmp_path / "out")
    for before, after in zip(calibrated, outputs, strict=True):
        names, old = raw_hdus(before)
        now, new = raw_hdus(after)
        assert now == names
        for name, a, b in zip(names, old, new, strict=True):
            if name[0] not in ("SCI", "ASDF"):
                assert a == b, name
        with fits.open(before) as a, fits.open(after, checksum=True) as b:
            cards = [card for card in b["SCI"].header.cards if not is_own(card)]
            assert [card.image for card in cards if card.keyword not in SUMS] == [
                card.image for card in a["SCI"].header.cards if card.keyword not in SUMS
            ]
            assert {"CHECKSUM", "DATASUM"} <= set(b["SCI"].header)
            level = b["SCI"].header["LMMLEV"]
            expected = (a["SCI"].data.astype(float) - level).astype("f4")
            assert_array_equal(b["SCI"].data.astype("f4"), expected)
            # The checksums of the two changed HDUs are valid.
            for hdu in b:
                assert hdu.verify_checksum() == 1
                assert hdu.verify_datasum() == 1


def test_plain_files_are_those_of_astropy(calibrated, tmp_path, monkeypatch):
    """Byte by byte, with slopes and an ASDF tree."""
    for path in calibrated:
        with fits.open(path) as hdus:
            hdus.writeto(path, overwrite=True, checksum="remove")
    result = lm.match_mosaic(
        calibrated, group_by=lambda name, meta: name, reference=0, fit_type="level+slope"
    )
    assert any(frame.correction.vector.any() for frame in result.frames)
    compare_with_astropy(result, tmp_path, monkeypatch)


def test_plain_lyot_files_are_those_of_astropy(tmp_path, monkeypatch):
    simulation = simulate_miri(tiles=(1, 1), n_dithers=3, lyot=True, dither_size=24, seed=4)
    paths = simulation.write(tmp_path / "in")
    result = lm.match_levels(paths, recombine_lyot=True)
    assert any(product.lyot is not None for product in result.products)
    compare_with_astropy(result, tmp_path, monkeypatch)


def compare_with_astropy(result, tmp_path, monkeypatch):
    """Write files with astropy and without, and compare them byte by byte."""
    original, by_astropy = files.plain_replacement, []

    def never(*args):
        by_astropy.append(original(*args))

    plain = result.write(tmp_path / "plain")
    monkeypatch.setattr(files, "plain_replacement", never)
    expected = result.write(tmp_path / "astropy")
    assert by_astropy
    assert None not in by_astropy
    for one, other in zip(plain, expected, strict=True):
        assert one.read_bytes() == other.read_bytes()


SUMS = ("CHECKSUM", "DATASUM")


def is_own(card):
    own = str(card.value).startswith("levelmatch")
    return card.keyword.startswith("LM") or (card.keyword == "HISTORY" and own) or continued(card)


def continued(card):
    """A HISTORY card that continues a full card of levelmatch is kept."""
    return card.keyword == "HISTORY" and "earlier step" not in str(card.value)


def test_the_tree_has_one_more_entry(calibrated, tmp_path):
    result = match(calibrated)
    outputs = result.write(tmp_path / "out")
    for before, after in zip(calibrated, outputs, strict=True):
        trees = []
        for path in (before, after):
            with fits.open(path) as hdus:
                content = io.BytesIO(hdus["ASDF"].data.tobytes())
            with asdf.open(content, memmap=False, lazy_load=False) as file:
                trees.append(dict(file.tree))
        (entry,) = trees[1].pop("levelmatch")
        assert entry["record_sha256"] == result.record.sha256
        assert entry["subtracted"][0]["pass"] == "mosaic"
        assert_array_equal(trees[1].pop("map"), trees[0].pop("map"))
        assert trees[1]["meta"] == trees[0]["meta"]


def test_a_second_run_adds_an_entry_and_undoing_takes_its_own(calibrated, tmp_path):
    first = match(calibrated).write(tmp_path / "first")
    again = lm.match_mosaic(
        first, group_by=lambda n, m: n, reference=1, read=lm.ReadOptions(rematch=True)
    )
    second = again.write(tmp_path / "second")
    with fits.open(second[0]) as hdus:
        content = hdus["ASDF"].data.tobytes()
    with asdf.open(io.BytesIO(content), memmap=False) as file:
        assert len(file["levelmatch"]) == 2
    back = lm.undo_record(again.record, second, tmp_path / "back")
    for a, b in zip(back, first, strict=True):
        with fits.open(a) as new, fits.open(b) as old:
            assert new["ASDF"].data.tobytes() == old["ASDF"].data.tobytes()


def test_a_tree_without_its_end_is_copied(calibrated, tmp_path):
    with fits.open(calibrated[1], mode="update") as hdus:
        content = hdus["ASDF"].data.tobytes().replace(b"\n...", b"\n+++")
        hdus["ASDF"].data["ASDF_METADATA"][0] = np.frombuffer(content, np.uint8)
    with pytest.warns(lm.LevelMatchWarning, match="the FITS WCS is used: b_cal.fits"):
        result = match(calibrated)
    out = result.write(tmp_path / "out")
    with pytest.warns(lm.LevelMatchWarning, match="the FITS WCS is used: b_cal.fits"):
        back = lm.undo_record(result.record, out, tmp_path / "back")
    for path in (out[1], back[1]):
        with fits.open(path) as hdus:
            assert hdus["ASDF"].data.tobytes() == content


@pytest.fixture
def models(paint, tmp_path):
    """Return files written by stdatamodels, with a gwcs."""
    datamodels = pytest.importorskip(
        "stdatamodels.jwst.datamodels", reason="the extra jwst is not installed"
    )
    from astropy import coordinates as coord, units as u
    from astropy.modeling import models as m
    from gwcs import coordinate_frames as cf, wcs

    paths = []
    (tmp_path / "in").mkdir()
    for k in range(3):
        image = paint(f"{k}_cal.fits", (0.3, 20.5 * k), level=k)
        low = image.wcs.wcs
        transform = (
            m.Shift(-(low.crpix[0] - 1)) & m.Shift(-(low.crpix[1] - 1))
            | m.AffineTransformation2D(low.cd, [0, 0])
            | m.Pix2Sky_TAN()
            | m.RotateNative2Celestial(*low.crval, 180)
        )
        detector = cf.Frame2D(name="detector", unit=(u.pix, u.pix))
        sky = cf.CelestialFrame(name="world", reference_frame=coord.ICRS(), unit=(u.deg, u.deg))
        model = datamodels.ImageModel(image.data)
        model.err = np.full(SHAPE, 0.1, "f4")
        model.dq = np.zeros(SHAPE, "u4")
        model.meta.telescope = "JWST"
        model.meta.bunit_data = "MJy/sr"
        model.meta.exposure.start_time = 60000.5 + k
        model.meta.wcs = wcs.WCS([(detector, transform), (sky, None)])
        paths.append(tmp_path / "in" / f"{k}_cal.fits")
        model.save(paths[-1])
        model.close()
    return datamodels, paths


def test_stdatamodels_opens_them(models, tmp_path):
    datamodels, paths = models
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = match(paths)
        outputs = result.write(tmp_path / "out")
        for before, after in zip(paths, outputs, strict=True):
            with datamodels.open(before) as old, datamodels.open(after) as new:
                assert type(new) is type(old)
                assert new.meta.exposure.start_time == old.meta.exposure.start_time
                assert new.meta.wcs(3.0, 5.0) == old.meta.wcs(3.0, 5.0)
                assert_array_equal(new.err, old.err)
                level = np.mean(old.data - new.data)
                new.save(tmp_path / "next.fits")
            # Metadata pass to the file of the next step.
            with datamodels.open(tmp_path / "next.fits") as saved:
                tree = saved.to_flat_dict()
                assert saved.meta.wcs(3.0, 5.0) is not None
            assert any("levelmatch" in key for key in tree)
            (row,) = np.flatnonzero(result.table["name"] == before.name)
            assert level == pytest.approx(result.table["level"].value[row], abs=1e-5)


MODEL = """#ASDF 1.0.0
#ASDF_STANDARD 1.6.0
%YAML 1.1
--- !core/asdf-1.1.0
meta:
  filename: a.fits
  model_type: ImageModel
  nested:
    levelmatch: mine
other: 1
...
"""


@pytest.mark.parametrize("step", ["", "  levelmatch:\n    record: old\n    more: [1]\n"])
def test_a_data_model_has_the_run_in_its_metadata(step):
    content = MODEL.replace("  model_type", f"{step}  model_type").encode()
    first, second = (
        {"levelmatch": "0.1", "created": f"{k}", "record": "r.asdf", "record_sha256": f"s{k}"}
        for k in "ab"
    )
    once = add_to_asdf(content, first)
    twice = add_to_asdf(once, second)
    for found, entries in ((once, [first]), (twice, [first, second])):
        tree = yaml.load(
            found.partition(b"--- !core/asdf-1.1.0\n")[2].rstrip(b".\n"), yaml.SafeLoader
        )
        letter = entries[-1]["created"]
        assert tree["meta"] == {
            "filename": "a.fits",
            "levelmatch": f"levelmatch 0.1 {letter} record r.asdf s{letter}",
            "model_type": "ImageModel",
            "nested": {"levelmatch": "mine"},
        }
        assert (tree["other"], tree["levelmatch"]) == (1, entries)
    assert remove_from_asdf(twice, "sb") == once
    assert remove_from_asdf(once, "sa") == MODEL.encode()
