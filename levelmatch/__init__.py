# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Match the background levels of overlapping astronomical images."""

from importlib import import_module as _import_module
from importlib.machinery import EXTENSION_SUFFIXES as _SUFFIXES
from pathlib import Path as _Path

for _source in _Path(__file__).parent.glob("*/_*.pyx"):
    if not any(_source.with_suffix(_suffix).exists() for _suffix in _SUFFIXES):
        _msg = f"levelmatch is not compiled: run 'pip install -e .' in {_source.parents[2]}"
        raise ImportError(_msg)

# Module of each public name. It is imported when the name is first used, so that the command line
# starts quickly. __init__.pyi lists the same names for type checkers.
_HOMES = {
    "CoaddOptions": "options",
    "DisconnectedError": "exceptions",
    "DisconnectedWarning": "exceptions",
    "FluxScaleWarning": "exceptions",
    "FrameError": "exceptions",
    "LevelMatchDeprecationWarning": "exceptions",
    "LevelMatchError": "exceptions",
    "LevelMatchWarning": "exceptions",
    "MatchResult": "results.result",
    "MeasureOptions": "options",
    "NoOverlapError": "exceptions",
    "PatternWarning": "exceptions",
    "ReadOptions": "options",
    "Record": "record.record",
    "RecordError": "exceptions",
    "SkyCells": "images.sky_cells",
    "SolveOptions": "options",
    "WingsWarning": "exceptions",
    "anchor_levels": "anchor",
    "apply_record": "results.apply_undo",
    "combine_detectors": "matching",
    "combine_nircam_short": "matching",
    "LevelMatchStep": "jwst",
    "make_sky_cells": "image_tables",
    "make_mosaic": "results.mosaic",
    "match_dithers": "matching",
    "match_levels": "matching",
    "match_mosaic": "matching",
    "read_catalogue": "images.catalogue",
    "read_record": "record.record_files",
    "recombine_lyot": "matching",
    "recorded_result": "results.apply_undo",
    "separate_lyot": "images.jwst",
    "solve_record": "record.solving",
    "stack_tile": "stacks",
    "undo_record": "results.apply_undo",
    "verify_record": "results.verification",
    "write_catalogue": "image_tables",
    "write_skyfile": "hst",
}

# Public subpackages, which are imported when first used.
_PACKAGES = ("plots", "report", "testing")

# LevelMatchStep is left out, because it needs the packages of a pipeline.
__all__ = sorted(set(_HOMES) - {"LevelMatchStep"})  # noqa: PLE0605


def __getattr__(name):
    if name == "__version__":
        from importlib.metadata import version

        return version("levelmatch")
    if name in _PACKAGES:
        return _import_module(f"levelmatch.{name}")
    if name in _HOMES:
        value = getattr(_import_module(f"levelmatch.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    msg = f"module 'levelmatch' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__():
    return sorted((*__all__, *_PACKAGES, "__version__"))
