# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The reference image of a mosaic, and the reason for its choice."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Reference", "ReferenceChooser", "find_reference", "named_reference"]


@dataclass(frozen=True)
class Reference:
    """The group held at zero in one connected set.

    Parameters
    ----------
    group : int
        Its index, or -1 for a zero mean.
    name : str
        Name of the image by which it was chosen, or ``"mean"``.
    reason : str
        Reason for the choice.
    tilt : float
        Change of a mosaic of planes from edge to edge by the mean slope of the other groups
        relative to this one; 0 if it is not significant.
    tilt_sigma : float
        Its significance, in standard deviations.
    """

    group: int
    name: str
    reason: str
    tilt: float = 0.0
    tilt_sigma: float = 0.0


def named_reference(reference, frames, names):
    """Return the kind of a reference, and the name of the frame if it is an image.

    Parameters
    ----------
    reference : str or int
        See `~levelmatch.match_mosaic`.
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    names : list of str
        Their names, or those of the images they are parts of, in the order of the input.

    Returns
    -------
    kind, name : str
        ``"auto"``, ``"mean"`` or ``"image"``. The name is empty except for ``"image"``.

    Raises
    ------
    ValueError
        If there is no such image, or it is a Lyot image.
    """
    if isinstance(reference, str) and reference in ("auto", "mean"):
        return reference, ""
    if isinstance(reference, int | np.integer) and not isinstance(reference, bool):
        if not -len(names) <= reference < len(names):
            msg = f"reference: there is no image {reference} among {len(names)}; the first is 0"
            raise ValueError(msg)
        reference = names[reference]
    return "image", find_reference(frames, reference)


def find_reference(frames, reference):
    """Return the name of the reference frame that a user named.

    The user gives the name of an image, with or without its suffix, or the name of a tile, which
    stands for its first science image.

    Raises
    ------
    ValueError
        If there is none, or it is a Lyot image.
    """
    if isinstance(reference, str):
        found = [
            f
            for f in frames
            if reference in (f.name, f.tile, f.product, f.file, f.name.partition(".")[0])
        ]
        science = [f for f in found if f.part != "lyot"]
        if science:
            return science[0].name
        if found:
            msg = f"reference: {reference!r} is a Lyot image; name its science partner"
            raise ValueError(msg)
    msg = (
        f"reference: {reference!r} is neither an image, a tile, an index, 'auto' nor 'mean'; "
        "images have the names of their files"
    )
    raise ValueError(msg)


class ReferenceChooser:
    """The choice of a reference in each connected set of groups.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        All images, sorted by name.
    groups : `~numpy.ndarray` of int, shape (n,)
        The group of each image.
    pairs : `~numpy.ndarray` of int, shape (m, 2)
        Pairs of groups that count.
    area : `~numpy.ndarray`, shape (m,)
        Overlapping area of each pair.
    keyword : str
        Header keyword of the time from the dedicated backgrounds.
    flatness : `~levelmatch.solve.flatness.Flatness` or None
        Slopes of the groups, which decide between groups of equally many overlaps.
    """

    def __init__(self, frames, groups, pairs, area, *, keyword, flatness=None):
        self.flatness = flatness
        self.frames = frames
        self.groups = np.asarray(groups)
        self.keyword = keyword
        n = int(self.groups.max()) + 1
        order = np.argsort(self.groups, kind="stable")
        self._images = np.split(order, np.cumsum(np.bincount(self.groups, minlength=n))[:-1])
        pairs = np.sort(np.asarray(pairs, dtype=np.int64).reshape(-1, 2), axis=1)
        distinct = np.unique(pairs[:, 0] * n + pairs[:, 1])
        ends = np.concatenate([distinct // n, distinct % n])
        self._count = np.bincount(ends, minlength=n)
        self._area = np.bincount(pairs.ravel(), np.repeat(area, 2), minlength=n)

    def _members(self, members):
        """Return the images of groups, in order, and those without Lyot parts."""
        images = np.sort(np.concatenate([self._images[g] for g in members]))
        science = [i for i in images.tolist() if self.frames[i].part != "lyot"]
        return images.tolist(), science

    def choose(self, members, reference):
        """Return the `Reference` of one connected set.

        Parameters
        ----------
        members : `~numpy.ndarray` of int
            The groups of the set.
        reference : str or int
            ``"auto"``, or the group that the user named. It is the reference of its own set; the
            other sets choose as ``"auto"`` does.

        Returns
        -------
        reference : `Reference`
            Never a Lyot image, unless the set has nothing else.
        """
        if not isinstance(reference, str) and reference in members:
            name = self.frames[self._images[reference][0]].name
            return Reference(int(reference), name, "named by the user")
        choice = self._best(members)
        if isinstance(reference, str):
            return choice
        name = self.frames[self._images[reference][0]].name
        return replace(
            choice, reason=f"{choice.reason}; {name}, which was named, is not in its set"
        )

    def _best(self, members):
        """Return the `Reference` of a set without a named one."""
        images, science = self._members(members)
        candidates = science or images
        timed = []
        for i in candidates:
            time = _number(self.frames[i].meta.get(self.keyword))
            if time is not None:
                timed.append((abs(time), i))
        if timed:
            time, i = min(timed)
            return Reference(
                int(self.groups[i]),
                self.frames[i].name,
                f"closest in time to the backgrounds (|{self.keyword}| = {time:g})",
            )
        return self._most_overlaps(np.array(candidates))

    def _most_overlaps(self, candidates):
        """Return the `Reference` by most overlaps, then flatness, largest area and first name."""
        counts = self._count[self.groups[candidates]]
        count = counts.max()
        candidates = candidates[counts == count]
        reason = f"most overlaps ({count})" if count else "the only image of its set"
        if self.flatness is not None:
            tied = np.unique(self.groups[candidates])
            flattest = self.flatness.flattest(tied)
            if len(flattest) < len(tied):
                reason += f", flattest by its pairs of {len(tied)} such images"
                candidates = candidates[np.isin(self.groups[candidates], flattest)]
        i = candidates[np.lexsort((candidates, -self._area[self.groups[candidates]]))[0]]
        return Reference(int(self.groups[i]), self.frames[i].name, reason)

    def science(self, members):
        """Return the first group of the set with a science image, or its first."""
        _, science = self._members(members)
        chosen = min(self.groups[science]) if science else members[0]
        name = self.frames[self._images[chosen][0]].name
        return Reference(int(chosen), name, "the science part is held at zero")


def _number(value):
    """Return a finite float, or `None`: a card may be missing, blank or text."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None
