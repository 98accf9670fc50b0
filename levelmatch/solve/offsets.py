# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Offsets between detectors that tiles share.

The offset of MIRI's Lyot part against the main chip, or of one chip against another, is much the
same in all tiles of one filter. With x the levels of the groups of a tile, m_k the mean of the
detector k and t the scatter of the offsets, the random-effects model is

    x_k = (a level of the tile) + m_k + e_k,    e_k normal with variance t**2

Tiles whose pairs determine their offsets determine m and t. The other tiles get the mean, with the
scatter as its error.

If the tiles agree so well that equal offsets are a safe conclusion (see `_are_equal`), t is zero.
If not, the levels are averaged over the posterior distribution of t.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.linalg import block_diag
from scipy.special import chdtr

from levelmatch.images import jwst
from levelmatch.images.filters import filters_of
from levelmatch.solve.gauge import members_of
from levelmatch.solve.solution import MAX_DENSE

__all__ = ["OFFSET_PASSES", "SharedOffsets", "share_offsets"]

# Passes that match the detectors of a tile.
OFFSET_PASSES = ("lyot", "nircam_short", "detectors")
# Smallest number of degrees of freedom of the scatter of the offsets. With two, the variance of
# error over stated error has no limit where the scatter is large.
LEAST_FREEDOM = 3
# Number of values of the grid over which the scatter is integrated.
N_SCATTERS = 60
# Limits of this grid: in units of the known offsets' errors, and of their spread.
LEAST_SCATTER, MOST_SCATTER = 0.02, 10.0
# Largest contribution of offsets that wrongly count as equal to the squared pull. With the
# contribution of the others, pulls reach 1.25.
MOST_EQUAL = 1.25


@dataclass(frozen=True)
class SharedOffsets:
    """The offsets of the detectors of some tiles.

    Parameters
    ----------
    detectors : tuple of str
        The detectors or parts; offsets are relative to the first.
    mean, error : tuple of float
        Mean offset of each and its standard error, in the common unit; NaN if unknown.
    scatter : float
        Standard deviation, between tiles, of the offset of one detector against another (rms of
        its posterior distribution); 0 if the offsets count as equal, NaN if unknown.
    n_known : int
        Number of tiles whose pairs determine all of their offsets.
    n_tied : int
        Number of tiles that share offsets; 0 if too few determine theirs.
    """

    detectors: tuple
    mean: tuple
    error: tuple
    scatter: float
    n_known: int
    n_tied: int

    def words(self, unit):
        """Return the estimate as words."""
        if self.n_tied == 0:
            return (
                f"offsets of {' and '.join(self.detectors)} are not shared, as too few tiles "
                f"({self.n_known}) determine theirs"
            )
        means = ", ".join(
            f"{name} {mean:.3g} +- {error:.2g}"
            for name, mean, error in zip(
                self.detectors[1:], self.mean[1:], self.error[1:], strict=True
            )
        )
        spread = f"{self.scatter:.2g} (scatter)" if self.scatter else "equal within their errors"
        return (
            f"{self.n_tied} tiles share their offsets from {self.detectors[0]}, which "
            f"{self.n_known} of them determine: {means} {unit} (mean), {spread}"
        )


def share_offsets(solution, matched, frames, inherited=None):
    """Return a solution whose tiles share the offsets of their detectors.

    Parameters
    ----------
    solution : `~levelmatch.solve.solution.Solution`
        Levels of the groups of a pass that matches the detectors of each tile.
    matched : `~levelmatch.solve.passes.Pass`
        The pass, grouped.
    frames : list of `~levelmatch.images.frame.Frame`
        All images, sorted by name.
    inherited : `~numpy.ndarray`, shape (m, m), or None
        Covariance that the levels have from errors of earlier passes.

    Returns
    -------
    solution : `~levelmatch.solve.solution.Solution`
        The groups of a tile that are tied are one connected set.
    found : tuple of `SharedOffsets`
        One for each filter and each set of detectors.
    """
    if solution.coefficients.shape[1] > 1 or solution.coefficients.size > MAX_DENSE:
        return solution, ()
    found = []
    for tiles in _families(matched, frames).values():
        offsets, tied = _joint(solution, tiles, inherited)
        found.append(offsets)
        if tied is not None:
            solution = _tied(solution, tiles, tied, science=matched.held == "science")
    return solution, tuple(found)


