# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Weighted least squares over the pairs: one correction per group.

The objective is the sum over all pairs p = (i, j) of

    w_p (d_p - T_pi c_i + T_pj c_j)^T G_p (d_p - T_pi c_i + T_pj c_j)

plus, with a prior on the slopes, the sum over all groups g of |slopes_g|^2 / prior^2. The measured
difference d_p has the coefficients of a plane in the basis (1, u, v) about the centre of the pair,
and G_p is its normal matrix with the weight w_p. The correction of group g is c_g, a plane about
the centre of the group, which T_pg transfers to the centre of the pair. For levels, only the
constant remains.
"""

from functools import partial
from logging import getLogger

import numpy as np

from levelmatch.sky.overlaps import components
from levelmatch.solve.floors import Floors, error_inflation
from levelmatch.solve.gauge import Gauge, free_coefficients, held_groups
from levelmatch.solve.outlier_tests import redundancy, studentised
from levelmatch.solve.rejection import Rejection
from levelmatch.solve.solution import GaugedCovariance, Solution
from levelmatch.solve.solver import Solver
from levelmatch.solve.weights import Reweighting, RobustFit, settle_floors
from levelmatch.solve.wings import level_widening, plane_widening

__all__ = ["solve_groups"]


logger = getLogger(__name__)

# A prior whose weight is below this fraction of that of a pair's slope determines no plane.
LEAST_PRIOR = 1e-9


def solve_groups(equations, options, *, npix=1.0, scatter=1.0, reference=None, active=None):
    """Solve one pass.

    Parameters
    ----------
    equations : `Equations`
        The pairs.
    options : `SolveOptions`
        The weights, the floor, the prior and the robust weights.
    npix, scatter : float or `~numpy.ndarray`, shape (n,)
        Number of pixels and scatter of each pair, for the weights ``"npix"`` and ``"rms"``.
    reference : None or callable
        Returns the group to hold at zero, given the groups of a connected set; `None` for a
        zero mean over each set.
    active : `~numpy.ndarray` of bool, shape (m, k), or None
        Coefficients that are free, by default all; the others are zero. The level of the held
        group is never free. Neither are its slopes, if no other slope is fixed.

    Returns
    -------
    solution : `Solution`
        One correction per group; zero for a group without a pair.
    """
    pairs = np.stack([equations.first, equations.second], axis=1)
    _, component = components(pairs, equations.n_groups)
    held, mean = held_groups(component, reference)
    free = free_coefficients(equations, component, held, active)
    unknown = _solved_for(equations, free, active, mean[component], options)
    solver = Solver(equations, unknown, options.slope_prior)

    floors = _floors(solver, component, free, options.floor)
    adapted = _adapt(floors, options, solver)
    inflation = error_inflation(floors, adapted.floors, adapted.robust > 0.5, options.slope_prior)
    precision = floors.precision(adapted.floors)
    inflation *= level_widening(equations, precision * adapted.robust, component)
    noise = _noise(floors, adapted)
    if options.weights != "ivar":
        # The floor does not depend on these weights.
        if noise is None:
            noise = equations.gram / precision[:, None, None]
        adapted = _weighted_otherwise(adapted, solver, options.weights, npix, scatter)
    solved, doubt = solver.finish(adapted.solved), adapted.doubt
    coefficients = solved.coefficients if doubt is None else solved.coefficients + doubt.shift
    gauge = _gauge(equations, component, held, free, mean, options)
    if gauge is not None:
        coefficients = gauge.apply(coefficients.reshape(-1, 1)).reshape(coefficients.shape)
    covariance_of = partial(
        _covariance,
        solved,
        gauge,
        component,
        noise=noise,
        inflation=np.repeat(inflation[component, None], equations.n_terms, axis=1),
        spread=None if doubt is None else doubt.spread,
    )
    return Solution(
        coefficients=coefficients,
        component=component,
        reference=np.where(mean, -1, held),
        floors=adapted.floors,
        weight=solved.factor * equations.gram[:, 0, 0],
        robust=adapted.robust,
        n_sigma=_n_sigma(floors, adapted, solved, options.weights),
        active=np.ones_like(free) if active is None else active,
        covariance_of=covariance_of,
        residual=solved.residual,
    )


def _covariance(solved, gauge, component, **parts):
    """Return the `GaugedCovariance`, that of planes with the effects of wings on the pairs."""
    covariance = GaugedCovariance(solved, gauge, **parts)
    widening = plane_widening(covariance, component)
    return covariance if widening is None else covariance.widened(widening)


def _floors(solver, component, free, fixed):
    """Return the estimates of floors; of a large system, with a start from a rough solution."""
    floors = Floors(solver.equations, component, free, fixed)
    rough = solver.rough(floors.precision(floors.typical_errors())) if fixed is None else None
    if rough is not None:
        floors.start_from(rough)
    return floors


def _solved_for(equations, free, active, mean, options):
    """Return flags of the coefficients that are solved for, which a prior on slopes may change.

    Where the mean slope is zero in the end, the prior determines the plane of the set. A group
    with a slope of zero would draw the others to its own slope.
    """
    no_slopes = equations.n_terms == 1 or len(equations.gram) == 0
    if options.slope_prior is None or active is not None or no_slopes:
        return free
    if options.slope_prior**-2 < LEAST_PRIOR * np.median(equations.gram[:, 1, 1]):
        return free
    out = free.copy()
    out[mean | (options.slope_gauge == "mean"), 1:] = True
    return out


def _noise(floors, adapted):
    """Return the covariance of the pairs' right-hand sides with shared noise, or `None` without.

    The floor may contain a part of the shared noise. It is reduced, at most to zero, until the
    expected sum of squared residuals is as before.
    """
    equations, solved = floors.equations, adapted.solved
    if equations.known.shared is None:
        return None
    shared, gram, factor = equations.known.shared, equations.gram, solved.factor
    counted = adapted.robust > 0.5
    own = np.where(counted, factor * gram[:, 0, 0], 0.0)
    less = np.zeros(floors.n_sets)
    if floors.fixed is None:
        own *= floors.long
        left = redundancy(solved)
        inverse = np.linalg.pinv(equations.root, rcond=1e-6, hermitian=True)
        added = np.einsum("pij,pjk,pkl,pli->p", left, inverse, shared, inverse)
        added = floors.sum(np.where(counted & floors.long, factor * added, 0.0))
        per_square = floors.sum(own * np.einsum("pii->p", left))
        known = per_square > 0
        less[known] = added[known] / per_square[known]
        less = np.minimum(less, np.square(adapted.floors))
    scale = 1 / factor - np.where(counted, less[floors.set_of] * gram[:, 0, 0], 0.0)
    return scale[:, None, None] * gram + shared


def _weighted_otherwise(adapted, solver, weights, npix, scatter):
    """Return the solution with the weights of PJPipe, and the same floors.

    The level of a pair has the weight 1, its number of pixels, or 1 / scatter**2.
    """
    value = {"equal": 1.0, "npix": npix, "rms": 1 / np.maximum(scatter, 1e-300) ** 2}[weights]
    solved = solver.solve(value / solver.equations.gram[:, 0, 0])
    return RobustFit(adapted.floors, np.ones(len(solved.factor)), solved)


def _gauge(equations, component, held, free, mean, options):
    """Return the gauge to apply to the solution, or `None` if the held groups define it."""
    if mean.any():
        return Gauge(equations, component, free, mean)
    if options.slope_gauge == "mean" and equations.n_terms > 1:
        return Gauge(equations, component, free, held=held)
    return None


def _adapt(floors, options, solver):
    """Return floors, robust weights and solution for the chosen treatment of wrong pairs."""
    if options.weights != "ivar" and options.floor is not None:
        # Neither floors nor robust weights are needed.
        return RobustFit(floors.start, np.ones(len(floors.set_of)), None)
    if options.robust == "auto":
        return Rejection(floors, solver).run()

    def solve(values, robust):
        return solver.solve(robust * floors.precision(values))

    if options.robust is None:
        return settle_floors(floors, solve)
    return Reweighting(floors, options.robust).run(solve)


def _n_sigma(floors, adapted, solved, weights):
    """Return the distance of each pair from its prediction by the others, in standard errors."""
    precision = floors.precision(adapted.floors)
    left = redundancy(solved)
    counted = np.ones(len(precision), dtype=bool)
    if weights == "ivar":
        counted = solved.factor > 0.5 * precision
    square, terms = studentised(solved, left, precision, counted)
    return np.sqrt(square / np.maximum(terms, 1))
