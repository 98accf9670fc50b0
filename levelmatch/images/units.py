# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Units of images: spellings in headers, and whether values grow with the pixel area."""

import re
import warnings
from functools import lru_cache
from numbers import Real

import numpy as np
from astropy import units as u

__all__ = [
    "UnknownUnit",
    "in_arcsec",
    "in_unit",
    "is_counts",
    "is_extensive",
    "is_logarithmic",
    "is_per_beam",
    "read_unit",
    "recorded_unit",
    "unit_text",
    "unit_words",
]


# Spellings in headers, in upper case, of each word of astropy.
_SPELLINGS = {
    "Angstrom": "A ANGSTROM ANGSTROMS",
    "adu": "ADU",
    "arcsec": "ARCSEC",
    "beam": "BEAM",
    "cm": "CM",
    "ct": "COUNT COUNTS CTS",
    "DN": "DN",
    "electron": "ELECTRON ELECTRONS",
    "erg": "ERG ERGS",
    "Hz": "HZ",
    "Jy": "JY",
    "kJy": "KJY",
    "mgy": "MAGGIES",
    "nmgy": "NANOMAGGIES NANOMAGGY",
    "ph": "PHOTON PHOTONS",
    "pix": "PIX PIXEL PIXELS",
    "s": "S SEC SECOND SECONDS",
    "sr": "SR",
}
_WORDS = {text: word for word, texts in _SPELLINGS.items() for text in texts.split()}
# Units whose whole text has a meaning of its own, in upper case.
_WHOLE = {
    "COUNTS": u.ct,
    "CPS": u.ct / u.s,
    "DIMENSIONLESS": u.dimensionless_unscaled,
    "DN": u.adu,
    "ELECTRONS": u.electron,
    "MJY/SR": u.MJy / u.sr,
    "UNITLESS": u.dimensionless_unscaled,
}
# Words in the text of an unknown unit that stand for a logarithm or the like.
_NOT_LINEAR = re.compile(
    r"(?<![a-z])(log(10|e)?|ln|dex|a(rc)?sinh|(ab|st|vega)?mag(nitudes?)?)(?![a-z])", re.IGNORECASE
)
# Texts without a unit, in upper case.
_NONE = ("", "N/A", "NA", "NONE", "NULL", "UNKNOWN", "UNDEFINED")
# Base units of quantities that a pixel collects over its area.
_COLLECTED = {u.ct, u.adu, u.DN, u.electron, u.ph, u.mgy, u.kg}


class UnknownUnit(u.IrreducibleUnit):
    """A unit unknown to astropy; it equals only itself."""

    def __reduce__(self):
        return _unknown_unit, (self.name,)


@lru_cache
def _unknown_unit(text):
    return UnknownUnit(text)


@lru_cache
def read_unit(text):
    """Return the unit that a header writes as text.

    Parameters
    ----------
    text : str
        The text, such as ``"MJy/sr"`` or ``"ELECTRONS/S"``.

    Returns
    -------
    unit : `~astropy.units.Unit` or None
        The unit; an `UnknownUnit` if the text is not understood, `None` if it is blank or says
        that there is none.
    """
    text = text.strip()
    if text.upper() in _NONE:
        return None
    # A small m means milli.
    if text.upper() in _WHOLE and not text.startswith("m"):
        return _WHOLE[text.upper()]
    unit = _parsed(text)
    if isinstance(unit, u.function.FunctionUnitBase):
        return unit
    # astropy reads S as siemens and A as ampere, where headers mean second and Angstrom.
    if unit is None or u.A in unit.decompose().bases:
        # Drop the kind of a brightness temperature, as in "K (Tb)".
        common = re.sub(r"(?<=K) *\(T[^)]*\)", "", text, flags=re.IGNORECASE)
        common = re.sub(r"\be-?(?![\w-])", "electron", common, flags=re.IGNORECASE)
        unit = _parsed(re.sub(r"[A-Za-z]+", lambda m: _WORDS.get(m[0].upper(), m[0]), common))
    return _unknown_unit(text) if unit is None else unit


