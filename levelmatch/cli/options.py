# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Options of the commands."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from levelmatch.cli.flags import flags_of, names_of
from levelmatch.cli.inputs import (
    ASDF,
    RECORD_NAME,
    GivenPath,
    expand,
    expand_all,
    export_flags,
    is_image,
)
from levelmatch.cli.terminal import logging_flags
from levelmatch.options import (
    FIT_TYPES as FIT_TYPE_NAMES,
    MeasureOptions,
    ReadOptions,
    SolveOptions,
)

FIT_TYPES = tuple(FIT_TYPE_NAMES)
REPORT = "levelmatch.html"
# Name of the file in which a run stores measured pairs until it ends.
CHECKPOINT = ".levelmatch-pairs"

# Names of the options of reading, measuring and solving, and of other options of
# `levelmatch.match_levels`.
READ, MEASURE, SOLVE = (
    names_of(options) for options in (ReadOptions, MeasureOptions, SolveOptions)
)
MATCH = (
    "fit_type_dithers",
    "recombine_lyot",
    "fit_type_recombine_lyot",
    "combine_nircam_short",
    "fit_type_combine_nircam_short",
    "fit_type_combine_detectors",
    "fit_type_mosaic_tiles",
    "reference",
    "group_by",
)
# Options of solving that also affect reading or measuring.
BEFORE_SOLVING = (
    "max_pairs",
    "time_from_background",
    "subtract_local",
    "flux_limit",
    "combine_detectors",
)


def hdu(value):
    """Return extensions: auto, all, or names, indices or NAME,VERSION separated by commas."""
    if not isinstance(value, str):
        return value
    words = [word.strip() for word in value.replace(";", ",").split(",")]
    if not all(words):
        msg = f"{value!r} is neither NAME, INDEX, NAME,VERSION nor a list"
        raise click.BadParameter(msg)
    out = []
    for word in words:
        if word.isdecimal() and out and isinstance(out[-1], str):
            out[-1] = (out[-1], int(word))
        else:
            out.append(int(word) if word.isdecimal() else word)
    return out[0] if len(out) == 1 else out


def blank(value):
    """Return values of missing pixels: auto, none, or numbers separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("auto", "none", "false"):
        return None if value.lower() == "auto" else False
    try:
        values = [float(part) for part in value.split(",")]
    except ValueError as error:
        msg = f"{value!r} is neither auto, none nor numbers"
        raise click.BadParameter(msg) from error
    return values[0] if len(values) == 1 else values


def colour(value):
    """Return a number, or the word ``fit``."""
    try:
        return value if value == "fit" else float(value)
    except ValueError as error:
        msg = f"{value!r} is neither a number nor 'fit'"
        raise click.BadParameter(msg) from error


class ImageName(click.ParamType):
    """Type of the name of an image, or of its path.

    Parameters
    ----------
    words : tuple of str
        Words that the option accepts in place of a name.
    number : bool
        Whether an integer selects an image by number.
    """

    name = "image"

    def __init__(self, words=(), *, number=False):
        self.words, self.number = words, number

    def convert(self, value, param, ctx):
        """Return the value in the form of the package."""
        if not isinstance(value, str):
            return value
        if self.number and value.removeprefix("-").isdecimal() and str(int(value)) == value:
            return int(value)
        # The name of a tile may contain a slash.
        path = Path(value)
        is_file = path.is_file() or is_image(path.name) or path.suffix == ASDF
        return path.name if path.name != value and is_file else value

    def shell_complete(self, ctx, param, incomplete):
        """Return completions: the words, and the names of the files or of the record's images."""
        # Click does not parse arguments before an option that still lacks its value.
        left = [Path(word) for word in ctx.args]
        if any(p.name == "record" and isinstance(p, click.Argument) for p in ctx.command.params):
            record = ctx.params.get("record") or next(iter(left), None)
            names = [] if record is None else _recorded_names(record)
        else:
            names = [Path(f).name for f in ctx.params.get("files") or _expanded(left)]
        names = [*self.words, *names]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _expanded(paths):
    """Return the files of arguments; none if an argument matches none."""
    try:
        return [file for path in paths for file in expand(path)]
    except ValueError:
        return []


