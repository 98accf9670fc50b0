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
    "warn_user",
]


class LevelMatchError(Exception):
    """Data for which no result can be computed."""


class FrameError(LevelMatchError):
    """An image that cannot be used: unreadable, empty, or without a usable WCS."""


class NoOverlapError(LevelMatchError):
    """No two images overlap."""


class DisconnectedError(LevelMatchError):
    """Disconnected sets of images, which the options refuse."""


class RecordError(LevelMatchError):
    """A file that is no record, a damaged record, or one of other files."""


class ConvergenceError(LevelMatchError):
    """Equations whose solution did not reach the required accuracy."""


class LevelMatchWarning(AstropyUserWarning):
    """A result that needs attention."""


class DisconnectedWarning(LevelMatchWarning):
    """Disconnected sets of images, each with its own gauge."""


class FluxScaleWarning(LevelMatchWarning):
    """Images whose flux scales differ, so that their difference depends on brightness."""


class PatternWarning(LevelMatchWarning):
    """Images of a detector that share a pattern, which no level or plane corrects."""


class LevelMatchDeprecationWarning(LevelMatchWarning, AstropyDeprecationWarning):
    """A keyword that has moved and will be removed."""


def warn_user(message: str, category: type[Warning] = LevelMatchWarning) -> None:
    """Warn at the line of the user's call, the innermost one outside of the package.

    Parameters
    ----------
    message : str
        The warning.
    category : type
        Its class.
    """
    level, frame = 2, sys._getframe(1)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, category, stacklevel=level)
