# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Wings of stars that differ between images, as if the seeing changed.

The wings of a star reach beyond the pixels that are rejected with its core, and raise the level of
an image with wider wings. Loops close, because the effect is that of the image. The cells of an
overlap show it: their differences depend on the light of the stars about them. One number of each
image, the height of its wings, is fitted to these dependences in all pairs.
"""

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu
from scipy.special import chdtrc

from levelmatch.exceptions import WingsWarning, warn_user
from levelmatch.images.units import unit_words
from levelmatch.sky.overlaps import components
from levelmatch.text import list_names

__all__ = ["find_wings", "level_widening", "plane_widening", "warn_wings", "wings_text"]

# Largest probability of such wings by noise alone, in errors and in warnings. Errors of effects
# are rather too large: of 600 sets of images with stars of one PSF, seven have less than 0.03.
CHANCE = 0.03
CHANCE_WARNED = 1e-3
# Smallest error of the effect, as a fraction of the light of the stars: images with equal PSFs,
# such as resampled images of the same exposures, differ by less.
EQUAL_LIGHT = 1e-3
# Smallest error of the effect, as a fraction of the error of the level.
LEAST = 0.1
# Largest effect, as a fraction of the light of the stars. Seeing that varies by 30 % has less than
# 0.2. An effect that is larger by this number of standard errors is due to a bad region, for
# example, which may be in all pairs of both images.
MOST_LIGHT = 0.5
BAD_SIGMA = 3.0
# The light of stars times the gain of a pair beyond this number of standard errors is in the error.
GAIN_SIGMA = 2.0
# The significance of a pair counts up to a limit.
MOST_SIGMA = 5.0
# Weight, in pairs, of the prior that errors are as stated.
PRIOR = 2.0
# Smallest effect, as a fraction of the typical error of a level, that is reported: a floor, which
# includes all that pairs disagree by, may be far larger.
MATTERS = 0.3
# Images are named if their wings are at least this fraction of the highest.
NAMED = 0.5
# Fraction of the diagonal that is added to it, as weights may differ by many orders of magnitude.
RIDGE = 1e-12
# Wings of the tables of pairs in use: a run needs them several times.
_FOUND: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


@dataclass(frozen=True)
class Wings:
    """Heights of the wings of stars in the images, and their effects on pairs.

    Parameters
    ----------
    heights : `~numpy.ndarray`, shape (n_images,)
        Height of the wings of each image relative to the median of its set.
    effects : `~numpy.ndarray`, shape (n,)
        Effect on the level of each pair; zero where unknown.
    chance : float
        Probability of as high wings by noise alone.
    """

    heights: np.ndarray
    effects: np.ndarray
    chance: float


def find_wings(measured):
    """Return the `Wings` of all pairs; all are zero unless they are significant together.

    Wings that reach farther than the light of a term seem fainter by it. Of the two terms of the
    light, near and wide, the one with the larger effects is therefore used.

    Parameters
    ----------
    measured : `~levelmatch.measure.table.PairTable`
        The measured pairs.
    """
    if measured not in _FOUND:
        # Where the near term is unknown, as by unequal flux scales, the wide one is no better.
        wide = replace(
            measured,
            wings=measured.wide_wings,
            wings_error=measured.wide_wings_error,
            wings_term=np.where(_known(measured)[0], measured.wide_wings_term, 0.0),
        )
        found = [_wings_of_term(pairs) for pairs in (measured, wide)]
        weight = measured.gram[:, 0, 0]
        larger = max(found, key=lambda wings: np.sum(weight * np.square(wings.effects)))
        _FOUND[measured] = replace(larger, chance=min(wings.chance for wings in found))
    return _FOUND[measured]


def _wings_of_term(measured):
    """Return the `Wings` of one term of the light.

    Pairs scatter about the heights of the images. If this scatter exceeds their errors, these are
    too small, and the heights are less significant. Effects are shrunk by the noise in them.
    """
    n = int(max(measured.first.max(), measured.second.max())) + 1 if len(measured) else 0
    none = Wings(np.zeros(n), np.zeros(len(measured)), 1.0)
    used, error = _known(measured)
    if not used.any():
        return none
    value = measured.wings[used] * measured.wings_term[used] / error
    # The noise of an image is in all of its pairs, whose weights are divided accordingly.
    share = np.minimum(measured.gram[used, 0, 0] * np.square(measured.sigma[used]), 1)
    response = measured.wings_term[used] / error
    fit = _Heights(measured.first[used], measured.second[used], response, share, n)

    def compare(value):
        """Return the fitted values, the sum of their squares, and the scatter about them."""
        fitted = fit.values_of(fit(value))
        scatter = PRIOR + np.sum(share * np.square(value - fitted))
        scatter /= PRIOR + max(np.sum(share) - fit.freedom, 0)
        return fitted, np.sum(share * np.square(fitted)), scatter

    # A single pair must not decide.
    _, explained, scatter = compare(np.clip(value, -MOST_SIGMA, MOST_SIGMA))
    chance = float(chdtrc(fit.freedom, explained / max(scatter, 1)))
    if not chance <= CHANCE:
        return replace(none, chance=chance)
    fitted, explained, scatter = compare(value)
    # James and Stein (1961), so that the squares of the effects have no bias.
    effects = none.effects.copy()
    effects[used] = fitted * error * np.sqrt(max(1 - fit.freedom * scatter / explained, 0))
    return Wings(fit(value), effects, chance)


def _known(measured):
    """Return flags of pairs with a known effect of wings, and the errors of their effects."""
    term, light = measured.wings_term, measured.wings_light
    used = np.isfinite(measured.wings) & np.isfinite(measured.wings_error) & (term > 0)
    # Values rounded to more than their noise look like stars.
    used &= ~(measured.step > measured.scatter[:, None]).any(axis=1)
    gain = np.abs(measured.gain[used]) - GAIN_SIGMA * measured.gain_error[used]
    gain = np.where(gain > 0, gain, 0)
    error = np.full(len(measured), np.inf)
    least = np.hypot(LEAST * measured.sigma[used], (EQUAL_LIGHT + gain) * light[used])
    error[used] = np.hypot(measured.wings_error[used] * term[used], least)
    beyond = np.abs(measured.wings * term) - MOST_LIGHT * light
    bad = used & (beyond > BAD_SIGMA * error)
    images = np.concatenate([measured.first[bad], measured.second[bad]])
    used &= ~(np.isin(measured.first, images) | np.isin(measured.second, images))
    return used, error[used]


class _Heights:
    """Least squares of values of pairs by one height of each image, relative to each set's median.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of int, shape (m,)
        The images of each pair.
    response : `~numpy.ndarray`, shape (m,)
        Value of a pair for a unit difference of the heights of its images.
    weight : `~numpy.ndarray`, shape (m,)
        Weight of each pair.
    n : int
        Number of images.
    """

    def __init__(self, first, second, response, weight, n):
        self.ends, self.response, self.weight, self.n = (first, second), response, weight, n
        square = weight * np.square(response)
        joined = np.stack(self.ends, axis=1)[square > 0].astype(np.intp)
        n_sets, self.label = components(joined, n)
        # Number of heights that the pairs determine.
        self.freedom = n - n_sets
        # One image holds its set. Images without a pair are sets.
        held = np.zeros(n, dtype=bool)
        held[np.unique(self.label, return_index=True)[1]] = True
        self.solved = np.flatnonzero(~held)
        every = np.arange(n)
        rows = np.concatenate([first, second, every])
        columns = np.concatenate([second, first, every])
        own = np.bincount(first, square, n) + np.bincount(second, square, n)
        values = np.concatenate([-square, -square, own * (1 + RIDGE)])
        normal = coo_array((values, (rows, columns)), shape=(n, n)).tocsc()
        # An order for symmetric matrices needs half of the time and of the memory.
        order = {"permc_spec": "MMD_AT_PLUS_A", "options": {"SymmetricMode": True}}
        part = normal[self.solved][:, self.solved]
        self.factors = splu(part, diag_pivot_thresh=0.0, **order) if len(self.solved) else None

    def __call__(self, value):
        """Return the heights, shape (n,), for the values of the pairs."""
        product = self.weight * self.response * value
        first, second = self.ends
        right = np.bincount(first, product, self.n) - np.bincount(second, product, self.n)
        out = np.zeros(self.n)
        if self.factors is not None:
            out[self.solved] = self.factors.solve(right[self.solved])
        order = np.lexsort((out, self.label))
        start, count = np.unique(self.label[order], return_index=True, return_counts=True)[1:]
        low, high = (out[order][start + k // 2] for k in (count - 1, count))
        return out - (low + high)[self.label] / 2

    def values_of(self, heights):
        """Return the values of the pairs for given heights."""
        first, second = self.ends
        return self.response * (heights[first] - heights[second])


def level_widening(equations, factor, component):
    """Return factors on the standard errors of levels, by the effects of wings on their pairs.

    The effects shift the levels, and no residual shows it. The sum of squares of the shifts, in
    units of the errors, is divided by the number of differences of the groups. One factor for all
    leaves the weights as they are.

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs of groups, with their effects.
    factor : `~numpy.ndarray`, shape (n,)
        Factor on the normal matrix of each pair.
    component : `~numpy.ndarray` of int, shape (n_groups,)
        Set of each group.

    Returns
    -------
    factor : `~numpy.ndarray`, shape (n_sets,)
        The factors; one for planes, see `plane_widening`.
    """
    size = np.bincount(component)
    effects = equations.known.of_wings
    if equations.n_terms > 1 or effects is None or not effects.any():
        return np.ones(len(size))
    ends = equations.first, equations.second
    weight = factor * equations.gram[:, 0, 0]
    fit = _Heights(*ends, np.ones(len(weight)), weight, equations.n_groups)
    square = weight * np.square(fit.values_of(fit(effects)))
    total = np.bincount(component[equations.first], square, len(size))
    return np.sqrt(1 + total / np.maximum(size - 1, 1))


def plane_widening(covariance, component):
    """Return factors on the standard errors of planes, by the effects of wings on their pairs.

    The effects shift the levels of the images, in the gauge of the planes. The sum of squares of
    the shifts over that of the errors gives one factor on the levels of each set. Slopes stay:
    the stars of an image tilt it by little.

    Parameters
    ----------
    covariance : `~levelmatch.solve.solution.GaugedCovariance`
        Covariance of the coefficients without the effects.
    component : `~numpy.ndarray` of int, shape (n_groups,)
        Set of each group.

    Returns
    -------
    factor : `~numpy.ndarray`, shape (n_groups, 3), or None
        The factors; `None` for levels, or without effects.
    """
    solved = covariance.solved
    equations, shape = solved.equations, solved.scale.shape
    effects = equations.known.of_wings
    if equations.n_terms == 1 or effects is None or not effects.any():
        return None
    weight = solved.factor * equations.gram[:, 0, 0]
    ends = equations.first, equations.second
    level = _Heights(*ends, np.ones(len(weight)), weight, equations.n_groups)(effects)
    # One group of each set is held while the equations are solved.
    held = np.flatnonzero(solved.scale[:, 0] == 0)
    zero = np.zeros(int(component.max()) + 1)
    zero[component[held]] = level[held]
    shift = np.zeros(shape)
    shift[:, 0] = level - zero[component]
    if covariance.gauge is not None:
        shift = covariance.gauge.apply(shift.reshape(-1, 1)).reshape(shape)
    variance = covariance.blocks(shape[1])[:, 0, 0]
    square, own = (np.bincount(component, v) for v in (np.square(shift[:, 0]), variance))
    factor = np.ones(shape)
    more = np.divide(square, own, out=np.zeros_like(square), where=own > 0)
    factor[:, 0] = np.sqrt(1 + more)[component]
    return factor


def wings_text(result):
    """Return the sentence on wings of stars that differ; empty if levels hardly depend on it.

    Parameters
    ----------
    result : `~levelmatch.record.run_result.RunResult`
        The result, or its record.
    """
    wings = result.wings
    if wings.chance > CHANCE_WARNED or not wings.effects.any():
        return ""
    frames = result.sorted_frames
    weight = np.where(wings.effects == 0, 0.0, result.measured.gram[:, 0, 0])
    rms = np.sqrt(np.sum(weight * np.square(wings.effects)) / np.sum(weight) / 2)
    variances = [[c.variance[0] for c in frame.corrections] for frame in frames]
    errors = [frame.scale * np.sqrt(np.sum(v)) for frame, v in zip(frames, variances, strict=True)]
    if rms < MATTERS * np.median(errors):
        return ""
    order = np.argsort(-wings.heights, kind="stable")
    least = NAMED * wings.heights.max()
    return (
        "wings of stars differ between the images, as if the seeing changed, and change levels by "
        f"about {rms:.2g} {unit_words(frames[0].unit)} (rms). Errors of levels include this. The "
        "widest are those of "
        f"{list_names([frames[k].name for k in order if wings.heights[k] > least])}. mask_sources "
        "masks stars"
    )


def warn_wings(result):
    """Warn, once, of wings of stars that differ between the images."""
    text = wings_text(result)
    if text:
        warn_user(text, WingsWarning)