def _families(matched, frames):
    """Return the tiles whose offsets are comparable: lists of (kind, group), by family."""
    first = np.unique(matched.group, return_index=True)[1]
    domain = matched.domain[first]
    families = {}
    for groups in members_of(domain):
        kinds = [_kind(frames[first[g]], matched) for g in groups]
        # A detector in several sets has no single level.
        if len(groups) < 2 or len(set(kinds)) < len(kinds):
            continue
        elements = filters_of(frames[first[groups[0]]].meta)
        key = tuple(sorted((family, *sorted(names)) for family, names in elements.items()))
        tile = sorted(zip(kinds, groups.tolist(), strict=True), reverse=matched.name == "lyot")
        module = jwst.module_of(min(kinds)) if matched.name == "nircam_short" else ""
        families.setdefault((key, module), []).append(tile)
    return families


def _kind(frame, matched):
    return f"{frame.detector} {frame.part}" if matched.name == "lyot" else frame.detector


def _joint(solution, tiles, inherited):
    """Estimate the offsets of one family of tiles.

    Levels are relative to the first group of each tile, and mean offsets to the first detector.

    Parameters
    ----------
    solution : `~levelmatch.solve.solution.Solution`
        Levels by the pairs of each tile alone.
    tiles : list of list of tuple
        Detector and group of each part of each tile.
    inherited : `~numpy.ndarray`, shape (m, m), or None
        Covariance of the levels beside that of the solution.

    Returns
    -------
    offsets : `SharedOffsets`
        The offsets.
    tied : tuple or None
        The groups, their levels, and covariance and response of the levels.
    """
    first = tiles[0][0][0]
    kinds = (first, *sorted({kind for tile in tiles for kind, _ in tile} - {first}))
    tiles = [_Tile(solution, tile, kinds, inherited) for tile in tiles]
    known = sum(tile.is_known for tile in tiles)
    freedom = sum(tile.rank for tile in tiles) - (len(kinds) - 1)
    information = sum(t.design.T @ t.information @ t.design for t in tiles)
    if freedom < LEAST_FREEDOM or not _determined(information):
        none = (np.nan,) * len(kinds)
        return SharedOffsets(kinds, none, none, np.nan, known, 0), None
    # Offsets much larger than their errors would spoil chi squared by rounding.
    start = np.linalg.solve(information, sum(t.design.T @ t.asked for t in tiles))
    for tile in tiles:
        tile.levels = tile.levels - tile.design @ start
    given, weights = _weighted(tiles, freedom)
    means = weights @ given.means
    variance = weights @ np.diagonal(given.of_means, axis1=1, axis2=2)
    variance += weights @ np.square(given.means - means)
    offsets = SharedOffsets(
        kinds,
        (0.0, *(start + means).tolist()),
        (0.0, *np.sqrt(variance).tolist()),
        # The smallest scatter stands for equal offsets.
        0.0 if weights[0] else float(np.sqrt(2 * weights @ np.square(given.scatters))),
        known,
        len(tiles),
    )
    groups = np.concatenate([t.groups for t in tiles])
    levels, covariance, response = given.marginal(weights)
    levels = levels + np.concatenate([np.pad(t.design @ start, (1, 0)) for t in tiles])
    # The covariance of all passes adds this part again, and that between tiles.
    again = block_diag(*(tile.inherited for tile in tiles))
    covariance = covariance - response @ again @ response.T
    return offsets, (groups, levels, covariance, response)


def _weighted(tiles, freedom):
    """Return the levels given each scatter of a grid, and the probabilities of these scatters.

    The smallest scatter stands for equal offsets. If the offsets are not equal, the prior is even
    in the logarithm of scatters beyond the errors of the known offsets, and falls as scatter**4
    below.
    """
    known = [tile for tile in tiles if tile.rank]
    precision = [np.trace(tile.information) / tile.rank for tile in known]
    error = 1 / np.sqrt(np.mean(precision))
    spread = max(np.ptp(np.concatenate([tile.levels for tile in known])), error)
    scatters = np.geomspace(LEAST_SCATTER * error, MOST_SCATTER * spread, N_SCATTERS)
    given = _Given(tiles, scatters)
    if _are_equal(given, freedom):
        return given, np.eye(N_SCATTERS)[0]
    # The prior is on the logarithm of the scatter, in which the grid is even.
    logs = given.log_likelihood - 2 * np.log1p(np.square(error / scatters))
    logs[0] = -np.inf
    weights = np.exp(logs - logs.max())
    return given, weights / weights.sum()


