# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Make frames of any kind of input."""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock

from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import Table

from levelmatch.cluster import current_client, spread
from levelmatch.exceptions import FrameError, warn_user
from levelmatch.images.associations import expand_associations, is_association
from levelmatch.images.catalogue import catalogue_frames, read_catalogue
from levelmatch.images.companion_files import companion_files, misplaced_mask
from levelmatch.images.file_state import file_identity
from levelmatch.images.fits_files import file_frames
from levelmatch.images.in_memory import memory_frames
from levelmatch.images.notes import Notes
from levelmatch.images.roman import is_asdf, roman_frame
from levelmatch.images.sky_cells import SkyCells, cells_frame
from levelmatch.images.sources import FileSource, MemorySource
from levelmatch.images.table_files import is_table
from levelmatch.option_values import check_type
from levelmatch.options import ReadOptions

__all__ = ["collect_frames", "unique_names"]

# Number of files that a worker of a cluster opens in one task.
BATCH = 8
# Lock of the warning filters, which all threads of a worker share.
_READING = Lock()
# Stem and suffixes of a file name.
_SUFFIX = re.compile(r"(.+?)((?:\.fits?|\.fts)?(?:\.\w{1,3})?)", re.IGNORECASE)


def collect_frames(images, read: ReadOptions | None = None, notes: Notes | None = None):
    """Return the frames of any kind of input.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `~levelmatch.MatchResult`
        Any input of `~levelmatch.match_dithers`.
    read : `~levelmatch.ReadOptions` or None
        How images are read.
    notes : `~levelmatch.images.notes.Notes` or None
        Receives the notes on images; by default they are issued as warnings.

    Returns
    -------
    frames : list of `Frame`
        In the order of the input.

    Raises
    ------
    TypeError
        If an input has another type.
    FrameError
        If an image cannot be used; the message names it.
    """
    if hasattr(images, "frames"):
        return [frame.opened() for frame in images.frames]
    check_type("read", read, ReadOptions | None, "ReadOptions")
    read = read or ReadOptions()
    collected = Notes() if notes is None else notes
    frames, n_images = _input_frames(images, read, collected)
    _check_lengths(read, n_images)
    _check_masks(frames, read)
    frames = _unique(_without_companions(frames, read, collected), collected)
    if notes is None:
        collected.warn()
    return frames


def _input_frames(images, read, notes, start=0):
    """Return the frames of an input, whose names may be equal, and the index after its last image.

    ``start`` is the index of its first image, among those of all tiles.
    """
    if hasattr(images, "frames"):
        return [frame.opened() for frame in images.frames], start + len(images.frames)
    if isinstance(images, str | Path) and is_table(images):
        images = read_catalogue(images)
    if isinstance(images, Table):
        return catalogue_frames(images, read, _file_frames), start + len(images)
    if isinstance(images, Mapping):
        frames = []
        for tile, members in images.items():
            found, start = _input_frames(members, read, notes, start)
            frames += [frame.with_keys(tile=str(tile)) for frame in found]
        return frames, start
    if hasattr(images, "files_filtered"):
        images, read = _collection_files(images, read)
    if is_association(images) or isinstance(images, fits.HDUList):
        images = [images]
    if isinstance(images, str | Path | NDData) or not isinstance(images, Iterable):
        msg = (
            "images: expected a list of images or paths, an association, a mapping of tile to "
            f"images or an ImageFileCollection, not {type(images).__name__}"
        )
        raise TypeError(msg)
    images, listed = expand_associations(images)
    frames = _read_by_workers(images, read, notes, start)
    if frames is None:
        frames = [
            f for i, image in enumerate(images, start) for f in _usable(image, i, read, notes)
        ]
    listing = [listed.get(getattr(frame.source, "path", None)) for frame in frames]
    frames = [
        frame.with_keys(associations=paths) if paths else frame
        for frame, paths in zip(frames, listing, strict=True)
    ]
    return frames, start + len(images)


def _check_lengths(read, n_images):
    """Refuse lists of files that do not have one for each image."""
    for option in ("weight_files", "mask_files"):
        files = getattr(read, option)
        if files is not None and not isinstance(files, str | Mapping) and len(files) != n_images:
            msg = (
                f"{option}: there are {len(files)} files for {n_images} images; give one for each, "
                "in the order of the input"
            )
            raise FrameError(msg)


