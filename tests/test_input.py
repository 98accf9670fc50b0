# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of bad input: typed errors that name the image and the value, before any output."""

import pickle
import re

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from astropy.wcs import WCS

import levelmatch as lm
from levelmatch.images.inputs import collect_frames

FUNCTIONS = [lm.match_dithers, lm.recombine_lyot, lm.match_mosaic, lm.match_levels]
every = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def match(images, *, function=lm.match_mosaic, **read):
    return function(images, group_by="FILENAME", read=lm.ReadOptions(**read))


def damaged(image, how):
    """Return the image with one fault."""
    data, wcs = image.data, image.wcs
    spectral, singular = WCS(naxis=2), wcs.deepcopy()
    spectral.wcs.ctype = "WAVE", "DEC--TAN"
    singular.wcs.cd = np.array([[1.0, 1.0], [1.0, 1.0]]) / 3600
    linear = WCS(naxis=2)
    linear.wcs.ctype = "LINEAR", "LINEAR"
    kinds = {
        "no wcs": {"wcs": None},
        "linear": {"wcs": linear},
        "singular": {"wcs": singular},
        "three dimensions": {"data": np.stack([data] * 2), "wcs": None},
        "one dimension": {"data": data[0], "wcs": None},
        "empty": {"data": np.zeros((0, 5))},
        "one line": {"data": data[:1]},
        "masked": {"mask": np.ones(data.shape, dtype=bool)},
        "mask's shape": {"mask": np.zeros((3, 4), dtype=bool)},
        "complex": {"data": data.astype(complex)},
        "bool": {"data": data > 0},
    }[how]
    keys = {"data": data, "wcs": wcs, "mask": None, **kinds}
    meta = {"FILENAME": "bad.fits"}
    if how == "mask's shape":
        # NDData does not check its mask.
        return NDData(keys["data"], mask=keys["mask"], wcs=wcs, unit=image.unit, meta=meta)
    return CCDData(**keys, unit=image.unit, meta=meta)


@every
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no wcs", r"bad\.fits: the image has no WCS"),
        ("linear", r"bad\.fits: the WCS is not celestial"),
        ("singular", r"bad\.fits: (all pixels of the WCS lie on|the outline has no area)"),
        ("three dimensions", r"bad\.fits: the image has 3 dimensions \(shape \(2, 48, 64\)\)"),
        ("one dimension", r"bad\.fits: the image has 1 dimensions \(shape \(64,\)\)"),
        ("empty", r"bad\.fits: the image is empty or a single line, its shape is \(0, 5\)"),
        ("one line", r"bad\.fits: the image is empty or a single line, its shape is \(1, 64\)"),
        ("masked", r"bad\.fits: every pixel is masked"),
        ("mask's shape", r"bad\.fits: the mask has shape \(3, 4\), the data \(48, 64\)"),
        ("complex", r"bad\.fits: the data are of type complex128"),
        ("bool", r"bad\.fits: the data are of type bool"),
    ],
)
def test_image_that_cannot_be_used(paint, function, how, message):
    good = paint("good.fits", (0, 20.5))
    with pytest.raises(lm.FrameError, match=message):
        function([good, damaged(paint("bad.fits"), how)], group_by="FILENAME")


def test_image_without_good_pixels(paint):
    bad = paint("bad.fits")
    bad.data[:] = np.nan
    with pytest.raises(lm.FrameError, match=r"bad\.fits: the image has no good pixel"):
        match([paint("good.fits", (0, 20.5)), bad])


def test_uncertainty_of_another_shape(paint):
    image = paint("bad.fits")
    bad = NDData(image.data, wcs=image.wcs, unit=image.unit, meta={"FILENAME": "bad.fits"})
    uncertainty = StdDevUncertainty(np.ones((3, 4)))
    bad._uncertainty = uncertainty
    with pytest.raises(lm.FrameError, match=r"bad\.fits: the uncertainty has shape \(3, 4\)"):
        match([paint("good.fits"), bad])


def test_a_second_wcs_beside_a_distortion_without_its_table(pair_of_files):
    """As of HST, if a program kept the image's extension alone."""
    with fits.open(pair_of_files[1], mode="update") as hdus:
        header = hdus[1].header
        for card in ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
            header[f"{card}A"] = header[card]
        for axis in "12":
            header[f"CPDIS{axis}"], header[f"CPERR{axis}"] = "LOOKUP", 1.0
            for text in (f"EXTVER: {axis}", "NAXES: 2", "AXIS.1: 1", "AXIS.2: 2"):
                header.append((f"DP{axis}", text))
    with pytest.raises(lm.FrameError, match=r"b\.fits: its WCS cannot be used: .*WCSDVARR"):
        match(pair_of_files)


