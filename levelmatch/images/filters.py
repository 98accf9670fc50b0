# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Refuse to match images of different filters, Stokes parameters or frequencies."""

import math
import re
from numbers import Real

from levelmatch.exceptions import FrameError

__all__ = ["check_filters", "filters_of"]


# Keywords of optical elements, by family; an instrument writes the keywords of one family.
FAMILIES = {
    "FILTER": ("FILTER", "PUPIL"),
    "FILTER1": ("FILTER1", "FILTER2", "FILTER3", "FILTER4", "FILTNAM1", "FILTNAM2", "FILTER01"),
    "ESO INS FILT1 NAME": ("ESO INS FILT1 NAME", "ESO INS FILT2 NAME"),
    "BAND": ("BAND",),
    "OPTELEM": ("OPTELEM",),
    "CHNLNUM": ("CHNLNUM",),
    # AstroWISE (OmegaCAM), and Herschel.
    "FILT_ID": ("FILT_ID",),
    "WAVELNTH": ("WAVELNTH",),
}
# Names of wheel positions without a filter.
_CLEAR = re.compile(
    r"(CLEAR|OPEN|EMPTY|NONE|AIR)[A-Z]?[-_ ]?[0-9]*([-_ ][0-9A-Z]*)?$", re.IGNORECASE
)
# Stokes parameters and correlations of FITS.
_STOKES = dict(
    zip(
        (*range(1, 5), *range(-1, -9, -1)),
        ("I", "Q", "U", "V", "RR", "LL", "RL", "LR", "XX", "YY", "XY", "YX"),
        strict=True,
    )
)
# Largest ratio of the frequencies of images that are matched.
SAME_FREQUENCY = 1.1
_UNKNOWN = ("", "N/A", "NA", "NULL", "UNKNOWN", "UNDEFINED")


def filters_of(meta):
    """Return the optical elements that a header names, by family of keywords.

    Parameters
    ----------
    meta : mapping
        Header.

    Returns
    -------
    elements : dict of str to frozenset of str
        Names of the elements for each family with a value. ``"CLEAR"`` appears only if no
        wheel of the family holds a filter.
    """
    elements = {}
    # PUPIL is a filter wheel of two instruments of JWST, not for example of Mosaic-3.
    names = [str(meta.get(key, "")).strip().upper() for key in ("TELESCOP", "INSTRUME")]
    others = names[0] not in ("", "JWST") or names[1] not in ("NIRCAM", "NIRISS")
    for family, keywords in FAMILIES.items():
        values = [_name(meta.get(key)) for key in keywords if not (others and key == "PUPIL")]
        values = {value for value in values if value}
        if values:
            elements[family] = frozenset(values - {"CLEAR"} or {"CLEAR"})
    return elements


def _name(value):
    """Return the normalized name of a filter, or an empty string without one."""
    text = " ".join(str("" if value is None else value).split())
    if text.upper() in _UNKNOWN:
        return ""
    if _CLEAR.match(text):
        return "CLEAR"
    # R and r are different filters.
    return text if len(text) == 1 else text.upper()


def check_filters(frames, *, by_tile=False):
    """Check that frames have the same filter, Stokes parameter and frequency.

    The Stokes parameter and the frequency are those of the axes of one pixel of radio images.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The frames.
    by_tile : bool
        Compare only the images of each tile.

    Raises
    ------
    FrameError
        If two images have different filters; the message names both.
    """
    firsts = {}
    frames = sorted(frames, key=lambda frame: frame.name)
    _check_frequencies(frames, by_tile=by_tile)
    for frame in frames:
        filters = filters_of(frame.meta) | _stokes(frame.meta)
        if not filters:
            continue
        first, expected = firsts.setdefault(frame.tile if by_tile else "", (frame, filters))
        if not _agree(expected, filters):
            msg = (
                f"{first.name} is of the filter {_words(expected)}, {frame.name} of "
                f"{_words(filters)}: their emission differs, so their levels cannot be matched; "
                "match each filter by itself, or give mix_filters=True"
            )
            raise FrameError(msg)


def _stokes(meta):
    """Return the Stokes parameter of an image, as `filters_of` returns filters."""
    value = _coordinate(meta, "STOKES")
    name = None if value is None else _STOKES.get(round(value))
    return {} if name is None else {"STOKES": frozenset({f"Stokes {name}"})}


def _coordinate(meta, kind):
    """Return the coordinate of the only pixel of a linear axis, or `None` without it."""
    for axis in range(3, 6):
        if str(meta.get(f"CTYPE{axis}", "")).strip().upper() != kind:
            continue
        cards = (("CRVAL", 0.0), ("CDELT", 1.0), ("CRPIX", 0.0))
        numbers = [meta.get(f"{key}{axis}", default) for key, default in cards]
        if all(isinstance(x, Real) and math.isfinite(x) for x in numbers):
            value, step, pixel = numbers
            return float(value + (1 - pixel) * step)
    return None


def _check_frequencies(frames, *, by_tile):
    """Refuse images of a tile, or of all, whose frequencies differ by more than 10 %."""
    found = {}
    for frame in frames:
        frequency = _coordinate(frame.meta, "FREQ")
        if frequency is not None and frequency > 0:
            found.setdefault(frame.tile if by_tile else "", []).append((frequency, frame.name))
    for values in found.values():
        # Of equal frequencies, the first name.
        low = min(values, key=lambda item: item[0])
        high = max(values, key=lambda item: item[0])
        if high[0] > SAME_FREQUENCY * low[0]:
            msg = (
                f"{low[1]} is of the frequency {low[0] / 1e9:.4g} GHz, {high[1]} of "
                f"{high[0] / 1e9:.4g} GHz: their emission differs, so their levels cannot be "
                "matched; match each frequency by itself, or give mix_filters=True"
            )
            raise FrameError(msg)


def _agree(one, other):
    """Return whether the elements of two images agree, in the families that both have."""
    common = one.keys() & other.keys()
    if common:
        return all(one[family] == other[family] for family in common)
    return frozenset().union(*one.values()) == frozenset().union(*other.values())


def _words(filters):
    return " ".join("+".join(sorted(names)) for names in filters.values())
