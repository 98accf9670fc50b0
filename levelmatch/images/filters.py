# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Refuse to match images of different filters."""

import re

from levelmatch.exceptions import FrameError

__all__ = ["check_filters", "filters_of"]


# Keywords of the optical elements, in families that one instrument fills together.
FAMILIES = {
    "FILTER": ("FILTER", "PUPIL"),
    "FILTER1": ("FILTER1", "FILTER2", "FILTER3", "FILTER4", "FILTNAM1", "FILTNAM2", "FILTER01"),
    "ESO INS FILT1 NAME": ("ESO INS FILT1 NAME", "ESO INS FILT2 NAME"),
    "BAND": ("BAND",),
    "OPTELEM": ("OPTELEM",),
    "CHNLNUM": ("CHNLNUM",),
}
_CLEAR = re.compile(
    r"(CLEAR|OPEN|EMPTY|NONE|AIR)[A-Z]?[-_ ]?[0-9]*([-_ ][0-9A-Z]*)?$", re.IGNORECASE
)
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
        Families without any value are left out. A wheel position without a filter counts only
        where no other wheel has one: as ``"CLEAR"``.
    """
    found = {}
    for family, keywords in FAMILIES.items():
        values = [_name(meta.get(key)) for key in keywords]
        values = {value for value in values if value}
        if values:
            found[family] = frozenset(values - {"CLEAR"} or {"CLEAR"})
    return found


def _name(value):
    """Return the name of a filter in one spelling; empty if there is none."""
    text = " ".join(str("" if value is None else value).split())
    if text.upper() in _UNKNOWN:
        return ""
    if _CLEAR.match(text):
        return "CLEAR"
    # The names R and r are two filters.
    return text if len(text) == 1 else text.upper()


def check_filters(frames, *, by_tile=False):
    """Refuse frames of different filters.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The frames.
    by_tile : bool
        Compare only the images of each tile.

    Raises
    ------
    FrameError
        The message names two images and their filters.
    """
    seen = {}
    for frame in sorted(frames, key=lambda frame: frame.name):
        found = filters_of(frame.meta)
        if not found:
            continue
        other, known = seen.setdefault(frame.tile if by_tile else "", (frame, found))
        if not _agree(known, found):
            msg = (
                f"{other.name} is of the filter {_words(known)}, {frame.name} of "
                f"{_words(found)}: their emission differs, so their levels cannot be matched; "
                "match each filter by itself, or give mix_filters=True"
            )
            raise FrameError(msg)


def _agree(one, other):
    """Return whether two images are of one filter, by the families that both have."""
    common = one.keys() & other.keys()
    if common:
        return all(one[family] == other[family] for family in common)
    return frozenset().union(*one.values()) == frozenset().union(*other.values())


def _words(found):
    return " ".join("+".join(sorted(names)) for names in found.values())
