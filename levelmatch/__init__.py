# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Match the background levels of overlapping astronomical images."""

from importlib.metadata import version as _version

from levelmatch.exceptions import (
    DisconnectedWarning,
    FrameError,
    LevelMatchError,
    LevelMatchWarning,
    NoOverlapError,
)
from levelmatch.matching import (
    combine_nircam_short,
    match_dithers,
    match_levels,
    match_mosaic,
    recombine_lyot,
    separate_lyot,
    stack_tile,
)
from levelmatch.measure import MeasureOptions
from levelmatch.results import MatchResult
from levelmatch.solve import SolveOptions

__version__ = _version("levelmatch")

__all__ = [
    "DisconnectedWarning",
    "FrameError",
    "LevelMatchError",
    "LevelMatchWarning",
    "MatchResult",
    "MeasureOptions",
    "NoOverlapError",
    "SolveOptions",
    "combine_nircam_short",
    "match_dithers",
    "match_levels",
    "match_mosaic",
    "recombine_lyot",
    "separate_lyot",
    "stack_tile",
]
