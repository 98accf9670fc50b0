# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plot of the closures of loops."""

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.plots.style import axes_or_new, draw_sigmas, image_labels, plain_text, signed
from levelmatch.text import values

__all__ = ["plot_closures"]

# Number of loops that are named.
N_NAMED = 3
# Largest number of images named for each loop.
MAX_IMAGES = 3
DASH = " \u2013 "


def plot_closures(result, ax=None):
    """Plot a histogram of the closures of loops of overlapping images, divided by their errors.

    The closure is the sum of the differences around a loop, which is zero if they agree. The
    curve is the normal distribution expected from the errors. The loops with the largest
    closures are named below.

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
