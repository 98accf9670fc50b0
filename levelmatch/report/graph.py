# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Map of the overlaps on the sky: SVG with links to the rows of images and pairs."""

import numpy as np

from levelmatch.plots.sky import Chart
from levelmatch.plots.style import MOST_SIGMA, SETS
from levelmatch.report.tables import names_of, pair_words
from levelmatch.report.text import safe
from levelmatch.text import count

__all__ = ["graph_section"]

# Sides of the drawing in its own units.
WIDTH, HEIGHT, MARGIN = 1000.0, 900.0, 30.0


def graph_section(facts):
    """Return the map with its legend."""
    n_sets = int(facts.sets.max(initial=0)) + 1
    place, size = _placement(facts)
    words = (
        f"Footprints of {count(len(facts.frames), 'image')} on the sky, North up and East left, "
        f"with {count(len(facts.pairs), 'pair')} as links"
        + (f", in {n_sets} sets without overlap between them" if n_sets > 1 else "")
        + ". The table of pairs has the same numbers."
    )
    parts = [
        f'<svg id="graph" viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" role="group" '
        f'aria-label="{safe(words)}">',
        _outlines(facts, place),
        *_links(facts, place),
        *_images(facts, place),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n" + _legend(facts, n_sets)


def _placement(facts):
    """A function from unit vectors to the drawing, and the size of the drawing."""
    chart = Chart(facts.frames)
    extent = np.maximum(chart.high - chart.low, 1e-30)
    scale = min((WIDTH - 2 * MARGIN) / extent[0], (HEIGHT - 2 * MARGIN) / extent[1])
    size = np.array([WIDTH, extent[1] * scale + 2 * MARGIN])
    middle = 0.5 * (chart.high + chart.low)

    def place(vectors):
        # East is left, and rows count downward.
        return 0.5 * size - (chart.project(vectors) - middle) * scale

    return place, size


def _outlines(facts, place):
    polygons = []
    for frame, s in zip(facts.frames, facts.sets.tolist(), strict=True):
        corners = np.round(place(frame.grid.polygon), 1)
        keep = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
        points = " ".join(f"{x:g},{y:g}" for x, y in corners[keep])
        polygons.append(f'<polygon class="s{s % len(SETS)}" points="{points}"/>')
    return '<g aria-hidden="true">' + "".join(polygons) + "</g>"


def _links(facts, place):
    """The pairs, sorted by their residuals: the largest are last, on top."""
    if len(facts.pairs) == 0:
        return []
    centres = place(np.array([frame.grid.centre for frame in facts.frames]))
    sigmas = np.nan_to_num(facts.n_sigma)
    words = pair_words(facts)
    out = []
    for p in np.lexsort((sigmas, facts.kept)).tolist():
        (x1, y1), (x2, y2) = centres[facts.ends[p]]
        kind = f"k{min(int(sigmas[p]), MOST_SIGMA)}" if facts.kept[p] else "out"
        out.append(
            f'<a href="#p{p}" tabindex="-1" class="{kind}"><title>{safe(words[p])}</title>'
            f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/></a>'
        )
    return out


def _images(facts, place):
    short, _ = names_of(facts)
    radius = 7 if len(facts.frames) <= 60 else 4
    out = []
    held_at_zero = [frame.name in facts.references for frame in facts.frames]
    # References last, so that no other image's dot is on top.
    for i in np.argsort(held_at_zero, kind="stable").tolist():
        frame, held = facts.frames[i], held_at_zero[i]
        x, y = place(frame.grid.centre)
        words = f"{short[i]}, {'the reference of its set' if held else 'image'}"
        shape = (
            f'<path class="star" d="{_star(x, y, 18)}"/>'
            if held
            else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
        )
        out.append(
            f'<a href="#i{i}" tabindex="-1" class="node"><title>{safe(words)}</title>{shape}</a>'
        )
    return out


def _star(x, y, radius):
    angle = np.pi * (np.arange(10) / 5 - 0.5)
    reach = radius * np.where(np.arange(10) % 2 == 0, 1, 0.45)
    points = zip(x + reach * np.cos(angle), y + reach * np.sin(angle), strict=True)
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) + "Z"


def _legend(facts, n_sets):
    """Meaning of colours and signs."""
    ranges = [f"{k} to {k + 1} \u03c3" for k in range(MOST_SIGMA)] + [f"over {MOST_SIGMA} \u03c3"]
    entries = [
        f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><path class="k{k}" d="M0 4H24"/></svg>'
        f"{words}</li>"
        for k, words in enumerate(ranges)
    ]
    if not facts.kept.all():
        entries.append(
            '<li><svg viewBox="0 0 24 8" aria-hidden="true"><path class="out" d="M0 4H24"/></svg>'
            "rejected</li>"
        )
    if facts.references:
        entries.append(
            f'<li><svg viewBox="0 0 24 24" aria-hidden="true"><path class="star" '
            f'd="{_star(12, 12, 11)}"/></svg>reference</li>'
        )
    for s in range(min(n_sets, len(SETS)) if n_sets > 1 else 0):
        n = count(int(np.count_nonzero(facts.sets == s)), "image")
        entries.append(
            f'<li><svg viewBox="0 0 24 16" aria-hidden="true"><rect class="s{s}" x="2" y="2" '
            f'width="20" height="12"/></svg>set {s + 1}: {n}</li>'
        )
    return '<ul class="legend">\n' + "\n".join(entries) + "\n</ul>"
