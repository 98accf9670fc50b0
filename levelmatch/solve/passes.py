# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A pass: its plan, the images that it matches as one, and its solution."""

from collections.abc import Callable
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields, replace
from typing import Any

import numpy as np

from levelmatch.images import jwst
from levelmatch.images.corrections import Correction
from levelmatch.images.frame import EXCLUDE
from levelmatch.options import FIT_TYPES
from levelmatch.sky.overlaps import components
from levelmatch.sky.vectors import transfer_matrix
from levelmatch.solve.reference import with_excluded, with_held
from levelmatch.solve.solution import Solution

__all__ = ["Pass", "labels", "linked_sets"]


def _planned(default=MISSING):
    return field(default=default, metadata={"planned": True})


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass, from plan to solution.

    The plan is made of plain values, which a record can hold. `grouped` adds the images
    that are matched as one, and `~levelmatch.solve.solve_pass.solve_pass` the solution.

    Parameters
    ----------
    name : {"dithers", "lyot", "nircam_short", "detectors", "fit_exclude", "mosaic"}
        Name of the pass.
    fit_type : {"level", "level+slope", "level+match", "auto"}
        Correction that the pass fits.
    reference : {"auto", "mean", "image"}
        Zero point of the mosaic's corrections.
    image : str
        Name of the reference image, if the user named one.
    keyword : str
        Header keyword of the time from the backgrounds.
    combine_chips : bool
        Whether the short-wavelength chips of a module are one image of the mosaic.
    combine_detectors : bool
        Whether all detectors of a tile are one image of the mosaic.
    recombined : bool
        Whether science and Lyot parts are one image of the mosaic.
    subtract_local : bool
        Whether each tile's local level is subtracted after the pass.
    domain : `~numpy.ndarray` of int, shape (n,)
        Label of the domain of each image, sorted by name. Images are matched within a domain.
    group : `~numpy.ndarray` of int, shape (n,)
        Label of the group of each image. Images of one group get one correction.
    held : None, str or int
        Group with a correction of zero: `None` for a zero mean over each set; ``"science"`` for
        the group of the science images; ``"auto"`` to choose one in each set; or a group.
    rows : `~numpy.ndarray` of int, shape (m,)
        Pairs of the pass, as rows of the table of all pairs.
    kept : `~numpy.ndarray` of bool, shape (m,)
        Flags of the pairs that were used.
    reason : list of str, length m
        Reason why each pair was rejected, or kept in spite of the cuts; empty for others.
    solution : `~levelmatch.solve.solution.Solution`
        Corrections of the groups.
    group_axes : `~numpy.ndarray`, shape (n_groups, 3, 3)
        Centre, East and North of each group.
    residual : `~numpy.ndarray`, shape (m,)
        Residual of the level of each pair, rejected pairs included.
    references : list of `~levelmatch.solve.reference.Reference`
        One for each connected set of more than one group.
    isolated : `~numpy.ndarray` of bool, shape (n_groups,)
        Flags of groups without any pair, in a domain of several.
    tie : `~numpy.ndarray`, shape (n_groups,), or None
        Level added to each group's set, to tie it to the others by their sky.
    patterns : tuple of `~levelmatch.solve.patterns.DetectorPattern`
        Patterns that stay with a detector, and that the pass does not correct.
    offsets : tuple of `~levelmatch.solve.offsets.SharedOffsets`
        Offsets of detectors that tiles share.
    pattern : `~levelmatch.solve.shared_pattern.SharedPattern` or None
        Pattern of the detectors. The first pass subtracts it with its corrections.
    carried_of : callable or None
        Returns `carried`; called when it is needed.
    """

    name: str = _planned()
    fit_type: str = _planned("level")
    _: KW_ONLY
    reference: str = _planned("mean")
    image: str = _planned("")
    keyword: str = _planned("DT_BGR")
    combine_chips: bool = _planned(False)
    combine_detectors: bool = _planned(False)
    recombined: bool = _planned(False)
    subtract_local: bool = _planned(False)

    domain: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    group: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    held: object = None

    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    reason: list = field(default_factory=list)
    # None until the pass is solved.
    solution: Solution = None  # type: ignore[assignment]
    group_axes: np.ndarray = None  # type: ignore[assignment]
    residual: np.ndarray = field(default_factory=lambda: np.zeros(0))
    references: list = field(default_factory=list)
    isolated: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    tie: np.ndarray | None = None
    patterns: tuple = ()
    offsets: tuple = ()
    pattern: Any = None
    carried_of: Callable[[], Any] | None = None

    @property
    def plan(self):
        """The plan as a dictionary of plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("planned")}

    @property
    def has_lone_groups(self) -> bool:
        """True if there is nothing to match, because each group is alone in its domain."""
        return len(np.unique(self.domain)) == len(np.unique(self.group))

    def grouped(self, frames):
        """Return the pass with the domains and groups of frames, sorted by name."""
        keys = [_keys(self, k, frame) for k, frame in enumerate(frames)]
        domain, group = map(labels, zip(*keys, strict=True))
        if self.name != "fit_exclude":
            domain, group = with_excluded(frames, domain, group)
        if self.name not in ("lyot", "fit_exclude"):
            group = with_held(frames, domain, group)
        held = None
        if self.name == "lyot":
            held = "science"
        elif self.reference == "auto":
            held = "auto"
        elif self.reference == "image":
            names = [frame.name for frame in frames]
            held = int(group[names.index(self.image)])
        elif self.name == "fit_exclude":
            # The group of all other images.
            held = 0
        fit_type = FIT_TYPES[self.fit_type]
        return replace(self, fit_type=fit_type, domain=domain, group=group, held=held)

    @property
    def n_pairs(self):
        """Number of pairs of the pass."""
        return len(self.rows)

    @property
    def n_kept(self):
        """Number of kept pairs."""
        return int(np.count_nonzero(self.kept))

    @property
    def kept_rows(self):
        """Kept pairs, as rows of the table of all pairs."""
        return self.rows[self.kept]

    @property
    def floor(self):
        """Systematic scatter of the pairs."""
        return self.solution.floor

    @property
    def carried(self):
        """Covariance of all images' corrections after this pass; `None` if too large to hold."""
        return None if self.carried_of is None else self.carried_of()

    def correction(self, i):
        """Return the correction of image ``i``, in the common unit."""
        group = self.group[i]
        coefficients = self.solution.coefficients[group]
        correction = Correction.from_coefficients(coefficients, self.group_axes[group])
        if self.pattern is not None:
            correction = correction + Correction(pattern=self.pattern.of(i))
        return correction if self.tie is None else correction + Correction(self.tie[group])

    def transfer(self, group, axes):
        """Return the changes of basis from groups to other centres, shape (n, k, k).

        Parameters
        ----------
        group : `~numpy.ndarray` of int, shape (n,)
            The groups.
        axes : `~numpy.ndarray`, shape (n, 3, 3)
            Centre, East and North of each new centre.
        """
        if self.solution.coefficients.shape[1] == 1:
            return np.ones((len(group), 1, 1))
        return transfer_matrix(self.group_axes[group], axes)

    def covariance(self, i, axes):
        """Return the covariance of image ``i``'s level and slopes about a centre, shape (3, 3).

        NaN for an image without any pair.
        """
        group = self.group[i]
        out = np.zeros((3, 3))
        if self.isolated[group]:
            k = self.solution.coefficients.shape[1]
            out[:k, :k] = np.nan
            return out
        if not self.solution.active[group, 1:].any():
            # No change of centre: without slopes it would only add rounding errors.
            out[0, 0] = self.solution.errors[group, 0] ** 2
            return out
        change = transfer_matrix(self.group_axes[group], axes)
        return change @ self.solution.covariance(group, group) @ change.T

    def variance(self, i, axes):
        """Return the variance of image ``i``'s level and slopes about a centre, shape (3,)."""
        return np.diagonal(self.covariance(i, axes))


