# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve a record's pairs again."""

from dataclasses import fields, replace

import numpy as np

from levelmatch.exceptions import RecordError
from levelmatch.options import SolveOptions, fit_terms, plain
from levelmatch.record.record import Record, as_record
from levelmatch.results.levels import now, versions
from levelmatch.solve.reference import named_reference
from levelmatch.solve.run import run_steps

__all__ = ["solve_record"]


def solve_record(record, *, fit_type=None, reference=None, weights=None, exclude=(), solve=None):
    """Solve a record's pairs again, without pixels.

    Parameters
    ----------
    record : `~levelmatch.record.record.Record` or path
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
    record : `~levelmatch.record.record.Record`
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
    options = _solve_options(record, solve)
    if weights is not None:
        options = replace(options, weights=weights)
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
        frames, steps, measured, used[rows], options, sky=sky, local=_LocalLevels(record)
    )
    return _child(record, corrected, passes, measured, steps, keep, rows, options)


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
    kind, name = named_reference(reference, frames, record.names)
    return {"reference": kind, "image": name}


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


def _child(record, corrected, passes, measured, steps, keep, rows, options):
    """The record of another solution."""
    run = record.run
    number = np.cumsum(keep) - 1
    order = [int(number[k]) for k in run.order if keep[k]]
    changed = {
        **run.options,
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
