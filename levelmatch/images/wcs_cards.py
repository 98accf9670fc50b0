# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Checks of the WCS in a FITS header: wcslib replaces unreadable numbers by 0 or a default."""

import operator
import re
from collections.abc import Iterable

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import WCS

from levelmatch.exceptions import FrameError

__all__ = ["check_header", "check_wcs", "has_scale", "wcs_header"]


_AXIS = re.compile(r"(?:CRPIX|CRVAL|CDELT|CROTA)(\d\d?)")
_MATRIX = re.compile(r"(?:PC|CD)(?:(\d\d?)_(\d\d?)|(\d{3})(\d{3}))")
_SCALE = re.compile(rf"CDELT\d\d?|{_MATRIX.pattern}")
_PARAMETER = re.compile(r"PV(\d\d?)_\d+")
_SIP = re.compile(r"(?:A|B|AP|BP)_(?:ORDER|\d_\d)")
_WHOLE_SKY = ("LONPOLE", "LATPOLE", "EQUINOX", "EPOCH")
# Texts that mean the equinox that wcslib assumes for an unreadable card.
_EQUINOX_2000 = re.compile(r"\s*[Jj]?2000(?:\.0*)?\s*")
_EXPONENT = re.compile(r"\d[Dd][+-]?\d")


def _is_wcs_number(key: str, axes: Iterable[int] = (1, 2)) -> bool:
    """Return whether a keyword, in upper case, holds a number of the WCS of the given axes."""
    found = _AXIS.fullmatch(key) or _MATRIX.fullmatch(key) or _PARAMETER.fullmatch(key)
    if found is not None:
        return {int(axis) for axis in found.groups() if axis is not None} <= set(axes)
    return key in _WHOLE_SKY or _SIP.fullmatch(key) is not None


def check_header(name: str, header: fits.Header, axes: Iterable[int] = (1, 2)) -> None:
    """Check that each WCS card of a header is a finite number, and that it has a pixel scale.

    Parameters
    ----------
    name : str
        The image, for the error message.
    header : `~astropy.io.fits.Header`
        Its header.
    axes : iterable of int
        FITS axes of the image, counted from 1.

    Raises
    ------
    FrameError
        If a card is not a finite number, or the scale is missing; the message names image, card
        and value.
    """
    for key, text in _unreadable(header, axes):
        raise _card_error(name, key, text)
    if "CTYPE1" in header and not has_scale(header):
        # The standard's default is a degree.
        msg = (
            f"{name}: the header has no pixel scale: neither CDELT of both axes, CD nor PC; "
            "solve its astrometry first"
        )
        raise FrameError(msg)


def has_scale(header: Iterable[str]) -> bool:
    """Return whether a header's keywords give the scale of the pixels, along both axes by CDELT."""
    keys = [key for key in header if _SCALE.fullmatch(key)]
    return bool(keys) and not (len(keys) == 1 and keys[0] in ("CDELT1", "CDELT2"))


def _card_error(name, key, text):
    return FrameError(
        f"{name}: the WCS card {key} = {text or 'blank'} is not a finite number; "
        "correct the header, or leave the image out"
    )


def _unreadable(header, axes):
    """Yield the keyword and text of each WCS card that is not a finite number."""
    for card in header.cards:
        if not _is_wcs_number(card.keyword, axes):
            continue
        try:
            value = card.value
        except VerifyError:
            yield card.keyword, _text(card)
            continue
        if isinstance(value, str) and card.keyword in ("EQUINOX", "EPOCH"):
            if _EQUINOX_2000.fullmatch(value) and header.get("RADESYS", "ICRS") in ("ICRS", "FK5"):
                continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and np.isfinite(value)):
            yield card.keyword, _text(card)


def _text(card):
    """Return the value of a card as written in the header."""
    value = str(card._image)[9:] if card._image else str(card.rawvalue)
    quoted = re.match(r"\s*('(?:[^']|'')*')", value)
    return f"{quoted[1][:-1].rstrip()}'" if quoted else value.partition("/")[0].strip()


