# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Errors and warnings of the package."""

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
