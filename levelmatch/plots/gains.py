# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plot of the flux ratios of pairs."""

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.plots.style import EXPECTED, GREY, axes_or_new, legend_above
from levelmatch.text import count, values

__all__ = ["plot_gains"]


def plot_gains(result, ax=None):
    """Plot a histogram of the relative differences of flux scales of all kept pairs.

    The difference of a pair, in percent, is the ratio of the brightness of the same structure in
    its two images minus one. Dashed lines mark the smallest difference that is reported.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    ax : `~matplotlib.axes.Axes` or None
        Axes to draw into; by default the axes of a new figure.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    ax = axes_or_new(ax)
    facts = Diagnostics.of(result)
    gains = 100 * values(facts.pairs["gain"])[facts.kept]
    gains = gains[np.isfinite(gains)]
    ax.set_xlabel("Difference of flux scales (%)")
    ax.set_ylabel("Pairs")
    limit = 100 * facts.flux_limit
    if len(gains) == 0:
        ax.set_xlim(-2 * limit, 2 * limit)
        ax.set_yticks([])
        words = "no pair with a flux ratio"
        ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", color=GREY)
        return ax
    reach = float(max(1.5 * limit, 1.05 * np.abs(gains).max()))
    n_bins = int(np.clip(2 * np.sqrt(len(gains)), 8, 40))
    edges = np.linspace(-reach, reach, n_bins + 1)
    ax.hist(gains, edges, color=GREY, alpha=0.6, label=count(len(gains), "pair"))
    for sign, label in ((-1, None), (1, f"reported beyond \u00b1{limit:g} %")):
        ax.axvline(sign * limit, color=EXPECTED, ls="--", lw=1.2, label=label)
    ax.set_xlim(-reach, reach)
    ax.yaxis.get_major_locator().set_params(integer=True)
    legend_above(ax)
    return ax
