# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Apply a record to its inputs, and undo its corrections."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits

from levelmatch.atomic import atomic_stream
from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import RecordError
from levelmatch.images.associations import expand_associations, write_associations
from levelmatch.images.collect import collect_frames, unique_names
from levelmatch.images.compression import open_raw
from levelmatch.images.file_checks import named_writing
from levelmatch.images.file_state import file_identity
from levelmatch.images.frame import ASSIGNED, Frame
from levelmatch.images.roman import AsdfSource
from levelmatch.images.sources import decoded_image
from levelmatch.option_values import as_path, check_flag, check_progress, check_type
from levelmatch.record.record import Record
from levelmatch.record.record_files import as_record
from levelmatch.results.asdf_files import write_undone_asdf
from levelmatch.results.corrected import corrected_data
from levelmatch.results.files import (
    asdf_hdu,
    check_outputs,
    fits_name,
    hdu_parts,
    header_content,
    open_decoded,
    open_stored,
    scaled_hdus,
)
from levelmatch.results.header import remove_from_primary, remove_provenance
from levelmatch.results.history import own_history, signature
from levelmatch.results.lock import output_lock
from levelmatch.results.prewrite import check_space, output_associations
from levelmatch.results.products import Product, by_file, make_products
from levelmatch.results.recorded_frames import recorded_read
from levelmatch.results.result import MatchResult
from levelmatch.results.splice import Replaced, remove_from_asdf, splice, table_parts
from levelmatch.results.stored_integers import restore_integers, rounded_integers, stored_cards

__all__ = [
    "apply_record",
    "files_by_name",
    "listed_files",
    "recorded_files",
    "recorded_result",
    "undo_record",
]


# Largest distance of an image from its recorded position, in pixels.
MOST_MOVED = 1e-2


# --------------------------------------------------------------------------------------
# Recorded images


def recorded_result(
    record: Record | str | Path, files: Iterable[str | Path], *, force: bool = False
) -> MatchResult:
    """Return the corrected images of a record from its inputs.

    Parameters
    ----------
    record : `~levelmatch.Record`, str or `~pathlib.Path`
        The record.
    files : iterable of str or `~pathlib.Path`
        All of the recorded inputs in any order, their folder, or associations that list them.
        Files are identified by name.
    force : bool
        Whether to accept images whose pixels or positions differ from the record.

    Returns
    -------
    result : `~levelmatch.MatchResult`
        The images, in the order of the run.

    Raises
    ------
    RecordError
        If an image is missing, is given twice, is not in the record, or differs from the
        recorded image; the message names it.
    """
    check_flag("force", force)
    record = as_record(record)
    names = _input_names(record)
    files, listed = listed_files(record, files, names)
    paths = files_by_name(files, names)
    frames = _recorded_frames(record, paths, listed, force=force)
    if not force and record.options.get("nside") is None:
        for frame in frames:
            if frame.source.identity["sha256"] != record.input(frame, "sha256"):
                msg = f"{frame.name}: its pixels are not the recorded ones; force=True accepts them"
                raise RecordError(msg)
    return MatchResult(frames, record.passes, record.measured, record.run)


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


def _input_names(record: Record) -> list[str]:
    """Return the file name of each image, in the order of the run."""
    return [str(record.input(frame, "file")) for frame in record.frames]


def listed_files(
    record: Record, files: Iterable[str | Path], wanted: list[str]
) -> tuple[list[Path], dict[Path, tuple[Path, ...]]]:
    """Return the given and listed files, and the associations that list each file.

    A folder stands for the wanted files in it. Listed files that an earlier call excluded from the
    record are left out.
    """
    files = [files] if isinstance(files, str | PathLike) else files
    check_type("files", files, Iterable, "a list of paths")
    given = [f for file in files for f in _in_folder(as_path("files", file), wanted)]
    paths, listed = expand_associations(given)
    excluded = {name for entry in record.history for name in entry.get("excluded", ())}
    excluded -= {frame.name for frame in record.frames}
    return [path for path in paths if path not in listed or path.name not in excluded], listed


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


def files_by_name(files: Iterable[str | Path], wanted: list[str]) -> dict[str, Path]:
    """Return the paths of files by name; refuse missing, repeated and unknown files."""
    # The file of an image from memory may have a suffix that the recorded name lacks.
    names = {**{fits_name(name): name for name in wanted}, **{name: name for name in wanted}}
    paths: dict[str, Path] = {}
    paths_given = [Path(path) for path in files]
    unique = unique_names(paths_given)
    for path in paths_given:
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


