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

from dataclasses import dataclass
from functools import cached_property
from logging import getLogger

import numpy as np
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu

from levelmatch.overlaps import components
from levelmatch.sky import tangent_axes, transfer_matrix

__all__ = ["FIT_TYPES", "WEIGHTS", "Equations", "Solution", "SolveOptions", "pair_weights",
           "solve_groups"]

logger = getLogger(__name__)

FIT_TYPES = {"level": "level", "level+slope": "level+slope", "level+match": "level+slope"}
WEIGHTS = ("ivar", "equal", "npix", "rms")
# The largest system whose covariance is held as a whole.
MAX_DENSE = 9000


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """Which pairs count, and what is known beforehand.

    Parameters
    ----------
    floor : float or None
        The systematic scatter, in the common unit; `None` to estimate it.
    min_area : float
        Pairs with fewer pixels than this part of the mean are left out.
    min_linear : float
        Pairs whose overlap is shorter, in its longest direction, than this part of
        the smaller image's side are left out.
    rms_limit : float
        Pairs whose scatter is this many standard deviations above the mean, both of
        its logarithm, are left out; never one under 1.5 times the mean.
    slope_prior : float or None
        Standard deviation of a Gaussian prior, about 0, on the slopes of planes, in the
        common unit per arcmin.
    """

    floor: float | None = None
    min_area: float = 0.002
    min_linear: float = 0.2
    rms_limit: float = 2.0
    slope_prior: float | None = None

    def __post_init__(self):
        for name in ("floor", "min_area", "min_linear", "rms_limit", "slope_prior"):
            value = getattr(self, name)
            if value is None and name in ("floor", "slope_prior"):
                continue
            if not (np.isfinite(value) and value >= 0) or (name == "slope_prior" and value == 0):
                msg = f"{name}: {value!r} is not a positive number"
                raise ValueError(msg)


def fit_terms(fit_type):
    """Return the number of terms of a fit type.

    Raises
    ------
    ValueError
        If it is not known.
    """
    if fit_type not in FIT_TYPES:
        msg = f"fit_type: {fit_type!r} is none of {tuple(FIT_TYPES)}"
        raise ValueError(msg)
    return 1 if FIT_TYPES[fit_type] == "level" else 3


@dataclass(frozen=True, eq=False)
class Equations:
    """The normal equations of the pairs of one pass.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of intp, shape (n,)
        Groups of each pair.
    gram : `~numpy.ndarray`, shape (n, k, k)
        Normal matrix of each pair, k being 1 for levels and 3 for planes.
    rhs : `~numpy.ndarray`, shape (n, k)
        Right-hand side of each pair.
    axes : `~numpy.ndarray`, shape (n, 3, 3)
        Centre, East and North of each pair.
    group_axes : `~numpy.ndarray`, shape (m, 3, 3)
        Centre, East and North of each group.
    """

    first: np.ndarray
    second: np.ndarray
    gram: np.ndarray
    rhs: np.ndarray
    axes: np.ndarray
    group_axes: np.ndarray

    @property
    def n_terms(self):
        """Number of coefficients of a group."""
        return self.rhs.shape[1]

    @property
    def n_groups(self):
        """Number of groups."""
        return len(self.group_axes)

    @cached_property
    def transfer(self):
        """Changes of basis from the two groups of each pair to the pair, shape (2, n, k, k)."""
        if self.n_terms == 1:
            return np.ones((2, len(self.first), 1, 1))
        return np.stack([
            transfer_matrix(self.group_axes[side], self.axes)
            for side in (self.first, self.second)
        ])

    @cached_property
    def measured(self):
        """Coefficients that each pair by itself asks for, shape (n, k); least norm."""
        return np.einsum("pij,pj->pi", np.linalg.pinv(self.gram, rcond=1e-12, hermitian=True),
                         self.rhs)

    def residuals(self, coefficients):
        """Return what is left of each pair's coefficients, shape (n, k)."""
        model = np.einsum("pij,pj->pi", self.transfer[0], coefficients[self.first])
        model -= np.einsum("pij,pj->pi", self.transfer[1], coefficients[self.second])
        return self.measured - model

    def level_residuals(self, coefficients):
        """Return what is left of each pair's weighted mean difference, shape (n,)."""
        residual = self.residuals(coefficients)
        return np.einsum("pj,pj->p", self.gram[:, 0], residual) / self.gram[:, 0, 0]

    def quadratic(self, coefficients):
        """Return each pair's share of the objective before its weight, shape (n,)."""
        residual = self.residuals(coefficients)
        return np.einsum("pi,pij,pj->p", residual, self.gram, residual)

    def assemble(self, weights, *, squares=False):
        """Return the sparse normal matrix and the right-hand side for weights of shape (n,).

        With ``squares``, the weights are those of the sandwich's middle and the
        right-hand side is not needed.
        """
        k, n = self.n_terms, self.n_groups
        gram = weights[:, None, None] * self.gram
        left = np.einsum("spji,pjk->spik", self.transfer, gram)
        blocks = np.einsum("spij,tpjk->stpik", left, self.transfer)
        sign = np.array([1.0, -1.0])
        blocks *= (sign[:, None] * sign)[:, :, None, None, None]
        groups = np.stack([self.first, self.second])
        offset = np.arange(k)
        rows = (k * groups)[:, None, :, None, None] + offset[:, None]
        columns = (k * groups)[None, :, :, None, None] + offset
        rows, columns = np.broadcast_arrays(rows, columns)
        rows, columns = (np.broadcast_to(r, blocks.shape).ravel() for r in (rows, columns))
        matrix = coo_array((blocks.ravel(), (rows, columns)), shape=(k * n, k * n)).tocsc()
        if squares:
            return matrix
        vector = np.zeros((n, k))
        right = np.einsum("spji,pj->spi", self.transfer, weights[:, None] * self.rhs)
        np.add.at(vector, self.first, right[0])
        np.subtract.at(vector, self.second, right[1])
        return matrix, vector.ravel()


