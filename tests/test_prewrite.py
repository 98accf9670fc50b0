# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the checks of all outputs before anything is written."""

import os
import shutil

import dask
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty, UnknownUncertainty
from astropy.wcs import WCS, DistortionLookupTable
from dask.array import from_array
from helpers import assert_refused, run
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm


def written(images, folder):
    return [
        image.write(folder / image.meta["FILENAME"]) or folder / image.meta["FILENAME"]
        for image in images
    ]


@pytest.fixture
def files(row, write, tmp_path):
    """Return a function that writes four files and adds a card to the third."""

    def make(card=None, hdu=1, kind="SCI"):
        folder = tmp_path / "in"
        folder.mkdir()
        paths = [write(image, folder / image.meta["FILENAME"]) for image in row[1]]
        if card is not None:
            content = paths[2].read_bytes()
            # The card replaces one without meaning.
            place = content.index(b"SCICARD =")
            content = content[:place] + card.ljust(80) + content[place + 80 :]
            paths[2].write_bytes(content)
        return paths

    return make


CARDS = {
    "escape": b"NOTE    = '\x1b[31mred'",
    "tab": b"NOTE    = 'a\tb'",
    "newline": b"NOTE    = 'a\nb'",
    "newline in a comment": b"NOTE    = 1 / a\nb",
    "bell in HISTORY": b"HISTORY a\x07b",
    "factor zero": b"LMFLUX  =                  0.0",
    "factor text": b"LMFLUX  = 'twice'",
    "factor NaN": b"LMFLUX  =                  NaN",
    "factor nan": b"LMFLUX  = 'nan'",
    "level text": b"LMMLEV  = 'high'",
    "inverse SIP without its other half": b"AP_ORDER=                    2",
    "doubled CTYPE": b"CTYPE1  = 'RA---TAN'",
    "subarray": b"SUBSTRT1= 'left'",
    "time": b"DT_BGR  = 'noon'",
    "no value": b"NOTE    =",
    "not a card": b"\x00\x01\x02",
}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_cards(files, tmp_path, card):
    paths = files(card)
    output = tmp_path / "out"
    found = run("run", *paths, "-o", output, "--recombine-lyot", "--rematch")
    assert found.exit_code in (0, 2), found.output
    if found.exit_code:
        assert "c.fits" in found.output
        assert b"LMFLUX" not in card or "the card LMFLUX" in found.output
        # Measured pairs are kept for the next run.
        assert not output.exists() or os.listdir(output) == [".levelmatch-pairs"]
    else:
        assert len(os.listdir(output)) == 5
        record = lm.read_record(output / "levelmatch.asdf")
        lm.verify_record(record, [output / path.name for path in paths])


@pytest.mark.parametrize("card", ["escape", "tab", "newline", "factor zero", "factor NaN"])
def test_python(files, tmp_path, card):
    paths = files(CARDS[card])

    def match_and_write():
        lm.match_levels(paths).write(tmp_path / "out")

    with pytest.raises(lm.LevelMatchError, match=r"c\.fits"):
        match_and_write()
    assert not (tmp_path / "out").exists()


def unknown(image):
    image.uncertainty = UnknownUncertainty(np.ones(image.data.shape))
    return image


def half(image):
    return CCDData(image.data.astype("f2"), unit=image.unit, wcs=image.wcs, meta=image.meta)


def nested(image):
    image.meta["NESTED"] = {"a": [1, 2]}
    return image


def newline(image):
    image.meta = {**image.meta, "FILENAME": "c\nd.fits"}
    return image


def text(image):
    image.meta = {**image.meta, "NOTE": "a\x1b[31m\nb"}
    return image


def long_double(image):
    return CCDData(image.data.astype("g"), unit=image.unit, wcs=image.wcs, meta=image.meta)


MEMORY = [unknown, half, long_double, nested, newline, text]


@pytest.mark.parametrize("spoil", MEMORY)
@pytest.mark.parametrize("kind", [CCDData, NDData])
def test_images_in_memory(row, tmp_path, spoil, kind):
    images = [image.copy() for image in row[1]]
    for image in images:
        image.meta = dict(image.meta)
    images[2] = spoil(images[2])
    if kind is NDData:
        images = [
            NDData(i.data, wcs=i.wcs, unit=i.unit, meta=i.meta, uncertainty=i.uncertainty)
            for i in images
        ]
    result = lm.match_levels(images)
    # An NDData is written without the metadata that FITS cannot hold.
    if kind is NDData and spoil is unknown:
        spoil = None
    types = {half: "float16; convert them to float32", long_double: "convert them to float64"}
    with pytest.raises(lm.LevelMatchError, match=rf"^c.*{types.get(spoil, '')}"):
        result.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("kind", [CCDData, NDData])
def test_arrays_of_dask(monkeypatch, row, tmp_path, kind, subtract):
    # Clients of other tests leave their scheduler behind.
    monkeypatch.setitem(dask.config.config, "scheduler", "synchronous")
    plain = [kind(i.data, wcs=i.wcs, unit=i.unit, meta=dict(i.meta)) for i in row[1]]
    lazy = [
        kind(from_array(i.data, chunks=20), wcs=i.wcs, unit=i.unit, meta=dict(i.meta))
        for i in row[1]
    ]
    solve = lm.SolveOptions(subtract=subtract)
    one, other = (lm.match_levels(images, solve=solve) for images in (plain, lazy))
    for a, b in zip(one, other, strict=True):
        assert_array_equal(a.data, np.asarray(b.data))
    paths = one.write(tmp_path / "one"), other.write(tmp_path / "other")
    for a, b in zip(*paths, strict=True):
        assert_array_equal(fits.getdata(a), fits.getdata(b))


