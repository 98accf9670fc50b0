# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the fast reader of plain files, against astropy."""

import io
import os
import pickle

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from xxhash import xxh3_128

import levelmatch as lm
from levelmatch.exceptions import FrameError
from levelmatch.images import digests, fastfits, fits_files
from levelmatch.images.fastfits import RawHeader, read_decoded, read_pixels, scan
from levelmatch.images.inputs import collect_frames
from levelmatch.record.columns import wcs_text
from levelmatch.sky.transform import SkyTransform
from levelmatch.testing import simulate_miri, simulate_nircam_short

CARDS = [
    ("A", "it's a ' quote", ""),
    ("B", "", "empty"),
    ("C", "trailing   ", "a / slash"),
    ("D", "x / y", ""),
    ("E", -17, ""),
    ("F", 1.5e-300, "small"),
    ("G", True, ""),
    ("H", False, ""),
    ("I", None, "undefined"),
    ("J", 3.0, ""),
    ("LONG", "abc " * 40, "continued"),
    ("HIERARCH ESO DET NAME", "chip", ""),
    ("K", "1", "a string"),
    ("N", 1 - 2j, ""),
]


@pytest.fixture
def header():
    out = fits.Header()
    for key, value, comment in CARDS:
        out[key] = (value, comment)
    out.add_history("first")
    out.add_comment("second")
    return out


def test_values_are_those_of_astropy(header):
    raw = RawHeader(header.tostring(endcard=False, padding=False))
    for key, _, _ in CARDS:
        name = key.removeprefix("HIERARCH ")
        assert name in raw, name
        found, expected = raw[name], header[name]
        assert type(found) is type(expected), name
        assert found == expected or isinstance(expected, fits.card.Undefined)
        assert raw.get(name.lower()) == found or isinstance(expected, fits.card.Undefined)
    assert list(raw["HISTORY"]) == ["first"]
    assert "HISTORY" in raw
    assert "ABSENT" not in raw
    assert "NO SUCH LONG KEY" not in raw
    assert raw.get("ABSENT", 5) == 5
    with pytest.raises(KeyError, match="ABSENT"):
        raw["ABSENT"]
    assert raw.copy() == header


@pytest.mark.parametrize("text", ["1.5D3", "1.E5", ".5", "+3", "1e5", "0010"])
def test_numbers_are_those_of_astropy(text):
    card = f"{'X':8}= {text:>20}".ljust(80)
    assert RawHeader(card)["X"] == fits.Card.fromstring(card).value


def test_the_first_card_of_a_keyword_stands():
    text = "".join(f"{'X':8}= {n:>20}".ljust(80) for n in (1, 2))
    assert RawHeader(text)["X"] == fits.Header.fromstring(text)["X"] == 1


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    small = {"tiles": (1, 1), "n_dithers": 2, "shape": (64, 70)}
    folder = tmp_path_factory.mktemp("plain")
    miri = simulate_miri(**small, lyot=False, seed=1).write(folder)
    nircam = simulate_nircam_short(n_tiles=1, n_dithers=1, shape=(64, 64), seed=1).write(folder)
    return [*miri, *nircam]


def by_astropy(path, monkeypatch, **options):
    """Return the frame of a file read by astropy."""
    with monkeypatch.context() as patch:
        patch.setattr(fits_files, "plain_frames", lambda *args: None)
        return collect_frames([path], lm.ReadOptions(**options))[0]


def test_frames_are_those_of_astropy(paths, monkeypatch):
    for path in paths:
        plain, other = collect_frames([path])[0], by_astropy(path, monkeypatch)
        assert plain.source.plain is not None
        assert other.source.plain is None
        for name in ("name", "shape", "unit", "dq_bits", "jwst"):
            assert getattr(plain, name) == getattr(other, name)
        assert (plain.source.hdu, plain.source.dq_hdu) == (other.source.hdu, other.source.dq_hdu)
        assert_array_equal(plain.grid.nodes, other.grid.nodes)
        assert_array_equal(plain.load(), other.load())
        assert dict(plain.meta.copy()) == dict(other.meta.copy())
        ours, theirs = (f.transform.original.to_header(relax=True) for f in (plain, other))
        assert ours == theirs


