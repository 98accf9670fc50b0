# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a header says of the corrections that were subtracted from its image."""

import re
from dataclasses import dataclass

import numpy as np

from levelmatch.exceptions import FrameError
from levelmatch.images.sky_cards import pending_levels
from levelmatch.images.units import unit_text

__all__ = ["Story", "add_provenance", "check_not_matched", "provenance_entry", "remove_provenance"]


# The letter of each pass in the keywords LMxLEV, LMxERR, LMxSLU, LMxSLV and LMxREF.
LETTERS = {"dithers": "D", "local": "B", "lyot": "L", "nircam_short": "N", "mosaic": "M"}
WORDS = {"LEV": "level subtracted", "SLU": "its slope to East", "SLV": "its slope to North"}
# In the comments of cards, which have little room; by their own names else.
SHORT = {"local": "local sky", "nircam_short": "NIRCam"}
CARD_WIDTH = 80
# Of a number as FITS writes it, at most, with its keyword and the sign of the comment.
NUMBER_WIDTH = 10 + 24 + 3
# Of the text in a HISTORY card.
HISTORY_WIDTH = 72
SIGNED = "levelmatch "
CLEARED = " sky level of a later step set to 0: "
# The error and the reference, in HISTORY's words.
TOLD = re.compile(r" \+- (\S+), slopes .* relative to (.+?)(?: \(science\)| \(lyot\))?$")


def check_not_matched(frames, names):
    """Refuse images that the same passes have been applied to, by their headers or a result.

    Raises
    ------
    FrameError
        Naming the first such image.
    """
    for frame in frames:
        for name in names:
            if any(applied.name == name for applied in frame.corrections):
                msg = f"{frame.name}: already matched by the pass {name!r}; rematch=True goes on"
                raise FrameError(msg)
            key = f"LM{LETTERS[name]}LEV"
            if key in frame.meta:
                record = frame.meta.get("LMRECORD", "")
                msg = (
                    f"{frame.name}: already matched by the pass {name!r} ({key} = "
                    f"{frame.meta[key]}{', record ' if record else ''}{record}); "
                    "rematch=True goes on"
                )
                raise FrameError(msg)


@dataclass(frozen=True)
class Story:
    """What the corrections of one run have in common.

    Parameters
    ----------
    version : str
        The version of levelmatch.
    created : str
        When, in UTC, ISO 8601.
    record : str
        The file name of the run's record, blank if there is none.
    sha256 : str
        That record's SHA-256.
    """

    version: str
    created: str
    record: str = ""
    sha256: str = ""


def add_provenance(meta, frame, story, part=""):
    """Add what was subtracted to a header, in place.

    Keywords hold the total of each pass, so a second run adds to the first's;
    HISTORY keeps every run. Where the flux scale is applied, LMFLUX is what the image less
    the totals was multiplied by.

    Parameters
    ----------
    meta : mapping
        A header, or a dictionary.
    frame : `~levelmatch.images.frame.Frame`
        The image with its corrections.
    story : `Story`
        The run.
    part : str
        What of the image they apply to, for HISTORY, if not all.
    """
    before = float(meta.get("LMFLUX", 1.0))
    unit = "" if frame.unit is None else unit_text(frame.unit)
    for applied, values, error in _subtracted(frame):
        text = (
            f"{_signature(story)} {applied.name}: subtracted level "
            f"{values[0]:.8g} +- {error:.8g}, slopes E {values[1]:.6g} N {values[2]:.6g} per arcmin"
            f" relative to {applied.reference}" + (f" ({part})" if part else "")
        )
        _add_history(meta, text)
        if part != "lyot":
            _add_totals(meta, applied, values / before, error / before, unit)
    if frame.output_factor != 1.0 and part != "lyot":
        _add_factor(meta, frame, story, before)
    if frame.corrections and part != "lyot":
        _clear_levels(meta, story)
    if frame.corrections and story.record:
        _add_history(meta, f"{_signature(story)} record {story.record} {story.sha256}")
        _set_record(meta, story.record, story.sha256)


def _clear_levels(meta, story):
    """Set sky levels that are not subtracted yet to zero: corrected images have equal skies."""
    for key, level in pending_levels(meta).items():
        meta[key] = 0.0
        _add_history(meta, f"{_signature(story)}{CLEARED}{key} was {level!r}")


def _restore_levels(header, story):
    """Undo `_clear_levels`."""
    start = _signature(story) + CLEARED
    for line in _unfolded(header):
        if line.startswith(start):
            key, _, level = line.removeprefix(start).removesuffix(" .").split()
            header[key] = float(level)


def _add_factor(meta, frame, story, before):
    """Add the factor on the corrected image, and move the zero point that it changes."""
    text = f"{_signature(story)} flux scale: multiplied by {frame.output_factor:.10g}"
    _set(meta, "LMFLUX", before * frame.output_factor, "factor on the image less all levels")
    if frame.zero_point:
        point = float(meta[frame.zero_point])
        text += f", {frame.zero_point} was {point!r}"
        moved = point + 2.5 * np.log10(frame.output_factor)
        meta[frame.zero_point] = float(round(moved, 12))
    _add_history(meta, text)


def _signature(story):
    """What the HISTORY lines of a run begin with."""
    return f"{SIGNED}{story.version} {story.created}"


def _subtracted(frame):
    """Each correction with its level and slopes about the image's centre, and its error."""
    axes = frame.whole_grid.axes
    return [
        (a, a.correction.coefficients(axes), float(np.sqrt(a.variance[0])))
        for a in frame.corrections
    ]


