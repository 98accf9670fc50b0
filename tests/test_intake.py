# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of files that are not regular, or declare more than they hold."""

import bz2
import gzip
import lzma
import os
import resource
import time
import warnings

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

import levelmatch as lm
from levelmatch.cli import main
from levelmatch.images.collect import collect_frames
from levelmatch.measure.store import PairFile

# Peak memory of the process so far.
PEAK = resource.RUSAGE_SELF


@pytest.fixture
def good(paint, write, tmp_path):
    """Return a good file."""
    return write(paint("good.fits"), tmp_path / "good.fits")


def refused(paths, match, **options):
    """Check that images are refused within a second and with little memory."""
    before, start = resource.getrusage(PEAK).ru_maxrss, time.perf_counter()
    with pytest.raises(lm.LevelMatchError, match=match):
        lm.match_levels(paths, read=lm.ReadOptions(**options))
    assert time.perf_counter() - start < 3
    assert resource.getrusage(PEAK).ru_maxrss - before < 1e5


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/urandom", "folder", "socket"])
def test_only_regular_files_are_read(good, tmp_path, kind):
    path = tmp_path / "odd.fits"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, 0o140600)
    else:
        path.symlink_to(kind)
    refused([good, path], r"^odd\.fits: .*not a regular file")
    with pytest.raises(lm.FrameError, match=r"good\.fits: weight_files: .*odd\.fits"):
        collect_frames([good], lm.ReadOptions(weight_files=[path]))
    with pytest.raises(lm.RecordError, match=r"odd\.fits"):
        lm.read_record(path)
    with pytest.raises(lm.RecordError, match=r"odd\.fits"):
        PairFile(path).read()
    for command in (["run", path, good, "-o", tmp_path / "o"], ["run", "--config", path]):
        found = CliRunner().invoke(main, list(map(str, command)))
        assert found.exit_code == 2, found.output
        assert "odd.fits" in found.output


SIZES = {
    "axes": {"NAXIS": 999999999},
    "negative": {"NAXIS1": -5},
    "wide": {"NAXIS1": 2**31},
    "large": {"NAXIS1": 2**20, "NAXIS2": 2**20},
    "digits": {"NAXIS2": 10**18},
    "overflow": {"NAXIS1": 2**32, "NAXIS2": 2**32},
}


def set_sizes(path, sizes, hdu=1):
    """Change cards of sizes, which astropy would not write."""
    content = path.read_bytes()
    with fits.open(path, disable_image_compression=True) as hdus:
        start = hdus[hdu].fileinfo()["hdrLoc"]
    head, tail = content[:start], content[start:]
    for key, value in sizes.items():
        place = tail.index(f"{key:8}=".encode())
        tail = tail[:place] + f"{key:8}= {value:>20}".encode().ljust(80) + tail[place + 80 :]
    path.write_bytes(head + tail)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_declared_sizes(good, paint, write, tmp_path, sizes, packed):
    path = write(paint("odd.fits"), tmp_path / "odd.fits")
    set_sizes(path, sizes)
    if packed:
        path = path.with_name("odd.fits.gz")
        path.write_bytes(gzip.compress((tmp_path / "odd.fits").read_bytes(), 1))
    refused([good, path], r"^odd\.fits.*(declares|truncated|damaged)")


@pytest.mark.parametrize("sizes", [{"ZNAXIS1": 2**31}, {"ZTILE1": 2**40}, {"ZNAXIS": 10**6}])
def test_declared_sizes_of_compressed_images(good, paint, tmp_path, sizes):
    image, path = paint("odd.fits"), tmp_path / "odd.fits"
    hdu = fits.CompImageHDU(image.data, image.wcs.to_header(), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    set_sizes(path, sizes)
    refused([good, path], r"^odd\.fits: .*declares")


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open])
@pytest.mark.parametrize("where", ["image", "after"])
def test_compressed_files_that_become_large(good, tmp_path, opener, where):
    suffix = {gzip.open: "gz", bz2.open: "bz2", lzma.open: "xz"}[opener]
    path = tmp_path / f"odd.fits.{suffix}"
    content = good.read_bytes()
    with opener(path, "wb") as stream:
        stream.write(content if where == "after" else content[:2880])
        for _ in range(40):
            stream.write(bytes(1 << 20))
    refused([good, path], r"^odd\.fits.*max_bytes", max_bytes=1 << 24)


def test_gzip_that_says_its_size_is_not_unpacked(good, tmp_path):
    # Three gigabytes of zeros, compressed one megabyte at a time.
    path = tmp_path / "odd.fits.gz"
    with gzip.open(path, "wb", 1) as stream:
        stream.write(good.read_bytes())
    content = bytearray(path.read_bytes())
    content += bytes(4 << 20)
    content[-4:] = (3 * 10**9).to_bytes(4, "little")
    path.write_bytes(content)
    refused([good, path], r"^odd\.fits.*max_bytes")


@pytest.mark.parametrize("begin", ["whole", "header", "nothing"])
def test_sparse_files(good, tmp_path, begin):
    path = tmp_path / "odd.fits"
    content = good.read_bytes()
    path.write_bytes({"whole": content, "header": content[:800], "nothing": b""}[begin])
    os.truncate(path, 40 * 10**9)
    refused([good, path], r"^odd\.fits: ")


def test_the_bound_is_an_option(good, paint, write, tmp_path):
    other = write(paint("other.fits", (0, 20.5)), tmp_path / "other.fits")
    size = 48 * 64 * 4
    refused([good, other], r"^good\.fits: .*max_bytes", max_bytes=size - 1)
    assert len(lm.match_levels([good, other], read=lm.ReadOptions(max_bytes=size))) == 2
    arguments = ["run", str(good), str(other), "--dry-run", "--max-bytes", str(size - 1)]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2
    assert "--max-bytes" in found.output
    with pytest.raises(ValueError, match="max_bytes"):
        lm.ReadOptions(max_bytes=0)


@pytest.mark.parametrize("n", [0, 100, 2880, 100_000])
def test_padding_after_the_last_extension_is_admitted(good, paint, write, tmp_path, n):
    other = write(paint("other.fits", (0, 20.5), level=1), tmp_path / "other.fits")
    with other.open("ab") as stream:
        stream.write(bytes(n))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = collect_frames([good, other])
    assert all(str(w.message).startswith("other.fits: ") for w in caught)
    assert len(caught) == (n > 0)
    assert np.isfinite(frames[1].load()).all()
