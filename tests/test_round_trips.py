# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Every kind of file is matched, verified and restored: each HDU, card and node of a tree."""

import io
import json
import warnings

import asdf
import numpy as np
import pytest
from astropy import coordinates as coord, units as u
from astropy.io import fits
from astropy.modeling import models as m
from astropy.wcs import WCS
from helpers import succeed
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm

SHAPE = (48, 64)
POINTINGS = ((0, 0), (14, 9), (-11, 17))


def wcs_at(pointing, row=0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 2)
    wcs.wcs.cdelt, wcs.wcs.crpix = (-1e-4, 1e-4), (32 - pointing[0], 24 - pointing[1] - row)
    return wcs


def pixels(level, rng):
    return (20 + level + rng.normal(0, 0.3, SHAPE)).astype("f4")


def chips(k, rng, n=2, telescope="HST", compressed=False, name="SCI"):
    """An exposure of some chips, each with its errors and flags, and a table."""
    primary = fits.PrimaryHDU()
    primary.header.update(TELESCOP=telescope, EXPTIME=100.0, LONGTEXT="x" * 90)
    primary.header["HIERARCH ESO TEL AIRM"] = 1.25
    hdus = [primary]
    for chip in range(n):
        header = wcs_at(POINTINGS[k], 52 * chip).to_header()
        header.update(BUNIT="ELECTRONS", CCDNUM=chip + 1)
        header["HISTORY"] = "of an earlier step"
        header["COMMENT"] = "of the chip"
        for _ in range(5):
            header.append(end=True)
        own = {"name": "SCI", "ver": chip + 1} if name == "SCI" else {"name": f"{name}{chip + 1}"}
        data = pixels(3 * k - chip, rng)
        kind = fits.CompImageHDU if compressed else fits.ImageHDU
        hdus.append(kind(data, header, **own))
        if name == "SCI":
            flags = rng.choice([0, 16], SHAPE).astype("i2")
            hdus.append(fits.ImageHDU(np.ones(SHAPE, "f4"), name="ERR", ver=chip + 1))
            hdus.append(fits.ImageHDU(flags, name="DQ", ver=chip + 1))
    columns = [fits.Column("A", "E", array=[1, 2]), fits.Column("B", "3A", array=["x", "y"])]
    return [*hdus, fits.BinTableHDU.from_columns(columns, name="WCSCORR")]


def jwst(k, rng):
    """An image of JWST with a tree."""
    hdus = chips(k, rng, 1, telescope="JWST")
    hdus[1].header["BUNIT"] = "MJy/sr"
    buffer = io.BytesIO()
    asdf.AsdfFile({"meta": {"a": 1}, "array": np.arange(9.0)}).write_to(buffer)
    content = np.frombuffer(buffer.getvalue(), np.uint8)[None]
    column = fits.Column("ASDF_METADATA", f"{content.size}B", array=content)
    return [*hdus, fits.BinTableHDU.from_columns([column], name="ASDF")]


def integers(k, rng):
    """A plain image of unsigned integers."""
    header = wcs_at(POINTINGS[k]).to_header()
    header["BUNIT"] = "adu"
    data = np.rint(1000 + 30 * k + rng.normal(0, 3, SHAPE)).astype("u2")
    return [fits.PrimaryHDU(data, header)]


def scaled(k, rng):
    """A chip of scaled integers with blank pixels and comments on its scale."""
    stored = np.rint(2000 + 60 * k + rng.normal(0, 6, SHAPE)).astype("i4")
    stored[:, 3] = -99
    hdu = fits.ImageHDU(stored, wcs_at(POINTINGS[k]).to_header(), name="CCD1")
    hdu.header.insert(8, ("BSCALE", 0.5, "physical = BZERO + BSCALE * stored"))
    hdu.header.insert(10, ("BZERO", -10.0, "x" * 40))
    hdu.header.append(("BLANK", -99))
    hdu.header["BUNIT"] = "adu"
    return [fits.PrimaryHDU(), hdu]


def roman(k, rng):
    """A tree of Roman."""
    gwcs = pytest.importorskip("gwcs")
    x, y = POINTINGS[k]
    transform = (
        m.Shift(x - 31.0) & m.Shift(y - 23.0)
        | m.Scale(-1e-4) & m.Scale(1e-4)
        | m.Pix2Sky_TAN()
        | m.RotateNative2Celestial(150, 2, 180)
    )
    frames = gwcs.coordinate_frames
    pixel = frames.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    sky = frames.CelestialFrame(name="world", reference_frame=coord.ICRS(), unit=(u.deg, u.deg))
    wcs = gwcs.WCS([(pixel, transform), (sky, None)])
    wcs.bounding_box = ((-0.5, SHAPE[1] - 0.5), (-0.5, SHAPE[0] - 0.5))
    wcs.array_shape = SHAPE
    steps = {"flux": "COMPLETE"}
    meta = {"telescope": "ROMAN", "wcs": wcs, "cal_step": steps, "filename": f"r{k}_cal.asdf"}
    data = pixels(3 * k, rng)
    tree = {"meta": meta, "data": data, "dq": np.zeros(SHAPE, "u4"), "err": np.ones(SHAPE, "f2")}
    return {"roman": tree, "note": [1, 2]}


