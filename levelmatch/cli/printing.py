# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What is printed."""

import os
import shutil
import sys
from functools import partial

import click

from levelmatch.cli.errors import spell
from levelmatch.cli.options import REPORT

__all__ = ["folder", "print_result", "progress_bars", "start_log", "write_page", "written_lines"]


def print_result(result):
    """Print the corrections, and a summary in words."""
    from levelmatch.facts import notes, summary_lines

    click.echo("\n".join(_table_lines(result)) + "\n")
    for line in summary_lines(result):
        click.echo(line)
    for line in notes(result):
        click.echo(f"Note: {spell(line)}")


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
    from levelmatch.facts import label_names

    head, cells = [], []
    for what, column in left:
        short, pattern = label_names(column)
        head += [f"{what}: {pattern}"] if pattern else []
        cells.append((what, short))
    return head + _join(cells, columns)


def _number_columns(result):
    """The columns of numbers as (heading, cells), the unit in the heading."""
    from levelmatch.facts import decimals, fixed, has_slopes

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
            # A slope that was not fitted is exactly zero.
            cells = ["0" if v == 0 else fixed(v, digits) for v in value[f"slope_{axis}"]]
            columns.append((head, cells))
    held = {r.name for r in result.references}
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


def start_log(*, debug):
    """Show the log, if asked for."""
    if debug:
        import logging

        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("levelmatch").setLevel(logging.DEBUG)


def progress_bars(*, quiet):
    """Return a function from what is counted to a progress bar; no bar but on a terminal."""
    if quiet or not sys.stderr.isatty():
        return lambda what: None
    from tqdm import tqdm

    return lambda what: partial(tqdm, desc=what, leave=False, unit="", file=sys.stderr)


def written_lines(result, output):
    """Lines on the images that were written to a folder."""
    noun = "image" if len(result) == 1 else "images"
    return [f"Written: {len(result)} {noun} to {folder(output)}"]


def folder(path):
    """Return a folder's name, told from a file's."""
    return f"{path}{os.sep}"


def write_page(result, output, title="Level matching"):
    """Write the page of a result to a folder, and return a line that says so."""
    from levelmatch.report import write_report

    return f"Written: {write_report(result, output / REPORT, title=title)}"
