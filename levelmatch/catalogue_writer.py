# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Write catalogues of outlines, which replace the headers of images in the planning of a run."""

from pathlib import Path

import numpy as np
from astropy.table import Table

from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import FrameError
from levelmatch.images.catalogue import PLANNED
from levelmatch.images.collect import collect_frames
from levelmatch.images.frame import Frame
from levelmatch.images.sources import FileSource
from levelmatch.options import ReadOptions
from levelmatch.sky.vectors import lonlat
from levelmatch.table_files import write_table

__all__ = ["write_catalogue"]


@share_parameters
def write_catalogue(
    images,
    path: str | Path,
    *,
    keywords=(),
    read: ReadOptions | None = None,
    overwrite: bool = False,
) -> Table:
    """Write a catalogue of the outlines of images, an input that needs no headers.

    A run on the catalogue finds overlaps and plans its passes without opening files. It opens a
    file to measure its pixels and to write its corrected image.

    Parameters
    ----------
    <<images>>
        The images must be in files.
    path : str or `~pathlib.Path`
        The catalogue: .ecsv, .fits or .parquet.
    keywords : iterable of str
        Additional header keywords to store, such as a keyword of ``group_by``. Keywords used by
        default are always stored.
    read : `ReadOptions` or None
        How images are read.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    catalogue : `~astropy.table.Table`
        One row per image. ``file`` is its path, relative to the catalogue if it lies in the same
        folder. ``hdu`` is the index of the image. ``extension`` is its label if several images of
        the file are matched. ``ra`` and ``dec``, of shape (16,), are the vertices of its convex
        outline in degrees. ``ra_centre`` and ``dec_centre`` are the position of its middle pixel.
        ``ny`` and ``nx`` are its shape. ``unit`` and ``tile`` are its unit and tile. Other
        columns have the names of header keywords.

    Raises
    ------
    FrameError
        If an image cannot be used, or is in memory; the message names it.
    FileExistsError
        If the file exists and ``overwrite`` is not set.
    """
    table, folder = _table(collect_frames(images, read), keywords), Path(path).absolute().parent
    table["file"] = [
        str(Path(f).relative_to(folder)) if Path(f).is_relative_to(folder) else f
        for f in table["file"].tolist()
    ]
    write_table(table, path, overwrite=overwrite)
    return table


def _table(frames: list[Frame], keywords) -> Table:
    """Return the catalogue of frames, with absolute paths."""
    polygons = np.array([frame.grid.polygon for frame in frames])
    ra, dec = lonlat(polygons)
    middle = lonlat(np.array([frame.whole_grid.axes[0] for frame in frames]))
    for frame in frames:
        if not isinstance(frame.source, FileSource):
            msg = f"{frame.name}: a catalogue lists files, and this image is in memory"
            raise FrameError(msg)
    table = Table(
        {
            "file": [str(frame.source.path.absolute()) for frame in frames],
            "hdu": [frame.source.hdu for frame in frames],
            "extension": [frame.extension for frame in frames],
            "ra": ra,
            "dec": dec,
            "ra_centre": middle[0],
            "dec_centre": middle[1],
            "ny": [frame.shape[0] for frame in frames],
            "nx": [frame.shape[1] for frame in frames],
            "unit": ["" if frame.unit is None else str(frame.unit) for frame in frames],
            "tile": [frame.tile for frame in frames],
        }
    )
    for key in dict.fromkeys((*PLANNED, *keywords)):
        values = [frame.meta.get(key) for frame in frames]
        if any(value is not None for value in values):
            table[key] = _column(values)
    return table


def _column(values):
    """Return header values as a column of numbers if all are numbers, otherwise of text."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return values if numbers else ["" if value is None else str(value) for value in values]