# Units


def test_a_wcs_with_a_key_alone(pair_of_files):
    with fits.open(pair_of_files[1], mode="update") as hdus:
        for key in ["CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"]:
            hdus[1].header.rename_keyword(key, f"{key}A")
        for key in list(hdus[1].header["CD?_?"]) + list(hdus[1].header["PC?_?"]):
            hdus[1].header.rename_keyword(key, f"{key}A")
        for key in ("WCSAXES", "CDELT1", "CDELT2", "CUNIT1", "CUNIT2", "RADESYS", "LONPOLE"):
            hdus[1].header.remove(key, ignore_missing=True)
        hdus[1].header.remove("LATPOLE", ignore_missing=True)
    with pytest.raises(lm.FrameError, match=r"b\.fits: .* key A; rename .*CTYPE1A to CTYPE1"):
        match(pair_of_files)


@every
@pytest.mark.parametrize("unit", ["Jy", "K", "", "mag / arcsec2"])
def test_units_that_do_not_compare(paint, function, unit):
    images = [paint("a.fits"), paint("b.fits", (0, 20.5))]
    images[1].unit = u.Unit(unit)
    with pytest.raises(
        u.UnitsError, match=r"b\.fits: its unit \(.*\) cannot be compared .*a\.fits"
    ):
        function(images, group_by="FILENAME")


@pytest.mark.parametrize("unit", ["{}", "{} / s", "s / {}", "{} / (pix s)"])
def test_dn_and_adu_are_one_unit(paint, unit):
    images = [paint("a.fits"), paint("b.fits", (0, 20.5), level=2)]
    images[0].unit, images[1].unit = (u.Unit(unit.format(word)) for word in ("DN", "adu"))
    assert np.ptp(match(images).table["level"].value) == pytest.approx(2, abs=0.01)


def test_image_without_unit_beside_one_with(paint):
    image = paint("a.fits")
    bare = NDData(image.data, wcs=image.wcs, meta={"FILENAME": "a.fits"})
    with pytest.raises(u.UnitsError, match=r"a\.fits has no unit, b\.fits has MJy / sr; add unit"):
        match([bare, paint("b.fits", (0, 20.5))])


def test_file_without_unit_beside_one_with(pair_of_files):
    fits.delval(pair_of_files[1], "BUNIT", ext=1)
    with pytest.raises(u.UnitsError, match=r"b\.fits has no BUNIT, a\.fits has .*; add BUNIT"):
        match(pair_of_files)


@pytest.mark.parametrize("unit", [u.mag, u.ABmag, u.dex(u.Jy)])
def test_logarithmic_units(paint, unit):
    images = []
    for name, shift in (("a.fits", (0, 0)), ("b.fits", (0, 20.5))):
        image = paint(name, shift)
        images.append(NDData(image.data, wcs=image.wcs, unit=unit, meta={"FILENAME": name}))
    with pytest.raises(u.UnitsError, match=r"\.fits: .*logarithmic"):
        match(images)


@pytest.mark.parametrize("text", ["dex(MJy/sr)", "mag(AB)", "log10(MJy/sr)", "ABmag", "Magnitude"])
def test_logarithmic_units_of_headers(paint, write, tmp_path, text):
    paths = []
    for k in range(2):
        paths.append(write(paint(f"{k}.fits"), tmp_path / f"{k}.fits"))
        with fits.open(paths[k], mode="update") as hdus:
            for hdu in hdus:
                hdu.header["BUNIT"] = text
    with pytest.raises(u.UnitsError, match=r"\.fits: .*logarithmic"):
        lm.match_mosaic(paths)


