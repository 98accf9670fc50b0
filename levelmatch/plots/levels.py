# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plots of levels, pairs and loops: levels, residuals, closures and flux ratios."""

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.docstrings import share_parameters
from levelmatch.plots.style import (
    AFTER,
    BEFORE,
    EXPECTED,
    GREY,
    MAX_LABELS,
    STAR,
    add_colour_bar,
    axes_or_new,
    draw_histogram,
    draw_sigmas,
    image_labels,
    legend_above,
    linear_range,
    name_images,
    plain_text,
    signed,
    symmetric_ticks,
)
from levelmatch.text import SHORT_NAME, values

__all__ = ["plot_closures", "plot_gains", "plot_levels", "plot_residuals"]


# Smallest ratio of the largest level to the linear range for a logarithmic scale.
FAR = 30
# Smallest fraction of the images in a set whose number is drawn.
MIN_SHARE = 0.1


@share_parameters
def plot_levels(result, ax=None):
    """Plot the level subtracted from each image, and the residuals of its pairs.

    "Before" shows the level subtracted at the image's centre, with its standard error relative
    to the gauge. A star marks a reference. "After" shows the mean of the residuals of the
    image's pairs, with their rms as error bar. If levels are far larger than the errors of
    pairs, the scale is linear about zero and logarithmic beyond. Images are sorted by connected
    set, and within a set in the order of the input. Levels of different sets cannot be compared.

    Parameters
    ----------
    <<result>>
    <<ax>>

    <<axes>>
    """
    ax = axes_or_new(ax)
    facts = Diagnostics.of(result)
    order = np.argsort(facts.sets, kind="stable")
    level, error = facts.levels[:, order]
    mean, rms = (numbers[order] for numbers in _residuals(facts))
    x = np.arange(len(level))
    few = len(level) <= MAX_LABELS
    style = {
        "ls": "none",
        "ms": 4.5 if few else 2.5,
        "capsize": 2 if few else 0,
        "elinewidth": 1.0 if few else 0.6,
    }
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    handles = [
        ax.errorbar(x, level, error, marker="o", color=BEFORE, label="before: level", **style)
    ]
    style["mfc"] = "none"
    shift = 0.3 if few else 0
    style |= {"marker": "D", "color": AFTER, "label": "after: residuals"}
    handles.append(ax.errorbar(x + shift, mean, rms, **style))
    held = np.array([facts.frames[k].name in facts.references for k in order])
    if held.any():
        star = {"ms": 10 if few else 7, "color": STAR, "mec": BEFORE, "ls": "none", "zorder": 4}
        handles += ax.plot(x[held], level[held], "*", label="reference", **star)
    _stretch(
        ax, np.concatenate([level - error, level + error]), linear_range(facts), facts.sets.any()
    )
    _mark_sets(ax, facts.sets[order])
    _label_images(ax, [facts.frames[k] for k in order], facts.sets.any())
    ax.set_ylabel(f"Level subtracted ({facts.unit_words})")
    legend_above(ax, handles=handles)
    return ax


def _stretch(ax, levels, linear, has_sets):
    """Make the scale logarithmic if levels are far larger than the linear range."""
    levels = levels[np.isfinite(levels)]
    largest = np.abs(levels).max(initial=0.0)
    if not 0 < FAR * linear < largest:
        return
    ax.set_yscale("symlog", linthresh=linear)
    ax.set_yticks(symmetric_ticks(linear, largest))
    ax.minorticks_off()
    ends = np.array([min(levels.min(), -linear), max(levels.max(), linear)])
    # Leave room at both ends, and more above for the numbers of sets.
    ax.set_ylim(ends * (largest / linear) ** (np.array([1, 1 + has_sets]) / 6))


def _mark_sets(ax, sets):
    """Draw lines between disconnected sets, and the numbers of sets with enough images."""
    edges = np.flatnonzero(np.diff(sets)) + 1
    if len(edges) == 0:
        return
    if ax.get_yscale() == "linear":
        ax.margins(y=0.15)
    starts, ends = np.r_[0, edges], np.r_[edges, len(sets)]
    for s, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        if start:
            ax.axvline(start - 0.4, color=GREY, lw=1.2, zorder=0)
        if end - start > MIN_SHARE * len(sets):
            words = {"ha": "center", "va": "top", "fontsize": "small"}
            place = (0.5 * (start + end - 1) + 0.1, 0.99)
            ax.text(*place, f"set {s}", transform=ax.get_xaxis_transform(), **words)


def _label_images(ax, frames, has_sets):
    """Name the images on the horizontal axis, unless they are many; draw lines between tiles."""
    tiles = [frame.tile for frame in frames]
    edges = [i - 0.4 for i in range(1, len(tiles)) if tiles[i] != tiles[i - 1]]
    if len(edges) < MAX_LABELS and len(set(tiles)) < len(tiles):
        for edge in edges:
            ax.axvline(edge, color=GREY, lw=0.5, ls=":", zorder=0)
    ax.set_xlim(-0.7, len(tiles) - 0.1)
    if len(tiles) > MAX_LABELS:
        ax.set_xlabel("Image, set by set" if has_sets else "Image, in the order of the input")
        return
    names, words = image_labels([frame.name for frame in frames])
    # Do not read dollar signs in names as formulas.
    ax.set_xticks(np.arange(len(names)), names, rotation=90, fontsize="small", parse_math=False)
    name_images(ax, words)


