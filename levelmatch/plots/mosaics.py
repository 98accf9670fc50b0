# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Quick-look mosaics before and after matching."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from astropy import units as u

from levelmatch.diagnostics import Diagnostics
from levelmatch.docstrings import share_parameters
from levelmatch.images.units import unit_words
from levelmatch.plots.sky import Chart, directions, finish_sky, has_sky
from levelmatch.plots.style import add_colour_bar, axes_or_new
from levelmatch.results.recorded_frames import frames_with_pixels

__all__ = ["QuickLook", "plot_mosaic", "quick_look"]

SHOWN = ("before", "after", "difference")
# Colour of pixels without an image.
EMPTY = "#c9d6e3"
# Largest ratio of width to height for a colour bar beside the map; for wider maps it is below.
WIDE = 1.8


@dataclass(frozen=True, eq=False)
class QuickLook:
    """A coarse mosaic before and after matching.

    Parameters
    ----------
    before, after : 2D `~numpy.ndarray`
        The mosaics, North up and East left. Each pixel shows the image with the nearest centre;
        NaN without an image.
    extent : tuple of float
        Edges (left, right, bottom, top) as offsets to East and North, in the unit of ``sky``.
    sky : `~levelmatch.plots.sky.Chart`
        Map about the centre of all images.
    wcs : `~astropy.wcs.WCS`
        WCS of the mosaics.
    unit : `~astropy.units.Unit` or None
        Unit of the data.
    n_sets : int
        Number of connected sets. Levels of different sets cannot be compared.
    """

    before: np.ndarray
    after: np.ndarray
    extent: tuple
    sky: object
    wcs: object
    unit: object
    n_sets: int = 1

    @property
    def difference(self):
        """The subtracted correction: before minus after."""
        return self.before - self.after

    def stretch(self):
        """Return the asinh stretch shared by before and after.

        It is scaled to the background, so that steps of the size of the corrections are visible
        beside bright sources.

        Returns
        -------
        low, high, width : float
            Lowest and highest level, and the nearly linear range above the lowest level.
        """
        good = np.isfinite(self.before)
        if not good.any():
            return 0.0, 1.0, 1.0
        both = np.concatenate([self.before[good], self.after[good]])
        low, high = np.percentile(both, [1, 99.5])
        high = high if high > low else low + 1
        step = np.ptp(np.percentile(self.difference[good], [2, 98]))
        return float(low), float(high), float(max(step, 1e-3 * (high - low)))


@share_parameters
def quick_look(result, *, size=400, files=None):
    """Return a coarse mosaic before and after matching; read each image once.

    The function averages blocks of pixels and puts each average into the map pixel at the centre
    of the block. A map pixel shows the image with the nearest centre, because averaging images
    would hide the seams. The mosaic is not suitable for photometry.

    Parameters
    ----------
    <<result>>
    size : int
        Largest number of pixels along the longer side; fewer if the pixels of the images are
        larger.
    <<originals>>

    Returns
    -------
    look : `QuickLook`
        The mosaics, in the common unit.

    Raises
    ------
    ValueError
        If ``size`` is not a positive whole number.
    FrameError
        If pixels are missing; the message names the files.
    """
    if not (isinstance(size, Integral) and size > 0):
        msg = f"size: {size!r} is not a positive whole number"
        raise ValueError(msg)
    frames = frames_with_pixels(Diagnostics.of(result).result, files)
    chart = Chart(frames)
    low, high = chart.low, chart.high
    sides = [np.sqrt(frame.grid.pixel_area) * u.rad.to(chart.unit) for frame in frames]
    # Blocks are smaller than map pixels by a factor of 1.5, so no orientation leaves holes.
    pixel = max((high - low).max() / size, 1.5 * max(sides))
    shape = tuple(int(n) for n in np.ceil((high - low) / pixel)[::-1] + 1)
    total, shift = np.full((2, shape[0] * shape[1]), np.nan)
    distance = np.full(len(total), np.inf)
    for frame, side in zip(frames, sides, strict=True):
        block = min(max(1, int(pixel / (1.5 * side))), *frame.shape)
        values, vectors = _blocks(frame, block)
        x, y = ((chart.project(vectors) - low) / pixel).round().astype(int).T
        at = np.clip(y, 0, shape[0] - 1) * shape[1] + np.clip(x, 0, shape[1] - 1)
        middle = (chart.project(frame.grid.centre) - low) / pixel
        some = np.unique(at)
        y, x = np.divmod(some, shape[1])
        away = np.hypot(x - middle[0], y - middle[1])
        near = away < distance[some]
        some = some[near]
        distance[some] = away[near]
        blocks = np.bincount(at, minlength=len(total))[some]
        correction = frame.correction.constant + vectors @ frame.correction.vector
        for target, value in ((total, values), (shift, frame.scale * correction)):
            target[some] = np.bincount(at, value, len(total))[some] / blocks
    before, after = (m.reshape(shape)[:, ::-1] for m in (total, total - shift))
    edges = low - 0.5 * pixel
    extent = (edges[0] + shape[1] * pixel, edges[0], edges[1], edges[1] + shape[0] * pixel)
    wcs = chart.wcs(pixel, (low[0] + (shape[1] - 1) * pixel, low[1]))
    wcs.pixel_shape = shape[::-1]
    n_sets = int(Diagnostics(result).sets.max(initial=0)) + 1
    return QuickLook(before, after, extent, chart, wcs, result.unit, n_sets)


