# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of stored pairs: extended records, and interrupted runs."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits
from helpers import succeed
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.exceptions import RecordError
from levelmatch.measure import pair_selection as pipeline, pair_store
from levelmatch.measure.pair_store import ENTRY, MAGIC, PairFile
from levelmatch.measure.table import PAIR
from levelmatch.record.record_files import read_record
from levelmatch.testing import simulate_miri


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Return files of a row of five tiles of four dithers."""
    simulated = simulate_miri(tiles=(1, 5), shape=(96, 97), seed=3)
    return simulated.write(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def measured(monkeypatch):
    """Return the names of pairs in the order in which they are measured."""
    seen = []
    original = pipeline.measure_pairs

    def spy(frames, pairs, *args, **keywords):
        seen.extend({frames[i].name, frames[j].name} for i, j in pairs.tolist())
        return original(frames, pairs, *args, **keywords)

    monkeypatch.setattr(pipeline, "measure_pairs", spy)
    return seen


def assert_same(one, other):
    for name in ("level", "error"):
        assert_allclose(one.table[name].value, other.table[name].value, rtol=1e-12, atol=1e-12)
    assert_array_equal(one.pairs["level"], other.pairs["level"])
    assert_array_equal(one.pairs["kept"], other.pairs["kept"])


def test_an_extended_record_equals_a_full_run(raw, measured):
    known = lm.match_levels(raw[:16])
    first = len(measured)
    record = known.record
    del measured[:]
    extended = lm.match_levels(raw, measure=lm.MeasureOptions(extend=record))
    new = {path.name for path in raw[16:]}
    assert measured
    assert all(pair & new for pair in measured)
    count = len(measured)
    whole = lm.match_levels(raw)
    assert len(measured) - count == first + count
    assert_same(extended, whole)
    # The extended record can be extended in turn.
    del measured[:]
    assert_same(lm.match_levels(raw, measure=lm.MeasureOptions(extend=extended.record)), whole)
    assert measured == []


def test_pairs_whose_noise_a_new_image_shares_are_measured_again(paint, measured):
    images = [paint(f"{n}.fits", (0, 16 * k)) for k, n in enumerate("abc")]
    record = lm.match_levels(images[:2]).record
    del measured[:]
    extended = lm.match_levels(images, measure=lm.MeasureOptions(extend=record))
    assert {"a.fits", "b.fits"} in measured
    assert_same(extended, lm.match_levels(images))


def test_what_changed_is_measured_again(raw, tmp_path, measured):
    record = lm.match_levels(raw[:8]).record
    changed = []
    for path in raw[:8]:
        with fits.open(path) as hdus:
            if path == raw[2]:
                hdus["SCI"].data[10:20, 10:20] += 0.1
            if path == raw[5]:
                hdus["SCI"].header["CRPIX1"] += 0.1
            if path == raw[6]:
                hdus["DQ"].data[3, 3] = 1
            hdus.writeto(tmp_path / path.name)
        changed.append(tmp_path / path.name)
    touched = {raw[k].name for k in (2, 5, 6)}
    del measured[:]
    extended = lm.match_levels(changed, measure=lm.MeasureOptions(extend=record))
    again = list(measured)
    assert all(pair & touched for pair in again if len(pair) == 2 and pair <= touched)
    assert touched <= set().union(*again)
    assert_same(extended, lm.match_levels(changed))


@pytest.mark.parametrize("options", [{"clip": 4.0}, {"location": "median"}])
def test_other_options_measure_again(raw, measured, options):
    record = lm.match_levels(raw[:4]).record
    count = len(measured)
    del measured[:]
    lm.match_levels(raw[:4], measure=lm.MeasureOptions(**options, extend=record))
    assert len(measured) == count
    del measured[:]
    lm.match_levels(raw[:4], measure=lm.MeasureOptions(n_workers=1, extend=record))
    assert measured == []


def test_another_way_to_measure_measures_again(raw, measured, monkeypatch):
    record = lm.match_levels(raw[:4]).record
    count = len(measured)
    del measured[:]
    monkeypatch.setattr(pair_store, "ALGORITHM", pair_store.ALGORITHM + 1)
    lm.match_levels(raw[:4], measure=lm.MeasureOptions(extend=record))
    assert len(measured) == count


def test_a_budget_is_no_part_of_a_measurement(raw, measured):
    thin = lm.SolveOptions(max_pairs=2)
    record = lm.match_levels(raw[:8], solve=thin).record
    del measured[:]
    extended = lm.match_levels(raw[:8], measure=lm.MeasureOptions(extend=record))
    assert measured
    assert_same(extended, lm.match_levels(raw[:8]))


# The file of pairs


def rows_of(n, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        row = np.zeros((), PAIR)
        for name in PAIR.names:
            row[name] = rng.normal(size=row[name].shape)
        row["npix"] = rng.integers(1000)
        rows.append(row[()])
    return rows


def key(k):
    return bytes([k]) * 32


def test_rows_come_back(tmp_path):
    file = PairFile(tmp_path / "new" / "pairs")
    rows = rows_of(3)
    file.append([key(0)], rows[:1])
    file.append([key(1), key(2)], rows[1:])
    found = PairFile(file.path).read()
    for k, row in enumerate(rows):
        for name in PAIR.names:
            assert_array_equal(found[key(k)][name], row[name])
    file.path.unlink()
    assert not file.exists()
    assert file.read() == {}


@pytest.mark.parametrize("lost", [1, 100, ENTRY.itemsize - 1, ENTRY.itemsize])
def test_an_unfinished_entry_is_lost_alone(tmp_path, lost):
    file = PairFile(tmp_path / "pairs")
    rows = rows_of(4)
    file.append([key(k) for k in range(3)], rows[:3])
    with open(file.path, "r+b") as stream:
        stream.truncate(file.path.stat().st_size - lost)
    assert set(file.read()) == {key(0), key(1)}
    file.append([key(3)], rows[3:])
    assert set(file.read()) == {key(0), key(1), key(3)}


def test_new_columns_have_a_new_first_line():
    """Entries of another size would be read as unfinished ones."""
    assert (MAGIC, ENTRY.itemsize) == (b"levelmatch pairs 6\n", 676)


def test_a_changed_entry_is_not_read(tmp_path):
    file = PairFile(tmp_path / "pairs")
    file.append([key(k) for k in range(3)], rows_of(3))
    content = bytearray(file.path.read_bytes())
    content[len(MAGIC) + ENTRY.itemsize + 50] ^= 1
    file.path.write_bytes(content)
    assert set(file.read()) == {key(0), key(2)}


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("something else, and longer than the first line")
    with pytest.raises(RecordError, match="mine: not a file of pairs"):
        PairFile(tmp_path / "mine").read()
    assert "something else" in (tmp_path / "mine").read_text()


@pytest.mark.parametrize("version", range(1, int(MAGIC.split()[-1])))
def test_a_file_of_older_pairs_is_measured_again(tmp_path, version):
    file = PairFile(tmp_path / "pairs")
    file.path.write_bytes(b"levelmatch pairs %d\n" % version + bytes(5000))
    assert file.read() == {}
    file.append([key(0)], rows_of(1))
    assert set(file.read()) == {key(0)}
    assert file.path.stat().st_size == len(MAGIC) + ENTRY.itemsize


def test_an_interrupted_run_goes_on(raw, tmp_path, measured, monkeypatch):
    checkpoint = tmp_path / "out" / "pairs"
    original, stop = PairFile.append, []

    def append(self, keys, rows):
        original(self, keys, rows)
        stop.append(len(rows))
        if sum(stop) >= 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(PairFile, "append", append)
        with pytest.raises(KeyboardInterrupt):
            lm.match_levels(raw[:8], measure=lm.MeasureOptions(checkpoint=checkpoint))
    whole = len(measured)
    del measured[:]
    result = lm.match_levels(raw[:8], measure=lm.MeasureOptions(checkpoint=checkpoint))
    assert len(measured) == whole - sum(stop)
    assert_same(result, lm.match_levels(raw[:8]))


def test_an_error_of_the_input_leaves_nothing(paint, tmp_path):
    images = [paint(f"{n}.fits", (0, 16 * k)) for k, n in enumerate("ab")]
    checkpoint = tmp_path / "out" / "pairs"
    images[0].data[:] = np.nan
    with pytest.raises(lm.FrameError, match=r"a\.fits: the image has no good pixel"):
        lm.match_levels(images, measure=lm.MeasureOptions(checkpoint=checkpoint))
    assert not checkpoint.parent.exists()


def test_a_checkpoint_without_pairs(paint, tmp_path):
    with pytest.warns(lm.LevelMatchWarning, match="a.fits is the only image"):
        lm.match_levels(
            [paint("a.fits")], measure=lm.MeasureOptions(checkpoint=tmp_path / "out" / "pairs")
        )
    assert PairFile(tmp_path / "out" / "pairs").read() == {}


# The command


def command(*args):
    code = "import sys; from levelmatch.cli import main; main(prog_name='levelmatch')"
    return [sys.executable, "-c", code, *map(str, args)]


def contents(folder):
    """Return the pixels of each complete file; fail for an incomplete one."""
    out = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".fits":
            with fits.open(path) as hdus:
                hdus.verify("exception")
                out[path.name] = [h.data.tobytes() for h in hdus if h.data is not None]
        elif path.suffix == ".asdf":
            read_record(path)
        elif path.name != ".levelmatch-lock":
            assert path.name == ".levelmatch-pairs"
            PairFile(path).read()
    return out


def test_killed_at_any_moment(raw, tmp_path, snapshot):
    files, before = raw[:8], snapshot(raw[:8])
    args = ["run", *files, "-o"]
    start = time.perf_counter()
    subprocess.run(command(*args, tmp_path / "whole", "-q"), check=True)
    lasted = time.perf_counter() - start
    whole = contents(tmp_path / "whole")
    rng = np.random.default_rng(0)
    for k in range(3):
        out = tmp_path / f"out{k}"
        process = subprocess.Popen(command(*args, out, "-q"))
        time.sleep(rng.uniform(0.5, 1.0) * lasted)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            contents(out)
        if process.returncode == 0:
            continue
        known = PairFile(out / ".levelmatch-pairs")
        finished = not known.exists() and (out / "levelmatch.asdf").exists()
        again = [] if finished else [command(*args, out, "-q")]
        for line in again:
            subprocess.run(line, check=True)
        assert contents(out) == whole
        assert not known.exists()
    assert snapshot(files) == before


def test_outputs_of_another_are_not_replaced(raw, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / raw[0].name).write_text("mine")
    done = subprocess.run(
        command("run", *raw[:4], "-o", out), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--overwrite replaces it" in done.stderr
    assert os.listdir(out) == [raw[0].name]


def test_extended_by_the_command(raw, tmp_path, measured):
    options = ["--fit-type-mosaic-tiles", "level+slope", "--max-pairs", 12]
    succeed("run", *raw[:16], "-o", tmp_path / "a", *options)
    del measured[:]
    record = tmp_path / "a" / "levelmatch.asdf"
    new = ["run", *raw[16:], "-o", tmp_path / "b", "--extend", record]
    succeed(*new)
    assert all(pair & {path.name for path in raw[16:]} for pair in measured)
    solve = lm.SolveOptions(max_pairs=12)
    whole = lm.match_levels(raw, fit_type_mosaic_tiles="level+slope", solve=solve)
    assert_same(read_record(tmp_path / "b" / "levelmatch.asdf"), whole)
    # The command line has priority over the record.
    succeed(*new, "--weights", "equal", "--overwrite")
    again = read_record(tmp_path / "b" / "levelmatch.asdf")
    assert again.options["solve"]["weights"] == "equal"
    assert again.options["passes"][-1]["fit_type"] == "level+slope"