def test_unit_of_files_that_is_not_understood(pair_of_files, tmp_path):
    fits.setval(pair_of_files[0], "BUNIT", value="furlong^^2", ext=1)
    with pytest.raises(u.UnitsError, match=r"b\.fits: its unit .* a\.fits \(furlong\^\^2\)"):
        match(pair_of_files)
    fits.setval(pair_of_files[1], "BUNIT", value="furlong^^2", ext=1)
    with pytest.warns(lm.LevelMatchWarning, match=r"a\.fits: the unit 'furlong\^\^2'") as caught:
        result = match(pair_of_files)
    assert len(caught) == 1
    assert str(result.table["level"].unit) == "furlong^^2"
    paths = result.write(tmp_path / "out")
    assert fits.getheader(paths[0], 1)["BUNIT"] == "furlong^^2"
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert record.unit == result.unit == pickle.loads(pickle.dumps(result.unit))
    lm.make_mosaic(result, output=tmp_path / "mosaic.fits")
    assert fits.getheader(tmp_path / "mosaic.fits")["BUNIT"] == "furlong^^2"


# Kinds of input


@every
@pytest.mark.parametrize("images", ["a.fits", 3, None, 2.5])
def test_input_that_is_no_collection(function, images):
    with pytest.raises(TypeError, match="images: (expected a list of images or|.* is one path)"):
        function(images)


@every
def test_collection_of_something_else(paint, function):
    with pytest.raises(TypeError, match="images: image 1 is of type ndarray, not a CCDData"):
        function([paint(), np.zeros((5, 5))])


@every
@pytest.mark.parametrize("images", [[], {}, {"t": []}, ()])
def test_no_images(function, images):
    with pytest.raises(lm.FrameError, match="images: there are none"):
        function(images)


# Files


@pytest.fixture
def pair_of_files(write_row):
    return write_row("ab", y=0)


def test_missing_file(pair_of_files, tmp_path):
    with pytest.raises(lm.FrameError, match=r"nowhere\.fits: there is no such file"):
        match([*pair_of_files, tmp_path / "nowhere.fits"])


def test_one_file_twice(pair_of_files):
    with pytest.raises(lm.FrameError, match=r"a\.fits: the file is given twice: .*in.a\.fits"):
        match([*pair_of_files, pair_of_files[0]])


@pytest.mark.parametrize("kind", ["file", "folder", "hard"])
def test_one_file_twice_by_a_link(pair_of_files, tmp_path, kind):
    link = tmp_path / "latest.fits"
    if kind == "hard":
        link.hardlink_to(pair_of_files[0])
    elif kind == "file":
        link.symlink_to(pair_of_files[0])
    else:
        (tmp_path / "again").symlink_to(pair_of_files[0].parent, target_is_directory=True)
        link = tmp_path / "again" / pair_of_files[0].name
    with pytest.raises(lm.FrameError, match=rf"{link.name}: the file is given twice: .* and .*a"):
        match([*pair_of_files, link])
    # A link alone is an image.
    assert len(match([link, pair_of_files[1]])) == 2


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/.."])
def test_names_that_name_nothing(paint, tmp_path, name):
    images = [paint(name), paint("b.fits", (0, 20.5))]
    result = lm.match_mosaic(images, group_by="FILENAME")
    assert result.names == ["image0000", "b.fits"]
    result.write(tmp_path / "out")
    assert lm.read_record(tmp_path / "out" / "levelmatch.asdf").names == result.names


@pytest.mark.parametrize("kind", ["ccd", "hdu", "hdus"])
def test_one_object_twice(paint, kind):
    """It would count as two images with noise of their own."""
    first, second = paint("a.fits"), paint("b.fits", (0, 20.5))
    images = [first, second]
    if kind != "ccd":
        images = [fits.ImageHDU(i.data, i.wcs.to_header()) for i in images]
    if kind == "hdus":
        images = [fits.HDUList([fits.PrimaryHDU(), hdu]) for hdu in images]
    with pytest.raises(lm.FrameError, match="the object of .* is given twice"):
        lm.match_mosaic([*images, images[1]], group_by="FILENAME")
    assert len(lm.match_mosaic(images, group_by="FILENAME")) == 2


@pytest.mark.parametrize("size", [0, 100, 2000, 3000])
def test_file_cut_in_its_header(pair_of_files, size):
    pair_of_files[0].write_bytes(pair_of_files[0].read_bytes()[:size])
    with pytest.raises(lm.FrameError, match=r"a\.fits: "):
        match(pair_of_files)


@pytest.mark.parametrize("lost", [1, 4000, 20000])
def test_file_cut_in_its_data(pair_of_files, lost):
    # astropy only warns, and fills the rest with zeros.
    content = pair_of_files[0].read_bytes()
    pair_of_files[0].write_bytes(content[:-lost])
    with pytest.raises(lm.FrameError, match=r"a\.fits: .*truncated"):
        match(pair_of_files)


