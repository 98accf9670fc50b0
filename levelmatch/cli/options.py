# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Options, as in the package, which is not imported before it is needed."""

from pathlib import Path

import click

FIT_TYPES = ("level", "level+slope", "level+match", "auto")
WEIGHTS = ("ivar", "equal", "npix", "rms")
METHODS = ("direct", "interp", "exact", "adaptive")
LOCATIONS = ("mean", "median")
ROBUST = ("tukey", "huber", "none")
DISCONNECTED = ("warn", "error", "sky")

REPORT = "levelmatch.html"
RECORD_NAME = "levelmatch.asdf"
# Where a run keeps the pairs it has measured, until it is through.
CHECKPOINT = ".levelmatch-pairs"

MEASURE = ("method", "location", "clip", "structure", "mask_sources", "n_workers")
SOLVE = (
    "weights",
    "time_from_background",
    "subtract_local",
    "floor",
    "min_area",
    "min_linear",
    "rms_limit",
    "slope_prior",
    "robust",
    "disconnected",
    "flux_limit",
    "max_pairs",
)
MATCH = (
    "fit_type_dithers",
    "recombine_lyot",
    "fit_type_recombine_lyot",
    "combine_nircam_short",
    "fit_type_combine_nircam_short",
    "fit_type_mosaic_tiles",
    "reference",
    "group_by",
)
READ = ("dq_bits", "hdu", "rematch", "flux_scale", "apply_flux_scale")


class Hdu(click.ParamType):
    """An extension: its name, its index, or NAME,VERSION."""

    name = "hdu"

    def convert(self, value, param, ctx):
        """Return the value as the package takes it."""
        if not isinstance(value, str):
            return tuple(value) if isinstance(value, list) else value
        name, comma, version = value.partition(",")
        if not comma:
            return int(value) if value.isdecimal() else value
        if not version.strip().isdecimal():
            self.fail(f"{value!r} is neither NAME, INDEX nor NAME,VERSION", param, ctx)
        return name.strip(), int(version)


class Reference(click.ParamType):
    """A name, or a whole number."""

    name = "reference"

    def convert(self, value, param, ctx):
        """Return the value as the package takes it."""
        plain = isinstance(value, str) and value.removeprefix("-").isdecimal()
        return int(value) if plain and str(int(value)) == value else value


class RecordPath(click.Path):
    """A record, or the folder that a run wrote it to."""

    name = "record"

    def __init__(self):
        super().__init__(path_type=Path)

    def convert(self, value, param, ctx):
        """Return the record's path."""
        path = super().convert(value, param, ctx)
        if path.is_dir():
            return path / RECORD_NAME
        if path.is_file():
            with open(path, "rb") as stream:
                if stream.read(9) == b"SIMPLE  =":
                    self.fail(f"{path} is an image; its run's record is {RECORD_NAME} beside it")
        return path


def _flag(name, text, *short):
    """An option that can be said and unsaid."""
    names = "/".join([f"--{name}", f"--no-{name}"])
    return click.option(*short, names, name.replace("-", "_"), default=False, help=text)


def _fit_type(name, text):
    return click.option(
        f"--{name}",
        type=click.Choice(FIT_TYPES),
        help=f"What to subtract from {text}; by default as --fit-type.",
    )


