# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sky levels in headers that a later step subtracts: kept by a run, or set to zero."""

import ast
from collections.abc import Mapping, MutableMapping
from typing import Any

from astropy.io import fits

from levelmatch.exceptions import FrameError
from levelmatch.images.frame import Frame
from levelmatch.images.known_levels import OWN_KEYWORD, pending_levels
from levelmatch.record.run import Provenance
from levelmatch.results.history import add_history, history_texts, keeps_blanks, signature

__all__ = ["clear_levels", "keep_levels", "kept_cards", "kept_meta", "restore_levels"]

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
