# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Pictures of a result: levels, overlaps and a quick-look mosaic. They need matplotlib."""

from dataclasses import dataclass

import numpy as np
from astropy import units as u

from levelmatch.report import common_levels, label_names, pair_sigmas
from levelmatch.sky import lonlat, tangent_axes

__all__ = ["QuickLook", "plot_levels", "plot_mosaic", "plot_overlaps", "quick_look"]

# Okabe and Ito's colours, told apart by every eye and on dark and light paper.
BEFORE, AFTER, GREY = "#d55e00", "#0087c8", "#888888"
# From blue to orange through a pale violet, of one lightness: seen on any paper.
LINKS = ("#3b9ad1", "#a68cad", "#e06c1f")
# Residuals of this many sigma and more have the last colour.
MOST_SIGMA = 5
# Images up to which each has its name on the axis.
MAX_LABELS = 24


@dataclass(frozen=True, eq=False)
class QuickLook:
    """A coarse mosaic before and after matching.

    Parameters
    ----------
    before, after : 2D `~numpy.ndarray`
        Mean of the images, NaN where there is none; North up, East left.
    extent : tuple of float
        Edges (left, right, bottom, top) as offsets to East and North.
    sky : `_Chart`
        Where its middle is.
    unit : `~astropy.units.Unit` or None
        Unit of the data.
    """

    before: np.ndarray
    after: np.ndarray
    extent: tuple
    sky: object
    unit: object

    def stretch(self):
        """Return one stretch for both: lowest and highest level, and where it turns logarithmic.

        Steps of the size that was subtracted are to be seen beside bright sources.
        """
        good = np.isfinite(self.before)
        if not good.any():
            return 0.0, 1.0, 1.0
        both = np.concatenate([self.before[good], self.after[good]])
        low, middle, high = np.percentile(both, [1, 50, 99.5])
        high = high if high > low else low + 1
        width = max(3 * np.std(self.before[good] - self.after[good]), middle - low)
        return float(low), float(high), float(max(width, 1e-3 * (high - low)))


class _Chart:
    """Offsets to East and North on a map of equal area about the middle of all images.

    Parameters
    ----------
    frames : list of `~levelmatch.frames.Frame`
        The images.
    """

    def __init__(self, frames):
        total = np.sum([frame.grid.centre for frame in frames], axis=0)
        # All around the sky there is no middle: any will do.
        centre = total if np.linalg.norm(total) > 1e-9 else frames[0].grid.centre
        self.axes = tangent_axes(centre)
        corners = np.concatenate([self._flat(frame.grid.polygon) for frame in frames])
        size = np.degrees(np.ptp(corners, axis=0).max())
        self.unit = next((x for x in (u.deg, u.arcmin) if size * u.deg > 1.5 * x), u.arcsec)

    def _flat(self, vectors):
        """Return offsets (East, North) in radian, shape (..., 2)."""
        w, east, north = np.moveaxis(vectors @ self.axes.T, -1, 0)
        factor = np.sqrt(2 / np.maximum(1 + w, 1e-12))
        return np.stack([east * factor, north * factor], axis=-1)

    def project(self, vectors):
        """Return offsets (East, North), shape (..., 2), of unit vectors, in the map's unit."""
        return self._flat(vectors) * u.rad.to(self.unit)

    def label_axes(self, ax):
        """Name the axes, and the position that the offsets are from."""
        ra, dec = lonlat(self.axes[0])
        ax.set_xlabel(f"Offset to East of RA {ra:.4f}\u00b0 ({self.unit})")
        ax.set_ylabel(f"Offset to North of Dec {dec:+.4f}\u00b0 ({self.unit})")
        ax.set_aspect("equal")


def _axes(ax):
    """The axes given, or the current ones."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.gca()


def plot_levels(result, ax=None):
    """Plot the level of each image, relative to the reference, before and after matching.

    Before is the level found, with its standard error. After is what is left of
    the differences to the images it overlaps: their mean, and their rms as the bar.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The result.
    ax : `~matplotlib.axes.Axes` or None
        Where; by default the current axes.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    ax = _axes(ax)
    level, error = common_levels(result)
    x = np.arange(len(level))
    mean, rms = _left(result)
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    style = {"ls": "none", "ms": 5, "capsize": 2, "elinewidth": 1.2}
    ax.errorbar(x, level, error, marker="o", color=BEFORE, label="before: level found", **style)
    ax.errorbar(
        x + 0.25,
        mean,
        rms,
        marker="D",
        color=AFTER,
        mfc="none",
        label="after: rest of its pairs",
        **style,
    )
    _label_images(ax, result)
    ax.set_ylabel(f"Level ({_unit_words(result.unit)})")
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        frameon=False,
        fontsize="small",
        ncols=2,
        borderaxespad=0.2,
    )
    return ax


