# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Images of different flux scales
===============================

If one image counts more flux than the others, its level depends on the brightness of the
overlap. The ratios of pairs show it, and a header keyword brings all images to one scale.
"""

# %%
# Simulate six images, one through thin cloud.

import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits

from levelmatch import FluxScaleWarning, ReadOptions, match_levels
from levelmatch.plots import plot_gains
from levelmatch.testing import simulate_generic

paths = simulate_generic(n_images=6, shape=(128, 128), overlap=0.4, seed=5, unit="adu").write(
    Path(tempfile.mkdtemp())
)
for k, path in enumerate(paths):
    with fits.open(path, mode="update") as hdus:
        factor = 0.8 if k == 2 else 1.0
        hdus["SCI"].data *= factor
        hdus["SCI"].header["MAGZP"] = 25 + 2.5 * np.log10(factor)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", FluxScaleWarning)
    plain = match_levels(paths)
print(caught[0].message)

# %%
# With the zero points of the headers, the images agree.

scaled = match_levels(paths, read=ReadOptions(flux_scale="MAGZP"))
for words, result in (("plain", plain), ("scaled", scaled)):
    residual = result.pairs["residual"]
    print(f"{words}: rms of residuals {np.sqrt(np.mean(residual**2)):.4f}")

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ax, (title, result) in zip(axes, (("as they are", plain), ("by MAGZP", scaled)), strict=True):
    plot_gains(result, ax=ax)
    ax.set_title(title, loc="right", fontsize="medium")
