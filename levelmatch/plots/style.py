# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Colours, names, numbers and legends of all plots."""

import numpy as np

from levelmatch.option_values import check_type
from levelmatch.text import SHORT_NAME, count, short_names, values

# Colours by Okabe and Ito, which every kind of colour vision distinguishes, on light and dark
# backgrounds.
BEFORE, AFTER, GREY, STAR = "#d55e00", "#0087c8", "#888888", "#e69f00"
# Colour of distributions expected from errors.
EXPECTED = "#8f5fc0"
# Colours of disconnected sets, used repeatedly.
SETS = ("#888888", "#0072b2", "#e69f00", "#56b4e9", "#d55e00")
# Colours of links by residual, from blue to orange, of equal lightness.
LINKS = ("#3b9ad1", "#a68cad", "#e06c1f")
# Residual, in standard errors, from which on links have the last colour.
MOST_SIGMA = 5
# Largest ratio to the error that a histogram shows.
MOST_SHOWN = 8.0
# Largest number of images that are named on an axis.
MAX_LABELS = 24
# Largest number of characters of a name in a narrow picture.
MAX_NAME = 28
# Largest number of characters of the pattern of names.
MAX_PATTERN = 44


def new_figure(**options):
    """Return a new figure whose layout makes room for labels.

    Raises
    ------
    ImportError
        If matplotlib is not installed; the message says how to install it.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        msg = 'plots need matplotlib: pip install "levelmatch[plot]"'
        raise ImportError(msg) from error
    return plt.figure(layout="constrained", **options)


def axes_or_new(ax, **options):
    """Return the given axes, or the axes of a new figure, made with these options."""
    if ax is None:
        return new_figure().add_subplot(**options)
    from matplotlib.axes import Axes

    check_type("ax", ax, Axes, "Axes of matplotlib")
    return ax


def plain_text(text, width=MAX_NAME, *, keep_end=False):
    """Return a name as one short line of characters available in common fonts.

    Parameters
    ----------
    text : str
        The name.
    width : int
        Largest number of characters. Longer names lose their middle.
    keep_end : bool
        Whether longer names lose their beginning instead.
    """
    text = "".join(c if c.isprintable() and _has_glyph(c) else "?" for c in text)
    if len(text) <= width:
        return text
    tail = width - 1 if keep_end else (width - 1) // 2
    return f"{text[: width - 1 - tail]}\u2026{text[len(text) - tail :]}"


def image_labels(names, width=SHORT_NAME):
    """Return short and unique labels of images, and the label of their axis.

    Parameters
    ----------
    names : list of str
        Names of the images.
    width : int
        Largest number of characters of a label, if the labels remain unique.

    Returns
    -------
    labels : list of str
        Short names, or rows of the table if short names are not unique.
    words : str
        Label of the axis, with the pattern of the names.
    """
    short, pattern = short_names(names, width)
    for keep_end in (True, False):
        labels = [plain_text(name, SHORT_NAME, keep_end=keep_end) for name in short]
        if len(set(labels)) == len(set(names)):
            return labels, f"Image ({plain_text(pattern, MAX_PATTERN)})" if pattern else "Image"
    return [str(row) for row in range(len(names))], "Image (row of the table)"


def name_images(ax, words):
    """Label the horizontal axis of image names; a long label is small."""
    ax.set_xlabel(words, parse_math=False, fontsize="x-small" if len(words) > MAX_NAME else None)


def signed(value, digits):
    """Return a number with its sign as text, with a minus sign in place of a hyphen."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def symmetric_ticks(linear, largest):
    """Return ticks at zero and at up to two powers of ten on either side."""
    high = int(np.floor(np.log10(largest)))
    low = int(np.ceil(np.log10(linear)))
    powers = {high, (high + low) // 2} if high > low else {high}
    ticks = np.array([10.0**power for power in sorted(powers) if 10.0**power > 0.6 * linear])
    return np.concatenate([-ticks[::-1], [0.0], ticks])


def linear_range(facts):
    """Return the linear range of symmetric scales: three times the median error of pairs."""
    sigma = values(facts.pairs["sigma"])
    sigma = sigma[np.isfinite(sigma) & (sigma > 0)]
    return 3 * float(np.median(sigma)) if len(sigma) else 0.0


def _has_glyph(character):
    """Return whether common fonts have a character: Latin, Greek, Cyrillic, dashes and quotes."""
    return ord(character) < 0x500 or 0x2010 <= ord(character) < 0x2027


def legend_above(ax, ncols=2, **options):
    """Put the legend above the axes, where it hides no data; do not read "$" as a formula."""
    legend = ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        frameon=False,
        fontsize="small",
        ncols=ncols,
        borderaxespad=0.2,
        handletextpad=0.4,
        columnspacing=1.0,
        title_fontsize="small",
        alignment="left",
        **options,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def draw_sigmas(ax, sigmas, noun, label):
    """Draw a histogram of ratios to standard errors, and the expected normal distribution.

    Parameters
    ----------
    ax : `~matplotlib.axes.Axes`
        Axes to draw into.
    sigmas : `~numpy.ndarray`, shape (n,)
        The finite ratios.
    noun : str
        Noun for one item, such as "pair".
    label : str
        Label of the horizontal axis.
    """
    reach = float(np.clip(1.05 * np.abs(sigmas).max(initial=0), 4.0, MOST_SHOWN))
    empty = "no loop of pairs" if noun == "loop" else f"no {noun}"
    edges = draw_histogram(ax, sigmas, noun, reach, empty)
    ax.set_xlabel(label)
    if len(sigmas):
        x = np.linspace(-reach, reach, 401)
        curve = len(sigmas) * (edges[1] - edges[0]) / np.sqrt(2 * np.pi) * np.exp(-0.5 * x**2)
        ax.plot(x, curve, color=EXPECTED, lw=1.6, label="expected from the errors")
        legend_above(ax)


def draw_histogram(ax, numbers, noun, reach, empty):
    """Draw a histogram about zero of finite numbers, or a text in its place; return its edges.

    Numbers beyond ``reach`` are counted in the outermost bins.
    """
    beyond = int(np.count_nonzero(np.abs(numbers) > reach))
    words = count(len(numbers), noun) + (f", {beyond} beyond the ends" if beyond else "")
    # Few items need few bins.
    edges = np.linspace(-reach, reach, int(np.clip(2 * np.sqrt(len(numbers)), 8, 24)) + 1)
    ax.hist(np.clip(numbers, -reach, reach), edges, color=GREY, alpha=0.6, label=words)
    ax.set_xlim(-reach, reach)
    ax.set_ylabel(f"{noun.capitalize()}s")
    ax.yaxis.get_major_locator().set_params(integer=True)
    if len(numbers) == 0:
        ax.set_yticks([])
        ax.text(0.5, 0.5, empty, transform=ax.transAxes, ha="center", color=GREY)
    return edges


def add_colour_bar(ax, shown, label, **place):
    """Add a colour bar with small letters to the figure of some axes; return it."""
    bar = ax.figure.colorbar(shown, ax=ax, **place)
    bar.set_label(label, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    return bar


def link_colours():
    """Return the colour map of the links."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("links", LINKS)
