# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Lines printed by the commands."""

import logging
import os
import shutil
import sys
from functools import partial

from levelmatch.cli.errors import spell
from levelmatch.cli.options import REPORT
from levelmatch.cli.terminal import echo, printable, tell

__all__ = [
    "folder",
    "keep_warnings",
    "page_lines",
    "pair_lines",
    "print_result",
    "progress_bars",
    "say_reading",
    "without_excluded",
    "write_page",
    "written_lines",
]


def keep_warnings(result, shown):
    """Add the warnings of a run to its record, for the report and ``levelmatch show``.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The result.
    shown : list of (type, str)
        The warnings, from `~levelmatch.cli.errors.shown_warnings`.
    """
    from levelmatch.exceptions import DisconnectedWarning, LevelMatchDeprecationWarning

    # The summary has sentences of its own on disconnected sets and on differing flux scales.
    excluded = (DisconnectedWarning, LevelMatchDeprecationWarning)
    kept = [
        text
        for category, text in shown
        if not issubclass(category, excluded) and "differ in flux scale" not in text
    ]
    if kept:
        earlier = result.run.options.get("notes", [])
        result.run.options["notes"] = list(dict.fromkeys([*earlier, *kept]))


def print_result(result, shown=()):
    """Print the corrections, the summary, the notes and the headline.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    shown : list of (type, str)
        Warnings already shown, from `~levelmatch.cli.errors.shown_warnings`.
    """
    from levelmatch.diagnostics import Diagnostics
    from levelmatch.summary import headline, notes, summary_lines

    facts = Diagnostics.of(result)
    echo("\n".join(_table_lines(facts)) + "\n")
    for line in summary_lines(facts):
        echo(line)
    warned = {text for _, text in shown}
    for line in notes(facts):
        if line.removesuffix(".") not in warned:
            echo(f"Note: {spell(line)}")
    echo("")
    for line in headline(facts):
        echo(line)


def _table_lines(facts):
    """Return one line for each image's correction; shorten names if lines do not fit."""
    from levelmatch.diagnostics import has_slopes
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
            below += [f"{what}: the part * of {pattern}"] if pattern else []
            cells.append((what, short))
        lines = _join(cells, columns)
    pairs = ["pairs: number of kept pairs that determine the level"]
    if len(set(tiles)) < len(tiles):
        pairs[0] += ", with those of the whole tile"
    held = sum(frame.name in facts.references for frame in facts.frames)
    pairs += [f"*: the reference{' of its set' if held > 1 else ''}"] if held else []
    if has_slopes(facts.table):
        per = f" in {facts.unit_words} per arcmin" if facts.unit is not None else " per arcmin"
        below.append(f"E/arcmin, N/arcmin: slopes toward East and North{per}")
    return [*lines, *below, "; ".join(pairs)]


def _number_columns(facts):
    """Return the columns of numbers as (heading, cells), with the unit in the heading."""
    from levelmatch.diagnostics import has_slopes
    from levelmatch.images.units import unit_text

    table = facts.table
    value = {name: getattr(table[name], "value", table[name]) for name in table.colnames}
    unit = getattr(table["level"], "unit", None)
    # The zero level of an isolated image was not measured.
    lone = ~facts.linked & (value["level"] == 0)
    heading = "level" if unit is None else f"level ({unit_text(unit)})"
    columns = [(heading, _number_cells(value["level"], value["error"], lone))]
    if "unit" in value:
        columns.append(("unit", list(value["unit"])))
    if has_slopes(table):
        for axis, head in (("u", "E/arcmin"), ("v", "N/arcmin")):
            slopes = value[f"slope_{axis}"], value[f"slope_{axis}_error"]
            # A slope that was not fitted is exactly zero.
            columns.append((head, _number_cells(*slopes, lone, exact_zero="0")))
    return [*columns, ("pairs ", _pair_cells(facts))]


def _number_cells(numbers, errors, lone, *, exact_zero=None):
    """Return numbers with their errors as text; ``exact_zero`` is the text of an exact zero."""
    from levelmatch.text import decimals, fixed

    digits = decimals(errors)
    return [
        "-"
        if alone
        else exact_zero
        if exact_zero is not None and number == 0
        else f"{fixed(number, digits)} +- {fixed(error, digits)}"
        for number, error, alone in zip(numbers, errors, lone, strict=True)
    ]


def _pair_cells(facts):
    """Return each image's number of pairs, or why it has none; a star marks a reference."""
    import numpy as np

    from levelmatch.summary import NO_OVERLAP, NONE_KEPT

    measured = np.isin(np.arange(len(facts.frames)), facts.ends)
    return [
        f"{n}{'*' if name in facts.references else ' '}"
        if linked
        else f"{NONE_KEPT if some else NO_OVERLAP} "
        for n, name, linked, some in zip(
            facts.table["n_pairs"], facts.names, facts.linked, measured, strict=True
        )
    ]


