# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
HST: two chips in each file
===========================

Four ``flc`` exposures of a camera with two chips, and the levels that AstroDrizzle takes.
"""

# %%
# Simulate the exposures: a cluster of galaxies, a gap between the chips, cosmic rays, and a level
# of its own for each chip.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch import SolveOptions, make_mosaic, match_levels, write_skyfile

rng = np.random.default_rng(5)
folder = Path(tempfile.mkdtemp())
galaxies = np.transpose(
    [*rng.normal(0, 60, (2, 80)), rng.uniform(2, 12, 80), rng.uniform(5, 60, 80)]
)


def sky(x, y):
    cluster = 20 * np.exp(-np.hypot(x, y) / 60)
    return cluster + sum(p * np.exp(-np.hypot(x - a, y - b) / r) for a, b, r, p in galaxies)


paths = []
for k, (dx, dy) in enumerate(((0, 0), (30, 50), (-40, 70), (20, -60))):
    hdus = fits.HDUList([fits.PrimaryHDU()])
    hdus[0].header.update(TELESCOP="HST", INSTRUME="ACS", FILTER1="F814W", EXPTIME=500.0)
    for chip, bottom in enumerate((-105, 5), start=1):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
        wcs.wcs.cdelt, wcs.wcs.crpix = [-1.4e-5, 1.4e-5], [101 - dx, 1 - bottom - dy]
        header = wcs.to_header()
        header.update(BUNIT="ELECTRONS", CCDCHIP=3 - chip)
        y, x = np.mgrid[:100, :200]
        data = rng.normal(sky(x - 100 + dx, y + bottom + dy) + rng.normal(40, 8), 3)
        rays = rng.random(data.shape) < 0.002
        data[rays] += 300
        for name, array in (("SCI", data), ("ERR", np.full(x.shape, 3.0)), ("DQ", 4096 * rays)):
            kind = "i2" if name == "DQ" else "f4"
            hdus.append(fits.ImageHDU(array.astype(kind), header, name=name, ver=chip))
    paths.append(folder / f"j{k}_flc.fits")
    hdus.writeto(paths[-1])

# %%
# Each chip is an image of its own, with its flags. Leave the pixels as they are and write the
# levels to a file: AstroDrizzle subtracts them with ``skyfile="levels.txt"``.

levels = match_levels(paths, solve=SolveOptions(subtract=False))
print(write_skyfile(levels, folder / "levels.txt").read_text())

# %%
# Or subtract the levels, and combine the exposures by their median.

matched = match_levels(paths)
(before, _), (after, _) = (make_mosaic(images, combine="median") for images in (paths, matched))

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), width_ratios=(1.2, 1, 1), layout="constrained")
with fits.open(paths[0]) as hdus:
    gap = np.full((10, 200), np.nan)
    exposure = np.vstack([hdus["SCI", 1].data, gap, hdus["SCI", 2].data])
pictures = {
    "one exposure": exposure[:, ::-1],
    "mosaic before": before.data,
    "mosaic after": after.data,
}
for ax, (title, data) in zip(axes, pictures.items(), strict=True):
    middle = np.nanmedian(data)
    ax.set_facecolor("#c9d6e3")
    ax.imshow(data, vmin=middle - 20, vmax=middle + 60, cmap="gray", origin="lower")
    ax.set(title=title, xticks=[], yticks=[])
plt.show()
