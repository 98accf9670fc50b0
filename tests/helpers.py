# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Helpers of several test modules."""

import numpy as np
from astropy import coordinates as coord, units as u
from astropy.modeling import models as m
from click.testing import CliRunner

from levelmatch.cli import main

# Options of simulations without sources, and without anything but levels and noise.
DARK = {"stars": False, "nebula": False, "galaxy": False}
CLEAN = {**DARK, "cosmic_rays": False, "bad_pixels": False}


def run(*arguments):
    """Run ``levelmatch`` in this process, and return its result."""
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="levelmatch")


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
