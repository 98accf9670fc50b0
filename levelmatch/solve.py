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

from dataclasses import dataclass, replace
from functools import cached_property
from logging import getLogger
from numbers import Integral, Real

import numpy as np
from scipy.sparse import bsr_matrix, coo_array, csr_matrix
from scipy.special import gammaincinv

from levelmatch import linear
from levelmatch.exceptions import ConvergenceError
from levelmatch.linear import sum_by
from levelmatch.overlaps import components
from levelmatch.sky import tangent_axes, transfer_matrix

__all__ = [
    "solve_auto",
    "FIT_TYPES",
    "WEIGHTS",
    "Equations",
    "Solution",
    "SolveOptions",
    "pair_weights",
    "solve_groups",
]

logger = getLogger(__name__)

FIT_TYPES = {
    "level": "level",
    "level+slope": "level+slope",
    "level+match": "level+slope",
    "auto": "auto",
}
# A group's slopes count from this Wald statistic on, or from that of the Bayesian
# information criterion if it is higher: 99 % of groups without slopes stay under it.
LEAST_WALD = 9.21
WEIGHTS = ("ivar", "equal", "npix", "rms")
ROBUST = ("tukey", "huber", None)
DISCONNECTED = ("warn", "error", "sky")
# Tuning constants for 95 % efficiency with normal errors.
HUBER = 1.345
TUKEY = 4.685
# A pair's weight is never less than this part of its own: what it links stays linked.
LEAST_WEIGHT = 1e-4
# Loops that it takes to tell which of the pairs is wrong.
MIN_LOOPS = 10
N_REWEIGHT = 50
# Steps to a floor; it takes some five.
N_NEWTON = 100
# Steps of iterative refinement of a factorised system.
N_REFINE = 2
# Systems of at least so many groups are solved by iterations, if factors are dear.
MIN_ITERATIVE = 2000
# A multigrid serves other weights as long as few of them change by more than this factor:
# a pair that lost its weight is only one of its images' many.
MAX_CHANGE = 3.0
FEW = 0.01
# Weights have settled if no more than this part of them still changes.
UNSETTLED = 1e-4
# What may be left of the right-hand side: of the solution, of those between which pairs are
# weighted again, and of the covariance's columns; the first is promised to be under the fourth.
TOLERANCE = 1e-10
ROUGH_TOLERANCE = 1e-6
COVARIANCE_TOLERANCE = 1e-8
PROMISED = 1e-8
# Random vectors that the variances of a very large solution are estimated from.
N_PROBES = 64
N_MODES = 64
PROBE_TOLERANCE = 1e-4
# The largest system whose covariance is held as a whole.
MAX_DENSE = 3000


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
    robust : {"tukey", "huber", None}
        How pairs that disagree with the rest lose weight, with the weights
        ``"ivar"`` and in sets of at least 10 loops: Tukey's biweight, Huber's
        weights, or not at all.
    disconnected : {"warn", "error", "sky"}
        What to do where images fall into sets with no overlap between them: leave each
        its own zero point and warn, refuse, or tie the sets by their clipped sky
        levels. The last assumes that the emission that clipping leaves in is the
        same in all sets, which extended objects break.
    flux_limit : float
        Warn of pairs whose flux scales differ by more than this part, and by
        more than 4 sigma.
    max_pairs : int or None
        In how many pairs, about, an image is measured at most: the largest overlaps, and
        others that keep the graph of overlaps short; what links sets always. Of n images
        of one field there are n**2 / 2 pairs, which share the same pixels'
        noise, so that few of them tell almost as much: two thirds of this number
        are measured where an image's overlaps are nearly equal. `None` for all.
    """

    floor: float | None = None
    min_area: float = 0.002
    min_linear: float = 0.2
    rms_limit: float = 2.0
    slope_prior: float | None = None
    robust: str | None = "tukey"
    disconnected: str = "warn"
    flux_limit: float = 0.03
    max_pairs: int | None = 24

    def __post_init__(self):
        for name, choices in (("robust", ROBUST), ("disconnected", DISCONNECTED)):
            if getattr(self, name) not in choices:
                msg = f"{name}: {getattr(self, name)!r} is none of {choices}"
                raise ValueError(msg)
        if self.max_pairs is not None and not (
            isinstance(self.max_pairs, Integral) and self.max_pairs >= 2
        ):
            msg = f"max_pairs: {self.max_pairs!r} is not a whole number of 2 or more"
            raise ValueError(msg)
        for name in ("floor", "min_area", "min_linear", "rms_limit", "slope_prior", "flux_limit"):
            value = getattr(self, name)
            if value is None and name in ("floor", "slope_prior"):
                continue
            good = isinstance(value, Real) and np.isfinite(value) and value >= 0
            if not good or (name == "slope_prior" and value == 0):
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
            return np.broadcast_to(np.ones((1, 1)), (2, len(self.first), 1, 1))
        return np.stack(
            [
                transfer_matrix(self.group_axes[side], self.axes)
                for side in (self.first, self.second)
            ]
        )

    @cached_property
    def measured(self):
        """Coefficients that each pair by itself asks for, shape (n, k); least norm."""
        if self.n_terms == 1:
            own = self.gram[:, 0]
            return np.divide(self.rhs, own, out=np.zeros_like(self.rhs, dtype=float), where=own > 0)
        return np.einsum(
            "pij,pj->pi", np.linalg.pinv(self.gram, rcond=1e-12, hermitian=True), self.rhs
        )

    def differences(self, coefficients):
        """Return each pair's first less second correction about the pair's centre, shape (n, k)."""
        if self.n_terms == 1:
            return coefficients[self.first] - coefficients[self.second]
        model = np.einsum("pij,pj->pi", self.transfer[0], coefficients[self.first])
        model -= np.einsum("pij,pj->pi", self.transfer[1], coefficients[self.second])
        return model

    def residuals(self, coefficients):
        """Return what is left of each pair's coefficients, shape (n, k)."""
        return self.measured - self.differences(coefficients)

    def level_residuals(self, coefficients):
        """Return what is left of each pair's weighted mean difference, shape (n,)."""
        residual = self.residuals(coefficients)
        return np.einsum("pj,pj->p", self.gram[:, 0], residual) / self.gram[:, 0, 0]

    def quadratic(self, coefficients):
        """Return each pair's share of the objective before its weight, shape (n,)."""
        residual = self.residuals(coefficients)
        return np.einsum("pi,pi->p", residual, _times(self.gram, residual))

    def gradient(self, weights, coefficients, prior=None):
        """Return the right-hand side that is left at coefficients, shape (m, k).

        From the pairs' residuals, not from the normal matrix, whose rounding is larger.
        """
        left = self.rhs - _times(self.gram, self.differences(coefficients))
        vector = self._scatter(weights[:, None] * left)
        if prior is not None:
            vector[:, 1:] -= coefficients[:, 1:] / prior**2
        return vector

    def _scatter(self, values):
        """Add values of the pairs, shape (n, k), up at their groups, shape (m, k)."""
        right = [values, values]
        if self.n_terms > 1:
            right = [np.einsum("pji,pj->pi", change, values) for change in self.transfer]
        added = sum_by(self.first, right[0], self.n_groups)
        return added - sum_by(self.second, right[1], self.n_groups)

    @cached_property
    def _pattern(self):
        """Where the blocks of the normal matrix are; the same for all weights.

        Returns
        -------
        joined : `~numpy.ndarray` of intp, shape (n,)
            The joined pair of groups, low and high, of each pair.
        order : `~numpy.ndarray` of intp, shape (m + 2 n_joined,)
            The block at each place: those of the groups, those above the diagonal, and those below.
        row, column, start : `~numpy.ndarray`
            Of each place, and each row's first place.
        """
        n = self.n_groups
        code = np.minimum(self.first, self.second).astype(np.int64) * n
        code += np.maximum(self.first, self.second)
        code, joined = np.unique(code, return_inverse=True)
        low, high = code // n, code % n
        own = np.arange(n)
        rows, columns = np.concatenate([own, low, high]), np.concatenate([own, high, low])
        numbers = np.arange(1, len(rows) + 1)
        placed = coo_array((numbers, (rows, columns)), shape=(n, n)).tocsr()
        placed.sort_indices()
        row = np.repeat(own, np.diff(placed.indptr))
        return joined, placed.data - 1, row, placed.indices, placed.indptr

    def assemble(self, weights, prior=None):
        """Return the sparse normal matrix for weights of shape (n,), in blocks of (k, k)."""
        joined, order, row, column, start = self._pattern
        k, n = self.n_terms, self.n_groups
        n_joined = (len(order) - n) // 2
        gram = weights[:, None, None] * self.gram
        left = gram if k == 1 else self.transfer[0].swapaxes(1, 2) @ gram
        across = -left if k == 1 else -left @ self.transfer[1]
        if k > 1:
            swapped = self.first > self.second
            across[swapped] = across[swapped].swapaxes(1, 2)
        own = [left, left]
        if k > 1:
            own = [left @ self.transfer[0], self._turned(gram)]
        blocks = np.concatenate(
            [
                sum_by(self.first, own[0], n) + sum_by(self.second, own[1], n),
                across := sum_by(joined, across, n_joined),
                across.swapaxes(1, 2),
            ]
        )
        if prior is not None and k > 1:
            blocks[:n, [1, 2], [1, 2]] += prior**-2
        if k == 1:
            return csr_matrix((blocks.ravel()[order], column, start), shape=(n, n))
        return bsr_matrix((blocks[order], column, start), shape=(k * n, k * n))

    def _turned(self, gram):
        """Return normal matrices of pairs in the bases of their second groups."""
        return self.transfer[1].swapaxes(1, 2) @ gram @ self.transfer[1]


