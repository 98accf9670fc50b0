# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the step of PJPipe: its parameters and folders, and results of PJPipe itself."""

import inspect
import logging
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from helpers import tangential_gwcs
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.exceptions import FrameError
from levelmatch.pjpipe import COMPLETE, LevelMatchStep, instrument_of
from levelmatch.testing import simulate_miri, simulate_nircam_short

# Names, order and defaults of PJPipe 1.3.0.
PARAMETERS = {
    "in_dir": inspect.Parameter.empty,
    "out_dir": inspect.Parameter.empty,
    "step_ext": inspect.Parameter.empty,
    "procs": inspect.Parameter.empty,
    "band": inspect.Parameter.empty,
    "fit_type_dithers": "level",
    "fit_type_recombine_lyot": "level",
    "fit_type_combine_nircam_short": "level",
    "fit_type_mosaic_tiles": "level",
    "recombine_lyot": False,
    "combine_nircam_short": False,
    "do_local_subtraction": True,
    "sigma": 3,
    "npixels": 3,
    "dilate_size": 7,
    "max_iters": 20,
    "max_points": 10000,
    "do_sigma_clip": False,
    "weight_method": "equal",
    "min_area_percent": 0.002,
    "min_linear_frac": 0.2,
    "rms_sig_limit": 2,
    "reproject_func": "interp",
    "overwrite": False,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return the folders of a band in the layout of PJPipe, and its truth."""
    band = tmp_path_factory.mktemp("v1") / "ngc0628" / "F770W"
    simulation = simulate_miri(tiles=(1, 2), n_dithers=2)
    simulation.write(band / "cal")
    return band, simulation.truth


def step(band, out, **options):
    return LevelMatchStep(
        in_dir=str(band / "cal"), out_dir=str(out), step_ext="cal", procs=1, band="F770W", **options
    )


def test_the_constructor_is_that_of_pjpipe():
    parameters = inspect.signature(LevelMatchStep).parameters
    assert {name: p.default for name, p in parameters.items()} == PARAMETERS
    assert list(parameters) == list(PARAMETERS)


def test_folders_and_files(tree, tmp_path, caplog):
    band, truth = tree
    out = tmp_path / "level_match"
    made = step(band, out, do_local_subtraction=False)
    assert made.plot_dir == str(out / "plots")
    assert (out / "plots").is_dir()
    with caplog.at_level(logging.INFO, "levelmatch"):
        assert made.do_step() is True
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*truth["name"], COMPLETE, "levelmatch.asdf", "plots"]
    )
    assert (out / COMPLETE).read_bytes() == b""
    assert {p.suffix for p in (out / "plots").iterdir()} == {".png", ".pdf"}
    assert all(f"{name}: level" in caplog.text for name in truth["name"])
    record = lm.read_record(out / "levelmatch.asdf")
    assert record.options["solve"]["weights"] == "equal"
    assert lm.verify_record(record, [out / name for name in truth["name"]])
    levels = dict(zip(record.table["name"], record.table["level"].value, strict=True))
    found = np.array([levels[name] for name in truth["name"]])
    true = np.asarray(truth["level"].value)
    assert np.std(found - true) < 0.02 < np.std(true)


def test_a_complete_step_is_not_run_again(tree, tmp_path, caplog):
    band, _ = tree
    out = tmp_path / "level_match"
    step(band, out)
    (out / COMPLETE).touch()
    with caplog.at_level(logging.INFO, "levelmatch"):
        assert step(band, out).do_step() is True
    assert "the step is complete" in caplog.text
    assert sorted(p.name for p in out.iterdir()) == [COMPLETE, "plots"]
    (out / "old.fits").touch()
    assert step(band, out, overwrite=True).do_step() is True
    assert not (out / "old.fits").exists()
    assert len(list(out.glob("*_cal.fits"))) == 4


def test_an_interrupted_step_is_run_again(tree, tmp_path):
    band, truth = tree
    out = tmp_path / "level_match"
    made = step(band, out)
    (out / truth["name"][0]).write_text("half")
    assert made.do_step() is True
    assert fits.getheader(out / truth["name"][0], "SCI")["LMRECORD"] == "levelmatch.asdf"


def test_local_subtraction_is_on(tree, tmp_path):
    band, _ = tree
    step(band, tmp_path / "on").do_step()
    step(band, tmp_path / "off", do_local_subtraction=False).do_step()
    on, off = (lm.read_record(tmp_path / name / "levelmatch.asdf") for name in ("on", "off"))
    assert on.options["passes"][0]["subtract_local"] is True
    assert off.options["passes"][0]["subtract_local"] is False


def test_local_subtraction_needs_levels(tree, tmp_path, caplog):
    band, _ = tree
    with caplog.at_level(logging.WARNING, "levelmatch"):
        made = step(band, tmp_path, fit_type_dithers="level+slope")
    assert made.do_local_subtraction is False
    assert "do_local_subtraction is off" in caplog.text


def test_options_reach_the_match(tree, tmp_path):
    band, _ = tree
    made = step(
        band,
        tmp_path / "out",
        fit_type_mosaic_tiles="level+slope",
        weight_method="rms",
        min_area_percent=0.01,
        min_linear_frac=0.1,
        rms_sig_limit=3,
        do_sigma_clip=True,
        reproject_func="interp",
    )
    made.do_step()
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    solve, measure = record.options["solve"], record.options["measure"]
    assert [p["fit_type"] for p in record.options["passes"]] == ["level", "level+slope"]
    names = ("weights", "min_area", "min_linear", "rms_limit")
    assert [solve[name] for name in names] == ["rms", 0.01, 0.1, 3]
    assert (measure["mask_sources"], measure["method"]) == (True, "direct")


def test_parameters_without_meaning_are_named_once(tree, tmp_path, caplog):
    band, _ = tree
    with caplog.at_level(logging.INFO, "levelmatch"):
        step(band, tmp_path / "a", npixels=5, max_points=100).do_step()
    lines = [r.message for r in caplog.records if "without effect" in r.message]
    assert len(lines) == 1
    assert "npixels" in lines[0]
    assert "max_points" in lines[0]
    assert "sigma (" not in lines[0]


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("reproject_func", "spline", r"reproject_func: 'spline' is none of"),
        ("weight_method", "all", r"weight_method: 'all' is none of"),
        ("fit_type_dithers", "plane", r"fit_type_dithers: 'plane' is none of"),
        ("fit_type_mosaic_tiles", "x", r"fit_type_mosaic_tiles: 'x' is none of"),
        ("min_linear_frac", -1, r"min_linear: -1"),
    ],
)
def test_bad_values_are_refused_before_a_folder_is_made(tmp_path, option, value, match):
    with pytest.raises(ValueError, match=match):
        step(tmp_path, tmp_path / "out", **{option: value})
    assert not (tmp_path / "out").exists()


def test_an_empty_folder(tmp_path):
    (tmp_path / "cal").mkdir()
    with pytest.raises(FrameError, match=r"there are none"):
        step(tmp_path, tmp_path / "out").do_step()
    assert not (tmp_path / "out" / COMPLETE).exists()


@pytest.mark.parametrize(
    ("band", "instrument"),
    [
        ("F770W", "miri"),
        ("F2100W_bgr", "miri"),
        ("F212N", "nircam_short"),
        ("F150W2", "nircam_short"),
        ("F277W", "nircam_long"),
        ("F115W_niriss", "niriss"),
        ("F200W_nircam", "nircam_short"),
    ],
)
def test_instruments(band, instrument):
    assert instrument_of(band) == instrument


def test_unknown_band(tmp_path):
    with pytest.raises(ValueError, match=r"band: 'K' is not the name of a filter"):
        LevelMatchStep("in", tmp_path, "cal", 1, "K", recombine_lyot=True)


@pytest.mark.parametrize(
    ("band", "passes"),
    [
        ("F770W", ["dithers", "lyot", "mosaic"]),
        ("F200W", ["dithers", "nircam_short", "mosaic"]),
        ("F335M", ["dithers", "mosaic"]),
        ("F115W_niriss", ["dithers", "mosaic"]),
    ],
)
def test_passes_are_those_of_the_instrument(tmp_path, band, passes):
    made = LevelMatchStep(
        "in", tmp_path, "cal", 1, band, recombine_lyot=True, combine_nircam_short=True
    )
    options = made._options()
    expected = ("lyot" in passes, "nircam_short" in passes)
    assert (options["recombine_lyot"], options["combine_nircam_short"]) == expected


def test_nircam_short_chips_are_combined(tmp_path):
    simulation = simulate_nircam_short(n_tiles=1, n_dithers=2, shape=(512, 512))
    simulation.write(tmp_path / "cal")
    made = LevelMatchStep(
        tmp_path / "cal", tmp_path / "out", "cal", 1, "F200W", combine_nircam_short=True
    )
    made.do_step()
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert "nircam_short" in [p["name"] for p in record.options["passes"]]


def test_parts_of_miri_are_recombined(tmp_path):
    simulation = simulate_miri(tiles=(1, 1), n_dithers=3, dither_size=24, lyot=True)
    paths = simulation.write(tmp_path / "whole")
    (tmp_path / "cal").mkdir()
    for path in paths:
        for part, letter in zip(lm.separate_lyot(read_ccd(path)), "sl", strict=True):
            name = path.name.replace("mirimage", f"mirimage{letter}")
            write_part(path, part, tmp_path / "cal" / name)
    out = tmp_path / "out"
    step(tmp_path, out, recombine_lyot=True).do_step()
    assert sorted(p.name for p in out.glob("*_cal.fits")) == sorted(p.name for p in paths)


def read_ccd(path):
    from astropy.nddata import CCDData
    from astropy.wcs import WCS

    with fits.open(path) as hdus:
        header = hdus[0].header + hdus["SCI"].header
        ccd = CCDData(hdus["SCI"].data.astype("f4"), unit="MJy/sr", wcs=WCS(hdus["SCI"].header))
        ccd.meta = header
        ccd.flags = hdus["DQ"].data.astype("u4")
    return ccd


def write_part(path, part, out):
    with fits.open(path) as hdus:
        hdus["DQ"].data = part.flags
        hdus.writeto(out)


# PJPipe itself


@pytest.fixture(scope="module")
def pjpipe(tmp_path_factory):
    """Return PJPipe without a dependency that is on no package index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("log"))
        for name in ("spacepylot", "spacepylot.alignment", "spacepylot.alignment_utilities"):
            module = types.ModuleType(name)
            module.TranslationTransform = module.alignment = None
            patch.setitem(sys.modules, name, module)
        patch.setenv("STPSF_PATH", ".")
        patch.setenv("CRDS_PATH", ".")
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield pytest.importorskip(
                "pjpipe", reason="pjpipe is not installed; tox -e test-pjpipe"
            )