def pair_weights(equations, weights, floor, npix, scatter):
    """Return the factor on each pair's normal matrix, shape (n,).

    ``"ivar"`` leaves the pair's own inverse variance, tempered by the floor:
    1 / (sigma**2 + floor**2). The others, which are PJPipe's, normalise it first, so
    that a pair counts by 1, its number of pixels or 1 / scatter**2 alone.
    """
    own = equations.gram[:, 0, 0]
    if weights == "ivar":
        return 1 / (1 + floor**2 * own)
    value = {"equal": 1.0, "npix": npix, "rms": 1 / np.maximum(scatter, 1e-300) ** 2}[weights]
    return value / own


@dataclass(frozen=True, eq=False)
class Solution:
    """Corrections of the groups of one pass.

    Parameters
    ----------
    coefficients : `~numpy.ndarray`, shape (m, k)
        Of each group, about its own centre: what to subtract.
    component : `~numpy.ndarray` of int, shape (m,)
        The connected set of each group.
    reference : `~numpy.ndarray` of int, shape (n_components,)
        The group held at zero in each set, or -1 where the mean is.
    floor : float
        The systematic scatter of the pairs.
    weight : `~numpy.ndarray`, shape (n,)
        Weight of each pair's level in the objective.
    """

    coefficients: np.ndarray
    component: np.ndarray
    reference: np.ndarray
    floor: float
    weight: np.ndarray
    _covariance: object

    @cached_property
    def covariance_matrix(self):
        """Covariance of all coefficients relative to the gauge, shape (m * k, m * k)."""
        return self._covariance()

    def covariance(self, i, j):
        """Return the (k, k) covariance of the coefficients of groups i and j."""
        k = self.coefficients.shape[1]
        return self.covariance_matrix[k * i : k * (i + 1), k * j : k * (j + 1)]

    @cached_property
    def errors(self):
        """Standard errors of the coefficients, shape (m, k)."""
        variance = np.diagonal(self.covariance_matrix)
        return np.sqrt(np.maximum(variance, 0)).reshape(self.coefficients.shape)


def solve_groups(equations, options, *, weights, npix, scatter, reference=None):
    """Solve one pass.

    Parameters
    ----------
    equations : `Equations`
        The pairs.
    options : `SolveOptions`
        The floor and the prior.
    weights : {"ivar", "equal", "npix", "rms"}
        See `pair_weights`.
    npix, scatter : `~numpy.ndarray`, shape (n,)
        Of each pair, for the weights that use them.
    reference : None or callable
        Given the groups of a connected set, the one to hold at zero; `None` for a
        zero mean over each set.

    Returns
    -------
    solution : `Solution`
        One correction a group; zero where a group has no pair.
    """
    pairs = np.stack([equations.first, equations.second], axis=1)
    n_sets, component = components(pairs, equations.n_groups)
    members = _members(component, n_sets)
    held = np.array([m[0] if reference is None else reference(m) for m in members], dtype=int)

    def solve(floor):
        factor = pair_weights(equations, weights, floor, npix, scatter)
        factorised = _Factorised(equations, factor, held, options.slope_prior)
        return factor, factorised, factorised.coefficients

    floor = options.floor
    if floor is None:
        floor = _estimate_floor(equations, solve, n_sets) if weights == "ivar" else 0.0
    factor, factorised, coefficients = solve(floor)
    if reference is None:
        held = np.full(n_sets, -1)
        for m in members:
            to, back = _mean_transfer(equations, m)
            coefficients[m] -= back @ np.einsum("gij,gj->i", to, coefficients[m])

    def covariance():
        variance = 1 + floor**2 * equations.gram[:, 0, 0]
        matrix = factorised.covariance(factor, variance, weights)
        return _to_mean(matrix, equations, members) if reference is None else matrix

    return Solution(
        coefficients=coefficients, component=component, reference=held, floor=float(floor),
        weight=factor * equations.gram[:, 0, 0], _covariance=covariance,
    )


