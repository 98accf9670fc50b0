# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the command line: logs, additional files, names by path, and folders alone."""

import gzip
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from click.shell_completion import BashComplete
from helpers import assert_refused, run, succeed

from levelmatch import cli
from levelmatch.cli import inputs, options
from levelmatch.record.record_files import read_record
from levelmatch.testing import simulate_generic


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    sim = simulate_generic(n_images=4, shape=(64, 64), overlap=0.4, seed=3)
    return [str(path) for path in sim.write(tmp_path_factory.mktemp("raw"))]


@pytest.fixture(scope="module")
def matched(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "matched"
    succeed("run", *files, "-o", out)
    return out


# Files that may not be replaced


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        *[("run", f) for f in ("--table", "--regions", "--record", "--log", "--skylist")],
        ("run", "--skyfile"),
        *[("show", f) for f in ("--table", "--regions", "--log")],
    ],
)
@pytest.mark.parametrize("kind", ["image", "corrected", "gz"])
def test_no_other_output_replaces_an_image(files, matched, tmp_path, flag, kind, command):
    path = {"image": Path(files[1]), "corrected": matched / Path(files[1]).name}.get(kind)
    if path is None:
        path = tmp_path / "image.fits.gz"
        path.write_bytes(gzip.compress(Path(files[1]).read_bytes()))
    before = path.read_bytes()
    if command == "run":
        result = run("run", *files, "-o", tmp_path / "out", "--overwrite", flag, path)
    else:
        result = run("show", matched, "--overwrite", flag, path)
    assert_refused(result, path.name)
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_a_record_of_odd_options_is_named(files, matched, tmp_path):
    path, content = tmp_path / "odd.asdf", (matched / "levelmatch.asdf").read_bytes()
    assert b"hold: null" in content
    path.write_bytes(content.replace(b"hold: null", b"hold: 3   "))
    assert_refused(run("run", *files, "-o", tmp_path / "out", "--extend", path), "odd.asdf")


def test_records_are_replaced_by_records_alone(files, matched, tmp_path):
    record = tmp_path / "a.asdf"
    succeed("run", *files, "--dry-run", "--record", record)
    before = record.read_bytes()
    for flag in ("--regions", "--log", "--skylist"):
        result = run("run", *files, "-o", tmp_path / "out", "--overwrite", flag, record)
        assert_refused(result, "a.asdf is an image or a record")
    assert record.read_bytes() == before
    succeed("run", *files, "--dry-run", "--overwrite", "--record", record)
    table = tmp_path / "a.fits"
    for _ in range(2):
        succeed("show", matched, "--table", table, "--overwrite")


# Logs


def test_verbose_shows_each_step_once(files):
    result = succeed("run", *files, "--dry-run", "-v")
    assert "levelmatch.matching: measuring" in result.stderr
    # The headline solves again with planes, which is no step of the run.
    assert result.stderr.count("pass mosaic") == 1
    assert "terminal" not in result.stderr
    assert run("run", *files, "--dry-run").stderr == ""


def test_a_log_file_has_steps_warnings_and_errors(files, tmp_path):
    log = tmp_path / "run.log"
    succeed("run", *files, "--dry-run", "--log", log, "--combine-nircam-short")
    assert run("run", *files, "--dry-run", "--log", log, "--reference", "nobody").exit_code == 2
    text = log.read_text(encoding="utf-8")
    assert text.count("INFO levelmatch.terminal: levelmatch run ") == 2
    assert "INFO levelmatch.terminal: Reading 4 files in " in text
    assert "INFO levelmatch.matching: pass mosaic" in text
    assert "WARNING levelmatch.terminal: --combine-nircam-short: no image is" in text
    assert "ERROR levelmatch.terminal: --reference: 'nobody'" in text
    # The next command starts without handlers.
    assert all(isinstance(h, logging.NullHandler) for h in logging.getLogger("levelmatch").handlers)
    result = run("run", *files, "--dry-run", "--log", tmp_path / "none" / "run.log")
    assert_refused(result, "No such file")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_first_line_soon(files):
    """The first line appears within half a second on a free machine; the limit is wider."""
    reader, writer = pty.openpty()
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "levelmatch", "run", *files, "--dry-run"],
        stderr=writer,
        stdout=subprocess.DEVNULL,
    )
    os.close(writer)
    first = os.read(reader, 200).decode()
    took = time.monotonic() - start
    process.wait()
    os.close(reader)
    assert first.startswith("Reading 4 files in ")
    assert took < 5


