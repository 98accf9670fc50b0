# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Map of the overlaps on the sky as SVG, with links to the rows of images and pairs."""

import numpy as np

from levelmatch.plots.sky import Chart
from levelmatch.plots.style import MOST_SIGMA, SETS
from levelmatch.report.tables import names_of, pair_order, pair_words, safe
from levelmatch.text import SHORT_NAME, count, short_names

__all__ = ["graph_section"]

# Sizes in the units of the map, which are about pixels on a large screen: largest width and
# height, smallest width, margin, and height of the strip with the scale bar.
WIDTH, HEIGHT, LEAST, MARGIN, FOOT = 1100.0, 460.0, 380.0, 24.0, 56.0
# Width from which on a map has larger letters on a phone.
WIDE = 600.0
# Largest number of images or tiles that are named on the map.
MAX_NAMES = 30
# Horizontal and vertical distance of centres below which names overlap.
CROWDED = 90.0, 20.0
# Width of a letter.
LETTER = 9.0
# Largest number of labelled links, and smallest residual of a labelled link, in standard errors.
N_LABELS, LABELLED_SIGMA = 3, 3.0
# Labels closer than this would lie on each other.
LABEL = 70.0, 22.0


def graph_section(facts):
    """Return the map with its legend."""
    n_sets = int(facts.sets.max(initial=0)) + 1
    chart, (width, height), scale, place = _sheet(facts)
    words = (
        f"Footprints of {count(len(facts.frames), 'image')} on the sky, North up and East left, "
        f"with {count(len(facts.pairs), 'pair')} as links"
        + (f", in {n_sets} sets without overlap between them" if n_sets > 1 else "")
        + ". The table of pairs has the same numbers."
    )
    kind = ' class="wide"' if width > WIDE else ""
    parts = [
        f'<svg id="graph"{kind} viewBox="0 0 {width:.0f} {height:.0f}" role="group" '
        f'aria-label="{safe(words)}">',
        _outlines(facts, place),
        *_links(facts, place),
        *_images(facts, place),
        _names(facts, place),
        _worst_labels(facts, place),
        _compass(width, height, scale, chart.unit),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n" + _legend(facts, n_sets)


def _sheet(facts):
    """Return the map, its size, its scale, and the function that places unit vectors on it."""
    chart = Chart(facts.frames)
    extent = np.maximum(chart.high - chart.low, 1e-30)
    scale = min((WIDTH - 2 * MARGIN) / extent[0], (HEIGHT - 2 * MARGIN) / extent[1])
    width = max(extent[0] * scale + 2 * MARGIN, LEAST)
    size = np.array([width, extent[1] * scale + 2 * MARGIN + FOOT])
    # East is left, and y increases downward.
    centre, middle = 0.5 * (size - np.array([0, FOOT])), 0.5 * (chart.high + chart.low)
    return chart, size, scale, lambda vectors: centre - (chart.project(vectors) - middle) * scale


def _compass(width, height, scale, unit):
    """Return the arrows to North and East and the scale bar below the map."""
    length = nice_length(0.25 * width / scale)
    bar, y = length * scale, height - 0.4 * FOOT
    x = MARGIN + 40
    return (
        '<g class="compass" aria-hidden="true">'
        f'<path d="M{MARGIN:.0f} {y:.1f}h{bar:.1f}m0 -5v10M{MARGIN:.0f} {y - 5:.1f}v10"/>'
        f'<text x="{MARGIN + bar + 10:.1f}" y="{y + 6:.1f}">{length:g} {unit}</text>'
        f'<path d="M{width - x:.0f} {y + 8:.1f}v-34l-5 9m5 -9l5 9"/>'
        f'<path d="M{width - x:.0f} {y + 8:.1f}h-34l9 -5m-9 5l9 5"/>'
        f'<text x="{width - x + 8:.0f}" y="{y - 16:.1f}">N</text>'
        f'<text x="{width - x - 54:.0f}" y="{y + 14:.1f}">E</text></g>'
    )


def nice_length(most):
    """Return the largest of 1, 2 and 5 times a power of ten that is at most a length."""
    power = 10.0 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9)))


