# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The commands that use a record: apply, undo, verify, show, solve, report and mosaic."""

import click

from levelmatch.cli.config import is_given
from levelmatch.cli.errors import reporting, spell
from levelmatch.cli.flags import GroupedCommand, flags_of
from levelmatch.cli.inputs import check_exports, export_flags, write_exports
from levelmatch.cli.options import (
    BEFORE_SOLVING,
    DEBUG,
    FIT_TYPES,
    FORCE,
    IMAGES,
    QUIET,
    RECORD,
    REFERENCE,
    REPORT,
    SOLVE,
    ImageName,
    add_options,
    examples,
    output_option,
    overwrite_option,
    path_option,
)
from levelmatch.cli.printing import (
    folder,
    page_lines,
    pair_lines,
    print_result,
    progress_bars,
    without_excluded,
)
from levelmatch.cli.terminal import echo
from levelmatch.options import CoaddOptions, SolveOptions

__all__ = [
    "apply",
    "mosaic",
    "report",
    "show",
    "solve",
    "undo",
    "verify",
]


WRITING = [
    RECORD,
    IMAGES,
    output_option("OUT", "Folder of the images; created if missing."),
    overwrite_option(),
    FORCE,
    QUIET,
    DEBUG,
]


@click.command(
    epilog=examples("apply matched/levelmatch.asdf again/*_cal.fits -o matched-again"),
)
@add_options(WRITING)
def apply(**values):
    """Correct FILES, the inputs of RECORD, as its run did, byte by byte.

    By default FILES are the inputs at their recorded paths.
    """
    _write("apply_record", **values)


@click.command(
    epilog=examples("undo matched -o back", "undo matched/levelmatch.asdf one_cal.fits -o back"),
)
@add_options(WRITING)
def undo(**values):
    """Undo the corrections of FILES, the outputs of RECORD.

    By default FILES are the images beside RECORD. Integer pixels are restored exactly,
    floating-point pixels within rounding errors.
    """
    _write("undo_record", **values)


def _beside(known, record):
    """Return the images of a record in its folder.

    Raises
    ------
    FileNotFoundError
        If the folder has no image of the record.
    """
    files = [path for name in known.files if (path := record.parent / name).is_file()]
    if not files:
        msg = f"{folder(record.parent)} has no image of {record.name}; name the files"
        raise FileNotFoundError(msg)
    return files


def _write(function, record, files, output, *, quiet, debug, **options):
    """Apply or undo a record, and print the number of written images."""
    with reporting(debug=debug):
        from levelmatch.record.record_files import read_record
        from levelmatch.results import apply_undo
        from levelmatch.results.lock import output_lock
        from levelmatch.results.recorded_frames import recorded_files
        from levelmatch.text import count

        known = read_record(record)
        if not files and function == "undo_record":
            files = _beside(known, record)
        files = without_excluded(known, files) or recorded_files(known)
        bar = progress_bars(quiet=quiet)("files")
        with output_lock(output, keep=True):
            write = getattr(apply_undo, function)
            paths = write(known, files, output, progress_bar=bar, **options)
        if not quiet:
            echo(f"Written: {count(len(paths), 'image')} to {folder(output)}")


@click.command(
    epilog=examples(
        "verify matched/levelmatch.asdf matched/*_cal.fits",
        "verify matched/levelmatch.asdf matched/*_cal.fits --inputs archive/raw",
    ),
)
@RECORD
@IMAGES
@path_option(
    "--inputs", metavar="FOLDER", text="Folder of the inputs; by default the recorded one."
)
@QUIET
@DEBUG
def verify(record, files, inputs, *, quiet, debug):
    """Check that FILES are the corrected inputs of RECORD, bit by bit.

    By default FILES are the images beside RECORD. If an image differs, its name is printed and
    the exit status is 2.
    """
    with reporting(debug=debug):
        from levelmatch.record.record_files import read_record
        from levelmatch.results.recorded_frames import recorded_files
        from levelmatch.results.verification import verify_record

        known = read_record(record)
        files = files or _beside(known, record)
        names = verify_record(known, files, recorded_files(known, inputs))
        if not quiet:
            noun = "image follows" if len(names) == 1 else "images follow"
            echo(f"{len(names)} {noun} from the inputs by {record}.")


