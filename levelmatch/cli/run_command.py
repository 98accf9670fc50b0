# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command `levelmatch run`, which matches images and writes the corrected images."""

import gc
from contextlib import nullcontext, suppress
from pathlib import Path

import click

from levelmatch.cli.config import merge, read_config, recorded_values
from levelmatch.cli.errors import Failure, one_error, shown_warnings
from levelmatch.cli.flags import GroupedCommand
from levelmatch.cli.inputs import check_exports, reading_ahead, write_exports
from levelmatch.cli.options import (
    CHECKPOINT,
    MATCH,
    MEASURE,
    READ,
    RECORD_NAME,
    REPORT,
    RUN_OPTIONS,
    SOLVE,
    add_options,
)
from levelmatch.cli.printing import (
    keep_warnings,
    print_result,
    progress_bars,
    say_reading,
    write_page,
    written_lines,
)
from levelmatch.cli.terminal import command_text, echo, start_log

__all__ = ["run"]

RUN_EPILOG = """\
\b
Examples:
  levelmatch run raw/*_cal.fits -o matched --report
  levelmatch run night/*.fits -o matched --group-by OBJECT --group-by FILTER
  levelmatch run jw02107-o001_image3_00001_asn.json -o matched
  levelmatch run --config levelmatch.toml --weights equal

\b
Each run writes OUT/levelmatch.asdf, the record of the run. An interrupted run continues
from its measured pairs when it is started again.

\b
A picture that fails leaves a note in the report. Exit status 3: the images and the record
are written, but the report is not.

\b
The configuration is TOML, with the options' names as keys:
  files = ["raw/*_cal.fits"]
  output = "matched"
  fit-type-mosaic-tiles = "level+slope"
  recombine-lyot = true
Its files and its output are relative to its folder; the command line has priority.
"""


@click.command(cls=GroupedCommand, epilog=RUN_EPILOG)
@add_options(RUN_OPTIONS)
@click.pass_context
def run(ctx, config, **values):
    """Match FILES and write the corrected images to a folder.

    FILES are overlapping images, FITS with a celestial WCS: files, a folder of them, a quoted
    pattern, or associations (asn.json), which are also written for the output. The inputs are
    never changed, and nothing is written before all of them are measured.
    """
    if config is not None:
        values = merge(ctx, values, read_config(config, ctx.command.params))
    if values["catalogue"] is not None and (values["files"] or values["extend"] is not None):
        msg = "--catalogue takes the place of FILES and of --extend; omit them"
        raise click.UsageError(msg, ctx)
    if not values["files"] and values["extend"] is None and values["catalogue"] is None:
        msg = "no files: name the images to match"
        raise click.UsageError(msg, ctx)
    if values["output"] is None and not values["dry_run"]:
        msg = "no output: name a folder by -o, or use --dry-run"
        raise click.UsageError(msg, ctx)
    start_log(debug=values["debug"])
    # Print this line before astropy is imported, which takes longer.
    say_reading(values["files"], values["extend"], quiet=values["quiet"])
    # The disk would be idle.
    with reading_ahead(() if values["dry_run"] else values["files"]):
        _import_package()
    with one_error(debug=values["debug"]), shown_warnings() as shown:
        check_exports(**_exports(values), overwrite=values["overwrite"])
        if values["extend"] is not None:
            values = _extended(ctx, values)
        images = values["files"]
        if values["catalogue"] is not None:
            values, images = _catalogued(values)
        members = _members(values["files"])
        _check_paths(members, values["output"])
        if len(set(members)) == 1 and not values["recombine_lyot"]:
            _refuse_one_image(members[0], values)
        with _lock(values) as lock:
            _check_outputs(members, values, lock)
            _run(images, values, shown, lock)


def _import_package():
    """Import the package without garbage collection, which would take a fifth of the time."""
    gc.disable()
    try:
        import dask.callbacks  # noqa: F401

        import levelmatch.matching  # noqa: F401
    finally:
        # Imported objects live as long as the process.
        gc.freeze()
        gc.enable()


def _lock(values):
    """Return the lock on the output folder, or an empty context for a dry run."""
    if values["output"] is None or values["dry_run"]:
        return nullcontext()
    from levelmatch.results.lock import output_lock

    return output_lock(values["output"], keep=True)


