# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Known levels, from the user or from header cards, which are subtracted before comparison."""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table

from levelmatch.exceptions import FrameError
from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.images.file_checks import MOST_BYTES, check_regular, reason_of

__all__ = [
    "KNOWN",
    "OWN_KEYWORD",
    "known_correction",
    "note_pending_levels",
    "pending_levels",
    "with_known_levels",
]


# Name of the correction by known levels.
KNOWN = "known"


def with_known_levels(frames, levels):
    """Return the frames with the levels given by the caller.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        In the order of the input.
    levels : mapping, sequence, `~astropy.table.Table`, record, result or path
        See `~levelmatch.ReadOptions`.

    Raises
    ------
    ValueError
        If an image has no level or a level that is not finite; the message names the image.
    TypeError
        If ``levels`` has another type.
    FrameError
        If known levels were already subtracted from an image.
    """
    for frame in frames:
        if frame.has_pass(KNOWN):
            msg = f"{frame.name}: levels: known levels are already subtracted; omit levels"
            raise FrameError(msg)
    find = _finder(frames, levels)
    out = []
    for frame in frames:
        applied = AppliedCorrection(KNOWN, find(frame), np.zeros(3), "levels")
        out.append(frame.with_keys(corrections=(*frame.corrections, applied)))
    return out


def _finder(frames, levels):
    """Return a function of a frame that returns its correction."""
    if isinstance(levels, str | Path):
        levels = _read(Path(levels))
    if hasattr(levels, "frames"):
        corrections = {frame.name: frame.correction for frame in levels.frames}
        return lambda frame: _one_of(corrections, frame)
    if isinstance(levels, Table):
        levels = _of_table(levels)
    if isinstance(levels, Mapping):
        return lambda frame: known_correction(frame, _one_of(levels, frame))
    images = list(dict.fromkeys(frame.product for frame in frames))
    if isinstance(levels, Real) or not hasattr(levels, "__len__"):
        msg = f"levels: {levels!r} is neither a list, a mapping, a table, a record nor a file"
        raise TypeError(msg)
    if len(levels) != len(images):
        msg = f"levels: {len(levels)} levels for {len(images)} images; give one of each"
        raise ValueError(msg)
    by_name = dict(zip(images, levels, strict=True))
    return lambda frame: known_correction(frame, by_name[frame.product])


def _one_of(values, frame):
    """Return the value of a frame, by its name or by the name of its product or file."""
    for name in (frame.name, frame.product, frame.file):
        if name in values:
            return values[name]
    msg = f"{frame.name}: levels: there is no level of this image; give 0 if it has none"
    raise ValueError(msg)


def known_correction(frame, value, option="levels"):
    """Return a number or quantity as the correction of a frame.

    Parameters
    ----------
    frame : `~levelmatch.images.frame.Frame`
        The frame.
    value : float or `~astropy.units.Quantity`
        The level. A number is in the unit of the image.
    option : str
        Name of the option, for error messages.

    Returns
    -------
    correction : `~levelmatch.images.corrections.Correction`
        A constant in the unit of the image.

    Raises
    ------
    ValueError
        If the level is not a finite number; the message names the image.
    `~astropy.units.UnitsError`
        If the level has a unit, and the image has none or another kind.
    """
    if isinstance(value, u.Quantity) and value.unit != u.dimensionless_unscaled:
        if frame.unit is None:
            msg = f"{frame.name}: {option}: its level has the unit {value.unit}, the image has none"
            raise u.UnitsError(msg)
        try:
            value = value.to_value(frame.unit)
        except u.UnitConversionError as error:
            msg = f"{frame.name}: {option}: {value} cannot be converted to {frame.unit}"
            raise u.UnitConversionError(msg) from error
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        msg = f"{frame.name}: {option}: {value!r} is not a finite number"
        raise ValueError(msg)
    return Correction(number)


def _read(path: Path) -> Any:
    """Return the record or the table in a file."""
    if not path.exists():
        msg = f"levels: there is no file {path}"
        raise FileNotFoundError(msg)
    if path.suffix == ".asdf":
        from levelmatch.record.record_files import read_record

        return read_record(path)
    try:
        check_regular(path, MOST_BYTES)
        if path.suffix in (".ecsv", ".fits"):
            return Table.read(path)
        kinds = {".csv": "ascii.csv"}
        return Table.read(path, format=kinds.get(path.suffix, "ascii"))
    except Exception as error:
        msg = f"levels: {path.name} is not a readable table: {reason_of(error)}"
        raise ValueError(msg) from error


def _of_table(table: Table) -> dict[str, Any]:
    """Return levels by name, from the columns name and level or else from the first two."""
    columns = {name.lower(): name for name in table.colnames}
    if not {"name", "level"} <= set(columns):
        if len(table.colnames) < 2:
            msg = f"levels: the table has the columns {table.colnames}, not name and level"
            raise ValueError(msg)
        columns = dict(zip(("name", "level"), table.colnames, strict=False))
    names, values = table[columns["name"]], table[columns["level"]]
    unit = getattr(values, "unit", None)
    levels = values if unit is None or isinstance(values, u.Quantity) else values * unit
    return dict(zip((str(name) for name in names), levels, strict=True))


# Keyword of kept levels in headers of telescopes that define no keyword for them.
OWN_KEYWORD = "LMSKY"


def pending_levels(meta):
    """Return the sky levels of a header that are not yet subtracted.

    Parameters
    ----------
    meta : mapping
        Header.

    Returns
    -------
    levels : dict of str to float
        Levels by keyword, without zeros: ``BKGLEVEL`` of JWST's skymatch step, unless
        ``BKGSUB`` is true; ``MDRIZSKY`` of AstroDrizzle; ``LMSKY`` of an earlier run that kept
        levels.
    """
    subtracted = meta.get("BKGSUB") in (True, "T", "True")
    keys = ("MDRIZSKY", OWN_KEYWORD)
    if not subtracted:
        keys = ("BKGLEVEL", *keys)
    levels = {key: meta.get(key) for key in keys}
    return {key: float(value) for key, value in levels.items() if _is_level(value)}


def _is_level(value):
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and np.isfinite(value) and value != 0


def note_pending_levels(frames, notes, *, keep=False):
    """Add notes on images whose header has a sky level that is not yet subtracted, or gets one.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    notes : `~levelmatch.images.notes.Notes`
        Receives the notes.
    keep : bool
        Whether the run writes levels to headers and does not subtract them.
    """
    for frame in frames:
        levels = pending_levels(frame.meta)
        words = [f"{key} = {value:g}" for key, value in levels.items()]
        if "BKGLEVEL" in levels and "BKGSUB" in frame.meta:
            words.insert(1, f"BKGSUB = {frame.meta['BKGSUB']}")
        if keep and frame.meta.get("TELESCOP") == "ROMAN" and frame.unit == u.DN / u.s:
            notes.add("kept rate", frame.product)
        if words:
            notes.add("kept level" if keep else "sky level", frame.product, ", ".join(words))
