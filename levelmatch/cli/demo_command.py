# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command `levelmatch demo`, which matches simulated images."""

import click

from levelmatch.cli.errors import reporting
from levelmatch.cli.inputs import GivenPath
from levelmatch.cli.options import DEBUG, FIT_TYPES, REPORT, examples, overwrite_option
from levelmatch.cli.printing import (
    folder,
    print_result,
    progress_bars,
    write_page,
    written_lines,
)
from levelmatch.cli.terminal import echo

__all__ = ["demo"]


@click.command(
    epilog=examples("demo levelmatch-demo", "demo planes --fit-type level+slope --seed 3"),
)
@click.argument("output", metavar="OUT", type=GivenPath())
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
    help="Background to add to the images and to match: a level, a plane, or auto.",
)
@click.option(
    "--shape",
    type=click.IntRange(min=32),
    nargs=2,
    default=(256, 258),
    show_default=True,
    metavar="NY NX",
    help="Shape of an image in pixels.",
)
@overwrite_option()
@DEBUG
def demo(output, debug, **values):
    """Match simulated images, and compare the result with the truth.

    Four tiles of four dithers, like those of JWST's MIRI, are written to OUT/raw, the
    corrected images to OUT/matched, and a report to OUT/levelmatch.html.
    """
    with reporting(debug=debug):
        _demo(output, **values)


def _demo(output, *, seed, fit_type, shape, overwrite):
    """Simulate images, match them, write all outputs and compare with the truth."""
    from levelmatch import match_levels
    from levelmatch.atomic import refuse_existing
    from levelmatch.report.page import check_replaceable
    from levelmatch.testing import simulate_miri

    page = output / REPORT
    if output.exists() and not output.is_dir():
        msg = f"{output} is not a folder"
        raise NotADirectoryError(msg)
    own = (output / "raw", output / "matched", page)
    for path in own:
        refuse_existing(path, overwrite=overwrite)
    others = sorted(set(output.iterdir()) - set(own)) if output.exists() else []
    if others and not overwrite:
        other = others[0].name
        msg = f"{output} has other files, such as {other}; name a new folder, or use --overwrite"
        raise FileExistsError(msg)
    check_replaceable(page, overwrite=overwrite)
    slope = 0.0 if fit_type == "level" else 0.5
    simulated = simulate_miri(shape=shape, seed=seed, slope=slope)
    echo(f"Simulating {len(simulated.images)} images of {shape[0]} x {shape[1]} pixels ...")
    paths = simulated.write(output / "raw", overwrite=overwrite)
    result = match_levels(
        paths,
        fit_type_dithers=fit_type,
        fit_type_mosaic_tiles=fit_type,
        progress_bar=progress_bars(quiet=False)("pairs"),
    )
    result.write(output / "matched", overwrite=overwrite)
    print_result(result)
    echo("")
    for line in _compare(result, simulated.truth):
        echo(line)
    echo(f"Written: {len(paths)} images to {folder(output / 'raw')}")
    for line in (
        *written_lines(result, output / "matched"),
        *write_page(result, output, "A simulated mosaic"),
    ):
        echo(line)


def _compare(result, truth):
    """Return lines that compare the fitted levels or planes with the true ones."""
    import numpy as np

    from levelmatch.images.units import unit_text
    from levelmatch.testing import level_errors, plane_errors
    from levelmatch.text import label_names, values

    def rms(values):
        return float(np.sqrt(np.mean(np.square(values.value))))

    table = result.table
    unit = truth["level"].unit
    names, _ = label_names([str(name) for name in truth["name"]])
    if result.passes[-1].fit_type == "level":
        found, true = table["level"].to_value(unit), truth["level"].value
        before = level_errors(np.zeros(len(truth)), truth)
        after = level_errors(found << unit, truth)
        true = true + np.mean(found - true)
        columns = {"true": true, "found": found, "found-true": found - true}
        words = "true levels up to a constant that is common to all"
    else:
        planes = np.transpose([values(table[name]) for name in ("level", "slope_u", "slope_v")])
        before = plane_errors(np.zeros_like(planes), truth)
        after = plane_errors(planes, truth)
        columns = {"true": before.value, "found-true": after.value}
        words = "rms of each image's plane, without the plane that is common to all"
    lines = _columns(names, columns, unit_text(unit)) + [f"({words})"]
    lines.append(
        f"Rms of the backgrounds' differences: {rms(before):.3f} before, "
        f"{rms(after):.4f} {unit_text(unit)} after."
    )
    return lines


def _columns(names, columns, unit):
    """Return the lines of a table of numbers, one line for each image."""
    width = max(map(len, names))
    lines = [f"{'name':{width}}" + "".join(f"  {c:>10}" for c in columns) + f"   ({unit})"]
    for name, *numbers in zip(names, *columns.values(), strict=True):
        lines.append(f"{name:{width}}" + "".join(f"  {number:10.3f}" for number in numbers))
    return lines
