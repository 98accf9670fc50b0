# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The pixels of a result's images, or of a record's from their files."""

from pathlib import Path

import numpy as np

from levelmatch.exceptions import FrameError
from levelmatch.images.collect import collect_frames
from levelmatch.options import ReadOptions
from levelmatch.results.header import check_not_matched

__all__ = ["frames_with_pixels", "own_corrections"]


# Images that an error names.
MAX_NAMED = 5
# Images whose outlines are off by more than this many pixels lie elsewhere.
MOST_MOVED = 0.5


def frames_with_pixels(result, files=None, names=None):
    """Return the frames of a result with pixels to load, in its order.

    Parameters
    ----------
    result : `~levelmatch.results.levels.Levels`
        The result, or its record.
    files : path, list of path or None
        For a record: its images' files as they were before the run, or the folder that
        they are in. They are known by their names.
    names : list of str or None
        The images needed; by default all.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        Those needed, with the corrections and names of the result.

    Raises
    ------
    FrameError
        If a file is missing, is not the recorded image, or was corrected already; the
        message names it.
    """
    needed = [f for f in result.frames if names is None or f.name in names]
    if all(frame.source is not None for frame in needed):
        return needed
    paths = _paths(files)
    missing = sorted({_file_name(f) for f in needed if _file_name(f) not in paths})
    if missing:
        shown = ", ".join(missing[:MAX_NAMED])
        more = len(missing) - MAX_NAMED
        shown += f" and {more} more" if more > 0 else ""
        how = "a record holds no pixels; name them by files=" if files is None else "none of files="
        msg = f"{shown}: the pixels are needed: {how}"
        raise FrameError(msg)
    options = result.options["read"]
    hdu = options.get("hdu")
    hdu = tuple(hdu) if isinstance(hdu, list) else hdu
    read = ReadOptions(dq_bits=options.get("dq_bits"), hdu=hdu)
    wholes = {name: collect_frames([paths[name]], read)[0] for name in map(_file_name, needed)}
    if not options.get("rematch", False):
        check_not_matched(wholes.values(), [p.matched.name for p in result.passes])
    return [_filled(frame, wholes[_file_name(frame)]) for frame in needed]


def own_corrections(result, frame):
    """Return a frame's corrections before a result's run, and those of the run."""
    n = sum(1 + step.subtract_local for step in result.run.steps)
    cut = len(frame.corrections) - n
    return frame.corrections[:cut], frame.corrections[cut:]


def _file_name(frame):
    return frame.whole or frame.name


def _paths(files):
    """Paths by name, of a list or of all files in a folder."""
    if files is None:
        return {}
    if isinstance(files, str | Path):
        path = Path(files)
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return {Path(path).name: Path(path) for path in files}


def _filled(frame, whole):
    """A recorded frame with the pixels and the place of its file's."""
    if whole.shape != frame.shape:
        msg = f"{whole.name}: its shape {whole.shape} is not the recorded one, {frame.shape}"
        raise FrameError(msg)
    moved = np.abs(whole.whole_grid.axes[0] - frame.whole_grid.axes[0]).max()
    if not moved <= MOST_MOVED * np.sqrt(whole.whole_grid.pixel_area):
        msg = f"{whole.name}: it lies elsewhere on the sky than the recorded image"
        raise FrameError(msg)
    keys = ("name", "tile", "detector", "part", "region", "subset", "scale", "corrections")
    return whole.with_keys(whole=frame.whole, **{key: getattr(frame, key) for key in keys})
