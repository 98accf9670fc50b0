# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
MIRI and its Lyot coronagraph
=============================

Match the Lyot part of MIRI images to the science part, and recombine both.
"""

# %%
# Simulate wide dithers. The Lyot part of one dither must overlap the science part of another: this
# overlap links the two parts.

import matplotlib.pyplot as plt
import numpy as np

from levelmatch import match_levels
from levelmatch.testing import simulate_miri

simulated = simulate_miri(
    tiles=(1, 1), n_dithers=3, dither_size=24, lyot=True, lyot_offset_rms=5, galaxy=False
)
images = list(simulated.images)
matched = match_levels(images, recombine_lyot=True)
matched.table["name", "part", "level_dithers", "level_lyot"].pprint()

# %%
# Show an image before and after. Its two parts are matched and recombined.

before, after = images[0], matched[0]
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
middle = np.nanmedian(after.data[~after.mask])
for ax, image, title in ((axes[0], before, "before"), (axes[1], after, "after")):
    shown = np.where(image.mask, np.nan, image.data)
    ax.imshow(
        shown - np.nanmedian(shown) + middle, origin="lower", vmin=middle - 3, vmax=middle + 6
    )
    ax.set(title=title, xticks=[], yticks=[])
plt.show()

# %%
# Compare the difference of the two backgrounds with the truth.

truth = simulated.truth
true = np.mean(truth["lyot_level"])
rows = matched.table
found = np.mean(rows["level"][rows["part"] == "lyot"]) - np.mean(
    rows["level"][rows["part"] == "science"]
)
print(f"Lyot less science: found {found:.3f}, true {true:.3f}")
assert abs(found - true) < 0.1 * true.unit
