# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a record is good for: apply it, take it back, check it, solve it again."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from levelmatch.exceptions import RecordError
from levelmatch.images.collect import collect_frames
from levelmatch.options import ReadOptions
from levelmatch.record.record import as_record
from levelmatch.results.files import (
    asdf_hdu,
    check_outputs,
    corrected_data,
    encoded_hdu,
    fits_name,
    open_decoded,
    open_stored,
    scaled_planes,
    whole_stream,
)
from levelmatch.results.header import remove_provenance
from levelmatch.results.result import MatchResult, make_products, write_products
from levelmatch.results.splice import remove_from_asdf, splice, table_bytes

__all__ = ["apply_record", "recorded_files", "recorded_result", "undo_record", "verify_record"]


# Images whose outlines differ by less than this part of a pixel lie where they did.
MOST_MOVED = 1e-2


# --------------------------------------------------------------------------------------
# The recorded images


def recorded_result(record, files, *, force=False):
    """Return the corrected images of a record's inputs.

    Parameters
    ----------
    record : `~levelmatch.record.record.Record` or path
        The record.
    files : list of path
        The recorded inputs, all of them, in any order; they are known by their names.
    force : bool
        Whether to go on with images whose pixels or place are not the recorded ones.

    Returns
    -------
    result : `~levelmatch.MatchResult`
        In the order of the run.

    Raises
    ------
    RecordError
        If an image is missing, is there twice, is none of the record's, or is not what it
        was; the message names it.
    """
    record = as_record(record)
    frames = _recorded_frames(record, _by_name(files, _input_names(record)))
    if not force:
        for row, frame in _numbered(record, frames):
            if frame.source.identity["sha256"] != record.inputs["sha256"][row]:
                msg = f"{frame.name}: its pixels are not the recorded ones; force=True goes on"
                raise RecordError(msg)
    products = make_products(frames, recombine=record.run.recombine)
    return MatchResult(products, frames, record.passes, record.measured, record.unit, record.run)


def _input_names(record):
    """The files of the record's images, in the order of the input."""
    row = {frame.name: k for k, frame in enumerate(record.sorted_frames)}
    return [str(record.inputs["file"][row[frame.name]]) for frame in record.frames]


def _numbered(record, frames):
    """Frames with their rows among the record's images, sorted by name."""
    row = {frame.name: k for k, frame in enumerate(record.sorted_frames)}
    return [(row[frame.name], frame) for frame in frames]


def _by_name(files, wanted):
    """Paths by their names: all that are wanted, each once, and no others."""
    if isinstance(files, str | Path):
        files = [files]
    # An image in memory need not be named as a file is.
    names = {**{fits_name(name): name for name in wanted}, **{name: name for name in wanted}}
    paths = {}
    for path in map(Path, files):
        if path.name not in names:
            msg = f"{path.name}: the record has no such image"
            raise RecordError(msg)
        name = names[path.name]
        if name in paths:
            msg = f"{path.name}: it is there twice: {paths[name]} and {path}; name one"
            raise RecordError(msg)
        paths[name] = path
    missing = [name for name in dict.fromkeys(wanted) if name not in paths]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        msg = f"{missing[0]}: the image is missing{more}; a record applies to all of its images"
        raise RecordError(msg)
    return paths


def _recorded_frames(record, paths, *, force=False, names=None):
    """Frames of files, with what the record says of them and its corrections."""
    row = {frame.name: k for k, frame in enumerate(record.sorted_frames)}
    opened, frames = {}, []
    for frame, name in zip(record.frames, names or _input_names(record), strict=True):
        k = row[frame.name]
        if name not in opened:
            hdu = int(record.inputs["hdu"][k])
            (opened[name],) = collect_frames([paths[name]], ReadOptions(hdu=hdu))
        base = opened[name]
        if base.shape != frame.shape:
            msg = f"{name}: its shape is {base.shape}, the recorded {frame.shape}"
            raise RecordError(msg)
        if not force:
            _check_place(name, base, frame)
        kept = {f.name: getattr(frame, f.name) for f in fields(frame) if f.name in _RECORDED}
        frames.append(base.with_keys(**kept))
    return frames


# What a record knows better than the file.
_RECORDED = (
    "name",
    "dq_bits",
    "tile",
    "detector",
    "part",
    "region",
    "whole",
    "subset",
    "scale",
    "corrections",
    "output_factor",
    "zero_point",
)


