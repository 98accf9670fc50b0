# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How the slopes of planes change with position on a mosaic."""

from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

__all__ = ["LEAST_FREEDOM", "SlopeFit"]

# Smallest number of degrees of freedom of a test.
LEAST_FREEDOM = 4


@dataclass(frozen=True, eq=False)
class SlopeFit:
    """Symmetric gradient of slopes with position: the terms xx, xy, yy.

    Each term is a sum of the slopes with weights of shape (3, 2, n). The residuals of the slopes
    have the variance ``variance``, from ``freedom`` degrees of freedom.
    """

    terms: np.ndarray
    weights: np.ndarray
    n_terms: int
    variance: float
    freedom: int

    @classmethod
    def of(cls, offsets, slopes):
        """Fit slopes, shape (n, 2), at offsets, shape (n, 2)."""
        n = len(offsets)
        x, y = offsets.T
        one, zero = np.ones(n), np.zeros(n)
        design = np.concatenate(
            [
                np.stack([one, zero, x, y, zero], axis=1),
                np.stack([zero, one, zero, x, y], axis=1),
            ]
        )
        values = slopes.T.ravel()
        inverse = np.linalg.pinv(design, rcond=1e-9)
        coefficients, rank = inverse @ values, round(np.sum(inverse * design.T))
        left, freedom = np.sum(np.square(values - design @ coefficients)), 2 * n - rank
        # Tiles in one row determine the gradient along the row alone.
        weights = inverse[2:].reshape(3, 2, n)
        return cls(coefficients[2:], weights, rank - 2, float(left / max(freedom, 1)), freedom)

    @property
    def gradient(self):
        """The terms as a matrix, shape (2, 2)."""
        xx, xy, yy = self.terms
        return np.array([[xx, xy], [xy, yy]])

    def chance(self, errors=0.0):
        """Return the p-value of the terms, given a covariance by the errors of the slopes.

        The errors add up along the mosaic, so they differ less between neighbours than across it,
        and the residuals alone do not tell.
        """
        if self.n_terms < 1 or self.freedom < LEAST_FREEDOM:
            return 1.0
        flat = self.weights.reshape(3, -1)
        covariance = max(self.variance, 1e-300) * (flat @ flat.T) + errors
        inverse = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)
        statistic = self.terms @ inverse @ self.terms / self.n_terms
        return float(fdtrc(self.n_terms, self.freedom, statistic))
