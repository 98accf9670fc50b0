# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Text as HTML, and tables of images, pairs, options and versions."""

import re
from html import escape

import numpy as np

from levelmatch.diagnostics import has_slopes
from levelmatch.images.units import unit_words
from levelmatch.pass_names import PASSES
from levelmatch.summary import NO_OVERLAP, NONE_KEPT
from levelmatch.text import SHORT_NAME, decimals, fixed, short_names, values

__all__ = [
    "image_table",
    "items",
    "names_of",
    "number",
    "option_tables",
    "pair_table",
    "pair_words",
    "safe",
]


DASH = "\u2013"


def safe(text):
    """Return text escaped for an element or a quoted attribute.

    Lone surrogates, which UTF-8 cannot encode, control characters and marks of writing direction
    become replacement characters.
    """
    return escape("".join(c if c.isprintable() else "\ufffd" for c in str(text)), quote=True)


def items(lines):
    """Return sentences as an HTML list; hyphens before numbers become minus signs."""
    lines = [safe(re.sub(r"(?<!\S)-(?=\d)", "\u2212", line)) for line in lines]
    return "<ul>\n" + "\n".join(f"<li>{line}</li>" for line in lines) + "\n</ul>"


def number(value, digits):
    """Return a number with a given number of decimals and a minus sign; a dash if not finite."""
    return fixed(value, digits).replace("-", "\u2212") if np.isfinite(value) else DASH


# --------------------------------------------------------------------------------------
# Tables

# Mark of an image that disagrees with its neighbours.
SUSPECT = "suspect"
IMAGE_CAPTION = (
    "The correction of each image, at its centre: the total, and the share of each pass if there "
    "are several. Errors are standard errors relative to the zero points; an isolated image has "
    "none. Pairs are the kept pairs that determine the correction, with those of images that get "
    "the same correction."
)


# A column is a tuple of its heading, its cells as HTML, and whether the cells are numbers.


def _texts(heading, cells):
    return heading, [safe(cell) for cell in cells], False


def _counts(heading, cells):
    return heading, [str(int(cell)) for cell in cells], True


def _numbers(heading, column, digits):
    return heading, [number(value, digits) for value in values(column).tolist()], True


def names_of(facts):
    """Return short names of the images, and a sentence on the pattern of the full names."""
    short, pattern = short_names(facts.names, SHORT_NAME)
    return short, f" Names are shortened: the full names are {pattern}." if pattern else ""


def _link(target, name, full):
    """Return a name as a link to a row."""
    title = f' title="{safe(full)}"' if full != name else ""
    return f'<a href="#{target}"{title}>{safe(name)}</a>'


def html_table(key, name, caption, columns, classes, order=None):
    """Return a table in a scrollable box; its first column is the heading of the rows.

    Parameters
    ----------
    key : str
        Identifier of the table. A row has the identifier ``key[0]`` with the row number.
    name, caption : str
        Name and caption of the table.
    columns : list of tuple
        Heading of each column, its cells as HTML, and whether the cells are numbers.
    classes : list of str
        Class of each row; empty for none.
    order : list of int or None
        Order of the rows; by default the order of the cells.
    """
    headings, (first, *rest), numeric = zip(*columns, strict=True)
    kind = [' class="number"' if n else "" for n in numeric]
    head = "".join(
        f'<th scope="col"{k}>{safe(h)}</th>' for h, k in zip(headings, kind, strict=True)
    )
    opening = [f"<td{k}>" for k in kind[1:]]
    rows = []
    for i in range(len(classes)) if order is None else order:
        cells = "".join(
            f"{start}{column[i]}</td>" for start, column in zip(opening, rest, strict=True)
        )
        start = f' class="{classes[i]}"' if classes[i] else ""
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
    marks = _marks(facts)
    tiles = [frame.tile for frame in facts.frames]
    short, pattern = names_of(facts)
    names = [_named(*both) for both in zip(short, facts.names, strict=True)]
    columns = [("Image", names, False)]
    if any(marks):
        columns.append(_texts("Mark", marks))
    if facts.sets.any():
        columns.append(_counts("Set", facts.sets + 1))
    if tiles != facts.names and any(tiles):
        columns.append(_texts("Tile", tiles))
    columns.append(_counts("Pairs", facts.table["n_pairs"]))
    columns += _level_columns(facts.table, facts.linked)
    units = [frame.unit for frame in facts.frames]
    if len(set(units)) > 1:
        columns.append(_texts("Unit", ["" if unit is None else unit for unit in units]))
    caption = f"{IMAGE_CAPTION} {_unit_sentence(facts.table, units)}{pattern}"
    classes = {"reference": "held", SUSPECT: "alone", NONE_KEPT: "alone", NO_OVERLAP: "alone"}
    return html_table("images", "Images", caption, columns, [classes.get(m, "") for m in marks])