def _check_place(name, base, frame):
    """Refuse an image that lies elsewhere: a plane would be taken at the wrong place."""
    moved = np.linalg.norm(base.whole_grid.axes[0] - frame.whole_grid.axes[0])
    turned = np.linalg.norm(base.whole_grid.axes[1:] - frame.whole_grid.axes[1:]) * base.shape[0]
    pixel = np.sqrt(frame.whole_grid.pixel_area)
    if max(moved, turned * pixel) > MOST_MOVED * pixel:
        msg = f"{name}: its WCS is not the recorded one; force=True goes on"
        raise RecordError(msg)


# --------------------------------------------------------------------------------------
# Apply, undo, verify


def apply_record(record, files, directory, *, overwrite=False, force=False, progress_bar=None):
    """Write the corrected images of a record's inputs: the same, byte by byte, as its run's.

    Parameters
    ----------
    record : `~levelmatch.record.record.Record` or path
        The record.
    files : list of path
        The recorded inputs, all of them.
    directory : path
        Where to; the record is written there too.
    overwrite : bool
        Whether files may be replaced.
    force : bool
        Whether to go on with images whose pixels or place are not the recorded ones.
    progress_bar : callable or None
        Wraps an iterable over the files.

    Returns
    -------
    paths : list of `~pathlib.Path`
        The files.

    Raises
    ------
    RecordError
        See `recorded_result`; nothing is written then.
    FileExistsError
        If a file is there and ``overwrite`` is not set.
    """
    record = as_record(record)
    result = recorded_result(record, files, force=force)
    paths = check_outputs(result.products, directory, overwrite=overwrite)
    record.write(Path(directory) / record.story.record, overwrite=overwrite)
    write_products(result.products, paths, record.story, progress_bar)
    return paths


def undo_record(record, files, directory, *, overwrite=False, force=False, progress_bar=None):
    """Write the images as they were before a record's corrections.

    Pixels that were whole numbers come back as they were. Those of floating point do to
    rounding: within half a unit in the last place, in the file's own precision, of the
    corrected pixel, and as much of the original. The header's story of this run is taken out;
    earlier ones stay.

    Parameters
    ----------
    record : `~levelmatch.record.record.Record` or path
        The record.
    files : list of path
        The corrected images, all of them.
    directory : path
        Where to.
    overwrite, force, progress_bar
        See `apply_record`.

    Returns
    -------
    paths : list of `~pathlib.Path`
        The files.

    Raises
    ------
    RecordError
        If an image is missing, is there twice, is none of this record's, or was joined
        of two files, which no single image tells apart.
    """
    record = as_record(record)
    products = _corrected_products(record, files, force=force)
    paths = check_outputs(products, directory, overwrite=overwrite)
    Path(directory).mkdir(parents=True, exist_ok=True)
    work = list(zip(products, paths, strict=True))
    for product, path in work if progress_bar is None else progress_bar(work):
        with whole_stream(path) as stream:
            _write_undone(record, product, stream)
    return paths


def _corrected_products(record, files, *, force):
    """Products whose files are the corrected images, with what to add instead of subtract."""
    names = _input_names(record)
    if record.run.recombine:
        _refuse_joined(record)
        names = [frame.product for frame in record.frames]
    paths = _by_name(files, names)
    frames = _recorded_frames(record, paths, force=force, names=names)
    for frame in frames:
        found = str(frame.meta.get("LMRECSHA", ""))
        if found != record.sha256 and not force:
            what = f"another record, {frame.meta.get('LMRECORD')}" if found else "no record"
            msg = f"{frame.source.path.name}: its header tells of {what}; force=True goes on"
            raise RecordError(msg)
    frames = [_inverse(frame) for frame in frames]
    return make_products(frames, recombine=record.run.recombine)


def _refuse_joined(record):
    files = {}
    for frame, name in zip(record.frames, _input_names(record), strict=True):
        files.setdefault(frame.product, set()).add(name)
    for product, parts in files.items():
        if len(parts) > 1:
            msg = f"{product}: it was joined of {' and '.join(sorted(parts))}, and cannot be undone"
            raise RecordError(msg)


def _inverse(frame):
    """The frame of the corrected image, with what leads back from it."""
    factor = frame.output_factor
    back = tuple(replace(a, correction=a.correction.scaled(-factor)) for a in frame.corrections)
    return frame.with_keys(corrections=back, output_factor=1 / factor)


