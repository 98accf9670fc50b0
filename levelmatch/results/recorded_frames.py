# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images of a result with their pixels, which are read from files for a record."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from levelmatch.exceptions import FrameError
from levelmatch.images.associations import expand_associations
from levelmatch.images.collect import collect_frames, unique_names
from levelmatch.images.corrections import AppliedCorrection
from levelmatch.images.frame import Frame
from levelmatch.options import ReadOptions
from levelmatch.record.solved_run import SolvedRun
from levelmatch.results.header import check_not_matched
from levelmatch.text import list_names

__all__ = ["frames_with_pixels", "own_corrections", "recorded_read"]


# Options of reading that determine the pixels of an image.
READ_AGAIN = (
    "hdu",
    "dq_bits",
    "blank",
    "mask_extensions",
    "weight_files",
    "mask_files",
    "rematch",
    "max_bytes",
)
# Largest distance of an image from its recorded position, in pixels.
MOST_MOVED = 0.5


def frames_with_pixels(
    levels: SolvedRun,
    files: str | Path | Iterable[str | Path] | None = None,
    names: Iterable[str] | None = None,
) -> list[Frame]:
    """Return the images of a result with sources of their pixels, in the order of the result.

    Parameters
    ----------
    levels : `~levelmatch.record.solved_run.SolvedRun`
        A result or a record.
    files : path, list of path or None
        The uncorrected files of a record, or their folder. Files are identified by name.
    names : iterable of str or None
        Names of the required images; by default all.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        The required images, with the corrections and names of the result.

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
        how = "name the files by files=" if files is None else "files= has no file of this name"
        msg = f"{list_names(missing)}: a record holds no pixels: {how}"
        raise FrameError(msg)
    read = recorded_read(levels)
    wholes: dict = {}
    for name in dict.fromkeys(map(_file_name, needed)):
        of_file = [f for f in needed if _file_name(f) == name]
        hdus = list(dict.fromkeys(_recorded_hdu(levels, f) for f in of_file))
        hdu = read.hdu if hdus == ["auto"] else hdus
        frames = collect_frames([paths[name]], replace(read, hdu=hdu))
        wholes |= {(name, hdu): whole for hdu, whole in zip(hdus, frames, strict=False)}
    if not read.rematch:
        check_not_matched(wholes.values(), [p.name for p in levels.passes])
    return [_filled(f, wholes[_file_name(f), _recorded_hdu(levels, f)]) for f in needed]


def _recorded_hdu(levels: SolvedRun, frame: Frame) -> int | str:
    """Return the recorded HDU of an image, or ``"auto"`` if it was in memory or not recorded."""
    if hasattr(levels, "input") and str(levels.input(frame, "path")):
        return int(levels.input(frame, "hdu"))
    return "auto"


def recorded_read(levels: SolvedRun) -> ReadOptions:
    """Return the recorded options of reading that determine the pixels of images.

    Parameters
    ----------
    levels : `~levelmatch.record.solved_run.SolvedRun`
        A result or a record.

    Returns
    -------
    read : `~levelmatch.ReadOptions`
        The options, without options of flux scales and units.
    """
    options = levels.options["read"]
    kept = {key: options[key] for key in READ_AGAIN if key in options}
    if isinstance(kept.get("hdu"), list):
        kept["hdu"] = tuple(kept["hdu"])
    names = list(dict.fromkeys(map(_file_name, levels.frames)))
    for key in ("weight_files", "mask_files"):
        files = kept.get(key)
        if isinstance(files, list):
            # The files are in the order of the input, but images are read one by one.
            kept[key] = dict(zip(names, files, strict=False))
    return ReadOptions(**kept)


def own_corrections(
    levels: SolvedRun, frame: Frame
) -> tuple[tuple[AppliedCorrection, ...], tuple[AppliedCorrection, ...]]:
    """Return the corrections of an image by earlier runs, and its corrections by this run."""
    return frame.corrections[: levels.n_earlier], frame.corrections[levels.n_earlier :]


def _file_name(frame: Frame) -> str:
    """Return the name of the file of a recorded image."""
    return frame.whole or (frame.file if frame.extension else frame.name)


def _paths(files) -> dict[str, Path]:
    """Return paths by name, for a list of files or for all files in a folder."""
    if files is None:
        return {}
    if isinstance(files, str | Path):
        path = Path(files)
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    paths = [Path(path) for path in expand_associations(files)[0]]
    names = unique_names(paths)
    return {path.name: path for path in paths} | {names[path]: path for path in paths}


def _filled(frame: Frame, whole: Frame) -> Frame:
    """Return the frame of a file with the names and corrections of a recorded frame."""
    if whole.shape != frame.shape:
        msg = f"{whole.name}: its shape {whole.shape} is not the recorded one, {frame.shape}"
        raise FrameError(msg)
    moved = np.abs(whole.whole_grid.axes[0] - frame.whole_grid.axes[0]).max()
    if not moved <= MOST_MOVED * np.sqrt(whole.whole_grid.pixel_area):
        msg = f"{whole.name}: it lies elsewhere on the sky than the recorded image"
        raise FrameError(msg)
    keys = "name tile detector part region subset scale corrections extension exposure role".split()
    return whole.with_keys(whole=frame.whole, **{key: getattr(frame, key) for key in keys})
