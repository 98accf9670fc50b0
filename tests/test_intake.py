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
from astropy.nddata import CCDData, FlagCollection, NDDataArray
from helpers import assert_refused, run

import levelmatch as lm
from levelmatch.images.inputs import collect_frames
from levelmatch.measure.pair_store import PairFile
from levelmatch.testing import simulate_generic

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
        assert_refused(run(*command), "odd.fits")


@pytest.mark.parametrize("kind", ["pipe", "sparse"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("odd.ecsv", ["--catalogue"]),
        ("odd.fits", ["--catalogue"]),
        ("odd.csv", ["IMAGES", "--levels"]),
        ("odd.reg", ["IMAGES", "--ignore-regions"]),
        ("odd_asn.json", []),
        ("odd.toml", ["--config"]),
        ("odd.asdf", ["IMAGES", "--extend"]),
    ],
)
def test_files_beside_images_are_regular_and_bounded(
    good, paint, write, tmp_path, name, arguments, kind
):
    other = write(paint("other.fits", (0, 20.5)), tmp_path / "other.fits")
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 40 * 10**9)
    if arguments[:1] == ["IMAGES"]:
        arguments = [good, other, *arguments[1:]]
    start = time.perf_counter()
    found = run("run", *arguments, path, "-o", tmp_path / "o")
    assert time.perf_counter() - start < 5
    assert_refused(found, name)
    assert not (tmp_path / "o").exists()


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
    assert_refused(run("run", good, other, "--dry-run", "--max-bytes", size - 1), "--max-bytes")
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


