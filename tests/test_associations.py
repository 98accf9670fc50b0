# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of associations as inputs of every function, and as outputs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import assert_refused, run, succeed
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.exceptions import FrameError
from levelmatch.images.associations import expand_associations, read_association
from levelmatch.jwst import write_skylist

LEVELS = {"a_cal.fits": 1.5, "b_cal.fits": -2.0, "c_cal.fits": 0.25}


def member(name, exptype="science", **more):
    return {"expname": name, "exptype": exptype, **more}


def write_asn(path, *products, **more):
    tree = {
        "asn_type": "image3",
        "asn_rule": "DMS_Level3_Base",
        "asn_id": "a3001",
        "program": "02107",
        "asn_pool": "none",
        "products": [{"name": f"prod{i}", "members": list(m)} for i, m in enumerate(products)],
        **more,
    }
    path.write_text(json.dumps(tree))
    return path


@pytest.fixture
def files(paint, write, tmp_path):
    """Return three images with known levels, in a folder below that of the association."""
    folder = tmp_path / "in" / "cal"
    folder.mkdir(parents=True)
    for k, (name, level) in enumerate(LEVELS.items()):
        write(paint(name, (0.3 * k, 20.2 * k), level=level), folder / name)
    return [folder / name for name in LEVELS]


@pytest.fixture
def asn(files, tmp_path):
    """Return an association with members of all kinds, in two products that share an image."""
    (tmp_path / "in" / "stars.ecsv").write_text("")
    first = [member("cal/a_cal.fits", tweakreg_catalog="stars.ecsv"), member("cal/b_cal.fits")]
    second = [
        member("cal/b_cal.fits", "SCIENCE", group_id="g"),
        member("cal/c_cal.fits"),
        member("cal/bgr_cal.fits", "background"),
        member("stars.ecsv", "sourcecat"),
    ]
    return write_asn(tmp_path / "in" / "x_asn.json", first, second, extra={"kept": [1, None]})


def differences(result):
    """Return levels relative to the first image."""
    found = {row["name"]: float(row["level"].value) for row in result.table}
    return [found[name] - found["a_cal.fits"] for name in LEVELS]


TRUTH = [level - LEVELS["a_cal.fits"] for level in LEVELS.values()]


@pytest.mark.parametrize("how", ["path", "text", "list", "mapping"])
def test_an_association_is_an_input(asn, how):
    images = {"path": asn, "text": str(asn), "list": [asn], "mapping": {"tile": asn}}[how]
    result = lm.match_dithers(images)
    assert result.names == list(LEVELS)
    assert_allclose(differences(result), TRUTH, atol=0.005)