def _recorded_names(path):
    """Return the names of a record's images, or an empty list if it cannot be read."""
    from levelmatch.record.record_files import read_record

    try:
        return read_record(RecordPath().convert(path, None, None)).names
    except Exception:
        return []


# Type of a reference: a name, a path, an integer, ``auto`` or ``mean``.
REFERENCE = ImageName(("auto", "mean"), number=True)


class RecordPath(GivenPath):
    """Type of a record, or of the output folder that holds it."""

    name = "record"

    def __init__(self):
        super().__init__()

    def convert(self, value, param, ctx):
        """Return the path of the record; refuse an image."""
        path = super().convert(value, param, ctx)
        if path.is_dir():
            return self._record_of(path)
        if path.is_file():
            with open(path, "rb") as stream:
                if stream.read(9) == b"SIMPLE  =":
                    self._refuse_image(path)
        return path

    def _record_of(self, folder):
        """Return the path of a folder's record."""
        from levelmatch.exceptions import RecordError
        from levelmatch.record.record_files import find_record

        try:
            return find_record(folder)
        except RecordError as error:
            self.fail(str(error))

    def _refuse_image(self, path):
        """Refuse an image in place of a record, and name the record beside it if there is one."""
        record = self._record_of(path.parent)
        where = f"; {record.name} beside it is one" if record.is_file() else f" ({RECORD_NAME})"
        self.fail(f"{path} is an image, not the record of a run{where}")


def add_options(options):
    """Return a decorator that adds a list of options to a command, in the same order."""

    def add(function):
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _switch(name, text, *short):
    """Return a flag with a negative form ``--no-...``."""
    names = f"--{name}/--no-{name}"
    return click.option(*short, names, name.replace("-", "_"), default=False, help=text)


def _fit_type(name, text):
    words = f"Correction of {text}; by default as --fit-type."
    return click.option(f"--{name}", type=click.Choice(FIT_TYPES), help=words)


QUIET_HELP = "Print only errors and warnings."
DEBUG_HELP = "Show tracebacks and the log."
LOGGING = logging_flags()
DEBUG = add_options([*LOGGING, click.option("--debug", is_flag=True, help=DEBUG_HELP)])
IMAGES = click.argument("files", nargs=-1, type=GivenPath(), callback=expand_all)
RECORD = click.argument("record", type=RecordPath())
FORCE = click.option(
    "--force", is_flag=True, help="Accept images that differ from the recorded ones."
)
QUIET = click.option("-q", "--quiet", is_flag=True, help=QUIET_HELP)


def path_option(*names, metavar, text, folder=True, **options):
    """Return an option whose value is the path of a file, or of a folder unless it is refused."""
    kind = GivenPath(dir_okay=folder, exists=options.pop("exists", False))
    return click.option(*names, type=kind, metavar=metavar, help=text, **options)


def output_option(metavar, text, *, required=True):
    """Return the option --output."""
    return path_option("-o", "--output", metavar=metavar, text=text, required=required)


def overwrite_option(text="Replace existing outputs."):
    """Return the flag --overwrite."""
    return click.option("--overwrite", is_flag=True, help=text)


def examples(*lines):
    """Return the end of a help text with examples of a command."""
    return "\b\nExamples:\n" + "\n".join(f"  levelmatch {line}" for line in lines)


