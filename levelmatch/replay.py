# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a record is good for: apply it, take it back, check it, solve it again."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from levelmatch.exceptions import RecordError
from levelmatch.files import (
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
from levelmatch.frames import collect_frames
from levelmatch.levels import now, plain, versions
from levelmatch.pipeline import run_steps
from levelmatch.provenance import remove_provenance
from levelmatch.record import Record, as_record
from levelmatch.reference import find_reference
from levelmatch.results import MatchResult, make_products, write_products
from levelmatch.solve import WEIGHTS, SolveOptions, fit_terms
from levelmatch.splice import remove_from_asdf, splice, table_bytes

__all__ = [
    "apply_record",
    "recorded_files",
    "recorded_result",
    "solve_record",
    "undo_record",
    "verify_record",
]

# Images whose outlines differ by less than this part of a pixel lie where they did.
MOST_MOVED = 1e-2


# --------------------------------------------------------------------------------------
# The recorded images


def recorded_result(record, files, *, force=False):
    """Return the corrected images of a record's inputs.

    Parameters
    ----------
    record : `~levelmatch.record.Record` or path
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
            (opened[name],) = collect_frames([paths[name]], hdu=hdu)
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
    record : `~levelmatch.record.Record` or path
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
    record : `~levelmatch.record.Record` or path
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
    record : `~levelmatch.record.Record` or path
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
    record : `~levelmatch.record.Record` or path
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


# --------------------------------------------------------------------------------------
# Solve again


def solve_record(record, *, fit_type=None, reference=None, weights=None, exclude=(), solve=None):
    """Solve a record's pairs again, without pixels.

    Parameters
    ----------
    record : `~levelmatch.record.Record` or path
        The record.
    fit_type : None, str or mapping
        Another fit type, of all passes or by their names.
    reference : None, str or int
        Another reference of the mosaic, see `~levelmatch.match_mosaic`.
    weights : None or {"ivar", "equal", "npix", "rms"}
        Other weights.
    exclude : iterable of str
        Images to leave out; they are none of the new record's. Of an image with a Lyot
        part both go.
    solve : None, mapping or `~levelmatch.SolveOptions`
        Other options; a mapping changes some of those recorded.

    Returns
    -------
    record : `~levelmatch.record.Record`
        A new record, which names its parent.

    Raises
    ------
    ValueError, TypeError
        If a change is not understood.
    RecordError
        If an image to leave out is not there, or none would be left.

    Notes
    -----
    A local level that was subtracted from tiles stays the one measured then, moved by
    what changed at its image's centre: exact for levels.
    """
    record = as_record(record)
    weights = weights or record.run.options["weights"]
    if weights not in WEIGHTS:
        msg = f"weights: {weights!r} is none of {WEIGHTS}"
        raise ValueError(msg)
    options = _solve_options(record, solve)
    keep = _kept_images(record, exclude)
    frames = [_bare(record, frame, k) for k, frame in enumerate(record.sorted_frames)]
    frames = [frame for frame, kept in zip(frames, keep, strict=True) if kept]
    steps = _changed_steps(record, frames, fit_type, reference)
    rows = np.flatnonzero(keep[record.measured.first] & keep[record.measured.second])
    number = np.cumsum(keep) - 1
    measured = record.measured.take(rows)
    measured = replace(measured, first=number[measured.first], second=number[measured.second])
    used = np.full(len(record.measured), -1)
    for k, p in enumerate(record.passes):
        used[p.rows] = k
    sky = None if record.run.sky is None else record.run.sky[keep]
    corrected, passes = run_steps(
        frames, steps, measured, used[rows], weights, options, sky=sky, local=_LocalLevels(record)
    )
    return _child(record, corrected, passes, measured, steps, keep, rows, weights, options)


def _solve_options(record, solve):
    """The recorded options, or these with changes."""
    if isinstance(solve, SolveOptions):
        return solve
    known = record.run.options["solve"]
    unknown = set(solve or ()) - {f.name for f in fields(SolveOptions)}
    if unknown:
        msg = f"solve: {min(unknown)!r} is no option of SolveOptions"
        raise TypeError(msg)
    return SolveOptions(**{**known, **(solve or {})})


def _kept_images(record, exclude):
    if isinstance(exclude, str):
        exclude = [exclude]
    gone = set()
    for name in exclude:
        found = [f.name for f in record.frames if name in (f.name, f.product)]
        if not found:
            msg = f"exclude: {name}: the record has no such image"
            raise RecordError(msg)
        gone.update(found)
    keep = np.array([frame.name not in gone for frame in record.sorted_frames])
    if not keep.any():
        msg = "exclude: no image would be left"
        raise RecordError(msg)
    return keep


def _bare(record, frame, k):
    """A frame as it was before the run."""
    corrections = frame.corrections[: record.n_earlier]
    return frame.with_keys(corrections=corrections, subset=int(record.run.subsets[k]))


def _changed_steps(record, frames, fit_type, reference):
    """The recorded passes with other fit types or another reference."""
    steps = list(record.run.steps)
    names = [step.name for step in steps]
    changes = {name: fit_type for name in names} if isinstance(fit_type, str) else fit_type or {}
    for name, value in changes.items():
        fit_terms(value)
        if name not in names:
            msg = f"fit_type: the record has no pass {name!r}, its passes are {', '.join(names)}"
            raise ValueError(msg)
        steps[names.index(name)] = replace(steps[names.index(name)], fit_type=value)
    present = {frame.name for frame in frames}
    for k, step in enumerate(steps):
        if step.image and step.image not in present and reference is None:
            msg = f"{step.image}: the reference would be left out; name another"
            raise RecordError(msg)
        if step.name == "mosaic" and reference is not None:
            steps[k] = replace(step, **_reference(record, frames, reference))
    if reference is not None and "mosaic" not in names:
        msg = f"reference: the record has no pass 'mosaic', its passes are {', '.join(names)}"
        raise ValueError(msg)
    return steps


def _reference(record, frames, reference):
    if isinstance(reference, str) and reference in ("auto", "mean"):
        return {"reference": reference, "image": ""}
    if isinstance(reference, int | np.integer) and not isinstance(reference, bool):
        names = record.names
        if not -len(names) <= reference < len(names):
            msg = f"reference: there is no image {reference} among {len(names)}"
            raise ValueError(msg)
        reference = names[reference]
    return {"reference": "image", "image": find_reference(frames, reference)}


class _LocalLevels:
    """The recorded local levels, moved by what else is subtracted from their images now."""

    def __init__(self, record):
        self.frames = {frame.name: frame for frame in record.frames}

    def __call__(self, frame):
        """Return the local level of a frame, in the common unit."""
        recorded = self.frames[frame.name]
        axes = frame.whole_grid.axes
        names = [a.name for a in recorded.corrections]
        local = recorded.corrections[names.index("local")].correction
        before = sum(
            a.correction.coefficients(axes)[0] for a in recorded.corrections[: names.index("local")]
        )
        now = frame.correction.coefficients(axes)[0]
        return frame.scale * (local.constant + before - now)


def _child(record, corrected, passes, measured, steps, keep, rows, weights, options):
    """The record of another solution."""
    run = record.run
    number = np.cumsum(keep) - 1
    order = [int(number[k]) for k in run.order if keep[k]]
    changed = {
        **run.options,
        "weights": weights,
        "solve": {f.name: plain(getattr(options, f.name)) for f in fields(SolveOptions)},
    }
    new = replace(
        run,
        steps=steps,
        options=changed,
        created=now(),
        order=order,
        sky=None if run.sky is None else run.sky[keep],
        subsets=[s for s, kept in zip(run.subsets, keep, strict=True) if kept],
        versions=versions(),
    )
    left_out = [f.name for f, kept in zip(record.sorted_frames, keep, strict=True) if not kept]
    entry = {
        "time": new.created,
        "function": "solve_record",
        "images": len(corrected),
        "software": new.versions,
        "excluded": left_out,
    }
    return Record(
        [corrected[k] for k in order],
        passes,
        measured,
        record.unit,
        new,
        {k: column[keep] for k, column in record.inputs.items() if k != "slope_n_sigma"},
        record.keys[rows],
        record.n_earlier,
        [*record.history, entry],
        {"name": record.story.record, "sha256": record.sha256},
    )
