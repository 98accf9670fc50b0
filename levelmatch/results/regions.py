# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Footprints as a region file, for DS9 and other viewers."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from levelmatch.atomic import atomic_path, refuse_data
from levelmatch.sky.vectors import lonlat

if TYPE_CHECKING:
    from levelmatch.record.run_result import RunResult

__all__ = ["write_regions"]

HEAD = """\
# Region file format: DS9 version 4.1
global color=cyan width=1 font="helvetica 10 normal roman"
icrs
"""
# Colours of reference, suspect and isolated images.
REFERENCE, SUSPECT, ISOLATED = "yellow", "red", "magenta"


def write_regions(result: "RunResult", path: str | Path) -> Path:
    """Write the footprints of all images as a region file of DS9.

    Reference images are yellow, suspect images red, isolated images magenta and others cyan.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    path : str or `~pathlib.Path`
        Path of the file. It is written atomically and replaces an existing file.

    Returns
    -------
    path : `~pathlib.Path`
        Path of the file.

    Raises
    ------
    FileExistsError
        If the file is an image or a record.
    """
    path = Path(path)
    refuse_data(path)
    with atomic_path(path) as part:
        part.write_text(region_text(result), encoding="utf-8")
    return path


def region_text(result: "RunResult") -> str:
    """Return the text of a region file: one polygon for each image, labelled by its name."""
    held, suspects = {r.name for r in result.references}, set(result.suspects)
    lines = []
    for frame, isolated in zip(result.frames, result.table["isolated"], strict=True):
        colour = (
            REFERENCE
            if frame.name in held
            else SUSPECT
            if frame.name in suspects
            else ISOLATED
            if isolated
            else ""
        )
        # An outline repeats its last vertex.
        outline = frame.grid.polygon
        ra, dec = lonlat(outline[(outline != np.roll(outline, 1, axis=0)).any(axis=1)])
        corners = ",".join(f"{a:.7f},{d:.7f}" for a, d in zip(ra, dec, strict=True))
        label = frame.name.replace("{", "(").replace("}", ")").replace("\n", " ")
        marks = f" color={colour}" if colour else ""
        lines.append(f"polygon({corners}) # text={{{label}}}{marks}\n")
    return HEAD + "".join(lines)
