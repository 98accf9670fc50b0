# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images of a record, which are read from their files."""

from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS

from levelmatch.exceptions import FrameError, RecordError
from levelmatch.images.associations import expand_associations
from levelmatch.images.frame import ASSIGNED, Frame
from levelmatch.images.inputs import collect_frames, unique_names
from levelmatch.option_values import as_path, check_type
from levelmatch.options import ReadOptions
from levelmatch.record.columns import wcs_text
from levelmatch.record.record import Record
from levelmatch.record.record_files import as_record
from levelmatch.record.run_result import RunResult
from levelmatch.results.files import fits_name
from levelmatch.results.header import check_not_matched
from levelmatch.sky.vectors import unit_vectors
from levelmatch.text import list_names

__all__ = [
    "find_files",
    "frames_with_pixels",
    "recorded_files",
    "recorded_frames",
    "recorded_read",
]


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
# Largest distance of an image from its recorded position, in pixels: where corrections are written,
# and where images are only drawn.
MOST_MOVED, MOST_MOVED_PLOT = 1e-2, 0.5
# Largest distance of a corner from its recorded position, in pixels.
MOST_TURNED = 0.1


# --------------------------------------------------------------------------------------
# Files


def recorded_files(record: Record | str | Path, folder: str | Path | None = None) -> list[Path]:
    """Return the files of a record's inputs.

    Parameters
    ----------
    record : `~levelmatch.Record`, str or `~pathlib.Path`
        The record.
    folder : str, `~pathlib.Path` or None
        Folder of the inputs; by default their recorded paths are used.

    Returns
    -------
    files : list of `~pathlib.Path`
        The files, in the order of the run.

    Raises
    ------
    RecordError
        If an input was in memory or does not exist; the message names it.
    """
    record = as_record(record)
    files = []
    for frame in record.frames:
        name, path = (str(record.input(frame, key)) for key in ("file", "path"))
        if folder is None and not path:
            msg = f"{frame.name}: the image was in memory; name its file, or the folder of inputs"
            raise RecordError(msg)
        found = Path(path)
        if folder is not None:
            found = Path(folder) / name
            found = found if found.is_file() else found.with_name(fits_name(name))
        files.append(found)
    for found in files:
        if not found.is_file():
            msg = f"{found}: the recorded input does not exist; name the files, or their folder"
            raise RecordError(msg)
    return list(dict.fromkeys(files))


def find_files(
    record: Record, files: Iterable[str | Path], wanted: list[str]
) -> tuple[dict[str, Path], dict[Path, tuple[Path, ...]]]:
    """Return the path of each wanted file by its name, and the associations that list a path.

    A folder stands for the wanted files in it. Listed files that an earlier call excluded from the
    record are left out.
    """
    files = [files] if isinstance(files, str | PathLike) else files
    check_type("files", files, Iterable, "a list of paths")
    given = [f for file in files for f in _in_folder(as_path("files", file), wanted)]
    found, listed = expand_associations(given)
    excluded = record.excluded
    found = [path for path in found if path not in listed or path.name not in excluded]
    return _by_name(found, wanted), listed


def _in_folder(path: Path, wanted: list[str]) -> list[Path]:
    """Return the wanted files of a folder; return a file alone."""
    if not path.is_dir():
        return [path]
    names = dict.fromkeys(name for want in wanted for name in (want, fits_name(want)))
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        msg = f"{path}: the folder has no image of the record; name the files"
        raise RecordError(msg)
    return found


def _by_name(given: list[Path], wanted: list[str]) -> dict[str, Path]:
    """Return the paths of files by name; refuse missing, repeated and unknown files."""
    # The file of an image from memory may have a suffix that the recorded name lacks.
    names = {**{fits_name(name): name for name in wanted}, **{name: name for name in wanted}}
    paths: dict[str, Path] = {}
    unique = unique_names(given)
    for path in given:
        found = unique[path] if unique[path] in names else path.name
        if found not in names:
            msg = f"{path.name}: the record has no such image; the first is {wanted[0]}"
            raise RecordError(msg)
        name = names[found]
        if name in paths:
            msg = f"{path.name}: it is given twice: {paths[name]} and {path}; name one"
            raise RecordError(msg)
        paths[name] = path
    missing = [name for name in dict.fromkeys(wanted) if name not in paths]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        msg = f"{missing[0]}: the image is missing{more}; a record applies to all of its images"
        raise RecordError(msg)
    return paths


# --------------------------------------------------------------------------------------
# Frames


def recorded_read(result: RunResult) -> ReadOptions:
    """Return the recorded options of reading that determine the pixels of images.

    Parameters
    ----------
    result : `~levelmatch.record.run_result.RunResult`
        A result or a record.

    Returns
    -------
    read : `~levelmatch.ReadOptions`
        The options, without options of flux scales and units.
    """
    options = result.options["read"]
    kept = {key: options[key] for key in READ_AGAIN if key in options}
    if isinstance(kept.get("hdu"), list):
        kept["hdu"] = tuple(kept["hdu"])
    names = list(dict.fromkeys(map(_file_name, result.frames)))
    for key in ("weight_files", "mask_files"):
        files = kept.get(key)
        if isinstance(files, list):
            # The files are in the order of the input, but images are read one by one.
            kept[key] = dict(zip(names, files, strict=False))
    return ReadOptions(**kept)


