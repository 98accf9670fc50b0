# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Dithers before and after
========================

A tile of four dithers whose backgrounds differ, and the same after matching.
"""

# %%
# Two tiles of MIRI-like dithers are simulated, a constant of its own added to each image.

import matplotlib.pyplot as plt
import numpy as np

from levelmatch import make_mosaic, match_dithers, match_mosaic
from levelmatch.testing import level_errors, simulate_miri

simulated = simulate_miri(tiles=(1, 2), n_dithers=4, shape=(256, 258), galaxy=False)
images = list(simulated.images)

# %%
# First the dithers of each tile are matched to one another, then the tiles. Paths of files do as
# well.

dithers = match_dithers(images)
mosaic = match_mosaic(dithers)
mosaic.table["tile", "level", "error", "n_pairs"].pprint()

# %%
# The levels are right but for one constant, which no overlap can tell. What is left:

errors = level_errors(mosaic.table["level"], simulated.truth)
print(f"rms error of a level: {errors.std():.4f}")
assert errors.std() < 0.01 * errors.unit

# %%
# The same images, and the same grid, without and with the corrections.

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
