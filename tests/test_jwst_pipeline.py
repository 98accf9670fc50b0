# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of calwebb_image3 on matched images, on a known sky with known levels."""

import json
import runpy
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from helpers import succeed, tangential_gwcs
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.exceptions import FrameError
from levelmatch.images.inputs import collect_frames
from levelmatch.pipelines.jwst_models import add_history

SHAPE = (160, 170)
SCALE = 0.11
NOISE = 0.05
LEVELS = np.array([1.0, -1.3, 0.2, -0.3, -0.25, 0.6])
CENTRE = (150.0, 2.0)


@pytest.fixture(scope="module")
def jwst(tmp_path_factory):
    """Return the packages of the pipeline, which run without reference files."""
    pytest.importorskip("jwst.stpipe", reason="jwst is not installed; tox -e test-jwst")
    from jwst.datamodels import ModelLibrary
    from jwst.pipeline import Image3Pipeline
    from stdatamodels.jwst import datamodels

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRDS_PATH", str(tmp_path_factory.mktemp("crds")))
        patch.setenv("CRDS_SERVER_URL", "https://jwst-crds.stsci.edu")
        patch.setenv("STPIPE_DISABLE_CRDS_STEPPARS", "true")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield {
                "library": ModelLibrary,
                "pipeline": Image3Pipeline,
                "models": datamodels,
            }


pytestmark = pytest.mark.filterwarnings("ignore")


def sky_at(ra, dec):
    """Return a source much larger than an overlap, on a slope."""
    x, y = (ra - CENTRE[0]) * np.cos(np.radians(CENTRE[1])) * 3600, (dec - CENTRE[1]) * 3600
    return 5 + 0.8 * np.exp(-((x - 6) ** 2 + (y + 3) ** 2) / 50) + 0.02 * x


def pointing(k):
    """Return position and angle of an exposure: three dithers of two tiles."""
    tile, dither = divmod(k, 3)
    dx, dy = tile * 11.0 + dither * 1.3, dither * 0.9
    return CENTRE[0] + dx / 3600 / np.cos(np.radians(CENTRE[1])), CENTRE[1] + dy / 3600, 5.0 * tile


def metadata(k, wcs):
    """Return the metadata that calwebb_image3 needs."""
    ra, dec, angle = pointing(k)
    tile, dither = divmod(k, 3)
    exposure = {
        "type": "MIR_IMAGE",
        "start_time": 60000 + k * 0.01,
        "mid_time": 60000 + k * 0.01,
        "end_time": 60000 + k * 0.01,
    }
    exposure |= dict.fromkeys(
        ("exposure_time", "measurement_time", "effective_exposure_time", "duration"), 100.0
    )
    corners = " ".join(f"{v:.9f}" for p in wcs.footprint() for v in p)
    groups = {
        "instrument": {"name": "MIRI", "detector": "MIRIMAGE", "filter": "F770W"},
        "exposure": exposure,
        "photometry": {
            "pixelarea_steradians": np.radians(SCALE / 3600) ** 2,
            "pixelarea_arcsecsq": SCALE**2,
            "conversion_megajanskys": 1.0,
        },
        "observation": {
            "program_number": "01234",
            "observation_number": "001",
            "visit_number": "001",
            "visit_group": "02",
            "sequence_id": "1",
            "activity_id": f"0{tile + 1}",
            "exposure_number": f"{dither + 1}",
            "date": "2024-01-01",
            "time": "00:00:00",
        },
        "subarray": {"xstart": 600, "ystart": 300, "xsize": SHAPE[1], "ysize": SHAPE[0]},
        "wcsinfo": {
            "ra_ref": ra,
            "dec_ref": dec,
            "roll_ref": angle,
            "v3yangle": 0.0,
            "vparity": -1,
            "wcsaxes": 2,
            "s_region": f"POLYGON ICRS  {corners}",
        },
        "cal_step": {"assign_wcs": "COMPLETE"},
    }
    return {f"meta.{g}.{key}": value for g, own in groups.items() for key, value in own.items()}


