# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Units and flux scales in which images are compared."""

import re
from collections.abc import Mapping
from numbers import Real

import numpy as np
from astropy import units as u

from levelmatch.exceptions import FluxScaleWarning, warn_user
from levelmatch.images.sources import FileSource
from levelmatch.images.units import UnknownUnit, is_extensive, is_logarithmic, is_per_beam

__all__ = [
    "area_factors",
    "compare_scales",
    "flux_factors",
    "image_values",
    "to_common_unit",
    "with_output_factors",
]


# Largest ratio of neighbouring pixel areas, in sorted order, of images of one camera.
SAME_CAMERA = 1.1
# Smallest difference of a scale from 1 that is noted.
NOTED = 0.001
# Range of zero points in magnitudes.
ZERO_POINTS = (-10.0, 60.0)
# Largest ratio of a flux scale to the median of the call.
MAX_FACTOR = 1e3
# Range of factors. Beyond it, the product with an image may overflow single precision.
FACTORS = (1e-15, 1e15)
# Option value "1/KEYWORD" for values proportional to a keyword.
_INVERSE = re.compile(r"\s*1(?:\.0*)?\s*/\s*([A-Za-z0-9_-]{1,8})\s*")
# Keywords whose numbers could pass for zero points in magnitudes.
NO_MAGNITUDES = (
    "AIRMASS CCDGAIN DIT EFFEXPTM EXPOSURE EXPTIME FLXSCALE GAIN ITIME NCOMBINE PHOTFLAM PHOTMJSR "
    "RDNOISE TELAPSE TEXPTIME XPOSURE"
).split()


def compare_scales(frames, pixel_area="auto", notes=None):
    """Return the factors that bring the frames to a common unit, and the common unit.

    Surface brightness and brightness temperature are compared directly. Values per beam are
    divided by the solid angle of the beam, relative to the first frame by name. Values per pixel
    (counts, electrons, photons, fluxes) are compared directly between images of one camera,
    because flat-fielded images have equal sky in all pixels. Between cameras they are divided by
    the pixel area.

    Parameters
    ----------
    frames : list of `Frame`
        The frames.
    pixel_area : {"auto", True, False}
        See `~levelmatch.ReadOptions`.
    notes : `~levelmatch.images.notes.Notes` or None
        Receives notes on images that are scaled.

    Returns
    -------
    scales : `~numpy.ndarray`, shape (n,)
        Factors from each frame's unit to the common unit, times its ``output_factor``.
    unit : `~astropy.units.Unit` or None
        The common unit: the unit of the first frame by name.

    Raises
    ------
    `~astropy.units.UnitsError`
        If units cannot be converted, are missing in some frames or are logarithmic; or if only
        some headers have a beam.

    Warns
    -----
    LevelMatchWarning
        If the common unit is not understood.
    FluxScaleWarning
        If pixel areas differ and the unit does not show whether values grow with the area.
    """
    first = min(frames, key=lambda frame: frame.name)
    factors = np.array([_unit_factor(frame, first) for frame in frames])
    factors *= [frame.output_factor for frame in frames]
    if isinstance(first.unit, UnknownUnit):
        msg = (
            f"{first.name}: the unit {str(first.unit)!r} of all images is not understood, and "
            "taken as it is; write BUNIT in astropy's form"
        )
        warn_user(msg)
    beams = _beam_factors(frames, first)
    factors *= beams
    areas = area_factors(frames, pixel_area)
    if is_extensive(first.unit) is None and pixel_area == "auto":
        _warn_unit_without_area(frames, first, areas)
        areas = np.ones(len(frames))
    for kind, scales in (("beam", beams), ("area", areas)):
        for frame, scale in zip(frames, scales.tolist(), strict=True):
            if notes is not None and abs(scale - 1) > NOTED:
                notes.add(kind, frame.name, f"times {scale:.4g}")
    return factors * areas, first.unit


def area_factors(frames, pixel_area="auto"):
    """Return the factors that bring values per pixel to one pixel area.

    Parameters
    ----------
    frames : list of `Frame`
        The frames.
    pixel_area : {"auto", True, False}
        ``"auto"`` uses the mean pixel area of each camera, True the pixel area of each image,
        and False none. Gaps of more than 10 % between the sorted areas separate cameras.

    Returns
    -------
    factors : `~numpy.ndarray`, shape (n,)
        Pixel area of the first frame by name divided by the pixel area of each frame; 1 for
        units whose values do not depend on it.
    """
    first = min(range(len(frames)), key=lambda k: frames[k].name)
    if is_extensive(frames[first].unit) is False or not pixel_area:
        return np.ones(len(frames))
    areas = np.array([frame.grid.pixel_area for frame in frames])
    if pixel_area == "auto":
        areas = _camera_areas(areas)
    return areas[first] / areas


def _camera_areas(areas):
    """Return the mean pixel area of its camera for each image."""
    order = np.argsort(areas, kind="stable")
    gaps = areas[order][1:] > SAME_CAMERA * areas[order][:-1]
    camera = np.concatenate([[0], np.cumsum(gaps)])
    mean = np.bincount(camera, areas[order]) / np.bincount(camera)
    out = np.empty(len(areas))
    out[order] = mean[camera]
    return out