def _worst_labels(facts, place):
    """Return labels with the significance of the worst links."""
    rows = [p for p in pair_order(facts)[:N_LABELS] if facts.n_sigma[p] > LABELLED_SIGMA]
    if not rows:
        return ""
    centres = place(np.array([frame.grid.centre for frame in facts.frames]))
    labels, taken = [], []
    for p in rows:
        text = f"{facts.n_sigma[p]:.{0 if facts.n_sigma[p] >= 10 else 1}f} \u03c3"
        first, second = centres[facts.ends[p]]
        # At the middle of the link, or where no other label is.
        for part in (0.5, 0.75, 0.25):
            x, y = first + part * (second - first)
            if all(abs(x - a) > LABEL[0] or abs(y - b) > LABEL[1] for a, b in taken):
                taken.append((x, y))
                labels.append(f'<text x="{x + 6:.1f}" y="{y:.1f}">{text}</text>')
                break
    return '<g class="label" aria-hidden="true">' + "".join(labels) + "</g>"


def _names(facts, place):
    """Return short names of the images, or of tiles of several images; empty if they do not fit."""
    tiles = [frame.tile for frame in facts.frames]
    centres = place(np.array([frame.grid.centre for frame in facts.frames]))
    of_tiles = len(set(tiles)) < len(tiles) and all(tiles) and _are_crowded(centres)
    words, _ = short_names(sorted(set(tiles)), SHORT_NAME) if of_tiles else names_of(facts)
    members = tiles if of_tiles else facts.names
    groups = sorted(set(members)) if of_tiles else members
    corners = [place(frame.grid.polygon) for frame in facts.frames]
    wide = max(np.ptp(corner[:, 0]) for corner in corners)
    if len(groups) > MAX_NAMES or LETTER * max(map(len, words)) > 1.2 * wide:
        return ""
    of_group = [np.flatnonzero([m == g for m in members]) for g in groups]
    out = []
    for word, rows in zip(words, of_group, strict=True):
        x, y = centres[rows].mean(axis=0) + _aside(centres, rows, wide if of_tiles else 0.0)
        out.append(f'<text x="{x:.1f}" y="{y:.1f}">{safe(word)}</text>')
    return '<g class="names" aria-hidden="true">' + "".join(out) + "</g>"


def _are_crowded(centres):
    """Return whether the names of the images would overlap."""
    if len(centres) > MAX_NAMES:
        return True
    away = np.abs(centres[:, None] - centres[None])
    near = (away[..., 0] < CROWDED[0]) & (away[..., 1] < CROWDED[1])
    return bool(near[~np.eye(len(centres), dtype=bool)].any())


def _aside(centres, rows, wide):
    """Return the shift of a name: below its image, or for a tile away from the common centre."""
    away = centres[rows].mean(axis=0) - centres.mean(axis=0)
    length = np.hypot(*away)
    if wide == 0 or length < 1e-6:
        return np.array([0.0, 20.0])
    return np.array([0.0, 7.0]) + away / length * 0.22 * wide


def _outlines(facts, place):
    """Return the footprints of the images."""
    polygons = []
    for frame, s in zip(facts.frames, facts.sets.tolist(), strict=True):
        corners = np.round(place(frame.grid.polygon), 1)
        keep = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
        points = " ".join(f"{x:g},{y:g}" for x, y in corners[keep])
        polygons.append(f'<polygon class="s{s % len(SETS)}" points="{points}"/>')
    return '<g aria-hidden="true">' + "".join(polygons) + "</g>"


def _links(facts, place):
    """Return the links, sorted by residual, so that the largest residuals lie on top."""
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
    """Return the dots of the images and the stars of the references."""
    short, _ = names_of(facts)
    radius = 5 if len(facts.frames) <= 60 else 3
    out = []
    held_at_zero = [frame.name in facts.references for frame in facts.frames]
    # References come last, so that their stars lie on top.
    for i in np.argsort(held_at_zero, kind="stable").tolist():
        frame, held = facts.frames[i], held_at_zero[i]
        x, y = place(frame.grid.centre)
        words = f"{short[i]}, {'the reference of its set' if held else 'image'}"
        shape = (
            f'<path class="star" d="{_star(x, y, 12)}"/>'
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
    """Return the legend of colours and symbols."""
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
