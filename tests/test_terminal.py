# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that foreign names, headers and records are printed with escaped control characters."""

import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from astropy.io import fits
from helpers import run
from hypothesis import given, strategies as st

from levelmatch.cli.terminal import printable

RED = "\x1b[31m"


def is_safe(text):
    return not {unicodedata.category(c) for c in text if c != "\n"} & {"Cc", "Cf", "Cs"}


@given(st.text())
def test_any_text_is_printable_and_keeps_its_words(text):
    assert is_safe(printable(text))
    assert "\n" not in printable(text, keep="")
    if text.isprintable():
        assert printable(text) == text


@pytest.fixture
def odd(paint, write, tmp_path):
    """Return two images with escape sequences in their names and headers."""
    folder = tmp_path / "in"
    folder.mkdir()
    paths = []
    for k, name in enumerate((f"a{RED}\x07.fits", "b\u202e\x9b.fits")):
        path = write(paint("x.fits", (0, 20.5 * k), level=k), folder / name)
        paths.append(path)
    return paths


def test_names_with_escape_sequences(odd, tmp_path):
    output = tmp_path / "out"
    found = [
        run("run", *odd, "-o", output),
        run("run", *odd, "-o", output),
        run("show", output / "levelmatch.asdf"),
        run("show", output / "levelmatch.asdf", "--pairs"),
        run("verify", output / "levelmatch.asdf", odd[0]),
        run("run", *odd, "--dry-run", "--debug", "--reference", f"none{RED}"),
        run("run", "--dry-run", f"--none{RED}", *odd),
        run("mosaic", output / "levelmatch.asdf", "-o", tmp_path / f"m{RED}.fits"),
    ]
    assert [one.exit_code for one in found] == [0, 2, 0, 0, 2, 2, 2, 0]
    for one in found:
        assert is_safe(one.stdout), one.stdout
        assert is_safe(one.stderr), one.stderr
    assert "\\x1b[31m" in found[0].stdout


@pytest.mark.parametrize("key", ["BUNIT", "CTYPE1", "EXTNAME", "FILTER", "RADESYS", "CUNIT1"])
def test_cards_with_escape_sequences(paint, tmp_path, key):
    paths = []
    for k, name in enumerate(("a.fits", "b.fits")):
        image = paint(name, (0, 20.5 * k), level=k)
        header = image.wcs.to_header()
        header["BUNIT"] = "MJy/sr"
        header[key] = "@@@@@@@@"
        hdu = fits.PrimaryHDU(np.asarray(image.data), header)
        hdu.writeto(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content.replace(b"@@@@@@@@", b"\x1b[31m\x07\x9br"))
        paths.append(tmp_path / name)
    found = run("run", *paths, "-o", tmp_path / "out")
    assert found.exit_code in (0, 2), found.output
    assert is_safe(found.output), found.output


@pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")
@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]])
def test_closed_streams_do_not_matter(paint, write, tmp_path, closed):
    (tmp_path / "in").mkdir()
    for k in range(2):
        write(paint(f"{k}.fits", (0, 20.5 * k), level=k), tmp_path / "in" / f"{k}.fits")
    words = ["run", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", "from levelmatch.cli import main; main()", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        preexec_fn=lambda: [os.close(number) for number in closed],
    )
    assert done.returncode == 0
    assert len(list((tmp_path / "out").glob("*.fits"))) == 2
    assert (b"Written: 2 images" in done.stdout) == (1 not in closed)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_standard_output_on_a_full_disk(odd, tmp_path):
    run("run", *odd, "-o", tmp_path / "out")
    code = "from levelmatch.cli import main; main()"
    words = [sys.executable, "-c", code, "show", str(tmp_path / "out" / "levelmatch.asdf")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0] == "Error: standard output: No space left on device"
