# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The scatter of the slopes of images, estimated from the data: empirical Bayes."""

from dataclasses import dataclass

import numpy as np

from levelmatch.solve.solver import Solver

__all__ = ["SlopeScatter", "slope_scatter"]

# Trial values of the scatter, in units of the typical standard error of a slope.
TRIED = np.geomspace(0.05, 300.0, 21)
# Smallest gain (twice the log likelihood ratio) of a scatter: chance exceeds it in 1 of 200 sets.
# The second value is per slope, and allows for slope errors that are too small by a factor of 1.8.
LEAST_GAIN = 6.63
LEAST_OF_EACH = 1.0


@dataclass(frozen=True)
class SlopeScatter:
    """The most likely standard deviation of slopes, and whether there is any.

    Parameters
    ----------
    size : float
        The standard deviation of each component, per arcmin.
    gain : float
        Twice the logarithm of the likelihood over that without slopes.
    n_slopes : int
        Number of the slopes.
    """

    size: float
    gain: float
    n_slopes: int

    @property
    def found(self):
        """Whether the slopes scatter by more than their errors explain."""
        return self.gain > max(LEAST_GAIN, LEAST_OF_EACH * self.n_slopes)


def slope_scatter(equations, solution, chosen=None):
    """Return the `SlopeScatter` of some groups.

    The slopes are drawn from a normal distribution of zero mean. The marginal likelihood of its
    standard deviation follows from the slopes and their covariances given the pairs (type II
    maximum likelihood: MacKay 1992, Neural Computation 4, 415). Slopes of the other groups are
    free.

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs, with three terms.
    solution : `~levelmatch.solve.solution.Solution`
        A solution with planes, for the weights of the pairs.
    chosen : `~numpy.ndarray` of bool, shape (m,), or None
        The groups; `None` for all.
    """
    m = equations.n_groups
    chosen = np.ones(m, dtype=bool) if chosen is None else chosen
    factor = solution.weight / equations.gram[:, 0, 0]
    free = np.ones((m, 3), dtype=bool)
    free[np.unique(solution.component, return_index=True)[1], 0] = False
    diagonal = equations.diagonal(factor)[chosen, 1:]
    if not (diagonal > 0).any():
        return SlopeScatter(0.0, 0.0, 0)
    sizes = TRIED / np.sqrt(np.median(diagonal[diagonal > 0]))
    rises = []
    for size in sizes:
        # Slopes of the other groups get a prior that is too wide to matter.
        prior = np.where(chosen, size, 1e3 * sizes[-1])[:, None]
        solver = Solver(equations, free, prior)
        solved = solver.finish(solver.solve(factor))
        variance = np.einsum("gii->gi", solved.covariance_blocks())
        square = np.square(solved.coefficients) + variance
        rises.append(square[chosen, 1:].sum() / size**2 - 2 * chosen.sum())
    # Twice the logarithm of the likelihood, by its slope in the logarithm of the square.
    steps = 0.5 * np.add(rises[1:], rises[:-1]) * np.diff(2 * np.log(sizes))
    likelihood = np.concatenate([[0.0], np.cumsum(steps)])
    best = int(np.argmax(likelihood))
    return SlopeScatter(float(sizes[best]), float(likelihood[best]), 2 * int(chosen.sum()))