def test_file_that_is_not_fits(pair_of_files):
    pair_of_files[0].write_text("SIMPLE is what this is not\n" * 200)
    with pytest.raises(lm.FrameError, match=r"a\.fits: not a readable FITS file"):
        match(pair_of_files)


@pytest.mark.parametrize(
    ("start", "message"), [(b"PK\3\4", "a zip archive"), (b"\x1f\x9d\x90", r"packed by .*\.Z")]
)
def test_file_of_a_packing_that_is_not_written(pair_of_files, start, message):
    pair_of_files[1].write_bytes(start + bytes(2880))
    with pytest.raises(lm.FrameError, match=rf"b\.fits: it is {message}.*; unpack it"):
        match(pair_of_files)


@pytest.mark.parametrize("hdu", ["NONE", 17, ("SCI", 2)])
def test_missing_extension(pair_of_files, hdu):
    with pytest.raises(lm.FrameError, match=r"a\.fits: there is no extension"):
        match(pair_of_files, hdu=hdu)


def test_file_without_an_image(pair_of_files):
    fits.HDUList([fits.PrimaryHDU()]).writeto(pair_of_files[1], overwrite=True)
    with pytest.raises(lm.FrameError, match=r"b\.fits: there is no image extension"):
        match(pair_of_files)


def test_several_science_extensions(pair_of_files, paint, write):
    image = paint("b.fits", (0, 20.5), level=1.0)
    other = fits.ImageHDU(image.data + 3, image.wcs.to_header(), name="SCI", ver=2)
    dq = fits.ImageHDU(np.zeros((48, 64), "i2"), name="DQ", ver=2)
    dq.data[:, :20] = 1
    write(image, pair_of_files[1], dq=np.ones((48, 64), "i2"), extra=(other, dq))
    # Both images show the same sky.
    with pytest.warns(lm.LevelMatchWarning, match=r"b\.fits \(SCI,1 of 2: SCI,1, SCI,2\)"):
        collect_frames(pair_of_files)
    # The second version has its own data-quality extension.
    both = [pair_of_files[1]]
    result = match(both, hdu=("SCI", 2))
    assert result[0].mask.sum() == 48 * 20
    np.testing.assert_array_equal(result[0].data, other.data)


def test_dq_of_another_shape(paint, write, tmp_path):
    path = write(paint("a.fits"), tmp_path / "a.fits", dq=np.zeros((48, 65), "u4"))
    with pytest.raises(lm.FrameError, match=r"a\.fits: the DQ extension has shape \(48, 65\)"):
        match([path])


@pytest.mark.parametrize("hdu", [3, "CAT"])
def test_extension_that_is_a_table(pair_of_files, hdu):
    with fits.open(pair_of_files[0], mode="append") as hdus:
        hdus.append(fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1])], name="CAT"))
        hdu = len(hdus) - 1 if hdu == 3 else hdu
    with pytest.raises(lm.FrameError, match=rf"a\.fits: hdu={hdu!r} is a table, not an image"):
        match(pair_of_files[:1], hdu=hdu)


@pytest.mark.parametrize("name", ["DQ", "dq"])
def test_dq_of_floats(paint, write, tmp_path, name):
    path = write(paint("a.fits"), tmp_path / "a.fits", dq=np.zeros((48, 64), "f4"))
    fits.setval(path, "EXTNAME", value=name, ext=2)
    with pytest.raises(lm.FrameError, match=rf"a\.fits: the {name} extension does not hold whole"):
        match([path])


def test_dq_of_a_table(paint, write, tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1])], name="DQ")
    path = write(paint("a.fits"), tmp_path / "a.fits", extra=[table])
    with pytest.raises(lm.FrameError, match=r"a\.fits: the DQ extension is a table, not an image"):
        match([path])


def test_dq_of_one_number(paint, write, tmp_path):
    dq = fits.ImageHDU(name="DQ")
    path = write(paint("a.fits"), tmp_path / "a.fits", extra=[dq])
    (frame,) = match([path]).frames
    assert frame.source.dq_hdu is None
    assert np.isfinite(frame.load()).all()
    dq.header["PIXVALUE"] = 4
    write(paint("a.fits"), path, extra=[dq])
    assert len(match([path], dq_bits=3)) == 1
    with pytest.raises(lm.FrameError, match=r"a\.fits: the DQ extension flags every pixel"):
        match([path])


