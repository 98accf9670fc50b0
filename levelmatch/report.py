# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A result in words, numbers and pictures: one page of HTML that stands by itself."""

import base64
import io
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from levelmatch.files import whole_file

__all__ = [
    "PassSummary",
    "common_levels",
    "label_names",
    "notes",
    "pair_sigmas",
    "summarise",
    "summary_lines",
    "write_report",
]

PASS_NAMES = {
    "dithers": "dithers of each tile",
    "lyot": "Lyot coronagraph to main chip",
    "nircam_short": "NIRCam short-wavelength chips",
    "mosaic": "mosaic tiles",
}
# Headings of what each pass subtracted.
SHARES = {
    "dithers": "Dithers",
    "local": "Local sky",
    "lyot": "Lyot",
    "nircam_short": "NIRCam short",
    "mosaic": "Mosaic",
}
# Pairs shown on a page, which is to stay small.
MAX_PAIRS = 1000
# Sets of images whose references are named in the summary.
MAX_REFERENCES = 3
# Colours this near to grey are that of the text.
MAX_TINT = 12
NO_PICTURES = (
    "Pictures need matplotlib, which is not installed here: "
    "`pip install levelmatch[report]` brings it."
)


# --------------------------------------------------------------------------------------
# What a result says


@dataclass(frozen=True)
class PassSummary:
    """One pass in numbers.

    Parameters
    ----------
    name, fit_type : str
        The pass, and what it fitted.
    n_pairs, n_kept : int
        Pairs measured, and those that counted.
    before, after : float
        Rms of the levels of the pairs that counted, before any pass and after this
        one; NaN without any.
    floor : float
        Systematic scatter of the pairs.
    """

    name: str
    fit_type: str
    n_pairs: int
    n_kept: int
    before: float
    after: float
    floor: float


def summarise(result):
    """Return a `PassSummary` of each pass of a result."""
    pairs = result.pairs
    out = []
    for p in result.passes:
        rows = p.rows[p.kept]
        out.append(
            PassSummary(
                p.matched.name,
                p.matched.fit_type,
                len(p.rows),
                len(rows),
                _rms(pairs["level"].value[rows]),
                _rms(p.residual[p.kept]),
                p.solution.floor,
            )
        )
    return out


def _rms(values):
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else np.nan


def summary_lines(result):
    """Return what was done and found, a list of sentences."""
    frames = result.frames
    tiles = len({frame.tile for frame in frames})
    passes = summarise(result)
    parts = f" ({len(frames)} parts)" if len(frames) != len(result) else ""
    kept, n = (sum(getattr(p, name) for p in passes) for name in ("n_kept", "n_pairs"))
    lines = [
        f"{_count(len(result), 'image')}{parts} in {_count(tiles, 'tile')}, "
        f"{kept} of {_count(n, 'pair')} kept."
    ]
    unit = f" {result.unit}" if result.unit is not None else ""
    for k, p in enumerate(passes, start=1):
        head = f"Pass {k}, {PASS_NAMES.get(p.name, p.name)} ({p.fit_type})"
        if p.n_kept == 0:
            none = f"none of {_count(p.n_pairs, 'pair')} counts" if p.n_pairs else "no pairs"
            lines.append(f"{head}: {none}.")
            continue
        # What rounding alone leaves is nothing.
        after = p.after if p.after > 1e-9 * p.before else 0
        floor = f", floor {p.floor:.2g}" if p.floor > 0 else ""
        lines.append(
            f"{head}: {p.n_kept} of {_count(p.n_pairs, 'pair')}, rms of differences "
            f"{p.before:.3g}{unit} before, {after:.3g} after{floor}."
        )
    references = [r for p in result.passes[-1:] for r in p.references]
    if not references:
        lines.append("Reference: none, the mean correction is zero.")
    for reference in references[:MAX_REFERENCES]:
        lines.append(f"Reference: {reference.name}, {reference.reason}.")
    if len(references) > MAX_REFERENCES:
        lines.append(f"References of {len(references) - MAX_REFERENCES} more sets.")
    return lines


