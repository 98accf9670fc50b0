# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The reference image of a mosaic, and held images."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from levelmatch.images.frame import EXCLUDE, HOLD
from levelmatch.solve.flatness import flattest, slopes_of
from levelmatch.solve.gauge import members_of

__all__ = [
    "DISAGREES",
    "Reference",
    "ReferenceChooser",
    "held_choice",
    "named_reference",
    "time_from_background",
    "with_excluded",
    "with_held",
]


# Words on a suspect.
DISAGREES = "disagrees with its neighbours"


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
    suspect : bool
        Whether it disagrees with its neighbours.
    """

    group: int
    name: str
    reason: str
    tilt: float = 0.0
    tilt_sigma: float = 0.0
    suspect: bool = False


def named_reference(reference, frames, names):
    """Return the kind of a reference, and the name of the frame if it is an image.

    Parameters
    ----------
    reference : str, `~pathlib.Path` or int
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
    return "image", _find_reference(frames, reference)


def _find_reference(frames, reference):
    """Return the name of the reference frame that a user named, as an image or a tile.

    The name of an image may lack its suffix, or be the path of its file. A tile stands for its
    first science image.
    """
    if isinstance(reference, str | Path):
        text = str(reference)
        found = [
            f
            for f in frames
            if text in (f.name, f.tile, f.product, f.file, f.name.partition(".")[0])
        ]
        if not found and Path(text).name != text:
            path = Path(text).absolute()
            found = [f for f in frames if _path_of(f) == path]
        science = [f for f in found if f.part != "lyot"]
        if science:
            return science[0].name
        if found:
            msg = f"reference: {reference!r} is a Lyot image; name its science partner"
            raise ValueError(msg)
    given = repr(reference)
    if not isinstance(reference, str | Path) and "\n" in given:
        given = f"an object of type {type(reference).__name__}"
    msg = (
        f"reference: {given} is neither an image, a tile, an index, 'auto' nor 'mean'; "
        "images have the names of their files"
    )
    raise ValueError(msg)