def test_header_without_a_wcs(tmp_path):
    fits.PrimaryHDU(np.ones((20, 20), "f4")).writeto(tmp_path / "a.fits")
    with pytest.raises(lm.FrameError, match=r"a\.fits: the header has no celestial WCS"):
        match([tmp_path / "a.fits"])


BROKEN = {
    "kinds": (
        {"CTYPE2": "DEC--SIN"},
        r"inconsistent projection types \(expected DEC--TAN, got DEC--SIN in CTYPE2\)",
    ),
    "singular": ({"PC1_1": 0.0, "PC2_2": 0.0}, "linear transformation matrix is singular"),
    "one axis": ({"CTYPE2": "LINEAR"}, "unmatched celestial axes"),
    "unit": ({"CUNIT1": "m"}, "(i|I)n CUNIT1 : Mismatched units type"),
}


@pytest.mark.parametrize(("cards", "message"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("radesys", ["ICRS", "FK5"])
def test_wcs_that_wcslib_refuses(pair_of_files, cards, message, radesys):
    with fits.open(pair_of_files[1], mode="update") as hdus:
        hdus[1].header.update({"RADESYS": radesys, **cards})
    with pytest.raises(
        lm.FrameError, match=rf"^b\.fits: its WCS cannot be used: {message}"
    ) as caught:
        match(pair_of_files)
    assert "\n" not in str(caught.value)
    assert "cextern" not in str(caught.value)


def test_wcs_in_memory_that_wcslib_refuses(paint):
    image = paint("b.fits")
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--SIN"
    bad = NDData(image.data, wcs=wcs, unit=image.unit, meta=image.meta)
    with pytest.raises(lm.FrameError, match=r"^b\.fits: its WCS .*: inconsistent projection types"):
        match([paint("a.fits", (0, 20.5)), bad])


def test_output_folder_is_an_input_s(pair_of_files, snapshot):
    before = snapshot(pair_of_files)
    result = match(pair_of_files)
    with pytest.raises(lm.FrameError, match=r"a\.fits: the output folder .*in holds it"):
        result.write(pair_of_files[0].parent, overwrite=True)
    assert snapshot(pair_of_files) == before
    assert sorted(p.name for p in pair_of_files[0].parent.iterdir()) == ["a.fits", "b.fits"]


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_outputs_would_replace_what_inputs_link_to(pair_of_files, snapshot, tmp_path, link):
    before = snapshot(pair_of_files)
    links = [tmp_path / "links" / path.name for path in pair_of_files]
    links[0].parent.mkdir()
    for path, new in zip(pair_of_files, links, strict=True):
        new.symlink_to(path) if link == "symbolic" else new.hardlink_to(path)
    result = match(links)
    with pytest.raises(lm.FrameError, match=r"a\.fits(: the output folder|.* is the input)"):
        result.write(pair_of_files[0].parent, overwrite=True)
    with pytest.raises(lm.FrameError, match=r"a\.fits: output: .* is this input"):
        lm.make_mosaic(result, output=pair_of_files[0], overwrite=True)
    # The output is a link to an input, in another folder.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.fits").symlink_to(pair_of_files[0])
    with pytest.raises(lm.FrameError, match=r"b\.fits is the input .*a\.fits"):
        result.write(tmp_path / "out", overwrite=True)
    assert snapshot(pair_of_files) == before


def test_output_folder_without_a_name(pair_of_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = match(pair_of_files)
    with pytest.raises(ValueError, match="directory: the path is empty"):
        result.write("")
    with pytest.raises(ValueError, match="the path is empty"):
        lm.apply_record(result.record, pair_of_files, "")
    assert sorted(tmp_path.iterdir()) == before


def test_output_folder_is_a_file(pair_of_files, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError, match="directory: .*out is not a folder"):
        match(pair_of_files).write(tmp_path / "out")


def test_output_exists(pair_of_files, tmp_path):
    result = match(pair_of_files)
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.fits").write_text("mine")
    with pytest.raises(FileExistsError, match=r"b\.fits exists; overwrite=True"):
        result.write(out)
    # The check precedes the first file.
    assert sorted(p.name for p in out.iterdir()) == ["b.fits"]
    assert (out / "b.fits").read_text() == "mine"
    assert len(result.write(out, overwrite=True)) == 2


def test_outputs_of_one_name(paint, tmp_path):
    result = match([paint("a.fits"), paint("a", (0, 20.5))])
    with pytest.raises(lm.FrameError, match=r"a\.fits: two outputs would have this name"):
        result.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The match itself


@pytest.mark.parametrize("function", [lm.match_mosaic, lm.match_levels])
def test_nothing_overlaps(paint, function):
    images = [paint("a.fits"), paint("b.fits", (0, 500))]
    with pytest.raises(lm.NoOverlapError, match="none of the 2 images overlap"):
        function(images, group_by="FILENAME")


@pytest.mark.parametrize("function", [lm.match_mosaic, lm.match_levels])
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("c.fits", r"reference: 'c\.fits' is neither an image, a tile, an index"),
        ("", r"reference: '' is neither"),
        (2, "reference: there is no image 2 among 2"),
        (-3, "reference: there is no image -3 among 2"),
        (True, "reference: True is neither"),
        (None, "reference: None is neither"),
        (1.0, r"reference: 1\.0 is neither"),
        (np.eye(2), "reference: an object of type ndarray is neither"),
    ],
)
def test_unknown_reference(paint, function, reference, message):
    images = [paint("a.fits"), paint("b.fits", (0, 20.5))]
    with pytest.raises(ValueError, match=message):
        function(images, reference=reference, group_by="FILENAME")


def test_lyot_image_is_no_reference(paint):
    images = [
        paint(f"jw01234001001_02101_00001_mirimage{letter}_cal.fits", (0, 20.5 * k))
        for k, letter in enumerate("sl")
    ]
    with pytest.raises(ValueError, match="is a Lyot image; name its science partner"):
        lm.match_mosaic(images, reference="jw01234001001_02101_00001_mirimagel_cal.fits")


@every
def test_keywords_of_earlier_releases_work(paint, function):
    images = [paint("a.fits", level=1.0), paint("b.fits", (0, 20.5))]
    words = r"give solve=SolveOptions\(weights='equal'\); .* will be removed in the next release"
    with pytest.warns(lm.LevelMatchDeprecationWarning, match=words):
        result = function(images, group_by="FILENAME", weights="equal")
    assert result.options["solve"]["weights"] == "equal"


@every
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"read": {}}, TypeError, "read: expected ReadOptions, not dict"),
        ({"wait": 1}, TypeError, "unexpected keyword argument 'wait'$"),
        ({"measure": "direct"}, TypeError, "measure: expected MeasureOptions, not str"),
        ({"measure": {}}, TypeError, "measure: expected MeasureOptions, not dict"),
        ({"solve": 3}, TypeError, "solve: expected SolveOptions, not int"),
        ({"progress_bar": 3}, TypeError, "progress_bar: 3 is not callable"),
        ({"group_by": "NOSUCH"}, lm.FrameError, r"a\.fits: group_by: .* no keyword 'NOSUCH'"),
        ({"group_by": ["OBJECT", "NOSUCH"]}, lm.FrameError, "no keyword 'OBJECT'"),
        ({"group_by": 3}, TypeError, "group_by: 3 is "),
        ({"group_by": None}, TypeError, "group_by: None is "),
        ({"group_by": [1, 2]}, TypeError, r"group_by: \[1, 2\] is "),
        ({"group_by": []}, ValueError, r"group_by: \[\] "),
        ({"group_by": "jwst"}, lm.FrameError, r"a\.fits: group_by='jwst', but neither name nor"),
    ],
)
def test_options_of_every_function(paint, function, options, error, message):
    images = [paint("a.fits"), paint("b.fits", (0, 20.5))]
    with pytest.raises(error, match=message):
        function(images, **{"group_by": "FILENAME", **options})


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lm.match_dithers, "fit_type"),
        (lm.recombine_lyot, "fit_type"),
        (lm.combine_nircam_short, "fit_type"),
        (lm.match_mosaic, "fit_type"),
        (lm.match_levels, "fit_type_dithers"),
        (lm.match_levels, "fit_type_recombine_lyot"),
        (lm.match_levels, "fit_type_combine_nircam_short"),
        (lm.match_levels, "fit_type_mosaic_tiles"),
    ],
)
@pytest.mark.parametrize("value", ["plane", None, "slope", 1])
def test_fit_types(paint, function, name, value):
    with pytest.raises(ValueError, match=f"fit_type: {value!r} is none of .*level"):
        function([paint()], **{name: value})


