# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fixtures and helpers: images with a known sky and known planes, and real data."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS

from levelmatch import match_levels
from levelmatch.record.run_result import RunResult
from levelmatch.sky.grid import Footprint
from levelmatch.sky.vectors import plane_terms, tangent_axes, unit_vectors
from levelmatch.testing import simulate_generic

DATA = Path(__file__).parents[2] / "shared" / "data"
CENTRE = (150.0, 2.0)


def painted_wcs(shift=(0.0, 0.0), *, shape=(48, 64), centre=CENTRE, scale=1.0, angle=0.0):
    """Return a tangential WCS, shifted by (y, x) pixels and rotated by an angle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = centre
    wcs.wcs.lonpole = 180.0
    wcs.wcs.crpix = (shape[1] + 1) / 2 - shift[1], (shape[0] + 1) / 2 - shift[0]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    wcs.wcs.set()
    return wcs


def plane_at(wcs, shape, plane, centre=CENTRE):
    """Return a plane (level, slopes per arcmin toward East and North) at every pixel."""
    y, x = np.indices(shape)
    ra, dec = wcs.pixel_to_world_values(x, y)
    return plane_terms(unit_vectors(ra, dec), tangent_axes(unit_vectors(*centre))) @ plane


def paint_image(
    name="a.fits",
    shift=(0.0, 0.0),
    *,
    level=0.0,
    plane=(0.0, 0.0, 0.0),
    sky=(5.0, 0.6, -0.9),
    noise=0.01,
    seed=0,
    shape=(48, 64),
    centre=CENTRE,
    scale=1.0,
    angle=0.0,
    unit="MJy/sr",
    dtype="f4",
    meta=(),
):
    """Return a CCDData of a sky that bilinear sampling follows exactly, plus a plane."""
    wcs = painted_wcs(shift, shape=shape, centre=centre, scale=scale, angle=angle)
    total = np.add(sky, plane) + [level, 0, 0]
    rng = np.random.default_rng([seed, *name.encode()])
    data = plane_at(wcs, shape, total, centre) + noise * rng.standard_normal(shape)
    header = fits.Header({"FILENAME": name, **dict(meta)})
    return CCDData(data.astype(dtype), unit=unit, wcs=wcs, meta=header)


def write_image(image, path, *, err=None, dq=None, extra=()):
    """Write an image in the layout of JWST files: keywords, SCI, and optionally ERR and DQ."""
    primary = fits.PrimaryHDU()
    primary.header.extend(image.meta, update=True)
    header = image.wcs.to_header(relax=True)
    header["BUNIT"] = u.Unit(image.unit).to_string("fits")
    header["SCICARD"] = (42, "a card of the science extension")
    hdus = [primary, fits.ImageHDU(image.data, header, name="SCI")]
    if err is not None:
        hdus.append(fits.ImageHDU(err, name="ERR"))
    if dq is not None:
        hdus.append(fits.ImageHDU(dq, name="DQ"))
    fits.HDUList([*hdus, *extra]).writeto(path, overwrite=True)
    return path


@pytest.fixture(name="paint", scope="session")
def _paint():
    return paint_image


@pytest.fixture(name="plane_of")
def _plane_of():
    return plane_at


@pytest.fixture(name="wcs_of", scope="session")
def _wcs_of():
    return painted_wcs


@pytest.fixture
def write():
    return write_image


@pytest.fixture
def write_row(tmp_path):
    """Return a function that writes JWST-like files, each 20.5 pixels beside the one before."""

    def make(names="abc", *, folder=tmp_path / "in", suffix=".fits", y=0.3, err=None):
        folder.mkdir(exist_ok=True)
        images = [paint_image(f"{n}.fits", (y, 20.5 * k), level=k) for k, n in enumerate(names)]
        paths = [folder / f"{n}{suffix}" for n in names]
        dq = np.zeros(images[0].data.shape, "u4")
        return [write_image(*pair, err=err, dq=dq) for pair in zip(images, paths, strict=True)]

    return make


@pytest.fixture(scope="module")
def simulated():
    """Return a chain of four images of the sky."""
    return simulate_generic(n_images=4, shape=(64, 64), layout="chain", overlap=0.4, seed=3)


@pytest.fixture(scope="module")
def result(simulated):
    """Return the matched chain of images."""
    return match_levels(list(simulated.images))


@pytest.fixture(scope="module")
def square():
    """Return a square of four tiles, with six pairs and three loops."""
    return match_levels(list(simulate_generic(n_images=4, shape=(64, 64), seed=3).images))


@pytest.fixture(scope="module")
def split(simulated):
    """Return three matched images of which the last overlaps none."""
    images = simulated.images
    with pytest.warns(UserWarning, match="pass mosaic"):
        return match_levels([images[0], images[1], images[3]])


@pytest.fixture
def row(paint):
    """Return the levels of four images in a row by name, and the images."""
    levels = {"a.fits": 1.5, "b.fits": -2.0, "c.fits": 0.25, "d.fits": 3.0}
    images = [
        paint(name, (0.3 * k, 40.2 * k), level=level)
        for k, (name, level) in enumerate(levels.items())
    ]
    return levels, images


@pytest.fixture
def snapshot():
    """Return a function that checks that images or files are unchanged."""

    def take(images):
        out = []
        for image in images:
            if isinstance(image, str | Path):
                out.append(hashlib.sha256(Path(image).read_bytes()).hexdigest())
                continue
            planes = [image.data, image.mask, getattr(image, "flags", None)]
            if image.uncertainty is not None:
                planes.append(image.uncertainty.array)
            header = repr(image.meta)
            out.append((header, *(None if p is None else np.array(p).tobytes() for p in planes)))
        return out

    return take


@pytest.fixture
def with_planes():
    """Return a function that adds a mask, an uncertainty and flags to an image."""

    def add(image, fraction=0.02):
        rng = np.random.default_rng(image.data.size)
        image.mask = rng.random(image.data.shape) < fraction
        image.uncertainty = StdDevUncertainty(np.full(image.data.shape, 0.01, dtype="f4"))
        image.flags = image.mask.astype("u4")
        return image

    return add


@pytest.fixture(scope="session")
def real_data():
    """Return the folder of the real data, which are not part of the package."""
    if not DATA.is_dir():
        pytest.skip("the real data (2MASS tiles, gwcs of JWST) are not beside the repository")
    return DATA


@pytest.fixture(scope="session")
def as_record():
    """Return a function that removes pixels and WCSs from a result, as in its record."""

    def strip(result):
        frames = [
            frame.with_keys(
                source=None,
                transform=None,
                meta={},
                footprint=Footprint(
                    axes=frame.whole_grid.axes,
                    polygon=frame.grid.polygon,
                    pixel_area=frame.grid.pixel_area,
                    centre=frame.grid.centre,
                ),
            )
            for frame in result.frames
        ]
        return RunResult(frames, result.passes, result.measured, result.run)

    return strip
