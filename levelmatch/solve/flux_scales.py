# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Flux scales of images, from the gains of their pairs."""

from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu
from scipy.special import chdtrc

from levelmatch.exceptions import FluxScaleWarning, warn_user
from levelmatch.images.file_headers import readable_value
from levelmatch.images.units import is_counts, unit_words
from levelmatch.sky.overlaps import components

__all__ = [
    "ScaleDifference",
    "flux_differences",
    "flux_text",
    "scale_scatter",
    "scatter_text",
    "shift_variances",
    "warn_exposures",
    "warn_flux_scales",
]


# Significance of a difference that is reported.
FLUX_SIGMA = 4.0
# Error of a pair's flux ratio due to flats that are accurate to 1 %.
LEAST_ERROR = 0.006
# Pairs that are off by more than this many sigma lose weight, in so many iterations.
CLIP = 2.0
N_ROBUST = 10
# Scales whose logarithms differ by less are equal.
EQUAL = 1e-3
# Probability of a false alarm for the scatter of all scales, in errors and in warnings. The errors
# of gains are rather too large: errors are widened without need in 1 % of sets of equal scales.
CHANCE = 0.05
CHANCE_WARNED = 1e-3
# The significance of a pair counts up to a limit.
MOST_SIGMA = 5.0
# Smallest error of the effect of a shift, as a fraction of the error of the level.
LEAST_SHIFT = 0.3
# Smallest relative difference of exposure times that matters.
UNEQUAL = 0.03
# Keywords of the exposure time, the most common first.
TIMES = ("EXPTIME", "EXPOSURE", "EXP_TIME")


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


def scale_scatter(measured, *, with_stars=False):
    """Return the scatter of the flux scales, and the variance that it adds to the pairs' levels.

    If two flux scales differ, the difference of the two images is proportional to brightness. Its
    mean over the emission of the overlap changes the level. The variance is zero unless the
    gains of all pairs scatter significantly more than their errors. The gain of a pair is then
    shrunk by the scatter of all (empirical Bayes).

    Parameters
    ----------
    measured : `~levelmatch.measure.table.PairTable`
        The pairs.
    with_stars : bool
        Whether pairs count whose gain stars determine. Stars may vary, or have unequal PSFs, so
        their scatter must be more significant.

    Returns
    -------
    variance : `~numpy.ndarray`, shape (n,)
        Variance of each pair's level.
    scatter : float
        Rms relative difference of an image's scale; 0 without significant scatter.
    """
    used, ratio, error = _known_ratios(measured, with_stars | (measured.bright > 0))
    limit = CHANCE_WARNED if with_stars else CHANCE
    variance, scatter = _shrunk(measured, used, ratio, np.hypot(error, EQUAL), limit)
    out = np.zeros(len(used))
    out[used] = np.square(measured.bright[used]) * variance
    return out, scatter


def shift_variances(measured):
    """Return the variance of each pair's level due to wrong astrometry of its images, shape (n,).

    Emission with a gradient changes the level if the images are shifted. It is zero unless the
    fitted shifts are significant. Pairs of n images of one patch of sky have independent effects,
    but their weights are divided by n / 2, as for noise that they share. So are the variances.

    Parameters
    ----------
    measured : `~levelmatch.measure.table.PairTable`
        The pairs.
    """
    used = np.isfinite(measured.shift) & np.isfinite(measured.shift_error)
    sigma = measured.sigma[used]
    # An effect below the error of the level does not matter.
    error = np.hypot(measured.shift_error[used], LEAST_SHIFT * sigma)
    out = np.zeros(len(used))
    square, _ = _shrunk(measured, used, measured.shift[used], error, CHANCE)
    out[used] = square * np.minimum(measured.gram[used, 0, 0] * np.square(sigma), 1)
    return out


