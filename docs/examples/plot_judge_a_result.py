# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Judging a result
================

Find a bad image from the residuals and loops of the pairs, and compute the error of a seam.
"""

# %%
# Simulate sixteen images. One image has a bad edge that is not masked.

import matplotlib.pyplot as plt
import numpy as np

from levelmatch import match_mosaic
from levelmatch.testing import simulate_generic

images = list(simulate_generic(n_images=16, shape=(128, 128), noise=0.3, seed=3).images)
images[5].data[:30, :] += 1.5
result = match_mosaic(images, group_by="FILENAME", reference="mean")

# %%
# ``n_sigma`` is the residual of a pair divided by its expected error. The pairs at the bad edge
# disagree with the others and lose their weight (``robust``), so they do not affect other images.

pairs = result.pairs
order = np.argsort(-np.abs(pairs["n_sigma"]))
pairs[order]["image1", "image2", "residual", "n_sigma", "robust"][:4].pprint()
worst = pairs[order[0]]
assert images[5].meta["FILENAME"] in (worst["image1"], worst["image2"])
assert worst["robust"] < 0.01

# %%
# The differences around a loop of images add up to zero, except for errors. Loops through the bad
# edge do not.

print(f"closures: rms of {result.closures.meta['rms']:.2f} sigma")

# %%
# The errors of levels are relative to the gauge. The error of the step between two images follows
# from the covariance.

c = result.covariance
seam = np.sqrt((c(0, 0) + c(1, 1) - c(0, 1) - c(1, 0))[0, 0])
print(f"error of the step between the first two images: {seam:.4f}")

# %%
# Plot the residuals of the pairs and the closures of the loops.

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