def _residuals(facts):
    """Return mean and rms of the residuals of each image's pairs, shape (n,); NaN without pairs."""
    count, total, square = np.zeros((3, len(facts.frames)))
    residual = values(facts.pairs["residual"])[facts.kept]
    for at, sign in zip(facts.ends[facts.kept].T, (1, -1), strict=True):
        np.add.at(count, at, 1)
        np.add.at(total, at, sign * residual)
        np.add.at(square, at, residual**2)
    count[count == 0] = np.nan
    return total / count, np.sqrt(square / count)


# --------------------------------------------------------------------------------------
# Pairs

KINDS = ("matrix", "list", "histogram")
# Largest number of images with long names; more images have shorter and smaller names.
MAX_WIDE = 8
# Colour of two images that are not a pair, on light and dark backgrounds.
NO_PAIR = "#b8b8b8"


@share_parameters
def plot_residuals(result, *, kind=None, ax=None):
    """Plot the difference of every pair of images before matching, and its residual after.

    A matrix has a row and a column for each image. Its lower left half shows the differences
    before matching, and its upper right half the residuals, as row minus column. Images that are
    not a pair are grey. A list shows the sorted absolute differences of all kept pairs before
    and after. A histogram shows the residuals of all kept pairs divided by their standard
    errors, with the normal distribution expected from the errors.

    Parameters
    ----------
    <<result>>
    kind : {"matrix", "list", "histogram"} or None
        Kind of the plot; by default a matrix for up to 24 images and a list for more.
    <<ax>>

    <<axes>>

    Raises
    ------
    ValueError
        If ``kind`` is unknown.
    """
    if kind is not None and kind not in KINDS:
        msg = f"kind: {kind!r} is none of {KINDS}"
        raise ValueError(msg)
    ax = axes_or_new(ax)
    facts = Diagnostics.of(result)
    if kind is None:
        kind = "matrix" if len(facts.frames) <= MAX_LABELS else "list"
    draw = {"matrix": _draw_matrix, "list": _draw_list, "histogram": _draw_histogram}
    draw[kind](ax, facts)
    return ax


def _draw_matrix(ax, facts):
    """Draw the matrix of differences and residuals."""
    from matplotlib import colormaps
    from matplotlib.colors import SymLogNorm
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    matrix = np.full((len(facts.frames),) * 2, np.nan)
    low, high = np.sort(facts.ends, axis=1).T
    sign = np.where(facts.ends[:, 0] == low, 1, -1)
    for column, place, turn in (("level", (high, low), -1), ("residual", (low, high), 1)):
        matrix[place] = turn * sign * values(facts.pairs[column])
    largest = _largest(matrix)
    linear = np.clip(linear_range(facts), 1e-4 * largest, 0.5 * largest)
    norm = SymLogNorm(linear, vmin=-largest, vmax=largest, base=10)
    # The colour of a missing pair differs from the colour of a zero residual.
    cmap = colormaps["PuOr_r"].with_extremes(bad=NO_PAIR)
    shown = ax.imshow(matrix, norm=norm, cmap=cmap, interpolation="nearest")
    handles = [Patch(facecolor=NO_PAIR, label="no pair")]
    rejected = facts.ends[~facts.kept]
    if len(rejected):
        both = np.concatenate([rejected, rejected[:, ::-1]])
        edge = [withStroke(linewidth=2.4, foreground="white")]
        style = {"color": "black", "ms": 4, "ls": "none", "path_effects": edge}
        handles += ax.plot(*both.T, "x", label="rejected", **style)
    legend_above(ax, handles=handles, title="Lower left: before. Upper right: after.")
    label = f"Row minus column ({facts.unit_words})"
    bar = add_colour_bar(ax, shown, label, shrink=0.85, pad=0.02)
    bar.set_ticks(symmetric_ticks(linear, largest))
    bar.minorticks_off()
    ax.axline((0, 0), slope=1, color="white", lw=0.8)
    _name_rows(ax, facts)


def _largest(matrix):
    finite = np.abs(matrix[np.isfinite(matrix)])
    return float(finite.max(initial=0.0)) or 1.0


