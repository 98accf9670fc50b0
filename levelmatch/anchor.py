# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The absolute level of matched images from external images or sky values."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import NDData
from scipy.ndimage import map_coordinates
from scipy.signal import oaconvolve

from levelmatch.exceptions import FrameError, NoOverlapError
from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.images.frame import Frame
from levelmatch.images.inputs import collect_frames
from levelmatch.images.scales import to_common_unit
from levelmatch.images.units import in_arcsec, in_unit, unit_text
from levelmatch.measure.disc import disc_mean
from levelmatch.options import FIT_TYPES, ReadOptions, fit_terms
from levelmatch.record.run import Run, history_entry
from levelmatch.results.mosaic import compared_mosaic, make_mosaic
from levelmatch.results.result import MatchResult
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import lonlat, plane_terms, tangent_axes, transfer_matrix, unit_vectors
from levelmatch.solve.zero_points import AnchorPixels, ZeroPoint, fit_zero_point, mean_zero_point

__all__ = ["anchor_levels"]

# Number of mosaic pixels per full width at half maximum, or per pixel of the anchor.
FINE = 8
# Largest number of samples across a pixel of the anchor.
MOST_SAMPLES = 16
# Smallest fraction of the kernel on good pixels for a smoothed value.
LEAST_WEIGHT = 0.99
# Width of a source and smallest side of a jackknife block, in widths of the kernel or sides of an
# anchor's pixel.
BLOCK_WIDTH = 2.0
# Variance added to the PSF by averaging over pixels of the mosaic (1/12), by linear interpolation
# there (1/6), and by pixels of the images that are half as large or larger, in square pixels.
BROADENING = 0.3
# Number of places at which images share the mosaic.
SHARE_POINTS = 1000
# Full width at half maximum of a Gaussian, in standard deviations.
FWHM = 2 * np.sqrt(2 * np.log(2))


def anchor_levels(
    result: MatchResult,
    anchor: Any,
    *,
    fit_type: str = "level",
    fwhm: float | u.Quantity | None = None,
    kernel: Any = None,
    colour: float | str = 1.0,
    read: ReadOptions | None = None,
) -> MatchResult:
    """Bring matched images to the absolute level of external images or sky values.

    One constant, or one plane, is subtracted from all images.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The matched images.
    anchor : image, path, tuple, or list of these
        An image of known background, in a unit that converts to the unit of the images: a path,
        `~astropy.nddata.CCDData` or `~astropy.nddata.NDData`. Or the sky value of a place: a
        tuple of `~astropy.coordinates.SkyCoord`, the value (a number in the common unit, or a
        `~astropy.units.Quantity`) and optionally its standard error. Several anchors are
        averaged with inverse-variance weights.
    fit_type : {"level", "level+slope"}
        Whether to fit one constant or one plane. Sky values of places only fit a constant.
    fwhm : float, `~astropy.units.Quantity` or None
        Full width at half maximum, in arcsec if a number, of the Gaussian that smooths the
        images to the resolution of the anchor. By default the geometric mean of the header cards
        BMAJ and BMIN; without these, the images are only averaged over the pixels of the anchor.
        For the sky value of a place, the diameter of the averaged disc.
    kernel : array_like, `~astropy.convolution.Kernel` or None
        Kernel that replaces the Gaussian, on square pixels of an eighth of ``fwhm``, with an odd
        number of rows and columns.
    colour : float or "fit"
        Brightness of the anchor divided by the brightness of the images for the same sky.
        ``"fit"`` fits this ratio, which requires sky of different brightness.
    read : `~levelmatch.ReadOptions` or None
        How image files of anchors are read.

    Returns
    -------
    result : `~levelmatch.MatchResult`
        The images with an additional correction named ``"anchor"``. Their errors are
        errors of absolute levels, for any reference. In sets of thousands of images, they contain
        the error relative to the reference instead of the error relative to the mean.

    Raises
    ------
    TypeError, ValueError
        If an argument is not understood; the message names it.
    NoOverlapError
        If an anchor has no good pixel within the mosaic.
    FrameError
        If an anchor cannot be used, or the result already has an anchor.

    Warns
    -----
    LevelMatchWarning
        If fewer than 8 independent blocks of sky determine the error, or if several anchors
        differ by more than three times their errors.

    Notes
    -----
    The images are combined without the regions that ``ReadOptions(regions=...)`` left out,
    smoothed, and averaged over the pixels of the anchor. Differences
    from the anchor are sigma-clipped. The standard error is estimated by a delete-one jackknife
    over blocks of the sky that are larger than the kernel. It therefore includes errors that are
    correlated within a block, such as sources of other colours.
    """
    _check_result(result)
    fit_type = _checked_fit_type(fit_type)
    _check_colour(colour)
    axes = tangent_axes(np.mean([frame.whole_grid.axes[0] for frame in result.frames], axis=0))
    items = anchor if isinstance(anchor, list) else [anchor]
    _check_repeats(items)
    found = []
    for item in items:
        if isinstance(item, tuple):
            found.append(_at_place(result, item, fwhm))
        else:
            frame = _anchor_frame(result, item, read)
            pixels = _compared(result, frame, axes, fwhm, kernel)
            one = fit_zero_point(frame.name, pixels, fit_terms(fit_type), colour)
            path = str(Path(item).absolute()) if isinstance(item, str | Path) else ""
            found.append(replace(one, path=path))
    coefficients, covariance, shares = mean_zero_point(found)
    added = _changed_gauge(result, shares)
    frames = [
        _corrected(f, coefficients, covariance, axes, found, variance)
        for f, variance in zip(result.frames, added, strict=True)
    ]
    asked = {
        "fwhm": None if fwhm is None else _width(fwhm, None),
        "asked_colour": colour,
        "fit_type": fit_type,
    }
    run = _run(result, found, coefficients, covariance, asked)
    return MatchResult(frames, result.passes, result.measured, run, result.overlaps)


