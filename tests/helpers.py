# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Helpers of several test modules."""

import numpy as np
from astropy import coordinates as coord, units as u
from astropy.io import fits
from astropy.modeling import models as m
from click.testing import CliRunner

from levelmatch.cli import main

# Options of simulations without sources, and without anything but levels and noise.
DARK = {"stars": False, "nebula": False, "galaxy": False}
CLEAN = {**DARK, "cosmic_rays": False, "bad_pixels": False}


def run(*arguments):
    """Run ``levelmatch`` in this process, and return its result."""
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="levelmatch")


def succeed(*arguments):
    """Run ``levelmatch``, check that it succeeds, and return its result."""
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return done


def assert_refused(done, words, code=2):
    """Check that the output of a command is one line of error that contains the words."""
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert words in line
    assert "Traceback" not in done.output


def write_with_tree(image, path, content, telescope="JWST"):
    """Write an image with a FITS WCS and given bytes in the extension ASDF."""
    values = np.frombuffer(content, np.uint8)[None]
    column = fits.Column("ASDF_METADATA", f"{values.size}B", array=values)
    primary = fits.PrimaryHDU()
    primary.header["TELESCOP"] = telescope
    header = image.wcs.to_header()
    header["BUNIT"] = "MJy/sr"
    hdus = [primary, fits.ImageHDU(image.data, header, name="SCI")]
    hdus.append(fits.BinTableHDU.from_columns([column], name="ASDF"))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def tangential_gwcs(shape, scale, ra, dec, angle=0.0, bend=None):
    """Return a gwcs, North up and then rotated by an angle, with an optional distortion."""
    import gwcs

    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    linear = m.AffineTransformation2D(np.array([[-c, s], [s, c]]) * scale / 3600)
    transform = (
        m.Shift(-(shape[1] - 1) / 2) & m.Shift(-(shape[0] - 1) / 2)
        | (linear if bend is None else bend | linear)
        | m.Pix2Sky_TAN()
        | m.RotateNative2Celestial(ra, dec, 180)
    )
    frames = gwcs.coordinate_frames
    detector = frames.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    sky = frames.CelestialFrame(name="world", reference_frame=coord.ICRS(), unit=(u.deg, u.deg))
    wcs = gwcs.WCS([(detector, transform), (sky, None)])
    wcs.bounding_box = ((-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5))
    wcs.array_shape, wcs.pixel_shape = shape, shape[::-1]
    return wcs