def test_files_and_associations_together(files, tmp_path):
    folder = tmp_path / "in"
    one = write_asn(folder / "one_asn.json", [member("cal/a_cal.fits"), member("cal/b_cal.fits")])
    two = write_asn(folder / "two_asn.json", [member("cal/b_cal.fits")])
    result = lm.match_dithers([one, two, files[2]])
    assert result.names == list(LEVELS)
    result.write(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == [
        "one_asn.json",
        "two_asn.json",
    ]
    out = read_association(tmp_path / "out" / "one_asn.json")
    assert [m["expname"] for m in out.products[0]["members"]] == ["a_cal.fits", "b_cal.fits"]
    assert_allclose(differences(lm.match_dithers([one, two, files[2]])), TRUTH, atol=0.005)


def test_the_association_of_the_output(asn, files, tmp_path, snapshot):
    before = snapshot([asn, *files])
    result = lm.match_levels(asn)
    paths = result.write(tmp_path / "out")
    assert snapshot([asn, *files]) == before
    assert [p.name for p in paths] == list(LEVELS)
    tree, old = (json.loads(p.read_text()) for p in (tmp_path / "out" / "x_asn.json", asn))
    entry = tree.pop("levelmatch")
    assert entry["record_sha256"] == result.record.sha256
    assert entry["record"] == "levelmatch.asdf"
    assert entry["pipeline_options"] == "--steps.skymatch.skip=true"
    first, second = (product.pop("members") for product in tree["products"])
    assert tree == {**old, "products": [{"name": "prod0"}, {"name": "prod1"}]}
    assert first == [
        member("a_cal.fits", tweakreg_catalog="../in/stars.ecsv"),
        member("b_cal.fits"),
    ]
    assert second == [
        member("b_cal.fits", "SCIENCE", group_id="g"),
        member("c_cal.fits"),
        member("../in/cal/bgr_cal.fits", "background"),
        member("../in/stars.ecsv", "sourcecat"),
    ]
    # The science members of the new association are the outputs.
    expanded, _ = expand_associations([tmp_path / "out" / "x_asn.json"])
    assert expanded == paths


def test_passes_in_sequence_keep_the_association(asn, tmp_path):
    result = lm.match_mosaic(lm.match_dithers(asn))
    result.write(tmp_path / "out")
    assert (tmp_path / "out" / "x_asn.json").exists()


def test_apply_verify_and_undo_take_associations(asn, files, tmp_path):
    result = lm.match_levels(asn)
    out = result.write(tmp_path / "out")
    record, listed = tmp_path / "out" / "levelmatch.asdf", tmp_path / "out" / "x_asn.json"
    assert lm.verify_record(record, listed) == list(LEVELS)
    again = lm.apply_record(record, asn, tmp_path / "again")
    for path in (*out, listed, record):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert [p.name for p in again] == list(LEVELS)
    lm.undo_record(record, [listed], tmp_path / "back")
    tree = json.loads((tmp_path / "back" / "x_asn.json").read_text())
    assert "levelmatch" not in tree
    assert [m["expname"] for m in tree["products"][1]["members"]] == [
        "b_cal.fits",
        "c_cal.fits",
        "../in/cal/bgr_cal.fits",
        "../in/stars.ecsv",
    ]


def test_a_mosaic_of_an_association(asn, files, tmp_path):
    whole, listed = (
        lm.make_mosaic(images, output=tmp_path / f"{k}.fits")
        for k, images in enumerate((files, asn))
    )
    assert whole.read_bytes() == listed.read_bytes()


def test_an_image_excluded_from_a_record_is_left_out(asn, tmp_path):
    lm.match_levels(asn).write(tmp_path / "out")
    solved = lm.solve_record(tmp_path / "out" / "levelmatch.asdf", exclude=["c_cal.fits"])
    assert lm.recorded_result(solved, asn).names == ["a_cal.fits", "b_cal.fits"]
    lm.recorded_result(solved, asn).write(tmp_path / "less")
    tree = read_association(tmp_path / "less" / "x_asn.json")
    assert [m["exptype"] for m in tree.products[1]["members"]] == [
        "SCIENCE",
        "background",
        "sourcecat",
    ]


def test_two_parts_have_one_member(tmp_path, paint, write):
    """The science and Lyot parts of an image become one output."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(5)
    names = []
    for k in range(2):
        image = paint("x", (150.0 * k, 150.0 * k), shape=(1024, 1032), noise=0.1)
        image.meta.update(TELESCOP="JWST", INSTRUME="MIRI", DETECTOR="MIRIMAGE")
        inside = np.zeros(image.data.shape, dtype=bool)
        inside[735:, :291] = True
        for letter, away in (("s", inside), ("l", ~inside)):
            name = f"jw01234001001_02101_0000{k + 1}_mirimage{letter}_cal.fits"
            dq = np.where(away, 513, 0).astype("u4")
            write(image, folder / name, dq=dq, err=rng.random(image.data.shape, "f4"))
            names.append(name)
    asn = write_asn(folder / "miri_asn.json", map(member, names))
    result = lm.match_levels(asn, recombine_lyot=True)
    result.write(tmp_path / "out")
    tree = read_association(tmp_path / "out" / "miri_asn.json")
    found = [m["expname"] for m in tree.products[0]["members"]]
    assert found == [
        "jw01234001001_02101_00001_mirimage_cal.fits",
        "jw01234001001_02101_00002_mirimage_cal.fits",
    ]


# Bad input


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", r"bad_asn.json: not a readable association"),
        ("[]", r"bad_asn.json: not an association: it has no list 'products'"),
        ('{"products": 3}', r"it has no list 'products'"),
        ('{"products": [{"name": "p"}]}', r"the product 'p' has no list 'members'"),
        ('{"products": [{"name": "p", "members": [3]}]}', r"member 0 of the product 'p' lacks"),
        (
            '{"products": [{"members": [{"expname": "a.fits"}]}]}',
            r"member 0 of the product None lacks 'expname' or 'exptype': .*a.fits",
        ),
        (
            '{"products": [{"members": [{"expname": "a.fits", "exptype": "background"}]}]}',
            r"bad_asn.json: no product has a member of the exptype science",
        ),
        (
            '{"products": [{"members": [{"expname": "no.fits", "exptype": "science"}]}]}',
            r"bad_asn.json: its member .*no.fits does not exist",
        ),
    ],
)
def test_a_bad_association_is_named(tmp_path, content, match):
    path = tmp_path / "bad_asn.json"
    path.write_text(content)
    with pytest.raises(FrameError, match=match):
        lm.match_levels(path)


def test_a_missing_association(tmp_path):
    with pytest.raises(FrameError, match=r"no_asn.json: there is no such file"):
        lm.match_levels([tmp_path / "no_asn.json"])


def test_nothing_is_written_over(asn, tmp_path):
    result = lm.match_levels(asn)
    with pytest.raises(FrameError, match=r"x_asn.json: the output folder .* holds it"):
        result.write(asn.parent)
    assert sorted(p.name for p in asn.parent.iterdir()) == ["cal", "stars.ecsv", "x_asn.json"]
    out = tmp_path / "out"
    out.mkdir()
    (out / "x_asn.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"x_asn.json exists; overwrite=True replaces it"):
        result.write(out)
    assert [p.name for p in out.iterdir()] == ["x_asn.json"]
    result.write(out, overwrite=True)
    assert json.loads((out / "x_asn.json").read_text())["levelmatch"]


def test_two_associations_of_one_name(asn, tmp_path):
    other = tmp_path / "in" / "cal" / "x_asn.json"
    write_asn(other, [member("a_cal.fits")])
    result = lm.match_levels([asn, other])
    with pytest.raises(FrameError, match=r"x_asn.json: two associations would have this name"):
        result.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The command line


def test_the_command_line(asn, files, tmp_path):
    out = tmp_path / "out"
    done = succeed("run", asn, "-o", out)
    assert f"Association: {out / 'x_asn.json'}" in done.output
    assert "--steps.skymatch.skip=true" in done.output
    succeed("verify", out, out / "x_asn.json")
    succeed("apply", out, asn, "-o", tmp_path / "again")
    assert (tmp_path / "again" / "x_asn.json").exists()
    succeed("undo", out, out / "x_asn.json", "-o", tmp_path / "back")
    succeed("mosaic", out, asn, "-o", tmp_path / "m.fits")
    again = run("run", out / "x_asn.json", "-o", tmp_path / "twice")
    assert_refused(again, "a_cal.fits: already matched")
    assert run("run", asn, "-o", asn.parent / "cal").exit_code == 2


def test_the_command_line_extends_by_an_association(asn, files, tmp_path, paint, write):
    out = tmp_path / "out"
    succeed("run", *files, "-o", out)
    write(paint("d_cal.fits", (0.9, 30.4), level=3.0), files[0].parent / "d_cal.fits")
    more = write_asn(tmp_path / "in" / "more_asn.json", [member("cal/d_cal.fits")])
    succeed("run", more, "--extend", out, "-o", tmp_path / "more")
    tree = read_association(tmp_path / "more" / "more_asn.json")
    assert [m["expname"] for m in tree.products[0]["members"]] == ["d_cal.fits"]
    shutil.rmtree(tmp_path / "more")
    again = run("run", tmp_path / "in" / "no_asn.json", "-o", tmp_path / "more")
    assert_refused(again, "there is no such file")


# The list of levels for the skymatch step of JWST, without its packages


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fit_type": "level+slope"}, r"a_cal.fits: .* its correction is a plane"),
        (
            {"read": lm.ReadOptions(flux_scale=[1, 2, 1], apply_flux_scale=True)},
            r"b_cal.fits: .* it is multiplied by a factor",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::levelmatch.FluxScaleWarning")
def test_a_list_of_levels_refuses_all_but_levels(files, options, match, tmp_path):
    result = lm.match_dithers(files, **options)
    with pytest.raises(FrameError, match=match):
        write_skylist(result, tmp_path / "sky.txt")
    assert not (tmp_path / "sky.txt").exists()


def test_a_list_of_levels_refuses_patterns(files, tmp_path):
    result = lm.match_dithers(files)
    frame = result.frames[1]
    (applied,) = frame.corrections
    pattern = replace(applied.correction, pattern=np.full(5, 1e-3))
    frame = frame.with_keys(corrections=(replace(applied, correction=pattern),))
    result.products[1] = replace(result.products[1], frame=frame)
    with pytest.raises(FrameError, match=r"b_cal.fits: .* it has a pattern of the detector"):
        write_skylist(result, tmp_path / "sky.txt")
    assert not (tmp_path / "sky.txt").exists()


def test_a_list_of_levels(files, tmp_path):
    result = lm.match_mosaic(lm.match_dithers(files))
    path = write_skylist(result, tmp_path / "new" / "sky.txt")
    rows = [line.split() for line in path.read_text().splitlines()]
    assert [name for name, _ in rows] == list(LEVELS)
    totals = [frame.correction.constant for frame in result.frames]
    assert_allclose([float(level) for _, level in rows], totals, rtol=1e-8)