def exposure(datamodels, k):
    """Return the data model of an exposure."""
    wcs = tangential_gwcs(SHAPE, SCALE, *pointing(k))
    y, x = np.indices(SHAPE)
    rng = np.random.default_rng(k)
    model = datamodels.ImageModel(SHAPE)
    model.data = (sky_at(*wcs(x, y)) + LEVELS[k] + rng.normal(0, NOISE, SHAPE)).astype("f4")
    model.err = np.full(SHAPE, NOISE, "f4")
    model.dq = (rng.random(SHAPE) < 0.01).astype("u4")
    model.data[model.dq > 0] = 1e4
    model.var_rnoise = np.full(SHAPE, NOISE**2, "f4")
    model.meta.telescope = "JWST"
    model.meta.bunit_data = model.meta.bunit_err = "MJy/sr"
    for key, value in metadata(k, wcs).items():
        model[key] = value
    model.meta.wcs = wcs
    tile, dither = divmod(k, 3)
    model.meta.filename = f"jw01234001001_0210{tile + 1}_0000{dither + 1}_mirimage_cal.fits"
    return model


@pytest.fixture(scope="module")
def asn(jwst, tmp_path_factory):
    """Return an association of six exposures."""
    folder = tmp_path_factory.mktemp("cal")
    members = []
    for k in range(len(LEVELS)):
        model = exposure(jwst["models"], k)
        model.save(folder / model.meta.filename)
        members.append({"expname": model.meta.filename, "exptype": "science"})
    tree = {
        "asn_type": "image3",
        "asn_rule": "DMS_Level3_Base",
        "asn_id": "a3001",
        "asn_pool": "none",
        "program": "01234",
        "target": "none",
        "products": [{"name": "jw01234-a3001_t001_miri_f770w", "members": members}],
    }
    path = folder / "jw01234-a3001_image3_asn.json"
    path.write_text(json.dumps(tree))
    return path


def image3(jwst, asn, folder, *, resample=None, **skymatch):
    """Run calwebb_image3 and return the file of its mosaic."""
    folder.mkdir()
    pipeline = jwst["pipeline"]()
    pipeline.output_dir, pipeline.save_results = str(folder), True
    for step in (pipeline.tweakreg, pipeline.outlier_detection, pipeline.source_catalog):
        step.skip = True
    for key, value in skymatch.items():
        set_parameter(pipeline.skymatch, key, value)
    for key, value in (resample or {}).items():
        set_parameter(pipeline.resample, key, value)
    pipeline.run(str(asn))
    (i2d,) = folder.glob("*i2d.fits")
    assert i2d.name == "jw01234-a3001_t001_miri_f770w_i2d.fits"
    return i2d


def set_parameter(step, key, value):
    """Set a parameter; make hooks from their names, as strun does."""
    setattr(step, key, value)
    if key.endswith("_hooks"):
        from stpipe._hooks import get_hook_objects

        setattr(step, f"_{key}", get_hook_objects(step, key.partition("_")[0], value))


def error(jwst, i2d):
    """Return the scatter of a mosaic about the true sky, where it has data."""
    with jwst["models"].open(i2d) as model:
        y, x = np.indices(model.shape)
        difference = model.data - sky_at(*model.meta.wcs(x, y))
        difference = difference[np.isfinite(difference) & (model.wht > 0)]
        assert difference.size > 0.9 * np.prod(SHAPE)
    return float(np.std(difference))


# Noise of the mosaic of drizzled exposures, three with 0.05, less where tiles overlap.
LIMIT = 0.025
# The pipeline adds up to four pixels of each of six images to a pixel of the mosaic, in float32.
# The mosaic is below 8, and each sum is rounded by up to half of the spacing of numbers there.
SPACING = np.spacing(np.float32(4))
ROUNDING = 4 * 6 * SPACING / 2
# Errors of the sums in two mosaics, each uniform within half of the spacing.
RMS_ROUNDING = np.sqrt(2 * 4 * 6 / 12) * SPACING


@pytest.fixture(scope="module")
def matched(asn, tmp_path_factory):
    """Return the association of files written by levelmatch."""
    folder = tmp_path_factory.mktemp("matched")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lm.match_levels(asn).write(folder)
    return folder / asn.name