@pytest.mark.parametrize("bits", [1, 512, 2**31, "DO_NOT_USE+OTHER_BAD_PIXEL", ~0])
@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_flags(tmp_path, paths, monkeypatch, dtype, bits):
    rng = np.random.default_rng(0)
    with fits.open(paths[0], memmap=False) as hdus:
        flags = 2 ** rng.integers(0, 32, hdus["SCI"].shape) * rng.integers(0, 2, hdus["SCI"].shape)
        hdus["DQ"] = fits.ImageHDU(flags.astype(np.uint32).view(dtype), name="DQ")
        hdus.writeto(tmp_path / paths[0].name)
    path = tmp_path / paths[0].name
    plain, other = (
        collect_frames([path], lm.ReadOptions(dq_bits=bits))[0],
        by_astropy(path, monkeypatch, dq_bits=bits),
    )
    assert plain.source.plain is not None
    assert np.isnan(other.load()).any()
    assert_array_equal(plain.load(), other.load())


@pytest.mark.parametrize("spelling", [str.lower, str.title, lambda name: f" {name} "])
def test_names_of_extensions_in_any_case(tmp_path, paths, monkeypatch, spelling):
    path = tmp_path / "a.fits"
    with fits.open(paths[0], memmap=False) as hdus:
        hdus["DQ"].data[:5] = 1
        for hdu in hdus[1:]:
            hdu.header["EXTNAME"] = spelling(hdu.header["EXTNAME"])
        fits.HDUList([hdus[0], hdus[2], hdus[1], hdus[3]]).writeto(path)
    plain, other = collect_frames([path])[0], by_astropy(path, monkeypatch)
    assert plain.source.plain is not None
    assert (plain.source.hdu, plain.source.dq_hdu) == (other.source.hdu, other.source.dq_hdu)
    assert np.isnan(plain.load()[:5]).all()
    assert_array_equal(plain.load(), other.load())


@pytest.mark.parametrize("cards", [{"A_3_0": 1e-7}, {"A_2_2": 1e-9}, {"B_1_2": 1e-7}, {"A_0_0": 1}])
@pytest.mark.parametrize("orders", [(2, 2), (2, 3), (1, 1)])
@pytest.mark.filterwarnings("ignore")
def test_distortion_beyond_its_order(tmp_path, paths, wcs_of, cards, orders):
    header = wcs_of().to_header()
    for key, axis in (("CTYPE1", "RA--"), ("CTYPE2", "DEC-")):
        header[key] = f"{axis}-TAN-SIP"
    header.update({"A_ORDER": orders[0], "B_ORDER": orders[1], "A_2_0": 1e-6, **cards})
    fits.PrimaryHDU(np.ones((48, 64), "f4"), header).writeto(tmp_path / "a.fits")
    (frame,) = collect_frames([tmp_path / "a.fits"])
    other = SkyTransform(WCS(header), "a.fits")
    assert_allclose(frame.grid.nodes, other.to_sky(*np.meshgrid(frame.grid.xs, frame.grid.ys)))


SCAMP = {"PV1_0": 0.0, "PV1_1": 1.0, "PV1_7": 30.0, "PV2_0": 0.0, "PV2_1": 1.0, "PV2_7": 20.0}
SIP = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-4, "B_0_2": -1e-4}