def with_card(path, keyword, value, name):
    """Write a copy of a file with another card at the end of its image's header."""
    content = path.read_bytes()
    with fits.open(path) as hdus:
        start = hdus["SCI"].fileinfo()["hdrLoc"]
    end = content.index(b"END".ljust(80), start)
    card = f"{keyword:8}= {value:>20}".encode().ljust(80)
    # END moves into the padding.
    other = path.with_name(name)
    other.write_bytes(content[:end] + card + content[end : end + 80] + content[end + 160 :])
    return other


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("GCOUNT", "-1"), ("PCOUNT", "-3000"), ("TFIELDS", 2**63), ("TFIELDS", "-1"), ("NAXIS1", 63)],
)
def test_sizes_that_astropy_would_follow_without_end(good, keyword, value):
    path = with_card(good, keyword, value, "odd.fits")
    refused([good, path], rf"^odd\.fits: a header declares .*{keyword}")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("WCSAXES", 3950933),
        ("WCSAXESA", 30000),
        ("A_ORDER", 40000),
        ("BP_ORDER", "'40000'"),
        ("B_ORDER", "4E4"),
        ("ap_order", ".4D5"),
    ],
)
def test_sizes_of_a_wcs(good, tmp_path, keyword, value, packed):
    path = with_card(good, keyword, value, "odd.fits")
    if packed:
        path.with_name("odd.fits.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path = path.with_name("odd.fits.gz")
    refused([good, path], rf"^odd\.fits.*: a header declares {keyword.upper()} = ")


def test_sizes_of_a_recorded_wcs(good, paint, write, tmp_path):
    other = write(paint("other.fits", (0, 20.5)), tmp_path / "other.fits")
    record = lm.match_levels([good, other]).record
    assert record.wcs("good.fits").naxis == 2
    texts = record.inputs["wcs"].astype("U9999")
    texts[0] = "WCSAXES =              3950933".ljust(80) + texts[0]
    record.inputs["wcs"] = texts
    with pytest.raises(lm.FrameError, match=r"^good\.fits: .*WCSAXES = 3950933"):
        record.wcs("good.fits")


@pytest.mark.parametrize("keyword", ["GCOUNT", "TFIELDS"])
def test_what_follows_the_last_extension_is_read_as_astropy_does(good, tmp_path, keyword):
    path = tmp_path / "odd.fits"
    cards = [b"JUNK".ljust(80), f"{keyword:8}= -1".encode().ljust(80), b"END\xff".ljust(80)]
    path.write_bytes(good.read_bytes() + b"".join(cards).ljust(2880))
    refused([good, path], rf"^odd\.fits: a header declares {keyword} = -1")


def test_warnings_name_the_image_in_all_threads(paint, write, tmp_path):
    paths = [
        write(paint(f"{n}.fits", (0, 20.5 * k), level=k), tmp_path / f"{n}.fits")
        for k, n in enumerate("abc")
    ]
    for path in paths[1:]:
        # Not ASCII, and padding that is no HDU: astropy reads these files.
        content = path.read_bytes().replace(b"a card of", b"a card \xe9f")
        path.write_bytes(content + bytes(100))
    shown = warnings.showwarning
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = lm.match_levels(paths)
        lm.verify_record(result.record, result.write(tmp_path / "out"))
        assert len(list(result)) == 3
    texts = {str(w.message) for w in caught}
    for name in ("b.fits", "c.fits"):
        assert any(t.startswith(f"{name}: ") and "padding" in t for t in texts)
        assert any(t.startswith(f"{name}: ") and "non-ASCII" in t for t in texts)
    assert all(t.startswith(("b.fits: ", "c.fits: ")) for t in texts)
    assert warnings.showwarning is shown


def test_pixels_of_another_shape_than_the_header(good, monkeypatch):
    (frame,) = collect_frames([good])
    monkeypatch.setattr(type(frame.source), "read", lambda *_: (np.zeros(48 * 64), None))
    with pytest.raises(lm.FrameError, match=r"good\.fits: its pixels have shape \(3072,\)"):
        frame.load()


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("scale", [1e90, 1e100])
def test_images_of_huge_values_share_no_good_pixel(scale, fit_type):
    images = list(simulate_generic(n_images=3, shape=(48, 48), seed=2).images)
    for image in images:
        image.data = image.data.astype(float) * scale
    with pytest.warns(lm.DisconnectedWarning):
        result = lm.match_levels(images, fit_type=fit_type)
    assert result.table["isolated"].all()


@pytest.mark.parametrize("value", [1e80, 1e200, -1e200, 1e300])
def test_values_whose_powers_overflow_are_bad(value):
    levels = []
    for bad in (value, np.copysign(np.inf, value)):
        first, second = simulate_generic(n_images=2, shape=(64, 64), overlap=0.5, seed=3).images
        data = first.data.astype(float)
        data[::7, ::7] = bad
        images = [CCDData(data, unit=first.unit, wcs=first.wcs), second]
        levels.append(lm.match_mosaic(images).table["level"])
    np.testing.assert_array_equal(*levels)


def with_flags(flags, mask=None):
    """Return two images in memory, the first with flags."""
    first, second = simulate_generic(n_images=2, shape=(48, 48), seed=2).images
    image = NDDataArray(first.data, wcs=first.wcs, unit=first.unit, mask=mask, flags=flags)
    return [image, second]


@pytest.mark.parametrize("kind", ["array", "collection"])
def test_flags_in_memory_cause_a_warning(kind):
    flags = np.zeros((48, 48), dtype=int)
    flags[:5] = 4
    if kind == "collection":
        planes, flags = flags, FlagCollection(shape=flags.shape)
        flags["hot"] = planes
    with pytest.warns(lm.LevelMatchWarning, match="flags of images in memory are not read.*0000"):
        lm.match_levels(with_flags(flags))


def test_flags_beside_a_mask_cause_none():
    flags = np.ones((48, 48), dtype=int)
    lm.match_levels(with_flags(0 * flags))
    lm.match_levels(with_flags(flags, np.arange(48) < 5 * flags))
    lm.match_levels(with_flags(flags), read=lm.ReadOptions(mask_extensions=False))
    read = lm.ReadOptions(dq_bits=1)
    with pytest.warns(lm.LevelMatchWarning, match="flags of images in memory are not read"):
        lm.match_levels(with_flags(flags, np.arange(48) < 5 * flags), read=read)
