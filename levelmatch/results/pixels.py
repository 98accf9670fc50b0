# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The images of a result with their pixels, read from files for a record."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from levelmatch.exceptions import FrameError
from levelmatch.images.collect import collect_frames
from levelmatch.images.corrections import AppliedCorrection
from levelmatch.images.frame import Frame
from levelmatch.options import ReadOptions
from levelmatch.record.levels import Levels
from levelmatch.results.header import check_not_matched

__all__ = ["frames_with_pixels", "own_corrections"]


# Images that an error names.
MAX_NAMED = 5
# An image that lies farther than this from the recorded position, in pixels, is another.
MOST_MOVED = 0.5


def frames_with_pixels(
    levels: Levels,
    files: str | Path | Iterable[str | Path] | None = None,
    names: Iterable[str] | None = None,
) -> list[Frame]:
    """Return the images of a result, with pixels to load, in its order.

    Parameters
    ----------
    levels : `~levelmatch.record.levels.Levels`
        A result or a record.
    files : path, list of path or None
        For a record: the files of its images before the run, or their folder. They are
        identified by their names.
    names : iterable of str or None
        The images needed; by default all.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        The images needed, with the corrections and names of the result.

    Raises
    ------
    FrameError
        If a file is missing, is not the recorded image, or was already corrected; the
        message names it.
    """
    wanted = None if names is None else set(names)
    needed = [f for f in levels.frames if wanted is None or f.name in wanted]
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
    options = levels.options["read"]
    hdu = options.get("hdu")
    hdu = tuple(hdu) if isinstance(hdu, list) else hdu
    read = ReadOptions(dq_bits=options.get("dq_bits"), hdu=hdu)
    wholes = {name: collect_frames([paths[name]], read)[0] for name in map(_file_name, needed)}
    if not options.get("rematch", False):
        check_not_matched(wholes.values(), [p.matched.name for p in levels.passes])
    return [_filled(frame, wholes[_file_name(frame)]) for frame in needed]


def own_corrections(
    levels: Levels, frame: Frame
) -> tuple[tuple[AppliedCorrection, ...], tuple[AppliedCorrection, ...]]:
    """Return an image's corrections by earlier runs, and those of this run."""
    return frame.corrections[: levels.n_earlier], frame.corrections[levels.n_earlier :]


def _file_name(frame: Frame) -> str:
    return frame.whole or frame.name


def _paths(files) -> dict[str, Path]:
    """Return paths by their names, for a list of files or all files in a folder."""
    if files is None:
        return {}
    if isinstance(files, str | Path):
        path = Path(files)
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return {Path(path).name: Path(path) for path in files}


def _filled(frame: Frame, whole: Frame) -> Frame:
    """Return the frame of a file with the names and corrections of a recorded frame."""
    if whole.shape != frame.shape:
        msg = f"{whole.name}: its shape {whole.shape} is not the recorded one, {frame.shape}"
        raise FrameError(msg)
    moved = np.abs(whole.whole_grid.axes[0] - frame.whole_grid.axes[0]).max()
    if not moved <= MOST_MOVED * np.sqrt(whole.whole_grid.pixel_area):
        msg = f"{whole.name}: it lies elsewhere on the sky than the recorded image"
        raise FrameError(msg)
    keys = ("name", "tile", "detector", "part", "region", "subset", "scale", "corrections")
    return whole.with_keys(whole=frame.whole, **{key: getattr(frame, key) for key in keys})
