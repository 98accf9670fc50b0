# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fit planes only to groups whose pairs require them, and estimate the scatter of slopes."""

from dataclasses import replace

import numpy as np

from levelmatch.sky.vectors import tangent_axes, transfer_matrix
from levelmatch.solve.gauge import members_of
from levelmatch.solve.groups import solve_groups
from levelmatch.solve.solver import Solver

__all__ = ["slope_scatter", "solve_auto", "solve_shrunk"]


# Smallest Wald statistic of significant slopes, unless the Bayesian information criterion requires
# more. It is exceeded by 1 % of groups without slopes. Noise that rows or columns share can make
# the errors of slopes too small by up to a factor of 1.8.
LEAST_WALD = 9.21
ERROR_FACTOR = 1.8
# Largest number of iterations of the choice.
N_SETTLE = 50


def slope_statistic(equations, solution):
    """Return the Wald statistic of each group's slopes, shape (m,); NaN for levels.

    The statistic has two degrees of freedom. It weights the slopes with their inverse covariance
    relative to the gauge, and is zero for fixed slopes.
    """
    statistic = np.full(equations.n_groups, np.nan)
    if equations.n_terms == 1:
        return statistic
    slopes = solution.coefficients[:, 1:]
    weight = np.linalg.pinv(solution.covariances[:, 1:, 1:], rcond=1e-10, hermitian=True)
    return np.einsum("gi,gij,gj->g", slopes, weight, slopes)


def solve_auto(equations, options, **keywords):
    """Solve one pass with planes only where the data require them.

    First, all slopes are fitted. The slopes of a group are fixed at zero if their Wald statistic
    is below 3.2 times the larger of 9.21 and 2 ln n, for n pairs. These are the 99 % point of
    groups without slopes and the Bayesian information criterion (Schwarz 1978, Ann. Stat. 6, 461).
    The factor of 3.2 allows for errors of slopes that are too small by a factor of 1.8. In the
    first round, slopes are relative to the reference, or to the median slope of the set. The other
    slopes are then solved again, until no more slopes are fixed, at most 50 times.

    If the fixed slopes also scatter (see `slope_scatter`), planes are fitted to all groups, with a
    prior from the scatter of all slopes.

    Parameters
    ----------
    equations : `Equations`
        The pairs, with three terms.
    options : `SolveOptions`
        See `solve_groups`.
    **keywords
        Keyword arguments of `solve_groups`.

    Returns
    -------
    solution : `Solution`
        The solution; ``active`` has the flags of the free slopes.
    """
    whole = solve_groups(equations, options, **keywords)
    solution = _select(equations, options, whole, **keywords)
    if options.slope_prior:
        return solution
    size, found = slope_scatter(equations, whole)
    others = ~solution.active[:, 1:].any(axis=1)
    if found and (not others.any() or slope_scatter(equations, whole, others)[1]):
        return solve_groups(equations, replace(options, slope_prior=size), **keywords)
    return solution


def solve_shrunk(equations, options, **keywords):
    """Solve one pass with planes and a prior on their slopes, which is estimated from the slopes.

    The parameters are as in `solve_auto`. The width of the prior is the most likely scatter of the
    slopes, see `slope_scatter`, however small. Without slopes there is no prior.
    """
    whole = solve_groups(equations, options, **keywords)
    size, _ = slope_scatter(equations, whole)
    if size == 0:
        return whole
    return solve_groups(equations, replace(options, slope_prior=size), **keywords)


def _select(equations, options, solution, **keywords):
    """Return the solution in which insignificant slopes are fixed at zero, step by step."""
    limit = max(LEAST_WALD, 2 * np.log(max(len(equations.first), 1))) * ERROR_FACTOR**2
    active = np.ones((equations.n_groups, 3), dtype=bool)
    if keywords.get("reference") is None or options.slope_gauge == "mean":
        statistic = _centred_statistic(equations, solution)
    else:
        # Relative to the reference, whose plane is zero.
        statistic = slope_statistic(equations, solution)
        active[solution.reference[solution.reference >= 0], 1:] = False
    for _ in range(N_SETTLE):
        new = active.copy()
        new[:, 1:] &= (statistic > limit)[:, None]
        if (new == active).all():
            break
        active = new
        solution = solve_groups(equations, options, active=active, **keywords)
        statistic = slope_statistic(equations, solution)
    return solution


def _centred_statistic(equations, solution):
    """Return the Wald statistic of the slopes minus the median slope of their set.

    The gauge of the first fit may have added the slope of one group to all others.
    """
    coefficients = solution.coefficients.copy()
    for members in members_of(solution.component):
        # East and North depend on the position, so the median is taken at the set's centre.
        centre = tangent_axes(equations.group_axes[members, 0].sum(axis=0))
        there = transfer_matrix(equations.group_axes[members], centre)
        planes = np.einsum("gij,gj->gi", there, coefficients[members])
        common = np.concatenate([[0.0], np.median(planes[:, 1:], axis=0)])
        back = transfer_matrix(centre, equations.group_axes[members])
        coefficients[members] -= np.einsum("gij,j->gi", back, common)
    return slope_statistic(equations, replace(solution, coefficients=coefficients))


# --------------------------------------------------------------------------------------
# Scatter of slopes

# Trial values of the scatter, in units of the typical standard error of a slope.
TRIED = np.geomspace(0.05, 300.0, 21)
# Smallest gain (twice the log likelihood ratio) of a scatter: chance exceeds it in 1 of 200 sets.
# The second value is per slope, and allows for slope errors that are too small by a factor of 1.8.
LEAST_GAIN = 6.63
LEAST_OF_EACH = 1.0


def slope_scatter(equations, solution, chosen=None):
    """Return the most likely standard deviation of the slopes of some groups.

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

    Returns
    -------
    size : float
        The standard deviation of each component, per arcmin; 0 without slopes.
    found : bool
        Whether the slopes scatter by more than their errors explain.
    """
    m = equations.n_groups
    chosen = np.ones(m, dtype=bool) if chosen is None else chosen
    factor = solution.weight / equations.gram[:, 0, 0]
    free = np.ones((m, 3), dtype=bool)
    free[np.unique(solution.component, return_index=True)[1], 0] = False
    diagonal = equations.diagonal(factor)[chosen, 1:]
    if not (diagonal > 0).any():
        return 0.0, False
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
    least = max(LEAST_GAIN, LEAST_OF_EACH * 2 * int(chosen.sum()))
    return float(sizes[best]), bool(likelihood[best] > least)
