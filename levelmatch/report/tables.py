# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The tables of images, pairs, options and versions."""

from dataclasses import dataclass

import numpy as np

from levelmatch.report.text import number, safe
from levelmatch.summary import has_slopes, unit_words
from levelmatch.text import SHORT_NAME, decimals, short_names, values

__all__ = ["image_table", "names_of", "option_tables", "pair_table", "pair_words"]

# Why an image has no pair that counts.
ALONE, NO_PAIR = "no overlap", "no pair counts"
# Headings of what each pass subtracted.
SHARES = {
    "dithers": "Dithers",
    "local": "Local sky",
    "lyot": "Lyot",
    "nircam_short": "NIRCam short",
    "mosaic": "Mosaic",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    heading : str
        Its heading.
    cells : list of str
        Its cells as HTML.
    number : bool
        Whether they are numbers.
    """

    heading: str
    cells: list
    number: bool = True


def _texts(heading, cells):
    return Column(heading, [safe(cell) for cell in cells], False)


def _counts(heading, cells):
    return Column(heading, [str(int(cell)) for cell in cells])


def _numbers(heading, column, digits):
    return Column(heading, [number(value, digits) for value in values(column).tolist()])


def names_of(facts):
    """Return the names of images in short, and a sentence on what was left out of them."""
    short, pattern = short_names([frame.name for frame in facts.frames], SHORT_NAME)
    return short, f" Names are in short: they are {pattern}." if pattern else ""


def _link(target, name, full):
    """A name that leads to a row."""
    title = f' title="{safe(full)}"' if full != name else ""
    return f'<a href="#{target}"{title}>{safe(name)}</a>'


def html_table(key, name, caption, columns, classes):
    """Return a table in a box that scrolls by itself; the first column names the row.

    Parameters
    ----------
    key : str
        The table's identifier; its rows are ``key[0]`` and their number.
    name, caption : str
        What it is, and a sentence on it.
    columns : list of `Column`
        Its columns.
    classes : list of str
        The class of each row, blank for none.
    """
    kind = [' class="number"' if c.number else "" for c in columns]
    head = "".join(
        f'<th scope="col"{k}>{safe(c.heading)}</th>' for c, k in zip(columns, kind, strict=True)
    )
    first, *rest = (c.cells for c in columns)
    opening = [f"<td{k}>" for k in kind[1:]]
    rows = []
    for i, mark in enumerate(classes):
        cells = "".join(
            f"{start}{column[i]}</td>" for start, column in zip(opening, rest, strict=True)
        )
        start = f' class="{mark}"' if mark else ""
        rows.append(f'<tr id="{key[0]}{i}"{start}><th scope="row">{first[i]}</th>{cells}</tr>')
    body = "\n".join(rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{safe(name)}">\n'
        f'<table id="{key}">\n<caption><span>{safe(caption)}</span></caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


# --------------------------------------------------------------------------------------
# Images


def image_table(facts):
    """Return the table of images."""
    table = facts.table
    names = [frame.name for frame in facts.frames]
    short, pattern = names_of(facts)
    overlaps = np.isin(np.arange(len(names)), facts.ends)
    mark = [
        "reference" if name in facts.references else "" if linked else NO_PAIR if pair else ALONE
        for name, linked, pair in zip(names, facts.linked, overlaps, strict=True)
    ]
    columns = [Column("Image", [_named(*both) for both in zip(short, names, strict=True)], False)]
    if any(mark):
        columns.append(_texts("Mark", mark))
    if facts.sets.any():
        columns.append(_counts("Set", facts.sets + 1))
    tiles = [frame.tile for frame in facts.frames]
    if tiles != names and any(tiles):
        columns.append(_texts("Tile", tiles))
    columns += [_counts("Pairs", table["n_pairs"]), *_level_columns(table, facts.linked)]
    unit = unit_words(getattr(table["level"], "unit", None))
    units = [frame.unit for frame in facts.frames]
    if len(set(units)) > 1:
        columns.append(_texts("Unit", ["" if unit is None else unit for unit in units]))
    planes = f", slopes in {unit} per arcmin" if has_slopes(table) else ""
    caption = (
        "What was subtracted from each image, at its centre: the total, and each pass's "
        "share where it is not zero. Errors are standard errors relative to the zero points that "
        "were put in; an image without a pair has none. Pairs are those that its correction rests "
        "on, of images corrected with it too."
        + (
            " Each image is in its own unit."
            if len(set(units)) > 1
            else f" Levels are in {unit}{planes}."
        )
        + pattern
    )
    classes = {"reference": "held", NO_PAIR: "alone", ALONE: "alone", "": ""}
    return html_table("images", "Images", caption, columns, [classes[m] for m in mark])


def _named(name, full):
    """A name that tells the whole of it."""
    return f'<span title="{safe(full)}">{safe(name)}</span>' if full != name else safe(name)


def _level_columns(table, linked):
    """Columns of levels, slopes and shares of passes, all with the same decimals."""
    digits = decimals(values(table["error"]))
    columns = [
        _numbers("Level", table["level"], digits),
        _numbers("Error", np.where(linked, values(table["error"]), np.nan), digits),
    ]
    if has_slopes(table):
        digits_slope = decimals(values(table["slope_u_error"]))
        for axis, word in (("u", "East"), ("v", "North")):
            for suffix, head in (("", f"Slope to {word}"), ("_error", f"Error {word}")):
                columns.append(_numbers(head, table[f"slope_{axis}{suffix}"], digits_slope))
        columns.append(_numbers("Slope / \u03c3", table["slope_n_sigma"], 1))
    return columns + [
        _numbers(SHARES.get(name.removeprefix("level_"), name), table[name], digits)
        for name in table.colnames
        if name.startswith("level_") and values(table[name]).any()
    ]


# --------------------------------------------------------------------------------------
# Pairs


def pair_table(facts):
    """Return the table of pairs, blank without any."""
    pairs = facts.pairs
    if len(pairs) == 0:
        return ""
    short, pattern = names_of(facts)
    caption = (
        "Difference of each pair of images, first less second, before matching with its error, "
        f"and its residual after it, in {facts.unit_words}; \u03c3 is what the pair's error, "
        "its systematic floor and the fit let expect. Weight is the part that a pair kept of "
        f"its own.{pattern}"
    )
    names = [frame.name for frame in facts.frames]
    ends = facts.ends.tolist()
    digits = pair_digits(pairs)
    columns = [
        Column(head, [_link(f"i{e[k]}", short[e[k]], names[e[k]]) for e in ends], False)
        for k, head in enumerate(("First", "Second"))
    ]
    columns += [
        _texts("Pass", pairs["pass"]),
        _numbers("Before", pairs["level"], digits),
        _numbers("Error", pairs["sigma"], digits),
        _numbers("Residual", pairs["residual"], digits),
        _numbers("|Residual| / \u03c3", facts.n_sigma, 1),
        _numbers("Weight", pairs["robust"], 2),
        _numbers("Scatter", pairs["scatter"], digits),
        _counts("Pixels", pairs["npix"]),
        _texts("Counted", _verdicts(pairs)),
    ]
    classes = ["" if kept else "out" for kept in facts.kept]
    return html_table("pairs", "Pairs", caption, columns, classes)


def pair_digits(pairs):
    """Return the decimals of pairs: enough for small errors too, which differ by much."""
    sigma = values(pairs["sigma"])
    sigma = sigma[np.isfinite(sigma) & (sigma > 0)]
    return decimals(np.percentile(sigma, [10])) if len(sigma) else 4


def _verdicts(pairs):
    return [
        f"{'kept' if k else 'left out'}{': ' if r else ''}{r}"
        for k, r in zip(pairs["kept"], pairs["reason"], strict=True)
    ]


def pair_words(facts):
    """Return a sentence on each pair."""
    pairs, (short, _) = facts.pairs, names_of(facts)
    digits = pair_digits(pairs)
    columns = (values(pairs[name]).tolist() for name in ("level", "residual"))
    verdicts = _verdicts(pairs)
    return [
        f"{short[i]} less {short[j]}: {number(before, digits)} before, {number(after, digits)}"
        f" {facts.unit_words} after"
        + (f", {sigma:.1f} \u03c3" if np.isfinite(sigma) else "")
        + f"; {verdict}"
        for (i, j), before, after, sigma, verdict in zip(
            facts.ends.tolist(), *columns, facts.n_sigma.tolist(), verdicts, strict=True
        )
    ]


# --------------------------------------------------------------------------------------
# Options and versions


def option_tables(facts):
    """Return what was asked for, by what and when."""
    result = facts.result
    parts = (
        ("Options", list(_flat(result.options))),
        ("Versions", [("created (UTC)", result.created), *result.versions.items()]),
    )
    return "\n".join(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">\n<table>\n'
        f"<caption>{name}</caption>\n<tbody>\n"
        + "\n".join(
            f'<tr><th scope="row">{safe(key)}</th><td>{safe(value)}</td></tr>'
            for key, value in rows
        )
        + "\n</tbody>\n</table>\n</div>"
        for name, rows in parts
    )


def _flat(value, key=""):
    """Names and values of nested options, one after another, but for those left blank."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for k, item in enumerate(value, start=1):
            yield from _flat(item, f"{key} {k}")
    elif value != "":
        yield key, value