def _write_undone(record, product, stream):
    """Copy a corrected file with its image, its header and the ASDF tree as they were."""
    source = product.frame.source
    ((row, _),) = _numbered(record, [product.frame])
    dtype = np.dtype(str(record.inputs["dtype"][row]))
    with open_decoded(source.path) as decoded, open_stored(source.path) as stored:
        old = decoded[source.hdu]
        data = corrected_data(product, old.data)
        if dtype.kind in "iu":
            data = np.rint(data)
        header = old.header.copy()
        remove_provenance(header, _inverse(product.frame), record.story)
        replaced = {source.hdu: encoded_hdu(old, header, data.astype(dtype))}
        if product.frame.output_factor != 1.0:
            replaced |= scaled_planes(product.frame, decoded)
        index = asdf_hdu(stored)
        if index is not None:
            content = remove_from_asdf(stored[index].data.tobytes(), record.sha256)
            replaced[index] = table_bytes(stored[index].header, content)
        splice(source.path, stored, replaced, stream)


def verify_record(record, outputs, inputs=None):
    """Check that outputs follow from a record's inputs, bit by bit.

    Parameters
    ----------
    record : `~levelmatch.record.record.Record` or path
        The record.
    outputs : list of path
        The corrected images, all of them.
    inputs : list of path or None
        The recorded inputs; by default, where they were.

    Returns
    -------
    names : list of str
        The images, all of them right.

    Raises
    ------
    RecordError
        If one is missing, has other pixels, or names another record; the message
        names it.
    """
    record = as_record(record)
    result = recorded_result(record, recorded_files(record) if inputs is None else inputs)
    paths = _by_name(outputs, [product.name for product in result.products])
    for product in result.products:
        _verify_product(record, product, paths[product.name])
    return [product.name for product in result.products]


def recorded_files(record, folder=None):
    """Return the files of a record's inputs, in the order of the run.

    Parameters
    ----------
    record : `~levelmatch.record.record.Record` or path
        The record.
    folder : path or None
        Where they are now; by default where they were.

    Raises
    ------
    RecordError
        If one was in memory, or is no longer there.
    """
    record = as_record(record)
    row = {frame.name: k for k, frame in enumerate(record.sorted_frames)}
    files = []
    for frame in record.frames:
        name, path = (str(record.inputs[key][row[frame.name]]) for key in ("file", "path"))
        if folder is None and not path:
            msg = f"{frame.name}: the image was in memory, not in a file; name its file"
            raise RecordError(msg)
        if folder is not None:
            path = Path(folder) / name
            path = path if path.is_file() else path.with_name(fits_name(name))
        files.append(Path(path))
    for path in files:
        if not path.is_file():
            msg = f"{path}: the recorded input is not there; name the files, or their folder"
            raise RecordError(msg)
    return list(dict.fromkeys(files))


def _verify_product(record, product, path):
    source = product.frame.source
    with open_decoded(source.path) as hdus:
        expected = corrected_data(product, hdus[source.hdu].data)
    try:
        with open_decoded(path) as hdus:
            found, sha256 = hdus[source.hdu].data, hdus[source.hdu].header.get("LMRECSHA", "")
    except (OSError, IndexError, ValueError) as error:
        msg = f"{path.name}: the output cannot be read: {error}"
        raise RecordError(msg) from error
    if not sha256:
        msg = f"{path.name}: its header tells of no record; name the corrected images"
        raise RecordError(msg)
    if found is None or found.shape != expected.shape:
        msg = f"{path.name}: the output's image is not of the shape {expected.shape}"
        raise RecordError(msg)
    differ = np.asarray(found, dtype=expected.dtype).view(f"u{expected.dtype.itemsize}")
    differ = differ != expected.view(differ.dtype)
    # A NaN is a NaN, whatever its bits.
    differ &= ~(np.isnan(found) & np.isnan(expected))
    if differ.any():
        y, x = np.argwhere(differ)[0]
        msg = (
            f"{path.name}: {int(differ.sum())} pixels do not follow from the input, the first at "
            f"(y, x) = ({y}, {x}): {found[y, x]!s} instead of {expected[y, x]!s}"
        )
        raise RecordError(msg)
    if sha256 != record.sha256:
        msg = f"{path.name}: its header names another record ({sha256[:8]}) than this one"
        raise RecordError(msg)