def _recorded_frames(
    record: Record,
    paths: dict[str, Path],
    listed: dict[Path, tuple[Path, ...]],
    *,
    force: bool = False,
    names: list[str] | None = None,
) -> list[Frame]:
    """Return the frames of files with the recorded names, roles and corrections.

    By default the files are the inputs, with their recorded names.
    """
    read = recorded_read(record)
    if names is not None:
        # Separate mask files apply only to the inputs.
        read = replace(read, weight_files=None, mask_files=None)
    names = names or _input_names(record)
    hdus = [int(record.input(frame, "hdu")) for frame in record.frames]
    # The record of a run on cells is applied to the images that the cells were made from.
    of_cells = record.options.get("nside") is not None
    # Neither cells nor data models have an index of their HDU.
    one_image = of_cells or bool(record.outputs)
    opened: dict[tuple[str, int], Frame] = {}
    for name in dict.fromkeys(names):
        of_file = sorted({hdu for n, hdu in zip(names, hdus, strict=True) if n == name})
        hdu = read.hdu if one_image else of_file
        images = collect_frames([paths[name]], replace(read, hdu=hdu))
        opened |= {(name, 0 if one_image else frame.source.hdu): frame for frame in images}
    frames = []
    for frame, name, hdu in zip(record.frames, names, hdus, strict=True):
        base = opened[name, hdu]
        if base.shape != frame.shape and not of_cells:
            msg = f"{name}: its shape is {base.shape}, the recorded {frame.shape}"
            raise RecordError(msg)
        if not force:
            _check_place(name, base, frame, 1.0 if of_cells else MOST_MOVED)
            if base.unit != frame.unit and not of_cells:
                units = f"its unit is {base.unit}, the recorded {frame.unit}"
                msg = f"{name}: {units}; force=True accepts it"
                raise RecordError(msg)
        keys = {key: getattr(frame, key) for key in (*ASSIGNED, "dq_bits")}
        frames.append(base.with_keys(**keys, associations=listed.get(paths[name], ())))
    return frames


def _check_place(name: str, base: Frame, frame: Frame, most: float) -> None:
    """Refuse an image at another position, where the recorded plane would be wrong."""
    moved = np.linalg.norm(base.whole_grid.axes[0] - frame.whole_grid.axes[0])
    turned = np.linalg.norm(base.whole_grid.axes[1:] - frame.whole_grid.axes[1:]) * base.shape[0]
    pixel = np.sqrt(frame.whole_grid.pixel_area)
    if max(moved, turned * pixel) > most * pixel:
        msg = f"{name}: its WCS is not the recorded one; force=True accepts it"
        raise RecordError(msg)


# --------------------------------------------------------------------------------------
# Apply


@share_parameters
def apply_record(
    record: Record | str | Path,
    files: Iterable[str | Path],
    directory: str | Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    progress_bar: Callable | None = None,
) -> list[Path]:
    """Write the corrected images of a record, identical to the output of its run.

    Parameters
    ----------
    record : `~levelmatch.Record`, str or `~pathlib.Path`
        The record.
    files : iterable of str or `~pathlib.Path`
        All of the recorded inputs, their folder, or associations that list them.
    <<files>>

    Raises
    ------
    RecordError
        See `recorded_result`. Nothing is written in this case.
    FileExistsError
        If a file exists and ``overwrite`` is not set.
    """
    record = as_record(record)
    result = recorded_result(record, files, force=force)
    # The images name the given record, not a new one.
    result.record = record
    return result.write(directory, overwrite=overwrite, progress_bar=progress_bar)


# --------------------------------------------------------------------------------------
# Undo


@share_parameters
def undo_record(
    record: Record | str | Path,
    files: Iterable[str | Path],
    directory: str | Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    progress_bar: Callable | None = None,
) -> list[Path]:
    """Write images with the corrections of a record undone.

    Integer pixels are restored exactly, with their scale and their blank pixels. Compressed
    integers with a scale, and integers with more digits than the corrected pixels, become
    floating-point pixels; a warning names images of unscaled integers with too many digits.
    Floating-point pixels are restored within rounding errors: half a unit in the last place of
    the corrected pixel and of the original, in the precision of the file. The header cards of
    this run are removed; the cards of earlier runs stay.

    Parameters
    ----------
    record : `~levelmatch.Record`, str or `~pathlib.Path`
        The record.
    files : iterable of str or `~pathlib.Path`
        All of the corrected images, their folder, or associations that list them.
    <<files>>

    Raises
    ------
    RecordError
        If an image is missing, is given twice, is not in the record, names another record, or
        was joined from two files.
    """
    check_progress(progress_bar)
    record = as_record(record)
    products = _corrected_products(record, files, force=force)
    with output_lock(directory) as lock:
        paths = check_outputs(products, directory, overwrite=overwrite, lock=lock)
        _refuse_originals(record, paths)
        associations = output_associations(products, paths, directory, overwrite, None, lock)
        check_space(products, paths)
        work = list(zip(by_file(products), paths, strict=True))
        for images, path in work if progress_bar is None else progress_bar(work):
            with named_writing(images[0].name), atomic_stream(path) as stream:
                if record.outputs:
                    _write_model(images[0], record, stream)
                elif isinstance(images[0].frame.source, AsdfSource):
                    write_undone_asdf(images[0], record.provenance, stream)
                else:
                    _write_undone(record, images, stream)
        write_associations(associations)
    return paths