def labels(keys):
    """Return integer labels of hashable keys, numbered in sorted order."""
    names = sorted(set(keys))
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[key] for key in keys], dtype=np.intp)


def linked_sets(passes, n):
    """Return the set of each image, shape (n,): pairs of any pass link the images of a set.

    Images of one group are taken to be matched before the pass.

    Parameters
    ----------
    passes : list of `Pass`
        The solved passes.
    n : int
        Number of images.
    """
    links, start = [np.repeat(np.arange(n)[:, None], 2, axis=1)], n
    for p in passes:
        links.append(np.stack([np.arange(n), start + p.solution.component[p.group]], axis=1))
        start += int(p.solution.component.max()) + 1
    return components(np.concatenate(links), start)[1][:n]


def _keys(plan, k, f):
    """Return the key of the domain, and the key of the group, of the k-th image ``f``."""
    match plan.name:
        case "dithers":
            # Images of one exposure that the user made one tile have one level.
            return (f.tile, f.detector, f.part), (0, f.exposure) if f.exposure else (1, k)
        case "lyot":
            return (f.tile, f.detector), (f.tile, f.detector, f.part, f.subset)
        case "nircam_short":
            return (f.tile, jwst.module_of(f.detector)), (f.tile, f.detector, f.subset)
        case "detectors":
            return f.tile, (f.tile, "" if f.exposure else f.detector, f.subset)
        case "fit_exclude":
            return "", (1, f.name) if f.role == EXCLUDE else (0, "")
    part = "" if plan.recombined else f.part
    return "", (f.tile, _mosaic_detector(f, plan), part, f.subset)


def _mosaic_detector(frame, plan):
    """Return the detector, or blank if the mosaic pass corrects all of the tile as one image."""
    if plan.combine_detectors or frame.exposure:
        return ""
    return jwst.module_of(frame.detector) if plan.combine_chips else frame.detector