RUN_OPTIONS = [
    click.argument("files", nargs=-1, type=click.Path(path_type=Path)),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="OUT",
        help="Folder of the corrected images; made where it is missing.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="TOML",
        help="A file of options; the command line goes first.",
    ),
    click.option(
        "--fit-type",
        type=click.Choice(FIT_TYPES),
        help="What to subtract in all passes; by default level.",
    ),
    _fit_type("fit-type-dithers", "each image of a tile"),
    _flag(
        "recombine-lyot", "Match MIRI's Lyot coronagraph to its main chip and make them one image."
    ),
    _fit_type("fit-type-recombine-lyot", "the Lyot part of a tile"),
    _flag("combine-nircam-short", "Match NIRCam's short-wavelength chips, from then on one image."),
    _fit_type("fit-type-combine-nircam-short", "each chip of a tile"),
    _fit_type("fit-type-mosaic-tiles", "each tile"),
    click.option(
        "--reference",
        type=Reference(),
        default="auto",
        show_default=True,
        metavar="NAME",
        help="What the others are relative to: an image, a tile, a "
        "number in the list from 0, 'auto' or 'mean'.",
    ),
    click.option(
        "--weights",
        type=click.Choice(WEIGHTS),
        default="ivar",
        show_default=True,
        help="Weights of the pairs.",
    ),
    click.option(
        "--group-by",
        multiple=True,
        default=("auto",),
        show_default=True,
        metavar="KEY",
        help="What makes a tile: 'auto', 'jwst', 'overlap' or a header "
        "keyword, more than one by saying it again; FILENAME makes each image a tile.",
    ),
    click.option(
        "--time-from-background",
        default="DT_BGR",
        show_default=True,
        metavar="KEY",
        help="Keyword of the time from the background observations.",
    ),
    _flag("subtract-local", "Also subtract each tile's own sky, sources masked."),
    click.option(
        "--method",
        type=click.Choice(METHODS),
        default="direct",
        show_default=True,
        help="How pairs are measured; all but direct go through reproject.",
    ),
    click.option(
        "--location",
        type=click.Choice(LOCATIONS),
        default="mean",
        show_default=True,
        help="Centre of the clipped differences.",
    ),
    click.option(
        "--clip",
        type=float,
        default=3.0,
        show_default=True,
        help="Leave out differences farther off than so many sigma.",
    ),
    click.option(
        "--min-area",
        type=float,
        default=0.002,
        show_default=True,
        help="Leave out pairs of less than this part of the mean overlap.",
    ),
    click.option(
        "--min-linear",
        type=float,
        default=0.2,
        show_default=True,
        help="Leave out pairs shorter than this part of an image's side.",
    ),
    click.option(
        "--rms-limit",
        type=float,
        default=2.0,
        show_default=True,
        help="Leave out pairs whose scatter is so many sigma too large.",
    ),
    click.option(
        "--slope-prior",
        type=float,
        default=None,
        help="Expected size of slopes, in the data's unit per arcmin.",
    ),
    click.option(
        "--robust",
        type=click.Choice(ROBUST),
        default="tukey",
        show_default=True,
        help="How pairs at odds with the rest count less, under --weights ivar.",
    ),
    click.option(
        "--disconnected",
        type=click.Choice(DISCONNECTED),
        default="warn",
        show_default=True,
        help="Sets of images that do not overlap: warn, refuse, or tie them by their sky.",
    ),
    click.option(
        "--flux-scale",
        metavar="KEYWORD",
        default=None,
        help="Keyword of the zero point, to compare images on one flux scale.",
    ),
    _flag("apply-flux-scale", "Write the images on that one flux scale too."),
    click.option(
        "--flux-limit",
        type=float,
        default=0.03,
        show_default=True,
        help="Warn of flux scales that differ by more than this part.",
    ),
    click.option(
        "--max-pairs",
        type=int,
        default=24,
        show_default=True,
        help="Measure each image in about so many pairs.",
    ),
    click.option(
        "--structure/--no-structure",
        default=False,
        show_default=True,
        help="Weigh each cell of an overlap by its own scatter.",
    ),
    click.option(
        "--mask-sources/--no-mask-sources",
        default=False,
        show_default=True,
        help="Leave out the sources that photutils finds.",
    ),
    click.option(
        "--floor",
        type=float,
        default=None,
        help="Systematic scatter of the pairs; by default estimated.",
    ),
    click.option(
        "--dq-bits",
        default=None,
        metavar="BITS",
        help="Data-quality bits that make a pixel bad: a number, or names such as "
        "DO_NOT_USE,JUMP_DET.",
    ),
    click.option(
        "--hdu",
        type=Hdu(),
        default=None,
        metavar="HDU",
        help="The image's extension: NAME, INDEX or NAME,VERSION.",
    ),
    click.option("--n-workers", type=int, default=None, help="Threads."),
    click.option(
        "--extend",
        type=RecordPath(),
        metavar="RECORD",
        default=None,
        help="Add FILES to the images of a record, with its options: what it measured stays.",
    ),
    _flag("overwrite", "Replace outputs that are there."),
    _flag("rematch", "Go on with images that are matched already."),
    _flag("report", f"Also write OUT/{REPORT}."),
    _flag("dry-run", "Find the corrections and write nothing."),
    _flag("quiet", "Print errors and warnings alone.", "-q"),
    _flag("debug", "Show tracebacks and the log."),
]


def add_options(options):
    """Add a list of options to a command, in its order."""

    def add(function):
        for option in reversed(options):
            function = option(function)
        return function

    return add