def _join(left, right):
    """Return the lines of a table of (heading, cells), text left-aligned, numbers right-aligned."""
    cells = []
    for side, columns in ((str.ljust, left), (str.rjust, right)):
        for heading, column in columns:
            column = [printable(text, keep="") for text in column]
            width = max(len(heading), *map(len, column))
            cells.append([side(text, width) for text in (heading, *column)])
    return ["  ".join(row).rstrip() for row in zip(*cells, strict=True)]


def pair_lines(result):
    """Return one line for each pair: its difference, its residual, and whether it is kept."""
    from levelmatch.diagnostics import Diagnostics
    from levelmatch.text import label_names, short_names

    facts = Diagnostics.of(result)
    if len(facts.pairs) == 0:
        return ["no pairs"]
    numbers = _pair_columns(facts.pairs, facts.unit_words)
    columns = shutil.get_terminal_size().columns
    # Width that remains for each of the two names.
    width = (columns - max(map(len, _join([], numbers))) - 4) // 2
    for shorten in (lambda names: (names, ""), label_names, partial(short_names, width=width)):
        short, pattern = shorten(facts.names)
        left = [
            (f"image{k + 1}", ["", *(short[row] for row in facts.ends[:, k].tolist())])
            for k in (0, 1)
        ]
        lines = _join(left, numbers)
        if max(map(len, lines)) <= columns:
            break
    return [*lines, *([f"image1, image2: the parts * of {pattern}"] if pattern else [])]


def _pair_columns(table, unit):
    """Return the columns of numbers of pairs as (heading, cells); the first cell is the unit."""
    import numpy as np

    from levelmatch.text import decimals, fixed, values

    digits = decimals(values(table["sigma"]))

    def cells(name, digits):
        return [fixed(v, digits) if np.isfinite(v) else "-" for v in values(table[name])]

    def verdict(kept, reason):
        return "yes" if kept else f"no: {reason.partition(':')[0] if ':' in reason else 'masked'}"

    return [
        ("before", [unit, *cells("level", digits)]),
        ("error", [unit, *cells("sigma", digits)]),
        ("after", [unit, *cells("residual", digits)]),
        ("after", ["sigma", *cells("n_sigma", 1)]),
        ("pixels", ["", *(str(n) for n in table["npix"])]),
        (
            "kept",
            ["", *(verdict(*row) for row in zip(table["kept"], table["reason"], strict=True))],
        ),
    ]


def without_excluded(record, files):
    """Return the files without those that the record excludes; print a note on the latter."""
    excluded = record.excluded
    skipped = [path.name for path in files if path.name in excluded]
    if skipped:
        echo(f"Note: excluded, as in the record: {', '.join(skipped)}", err=True)
    return [path for path in files if path.name not in excluded]


def progress_bars(*, quiet):
    """Return a function of a label that returns a progress bar, or `None` without a terminal."""
    if quiet or not sys.stderr.isatty():
        return lambda label: None
    from tqdm import tqdm

    return lambda label: partial(tqdm, desc=label, leave=False, unit="", file=sys.stderr)


def say_reading(files, extend=None, *, quiet):
    """Print and log which files a run reads, before anything else."""
    parts = [] if extend is None else [f"the images of {extend}"]
    if files:
        folders = {str(path.parent) for path in files}
        where = f" in {folder(folders.pop())}" if len(folders) == 1 else ""
        parts.append(f"{len(files)} {'file' if len(files) == 1 else 'files'}{where}")
    text = f"Reading {' and '.join(parts)} ..."
    tell(logging.INFO, text)
    if sys.stderr.isatty() and not quiet:
        echo(text, err=True)


def written_lines(result, output):
    """Return lines on the images and associations written to a folder."""
    from levelmatch.images.associations import PIPELINE_OPTIONS
    from levelmatch.text import count

    names = sorted({path.name for frame in result.frames for path in frame.associations})
    lines = [
        f"Association: {output / name}; give its pipeline {PIPELINE_OPTIONS}" for name in names
    ]
    where = f" in {count(len(result.files), 'file')}" if len(result.files) < len(result) else ""
    return [f"Written: {count(len(result), 'image')}{where} to {folder(output)}", *lines]


def folder(path):
    """Return the name of a folder with a separator at the end."""
    return f"{path}{os.sep}"


def write_page(result, output, title="Level matching"):
    """Write the report of a result to a folder, and return lines on it.

    An earlier report is replaced, because commands refuse it before pixels are read.
    """
    from levelmatch.report import write_report

    return page_lines(write_report(result, output / REPORT, title=title, overwrite=True))


def page_lines(page):
    """Return lines on a written report."""
    from levelmatch.report.pictures import has_matplotlib

    lines = [f"Written: {page}"]
    if not has_matplotlib():
        lines.append('Note: the report has no pictures: pip install "levelmatch[report]"')
    return lines
