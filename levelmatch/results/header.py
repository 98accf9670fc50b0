# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Header cards of the corrections of an image."""

import re
from collections.abc import Iterable, MutableMapping
from typing import Any

import numpy as np
from astropy.io.fits import Header, VerifyError

from levelmatch.exceptions import FrameError
from levelmatch.images.corrections import AppliedCorrection
from levelmatch.images.frame import Frame
from levelmatch.images.units import unit_text
from levelmatch.pass_names import PASSES
from levelmatch.record.run import Provenance
from levelmatch.results.history import (
    SIGNED,
    add_history,
    ascii_text,
    history_texts,
    keeps_blanks,
    own_history,
    signature,
)
from levelmatch.results.kept_levels import clear_levels, kept_meta, restore_levels
from levelmatch.results.products import Product
from levelmatch.results.stored_integers import STORED

__all__ = [
    "add_corrections",
    "add_kept",
    "add_provenance",
    "check_not_matched",
    "provenance_entry",
    "remove_from_primary",
    "remove_provenance",
]


WORDS = {"LEV": "level subtracted", "SLU": "its slope to East", "SLV": "its slope to North"}
CARD_WIDTH = 80
# Largest number of characters before the comment in a card with a number.
NUMBER_WIDTH = 10 + 24 + 3
# Pattern that finds the error and the reference in a HISTORY text.
TOLD = re.compile(r" \+- (\S+), slopes .* relative to (.+?)(?: \(science\)| \(lyot\))?$")


def check_not_matched(frames: Iterable[Frame], names: Iterable[str]) -> None:
    """Check that images were not already matched by the same passes.

    Parameters
    ----------
    frames : iterable of `~levelmatch.images.frame.Frame`
        The images, with their headers and earlier corrections.
    names : iterable of str
        Names of the passes.

    Raises
    ------
    FrameError
        If an image was already matched; the message names it.
    """
    for frame in frames:
        for name in names:
            if any(applied.name == name for applied in frame.corrections):
                msg = (
                    f"{frame.name}: already matched by the pass {name!r}; rematch=True matches "
                    "it again"
                )
                raise FrameError(msg)
            key = f"LM{PASSES[name].letter}LEV"
            if key in frame.meta:
                record = frame.meta.get("LMRECORD", "")
                msg = (
                    f"{frame.name}: already matched by the pass {name!r} ({key} = "
                    f"{frame.meta[key]}{', record ' if record else ''}{record}); "
                    "rematch=True matches it again"
                )
                raise FrameError(msg)


@keeps_blanks
def add_provenance(
    meta: MutableMapping[str, Any] | Header, frame: Frame, provenance: Provenance, part: str = ""
) -> None:
    """Add the corrections of an image to its header, in place.

    Keywords hold the sum of each pass over all runs. HISTORY lists every run. If flux scales are
    applied, LMFLUX is the factor that multiplied the image after subtraction of the sums. If the
    run keeps its levels, only the kept level and HISTORY are added.

    Parameters
    ----------
    meta : mapping
        A header, or a dictionary.
    frame : `~levelmatch.images.frame.Frame`
        The image with its corrections.
    provenance : `~levelmatch.record.run.Provenance`
        The run.
    part : str
        The corrected part of a MIRI image, for HISTORY; empty for a whole image.
    """
    if provenance.keep:
        kept_meta(meta, frame, provenance)
        add_kept(meta, frame, provenance)
        return
    before = _earlier_factor(meta)
    unit = "" if frame.unit is None else unit_text(frame.unit)
    for applied, values, error in _subtracted(frame):
        text = (
            f"{signature(provenance)} {applied.name}: subtracted level "
            f"{values[0]:.8g} +- {error:.8g}, slopes E {values[1]:.6g} N {values[2]:.6g} per arcmin"
            f"{_pattern_words(applied)} relative to {applied.reference}"
            + (f" ({part})" if part else "")
        )
        add_history(meta, text)
        if part != "lyot":
            _add_totals(meta, applied, values / before, error / before, unit)
    if frame.output_factor != 1.0 and part != "lyot":
        _add_factor(meta, frame, provenance, before)
    if frame.corrections and part != "lyot":
        clear_levels(meta, provenance)
    _add_record(meta, frame, provenance)


def add_corrections(
    meta: MutableMapping[str, Any] | Header, product: Product, provenance: Provenance
) -> None:
    """Add the corrections of an output image and its Lyot region to its header, in place."""
    add_provenance(meta, product.frame, provenance)
    if product.lyot is not None:
        add_provenance(meta, product.lyot, provenance, part="lyot")