LEVELS = np.array([1.0, -1.3, 0.2, -0.3, -0.25, 0.6])
SHAPE, SCALE, CENTRE = (120, 130), 0.11, (150.0, 2.0)


def write_exposure(folder, k):
    """Write an exposure with a gwcs and its FITS WCS: three dithers of two tiles."""
    from stdatamodels.jwst import datamodels

    tile, dither = divmod(k, 3)
    ra = CENTRE[0] + (tile * 8.0 + dither * 1.3) / 3600
    dec, crpix = CENTRE[1] + dither * 0.9 / 3600, [(n + 1) / 2 for n in SHAPE[::-1]]
    wcs = tangential_gwcs(SHAPE, SCALE, ra, dec)
    y, x = np.indices(SHAPE)
    lon, lat = wcs(x, y)
    rng = np.random.default_rng(k)
    sky = 5 + 0.02 * (lon - CENTRE[0]) * 3600 + 0.01 * (lat - CENTRE[1]) * 3600
    model = datamodels.ImageModel(SHAPE)
    model.data = (sky + LEVELS[k] + rng.normal(0, 0.02, SHAPE)).astype("f4")
    model.err = np.full(SHAPE, 0.02, "f4")
    model.dq = np.zeros(SHAPE, "u4")
    model.meta.telescope, model.meta.bunit_data = "JWST", "MJy/sr"
    model.meta.instrument.name, model.meta.instrument.detector = "MIRI", "MIRIMAGE"
    model.meta.exposure.type, model.meta.subarray.name = "MIR_IMAGE", "FULL"
    info = {"ctype1": "RA---TAN", "ctype2": "DEC--TAN", "cunit1": "deg", "cunit2": "deg"}
    info |= {"crval1": ra, "crval2": dec, "crpix1": crpix[0], "crpix2": crpix[1], "wcsaxes": 2}
    info |= {"cdelt1": SCALE / 3600, "cdelt2": SCALE / 3600, "pc1_1": -1.0, "pc1_2": 0.0}
    info |= {"pc2_1": 0.0, "pc2_2": 1.0}
    for key, value in info.items():
        model[f"meta.wcsinfo.{key}"] = value
    model.meta.wcs = wcs
    model.save(folder / f"jw01234001001_0210{tile + 1}_0000{dither + 1}_mirimage_cal.fits")


