# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
NIRCam's four short-wavelength chips
====================================

Match four chips with different backgrounds, which overlap in dithers wider than the gaps.
"""

# %%
# Simulate two tiles of four dithers.

import matplotlib.pyplot as plt
import numpy as np

from levelmatch import make_mosaic, match_levels
from levelmatch.testing import level_errors, simulate_nircam_short

simulated = simulate_nircam_short(n_tiles=2, n_dithers=4, shape=(128, 128))
images = list(simulated.images)

# %%
# Run all passes: the dithers of each chip, the chips of each tile, and the tiles.

matched = match_levels(images, combine_nircam_short=True)
print(matched)
print(matched.reference, "-", matched.reference_reason)

# %%
# Compare the total levels with the truth.

errors = level_errors(matched.table["level"], simulated.truth)
print(f"rms error of a level: {errors.std():.4f}")
assert errors.std() < 0.03 * errors.unit

# %%
# Show the first tile before and after: dithers fill the gaps between the four chips.

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
tile = [k for k, name in enumerate(matched.names) if name.startswith("jw02107001001")]
for ax, inputs, title in ((axes[0], images, "before"), (axes[1], matched, "after")):
    module, _ = make_mosaic([inputs[k] for k in tile])
    low, high = np.nanpercentile(module.data, [3, 97])
    ax.imshow(module.data, vmin=low, vmax=high, cmap="inferno", origin="lower")
    ax.set(title=title, xticks=[], yticks=[])
plt.show()