def _warn_unit_without_area(frames, first, areas):
    """Warn of different pixel areas if the unit does not show whether values grow with them."""
    k = int(np.abs(np.log(areas)).argmax())
    if areas[k] == 1:
        return
    name = "no unit" if first.unit is None else f"the unit {str(first.unit)!r}"
    msg = (
        f"{frames[k].name} and {first.name} differ in pixel scale and have {name}: taken as "
        "surface brightness, which does not depend on it; pixel_area=True compares values per "
        "pixel, pixel_area=False confirms surface brightness"
    )
    warn_user(msg, FluxScaleWarning)


def _beam_factors(frames, first):
    """Return the factors that bring values per beam to the beam of a frame; 1 for other units.

    If no header has a beam, the factors are 1. If only some have one, the images are refused.
    """
    if not is_per_beam(first.unit):
        return np.ones(len(frames))
    beams = {frame.name: _beam_area(frame) for frame in frames}
    with_beam = [name for name, beam in beams.items() if beam is not None]
    if not with_beam:
        return np.ones(len(frames))
    for name, beam in beams.items():
        if beam is None:
            msg = (
                f"{name}: its unit is per beam, and its header has no beam (BMAJ, BMIN) as that "
                f"of {with_beam[0]} has; add the two keywords, or convert the images to MJy/sr"
            )
            raise u.UnitsError(msg)
    return np.array([beams[first.name] / beams[frame.name] for frame in frames])


def _beam_area(frame):
    """Return the product of the beam's axes, or `None` without two positive axes."""
    axes = [frame.meta.get(key) for key in ("BMAJ", "BMIN")]
    good = all(isinstance(a, Real) and np.isfinite(a) and a > 0 for a in axes)
    return float(axes[0]) * float(axes[1]) if good else None


def flux_factors(frames, flux_scale):
    """Return the factors that bring the frames to one flux scale.

    Parameters
    ----------
    frames : list of `Frame`
        In the order of the input.
    flux_scale : None, str, sequence or mapping
        Header keyword with the zero point in magnitudes; ``"1/KEYWORD"`` for a keyword to which
        the values are proportional; or factors in the order of the images, or by image name.

    Returns
    -------
    factors : `~numpy.ndarray`, shape (n,)
        Positive factors.

    Raises
    ------
    ValueError
        If a factor is missing, not a positive number or out of range; the message names the
        image.
    """
    if flux_scale is None:
        return np.ones(len(frames))
    inverse = _INVERSE.fullmatch(flux_scale) if isinstance(flux_scale, str) else None
    if inverse is not None:
        values = image_values(frames, inverse[1], "flux_scale")
        factors = values[min(range(len(frames)), key=lambda k: frames[k].product)] / values
    elif isinstance(flux_scale, str):
        return _keyword_factors(frames, flux_scale)
    else:
        factors = image_values(frames, flux_scale, "flux_scale")
    typical = float(np.median(factors))
    for frame, factor in zip(frames, factors.tolist(), strict=True):
        if max(factor / typical, typical / factor) > MAX_FACTOR:
            fault = (
                f"is no flux scale: it differs from the median factor {typical:g} "
                f"by more than {MAX_FACTOR:g} times"
            )
        elif not FACTORS[0] <= factor <= FACTORS[1]:
            fault = (
                f"is beyond {FACTORS[0]:g} to {FACTORS[1]:g}; change the unit of the images instead"
            )
        else:
            continue
        msg = f"{frame.product}: flux_scale: the factor {factor:g} {fault}"
        raise ValueError(msg)
    return factors


def _keyword_factors(frames, keyword):
    """Return the factors from the zero points, in magnitudes, of a header keyword."""
    points = {f.product: _number_of(f, keyword) for f in frames}
    first = min(points)
    for name, point in sorted(points.items(), key=lambda item: -abs(item[1] - points[first])):
        with np.errstate(over="ignore", under="ignore"):
            factor = float(np.power(10.0, -0.4 * (point - points[first])))
        in_range = ZERO_POINTS[0] <= point <= ZERO_POINTS[1]
        close = 1 / MAX_FACTOR <= factor <= MAX_FACTOR
        if keyword.upper() in NO_MAGNITUDES or not (in_range and close):
            msg = (
                f"{name}: flux_scale: the keyword {keyword!r} is {point:g} ({points[first]:g} in "
                f"{first}), which is not a zero point in magnitudes: the factor is {factor:.3g}; "
                f"name the keyword of the zero point, '1/{keyword}' for counts that grow with "
                "it, or the factors themselves"
            )
            raise ValueError(msg)
    return np.array([10 ** (-0.4 * (points[f.product] - points[first])) for f in frames])


def _number_of(frame, keyword):
    """Return the zero point of a frame; refuse a missing one."""
    point = _zero_point(frame, keyword)
    try:
        value = np.nan if isinstance(point, bool) else float(point)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        msg = (
            f"{frame.product}: flux_scale: the keyword {keyword!r} is missing or not a number: "
            f"{frame.meta.get(keyword)!r}"
        )
        raise ValueError(msg)
    return value


