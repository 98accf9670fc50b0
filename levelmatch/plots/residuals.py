# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plot of the differences of all pairs, before and after matching."""

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.plots.style import (
    AFTER,
    BEFORE,
    GREY,
    MAX_LABELS,
    axes_or_new,
    draw_sigmas,
    image_labels,
    legend_above,
    name_images,
    symmetric_ticks,
    typical_sigma,
)
from levelmatch.text import SHORT_NAME, values

__all__ = ["plot_residuals"]

KINDS = ("matrix", "list", "histogram")
# Largest number of images with long names; more images have shorter and smaller names.
MAX_WIDE = 8
# Colour of two images that are not a pair, on light and dark backgrounds.
NO_PAIR = "#b8b8b8"


def plot_residuals(result, *, kind=None, ax=None):
    """Plot the difference of every pair of images before matching, and its residual after.

    A matrix has a row and a column for each image. Its lower left half shows the differences
    before matching, and its upper right half the residuals, as row minus column. Images that are
    not a pair are grey. A list shows the sorted absolute differences of all kept pairs before
    and after. A histogram shows the residuals of all kept pairs divided by their standard
    errors, with the normal distribution expected from the errors.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    kind : {"matrix", "list", "histogram"} or None
        Kind of the plot; by default a matrix for up to 24 images and a list for more.
    ax : `~matplotlib.axes.Axes` or None
        Axes to draw into; by default the axes of a new figure.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.

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
    linear = np.clip(typical_sigma(facts), 1e-4 * largest, 0.5 * largest)
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
    bar = ax.figure.colorbar(shown, ax=ax, shrink=0.85, pad=0.02)
    bar.set_ticks(symmetric_ticks(linear, largest))
    bar.minorticks_off()
    bar.set_label(f"Row minus column ({facts.unit_words})", fontsize="small")
    bar.ax.tick_params(labelsize="small")
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
    ax.set_xlabel("Pairs, the largest difference first")
    ax.set_ylabel(f"|Difference| ({facts.unit_words})")
    legend_above(ax, ncols=3)
