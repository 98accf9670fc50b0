# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plot of the level of each image, before and after matching."""

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.docstrings import share_parameters
from levelmatch.plots.style import (
    AFTER,
    BEFORE,
    GREY,
    MAX_LABELS,
    STAR,
    axes_or_new,
    image_labels,
    legend_above,
    name_images,
    symmetric_ticks,
    typical_sigma,
)
from levelmatch.text import values

__all__ = ["plot_levels"]

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
    <<plot>>
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
        ax, np.concatenate([level - error, level + error]), typical_sigma(facts), facts.sets.any()
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