def image_values(frames, values, argument):
    """Return a positive number for each frame.

    Parameters
    ----------
    frames : list of `Frame`
        In the order of the input.
    values : str, sequence or mapping
        Header keyword with the numbers, or numbers in the order of the images or files, or by
        name.
    argument : str
        Name of the argument, for error messages.

    Returns
    -------
    numbers : `~numpy.ndarray`, shape (n,)
        The numbers.

    Raises
    ------
    TypeError
        If the values have another type.
    ValueError
        If a number is missing or not positive; the message names the image.
    """
    if not isinstance(values, str | Mapping) and not hasattr(values, "__len__"):
        msg = f"{argument}: {values!r} is neither a keyword, a list nor a mapping of numbers"
        raise TypeError(msg)
    images = list(dict.fromkeys(frame.product for frame in frames))
    if isinstance(values, str):
        found = {f.product: f.meta.get(values) for f in frames}
        return _positive(frames, found, argument, f"the keyword {values!r}")
    if isinstance(values, Mapping):
        found = {
            f.product: values.get(f.product, values.get(f.name, values.get(f.file))) for f in frames
        }
    else:
        files = list(dict.fromkeys(frame.file for frame in frames))
        if len(values) == len(files) < len(images):
            of_file = dict(zip(files, values, strict=True))
            values = [of_file[f] for f in {f.product: f.file for f in frames}.values()]
        if len(values) != len(images):
            msg = f"{argument}: {len(values)} factors for {len(images)} images"
            raise ValueError(msg)
        found = dict(zip(images, values, strict=True))
    return _positive(frames, found, argument, "the factor")


def _positive(frames, values, argument, source):
    """Return the number for each frame; refuse missing and non-positive numbers."""
    for name, value in values.items():
        if not (isinstance(value, Real) and np.isfinite(value) and value > 0):
            msg = f"{name}: {argument}: {source} is missing or not a positive number: {value!r}"
            raise ValueError(msg)
    return np.array([float(values[frame.product]) for frame in frames])


def to_common_unit(frames, factors=1.0, pixel_area="auto", notes=None):
    """Return the frames with their scales to the common unit, and the common unit.

    Parameters
    ----------
    frames : list of `Frame`
        The frames.
    factors : float or `~numpy.ndarray`, shape (n,)
        Factors to a common flux scale, see `flux_factors`.
    pixel_area : {"auto", True, False}
        See `~levelmatch.ReadOptions`.
    notes : `~levelmatch.images.notes.Notes` or None
        Receives notes on images that are scaled.

    Returns
    -------
    frames : list of `Frame`
        The frames, whose ``scale`` is the product of the unit's and the flux scale's factor.
    unit : `~astropy.units.Unit` or None
        The common unit, see `compare_scales`.
    """
    scales, unit = compare_scales(frames, pixel_area, notes)
    scales = scales * factors
    return [f.with_keys(scale=s) for f, s in zip(frames, scales, strict=True)], unit


def with_output_factors(frames, factors, flux_scale):
    """Return the frames with the factors of their corrected pixels in the output.

    The factors multiply the factors of an earlier function.

    Parameters
    ----------
    frames : list of `Frame`
        The frames.
    factors : `~numpy.ndarray`, shape (n,)
        See `flux_factors`.
    flux_scale : None, str, sequence or mapping
        The option. For a keyword, the header of the output gets a new zero point.

    Returns
    -------
    frames : list of `Frame`
        The frames with new ``output_factor`` and ``zero_point``.
    """
    is_keyword = isinstance(flux_scale, str) and _INVERSE.fullmatch(flux_scale) is None
    keyword = flux_scale if is_keyword else ""
    return [
        frame.with_keys(
            output_factor=float(frame.output_factor * factor),
            zero_point=keyword or frame.zero_point,
        )
        for frame, factor in zip(frames, factors, strict=True)
    ]


def _zero_point(frame, keyword):
    """Return the zero point in a frame's header, adjusted to the factor of an earlier function."""
    point = frame.meta.get(keyword)
    if frame.zero_point != keyword:
        return point
    try:
        return float(point) + 2.5 * np.log10(frame.output_factor)
    except (TypeError, ValueError):
        return None


def _with_adu(unit):
    """Return a unit with adu in place of DN, two words for one unit that astropy keeps apart."""
    bases = getattr(unit, "bases", [])
    if u.DN not in bases:
        return unit
    return unit * (u.adu / u.DN) ** unit.powers[bases.index(u.DN)]


def _unit_factor(frame, first):
    """Return the factor from the unit of a frame to the unit of the first frame."""
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
        return float(_with_adu(frame.unit).to(_with_adu(first.unit)))
    except (TypeError, u.UnitsError) as error:
        msg = (
            f"{frame.name}: its unit ({frame.unit}) cannot be compared with that of "
            f"{first.name} ({first.unit}); convert one of them"
        )
        raise u.UnitsError(msg) from error