def test_the_written_association_needs_no_skymatch(jwst, asn, matched, tmp_path):
    assert error(jwst, image3(jwst, asn, tmp_path / "none", skip=True)) > 0.2
    i2d = image3(jwst, matched, tmp_path / "i2d", skip=True)
    assert error(jwst, i2d) < LIMIT
    with jwst["models"].open(i2d) as model:
        text = model.meta.instance["levelmatch"]
    record = lm.read_record(matched.parent / "levelmatch.asdf")
    assert text.startswith(f"levelmatch {lm.__version__} {record.created} record levelmatch.asdf ")
    assert text.endswith(record.sha256)


def test_more_accurate_than_skymatch(jwst, asn, matched, tmp_path):
    ours = error(jwst, image3(jwst, matched, tmp_path / "ours", skip=True))
    theirs = error(jwst, image3(jwst, asn, tmp_path / "theirs"))
    assert ours < theirs


def test_a_list_of_levels_for_skymatch(jwst, asn, matched, tmp_path):
    from levelmatch.jwst import write_skylist

    path = write_skylist(lm.match_levels(asn), tmp_path / "sky.txt")
    by_list = image3(
        jwst, asn, tmp_path / "user", skymethod="user", skylist=str(path), subtract=True
    )
    by_files = image3(jwst, matched, tmp_path / "files", skip=True)
    with jwst["models"].open(by_list) as a, jwst["models"].open(by_files) as b:
        assert_allclose(a.data, b.data, rtol=0, atol=ROUNDING)
        assert np.sqrt(np.nanmean((a.data - b.data) ** 2.0)) < RMS_ROUNDING
    with pytest.raises(FileExistsError, match=r"sky.txt exists; overwrite=True"):
        write_skylist(lm.match_levels(asn), path)


def test_a_list_of_levels_gives_the_pixels_of_the_files(jwst, asn, matched, tmp_path):
    """Level and difference are each rounded once by the pipeline, in single precision."""
    from jwst.skymatch import SkyMatchStep

    from levelmatch.jwst import write_skylist

    step = SkyMatchStep()
    step.skymethod, step.subtract = "user", True
    step.skylist = str(write_skylist(lm.match_levels(asn), tmp_path / "sky.txt"))
    library, n = step.run(str(asn)), 0
    with library:
        for model in library:
            name = model.meta.filename.replace("_skymatchstep", "_cal")
            written = fits.getdata(matched.parent / name, "SCI")
            largest = np.spacing(np.float32(abs(model.meta.background.level)))
            error = np.spacing(np.abs(written).astype("f4")) + largest
            assert np.all(np.abs(model.data - written) <= error, where=np.isfinite(written))
            assert_array_equal(np.isnan(model.data), np.isnan(written))
            library.shelve(model, modify=False)
            n += 1
    assert n == len(LEVELS)


# The step


@pytest.fixture(scope="module")
def stepped(jwst, asn, tmp_path_factory):
    """Return the folder of the step's outputs."""
    from levelmatch.jwst import LevelMatchStep

    folder = tmp_path_factory.mktemp("step")
    LevelMatchStep.call(str(asn), output_dir=str(folder), save_results=True, configure_log=False)
    return folder


NAMES = [
    f"jw01234001001_0210{t}_0000{d}_mirimage_levelmatch.fits" for t in (1, 2) for d in (1, 2, 3)
]


def test_names_of_the_step(stepped):
    listed = "jw01234-a3001_image3_levelmatch_asn.json"
    record = "jw01234-a3001_image3_levelmatch.asdf"
    assert sorted(p.name for p in stepped.iterdir()) == [record, listed, *NAMES]
    tree = json.loads((stepped / listed).read_text())
    assert [member["expname"] for member in tree["products"][0]["members"]] == NAMES
    assert tree["levelmatch"]["record_sha256"] == lm.read_record(stepped / record).sha256
    assert tree["levelmatch"]["record"] == record


def test_pixels_of_the_step_are_those_of_files(stepped, matched):
    paths = sorted(matched.parent.glob("*_cal.fits"))
    for name, path in zip(NAMES, paths, strict=True):
        with fits.open(stepped / name) as ours, fits.open(path) as files:
            assert_array_equal(ours["SCI"].data, files["SCI"].data)
            for key in ("LMDLEV", "LMDERR", "LMMLEV", "LMMREF"):
                assert ours["SCI"].header[key] == files["SCI"].header[key], key
            assert any("levelmatch" in line for line in ours[0].header["HISTORY"])


