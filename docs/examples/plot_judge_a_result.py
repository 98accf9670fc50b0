# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Judging a result
================

Residuals of the pairs, loops that should close, and the error of a seam.
"""

# %%
# Sixteen images, one of which has a bad edge that nobody masked.

import matplotlib.pyplot as plt
import numpy as np

from levelmatch import match_mosaic
from levelmatch.testing import simulate_generic

images = list(simulate_generic(n_images=16, shape=(128, 128), noise=0.3, seed=3).images)
images[5].data[:30, :] += 1.5
result = match_mosaic(images, group_by="FILENAME", reference="mean")

# %%
# What is left of each pair, over its expected error. The pairs that disagree with the rest are
# those at the bad edge; they lost their weight (``robust``), so that the other images are as if
# they were not there.

pairs = result.pairs
order = np.argsort(-np.abs(pairs["n_sigma"]))
pairs[order]["image1", "image2", "residual", "n_sigma", "robust"][:4].pprint()
worst = pairs[order[0]]
assert images[5].meta["FILENAME"] in (worst["image1"], worst["image2"])
assert worst["robust"] < 0.01

# %%
# The differences around a loop of images add up to zero, but for their errors: loops through the
# bad edge do not.

print(f"closures: rms of {result.closures.meta['rms']:.2f} sigma")

# %%
# Levels are relative to the gauge, so their errors are not those of a seam. The covariance tells
# what the step between two images may still be.

c = result.covariance
seam = np.sqrt((c(0, 0) + c(1, 1) - c(0, 1) - c(1, 0))[0, 0])
print(f"error of the step between the first two images: {seam:.4f}")

# %%

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
bad = (pairs["image1"] == images[5].meta["FILENAME"]) | (
    pairs["image2"] == images[5].meta["FILENAME"]
)
x = np.arange(len(pairs))
for rows, colour, label in ((~bad, "#0087c8", "other pairs"), (bad, "#d55e00", "bad image")):
    axes[0].plot(x[rows], pairs["n_sigma"][rows], "o", ms=4, color=colour, label=label)
axes[0].axhline(0, color="k", lw=0.5)
axes[0].set(xlabel="pair", ylabel="residual / expected error", yscale="symlog", ylim=(0, 300))
axes[0].legend(frameon=False)
axes[1].hist(np.asarray(result.closures["n_sigma"]), bins=12, color="#888888")
axes[1].set(xlabel="closure / expected error", ylabel="loops")
plt.show()