# --------------------------------------------------------------------------------------
# Arguments


def _check_result(result: Any) -> None:
    if not isinstance(result, MatchResult):
        msg = (
            f"result: expected a MatchResult, not {type(result).__name__}; recorded_result makes "
            "one from a record and its images"
        )
        raise TypeError(msg)
    if "anchor" in result.run.options:
        msg = f"{result.run.options['anchor']['names'][0]}: the result already has this anchor"
        raise FrameError(msg)


def _checked_fit_type(fit_type: str) -> str:
    fit_terms(fit_type)
    if FIT_TYPES[fit_type] == "auto":
        msg = "fit_type: an anchor fits 'level' or 'level+slope', not 'auto'"
        raise ValueError(msg)
    return FIT_TYPES[fit_type]


def _check_colour(colour: float | str) -> None:
    if colour == "fit":
        return
    if isinstance(colour, bool) or not isinstance(colour, Real) or not 0 < float(colour) < np.inf:
        msg = f"colour: {colour!r} is neither a positive number nor 'fit'"
        raise ValueError(msg)


def _check_repeats(items: list[Any]) -> None:
    """Refuse no anchor, and a file that is named twice."""
    if not items:
        msg = "anchor: the list is empty; give an image or a sky value"
        raise ValueError(msg)
    paths = [Path(item).resolve() for item in items if isinstance(item, str | Path)]
    twice = next((path for k, path in enumerate(paths) if path in paths[:k]), None)
    if twice is not None:
        msg = f"anchor: {twice.name} is named twice; name it once"
        raise ValueError(msg)


def _width(fwhm: Any, frame: Frame | None) -> float | None:
    """Return the full width at half maximum in arcsec, or `None`."""
    if fwhm is None:
        beam = [] if frame is None else [frame.meta.get(key) for key in ("BMAJ", "BMIN")]
        good = len(beam) == 2 and all(isinstance(b, Real) and 0 < float(b) < 1 for b in beam)
        return 3600 * float(np.sqrt(beam[0] * beam[1])) if good else None
    return in_arcsec("fwhm", fwhm)


