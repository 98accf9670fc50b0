# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A quick-look mosaic before and after matching."""

from dataclasses import dataclass

import numpy as np
from astropy import units as u

from levelmatch.plots.sky import Chart, directions, finish_sky, has_sky, sky_axes
from levelmatch.results.pixels import frames_with_pixels
from levelmatch.summary import Facts, unit_words

__all__ = ["QuickLook", "plot_mosaic", "quick_look"]

SHOWN = ("before", "after", "difference")
EMPTY = "#c9d6e3"
# The colour bar is below maps whose width is so many times their height.
WIDE = 1.8


@dataclass(frozen=True, eq=False)
class QuickLook:
    """A coarse mosaic before and after matching.

    Parameters
    ----------
    before, after : 2D `~numpy.ndarray`
        Each pixel from the image with the nearest centre, NaN where there is none; North up,
        East left.
    extent : tuple of float
        Edges (left, right, bottom, top) as offsets to East and North, in the unit of ``sky``.
    sky : `~levelmatch.plots.sky.Chart`
        Map about the centre of all images.
    wcs : `~astropy.wcs.WCS`
        WCS of its pixels.
    unit : `~astropy.units.Unit` or None
        Unit of the data.
    n_sets : int
        Number of connected sets: their levels do not compare.
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
        """The correction that was subtracted: before minus after."""
        return self.before - self.after

    def stretch(self):
        """Return one asinh stretch for before and after.

        It is scaled to the background: steps of the size of the corrections are visible beside
        bright sources.

        Returns
        -------
        low, high, width : float
            Lowest and highest level, and the range above the lowest that is nearly linear.
        """
        good = np.isfinite(self.before)
        if not good.any():
            return 0.0, 1.0, 1.0
        both = np.concatenate([self.before[good], self.after[good]])
        low, high = np.percentile(both, [1, 99.5])
        high = high if high > low else low + 1
        step = np.ptp(np.percentile(self.difference[good], [2, 98]))
        return float(low), float(high), float(max(step, 1e-3 * (high - low)))


def quick_look(result, *, size=400, files=None):
    """Return a coarse mosaic before and after matching; reads each image once.

    Pixels are averaged in square blocks, and each block belongs to the pixel of the map at its
    centre. Each pixel shows one image, that with the nearest centre: a mean of several images
    would hide the seams between them. This is quick, but not accurate photometry.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.
    size : int
        Pixels along the longer side; fewer if the images' own pixels are larger.
    files : path, list of path or None
        For a record, the files of its images as they were before the run, or their folder.

    Returns
    -------
    look : `QuickLook`
        The mosaic, in the unit of comparison.

    Raises
    ------
    FrameError
        If pixels are missing; the message names the files.
    """
    frames = frames_with_pixels(result, files)
    chart = Chart(frames)
    low, high = chart.low, chart.high
    own = [np.sqrt(frame.grid.pixel_area) * u.rad.to(chart.unit) for frame in frames]
    # Blocks closer than the map's pixels, in any orientation, leave no holes.
    pixel = max((high - low).max() / size, 1.5 * max(own))
    shape = tuple(int(n) for n in np.ceil((high - low) / pixel)[::-1] + 1)
    total, shift = np.full((2, shape[0] * shape[1]), np.nan)
    distance = np.full(len(total), np.inf)
    for frame, side in zip(frames, own, strict=True):
        block = min(max(1, int(pixel / (1.5 * side))), *frame.shape)
        values, vectors = _blocks(frame, block)
        x, y = ((chart.project(vectors) - low) / pixel).round().astype(int).T
        at = np.clip(y, 0, shape[0] - 1) * shape[1] + np.clip(x, 0, shape[1] - 1)
        middle = (chart.project(frame.grid.centre) - low) / pixel
        some, away = _distances(at, shape[1], middle)
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
    n_sets = int(Facts(result).sets.max(initial=0)) + 1
    return QuickLook(before, after, extent, chart, wcs, result.unit, n_sets)


def _distances(at, width, middle):
    """Return the map pixels of blocks, and the distance of each to an image's centre."""
    some = np.unique(at)
    y, x = np.divmod(some, width)
    return some, np.hypot(x - middle[0], y - middle[1])


def _blocks(frame, block):
    """Return the uncorrected mean of each block with a good pixel, and its unit vector."""
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
    """Sums of blocks of pixels, shape (ny, nx); rows first, which is faster."""
    cells = data[: ny * block, : nx * block].reshape(ny, block, nx * block)
    return cells.sum(axis=1, dtype=np.float32).reshape(ny, nx, block).sum(axis=2, dtype=float)


def plot_mosaic(result, show="after", *, ax=None, limits=None, cmap=None, files=None):
    """Plot a coarse mosaic of all images, with a note above if they form disconnected sets.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`, record or `QuickLook`
        The result, or its `quick_look`, to draw several plots and read the images once.
    show : {"after", "before", "difference"}
        After matching, before it, or the correction that was subtracted.
    ax : `~matplotlib.axes.Axes` or None
        Axes to draw into, with or without sky coordinates; by default new axes with the
        mosaic's own coordinates.
    limits : tuple of float or None
        The lowest and the highest level shown, linearly; by default one asinh stretch for
        before and after, and a linear one for their difference.
    cmap : str, `~matplotlib.colors.Colormap` or None
        The colours; by default shades of grey, and ``"cividis"`` for the difference.
    files : path, list of path or None
        For a record, see `quick_look`.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.

    Raises
    ------
    ValueError
        If ``show`` is none of these.
    FrameError
        See `quick_look`.
    """
    if show not in SHOWN:
        msg = f"show: {show!r} is none of {SHOWN}"
        raise ValueError(msg)
    look = result if isinstance(result, QuickLook) else quick_look(result, files=files)
    ax = sky_axes(ax, look.wcs)
    norm = _norm(look, show, limits)
    cmap = cmap or ("cividis" if show == "difference" else "gray")
    shown = _draw(ax, look, getattr(look, show), norm, cmap)
    # Pixels without an image are neither white nor black.
    ax.set_facecolor(EMPTY)
    if look.n_sets > 1:
        words = f"{look.n_sets} sets without overlap:\nlevels do not compare"
        ax.text(0, 1.01, words, transform=ax.transAxes, va="bottom", fontsize="small")
    ny, nx = look.before.shape
    # Beside a map, about as high as the map; below a wide one.
    place = {"shrink": 0.85 * min(1.0, ny / nx), "pad": 0.02}
    if nx > WIDE * ny:
        place = {"location": "bottom", "aspect": 30, "shrink": 0.85}
    bar = ax.figure.colorbar(shown, ax=ax, extend="both", **place)
    what = "Subtracted" if show == "difference" else show.capitalize()
    bar.set_label(f"{what} ({unit_words(look.unit)})", fontsize="small")
    bar.ax.tick_params(labelsize="small")
    finish_sky(ax, look.sky)
    return ax


def _draw(ax, look, values, norm, cmap):
    """Draw an array: as an image on plain axes or on its own WCS, else cell by cell."""
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
    """The stretch, as matplotlib takes it."""
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