def _label_images(ax, result):
    """Names on the horizontal axis while they can be read, and lines between tiles."""
    tiles = [frame.tile for frame in result.frames]
    edges = [i - 0.4 for i in range(1, len(tiles)) if tiles[i] != tiles[i - 1]]
    if len(edges) < MAX_LABELS:
        for edge in edges:
            ax.axvline(edge, color=GREY, lw=0.5, ls=":", zorder=0)
    ax.set_xlim(-0.7, len(tiles) - 0.1)
    if len(tiles) > MAX_LABELS:
        ax.set_xlabel("Image, in the order of the input")
        return
    names, pattern = label_names([frame.name for frame in result.frames])
    ax.set_xticks(np.arange(len(names)), names, rotation=90, fontsize="small", parse_math=False)
    # A dollar in a file's name is no formula.
    ax.set_xlabel(f"Image ({pattern})" if pattern else "Image", parse_math=False)


def _left(result):
    """Mean and rms of what is left of each image's pairs, shape (n,); NaN without any."""
    pairs = result.pairs
    index = {frame.name: i for i, frame in enumerate(result.frames)}
    n = len(index)
    kept = np.asarray(pairs["kept"])
    residual = np.asarray(pairs["residual"].value)[kept]
    count, total, square = np.zeros((3, n))
    for column, sign in (("image1", 1), ("image2", -1)):
        at = np.array([index[name] for name in pairs[column][kept]], dtype=int)
        np.add.at(count, at, 1)
        np.add.at(total, at, sign * residual)
        np.add.at(square, at, residual**2)
    count[count == 0] = np.nan
    return total / count, np.sqrt(square / count)


def plot_overlaps(result, ax=None):
    """Plot the outlines of the images on the sky, and the pairs that join them.

    A link's colour is what is left of the pair in units of its error, its systematic
    floor included; a dashed link did not count; a star marks the reference.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The result.
    ax : `~matplotlib.axes.Axes` or None
        Where; by default the current axes.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    from matplotlib.collections import PolyCollection

    ax = _axes(ax)
    chart = _Chart(result.frames)
    outlines = [chart.project(frame.grid.polygon) for frame in result.frames]
    ax.add_collection(
        PolyCollection(outlines, facecolor=(0.53, 0.53, 0.53, 0.06), edgecolor=GREY, lw=0.6)
    )
    centres = np.array([chart.project(frame.grid.centre) for frame in result.frames])
    _draw_links(ax, result, centres)
    ax.plot(*centres.T, "o", ms=3, color=GREY, zorder=3)
    names = {reference.name for p in result.passes[-1:] for reference in p.references}
    held = np.array([frame.name in names for frame in result.frames])
    if held.any():
        ax.plot(
            *centres[held].T, "*", ms=14, color="#e69f00", mec=BEFORE, zorder=4, label="reference"
        )
    if ax.get_legend_handles_labels()[1]:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            frameon=False,
            fontsize="small",
            ncols=2,
            borderaxespad=0.2,
        )
    ax.autoscale_view()
    ax.xaxis.set_inverted(True)
    chart.label_axes(ax)
    return ax


def _draw_links(ax, result, centres):
    """Draw the pairs, and a colour bar for those that counted."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap

    pairs = result.pairs
    if len(pairs) == 0:
        return
    index = {frame.name: i for i, frame in enumerate(result.frames)}
    ends = np.array(
        [[index[a], index[b]] for a, b in zip(pairs["image1"], pairs["image2"], strict=True)]
    )
    kept = np.asarray(pairs["kept"])
    sigmas = np.abs(pair_sigmas(result))
    # The largest are drawn last: they are what to look for.
    order = np.flatnonzero(kept)[np.argsort(np.nan_to_num(sigmas[kept]), kind="stable")]
    links = LineCollection(
        centres[ends[order]],
        array=sigmas[order],
        lw=1.2,
        zorder=2,
        cmap=LinearSegmentedColormap.from_list("links", LINKS),
        clim=(0, MOST_SIGMA),
    )
    ax.add_collection(links)
    if not kept.all():
        ax.add_collection(
            LineCollection(
                centres[ends[~kept]], colors=GREY, lw=0.8, ls="--", label="pair left out"
            )
        )
    bar = ax.figure.colorbar(links, ax=ax, extend="max", shrink=0.85)
    bar.set_label("|residual| of the pair (\u03c3)")


