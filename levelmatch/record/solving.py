# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve the pairs of a record again with other options."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from levelmatch.exceptions import RecordError
from levelmatch.images.frame import Frame
from levelmatch.option_values import check_names, check_type
from levelmatch.options import SolveOptions, fit_terms
from levelmatch.pass_names import PASS_OF
from levelmatch.record.record import Record
from levelmatch.record.record_files import as_record
from levelmatch.record.run import Run, history_entry
from levelmatch.record.solved_again import (
    anchored_again,
    frames_before,
    local_levels,
    pass_of_pairs,
)
from levelmatch.settings import plain, solve_in_unit
from levelmatch.solve.passes import Pass
from levelmatch.solve.reference import named_reference
from levelmatch.solve.run import run_passes

__all__ = ["solve_record"]


def solve_record(
    record: Record | str | Path,
    *,
    fit_type: str | Mapping[str, str] | None = None,
    reference: str | Path | int | None = None,
    weights: str | None = None,
    exclude: str | Iterable[str] = (),
    solve: SolveOptions | Mapping[str, Any] | None = None,
) -> Record:
    """Solve the pairs of a record again, without pixels.

    Parameters
    ----------
    record : `~levelmatch.Record`, str or `~pathlib.Path`
        The record.
    fit_type : None, {"level", "level+slope", "auto"} or mapping
        New fit type for all passes, or a mapping of pass names to fit types.
        ``"level+match"`` is the same as ``"level+slope"``. By default the recorded fit types.
    reference : None, str or int
        New reference for the mosaic pass, see `~levelmatch.match_mosaic`; by default the
        recorded reference.
    weights : None or {"ivar", "equal", "npix", "rms"}
        New weights; by default the recorded weights.
    exclude : str or iterable of str
        Images to leave out, by the name of an image or file. Both parts of a MIRI image, and all
        images of a file, are left out together.
    solve : None, mapping or `~levelmatch.SolveOptions`
        New options. A mapping changes some of the recorded options.

    Returns
    -------
    record : `~levelmatch.Record`
        A new record, which names its parent.

    Raises
    ------
    ValueError, TypeError
        If an argument is not understood; the message names it.
    RecordError
        If the record lacks an excluded image, no image would remain, the reference is excluded,
        or the pattern cannot be solved for without images.

    Notes
    -----
    The pattern of the detectors is kept from the record; ``solve={"pattern": None}`` leaves it
    out. Local levels of tiles and the anchor's correction are not measured again: the recorded
    values are shifted by the change of the other corrections at the images' centres. This is
    exact for levels.
    """
    record = as_record(record)
    options = solve_in_unit(_solve_options(record, solve), record.unit)
    if weights is not None:
        options = replace(options, weights=weights)
    keep = _kept_images(record, exclude)
    before = frames_before(record.frames, record.run)
    frames = [frame for frame, kept in zip(before, keep, strict=True) if kept]
    passes = _changed_passes(record, frames, fit_type, reference)
    rows = np.flatnonzero(keep[record.measured.first] & keep[record.measured.second])
    number = np.cumsum(keep) - 1
    measured = record.measured.take(rows)
    measured = replace(measured, first=number[measured.first], second=number[measured.second])
    pass_of = pass_of_pairs([p.rows for p in record.passes], len(record.measured))[rows]
    run = _changed_run(record, keep, passes, options)
    corrected, solved = run_passes(
        frames,
        passes,
        measured,
        pass_of,
        options,
        sky=run.sky,
        local=local_levels(record.frames),
        pattern=_kept_pattern(record, options, keep, rows),
    )
    corrected = anchored_again(record.frames, corrected)
    # The recorded significance of the slopes is no longer valid.
    inputs = {k: column[keep] for k, column in record.inputs.items() if k != "slope_n_sigma"}
    ordered = [corrected[k] for k in run.order]
    return Record(ordered, solved, measured, run, inputs, record.keys[rows])