def _kernel(kernel: Any, samples: float) -> np.ndarray:
    """Return the normalized kernel, by default a Gaussian with a width of ``samples`` pixels."""
    if kernel is None:
        half = int(np.ceil(2 * samples))
        y, x = np.mgrid[-half : half + 1, -half : half + 1]
        variance = max((samples / FWHM) ** 2 - BROADENING, 1e-2)
        values = np.exp(-0.5 * (x**2 + y**2) / variance)
    else:
        values = np.asarray(getattr(kernel, "array", kernel), dtype=float)
        odd = values.ndim == 2 and all(n % 2 for n in values.shape)
        if not odd or not np.isfinite(values).all() or not values.sum() > 0:
            msg = f"kernel: shape {values.shape}: expected odd sides and a positive sum"
            raise ValueError(msg)
    return values / values.sum()


# --------------------------------------------------------------------------------------
# The sky at a place


def _at_place(result: MatchResult, item: tuple, fwhm: Any) -> ZeroPoint:
    """Return the zero point from the sky value of a place."""
    one_place = isinstance(item[0], SkyCoord) and item[0].isscalar if item else False
    if not 2 <= len(item) <= 3 or not one_place:
        msg = f"anchor: {item!r}: expected (SkyCoord, value) or (SkyCoord, value, error)"
        raise TypeError(msg)
    value, *error = (in_unit("anchor", number, result.unit) for number in item[1:])
    if any(number < 0 for number in error):
        msg = f"anchor: the error of the sky value is negative: {item[2]!r}"
        raise ValueError(msg)
    place = item[0].icrs
    name = f"the sky at {place.ra.deg:.5f} {place.dec.deg:+.5f}"
    width = _width(fwhm, None)
    scale = _pixel_side(result) if width is None else max(width / FINE, _pixel_side(result))
    mosaic, _ = make_mosaic(result, pixel_scale=scale)
    y, x = np.indices(mosaic.shape)
    sky = SkyTransform(mosaic.wcs, name).to_sky(x, y)
    centre = unit_vectors(place.ra.deg, place.dec.deg)
    radius = (5 * scale if width is None else width) / 2 / 3600
    near = np.asarray(sky) @ np.asarray(centre) > np.cos(np.radians(radius))
    inside = near & ~mosaic.mask
    if np.count_nonzero(inside) < 4:
        msg = f"anchor: {name}: the images have no good pixel there"
        raise NoOverlapError(msg)
    x0, y0 = mosaic.wcs.world_to_pixel(place)
    values = np.where(mosaic.mask, np.nan, mosaic.data)
    mean, variance = disc_mean(values, inside, (float(y0), float(x0)))
    variance += sum(e**2 for e in error)
    level, shares = np.array([mean - value, 0, 0]), _shares(result, np.asarray(sky)[inside])
    n = int(np.count_nonzero(inside))
    return ZeroPoint(name, level, np.diag([variance, 0, 0]), 1.0, n, shares)


def _pixel_side(result: MatchResult) -> float:
    """Return the side of the finest pixel, in arcsec."""
    return 3600 * float(np.degrees(np.sqrt(min(f.grid.pixel_area for f in result.frames))))


# --------------------------------------------------------------------------------------
# An image