def _check_masks(frames, read):
    """Refuse lists of files whose names are those of the images in another order."""
    for option, kind in (("weight_files", "weight"), ("mask_files", "mask")):
        files = getattr(read, option)
        if files is None or isinstance(files, str | Mapping):
            continue
        found = misplaced_mask(frames, kind)
        if found is not None:
            mask, image, owner = (path.name for path in found)
            msg = (
                f"{image}: {option}: {mask} is given for it, and belongs to {owner} by its name; "
                "give the list in the order of the images, or a mapping of image to file"
            )
            raise FrameError(msg)


def _read_by_workers(images, read, notes, start):
    """Return the frames of files that the workers of a cluster open; `None` of other images."""
    if len(images) <= BATCH or not all(isinstance(image, str | Path) for image in images):
        return None
    client = current_client()
    if client is None:
        return None
    starts = range(0, len(images), BATCH)
    batches = [(images[k : k + BATCH], start + k, read) for k in starts]
    names = [Path(images[k]).name for k in starts]
    frames = []
    for found, own, caught, error in spread(client, read_batch, batches, names):
        for message, category in caught:
            warn_user(message, category)
        notes.merge(own)
        if error is not None:
            raise error
        frames += found
    return frames


def read_batch(images, start, read):
    """Return the frames, notes, warnings and the first error of some files, on a worker."""
    frames, notes, error = [], Notes(), None
    with _READING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for k, image in enumerate(images):
                for frame in _usable(image, start + k, read, notes):
                    # Compute and keep the quantities derived from the WCS, except for the positions
                    # of nodes, which take much memory.
                    frame.grid.radius, frame.grid.pixel_area, frame.grid.axes  # noqa: B018
                    frame.grid.forget()
                    frames.append(frame)
        except Exception as raised:
            error = raised
    return frames, notes, [(str(w.message), w.category) for w in caught], error


def _collection_files(collection, read):
    """Return the files of an ImageFileCollection, and the options with its extension."""
    extension = getattr(collection, "ext", 0)
    # The default of ImageFileCollection, 0, is not a choice of the user.
    if read.hdu == "auto" and extension not in (0, None):
        read = replace(read, hdu=extension)
    return collection.files_filtered(include_path=True), read


def _usable(image, index, read, notes):
    """Return the frames of an input; with ``on_error="skip"``, note and skip unusable ones."""
    if read.on_error != "skip":
        return _frames(image, index, read, notes)
    try:
        frames = _frames(image, index, read, notes)
    except FrameError as error:
        _note_skipped(error, notes)
        return []
    good = []
    for frame in frames:
        try:
            # These raise the errors of the pixels and of the WCS.
            frame.load()
            frame.grid.polygon  # noqa: B018
            good.append(frame)
        except FrameError as error:
            _note_skipped(error, notes)
    return good


def _note_skipped(error, notes):
    name, colon, reason = str(error).partition(": ")
    notes.add("skipped", name, reason if colon else str(error))


def _without_companions(frames, read, notes):
    """Return the frames; refuse, or skip, files of weights and the like beside their images."""
    found = companion_files(frames)
    if found and read.on_error != "skip":
        path = min(found)
        more = f" So do {len(found) - 1} other files." if len(found) > 1 else ""
        msg = (
            f"{path.name}: by its name and place it belongs to {found[path].name}, as weights, "
            f"masks and errors do, and is no image to match.{more} Leave it out, or rename it if "
            "it is one; weight_files and mask_files read weights and masks"
        )
        raise FrameError(msg)
    for path, image in found.items():
        notes.add("skipped", path.name, f"it belongs to {image.name}")
    return [frame for frame in frames if getattr(frame.source, "path", None) not in found]


def _frames(image, index, read, notes):
    """Return the frames of one image or file."""
    if isinstance(image, Table):
        image = SkyCells.from_table(image, f"image{index:04d}")
    if isinstance(image, str | Path) and is_table(image):
        image = SkyCells.read(image)
    if isinstance(image, SkyCells):
        return [cells_frame(image, read)]
    if isinstance(image, str | Path):
        return _file_frames(Path(image), index, read, notes)
    frames = memory_frames(image, index, read, notes)
    if frames is None:
        msg = (
            f"images: image {index} is of type {type(image).__name__}, not a CCDData, NDData, "
            "path, HDU, HDUList, or tuple of an array and its WCS or header"
        )
        raise TypeError(msg)
    return frames