def test_metadata_of_the_step(jwst, stepped):
    record = lm.read_record(stepped / "jw01234-a3001_image3_levelmatch.asdf")
    for name, row in zip(NAMES, record.table, strict=True):
        header = fits.getheader(stepped / name)
        assert header["S_SKYMAT"] == "COMPLETE"
        assert (header["BKGSUB"], header["BKGMETH"]) == (True, "levelmatch")
        assert_allclose(header["BKGLEVEL"], row["level"].value, atol=1e-6)
        with jwst["models"].open(stepped / name) as model:
            assert model.meta.cal_step.level_match == "COMPLETE"
            assert model.instance["levelmatch"][0]["record_sha256"] == record.sha256


RECORD = "jw01234-a3001_image3_levelmatch.asdf"
LISTED = "jw01234-a3001_image3_levelmatch_asn.json"


def meta_of(jwst, path):
    """Return the metadata of a saved model that runs change, and its texts of HISTORY."""
    from levelmatch.pipelines.jwst_models import state_of

    with jwst["models"].open(path) as model:
        texts = [str(entry["description"]) for entry in model.history]
        return state_of(model), texts, model.instance["meta"].get("levelmatch")


@pytest.mark.parametrize("keep", [False, True])
def test_outputs_of_the_step_are_verified_and_undone(jwst, asn, stepped, kept, tmp_path, keep):
    folder = kept if keep else stepped
    record = lm.read_record(folder / RECORD)
    assert record.files == NAMES
    assert len(lm.verify_record(record, folder / LISTED)) == len(NAMES)
    back = lm.undo_record(record, [folder / name for name in NAMES], tmp_path / "back")
    originals = sorted(asn.parent.glob("*_cal.fits"))
    assert [path.name for path in back] == [path.name for path in originals]
    for path, original in zip(back, originals, strict=True):
        assert meta_of(jwst, path) == meta_of(jwst, original)
        with fits.open(path) as ours, fits.open(original) as old:
            assert [hdu.name for hdu in ours] == [hdu.name for hdu in old]
            assert_allclose(ours["SCI"].data, old["SCI"].data, rtol=2e-7, atol=5e-7)
            for name in ("ERR", "DQ"):
                assert_array_equal(ours[name].data, old[name].data)
            assert not [key for hdu in ours for key in hdu.header if key.startswith("LM")]
            assert ours[0].header["FILENAME"] == path.name
            # The pipeline adds its own cards to the outputs of a step.
            added = set(ours[0].header) - set(old[0].header)
            assert added <= {"ASNPOOL", "ASNTABLE", "CAL_VCS", "CAL_VER", "CRDS_CTX", "CRDS_VER"}
            assert set(old[0].header) <= set(ours[0].header)


def test_commands_verify_and_undo_the_step(asn, stepped, tmp_path):
    record = stepped / RECORD
    succeed("verify", record)
    succeed("verify", stepped)
    succeed("undo", record, "-o", tmp_path / "back")
    succeed("undo", record, stepped / LISTED, "-o", tmp_path / "asn")
    (written,) = (tmp_path / "asn").glob("*.json")
    members = json.loads(written.read_text())["products"][0]["members"]
    assert [member["expname"] for member in members] == [
        n.name for n in sorted(asn.parent.glob("*_cal.fits"))
    ]


def test_changed_outputs_of_the_step_are_found(stepped, tmp_path):
    copies = [shutil.copy(stepped / name, tmp_path) for name in NAMES]
    with fits.open(copies[2], mode="update") as hdus:
        hdus["SCI"].data[3, 4] += 1
    with pytest.raises(lm.RecordError, match=rf"{NAMES[2]}: 1 pixels do not follow"):
        lm.verify_record(stepped / RECORD, copies)