RUN_OPTIONS = [
    IMAGES,
    output_option("OUT", "Folder of the corrected images; created if missing.", required=False),
    path_option("--config", metavar="TOML", text="File of options; the command line has priority."),
    path_option(
        "--catalogue",
        metavar="TABLE",
        text="Catalogue of outlines in place of FILES: .ecsv, .fits or .parquet. The run is "
        "planned by it, and a file is opened where its pixels are read.",
        folder=False,
        exists=True,
    ),
    click.option(
        "--fit-type",
        type=click.Choice(FIT_TYPES),
        help="Correction of all passes: a level, a plane, or planes only where the data need "
        "them (auto); by default level.",
    ),
    _fit_type("fit-type-dithers", "each image of a tile"),
    _fit_type("fit-type-combine-detectors", "each detector of a tile"),
    _fit_type("fit-type-mosaic-tiles", "each tile"),
    click.option(
        "--reference",
        type=REFERENCE,
        default="auto",
        show_default=True,
        metavar="NAME",
        help="Image or tile whose correction is zero: its name, its number in the list from 0, "
        "'auto' or 'mean'.",
    ),
    click.option(
        "--group-by",
        multiple=True,
        default=("auto",),
        show_default=True,
        metavar="KEY",
        help="Assigns images to tiles: 'auto', 'jwst', 'overlap', 'exposure' or a header keyword. "
        "Repeat it for several keywords; FILENAME makes each image a tile, exposure each file.",
    ),
    click.option(
        "--extend",
        type=RecordPath(),
        metavar="RECORD",
        default=None,
        help="Add FILES to the images of a record, with its options; its measured pairs are "
        "reused.",
    ),
    path_option(
        "--anchor",
        metavar="FILE",
        text="Bring all images to the absolute level of an external image. Repeat it for several.",
        folder=False,
        multiple=True,
    ),
    click.option(
        "--anchor-fwhm",
        type=float,
        metavar="ARCSEC",
        default=None,
        help="Full width at half maximum of the anchor's resolution, to which images are smoothed.",
    ),
    click.option(
        "--anchor-colour",
        type=colour,
        default=1.0,
        show_default=True,
        metavar="NUMBER",
        help="Brightness of the anchor divided by that of the images, or 'fit'.",
    ),
    click.option(
        "--anchor-fit-type",
        type=click.Choice(["level", "level+slope"]),
        default="level",
        show_default=True,
        help="Correction by the anchor, one level or one plane for all images.",
    ),
    _switch("overwrite", "Replace existing outputs."),
    _switch("report", f"Also write OUT/{REPORT}."),
    _switch("dry-run", "Find the corrections and write no images."),
    *export_flags(record=True),
    _switch("quiet", QUIET_HELP, "-q"),
    *LOGGING,
    _switch("debug", DEBUG_HELP),
    _switch(
        "recombine-lyot",
        "Match MIRI's Lyot coronagraph to its main chip and combine them to one image.",
    ),
    _fit_type("fit-type-recombine-lyot", "the Lyot part of a tile"),
    _switch(
        "combine-nircam-short",
        "Match NIRCam's short-wavelength chips, and treat them as one image from then on.",
    ),
    _fit_type("fit-type-combine-nircam-short", "each chip of a tile"),
    path_option(
        "--skylist",
        metavar="FILE",
        text="Also write the levels for skymatch of calwebb_image3, with its skymethod user.",
        folder=False,
    ),
    path_option(
        "--skyfile",
        metavar="FILE",
        text="Also write the levels of HST images for AstroDrizzle; see --no-subtract.",
        folder=False,
    ),
    click.option(
        "--ignore-regions",
        metavar="FILE",
        default=None,
        help="Regions of DS9 that are left out of the comparison; see --only-regions.",
    ),
    *flags_of(ReadOptions, types={"hdu": hdu, "dq_bits": click.STRING, "blank": blank}),
    *flags_of(MeasureOptions),
    *flags_of(SolveOptions),
    click.option(
        "--hold",
        multiple=True,
        metavar="NAME[=LEVEL]",
        help="An image whose correction is zero, or LEVEL; may be repeated.",
    ),
    click.option(
        "--fit-exclude",
        multiple=True,
        metavar="NAME",
        help="An image that is corrected without influence on the others; may be repeated.",
    ),
]