def notes(result):
    """Return what needs a look, a list of sentences: rejected pairs, sets, lone images."""
    out = []
    pairs = result.pairs
    kept, reason = np.asarray(pairs["kept"]), np.asarray(pairs["reason"])
    kinds, counts = np.unique([str(r).partition(":")[0] for r in reason[~kept]], return_counts=True)
    if len(kinds):
        words = ", ".join(f"{kind} {n}" for kind, n in zip(kinds, counts, strict=True))
        out.append(f"{_count(len(reason[~kept]), 'pair')} left out: {words}.")
    saved = int(np.count_nonzero(reason[kept] != ""))
    if saved:
        out.append(
            f"{_count(saved, 'pair')} kept against the cuts, as the only link of "
            "two sets of images."
        )
    low = sum(np.count_nonzero(p.solution.robust < 0.5) for p in result.passes)
    if low:
        out.append(
            f"{_count(low, 'pair')} at odds with the rest, with less than half of the weight."
        )
    return out + _set_notes(result)


def _set_notes(result):
    """Sentences on passes whose images fall apart, and on images without any overlap."""
    out = []
    for p in result.passes:
        n_sets = [
            len(np.unique(p.solution.component[p.matched.group[p.matched.domain == d]]))
            for d in np.unique(p.matched.domain)
        ]
        if p.matched.name == "mosaic" and n_sets[0] > 1:
            out.append(
                f"The tiles form {n_sets[0]} sets with no overlap between them: levels "
                "do not compare from set to set."
            )
        elif max(n_sets) > 1:
            count = sum(n > 1 for n in n_sets)
            out.append(
                f"Pass {p.matched.name}: in {_count(count, 'tile')} the images form "
                "several sets with no overlap between them."
            )
    alone = [f.name for f, linked in zip(result.frames, _linked(result), strict=True) if not linked]
    if alone and len(result.frames) > 1:
        shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        out.append(f"Without any pair that counts: {shown}.")
    return out


def _linked(result):
    """Whether any pair that counts joins each image, or one that is corrected with it."""
    order = np.argsort([frame.name for frame in result.frames], kind="stable")
    index = {result.frames[k].name: i for i, k in enumerate(order)}
    pairs = result.pairs
    ends = np.array([[index[name] for name in pairs[c]] for c in ("image1", "image2")], dtype=int)
    linked = np.zeros(len(order), dtype=bool)
    for p in result.passes:
        groups = p.matched.group[ends[:, p.rows[p.kept]]]
        linked |= np.isin(p.matched.group, groups)
    return linked[np.argsort(order)]


def _count(n, noun):
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def common_levels(result):
    """Return level and error of each image in the unit of comparison, two arrays of shape (n,)."""
    table = result.table
    scale = np.array([frame.scale for frame in result.frames])
    return _values(table["level"]) * scale, _values(table["error"]) * scale


def pair_sigmas(result):
    """Return each pair's residual in units of its error, the systematic floor included."""
    pairs = result.pairs
    variance = np.array(pairs["sigma"].value, dtype=float) ** 2
    # Passes number the images by name, and have a floor for each set of them.
    index = {name: i for i, name in enumerate(sorted(frame.name for frame in result.frames))}
    first = np.array([index[name] for name in pairs["image1"]], dtype=int)
    for p in result.passes:
        group = p.matched.group[first[p.rows]]
        variance[p.rows] += p.solution.floors[p.solution.component[group]] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return pairs["residual"].value / np.sqrt(variance)


def _values(column):
    """The numbers of a column, with or without a unit."""
    return np.asarray(getattr(column, "value", column), dtype=float)


def label_names(names):
    """Shorten names by what all of them have in common.

    Parameters
    ----------
    names : list of str
        The names.

    Returns
    -------
    short : list of str
        The parts that differ.
    pattern : str
        What they are parts of, ``*`` in their place; empty if nothing was left out.
    """
    head = os.path.commonprefix(names)
    tail = os.path.commonprefix([name[::-1] for name in names])[::-1]
    # Cut at a separator, so that numbers stay whole.
    head = head[: max(head.rfind(c) for c in "_-. ") + 1]
    cuts = [i for i in (tail.find(c) for c in "_-. ") if i >= 0]
    tail = tail[min(cuts) :] if cuts else ""
    if len(set(names)) < 2 or min(len(name) for name in names) <= len(head) + len(tail):
        return list(names), ""
    short = [name[len(head) : len(name) - len(tail)] for name in names]
    return short, f"{head}*{tail}" if head or tail else ""