def _times(matrices, vectors):
    """Products of matrices, shape (n, k, k), and vectors, shape (n, k)."""
    if vectors.shape[1] == 1:
        return matrices[:, 0] * vectors
    return np.einsum("pij,pj->pi", matrices, vectors)


def pair_weights(equations, weights, floor, npix, scatter):
    """Return the factor on each pair's normal matrix, shape (n,).

    The floor is a number, or one a pair. ``"ivar"`` leaves the pair's own inverse
    variance, tempered by the floor: 1 / (sigma**2 + floor**2). The others, which are PJPipe's,
    normalise it first, so that a pair counts by 1, its number of pixels or 1 / scatter**2 alone.
    """
    own = equations.gram[:, 0, 0]
    if weights == "ivar":
        return 1 / (1 + np.square(floor) * own)
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
    floors : `~numpy.ndarray`, shape (n_components,)
        The systematic scatter of the pairs of each set.
    weight : `~numpy.ndarray`, shape (n,)
        Weight of each pair's level in the objective.
    robust : `~numpy.ndarray`, shape (n,)
        The part of its weight that each pair kept: 1 if it agrees with the rest.
    n_sigma : `~numpy.ndarray`, shape (n,)
        What is left of each pair over its expected error.
    active : `~numpy.ndarray` of bool, shape (m, k)
        Coefficients that were free.
    residual : float
        What is left of the normal equations' right-hand side, as a part of it; of both the
        norm in units of the diagonal's root.
    """

    coefficients: np.ndarray
    component: np.ndarray
    reference: np.ndarray
    floors: np.ndarray
    weight: np.ndarray
    robust: np.ndarray
    n_sigma: np.ndarray
    active: np.ndarray
    _covariance: object
    residual: float = 0.0

    @property
    def floor(self):
        """The largest systematic scatter of any set."""
        return float(self.floors.max(initial=0.0))

    @cached_property
    def covariance_matrix(self):
        """Covariance of all coefficients relative to the gauge, shape (m * k, m * k).

        Raises
        ------
        MemoryError
            If it would be too large; `covariance` gives any part of it.
        """
        n = self.coefficients.size
        if n > MAX_DENSE:
            msg = f"the covariance of {n} coefficients is too large to be held as a whole"
            raise MemoryError(msg)
        return self._covariance.matrix()

    @cached_property
    def _own_covariances(self):
        """Covariance of each group's coefficients, shape (m, k, k), of what can be held whole."""
        n, k = self.coefficients.shape
        if "covariance_matrix" in vars(self):
            return np.einsum("gigj->gij", self.covariance_matrix.reshape(n, k, n, k))
        return self._covariance.blocks(k)

    def covariance(self, i, j):
        """Return the (k, k) covariance of the coefficients of groups i and j."""
        n, k = self.coefficients.shape
        if i == j and n * k <= MAX_DENSE:
            return self._own_covariances[i]
        rows = slice(k * i, k * (i + 1))
        if n * k <= MAX_DENSE:
            return self.covariance_matrix[rows, k * j : k * (j + 1)]
        unit = np.zeros((n * k, k))
        unit[k * j : k * (j + 1)] = np.eye(k)
        return self._covariance.apply(unit)[rows]

    def _probe_variance(self, n):
        rng = np.random.default_rng(0)
        # In units in which levels and slopes are alike: the one must not drown the other.
        scale = self._covariance.scale
        unit = np.where(scale > 0, scale, 1.0)

        def apply(vectors):
            applied = self._covariance.apply(vectors / unit[:, None], PROBE_TOLERANCE)
            return applied / unit[:, None]

        start = rng.choice([-1.0, 1.0], (n, N_MODES))
        modes = np.linalg.qr(apply(apply(start)))[0]
        applied = apply(modes)
        inner = modes.T @ applied
        smooth = 2 * np.sum(modes * applied, axis=1) - np.sum((modes @ inner) * modes, axis=1)
        probes = rng.choice([-1.0, 1.0], (n, N_PROBES))
        rest = apply(probes - modes @ (modes.T @ probes))
        rest -= modes @ (modes.T @ rest)
        return np.square(unit) * (smooth + np.mean(probes * rest, axis=1))

    @cached_property
    def errors(self):
        """Standard errors of the coefficients, shape (m, k).

        Exact up to 3000 coefficients. Beyond, the variances of the smooth modes, which
        lead, are found by subspace iteration, and the rest from random vectors
        (Bekas, Kokiopoulou & Saad 2007, Appl. Numer. Math. 57, 1214): to a few per cent.
        """
        n = self.coefficients.size
        if n <= MAX_DENSE:
            variance = np.einsum("gii->gi", self._own_covariances)
        else:
            variance = self._probe_variance(n)
        return np.sqrt(np.maximum(variance, 0)).reshape(self.coefficients.shape)


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
    held = _held_groups(component, n_sets, reference)
    free = _free_coefficients(equations, component, held, active)
    set_of = component[equations.first]
    solver = _Solver(equations, free, options.slope_prior)

    def solve(floors, robust):
        return solver.solve(robust * pair_weights(equations, "ivar", floors[set_of], npix, scatter))

    adapt = _Reweighting(equations, component, n_sets, free, options.floor is None, options.robust)
    floors = np.full(n_sets, 0.0 if options.floor is None else options.floor)
    if weights == "ivar" or options.floor is None:
        floors, robust, solved = adapt.run(floors, solve)
    variance = 1 + np.square(floors[set_of]) * equations.gram[:, 0, 0]
    if weights != "ivar":
        # The floor is the pairs' own, whatever they count for.
        robust = np.ones(len(pairs))
        solved = solver.solve(pair_weights(equations, weights, 0.0, npix, scatter))
    solved = solver.finish(solved)
    gauge = _ZeroMean(equations, component, n_sets, free) if reference is None else None
    coefficients = solved.coefficients
    if gauge is not None:
        coefficients = gauge.apply(coefficients.reshape(-1, 1)).reshape(coefficients.shape)
        held = np.full(n_sets, -1)
    return Solution(
        coefficients=coefficients,
        component=component,
        reference=held,
        floors=floors,
        weight=solved.factor * equations.gram[:, 0, 0],
        robust=robust,
        n_sigma=adapt.n_sigma(floors, solved),
        active=np.ones_like(free) if active is None else active,
        _covariance=_Covariance(solved, gauge, None if weights == "ivar" else variance),
        residual=solved.residual,
    )