def _add_totals(meta, applied, values, error, unit):
    """Add the values of a pass to its keywords."""
    key, name = f"LM{LETTERS[applied.name]}", SHORT.get(applied.name, applied.name)
    for (suffix, word), value in zip(WORDS.items(), values, strict=True):
        total = float(meta.get(key + suffix, 0.0)) + value
        per = "/arcmin" if suffix != "LEV" else ""
        _set(meta, key + suffix, total, f"{name}: {word}", unit and unit + per)
    _set(meta, key + "ERR", error, f"{name}: error of the level", unit)
    _set_reference(meta, applied.name, applied.reference)


def _set_reference(meta, name, reference):
    comment = f"{SHORT.get(name, name)}: relative to"
    _set(meta, f"LM{LETTERS[name]}REF", reference, comment)


def _set_record(meta, name, sha256):
    _set(meta, "LMRECORD", name, "record of the run; LMRECSHA: SHA-256")
    _set(meta, "LMRECSHA", sha256)


def provenance_entry(frame, story, lyot=None):
    """Return what was subtracted from an image as plain values, for a file's ASDF tree.

    Parameters
    ----------
    frame : `~levelmatch.images.frame.Frame`
        The image.
    story : `Story`
        The run.
    lyot : `~levelmatch.images.frame.Frame` or None
        What its Lyot region comes from.
    """
    entry = {
        "levelmatch": story.version,
        "created": story.created,
        "record": story.record,
        "record_sha256": story.sha256,
        "subtracted": _plain_corrections(frame),
    }
    if frame.output_factor != 1.0:
        entry["multiplied_by"] = float(frame.output_factor)
    if lyot is not None:
        entry["subtracted_lyot"] = _plain_corrections(lyot)
    return entry


def _plain_corrections(frame):
    return [
        {
            "pass": applied.name,
            "level": float(values[0]),
            "level_error": error,
            "slope_east": float(values[1]),
            "slope_north": float(values[2]),
            "reference": applied.reference,
        }
        for applied, values, error in _subtracted(frame)
    ]


def remove_provenance(header, frame, story):
    """Take back, in place, what `add_provenance` put into a FITS header for a run.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Of the corrected image.
    frame : `~levelmatch.images.frame.Frame`
        The image with the run's corrections.
    story : `Story`
        The run, with its record.
    """
    _restore_levels(header, story)
    for index in reversed(_own_history(header, _signature(story))):
        del header[index]
    earlier = [line for line in _unfolded(header) if line.startswith(SIGNED)]
    before = float(header.get("LMFLUX", 1.0)) / frame.output_factor
    if frame.output_factor != 1.0:
        _remove_factor(header, frame, before, any(" flux scale: " in line for line in earlier))
    for applied, values, _ in _subtracted(frame):
        key = f"LM{LETTERS[applied.name]}"
        told = [line for line in earlier if f" {applied.name}: " in line]
        if told:
            for suffix, value in zip(WORDS, values, strict=True):
                header[key + suffix] -= value / before
            error, reference = TOLD.search(told[-1]).groups()
            header[key + "ERR"] = float(error)
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


def _remove_factor(header, frame, before, earlier):
    """Take back what `_add_factor` put in."""
    if earlier:
        header["LMFLUX"] = before
    else:
        header.remove("LMFLUX", ignore_missing=True)
    if frame.zero_point:
        moved = header[frame.zero_point] - 2.5 * np.log10(frame.output_factor)
        header[frame.zero_point] = float(round(moved, 12))


def _own_history(header, signature):
    """Indices of the HISTORY cards of a run; a full line goes on in the next card."""
    own, goes_on = [], False
    for index, card in enumerate(header.cards):
        if card.keyword != "HISTORY":
            continue
        text = str(card.value)
        begins = text.startswith(SIGNED)
        if text.startswith(signature) if begins else goes_on:
            own.append(index)
            goes_on = len(text) >= HISTORY_WIDTH - 1
        else:
            goes_on = False
    return own


def _unfolded(header):
    """HISTORY as it was added."""
    out, goes_on = [], False
    for line in map(str, header.get("HISTORY", [])):
        if goes_on and not line.startswith(SIGNED):
            # With the blank that the card before has lost.
            cards = -(-len(out[-1]) // HISTORY_WIDTH)
            out[-1] = out[-1].ljust(cards * HISTORY_WIDTH) + line
        else:
            out.append(line)
        goes_on = len(line) >= HISTORY_WIDTH - 1
    return out


def _set(meta, key, value, comment="", unit=""):
    """Set a keyword; its comment begins with a unit as the FITS standard has it, if it has room."""
    value = float(value) if isinstance(value, float | np.floating) else value
    if isinstance(value, str):
        value = _ascii(value) if key == "LMRECSHA" else _ascii(value)[:60]
    if not hasattr(meta, "cards"):
        meta[key] = value
        return
    used = 10 + max(len(value) + 2, 20) + 3 if isinstance(value, str) else NUMBER_WIDTH
    with_unit = f"[{unit}] {comment}" if unit else comment
    fits = (c for c in (with_unit, comment) if used + len(c) <= CARD_WIDTH)
    # A comment that is there would be cut just as well.
    meta[key] = (value, next(fits, ""))


def _ascii(text):
    """Text as FITS headers can hold it: the names of files are not always of ASCII."""
    return text.encode("ascii", "backslashreplace").decode()


def _add_history(meta, text):
    text = _ascii(text)
    if hasattr(meta, "add_history"):
        # A card loses the blank at its end; one that is full, or all but, goes on in the next.
        last = len(text) % HISTORY_WIDTH in (0, HISTORY_WIDTH - 1)
        meta.add_history(text + " ." if last else text)
    else:
        history = meta.get("HISTORY", [])
        meta["HISTORY"] = [*([history] if isinstance(history, str) else history), text]