def _shrunk(measured, used, value, error, most_chance):
    """Return the squares of values that are zero but for their errors, or for a common scatter.

    They are zero if the values do not scatter significantly more than their errors. Else each is
    shrunk by the scatter of all (empirical Bayes).

    Parameters
    ----------
    measured : `~levelmatch.measure.table.PairTable`
        The pairs.
    used : `~numpy.ndarray` of bool, shape (n,)
        Pairs with a value.
    value, error : `~numpy.ndarray`, shape (n_used,)
        Values, each the difference of two images, and their standard errors.
    most_chance : float
        Largest probability of a false alarm.

    Returns
    -------
    square : `~numpy.ndarray`, shape (n_used,)
        Expected square of each value.
    scatter : float
        Rms of one image; 0 without significant scatter.
    """
    if not used.any():
        return np.zeros(0), 0.0
    images, ends = _ends_of(measured, used)
    n_sets, _ = components(ends, len(images))
    # The noise of an image is in all of its pairs: they test only one value of each image.
    freedom = len(images) - n_sets
    square = np.minimum(np.square(value / error), MOST_SIGMA**2)
    if chdtrc(freedom, freedom * np.mean(square)) > most_chance:
        return np.zeros(len(value)), 0.0
    scatter = (np.mean(square) - 1) / np.mean(error**-2.0)
    known = scatter / (scatter + error**2)
    found = (known * value) ** 2 + known * error**2
    return found, float(np.sqrt(np.mean(found) / 2))


def _known_ratios(measured, wanted=True):
    """Return flags of wanted pairs with a gain; the logarithms of flux ratios, and their errors."""
    half = np.asarray(measured.gain, dtype=float) / 2
    used = wanted & np.isfinite(half) & (np.abs(half) < 1) & np.isfinite(measured.gain_error)
    half, error = half[used], np.asarray(measured.gain_error, dtype=float)[used]
    return used, 2 * np.arctanh(half), error / (1 - half**2)


def _ends_of(measured, used):
    """Return the images of the used pairs, and the two places of each pair in them."""
    pairs = np.stack([measured.first[used], measured.second[used]], axis=1).astype(np.intp)
    images, ends = np.unique(pairs, return_inverse=True)
    return images, ends.reshape(pairs.shape)


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
    used, ratio, error = _known_ratios(measured)
    if not used.any():
        return []
    error = np.hypot(error, LEAST_ERROR)
    images, ends = _ends_of(measured, used)
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


def scatter_text(measured, unit):
    """Return the sentence on the scatter of all flux scales; empty if levels hardly depend on it.

    Parameters
    ----------
    measured : `~levelmatch.measure.table.PairTable`
        The pairs.
    unit : str
        The common unit as text.
    """
    variance, scatter = scale_scatter(measured, with_stars=True)
    noise = np.square(measured.sigma[measured.npix > 0])
    if not variance.any() or np.mean(variance) < np.median(noise):
        return ""
    included = "include" if scale_scatter(measured)[0].any() else "do not include"
    return (
        f"flux scales of the images scatter by {100 * scatter:.1f}% (rms): levels change by up to "
        f"{np.sqrt(variance.max()):.2g} {unit} with the brightness in the overlaps, which their "
        f"errors {included}; flux_scale brings images to one scale"
    )


def warn_flux_scales(frames, measured, limit):
    """Warn, once, of images whose flux scale differs from that of the others, or of all."""
    text = flux_text(frames, flux_differences(measured, limit), limit)
    text = text or scatter_text(measured, unit_words(frames[0].unit))
    if text:
        warn_user(text, FluxScaleWarning)


def warn_exposures(frames, measured):
    """Warn of counts of different exposure times, unless emission shows that they are on one scale.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    measured : `~levelmatch.measure.table.PairTable`
        Their pairs.

    Warns
    -----
    FluxScaleWarning
        If pairs have such images, and no pair shows that its flux scales agree, or that they
        differ, of which `warn_flux_scales` warns.
    """
    found = [_exposure_time(frame) for frame in frames]
    times = np.array([time for _, time in found])
    first, second = times[measured.first], times[measured.second]
    expected = 2 * (first - second) / (first + second)
    unequal = np.flatnonzero((np.abs(expected) > UNEQUAL) & (measured.npix > 0))
    told = np.abs(expected[unequal]) > 3 * measured.gain_error[unequal]
    if len(unequal) and not told.any():
        i, j = measured.first[unequal[0]], measured.second[unequal[0]]
        key = found[i][0]
        msg = (
            f"{frames[i].name} and {frames[j].name} are counts of {times[i]:g} and {times[j]:g} s "
            f"({key}), which grow with the time: the flux scales of images differ, and levels "
            f"depend on brightness; flux_scale='1/{key}' compares rates, and equal numbers as "
            "flux_scale say that the images are on one scale"
        )
        warn_user(msg, FluxScaleWarning)


def _exposure_time(frame):
    """Return keyword and exposure time of an image of counts; NaN for others or without one."""
    for key in TIMES if is_counts(frame.unit) else ():
        time = readable_value(frame.meta, key)
        if isinstance(time, Real) and not isinstance(time, bool) and time > 0:
            return key, float(time)
    return "", np.nan