# Files beside the images


def test_table_and_regions(files, tmp_path):
    table, regions = tmp_path / "levels.ecsv", tmp_path / "footprints.reg"
    result = succeed("run", *files, "--dry-run", "--table", table, "--regions", regions)
    assert "Dry run: no image was written." in result.stdout
    assert f"Written: {table}" in result.stdout
    found = QTable.read(table)
    assert list(found["name"]) == [Path(f).name for f in files]
    assert found["level"].unit == u.MJy / u.sr
    lines = regions.read_text(encoding="utf-8").splitlines()
    polygons = [line for line in lines if line.startswith("polygon(")]
    assert "icrs" in lines
    assert len(polygons) == 4
    # The corners of the polygon are the corners of the image.
    from astropy.wcs import WCS

    header = fits.getheader(files[0], "SCI")
    centre = WCS(header).pixel_to_world(31.5, 31.5)
    (numbers,) = re.findall(r"polygon\(([^)]*)\) # text=\{image_00000\.fits\}", polygons[0])
    corners = np.reshape([float(x) for x in numbers.split(",")], (-1, 2))
    assert len(np.unique(corners, axis=0)) == len(corners)
    away = centre.separation(SkyCoord(corners, unit="deg")).arcsec
    assert away.max() == pytest.approx(32 * np.sqrt(2) * 0.5, rel=0.02)


@pytest.mark.parametrize("end", [".csv", ".fits"])
def test_formats_of_the_table(matched, tmp_path, end):
    path = tmp_path / f"levels{end}"
    succeed("show", matched, "--table", path)
    assert len(QTable.read(path)) == 4


def test_a_dry_run_saves_its_record_and_minds_no_outputs(files, matched, tmp_path):
    record = tmp_path / "dry.asdf"
    succeed("run", *files, "-o", matched, "--dry-run", "--record", record, "--report")
    dry = read_record(record)
    assert (dry.table["level"] == read_record(matched / "levelmatch.asdf").table["level"]).all()
    assert dry.options["command"].startswith("levelmatch run ")
    # The record can be solved and shown.
    succeed("show", record)


@pytest.mark.parametrize("flag", ["--table", "--regions", "--record"])
def test_nothing_is_overwritten_in_silence(files, tmp_path, flag):
    path = tmp_path / "mine.ecsv"
    path.write_text("mine")
    result = run("run", *files, "--dry-run", flag, path)
    assert_refused(result, f"{path} exists; --overwrite replaces it")
    assert path.read_text() == "mine"
    if flag == "--record":
        # A file that is not a record is never replaced.
        again = run("run", *files, "--dry-run", flag, path, "--overwrite")
        assert "exists and is not a record" in again.stderr
        path.write_text("#ASDF mine")
    before = path.read_bytes()
    succeed("run", *files, "--dry-run", flag, path, "--overwrite")
    assert path.read_bytes() != before


def test_a_table_of_an_unknown_format(files, tmp_path):
    result = run("run", *files, "--dry-run", "--table", tmp_path / "levels.xyz")
    assert_refused(result, "levels.xyz: the name must end in .ecsv, .csv, .fits")


# Names by path, completion, the command line


def test_a_path_is_accepted_for_a_name(files, matched, tmp_path):
    result = run("run", *files, "--dry-run", "--reference", files[1])
    assert "Reference: image_00001.fits, named by the user." in result.stdout
    new = tmp_path / "new.asdf"
    # The path may name an output, or a file that has moved.
    names = "--exclude", matched / "image_00003.fits", "--reference", "gone/image_00000.fits"
    succeed("solve", matched, "-o", new, *names)
    assert read_record(new).names == ["image_00000.fits", "image_00001.fits", "image_00002.fits"]
    assert read_record(new).reference == "image_00000.fits"


def test_a_slash_in_the_name_of_a_tile_stays():
    assert options.REFERENCE.convert("M 31/32", None, None) == "M 31/32"


def test_completion_of_references(files, matched):
    def words(incomplete, *args):
        shell = BashComplete(cli.main, {}, "levelmatch", "_LEVELMATCH_COMPLETE")
        return [item.value for item in shell.get_completions([str(a) for a in args], incomplete)]

    names = [Path(f).name for f in files]
    assert words("", "run", *files, "--dry-run", "--reference") == ["auto", "mean", *names]
    assert words("image_00002", "run", *files, "--reference") == ["image_00002.fits"]
    assert words("image", "run", Path(files[0]).parent, "--reference") == names
    for record in (matched, matched / "levelmatch.asdf"):
        assert words("image", "solve", record, "-o", "x", "--reference") == names
    assert words("image", "solve", matched, "--exclude") == names
    assert words("image", "solve", "gone", "--exclude") == words("x", "run", "--reference") == []


