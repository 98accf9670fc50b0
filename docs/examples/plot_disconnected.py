# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Two fields that do not touch
============================

Levels of images are compared through overlaps. Sets of images without an overlap between them
have a zero point each, and the result says so.
"""

# %%
# Simulate two small mosaics that are 3 arcmin apart.

import warnings

import matplotlib.pyplot as plt

from levelmatch import DisconnectedWarning, SolveOptions, match_levels
from levelmatch.plots import plot_levels, plot_overlaps, sky_wcs
from levelmatch.testing import simulate_generic

images = []
for k, (n, center) in enumerate(((6, (150.10, 2.20)), (4, (150.05, 2.21)))):
    for image in simulate_generic(n_images=n, shape=(96, 96), center=center, seed=k).images:
        image.meta["FILENAME"] = f"field{k}_{image.meta['FILENAME']}"
        images.append(image)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", DisconnectedWarning)
    matched = match_levels(images)
print(caught[0].message)

# %%
# Each set has its reference, a star.

figure = plt.figure(figsize=(9, 3.6), layout="constrained")
left, right = figure.subfigures(1, 2)
plot_overlaps(matched, ax=left.add_subplot(projection=sky_wcs(matched)))
plot_levels(matched, ax=right.add_subplot())

# %%
# If the sky of both fields can be assumed to be equal, ``disconnected="sky"`` ties the sets by
# their sigma-clipped sky levels. The errors do not include this assumption.

tied = match_levels(images, solve=SolveOptions(disconnected="sky"))
print(tied.gauge)
