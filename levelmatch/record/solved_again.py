# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve the passes of a record again from its pairs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from levelmatch.images.corrections import Correction
from levelmatch.images.frame import Frame
from levelmatch.measure.table import PairTable
from levelmatch.options import SolveOptions
from levelmatch.record.run import Run
from levelmatch.solve.cumulative_covariance import Carried
from levelmatch.solve.passes import Pass
from levelmatch.solve.run import run_passes
from levelmatch.solve.shared_pattern import SharedPattern
from levelmatch.solve.solution import GaugedCovariance

__all__ = ["SolvedAgain", "anchored_again", "frames_before", "local_levels", "pass_of_pairs"]


def frames_before(frames: list[Frame], run: Run) -> list[Frame]:
    """Return the images, sorted by name, with the corrections before a run."""
    ordered = sorted(frames, key=lambda frame: frame.name)
    return [
        frame.with_keys(
            corrections=frame.corrections[: len(frame.corrections) - run.n_corrections],
            subset=int(subset),
        )
        for frame, subset in zip(ordered, run.subsets, strict=True)
    ]


def pass_of_pairs(rows: list[np.ndarray], n_pairs: int) -> np.ndarray:
    """Return the index of the pass that uses each pair.

    Parameters
    ----------
    rows : list of `~numpy.ndarray` of int
        Indices of the pairs of each pass.
    n_pairs : int
        Number of all pairs.

    Returns
    -------
    pass_of : `~numpy.ndarray` of int, shape (n_pairs,)
        Index of the pass; -1 for a pair that no pass uses.
    """
    pass_of = np.full(n_pairs, -1)
    for k, pairs in enumerate(rows):
        pass_of[pairs] = k
    return pass_of


def anchored_again(recorded: list[Frame], frames: list[Frame]) -> list[Frame]:
    """Return the frames with the recorded correction of the anchor, if the run had one.

    The level of the anchor is shifted by the mean change of the other corrections.

    Parameters
    ----------
    recorded : list of `~levelmatch.images.frame.Frame`
        The recorded images.
    frames : list of `~levelmatch.images.frame.Frame`
        The images with their new corrections.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        The images with the additional correction.
    """
    anchored = {f.name: f for f in recorded if f.corrections and f.corrections[-1].name == "anchor"}
    if not anchored:
        return frames
    shift = float(np.mean([_change(anchored[frame.name], frame) for frame in frames]))
    out = []
    for frame in frames:
        anchor = anchored[frame.name].corrections[-1]
        correction = anchor.correction + Correction(shift / frame.scale)
        # The error of an absolute level does not depend on the gauge of the passes.
        total = sum(a.variance[0] for a in anchored[frame.name].corrections)
        variance = np.array(anchor.variance, dtype=float)
        variance[0] = total - sum(a.variance[0] for a in frame.corrections)
        applied = replace(anchor, correction=correction, variance=variance)
        out.append(frame.with_keys(corrections=(*frame.corrections, applied)))
    return out


def _change(recorded: Frame, frame: Frame) -> float:
    """Return the recorded level, without the anchor, minus the new level, in the common unit."""
    axes = frame.whole_grid.axes
    before = sum(a.correction.coefficients(axes)[0] for a in recorded.corrections[:-1])
    return frame.scale * float(before - frame.correction.coefficients(axes)[0])


def local_levels(frames: list[Frame]) -> Callable[[Frame], float]:
    """Return a function of an image that returns its recorded local level, in the common unit.

    The level is shifted by the change of the corrections before it.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The recorded images.
    """
    recorded = {frame.name: frame.corrections for frame in frames}

    def local(frame: Frame) -> float:
        corrections, axes = recorded[frame.name], frame.whole_grid.axes
        k = [a.name for a in corrections].index("local")
        before = sum(a.correction.coefficients(axes)[0] for a in corrections[:k])
        now = frame.correction.coefficients(axes)[0]
        return frame.scale * (corrections[k].correction.constant + before - now)

    return local


@dataclass(eq=False)
class SolvedAgain:
    """Passes of a record, solved again when their covariances are needed.

    A record holds the pairs and the solutions, but not the covariances, which are large.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The recorded images.
    rows : list of `~numpy.ndarray` of int
        Indices of the pairs of each pass.
    measured : `~levelmatch.measure.table.PairTable`
        All pairs.
    run : `~levelmatch.record.run.Run`
        The recorded run.
    pattern : `~levelmatch.solve.shared_pattern.SharedPattern` or None
        The recorded pattern of the detectors.
    """

    frames: list[Frame]
    rows: list[np.ndarray]
    measured: PairTable
    run: Run
    pattern: SharedPattern | None = None

    @cached_property
    def passes(self) -> list[Pass]:
        """The passes with their covariances."""
        run = self.run
        _, passes = run_passes(
            frames_before(self.frames, run),
            run.planned,
            self.measured,
            pass_of_pairs(self.rows, len(self.measured)),
            SolveOptions(**run.options["solve"]),
            sky=run.sky,
            local=local_levels(self.frames),
            pattern=self.pattern,
        )
        return passes

    def covariance(self, k: int) -> GaugedCovariance:
        """Return the covariance of the k-th pass."""
        return self.passes[k].solution.covariance_of()

    def carried(self, k: int) -> Carried | None:
        """Return `Pass.carried` of the k-th pass."""
        return self.passes[k].carried