def _refuse_one_image(path, values):
    """Refuse a single file unless it holds several images."""
    from levelmatch.images.inputs import collect_frames
    from levelmatch.images.notes import Notes

    if len(collect_frames([path], _read_options(values), Notes())) == 1:
        msg = "only one image: there is nothing to match"
        raise ValueError(msg)


def _held(words):
    """Return the names of held images, or levels by name if at least one has a level."""
    if not words:
        return None
    out = {}
    for word in words:
        name, equals, level = word.rpartition("=")
        try:
            out[name if equals else word] = float(level) if equals else 0.0
        except ValueError as error:
            msg = f"--hold: {word!r}: {level!r} is not a number"
            raise ValueError(msg) from error
    return out if any("=" in word for word in words) else list(words)


def _read_options(values):
    from levelmatch import ReadOptions

    named = {name: values[name] for name in READ}
    return ReadOptions(**named, regions=values["ignore_regions"])


def _extended(ctx, values):
    """Return the options and images of a record, combined with the command line."""
    from levelmatch.record.record_files import read_record
    from levelmatch.results.recorded_frames import recorded_files

    record = read_record(values["extend"])
    try:
        options = recorded_values(record)
    except (AttributeError, KeyError, TypeError) as error:
        msg = f"--extend: {values['extend']}: its options cannot be read: {error!r}"
        raise Failure(msg, 2) from error
    values = merge(ctx, values, options)
    new = {path.name for path in _members(values["files"])}
    recorded = [path for path in recorded_files(record) if path.name not in new]
    files = sorted((*recorded, *values["files"]), key=lambda path: path.name)
    return {**values, "extend": record, "files": tuple(files)}


def _catalogued(values):
    """Return the options with the files of a catalogue, and the catalogue."""
    from levelmatch import read_catalogue

    table = read_catalogue(values["catalogue"])
    files = dict.fromkeys(table["file"].tolist()) if "file" in table.colnames else {"": None}
    if "" in files:
        msg = f"--catalogue: {values['catalogue']}: a row has no file to read pixels from"
        raise ValueError(msg)
    return {**values, "files": tuple(map(Path, files))}, table


def _write_lists(result, values, *, overwrite):
    """Write the lists of levels for other programs, and return lines on them."""
    lines = []
    if values["skylist"] is not None:
        from levelmatch.jwst import write_skylist

        write_skylist(result, values["skylist"], overwrite=overwrite)
        lines.append(f"Written: {values['skylist']}; give it to skymatch, skymethod user")
    if values["skyfile"] is not None:
        from levelmatch.hst import write_skyfile

        write_skyfile(result, values["skyfile"], overwrite=overwrite)
        lines.append(f"Written: {values['skyfile']}; give it to AstroDrizzle as its skyfile")
    return lines


def _exports(values):
    """Return the paths of additional output files, by kind."""
    return {name: values[name] for name in ("table", "regions", "record")}


def _members(files):
    """Return the files, with associations replaced by the files that they list."""
    from levelmatch.images.associations import expand_associations

    return expand_associations(files)[0]


def _check_paths(files, output):
    """Refuse missing inputs and an impossible output folder, before pixels are read."""
    for path in files:
        if not path.exists():
            msg = f"{path}: there is no such file"
            raise FileNotFoundError(msg)
    if output is None:
        return
    there = next(folder for folder in (output, *output.parents) if folder.exists())
    if not there.is_dir():
        msg = f"--output: {there} is not a folder"
        raise NotADirectoryError(msg)
    for path in files:
        if path.resolve().parent == output.resolve() or path.parent.resolve() == output.resolve():
            msg = f"--output: {output} is the folder of the input {path.name}"
            raise ValueError(msg)


def _check_outputs(files, values, lock):
    """Refuse existing outputs before pixels are read."""
    from levelmatch.atomic import refuse_data, refuse_existing

    output, overwrite = values["output"], values["overwrite"]
    # A dry run writes no outputs.
    if output is None or values["dry_run"]:
        return
    outputs = [output / name for name in (*(path.name for path in files), RECORD_NAME)]
    if values["report"]:
        outputs.append(output / REPORT)
    for path in (values["skylist"], values["skyfile"]):
        if path is not None:
            refuse_data(path)
            outputs.append(path)
    for path in outputs:
        if path.is_dir():
            msg = f"{path}: a folder has the name of an output; move it away"
            raise FileExistsError(msg)
        replaces = overwrite or (lock is not None and lock.may_replace(path))
        refuse_existing(path, overwrite=replaces, is_data=True)
    from levelmatch.record.record import check_record_path

    check_record_path(output / RECORD_NAME)
    if values["report"]:
        from levelmatch.report.page import check_replaceable

        check_replaceable(output / REPORT, overwrite=overwrite)