def _blocks(frame, block):
    """Return the uncorrected mean of each block with good pixels, and its unit vector."""
    data = frame.with_keys(corrections=()).load()
    ny, nx = (n // block for n in data.shape)
    bad = ~np.isfinite(data)
    data[bad] = 0
    total = _block_sum(data, ny, nx, block)
    count = block**2 - _block_sum(bad.view(np.uint8), ny, nx, block)
    middle = (block - 1) / 2
    vectors = directions(
        frame.whole_grid, block * np.arange(ny) + middle, block * np.arange(nx) + middle
    )
    used = (count > 0) & np.isfinite(vectors).all(axis=-1)
    return total[used] / count[used], vectors[used]


def _block_sum(data, ny, nx, block):
    """Return sums over blocks of pixels, shape (ny, nx); summing rows first is faster."""
    cells = data[: ny * block, : nx * block].reshape(ny, block, nx * block)
    return cells.sum(axis=1, dtype=np.float32).reshape(ny, nx, block).sum(axis=2, dtype=float)


@share_parameters
def plot_mosaic(result, show="after", *, ax=None, limits=None, cmap=None, files=None):
    """Plot a coarse mosaic of all images.

    A note above the map states if the images form disconnected sets.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`, record or `QuickLook`
        The result. To draw several plots without reading the images again, its `quick_look`.
    show : {"after", "before", "difference"}
        The mosaic after matching, the mosaic before, or the subtracted correction.
    ax : `~matplotlib.axes.Axes` or None
        Axes to draw into, with or without sky coordinates; by default new axes with the
        coordinates of the mosaic.
    limits : tuple of float or None
        Lowest and highest level of a linear stretch. By default an asinh stretch shared by
        before and after, and a linear stretch of their difference.
    cmap : str, `~matplotlib.colors.Colormap` or None
        Colour map; by default shades of grey, and ``"cividis"`` for the difference.
    <<originals>>

    <<axes>>

    Raises
    ------
    ValueError
        If ``show`` is unknown, or ``limits`` are not two numbers.
    FrameError
        See `quick_look`.
    """
    if show not in SHOWN:
        msg = f"show: {show!r} is none of {SHOWN}"
        raise ValueError(msg)
    if limits is not None and np.shape(limits) != (2,):
        msg = f"limits: {limits!r}: expected the lowest and the highest level"
        raise ValueError(msg)
    look = result if isinstance(result, QuickLook) else quick_look(result, files=files)
    ax = axes_or_new(ax, projection=look.wcs)
    norm = _norm(look, show, limits)
    cmap = cmap or ("cividis" if show == "difference" else "gray")
    shown = _draw(ax, look, getattr(look, show), norm, cmap)
    # Pixels without an image must differ from white and black.
    ax.set_facecolor(EMPTY)
    if look.n_sets > 1:
        words = f"{look.n_sets} sets without overlap:\nlevels do not compare"
        ax.text(0, 1.01, words, transform=ax.transAxes, va="bottom", fontsize="small")
    ny, nx = look.before.shape
    # The colour bar is about as high as the map, or below a wide map.
    place = {"shrink": 0.85 * min(1.0, ny / nx), "pad": 0.02}
    if nx > WIDE * ny:
        place = {"location": "bottom", "aspect": 30, "shrink": 0.85}
    what = "Subtracted" if show == "difference" else show.capitalize()
    add_colour_bar(ax, shown, f"{what} ({unit_words(look.unit)})", extend="both", **place)
    finish_sky(ax, look.sky)
    return ax


def _draw(ax, look, values, norm, cmap):
    """Draw an array as an image on plain axes or on axes of its WCS, otherwise cell by cell."""
    style = {"norm": norm, "cmap": cmap}
    if not has_sky(ax):
        style["extent"] = look.extent
    elif not _same_wcs(ax.wcs, look.wcs):
        y, x = np.indices(np.add(values.shape, 1)) - 0.5
        place = ax.get_transform(look.wcs)
        shown = ax.pcolormesh(x, y, values, transform=place, rasterized=True, **style)
        ax.autoscale_view()
        return shown
    shown = ax.imshow(values, origin="lower", interpolation="nearest", **style)
    ax.use_sticky_edges = False
    ax.margins(0.03)
    return shown


def _same_wcs(one, other):
    """Return whether two maps have the same pixels."""
    compare = getattr(getattr(one, "wcs", None), "compare", None)
    return one is other or (compare is not None and compare(other.wcs))


def _norm(look, show, limits):
    """Return the stretch as a norm of matplotlib."""
    from matplotlib.colors import FuncNorm, Normalize

    if limits is not None:
        return Normalize(*limits)
    if show == "difference":
        good = look.difference[np.isfinite(look.difference)]
        low, high = np.percentile(good, [0.5, 99.5]) if len(good) else (0.0, 1.0)
        return Normalize(low, high if high > low else low + 1)
    low, high, width = look.stretch()
    functions = (lambda v: np.arcsinh((v - low) / width), lambda w: low + width * np.sinh(w))
    return FuncNorm(functions, vmin=low, vmax=high)