def _members(labels, n):
    """Indices of the members of each of n labels, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=n))[:-1])


class _Factorised:
    """The normal matrix with one group of each set held, scaled and factorised."""

    def __init__(self, equations, factor, held, prior):
        self.equations = equations
        k, n = equations.n_terms, equations.n_groups
        matrix, vector = equations.assemble(factor)
        diagonal = matrix.diagonal()
        if prior is not None and k > 1:
            diagonal = np.zeros((n, k))
            diagonal[:, 1:] = prior**-2
            matrix = matrix + csc_array(
                coo_array((diagonal.ravel(), (np.arange(k * n),) * 2), shape=matrix.shape)
            )
            diagonal = matrix.diagonal()
        free = np.ones((n, k), dtype=bool)
        free[held] = False
        self.free = np.flatnonzero(free)
        self.solution = np.zeros(k * n)
        if len(self.free) == 0:
            return
        self.scale = 1 / np.sqrt(np.maximum(diagonal[self.free], 1e-300))
        reduced = matrix[self.free][:, self.free]
        reduced = reduced.multiply(self.scale[:, None]).multiply(self.scale).tocsc()
        self.lu = _factorise(reduced)
        self.solution[self.free] = self.scale * self.lu.solve(self.scale * vector[self.free])

    @property
    def coefficients(self):
        """Coefficients of the groups, shape (m, k); a copy."""
        return self.solution.reshape(self.equations.n_groups, -1).copy()

    def covariance(self, factor, variance, weights):
        """Covariance of the coefficients with the held groups' at zero."""
        n = len(self.solution)
        full = np.zeros((n, n))
        if len(self.free) == 0:
            return full
        if n > MAX_DENSE:
            msg = f"the covariance of {n} coefficients is too large to be held as a whole"
            raise MemoryError(msg)
        inverse = self.scale[:, None] * self.lu.solve(np.diag(self.scale))
        if weights != "ivar":
            # Weights that are not the inverse variance: the sandwich.
            middle = self.equations.assemble(factor**2 * variance, squares=True)
            middle = middle[self.free][:, self.free]
            inverse = inverse @ (middle @ inverse)
        full[np.ix_(self.free, self.free)] = 0.5 * (inverse + inverse.T)
        return full


def _factorise(matrix):
    """LU of a symmetric positive matrix; of a singular one, with the least of priors."""
    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0,
               "options": {"SymmetricMode": True}}
    try:
        return splu(matrix, **options)
    except RuntimeError:
        logger.info("the normal matrix is singular: the slopes that no pair sees stay at zero")
        n = matrix.shape[0]
        ridge = csc_array(coo_array((np.full(n, 1e-12), (np.arange(n),) * 2), shape=(n, n)))
        return splu((matrix + ridge).tocsc(), **options)


def _mean_transfer(equations, members):
    """Matrices that make a set's coefficients their mean about its centre, and take it back."""
    k, n = equations.n_terms, len(members)
    if k == 1:
        return np.full((n, 1, 1), 1 / n), np.ones((n, 1, 1))
    axes = equations.group_axes[members]
    centre = tangent_axes(axes[:, 0].sum(axis=0))
    return transfer_matrix(axes, centre) / n, transfer_matrix(centre, axes)


def _to_mean(matrix, equations, members):
    """Covariance in the gauge of zero mean, from that with one group of each set held."""
    k = equations.n_terms
    out = np.zeros_like(matrix)
    for m in members:
        rows = (k * m[:, None] + np.arange(k)).ravel()
        to, back = _mean_transfer(equations, m)
        mean = np.einsum("aij,bjk->aibk", back, to).reshape(len(rows), len(rows))
        project = np.eye(len(rows)) - mean
        out[np.ix_(rows, rows)] = project @ matrix[np.ix_(rows, rows)] @ project.T
    return out


def _estimate_floor(equations, solve, n_sets):
    """Systematic scatter of the pairs, such that they agree as well as their errors say.

    The method of moments of random-effects models (Paule & Mandel 1982, J. Res.
    Natl. Bur. Stand. 87, 377): the weighted sum of squares equals its
    expectation, the number of pairs' coefficients less that of the groups'.
    """
    k = equations.n_terms
    freedom = k * (len(equations.first) - equations.n_groups + n_sets)
    if freedom <= 0:
        return 0.0
    variance = 1 / equations.gram[:, 0, 0]

    def excess(floor):
        factor, _, coefficients = solve(floor)
        return np.sum(factor * equations.quadratic(coefficients)) - freedom

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, np.sqrt(np.median(variance))
    while excess(high) > 0:
        low, high = high, 4 * high
    for _ in range(20):
        if high - low < 0.01 * high:
            break
        middle = np.sqrt(low * high) if low > 0 else 0.25 * high
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return 0.5 * (low + high)
