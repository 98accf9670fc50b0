# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Which image the corrections are relative to, and why."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Reference", "choose_reference", "find_reference"]


@dataclass(frozen=True)
class Reference:
    """The group held at zero in one connected set.

    Parameters
    ----------
    group : int
        Its index, or -1 for a zero mean.
    name : str
        The name of the image that it was chosen by, or ``"mean"``.
    reason : str
        Why, in words.
    """

    group: int
    name: str
    reason: str


def find_reference(frames, reference):
    """Return the name of the frame that a name of an image, its stem or a tile means.

    Raises
    ------
    ValueError
        If there is none, or it is a Lyot image.
    """
    if isinstance(reference, str):
        found = [
            f for f in frames if reference in (f.name, f.tile, f.product, f.name.partition(".")[0])
        ]
        science = [f for f in found if f.part != "lyot"]
        if science:
            return science[0].name
        if found:
            msg = f"reference: {reference!r} is a Lyot image, its science partner can be one"
            raise ValueError(msg)
    msg = f"reference: {reference!r} is neither an image, a tile, an index, 'auto' nor 'mean'"
    raise ValueError(msg)


def choose_reference(frames, groups, pairs, area, members, *, reference, keyword):
    """Return the reference of one connected set of groups.

    Parameters
    ----------
    frames : list of `~levelmatch.frames.Frame`
        All images, sorted by name.
    groups : `~numpy.ndarray` of int, shape (n,)
        The group of each image.
    pairs : `~numpy.ndarray` of int, shape (m, 2)
        Pairs of groups that count.
    area : `~numpy.ndarray`, shape (m,)
        Overlapping area of each pair.
    members : `~numpy.ndarray` of int
        The groups of the set.
    reference : str or int
        ``"auto"``, or the group (already looked up) that the user named, which is
        the reference of its own set; the others choose as ``"auto"`` does.
    keyword : str
        Header keyword of the time from the dedicated backgrounds.

    Returns
    -------
    reference : `Reference`
        A Lyot image is never one, unless the set has nothing else.
    """
    if not isinstance(reference, str) and reference in members:
        name = frames[np.flatnonzero(groups == reference)[0]].name
        return Reference(int(reference), name, "named by the user")
    science = [i for i, f in enumerate(frames) if groups[i] in members and f.part != "lyot"]
    candidates = science or [i for i in range(len(frames)) if groups[i] in members]
    timed = [
        (abs(t), i) for i in candidates if (t := _number(frames[i].meta.get(keyword))) is not None
    ]
    if timed:
        time, i = min(timed)
        return Reference(
            int(groups[i]),
            frames[i].name,
            f"closest in time to the backgrounds (|{keyword}| = {time:g})",
        )
    return _most_overlaps(frames, groups, pairs, area, candidates)


def _most_overlaps(frames, groups, pairs, area, candidates):
    """Most distinct overlapping groups, then the largest overlapping area, then the first."""
    best = None
    for i in candidates:
        joined = (pairs == groups[i]).any(axis=1)
        others = np.unique(pairs[joined].sum(axis=1) - groups[i])
        score = (len(others), float(area[joined].sum()))
        if best is None or score > best[0]:
            best = score, i
    (count, _), i = best
    reason = f"most overlaps ({count})" if count else "the only image of its set"
    return Reference(int(groups[i]), frames[i].name, reason)


def _number(value):
    """Return a finite float, or `None`: a card may be missing, blank or text."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None
