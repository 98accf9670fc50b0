# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Real images of many archives, matched by the command with its defaults."""

import itertools
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import mad_std
from astropy.wcs import WCS, FITSFixedWarning
from helpers import run as command, succeed
from scipy.ndimage import map_coordinates

import levelmatch as lm

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def archive(real_data):
    folder = real_data / "real"
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is missing")
    return folder


def run(paths, folder, *options):
    """Match files by the command, and return the record and the outputs."""
    succeed("run", *paths, "-o", folder, "--quiet", *options)
    record = lm.read_record(folder / "levelmatch.asdf")
    outputs = sorted(p for p in folder.iterdir() if p.suffix in (".fits", ".gz"))
    assert lm.verify_record(record, outputs) == sorted(record.table["name"])
    return record, outputs


# Single images, cut into pieces


# File, index of the image's HDU, and the value of missing pixels, which stay.
SINGLE = {
    "nicmos": ("nicmos/nicmos.fits", 1, 0),
    "hsc": ("lsst_hsc/HSC-0908120-056-small.fits", 1, None),
    "spire": ("spire/herschel_spire.fits.gz", 1, None),
    "ukidss": ("ukidss_zpn/ukidss.fits", 1, None),
    "magpis": ("magpis/magpis.fits", 0, None),
    "kids g": ("kids/KiDS-test_g.fits", 0, None),
    "kids r": ("kids/KiDS-test_r.fits", 0, None),
    "kids i": ("kids/KiDS-test_i.fits", 0, None),
    "dss": ("dss/dss_hd219829.fits", 0, None),
    "chandra": ("herschel_chandra_irac/chandra_merge_broad_flux_crop_asm.fits", 0, None),
    "miri F1130W": ("miri_i2d/jw01288015001_04101_00001_mirimage_i2d.fits", 1, 0),
    "miri F770W": ("miri_i2d/jw01288015001_26101_00003_mirimage_i2d.fits", 1, 0),
    "miri F1500W": ("miri_i2d/jw01288016001_34101_00002_mirimage_i2d.fits", 1, 0),
}
# Cards of the place of the first pixel in the image, on the detector or on the plate.
PLACES = {"CRPIX1": -1, "CRPIX2": -1, "CNPIX1": 1, "CNPIX2": 1}
# In units of the noise that each piece gets.
LEVELS = np.array([0.0, 11.0, -7.0, 4.0])


def noise_of(data):
    """The noise of a pixel, from the differences of neighbours."""
    steps = np.diff(data, axis=1) / np.sqrt(2)
    steps = steps[np.isfinite(steps)]
    return mad_std(steps) or np.std(steps)


def cut(path, folder, main_hdu, missing):
    """Cut a file into four pieces with a level and noise each; return them, and the levels."""
    folder.mkdir()
    rng = np.random.default_rng(8)
    with fits.open(path, do_not_scale_image_data=True, memmap=False) as hdus:
        hdus[main_hdu].verify("silentfix")
        header, data = hdus[main_hdu].header, hdus[main_hdu].data
        shape, scale = data.shape[-2:], header.get("BSCALE", 1)
        noise = noise_of(np.where(data == missing, np.nan, data.astype(float)))
        paths = []
        starts = [((0, round(0.35 * n)), (round(0.65 * n), n)) for n in shape]
        for k, (j, i) in enumerate(itertools.product(range(2), repeat=2)):
            box = slice(starts[0][0][j], starts[0][1][j]), slice(starts[1][0][i], starts[1][1][i])
            change = noise * (LEVELS[k] + rng.normal(0, 1, data[box].shape))
            piece = fits.HDUList([hdu.copy() for hdu in hdus])
            for index, hdu in enumerate(piece):
                if not hdu.is_image or hdu.header["NAXIS"] < 2 or hdu.data.shape[-2:] != shape:
                    continue
                values = hdu.data[..., *box].copy()
                if index == main_hdu:
                    good = np.isfinite(values) & (values != missing)
                    moved = values + change
                    exact = moved if values.dtype.kind == "f" else np.rint(moved)
                    values[good] = exact.astype(values.dtype)[good]
                hdu.data = values
                for key, step in PLACES.items():
                    if key in hdu.header:
                        hdu.header[key] += step * box[0 if key.endswith("2") else 1].start
            # The gwcs of JWST's images, which would have to move as well.
            piece = fits.HDUList([hdu for hdu in piece if hdu.name != "ASDF"])
            name = path.name.removesuffix(".gz").removesuffix(".fits")
            paths.append(folder / f"{name}_{k}.fits")
            piece.writeto(paths[-1], output_verify="silentfix")
            if scale != 1:
                # Written pixels lose their scale.
                fits.setval(paths[-1], "BSCALE", value=scale, ext=main_hdu)
    return paths, LEVELS * noise * scale