@pytest.fixture(scope="module")
def exposures(pjpipe, tmp_path_factory):
    band = tmp_path_factory.mktemp("reprocess") / "v1" / "ngc0628" / "F770W"
    (band / "cal").mkdir(parents=True)
    for k in range(len(LEVELS)):
        write_exposure(band / "cal", k)
    return band


def test_the_signature_is_that_of_pjpipe_itself(pjpipe):
    theirs, ours = (
        inspect.signature(c).parameters for c in (pjpipe.LevelMatchStep, LevelMatchStep)
    )
    assert {k: p.default for k, p in theirs.items()} == {k: p.default for k, p in ours.items()}
    assert list(theirs) == list(ours)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("local", [False, True])
def test_both_on_one_tree(pjpipe, exposures, local, tmp_path):
    folders = {}
    for name, kind in (("theirs", pjpipe.LevelMatchStep), ("ours", LevelMatchStep)):
        folders[name] = tmp_path / name / "level_match"
        made = kind(
            in_dir=str(exposures / "cal"),
            out_dir=str(folders[name]),
            step_ext="cal",
            procs=1,
            band="F770W",
            do_local_subtraction=local,
        )
        assert made.do_step() is True
    theirs, ours = folders.values()
    names = sorted(p.name for p in exposures.glob("cal/*.fits"))
    for folder in (theirs, ours):
        assert sorted(p.name for p in folder.glob("*.fits")) == names
        assert (folder / COMPLETE).read_bytes() == b""
        assert any((folder / "plots").iterdir())
    assert {p.name for p in theirs.iterdir()} <= {p.name for p in ours.iterdir()}
    levels = {name: subtracted(folder, exposures, names) for name, folder in folders.items()}
    # Levels agree up to the zero point, because PJPipe holds the first tile by name.
    ours, theirs = levels["ours"], levels["theirs"]
    assert_allclose(ours - ours[0], theirs - theirs[0], atol=0.003)
    assert_allclose(ours - ours[0], LEVELS - LEVELS[0], atol=0.002)
    for name in names:
        headers = [fits.getheader(folder / name, "SCI") for folder in folders.values()]
        for key in ("CRVAL1", "CRPIX2", "PC1_1", "BUNIT", "EXTNAME"):
            assert headers[0][key] == headers[1][key], key


