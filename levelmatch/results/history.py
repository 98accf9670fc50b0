# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""HISTORY texts of runs in a header, and the cards that they restore when a run is undone."""

import ast
import re
from collections.abc import Callable, Mapping, MutableMapping
from functools import wraps
from typing import Any

import numpy as np
from astropy.io import fits

from levelmatch.exceptions import FrameError, warn_user
from levelmatch.images.frame import Frame
from levelmatch.images.known_levels import OWN_KEYWORD, pending_levels
from levelmatch.record.run import Provenance

__all__ = [
    "SIGNED",
    "STORED",
    "add_history",
    "ascii_text",
    "clear_levels",
    "history_texts",
    "keep_levels",
    "keeps_blanks",
    "kept_cards",
    "kept_meta",
    "needs_cards",
    "own_history",
    "remove_from_primary",
    "remove_scaling",
    "restore_integers",
    "restore_levels",
    "signature",
    "stored_cards",
]

# Number of characters of text in a HISTORY card.
HISTORY_WIDTH = 72
# Beginning of each text.
SIGNED = "levelmatch "
# Beginning of a card that continues the text of the previous card.
CONTINUED = "    "


def signature(provenance: Provenance) -> str:
    """Return the beginning of the HISTORY texts of a run."""
    return f"{SIGNED}{provenance.version} {provenance.created}"


def own_history(header: fits.Header, signature: str) -> list[int]:
    """Return the indices of the HISTORY cards of a run, including continuations."""
    own: list[int] = []
    before: str | None = None
    for index, card in enumerate(header.cards):
        if card.keyword != "HISTORY":
            continue
        text = str(card.value)
        begins = text.startswith(SIGNED)
        if text.startswith(signature) if begins else before is not None and _goes_on(before, text):
            own.append(index)
            before = text
        else:
            before = None
    return own


def _goes_on(before: str, line: str) -> bool:
    """Return whether a card continues the previous card."""
    return line.startswith(CONTINUED) or len(before) >= HISTORY_WIDTH - 1