@pytest.mark.parametrize("value", ["no", "False", None, 2])
@pytest.mark.parametrize(
    ("options", "name"),
    [
        (lm.ReadOptions, "rematch"),
        (lm.ReadOptions, "mix_filters"),
        (lm.MeasureOptions, "mask_sources"),
        (lm.SolveOptions, "subtract"),
        (lm.SolveOptions, "share_offsets"),
    ],
)
def test_flags_are_true_or_false(options, name, value):
    with pytest.raises(TypeError, match=f"{name}: {value!r} is neither True nor False"):
        options(**{name: value})
    assert getattr(options(**{name: np.True_}), name)


def test_flags_of_functions_are_true_or_false(pair_of_files, tmp_path):
    for name in ("recombine_lyot", "combine_nircam_short"):
        with pytest.raises(TypeError, match=f"{name}: 'no' is neither True nor False"):
            lm.match_levels(pair_of_files, **{name: "no"})
    result = match(pair_of_files)
    (first, *_) = written = result.write(tmp_path / "out")
    before = first.read_bytes()
    record = tmp_path / "out" / "levelmatch.asdf"
    for use in (
        lambda: result.write(tmp_path / "out", overwrite="no"),
        lambda: lm.make_mosaic(result, output=first, overwrite="no"),
        lambda: lm.undo_record(record, written, tmp_path / "copy", overwrite="no"),
        lambda: result.record.write(record, overwrite="no"),
    ):
        with pytest.raises(TypeError, match="overwrite: 'no' is neither True nor False"):
            use()
    with pytest.raises(TypeError, match="force: 'no' is neither True nor False"):
        lm.undo_record(record, written, tmp_path / "back", force="no")
    with pytest.raises(TypeError, match="force: 'no' is neither True nor False"):
        lm.apply_record(record, pair_of_files, tmp_path / "back", force="no")
    assert first.read_bytes() == before