@pytest.mark.parametrize("earlier", [None, "one", ["one", "two"]])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("kind", [CCDData, NDData])
def test_history_of_a_dictionary(row, tmp_path, kind, subtract, earlier):
    """Headers of outputs do not depend on the class of the metadata."""
    texts = {} if earlier is None else {"HISTORY": earlier}
    solve = lm.SolveOptions(subtract=subtract)
    images = [kind(i.data, wcs=i.wcs, unit=i.unit, meta={**i.meta, **texts}) for i in row[1]]
    written = lm.match_levels(images, solve=solve).write(tmp_path / "out")
    history = [str(line) for line in fits.getheader(written[1])["HISTORY"]]
    before = [earlier] if earlier == "one" else earlier or []
    assert history[: len(before)] == before
    assert history[len(before)].startswith("levelmatch ")
    assert not any("[" in line or "'" in line for line in history)
    back = lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back")
    assert list(fits.getheader(back[1]).get("HISTORY", [])) == before


@pytest.mark.parametrize("kind", [CCDData, NDData])
@pytest.mark.parametrize("names", [("cpdis1", "cpdis2"), ("det2im1", "det2im2"), ("cpdis2",)])
def test_tables_of_distortions_are_written(row, tmp_path, kind, names):
    images = []
    for image in row[1]:
        wcs = image.wcs.deepcopy()
        for shift, name in enumerate(names, start=1):
            values = (np.indices((6, 8))[1] * 0.1 + shift).astype("f4")
            table = DistortionLookupTable(values, (1, 1), (1, 1), (10, 10))
            setattr(wcs, name, table)
        # Cards of a file whose tables have other numbers.
        cards = fits.Header(image.meta)
        cards["CPDIS2"] = cards["D2IMDIS1"] = "LOOKUP"
        cards.append(("DP2", "EXTVER: 7"))
        cards.append(("D2IM1", "EXTVER: 8"))
        images.append(kind(image.data, wcs=wcs, unit=image.unit, meta=cards))
    result = lm.match_levels(images)
    written = result.write(tmp_path / "out")
    pixels = [[3, 5], [40, 30]]
    for image, path in zip(images, written, strict=True):
        with fits.open(path) as hdus:
            wcs = WCS(hdus[0].header, hdus)
        assert_allclose(wcs.all_pix2world(pixels, 0), image.wcs.all_pix2world(pixels, 0))
    back = lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back")
    with fits.open(back[0]) as hdus:
        assert_allclose(hdus[0].data, images[0].data, atol=1e-4)
        assert len(hdus) == 1 + len(names)


def test_good_images_in_memory(row, with_planes, tmp_path):
    images = [with_planes(image.copy()) for image in row[1]]
    images[0].uncertainty = StdDevUncertainty(np.ones(images[0].data.shape, "f8"))
    assert len(lm.match_levels(images).write(tmp_path / "out")) == 4


def test_a_reference_of_an_odd_name(files, tmp_path):
    paths = files()
    odd = paths[0].with_name("a\n\x1b[31m'é.fits")
    paths[0].rename(odd)
    paths[0] = odd
    images = {path.name: [path] for path in paths}
    result = lm.match_mosaic(images, reference=odd.name)
    outputs = result.write(tmp_path / "out")
    assert lm.verify_record(result.record, outputs)
    back = lm.undo_record(result.record, outputs, tmp_path / "back")
    for one, two in zip(paths, back, strict=True):
        assert fits.getheader(one, 1) == fits.getheader(two, 1)


@pytest.mark.parametrize("name", ["levelmatch.asdf", "levelmatch.html", "c.fits"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_names_of_outputs_that_are_taken(files, tmp_path, name, kind):
    paths = files()
    output = tmp_path / "out"
    output.mkdir()
    taken = output / name
    taken.mkdir() if kind == "folder" else taken.write_bytes(b"of somebody else")
    found = run("run", *paths, "-o", output, "--report", "--overwrite")
    if kind == "file" and name == "c.fits":
        assert found.exit_code == 0
        return
    assert_refused(found, name)
    assert os.listdir(output) == [name]
    if kind == "file" and name == "levelmatch.html":
        return
    result = lm.match_levels(paths)
    if name != "levelmatch.html":
        with pytest.raises((lm.LevelMatchError, OSError), match=name):
            result.write(output, overwrite=True)
        assert os.listdir(output) == [name]


def test_space_is_checked_first(files, row, tmp_path, monkeypatch):
    paths = files()
    full = shutil.disk_usage(tmp_path)._replace(free=40_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    for images in (paths, row[1]):
        result = lm.match_levels(images)
        with pytest.raises(OSError, match=r"0\.\d MB are free") as caught:
            result.write(tmp_path / "out")
        assert caught.value.filename == str(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    found = run("run", *paths, "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert "No space left" in found.output
    assert "Traceback" not in found.output


def test_the_psf_of_an_image_is_written(row, tmp_path):
    for image in row[1]:
        image.psf = np.full((3, 3), 1 / 9)
    written = lm.match_levels(row[1]).write(tmp_path / "out")
    for path in written:
        assert_array_equal(fits.getdata(path, "PSFIMAGE"), row[1][0].psf)
