# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the side-by-side benchmark: scores, tables and measured runs."""

import importlib
import json
import sys
from pathlib import Path

import docutils.core
import numpy as np
import pytest
from astropy.io import fits

import levelmatch as lm
from levelmatch.sky.vectors import plane_terms, tangent_axes, unit_vectors
from levelmatch.testing import simulate_generic

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Return the modules of the benchmark by name."""
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not beside the tests")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER / "peers"))
    names = ("sets", "processes", "peers_table", "peers", "common")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def record(peer, **changes):
    """Return a kept result of a package on the MIRI simulation."""
    base = {
        "peer": peer,
        "set": "miri",
        "seed": 0,
        "status": "measured",
        "seconds": 2.0,
        "wall": 4.0,
        "cpu": 5.0,
        "memory": 2**30,
        "level_error": 0.0123,
        "plane_error": 0.0045,
    }
    return base | changes


def cells(text, label):
    """Return the cells of the row with a label."""
    (line,) = [line for line in text.splitlines() if line.startswith(label)]
    return line.removeprefix(label).split()


def test_errors_are_those_of_what_was_found(bench):
    truth = simulate_generic(n_images=4, shape=(48, 48), slope=0.5).truth
    rows = ["level", "slope_u", "slope_v"]
    found = {str(row["name"]): [row[c].value + (c == "level") for c in rows] for row in truth}
    exact = bench["peers"].errors_of(found, truth, "level+slope")
    assert exact["level_error"] < 1e-12
    assert exact["plane_error"] < 1e-9
    first = str(truth["name"][0])
    found[first][0] += 0.4
    moved = bench["peers"].errors_of(found, truth, "level+slope")
    # One of four values is off by 0.4, which gives an rms of 0.4 * sqrt(3) / 4.
    np.testing.assert_allclose(moved["level_error"], 0.1 * np.sqrt(3), rtol=1e-9)
    assert 0 < moved["plane_error"] < moved["level_error"]
    levels = {name: plane[0] for name, plane in found.items()}
    # Missing slopes count as errors.
    assert bench["peers"].errors_of(levels, truth, "level")["plane_error"] > moved["plane_error"]


def test_table(bench):
    text = bench["peers_table"].write_table(
        [
            record("pjpipe", seconds=114.2, wall=120.0, memory=3 * 2**30),
            record("levelmatch"),
            record("montage", status="timeout", limit=600.0),
            record("wiimatch", status="failed", reason="MemoryError"),
            record("reproject", status="cannot", reason="it has levels only"),
        ],
        bench["peers"].PEERS,
        "a machine",
    )
    assert cells(text, "levelmatch ") == "2.00 1.00 4.00 1.00 5.00 1.00 0.0123 0.0045".split()
    assert cells(text, "PJPipe ``LevelMatchStep`` ")[:4] == ["114", "57.1", "120", "30.0"]
    assert cells(text, "Montage ")[:8] == "> 600 > 300 > 600 > 150".split()
    assert "* Montage: ended after 600 s." in text
    assert "* wiimatch: failed: ``MemoryError``." in text
    assert "* reproject ``match_background``: cannot: ``it has levels only``." in text
    rows = [line.split()[0] for line in text.splitlines() if "``LevelM" in line or "levelm" in line]
    assert rows.index("levelmatch") < rows.index("PJPipe")
    # A warning would raise an error here.
    docutils.core.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 5})


def test_table_without_levelmatch_has_no_ratios(bench):
    text = bench["peers_table"].write_table([record("montage")], bench["peers"].PEERS, "a machine")
    assert cells(text, "Montage ")[:4] == ["2.00", "–", "4.00", "–"]


def test_errors_over_sets_are_compared_on_the_same_ones(bench):
    records = [
        record("levelmatch", level_error=3e-3, plane_error=1e-3),
        record("levelmatch", seed=1, level_error=4e-3, plane_error=1e-3),
        record("levelmatch", seed=2, level_error=9.0),
        record("montage", level_error=6e-3, plane_error=2e-3),
        record("montage", seed=1, level_error=8e-3, plane_error=2e-3),
        # A single simulation has no statement on the scatter.
        record("wiimatch"),
    ]
    text = bench["peers_table"].write_table(records, bench["peers"].PEERS, "a machine")
    rows = [line.split() for line in text.splitlines() if line.startswith("Montage ")]
    # sqrt((36 + 64) / 2) and 2.
    assert rows[1][1:] == ["2", "0.00707", "2.00", "0.00200", "2.00"]
    assert len([line for line in text.splitlines() if line.startswith("wiimatch ")]) == 1
    docutils.core.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 5})


def test_kept_records_are_taken(bench, tmp_path, monkeypatch):
    peers = bench["peers"]
    args = peers.parse(["--results", str(tmp_path)])
    calls = []

    def measure(peer, name, args, seed):
        calls.append((name, seed))
        return record(peer.name)

    monkeypatch.setattr(peers, "new_record", measure)
    peer = peers.PEERS["stcal"]
    first = peers.record_of(peer, "miri", args)
    assert peers.record_of(peer, "miri", args) == first
    assert calls == [("miri", 0)]
    assert peers.kept_records(tmp_path) == [first]
    # Results of another machine are not used.
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(first | {"machine": "another"}))
    assert peers.kept_records(tmp_path) == []
    peers.record_of(peer, "miri", args)
    args.again = True
    peers.record_of(peer, "miri", args)
    peers.record_of(peer, "miri", args, seed=1)
    assert calls == [("miri", 0)] * 3 + [("miri", 1)]
    assert [kept["seed"] for kept in peers.kept_records(tmp_path)] == [0, 1]


def test_what_a_peer_cannot_do_is_said(bench, tmp_path):
    peers = bench["peers"]
    args = peers.parse(["--results", str(tmp_path), "--folder", str(tmp_path)])
    found = peers.record_of(peers.PEERS["stcal"], "miri-planes", args)
    assert found["status"] == "cannot"
    assert found["reason"] == "it has levels only"


def test_every_peer_is_pinned_and_has_a_runner(bench):
    for peer in bench["peers"].PEERS.values():
        assert (FOLDER / "peers" / f"run_{peer.name}.py").exists()
        assert all("==" in requirement for requirement in peer.requirements)


def test_plane_of_a_difference(bench, tmp_path):
    simulation = simulate_generic(n_images=2, shape=(48, 64), slope=0.5)
    (before, _), row = simulation.write(tmp_path), simulation.truth[0]
    plane = [row[c].value for c in ("level", "slope_u", "slope_v")]
    wcs = simulation.images[0].wcs
    y, x = np.mgrid[:48, :64]
    # The subtracted plane has the same definition as the truth.
    ra, dec = wcs.all_pix2world(x, y, 0)
    center = np.radians(wcs.all_pix2world(31.5, 23.5, 0))
    axes = tangent_axes(unit_vectors(*np.degrees(center)))
    surface = plane_terms(unit_vectors(ra, dec), axes) @ plane
    with fits.open(before) as hdus:
        hdus["SCI"].data = hdus["SCI"].data - surface
        hdus.writeto(tmp_path / "after.fits")
    found = bench["common"].plane_of_difference(before, tmp_path / "after.fits")
    np.testing.assert_allclose(found, plane, atol=1e-5)


def test_a_process_is_measured_with_its_children(bench, tmp_path):
    child = "x = b'1' * 150_000_000; import time; time.sleep(0.5)"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    took = bench["processes"].measure(
        [sys.executable, "-c", source], log=tmp_path / "log", limit=60
    )
    assert took.code == 0
    assert not took.timed_out
    assert took.wall > 0.5
    assert took.memory > 150_000_000


def test_a_process_that_takes_too_long_is_ended(bench, tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    took = bench["processes"].measure(command, log=tmp_path / "log", limit=0.3)
    assert took.timed_out
    assert took.code != 0
    assert took.wall < 30


@pytest.fixture
def sweeps(monkeypatch):
    """The module of the sweeps."""
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not beside the tests")
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("sweeps")
    for name in ("sweeps", "mutations"):
        sys.modules.pop(name, None)


def test_sweeps_name_the_ends_of_commands(sweeps, tmp_path):
    path, output = tmp_path / "b.fits", tmp_path / "out"
    arguments = ["apply", path, "-o", output]

    def end(code, output_text, foreign=""):
        answer = {"code": code, "output": output_text, "foreign": foreign}
        return sweeps.end_of(answer, arguments, path, output)

    assert end(0, "") == "ok"
    assert end(2, "Error: b.fits: it is odd") == "refused"
    assert end(2, "Error: it is odd") == "unnamed"
    assert end(1, "Error: b.fits: KeyError") == "exit 1"
    assert end(1, "", "KeyError()") == "foreign"
    assert end(0, "Warning: VerifyWarning: b.fits: odd") == "ok"
    assert end(0, "Warning: VerifyWarning: odd") == "warned"
    assert end(2, "Error: b.fits: \x1b[31m") == "raw"
    assert sweeps.end_of("hang", arguments, path, output) == "hang"
    output.mkdir()
    (output / "half.fits").write_bytes(b"")
    assert end(2, "Error: b.fits: it is odd") == "left"


def test_sweeps_find_wrong_results(sweeps, tmp_path):
    inputs = sweeps.write_images(tmp_path / "in", "planes")
    outputs = sweeps.write_images(tmp_path / "out", "planes")
    levels = list(sweeps.LEVELS.values())
    for good in (True, False):
        for path, original, level in zip(outputs, inputs, levels, strict=True):
            with fits.open(original) as hdus:
                hdus["SCI"].data -= np.float32(level)
                hdus.writeto(path, overwrite=True)
        assert sweeps._agrees(inputs, outputs) is good
        levels[1] += 0.2


@pytest.mark.parametrize("sweep", ["fits-plain", "record", "tree", "config"])
def test_sweeps_repeat_their_cases(sweeps, row, tmp_path, sweep):
    good = lm.match_levels(row[1]).record.content
    if sweep == "config":
        good = [tmp_path / "a.fits"]
    elif sweep == "fits-plain":
        good = sweeps.write_images(tmp_path, "plain")[1].read_bytes()
    cases = [sweeps.case(sweep, k, 0, good) for k in range(20)]
    assert cases == [sweeps.case(sweep, k, 0, good) for k in range(20)]
    assert len(set(cases)) > 15
    assert cases[0] != sweeps.case(sweep, 0, 1, good)


def test_a_survey_finds_the_offsets_of_its_detectors(monkeypatch):
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not beside the tests")
    monkeypatch.syspath_prepend(str(FOLDER))
    steps, error = importlib.import_module("survey").run(720)
    assert error < 0.03
    assert {"overlaps", "passes", "offsets"} <= set(steps)
