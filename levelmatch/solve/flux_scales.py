# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Flux scales of images, from the gains of their pairs."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu

from levelmatch.exceptions import FluxScaleWarning, warn_user
from levelmatch.sky.overlaps import components

__all__ = ["ScaleDifference", "flux_differences", "flux_text", "warn_flux_scales"]


# Significance of a difference that is reported.
FLUX_SIGMA = 4.0
# Error of a pair's flux ratio due to flats that are accurate to 1 %.
LEAST_ERROR = 0.006
# Pairs that are off by more than this many sigma lose weight.
CLIP = 2.0
N_ROBUST = 10


@dataclass(frozen=True)
class ScaleDifference:
    """An image whose flux scale differs from that of the others.

    Parameters
    ----------
    image, other : int
        Index of the image, and of a typical image of the others.
    factor : float
        Flux in the image over flux in the other.
    error : float
        Relative standard error of the factor.
    """

    image: int
    other: int
    factor: float
    error: float


def flux_differences(measured, limit):
    """Return the images whose flux scale differs from that of most others.

    The gains of all pairs are solved for one logarithm per image. An image is reported if its
    factor relative to the most typical image is off by more than the limit and 4 sigma.

    Parameters
    ----------
    measured : `~levelmatch.measure.table.PairTable`
        The pairs.
    limit : float
        Relative difference.

    Returns
    -------
    differences : list of `ScaleDifference`
        The most significant first.
    """
    half = np.asarray(measured.gain, dtype=float) / 2
    used = np.isfinite(half) & (np.abs(half) < 1) & np.isfinite(measured.gain_error)
    if not used.any():
        return []
    half, error = half[used], np.asarray(measured.gain_error, dtype=float)[used]
    ratio, error = 2 * np.arctanh(half), np.hypot(error / (1 - half**2), LEAST_ERROR)
    pairs = np.stack([measured.first[used], measured.second[used]], axis=1).astype(np.intp)
    images, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(pairs.shape)
    out = []
    n_sets, label = components(ends, len(images))
    for k in range(n_sets):
        members = np.flatnonzero(label == k)
        rows = label[ends[:, 0]] == k
        place = np.searchsorted(members, ends[rows])
        found = _differences(place, ratio[rows], error[rows], len(members), limit)
        out += [
            (significance, ScaleDifference(*images[members[[i, j]]].tolist(), factor, relative))
            for significance, i, j, factor, relative in found
        ]
    return [difference for _, difference in sorted(out, key=lambda item: -item[0])]


def _differences(ends, ratio, error, n, limit):
    """Yield the differences in one connected set of images."""
    logs, weight = _solve(ends, ratio, error, n)
    typical = _typical(logs, np.bincount(ends.ravel(), np.repeat(weight, 2), n))
    for image in np.flatnonzero(np.abs(logs - logs[typical]) > np.log1p(limit)).tolist():
        other = _typical_neighbour(image, ends, weight, np.abs(logs - logs[typical]) < limit / 2)
        other = typical if other is None else other
        log = float(logs[image] - logs[other])
        # The noise of the image is in all of its pairs, so their mean has no smaller error.
        own = weight[(ends == image).any(axis=1)].max()
        sigma = max(_standard_error(image, other, ends, weight, n), own**-0.5)
        if abs(log) > max(FLUX_SIGMA * sigma, np.log1p(limit)):
            yield abs(log) / sigma, image, other, float(np.exp(log)), sigma


def _typical(logs, weight):
    """Return the index of the weighted median; of two middle values, the first by index."""
    order = np.argsort(logs, kind="stable")
    total = np.cumsum(weight[order])
    middle = 0.5 * total[-1] * np.array([1 - 1e-9, 1 + 1e-9])
    return int(order[np.searchsorted(total, middle)].min())


def _typical_neighbour(image, ends, weight, is_typical):
    """Return the typical image with the best pair with an image, `None` if there is none."""
    first, second = ends.T
    rows = np.flatnonzero((first == image) | (second == image))
    others = first[rows] + second[rows] - image
    known = is_typical[others]
    return int(others[known][np.argmax(weight[rows][known])]) if known.any() else None


def _standard_error(image, other, ends, weight, n):
    """Return the standard error of the difference of two images' logarithms."""
    rest = np.delete(np.arange(n), other)
    unit = (rest == image).astype(float)
    return float(np.sqrt(unit @ splu(_normal(ends, weight, n)[rest][:, rest]).solve(unit)))


def _solve(ends, ratio, error, n):
    """Return the logarithms of the images' flux scales, and the weights of the pairs.

    Pairs that disagree with the others get smaller weights. If the pairs scatter more than their
    errors, all weights are smaller.
    """
    first, second = ends.T
    robust = np.ones(len(ratio))
    logs = np.zeros(n)
    for _ in range(N_ROBUST):
        weight = robust / error**2
        right = np.bincount(first, weight * ratio, n) - np.bincount(second, weight * ratio, n)
        logs[1:] = splu(_normal(ends, weight, n)[1:, 1:]).solve(right[1:])
        sigmas = np.abs(ratio - logs[first] + logs[second]) / error
        robust = np.minimum(1, CLIP / np.maximum(sigmas, 1e-9))
    scatter = (np.sum(robust * sigmas**2) + 2) / (len(ratio) - n + 3)
    return logs, weight / max(scatter, 1.0)


def _normal(ends, weight, n):
    """Return the Laplacian of the graph of pairs, as a sparse matrix."""
    first, second = ends.T
    rows = np.concatenate([first, second, first, second])
    columns = np.concatenate([first, second, second, first])
    values = np.concatenate([weight, weight, -weight, -weight])
    return coo_array((values, (rows, columns)), shape=(n, n)).tocsc()


def flux_text(frames, differences, limit):
    """Return the sentence on images whose flux scales differ; empty if none do.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, sorted by name.
    differences : list of `ScaleDifference`
        See `flux_differences`.
    limit : float
        Relative difference that is reported.
    """
    if not differences:
        return ""
    most = differences[0]
    percent = 100 * (most.factor - 1)
    much = f"{percent:+.1f}%" if abs(percent) < 50 else f"a factor {most.factor:.3g}"
    more = f" and {len(differences) - 1} more" if len(differences) > 1 else ""
    return (
        f"{frames[most.image].name}{more} differ in flux scale by more than {limit:.0%} from the "
        f"other images, the first by {much} +- {100 * most.error:.1f}% relative to "
        f"{frames[most.other].name}: levels depend on brightness; flux_scale brings images to one "
        "scale"
    )


def warn_flux_scales(frames, measured, limit):
    """Warn, once, of images whose flux scale differs from that of the others."""
    text = flux_text(frames, flux_differences(measured, limit), limit)
    if text:
        warn_user(text, FluxScaleWarning)