def _are_equal(given, freedom):
    """Return whether offsets that agree so well count as equal in all tiles.

    Whether offsets scatter by less than their errors cannot be seen. If they wrongly count as
    equal, the mean square of error over stated error is that for the true scatter. Offsets count as
    equal only if this, times the probability of a chi squared as small as the observed one, is at
    most ``MOST_EQUAL`` for every scatter. So the pulls are limited whatever the scatter is.

    The chi squared of scattered offsets is a weighted sum of chi squared variates, and its
    probability at most that for equal weights with the same product (Okamoto 1960, Bulletin of
    Mathematical Statistics 9, 69).
    """
    weight = np.exp((given.log_determinant - given.log_determinant[0]) / freedom)
    probability = chdtr(freedom, given.chi_squared / weight)
    return (given.growth * probability).max() <= MOST_EQUAL


def _determined(information):
    """Return whether the pairs of all tiles determine all mean offsets."""
    size = np.sqrt(np.diagonal(information))
    if not (size > 0).all():
        return False
    return np.linalg.eigvalsh(information / np.outer(size, size))[0] > 1e-9


class _Tile:
    """Levels of the groups of a tile, relative to its first group.

    ``inherited`` is the covariance that earlier passes leave within its sets of connected groups,
    shape (n, n). ``information`` is the inverse covariance by the tile's own pairs, with that part,
    shape (n - 1, n - 1). ``rank`` is the number of offsets that these pairs determine. ``design``
    is the matrix from the detectors' mean offsets to the tile's.
    """

    def __init__(self, solution, tile, kinds, inherited=None):
        self.groups = groups = np.array([g for _, g in tile])
        n = len(groups)
        component = solution.component[groups]
        whole, self.inherited = np.zeros((2, n, n))
        for s in np.unique(component):
            own = np.flatnonzero(component == s)
            if len(own) > 1:
                rows, place = np.ix_(groups[own], groups[own]), np.ix_(own, own)
                if inherited is not None:
                    self.inherited[place] = inherited[rows]
                c = solution.covariance_matrix[rows] + self.inherited[place]
                centred = np.eye(len(own)) - 1 / len(own)
                # Independent of the gauge.
                c = centred @ c @ centred
                whole[place] = np.linalg.pinv(c, rcond=1e-10, hermitian=True)
        levels = solution.coefficients[groups, 0]
        self.levels, self.information = levels[1:] - levels[0], whole[1:, 1:]
        self.rank = n - len(np.unique(component))
        design = np.zeros((n, len(kinds)))
        design[np.arange(n), [kinds.index(kind) for kind, _ in tile]] = 1
        self.design = (design - design[:1])[1:, 1:]

    @property
    def asked(self):
        """Product of the information and the levels."""
        return self.information @ self.levels

    @property
    def is_known(self):
        """True if its pairs determine all of its offsets."""
        return self.rank == len(self.groups) - 1

    @property
    def prior(self):
        """Inverse covariance of the offsets for unit scatter of each detector."""
        n = len(self.groups)
        return np.eye(n - 1) - 1 / n