def recorded_frames(
    record: Record,
    files: Iterable[str | Path],
    names: list[str],
    read: ReadOptions,
    *,
    force: bool,
) -> list[Frame]:
    """Return the frames of files with the names, roles and corrections of a record.

    ``names`` are the files of all frames of the record. A frame of another shape, position or unit
    is refused, the last two unless ``force`` is set.
    """
    paths, listed = find_files(record, files, names)
    # The record of a run on cells is applied to the images that the cells were made from.
    of_cells = record.options.get("nside") is not None
    # Neither cells nor data models have an index of their HDU.
    one_image = of_cells or record.of_models
    hdus = ["auto" if one_image else int(record.input(f, "hdu")) for f in record.frames]
    frames = []
    images = _read_files(names, hdus, paths, read)
    for frame, name, image in zip(record.frames, names, images, strict=True):
        differs = "" if of_cells else _difference(frame, image)
        if not force:
            differs = differs or _change(record, frame, image, of_cells=of_cells)
        if differs:
            msg = f"{name}: {differs}"
            raise RecordError(msg)
        keys = {key: getattr(frame, key) for key in (*ASSIGNED, "dq_bits")}
        frames.append(image.with_keys(**keys, associations=listed.get(paths[name], ())))
    return frames


def _read_files(
    names: list[str], hdus: list[Any], paths: dict[str, Path], read: ReadOptions
) -> list[Frame]:
    """Return an image for each file name and index of an HDU; read each file once.

    ``"auto"`` in place of the index stands for the only image of a file.
    """
    images: dict[tuple, Frame] = {}
    for name in dict.fromkeys(names):
        of_file = sorted({hdu for n, hdu in zip(names, hdus, strict=True) if n == name})
        hdu = read.hdu if of_file == ["auto"] else of_file
        found = collect_frames([paths[name]], replace(read, hdu=hdu))
        if of_file == ["auto"]:
            images[name, "auto"] = found[0]
        else:
            images |= {(name, image.source.hdu): image for image in found}
    return [images[key] for key in zip(names, hdus, strict=True)]


def _difference(frame: Frame, image: Frame) -> str:
    """Return how the shape of an image differs from the recorded one; blank if it agrees."""
    if image.shape == frame.shape:
        return ""
    return f"its shape {image.shape} is not the recorded one, {frame.shape}"


def _change(record: Record, frame: Frame, image: Frame, *, of_cells: bool) -> str:
    """Return how the position or the unit differs from the recorded one; blank if they agree."""
    moved = _moved(frame, image) > (1.0 if of_cells else MOST_MOVED)
    if moved or (not of_cells and _turned(record, frame, image) > MOST_TURNED):
        return "its WCS is not the recorded one; force=True accepts it"
    if not of_cells and image.unit != frame.unit:
        return f"its unit is {image.unit}, the recorded {frame.unit}; force=True accepts it"
    return ""


def _moved(frame: Frame, image: Frame) -> float:
    """Return the distance of an image's centre from the recorded one, in pixels."""
    moved = np.linalg.norm(image.whole_grid.axes[0] - frame.whole_grid.axes[0])
    return float(moved / np.sqrt(frame.whole_grid.pixel_area))


def _turned(record: Record, frame: Frame, image: Frame) -> float:
    """Return the largest distance of a corner from its recorded position, in pixels.

    It is 0 if the record has no FITS WCS of the image, or the image has a gwcs.
    """
    text = wcs_text(image)
    known = text.strip() and record.input(frame, "wcs").strip()
    if not known or not isinstance(image.transform.wcs, WCS):
        return 0.0
    ny, nx = image.shape
    corners = np.array([0, nx - 1, 0, nx - 1]), np.array([0, 0, ny - 1, ny - 1])
    both = WCS(text, naxis=2), record.wcs(frame.name)
    here, there = (unit_vectors(*wcs.all_pix2world(*corners, 0)) for wcs in both)
    apart = np.linalg.norm(here - there, axis=-1) / np.sqrt(frame.whole_grid.pixel_area)
    return float(np.max(apart, where=np.isfinite(apart), initial=0.0))


def frames_with_pixels(
    result: RunResult,
    files: str | Path | Iterable[str | Path] | None = None,
    names: Iterable[str] | None = None,
) -> list[Frame]:
    """Return the images of a result with sources of their pixels, in the order of the result.

    Parameters
    ----------
    result : `~levelmatch.record.run_result.RunResult`
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
    needed = [f for f in result.frames if wanted is None or f.name in wanted]
    if all(frame.source is not None for frame in needed):
        return needed
    paths = _paths(files)
    missing = sorted({_file_name(f) for f in needed if _file_name(f) not in paths})
    if missing:
        how = "name the files by files=" if files is None else "files= has no file of this name"
        msg = f"{list_names(missing)}: a record holds no pixels: {how}"
        raise FrameError(msg)
    read = recorded_read(result)
    own = [_file_name(frame) for frame in needed]
    images = _read_files(own, [_recorded_hdu(result, frame) for frame in needed], paths, read)
    if not read.rematch:
        check_not_matched(images, [p.name for p in result.passes])
    return [_filled(frame, image) for frame, image in zip(needed, images, strict=True)]


def _recorded_hdu(result: RunResult, frame: Frame) -> int | str:
    """Return the recorded HDU of an image, or ``"auto"`` if it was in memory or not recorded."""
    if hasattr(result, "input") and str(result.input(frame, "path")):
        return int(result.input(frame, "hdu"))
    return "auto"


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


def _filled(frame: Frame, image: Frame) -> Frame:
    """Return the image of a file with the names and corrections of a recorded frame."""
    differs = _difference(frame, image)
    if not differs and not _moved(frame, image) <= MOST_MOVED_PLOT:
        differs = "it lies elsewhere on the sky than the recorded image"
    if differs:
        msg = f"{image.name}: {differs}"
        raise FrameError(msg)
    return image.with_keys(**{key: getattr(frame, key) for key in ASSIGNED})