def _compared(
    result: MatchResult, frame: Frame, axes: np.ndarray, fwhm: Any, kernel: Any
) -> AnchorPixels:
    """Return the pixels of an image of known background, and of the images there."""
    width = _width(fwhm, frame)
    if kernel is not None and width is None:
        msg = "kernel: give fwhm, which sets the size of its pixels"
        raise ValueError(msg)
    side = 3600 * float(np.degrees(np.sqrt(frame.grid.pixel_area)))
    scale = max((side if width is None else width) / FINE, _pixel_side(result))
    mosaic = compared_mosaic(result, scale)
    values = np.where(mosaic.mask, np.nan, mosaic.data).astype(float)
    if width is not None:
        values = _smoothed(values, _kernel(kernel, width / scale))
    known, x, y = _known_pixels(frame, mosaic.wcs, values.shape)
    n = min(int(np.ceil(side / scale)), MOST_SAMPLES)
    averaged = _averaged(values, mosaic.wcs, frame, x, y, n)
    good = np.isfinite(known) & np.isfinite(averaged)
    if np.count_nonzero(good) < 4:
        msg = f"{frame.name}: the anchor and the smoothed images share no good pixel"
        raise NoOverlapError(msg)
    vectors = frame.transform.to_sky(x[good], y[good])
    wide = BLOCK_WIDTH * max(width or 0.0, side) / 60
    terms, shares = plane_terms(vectors, axes), _shares(result, vectors)
    return AnchorPixels(known[good], averaged[good], terms, wide, shares)


def _anchor_frame(result: MatchResult, item: Any, read: ReadOptions | None) -> Frame:
    """Return the frame of an anchor, scaled to the common unit of the images."""
    if isinstance(item, NDData) and not item.meta.get("FILENAME"):
        # Errors and the gauge name it.
        item = copy.copy(item)
        item.meta = {**item.meta, "FILENAME": "the anchor"}
    frame, *others = collect_frames([item], read)
    if others:
        msg = (
            f"{frame.name}: the anchor's file has {len(others) + 1} images; choose one by "
            "read=ReadOptions(hdu=...)"
        )
        raise FrameError(msg)
    first = result.frames[0]
    # Either unit may be the common one, because only the ratio of the two scales is used.
    pair = [first.with_keys(output_factor=1.0), frame]
    (one, other), _ = to_common_unit(pair, pixel_area="auto")
    return frame.with_keys(scale=other.scale / one.scale * first.scale)