class _Given:
    """The levels of all tiles for each of several scatters, the first axis of all arrays.

    With A the information on the levels of a tile and P that of the scatter, the levels are
    (A + P)^-1 (a + P D m) for the mean offsets m.
    """

    def __init__(self, tiles, scatters):
        self.tiles, self.scatters = tiles, scatters
        self.inverse, self.pull = [], []
        self.information, self.asked = 0.0, 0.0
        for tile in tiles:
            prior = tile.prior / scatters[:, None, None] ** 2
            inverse = np.linalg.inv(tile.information + prior)
            pull = inverse @ prior @ tile.design
            self.information = self.information + tile.design.T @ prior @ (tile.design - pull)
            self.asked = self.asked + tile.asked @ pull
            self.inverse.append(inverse)
            self.pull.append(pull)
        self.of_means = np.linalg.inv(self.information)
        self.means = np.einsum("sij,sj->si", self.of_means, self.asked)

    @property
    def log_likelihood(self):
        """Logarithm of the restricted likelihood of each scatter, up to a constant."""
        return 0.5 * (self._explained - self.log_determinant)

    @property
    def log_determinant(self):
        """Logarithm of the determinant of the known offsets' covariance, up to a constant."""
        value = np.linalg.slogdet(self.information)[1]
        for tile, inverse in zip(self.tiles, self.inverse, strict=True):
            value = value + 2 * len(tile.asked) * np.log(self.scatters)
            value -= np.linalg.slogdet(inverse)[1]
        return value

    @property
    def chi_squared(self):
        """Chi squared of the known offsets about their means for the smallest scatter."""
        square = sum(tile.asked @ tile.levels for tile in self.tiles) - self._explained[0]
        # Of equal levels it is zero but for rounding.
        return max(square, 0.0)

    @property
    def growth(self):
        """Square of the error of an equal offset over its stated one, for each true scatter.

        The mean of the detectors, relative to the mean level of a tile without pairs.
        """
        covariance = self.of_means[0]
        change = 0.0
        for tile in self.tiles:
            weights = covariance @ tile.design.T @ tile.information
            change = change + weights @ np.linalg.inv(tile.prior) @ weights.T
        n = len(covariance) + 1
        about_mean = (np.eye(n) - 1 / n)[:, 1:]
        own, of_scatter = (
            np.einsum("ki,ij,kj->k", about_mean, c, about_mean) for c in (covariance, change)
        )
        # The scatter of the tile's own offsets, and its effect on the means.
        return 1 + np.square(self.scatters) * np.mean((1 - 1 / n + of_scatter) / own)

    @property
    def _explained(self):
        """Chi squared that the scatter and the means explain."""
        value = np.einsum("si,si->s", self.asked, self.means)
        for tile, inverse in zip(self.tiles, self.inverse, strict=True):
            value += tile.asked @ (inverse @ tile.asked).T
        return value

    def marginal(self, weights):
        """Return levels, their covariance and response for given probabilities of the scatters.

        Levels and covariance are relative to the first group of each tile. The response is that
        to the levels by the pairs of each tile alone.
        """
        # The first level of each tile is zero.
        edge = (0, 0), (1, 0)
        pull = np.concatenate([np.pad(pull, (*edge, (0, 0))) for pull in self.pull], axis=1)
        own = zip(self.tiles, self.inverse, strict=True)
        levels = np.concatenate([np.pad(i @ tile.asked, edge) for tile, i in own], axis=1)
        levels += np.einsum("sij,sj->si", pull, self.means)
        mean = weights @ levels
        covariance = block_diag(*(_bordered(np.tensordot(weights, i, 1)) for i in self.inverse))
        covariance += np.einsum(
            "s,sij,sjk,slk->il", weights, pull, self.of_means, pull, optimize=True
        )
        information = block_diag(*(_bordered(tile.information) for tile in self.tiles))
        # Relative to the first of each tile.
        relative = [np.eye(len(t.groups)) - np.eye(len(t.groups))[:1] for t in self.tiles]
        response = covariance @ information @ block_diag(*relative)
        covariance += (weights[:, None] * (levels - mean)).T @ (levels - mean)
        return mean, covariance, response


def _bordered(matrix):
    return np.pad(matrix, ((1, 0), (1, 0)))


# --------------------------------------------------------------------------------------
# The solution


@dataclass(frozen=True, eq=False)
class _SharedCovariance:
    """The covariance of levels, with some tied to others; see `GaugedCovariance`."""

    whole: np.ndarray
    change: np.ndarray
    before: object

    def matrix(self):
        """Return the whole matrix."""
        return self.whole

    def blocks(self, k):
        """Return the diagonal, shape (m, 1, 1)."""
        return np.diagonal(self.whole)[:, None, None]

    def apply(self, vectors):
        """Return the product with vectors."""
        return self.whole @ vectors

    def respond(self, rhs):
        """Return the changes of the levels for changes of the right-hand side of the pairs."""
        return self.change @ self.before(rhs)


def _tied(solution, tiles, tied, *, science):
    """Return the solution with the levels of tied groups; each tile becomes one set."""
    groups, levels, covariance, response = tied
    m = len(solution.coefficients)
    gauge = block_diag(*(_gauge(len(tile), science) for tile in tiles))
    coefficients = solution.coefficients.copy()
    coefficients[groups, 0] = gauge @ levels
    whole, change = solution.covariance_matrix.copy(), np.eye(m)
    whole[groups], whole[:, groups] = 0.0, 0.0
    whole[np.ix_(groups, groups)] = gauge @ covariance @ gauge.T
    change[np.ix_(groups, groups)] = gauge @ response
    component, reference = solution.component.copy(), solution.reference
    floors, held = solution.floors.copy(), {}
    for tile in tiles:
        own = [g for _, g in tile]
        merged = component[own[0]]
        floors[merged] = floors[component[own]].max()
        component[own] = merged
        held[merged] = own[0] if science else -1
    kept, component = np.unique(component, return_inverse=True)
    return replace(
        solution,
        coefficients=coefficients,
        component=component,
        reference=np.array([held.get(c, reference[c]) for c in kept.tolist()], dtype=int),
        floors=floors[kept],
        covariance_of=partial(_SharedCovariance, whole, change, solution.respond),
    )


def _gauge(n, science):
    """Return the matrix that subtracts the first level (for ``science``) or the mean."""
    return np.eye(n) - (np.eye(n)[:1] if science else 1 / n)