@click.command(epilog=examples("show matched/levelmatch.asdf", "show levelmatch.asdf --json"))
@RECORD
@click.option("--pairs", is_flag=True, help="Print the pairs instead of the images.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole record as JSON.")
@add_options(export_flags())
@overwrite_option("Replace existing files.")
@DEBUG
def show(record, *, pairs, as_json, debug, overwrite, **exports):
    """Print the summary of RECORD and the correction of each image."""
    with reporting(debug=debug):
        from levelmatch.record.record_files import read_record

        check_exports(**exports, overwrite=overwrite)
        known = read_record(record)
        written = write_exports(known, **exports)
        if as_json:
            import json

            echo(json.dumps(known.to_plain(), indent=1))
        elif pairs:
            echo("\n".join(pair_lines(known)))
        else:
            print_result(known)
            if known.options.get("command"):
                echo(f"Command: {known.options['command']}")
            for entry in known.history:
                echo(_event(entry))
            for line in written:
                echo(line)


def _event(entry):
    """Return a line on an entry of the record's history."""
    excluded = entry.get("excluded")
    without = f" without {', '.join(excluded)}" if excluded else ""
    version = entry.get("software", {}).get("levelmatch", "")
    return f"{entry['time']}: {entry['function']}, levelmatch {version}{without}"


SOLVING = [
    RECORD,
    output_option("NEW", "File of the new record."),
    click.option(
        "--fit-type",
        "fit_types",
        multiple=True,
        metavar="[PASS=]TYPE",
        help=f"Fit type of all passes, or of a named pass: {', '.join(FIT_TYPES)}.",
    ),
    click.option(
        "--reference", type=REFERENCE, metavar="NAME", help="Another reference of the mosaic."
    ),
    click.option(
        "--exclude",
        multiple=True,
        type=ImageName(),
        metavar="NAME",
        help="An image to exclude; may be repeated.",
    ),
    overwrite_option("Replace NEW if it exists."),
    QUIET,
    DEBUG,
    *flags_of(SolveOptions, without=BEFORE_SOLVING, recorded=True),
]


@click.command(
    cls=GroupedCommand,
    epilog=examples(
        "solve levelmatch.asdf -o levels.asdf --fit-type level",
        "solve levelmatch.asdf -o new.asdf --exclude bad_cal.fits --fit-type mosaic=level+slope",
    ),
)
@add_options(SOLVING)
@click.pass_context
def solve(ctx, record, output, *, overwrite, quiet, debug, **values):
    """Solve the pairs of RECORD again, and write a new record.

    No pixels are needed. Options that are not named stay as they are in RECORD.
    """
    with reporting(debug=debug):
        from levelmatch.atomic import refuse_existing
        from levelmatch.record.solving import solve_record

        if output.exists() and record.exists() and output.samefile(record):
            msg = f"--output: {output} is RECORD, which the corrected images name; name another"
            raise ValueError(msg)
        refuse_existing(output, overwrite=overwrite, is_data=True)
        named = [name for name in SOLVE if name in values and is_given(ctx, name)]
        new = solve_record(
            record,
            fit_type=_fit_types(values["fit_types"]),
            reference=values["reference"],
            exclude=values["exclude"],
            solve={name: values[name] for name in named},
        )
        new.write(output, overwrite=overwrite)
        if not quiet:
            print_result(new)
            echo(f"Written: {output}")


def _fit_types(words):
    """Return fit types by pass, or one fit type for all passes."""
    if len(words) == 1 and "=" not in words[0]:
        return words[0]
    out = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            msg = f"--fit-type: {word!r} is for all passes; give it alone"
            raise ValueError(msg)
        out[name] = value
    return out