def test_the_command_is_recorded_with_few_files(files, matched):
    command = read_record(matched / "levelmatch.asdf").options["command"]
    assert command == f"levelmatch run {files[0]} ... {files[3]} (4 files) -o {matched}"
    assert f"Command: {command}" in run("show", matched).stdout


# A folder alone


def test_undo_of_a_folder_alone(files, matched, tmp_path):
    result = succeed("undo", matched, "-o", tmp_path / "back")
    assert "Written: 4 images" in result.stdout
    for path in files:
        before, after = (
            fits.getdata(f, "SCI") for f in (path, tmp_path / "back" / Path(path).name)
        )
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_verify_and_apply_without_files(files, matched, tmp_path):
    assert "4 images follow" in run("verify", matched).stdout
    succeed("apply", matched, "-o", tmp_path / "again")
    for path in files:
        name = Path(path).name
        assert (tmp_path / "again" / name).read_bytes() == (matched / name).read_bytes()


def test_undo_without_images_beside_the_record(matched, tmp_path):
    (tmp_path / "levelmatch.asdf").write_bytes((matched / "levelmatch.asdf").read_bytes())
    result = run("undo", tmp_path, "-o", tmp_path / "back")
    assert_refused(result, "has no image of levelmatch.asdf; name the files")


def test_empty_paths_are_refused(files, matched, tmp_path, monkeypatch):
    """An unset variable of the shell does not stand for the current folder."""
    folder = Path(files[0]).parent
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    for command in (
        ["run", "", "-o", tmp_path / "a"],
        ["run", *files, "-o", ""],
        ["run", *files, "-o", tmp_path / "a", "--table", ""],
        ["undo", matched, "-o", ""],
        ["verify", ""],
        ["demo", ""],
    ):
        assert_refused(run(*command), "the path is empty")
    assert sorted(folder.iterdir()) == before
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system cannot read ahead")
def test_files_are_read_ahead_until_the_context_ends(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("fifo", "a.fits", "gone.fits", "b.fits", "c.fits")]
    os.mkfifo(paths[0])
    for path, size in zip(paths[1:], (5, 0, 7, 9), strict=True):
        path.write_bytes(bytes(size))
    paths[2].unlink()
    asked, reached, proceed = [], threading.Event(), threading.Event()

    def advise(file, start, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        asked.append((os.fstat(file).st_size, start, length))
        if len(asked) == 3:
            reached.set()
            proceed.wait(10)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(inputs, "REQUEST", 4)
    before = set(threading.enumerate())
    with inputs.reading_ahead([tmp_path / (300 * "a"), *paths]):
        (thread,) = set(threading.enumerate()) - before
        assert reached.wait(10)
    proceed.set()
    thread.join(10)
    assert asked == [(5, 0, 4), (5, 4, 4), (7, 0, 4)]
    monkeypatch.delattr(os, "posix_fadvise")
    with inputs.reading_ahead(paths):
        assert set(threading.enumerate()) == before


@pytest.mark.parametrize(
    ("given", "threads"),
    [({}, 1), ({"OMP_NUM_THREADS": "2"}, 2), ({"OPENBLAS_NUM_THREADS": "2"}, 2)],
)
def test_commands_use_one_thread_of_blas(files, given, threads):
    """Unless the environment says otherwise."""
    code = """
import os
import sys
from levelmatch.cli import main
assert "numpy" not in sys.modules
main(sys.argv[1:], standalone_mode=False)
from threadpoolctl import threadpool_info
used = {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}
print(os.environ["OMP_NUM_THREADS"], *used)
"""
    env = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", code, "run", *map(str, files), "--dry-run", "--quiet"]
    done = subprocess.run(command, env=env | given, capture_output=True, text=True, check=True)
    number, *used = map(int, done.stdout.splitlines()[-1].split())
    assert number == int(given.get("OMP_NUM_THREADS", 1))
    # No BLAS at all is listed for some systems.
    assert set(used) <= {min(threads, os.cpu_count())}


@pytest.mark.parametrize("command", ["run", "show"])
def test_files_in_a_closed_folder(monkeypatch, command):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert_refused(run(command, "closed/a.fits"), "closed/a.fits: Permission denied", code=1)