@pytest.mark.parametrize("dq_bits", ["NOT_A_BIT", "JUMP_DET+NOPE", ["HOT", "COLD"], 2.5, ""])
def test_unknown_dq_bits(pair_of_files, dq_bits):
    with pytest.raises(ValueError, match="dq_bits: .* is not"):
        match(pair_of_files, dq_bits=dq_bits)


# A number that is positive, not negative, or a positive whole number.
POSITIVE, NOT_NEGATIVE = "is not a positive number", "is not a number of 0 or more"
WHOLE = "is not a positive whole number"


@pytest.mark.parametrize(
    ("kind", "name", "values", "message"),
    [
        (lm.MeasureOptions, "method", ["drizzle"], "is none of"),
        (lm.MeasureOptions, "location", ["mode"], "is none of"),
        (lm.MeasureOptions, "clip", [0, -1.0, np.nan, np.inf, "3", None], POSITIVE),
        (lm.MeasureOptions, "n_workers", [0, -2, 1.5, "2"], WHOLE),
        (lm.SolveOptions, "weights", ["best", None, ["ivar"]], "is none of"),
        (lm.SolveOptions, "robust", ["cauchy"], "is none of"),
        (lm.SolveOptions, "floor", [-1, -1.0, np.inf, "x"], NOT_NEGATIVE),
        (lm.SolveOptions, "min_area", [None, np.nan], NOT_NEGATIVE),
        (lm.SolveOptions, "min_linear", [-0.1], NOT_NEGATIVE),
        (lm.SolveOptions, "rms_limit", [np.inf, "2"], NOT_NEGATIVE),
        (lm.SolveOptions, "slope_prior", [0, 0.0, -1.0, np.nan, True], POSITIVE),
    ],
)
def test_values_of_options(kind, name, values, message):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name}: {re.escape(repr(value))} {message}"):
            kind(**{name: value})


@pytest.mark.parametrize("kind", [lm.MeasureOptions, lm.SolveOptions])
def test_unknown_and_positional_options(kind):
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        kind(colour=1)
    with pytest.raises(TypeError, match="positional argument"):
        kind(1)


@every
def test_options_are_keyword_only(paint, function):
    with pytest.raises(TypeError, match="positional argument"):
        function([paint()], "level", "level")


def test_stack_method(paint):
    with pytest.raises(ValueError, match="method: 'drizzle' is none of"):
        lm.stack_tile([paint()], method="drizzle")


def test_recombine_lists_of_unlike_length(paint):
    with pytest.raises(ValueError, match="lyot: 1 images for 2 science images"):
        lm.recombine_lyot([paint("a.fits"), paint("b.fits")], [paint("c.fits")])


