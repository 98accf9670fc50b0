# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Roman's eighteen detectors
==========================

Two exposures of the Wide Field Instrument, as ASDF files with a gwcs.
"""

# %%
# Simulate the files, with small detectors in three bent rows. Each detector has a level of its own,
# and so does each exposure.

import tempfile
from pathlib import Path

import asdf
import gwcs
import matplotlib.pyplot as plt
import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS
from astropy.modeling import models

from levelmatch import match_levels
from levelmatch.plots import plot_mosaic, quick_look

rng = np.random.default_rng(7)
folder = Path(tempfile.mkdtemp())
N, SCALE = 64, 7.0 / 3600
y, x = np.mgrid[:N, :N]
of_detector = rng.normal(0, 0.4, 18)


def make_wcs(ra, dec):
    centred = models.Shift(-(N - 1) / 2) & models.Shift(-(N - 1) / 2)
    scaled = models.Scale(-SCALE) & models.Scale(SCALE)
    on_sky = models.Pix2Sky_TAN() | models.RotateNative2Celestial(ra, dec, 180)
    pixels = gwcs.coordinate_frames.Frame2D(name="detector", unit=(u.pix, u.pix))
    sky = gwcs.coordinate_frames.CelestialFrame(name="world", reference_frame=ICRS())
    return gwcs.WCS([(pixels, centred | scaled | on_sky), (sky, None)])


def write(path, ra, dec, detector, level):
    wcs = make_wcs(ra, dec)
    lon, lat = wcs(x, y)
    r = np.hypot((lon - 150) * np.cos(np.radians(2)), lat - 2)
    sky = 1.5 * np.exp(-r / 0.2) * (1.3 + np.cos(60 * r + 3 * np.arctan2(lat - 2, lon - 150)))
    meta = {
        "telescope": "ROMAN",
        "instrument": {"name": "WFI", "detector": detector, "optical_element": "F158"},
        "wcs": wcs,
    }
    data = rng.normal(sky + level, 0.05).astype("f4")
    tree = {"roman": {"meta": meta, "data": data, "dq": np.zeros(data.shape, "u4")}}
    asdf.AsdfFile(tree).write_to(path)
    return path


# %%
# The rows of the detectors bend; a second exposure fills the gaps.

paths = []
for exposure, (dra, ddec) in enumerate(((0, 0), (0.06, 0.05))):
    of_exposure = rng.normal(0, 0.3)
    for k in range(18):
        column, row = k // 3 - 2.5, k % 3 - 1
        ra = 150 + 0.145 * column + dra
        dec = 2 + 0.145 * row - 0.012 * column**2 + ddec
        name = f"r0000101001001001001_{exposure + 1:04d}_wfi{k + 1:02d}_f158_cal.asdf"
        level = of_detector[k] + of_exposure
        paths.append(write(folder / name, ra, dec, f"WFI{k + 1:02d}", level))

# %%
# Match them as FITS files are, and show the mosaic before and after.

matched = match_levels(paths)
print(matched.summary().split("\n\n")[0])

look = quick_look(matched)
figure = plt.figure(figsize=(10, 3), layout="constrained")
for k, show in enumerate(("before", "after")):
    plot_mosaic(look, show, ax=figure.add_subplot(1, 2, k + 1, projection=look.wcs))
plt.show()
