# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Dithers before and after
========================

Match two tiles of four dithers each, and compare their mosaics before and after.
"""

# %%
# Simulate two tiles of MIRI dithers. A different constant is added to each image.

import matplotlib.pyplot as plt
import numpy as np

from levelmatch import make_mosaic, match_dithers, match_mosaic
from levelmatch.testing import level_errors, simulate_miri

simulated = simulate_miri(tiles=(1, 2), n_dithers=4, shape=(256, 258), galaxy=False)
images = list(simulated.images)

# %%
# Match the dithers of each tile to each other, and then the tiles. Paths of files can be used in
# place of images in memory.

dithers = match_dithers(images)
mosaic = match_mosaic(dithers)
mosaic.table["tile", "level", "error", "n_pairs"].pprint()

# %%
# Overlaps cannot determine a constant common to all images. Apart from it, the levels are correct:

errors = level_errors(mosaic.table["level"], simulated.truth)
print(f"rms error of a level: {errors.std():.4f}")
assert errors.std() < 0.01 * errors.unit

# %%
# Combine the images without and with their corrections, on the same pixel scale.

before, _ = make_mosaic(images, pixel_scale=0.6)
after, coverage = make_mosaic(mosaic, pixel_scale=0.6)

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
low, high = np.nanpercentile(after.data, [1, 99])
for ax, image, title in zip(axes, (before, after), ("before", "after"), strict=False):
    shift = np.nanmedian(image.data) - np.nanmedian(after.data)
    ax.imshow(image.data - shift, origin="lower", vmin=low - 1, vmax=high + 1, cmap="magma")
    ax.set_title(title)
axes[2].imshow(coverage, origin="lower", cmap="Greys")
axes[2].set_title("number of images")
for ax in axes:
    ax.set(xticks=[], yticks=[])
plt.show()
