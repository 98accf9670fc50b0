# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Options of measuring and solving, with their defaults."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from scipy.special import erf

__all__ = ["FIT_TYPES", "METHODS", "WEIGHTS", "MeasureOptions", "SolveOptions"]


FIT_TYPES = {
    "level": "level",
    "level+slope": "level+slope",
    "level+match": "level+slope",
    "auto": "auto",
}
WEIGHTS = ("ivar", "equal", "npix", "rms")
ROBUST = ("tukey", "huber", None)
DISCONNECTED = ("warn", "error", "sky")


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """Which pairs count, and what is known beforehand.

    Parameters
    ----------
    floor : float or None
        The systematic scatter, in the common unit; `None` to estimate it.
    min_area : float
        Pairs with fewer pixels than this part of the mean are left out.
    min_linear : float
        Pairs whose overlap is shorter, in its longest direction, than this part of
        the smaller image's side are left out.
    rms_limit : float
        Pairs whose scatter is this many standard deviations above the mean, both of
        its logarithm, are left out; never one under 1.5 times the mean.
    slope_prior : float or None
        Standard deviation of a Gaussian prior, about 0, on the slopes of planes, in the
        common unit per arcmin.
    robust : {"tukey", "huber", None}
        How pairs that disagree with the rest lose weight, with the weights
        ``"ivar"`` and in sets of at least 10 loops: Tukey's biweight, Huber's
        weights, or not at all.
    disconnected : {"warn", "error", "sky"}
        What to do where images fall into sets with no overlap between them: leave each
        its own zero point and warn, refuse, or tie the sets by their clipped sky
        levels. The last assumes that the emission that clipping leaves in is the
        same in all sets, which extended objects break.
    flux_limit : float
        Warn of pairs whose flux scales differ by more than this part, and by
        more than 4 sigma.
    max_pairs : int or None
        In how many pairs, about, an image is measured at most: the largest overlaps, and
        others that keep the graph of overlaps short; what links sets always. Of n images
        of one field there are n**2 / 2 pairs, which share the same pixels'
        noise, so that few of them tell almost as much: two thirds of this number
        are measured where an image's overlaps are nearly equal. `None` for all.
    """

    floor: float | None = None
    min_area: float = 0.002
    min_linear: float = 0.2
    rms_limit: float = 2.0
    slope_prior: float | None = None
    robust: str | None = "tukey"
    disconnected: str = "warn"
    flux_limit: float = 0.03
    max_pairs: int | None = 24

    def __post_init__(self):
        for name, choices in (("robust", ROBUST), ("disconnected", DISCONNECTED)):
            if getattr(self, name) not in choices:
                msg = f"{name}: {getattr(self, name)!r} is none of {choices}"
                raise ValueError(msg)
        if self.max_pairs is not None and not (
            isinstance(self.max_pairs, Integral) and self.max_pairs >= 2
        ):
            msg = f"max_pairs: {self.max_pairs!r} is not a whole number of 2 or more"
            raise ValueError(msg)
        for name in ("floor", "min_area", "min_linear", "rms_limit", "slope_prior", "flux_limit"):
            value = getattr(self, name)
            if value is None and name in ("floor", "slope_prior"):
                continue
            good = isinstance(value, Real) and np.isfinite(value) and value >= 0
            if not good or (name == "slope_prior" and value == 0):
                msg = f"{name}: {value!r} is not a positive number"
                raise ValueError(msg)


def fit_terms(fit_type):
    """Return the number of terms of a fit type.

    Raises
    ------
    ValueError
        If it is not known.
    """
    if fit_type not in FIT_TYPES:
        msg = f"fit_type: {fit_type!r} is none of {tuple(FIT_TYPES)}"
        raise ValueError(msg)
    return 1 if FIT_TYPES[fit_type] == "level" else 3


METHODS = ("direct", "interp", "exact", "adaptive")
LOCATIONS = ("mean", "median")


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How the difference of two images is measured.

    Parameters
    ----------
    method : {"direct", "interp", "exact", "adaptive"}
        ``"direct"`` samples both images at points midway between their pixels;
        the others reproject both to a common grid, by
        `~reproject.reproject_interp`, `~reproject.reproject_exact` or
        `~reproject.reproject_adaptive`.
    location : {"mean", "median"}
        The centre of the clipped differences in each cell.
    clip : float
        Differences farther than this many sigma from their cell's centre are left out.
    structure : bool
        Weigh each cell by its own scatter, so that stars and steep structure count for
        less; else by that of all. Symmetric sampling leaves little for it to mend: on
        simulated MIRI and NIRCam sets and on 2MASS tiles it measures no better.
    mask_sources : bool
        Leave out the sources of each image, found by ``photutils.segmentation``, and with
        them what the other image of a pair has there.
    n_workers : int or None
        Threads; `None` for as many as Dask takes. A current
        `dask.distributed.Client` goes before this.
    """

    method: str = "direct"
    location: str = "mean"
    clip: float = 3.0
    structure: bool = False
    mask_sources: bool = False
    n_workers: int | None = None

    def __post_init__(self):
        if self.method not in METHODS:
            msg = f"method: {self.method!r} is none of {METHODS}"
            raise ValueError(msg)
        if self.location not in LOCATIONS:
            msg = f"location: {self.location!r} is none of {LOCATIONS}"
            raise ValueError(msg)
        if not (isinstance(self.clip, Real) and np.isfinite(self.clip) and self.clip > 0):
            msg = f"clip: {self.clip!r} is not a positive number"
            raise ValueError(msg)
        if self.n_workers is not None and not (
            isinstance(self.n_workers, Integral) and self.n_workers >= 1
        ):
            msg = f"n_workers: {self.n_workers!r} is not a positive whole number"
            raise ValueError(msg)

    @property
    def truncation(self):
        """Scatter of a normal variable over its scatter once clipped."""
        density = np.sqrt(2 / np.pi) * np.exp(-0.5 * self.clip**2)
        return 1 / np.sqrt(1 - self.clip * density / erf(self.clip / np.sqrt(2)))
