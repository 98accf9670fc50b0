# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of Roman images in ASDF: reading, matching, writing and undoing."""

import json
import runpy
import struct
import sys
import warnings
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy import units as u
from astropy.modeling import models as m
from helpers import assert_refused, run, succeed, tangential_gwcs
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.exceptions import FrameError, RecordError
from levelmatch.images.inputs import collect_frames

gwcs = pytest.importorskip("gwcs")

SHAPE, SCALE, CENTRE, NOISE = (120, 140), 0.11, (150.0, 2.0), 0.02
LEVELS = np.array([1.5, -2.0, 0.25, 3.0])
NAMES = [f"r0000101001001001001_000{k + 1}_wfi01_f158_cal.asdf" for k in range(len(LEVELS))]
RECORD = "levelmatch.record"


def make_gwcs(k):
    """Return dithers in a row, with a distortion whose coefficients lie in blocks."""
    bend = m.Polynomial2D(2, c1_0=1.0, c2_0=1e-5) & m.Polynomial2D(2, c0_1=1.0, c0_2=-1e-5)
    bend = m.Mapping((0, 1, 0, 1)) | bend
    # The accuracy is 1e-4 pixel.
    bend.inverse = m.Mapping((0, 1, 0, 1)) | (
        m.Polynomial2D(2, c1_0=1.0, c2_0=-1e-5) & m.Polynomial2D(2, c0_1=1.0, c0_2=1e-5)
    )
    return tangential_gwcs(SHAPE, SCALE, CENTRE[0] + 4.0 * k / 3600, CENTRE[1], 3.0 * k, bend)


def arrays(k, wcs):
    """Return pixels of a plane sky with a level, flags and uncertainty."""
    y, x = np.indices(SHAPE)
    ra, dec = wcs(x, y)
    rng = np.random.default_rng(k)
    sky = 5 + 0.02 * (ra - CENTRE[0]) * 3600 + 0.01 * (dec - CENTRE[1]) * 3600
    data = (sky + LEVELS[k] + rng.normal(0, NOISE, SHAPE)).astype("f4")
    dq = np.where(rng.random(SHAPE) < 0.01, rng.choice([1, 512], SHAPE), 0).astype("u4")
    data[dq > 0] = 1e4
    # This flag does not make a pixel bad.
    dq[10:30] |= 4
    return {"data": data, "dq": dq, "err": np.full(SHAPE, NOISE, "f2")}


def metadata(k):
    return {
        "filename": NAMES[k],
        "telescope": "ROMAN",
        "instrument": {"name": "WFI", "detector": "WFI01", "optical_element": "F158"},
        "observation": {"program": 1, "pass": 1, "observation": 1, "visit": 2, "exposure": k + 1},
        "cal_step": {"flux": "INCOMPLETE", "skymatch": "INCOMPLETE"},
        "note": "ünïcode before the background",
    }