def subtracted(folder, band, names):
    """Return the subtracted level of each file."""
    out = []
    for name in names:
        before, after = (fits.getdata(path / name, "SCI") for path in (band / "cal", folder))
        out.append(np.median(before.astype(float) - after))
    return np.array(out)


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_runs_after_one_line(pjpipe, exposures, tmp_path, monkeypatch):
    """The pipeline itself runs the step with the script of the guide."""
    reprocess = exposures.parents[2]
    (tmp_path / "config.toml").write_text(
        'targets = ["ngc0628"]\nversion = "v1"\nbands = ["F770W"]\nsteps = ["level_match"]\n'
        '[parameters]\n[parameters.level_match]\nweight_method = "npix"\n'
        "[parameters.level_match.recombine_lyot]\nmiri = true\nnircam = false\n"
    )
    (tmp_path / "local.toml").write_text(
        f'raw_dir = "{tmp_path}/raw"\nreprocess_dir = "{reprocess}"\nalignment_dir = "{tmp_path}"\n'
        "processors = 1\n"
    )
    for name in ("lyot", "raw"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pjpipe.pipeline, "LevelMatchStep", pjpipe.LevelMatchStep)
    monkeypatch.setattr(pjpipe.pipeline.MoveRawObsStep, "do_step", lambda self: True)
    script = Path(__file__).parents[1] / "docs" / "user_guide" / "scripts" / "pjpipe_config.py"
    monkeypatch.setattr("sys.argv", [str(script), "config.toml", "local.toml"])
    runpy.run_path(str(script), run_name="__main__")
    out = exposures / "level_match"
    assert (out / COMPLETE).exists()
    record = lm.read_record(out / "levelmatch.asdf")
    assert record.options["solve"]["weights"] == "npix"
