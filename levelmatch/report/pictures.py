# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Pictures of a page, for light and dark backgrounds."""

import base64
import io
from functools import partial

import numpy as np

from levelmatch.exceptions import warn_user
from levelmatch.report.tables import names_of, number, pair_order, safe
from levelmatch.text import count, decimals, values

__all__ = [
    "compare_section",
    "drawn_or_note",
    "has_matplotlib",
    "pair_pictures",
    "plot_section",
]

# Largest difference between the channels of a picture that is stored in grey.
MAX_TINT = 12
# Colours of text on light and dark backgrounds.
INKS = ("#1d2126", "#dfe4ea")
# Width of a picture in inches, and its resolution. The text of a small picture stays readable on
# a phone.
WIDTH, DPI = 4.6, 170
# Largest number of pairs of which each has a picture, and number of pictures for more pairs.
MAX_PAIR_PICTURES, N_WORST = 60, 20
# Largest number of images kept in memory for the pictures of pairs.
MAX_HELD = 6
# Colours of the lowest and the highest difference; zero is white.
LOW, HIGH = np.array([0x3B, 0x6F, 0xB0]), np.array([0xC9, 0x5B, 0x0C])


def has_matplotlib():
    """Return whether pictures can be drawn."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401
    except ImportError:
        return False
    return True


def drawn_or_note(name, draw):
    """Return HTML from a function, or a note with the reason if the function fails.

    Parameters
    ----------
    name : str
        Name of the picture or table.
    draw : callable
        Function that returns its HTML.

    Warns
    -----
    LevelMatchWarning
        If the function fails.
    """
    try:
        return draw()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        msg = f"the report lacks {name!r}: {reason}"
        warn_user(msg)
        return f'<p class="failed">{safe(name)} could not be drawn: {safe(reason)}</p>'


def compare_section(facts, files):
    """Return mosaics before and after matching, their difference, and the residuals."""
    from levelmatch.plots import plot_mosaic, quick_look
    from levelmatch.plots.mosaics import WIDE

    look = quick_look(facts.result, files=files)
    n = count(facts.n_images, "image")
    ratio = look.before.shape[0] / look.before.shape[1]

    def mosaic(show, words):
        draw = partial(plot_mosaic, look, show)
        room = 0.8 if ratio > 1 / WIDE else 1.5
        size = WIDTH, float(np.clip(0.64 * WIDTH * ratio + room, 1.8, 1.1 * WIDTH))
        return draw_picture(lambda ax: draw(ax=ax), words, size, projection=look.wcs)

    def both():
        before, box = mosaic("before", f"Mosaic of {n} before matching")
        after, _ = mosaic("after", f"Mosaic of {n} after matching, at the same stretch")
        return _before_and_after(before, after, box)

    def difference():
        picture, _ = mosaic("difference", f"Correction subtracted from the mosaic of {n}")
        return _captioned(picture, "The correction that was subtracted: before minus after.")

    return (
        drawn_or_note("Mosaics before and after", both)
        + '\n<div class="plots">\n'
        + drawn_or_note("Difference of the mosaics", difference)
        + "\n"
        + _plot(*_residual_plot(facts))
        + "\n</div>"
    )


def _before_and_after(before, after, box):
    """Return two pictures, side by side or on top of each other with a movable cut.

    ``box`` holds the edges of their axes, see `draw_picture`.
    """
    return (
        '<div class="tools" id="ways" role="group" aria-label="Before and after" hidden>'
        '<button type="button" id="aside" aria-pressed="true">Side by side</button>'
        '<button type="button" id="over" aria-pressed="false">With a slider</button></div>\n'
        f'<div id="compare" data-box="{box}">\n'
        f'<figure id="before">{before}<figcaption>Before matching. Each pixel is from the image '
        "with the nearest centre.</figcaption></figure>\n"
        f'<figure id="after">{after}<figcaption>After matching, at the same stretch.</figcaption>'
        "</figure>\n</div>\n"
        '<p class="slide" hidden><label for="cut">Before, left of the cut, and after, right of it'
        '</label><input type="range" id="cut" min="0" max="100" value="50"></p>'
    )


def _captioned(picture, caption):
    return f"<figure>{picture}<figcaption>{safe(caption)}</figcaption></figure>"


def plot_section(facts, *, residuals):
    """Return the plots of levels, pairs, loops and flux scales, and optionally of residuals."""
    from levelmatch.plots import plot_closures, plot_gains, plot_levels, plot_residuals

    n = count(facts.n_images, "image")
    plots = [
        (
            "Levels",
            lambda ax: plot_levels(facts, ax),
            f"Level subtracted from each of {n}, and residuals of its pairs",
            "Level subtracted from each image, with its standard error; and the mean and the rms "
            "of the residuals of its pairs after matching.",
        ),
        (
            "Differences of pairs",
            lambda ax: plot_residuals(facts, ax=ax),
            "Differences of all pairs before and after matching",
            "Difference of every pair before matching, and its residual after.",
        ),
        (
            "Closures of loops",
            lambda ax: plot_closures(facts, ax),
            "Histogram of how loops of images close",
            "Around a loop of overlapping images the differences add up to zero within their "
            "errors. The curve is the normal distribution that the errors predict.",
        ),
    ]
    if np.isfinite(values(facts.pairs["gain"])).any():
        plots.append(
            (
                "Flux scales",
                lambda ax: plot_gains(facts, ax),
                "Histogram of the differences of flux scales of pairs",
                "Relative difference of the flux scales of the two images of each pair.",
            )
        )
    if residuals:
        plots.append(_residual_plot(facts))
    return "\n".join(_plot(*plot) for plot in plots)


def _residual_plot(facts):
    """Return the arguments of `_plot` for the histogram of residuals."""
    from levelmatch.plots import plot_residuals

    return (
        "Residuals over their errors",
        lambda ax: plot_residuals(facts, kind="histogram", ax=ax),
        "Histogram of the residuals of pairs over their standard errors",
        "Residuals of the pairs over their standard errors. The curve is the normal distribution "
        "that the errors predict.",
    )


def _plot(name, draw, words, caption):
    """Return a plot with its caption, or a note if it fails."""
    return drawn_or_note(name, lambda: _captioned(draw_picture(draw, words)[0], caption))


def draw_picture(draw, words, size=(WIDTH, 0.85 * WIDTH), **axes):
    """Return a picture with versions for light and dark backgrounds, and the edges of its axes.

    The edges (left, right, top, bottom) are in per cent.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="none")
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_subplot(**axes)
    draw(ax)
    ax.set_facecolor("none")
    # The layout is computed once for both versions.
    _set_ink(figure, INKS[0])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    light, dark = (_png_url(canvas, ink) for ink in INKS)
    place = ax.get_position()
    edges = 100 * np.array([place.x0, place.x1, 1 - place.y1, 1 - place.y0])
    picture = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{safe(words)}" src="{light}"></picture>'
    )
    return picture, " ".join(f"{edge:.2f}" for edge in edges)


