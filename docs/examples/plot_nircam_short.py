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

from levelmatch import match_levels
from levelmatch.testing import level_errors, simulate_nircam_short

simulated = simulate_nircam_short(n_tiles=2, n_dithers=4, shape=(128, 128))
images = list(simulated.images)

# %%
# Run all passes: the dithers of each chip, the chips of each tile, and the tiles.

matched = match_levels(images, combine_nircam_short=True)
print(matched)
print(matched.reference, "-", matched.reference_reason)

# %%
# Compare the total levels with the truth, and plot the levels of each pass.

table = matched.table
errors = level_errors(table["level"], simulated.truth)
print(f"rms error of a level: {errors.std():.4f}")
assert errors.std() < 0.03 * errors.unit

figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
x = np.arange(len(table))
for name, colour in (("dithers", "#0087c8"), ("nircam_short", "#d55e00"), ("mosaic", "#888888")):
    values = table[f"level_{name}"].value
    ax.plot(x, values, "o", ms=4, color=colour, label=name.replace("_", " "))
ax.axhline(0, color="k", lw=0.5)
ax.set(xlabel="image", ylabel=f"subtracted ({table['level'].unit})")
ax.legend(ncols=3, frameon=False)
plt.show()
