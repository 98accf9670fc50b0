# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How loops of overlapping images close."""

import numpy as np

from levelmatch.facts import Facts, values
from levelmatch.plots.style import AFTER, BEFORE, GREY, axes_or_new, image_labels, legend_above

__all__ = ["plot_closures"]

N_BINS = 24
N_NAMED = 3
MAX_IMAGES = 3


def plot_closures(result, ax=None):
    """Plot how the differences around each loop of overlapping images add up, over their error.

    Differences that agree add up to zero; the curve is a normal distribution of the
    errors given. Below are the loops that close worst, with their images.

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
    edges = np.linspace(-reach, reach, N_BINS + 1)
    ax.hist(sigmas, edges, color=AFTER, label=f"{len(sigmas)} loops")
    x = np.linspace(-reach, reach, 401)
    height = len(sigmas) * (edges[1] - edges[0]) / np.sqrt(2 * np.pi)
    ax.plot(x, height * np.exp(-0.5 * x**2), color=BEFORE, lw=1.4, label="as errors say")
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
    """Lines that name the loops that close worst."""
    full = [frame.name for frame in facts.frames]
    names = dict(zip(full, image_labels(full)[0], strict=True))
    lines = []
    for row in np.argsort(-np.abs(sigmas), kind="stable")[:N_NAMED].tolist():
        images = _images(str(loops["images"][row]), names)
        shown = images[:MAX_IMAGES]
        shown += [f"{len(images) - MAX_IMAGES} more"] if len(images) > MAX_IMAGES else []
        lines.append(f"{sigmas[row]:+.1f} \u03c3: {', '.join(shown)}")
    return lines


def _images(text, names):
    """Images of a loop, in short; a name may have blanks in it."""
    out = []
    while text:
        known = max((name for name in names if text.startswith(name)), key=len, default=text)
        out.append(names.get(known, known))
        text = text[len(known) :].removeprefix(" ")
    return out
