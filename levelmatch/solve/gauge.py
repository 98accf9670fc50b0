# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The gauge: the part of a solution that overlaps do not determine."""

import numpy as np

from levelmatch.sky.vectors import tangent_axes, transfer_matrix
from levelmatch.solve.linear import sum_by

__all__ = ["Gauge", "free_coefficients", "held_groups"]


def held_groups(component, reference):
    """Return the group of each set that is held at zero while the equations are solved.

    ``reference`` is `None` for a zero mean of each set, or a function of the groups of a set that
    returns the held group, or -1 for a zero mean. For a zero mean, the first group is held while
    the equations are solved.

    Returns
    -------
    held : `~numpy.ndarray` of int, shape (n_sets,)
        The groups.
    mean : `~numpy.ndarray` of bool, shape (n_sets,)
        Whether the mean of the set is set to zero afterwards.
    """
    first = np.unique(component, return_index=True)[1]
    if reference is None:
        return first, np.ones(len(first), dtype=bool)
    picked = np.array([reference(m) for m in members_of(component)], dtype=int)
    return np.where(picked < 0, first, picked), picked < 0


def members_of(labels):
    """Return the indices of the members of each label from 0 to the largest, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels))[:-1])


def free_coefficients(equations, component, held, active):
    """Return the flags of the coefficients to solve for, shape (m, k).

    A slope that is fixed to zero anywhere in a set fixes the plane of the set. If there is none,
    the held group fixes it.
    """
    k, n = equations.n_terms, equations.n_groups
    free = np.ones((n, k), dtype=bool) if active is None else active.copy()
    free[:, 0] = True
    whole = np.ones(len(held), dtype=bool)
    np.logical_and.at(whole, component, free.all(axis=1))
    free[held, 0] = False
    free[held[whole]] = False
    return free


class Gauge:
    """The gauge in which the mean correction of each connected set is zero.

    For planes, the mean plane about the set's centre is zero. If a slope is fixed to zero, it
    fixes the plane of the set, and only the mean level is zero. With ``held``, the mean slope of
    each set and the level of one of its groups are zero.

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs.
    component : `~numpy.ndarray` of int, shape (m,)
        The set of each group.
    free : `~numpy.ndarray` of bool, shape (m, k)
        Coefficients that are solved for.
    mean : `~numpy.ndarray` of bool, shape (n_sets,), or None
        Sets whose mean is zero; by default all.
    held : `~numpy.ndarray` of int, shape (n_sets,), or None
        The group of each set whose level is zero. Its coefficients are zero before.
    """

    def __init__(self, equations, component, free, mean=None, held=None):
        k, n_sets = equations.n_terms, int(component.max()) + 1
        self.component, self.n_sets, self.k, self.held = component, n_sets, k, held
        count = np.bincount(component, minlength=n_sets)[component]
        centres = sum_by(component, equations.group_axes[:, 0], n_sets)
        axes = tangent_axes(centres)[component]
        if k == 1:
            self.to, self.back = np.ones((2, len(component), 1, 1))
        else:
            self.to = transfer_matrix(equations.group_axes, axes)
            self.back = transfer_matrix(axes, equations.group_axes)
            # With more than one fixed slope, a slope other than the held group's fixes the plane.
            loose = np.bincount(component, (~free[:, 1:]).any(axis=1), minlength=n_sets)
            level_only = (loose > 1)[component]
            only = np.zeros((k, k))
            only[0, 0] = 1.0
            self.to[level_only] = only
            self.back[level_only] = only
        self.to = self.to / count[:, None, None]
        if mean is not None:
            self.to = self.to * mean[component][:, None, None]
        if held is not None:
            # The plane that is subtracted is zero at the centre of the held group.
            zero_there = np.broadcast_to(np.eye(3), (n_sets, 3, 3)).copy()
            there = self.back[held, 0]
            zero_there[:, 0] -= there / there[:, :1]
            self.to = (zero_there @ np.diag([0.0, 1.0, 1.0]))[component] @ self.to

    def apply(self, vectors):
        """Return coefficients, shape (m * k, n), minus their mean or their mean slope."""
        out = self._subtract(vectors, self.to, self.back)
        if self.held is not None:
            # Remove rounding errors.
            out[self.k * self.held] = 0.0
        return out

    def apply_transposed(self, vectors):
        """Apply the transpose of `apply`."""
        return self._subtract(vectors, self.back.swapaxes(1, 2), self.to.swapaxes(1, 2))

    def apply_to_blocks(self, blocks, solve):
        """Return the diagonal blocks of a covariance in this gauge, shape (m, k, k).

        Parameters
        ----------
        blocks : `~numpy.ndarray`, shape (m, k, k)
            Diagonal blocks of the covariance relative to the held groups.
        solve : callable
            Returns the product of this covariance and vectors, shape (m * k, n).
        """
        k = self.k
        with_mean = solve(self.to.swapaxes(1, 2).reshape(-1, k)).reshape(-1, k, k)
        mean = sum_by(self.component, self.to @ with_mean, self.n_sets)[self.component]
        across = with_mean @ self.back.swapaxes(1, 2)
        own = self.back @ mean @ self.back.swapaxes(1, 2)
        out = blocks - across - across.swapaxes(1, 2) + own
        if self.held is not None:
            out[self.held, 0] = out[self.held, :, 0] = 0.0
        return out

    def _subtract(self, vectors, to, back):
        blocks = vectors.reshape(len(self.component), self.k, -1)
        mean = sum_by(self.component, to @ blocks, self.n_sets)
        return (blocks - back @ mean[self.component]).reshape(vectors.shape)
