# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Apply a record to its inputs, and undo its corrections."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits

from levelmatch.atomic import atomic_stream, write_content
from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import RecordError
from levelmatch.images.compression import open_raw
from levelmatch.images.file_checks import named_writing
from levelmatch.images.file_state import file_identity
from levelmatch.images.frame import Frame
from levelmatch.images.roman import AsdfSource
from levelmatch.images.sources import decoded_image
from levelmatch.option_values import check_flag, check_progress
from levelmatch.record.record import Record
from levelmatch.record.record_files import as_record
from levelmatch.results.asdf_files import write_undone_asdf
from levelmatch.results.asdf_trees import remove_from_asdf
from levelmatch.results.corrected import corrected_data
from levelmatch.results.files import (
    asdf_hdu,
    check_outputs,
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
from levelmatch.results.recorded_frames import recorded_frames, recorded_read
from levelmatch.results.result import MatchResult
from levelmatch.results.splice import Replaced, splice, table_parts
from levelmatch.results.stored_integers import restore_integers, rounded_integers, stored_cards

__all__ = [
    "apply_record",
    "recorded_result",
    "undo_record",
]


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
    frames = recorded_frames(record, files, record.input_names, recorded_read(record), force=force)
    if not force and record.options.get("nside") is None:
        for frame in frames:
            recorded = record.input(frame, "digest")
            if frame.source.identity["digest"] != recorded:
                msg = f"{frame.name}: its pixels are not the recorded ones; force=True accepts them"
                if not recorded:
                    why = "an early version made the record, so its pixels cannot be compared"
                    msg = f"{frame.name}: {why}; force=True accepts them"
                raise RecordError(msg)
    return MatchResult(frames, record.passes, record.measured, record.run)


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
                _write_undone(record, images, stream)
        for path, content in associations.items():
            write_content(path, content)
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
    if record.run.recombine:
        _refuse_joined(record)
    # Separate mask files apply only to the inputs.
    read = replace(recorded_read(record), weight_files=None, mask_files=None)
    frames = recorded_frames(record, files, record.output_names, read, force=force)
    for frame in frames:
        sha256 = str(frame.meta.get("LMRECSHA", ""))
        if sha256 != record.sha256 and not force:
            what = f"another record, {frame.meta.get('LMRECORD')}" if sha256 else "no record"
            msg = f"{frame.source.path.name}: its header names {what}; force=True accepts it"
            raise RecordError(msg)
    return make_products([_inverse(frame) for frame in frames], recombine=record.run.recombine)


def _refuse_joined(record: Record) -> None:
    """Refuse a record that joined the parts of an image from two files."""
    files: dict[str, set[str]] = {}
    for frame, name in zip(record.frames, record.input_names, strict=True):
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


def _write_undone(record: Record, products: list[Product], stream: BinaryIO) -> None:
    """Write a copy of a corrected file with restored images and metadata."""
    if record.of_models:
        _write_model(record, products, stream)
    elif isinstance(products[0].frame.source, AsdfSource):
        write_undone_asdf(products[0], record.provenance, stream)
    else:
        _write_fits(record, products, stream)


def _write_model(record: Record, products: list[Product], stream: BinaryIO) -> None:
    """Write a data model with restored pixels and metadata."""
    from levelmatch.pipelines.undo import write_undone_model

    (product,) = products
    lyot = product.lyot and _inverse(product.lyot)
    own = replace(product, frame=_inverse(product.frame), lyot=lyot)
    write_undone_model(product, own, record.provenance, stream)


def _write_fits(record: Record, products: list[Product], stream: BinaryIO) -> None:
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
