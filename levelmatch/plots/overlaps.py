# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plot of the overlaps on the sky."""

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.plots.sky import Chart, finish_sky, placed, sky_axes
from levelmatch.plots.style import BEFORE, GREY, MOST_SIGMA, SETS, STAR, legend_above, link_colours
from levelmatch.text import count

__all__ = ["plot_overlaps"]

# Largest number of sets that the legend names.
MAX_SETS = 4
# Largest ratio of width to height for a colour bar beside the map; for wider maps it is below.
WIDE = 1.6


def plot_overlaps(result, ax=None):
    """Plot the footprints of the images on the sky, and the pairs that link them.

    The colour and the width of a link show the absolute residual of the pair divided by its
    standard error. A dashed link is a rejected pair. A star marks a reference. Footprints of
    disconnected sets have different colours.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    ax : `~matplotlib.axes.Axes` or None
        Axes to draw into, with or without sky coordinates; by default new axes with the
        coordinates of `sky_wcs`.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    facts = Diagnostics.of(result)
    chart = Chart(facts.frames)
    ax = sky_axes(ax, chart.whole_wcs())
    _draw_footprints(ax, facts, chart)
    centres = placed(ax, chart, np.array([frame.grid.centre for frame in facts.frames]))
    width, height = chart.high - chart.low
    _draw_links(ax, facts, centres, wide=width > WIDE * height)
    size = 3 if len(centres) < 100 else 1.5
    ax.plot(*centres.T, "o", ms=size, color=GREY, zorder=3)
    held = np.array([frame.name in facts.references for frame in facts.frames])
    if held.any():
        ax.plot(*centres[held].T, "*", ms=13, color=STAR, mec=BEFORE, zorder=4, label="reference")
    if ax.get_legend_handles_labels()[1]:
        legend_above(ax)
    ax.autoscale_view()
    # Put the free space of a square map below it, not between the map and the legend.
    ax.set_anchor("N")
    finish_sky(ax, chart)
    return ax


def _draw_footprints(ax, facts, chart):
    """Draw the footprints of each set in its colour."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    footprints = [placed(ax, chart, frame.grid.polygon) for frame in facts.frames]
    n_sets = facts.sets.max() + 1
    for s in range(n_sets):
        colour = SETS[s % len(SETS)]
        members = np.flatnonzero(facts.sets == s)
        label = f"set {s + 1}: {count(len(members), 'image')}"
        ax.add_collection(
            PolyCollection(
                [footprints[k] for k in members],
                facecolor=to_rgba(colour, 0.06),
                edgecolor=colour,
                lw=0.6 if n_sets == 1 else 1.2,
                label=label if 1 < n_sets <= MAX_SETS else None,
            )
        )


def _draw_links(ax, facts, centres, wide):
    """Draw the pairs, and a colour bar for the kept pairs."""
    from matplotlib.collections import LineCollection

    if len(facts.pairs) == 0:
        return
    ends, kept, sigmas = facts.ends, facts.kept, np.nan_to_num(facts.n_sigma)
    # The largest residuals are drawn last, so that they lie on top.
    order = np.flatnonzero(kept)[np.argsort(sigmas[kept], kind="stable")]
    links = LineCollection(
        centres[ends[order]],
        array=sigmas[order],
        lw=1.0 + 0.4 * np.minimum(sigmas[order], MOST_SIGMA),
        zorder=2,
        cmap=link_colours(),
        clim=(0, MOST_SIGMA),
    )
    ax.add_collection(links)
    if not kept.all():
        style = {"colors": GREY, "lw": 0.8, "ls": "--", "label": "rejected pair"}
        ax.add_collection(LineCollection(centres[ends[~kept]], **style))
    # The colour bar is beside the map, or below a wide map.
    place = {"location": "bottom", "aspect": 30} if wide else {"shrink": 0.85, "pad": 0.02}
    bar = ax.figure.colorbar(links, ax=ax, extend="max", **place)
    bar.set_label("|Residual| / \u03c3", fontsize="small")
    bar.ax.tick_params(labelsize="small")
