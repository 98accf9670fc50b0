# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
CCD frames of one night
=======================

Nine frames of a ground-based camera, as unsigned integers with TPV distortion, whose sky
brightens toward the Moon: planes match them where levels leave steps.
"""

# %%
# Simulate the frames: a nebula on a sky that has a level and a gradient of its own in each frame.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch import match_levels
from levelmatch.plots import quick_look

rng = np.random.default_rng(8)
folder = Path(tempfile.mkdtemp())


def frame_header(ra, dec):
    header = fits.Header({"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "BUNIT": "adu"})
    header.update({"CRVAL1": ra, "CRVAL2": dec, "CRPIX1": 128.5, "CRPIX2": 128.5})
    header.update({"CD1_1": -4e-4, "CD2_2": 4e-4, "CD1_2": 0.0, "CD2_1": 0.0})
    # The scale changes by half a percent toward the corners.
    header.update({"PV1_1": 1.0, "PV2_1": 1.0, "PV1_7": 0.9, "PV2_7": 0.9})
    return header


y, x = np.mgrid[:256, :256]
paths = []
for k in range(9):
    header = frame_header(83.8 + 0.08 * (k % 3), -5.4 + 0.08 * (k // 3))
    sky = WCS(header).pixel_to_world(x, y)
    r = np.hypot(sky.ra.deg - 83.88, sky.dec.deg + 5.32)
    nebula = 900 * np.exp(-((r / 0.05) ** 2)) + 200 * np.cos(90 * r) * np.exp(-r / 0.1)
    plane = rng.normal(0, 60) + (rng.normal(0, 40, 2)[:, None, None] * [x, y]).sum(0) / 256
    data = rng.normal(1500 + nebula + plane, 12)
    paths.append(folder / f"frame_{k}.fits")
    fits.PrimaryHDU(data.round().astype(np.uint16), header).writeto(paths[-1])

# %%
# Match levels first. The headline says how much they leave, and how much planes would.

levels = match_levels(paths)
print(levels.summary().split("\n\n")[0])

# %%
# Planes for the frames that need them:

planes = match_levels(paths, fit_type_dithers="auto", fit_type_mosaic_tiles="auto")
print(planes.summary().split("\n\n")[0])

# %%
# Both mosaics at one stretch, beside that of the frames as they were:

looks = quick_look(levels), quick_look(planes)
pictures = {"before": looks[0].before, "levels": looks[0].after, "planes": looks[1].after}
low, high = np.nanpercentile(pictures["planes"], [0, 85])

figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
for ax, (title, picture) in zip(axes, pictures.items(), strict=True):
    shown = ax.imshow(picture, vmin=low, vmax=high, cmap="bone", origin="lower")
    ax.set(title=title, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes, label="adu", extend="both", shrink=0.9)
plt.show()