def decimals(errors):
    """Return the decimals that show the median of errors to two digits; 4 without any."""
    errors = np.asarray(errors, dtype=float)
    errors = errors[np.isfinite(errors) & (errors > 0)]
    if len(errors) == 0:
        return 4
    return int(np.clip(1 - np.floor(np.log10(np.median(errors))), 0, 12))


def fixed(value, digits):
    """Return a number with so many decimals; a rounded zero has no sign."""
    # Adding zero makes a negative zero positive.
    return f"{round(float(value), digits) + 0.0:.{digits}f}"


# --------------------------------------------------------------------------------------
# The page

PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="levelmatch $version">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
<footer>Made by levelmatch $version.</footer>
</body>
</html>
""")

STYLE = """\
:root { --ink: #1d2126; --soft: #59636e; --paper: #ffffff; --card: #f5f7f9; --line: #d4dae0;
  --mark: #b34700; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe4ea; --soft: #9aa5b1; --paper: #14171b; --card: #1c2127; --line: #353d47;
    --mark: #ff9a4d; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
main, footer { max-width: 75rem; margin: 0 auto; padding: 1rem; }
footer { color: var(--soft); font-size: .85rem; }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
li { overflow-wrap: anywhere; }
.notes { border-left: 4px solid var(--mark); background: var(--card); padding: .5rem 1rem; }
.notes h2 { margin: .25rem 0; }
.notes ul { margin: .25rem 0; padding-left: 1.2rem; }
.pictures { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; max-height: 40rem; border: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums;
  width: 100%; }
caption { text-align: left; color: var(--soft); padding: .5rem; }
caption span { display: block; position: sticky; left: .5rem;
  width: min(72rem, 100vw - 4rem); }
th, td { padding: .25rem .6rem; text-align: left; border-top: 1px solid var(--line);
  white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--card); vertical-align: bottom; }
