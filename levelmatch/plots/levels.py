# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The level of each image, before and after matching."""

import numpy as np

from levelmatch.facts import Facts, values
from levelmatch.plots.style import (
    AFTER,
    BEFORE,
    GREY,
    MAX_LABELS,
    axes_or_new,
    image_labels,
    legend_above,
    name_images,
    unit_words,
)

__all__ = ["plot_levels"]


def plot_levels(result, ax=None):
    """Plot the level of each image, relative to the reference, before and after matching.

    Before is the level found, with its standard error. After is what is left of
    the differences to the images it overlaps: their mean, and their rms as the bar.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    ax : `~matplotlib.axes.Axes` or None
        Where; by default those of a new figure.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    ax = axes_or_new(ax)
    facts = Facts.of(result)
    level, error = facts.levels
    x = np.arange(len(level))
    mean, rms = _left(facts)
    few = len(level) <= MAX_LABELS
    style = {
        "ls": "none",
        "ms": 4.5 if few else 2.5,
        "capsize": 2 if few else 0,
        "elinewidth": 1.0 if few else 0.6,
    }
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    ax.errorbar(x, level, error, marker="o", color=BEFORE, label="before: level", **style)
    style["mfc"] = "none"
    shift = 0.3 if few else 0
    ax.errorbar(
        x + shift, mean, rms, marker="D", color=AFTER, label="after: rest of pairs", **style
    )
    _label_images(ax, facts.frames)
    ax.set_ylabel(f"Level ({unit_words(facts.unit)})")
    legend_above(ax)
    return ax


def _label_images(ax, frames):
    """Names on the horizontal axis while they can be read, and lines between tiles."""
    tiles = [frame.tile for frame in frames]
    edges = [i - 0.4 for i in range(1, len(tiles)) if tiles[i] != tiles[i - 1]]
    if len(edges) < MAX_LABELS and len(set(tiles)) < len(tiles):
        for edge in edges:
            ax.axvline(edge, color=GREY, lw=0.5, ls=":", zorder=0)
    ax.set_xlim(-0.7, len(tiles) - 0.1)
    if len(tiles) > MAX_LABELS:
        ax.set_xlabel("Image, in the order of the input")
        return
    names, words = image_labels([frame.name for frame in frames])
    # A dollar in a file's name is no formula.
    ax.set_xticks(np.arange(len(names)), names, rotation=90, fontsize="small", parse_math=False)
    name_images(ax, words)


def _left(facts):
    """Mean and rms of what is left of each image's pairs, shape (n,); NaN without any."""
    count, total, square = np.zeros((3, len(facts.frames)))
    residual = values(facts.pairs["residual"])[facts.kept]
    for at, sign in zip(facts.ends[facts.kept].T, (1, -1), strict=True):
        np.add.at(count, at, 1)
        np.add.at(total, at, sign * residual)
        np.add.at(square, at, residual**2)
    count[count == 0] = np.nan
    return total / count, np.sqrt(square / count)