def test_images_and_their_history_need_no_warning(jwst, asn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = collect_frames(asn)
        model = jwst["models"].ImageModel(SHAPE)
        add_history(model, "a text")
    assert len(frames) == len(LEVELS)
    assert model.instance["history"]["entries"][-1]["description"] == "a text"


def test_undo_keeps_earlier_runs_of_the_step(jwst, stepped, tmp_path):
    from levelmatch.jwst import LevelMatchStep

    LevelMatchStep.call(
        str(stepped / LISTED),
        rematch=True,
        output_dir=str(tmp_path),
        save_results=True,
        configure_log=False,
    )
    (record,) = tmp_path.glob("*.asdf")
    (listed,) = tmp_path.glob("*.json")
    lm.verify_record(record, listed)
    for path in lm.undo_record(record, listed, tmp_path / "back"):
        assert meta_of(jwst, path) == meta_of(jwst, stepped / path.name)


def test_the_step_on_models_in_memory_is_verified(jwst, asn, tmp_path):
    from levelmatch.jwst import LevelMatchStep

    paths = sorted(asn.parent.glob("*_cal.fits"))
    models = [jwst["models"].open(path) for path in paths]
    LevelMatchStep.call(models, output_dir=str(tmp_path), save_results=True, configure_log=False)
    (record,) = tmp_path.glob("*.asdf")
    outputs = sorted(tmp_path.glob("*_levelmatch.fits"))
    with pytest.raises(lm.RecordError, match="in memory; name its file, or the folder of inputs"):
        lm.verify_record(record, outputs)
    assert len(lm.verify_record(record, outputs, paths)) == len(NAMES)
    assert len(lm.undo_record(record, outputs, tmp_path / "back")) == len(NAMES)


def test_the_step_refuses_to_match_twice(stepped):
    from levelmatch.jwst import LevelMatchStep

    listed = stepped / "jw01234-a3001_image3_levelmatch_asn.json"
    with pytest.raises(FrameError, match=r"already matched by the pass 'dithers'"):
        LevelMatchStep.call(str(listed), configure_log=False)
    library = LevelMatchStep.call(str(listed), rematch=True, configure_log=False)
    with library:
        model = library.borrow(0)
        # The level is the sum of both runs.
        first = fits.getheader(stepped / NAMES[0])["BKGLEVEL"]
        assert_allclose(model.meta.background.level, first, atol=1e-3)
        library.shelve(model, 0)


def test_the_mosaic_of_the_step(jwst, stepped, tmp_path):
    listed = stepped / "jw01234-a3001_image3_levelmatch_asn.json"
    i2d = image3(
        jwst,
        listed,
        tmp_path / "i2d",
        skip=True,
        resample={"post_hooks": ["levelmatch.jwst.add_history"]},
    )
    assert error(jwst, i2d) < LIMIT
    header = fits.getheader(i2d)
    assert header["BKGMETH"] == "levelmatch"
    assert fits.getdata(i2d, "HDRTAB")["BKGSUB"].all()
    history = "".join(header["HISTORY"])
    assert history.startswith("levelmatch ")
    assert lm.read_record(stepped / "jw01234-a3001_image3_levelmatch.asdf").sha256 in history


def test_skymatch_does_not_undo_the_step_in_silence(jwst, stepped, tmp_path):
    listed = stepped / "jw01234-a3001_image3_levelmatch_asn.json"
    with pytest.raises(ValueError, match="inconsistent"):
        image3(jwst, listed, tmp_path / "i2d")


@pytest.fixture(scope="module")
def kept(jwst, asn, tmp_path_factory):
    """Return the folder of outputs with kept levels."""
    from levelmatch.jwst import LevelMatchStep

    folder = tmp_path_factory.mktemp("kept")
    LevelMatchStep.call(
        str(asn), subtract=False, output_dir=str(folder), save_results=True, configure_log=False
    )
    return folder


def test_levels_kept_by_the_step(jwst, asn, stepped, kept):
    for name, path in zip(NAMES, sorted(asn.parent.glob("*_cal.fits")), strict=True):
        with fits.open(kept / name) as out, fits.open(path) as old:
            assert_array_equal(out["SCI"].data, old["SCI"].data)
            header = out[0].header
            assert (header["BKGSUB"], header["BKGMETH"]) == (False, "levelmatch")
            assert header["BKGLEVEL"] == fits.getheader(stepped / name)["BKGLEVEL"]
            assert header["S_SKYMAT"] == "COMPLETE"
            # No card states that a level was subtracted.
            assert "LMDLEV" not in out["SCI"].header
            assert any("kept level" in line for line in header["HISTORY"])
        with jwst["models"].open(kept / name) as model:
            assert model.meta.cal_step.level_match == "COMPLETE"
            (entry,) = model.instance["levelmatch"]
            assert "subtracted" not in entry
            assert sum(p["level"] for p in entry["kept"]) == pytest.approx(header["BKGLEVEL"])


def test_resample_subtracts_the_kept_levels(jwst, stepped, kept, tmp_path):
    listed = "jw01234-a3001_image3_levelmatch_asn.json"
    subtracted = image3(jwst, stepped / listed, tmp_path / "subtracted", skip=True)
    i2d = image3(jwst, kept / listed, tmp_path / "kept", skip=True)
    assert error(jwst, i2d) < LIMIT
    with jwst["models"].open(i2d) as a, jwst["models"].open(subtracted) as b:
        assert_allclose(a.data, b.data, atol=ROUNDING)


def test_kept_levels_replace_earlier_ones(jwst, kept):
    from levelmatch.jwst import LevelMatchStep

    listed = str(kept / "jw01234-a3001_image3_levelmatch_asn.json")
    first = fits.getheader(kept / NAMES[0])["BKGLEVEL"]
    # The pixels are those of the input, and the level is now subtracted.
    for subtract in (False, True):
        library = LevelMatchStep.call(listed, subtract=subtract, configure_log=False)
        with library:
            model = library.borrow(0)
            assert_allclose(model.meta.background.level, first, atol=1e-6)
            assert model.meta.background.subtracted is subtract
            library.shelve(model, 0, modify=False)


def test_planes_are_not_kept(jwst, asn):
    from levelmatch.jwst import LevelMatchStep

    with pytest.raises(ValueError, match=r"subtract=False: the pass 'dithers' fits 'level.slope'"):
        LevelMatchStep.call(str(asn), subtract=False, fit_type="level+slope", configure_log=False)


def test_inputs_stay(jwst, asn):
    from levelmatch.jwst import LevelMatchStep

    models = [exposure(jwst["models"], k) for k in range(3)]
    before = [model.data.copy() for model in models]
    LevelMatchStep.call(models, configure_log=False)
    for model, data in zip(models, before, strict=True):
        assert_array_equal(model.data, data)
        assert "levelmatch" not in model.instance
        assert model.meta.background.level is None


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_library_on_disk_and_in_memory(jwst, asn, matched, in_memory, tmp_path, monkeypatch):
    from levelmatch.jwst import LevelMatchStep

    monkeypatch.chdir(tmp_path)
    library = jwst["library"](asn, on_disk=not in_memory)
    out = LevelMatchStep.call(library, configure_log=False)
    assert out is library
    with library:
        for k, path in enumerate(sorted(matched.parent.glob("*_cal.fits"))):
            model = library.borrow(k)
            assert_array_equal(model.data, fits.getdata(path, "SCI"))
            library.shelve(model, k, modify=False)
    # The record is not written, so no metadata name it.
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix) == []