def history_texts(header: fits.Header) -> list[str]:
    """Return the texts of HISTORY, joined from their cards."""
    out: list[str] = []
    before = ""
    for line in map(str, header.get("HISTORY", [])):
        if not out or line.startswith(SIGNED) or not _goes_on(before, line):
            out.append(line)
        elif line.startswith(CONTINUED):
            out[-1] += " " + line.removeprefix(CONTINUED)
        else:
            # The previous card may have lost a trailing blank.
            cards = -(-len(out[-1]) // HISTORY_WIDTH)
            out[-1] = out[-1].ljust(cards * HISTORY_WIDTH) + line
        before = line
    return out


def keeps_blanks(change: Callable) -> Callable:
    """Let a function that adds cards to a header keep the blank cards at its end.

    astropy uses these up for new cards, and nothing could restore them.
    """

    @wraps(change)
    def changed(meta: Any, *args: Any, **options: Any) -> None:
        before = _blanks(meta)
        change(meta, *args, **options)
        for _ in range(before - _blanks(meta)):
            meta.append(end=True)

    return changed


def _blanks(meta: Any) -> int:
    """Return the number of blank cards at the end of a header."""
    if not isinstance(meta, fits.Header):
        return 0
    cards = meta.cards
    n = 0
    while n < len(cards) and cards[-1 - n].is_blank:
        n += 1
    return n


def ascii_text(text: str) -> str:
    """Return text in printable ASCII, as FITS headers require; escape other characters."""
    text = text.encode("ascii", "backslashreplace").decode()
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def add_history(meta: Any, text: str) -> None:
    """Add a text to HISTORY, in place, so that `history_texts` returns it unchanged."""
    text = ascii_text(text)
    if hasattr(meta, "add_history"):
        for line in _history_lines(text):
            meta.add_history(line)
    else:
        history = meta.get("HISTORY", [])
        meta["HISTORY"] = [*([history] if isinstance(history, str) else history), text]


def _history_lines(text: str) -> list[str]:
    """Return the text broken at words, or in one line, which astropy breaks anywhere.

    The lines are shorter than a card, because a full card counts as continued.
    """
    # A break must not separate the word "record" from the name.
    first, *words = re.sub(r" record (?=\S)", " record\0", text).split(" ")
    lines = [first]
    for word in words:
        if len(lines[-1]) + 1 + len(word) <= HISTORY_WIDTH - 2:
            lines[-1] += " " + word
        else:
            lines.append(CONTINUED + word)
    lost = any(line.endswith(" ") or line.startswith(CONTINUED + " ") for line in lines)
    if not lost and max(map(len, lines)) <= HISTORY_WIDTH - 2:
        return [line.replace("\0", " ") for line in lines]
    # A full or nearly full last card would count as continued, so the text is extended.
    return [text + " ."] if len(text) % HISTORY_WIDTH in (0, HISTORY_WIDTH - 1) else [text]


# --------------------------------------------------------------------------------------
# Cards of stored integers

# Words of the HISTORY texts.
STORED = " stored as integers: "
SCALING = ("BSCALE", "BZERO", "BLANK")
# Largest distance of a restored value from an integer, and largest rounding error.
TOLERANCE = 0.25


def remove_scaling(header: fits.Header, provenance: Provenance | None = None) -> None:
    """Remove the cards of stored integers from a header, in place.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header of integers, or of floats.
    provenance : `~levelmatch.record.run.Provenance` or None
        The run whose HISTORY gets the cards and their places; by default they are lost.
    """
    if provenance is not None and header.get("BITPIX", 0) > 0:
        for place, card in enumerate(list(header.cards)):
            if card.keyword in ("BITPIX", *SCALING):
                text = f"{signature(provenance)}{STORED}{place} {str(card).rstrip()}"
                add_history(header, text)
    for key in SCALING:
        header.remove(key, ignore_missing=True, remove_all=True)


def needs_cards(hdu: Any) -> bool:
    """Return whether the cards of an HDU's integers are needed to restore them.

    Compressed integers follow from the pixels, but for the value of blank pixels. astropy does not
    write compressed integers with a scale.
    """
    if not isinstance(hdu, fits.CompImageHDU):
        return True
    return "BLANK" in hdu.header and not {"BSCALE", "BZERO"}.intersection(hdu.header)


def stored_cards(header: fits.Header, provenance: Provenance) -> dict[int, fits.Card]:
    """Return the cards of stored integers in the HISTORY of a run, by place in the header."""
    start = signature(provenance) + STORED
    texts = [t.removeprefix(start) for t in history_texts(header) if t.startswith(start)]
    cards = (text.removesuffix(" .").partition(" ") for text in texts)
    return {int(place): fits.Card.fromstring(card) for place, _, card in cards}


def restore_integers(
    header: fits.Header, cards: dict[int, fits.Card], data: np.ndarray
) -> np.ndarray | None:
    """Return restored pixels as the integers of a file; add the cards of their scale.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The restored header without the cards; it is unchanged if the pixels stay floats.
    cards : dict of int to `~astropy.io.fits.Card`
        See `stored_cards`.
    data : `~numpy.ndarray`
        The restored pixels, NaN where blank.

    Returns
    -------
    integers : `~numpy.ndarray` or None
        The stored integers; `None` if they do not follow from the pixels.
    """
    values = {card.keyword: card.value for card in cards.values()}
    n_bytes = values.get("BITPIX", 0) // 8
    if not n_bytes:
        return None
    dtype = np.dtype("u1" if n_bytes == 1 else f"i{n_bytes}")
    with np.errstate(all="ignore"):
        exact = (data.astype(np.float64) - values.get("BZERO", 0)) / values.get("BSCALE", 1)
    blank = np.isnan(exact)
    exact[blank] = values.get("BLANK", np.nan)
    integers = np.rint(exact)
    limits = np.iinfo(dtype)
    if not _largest_spacing(data) <= TOLERANCE * abs(values.get("BSCALE", 1)):
        return None
    good = np.abs(exact - integers) <= TOLERANCE
    good &= (integers >= limits.min) & (integers <= limits.max)
    if not good.all():
        return None
    for place, card in sorted(cards.items()):
        header.remove(card.keyword, ignore_missing=True)
        header.insert(place, card, useblanks=False)
    return integers.astype(dtype)


def rounded_integers(data: np.ndarray, dtype: np.dtype, name: str) -> tuple[np.ndarray, np.dtype]:
    """Return restored pixels as whole numbers, and the type in which they can be written.

    Parameters
    ----------
    data : `~numpy.ndarray`
        The restored pixels, NaN where blank.
    dtype : `~numpy.dtype`
        The integer type of the original.
    name : str
        The image, for the warning if the pixels stay floats: they have too few digits, or do not
        follow from integers.
    """
    spacing = _largest_spacing(data)
    if spacing > TOLERANCE:
        # The integers, the correction and the restoration were each rounded to half of it.
        warn_user(
            f"{name}: its integers have more digits than the corrected pixels; they are restored "
            f"as floating-point numbers with errors of up to {1.5 * spacing:.4g}"
        )
        return data, data.dtype
    whole = np.rint(data)
    distance = np.max(np.abs(data - whole), initial=0.0, where=~np.isnan(data))
    if distance > max(TOLERANCE, 1.5 * spacing):
        warn_user(
            f"{name}: its pixels were changed after matching: the restored pixels are no integers, "
            "and stay floating-point numbers"
        )
        return data, data.dtype
    # Integers have no NaN, so pixels with NaN stay floats.
    return whole, data.dtype if np.isnan(data).any() else dtype


def _largest_spacing(data: np.ndarray) -> float:
    """Return the distance between floats at the largest absolute value that is not NaN."""
    return float(np.spacing(np.max(np.abs(data), initial=0.0, where=~np.isnan(data))))


# --------------------------------------------------------------------------------------
# Sky levels that later steps subtract

# Words of the HISTORY texts.
CLEARED = " sky level of a later step set to 0: "
KEPT = " level kept in the header: "
# Comments of new cards.
COMMENTS = {
    "BKGLEVEL": "Computed constant background level",
    "BKGMETH": "Background computation method",
    "BKGSUB": "Has background been subtracted from data?",
    "S_SKYMAT": "Sky Background Equalization or Subtraction",
}


def kept_cards(frame: Frame, provenance: Provenance) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the cards that pass the level of an image to a later step.

    Parameters
    ----------
    frame : `~levelmatch.images.frame.Frame`
        The image with its corrections.
    provenance : `~levelmatch.record.run.Provenance`
        The run.

    Returns
    -------
    primary, image : dict
        Cards of the primary header and of the image's header. They hold the total level in the
        unit of the image: BKGLEVEL, BKGSUB, BKGMETH and S_SKYMAT for JWST, MDRIZSKY for HST,
        and the keyword named by the caller or else LMSKY for other telescopes.

    Raises
    ------
    FrameError
        If the correction of the image is a plane or has a pattern.
    """
    if not frame.correction.is_level:
        msg = (
            f"{frame.name}: subtract=False: its correction is a plane or a pattern, which no "
            "header holds; fit levels"
        )
        raise FrameError(msg)
    level = float(frame.correction.constant)
    telescope = str(frame.meta.get("TELESCOP", "")).strip().upper()
    primary: dict[str, Any] = {}
    image: dict[str, Any] = {}
    if telescope == "JWST":
        primary = {"BKGLEVEL": level, "BKGMETH": "match", "BKGSUB": False, "S_SKYMAT": "COMPLETE"}
    elif telescope == "HST":
        image = {"MDRIZSKY": level}
    elif not provenance.sky_keyword:
        image = {OWN_KEYWORD: level}
    if provenance.sky_keyword:
        image[provenance.sky_keyword.upper()] = level
    return primary, image


@keeps_blanks
def keep_levels(
    meta: MutableMapping[str, Any] | fits.Header, cards: Mapping[str, Any], provenance: Provenance
) -> None:
    """Set cards in a header, in place; write their old values to HISTORY."""
    for key, value in cards.items():
        old = meta.get(key)
        add_history(meta, f"{signature(provenance)}{KEPT}{key} was {old!r}")
        if old is None and hasattr(meta, "cards"):
            meta[key] = (value, COMMENTS.get(key, "level that is not subtracted yet"))
        else:
            meta[key] = value


def kept_meta(meta: MutableMapping[str, Any], frame: Frame, provenance: Provenance) -> None:
    """Set the cards of both headers in the merged header of an image in memory, in place."""
    primary, image = kept_cards(frame, provenance)
    keep_levels(meta, primary | image, provenance)


@keeps_blanks
def clear_levels(meta: MutableMapping[str, Any] | fits.Header, provenance: Provenance) -> None:
    """Set sky levels that are not yet subtracted to zero, in place, and write them to HISTORY.

    Otherwise a later step would subtract them from the corrected image.
    """
    for key, level in pending_levels(meta).items():
        meta[key] = 0.0
        add_history(meta, f"{signature(provenance)}{CLEARED}{key} was {level!r}")


def restore_levels(header: fits.Header, provenance: Provenance) -> None:
    """Undo `clear_levels` and `keep_levels`, in place."""
    for start in (signature(provenance) + word for word in (CLEARED, KEPT)):
        for line in history_texts(header):
            if not line.startswith(start):
                continue
            key, _, text = line.removeprefix(start).removesuffix(" .").partition(" was ")
            value = ast.literal_eval(text.strip())
            if value is None:
                header.remove(key, ignore_missing=True)
            else:
                header[key] = value


def remove_from_primary(header: fits.Header, provenance: Provenance) -> None:
    """Undo the changes of a run in a primary header without image, in place."""
    restore_levels(header, provenance)
    for index in reversed(own_history(header, signature(provenance))):
        del header[index]