def write_plain(path, k, compression=None, background=None, **more):
    """Write an image with asdf only."""
    wcs = make_gwcs(k)
    meta = metadata(k) | {"wcs": wcs}
    if background is not None:
        meta["background"] = background
    tree = {"roman": {"meta": meta, **arrays(k, wcs), "amp33": np.arange(12, dtype="u2"), **more}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asdf.AsdfFile(tree).write_to(path, all_array_compression=compression)
    return path


@pytest.fixture
def compression(request):
    return getattr(request, "param", None)


@pytest.fixture
def files(compression, tmp_path):
    """Return images written by asdf."""
    (tmp_path / "in").mkdir()
    return [write_plain(tmp_path / "in" / name, k, compression) for k, name in enumerate(NAMES)]


each = pytest.mark.parametrize("compression", [None, "zlib"], indirect=True)


@pytest.fixture(scope="module")
def models():
    """Return the data models of Roman."""
    return pytest.importorskip(
        "roman_datamodels.datamodels", reason="roman_datamodels is not installed; tox -e test-roman"
    )


@pytest.fixture
def real(models, tmp_path):
    """Return images made by the factories of roman_datamodels and saved by its own method."""
    (tmp_path / "in").mkdir()
    paths = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, name in enumerate(NAMES):
            model = models.ImageModel.create_fake_data(shape=SHAPE)
            model.meta.wcs = make_gwcs(k)
            for key, value in arrays(k, model.meta.wcs).items():
                model[key] = value
            model.meta.filename = name
            model.meta.instrument.optical_element = "F158"
            model.meta.observation.visit, model.meta.observation.exposure = 2, k + 1
            paths.append(tmp_path / "in" / name)
            model.save(paths[-1])
    return paths


def tree_of(path):
    """Return the tree of a file, without the packages of Roman."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with asdf.open(path, memmap=False, lazy_load=False) as file:
            return dict(file.tree)


def differences(result):
    found = {row["name"]: float(row["level"].value) for row in result.table}
    return np.array([found[name] - found[NAMES[0]] for name in NAMES])


TRUTH = LEVELS - LEVELS[0]


# Read


@each
def test_levels(files):
    result = lm.match_levels(files)
    assert_allclose(differences(result), TRUTH, atol=0.003)
    assert result.unit == u.DN / u.s
    assert (
        result.table["detector"].tolist() == ["wfi01"] * 4
        if "detector" in result.table.colnames
        else True
    )


def test_the_header_comes_from_the_tree(files):
    frame = collect_frames(files)[1]
    assert frame.detector == "wfi01"
    values = {key: frame.meta[key] for key in ("TELESCOP", "FILTER", "VISIT", "EXPOSURE", "PASS")}
    assert values == {"TELESCOP": "ROMAN", "FILTER": "F158", "VISIT": 2, "EXPOSURE": 2, "PASS": 1}
    result = lm.match_levels(files, group_by=["VISIT", "DETECTOR"])
    assert len(set(result.table["tile"])) == 1


def test_the_position_is_that_of_the_gwcs(files):
    for k, frame in enumerate(collect_frames(files)):
        x, y = np.array([0.0, 60.5, 139.0]), np.array([0.0, 33.3, 119.0])
        lon, lat = make_gwcs(k)(x, y)
        found = frame.transform.to_pixel(frame.transform.to_sky(x, y))
        assert_allclose(found, [x, y], atol=1e-3)
        from levelmatch.sky.vectors import lonlat

        assert_allclose(lonlat(frame.transform.to_sky(x, y)), [lon, lat], atol=1e-10)


@each
def test_pixels_are_read_when_they_are_needed(files):
    frames = collect_frames(files)
    kind = frames[0].source.arrays["data"].block.kind
    if kind == bytes(4):
        assert isinstance(frames[0].source.array("data"), np.memmap)
        assert not frames[0].source.array("data").flags.writeable
    # Unreadable pixels raise no error before they are read.
    path = files[0]
    content = bytearray(path.read_bytes())
    place = frames[0].source.arrays["data"].block
    content[place.start : place.start + 8] = b"\xff" * 8
    path.write_bytes(content)
    (frame,) = collect_frames([path])
    if kind != bytes(4):
        with pytest.raises(FrameError, match=rf"{NAMES[0]}: the pixels cannot be read"):
            frame.load()


def test_default_bad_bits(files):
    (frame,) = collect_frames(files[:1])
    bad = ~np.isfinite(frame.load())
    dq = np.asarray(frame.source.array("dq"))
    assert_array_equal(bad, (dq & 513) > 0)
    (frame,) = collect_frames(files[:1], lm.ReadOptions(dq_bits="JUMP_DET"))
    assert_array_equal(~np.isfinite(frame.load()), (dq & 4) > 0)
    (frame,) = collect_frames(files[:1], lm.ReadOptions(dq_bits="GW_AFFECTED_DATA"))
    assert frame.dq_bits == 16


@pytest.mark.parametrize(
    ("more", "unit"),
    [
        ({}, "DN / s"),
        ({"flux": "COMPLETE"}, "MJy / sr"),
    ],
)
def test_the_unit_comes_from_the_tree(tmp_path, more, unit):
    path = tmp_path / NAMES[0]
    write_plain(path, 0)
    tree = tree_of(path)
    tree["roman"]["meta"]["cal_step"] |= more
    asdf.AsdfFile({"roman": tree["roman"]}).write_to(path)
    (frame,) = collect_frames([path])
    assert frame.unit == u.Unit(unit)


def test_an_array_with_a_unit_of_its_own(tmp_path):
    paths = [write_with_unit(tmp_path, i) for i in range(2)]
    (frame,) = collect_frames(paths[:1])
    assert frame.unit == u.electron / u.s
    lm.match_levels(paths)[0]


def write_with_unit(folder, i):
    wcs = make_gwcs(i)
    tree = {"meta": metadata(i) | {"wcs": wcs}, **arrays(i, wcs)}
    tree["data"] = tree["data"] * u.Unit("electron / s")
    asdf.AsdfFile({"roman": tree}).write_to(folder / NAMES[i])
    return folder / NAMES[i]


# Write


def blocks_of(path):
    from levelmatch.images.asdf_file import AsdfFile

    file = AsdfFile(path)
    data = file.place(file.find("roman", "data"), "data").index
    return [file.raw(i) for i in range(len(file.blocks)) if i != data]


@each
def test_everything_else_stays(files, tmp_path, snapshot):
    before = snapshot(files)
    result = lm.match_levels(files)
    paths = result.write(tmp_path / "out")
    assert snapshot(files) == before
    assert [p.name for p in paths] == NAMES
    for old, new, row in zip(files, paths, result.table, strict=True):
        assert blocks_of(new) == blocks_of(old)
        trees = [tree_of(path) for path in (old, new)]
        metas = [tree["roman"].pop("meta") for tree in trees]
        wcs = [meta.pop("wcs") for meta in metas]
        assert metas[1].pop("background") == {
            "level": pytest.approx(row["level"].value, abs=1e-9),
            "method": "match",
            "subtracted": True,
        }
        assert metas[1] == metas[0]
        assert_array_equal(wcs[1](3.0, 4.0), wcs[0](3.0, 4.0))
        data = [tree["roman"].pop("data") for tree in trees]
        assert data[1].dtype == data[0].dtype == np.float32
        expected = (data[0].astype(float) - row["level"].value).astype("f4")
        assert_allclose(data[1], expected, atol=1e-6)
        assert trees[1]["roman"]["err"].dtype == np.float16
        for key, array in trees[0]["roman"].items():
            assert_array_equal(trees[1]["roman"][key], array)
        (entry,) = trees[1]["levelmatch"]
        assert entry["record_sha256"] == result.record.sha256


def test_images_are_found_by_their_suffix(files, tmp_path):
    lm.match_levels(files).write(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.asdf")) == NAMES
    assert (tmp_path / "out" / RECORD).exists()
    assert lm.read_record(tmp_path / "out" / RECORD).names == NAMES


@each
def test_round_trip(files, tmp_path):
    result = lm.match_levels(files)
    out = result.write(tmp_path / "out")
    record = tmp_path / "out" / RECORD
    assert lm.verify_record(record, out) == NAMES
    again = lm.apply_record(record, files, tmp_path / "again")
    for a, b in zip(out, again, strict=True):
        assert a.read_bytes() == b.read_bytes()
    back = lm.undo_record(record, out, tmp_path / "back")
    for old, new in zip(files, back, strict=True):
        trees = [tree_of(path) for path in (old, new)]
        data = [tree["roman"].pop("data") for tree in trees]
        assert_allclose(data[1], data[0], rtol=3e-7, atol=1e-6)
        assert head(new) == head(old)
        assert blocks_of(new) == blocks_of(old)


def test_levels_are_kept(files, tmp_path):
    """If levels are kept, only the tree changes."""
    with pytest.warns(lm.LevelMatchWarning, match="the level is kept in DN/s"):
        result = lm.match_levels(files, solve=lm.SolveOptions(subtract=False))
    written = result.write(tmp_path / "kept")
    for before, after, level in zip(files, written, result.table["level"].value, strict=True):
        old, new = tree_of(before)["roman"], tree_of(after)["roman"]
        assert_array_equal(np.asarray(new["data"]), np.asarray(old["data"]))
        background = new["meta"]["background"]
        assert background["level"] == pytest.approx(level)
        assert (background["method"], background["subtracted"]) == ("match", False)
    record = tmp_path / "kept" / RECORD
    assert lm.verify_record(record, written) == result.names
    back = lm.undo_record(record, written, tmp_path / "back")
    for one, other in zip(back, files, strict=True):
        assert tree_of(one)["roman"]["meta"].get("background") == tree_of(other)["roman"][
            "meta"
        ].get("background")


def head(path):
    """Return the bytes before the blocks."""
    return path.read_bytes().partition(b"\n...\n")[0]


def test_pixels_that_were_changed_are_found(files, tmp_path):
    out = lm.match_levels(files).write(tmp_path / "out")
    from levelmatch.images.asdf_file import AsdfFile

    file = AsdfFile(out[1])
    block = file.place(file.find("roman", "data"), "data").block
    content = bytearray(out[1].read_bytes())
    content[block.start + 400] ^= 1
    out[1].write_bytes(content)
    with pytest.raises(RecordError, match=rf"{NAMES[1]}: 1 pixels do not follow"):
        lm.verify_record(tmp_path / "out" / RECORD, out)


@pytest.mark.parametrize("subtracted", [True, False])
def test_a_background_that_is_there(tmp_path, subtracted):
    (tmp_path / "in").mkdir()
    old = {"level": 0.5, "method": "match", "subtracted": subtracted}
    paths = [
        write_plain(tmp_path / "in" / NAMES[k], k, background=old if k == 0 else None)
        for k in range(2)
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = lm.match_levels(paths)
    named = [w for w in caught if "BKGLEVEL = 0.5" in str(w.message)]
    assert len(named) == (0 if subtracted else 1)
    out = result.write(tmp_path / "out")
    new = tree_of(out[0])["roman"]["meta"]["background"]
    level = result.table["level"].value[0]
    # The level is the total of the subtracted levels. A measured level is replaced.
    assert new["level"] == pytest.approx(level + 0.5 if subtracted else level)
    assert new["subtracted"] is True
    (back, _) = lm.undo_record(tmp_path / "out" / RECORD, out, tmp_path / "back")
    assert head(back) == head(paths[0])


def test_an_image_is_not_matched_twice(files, tmp_path):
    out = lm.match_levels(files).write(tmp_path / "out")
    with pytest.raises(FrameError, match=rf"{NAMES[0]}: already matched by the pass 'dithers'"):
        lm.match_levels(out)
    again = lm.match_levels(out, read=lm.ReadOptions(rematch=True))
    assert_allclose(differences(again), 0, atol=1e-4)
    twice = again.write(tmp_path / "twice")
    entries = tree_of(twice[0])["levelmatch"]
    assert [e["record_sha256"] for e in entries] == [
        lm.read_record(tmp_path / name / RECORD).sha256 for name in ("out", "twice")
    ]
    back = lm.undo_record(tmp_path / "twice" / RECORD, twice, tmp_path / "back")
    assert head(back[0]) == head(out[0])


def test_planes_and_flux_scales(files, tmp_path):
    scale = [1.0, 2.0, 1.0, 1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = lm.match_levels(
            files,
            fit_type="level+slope",
            read=lm.ReadOptions(flux_scale=scale, apply_flux_scale=True),
        )
    out = result.write(tmp_path / "out")
    trees = [tree_of(path)["roman"] for path in (files[1], out[1])]
    assert_allclose(trees[1]["err"], 2 * trees[0]["err"].astype("f4"), rtol=1e-3)
    assert trees[1]["err"].dtype == np.float16
    assert lm.verify_record(tmp_path / "out" / RECORD, out) == NAMES


@each
def test_images_in_memory(files):
    image = lm.match_levels(files)[1]
    assert image.unit == u.DN / u.s
    assert image.uncertainty.array.dtype == np.float16
    assert image.mask.sum() > 0
    assert_allclose(image.wcs.pixel_to_world(60, 60).ra.deg, make_gwcs(1)(60, 60)[0], atol=1e-6)


@pytest.mark.parametrize("weights", [None, "ivar"])
def test_a_mosaic(files, tmp_path, weights):
    result = lm.match_levels(files)
    path = lm.make_mosaic(
        result, output=tmp_path / "mosaic.fits", coadd=lm.CoaddOptions(weights=weights)
    )
    assert path.exists()


def test_the_file_must_not_change_meanwhile(files, tmp_path):
    result = lm.match_levels(files)
    files[2].write_bytes(files[3].read_bytes())
    with pytest.raises(FrameError, match=rf"{NAMES[2]}: the file changed after it was read"):
        result.write(tmp_path / "out")


def test_an_association(files, tmp_path):
    asn = tmp_path / "in" / "r00001_asn.json"
    members = [{"expname": name, "exptype": "science"} for name in NAMES]
    asn.write_text(json.dumps({"products": [{"name": "p", "members": members}], "target": "x"}))
    lm.match_levels(asn).write(tmp_path / "out")
    written = json.loads((tmp_path / "out" / asn.name).read_text())
    assert written["products"] == [{"name": "p", "members": members}]
    assert written["levelmatch"]["record"] == RECORD


def test_the_command_line(files, tmp_path):
    out = tmp_path / "out"
    succeed("run", *files, "-o", out, "--report")
    written = [out / name for name in NAMES]
    succeed("verify", out, *written)
    succeed("show", out)
    assert_refused(run("run", *written, "-o", tmp_path / "twice"), "already matched")


# Bad files


def cut(content, **_):
    return content[:-2000]


def no_tree(content, **_):
    return content.replace(b"\n...\n", b"\n.x.\n", 1)


def another_file(content, **_):
    return content.replace(b"roman:", b"romans:", 1)


def huge(content, **_):
    return content.replace(b"shape: [120, 140]", b"shape: [920, 940]", 1)


def reference(content, **_):
    start = content.index(b"    wcs:")
    end = content.index(b"\n  ", content.index(b"steps:", start))
    return content[:start] + b"    wcs: {$ref: 'file:///etc/passwd'}\n    x:" + content[end:]


@pytest.mark.parametrize("spoil", [cut, no_tree, another_file, huge, reference])
def test_bad_files_are_refused_by_name(tmp_path, spoil):
    path = write_plain(tmp_path / NAMES[0], 0)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(FrameError, match=rf"^{NAMES[0]}: "):
        collect_frames([path])[0].load()


@pytest.mark.parametrize("size", [0, 5, 100])
def test_files_that_are_no_asdf(tmp_path, size):
    path = tmp_path / "a_cal.asdf"
    path.write_bytes(b"#ASDF" + bytes(size) if size else b"")
    with pytest.raises(FrameError, match=r"^a_cal.asdf: not a readable ASDF file"):
        collect_frames([path])


def test_a_block_that_declares_more_than_it_holds(tmp_path):
    path = write_plain(tmp_path / NAMES[0], 0, "zlib")
    content = bytearray(path.read_bytes())
    place = content.index(b"\xd3BLK")
    struct.pack_into(">Q", content, place + 6 + 24, 1 << 40)
    path.write_bytes(content)
    reason = "not a readable ASDF file: an array declares 1099511627776 bytes"
    with pytest.raises(FrameError, match=rf"^{NAMES[0]}: {reason}"):
        collect_frames([path])


def test_an_image_without_a_wcs(tmp_path):
    path = tmp_path / NAMES[0]
    asdf.AsdfFile({"roman": {"meta": metadata(0), **arrays(0, make_gwcs(0))}}).write_to(path)
    with pytest.raises(FrameError, match=rf"{NAMES[0]}: it has no WCS \(roman.meta.wcs\)"):
        collect_frames([path])


def test_a_record_is_no_image(files, tmp_path):
    lm.match_levels(files).write(tmp_path / "out")
    path = tmp_path / "levelmatch.asdf"
    path.write_bytes((tmp_path / "out" / RECORD).read_bytes())
    with pytest.raises(FrameError, match=r"levelmatch.asdf: it has no image roman.data"):
        collect_frames([path])


def test_flags_of_no_name_are_refused(files):
    with pytest.raises(ValueError, match=r"^dq_bits: 'FOO' is not among the bits DO_NOT_USE, SAT"):
        lm.match_levels(files, read=lm.ReadOptions(dq_bits="FOO"))


def test_masks_beside_an_image_are_refused(files):
    with pytest.raises(FrameError, match=r"mask_files: images in ASDF do not use it"):
        lm.match_levels(files, read=lm.ReadOptions(mask_files="{stem}_mask.fits"))


# Files of roman_datamodels


def test_files_of_the_factories(real, models, tmp_path):
    result = lm.match_levels(real)
    assert_allclose(differences(result), TRUTH, atol=0.003)
    paths = result.write(tmp_path / "out")
    for old, new in zip(real, paths, strict=True):
        assert blocks_of(new) == blocks_of(old)
        with models.open(new) if hasattr(models, "open") else open_model(new) as model:
            model.validate()
            assert model.meta.background.subtracted
            assert model.meta.background.method == "match"
            assert model.err.dtype == np.float16
            assert model.meta.observation.visit == 2
    assert lm.verify_record(tmp_path / "out" / RECORD, paths) == NAMES
    back = lm.undo_record(tmp_path / "out" / RECORD, paths, tmp_path / "back")
    assert [head(path) for path in back] == [head(path) for path in real]


def open_model(path):
    import roman_datamodels

    return roman_datamodels.open(path)


def test_an_old_tag_gets_a_tagged_background(files, tmp_path):
    content = files[0].read_bytes()
    tag = b"roman: !<asdf://stsci.edu/datamodels/roman/tags/wfi_image-1.2.0>"
    files[0].write_bytes(content.replace(b"roman:", tag, 1))
    out = lm.match_levels(files).write(tmp_path / "out")
    text = out[0].read_bytes()
    assert b"background: !<asdf://stsci.edu/datamodels/roman/tags/sky_background-1.0.0> {" in text
    assert b"background: {" in out[1].read_bytes()


def test_the_script_of_the_guide(files, tmp_path, monkeypatch):
    script = Path(__file__).parents[1] / "docs" / "user_guide" / "scripts" / "roman_images.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(files[0].parent), str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.asdf")) == NAMES


# The step of the pipeline


def _check_undo(out, inputs, back):
    """Verify the outputs of the step, and compare them with the inputs after undoing."""
    record, outputs = out / "r00001_levelmatch.record", out / "r00001_levelmatch_asn.json"
    n = len(lm.verify_record(record, outputs))
    paths = lm.undo_record(record, outputs, back)
    assert len(paths) == n
    for path in paths:
        undone, old = tree_of(path)["roman"], tree_of(inputs / path.name)["roman"]
        np.testing.assert_allclose(undone["data"], old["data"], rtol=2e-7, atol=5e-7)
        assert "levelmatch" not in undone["meta"]
        assert undone["meta"].get("background") == old["meta"].get("background")
        assert undone["meta"].get("cal_step") == old["meta"].get("cal_step")
        assert undone["meta"]["filename"] == path.name


@pytest.fixture
def romancal(monkeypatch, tmp_path):
    pytest.importorskip("romancal.stpipe", reason="romancal is not installed; tox -e test-roman")
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "crds"))
    monkeypatch.setenv("CRDS_SERVER_URL", "https://roman-crds.stsci.edu")
    monkeypatch.setenv("STPIPE_DISABLE_CRDS_STEPPARS", "true")
    from romancal.datamodels import ModelLibrary

    return ModelLibrary


@pytest.fixture
def listed(real):
    path = real[0].parent / "r00001_asn.json"
    members = [{"expname": name, "exptype": "science"} for name in NAMES]
    tree = {"asn_id": "a1", "asn_pool": "none", "products": [{"name": "p", "members": members}]}
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.filterwarnings("ignore")
def test_the_step_on_an_association(romancal, listed, real, tmp_path):
    from levelmatch.roman import LevelMatchStep

    out = tmp_path / "step"
    LevelMatchStep.call(str(listed), output_dir=str(out), save_results=True, configure_log=False)
    names = [name.replace("_cal", "_levelmatch") for name in NAMES]
    assert sorted(p.name for p in out.glob("*.asdf")) == names
    record = lm.read_record(out / "r00001_levelmatch.record")
    written = json.loads((out / "r00001_levelmatch_asn.json").read_text())
    assert [m["expname"] for m in written["products"][0]["members"]] == names
    assert written["levelmatch"]["record_sha256"] == record.sha256
    by_files = lm.match_levels(real).write(tmp_path / "files")
    for name, path, row in zip(names, by_files, record.table, strict=True):
        step, files = tree_of(out / name)["roman"], tree_of(path)["roman"]
        assert_array_equal(step["data"], files["data"])
        assert step["err"].dtype == np.float16
        assert step["meta"]["background"]["level"] == pytest.approx(row["level"].value, abs=1e-6)
        assert step["meta"]["background"]["subtracted"] is True
    with pytest.raises(FrameError, match=r"already matched by the pass 'dithers'"):
        LevelMatchStep.call(str(out / "r00001_levelmatch_asn.json"), configure_log=False)
    succeed("verify", out)
    _check_undo(out, listed.parent, tmp_path / "back")
    with pytest.raises(FrameError, match=r"already matched by the pass 'dithers'"):
        lm.match_levels([out / name for name in names])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_hook_on_a_library(romancal, listed, real, on_disk, tmp_path, monkeypatch):
    from levelmatch.roman import match_models

    monkeypatch.chdir(tmp_path)
    library = romancal(listed, on_disk=on_disk)
    assert match_models(library) is library
    levels = []
    with library:
        for k, model in enumerate(library):
            levels.append(model.meta.background.level)
            library.shelve(model, k, modify=False)
    assert_allclose(np.subtract(levels, levels[0]), TRUTH, atol=0.003)


@pytest.mark.filterwarnings("ignore")
def test_a_hook_of_skymatch(romancal, listed):
    from romancal.pipeline import MosaicPipeline
    from stpipe._hooks import get_hook_objects

    step = MosaicPipeline().skymatch
    step.skip = True
    step._pre_hooks = get_hook_objects(step, "pre", ["levelmatch.roman.match_models"])
    library = step.run(romancal(listed))
    with library:
        model = library.borrow(1)
        assert model.meta.background.method == "match"
        assert model.meta.background.subtracted
        library.shelve(model, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("done", [True, False])
def test_the_step_keeps_levels(romancal, listed, real, done, tmp_path):
    from levelmatch.roman import match_models

    before = [tree_of(path)["roman"]["data"] for path in real]
    library = romancal(listed)
    with library:
        for k, model in enumerate(library):
            model.meta["cal_step"] = cal_steps() | {"flux": "COMPLETE" if done else "INCOMPLETE"}
            library.shelve(model, k)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        match_models(library, subtract=False)
    # The flux step would not convert the levels.
    told = [w for w in caught if "the level is kept in DN/s" in str(w.message)]
    assert len(told) == (not done)
    levels = []
    with library:
        for k, model in enumerate(library):
            assert_array_equal(np.asarray(model.data), before[k])
            background = model.meta.background
            assert (background.subtracted, background.method) == (False, "match")
            assert model.meta.cal_step.skymatch == "COMPLETE"
            assert "kept" in model.meta["levelmatch"][0]
            levels.append(background.level)
            library.shelve(model, k, modify=False)
    assert_allclose(np.subtract(levels, levels[0]), TRUTH, atol=0.003)


# The whole mosaic pipeline

# One DN/s in MJy/sr.
CONVERSION = 0.5
# Noise of one image; the mosaic lowers it in overlaps.
LIMIT = NOISE


def cal_steps():
    done = ("assign_wcs", "dark", "dark_decay", "dq_init", "flat_field", "linearity", "photom")
    done += ("ramp_fit", "refpix", "saturation", "source_catalog", "tweakreg", "wfi18_transient")
    rest = dict.fromkeys(("flux", "skymatch", "outlier_detection"), "INCOMPLETE")
    return dict.fromkeys(done, "COMPLETE") | rest


@pytest.fixture
def calibrated(romancal, real, listed):
    """Return an association of images with the metadata that the pipeline needs."""
    for k, path in enumerate(real):
        with open_model(path) as model:
            # Some pixels are flagged as bad.
            model.dq = np.where(np.asarray(model.dq) & 513, 1, 0).astype("u4")
            for name in ("var_poisson", "var_rnoise"):
                model[name] = np.full(SHAPE, NOISE**2 / 2, "f2")
            model.meta["cal_step"] = cal_steps()
            model.meta.photometry.conversion_megajanskys = CONVERSION
            model.meta.photometry.pixel_area = np.radians(SCALE / 3600) ** 2
            model.meta.exposure.exposure_time = 100.0
            wcs = model.meta.wcs
            ra, dec = wcs((SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2)
            corners = " ".join(f"{v:.9f}" for p in wcs.footprint() for v in p)
            own = {"ra_ref": float(ra), "dec_ref": float(dec), "roll_ref": 3.0 * k}
            own |= {"v3yangle": 0.0, "vparity": -1, "s_region": f"POLYGON ICRS  {corners}"}
            model.meta.wcsinfo.update(own)
            new = path.with_name("new.asdf")
            model.save(new)
        new.replace(path)
    return listed


def roman_mos(association, folder, pre_hooks=()):
    """Run the pipeline without its catalog, which needs reference files; return its mosaic."""
    from romancal.pipeline import MosaicPipeline
    from stpipe._hooks import get_hook_objects

    folder.mkdir()
    pipeline = MosaicPipeline()
    pipeline.output_dir, pipeline.save_results = str(folder), True
    pipeline.source_catalog.skip = True
    pipeline.skymatch.skip = True
    hooks = get_hook_objects(pipeline.skymatch, "pre", list(pre_hooks))
    pipeline.skymatch._pre_hooks = hooks
    pipeline.run(str(association))
    (path,) = folder.glob("*_coadd.asdf")
    return path


def errors_of(path):
    """Return mean and scatter of a mosaic about the true sky (DN/s), and the number of pixels."""
    with open_model(path) as model:
        data = np.asarray(model.data)
        y, x = np.indices(data.shape)
        ra, dec = model.meta.wcs(x, y)
        assert model.meta.cal_step.resample == "COMPLETE"
    sky = 5 + 0.02 * (ra - CENTRE[0]) * 3600 + 0.01 * (dec - CENTRE[1]) * 3600
    errors = (data / CONVERSION - sky)[np.isfinite(data)]
    return errors.mean(), errors.std(), errors.size


@pytest.mark.filterwarnings("ignore")
def test_roman_mos_on_the_written_association(calibrated, tmp_path):
    _, scatter, n_raw = errors_of(roman_mos(calibrated, tmp_path / "raw"))
    assert scatter > 1
    lm.match_levels(calibrated).write(tmp_path / "matched")
    mosaic = roman_mos(tmp_path / "matched" / calibrated.name, tmp_path / "mos")
    mean, scatter, n = errors_of(mosaic)
    assert scatter < LIMIT
    # The corrections of a tile sum to zero, so that the mean of the levels stays.
    assert mean == pytest.approx(LEVELS.mean(), abs=0.003)
    # Outlier detection would flag different levels as outliers.
    assert n > 1.5 * n_raw


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("subtract", [True, False])
def test_roman_mos_with_a_hook(calibrated, subtract, tmp_path):
    hook = f"levelmatch.roman.LevelMatchStep(subtract={subtract})"
    mean, scatter, _ = errors_of(roman_mos(calibrated, tmp_path / "mos", pre_hooks=[hook]))
    assert scatter < LIMIT
    assert mean == pytest.approx(LEVELS.mean(), abs=0.003)
