# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command line. Only click and the standard library until a command runs."""

import errno
import os
import shutil
import sys
import traceback
import warnings
from contextlib import contextmanager
from functools import partial
from glob import glob
from pathlib import Path

import click
from click.core import ParameterSource

__all__ = ["main"]

# As in the package, which is not imported before it is needed.
FIT_TYPES = ("level", "level+slope", "level+match", "auto")
WEIGHTS = ("ivar", "equal", "npix", "rms")
METHODS = ("direct", "interp", "exact", "adaptive")
LOCATIONS = ("mean", "median")
ROBUST = ("tukey", "huber", "none")
DISCONNECTED = ("warn", "error", "sky")

MEASURE = ("method", "location", "clip", "structure", "mask_sources", "n_workers")
SOLVE = (
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
    "weights",
    "group_by",
    "time_from_background",
    "subtract_local",
    "dq_bits",
    "hdu",
    "rematch",
    "flux_scale",
)

REPORT = "levelmatch.html"
# How the library's options are spelt here.
SPELLING = {
    "overwrite=True": "--overwrite",
    "rematch=True": "--rematch",
    "group_by='jwst'": "--group-by jwst",
    "hdu=('SCI', n)": "--hdu SCI,n",
    "group_by: ": "--group-by: ",
}
OPTION_PREFIXES = (*MEASURE, *SOLVE, *MATCH)

EPILOG = """\
\b
Examples:
  levelmatch demo try
  levelmatch run raw/*_cal.fits -o matched --report
  levelmatch run raw/*_cal.fits -o matched --recombine-lyot \\
      --fit-type-mosaic-tiles level+slope --reference mean
  levelmatch run --config levelmatch.toml --dry-run

\b
Completion of options in bash (zsh and fish alike):
  eval "$(_LEVELMATCH_COMPLETE=bash_source levelmatch)"

Exit status: 0 if all went well, 2 for wrong use or bad input, 1 for anything else.
"""

RUN_EPILOG = """\
\b
Examples:
  levelmatch run raw/*_cal.fits -o matched --report
  levelmatch run night/*.fits -o matched --group-by OBJECT --group-by FILTER
  levelmatch run --config levelmatch.toml --weights equal

\b
The configuration is TOML, with the options' names as keys:
  files = ["raw/*_cal.fits"]
  output = "matched"
  fit-type-mosaic-tiles = "level+slope"
  recombine-lyot = true
Its files and its output are relative to its own folder; the command line goes first.
"""


# --------------------------------------------------------------------------------------
# Errors and warnings


class _Failure(click.ClickException):
    """One line of error, and an exit status."""

    def __init__(self, message, exit_code):
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


class _Group(click.Group):
    """A group that tells of wrong use in one line."""

    def make_context(self, info_name, args, parent=None, **extra):
        with _one_line(info_name):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx):
        with _one_line(ctx.command_path):
            return super().invoke(ctx)


@contextmanager
def _one_line(path):
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else path
        msg = f"{error.format_message().rstrip('.')} (see '{path} --help')"
        raise _Failure(msg, 2) from error