def _solve_options(record: Record, solve) -> SolveOptions:
    """Return the recorded options, with changes."""
    if isinstance(solve, SolveOptions):
        return solve
    check_type("solve", solve, Mapping | None, "SolveOptions or a mapping")
    recorded = record.run.options["solve"]
    unknown = set(solve or ()) - {f.name for f in fields(SolveOptions)}
    if unknown:
        msg = f"solve: {min(unknown)!r} is not an option of SolveOptions"
        raise TypeError(msg)
    return SolveOptions(**{**recorded, **(solve or {})})


def _kept_pattern(record: Record, options: SolveOptions, keep: np.ndarray, rows: np.ndarray):
    """Return the recorded pattern, or `None` if the options leave it out."""
    recorded = record.run.options["solve"].get("pattern")
    if options.pattern is None:
        return None
    if options.pattern != recorded:
        msg = (
            f"pattern: {options.pattern!r} cannot be solved for without images, the record has "
            f"{recorded!r}; match the images again"
        )
        raise RecordError(msg)
    return record.passes[0].pattern.take(np.flatnonzero(keep), rows)


def _kept_images(record: Record, exclude: str | Iterable[str]) -> np.ndarray:
    """Return for each image, sorted by name, whether it is kept."""
    excluded: set[str] = set()
    for name in check_names("exclude", exclude):
        images = [f.name for f in record.frames if name in (f.name, f.product, f.file)]
        if not images:
            msg = f"exclude: {name}: the record has no such image"
            raise RecordError(msg)
        excluded.update(images)
    keep = np.array([frame.name not in excluded for frame in record.sorted_frames])
    if not keep.any():
        msg = "exclude: no image would be left"
        raise RecordError(msg)
    return keep


def _changed_passes(record: Record, frames: list[Frame], fit_type, reference) -> list[Pass]:
    """Return the recorded passes with other fit types or another reference."""
    passes = list(record.run.planned)
    names = [p.name for p in passes]
    check_type("fit_type", fit_type, str | Mapping | None, "text, or a mapping of passes to text")
    changes = {name: fit_type for name in names} if isinstance(fit_type, str) else fit_type or {}
    for name, value in changes.items():
        fit_terms(value)
        name = PASS_OF.get(name, name)
        if name not in names:
            msg = f"fit_type: the record has no pass {name!r}, its passes are {', '.join(names)}"
            raise ValueError(msg)
        passes[names.index(name)] = replace(passes[names.index(name)], fit_type=value)
    present = {frame.name for frame in frames}
    for k, p in enumerate(passes):
        if p.image and p.image not in present and reference is None:
            msg = f"{p.image}: the reference would be left out; name another"
            raise RecordError(msg)
        if p.name == "mosaic" and reference is not None:
            kind, name = named_reference(reference, frames, record.names)
            passes[k] = replace(p, reference=kind, image=name)
    if reference is not None and "mosaic" not in names:
        msg = f"reference: the record has no pass 'mosaic', its passes are {', '.join(names)}"
        raise ValueError(msg)
    return passes


def _changed_run(
    record: Record, keep: np.ndarray, passes: list[Pass], options: SolveOptions
) -> Run:
    """Return the run of the new record."""
    run = record.run
    number = np.cumsum(keep) - 1
    left_out = [f.name for f, kept in zip(record.sorted_frames, keep, strict=True) if not kept]
    entry = {**history_entry("solve_record", int(keep.sum())), "excluded": left_out}
    solve = {f.name: plain(getattr(options, f.name)) for f in fields(SolveOptions)}
    return replace(
        run,
        planned=passes,
        options={**run.options, "solve": solve},
        created=entry["time"],
        order=[int(number[k]) for k in run.order if keep[k]],
        sky=None if run.sky is None else run.sky[keep],
        subsets=[s for s, kept in zip(run.subsets, keep, strict=True) if kept],
        versions=entry["software"],
        history=[*run.history, entry],
        parent={"name": record.provenance.record, "sha256": record.sha256},
    )
