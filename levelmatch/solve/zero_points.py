# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Zero points of images relative to pixels of known brightness."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from levelmatch.exceptions import warn_user

__all__ = ["AnchorPixels", "ZeroPoint", "fit_zero_point", "mean_zero_point"]

# Number of blocks of the sky whose differences give the error, and its smallest value.
BLOCKS, LEAST_BLOCKS = 36, 8
# Pixels that are off by more standard deviations are clipped, with all pixels within a width.
CLIP, ROUNDS = 5.0, 10
# Ratio of the scatter of anchors to their errors above which they disagree.
DISAGREEMENT = 3.0
# If less than this fraction of the pixels remains, none is clipped.
LEAST_KEPT = 0.2


@dataclass(frozen=True, eq=False)
class ZeroPoint:
    """The zero point of images relative to an anchor.

    Parameters
    ----------
    name : str
        The anchor.
    coefficients : `~numpy.ndarray`, shape (3,)
        Level and slopes (per arcmin) to subtract from the images, about their centre.
    covariance : `~numpy.ndarray`, shape (3, 3)
        Covariance of the coefficients.
    colour : float
        Brightness of the anchor divided by that of the images.
    n : int
        Number of pixels that were compared.
    shares : `~numpy.ndarray`, shape (n_images,)
        Share of each image in the compared pixels; the sum is 1.
    path : str
        Path of the anchor's file, blank without one.
    """

    name: str
    coefficients: np.ndarray
    covariance: np.ndarray
    colour: float
    n: int
    shares: np.ndarray
    path: str = ""


@dataclass(frozen=True, eq=False)
class AnchorPixels:
    """Pixels of an anchor, and of the images there.

    Parameters
    ----------
    known, own : `~numpy.ndarray`, shape (n,)
        Values of the anchor, and of the images.
    terms : `~numpy.ndarray`, shape (n, 3)
        One, and the offsets to East and North in arcmin.
    width : float
        Width of a source in arcmin, and the least side of a block of the sky.
    shares : `~numpy.ndarray`, shape (n_images,)
        Share of each image in the pixels.
    """

    known: np.ndarray
    own: np.ndarray
    terms: np.ndarray
    width: float
    shares: np.ndarray


def fit_zero_point(name: str, pixels: AnchorPixels, n_terms: int, colour: float | str) -> ZeroPoint:
    """Fit the images' zero point to the pixels of an anchor, sigma-clipped.

    The anchor equals the colour times (the images minus their zero point). This is linear in the
    colour and in the product of both. A source whose shape differs leaves a residual whose
    sum is zero. It is left out as a whole, because clipping its core alone would make a bias.

    Parameters
    ----------
    name : str
        The anchor.
    pixels : `AnchorPixels`
        The pixels.
    n_terms : {1, 3}
        1 for a constant, 3 for a plane.
    colour : float or "fit"
        Brightness of the anchor divided by that of the images.

    Returns
    -------
    found : `ZeroPoint`
        The zero point.

    Warns
    -----
    LevelMatchWarning
        If fewer than 8 blocks of the sky give the error.
    """
    design = -pixels.terms[:, :n_terms]
    target = pixels.known
    if colour == "fit":
        design = np.column_stack([pixels.own, design])
    else:
        target = pixels.known / colour - pixels.own
    keep = _clipped(design, target, pixels)
    design, target, block = design[keep], target[keep], _blocks(pixels)[keep]
    blocks = np.unique(block)
    if len(blocks) < LEAST_BLOCKS:
        warn_user(
            f"{name}: only {len(blocks)} independent blocks of the sky tell the error of the "
            "anchor's level; take it as a rough one"
        )
    best, factor = _zero_point(design, target, colour)
    covariance = np.full((3, 3), np.nan)
    if len(blocks) > 1:
        ones = [_zero_point(design[block != b], target[block != b], colour)[0] for b in blocks]
        differences = np.array(ones) - np.mean(ones, axis=0)
        covariance = (len(ones) - 1) / len(ones) * differences.T @ differences
    return ZeroPoint(name, best, covariance, factor, len(target), pixels.shares)