def test_parameters_reach_the_match(asn):
    from levelmatch.jwst import LevelMatchStep

    plain, planes = (
        LevelMatchStep.call(
            str(asn), fit_type=fit_type, reference="mean", weights="equal", configure_log=False
        )
        for fit_type in ("level", "level+slope")
    )
    slopes = []
    for library in (plain, planes):
        with library:
            model = library.borrow(0)
            cards = {card[0]: card[1] for card in model.instance["extra_fits"]["SCI"]["header"]}
            slopes.append(cards["LMDSLU"])
            assert cards["LMMREF"] == "mean"
            library.shelve(model, 0, modify=False)
    assert slopes[0] == 0
    assert slopes[1] != 0


def test_every_option_is_a_parameter_of_the_step(jwst):
    from dataclasses import fields

    from levelmatch.jwst import LevelMatchStep
    from levelmatch.options import SolveOptions
    from levelmatch.pipelines.options import match_options

    spec = LevelMatchStep.load_spec_file()
    # Models have no header for this option.
    names = {f.name for f in fields(SolveOptions)} - {"sky_keyword"}
    assert names <= set(spec)
    step = LevelMatchStep()
    assert match_options(step.get_pars())["solve"] == SolveOptions()
    with pytest.raises(Exception, match="weights"):
        LevelMatchStep(weights="none")


