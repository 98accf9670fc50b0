# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Find a bad image and leave it out
=================================

One of nine images has scattered light on half of its detector. The result names it, and the
pairs are solved again without it, in milliseconds.
"""

# %%
# Simulate nine images on one spot, and spoil one.

import matplotlib.pyplot as plt
import numpy as np

from levelmatch import match_levels, solve_record
from levelmatch.testing import simulate_generic

simulation = simulate_generic(n_images=9, shape=(128, 128), layout="pile", overlap=0.6, seed=2)
images = list(simulation.images)
images[4].data[:, :64] += 4

found = match_levels(images)
print("suspect:", found.suspects)

# %%
# In a notebook, a result shows its headline, its table and a picture.

found

# %%
# The residuals of its pairs stand out, also in their histogram. Other pairs are hardly affected,
# as pairs that disagree with the rest lose weight.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
found.plot("residuals", kind="matrix", ax=left)
found.plot("residuals", kind="histogram", ax=right)

# %%
# Solve again without it. This needs no pixels.

better = solve_record(found.record, exclude=found.suspects)
print(better.summary().splitlines()[0])
change = np.abs(
    better.table["level"] - found.table["level"][[n in better.names for n in found.names]]
)
print(f"the levels of the other images change by up to {np.ptp(change):.4f}")
