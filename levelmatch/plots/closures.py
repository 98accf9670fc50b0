# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plot of the closures of loops."""

import numpy as np

from levelmatch.plots.style import GREY, axes_or_new, image_labels, legend_above, plain_text, signed
from levelmatch.summary import Facts
from levelmatch.text import count, values

__all__ = ["plot_closures"]

# Differs from grey on any paper, and from the colours of before and after.
EXPECTED = "#8f5fc0"
N_NAMED = 3
MAX_IMAGES = 3
DASH = " \u2013 "


def plot_closures(result, ax=None):
    """Plot a histogram of the closures of loops of overlapping images, over their errors.

    The differences around a loop add up to zero if they agree. The curve is the normal
    distribution that the errors predict. The loops that close worst are named below.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    ax : `~matplotlib.axes.Axes` or None
        Axes to draw into, by default those of a new figure.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    ax = axes_or_new(ax)
    facts = Facts.of(result)
    loops = facts.closures
    sigmas = values(loops["n_sigma"])
    sigmas = np.where(np.isfinite(sigmas), sigmas, 0.0)
    ax.set_ylabel("Loops")
    if len(sigmas) == 0:
        ax.set_xlabel("Closure over its error (\u03c3)")
        ax.set_xlim(-4, 4)
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no loop of pairs", transform=ax.transAxes, ha="center", color=GREY)
        return ax
    reach = max(4.0, 1.05 * np.abs(sigmas).max())
    # Few loops need few bins.
    n_bins = int(np.clip(2 * np.sqrt(len(sigmas)), 8, 24))
    edges = np.linspace(-reach, reach, n_bins + 1)
    ax.hist(sigmas, edges, color=GREY, alpha=0.6, label=count(len(sigmas), "loop"))
    x = np.linspace(-reach, reach, 401)
    height = len(sigmas) * (edges[1] - edges[0]) / np.sqrt(2 * np.pi)
    ax.plot(
        x, height * np.exp(-0.5 * x**2), color=EXPECTED, lw=1.6, label="expected from the errors"
    )
    ax.set_xlim(-reach, reach)
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("Closure over its error (\u03c3)")
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
    legend_above(ax)
    return ax


def _worst(loops, sigmas, facts):
    """Names of the loops that close worst, one line for each."""
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
        known = tiles | images
        shown = [known.get(node) or plain_text(node) for node in nodes[:MAX_IMAGES]]
        shown += [f"{len(nodes) - MAX_IMAGES} more"] if len(nodes) > MAX_IMAGES else []
        word = "tiles " if whole else ""
        lines.append(f"{signed(sigmas[row], 1)} \u03c3: {word}{DASH.join(shown)}")
    return lines


def _nodes(text, names):
    """Images or tiles of a loop; names may contain blanks."""
    out = []
    while text:
        known = max((name for name in names if text.startswith(name)), key=len, default=text)
        # A blank name would make this loop endless.
        out.append(known or text)
        text = text[len(out[-1]) :].removeprefix(" ")
    return out