def recorded_unit(text):
    """Return the unit of a text written by astropy or `UnknownUnit`; `None` if it is blank."""
    if not text:
        return None
    unit = _parsed(text)
    return _unknown_unit(text) if unit is None else unit


def in_arcsec(name, angle):
    """Return an angle, a quantity or a number of arcsec, in arcsec; refuse all but positive ones.

    ``name`` is the argument, for error messages.
    """
    try:
        unit = u.arcsec if isinstance(angle, Real) else None
        value = float(u.Quantity(angle, unit).to_value(u.arcsec))
    except (TypeError, ValueError) as error:
        msg = f"{name}: {angle!r}: expected an angle, or a number of arcsec"
        raise TypeError(msg) from error
    if not 0 < value < float("inf"):
        msg = f"{name}: {angle!r} is not positive"
        raise ValueError(msg)
    return value


def in_unit(name, value, unit):
    """Return a number or quantity as a finite number in the common unit of the images.

    Parameters
    ----------
    name : str
        The argument, for error messages.
    value : float or `~astropy.units.Quantity`
        The value. Numbers are in the common unit.
    unit : `~astropy.units.Unit` or None
        The common unit, or a unit derived from it.
    """
    number = value
    if isinstance(value, u.Quantity):
        unit = unit or u.dimensionless_unscaled
        if not value.unit.is_equivalent(unit):
            msg = f"{name}: {value} cannot be converted to {unit}, the unit of the images"
            raise u.UnitConversionError(msg)
        number = value.to_value(unit)
        number = number.item() if np.ndim(number) == 0 else number
    if isinstance(number, bool) or not isinstance(number, Real) or not np.isfinite(float(number)):
        msg = f"{name}: {value!r} is not a finite number"
        raise TypeError(msg)
    return float(number)


@lru_cache
def unit_text(unit):
    """Return a unit as text, without blanks around the slash."""
    return f"{unit}".replace(" / ", "/")


def unit_words(unit):
    """Return a unit as text for labels; "data units" without a unit."""
    return "data units" if unit is None or not str(unit) else unit_text(unit)


def _parsed(text):
    """Return the unit parsed by astropy without warnings, or `None` if astropy fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            return u.Unit(text)
    except ValueError:
        return None


@lru_cache
def is_logarithmic(unit):
    """Return whether a unit is logarithmic: a magnitude, dex or decibel."""
    if isinstance(unit, u.function.FunctionUnitBase):
        return True
    if isinstance(unit, UnknownUnit):
        return _NOT_LINEAR.search(unit.name) is not None
    return unit is not None and u.dex in unit.decompose().bases


def is_extensive(unit):
    """Return whether values grow with the pixel area, or `None` if the unit does not show it.

    Counts, electrons, photons, fluxes and values per pixel grow with it.
    Values per solid angle or per beam, and brightness temperatures, do not.
    """
    if unit is None:
        return None
    unit = unit.decompose()
    bases = dict(zip(unit.bases, unit.powers, strict=True))
    if bases.get(u.pix, 0) == -1:
        return True
    if bases.get(u.rad, 0) == -2 or bases.get(u.beam, 0) == -1:
        return False
    if any(bases.get(base, 0) == 1 for base in _COLLECTED):
        return True
    return False if u.K in bases else None


@lru_cache
def is_counts(unit):
    """Return whether values grow with the exposure time, as counts do, and rates do not."""
    if unit is None:
        return False
    bases = dict(zip(unit.decompose().bases, unit.decompose().powers, strict=True))
    return u.s not in bases and any(bases.get(base, 0) == 1 for base in _COLLECTED - {u.mgy, u.kg})


def is_per_beam(unit):
    """Return whether a unit is per beam, such as Jy/beam."""
    if unit is None:
        return False
    unit = unit.decompose()
    return dict(zip(unit.bases, unit.powers, strict=True)).get(u.beam, 0) == -1