@pytest.mark.parametrize("name", SINGLE)
def test_levels_of_pieces(archive, tmp_path, name):
    file, hdu, missing = SINGLE[name]
    paths, levels = cut(archive / file, tmp_path / "in", hdu, missing)
    record, outputs = run(paths, tmp_path / "out")
    table = record.table
    table.sort("name")
    found, errors = (np.asarray(table[key]) for key in ("level", "error"))
    found, sigma = found - found[0], np.hypot(errors, errors[0])
    step = np.ptp(levels) / np.ptp(LEVELS)
    assert (sigma[1:] > 0).all()
    assert np.all(np.abs(found - levels)[1:] < 4 * sigma[1:])
    # Errors are those of the noise, over thousands of pixels.
    assert (sigma < 0.15 * step).all()
    back = lm.undo_record(record, outputs, tmp_path / "back")
    for one, other in zip(back, paths, strict=True):
        assert_restored(one, other, hdu)


# Cards of checksums, whose comments change.
SUMS = {"CHECKSUM", "DATASUM"}


def assert_restored(one, other, main_hdu):
    """Pixels are those of another file to the rounding of floats, all else bit by bit."""
    with fits.open(one, disable_image_compression=True) as a, fits.open(other) as b:
        assert len(a) == len(b)
        for index, (new, old) in enumerate(zip(a, b, strict=True)):
            cards = [
                [str(card) for card in hdu.header.cards if card.keyword not in SUMS]
                for hdu in (new, old)
            ]
            assert cards[0] == cards[1]
            if index == main_hdu and old.header["BITPIX"] < 0:
                largest = np.nanmax(np.abs(old.data))
                np.testing.assert_allclose(new.data, old.data, rtol=0, atol=1e-6 * largest)
            elif old.data is not None:
                assert new.data.tobytes() == old.data.tobytes()


# Sets of images


# Files of one filter, and their number.
SETS = {
    "DECam i, one night": ("decam_sfft/DEC-OBS04*", 5),
    "DECam i, another night": ("decam_sfft/DEC-OBS18*", 5),
    "DECam i, both": ("decam_sfft/*", 10),
    "unWISE W1": ("unwise_w1/*", 12),
    "90Prime r": ("bok_mzls_decam/mzlsbass3_90prime_CP20160202*", 2),
    "90Prime g": ("bok_mzls_decam/mzlsbass3_90prime_CP20160703*", 3),
    "90Prime g, five": ("bok_mzls_decam/mzlsbass_90prime_deep2g*", 5),
    "90Prime r, five": ("bok_mzls_decam/mzlsbass_90prime_deep2r*", 5),
    "Mosaic-3 z": ("bok_mzls_decam/mzlsbass3_mosaic*", 2),
    "Mosaic-3 z, oki": ("bok_mzls_decam/mzlsbass_mosaic*", 2),
    "DECam z": ("bok_mzls_decam/testcase3*ooi_z*", 3),
    "DECam r": ("bok_mzls_decam/testcase3*ooi_r*", 2),
    "DECam g": ("bok_mzls_decam/testcase3*ooi_g*", 3),
}


