# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Groups that are held at zero, and groups of images that are left out of the fit."""

import numpy as np

from levelmatch.images.frame import EXCLUDE, HOLD
from levelmatch.solve.flatness import Flatness
from levelmatch.solve.reference import Reference, ReferenceChooser

__all__ = ["HeldChoice", "with_excluded", "with_held"]

# Reference of images that are left out of the fit.
OTHERS = "all other images"


class HeldChoice:
    """The choice of the group that is held at zero in each connected set.

    Parameters
    ----------
    grouped : `~levelmatch.solve.passes.Pass`
        The pass, with its groups.
    frames : list of `~levelmatch.images.frame.Frame`
        All images, sorted by name.
    equations : `~levelmatch.solve.equations.Equations`
        The pairs that count.
    pairs : `~levelmatch.measure.table.PairTable`
        The same pairs, as measured.
    """

    def __init__(self, grouped, frames, equations, pairs):
        self.name, self.held = grouped.name, grouped.held
        self.by_caller = {} if self.name == "lyot" else _held_by_role(frames, grouped.group)
        self._references = {}
        if self.any:
            ends = np.stack([equations.first, equations.second], axis=1)
            self._chooser = ReferenceChooser(
                frames,
                grouped.group,
                ends,
                pairs.npix,
                keyword=grouped.keyword,
                flatness=Flatness.of(pairs, grouped.group, equations.group_axes),
            )

    @property
    def any(self):
        """Whether any group is held; else the mean of each set is zero."""
        return self.held is not None or bool(self.by_caller)

    @property
    def references(self):
        """The `~levelmatch.solve.reference.Reference` of each set of several groups, a list."""
        return list(self._references.values())

    def pick(self, members):
        """Return the group of a set, given its groups, that is held at zero; -1 for a zero mean."""
        choice = self._choice(members)
        if choice is None:
            return -1
        if len(members) > 1:
            self._references[members[0]] = choice
        return choice.group

    def _choice(self, members):
        own = next((g for g in members.tolist() if g in self.by_caller), None)
        if self.name == "fit_exclude":
            return Reference(0 if 0 in members else int(members[0]), OTHERS, "they are the fit")
        if own is not None:
            return Reference(own, self.by_caller[own], "held by the caller")
        if self.held is None:
            return None
        if self.held == "science":
            return self._chooser.science(members)
        return self._chooser.choose(members, self.held)


def with_excluded(frames, domain, group):
    """Return domains and groups in which excluded images follow their nearest neighbours.

    Such an image gets the correction of the neighbour, and later one of its own.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    domain, group : `~numpy.ndarray` of int, shape (n,)
        Labels of the images.
    """
    excluded = np.array([frame.role == EXCLUDE for frame in frames])
    if not excluded.any():
        return domain, group
    centres = np.array([frame.whole_grid.axes[0] for frame in frames])
    others = np.flatnonzero(~excluded)
    domain, group = domain.copy(), group.copy()
    for k in np.flatnonzero(excluded):
        nearest = others[np.argmax(centres[others] @ centres[k])]
        domain[k], group[k] = domain[nearest], group[nearest]
    return _compact(domain), _compact(group)


def with_held(frames, domain, group):
    """Return groups in which the held images of each domain are one group.

    Parameters
    ----------
    frames, domain, group
        See `with_excluded`.
    """
    held = _held(frames)
    if not held.any():
        return group
    group = group.copy()
    for d in np.unique(domain[held]):
        inside = domain == d
        own = np.unique(group[held & inside])
        group[inside & np.isin(group, own)] = own[0]
    return _compact(group)


def _held_by_role(frames, group):
    """Return the name of the first held image of each group that has one, by group."""
    return {int(group[k]): frames[k].name for k in reversed(np.flatnonzero(_held(frames)).tolist())}


def _held(frames):
    return np.array([frame.role == HOLD and frame.part != "lyot" for frame in frames])


def _compact(labels):
    """Return labels from 0 without gaps, in their order."""
    return np.unique(labels, return_inverse=True)[1].ravel()