def _file_frames(path, index, read, notes):
    """Return the frames of a FITS or ASDF file."""
    return [roman_frame(path, read)] if is_asdf(path) else file_frames(path, read, notes, index)


# --------------------------------------------------------------------------------------
# Names


def _unique(frames, notes):
    """Return frames with unique names; refuse an empty list and a file given twice."""
    if not frames:
        left_out = "".join(f"; {line}" for line in notes.sentences)
        msg = f"images: there are none; check the list, or the pattern of the files{left_out}"
        raise FrameError(msg)
    files = {(f.source.path, f.source.hdu) for f in frames if isinstance(f.source, FileSource)}
    paths = [f.source.path for f in frames if isinstance(f.source, FileSource)]
    names = unique_names(list(dict.fromkeys(paths)) if len(files) == len(paths) else paths)
    _check_twice(frames, names)
    seen = set()
    for i, frame in enumerate(frames):
        if isinstance(frame.source, FileSource):
            frame = _named(frame, names[frame.source.path])
        elif frame.name in seen:
            label = f"[{frame.extension}]" if frame.extension else ""
            frame = frame.with_keys(name=f"{frame.file}#{i}{label}")
        seen.add(frame.name)
        frames[i] = frame
    return frames


def unique_names(paths: list[Path]) -> dict[Path, str]:
    """Return unique names of files: equal file names are extended by the names of their folders.

    Parameters
    ----------
    paths : list of `~pathlib.Path`
        The files. Files given twice keep their names.

    Returns
    -------
    names : dict of `~pathlib.Path` to str
        Name for each path.
    """
    alike: dict[str, list[Path]] = {}
    for path in paths:
        alike.setdefault(path.name, []).append(path)
    names: dict[Path, str] = {}
    for name, group in alike.items():
        absolute = [path.absolute() for path in group]
        plain = len(group) == 1 or len(set(absolute)) < len(group)
        names |= dict.fromkeys(group, name) if plain else _with_folders(group, absolute)
    return names


def _named(frame, file):
    """Return a frame that is named by its file."""
    name = f"{file}[{frame.extension}]" if frame.extension else file
    if name == frame.name:
        return frame
    return frame.with_keys(name=name, source=replace(frame.source, name=file))


def _check_twice(frames, names):
    """Refuse an image given twice, also by a link, and two files whose extended names are equal."""
    seen: dict = {}
    images: dict = {}
    given: dict = {}
    for frame in frames:
        same = given.setdefault(_object_of(frame.source), frame)
        if same is not frame and isinstance(frame.source, MemorySource):
            msg = f"{frame.name}: the object of {same.name} is given twice; name it once"
            raise FrameError(msg)
    for source in (frame.source for frame in frames if isinstance(frame.source, FileSource)):
        path = source.path
        same = images.setdefault((file_identity(path) or path.absolute(), source.hdu), source)
        if same is not source:
            link = "" if same.path.absolute() == path.absolute() else f" and {same.path.absolute()}"
            msg = f"{path.name}: the file is given twice: {path.absolute()}{link}; name it once"
            raise FrameError(msg)
        other = seen.setdefault(names[path], path)
        if other != path:
            both = f"{other} and {path}"
            msg = f"{path.name}: two files would have the name {names[path]}: {both}; rename one"
            raise FrameError(msg)


def _object_of(source):
    """Return the identity of the object in memory that holds an image, or `None`."""
    if not isinstance(source, MemorySource):
        return None
    return id(source.image if source.hdus is None else source.hdus[source.hdu])


def _with_folders(paths, absolute):
    """Return file names with the folder inserted after the stem, as deep as needed."""
    depth = 1
    while True:
        folders = ["_".join(path.parts[-1 - depth : -1]).strip("/") for path in absolute]
        if len(set(folders)) == len(folders):
            break
        depth += 1
    out = {}
    for path, folder in zip(paths, folders, strict=True):
        stem, suffix = _SUFFIX.fullmatch(path.name).groups()
        out[path] = f"{stem}_{folder}{suffix}"
    return out
