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
    "RecordError",
]


class LevelMatchError(Exception):
    """A state of the data that leaves the job without an answer."""


class FrameError(LevelMatchError):
    """An image that cannot be used: unreadable, empty, or without a usable WCS."""


class NoOverlapError(LevelMatchError):
    """No two images overlap where an answer needs it."""


class DisconnectedError(LevelMatchError):
    """Sets of images with no overlap between them, where the user asked to refuse them."""


class RecordError(LevelMatchError):
    """A record that is none, is damaged, or does not go with the files."""


class ConvergenceError(LevelMatchError):
    """Equations whose solution did not reach the accuracy that is promised."""


class LevelMatchWarning(AstropyUserWarning):
    """A result that needs a look."""


class DisconnectedWarning(LevelMatchWarning):
    """Sets of images with no overlap between them, each with its own gauge."""


class FluxScaleWarning(LevelMatchWarning):
    """Images whose flux scales differ: their difference depends on brightness."""


class LevelMatchDeprecationWarning(LevelMatchWarning, AstropyDeprecationWarning):
    """A keyword that has moved and will be removed."""
