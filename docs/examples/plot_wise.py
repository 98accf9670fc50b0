# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
WISE through the years
======================

Twelve epochs of one unWISE tile: the zodiacal light changes, the stars do not.
"""

# %%
# Write the files in unWISE's layout. Each epoch has a folder of its own, and the same file names:
# an image, and its inverse variance, which is zero where there is no data.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from levelmatch import ReadOptions, match_dithers

rng = np.random.default_rng(3)
tiles = Path(tempfile.mkdtemp()) / "tr"
y, x = np.mgrid[:128, :128]
stars = sum(
    peak * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8)
    for a, b, peak in zip(*rng.uniform(0, 128, (2, 60)), 3 * rng.pareto(1, 60), strict=True)
)
nebula = 6 * np.exp(-((x - 70) ** 2 + (y - 50) ** 2) / 900)
wcs = WCS(naxis=2)
wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [186.6, 25.7], [64.5, 64.5]
wcs.wcs.cdelt = [-2.75 / 3600, 2.75 / 3600]

dates = 55356 + np.array([0, 190, 1288, 1470, 1652, 1834, 2016, 2198, 2380, 2562, 2744, 2926])
zodiacal = 4 * np.cos(2 * np.pi * (dates - dates[0]) / 365.25) + rng.normal(0, 1, 12)
paths = []
for epoch, (date, level) in enumerate(zip(dates, zodiacal, strict=True)):
    folder = tiles / f"e{epoch:03d}" / "186" / "1866p257"
    folder.mkdir(parents=True)
    header = wcs.to_header()
    header.update(MAGZP=22.5, EPOCH=epoch, MJDMIN=float(date))
    ivar = np.full(x.shape, 1.0, "f4")
    # The edge of the coverage differs from epoch to epoch.
    ivar[(x + 2 * y) < 60 * rng.random()] = 0
    data = rng.normal(stars + nebula + level, 1).astype("f4")
    path = folder / "unwise-1866p257-w1-img-m.fits"
    fits.writeto(path, np.where(ivar > 0, data, 0), header)
    fits.writeto(folder / "unwise-1866p257-w1-invvar-m.fits", ivar)
    paths.append(path)

# %%
# Name the weight file of each image. Files of one name are told apart by their folders.

weights = [path.with_name(path.name.replace("img", "invvar")) for path in paths]
matched = match_dithers(paths, group_by="MAGZP", read=ReadOptions(weight_files=weights))
matched.table["name", "level", "error"].pprint(max_lines=6)

# %%
# The levels follow the zodiacal light of the year. Overlaps cannot see the mean of all epochs, so
# the mean of the true values is subtracted from them.

true = zodiacal - zodiacal.mean()
levels = np.asarray(matched.table["level"])
assert np.std(levels - true) < 0.05

figure, axes = plt.subplots(2, 1, figsize=(8, 4.4), height_ratios=(1, 1.6), layout="constrained")
rows = [fits.getdata(path) for path in paths], [image.data for image in matched]
strips = [np.hstack([data[:64, 64:] for data in row]) for row in rows]
axes[0].imshow(np.vstack(strips), vmin=-8, vmax=16, cmap="magma", origin="upper")
axes[0].set(xticks=[], yticks=[32, 96], yticklabels=["before", "after"])
years = Time(dates, format="mjd").decimalyear
axes[1].plot(years, true, "-", color="#888888", label="true")
axes[1].errorbar(years, levels, matched.table["error"], fmt="o", color="#d55e00", label="found")
axes[1].set(xlabel="year", ylabel="level (data units)")
axes[1].legend(frameon=False)
plt.show()
