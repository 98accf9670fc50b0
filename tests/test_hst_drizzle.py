# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of AstroDrizzle on images with kept levels, on a known sky."""

import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import levelmatch as lm

pytestmark = pytest.mark.filterwarnings("ignore")

SCRIPT = Path(__file__).parents[1] / "docs" / "user_guide" / "scripts" / "hst_drizzle.py"
SHAPE, PIXEL, CENTRE = (150, 300), 0.04 / 3600, (150.0, 20.0)
POINTINGS = ((0, 0), (40, 25), (-35, 45), (20, -30))
# Level of an exposure of this length in seconds, in electrons.
EXPTIME, SKY, NOISE = 500.0, 60.0, 0.5
# Noise of the mosaic where at least one exposure contributes.
LIMIT = 1.1 * NOISE

# Keywords that AstroDrizzle reads; no reference files are used.
PRIMARY = {
    "TELESCOP": "HST",
    "FILTER": "F606W",
    "EXPSTART": 59000.0,
    "EXPEND": 59000.006,
    "DATE-OBS": "2020-05-31",
    "TIME-OBS": "00:00:00",
    "CCDAMP": "ABCD",
    "BINAXIS1": 1,
    "BINAXIS2": 1,
    "TARGNAME": "SIM",
    "PROPOSID": 1,
    "PA_V3": 0.0,
    "IMAGETYP": "EXT",
    "DRIZCORR": "PERFORM",
    "FLSHFILE": "N/A",
    "NEXTEND": 6,
}
PRIMARY |= {f"ATODGN{amp}": 1.5 for amp in "ABCD"} | {f"READNSE{amp}": 3.0 for amp in "ABCD"}
PRIMARY |= dict.fromkeys(("IDCTAB", "NPOLFILE", "D2IMFILE", "DGEOFILE", "MDRIZTAB"), "N/A")
PHOTOMETRY = {
    "PHOTMODE": "WFC3 UVIS1 F606W",
    "PHOTFLAM": 1.2e-19,
    "PHOTZPT": -21.1,
    "PHOTPLAM": 5887.0,
    "PHOTBW": 657.0,
}


@pytest.fixture(scope="module")
def drizzle():
    reason = "drizzlepac is not installed; tox -e test-hst"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("drizzlepac.astrodrizzle", reason=reason).AstroDrizzle


def sky_at(x, y):
    """Return a source as large as a chip, at pixels of the tangent plane."""
    return SKY + 30 * np.exp(-(((x - 30) / 110) ** 2 + ((y + 20) / 90) ** 2))