def test_recombine_parts_of_unlike_shape(paint):
    science = [paint("a.fits")]
    lyot = [paint("b.fits", shape=(40, 64))]
    with pytest.raises(lm.FrameError, match=r"b\.fits: its shape \(40, 64\) is not that of a"):
        lm.recombine_lyot(science, lyot)


def test_recombine_lists_of_unlike_order(paint):
    """The pixels of one exposure would take the place of another's."""
    science = [paint("a.fits"), paint("b.fits", (0, 4))]
    lyot = [paint("c.fits", (0, 4)), paint("d.fits")]
    with pytest.raises(lm.FrameError, match=r"c\.fits: lyot: it is given .* lies at b\.fits"):
        lm.recombine_lyot(science, lyot)
    # The astrometry of the two may differ.
    lm.recombine_lyot(science, [paint("c.fits", (1, 0.5)), paint("d.fits", (0, 4))])
    lm.recombine_lyot(science, [paint("c.fits", (0, -9)), paint("d.fits", (0, -5))])
    # A common shift may be as large as a dither.
    lm.recombine_lyot(science, [paint("c.fits", (0, 4)), paint("d.fits", (0, 8))])


def test_combine_chips_of_another_camera(paint):
    with pytest.raises(lm.FrameError, match=r"a\.fits: its detector 'unknown' is none of NIRCam"):
        lm.combine_nircam_short([paint("a.fits")])


# Inputs are never changed


@every
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_inputs_are_untouched(paint, write, with_planes, snapshot, tmp_path, function, kind):
    images = [
        with_planes(paint(f"{n}.fits", (0.4, 20.5 * k), level=k, plane=(0, k, -k)))
        for k, n in enumerate("abc")
    ]
    if kind == "file":
        images = [
            write(i, tmp_path / i.meta["FILENAME"], err=i.uncertainty.array, dq=i.flags)
            for i in images
        ]
    before = snapshot(images)
    types = {"fit_type": "level+slope"}
    if function is lm.match_levels:
        types = {"fit_type_dithers": "level+slope", "fit_type_mosaic_tiles": "level+slope"}
    result = function(images, group_by=lambda name, meta: name[0] > "a", **types)
    for image in result:
        image.data += 100
        image.mask[:] = True
        image.uncertainty.array[:] = -1
        image.meta["NEW"] = 1
    result.write(tmp_path / "out")
    assert snapshot(images) == before


def test_inputs_of_other_functions_are_untouched(paint, with_planes, snapshot):
    names = [f"jw01234001001_02101_0000{k}_nrcb{k}_cal.fits" for k in (1, 2)]
    images = [with_planes(paint(n, (0.4, 20.5 * k))) for k, n in enumerate(names)]
    before = snapshot(images)
    list(lm.combine_nircam_short(images, fit_type="level+slope"))
    lm.stack_tile(images)
    assert snapshot(images) == before
    full = [with_planes(paint("jw01234001001_02101_00001_mirimage_cal.fits", shape=(760, 300)))]
    before = snapshot(full)
    science, lyot = lm.separate_lyot(full[0])
    science.data[:] = lyot.data[:] = 0
    science.flags[:] = lyot.mask[:] = 1
    assert snapshot(full) == before


def test_warnings_point_at_the_line_of_the_call(paint):
    images = [paint(f"{k}.fits", (0.0, 30.0 * k), dtype="f8") for k in (0, 1, 9)]
    with pytest.warns(lm.DisconnectedWarning) as caught:
        lm.match_levels(images, group_by="FILENAME")
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(lm.LevelMatchWarning, match="the only image") as caught:
        lm.match_levels(images[:1])
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(lm.LevelMatchDeprecationWarning) as caught:
        lm.match_levels(images[:2], group_by="FILENAME", weights="ivar")
    assert {w.filename for w in caught} == {__file__}


@pytest.mark.parametrize("mask", [np.ma.nomask, False])
def test_a_mask_of_one_value(simulated, tmp_path, mask):
    images = [
        NDData(image.data, wcs=image.wcs, unit=image.unit, meta=image.meta, mask=mask)
        for image in simulated.images
    ]
    result = lm.match_levels(images)
    expected = lm.match_levels(list(simulated.images))
    assert list(result.table["level"]) == list(expected.table["level"])
    assert all(path.exists() for path in result.write(tmp_path))