def wcs_header(header: fits.Header) -> fits.Header:
    """Return the header as wcslib reads it: numbers with exponents E, and one distortion.

    wcslib stops reading a number at an exponent D. Some archives write SIP coefficients beside
    SCAMP's PV cards of the same distortion. As in astropy, CTYPE chooses one of the two.
    """
    left_out = _other_distortion(header)
    cards = [
        fits.Card(card.keyword, float(card.value), card.comment)
        if _is_wcs_number(card.keyword, range(1, 100)) and _EXPONENT.search(_text(card))
        else card
        for card in header.cards
        if left_out is None or not left_out.fullmatch(card.keyword)
    ]
    same = len(cards) == len(header.cards) and all(map(operator.is_, cards, header.cards))
    return header if same else fits.Header(cards)


def _other_distortion(header: fits.Header) -> re.Pattern[str] | None:
    """Return the pattern of the keywords of a second distortion, or `None` without one."""
    names = [str(header.get(f"CTYPE{n}", "")).strip().upper() for n in (1, 2)]
    if all(name.endswith("-TPV") for name in names):
        return _SIP
    if all(name.endswith("-TAN-SIP") for name in names) and "A_ORDER" in header:
        # Numbers up to 4 belong to the projection, not to SCAMP.
        numbers = [int(key.partition("_")[2]) for key in header if _PARAMETER.fullmatch(key)]
        return _PARAMETER if max(numbers, default=0) > 4 else None
    return None


def check_wcs(name: str, wcs: WCS, meta: object = None) -> None:
    """Check that the numbers of a WCS in memory are finite.

    Parameters
    ----------
    name : str
        The image, for the error message.
    wcs : `~astropy.wcs.WCS`
        Its WCS.
    meta : mapping or None
        Header of the image. An unreadable card is refused if the WCS holds the number that
        wcslib substitutes for it.

    Raises
    ------
    FrameError
        If a number is not finite or was substituted; the message names the image, the
        attribute or card, and the value.
    """
    for attribute, values in _numbers(wcs):
        if not np.isfinite(values).all():
            shown = np.array2string(np.asarray(values), separator=", ").replace("\n", "")
            msg = (
                f"{name}: the WCS has {attribute} = {shown}, which is not finite; "
                "solve its astrometry first"
            )
            raise FrameError(msg)
    if isinstance(meta, fits.Header):
        for key, text in _unreadable(meta, range(1, wcs.naxis + 1)):
            if _was_guessed(wcs, key):
                raise _card_error(name, key, text)


def _was_guessed(wcs, key):
    """Return whether a WCS holds the number that wcslib substitutes for an unreadable card."""
    axis = _AXIS.fullmatch(key)
    if axis is None or key.startswith("CROTA"):
        return False
    if key.startswith("CDELT") and wcs.wcs.has_cd():
        return False
    values = getattr(wcs.wcs, key[:5].lower())
    # wcslib substitutes 1 for CDELT and 0 for the others.
    return values[int(axis[1]) - 1] == (1 if key.startswith("CDELT") else 0)


def _numbers(wcs):
    """Yield the name and the values of each defined attribute of a FITS WCS."""
    prm = wcs.wcs
    # astropy warns if CDELT is read where CD is present.
    scales = ("cd",) if prm.has_cd() else ("cdelt", "pc") if prm.has_pc() else ("cdelt",)
    for name in ("crpix", "crval", "latpole", *scales):
        yield name, getattr(prm, name)
    yield "pv", np.array([value for _, _, value in prm.get_pv()])
    if wcs.sip is not None:
        for name in ("a", "b", "ap", "bp", "crpix"):
            values = getattr(wcs.sip, name)
            if values is not None:
                yield f"sip.{name}", values