@contextmanager
def _one_error(*, debug):
    """Turn exceptions into one line and an exit status, with the traceback if asked for."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise
        if debug:
            traceback.print_exc()
        raise _failure(error) from error


def _failure(error):
    from astropy.units import UnitsError

    from levelmatch.exceptions import LevelMatchError

    text = str(error) or type(error).__name__
    bad = (
        LevelMatchError,
        UnitsError,
        ValueError,
        TypeError,
        FileExistsError,
        FileNotFoundError,
        NotADirectoryError,
    )
    if isinstance(error, bad):
        return _Failure(_spell(text), 2)
    if isinstance(error, OSError):
        return _Failure(text, 1)
    return _Failure(f"{type(error).__name__}: {text}; --debug shows where", 1)


def _spell(text):
    """An error of the library in the words of the command line."""
    for python, option in SPELLING.items():
        text = text.replace(python, option)
    name, colon, rest = text.partition(":")
    return f"--{name.replace('_', '-')}{colon}{rest}" if name in OPTION_PREFIXES else text


@contextmanager
def _shown_warnings():
    """Show every warning as a line of its own."""
    # It puts its own function in place when it is first imported.
    import astropy  # noqa: F401

    from levelmatch.exceptions import LevelMatchWarning

    def show(message, category, filename, lineno, file=None, line=None):
        kind = "" if issubclass(category, LevelMatchWarning) else f"{category.__name__}: "
        click.echo(f"Warning: {kind}{' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", LevelMatchWarning)
        warnings.showwarning = show
        yield


# --------------------------------------------------------------------------------------
# Options


class _Hdu(click.ParamType):
    """An extension: its name, its index, or NAME,VERSION."""

    name = "hdu"

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return tuple(value) if isinstance(value, list) else value
        name, comma, version = value.partition(",")
        if not comma:
            return int(value) if value.isdecimal() else value
        if not version.strip().isdecimal():
            self.fail(f"{value!r} is neither NAME, INDEX nor NAME,VERSION", param, ctx)
        return name.strip(), int(version)


class _Reference(click.ParamType):
    """A name, or a whole number."""

    name = "reference"

    def convert(self, value, param, ctx):
        plain = isinstance(value, str) and value.removeprefix("-").isdecimal()
        return int(value) if plain and str(int(value)) == value else value


def _flag(name, text, *short):
    """An option that can be said and unsaid."""
    names = "/".join([f"--{name}", f"--no-{name}"])
    return click.option(*short, names, name.replace("-", "_"), default=False, help=text)


def _fit_type(name, text):
    return click.option(
        f"--{name}",
        type=click.Choice(FIT_TYPES),
        default="level",
        show_default=True,
        help=f"What to subtract from {text}.",
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
        type=_Reference(),
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
        "keyword, more than one by saying it again.",
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
        type=_Hdu(),
        default=None,
        metavar="HDU",
        help="The image's extension: NAME, INDEX or NAME,VERSION.",
    ),
    click.option("--n-workers", type=int, default=None, help="Threads."),
    _flag("overwrite", "Replace outputs that are there."),
    _flag("rematch", "Go on with images that are matched already."),
    _flag("report", f"Also write OUT/{REPORT}."),
    _flag("dry-run", "Find the corrections and write nothing."),
    _flag("quiet", "Print errors and warnings alone.", "-q"),
    _flag("debug", "Show tracebacks and the log."),
]


def _options(options):
    """Add a list of options to a command, in its order."""

    def add(function):
        for option in reversed(options):
            function = option(function)
        return function

    return add


# --------------------------------------------------------------------------------------
# The configuration


def _read_config(path, params):
    """Return the options of a TOML file, checked, by their name in Python."""
    import tomllib

    try:
        with open(path, "rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise _Failure(msg, 2) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not TOML: {error}"
        raise _Failure(msg, 2) from error
    known = {p.name: p for p in params if p.name not in ("config", "help")}
    options = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            msg = f"{path}: there is no option {key!r}{_nearest(name, known)}"
            raise _Failure(msg, 2)
        if name in options:
            msg = f"{path}: {key!r} is there twice, with - and with _"
            raise _Failure(msg, 2)
        options[name] = _check_value(path, key, value, known[name])
    return options


def _nearest(name, known):
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0].replace('_', '-')!r}?" if near else ""


def _check_value(path, key, value, param):
    """Return a value of the file as its option takes it."""
    kinds, words = _kinds(param)
    members = value if isinstance(value, list) and list in kinds else [value]
    is_true = isinstance(value, bool)
    good = isinstance(value, kinds) and (is_true == (kinds == (bool,)))
    if param.name != "hdu":
        good &= all(isinstance(m, str) for m in members if isinstance(value, list))
    if not good:
        msg = f"{path}: {key} = {value!r}: expected {words}"
        raise _Failure(msg, 2)
    if param.name == "files":
        return _expand(path, members)
    if param.name == "output":
        return Path(path).parent / value
    if param.multiple:
        return tuple(members)
    if isinstance(value, list):
        return value if param.name == "dq_bits" else tuple(value)
    try:
        return param.type.convert(value, None, None)
    except click.BadParameter as error:
        msg = f"{path}: {key}: {error.message}"
        raise _Failure(msg, 2) from error


def _kinds(param):
    """The types that an option takes in TOML, and their name in words."""
    if getattr(param, "is_flag", False):
        return (bool,), "true or false"
    special = {
        "files": ((str, list), "text or a list of text"),
        "group_by": ((str, list), "text or a list of text"),
        "dq_bits": ((str, int, list), "text, a whole number or a list of text"),
        "hdu": ((str, int, list), "text, a whole number or [name, version]"),
        "reference": ((str, int), "text or a whole number"),
    }
    if param.name in special:
        return special[param.name]
    if param.type is click.FLOAT:
        return (float, int), "a number"
    if param.type is click.INT:
        return (int,), "a whole number"
    return (str,), "text"


def _expand(path, patterns):
    """The files of the patterns of a configuration, relative to its own folder."""
    files = []
    for pattern in patterns:
        whole = str(Path(path).parent / pattern)
        found = sorted(glob(whole)) if any(c in pattern for c in "*?[") else [whole]
        if not found:
            msg = f"{path}: files: nothing matches {pattern!r}"
            raise _Failure(msg, 2)
        files += [Path(f) for f in found]
    return tuple(files)


def _merge(ctx, values, config):
    """Return the options, those of the command line first."""
    for name, value in config.items():
        said = ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
        if name == "files":
            said = bool(values["files"])
        if not said:
            values[name] = value
    return values


# --------------------------------------------------------------------------------------
# The commands


@click.group(cls=_Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="levelmatch", prog_name="levelmatch")
def main():
    """Match the background levels of overlapping astronomical images."""


@main.command(epilog=RUN_EPILOG)
@_options(RUN_OPTIONS)
@click.pass_context
def run(ctx, config, **values):
    """Match FILES and write the corrected images to a folder.

    FILES are overlapping images, FITS with a celestial WCS. The inputs are never changed,
    and nothing is written before all of them are measured.
    """
    if config is not None:
        values = _merge(ctx, values, _read_config(config, ctx.command.params))
    if not values["files"]:
        msg = "no files: name the images to match"
        raise click.UsageError(msg, ctx)
    if values["output"] is None and not values["dry_run"]:
        msg = "no output: name a folder by -o, or say --dry-run"
        raise click.UsageError(msg, ctx)
    _start_log(debug=values["debug"])
    with _one_error(debug=values["debug"]):
        _check_paths(**{k: values[k] for k in ("files", "output", "overwrite", "report")})
        with _shown_warnings():
            _run(values)


def _start_log(*, debug):
    if debug:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("levelmatch").setLevel(logging.DEBUG)


def _check_paths(files, output, overwrite, report):
    """Refuse what can be refused before the pixels are read."""
    for path in files:
        if not path.exists():
            msg = f"{path}: there is no such file"
            raise FileNotFoundError(msg)
        if path.is_dir():
            msg = f"{path}: a folder, not a file; name the images in it"
            raise ValueError(msg)
    if output is None:
        return
    if output.exists() and not output.is_dir():
        msg = f"--output: {output} is not a folder"
        raise NotADirectoryError(msg)
    for path in files:
        if path.resolve().parent == output.resolve() or path.parent.resolve() == output.resolve():
            msg = f"--output: {output} is the folder of the input {path.name}"
            raise ValueError(msg)
    names = [path.name for path in files] + ([REPORT] if report else [])
    for name in names:
        if (output / name).exists() and not overwrite:
            msg = f"{output / name} exists; --overwrite replaces it"
            raise FileExistsError(msg)


def _run(values):
    from levelmatch.files import check_outputs

    bar = _progress_bar(quiet=values["quiet"])
    result = _match(values["files"], values, bar("pairs"))
    output, dry = values["output"], values["dry_run"]
    if output is not None:
        check_outputs(result.products, output, overwrite=values["overwrite"])
    written = []
    if not dry:
        result.write(output, overwrite=values["overwrite"], progress_bar=bar("files"))
        written = _written(result, output)
        if values["report"]:
            written.append(_write_page(result, output))
    if not values["quiet"]:
        _print_result(result)
        for line in written if not dry else ["Dry run: nothing was written."]:
            click.echo(line)


def _match(files, values, bar):
    from levelmatch import MeasureOptions, SolveOptions, match_levels

    options = {name: values[name] for name in MATCH}
    keys = options["group_by"]
    solve = {name: values[name] for name in SOLVE}
    solve["robust"] = None if solve["robust"] == "none" else solve["robust"]
    options["group_by"] = keys[0] if len(keys) == 1 else list(keys)
    return match_levels(
        list(files),
        measure=MeasureOptions(**{name: values[name] for name in MEASURE}),
        solve=SolveOptions(**solve),
        progress_bar=bar,
        **options,
    )


def _progress_bar(*, quiet):
    """Return a function from what is counted to a progress bar; no bar but on a terminal."""
    if quiet or not sys.stderr.isatty():
        return lambda what: None
    from tqdm import tqdm

    return lambda what: partial(tqdm, desc=what, leave=False, unit="", file=sys.stderr)


def _written(result, output):
    noun = "image" if len(result) == 1 else "images"
    return [f"Written: {len(result)} {noun} to {_folder(output)}"]


def _folder(path):
    return f"{path}{os.sep}"


def _write_page(result, output, title="Level matching"):
    from levelmatch.report import write_report

    return f"Written: {write_report(result, output / REPORT, title=title)}"


# --------------------------------------------------------------------------------------
# What is printed


def _print_result(result):
    from levelmatch.report import notes, summary_lines

    click.echo("\n".join(_table_lines(result)) + "\n")
    for line in summary_lines(result):
        click.echo(line)
    for line in notes(result):
        click.echo(f"Note: {line}")


def _table_lines(result):
    """The corrections, one line an image; names in short where the lines would not fit."""
    columns = _number_columns(result)
    names = [frame.name for frame in result.frames]
    tiles = [frame.tile for frame in result.frames]
    left = [("name", names)]
    if len(set(tiles)) > 1 and tiles != names:
        left.append(("tile", tiles))
    lines = _join(left, columns)
    if max(map(len, lines)) <= shutil.get_terminal_size().columns:
        return lines
    from levelmatch.report import label_names

    head, cells = [], []
    for what, column in left:
        short, pattern = label_names(column)
        head += [f"{what}: {pattern}"] if pattern else []
        cells.append((what, short))
    return head + _join(cells, columns)


def _number_columns(result):
    """The columns of numbers as (heading, cells), the unit in the heading."""
    from levelmatch.report import decimals, fixed, has_slopes

    table = result.table
    value = {name: getattr(table[name], "value", table[name]) for name in table.colnames}
    unit = getattr(table["level"], "unit", None)
    digits = decimals(value["error"])
    level = [
        f"{fixed(v, digits)} +- {fixed(e, digits)}"
        for v, e in zip(value["level"], value["error"], strict=True)
    ]
    columns = [("level" if unit is None else f"level ({unit})".replace(" / ", "/"), level)]
    for axis, head in (("u", "E/arcmin"), ("v", "N/arcmin")):
        if has_slopes(table):
            digits = decimals(value["slope_u_error"])
            columns.append((head, [fixed(v, digits) for v in value[f"slope_{axis}"]]))
    held = {r.name for p in result.passes[-1:] for r in p.references}
    pairs = [
        f"{n}{'*' if name in held else ' '}"
        for n, name in zip(value["n_pairs"], table["name"], strict=True)
    ]
    return [*columns, ("pairs ", pairs)]


def _join(left, right):
    """Lines of a table of (heading, cells): text to the left, numbers to the right."""
    cells = []
    for side, columns in ((str.ljust, left), (str.rjust, right)):
        for heading, column in columns:
            width = max(len(heading), *map(len, column))
            cells.append([side(text, width) for text in (heading, *column)])
    return ["  ".join(row).rstrip() for row in zip(*cells, strict=True)]


# --------------------------------------------------------------------------------------
# The demonstration


@main.command()
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the simulation.",
)
@click.option(
    "--fit-type",
    type=click.Choice(FIT_TYPES),
    default="level",
    show_default=True,
    help="What to add to the images, and to find again.",
)
@click.option(
    "--shape",
    type=click.IntRange(min=32),
    nargs=2,
    default=(256, 258),
    show_default=True,
    metavar="NY NX",
    help="Pixels of an image.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--debug", is_flag=True, help="Show tracebacks and the log.")
def demo(output, debug, **values):
    """Match a small simulated mosaic, and compare with the truth.

    Four tiles of four dithers, like those of JWST's MIRI, go to OUT/raw, the corrected ones
    to OUT/matched, and a page of the result to OUT/levelmatch.html.
    """
    _start_log(debug=debug)
    with _one_error(debug=debug), _shown_warnings():
        _demo(output, **values)


def _demo(output, *, seed, fit_type, shape, overwrite):
    from levelmatch import match_levels
    from levelmatch.testing import simulate_miri

    page = output / REPORT
    if output.exists() and not output.is_dir():
        msg = f"{output} is not a folder"
        raise NotADirectoryError(msg)
    for path in (output / "raw", output / "matched", page):
        if path.exists() and not overwrite:
            msg = f"{path} exists; --overwrite replaces it"
            raise FileExistsError(msg)
    slope = 0.0 if fit_type == "level" else 0.5
    simulated = simulate_miri(shape=shape, seed=seed, slope=slope)
    click.echo(f"Simulating {len(simulated.images)} images of {shape[0]} x {shape[1]} pixels ...")
    paths = simulated.write(output / "raw", overwrite=overwrite)
    result = match_levels(
        paths,
        fit_type_dithers=fit_type,
        fit_type_mosaic_tiles=fit_type,
        progress_bar=_progress_bar(quiet=False)("pairs"),
    )
    result.write(output / "matched", overwrite=overwrite)
    _print_result(result)
    click.echo("")
    for line in _compare(result, simulated.truth):
        click.echo(line)
    click.echo(f"Written: {len(paths)} images to {_folder(output / 'raw')}")
    for line in (
        *_written(result, output / "matched"),
        _write_page(result, output, "A simulated mosaic"),
    ):
        click.echo(line)


def _compare(result, truth):
    """Lines on what was found against what was added."""
    import numpy as np

    from levelmatch.report import label_names
    from levelmatch.testing import level_errors, plane_errors

    def rms(values):
        return float(np.sqrt(np.mean(np.square(values.value))))

    table = result.table
    unit = truth["level"].unit
    found = table["level"].to(unit)
    words = f"{unit}".replace(" / ", "/")
    lines = []
    if result.passes[-1].matched.fit_type == "level":
        before = level_errors(np.zeros(len(truth)), truth)
        after = level_errors(found, truth)
        names, pattern = label_names([str(name) for name in truth["name"]])
        width = max(map(len, names))
        shift = np.mean((found - truth["level"]).value)
        if pattern:
            lines.append(f"name: {pattern}")
        lines.append(f"{'name':{width}}  {'true':>8}  {'found':>8}  {'error':>8}   ({words})")
        for name, true, value in zip(names, truth["level"].value, found.value, strict=True):
            lines.append(
                f"{name:{width}}  {true + shift:8.3f}  {value:8.3f}  {value - true - shift:8.4f}"
            )
        lines.append("(true levels up to a constant that is common to all)")
    else:
        planes = np.transpose(
            [getattr(table[name], "value", table[name]) for name in ("level", "slope_u", "slope_v")]
        )
        before = plane_errors(np.zeros_like(planes), truth)
        after = plane_errors(planes, truth)
    lines.append(
        f"Rms of the backgrounds' differences: {rms(before):.3f} before, "
        f"{rms(after):.4f} {words} after."
    )
    return lines
