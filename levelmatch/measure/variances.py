# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Variances of images from those of their pairs, and their use in the pairs' equations."""

from dataclasses import replace

import numpy as np

__all__ = ["BOTH", "fit_images", "weakened"]

# One family, in which a pair shows the sum of its two images' variances.
BOTH: list = [([(0, 0), (1, 0)], [])]
# Steps of the fit.
N_STEPS = 40


def fit_images(table, excess, response, families):
    """Fit a variance of each image to those of the pairs, never below zero.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.
    excess, response : `~numpy.ndarray`, shape (n, n_families)
        Excess of each pair, and its response to a unit variance.
    families : list of tuple
        For each family its own offsets, a list of the image, 0 or 1, and the kind; and a list of
        others that it shows, with the fraction of their variance.

    Returns
    -------
    variances : `~numpy.ndarray`, shape (n_images, n_kinds)
        Variance of each image.
    """
    ends = np.stack([table.first, table.second])
    shape = int(ends.max()) + 1, 1 + max(kind for own, _ in families for _, kind in own)
    shown = [
        [(side, kind, np.ones(len(table))) for side, kind in own] + others
        for own, others in families
    ]

    def collect(values):
        """Add values of the families up for each image and kind."""
        total = np.zeros(shape)
        for k, terms in enumerate(shown):
            for side, kind, part in terms:
                total[:, kind] += np.bincount(ends[side], part * values[:, k], minlength=shape[0])
        return total

    def expect(variances):
        return np.stack(
            [sum(part * variances[ends[side], kind] for side, kind, part in t) for t in shown],
            axis=1,
        )

    alike = response * expect(np.ones(shape))
    size = np.maximum(collect(alike), 1e-300)
    found = np.full(shape, max(excess.sum() / max(alike.sum(), 1e-300), 0.0))
    for _ in range(N_STEPS):
        found = np.maximum(found + collect(excess - response * expect(found)) / size, 0.0)
    return found


def weakened(table, added):
    """Return the pair table with the variance of the offsets added to that of each pair's level.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.
    added : `~numpy.ndarray`, shape (n,)
        The variance over the pair's own. All of the normal equations of a pair become weaker alike:
        the slopes' errors by offsets of rows are shared by too many pairs for more.
    """
    part = 1 / (1 + added)
    return replace(
        table,
        gram=table.gram * part[:, None, None],
        rhs=table.rhs * part[:, None],
        sigma=table.sigma / np.sqrt(part),
    )