KINDS = {
    "HST": (chips, "_flc.fits", {}),
    "DECam": (chips, ".fits", {"n": 6, "telescope": "Blanco", "name": "N"}),
    "fz": (chips, ".fits.fz", {"n": 3, "telescope": "CFHT", "name": "ccd", "compressed": True}),
    "gz": (chips, ".fits.gz", {"telescope": "UKIRT"}),
    "JWST": (jwst, "_cal.fits", {}),
    "integers": (integers, ".fits", {}),
    "scaled": (scaled, ".fits", {}),
    "Roman": (roman, "_cal.asdf", {}),
}


def write(kind, folder):
    make, suffix, options = KINDS[kind]
    folder.mkdir()
    rng, paths = np.random.default_rng(6), []
    for k in range(len(POINTINGS)):
        paths.append(folder / f"r{k}{suffix}")
        made = make(k, rng, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(made, dict):
                asdf.AsdfFile(made).write_to(paths[-1])
            else:
                fits.HDUList(made).writeto(paths[-1])
    return paths


# Kinds whose files are restored byte by byte.
INTEGERS = ("integers", "scaled")


def assert_restored(one, other, *, exactly):
    """All of a file is as in another one: pixels to the rounding of floats, the rest exactly."""
    if one.suffix == ".asdf":
        texts = [path.read_bytes().partition(b"\n...\n")[0] for path in (one, other)]
        assert texts[0] == texts[1]
        with asdf.open(one) as a, asdf.open(other) as b:
            assert_allclose(a["roman"]["data"], b["roman"]["data"], atol=0 if exactly else 1e-5)
            assert a["roman"]["err"].dtype == np.float16
        return
    with fits.open(one) as a, fits.open(other) as b:
        assert [(hdu.name, hdu.ver) for hdu in a] == [(hdu.name, hdu.ver) for hdu in b]
        for new, old in zip(a, b, strict=True):
            cards = [[str(card) for card in hdu.header.cards] for hdu in (new, old)]
            if isinstance(old, fits.CompImageHDU):
                # astropy takes blank cards for those of the table.
                cards = [[card for card in part if card.strip()] for part in cards]
            assert cards[0] == cards[1]
            if old.data is not None and old.is_image:
                assert_allclose(new.data, old.data, rtol=0, atol=0 if exactly else 1e-4)
            elif old.data is not None:
                assert_array_equal(new.data, old.data)


@pytest.mark.parametrize("listed", [False, True], ids=["files", "association"])
@pytest.mark.parametrize("subtract", [True, False], ids=["subtracted", "kept"])
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, subtract, listed, tmp_path):
    paths = write(kind, tmp_path / "in")
    images = paths
    if listed:
        images = tmp_path / "in" / "x_asn.json"
        members = [{"expname": path.name, "exptype": "science"} for path in paths]
        products = [{"name": "p", "members": members}]
        images.write_text(json.dumps({"asn_type": "image3", "products": products}))
    result = lm.match_levels(images, solve=lm.SolveOptions(subtract=subtract))
    levels = result.table["level"].value
    assert np.ptp(levels) > 5
    written = [p for p in result.write(tmp_path / "out") if p.suffix != ".json"]
    assert [path.name for path in written] == [path.name for path in paths]
    record = next((tmp_path / "out").glob("levelmatch.*"))
    assert lm.verify_record(record, written) == result.names
    back = lm.undo_record(record, written, tmp_path / "back")
    for one, other in zip([p for p in back if p.suffix != ".json"], paths, strict=True):
        assert_restored(one, other, exactly=not subtract)
        assert kind not in INTEGERS or one.read_bytes() == other.read_bytes()


def test_command_takes_a_folder_of_roman(tmp_path):
    """A record among the images is no image."""
    paths = write("Roman", tmp_path / "in")
    other = lm.match_levels(write("integers", tmp_path / "other"))
    other.record.write(tmp_path / "in" / "levelmatch.asdf")
    out, back = tmp_path / "out", tmp_path / "back"
    for words in (["run", paths[0].parent, "-o", out], ["verify", out], ["undo", out, "-o", back]):
        succeed(*words)
    for path in paths:
        assert_restored(back / path.name, path, exactly=False)
