# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a header says of the corrections that were subtracted from its image."""

from datetime import UTC, datetime

import numpy as np

from levelmatch.exceptions import FrameError

__all__ = ["add_provenance", "check_not_matched"]

# The letter of each pass in the keywords LMxLEV, LMxERR, LMxSLU, LMxSLV and LMxREF.
LETTERS = {"dithers": "D", "local": "B", "lyot": "L", "nircam_short": "N", "mosaic": "M"}


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
                msg = (
                    f"{frame.name}: already matched by the pass {name!r} "
                    f"({key} = {frame.meta[key]}); rematch=True goes on"
                )
                raise FrameError(msg)


def add_provenance(meta, frame, part=""):
    """Add what was subtracted to a header, in place.

    Keywords hold the total of each pass, so a second run adds to the first's;
    HISTORY keeps every run.

    Parameters
    ----------
    meta : mapping
        A header, or a dictionary.
    frame : `~levelmatch.frames.Frame`
        The image with its corrections.
    part : str
        What of the image they apply to, for HISTORY, if not all.
    """
    from levelmatch import __version__

    axes = frame.whole_grid.axes
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for applied in frame.corrections:
        letter = LETTERS[applied.name]
        values = applied.correction.coefficients(axes)
        error = float(np.sqrt(applied.variance[0]))
        text = (
            f"levelmatch {__version__} {time} {applied.name}: subtracted level "
            f"{values[0]:.8g} +- {error:.3g}, slopes E {values[1]:.6g} N {values[2]:.6g} per arcmin"
            f" relative to {applied.reference}" + (f" ({part})" if part else "")
        )
        _add_history(meta, text)
        if part == "lyot":
            continue
        words = {
            "LEV": "level",
            "SLU": "slope to East (/arcmin)",
            "SLV": "slope to North (/arcmin)",
        }
        for (suffix, word), value in zip(words.items(), values, strict=True):
            _set(
                meta,
                f"LM{letter}{suffix}",
                float(meta.get(f"LM{letter}{suffix}", 0.0)) + value,
                f"{applied.name}: {word} subtracted",
            )
        _set(meta, f"LM{letter}ERR", error, f"{applied.name}: error of the level")
        _set(meta, f"LM{letter}REF", applied.reference[:60], f"{applied.name}: relative to")


def _set(meta, key, value, comment):
    value = float(value) if isinstance(value, float | np.floating) else value
    if hasattr(meta, "cards"):
        comment = comment if not isinstance(value, str) else None
        meta[key] = (value, comment) if comment else value
    else:
        meta[key] = value


def _add_history(meta, text):
    if hasattr(meta, "add_history"):
        meta.add_history(text)
    else:
        history = meta.get("HISTORY", [])
        meta["HISTORY"] = [*([history] if isinstance(history, str) else history), text]