def _smoothed(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return smoothed values, NaN where more than 1 % of the kernel lies on bad pixels."""
    good = np.isfinite(values)
    weight = oaconvolve(good.astype(float), kernel, mode="same")
    # Values relative to their median keep rounding errors small.
    middle = np.median(values[good])
    total = oaconvolve(np.where(good, values - middle, 0.0), kernel, mode="same")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight >= LEAST_WEIGHT, middle + total / weight, np.nan)


def _known_pixels(
    frame: Frame, wcs: Any, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels of the anchor in the box that the mosaic covers, and their x and y."""
    ny, nx = shape
    edge = [np.linspace(-0.5, n - 0.5, 32) for n in (nx, ny)]
    x = np.concatenate([edge[0], edge[0], np.full(32, -0.5), np.full(32, nx - 0.5)])
    y = np.concatenate([np.full(32, -0.5), np.full(32, ny - 0.5), edge[1], edge[1]])
    bounds = frame.transform.to_pixel(SkyTransform(wcs, frame.name).to_sky(x, y))
    bounds = [b[np.isfinite(b)] for b in bounds]
    if not all(len(b) for b in bounds):
        raise NoOverlapError(_no_overlap(frame))
    lows = [max(int(np.floor(b.min())) - 1, 0) for b in bounds]
    highs = [
        min(int(np.ceil(b.max())) + 2, n) for b, n in zip(bounds, frame.shape[::-1], strict=True)
    ]
    if any(low >= high for low, high in zip(lows, highs, strict=True)):
        raise NoOverlapError(_no_overlap(frame))
    box = slice(lows[1], highs[1]), slice(lows[0], highs[0])
    values = np.asarray(frame.read()[0][box], dtype=float)
    y, x = np.mgrid[box]
    return values, x, y


def _no_overlap(frame: Frame) -> str:
    return f"{frame.name}: the anchor does not overlap the images; look at its WCS"


def _averaged(
    values: np.ndarray, wcs: Any, frame: Frame, x: np.ndarray, y: np.ndarray, n: int
) -> np.ndarray:
    """Return the mean of the mosaic over each pixel of the anchor, NaN unless fully covered."""
    total = np.zeros(x.shape)
    target = SkyTransform(wcs, frame.name)
    offsets = (np.arange(n) + 0.5) / n - 0.5
    for dy in offsets:
        for dx in offsets:
            column, row = target.to_pixel(frame.transform.to_sky(x + dx, y + dy))
            total += _interpolated(values, row, column)
    return total / n**2


def _interpolated(values: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return bilinearly interpolated values, NaN outside of the array or beside a bad pixel."""
    at = np.stack([row, column])
    # Positions without a value are moved outside.
    at[:, ~np.isfinite(at).all(axis=0)] = -9
    return map_coordinates(values, at, order=1, mode="constant", cval=np.nan)


def _shares(result: MatchResult, vectors: np.ndarray) -> np.ndarray:
    """Return the share of each image in the mosaic at unit vectors, shape (n_images,)."""
    some = vectors[:: max(len(vectors) // SHARE_POINTS, 1)]
    inside = np.zeros((len(result.frames), len(some)))
    for k, frame in enumerate(result.frames):
        x, y = frame.transform.to_pixel(some)
        ny, nx = frame.shape
        with np.errstate(invalid="ignore"):
            inside[k] = (np.abs(x - (nx - 1) / 2) < nx / 2) & (np.abs(y - (ny - 1) / 2) < ny / 2)
    shares = (inside / np.maximum(inside.sum(axis=0), 1)).sum(axis=1)
    return shares / max(shares.sum(), 1)


# --------------------------------------------------------------------------------------
# The result


def _changed_gauge(result: MatchResult, shares: np.ndarray) -> np.ndarray:
    """Return the changes of the levels' variances if their mean is fixed, shape (n_images,).

    The anchor fixes the mean of the levels, weighted by the shares of the images.
    """
    carried = result.passes[-1].carried if result.passes else None
    if carried is None:
        return np.zeros(len(shares))
    order = np.asarray(result.rank)
    own = np.zeros(len(shares))
    own[order] = shares
    with_mean = carried.with_mean(own)
    return (own @ with_mean - 2 * with_mean)[order]


def _corrected(
    frame: Frame,
    coefficients: np.ndarray,
    covariance: np.ndarray,
    axes: np.ndarray,
    found: Sequence[ZeroPoint],
    added: float,
) -> Frame:
    """Return a frame with the correction by the anchor appended, in the unit of the frame."""
    correction = Correction.from_coefficients(coefficients, axes).scaled(1 / frame.scale)
    change = np.eye(3)
    if np.any(coefficients[1:]):
        change = transfer_matrix(axes, frame.whole_grid.axes)
    variance = np.diagonal(change @ covariance @ change.T) + [added, 0, 0]
    variance = variance / frame.scale**2
    names = ", ".join(f.name for f in found)
    applied = AppliedCorrection("anchor", correction, variance, names)
    return frame.with_keys(corrections=(*frame.corrections, applied))


def _run(
    result: MatchResult,
    found: Sequence[ZeroPoint],
    coefficients: np.ndarray,
    covariance: np.ndarray,
    asked: dict[str, Any],
) -> Run:
    """Return the run with the anchor added to its options and history."""
    run, entry = result.run, history_entry("anchor_levels", len(result.frames))
    lon, lat = lonlat(np.mean([f.whole_grid.axes[0] for f in result.frames], axis=0))
    anchor = {
        "names": [f.name for f in found],
        "paths": [f.path for f in found],
        **asked,
        "level": float(coefficients[0]),
        "error": float(np.sqrt(covariance[0, 0])),
        "slopes": [float(s) for s in coefficients[1:]],
        "centre": [float(lon), float(lat)],
        "unit": "" if result.unit is None else unit_text(result.unit),
        "colour": [float(f.colour) for f in found],
        "pixels": [f.n for f in found],
    }
    return replace(
        run,
        options={**run.options, "anchor": anchor},
        created=entry["time"],
        versions=entry["software"],
        history=[*run.history, entry],
    )
