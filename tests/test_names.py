# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Files of any name go from run to undo."""

import os
import tempfile
from pathlib import Path

import pytest
from astropy.io import fits
from helpers import assert_refused, run, succeed
from hypothesis import example, given, settings, strategies as st

import levelmatch as lm

ODD = (
    *("back\\slash", "two words", " ", "-o", "--help", "-", "~", "*", "?", "[ab]", "{a,b}"),
    *("name[SCI,2]", "a'b", 'a"b', "$HOME", "%s", "#1", "a;b", "<b>", "&amp;", ".hidden", "..."),
    *("a:b", "http:a", "é\u0301", "\u202egnp", "\U0001f4a5", "\u3000", "x" * 240, "a.fits[1]"),
    *("new\nline", "tab\tbed", "\x1b[31m", "\x7f", "\r"),
)
# Most of them words of the command line, of patterns and of other programs.
NAMES = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=60),
    st.text(st.sampled_from("-[]{}*?\\~., :;'\"$%#&@!=+\n\t"), min_size=1, max_size=12),
)


@pytest.fixture(scope="module")
def contents(paint, tmp_path_factory):
    """Contents of two files that overlap."""
    folder = tmp_path_factory.mktemp("contents")
    out = []
    for k, name in enumerate(("a", "b")):
        image = paint(name, (0, 20.5 * k), level=k)
        header = image.wcs.to_header()
        header["BUNIT"] = "MJy/sr"
        hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image.data, header, name="SCI")])
        hdus.writeto(folder / name)
        out.append((folder / name).read_bytes())
    return out


def from_run_to_undo(contents, folder, name):
    """Take two files through the commands; return their outputs."""
    names = [f"{name}.fits", f"{name}b.fits"]
    for k in range(2):
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / names[k]).write_bytes(contents[k])
    inputs = [folder / "in" / n for n in names]
    out, back, again = folder / "out", folder / "back", folder / "again"
    record = out / "levelmatch.asdf"
    commands = [
        ("run", *inputs, "-o", out, "-q"),
        ("show", record),
        ("verify", record),
        ("solve", record, "-o", folder / "new.asdf", "--reference", names[1], "-q"),
        ("apply", record, *inputs, "-o", again, "-q"),
        ("undo", record, "-o", back, "-q"),
        ("mosaic", record, "-o", folder / "m.fits", "-q"),
    ]
    for command in commands:
        found = run(*command)
        assert found.exit_code == 0, (command, found.output)
    for k, n in enumerate(names):
        assert inputs[k].read_bytes() == contents[k]
        assert (again / n).read_bytes() == (out / n).read_bytes()
        with fits.open(back / n) as undone, fits.open(inputs[k]) as original:
            assert abs(undone["SCI"].data - original["SCI"].data).max() < 1e-5
    assert set(os.listdir(out)) == {*names, "levelmatch.asdf"}
    assert set(lm.read_record(record).names) == set(names)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(NAMES)
@example("back\\slash")
@example("name[SCI,2]")
@example("new\nline")
def test_names(contents, name):
    # The longest name that file systems take has 255 bytes.
    while len(name.encode()) > 245:
        name = name[:-1]
    with tempfile.TemporaryDirectory() as folder:
        from_run_to_undo(contents, Path(folder), name)


@pytest.mark.parametrize("name", ["-o", "--help", "-", "~", "[ab]", "*"])
def test_names_without_a_folder(contents, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    names = [f"{name}.fits", "other.fits"]
    for k in range(2):
        Path(names[k]).write_bytes(contents[k])
    succeed("run", "-o", "out", "-q", "--", *names)
    assert set(os.listdir("out")) == {*names, "levelmatch.asdf"}


@pytest.fixture
def no_text(tmp_path):
    """A folder whose name is not UTF-8."""
    path = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        path.mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    return path


def test_files_whose_names_are_no_text_are_refused(contents, tmp_path, no_text):
    path = tmp_path / f"{no_text.name}.fits"
    path.write_bytes(contents[0])
    (tmp_path / "b.fits").write_bytes(contents[1])
    found = run("run", path, tmp_path / "b.fits", "-o", tmp_path / "out")
    assert_refused(found, "caf\\udce9.fits: the name of the file is not UTF-8; rename it")
    assert not (tmp_path / "out").exists()


def test_folders_may_have_any_name(contents, no_text):
    (no_text / "in").mkdir()
    for k in range(2):
        (no_text / "in" / f"{k}.fits").write_bytes(contents[k])
    inputs, record = sorted((no_text / "in").iterdir()), no_text / "out" / "levelmatch.asdf"
    for command in (
        ("run", *inputs, "-o", no_text / "out"),
        ("verify", record, "--inputs", no_text / "in"),
        ("apply", record, *inputs, "-o", no_text / "again"),
        ("undo", record, "-o", no_text / "back"),
        ("show", record),
    ):
        succeed(*command)