# Hooks


@pytest.mark.parametrize("hook", ["levelmatch.jwst.match_models", "levelmatch.LevelMatchStep"])
def test_a_hook_before_skymatch(jwst, asn, matched, hook, tmp_path):
    hooked = image3(jwst, asn, tmp_path / "hook", skip=True, pre_hooks=[hook])
    files = image3(jwst, matched, tmp_path / "files", skip=True)
    with jwst["models"].open(hooked) as a, jwst["models"].open(files) as b:
        assert_array_equal(a.data, b.data)
        assert a.meta.background.method == "levelmatch"


def test_a_hook_after_skymatch(jwst, asn, matched, tmp_path):
    hook = "levelmatch.jwst.match_models"
    hooked = image3(jwst, asn, tmp_path / "hook", post_hooks=[hook])
    files = image3(jwst, matched, tmp_path / "files", skip=True)
    with jwst["models"].open(hooked) as a, jwst["models"].open(files) as b:
        assert_array_equal(a.data, b.data)


def test_a_hook_with_parameters(jwst, asn, tmp_path):
    hook = "levelmatch.jwst.LevelMatchStep(fit_type='level+slope')"
    i2d = image3(jwst, asn, tmp_path / "hook", skip=True, pre_hooks=[hook])
    assert error(jwst, i2d) < LIMIT + 0.01


def test_hooks_take_lists_of_models(jwst):
    from levelmatch.jwst import match_models

    models = [exposure(jwst["models"], k) for k in range(3)]
    means = [np.median(model.data) for model in models]
    assert match_models(models) is models
    levels = [model.meta.background.level for model in models]
    assert_allclose(np.subtract(levels, levels[0]), LEVELS[:3] - LEVELS[0], atol=0.005)
    changes = np.subtract(means, [np.median(model.data) for model in models])
    assert_allclose(changes, levels, atol=1e-3)


def test_two_models_of_one_name_are_refused(jwst):
    from levelmatch.jwst import match_models

    models = [exposure(jwst["models"], 0) for _ in range(2)]
    with pytest.raises(FrameError, match=r"02101_00001_mirimage_cal.fits: two models have this"):
        match_models(models)


# Names and the command line


def test_strun_knows_the_step(jwst, asn, tmp_path, monkeypatch):
    from stpipe._cmdline import step_from_cmdline

    monkeypatch.chdir(tmp_path)
    for name in ("levelmatch.LevelMatchStep", "levelmatch.jwst.LevelMatchStep"):
        folder = tmp_path / name
        step_from_cmdline([name, str(asn), f"--output_dir={folder}", "--save_results=true"])
        assert sorted(p.name for p in folder.glob("*.fits")) == NAMES
        shutil.rmtree(folder)


def test_the_short_alias_is_registered():
    from importlib.metadata import entry_points

    found = [e for e in entry_points(group="stpipe.steps") if e.name == "levelmatch"]
    if not found:
        pytest.skip("the package's metadata are older than its entry point; install it again")
    assert ("levelmatch.jwst.LevelMatchStep", "level_match", False) in found[0].load()()


def test_the_script_of_the_guide(jwst, asn, matched, tmp_path, monkeypatch):
    script = Path(__file__).parents[1] / "docs" / "user_guide" / "scripts" / "jwst_association.py"
    monkeypatch.setattr("sys.argv", [str(script), str(asn), str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    (i2d,) = tmp_path.glob("*i2d.fits")
    assert error(jwst, i2d) < LIMIT


def test_the_skylist_of_the_command_line(asn, tmp_path):
    succeed("run", asn, "-o", tmp_path / "out", "--skylist", tmp_path / "sky.txt")
    names, levels = zip(
        *(line.split() for line in (tmp_path / "sky.txt").read_text().splitlines()), strict=True
    )
    assert list(names) == [name.replace("levelmatch", "cal") for name in NAMES]
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert_allclose(np.array(levels, float), record.table["level"].value, atol=1e-7)
