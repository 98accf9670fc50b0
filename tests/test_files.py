# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of corrected files, which are written atomically."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, NDData, VarianceUncertainty
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch import FrameError, atomic
from levelmatch.images._decode import copy_minus, reserve
from levelmatch.results import fast_write, files
from levelmatch.results.splice import image_parts, splice_places


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tmp_path / "out"


def match(paths, **options):
    return lm.match_mosaic(paths, group_by=lambda name, meta: name, reference=0, **options)


@pytest.fixture
def plain(folders, write_row):
    return write_row(err=np.full((48, 64), 0.01, "f4"))


needs_xz = pytest.mark.skipif(
    not hasattr(fits.file, "LZMA_MAGIC"), reason="this astropy does not open .xz"
)


@pytest.mark.parametrize(
    "kind",
    ["gz", "bz2", pytest.param("xz", marks=needs_xz), "fz-rice", "fz-gzip", "primary"],
)
def test_compressed_files_stay_so(paint, folders, kind):
    paths = []
    for k, n in enumerate("ab"):
        image = paint(f"{n}.fits", (0.3, 20.5 * k), level=k, noise=1.0)
        header = image.wcs.to_header()
        if not kind.startswith("fz"):
            hdus = fits.HDUList([fits.PrimaryHDU(image.data, header)])
            path = folders[0] / (f"{n}.fits" if kind == "primary" else f"{n}.fits.{kind}")
        else:
            algorithm = {"fz-rice": "RICE_1", "fz-gzip": "GZIP_1"}[kind]
            hdus = fits.HDUList(
                [
                    fits.PrimaryHDU(),
                    fits.CompImageHDU(image.data, header, name="SCI", compression_type=algorithm),
                    fits.CompImageHDU(
                        np.ones((48, 64), "i4"), name="DQ", compression_type=algorithm
                    ),
                ]
            )
            hdus["DQ"].data[:, 5:] = 0
            path = folders[0] / f"{n}.fits.fz"
        hdus.writeto(path)
        paths.append(path)
    result = match(paths)
    for source, path, image in zip(paths, result.write(folders[1]), result, strict=True):
        assert path.name == source.name
        with fits.open(path) as after, fits.open(source) as before:
            assert [type(h) for h in after] == [type(h) for h in before]
            i = 1 if kind.startswith("fz") else 0
            assert_array_equal(after[i].data, image.data)
            for b, a in zip(before[i + 1 :], after[i + 1 :], strict=True):
                assert_array_equal(a.data, b.data)
        magic = {"gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ"}.get(kind, b"SIMPLE")
        assert path.read_bytes().startswith(magic)


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u1"])
def test_integers_become_floats(paint, folders, dtype):
    paths = []
    for k, n in enumerate("ab"):
        image = paint(f"{n}.fits", (0.3, 20.5 * k), level=10 * k, sky=(100, 0, 0), noise=3)
        fits.PrimaryHDU(image.data.astype(dtype), image.wcs.to_header()).writeto(
            folders[0] / f"{n}.fits"
        )
        paths.append(folders[0] / f"{n}.fits")
    result = match(paths)
    path = result.write(folders[1])[1]
    with fits.open(path) as after, fits.open(paths[1]) as before:
        header = after[0].header
        assert header["BITPIX"] == (-64 if dtype == "i4" else -32)
        assert "BZERO" not in header
        np.testing.assert_allclose(after[0].data, before[0].data - header["LMMLEV"], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", ">f8"])
def test_an_image_s_bytes(tmp_path, dtype):
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype[-2] != "f" else (-1.5, 2.5)
    data = np.array([[low, high], [0, 1]], dtype)
    parts = image_parts(fits.PrimaryHDU(np.zeros((2, 2))).header, data)
    (tmp_path / "a.fits").write_bytes(b"".join(parts))
    with fits.open(tmp_path / "a.fits") as hdus:
        assert_array_equal(hdus[0].data, data)
        assert hdus[0].data.dtype.str[1:] == data.dtype.str[1:]


def test_types_that_fits_does_not_have():
    with pytest.raises(TypeError, match="FITS has no type for bool"):
        image_parts(fits.PrimaryHDU().header, np.zeros((2, 2), bool))


@pytest.fixture(params=["unnamed", "named"])
def part(request, monkeypatch):
    """Use unnamed files while writing, and named ones on systems without them."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    return request.param


@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize("moment", ["write", "name"])
def test_failure_leaves_no_partial_file(plain, paint, folders, monkeypatch, part, kind, moment):
    images = (
        plain
        if kind == "file"
        else [paint(f"{n}.fits", (0.3, 20.5 * k), level=k) for k, n in enumerate("abc")]
    )
    # With more, the third may be complete before the second fails.
    monkeypatch.setattr(files, "N_WRITERS", 1)
    result = match(images)
    folders[1].mkdir()
    (folders[1] / "b.fits").write_text("what was there")
    calls = []

    def fail_second(original):
        def call(*args):
            calls.append(args)
            # The record is written first, in the same way.
            if len(calls) == (2 if moment == "write" else 3):
                if moment == "write":
                    # Write half of a file, then fail as on a full disk.
                    args[1].write(b"SIMPLE")
                msg = "no space left on device"
                raise OSError(msg)
            return original(*args)

        return call

    if moment == "write":
        name = "_write_file" if kind == "file" else "_write_memory"
        monkeypatch.setattr(files, name, fail_second(getattr(files, name)))
    elif part == "named":
        monkeypatch.setattr(os, "replace", fail_second(os.replace))
    else:
        monkeypatch.setattr(atomic, "_give_name", fail_second(atomic._give_name))
    with pytest.raises(OSError, match="no space left"):
        result.write(folders[1], overwrite=True)
    assert sorted(p.name for p in folders[1].iterdir()) == ["a.fits", "b.fits", "levelmatch.asdf"]
    assert (folders[1] / "b.fits").read_text() == "what was there"
    with fits.open(folders[1] / "a.fits") as hdus:
        assert hdus[-1].data is not None


def test_interrupt_leaves_no_partial_file(plain, folders, monkeypatch, part):
    def stop(product, stream, *_):
        stream.write(b"SIMPLE")
        raise KeyboardInterrupt

    result = match(plain)
    monkeypatch.setattr(files, "_write_file", stop)
    with pytest.raises(KeyboardInterrupt):
        result.write(folders[1])
    assert [p.name for p in folders[1].iterdir()] == ["levelmatch.asdf"]


def test_an_error_ends_all_writers(paint, write, folders, monkeypatch):
    paths = [
        write(paint(f"{k}.fits", (0.3, 20.5 * k), level=k), folders[0] / f"{k}.fits")
        for k in range(9)
    ]
    original = files._write_file

    def fail_third(images, *args):
        if images[0].name == "2.fits":
            msg = "no space left on device"
            raise OSError(msg)
        original(images, *args)

    result = match(paths)
    monkeypatch.setattr(files, "_write_file", fail_third)
    with pytest.raises(OSError, match="no space left"):
        result.write(folders[1])
    found = sorted(path.name for path in folders[1].glob("*"))
    assert {"0.fits", "1.fits", "levelmatch.asdf"} <= set(found)
    assert not {"2.fits", *(f"{k}.fits" for k in range(6, 9))} & set(found)
    levels = {frame.name: frame.correction.constant for frame in result.frames}
    for name in found[:-1]:
        # Complete, and corrected.
        before, after = (fits.getdata(folder / name) for folder in folders[:2])
        assert_allclose(before - after, levels[name], atol=1e-5)


def test_threads_do_not_remove_each_other_s_files(tmp_path):
    def write(k):
        with atomic.atomic_path(tmp_path / f"{k}.txt") as part:
            part.write_text(str(k))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(600)))
    assert {path.name for path in tmp_path.iterdir()} == {f"{k}.txt" for k in range(600)}


def test_permissions_are_the_user_s(plain, folders, part, monkeypatch):
    old = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            # The files of another thread would briefly have other permissions.
            patch.setattr(os, "umask", None)
            paths = match(plain).write(folders[1])
    finally:
        os.umask(old)
    assert {stat.S_IMODE(p.stat().st_mode) for p in paths} == {0o640}


def test_files_where_linux_does_not_show_them(plain, folders, monkeypatch):
    monkeypatch.setattr(atomic, "OWN_FILES", "/nowhere")
    paths = match(plain).write(folders[1])
    match(plain).write(folders[1], overwrite=True)
    assert sorted(folders[1].iterdir()) == sorted([*paths, folders[1] / "levelmatch.asdf"])


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP])
@pytest.mark.parametrize("exists", [False, True])
def test_file_systems_without_hard_links(plain, folders, tmp_path, monkeypatch, code, exists):
    def refuse(_, target, **__):
        # Linux first compares the name with those in the folder.
        error = errno.EEXIST if os.path.lexists(target) else code
        raise OSError(error, os.strerror(error))

    result = match(plain)
    whole = [path.read_bytes() for path in result.write(tmp_path / "linked")]
    if exists:
        result.write(folders[1])
        (folders[1] / "b.fits").write_text("what was there")
    monkeypatch.setattr(os, "link", refuse)
    paths = result.write(folders[1], overwrite=exists)
    assert [path.read_bytes() for path in paths] == whole
    assert sorted(folders[1].iterdir()) == sorted([*paths, folders[1] / "levelmatch.asdf"])


def test_names_as_long_as_they_may_be(paint, write, folders, part):
    paths = [
        write(paint("a.fits", (0.3, 20.5 * k), level=k), folders[0] / f"{k}{'x' * 249}.fits")
        for k in range(2)
    ]
    result = match(paths)
    result.write(folders[1])
    assert len(result.write(folders[1], overwrite=True)) == 2
    assert len(list(folders[1].iterdir())) == 3


def test_source_that_went_away(plain, folders):
    result = match(plain)
    plain[1].unlink()
    with pytest.raises(FrameError, match=r"b\.fits: the pixels cannot be read"):
        result.write(folders[1])
    assert not folders[1].exists()


def test_image_of_a_file(plain):
    result = match(plain)
    image = result[1]
    assert isinstance(image, CCDData)
    assert image.flags.dtype == np.uint32
    assert_array_equal(image.uncertainty.array, np.float32(0.01))
    assert image.meta["SCICARD"] == 42
    assert image.meta["LMMREF"] == "a.fits"
    assert image.data.dtype == np.dtype("f4")


@pytest.mark.parametrize("kind", [VarianceUncertainty, InverseVariance])
def test_uncertainty_that_ccddata_wrote(paint, with_planes, folders, kind):
    paths = []
    for k, n in enumerate("ab"):
        image = with_planes(paint(f"{n}.fits", (0.3, 20.5 * k), level=k))
        image.uncertainty = kind(np.full((48, 64), 3.0))
        image.write(folders[0] / f"{n}.fits")
        paths.append(folders[0] / f"{n}.fits")
    result = match(paths)
    assert type(result[0].uncertainty) is kind
    assert_array_equal(result[0].uncertainty.array, 3.0)
    assert result[0].mask.any()
    with fits.open(result.write(folders[1])[0]) as hdus:
        assert [h.name for h in hdus] == ["PRIMARY", "MASK", "UNCERT"]


def test_names_that_are_not_ascii(paint, write, folders):
    names = ["größe.fits", "b.fits"]
    paths = [
        write(paint("a.fits", (0.3, 20.5 * k), level=k), folders[0] / name)
        for k, name in enumerate(names)
    ]
    result = match(paths)
    assert result.reference == "größe.fits"
    paths = result.write(folders[1])
    assert [path.name for path in paths] == names
    header = fits.getheader(paths[1], "SCI")
    assert header["LMMREF"] == r"gr\xf6\xdfe.fits"
    assert r"relative to gr\xf6\xdfe.fits" in "".join(header["HISTORY"])
    back = lm.undo_record(result.record, paths, folders[1].with_name("back"))
    assert not {"HISTORY", "LMMREF"} & set(fits.getheader(back[1], "SCI"))


def test_names_of_images_in_memory(paint, folders):
    images = [paint("a", (0, 0)), paint("b.fits", (0, 20.5)), paint("c.fits.gz", (0, 41))]
    paths = match(images).write(folders[1])
    assert [p.name for p in paths] == ["a.fits", "b.fits", "c.fits.gz"]
    for path in paths:
        assert CCDData.read(path).shape == (48, 64)


@pytest.fixture
def with_gwcs(paint):
    """Return images in memory as NDData with the gwcs of a tangential projection."""
    gwcs = pytest.importorskip("gwcs")
    from astropy import coordinates, units as u
    from astropy.modeling import models
    from gwcs import coordinate_frames as cf

    detector = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    sky = cf.CelestialFrame(
        reference_frame=coordinates.ICRS(), name="icrs", unit=(u.deg, u.deg), axes_order=(0, 1)
    )

    def make(name, shift, box=True, **options):
        image = paint(name, shift, **options)
        own = image.wcs.wcs
        transform = (
            models.Shift(1 - own.crpix[0]) & models.Shift(1 - own.crpix[1])
            | models.AffineTransformation2D(own.cd)
            | models.Pix2Sky_TAN()
            | models.RotateNative2Celestial(*own.crval, 180)
        )
        wcs = gwcs.WCS([(detector, transform), (sky, None)])
        if box:
            wcs.bounding_box = ((-0.5, 63.5), (-0.5, 47.5))
        return NDData(image.data, wcs=wcs, unit=image.unit, meta=dict(image.meta))

    return make


def test_images_in_memory_with_a_gwcs(with_gwcs, paint, folders):
    images = [with_gwcs("a.fits", (0, 0)), with_gwcs("b.fits", (0.3, 20.5), level=2.0)]
    paths = match(images).write(folders[1])
    wcs = WCS(fits.getheader(paths[1]))
    true = paint("b.fits", (0.3, 20.5)).wcs
    np.testing.assert_allclose(
        wcs.pixel_to_world_values(10, 30), true.pixel_to_world_values(10, 30), atol=1e-7
    )


def test_a_wcs_that_fits_cannot_say_is_refused_first(with_gwcs, folders):
    images = [with_gwcs("a.fits", (0, 0)), with_gwcs("b.fits", (0.3, 20.5), box=False)]
    result = match(images)
    with pytest.raises(FrameError, match=r"b\.fits: its WCS cannot be written to a FITS header"):
        result.write(folders[1])
    assert not folders[1].exists()


def with_fill(image, value):
    """Return an image of which a third has one value."""
    image.data[:, :20] = value
    return image


DIRECT = {
    "plain": {},
    "fills": {"fill": 0.0},
    "blank": {"fill": -5.0, "read": lm.ReadOptions(blank=-5.0)},
    "no blank": {"fill": 0.0, "read": lm.ReadOptions(blank=False)},
    "gz": {"suffix": ".gz"},
}


@pytest.mark.filterwarnings("ignore:large regions of one value")
@pytest.mark.parametrize("shape", [(48, 64), (300, 301), (1100, 130)])
@pytest.mark.parametrize("kind", DIRECT)
def test_pixels_that_are_written_in_parts(paint, folders, monkeypatch, shape, kind):
    options = DIRECT[kind]
    paths = []
    for k, n in enumerate("ab"):
        image = paint(n, (0.3, shape[1] / 3 * k), level=k, shape=shape, noise=0.5)
        if "fill" in options:
            with_fill(image, options["fill"])
        hdu = fits.PrimaryHDU(image.data, image.wcs.to_header())
        hdu.header["BUNIT"] = "MJy/sr"
        paths.append(folders[0] / f"{n}.fits{options.get('suffix', '')}")
        hdu.writeto(paths[-1], checksum=True)
    # Few rows pass at once.
    monkeypatch.setattr(fast_write, "AT_ONCE", 4096)
    result = match(paths, read=options.get("read"))
    levels = result.table["level"].value
    # Without blank pixels, zeros count, and the levels are not those of the sky.
    assert np.ptp(levels) > (0.1 if kind == "no blank" else 0.5)
    for path, level, out in zip(paths, levels, result.write(folders[1]), strict=True):
        before = fits.getdata(path)
        expected = (before.astype(float) - level).astype("f4")
        if kind in ("fills", "blank"):
            expected[before == options["fill"]] = options["fill"]
        with fits.open(out, checksum=True) as hdus:
            assert_array_equal(hdus[0].data, expected)
        if not options.get("suffix"):
            assert out.stat().st_size % 2880 == 0
    monkeypatch.setattr(files, "plain_replacement", lambda *args: None)
    for path in result.write(folders[1] / "by_astropy"):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_single_pixels_of_one_value_do_not_delay_the_writing(paint, folders, monkeypatch):
    paths, totals = [], []
    for k, n in enumerate("ab"):
        image = paint(n, (0.3, 100 * k), level=k, shape=(300, 301), noise=0.5)
        # These are on the grid of samples.
        image.data[::8, ::8] = 0.0
        image.data[4::8, 4:6] = 7.0
        hdu = fits.PrimaryHDU(image.data, image.wcs.to_header())
        hdu.header["BUNIT"] = "MJy/sr"
        paths.append(folders[0] / f"{n}.fits")
        hdu.writeto(paths[-1])

    def copied(*args):
        totals.append(copy_minus(*args))
        return totals[-1]

    monkeypatch.setattr(fast_write, "copy_minus", copied)
    match(paths).write(folders[1])
    assert len(totals) == 2
    assert None not in totals


def test_reserved_space_is_freed(tmp_path):
    path, source = tmp_path / "part", tmp_path / "source"
    source.write_bytes(bytes(1 << 20))
    with path.open("wb") as stream:
        reserve(stream.fileno(), 1 << 20)
        reserved = os.fstat(stream.fileno()).st_blocks
    assert path.read_bytes() == b""
    # A file system that cannot reserve space does nothing.
    assert reserved == 0 or 512 * reserved >= 1 << 20
    with source.open("rb") as raw, path.open("wb") as stream:
        splice_places(raw, {0: (0, 0, 1 << 20)}, {0: (b"abc",)}, stream)
    assert path.read_bytes() == b"abc"
    assert 512 * path.stat().st_blocks <= 1 << 16


def test_a_full_disk_while_pixels_are_written(plain, folders, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    result = match(plain)
    monkeypatch.setattr(fast_write, "copy_minus", full)
    with pytest.raises(OSError, match=r"No space left on device.*\.fits"):
        result.write(folders[1])
    assert not list(folders[1].glob("*.fits"))