def _clipped(design: np.ndarray, target: np.ndarray, pixels: AnchorPixels) -> np.ndarray:
    """Return the flags of pixels that are neither outliers nor near one."""
    keep = np.ones(len(target), dtype=bool)
    for _ in range(ROUNDS):
        residual = target - design @ np.linalg.lstsq(design[keep], target[keep], rcond=None)[0]
        spread = 1.4826 * np.median(np.abs(residual[keep] - np.median(residual[keep])))
        good = np.abs(residual) <= CLIP * max(spread, 1e-12 * np.abs(target).max())
        new = good & ~_near(pixels.terms[:, 1:], ~good, pixels.width)
        if np.count_nonzero(new) < LEAST_KEPT * len(new):
            # With many sources, the mean of all residuals is closer to zero than the mean of few.
            return np.ones(len(target), dtype=bool)
        if (new == keep).all():
            break
        keep = new
    return keep


def _near(places: np.ndarray, bad: np.ndarray, width: float) -> np.ndarray:
    """Return flags of the places that lie within a width of a bad place."""
    if not bad.any():
        return bad
    distance, _ = cKDTree(places[bad]).query(places, distance_upper_bound=width)
    return np.isfinite(distance)


def _blocks(pixels: AnchorPixels) -> np.ndarray:
    """Return the number of the block of the sky that holds each pixel."""
    places = pixels.terms[:, 1:]
    size = np.ptp(places, axis=0)
    side = np.sqrt(np.prod(np.maximum(size, 1e-3 * size.max())) / BLOCKS)
    row, column = np.floor((places - places.min(axis=0)) / max(side, pixels.width)).astype(int).T
    return row * (column.max() + 1) + column


def _zero_point(
    design: np.ndarray, target: np.ndarray, colour: float | str
) -> tuple[np.ndarray, float]:
    """Return the coefficients of the zero point, shape (3,), and the colour."""
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    factor = 1.0 if colour != "fit" else float(solution[0])
    if colour == "fit":
        solution = solution[1:] / factor
    return np.pad(solution, (0, 3 - len(solution))), float(colour) if colour != "fit" else factor


def mean_zero_point(
    found: Sequence[ZeroPoint],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of zero points, by the inverse variances of their levels.

    Returns
    -------
    coefficients, covariance : `~numpy.ndarray`, shape (3,) and (3, 3)
        The mean and its covariance.
    shares : `~numpy.ndarray`, shape (n_images,)
        Share of each image.

    Warns
    -----
    LevelMatchWarning
        If they disagree. The covariance then holds their scatter.
    """
    levels = np.array([f.coefficients[0] for f in found])
    variances = np.array([f.covariance[0, 0] for f in found])
    usable = np.isfinite(variances) & (variances > 0)
    weights = np.where(usable, 1 / np.where(usable, variances, 1.0), 0.0)
    if len(found) == 1 or not usable.any():
        weights = np.ones(len(found))
    mean = weights / weights.sum()
    coefficients = sum(w * f.coefficients for w, f in zip(mean, found, strict=True))
    covariance = sum(w**2 * f.covariance for w, f in zip(mean, found, strict=True) if w > 0)
    shares = sum(w * f.shares for w, f in zip(mean, found, strict=True))
    if np.count_nonzero(usable) > 1:
        covariance = covariance * _disagreement(found, weights, levels - mean @ levels) ** 2
    return np.asarray(coefficients), np.asarray(covariance), np.asarray(shares)


def _disagreement(found, weights, residual):
    """Return the scatter of zero points over their errors, and warn; 1 if it is not significant."""
    usable = weights > 0
    ratio = np.sqrt(weights @ np.square(residual) / (np.count_nonzero(usable) - 1))
    if not ratio > DISAGREEMENT:
        return 1.0
    warn_user(
        f"{', '.join(f.name for f in found)}: the levels of the anchors differ by "
        f"{np.ptp(residual[usable]):.4g}, {ratio:.3g} times what their errors allow; the "
        "stated error is this much larger; look at the anchors"
    )
    return ratio
