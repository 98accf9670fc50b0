# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Errors and warnings of the package."""

import sys
import warnings

from astropy.utils.exceptions import AstropyDeprecationWarning, AstropyUserWarning

__all__ = [
    "ConvergenceError",
    "DisconnectedError",
    "DisconnectedWarning",
    "FluxScaleWarning",
    "FrameError",
    "LevelMatchDeprecationWarning",
    "LevelMatchError",
    "LevelMatchWarning",
    "NoOverlapError",
    "PatternWarning",
    "RecordError",
    "WingsWarning",
    "warn_user",
]


class LevelMatchError(Exception):
    """Base class of errors: no result can be computed from the data."""


class FrameError(LevelMatchError):
    """An image cannot be used: it is unreadable, empty or without a usable WCS."""


class NoOverlapError(LevelMatchError):
    """No two images overlap."""


class DisconnectedError(LevelMatchError):
    """Images form disconnected sets, which the options refuse."""


class RecordError(LevelMatchError):
    """A file is not a record, or a record is damaged or belongs to other files."""


class ConvergenceError(LevelMatchError):
    """The solution of equations did not reach the required accuracy."""


class LevelMatchWarning(AstropyUserWarning):
    """Base class of warnings: a result needs attention."""


class DisconnectedWarning(LevelMatchWarning):
    """Images form disconnected sets, each with its own gauge."""


class FluxScaleWarning(LevelMatchWarning):
    """The flux scales of images differ, so that their difference depends on brightness."""


class PatternWarning(LevelMatchWarning):
    """Images of a detector share a pattern, which levels and planes cannot correct."""


class WingsWarning(LevelMatchWarning):
    """The wings of stars differ between images, as if the seeing changed, and change levels."""


class LevelMatchDeprecationWarning(LevelMatchWarning, AstropyDeprecationWarning):
    """A keyword has moved and will be removed."""


def warn_user(message: str, category: type[Warning] = LevelMatchWarning) -> None:
    """Issue a warning at the line of the user's call, the innermost outside of the package.

    Parameters
    ----------
    message : str
        The warning.
    category : type
        Class of the warning.
    """
    level, frame = 2, sys._getframe(1)
    # numpy.errstate, as a decorator, stands between functions of the package.
    inside = __package__, "numpy", "contextlib"
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, category, stacklevel=level)
