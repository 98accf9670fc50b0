# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Run the package on simulated images, and compare its levels with the truth.

Only this module calls the package, by its public functions; a few adapters at its end say where
it tells more than levels and errors.
"""

import re
import warnings
from dataclasses import dataclass

import numpy as np

import levelmatch as lm

# Words of warnings that name a pattern other than a level or a plane.
PATTERN = re.compile(r"pattern|bowl|gradient|quadratic|curv|\bflat", re.IGNORECASE)


def own_tile(name, _meta=None):
    """Return the name of the image, which makes each image a tile."""
    return name


def one_tile(_name, _meta=None):
    """Return one name, which makes all images dithers of one tile."""
    return "tile"


@dataclass(frozen=True)
class Match:
    """A result, its truth and its warnings.

    Parameters
    ----------
    result : `levelmatch.MatchResult`
        The result.
    true : `~numpy.ndarray`, shape (n,)
        The true levels.
    messages : list of str
        The warnings.
    """

    result: object
    true: np.ndarray
    messages: list

    @property
    def found(self):
        """Fitted levels."""
        return np.asarray(self.result.table["level"].value, dtype=float)

    @property
    def stated(self):
        """Stated standard errors of the levels, relative to the gauge."""
        return np.asarray(self.result.table["error"].value, dtype=float)

    @property
    def errors(self):
        """Fitted minus true levels in the gauge of the zero mean, shape (n,)."""
        errors = self.found - self.true
        return errors - errors.mean()

    @property
    def pulls(self):
        """Errors divided by stated errors; infinite without a stated error."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.errors / self.stated

    @property
    def warned(self):
        """1 if a warning names a pattern, otherwise 0."""
        return float(any(PATTERN.search(m) for m in self.messages))

    def contrast(self, weights):
        """Return the error and stated error of a weighted sum of levels with zero total weight."""
        used = np.flatnonzero(weights)
        part = np.array([[self.covariance(i, j) for j in used] for i in used])
        w = weights[used]
        return float(w @ (self.found - self.true)[used]), float(np.sqrt(w @ part @ w))

    def covariance(self, i, j):
        """Return the stated covariance of the levels of two images."""
        return float(self.result.covariance(int(i), int(j))[0, 0])


def run(function, images, true, **options):
    """Call a function of the package and keep its warnings."""
    options.setdefault("measure", lm.MeasureOptions(n_workers=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(images, **options)
        result.table  # noqa: B018
    return Match(result, np.asarray(true, dtype=float), [str(w.message) for w in caught])


def match_dithers(images, true, **options):
    """Match images as dithers of one tile."""
    return run(lm.match_dithers, images, true, group_by=one_tile, **options)


def match_mosaic(images, true, **options):
    """Match images as tiles of a mosaic, in the gauge of the zero mean."""
    options = {"reference": "mean", **options}
    return run(lm.match_mosaic, images, true, group_by=own_tile, **options)


def match_short_chips(images, true):
    """Match NIRCam's short chips in three passes, in the gauge of the zero mean."""
    return run(
        lm.match_levels,
        images,
        true,
        group_by="jwst",
        combine_nircam_short=True,
        reference="mean",
    )


def match_lyot(images, true):
    """Match MIRI's science and Lyot parts in three passes; tiles share the offsets of the parts."""
    return run(
        lm.match_levels,
        images,
        true,
        group_by="jwst",
        recombine_lyot=True,
        solve=lm.SolveOptions(share_offsets=True),
    )


def surfaces(match, images):
    """Return the correction of each image at all of its pixels."""
    return [image.data - match.result[k].data for k, image in enumerate(images)]


def plane_pulls(match, grids, true=0.0):
    """Return pulls of levels, shape (n,), and of slopes, shape (n, 2).

    In the gauge of the zero mean plane. East is against x, and North along y. The true slopes
    are per arcmin along x and y.
    """
    table = match.result.table
    slopes = np.stack([-table["slope_u"].value, table["slope_v"].value], axis=1) - true
    errors = np.stack([table["slope_u_error"].value, table["slope_v_error"].value], axis=1)
    centres = [
        [(o + g.scale * (n - 1) / 2) / 60 for o, n in zip(g.origin, g.shape, strict=True)][::-1]
        for g in grids
    ]
    centres = np.array(centres)
    levels = match.found - match.true
    mean = np.mean(levels - np.sum(slopes * centres, axis=1))
    mean_slope = slopes.mean(axis=0)
    return (levels - mean - centres @ mean_slope) / match.stated, (slopes - mean_slope) / errors


def noise_bound(grids, noise):
    """Return the smallest possible rms error of the levels minus their mean, for white noise.

    The information on the levels of n images of weights w at one pixel of the sky is
    diag(w) - w w^T / sum(w) (the Cramer-Rao bound of the joint fit of sky and levels).
    Shifts count in whole pixels.
    """
    weight = np.broadcast_to(np.asarray(noise, dtype=float) ** -2.0, len(grids))
    first = np.round([g.origin for g in grids]).astype(int)
    first -= first.min(axis=0)
    extent = np.max(first + [g.shape for g in grids], axis=0)
    cover = np.zeros((len(grids), *extent))
    for layer, (y, x), grid, w in zip(cover, first, grids, weight, strict=True):
        layer[y : y + grid.shape[0], x : x + grid.shape[1]] = w
    cover = cover.reshape(len(grids), -1)
    total = cover.sum(axis=0)
    cover = cover[:, total > 0]
    fisher = np.diag(cover.sum(axis=1)) - (cover / total[total > 0]) @ cover.T
    # The pseudo-inverse excludes the mean, which is not determined.
    return np.sqrt(np.trace(np.linalg.pinv(fisher, rcond=1e-10, hermitian=True)) / len(grids))


def floor_of(match):
    """Return the systematic scatter between pairs estimated by the last pass."""
    return float(match.result.passes[-1].solution.floor)


def closure_of(match):
    """Return the rms of the closures of loops divided by their errors."""
    return float(match.result.closures.meta["rms"])


def suspects_of(match):
    """Return the names of the suspect images of a result, the worst first.

    ``result.suspects`` is a table with a column ``name`` or ``image``, or a sequence of names.
    """
    found = getattr(match.result, "suspects", ())
    if hasattr(found, "colnames"):
        found = found["name" if "name" in found.colnames else "image"]
    return [str(name) for name in found]


def fitted_slopes(match):
    """Return whether each image has a fitted slope."""
    table = match.result.table
    return np.hypot(table["slope_u"].value, table["slope_v"].value) > 0
