# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Slopes of groups against their neighbours: flat groups, and the tilt that a reference causes."""

from dataclasses import replace

import numpy as np
from scipy.special import fdtrc, ndtri

from levelmatch.sky.vectors import ARCMIN, tangent_axes, transfer_matrix
from levelmatch.solve.gauge import members_of
from levelmatch.solve.linear import sum_by

__all__ = ["find_tilts", "flattest", "slopes_of"]

# An image within this number of standard errors of the flattest counts as equally flat.
ALIKE = 3.0
# Chance of a false alarm for one reference.
CHANCE = 0.01
# Smallest number of groups, beside the reference, from which the scatter of slopes is found.
LEAST_OTHERS = 3


def slopes_of(table, group, group_axes):
    """Return the slope of each group against its neighbours, from its own pairs.

    The slopes follow from planes fitted to the pairs, with a free level for each pair.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        Pairs with common pixels.
    group : `~numpy.ndarray` of int, shape (n_images,)
        The group of each image.
    group_axes : `~numpy.ndarray`, shape (m, 3, 3)
        Centre, East and North of each group.

    Returns
    -------
    slope : `~numpy.ndarray`, shape (m,)
        Its size, in the common unit per arcmin; NaN if the pairs do not determine it.
    error : `~numpy.ndarray`, shape (m,)
        Its standard error by the noise of the pixels.
    """
    gram, rhs = table.slope_equations()
    n = len(group_axes)
    whole, asked = np.zeros((n, 2, 2)), np.zeros((n, 2))
    for sign, end in ((1, group[table.first]), (-1, group[table.second])):
        turn = transfer_matrix(group_axes[end], table.axes)[:, 1:, 1:]
        whole += sum_by(end, turn.swapaxes(1, 2) @ gram @ turn, n)
        asked += sum_by(end, sign * np.einsum("pji,pj->pi", turn, rhs), n)
    inverse = np.linalg.pinv(whole, rcond=1e-9, hermitian=True)
    slope = np.linalg.norm(np.einsum("gij,gj->gi", inverse, asked), axis=1)
    variance = np.trace(inverse, axis1=1, axis2=2)
    # With few pixels, rounding can leave a negative variance.
    known = (np.linalg.matrix_rank(whole, hermitian=True) == 2) & (variance > 0)
    return np.where(known, slope, np.nan), np.sqrt(np.where(known, variance, np.inf))


def flattest(slope, error, groups):
    """Return the groups that are as flat as the flattest, within the errors."""
    slope, error = slope[groups], error[groups]
    if not np.isfinite(slope).all():
        return groups
    least = int(np.argmin(slope))
    return groups[slope - slope[least] <= ALIKE * np.hypot(error, error[least])]


def find_tilts(references, solution, group_axes, corners):
    """Return the references, each with the tilt of its set, which its plane of zero causes.

    The mean slope of the other groups relative to the reference is tested against its error and
    the scatter of their slopes (Hotelling's test).

    Parameters
    ----------
    references : list of `~levelmatch.solve.reference.Reference`
        The references, whose planes are zero.
    solution : `~levelmatch.solve.solution.Solution`
        Planes of all groups.
    group_axes : `~numpy.ndarray`, shape (m, 3, 3)
        Centre, East and North of each group.
    corners : list of `~numpy.ndarray`, shape (n, 3)
        Unit vectors of the outlines of each group's images.
    """
    sets = members_of(solution.component)
    out = []
    for reference in references:
        members = sets[solution.component[reference.group]]
        others = members[members != reference.group]
        if len(others) >= LEAST_OTHERS and solution.active[others, 1:].all():
            edge = np.concatenate([corners[g] for g in members])
            tilt, sigma = _tilt(solution, group_axes, others, edge)
            reference = replace(reference, tilt=tilt, tilt_sigma=sigma)
        out.append(reference)
    return out


def _tilt(solution, group_axes, others, edge):
    """Return the tilt of a set from edge to edge and its significance; zeros without any."""
    centre = tangent_axes(group_axes[others, 0].sum(axis=0))
    turn = transfer_matrix(group_axes[others], centre)[:, 1:]
    slopes = np.einsum("gij,gj->gi", turn, solution.coefficients[others])
    n = len(others)
    mean = slopes.mean(axis=0)
    sums = np.zeros((len(group_axes), 3, 2))
    sums[others] = turn.swapaxes(1, 2) / n
    covariance = solution.covariance_of_sums(sums.reshape(-1, 2))
    covariance = covariance + np.cov(slopes.T) / n
    square = mean @ np.linalg.pinv(covariance, hermitian=True) @ mean
    chance = float(fdtrc(2, n - 2, square * (n - 2) / (2 * (n - 1))))
    if not chance < CHANCE:
        return 0.0, 0.0
    places = ARCMIN * (edge @ centre[1:].T) @ mean
    return float(np.ptp(places)), float(-ndtri(max(chance, 1e-300) / 2))