def quick_look(result, *, size=400):
    """Return a coarse mosaic before and after matching, each image read once.

    Pixels are averaged in square blocks, and each block is added to the map's pixel
    that its centre falls on: quick, and no more than a look.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The result.
    size : int
        Pixels along the longer side, fewer where the images' own are larger.

    Returns
    -------
    look : `QuickLook`
        The mosaic, in the unit of comparison.
    """
    frames = result.frames
    chart = _Chart(frames)
    corners = np.concatenate([chart.project(frame.grid.polygon) for frame in frames])
    low, high = corners.min(axis=0), corners.max(axis=0)
    own = [np.sqrt(frame.grid.pixel_area) * u.rad.to(chart.unit) for frame in frames]
    # Blocks are to be closer than the map's pixels in any orientation, or there are holes.
    pixel = max((high - low).max() / size, 1.5 * max(own))
    shape = tuple(int(n) for n in np.ceil((high - low) / pixel)[::-1] + 1)
    total, shift, count = np.zeros((3, shape[0] * shape[1]))
    for frame, side in zip(frames, own, strict=True):
        block = min(max(1, int(pixel / (1.5 * side))), *frame.shape)
        values, vectors = _blocks(frame, block)
        x, y = ((chart.project(vectors) - low) / pixel).round().astype(int).T
        at = np.clip(y, 0, shape[0] - 1) * shape[1] + np.clip(x, 0, shape[1] - 1)
        blocks = np.bincount(at, minlength=len(count))
        some = np.flatnonzero(blocks)
        correction = frame.correction.constant + vectors @ frame.correction.vector
        # Each image counts once in a map's pixel, however many of its blocks fall there.
        for target, value in ((total, values), (shift, frame.scale * correction)):
            target[some] += np.bincount(at, value, len(count))[some] / blocks[some]
        count[some] += 1
    count[count == 0] = np.nan
    before, after = (m.reshape(shape)[:, ::-1] for m in (total / count, (total - shift) / count))
    edges = low - 0.5 * pixel
    extent = (edges[0] + shape[1] * pixel, edges[0], edges[1], edges[1] + shape[0] * pixel)
    return QuickLook(before, after, extent, chart, result.unit)


def _blocks(frame, block):
    """Return the uncorrected mean of each block with a good pixel, and its direction."""
    data = frame.with_keys(corrections=()).load()
    ny, nx = (n // block for n in data.shape)
    bad = ~np.isfinite(data)
    data[bad] = 0
    total = _block_sum(data, ny, nx, block)
    count = block**2 - _block_sum(bad.view(np.uint8), ny, nx, block)
    middle = (block - 1) / 2
    vectors = _directions(
        frame.whole_grid, block * np.arange(ny) + middle, block * np.arange(nx) + middle
    )
    used = (count > 0) & np.isfinite(vectors).all(axis=-1)
    return total[used] / count[used], vectors[used]


def _block_sum(data, ny, nx, block):
    """Sums of blocks of pixels, shape (ny, nx): rows first, which is the quicker way."""
    cells = data[: ny * block, : nx * block].reshape(ny, block, nx * block)
    return cells.sum(axis=1, dtype=np.float32).reshape(ny, nx, block).sum(axis=2, dtype=float)


def _directions(grid, ys, xs):
    """Directions of rows and columns, shape (len(ys), len(xs), 3), bilinear between nodes."""
    rows, columns = _weights(grid.ys, ys), _weights(grid.xs, xs)
    return np.moveaxis(rows @ np.moveaxis(grid.nodes, -1, 0) @ columns.T, 0, -1)


def _weights(nodes, positions):
    """Matrix of linear interpolation, and extrapolation, from nodes to positions."""
    cell = np.clip(np.searchsorted(nodes, positions, side="right") - 1, 0, len(nodes) - 2)
    t = (positions - nodes[cell]) / (nodes[cell + 1] - nodes[cell])
    weights = np.zeros((len(positions), len(nodes)))
    at = np.arange(len(positions))
    weights[at, cell] = 1 - t
    weights[at, cell + 1] = t
    return weights


def plot_mosaic(result, *, corrected=True, ax=None, limits=None, cmap="gray"):
    """Plot a coarse mosaic of all images.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or `QuickLook`
        The result; or its `quick_look`, to draw it twice and read the images once.
    corrected : bool
        With the corrections, or the images as they came in.
    ax : `~matplotlib.axes.Axes` or None
        Where; by default the current axes.
    limits : tuple of float or None
        The lowest and the highest level shown, linearly; by default one asinh stretch for
        before and after.
    cmap : str or `~matplotlib.colors.Colormap`
        The colours.

    Returns
    -------
    ax : `~matplotlib.axes.Axes`
        The axes.
    """
    ax = _axes(ax)
    look = result if isinstance(result, QuickLook) else quick_look(result)
    shown = ax.imshow(
        look.after if corrected else look.before,
        origin="lower",
        extent=look.extent,
        norm=_norm(look, limits),
        cmap=cmap,
        interpolation="nearest",
    )
    bar = ax.figure.colorbar(shown, ax=ax, extend="both", shrink=0.85)
    bar.set_label(f"Mean of the images ({_unit_words(look.unit)})")
    look.sky.label_axes(ax)
    return ax


def _norm(look, limits):
    """The stretch, as matplotlib takes it."""
    from matplotlib.colors import FuncNorm, Normalize

    if limits is not None:
        return Normalize(*limits)
    low, high, width = look.stretch()
    functions = (lambda v: np.arcsinh((v - low) / width), lambda w: low + width * np.sinh(w))
    return FuncNorm(functions, vmin=low, vmax=high)


def _unit_words(unit):
    return "data units" if unit is None or not str(unit) else f"{unit}"
