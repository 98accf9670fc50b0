# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of inputs that are replaced between measuring and writing, or are damaged."""

import gzip
import os
import shutil

import numpy as np
import pytest
from astropy.io import fits

import levelmatch as lm
from levelmatch.cli import main
from levelmatch.results import files


@pytest.fixture(params=["plain", "gz"])
def paths(request, write_row):
    return write_row(suffix=".fits" if request.param == "plain" else ".fits.gz")


def match(paths, **options):
    return lm.match_mosaic(paths, group_by="FILENAME", reference=0, **options)


def replace(path, *, keep_time, change=10.0):
    """Replace a file by one of the same size with other pixels, like another program."""
    before = os.stat(path)
    new = path.with_name("new" + path.name)
    with fits.open(path) as hdus:
        hdus["SCI"].data += np.float32(change)
        hdus.writeto(new)
    os.replace(new, path)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("how", ["write", "record", "index"])
def test_a_file_that_was_replaced_is_refused(paths, tmp_path, keep_time, how):
    result = match(paths)
    replace(paths[1], keep_time=keep_time)
    use = {
        "write": lambda: result.write(tmp_path / "out"),
        "record": lambda: result.write(tmp_path / "out", record=False),
        "index": lambda: result[1],
    }[how]
    name = paths[1].name.replace(".", r"\.")
    with pytest.raises(lm.FrameError, match=rf"{name}: the file changed after it was read \("):
        use()
    assert not (tmp_path / "out").exists()


def test_flags_that_were_replaced_are_refused(paths, tmp_path):
    result = match(paths)
    before = os.stat(paths[1])
    with fits.open(paths[1]) as hdus:
        hdus["DQ"].data[4:9] = 1
        hdus.writeto(tmp_path / paths[1].name)
    os.replace(tmp_path / paths[1].name, paths[1])
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(lm.FrameError, match=r"b\.fits.*: the file changed after it was read"):
        result.write(tmp_path / "out")


def test_a_file_of_other_size_is_named_with_its_sizes(paths, tmp_path):
    result = match(paths)
    size = paths[1].stat().st_size
    paths[1].write_bytes(paths[1].read_bytes() + bytes(2880))
    with pytest.raises(lm.FrameError, match=rf"\({size + 2880} bytes, formerly {size}\)"):
        result.write(tmp_path / "out")


def test_a_file_with_the_same_pixels_is_not_refused(paths, tmp_path):
    result = match(paths)
    os.chmod(paths[0], 0o600)
    copy = shutil.copy2(paths[1], tmp_path)
    os.replace(copy, paths[1])
    assert len(result.write(tmp_path / "out")) == 3


def test_a_file_replaced_while_pairs_are_measured(paths, tmp_path):
    def bar(pairs):
        for k, pair in enumerate(pairs):
            if k == 1:
                replace(paths[2], keep_time=False)
            yield pair

    options = lm.MeasureOptions(n_workers=1)
    with pytest.raises(lm.FrameError, match=r"c\.fits.*: the file changed after it was read"):
        match(paths, progress_bar=bar, measure=options).write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_replaced_while_it_is_written(paths, tmp_path, monkeypatch):
    result = match(paths)

    calls = []

    def replacing(splice):
        def replaced(raw, *rest):
            calls.append(raw)
            if len(calls) == 2:
                replace(paths[1], keep_time=True)
            splice(raw, *rest)

        return replaced

    # One file after the other, so that the second call is the second file.
    monkeypatch.setattr(files, "N_WRITERS", 1)
    # Plain and other files use different writers.
    for name in ("splice", "splice_places"):
        monkeypatch.setattr(files, name, replacing(getattr(files, name)))
    with pytest.raises(lm.FrameError, match=r"b\.fits.*: the file changed after it was read"):
        result.write(tmp_path / "out")
    found = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert found == [paths[0].name, "levelmatch.asdf"]


def test_verify_refuses_an_input_that_was_replaced_later(paths, tmp_path):
    result = match(paths)
    out = result.write(tmp_path / "out")
    assert len(lm.verify_record(result.record, out)) == 3
    replace(paths[1], keep_time=True)
    with pytest.raises(lm.RecordError, match=r"b\.fits.*: its pixels are not the recorded ones"):
        lm.verify_record(result.record, out)


def test_a_mosaic_of_a_replaced_file_is_refused(paths, tmp_path):
    result = match(paths)
    replace(paths[1], keep_time=False)
    with pytest.raises(lm.FrameError, match=r"b\.fits.*: the file changed after it was read"):
        lm.make_mosaic(result, output=tmp_path / "m.fits")
    assert not (tmp_path / "m.fits").exists()


def test_the_command_line_refuses_it(paths, tmp_path, monkeypatch, capsys):
    from levelmatch.cli import run_command

    def replaced(*arguments):
        result = match_of(*arguments)
        replace(paths[1], keep_time=True)
        return result

    match_of = run_command.match_files
    monkeypatch.setattr(run_command, "match_files", replaced)
    arguments = ["run", *map(str, paths), "-o", str(tmp_path / "out"), "--group-by", "FILENAME"]
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert f"{paths[1].name}: the file changed after it was read" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".levelmatch-pairs"]


# Damaged compressed files


def damaged(content, kind):
    packed = bytearray(gzip.compress(content))
    if kind == "checksum":
        packed[-8] ^= 1
    elif kind == "length":
        packed[-3] ^= 1
    elif kind == "byte":
        packed[len(packed) // 2] ^= 255
    else:
        packed = packed[: len(packed) * kind // 100]
    return bytes(packed)


@pytest.mark.parametrize("kind", ["checksum", "length", "byte", 99, 50, 5])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_damaged_gzip_file_is_refused_by_name(row, tmp_path, kind, checkpoint):
    _, images = row
    paths = []
    for k, image in enumerate(images):
        paths.append(tmp_path / f"{k}.fits.gz")
        image.write(paths[-1])
    content = gzip.decompress(paths[2].read_bytes())
    paths[2].write_bytes(damaged(content, kind))
    options = lm.MeasureOptions(checkpoint=tmp_path / "pairs" if checkpoint else None)
    with pytest.raises(lm.FrameError, match=r"^2\.fits\.gz: .*(read|damaged)"):
        match(paths, measure=options)