def plane():
    """Return the WCS of the tangent plane."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), CENTRE
    wcs.wcs.crpix, wcs.wcs.cd = (1, 1), np.diag([-PIXEL, PIXEL])
    return wcs


def chip_header(corner, name, unit, chip):
    header = fits.Header()
    header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=CENTRE[0], CRVAL2=CENTRE[1])
    header.update(CRPIX1=1 - corner[0], CRPIX2=1 - corner[1], WCSAXES=2, RADESYS="ICRS")
    header.update(CD1_1=-PIXEL, CD1_2=0.0, CD2_1=0.0, CD2_2=PIXEL, ORIENTAT=0.0, IDCSCALE=0.04)
    header.update(BUNIT=unit, CCDCHIP=2 - chip, INHERIT=True, EXPNAME=name[:9], MEANDARK=0.0)
    header.update(LTV1=0.0, LTV2=0.0, LTM1_1=1.0, LTM2_2=1.0, WCSNAME="SIM", VAFACTOR=1.0)
    header.update(NGOODPIX=SHAPE[0] * SHAPE[1], **PHOTOMETRY)
    return header


def write_exposure(path, pointing, levels, rng, *, detector, unit, exptime):
    """Write an exposure in the layout of calwf3, in rates or counts."""
    primary = fits.PrimaryHDU()
    primary.header.update(PRIMARY | PHOTOMETRY)
    primary.header.update(INSTRUME="WFC3", DETECTOR=detector, FILENAME=path.name)
    primary.header.update(ROOTNAME=path.name[:9], EXPTIME=exptime, TEXPTIME=exptime, CCDGAIN=1.5)
    hdus, factor = [primary], (1 if unit.endswith("/S") else exptime) / EXPTIME
    for chip, level in enumerate(levels):
        corner = -SHAPE[1] // 2 + pointing[0], (-SHAPE[0] - 3, 3)[chip] + pointing[1]
        header = chip_header(corner, path.name, unit, chip)
        y, x = np.indices(SHAPE)
        data = sky_at(x + corner[0], y + corner[1]) + level + rng.normal(0, NOISE, SHAPE)
        error = np.full(SHAPE, NOISE * factor, "f4")
        version = {"ver": chip + 1}
        hdus += [
            fits.ImageHDU((data * factor).astype("f4"), header, name="SCI", **version),
            fits.ImageHDU(error, header, name="ERR", **version),
            fits.ImageHDU(np.zeros(SHAPE, "i2"), header, name="DQ", **version),
        ]
    fits.HDUList(hdus).writeto(path)
    return path


KINDS = {
    "UVIS": {"unit": "ELECTRONS"},
    "UVIS, unequal exposures": {"unit": "ELECTRONS", "times": (500.0, 500.0, 250.0, 1000.0)},
    "IR": {"unit": "ELECTRONS/S", "chips": 1},
}


def exposures(folder, kind):
    """Write four exposures; return their files and levels, in electrons of one exposure time."""
    own = KINDS[kind]
    folder.mkdir()
    rng = np.random.default_rng(2)
    levels = rng.normal(0, 6, (4, own.get("chips", 2)))
    paths = [
        write_exposure(
            folder / f"isim{k:02d}0xq_flt.fits",
            pointing,
            levels[k],
            rng,
            detector=kind.partition(",")[0],
            unit=own["unit"],
            exptime=own.get("times", [EXPTIME] * 4)[k],
        )
        for k, pointing in enumerate(POINTINGS)
    ]
    return paths, levels


OFF = dict.fromkeys(("static", "driz_separate", "median", "blot", "driz_cr"), False)


def errors_of(path):
    """Return the mosaic minus the true sky, in electrons of one exposure time."""
    with fits.open(path) as hdus:
        y, x = np.indices(hdus["SCI"].shape)
        there = WCS(hdus["SCI"].header).pixel_to_world_values(x, y)
        error = EXPTIME * hdus["SCI"].data - sky_at(*plane().world_to_pixel_values(*there))
        good = hdus["WHT"].data > 0
    assert good.sum() > SHAPE[0] * SHAPE[1]
    return error[good]


def drizzled(drizzle, paths, monkeypatch, **options):
    """Run AstroDrizzle on the files of a folder and return the errors of its mosaic."""
    monkeypatch.chdir(paths[0].parent)
    names = [path.name for path in paths]
    drizzle(names, output="sim", updatewcs=False, preserve=False, build=True, **{**OFF, **options})
    return errors_of("sim_drz.fits")


HEADER = {"skysub": False, "skyuser": "MDRIZSKY"}
LIST = {"skysub": True, "skyfile": "sky.txt"}


@pytest.mark.parametrize("options", [HEADER, LIST], ids=["header", "list"])
@pytest.mark.parametrize("kind", KINDS)
def test_astrodrizzle_subtracts_kept_levels(drizzle, kind, options, tmp_path, monkeypatch):
    paths, levels = exposures(tmp_path / "in", kind)
    read = lm.ReadOptions(flux_scale="1/EXPTIME" if "unequal" in kind else None)
    result = lm.match_levels(paths, read=read, solve=lm.SolveOptions(subtract=False))
    written = result.write(tmp_path / "kept")
    lm.write_skyfile(result, tmp_path / "kept" / "sky.txt")
    errors = drizzled(drizzle, written, monkeypatch, **options)
    assert errors.std() < LIMIT
    # Only a constant common to the whole set remains of the levels.
    times = np.array(KINDS[kind].get("times", [EXPTIME] * 4))
    factor = EXPTIME / (1 if kind == "IR" else times[:, None])
    left = levels - factor * result.table["level"].value.reshape(levels.shape)
    assert left.std() < 0.02
    assert errors.mean() == pytest.approx(left.mean(), abs=0.02)


def test_astrodrizzle_on_subtracted_levels(drizzle, tmp_path, monkeypatch):
    paths, _ = exposures(tmp_path / "in", "UVIS")
    written = lm.match_levels(paths).write(tmp_path / "out")
    assert drizzled(drizzle, written, monkeypatch, skysub=False).std() < LIMIT
    # AstroDrizzle changes its inputs, which are no longer needed.
    assert drizzled(drizzle, paths, monkeypatch, skysub=False).std() > 4


def test_any_other_keyword_is_a_sky_that_is_subtracted(drizzle, tmp_path, monkeypatch):
    paths, _ = exposures(tmp_path / "in", "UVIS")
    solve = lm.SolveOptions(subtract=False, sky_keyword="LVSKY")
    written = lm.match_levels(paths, solve=solve).write(tmp_path / "kept")
    errors = drizzled(drizzle, written, monkeypatch, skysub=False, skyuser="LVSKY")
    assert errors.std() > 4


def test_rejection_of_cosmic_rays(drizzle, tmp_path, monkeypatch):
    paths, _ = exposures(tmp_path / "in", "UVIS")
    for path in paths:
        with fits.open(path, mode="update") as hdus:
            hdus["SCI", 1].data[60:62, 100:102] += 500
    result = lm.match_levels(paths, solve=lm.SolveOptions(subtract=False))
    written = result.write(tmp_path / "kept")
    on = dict.fromkeys(OFF, True) | {"static": False}
    errors = drizzled(drizzle, written, monkeypatch, **HEADER, **on)
    assert errors.std() < LIMIT
    assert errors.max() < 10


def test_the_script_of_the_guide(drizzle, tmp_path, monkeypatch):
    exposures(tmp_path / "in", "UVIS")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "in", "out"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert errors_of("mosaic_drz.fits").std() < LIMIT
