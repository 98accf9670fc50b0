# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Groups of images that are held, or that do not influence the others."""

import numpy as np

from levelmatch.images.frame import EXCLUDE, HOLD

__all__ = ["held_by_role", "with_excluded", "with_held"]


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


def held_by_role(frames, group):
    """Return the groups with a held image, and the name of its first, as a dictionary."""
    return {int(group[k]): frames[k].name for k in reversed(np.flatnonzero(_held(frames)).tolist())}


def _held(frames):
    return np.array([frame.role == HOLD and frame.part != "lyot" for frame in frames])


def _compact(labels):
    """Return labels from 0 without gaps, in their order."""
    return np.unique(labels, return_inverse=True)[1].ravel()
