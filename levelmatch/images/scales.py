# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Units and flux scales in which images are compared."""

import warnings
from collections.abc import Mapping
from numbers import Real

import numpy as np
from astropy import units as u

from levelmatch.exceptions import FluxScaleWarning, LevelMatchWarning
from levelmatch.images.sources import FileSource
from levelmatch.images.units import UnknownUnit, is_extensive, is_logarithmic

__all__ = ["compare_scales", "flux_factors", "image_values", "scaled_frames"]


# Pixels whose areas differ by less than this part are of one scale.
SAME_AREA = 0.02


def compare_scales(frames):
    """Return the factors that bring the frames to one unit, and that unit.

    Surface brightness and brightness temperature compare directly; counts, fluxes and
    what is per pixel are scaled by the solid angle of the pixel, to that of the first frame
    by name.

    Parameters
    ----------
    frames : list of `Frame`
        The frames.

    Returns
    -------
    scales : `~numpy.ndarray`, shape (n,)
        Factors from each frame's unit to the common one, and to the flux scale in which
        it comes out.
    unit : `~astropy.units.Unit` or None
        The common unit: that of the first frame by name.

    Raises
    ------
    `~astropy.units.UnitsError`
        If units differ in kind, or are logarithmic.

    Warns
    -----
    LevelMatchWarning
        If the common unit is not understood.
    FluxScaleWarning
        If pixel scales differ, and the unit does not tell whether values grow with them.
    """
    first = min(frames, key=lambda frame: frame.name)
    factors = np.array([_unit_factor(frame, first) for frame in frames])
    factors *= [frame.output_factor for frame in frames]
    if isinstance(first.unit, UnknownUnit):
        msg = (
            f"{first.name}: the unit {str(first.unit)!r} of all images is not understood, and "
            "taken as it is; write BUNIT as astropy does"
        )
        warnings.warn(msg, LevelMatchWarning, stacklevel=4)
    extensive = is_extensive(first.unit)
    if extensive is False:
        return factors, first.unit
    areas = first.grid.pixel_area / np.array([frame.grid.pixel_area for frame in frames])
    if extensive:
        return factors * areas, first.unit
    k = int(np.abs(np.log(areas)).argmax())
    if abs(np.log(areas[k])) > SAME_AREA:
        name = "no unit" if first.unit is None else f"the unit {str(first.unit)!r}"
        msg = (
            f"{frames[k].name} and {first.name} differ in pixel scale and have {name}: taken as "
            "surface brightness, which does not depend on it; give a unit, such as ct, if it does"
        )
        warnings.warn(msg, FluxScaleWarning, stacklevel=4)
    return factors, first.unit


def flux_factors(frames, flux_scale):
    """Return the factors that bring the frames to one flux scale, shape (n,).

    Parameters
    ----------
    frames : list of `Frame`
        In the order of the input.
    flux_scale : None, str, sequence or mapping
        A header keyword with the zero point in magnitudes, factors in the order of
        the images, or by their names.

    Raises
    ------
    ValueError
        If a factor is missing or not a positive number; the message names the image.
    """
    if flux_scale is None:
        return np.ones(len(frames))
    if isinstance(flux_scale, str):
        points = {f.product: _zero_point(f, flux_scale) for f in frames}
        first = points[min(points)]
        values = {name: _zero_point_factor(point, first) for name, point in points.items()}
        return _positive(frames, values, "flux_scale", f"the keyword {flux_scale!r}")
    return image_values(frames, flux_scale, "flux_scale")


def image_values(frames, values, argument):
    """Return a positive number for each frame.

    Parameters
    ----------
    frames : list of `Frame`
        In the order of the input.
    values : str, sequence or mapping
        A header keyword with the numbers, numbers in the order of the images, or by
        their names.
    argument : str
        What they are, for error messages.

    Raises
    ------
    ValueError
        If a number is missing or not positive; the message names the image.
    """
    images = list(dict.fromkeys(frame.product for frame in frames))
    if isinstance(values, str):
        found = {f.product: f.meta.get(values) for f in frames}
        return _positive(frames, found, argument, f"the keyword {values!r}")
    if isinstance(values, Mapping):
        found = {f.product: values.get(f.product, values.get(f.name)) for f in frames}
    else:
        if len(values) != len(images):
            msg = f"{argument}: {len(values)} factors for {len(images)} images"
            raise ValueError(msg)
        found = dict(zip(images, values, strict=True))
    return _positive(frames, found, argument, "the factor")


def _positive(frames, values, argument, source):
    """Return the numbers of frames by the names of their images, all of them positive."""
    for name, value in values.items():
        if not (isinstance(value, Real) and np.isfinite(value) and value > 0):
            msg = f"{name}: {argument}: {source} is missing or not a positive number: {value!r}"
            raise ValueError(msg)
    return np.array([float(values[frame.product]) for frame in frames])


def scaled_frames(frames, factors, flux_scale):
    """Return the frames with factors that their pixels are to be multiplied by in the end.

    Parameters
    ----------
    frames : list of `Frame`
        The frames.
    factors : `~numpy.ndarray`, shape (n,)
        See `flux_factors`.
    flux_scale : None, str, sequence or mapping
        Where they come from; a keyword's zero point changes along.
    """
    keyword = flux_scale if isinstance(flux_scale, str) else ""
    return [
        frame.with_keys(
            output_factor=float(frame.output_factor * factor),
            zero_point=keyword or frame.zero_point,
        )
        for frame, factor in zip(frames, factors, strict=True)
    ]


def _zero_point(frame, keyword):
    """Zero point of a frame's header, moved by what an earlier function has done to it."""
    point = frame.meta.get(keyword)
    if frame.zero_point != keyword:
        return point
    try:
        return float(point) + 2.5 * np.log10(frame.output_factor)
    except (TypeError, ValueError):
        return None


def _zero_point_factor(point, first):
    """Factor from the counts of one magnitude zero point to those of another, or `None`."""
    try:
        return float(10 ** (-0.4 * (float(point) - float(first))))
    except (TypeError, ValueError):
        return None


def _unit_factor(frame, first):
    if frame.unit == first.unit:
        if is_logarithmic(frame.unit):
            msg = (
                f"{frame.name}: levels of a logarithmic unit ({frame.unit}) cannot be matched; "
                "convert the images to linear units"
            )
            raise u.UnitsError(msg)
        return 1.0
    if frame.unit is None or first.unit is None:
        bare, other = (frame, first) if frame.unit is None else (first, frame)
        key = "BUNIT" if isinstance(bare.source, FileSource) else "unit"
        msg = f"{bare.name} has no {key}, {other.name} has {other.unit}; add {key}"
        raise u.UnitsError(msg)
    try:
        return float(frame.unit.to(first.unit))
    except (TypeError, u.UnitsError) as error:
        msg = (
            f"{frame.name}: its unit ({frame.unit}) cannot be compared with that of "
            f"{first.name} ({first.unit}); convert one of them"
        )
        raise u.UnitsError(msg) from error