def _marks(facts):
    """Return a mark for each image: reference, suspect, isolated, or empty."""
    overlaps = np.isin(np.arange(len(facts.frames)), facts.ends)
    marks = [
        "" if linked else NONE_KEPT if some else NO_OVERLAP
        for linked, some in zip(facts.linked, overlaps, strict=True)
    ]
    for suspect in facts.suspects.values():
        for row in facts.order[list(suspect.images)].tolist():
            marks[row] = SUSPECT
    return [
        "reference" if name in facts.references else mark
        for name, mark in zip(facts.names, marks, strict=True)
    ]


def _unit_sentence(table, units):
    if len(set(units)) > 1:
        return "Each image is in its own unit."
    unit = unit_words(getattr(table["level"], "unit", None))
    planes = f", slopes in {unit} per arcmin" if has_slopes(table) else ""
    return f"Levels are in {unit}{planes}."


def _named(name, full):
    """Return a short name with the full name as its title."""
    return f'<span title="{safe(full)}">{safe(name)}</span>' if full != name else safe(name)


def _level_columns(table, linked):
    """Return the columns of total levels and slopes, and of the levels of the passes."""
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
    shares = [n for n in table.colnames if n.startswith("level_") and values(table[n]).any()]
    # The share of a single pass is the total.
    return columns + [
        _numbers(PASSES[name.removeprefix("level_")].heading, table[name], digits)
        for name in (shares if len(shares) > 1 else ())
    ]


# --------------------------------------------------------------------------------------
# Pairs


def pair_table(facts):
    """Return the table of pairs, the most significant residual first; empty without pairs."""
    if len(facts.pairs) == 0:
        return ""
    short, pattern = names_of(facts)
    caption = (
        "Difference of each pair of images, first minus second, before matching with its standard "
        f"error, and its residual after matching, in {facts.unit_words}. \u03c3 compares the "
        "difference with what the other pairs predict. Weight is the fraction of its weight that "
        f"a pair keeps.{pattern}"
    )
    classes = ["" if kept else "out" for kept in facts.kept]
    rows = pair_order(facts)
    return html_table("pairs", "Pairs", caption, _pair_columns(facts, short), classes, rows)


def pair_order(facts):
    """Return the rows of the pairs, the most significant residual first, rejected pairs last."""
    return np.argsort(-np.nan_to_num(facts.n_sigma, nan=-1.0), kind="stable").tolist()


def _pair_columns(facts, short):
    """Return the columns of the table of pairs."""
    pairs, ends, digits = facts.pairs, facts.ends.tolist(), pair_digits(facts.pairs)
    columns = [
        (head, [_link(f"i{e[k]}", short[e[k]], facts.names[e[k]]) for e in ends], False)
        for k, head in enumerate(("First", "Second"))
    ]
    gains = values(pairs["gain"])
    columns += [
        _texts("Pass", pairs["pass"]),
        _numbers("Before", pairs["level"], digits),
        _numbers("Error", pairs["sigma"], digits),
        _numbers("Residual", pairs["residual"], digits),
        _numbers("Significance (\u03c3)", facts.n_sigma, 1),
        _numbers("Weight", pairs["robust"], 2),
        _numbers("Scatter", pairs["scatter"], digits),
        _counts("Pixels", pairs["npix"]),
        _texts("Kept", _verdicts(pairs)),
    ]
    if np.isfinite(gains).any():
        columns.insert(-1, _numbers("Gain (%)", 100 * gains, 1))
    return columns


def pair_digits(pairs):
    """Return the number of decimals for pairs, from the 10 % quantile of their errors."""
    return decimals(values(pairs["sigma"]), 10)


def _verdicts(pairs):
    return [
        f"{'kept' if k else 'rejected'}{': ' if r else ''}{r}"
        for k, r in zip(pairs["kept"], pairs["reason"], strict=True)
    ]


def pair_words(facts):
    """Return a sentence on each pair."""
    pairs, (short, _) = facts.pairs, names_of(facts)
    digits = pair_digits(pairs)
    columns = (values(pairs[name]).tolist() for name in ("level", "residual"))
    verdicts = _verdicts(pairs)
    return [
        f"{short[i]} minus {short[j]}: {number(before, digits)} before, {number(after, digits)}"
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
    """Return the tables of options and of versions."""
    result = facts.result
    options = {
        name: value
        for name, value in result.options.items()
        if name not in ("notes", "noted", "command", "outputs")
    }
    parts = (
        ("Options", list(_flat(options))),
        ("Versions", [("created (UTC)", result.created), *result.versions.items()]),
    )
    return "\n".join(
        f"<details>\n<summary>{name}</summary>\n"
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">\n<table>\n'
        f"<caption>{name}</caption>\n<tbody>\n"
        + "\n".join(
            f'<tr><th scope="row">{safe(key)}</th><td>{safe(value)}</td></tr>'
            for key, value in rows
        )
        + "\n</tbody>\n</table>\n</div>\n</details>"
        for name, rows in parts
    )


def _flat(value, key=""):
    """Yield the dotted names and values of nested options, without empty texts."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for k, item in enumerate(value, start=1):
            yield from _flat(item, f"{key} {k}")
    elif value != "":
        yield key, value
