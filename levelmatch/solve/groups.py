# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Weighted least squares over the pairs: one correction a group, exact and sparse.

With d_p the measured difference of pair p = (i, j), a plane's coefficients in
the basis (1, u, v) about the pair's centre, c_g the correction of group g and
T_pg the change of basis from the group's centre to the pair's, the objective
is

    sum over p of  w_p (d_p - T_pi c_i + T_pj c_j)^T G_p (d_p - T_pi c_i + T_pj c_j)

plus, with a prior on the slopes, the sum over g of |slopes_g|^2 / prior^2.
For levels the same with the constant alone.
"""

from functools import partial
from logging import getLogger

import numpy as np

from levelmatch.sky.overlaps import components
from levelmatch.solve.equations import pair_weights
from levelmatch.solve.gauge import ZeroMean, free_coefficients, held_groups
from levelmatch.solve.solution import GaugedCovariance, Solution
from levelmatch.solve.solver import Solver
from levelmatch.solve.weights import Reweighting

__all__ = ["solve_groups"]


logger = getLogger(__name__)


def solve_groups(equations, options, *, weights, npix, scatter, reference=None, active=None):
    """Solve one pass.

    Parameters
    ----------
    equations : `Equations`
        The pairs.
    options : `SolveOptions`
        The floor, the prior and the robust weights.
    weights : {"ivar", "equal", "npix", "rms"}
        See `pair_weights`.
    npix, scatter : `~numpy.ndarray`, shape (n,)
        Of each pair, for the weights that use them.
    reference : None or callable
        Given the groups of a connected set, the one to hold at zero; `None` for a
        zero mean over each set.
    active : `~numpy.ndarray` of bool, shape (m, k), or None
        Coefficients that are free; the others are zero. `None` for all. The level of the
        group held is never free; its slopes are not if no slope is fixed.

    Returns
    -------
    solution : `Solution`
        One correction a group; zero where a group has no pair.
    """
    pairs = np.stack([equations.first, equations.second], axis=1)
    n_sets, component = components(pairs, equations.n_groups)
    held = held_groups(component, n_sets, reference)
    free = free_coefficients(equations, component, held, active)
    set_of = component[equations.first]
    solver = Solver(equations, free, options.slope_prior)

    def solve(floors, robust):
        return solver.solve(robust * pair_weights(equations, "ivar", floors[set_of], npix, scatter))

    adapt = Reweighting(equations, component, n_sets, free, options.floor is None, options.robust)
    floors = np.full(n_sets, 0.0 if options.floor is None else options.floor)
    if weights == "ivar" or options.floor is None:
        floors, robust, solved = adapt.run(floors, solve)
    variance = 1 + np.square(floors[set_of]) * equations.gram[:, 0, 0]
    if weights != "ivar":
        # The floor is the pairs' own, whatever they count for.
        robust = np.ones(len(pairs))
        solved = solver.solve(pair_weights(equations, weights, 0.0, npix, scatter))
    solved = solver.finish(solved)
    gauge = ZeroMean(equations, component, n_sets, free) if reference is None else None
    coefficients = solved.coefficients
    if gauge is not None:
        coefficients = gauge.apply(coefficients.reshape(-1, 1)).reshape(coefficients.shape)
        held = np.full(n_sets, -1)
    factor_variance = None if weights == "ivar" else variance
    return Solution(
        coefficients=coefficients,
        component=component,
        reference=held,
        floors=floors,
        weight=solved.factor * equations.gram[:, 0, 0],
        robust=robust,
        n_sigma=adapt.n_sigma(floors, solved),
        active=np.ones_like(free) if active is None else active,
        covariance_of=partial(GaugedCovariance, solved, gauge, factor_variance),
        residual=solved.residual,
    )
