# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A pass before its images are known."""

from dataclasses import dataclass

import numpy as np

from levelmatch.images import jwst
from levelmatch.options import FIT_TYPES
from levelmatch.solve.passes import Pass, labels

__all__ = ["Step"]


@dataclass(frozen=True)
class Step:
    """A pass before its images are known: plain values, which a record can hold.

    Parameters
    ----------
    name : {"dithers", "lyot", "nircam_short", "mosaic"}
        The pass.
    fit_type : {"level", "level+slope", "level+match", "auto"}
        What it fits.
    reference : {"auto", "mean", "image"}
        What the mosaic's corrections are relative to.
    image : str
        The name of that image, if the user named it.
    keyword : str
        Header keyword of the time from the backgrounds.
    combine_chips : bool
        Whether the short-wavelength chips of a module are one image of the mosaic.
    recombined : bool
        Whether science and Lyot parts are one image of the mosaic.
    subtract_local : bool
        Whether each tile's local level is subtracted after the pass.
    """

    name: str
    fit_type: str = "level"
    reference: str = "mean"
    image: str = ""
    keyword: str = "DT_BGR"
    combine_chips: bool = False
    recombined: bool = False
    subtract_local: bool = False

    def plan(self, frames):
        """Return the `~levelmatch.solve.passes.Pass` of frames, sorted by name."""
        domain, group = _LABELS[self.name](frames, self)
        reference = {"mean": None, "auto": "auto"}.get(self.reference)
        if self.name == "lyot":
            reference = "science"
        elif self.reference == "image":
            names = [frame.name for frame in frames]
            reference = int(group[names.index(self.image)])
        return Pass(self.name, FIT_TYPES[self.fit_type], domain, group, reference, self.keyword)


def _dither_labels(frames, step):
    return labels([(f.tile, f.detector, f.part) for f in frames]), np.arange(len(frames))


def _lyot_labels(frames, step):
    return (
        labels([(f.tile, f.detector) for f in frames]),
        labels([(f.tile, f.detector, f.part, f.subset) for f in frames]),
    )


def _nircam_labels(frames, step):
    return (
        labels([(f.tile, jwst.module_of(f.detector)) for f in frames]),
        labels([(f.tile, f.detector, f.subset) for f in frames]),
    )


def _mosaic_labels(frames, step):
    groups = [
        (
            f.tile,
            jwst.module_of(f.detector) if step.combine_chips else f.detector,
            "" if step.recombined else f.part,
            f.subset,
        )
        for f in frames
    ]
    return np.zeros(len(frames), dtype=np.intp), labels(groups)


_LABELS = {
    "dithers": _dither_labels,
    "lyot": _lyot_labels,
    "nircam_short": _nircam_labels,
    "mosaic": _mosaic_labels,
}