def images_of(paths):
    """The image of each file, and its WCS."""
    out = []
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            with fits.open(path) as hdus:
                hdu = next(h for h in hdus if h.data is not None and h.data.ndim == 2)
                out.append((hdu.data.astype(float), WCS(hdu.header)))
    return out


def medians(paths):
    """Medians of the differences of each two images where they overlap, without levelmatch."""
    found = []
    for (data, wcs), (other, there) in itertools.combinations(images_of(paths), 2):
        y, x = np.indices(data.shape)
        xy = there.all_world2pix(*wcs.all_pix2world(x, y, 0), 0)
        moved = map_coordinates(other, xy[::-1], order=1, cval=np.nan)
        difference = (data - moved)[np.isfinite(moved) & np.isfinite(data)]
        if difference.size > 100:
            found.append((np.median(difference), mad_std(difference) / np.sqrt(difference.size)))
    return np.array(found).T


@pytest.mark.parametrize("name", SETS)
def test_sets_of_images(archive, tmp_path, name):
    pattern, n = SETS[name]
    paths = sorted(archive.glob(pattern))
    assert len(paths) == n
    record, outputs = run(paths, tmp_path / "out")
    before, _ = medians(paths)
    after, sigma = medians(outputs)
    assert len(before) == len(after) > 0
    rms = [np.sqrt(np.mean(np.square(v))) for v in (before, after, sigma)]
    # Seeing and flux scales that differ leave more than the noise of the medians.
    assert rms[1] < 3.5 * rms[2]
    # Of most sets the noise is far less than the levels.
    assert rms[1] < max(0.2 * rms[0], 3 * rms[2])


@pytest.mark.parametrize("band", ["z", "g"])
def test_errors_of_images_of_unequal_flux_scales(archive, tmp_path, band):
    """Levels change with the brightness, by as much as their errors say.

    Exposures and nights give scales of 1 : 0.5 : 0.75 in z. The truth comes from the pixels that
    are faint in the third image, whose noise is its own. Errors in z were 25 times the true ones.
    """
    paths = sorted(archive.glob(f"bok_mzls_decam/testcase3*ooi_{band}*"))
    record, _ = run(paths, tmp_path / "out", "--reference", "mean")
    table = record.table
    table.sort("name")
    truth = faint_levels(paths)
    found, errors = (np.asarray(table[key]) for key in ("level", "error"))
    off = found - found.mean() - (truth - truth.mean())
    assert np.all(np.abs(off) < 2 * errors)
    assert np.sqrt(np.mean(errors**2)) < 4 * np.sqrt(np.mean(off**2))


def faint_levels(paths):
    """Levels of three images from the differences of two where the third one is faint."""
    (first, wcs), *others = images_of(paths)
    sky = wcs.all_pix2world(*np.indices(first.shape)[::-1], 0)
    moved = [
        map_coordinates(data, there.all_world2pix(*sky, 0)[::-1], order=1, cval=np.nan)
        for data, there in others
    ]
    images = np.stack([first, *moved])
    images = images[:, np.isfinite(images).all(axis=0)]
    steps = {}
    for i, j, k in ((0, 1, 2), (1, 2, 0), (0, 2, 1)):
        faint = images[k] < np.percentile(images[k], 30)
        steps[i, j] = np.mean(images[i, faint] - images[j, faint])
    one, two, three = steps[0, 1], steps[1, 2], steps[0, 2]
    return np.array([one + three, two - one, -two - three]) / 3


def test_filters_of_one_set_are_not_mixed(archive, tmp_path):
    paths = sorted(archive.glob("miri_i2d/*"))
    assert len(paths) == 3
    result = command("run", *paths, "-o", tmp_path / "out")
    assert result.exit_code != 0
    assert "is of the filter F1130W" in result.output
    assert not (tmp_path / "out").exists()