def _refuse_originals(record: Record, paths: list[Path]) -> None:
    """Refuse outputs that would replace inputs of the record."""
    inputs = [Path(str(record.input(frame, "path"))) for frame in record.frames]
    originals = {identity: path for path in inputs if (identity := file_identity(path))}
    for path in paths:
        if file_identity(path) in originals:
            msg = f"{path.name}: {path} is the original of the record; name another folder"
            raise RecordError(msg)


def _corrected_products(
    record: Record, files: Iterable[str | Path], *, force: bool
) -> list[Product]:
    """Return the output images of corrected files, with the inverse corrections."""
    check_flag("force", force)
    names = _input_names(record)
    if record.run.recombine:
        _refuse_joined(record)
        names = [frame.product for frame in record.frames]
    elif any(frame.extension for frame in record.frames):
        pairs = zip(record.frames, names, strict=True)
        names = [frame.file if frame.extension else name for frame, name in pairs]
    if record.outputs:
        whole = record.run.recombine
        names = [f.product if whole else f.name for f in record.frames]
        names = [record.outputs.get(name, name) for name in names]
    files, listed = listed_files(record, files, names)
    paths = files_by_name(files, names)
    frames = _recorded_frames(record, paths, listed, force=force, names=names)
    for frame in frames:
        found = str(frame.meta.get("LMRECSHA", ""))
        if found != record.sha256 and not force:
            what = f"another record, {frame.meta.get('LMRECORD')}" if found else "no record"
            msg = f"{frame.source.path.name}: its header names {what}; force=True accepts it"
            raise RecordError(msg)
    return make_products([_inverse(frame) for frame in frames], recombine=record.run.recombine)


def _refuse_joined(record: Record) -> None:
    """Refuse a record that joined the parts of an image from two files."""
    files: dict[str, set[str]] = {}
    for frame, name in zip(record.frames, _input_names(record), strict=True):
        files.setdefault(frame.product, set()).add(name)
    for product, parts in files.items():
        if len(parts) > 1:
            msg = (
                f"{product}: it was joined from {' and '.join(sorted(parts))}, and cannot be undone"
            )
            raise RecordError(msg)


def _inverse(frame: Frame) -> Frame:
    """Return the frame of a corrected image with the inverse corrections and factor."""
    factor = frame.output_factor
    back = tuple(replace(a, correction=a.correction.scaled(-factor)) for a in frame.corrections)
    return frame.with_keys(corrections=back, output_factor=1 / factor)


def _write_model(product: Product, record: Record, stream: BinaryIO) -> None:
    """Write a data model with restored pixels and metadata."""
    from levelmatch.pipelines.undo import write_undone_model

    lyot = product.lyot and _inverse(product.lyot)
    own = replace(product, frame=_inverse(product.frame), lyot=lyot)
    write_undone_model(product, own, record.provenance, stream)


def _write_undone(record: Record, products: list[Product], stream: BinaryIO) -> None:
    """Write a copy of a corrected file with restored images, headers and ASDF tree."""
    path = products[0].frame.source.path
    with (
        open_raw(path) as raw,
        open_decoded(path) as decoded,
        open_stored(path) as stored,
    ):
        replaced: Replaced = {}
        headers = _undone_headers(record, products, stored)
        for product in () if record.provenance.keep else products:
            replaced[product.frame.source.hdu] = partial(_write_hdu, record, product, decoded)
            if product.frame.output_factor != 1.0:
                replaced |= scaled_hdus(product.frame, decoded)
        index = asdf_hdu(stored)
        if index is not None:
            content = remove_from_asdf(stored[index].data.tobytes(), record.sha256)
            replaced[index] = table_parts(stored[index].header, content)
        splice(raw, stored, replaced, stream, headers)


def _undone_headers(
    record: Record, products: list[Product], stored: fits.HDUList
) -> dict[int, bytes]:
    """Return the restored headers of HDUs with unchanged data, as bytes by index of the HDU."""
    changed, provenance = set(), record.provenance
    images = {product.frame.source.hdu for product in products}
    if 0 not in images and own_history(stored[0].header, signature(provenance)):
        remove_from_primary(stored[0].header, provenance)
        changed.add(0)
    for product in products if provenance.keep else ():
        index = product.frame.source.hdu
        remove_provenance(stored[index].header, _inverse(product.frame), provenance)
        changed.add(index)
    return {index: header_content(stored[index]) for index in changed}


def _write_hdu(record: Record, product: Product, hdus: fits.HDUList, stream: BinaryIO) -> None:
    """Write the HDU of a restored image."""
    old = hdus[product.frame.source.hdu]
    dtype = np.dtype(str(record.input(product.frame, "dtype")))
    data = corrected_data(product, decoded_image(old))
    del old.data
    header = old.header.copy()
    cards = stored_cards(header, record.provenance)
    remove_provenance(header, _inverse(product.frame), record.provenance)
    integers = restore_integers(header, cards, data)
    if integers is not None:
        data, dtype = integers, integers.dtype
    elif dtype.kind in "iu":
        data, dtype = rounded_integers(data, dtype, product.name)
    stream.writelines(hdu_parts(old, header, data.astype(dtype)))
