# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The absolute level
==================

Overlaps leave one level free, common to all images. A survey with larger pixels fixes it.
"""

# %%
# Simulate nine images of one field, and match them.

import matplotlib.pyplot as plt
import numpy as np

from levelmatch import anchor_levels, make_mosaic, match_mosaic
from levelmatch.testing import simulate_generic

images = list(simulate_generic(n_images=9, shape=(128, 128), overlap=0.3, seed=2).images)
matched = match_mosaic(images, group_by="FILENAME")

# %%
# The survey has pixels of 2 arcsec, a resolution of 2.6 arcsec, noise of its own, and a known
# background.

survey, _ = make_mosaic(matched, pixel_scale=2.0)
rng = np.random.default_rng(1)
survey.data += 7 + rng.normal(0, 0.3, survey.shape)
survey.meta["FILENAME"] = "survey.fits"

anchored = anchor_levels(matched, survey, fwhm=2.6)
anchor = anchored.options["anchor"]
print(f"subtracted: {anchor['level']:.2f} +- {anchor['error']:.2f}")
assert abs(anchor["level"] + 7) < 0.1

# %%
# Cuts through the three mosaics: of the images as they were, matched, and anchored to the survey.

figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
for result, words, colour in (
    (images, "as they were", "#bbbbbb"),
    (matched, "matched", "#0087c8"),
    (anchored, "anchored", "#d55e00"),
):
    mosaic, _ = make_mosaic(result, wcs=survey.wcs)
    row = mosaic.data[mosaic.shape[0] // 3]
    ax.plot(2 * np.arange(len(row)), row, color=colour, label=words)
row = survey.data[survey.shape[0] // 3]
ax.plot(2 * np.arange(len(row)), row, "k.", ms=4, label="survey")
ax.set(xlabel="arcsec", ylabel="brightness (MJy/sr)")
ax.legend(frameon=False, loc="upper left")
plt.show()