def _held_groups(component, n_sets, reference):
    """Return the group of each set that is held at zero, at first."""
    if reference is None:
        return np.unique(component, return_index=True)[1]
    return np.array([reference(m) for m in _members(component, n_sets)], dtype=int)


def _members(labels, n):
    """Indices of the members of each of n labels, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=n))[:-1])


def _free_coefficients(equations, component, held, active):
    """Which coefficients are solved for, shape (m, k).

    A fixed slope anywhere in a set fixes the set's plane; only where none is,
    that of the group held does.
    """
    k, n = equations.n_terms, equations.n_groups
    free = np.ones((n, k), dtype=bool) if active is None else active.copy()
    free[:, 0] = True
    whole = np.ones(len(held), dtype=bool)
    np.logical_and.at(whole, component, free.all(axis=1))
    free[held, 0] = False
    free[held[whole]] = False
    return free


class _Solver:
    """Solves the equations for one set of weights after another."""

    def __init__(self, equations, free, prior):
        self.equations = equations
        self.free = free
        self.prior = prior
        self._built = self._last = None

    @cached_property
    def work(self):
        """A bound on the operations of factors: see `~levelmatch.linear.direct_work`."""
        n = self.equations.n_groups
        _, _, _, column, start = self.equations._pattern
        graph = csr_matrix((np.ones(len(column), dtype=np.int8), column, start), shape=(n, n))
        return linear.direct_work(graph, self.equations.n_terms)

    @cached_property
    def iterative(self):
        """Whether iterations take less than factors."""
        return self.equations.n_groups >= MIN_ITERATIVE and self.work > linear.MAX_WORK

    def solve(self, factor):
        """Return the solution for factors on the pairs' normal matrices, shape (n,).

        One by iterations starts from the last, and is rough: `finish` ends it.
        """
        solved = _Solved(self.equations, factor, self.free, self.prior)
        if not self.iterative:
            solved.system = linear.Direct(solved.matrix)
            # Long chains are badly conditioned, the pairs' own residuals are not.
            for _ in range(N_REFINE + 1):
                solved.add(solved.left())
            solved.left()
            return solved
        if self._last is not None:
            solved.coefficients = self._last.coefficients.copy()
            solved.moved = False
        self._build(solved, like=self._near(factor))
        most = linear.MAX_STEPS
        if solved.system.borrowed:
            most = max(linear.MAX_BORROWED, 2 * solved.system.own_steps)
        solved.reach(ROUGH_TOLERANCE, most)
        if solved.residual > ROUGH_TOLERANCE and solved.system.borrowed:
            self._build(solved)
            solved.reach(ROUGH_TOLERANCE)
        self._last = solved
        return solved

    def _build(self, solved, like=None):
        """Make the system ready, by what served another one or by something of its own."""
        solved.system = linear.Iterative(
            solved.matrix,
            self._modes(solved),
            self.equations.group_axes[:, 0],
            work=self.work,
            like=like,
        )
        if like is None:
            self._built = solved.factor, solved.system

    def _near(self, factor):
        """Return the last system built from weights that these are near to, or None."""
        if self._built is not None:
            ratio = factor / self._built[0]
            changed = (ratio > MAX_CHANGE) | (ratio < 1 / MAX_CHANGE)
            if np.count_nonzero(changed) <= FEW * len(ratio):
                return self._built[1]
        return None

    def _modes(self, solved):
        """What no overlap sees, in the scaled coefficients, shape (m, k, k)."""
        if self.equations.n_terms == 1:
            modes = np.ones((self.equations.n_groups, 1, 1))
        else:
            modes = transfer_matrix(np.eye(3), self.equations.group_axes)
        scale = solved.scale[:, :, None]
        return np.divide(modes, scale, out=np.zeros_like(modes), where=scale > 0)

    def finish(self, solved):
        """Return the solution, as exact as is promised.

        Raises
        ------
        ConvergenceError
            If iterations do not get there.
        """
        if self.iterative:
            solved.reach(TOLERANCE)
            if solved.residual > PROMISED and solved.system.borrowed:
                self._build(solved)
                solved.reach(TOLERANCE)
            if solved.residual > PROMISED:
                msg = (
                    f"{len(self.equations.first)} pairs of {self.equations.n_groups} groups: "
                    f"iterations leave {solved.residual:.1e} of the right-hand side, over "
                    f"{PROMISED:g}"
                )
                raise ConvergenceError(msg)
        return solved


class _Solved:
    """The normal equations for one set of weights, scaled to a diagonal of ones, and solved.

    Coefficients that are not free have a row and a column of their own, and stay zero.
    """

    def __init__(self, equations, factor, free, prior):
        self.equations = equations
        self.factor = factor
        self.prior = prior
        self.system = None
        self.moved = True
        self.coefficients = np.zeros(free.shape)
        self.matrix = equations.assemble(factor, prior)
        _, _, row, column, _ = equations._pattern
        diagonal = self.matrix.diagonal().reshape(free.shape)
        self.scale = free / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        blocks = self.matrix.data.reshape(-1, free.shape[1], free.shape[1])
        blocks *= self.scale[row][:, :, None] * self.scale[column][:, None, :]
        own = np.flatnonzero(row == column)
        for c in range(free.shape[1]):
            held = ~free[:, c] | (diagonal[:, c] <= 0)
            blocks[own[held], c, c] = 1.0
        self._norm = np.linalg.norm(self.scale * equations.gradient(factor, self.coefficients))
        self.residual = 1.0 if self._norm > 0 else 0.0

    def left(self):
        """Return what is left of the scaled right-hand side, shape (m, k)."""
        left = self.scale * self.equations.gradient(self.factor, self.coefficients, self.prior)
        self.residual = float(np.linalg.norm(left) / self._norm) if self._norm > 0 else 0.0
        return left

    def add(self, left, **limits):
        """Add the solution of the scaled equations for a right-hand side."""
        self.moved = True
        step = self.system.solve(left.ravel(), **limits)
        self.coefficients += self.scale * step.reshape(self.scale.shape)

    def reach(self, tolerance, most=None):
        """Add until what is left is under a part of the right-hand side, or no longer shrinks."""
        before = np.inf
        while True:
            left = self.left()
            if self.residual <= tolerance or self.residual > 0.5 * before:
                return
            before = self.residual
            self.add(left, tolerance=0.5 * tolerance * self._norm, most=most)


class _Covariance:
    """The covariance of the coefficients of solved equations, relative to a gauge.

    Parameters
    ----------
    solved : `_Solved`
        The equations.
    gauge : `_ZeroMean` or None
        What the gauge does to coefficients, if not nothing.
    variance : `~numpy.ndarray`, shape (n,), or None
        That of the pairs' unit weight, where their weights are not its inverse; the
        sandwich then takes it in.
    """

    def __init__(self, solved, gauge, variance):
        self.system = solved.system
        self.gauge = gauge
        self.scale = solved.scale.ravel()
        self.middle = (
            None if variance is None else solved.equations.assemble(solved.factor**2 * variance)
        )

    def matrix(self):
        """Return it whole, shape (m * k, m * k)."""
        half = self._half()
        matrix = half if self.middle is None else half @ (self.middle @ half.T)
        if self.gauge is not None and self.middle is None:
            matrix = self.gauge.apply(half.T)
        return 0.5 * (matrix + matrix.T)

    def blocks(self, k):
        """Return the (k, k) blocks on its diagonal, for less than the whole."""
        half = self._half()
        if self.middle is None:
            matrix = half if self.gauge is None else self.gauge.apply(half.T)
            return np.einsum("gigj->gij", matrix.reshape(2 * (len(matrix) // k, k))).copy()
        rows = half.reshape(-1, k, len(half))
        return np.einsum("gin,gjn->gij", (half @ self.middle).reshape(rows.shape), rows)

    def _half(self):
        """Gauge times the inverse of the equations."""
        if self.system.iterative:
            inverse = self._inverse(np.eye(len(self.scale)), COVARIANCE_TOLERANCE)
        else:
            inverse = self.system.inverse()
        inverse = self.scale[:, None] * inverse * self.scale
        return inverse if self.gauge is None else self.gauge.apply(inverse)

    def apply(self, vectors, tolerance=COVARIANCE_TOLERANCE):
        """Return it times vectors, shape (m * k, n), to a part of their norms."""
        if self.gauge is not None:
            vectors = self.gauge.apply_transposed(vectors)
        scale = self.scale[:, None]
        out = scale * self._inverse(scale * vectors, tolerance)
        if self.middle is not None:
            out = scale * self._inverse(scale * (self.middle @ out), tolerance)
        return out if self.gauge is None else self.gauge.apply(out)

    def _inverse(self, vectors, tolerance):
        """Solutions for each column, to a part of its norm."""
        if not self.system.iterative:
            return self.system.solve(vectors)
        columns = [self.system.solve(v, tolerance=tolerance * np.linalg.norm(v)) for v in vectors.T]
        return np.stack(columns, axis=1)


def _medians(labels, values):
    """Return the labels there are, and the median of the values of each."""
    if len(labels) > 0 and labels.min() == labels.max():
        return labels[:1], np.median(values, keepdims=True)
    order = np.lexsort((values, labels))
    labels, values = labels[order], values[order]
    found, start, count = np.unique(labels, return_index=True, return_counts=True)
    return found, 0.5 * (values[start + (count - 1) // 2] + values[start + count // 2])


class _ZeroMean:
    """The gauge in which the mean correction of each connected set is zero.

    For planes the mean plane, about the set's centre; where slopes are fixed,
    they fix the plane and only the mean level is zero.
    """

    def __init__(self, equations, component, n_sets, free):
        k = equations.n_terms
        self.component, self.n_sets, self.k = component, n_sets, k
        count = np.bincount(component, minlength=n_sets)[component]
        centres = sum_by(component, equations.group_axes[:, 0], n_sets)
        axes = tangent_axes(centres)[component]
        if k == 1:
            self.to, self.back = np.ones((2, len(component), 1, 1))
        else:
            self.to = transfer_matrix(equations.group_axes, axes)
            self.back = transfer_matrix(axes, equations.group_axes)
            # Free slopes of a set are all of its groups' but the held one's, or fewer.
            loose = np.bincount(component, (~free[:, 1:]).any(axis=1), minlength=n_sets)
            level_only = (loose > 1)[component]
            only = np.zeros((k, k))
            only[0, 0] = 1.0
            self.to[level_only] = only
            self.back[level_only] = only
        self.to = self.to / count[:, None, None]

    def apply(self, vectors):
        """Take the mean out of coefficients, shape (m * k, n)."""
        return self._subtract(vectors, self.to, self.back)

    def apply_transposed(self, vectors):
        """Apply the transpose of `apply`."""
        return self._subtract(vectors, self.back.swapaxes(1, 2), self.to.swapaxes(1, 2))

    def _subtract(self, vectors, to, back):
        blocks = vectors.reshape(len(self.component), self.k, -1)
        mean = sum_by(self.component, to @ blocks, self.n_sets)
        return (blocks - back @ mean[self.component]).reshape(vectors.shape)


class _Reweighting:
    """The floor of each set, and the weight that each pair keeps, found together.

    The floor is such that the pairs agree as well as their errors say: the weighted sum of
    squares equals its expectation, the number of the pairs' coefficients less that of the
    groups'. That is the method of moments of random-effects models (Paule & Mandel 1982,
    J. Res. Natl. Bur. Stand. 87, 377). In sets of enough loops, pairs that disagree with
    the rest lose weight: by Huber's weights until these settle, then, where asked
    for, by Tukey's biweight (Huber & Ronchetti 2009, Robust Statistics, 2nd ed., ch. 7).
    """

    def __init__(self, equations, component, n_sets, free, fit_floor, kind):
        self.equations = equations
        self.n_sets = n_sets
        self.fit_floor = fit_floor
        self.kind = kind
        self.set_of = component[equations.first]
        k = equations.n_terms
        measured = k * np.bincount(self.set_of, minlength=n_sets)
        unknown = np.bincount(component, free.sum(axis=1), minlength=n_sets)
        self.freedom = np.maximum(measured - unknown, 0)
        # Mean part of a pair's squared residual that the fit leaves.
        self.left = np.divide(self.freedom, measured, out=np.ones(n_sets), where=measured > 0)
        self.many = (self.freedom / k >= MIN_LOOPS)[self.set_of]

    def run(self, floors, solve):
        """Return the floors, the robust weights and the factorised system."""
        robust = np.ones(len(self.set_of))
        factorised = solve(floors, robust)
        if not (
            (self.fit_floor or (self.kind is not None and self.many.any())) and self.freedom.any()
        ):
            return floors, robust, factorised
        if self.kind is None or not self.many.any():
            return self._iterate(floors, robust, factorised, solve, None)
        floors, robust, factorised = self._iterate(floors, robust, factorised, solve, "huber")
        if self.kind == "tukey":
            floors, robust, factorised = self._iterate(floors, robust, factorised, solve, "tukey")
        if self.kind == "tukey" and self.fit_floor:
            floors = self._floors(self.equations.quadratic(factorised.coefficients), robust)
            factorised = solve(floors, robust)
        return floors, robust, factorised

    def _iterate(self, floors, robust, factorised, solve, kind):
        """Alternate floors, weights and solution until they settle."""
        for _ in range(N_REWEIGHT):
            before = floors, robust
            quadratic = self.equations.quadratic(factorised.coefficients)
            if self.fit_floor and kind != "tukey":
                floors = self._floors(quadratic, robust)
            if self.fit_floor and kind == "huber":
                # An outlier's pull on a sum of squares has no end; on the median it has.
                floors = self._median_floors(quadratic, floors)
            if kind is not None:
                robust = self._weights(quadratic, floors, kind)
            factorised = solve(floors, robust)
            if self._settled(before, floors, robust) or not factorised.moved:
                break
        return floors, robust, factorised

    def _settled(self, before, floors, robust):
        same = np.abs(floors - before[0]) <= 1e-3 * floors
        changed = np.abs(robust - before[1]) >= 1e-3
        return same.all() and np.count_nonzero(changed) <= UNSETTLED * len(robust)

    def _floors(self, quadratic, robust):
        """Floor of each set, the residuals and robust weights being given.

        By Newton's method for the inverse of the weighted sum of squares, which is concave in
        the floor's square: from zero it cannot go too far.
        """
        own = self.equations.gram[:, 0, 0]
        counted = np.where(self.many, robust > LEAST_WEIGHT, True) * np.maximum(quadratic, 0)
        number = self._sum(np.where(self.many, robust > LEAST_WEIGHT, True))
        target = self.freedom * number / np.maximum(self._sum(np.ones(len(own))), 1)
        square = np.zeros(self.n_sets)
        for _ in range(N_NEWTON):
            factor = 1 / (1 + square[self.set_of] * own)
            value = self._sum(counted * factor)
            slope = self._sum(counted * np.square(factor) * own)
            more = (value > target) & (target > 0)
            step = np.zeros(self.n_sets)
            step[more] = (value[more] / target[more] - 1) * value[more] / slope[more]
            square += step
            if (step <= 1e-12 * square).all():
                break
        return np.sqrt(square)

    def _sum(self, values):
        """Sum over the pairs of each set."""
        return np.bincount(self.set_of, values, minlength=self.n_sets)

    def _median_floors(self, quadratic, floors):
        """Floors of the sets of many loops such that the median residual is as expected."""
        own = self.equations.gram[:, 0, 0]
        rows = np.flatnonzero(self.many)
        sets = self.set_of[rows]
        target = 2 * gammaincinv(self.equations.n_terms / 2, 0.5) * self.left[sets]
        # The floor's square that each pair by itself asks for: half ask for more.
        square = (quadratic[rows] / target - 1) / own[rows]
        floors = floors.copy()
        found, median = _medians(sets, square)
        floors[found] = np.sqrt(np.maximum(median, 0))
        return floors

    def _z(self, quadratic, floors):
        own = self.equations.gram[:, 0, 0]
        factor = 1 / (1 + np.square(floors[self.set_of]) * own)
        expected = self.equations.n_terms * np.maximum(self.left[self.set_of], 0.05)
        return np.sqrt(factor * np.maximum(quadratic, 0) / expected)

    def _weights(self, quadratic, floors, kind):
        z = self._z(quadratic, floors)
        if kind == "huber":
            weight = HUBER / np.maximum(z, HUBER)
        else:
            weight = np.square(np.maximum(1 - np.square(z / TUKEY), 0))
        return np.where(self.many, np.maximum(weight, LEAST_WEIGHT), 1.0)

    def n_sigma(self, floors, factorised):
        """What is left of each pair over its expected error."""
        return self._z(self.equations.quadratic(factorised.coefficients), floors)


def slope_statistic(equations, solution):
    """Return the Wald statistic of each group's slopes, shape (m,); NaN for levels.

    Two degrees of freedom: the slopes' inverse covariance, relative to the gauge, between
    the slopes. Zero where the slopes are not free.
    """
    statistic = np.full(equations.n_groups, np.nan)
    if equations.n_terms == 1:
        return statistic
    for g in range(equations.n_groups):
        slopes = solution.coefficients[g, 1:]
        covariance = solution.covariance(g, g)[1:, 1:]
        statistic[g] = slopes @ np.linalg.pinv(covariance, rcond=1e-10, hermitian=True) @ slopes
    return statistic


def solve_auto(equations, options, **keywords):
    """Solve one pass with planes only for the groups whose slopes the pairs ask for.

    All slopes are fitted, and those of groups whose Wald statistic, about the
    median slope of their set, is under the larger of 9.21 and 2 ln n, for n
    pairs, are fixed at zero: the Bayesian information criterion (Schwarz 1978, Ann. Stat. 6,
    461), and 99 % of groups without a slope. The rest are solved again, until none changes.

    Parameters
    ----------
    equations : `Equations`
        The pairs, with three terms.
    options : `SolveOptions`
        See `solve_groups`.
    **keywords
        Those of `solve_groups`.

    Returns
    -------
    solution : `Solution`
        Its ``active`` says which slopes are free.
    """
    limit = max(LEAST_WALD, 2 * np.log(max(len(equations.first), 1)))
    active = np.ones((equations.n_groups, 3), dtype=bool)
    solution = solve_groups(equations, options, **keywords)
    if keywords.get("reference") is None:
        statistic = _centred_statistic(equations, solution)
    else:
        # Relative to the reference, whose plane is zero.
        statistic = slope_statistic(equations, solution)
        active[solution.reference, 1:] = False
    for _ in range(N_REWEIGHT):
        new = active.copy()
        new[:, 1:] &= (statistic > limit)[:, None]
        if (new == active).all():
            break
        active = new
        solution = solve_groups(equations, options, active=active, **keywords)
        statistic = slope_statistic(equations, solution)
    return solution


def _centred_statistic(equations, solution):
    """Wald statistic of the slopes less the median slope of their set.

    The first fit's gauge may have put one group's slope into all the others.
    """
    coefficients = solution.coefficients.copy()
    for members in _members(solution.component, solution.component.max() + 1):
        # Slopes turn with the position: the median is taken about the set's centre.
        centre = tangent_axes(equations.group_axes[members, 0].sum(axis=0))
        there = transfer_matrix(equations.group_axes[members], centre)
        planes = np.einsum("gij,gj->gi", there, coefficients[members])
        common = np.concatenate([[0.0], np.median(planes[:, 1:], axis=0)])
        back = transfer_matrix(centre, equations.group_axes[members])
        coefficients[members] -= np.einsum("gij,j->gi", back, common)
    return slope_statistic(equations, replace(solution, coefficients=coefficients))