tbody th { font-weight: normal; }
td.number, th.number { text-align: right; }
tr.marked > * { color: var(--mark); }
@media print { .scroll { max-height: none; overflow: visible; } }"""


def write_report(result, path, *, title="Level matching", before_after=True):
    """Write a page of HTML: a summary, pictures, and tables of images and pairs.

    The page is one file, without scripts and without anything from elsewhere. Without
    matplotlib it has no pictures, and says so.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The result.
    path : str or `~pathlib.Path`
        Where; an existing file is replaced. The page is written whole or not at all.
    title : str
        Its title.
    before_after : bool
        Whether to draw a quick-look mosaic before and after, which reads all images again.

    Returns
    -------
    path : `~pathlib.Path`
        Where it is.
    """
    path = Path(path)
    page = make_page(result, title=title, before_after=before_after)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def make_page(result, *, title, before_after):
    """Return the page as text; see `write_report`."""
    from levelmatch import __version__

    body = [
        _summary(result),
        _notes(result),
        _pictures(result, before_after),
        _image_table(result),
        _pair_table(result),
    ]
    return PAGE.substitute(
        title=escape(title),
        version=escape(str(__version__)),
        style=STYLE,
        body="\n".join(section for section in body if section),
    )


def _summary(result):
    return f'<section aria-label="Summary">\n{_items(summary_lines(result))}\n</section>'


def _notes(result):
    found = notes(result)
    if not found:
        return ""
    return f'<section class="notes">\n<h2>Notes</h2>\n{_items(found)}\n</section>'


def _items(lines):
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


@dataclass(frozen=True)
class _Column:
    """A column of a table: its heading, its cells as text, and whether they are numbers."""

    heading: str
    cells: list
    number: bool = True


def _numbers(heading, values, digits):
    """A column of numbers with so many decimals; a dash where there is none."""
    return _Column(heading, [fixed(v, digits) if np.isfinite(v) else "\u2013" for v in values])


def _html_table(name, caption, columns, marked):
    """A table in a box that scrolls by itself; the first column names the row."""
    kind = [' class="number"' if c.number else "" for c in columns]
    head = "".join(
        f'<th scope="col"{k}>{escape(c.heading)}</th>' for c, k in zip(columns, kind, strict=True)
    )
    rows = []
    for i, mark in enumerate(marked):
        cells = "".join(
            f'<th scope="row"{k}>{escape(c.cells[i])}</th>'
            if j == 0
            else f"<td{k}>{escape(c.cells[i])}</td>"
            for j, (c, k) in enumerate(zip(columns, kind, strict=True))
        )
        start = '<tr class="marked">' if mark else "<tr>"
        rows.append(f"{start}{cells}</tr>")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">\n<table>\n'
        f"<caption><span>{escape(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody>\n</table>\n</div>"
    )


def _image_table(result):
    table = result.table
    names = [frame.name for frame in result.frames]
    held = {r.name for p in result.passes[-1:] for r in p.references}
    mark = [
        "reference" if name in held else "" if linked else "no pairs"
        for name, linked in zip(names, _linked(result), strict=True)
    ]
    short, pattern = label_names(names)
    columns = [_Column("Image", short, False)]
    if any(mark):
        columns.append(_Column("Mark", mark, False))
    tiles = [frame.tile for frame in result.frames]
    if tiles != names:
        columns.append(_Column("Tile", tiles, False))
    columns += [_Column("Pairs", [str(n) for n in table["n_pairs"]])]
    columns += _level_columns(table)
    unit = _unit_of(table["level"])
    caption = (
        "What was subtracted from each image, at its centre: the total, and each pass's "
        "share where it is not zero. Errors are standard errors relative to the reference."
        + (f" Levels are in {unit}" if unit else "")
        + (f", slopes in {unit} per arcmin" if unit and has_slopes(table) else "")
        + ("." if unit else "")
        + _pattern_words(pattern)
    )
    return (
        f"<section>\n<h2>Images</h2>\n"
        f"{_html_table('Images', caption, columns, [bool(m) for m in mark])}\n</section>"
    )


def _pattern_words(pattern):
    return f" Names are in short: they are {pattern}." if pattern else ""


def _level_columns(table):
    """Columns of levels, slopes and shares of passes, all with the same decimals."""
    digits = decimals(_values(table["error"]))
    columns = [
        _numbers("Level", _values(table["level"]), digits),
        _numbers("Error", _values(table["error"]), digits),
    ]
    if has_slopes(table):
        digits_slope = decimals(_values(table["slope_u_error"]))
        for axis, word in (("u", "East"), ("v", "North")):
            for suffix, head in (("", f"Slope to {word}"), ("_error", "Error")):
                values = _values(table[f"slope_{axis}{suffix}"])
                columns.append(_numbers(head, values, digits_slope))
    return columns + [
        _numbers(SHARES.get(name.removeprefix("level_"), name), _values(table[name]), digits)
        for name in table.colnames
        if name.startswith("level_") and _values(table[name]).any()
    ]


def has_slopes(table):
    """Whether any correction is a plane."""
    return any(_values(table[f"slope_{axis}"]).any() for axis in "uv")


def _unit_of(column):
    return str(column.unit) if getattr(column, "unit", None) is not None else ""


def _pair_table(result):
    pairs = result.pairs
    if len(pairs) == 0:
        return ""
    kept = np.asarray(pairs["kept"])
    sigmas = pair_sigmas(result)
    shown = np.arange(len(pairs))
    unit = _unit_of(pairs["level"])
    names, pattern = label_names([frame.name for frame in result.frames])
    names = dict(zip((frame.name for frame in result.frames), names, strict=True))
    caption = (
        "Difference of each pair of images, first less second, before matching, and what "
        f"is left of it{f', in {unit}' if unit else ''}; \u03c3 is the pair's error, its "
        f"systematic floor included.{_pattern_words(pattern)}"
    )
    if len(pairs) > MAX_PAIRS:
        worst = np.lexsort((-np.abs(np.nan_to_num(sigmas)), kept))[:MAX_PAIRS]
        shown = np.sort(worst)
        caption += (
            f" Of {len(pairs)} pairs these are the {MAX_PAIRS} that were left out or disagree most."
        )
    columns = _pair_columns(pairs[shown], sigmas[shown], names)
    table = _html_table("Pairs", caption, columns, ~kept[shown])
    return f"<section>\n<h2>Pairs</h2>\n{table}\n</section>"


def _pair_columns(pairs, sigmas, names):
    digits = decimals(pairs["sigma"].value)
    verdict = [
        f"{'kept' if k else 'left out'}{': ' if r else ''}{r}"
        for k, r in zip(pairs["kept"], pairs["reason"], strict=True)
    ]
    return [
        _Column("First", [names[n] for n in pairs["image1"]], False),
        _Column("Second", [names[n] for n in pairs["image2"]], False),
        _Column("Pass", [str(n) for n in pairs["pass"]], False),
        _numbers("Before", pairs["level"].value, digits),
        _numbers("After", pairs["residual"].value, digits),
        _numbers("After / \u03c3", sigmas, 1),
        _Column("Pixels", [str(n) for n in pairs["npix"]]),
        _Column("Counted", verdict, False),
    ]


# --------------------------------------------------------------------------------------
# Its pictures


def _pictures(result, before_after):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401
    except ImportError:
        return f"<section>\n<h2>Pictures</h2>\n<p>{escape(NO_PICTURES)}</p>\n</section>"
    figures = [_figure(*spec) for spec in _picture_list(result, before_after)]
    return (
        "<section>\n<h2>Pictures</h2>\n"
        '<div class="pictures">\n' + "\n".join(figures) + "\n</div>\n</section>"
    )


def _picture_list(result, before_after):
    """What to draw: function of the axes, alternative text, caption."""
    from levelmatch.plots import plot_levels, plot_mosaic, plot_overlaps, quick_look

    n = _count(len(result), "image")
    out = []
    if before_after:
        look = quick_look(result)
        out = [
            (
                lambda ax: plot_mosaic(look, corrected=False, ax=ax),
                f"Mosaic of {n} before matching",
                "Before matching.",
            ),
            (
                lambda ax: plot_mosaic(look, ax=ax),
                f"Mosaic of {n} after matching",
                "After matching, at the same stretch.",
            ),
        ]
    return [
        *out,
        (
            lambda ax: plot_levels(result, ax),
            f"Level of {n} relative to the reference, before and after matching",
            "Level of each image before matching, with its standard error; and after it the mean "
            "and the rms of what is left of the differences to the images that it overlaps.",
        ),
        (
            lambda ax: plot_overlaps(result, ax),
            f"Outlines of {n} on the sky, with links between those that overlap",
            "Images and the pairs that join them: a link's colour is what is left of the pair in "
            "units of its error; dashed links did not count.",
        ),
    ]


def _figure(draw, alternative, caption):
    """A picture for light and one for dark paper, the browser's choice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.4), dpi=150, layout="constrained", facecolor="none")
    canvas = FigureCanvasAgg(figure)
    draw(figure.add_subplot(facecolor="none"))
    light, dark = (_png(canvas, ink) for ink in ("#1d2126", "#dfe4ea"))
    return (
        f'<figure>\n<picture>\n<source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
        f'<img alt="{escape(alternative)}" src="{light}">\n</picture>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )


def _png(canvas, ink):
    """Return a PNG as a data URL, its paper transparent and its text in a colour."""
    from PIL import Image

    _set_ink(canvas.figure, ink)
    canvas.draw()
    # The second picture has the same layout.
    canvas.figure.set_layout_engine("none")
    pixels = np.array(canvas.buffer_rgba())
    red, green, blue = np.moveaxis(pixels[..., :3].astype(np.int16), -1, 0)
    grey = max(np.abs(red - green).max(), np.abs(green - blue).max()) <= MAX_TINT
    # Few shades, black and white kept, and no colours where there are none: half of the bytes.
    image = Image.fromarray(
        (pixels & 0xFC) | (pixels >> 6) if grey else (pixels & 0xF8) | (pixels >> 5)
    )
    image = image.convert("LA") if grey else image
    out = io.BytesIO()
    image.save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _set_ink(figure, ink):
    """Colour all text, ticks and frames."""
    for ax in figure.axes:
        ax.tick_params(which="both", colors=ink)
        for spine in ax.spines.values():
            spine.set_edgecolor(ink)
        for axis in (ax.xaxis, ax.yaxis):
            axis.label.set_color(ink)
            axis.offsetText.set_color(ink)
        legend = ax.get_legend()
        for text in legend.get_texts() if legend is not None else ():
            text.set_color(ink)