def _run(images, values, shown, lock):
    """Match the images, write all outputs and print the result."""
    from levelmatch.record.record_files import check_not_recorded
    from levelmatch.results.files import check_outputs

    bar = progress_bars(quiet=values["quiet"])
    dry = values["dry_run"]
    output = None if dry else values["output"]
    if not values["rematch"]:
        check_not_recorded(_members(values["files"]))
    checkpoint = None if dry else output / CHECKPOINT
    overwrite = values["overwrite"]
    result = match_files(images, values, bar("pairs"), checkpoint)
    keep_warnings(result, shown)
    result.run.options["command"] = command_text()
    exports = _exports(values)
    what = "no image" if any(exports.values()) else "nothing"
    written, earlier = [f"Dry run: {what} was written."], []
    if not dry:
        check_outputs(result.products, output, overwrite=overwrite, lock=lock)
        earlier = _earlier_outputs(output, result, values["report"])
        result.write(output, overwrite=overwrite, progress_bar=bar("files"))
        lists = _write_lists(result, values, overwrite=overwrite)
        lock.forget()
        # A run on cells has no checkpoint.
        checkpoint.unlink(missing_ok=True)
        written = [*written_lines(result, output), *lists]
    written += write_exports(result, **exports)
    if not values["quiet"]:
        print_result(result, shown)
        echo("\n".join(written))
        if earlier:
            echo(f"Note: still there from an earlier run: {', '.join(earlier)}.")
    if values["report"] and not dry:
        # The report comes last, after the summary is printed and the images are written.
        _write_report(result, output, quiet=values["quiet"])


def _write_report(result, output, *, quiet):
    """Write the report; a failure ends the run with exit status 3."""
    try:
        lines = write_page(result, output)
    except Exception as error:
        reason = str(error) or type(error).__name__
        msg = f"the images are written, but the report is not: {reason}"
        raise Failure(msg, 3) from error
    if not quiet:
        echo("\n".join(lines))


def _earlier_outputs(output, result, report):
    """Return the names of outputs of an earlier run that this run does not replace."""
    from levelmatch.exceptions import RecordError
    from levelmatch.record.record_files import read_record, record_in

    names = []
    if record_in(output).exists():
        with suppress(RecordError):
            names = read_record(record_in(output)).files
    names = [name for name in names if name not in result.files and (output / name).exists()]
    if not report and (output / REPORT).exists():
        from levelmatch.report.page import is_page

        names += [REPORT] if is_page(output / REPORT) else []
    return names


def match_files(images, values, bar, checkpoint):
    """Return the result of matching with the options of the command line."""
    from levelmatch import MeasureOptions, SolveOptions, match_levels

    options = {name: values[name] for name in MATCH}
    for name in (name for name in MATCH if name.startswith("fit_type_")):
        options[name] = values[name] or values["fit_type"] or "level"
    keys = options["group_by"]
    options["group_by"] = keys[0] if len(keys) == 1 else list(keys)
    result = match_levels(
        list(images) if isinstance(images, tuple) else images,
        read=_read_options(values),
        measure=MeasureOptions(
            **{name: values[name] for name in MEASURE},
            extend=values["extend"],
            checkpoint=checkpoint,
        ),
        solve=SolveOptions(
            **{name: values[name] for name in SOLVE},
            hold=_held(values["hold"]),
            fit_exclude=list(values["fit_exclude"]) or None,
        ),
        progress_bar=bar,
        **options,
    )
    return _anchored(result, values)


def _anchored(result, values):
    """Return the result at the absolute level of the given anchors, or unchanged without any."""
    if not values["anchor"]:
        return result
    from levelmatch import anchor_levels

    return anchor_levels(
        result,
        list(values["anchor"]),
        fwhm=values["anchor_fwhm"],
        colour=values["anchor_colour"],
        fit_type=values["anchor_fit_type"],
    )
