# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command that does the whole job."""

import click

from levelmatch.cli.config import merge, read_config
from levelmatch.cli.errors import one_error, shown_warnings
from levelmatch.cli.options import MATCH, MEASURE, REPORT, RUN_OPTIONS, SOLVE, add_options
from levelmatch.cli.printing import (
    print_result,
    progress_bars,
    start_log,
    write_page,
    written_lines,
)

__all__ = ["run"]

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


@click.command(epilog=RUN_EPILOG)
@add_options(RUN_OPTIONS)
@click.pass_context
def run(ctx, config, **values):
    """Match FILES and write the corrected images to a folder.

    FILES are overlapping images, FITS with a celestial WCS. The inputs are never changed,
    and nothing is written before all of them are measured.
    """
    if config is not None:
        values = merge(ctx, values, read_config(config, ctx.command.params))
    if not values["files"]:
        msg = "no files: name the images to match"
        raise click.UsageError(msg, ctx)
    if values["output"] is None and not values["dry_run"]:
        msg = "no output: name a folder by -o, or say --dry-run"
        raise click.UsageError(msg, ctx)
    start_log(debug=values["debug"])
    with one_error(debug=values["debug"]):
        _check_paths(**{k: values[k] for k in ("files", "output", "overwrite", "report")})
        with shown_warnings():
            _run(values)


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

    bar = progress_bars(quiet=values["quiet"])
    result = _match(values["files"], values, bar("pairs"))
    output, dry = values["output"], values["dry_run"]
    if output is not None:
        check_outputs(result.products, output, overwrite=values["overwrite"])
    written = []
    if not dry:
        result.write(output, overwrite=values["overwrite"], progress_bar=bar("files"))
        written = written_lines(result, output)
        if values["report"]:
            written.append(write_page(result, output))
    if not values["quiet"]:
        print_result(result)
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