@pytest.mark.parametrize("cards", [{"CUNIT1": "deg", "CUNIT2": "deg", "RADESYS": "ICRS"}, {}])
@pytest.mark.parametrize(("kind", "counts"), [("-TAN-SIP", SIP), ("-TPV", SCAMP)])
def test_one_of_two_distortions_counts(tmp_path, kind, counts, cards):
    """Palomar's images have SCAMP's distortion and its SIP coefficients."""
    header = fits.Header({"CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 30.0, "CRPIX2": 20.0})
    header.update({"CD1_1": -1e-3, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-3, **cards})
    header.update({"CTYPE1": f"RA--{kind}", "CTYPE2": f"DEC-{kind}"})
    one = SkyTransform(WCS(fits.Header({**header, **counts})), "one")
    header.update({**SCAMP, **SIP})
    fits.PrimaryHDU(np.ones((48, 64), "f4"), header).writeto(tmp_path / "a.fits")
    (frame,) = collect_frames([tmp_path / "a.fits"])
    nodes = np.meshgrid(frame.grid.xs, frame.grid.ys)
    assert_allclose(frame.grid.nodes, one.to_sky(*nodes), atol=1e-12)


TPV = {"PV1_0": 1e-6, "PV1_1": 1.001, "PV1_4": 1e-3, "PV2_1": 0.999, "PV2_4": -2e-3}
CHANGES = {
    "double": lambda hdu: fits.ImageHDU(hdu.data.astype(float), hdu.header),
    "integers": lambda hdu: fits.ImageHDU(hdu.data.astype(np.int16), hdu.header),
    "galactic": lambda hdu: _with(hdu, CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN"),
    "latitude first": lambda hdu: _with(hdu, CTYPE1="DEC--TAN", CTYPE2="RA---TAN"),
    "other equinox": lambda hdu: _with(hdu, RADESYS="FK5", EQUINOX=1975.0),
    "arcsec": lambda hdu: _with(hdu, CUNIT1="arcsec", CUNIT2="arcsec"),
    "no distortion": lambda hdu: _with(hdu),
    "SIN": lambda hdu: _with(hdu, CTYPE1="RA---SIN", CTYPE2="DEC--SIN"),
    "TPV": lambda hdu: _with(hdu, CTYPE1="RA---TPV", CTYPE2="DEC--TPV", **TPV),
    "TAN that is TPV": lambda hdu: _with(hdu, CTYPE1="RA---TAN", CTYPE2="DEC--TAN", **TPV),
    "no unit": lambda hdu: _with(hdu, BUNIT=None),
}


def _with(hdu, **cards):
    header = hdu.header.copy()
    wcs = WCS(header).celestial.to_header(relax=False)
    for key in [k for k in header if k[:2] in ("A_", "B_", "AP", "BP")]:
        del header[key]
    header.update(wcs)
    for key, value in cards.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    if not header["CTYPE1"].endswith("SIP"):
        header["CTYPE1"], header["CTYPE2"] = header["CTYPE1"][:8], header["CTYPE2"][:8]
    return fits.ImageHDU(hdu.data, header)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.filterwarnings("ignore")
def test_other_files_are_read_alike(tmp_path, paths, monkeypatch, change):
    path = tmp_path / "a.fits"
    with fits.open(paths[0], memmap=False) as hdus:
        changed = change(hdus["SCI"])
        changed.name = "SCI"
        fits.HDUList([hdus[0].copy(), changed]).writeto(path)
    plain, other = collect_frames([path])[0], by_astropy(path, monkeypatch)
    assert plain.unit == other.unit
    assert_array_equal(plain.grid.nodes, other.grid.nodes)
    assert_array_equal(plain.load(), other.load())


def test_a_file_that_changes_is_refused(tmp_path, paths):
    path = tmp_path / paths[0].name
    path.write_bytes(paths[0].read_bytes())
    frame = collect_frames([path])[0]
    frame.load()
    with fits.open(path, memmap=False) as hdus:
        hdus["SCI"].data += 1
        hdus.writeto(path, overwrite=True)
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    with pytest.raises(OSError, match="changed since its headers were read"):
        read_pixels(path, *frame.source.plain, frame.dq_bits)
    with pytest.raises(FrameError, match="changed after it was read"):
        frame.load()


@pytest.mark.parametrize("kind", ["truncated", "compressed", "not FITS", "odd end", "empty"])
def test_what_is_not_plain(tmp_path, paths, kind):
    content = paths[0].read_bytes()
    path = tmp_path / "a.fits"
    if kind == "compressed":
        with fits.open(paths[0], memmap=False) as hdus:
            image = fits.CompImageHDU(hdus["SCI"].data, hdus["SCI"].header)
            fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    else:
        path.write_bytes(
            {
                "truncated": content[:-2880],
                "not FITS": b"x" * 5760,
                "odd end": content + b"\0" * 100,
                "empty": b"",
            }[kind]
        )
    assert not scan(path)


@pytest.mark.parametrize(
    ("begin", "most"), [(b"\x1f\x8b\x08", 20_000), (b"SIMPLE  =".ljust(80), 5_000_000)]
)
def test_what_has_no_header_is_not_read_to_its_end(tmp_path, monkeypatch, begin, most):
    path, counts = tmp_path / "a.fits", []

    class Counting(io.FileIO):
        def read(self, size):
            counts.append(size)
            return super().read(size)

    path.write_bytes(begin.ljust(20_000_000, b"E"))
    monkeypatch.setattr(fastfits, "open", lambda path, *_, **__: Counting(path), raising=False)
    assert scan(path) is None
    assert sum(counts) <= most


def test_a_long_header(tmp_path, paths):
    with fits.open(paths[0], memmap=False) as hdus:
        # END within a card does not end the header.
        for k in range(1000):
            hdus[0].header.add_history("END".ljust(66) + f"{k}")
        hdus.writeto(tmp_path / "a.fits")
    planes = scan(tmp_path / "a.fits")
    assert [p.name for p in planes] == [p.name for p in scan(paths[0])]
    assert len(planes[0].header.text) > 80_000


def test_a_transform_is_the_same_in_another_process(paths):
    for path in paths[:1] + paths[-1:]:
        frame = collect_frames([path])[0]
        copy = pickle.loads(pickle.dumps(frame.transform))
        x, y = np.meshgrid(np.arange(0, 60, 7.3), np.arange(0, 60, 9.1))
        assert_array_equal(copy.to_sky(x, y), frame.transform.to_sky(x, y))


def test_recorded_cards_are_those_of_the_file(paths):
    pixels = np.random.default_rng(0).uniform(0, 60, (2, 20))
    for path in paths:
        text, header = wcs_text(collect_frames([path])[0]), fits.getheader(path, "SCI")
        own = {str(card) for card in header.cards}
        cards = {text[i : i + 80] for i in range(0, len(text), 80)}
        assert cards <= own
        assert ("A_0_2" in header) == any(card.startswith("A_0_2 ") for card in cards)
        one, other = (WCS(h, naxis=2).all_pix2world(*pixels, 0) for h in (text, header))
        assert_array_equal(one, other)


def test_a_frame_for_workers_is_small(paths):
    frame = collect_frames(paths[:1])[0]
    frame.grid.polygon  # noqa: B018
    light = frame.for_workers()
    assert len(pickle.dumps(light)) < 60_000
    assert_array_equal(pickle.loads(pickle.dumps(light)).load(), frame.load())


@pytest.mark.parametrize("n", [4, 262_144, 300_001])
def test_decoded_pixels(tmp_path, n):
    values = np.resize(np.array([1.5, -2.0, np.inf, 3.0], np.float32), n)
    flags = np.resize(np.array([0, 1, 2, 3], np.uint32), n)
    path, other, out = tmp_path / "words", tmp_path / "flags", np.empty(n, np.uint32)
    path.write_bytes(b"abc" + values.astype(">f4").tobytes())
    other.write_bytes(b"de" + flags.astype(">u4").tobytes())
    seen = []

    def on_read(pixels, own):
        seen.append((bytes(pixels), own if own is None else own.tobytes()))

    with open(path, "rb") as file, open(other, "rb") as flag_file:
        places = file.fileno(), flag_file.fileno()
        read_decoded(*places, 3, 2, out, 2, 0, on_read)
        assert_array_equal(out.view(np.float32), np.where(flags & 2, np.nan, values))
        assert b"".join(pixels for pixels, _ in seen) == values.astype(">f4").tobytes()
        assert b"".join(own for _, own in seen) == flags.astype(">u4").tobytes()
        read_decoded(*places, 3, -1, out, 2, 0)
        assert_array_equal(out.view(np.float32), values)
        read_decoded(*places, 3, 3, out[:0], 2, 0)
        with pytest.raises(OSError, match="ends before the end of its data"):
            read_decoded(*places, 4, -1, out, 2, 0)


@pytest.mark.parametrize("flags", ["i4", "u4", None])
def test_digests_are_those_of_the_values(tmp_path, monkeypatch, flags):
    rng = np.random.default_rng(4)
    data, header = rng.normal(size=(700, 801)).astype("f4"), fits.Header()
    wcs = {"CTYPE": ("RA---TAN", "DEC--TAN"), "CUNIT": ("deg", "deg"), "CRVAL": (1.0, 2.0)}
    for key, values in {**wcs, "CRPIX": (1.0, 1.0), "CDELT": (-1e-4, 1e-4)}.items():
        header[f"{key}1"], header[f"{key}2"] = values
    header["RADESYS"] = "ICRS"
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, header, name="SCI")]
    if flags is not None:
        values = rng.integers(0, 2**31, (700, 801)).astype(flags)
        hdus.append(fits.ImageHDU(values, name="DQ"))
    path = tmp_path / "a.fits"
    fits.HDUList(hdus).writeto(path)
    (frame,) = collect_frames([path])
    assert frame.source.plain is not None
    identity = frame.source.identity
    with fits.open(path, do_not_scale_image_data=True) as stored:
        expected = [xxh3_128(hdu.data.tobytes()).hexdigest() for hdu in stored[1:]]
    assert identity["digest"] == expected[0]
    assert identity["mask_digest"] == (expected[1] if flags else "")
    assert identity["dtype"] == "f4"
    # Digests computed while measuring equal those computed later, and nothing is read again.
    (again,) = collect_frames([path])
    assert_array_equal(again.source.read(1)[0], frame.source.read(1)[0])
    with monkeypatch.context() as patch:
        patch.setattr(fastfits, "read_pixels", None)
        assert again.source.identity == identity


def test_digests_of_compressed_files(tmp_path):
    paths = simulate_miri(tiles=(1, 1), n_dithers=1, shape=(64, 66)).write(tmp_path)
    with fits.open(paths[0]) as hdus:
        data, flags = hdus["SCI"].data, hdus["DQ"].data
        kind = {"compression_type": "GZIP_2", "quantize_level": 0}
        packed = fits.CompImageHDU(data, hdus["SCI"].header, "SCI", **kind)
        first = fits.PrimaryHDU(header=hdus[0].header)
        fits.HDUList([first, packed, fits.ImageHDU(flags, name="DQ")]).writeto(tmp_path / "b.fits")
    with fits.open(paths[0], do_not_scale_image_data=True) as hdus:
        expected = [xxh3_128(hdus[name].data.tobytes()).hexdigest() for name in ("SCI", "DQ")]
    (frame,) = collect_frames([tmp_path / "b.fits"])
    assert frame.source.plain is None
    frame.load()
    found = [frame.source.state.digests[key] for key in ("digest", "mask_digest")]
    assert found == expected
    assert frame.source.identity["digest"] == expected[0]


def test_some_rows_are_read(tmp_path):
    paths = simulate_miri(tiles=(1, 1), n_dithers=1, shape=(64, 66)).write(tmp_path)
    regions = [(slice(40, 64), slice(a, b)) for a, b in ((0, 20), (20, 30), (30, 66), (45, 46))]
    for flag in (False, True):
        if flag:
            with fits.open(paths[0], mode="update") as hdus:
                hdus["DQ"].data[40:64, 30:] = 1
        (frame,) = collect_frames(paths)
        whole = frame.load()
        assert_array_equal(frame.source.read_rows(40, 64, frame.dq_bits), whole[40:64])
        found = [frame.has_good_pixels(region) for region in regions]
        assert found == [bool(np.isfinite(whole[region]).any()) for region in regions]
        assert found[2] is not flag


@pytest.mark.parametrize("row", [0, 3, 4, 67, 68, 149, None])
def test_one_good_pixel_of_a_region_is_found(tmp_path, row):
    paths = simulate_miri(tiles=(1, 1), n_dithers=1, shape=(160, 66)).write(tmp_path)
    with fits.open(paths[0], mode="update") as hdus:
        hdus["DQ"].data[10:, 20:] = 1
        if row is not None:
            hdus["DQ"].data[10 + row, 40] = 0
    (frame,) = collect_frames(paths)
    assert frame.has_good_pixels((slice(10, 160), slice(20, 66))) is (row is not None)


@pytest.mark.parametrize("shape", [(), (0, 4), (4, 0), (5,), (7, 5), (1, 7, 5), (3, 1, 4)])
@pytest.mark.parametrize("kind", ["f4", ">f4", "f8", ">i2", "u2", ">u4", "u1", "g"])
def test_digests_do_not_depend_on_the_parts(monkeypatch, shape, kind):
    monkeypatch.setattr(digests, "CHUNK", 10)
    values = np.random.default_rng(3).integers(0, 200, shape)
    stored = values - (1 << 15 if kind == "u2" else 1 << 31 if kind == ">u4" else 0)
    order = np.dtype({"u2": ">i2", ">u4": ">i4", "g": ">f8"}.get(kind, kind)).newbyteorder(">")
    expected = xxh3_128(np.asarray(stored, order).tobytes()).hexdigest()
    for layout in ("C", "F"):
        data = np.array(values, kind, order=layout)
        found = digests.pixel_digests(data, [data])
        assert found["digest"] == found["mask_digest"] == expected