def _earlier_factor(meta) -> float:
    """Return the factor of earlier runs; refuse a card LMFLUX without one."""
    value = None
    try:
        value = meta.get("LMFLUX", 1.0)
        factor = float(value)
    except (TypeError, ValueError, VerifyError):
        factor = np.nan
    if not (np.isfinite(factor) and factor > 0):
        msg = f"the card LMFLUX: {value!r} is not a positive number"
        raise ValueError(msg)
    return factor


@keeps_blanks
def add_kept(meta: MutableMapping[str, Any] | Header, frame: Frame, provenance: Provenance) -> None:
    """Add the kept levels of a run, which are not subtracted, to HISTORY, in place."""
    for applied, values, error in _subtracted(frame):
        text = f"{signature(provenance)} {applied.name}: kept level {values[0]:.8g} +- {error:.8g}"
        add_history(meta, f"{text} relative to {applied.reference}")
    _add_record(meta, frame, provenance)


def _add_record(meta, frame: Frame, provenance: Provenance) -> None:
    """Add the name and checksum of the run's record to a header, in place."""
    if frame.corrections and provenance.record:
        text = f"{signature(provenance)} record {provenance.record} {provenance.sha256}"
        add_history(meta, text)
        _set_record(meta, provenance.record, provenance.sha256)


def _pattern_words(applied: AppliedCorrection) -> str:
    """Return the coefficients of the detector pattern as text; empty without a pattern."""
    pattern = applied.correction.pattern
    if not pattern.any():
        return ""
    return ", pattern x y x2-1/3 xy y2-1/3 " + " ".join(f"{value:.6g}" for value in pattern)


def _add_factor(meta, frame: Frame, provenance: Provenance, before: float) -> None:
    """Add the factor of the corrected image to a header, and shift its zero point accordingly."""
    text = f"{signature(provenance)} flux scale: multiplied by {frame.output_factor:.10g}"
    _set(meta, "LMFLUX", before * frame.output_factor, "factor on the image less all levels")
    if frame.zero_point:
        point = float(meta[frame.zero_point])
        text += f", {frame.zero_point} was {point!r}"
        moved = point + 2.5 * np.log10(frame.output_factor)
        meta[frame.zero_point] = float(round(moved, 12))
    add_history(meta, text)


def _subtracted(frame: Frame) -> list[tuple[AppliedCorrection, np.ndarray, float]]:
    """Return each correction with its level and slopes about the image's centre, and its error.

    The error of the anchor is the error of the absolute level, with all corrections. Passes
    without anything to match, such as the dithers of a single image, are left out.
    """
    axes = frame.whole_grid.axes
    total = sum(a.variance[0] for a in frame.corrections)
    return [
        (
            a,
            a.correction.coefficients(axes),
            float(np.sqrt(max(total if a.name == "anchor" else a.variance[0], 0.0))),
        )
        for a in frame.corrections
        if a.name == "mosaic" or not _is_zero(a)
    ]


def _is_zero(applied: AppliedCorrection) -> bool:
    """Return whether correction and variance are zero and no image is held: nothing was matched."""
    correction = applied.correction
    return (
        correction.constant == 0
        and not np.any(correction.vector)
        and not np.any(applied.variance)
        and applied.reference == "mean"
    )


def _add_totals(meta, applied: AppliedCorrection, values, error: float, unit: str) -> None:
    """Add the level and slopes of a pass to the sums in its keywords; set error and reference."""
    key, name = f"LM{PASSES[applied.name].letter}", PASSES[applied.name].short
    for (suffix, word), value in zip(WORDS.items(), values, strict=True):
        total = float(meta.get(key + suffix, 0.0)) + value
        per = "/arcmin" if suffix != "LEV" else ""
        _set(meta, key + suffix, total, f"{name}: {word}", unit and unit + per)
    _set(meta, key + "ERR", error, f"{name}: error of the level", unit)
    _set_reference(meta, applied.name, applied.reference)


def _set_reference(meta, name: str, reference: str) -> None:
    comment = f"{PASSES[name].short}: relative to"
    _set(meta, f"LM{PASSES[name].letter}REF", reference, comment)


def _set_record(meta, name: str, sha256: str) -> None:
    _set(meta, "LMRECORD", name, "record of the run; LMRECSHA: SHA-256")
    _set(meta, "LMRECSHA", sha256)


