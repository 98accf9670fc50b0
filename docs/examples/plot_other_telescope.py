# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
A mosaic of another telescope
=============================

Match an ``ImageFileCollection`` of ccdproc, and combine the images into a FITS file.
"""

# %%
# Simulate the images of one night, in adu, with small rotations and a variable sky.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from ccdproc import ImageFileCollection

from levelmatch import make_mosaic, match_mosaic
from levelmatch.testing import simulate_generic

folder = Path(tempfile.mkdtemp())
simulate_generic(n_images=9, shape=(128, 128), rotation_rms=3, unit="adu", seed=4).write(
    folder / "night"
)

images = ImageFileCollection(folder / "night", glob_include="*.fits")
matched = match_mosaic(images, group_by="FILENAME", reference="mean")
matched.table["name", "level", "error"].pprint()

# %%
# Write the mosaic to a file in blocks, so it may be larger than the memory. The median removes
# features of a single image where at least three images overlap.

path = make_mosaic(matched, output=folder / "night.fits", combine="median")
with fits.open(path) as hdus:
    hdus.info()
    data, header, coverage = hdus[0].data, hdus[0].header, hdus["COVERAGE"].data
assert coverage.max() >= 4

# %%
# Show the mosaic with its celestial coordinates.

figure = plt.figure(figsize=(5, 4.4), layout="constrained")
ax = figure.add_subplot(projection=WCS(header))
low, high = np.nanpercentile(data, [2, 99])
ax.imshow(data, vmin=low, vmax=high, cmap="gray_r")
ax.set(xlabel="RA", ylabel="Dec")
plt.show()
