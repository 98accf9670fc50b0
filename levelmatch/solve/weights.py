# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Weights of the pairs."""

import numpy as np

__all__ = ["pair_weights"]


def pair_weights(equations, weights, floor, npix, scatter):
    """Return the factor on each pair's normal matrix, shape (n,).

    The floor is a number, or an array with a number for each pair. With ``"ivar"``, the level of a
    pair has the weight 1 / (sigma**2 + floor**2). With the other weights, those of PJPipe, it has
    the weight 1, the number of pixels, or 1 / scatter**2.
    """
    own = equations.gram[:, 0, 0]
    if weights == "ivar":
        return 1 / (1 + np.square(floor) * own)
    value = {"equal": 1.0, "npix": npix, "rms": 1 / np.maximum(scatter, 1e-300) ** 2}[weights]
    return value / own