def provenance_entry(
    frame: Frame, provenance: Provenance, lyot: Frame | None = None
) -> dict[str, Any]:
    """Return the corrections of an image as plain values, for a file's ASDF tree.

    Parameters
    ----------
    frame : `~levelmatch.images.frame.Frame`
        The image.
    provenance : `~levelmatch.record.run.Provenance`
        The run.
    lyot : `~levelmatch.images.frame.Frame` or None
        The image from which the Lyot region is taken.

    Returns
    -------
    entry : dict
        The entry of the list ``levelmatch``.
    """
    entry: dict[str, Any] = {
        "levelmatch": provenance.version,
        "created": provenance.created,
        "record": provenance.record,
        "record_sha256": provenance.sha256,
        "kept" if provenance.keep else "subtracted": _plain_corrections(frame),
    }
    if frame.output_factor != 1.0:
        entry["multiplied_by"] = float(frame.output_factor)
    if lyot is not None:
        entry["subtracted_lyot"] = _plain_corrections(lyot)
    return entry


def _plain_corrections(frame: Frame) -> list[dict[str, Any]]:
    """Return the corrections of a frame as plain values."""
    return [
        {
            "pass": applied.name,
            "level": float(values[0]),
            "level_error": error,
            "slope_east": float(values[1]),
            "slope_north": float(values[2]),
            "reference": applied.reference,
            **({"pattern": a.tolist()} if (a := applied.correction.pattern).any() else {}),
        }
        for applied, values, error in _subtracted(frame)
    ]


def remove_from_primary(header: Header, provenance: Provenance) -> None:
    """Undo the changes of a run in a primary header without image, in place."""
    restore_levels(header, provenance)
    for index in reversed(own_history(header, signature(provenance))):
        del header[index]


def remove_provenance(header: Header, frame: Frame, provenance: Provenance) -> None:
    """Undo `add_provenance` for a run in a FITS header, in place.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header of the corrected image.
    frame : `~levelmatch.images.frame.Frame`
        The image with the corrections of the run.
    provenance : `~levelmatch.record.run.Provenance`
        The run, with its record.
    """
    remove_from_primary(header, provenance)
    texts = history_texts(header)
    earlier = [line for line in texts if line.startswith(SIGNED) and STORED not in line]
    before = _earlier_factor(header) / frame.output_factor
    if frame.output_factor != 1.0:
        _remove_factor(header, frame, before, any(" flux scale: " in line for line in earlier))
    for applied, values, _ in [] if provenance.keep else _subtracted(frame):
        key = f"LM{PASSES[applied.name].letter}"
        texts = [line for line in earlier if f" {applied.name}: " in line]
        found = TOLD.search(texts[-1]) if texts else None
        if found is not None:
            for suffix, value in zip(WORDS, values, strict=True):
                header[key + suffix] -= value / before
            error, reference = found.groups()
            header[key + "ERR"] = float(error) if np.isfinite(float(error)) else None
            _set_reference(header, applied.name, reference)
            continue
        for suffix in (*WORDS, "ERR", "REF"):
            header.remove(key + suffix, ignore_missing=True)
    records = [line.split()[-2:] for line in earlier if " record " in line]
    if records:
        _set_record(header, *records[-1])
        return
    for key in ("LMRECORD", "LMRECSHA"):
        header.remove(key, ignore_missing=True)


def _remove_factor(header: Header, frame: Frame, before: float, earlier: bool) -> None:
    """Undo `_add_factor`."""
    if earlier:
        header["LMFLUX"] = before
    else:
        header.remove("LMFLUX", ignore_missing=True)
    if frame.zero_point:
        moved = header[frame.zero_point] - 2.5 * np.log10(frame.output_factor)
        header[frame.zero_point] = float(round(moved, 12))


def _set(meta, key: str, value, comment: str = "", unit: str = "") -> None:
    """Set a keyword; its comment begins with the unit in brackets if there is room."""
    value = float(value) if isinstance(value, float | np.floating) else value
    if isinstance(value, float) and not np.isfinite(value):
        # FITS headers cannot hold NaN, so the card stays without a value.
        value = None
    if isinstance(value, str):
        value = ascii_text(value) if key == "LMRECSHA" else ascii_text(value)[:60]
    if not hasattr(meta, "cards"):
        meta[key] = value
        return
    used = 10 + max(len(value) + 2, 20) + 3 if isinstance(value, str) else NUMBER_WIDTH
    with_unit = f"[{unit}] {comment}" if unit else comment
    fits = (c for c in (with_unit, comment) if used + len(c) <= CARD_WIDTH)
    # An empty comment replaces an old comment, which could be too long for the new value.
    meta[key] = (value, next(fits, ""))
