# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the commands that use a record: printed lines and refusals."""

import json
import re
import shutil

import pytest
from helpers import assert_refused, run, succeed

import levelmatch as lm
from levelmatch.record.record_files import read_record
from levelmatch.testing import simulate_generic, simulate_miri


@pytest.fixture(scope="module")
def matched(tmp_path_factory):
    """Return the inputs and the record of a run."""
    folder = tmp_path_factory.mktemp("run")
    simulated = simulate_generic(n_images=4, shape=(64, 64), noise=0.1, stars=False)
    paths = simulated.write(folder / "raw")
    lm.match_levels(paths, group_by="FILENAME").write(folder / "matched")
    return paths, folder / "matched" / "levelmatch.asdf"


def test_the_record_of_images_is_not_replaced(matched):
    _, record = matched
    before = record.read_bytes()
    done = run("solve", record, "-o", record, "--overwrite")
    assert_refused(done, "levelmatch.asdf is RECORD, which the corrected images name; name another")
    assert record.read_bytes() == before


def test_a_folder_stands_for_its_record(matched):
    _, record = matched
    assert run("show", record.parent).stdout == run("show", record).stdout
    done = run("show", matched[0][0])
    assert_refused(done, "image_00000.fits is an image, not the record of a run (levelmatch.asdf)")
    done = run("show", record.parent / "image_00000.fits")
    assert_refused(done, "not the record of a run; levelmatch.asdf beside it is one")
    assert_refused(run("show", matched[0][0].parent), "No such file")


@pytest.mark.parametrize("name", ["image3_levelmatch.asdf", "r00001_levelmatch.record"])
def test_a_folder_stands_for_the_record_of_a_step(matched, tmp_path, name):
    """A step of a pipeline names its record after its association."""
    _, record = matched
    for path in record.parent.glob("*.fits"):
        shutil.copy(path, tmp_path)
    # The step of Roman saves its images with the same ending.
    (tmp_path / "image_levelmatch.asdf").write_bytes(b"#ASDF 1.0.0\nlevelmatch: {}\n")
    shutil.copy(record, tmp_path / name)
    assert "images follow from the inputs" in run("verify", tmp_path).stdout
    shutil.copy(record, tmp_path / "other_levelmatch.asdf")
    refused = run("verify", tmp_path)
    assert_refused(refused, "it has 2 records: ")


def test_pairs_can_be_read(matched, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = run("show", matched[1], "--pairs").stdout.splitlines()
    assert lines[0].split() == [
        "image1",
        "image2",
        "before",
        "error",
        "after",
        "after",
        "pixels",
        "kept",
    ]
    assert lines[1].split() == ["MJy/sr", "MJy/sr", "MJy/sr", "sigma"]
    pairs = read_record(matched[1]).pairs
    assert len(lines) == len(pairs) + 2
    assert max(map(len, lines)) <= 100
    words = lines[2].split()
    assert words[:2] == ["image_00000.fits", "image_00001.fits"]
    assert float(words[2]) == pytest.approx(pairs["level"][0].value, abs=0.01)
    assert words[-1] == "yes"
    assert len(json.loads(run("show", matched[1], "--json", "--pairs").stdout)["pairs"]) == len(
        pairs
    )


@pytest.mark.parametrize("columns", [80, 72])
def test_long_names_of_pairs_are_shortened(tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    paths = simulate_miri(tiles=(1, 2), n_dithers=2, shape=(64, 65)).write(tmp_path / "raw")
    lm.match_levels(paths).write(tmp_path / "matched")
    *lines, below = run("show", tmp_path / "matched", "--pairs").stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert below.startswith("image1, image2: the parts * of jw02107")
    assert len({tuple(line.split()[:2]) for line in lines[2:]}) == len(lines) - 2


def test_a_report_on_another_run_is_not_replaced(matched, tmp_path, monkeypatch):
    monkeypatch.setattr("levelmatch.report.page.has_matplotlib", lambda: False)
    page, other = tmp_path / "page.html", tmp_path / "other.asdf"
    succeed("report", matched[1], "-o", page)
    # A report on the same record is a report on the same run.
    succeed("report", matched[1], "-o", page, "--title", "Again")
    assert "<title>Again</title>" in page.read_text(encoding="utf-8")
    run("solve", matched[1], "-o", other, "--weights", "equal")
    before = page.read_bytes()
    assert_refused(run("report", other, "-o", page), "page.html exists; --overwrite replaces it")
    assert page.read_bytes() == before
    succeed("report", other, "-o", page, "--overwrite")
    assert page.read_bytes() != before
    page.write_text("mine", encoding="utf-8")
    done = run("report", other, "-o", page, "--overwrite")
    assert_refused(done, "is not a page of levelmatch; name another")


def test_pairs_left_out_say_why(matched, tmp_path):
    new = tmp_path / "new.asdf"
    run("solve", matched[1], "-o", new, "--min-linear", "0.3")
    assert "no: extent" in run("show", new, "--pairs").stdout


def test_images_that_a_record_left_out_are_skipped(matched, tmp_path):
    paths, record = matched
    new = tmp_path / "new.asdf"
    run("solve", record, "-o", new, "--exclude", paths[3].name)
    done = succeed("apply", new, *paths, "-o", tmp_path / "out")
    assert done.stderr == "Note: excluded, as in the record: image_00003.fits\n"
    assert not (tmp_path / "out" / paths[3].name).exists()
    succeed("mosaic", new, *paths, "-o", tmp_path / "mosaic.fits")
    # A complete record refuses an additional image.
    more = tmp_path / "more.fits"
    more.write_bytes(paths[3].read_bytes())
    assert_refused(run("apply", new, *paths[:3], more, "-o", tmp_path / "b"), "no such image")


def test_inputs_are_no_outputs(matched):
    done = run("verify", matched[1], *matched[0])
    assert_refused(done, "image_00000.fits: its header names no record; name the corrected")


def test_another_record_is_named_in_short(matched, tmp_path):
    paths, record = matched
    new = tmp_path / "new.asdf"
    run("solve", record, "-o", new)
    done = run("verify", new, *(record.with_name(path.name) for path in paths))
    assert_refused(done, "its header names another record (")
    assert len(re.search(r"another record \((\w+)\)", done.stderr)[1]) == 8


def test_passes_that_are_not_there(matched, tmp_path):
    done = run("solve", matched[1], "-o", tmp_path / "n.asdf", "--fit-type", "lyot=level")
    words = "--fit-type: the record has no pass 'lyot', its passes are dithers, mosaic"
    assert_refused(done, words)


def test_solve(matched, tmp_path):
    done = succeed("solve", matched[1], "-o", tmp_path / "new.asdf", "--reference", "1")
    assert "Reference: image_00001.fits, named by the user." in done.stdout