def _name_rows(ax, facts):
    """Name the rows and columns of the matrix, unless there are many images."""
    n = len(facts.frames)
    if n > MAX_LABELS:
        ax.set_xlabel("Image, in the order of the input")
        ax.set_ylabel("Image")
        return
    few = n <= MAX_WIDE
    names, words = image_labels(facts.names, SHORT_NAME if few else SHORT_NAME // 2)
    size = "small" if few else "x-small"
    ax.set_xticks(np.arange(n), names, rotation=90, fontsize=size, parse_math=False)
    ax.set_yticks(np.arange(n), names, fontsize=size, parse_math=False)
    if not few:
        ax.tick_params(pad=1.5)
    name_images(ax, words)


def _draw_histogram(ax, facts):
    sigmas = np.sign(values(facts.pairs["residual"])) * facts.n_sigma
    sigmas = sigmas[facts.kept & np.isfinite(sigmas)]
    draw_sigmas(ax, sigmas, "pair", "Residual over its standard error (\u03c3)")


def _draw_list(ax, facts):
    """Draw the sorted absolute differences and residuals of the kept pairs."""
    for column, colour, label in (("level", BEFORE, "before"), ("residual", AFTER, "after")):
        size = np.sort(np.abs(values(facts.pairs[column])[facts.kept]))[::-1]
        # Rounding errors of zero would stretch the logarithmic axis.
        size = np.where(size > 1e-12 * size.max(initial=0.0), size, np.nan)
        ax.plot(np.arange(1, len(size) + 1), size, color=colour, label=label, lw=1.6)
    sigma = values(facts.pairs["sigma"])[facts.kept]
    if len(sigma):
        ax.axhline(np.median(sigma), color=GREY, lw=0.8, ls="--", label="median error")
    ax.set_yscale("log")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("Pairs, the largest difference first")
    ax.set_ylabel(f"|Difference| ({facts.unit_words})")
    legend_above(ax, ncols=3)


# --------------------------------------------------------------------------------------
# Loops

# Number of loops that are named.
N_NAMED = 3
# Largest number of images named for each loop.
MAX_IMAGES = 3
DASH = " \u2013 "


@share_parameters
def plot_closures(result, ax=None):
    """Plot a histogram of the closures of loops of overlapping images, divided by their errors.

    The closure is the sum of the differences around a loop, which is zero if they agree. The
    curve is the normal distribution expected from the errors. The loops with the largest
    closures are named below.

    Parameters
    ----------
    <<result>>
    <<ax>>

    <<axes>>
    """
    ax = axes_or_new(ax)
    facts = Diagnostics.of(result)
    loops = facts.closures
    sigmas = values(loops["n_sigma"])
    sigmas = np.where(np.isfinite(sigmas), sigmas, 0.0)
    draw_sigmas(ax, sigmas, "loop", "Closure over its error (\u03c3)")
    if len(sigmas) == 0:
        return ax
    ax.annotate(
        "worst:\n" + "\n".join(_worst(loops, sigmas, facts)),
        (0.5, 0),
        xycoords=ax.xaxis.label,
        xytext=(0, -3),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize="x-small",
        annotation_clip=False,
        parse_math=False,
    )
    return ax


def _worst(loops, sigmas, facts):
    """Return one line for each loop with the largest closures: the closure and the images."""
    images, tiles = (
        dict(zip(names, image_labels(names)[0], strict=True))
        for names in (
            [frame.name for frame in facts.frames],
            sorted({frame.tile for frame in facts.frames}),
        )
    )
    lines = []
    for row in np.argsort(-np.abs(sigmas), kind="stable")[:N_NAMED].tolist():
        nodes = _nodes(str(loops["images"][row]), images | tiles)
        whole = all(node in tiles and node not in images for node in nodes)
        labels = tiles | images
        shown = [labels.get(node) or plain_text(node) for node in nodes[:MAX_IMAGES]]
        shown += [f"{len(nodes) - MAX_IMAGES} more"] if len(nodes) > MAX_IMAGES else []
        word = "tiles " if whole else ""
        lines.append(f"{signed(sigmas[row], 1)} \u03c3: {word}{DASH.join(shown)}")
    return lines


def _nodes(text, names):
    """Return the images or tiles of a loop; their names may contain blanks."""
    out = []
    while text:
        name = max((name for name in names if text.startswith(name)), key=len, default=text)
        # An empty name would make this loop endless.
        out.append(name or text)
        text = text[len(out[-1]) :].removeprefix(" ")
    return out


# --------------------------------------------------------------------------------------
# Flux ratios


@share_parameters
def plot_gains(result, ax=None):
    """Plot a histogram of the relative differences of flux scales of all kept pairs.

    The difference of a pair, in percent, is the ratio of the brightness of the same structure in
    its two images minus one. Dashed lines mark the smallest difference that is reported.

    Parameters
    ----------
    <<result>>
    <<ax>>

    <<axes>>
    """
    ax = axes_or_new(ax)
    facts = Diagnostics.of(result)
    gains = 100 * values(facts.pairs["gain"])[facts.kept]
    gains = gains[np.isfinite(gains)]
    limit = 100 * facts.flux_limit
    reach = float(max(1.5 * limit, 1.05 * np.abs(gains).max(initial=0)))
    draw_histogram(ax, gains, "pair", reach, "no pair with a flux ratio")
    ax.set_xlabel("Difference of flux scales (%)")
    if len(gains):
        for sign, label in ((-1, None), (1, f"reported beyond \u00b1{limit:g} %")):
            ax.axvline(sign * limit, color=EXPECTED, ls="--", lw=1.2, label=label)
        legend_above(ax)
    return ax
