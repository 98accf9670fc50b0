# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What is printed."""

import os
import shutil
import sys
from functools import partial

import click

from levelmatch.cli.errors import spell
from levelmatch.cli.options import REPORT

__all__ = [
    "folder",
    "page_lines",
    "pair_lines",
    "print_result",
    "progress_bars",
    "start_log",
    "without_excluded",
    "write_page",
    "written_lines",
]


def print_result(result):
    """Print the corrections, and a summary in words."""
    from levelmatch.summary import Facts, notes, summary_lines

    facts = Facts.of(result)
    click.echo("\n".join(_table_lines(facts)) + "\n")
    for line in summary_lines(facts):
        click.echo(line)
    for line in notes(facts):
        click.echo(f"Note: {spell(line)}")


def _table_lines(facts):
    """The corrections, one line an image; names in short where the lines would not fit."""
    from levelmatch.text import label_names

    columns = _number_columns(facts)
    names = [frame.name for frame in facts.frames]
    tiles = [frame.tile for frame in facts.frames]
    left = [("name", names)]
    if len(set(tiles)) > 1 and tiles != names:
        left.append(("tile", tiles))
    lines, below = _join(left, columns), []
    if max(map(len, lines)) > shutil.get_terminal_size().columns:
        cells = []
        for what, column in left:
            short, pattern = label_names(column)
            below += [f"{what}: what stands for * in {pattern}"] if pattern else []
            cells.append((what, short))
        lines = _join(cells, columns)
    pairs = ["pairs: all that the level rests on"]
    if len(set(tiles)) < len(tiles):
        pairs[0] += ", those of the whole tile among them"
    held = sum(name in facts.references for name in names)
    pairs += [f"*: the reference{' of its set' if held > 1 else ''}"] if held else []
    return [*lines, *below, "; ".join(pairs)]


def _number_columns(facts):
    """The columns of numbers as (heading, cells), the unit in the heading."""
    import numpy as np

    from levelmatch.images.units import unit_text
    from levelmatch.summary import has_slopes
    from levelmatch.text import decimals, fixed

    table = facts.table
    value = {name: getattr(table[name], "value", table[name]) for name in table.colnames}
    unit = getattr(table["level"], "unit", None)
    digits = decimals(value["error"])
    # Of an image that nothing was compared with the zero is no finding.
    lone = ~facts.linked & (value["level"] == 0)
    level = [
        "-" if alone else f"{fixed(v, digits)} +- {fixed(e, digits)}"
        for v, e, alone in zip(value["level"], value["error"], lone, strict=True)
    ]
    columns = [("level" if unit is None else f"level ({unit_text(unit)})", level)]
    for axis, head in (("u", "E/arcmin"), ("v", "N/arcmin")):
        if has_slopes(table):
            digits = decimals(value["slope_u_error"])
            # A slope that was not fitted is exactly zero.
            cells = [
                "-" if alone else "0" if v == 0 else fixed(v, digits)
                for v, alone in zip(value[f"slope_{axis}"], lone, strict=True)
            ]
            columns.append((head, cells))
    measured = np.isin(np.arange(len(table)), facts.ends)
    pairs = [
        f"{n}{'*' if name in facts.references else ' '}"
        if linked
        else f"{'none kept' if some else 'no overlap'} "
        for n, name, linked, some in zip(
            value["n_pairs"], table["name"], facts.linked, measured, strict=True
        )
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


def pair_lines(result):
    """Return the pairs as lines: what differed, what is left, and whether they counted."""
    import numpy as np

    from levelmatch.images.units import unit_text
    from levelmatch.summary import Facts
    from levelmatch.text import decimals, fixed, label_names, short_names, values

    facts = Facts.of(result)
    table = facts.pairs
    if len(table) == 0:
        return ["no pairs"]
    before, error, after = (values(table[name]) for name in ("level", "sigma", "residual"))
    digits = decimals(error)

    def cells(numbers, digits):
        return [fixed(v, digits) if np.isfinite(v) else "-" for v in numbers]

    numbers = [
        ("before", cells(before, digits)),
        ("error", cells(error, digits)),
        ("after", cells(after, digits)),
        ("after/sigma", cells(values(table["n_sigma"]), 1)),
        ("pixels", [str(n) for n in table["npix"]]),
        (
            "counted",
            [
                "yes"
                if kept
                else f"no: {reason.partition(':')[0]}"
                if ":" in reason
                else "no: masked"
                for kept, reason in zip(table["kept"], table["reason"], strict=True)
            ],
        ),
    ]
    first, second = ([str(name) for name in table[key]] for key in ("image1", "image2"))
    for shorten in (lambda names: (names, ""), label_names, short_names):
        names, pattern = shorten([frame.name for frame in facts.frames])
        short = dict(zip((frame.name for frame in facts.frames), names, strict=True))
        left = [("image1", [short[n] for n in first]), ("image2", [short[n] for n in second])]
        lines = _join(left, numbers)
        if max(map(len, lines)) <= shutil.get_terminal_size().columns:
            break
    below = [f"name: what stands for * in {pattern}"] if pattern else []
    if facts.unit is not None:
        below.append(f"before, error and after: in {unit_text(facts.unit)}")
    return [*lines, *below]


def without_excluded(record, files):
    """Return the files but those that the record left out, which are noted."""
    out = {name for entry in record.history for name in entry.get("excluded", ())}
    out -= {frame.name for frame in record.frames}
    skipped = [path.name for path in files if path.name in out]
    if skipped:
        click.echo(f"Note: left out, as the record does: {', '.join(skipped)}", err=True)
    return [path for path in files if path.name not in out]


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
    """Write the page of a result to a folder, and return the lines that say so."""
    from levelmatch.report import write_report

    return page_lines(write_report(result, output / REPORT, title=title))


def page_lines(page):
    """Lines on a page that was written."""
    from levelmatch.report.pictures import has_matplotlib

    lines = [f"Written: {page}"]
    if not has_matplotlib():
        lines.append('Note: the page has no pictures: pip install "levelmatch[report]"')
    return lines