def _path_of(frame):
    """Return the path of a frame's file, or `None` of an image in memory or in a record."""
    path = getattr(frame.source, "path", None)
    return None if path is None else path.absolute()


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
    flatness : tuple of `~numpy.ndarray` or None
        See `slopes_of`; it decides between groups of equally many overlaps.
    suspects : set of int
        Images that disagree with their neighbours. Others are chosen where the set has any.
    """

    def __init__(self, frames, groups, pairs, area, *, keyword, flatness=None, suspects=()):
        self.flatness, self.suspects = flatness, suspects
        self.frames = frames
        self.groups = np.asarray(groups)
        self.keyword = keyword
        self._images = members_of(self.groups)
        n = len(self._images)
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
            return self._named(int(reference))
        choice = self._best_trusted(members)
        if isinstance(reference, str):
            return choice
        name = self.frames[self._images[reference][0]].name
        return replace(
            choice, reason=f"{choice.reason}; {name}, which was named, is not in its set"
        )

    def _named(self, group):
        """Return the `Reference` that the user named."""
        images = self._images[group].tolist()
        suspect = self.suspects and self.suspects.issuperset(images)
        reason = f"named by the user{f', but {DISAGREES}' if suspect else ''}"
        return Reference(group, self.frames[images[0]].name, reason, suspect=bool(suspect))

    def _best_trusted(self, members):
        """Return the `Reference` of a set without a named one, if possible not a suspect."""
        images, science = self._members(members)
        candidates = science or images
        choice, image = self._best(candidates)
        if image not in self.suspects:
            return choice
        trusted = [i for i in candidates if i not in self.suspects]
        if not trusted:
            return replace(choice, reason=f"{choice.reason}, but {DISAGREES}", suspect=True)
        instead, _ = self._best(trusted)
        return replace(instead, reason=f"{instead.reason} without {choice.name}, which {DISAGREES}")

    def _best(self, candidates):
        """Return the `Reference` from some of the images, and the image by which it is chosen."""
        timed = []
        for i in candidates:
            time = time_from_background(self.frames[i], self.keyword)
            if time is not None:
                timed.append((time, i))
        if timed:
            time, i = min(timed)
            reason = f"closest in time to the backgrounds (|{self.keyword}| = {time:g})"
        else:
            i, reason = self._most_overlaps(np.array(candidates))
        return Reference(int(self.groups[i]), self.frames[i].name, reason), i

    def _most_overlaps(self, candidates):
        """Return the image by most overlaps, flatness, largest area and first name; the reason."""
        counts = self._count[self.groups[candidates]]
        count = counts.max()
        candidates = candidates[counts == count]
        reason = f"most overlaps ({count})" if count else "the only image of its set"
        if self.flatness is not None:
            tied = np.unique(self.groups[candidates])
            flat = flattest(*self.flatness, tied)
            if len(flat) < len(tied):
                reason += f", flattest by its pairs of {len(tied)} such images"
                candidates = candidates[np.isin(self.groups[candidates], flat)]
        i = candidates[np.lexsort((candidates, -self._area[self.groups[candidates]]))[0]]
        return int(i), reason

    def science(self, members):
        """Return the first group of the set with a science image, or its first."""
        _, science = self._members(members)
        chosen = min(self.groups[science]) if science else members[0]
        name = self.frames[self._images[chosen][0]].name
        return Reference(int(chosen), name, "the science part is held at zero")


def time_from_background(frame, keyword):
    """Return the absolute time of an image from the dedicated backgrounds, or `None`.

    The card may be missing, blank or text.
    """
    try:
        time = abs(float(frame.meta.get(keyword)))
    except (TypeError, ValueError):
        return None
    return time if np.isfinite(time) else None


# --------------------------------------------------------------------------------------
# Held images

# Reference of images that are left out of the fit.
OTHERS = "all other images"


def held_choice(grouped, frames, equations, pairs, suspects):
    """Return the function that picks the held group of each connected set, and its choices.

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
    suspects : callable
        Returns the images that disagree with their neighbours, a set.

    Returns
    -------
    pick : callable or None
        Function of the groups of a set, which returns the group that is held at zero, or -1 for a
        zero mean; `None` for a zero mean of each set.
    references : dict of int to `Reference`
        The choice in each set of several groups, by its first group; ``pick`` adds to it.
    """
    # The name of the first image of each group that the caller holds.
    held = [] if grouped.name == "lyot" else np.flatnonzero(_held(frames)).tolist()
    by_caller = {int(grouped.group[k]): frames[k].name for k in reversed(held)}
    if grouped.held is None and not by_caller:
        return None, {}
    # Those of a record that is solved again.
    recorded = {r.group: r for r in grouped.references}
    chooser = ReferenceChooser(
        frames,
        grouped.group,
        np.stack([equations.first, equations.second], axis=1),
        pairs.npix,
        keyword=grouped.keyword,
        flatness=slopes_of(pairs, grouped.group, equations.group_axes),
        suspects=set() if grouped.held in (None, "science") else suspects(),
    )

    def choose(members):
        if grouped.name == "fit_exclude":
            return Reference(0 if 0 in members else int(members[0]), OTHERS, "they are the fit")
        own = next((g for g in members.tolist() if g in by_caller), None)
        if own is not None:
            return Reference(own, by_caller[own], "held by the caller")
        if grouped.held is None:
            return None
        if grouped.held == "science":
            return chooser.science(members)
        again = next((recorded[g] for g in members.tolist() if g in recorded), None)
        return chooser.choose(members, grouped.held) if again is None else again

    references = {}

    def pick(members):
        choice = choose(members)
        if choice is not None and len(members) > 1:
            references[members[0]] = choice
        return -1 if choice is None else choice.group

    return pick, references


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
    """Return the groups, with the held images of each domain joined to one group.

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


def _held(frames):
    return np.array([frame.role == HOLD and frame.part != "lyot" for frame in frames])


def _compact(labels):
    """Return labels from 0 without gaps, in their order."""
    return np.unique(labels, return_inverse=True)[1].ravel()