@click.command(epilog=examples("report matched/levelmatch.asdf -o page.html"))
@RECORD
@output_option("PAGE", f"Path of the report; by default {REPORT} beside it.", required=False)
@click.option("--title", default="Level matching", show_default=True, help="Title of the report.")
@overwrite_option("Replace the report of another run.")
@DEBUG
def report(record, output, title, *, overwrite, debug):
    """Write an HTML report on RECORD with a summary, plots and tables.

    It includes mosaics before and after matching if the inputs are at their recorded paths. An
    earlier report on RECORD is replaced.
    """
    with reporting(debug=debug):
        from levelmatch.record.record_files import read_record
        from levelmatch.report import write_report
        from levelmatch.report.page import check_replaceable
        from levelmatch.results.apply_undo import recorded_result
        from levelmatch.results.recorded_frames import recorded_files

        known = read_record(record)
        output = record.with_name(REPORT) if output is None else output
        # Check the path before drawing, which takes time.
        check_replaceable(output, known, overwrite=overwrite)
        try:
            shown = recorded_result(known, recorded_files(known, None))
        except Exception as error:
            words = spell(f"without mosaics before and after: {error}")
            echo(f"Note: {words}", err=True)
            shown, pictures = known, {"before_after": False}
        else:
            pictures = {}
        page = write_report(shown, output, title=title, overwrite=overwrite, **pictures)
        echo("\n".join(page_lines(page)))


COADD = ("weights", "method", "tile_size")


@click.command(
    epilog=examples(
        "mosaic matched/levelmatch.asdf -o mosaic.fits",
        "mosaic matched/levelmatch.asdf raw/*_cal.fits -o mosaic.fits",
        "mosaic matched/levelmatch.asdf -o quick.fits --pixel-scale 0.5",
        "mosaic matched/levelmatch.asdf -o median.fits --combine median --like other.fits",
    )
)
@RECORD
@IMAGES
@output_option("FITS", "The mosaic, with its coverage in the extension COVERAGE.")
@click.option(
    "--pixel-scale",
    type=float,
    metavar="ARCSEC",
    help="Side of a pixel; by default the side of the finest image's pixels.",
)
@path_option("--like", metavar="FITS", text="A file whose image gives the grid of the mosaic.")
@click.option(
    "--combine",
    type=click.Choice(("mean", "median")),
    default="mean",
    show_default=True,
    help="How images are combined.",
)
@add_options(flags_of(CoaddOptions, without=("shape",)))
@overwrite_option("Replace the file if it exists.")
@FORCE
@QUIET
@DEBUG
def mosaic(record, files, output, like, *, overwrite, force, quiet, debug, **options):
    """Make a mosaic of the images of RECORD with its corrections.

    FILES are all inputs of the run, by default from their recorded place. The corrected
    images are not needed.
    """
    with reporting(debug=debug):
        from levelmatch.atomic import refuse_existing
        from levelmatch.record.record_files import read_record
        from levelmatch.results.apply_undo import recorded_result
        from levelmatch.results.mosaic import make_mosaic
        from levelmatch.results.recorded_frames import recorded_files

        refuse_existing(output, overwrite=overwrite, is_data=True)
        coadd = CoaddOptions(**{name: options.pop(name) for name in COADD})
        known = read_record(record)
        files = without_excluded(known, files) or recorded_files(known)
        result = recorded_result(known, files, force=force)
        path = make_mosaic(
            result,
            output=output,
            wcs=None if like is None else _grid_of(like),
            overwrite=overwrite,
            progress_bar=progress_bars(quiet=quiet)("tiles"),
            coadd=coadd,
            **options,
        )
        if not quiet:
            echo(f"Written: {path}")


def _grid_of(path):
    """Return the header of a file's image, which defines the grid."""
    from astropy.io import fits

    from levelmatch.images.inputs import collect_frames

    (frame,) = collect_frames([path])
    return fits.getheader(path, frame.source.hdu)
