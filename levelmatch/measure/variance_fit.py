# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Variances of images, fitted to the variances of their pairs."""

from dataclasses import replace

import numpy as np

__all__ = ["BOTH", "fit_images", "weakened"]

# One family, in which the variance of a pair is the sum of its two images' variances.
BOTH: list = [([(0, 0), (1, 0)], [])]
# Number of steps of the fit.
N_STEPS = 40


def fit_images(table, excess, response, families):
    """Fit a non-negative variance of each image to the variances of the pairs.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.
    excess, response : `~numpy.ndarray`, shape (n, n_families)
        Excess of each pair, and its response to a unit variance.
    families : list of tuple
        For each family, a list of its own offsets, (image, kind) with image 0 or 1; and a list of
        other offsets that it contains, (image, kind, fraction of their variance).

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
        """Return the sums of the families' values for each image and kind."""
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
    """Return the pair table with a variance added to that of each pair.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.
    added : `~numpy.ndarray`, shape (n,)
        Added variance in units of the pair's own. Level and slopes are scaled alike.
    """
    part = 1 / (1 + added)
    return replace(
        table,
        gram=table.gram * part[:, None, None],
        rhs=table.rhs * part[:, None],
        sigma=table.sigma / np.sqrt(part),
    )