def _png_url(canvas, ink):
    """Return a figure as the data URL of a PNG, with transparent background and coloured text."""
    _set_ink(canvas.figure, ink)
    canvas.draw()
    pixels = np.array(canvas.buffer_rgba())
    red, green, blue = np.moveaxis(pixels[..., :3].astype(np.int16), -1, 0)
    grey = max(np.abs(red - green).max(), np.abs(green - blue).max()) <= MAX_TINT
    # Fewer shades of grey make smaller files. In colour they would be visible as bands.
    few = (pixels & 0xFC) | (pixels >> 6) if grey else pixels
    return _data_url(few, "LA" if grey else "RGBA")


def _data_url(pixels, mode):
    from PIL import Image

    image = Image.fromarray(pixels)
    out = io.BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(out, format="PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _set_ink(figure, ink):
    """Set the colour of all text, ticks and frames."""
    for ax in figure.axes:
        coordinates = getattr(ax, "coords", None)
        if coordinates is not None:
            coordinates.frame.set_color(ink)
            for axis in coordinates:
                axis.set_ticks(color=ink)
                axis.set_ticklabel(color=ink)
                axis.set_axislabel(axis.get_axislabel(), color=ink)
        else:
            ax.tick_params(which="both", colors=ink)
        for spine in ax.spines.values():
            spine.set_edgecolor(ink)
        for axis in (ax.xaxis, ax.yaxis):
            axis.label.set_color(ink)
            axis.offsetText.set_color(ink)
        legend = ax.get_legend()
        words = [legend.get_title(), *legend.get_texts()] if legend is not None else []
        for text in [*ax.texts, *words]:
            text.set_color(ink)


# --------------------------------------------------------------------------------------
# Pairs


def pair_pictures(facts, files):
    """Return a small picture of each pair, or of the worst pairs if there are many."""
    n = len(facts.pairs)
    if n == 0:
        return ""
    rows, words = pair_order(facts), "Differences of each pair"
    if n > MAX_PAIR_PICTURES:
        rows = rows[:N_WORST]
        words = f"Pictures of the {len(rows)} worst of {n} pairs. Differences of each"
    words = (
        f"<p>{words}, the most significant first, in one range of colours before and after. "
        "Pairs that match are white, except for noise and stars. \u03c3 compares a pair with what "
        "the other pairs predict.</p>\n"
    )
    short = dict(zip(facts.names, names_of(facts)[0], strict=True))
    load = partial(_load_once, {})
    figures = []
    for p in rows:
        pair = facts.pairs[p]
        ends = str(pair["image1"]), str(pair["image2"])
        name = " and ".join(short[end] for end in ends)
        # A candidate pair may have no pixel that is good in both images.
        if pair["npix"] == 0:
            content = f"<p>{safe(name)}: no pixel is good in both images.</p>"
        else:
            content = drawn_or_note(
                f"Differences of {name}",
                lambda p=p, ends=ends: _pair_picture(facts, p, ends, short, files, load),
            )
        figures.append(f'<figure id="d{p}">{content}</figure>')
    return f'{words}<div id="differences">\n' + "\n".join(figures) + "\n</div>"


def _pair_picture(facts, row, ends, short, files, load):
    """Return the pictures of a pair before and after matching, with a caption."""
    from levelmatch.plots.pairs import MAX_ASPECT, pair_picture

    picture = pair_picture(facts, *ends, files=files, load=load)
    # The residuals after matching fill the colour range of both pictures. A step saturates.
    residuals = np.abs(picture.after[np.isfinite(picture.after)])
    reach = float(max(np.percentile(residuals, 97), abs(picture.residual), 1e-30))
    scaled = picture.before / reach, picture.after / reach
    urls = [_data_url(coloured(values), "RGB") for values in scaled]
    digits, unit = decimals([reach / 10]), f" {facts.unit_words}"
    sigma = facts.n_sigma[row]
    significance = f" ({sigma:.1f} \u03c3)" if np.isfinite(sigma) else ""
    words = (
        f"{short[ends[0]]} minus {short[ends[1]]}{significance}: {number(picture.level, digits)} "
        f"before, {number(picture.residual, digits)} after; colours span "
        f"\u00b1{number(reach, digits)}{unit}"
    )
    # A narrow strip would be too thin to see.
    aspect = picture.before.shape[0] / picture.before.shape[1]
    kind = "tall" if aspect > MAX_ASPECT else "flat" if aspect < 1 / MAX_ASPECT else "even"
    shown = "".join(
        f'<span><img class="{kind}" alt="{when}" src="{url}"><b>{when}</b></span>'
        for when, url in zip(("before", "after"), urls, strict=True)
    )
    return f"<div>{shown}</div><figcaption>{safe(words)}.</figcaption>"


def _load_once(held, frame):
    """Return the pixels of an image; keep the images used last."""
    held[frame.name] = held.pop(frame.name) if frame.name in held else frame.load()
    while len(held) > MAX_HELD:
        held.pop(next(iter(held)))
    return held[frame.name]


def coloured(values):
    """Return the colours of values from -1 to 1, with the last row on top; NaN is grey."""
    good = np.isfinite(values)
    x = np.clip(np.where(good, values, 0), -1, 1)[..., None]
    colours = 255 + np.abs(x) * (np.where(x < 0, LOW, HIGH) - 255)
    colours[~good] = 128
    return np.ascontiguousarray(colours[::-1].round().astype(np.uint8))
