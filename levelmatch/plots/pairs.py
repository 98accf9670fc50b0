# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plot of one pair of images: differences, clipping, fitted plane and residuals."""

from dataclasses import dataclass

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import LevelMatchError
from levelmatch.images.background import source_mask
from levelmatch.images.corrections import Correction
from levelmatch.measure.plot_samples import pair_samples
from levelmatch.options import MeasureOptions
from levelmatch.plots.sky import directions
from levelmatch.plots.style import (
    AFTER,
    BEFORE,
    GREY,
    add_colour_bar,
    image_labels,
    new_figure,
)
from levelmatch.results.recorded_frames import frames_with_pixels
from levelmatch.sky.vectors import ARCMIN
from levelmatch.text import decimals, fixed, values

__all__ = ["PairPicture", "pair_picture", "plot_pair"]

# Largest number of blocks along the longer side of a picture.
MAX_BLOCKS = 48
# Largest ratio of the sides of a picture with square blocks; longer ones fill their axes.
MAX_ASPECT = 2.5
# Number of bins of the histogram.
N_BINS = 60


@dataclass(frozen=True, eq=False)
class PairPicture:
    """Differences of a pair, the first image minus the second, in the pixels of one of them.

    Parameters
    ----------
    base : str
        Name of the image whose pixels are used.
    before, after, plane : 2D `~numpy.ndarray`
        Means of the differences over blocks of pixels, before and after matching, and the plane
        fitted to them; NaN without differences.
    extent : tuple of float
        Edges of the blocks (left, right, bottom, top), in pixels.
    samples : `~numpy.ndarray`, shape (n,)
        All differences.
    kept : `~numpy.ndarray` of bool, shape (n,)
        True for differences that the clipping kept.
    level, sigma, residual, scatter : float
        Columns of the table of pairs.
    """

    base: str
    before: np.ndarray
    after: np.ndarray
    plane: np.ndarray
    extent: tuple
    samples: np.ndarray
    kept: np.ndarray
    level: float
    sigma: float
    residual: float
    scatter: float

    @property
    def reach(self):
        """Half of the colour range shared by the three pictures about their levels."""
        about = [self.before - self.level, self.after - self.residual]
        shown = np.abs(np.concatenate([values[np.isfinite(values)] for values in about]))
        plane = np.abs(self.plane - self.level)
        return float(max(np.percentile(shown, 97), np.nanmax(plane), 1e-30))


def _find_pair(result, image1, image2):
    """Return the row of a pair in the table, and its sign: -1 if its images are exchanged."""
    facts = Diagnostics.of(result)
    names = [frame.name for frame in facts.frames]
    for argument, name in (("image1", image1), ("image2", image2)):
        if name not in names:
            msg = f"{argument}: {name!r} is none of the {len(names)} images"
            raise ValueError(msg)
    first, second = (np.asarray(facts.pairs[column]) for column in ("image1", "image2"))
    for a, b, sign in ((image1, image2, 1), (image2, image1, -1)):
        rows = np.flatnonzero((first == a) & (second == b))
        if len(rows):
            return int(rows[0]), sign
    msg = f"{image1} and {image2} are not a pair of the result: no overlap, or no pass used it"
    raise LevelMatchError(msg)


def pair_picture(result, image1, image2, *, files=None, load=None):
    """Return the `PairPicture` of two images of a result.

    Parameters
    ----------
    result : `~levelmatch.record.run_result.RunResult` or `~levelmatch.diagnostics.Diagnostics`
        The result, or its record.
    image1, image2 : str
        Names of the images.
    files : path, list of path or None
        For a record, its uncorrected images or their folder.
    load : callable or None
        Function of a frame that returns its pixels; by default
        `~levelmatch.images.frame.Frame.load`.

    Raises
    ------
    ValueError
        If an image is not in the result.
    LevelMatchError
        If the two images were not compared, or no pixel is good in both.
    """
    facts = Diagnostics.of(result)
    row, sign = _find_pair(facts, image1, image2)
    by_name = {f.name: f for f in frames_with_pixels(facts.result, files, {image1, image2})}
    frames = [by_name[image1], by_name[image2]]
    # The corrections of earlier runs are subtracted, also before matching.
    n = facts.result.n_earlier
    loaded = [(load or type(f).load)(f.with_keys(corrections=f.corrections[:n])) for f in frames]
    options = MeasureOptions(**facts.result.options.get("measure", {}))
    if options.mask_sources:
        loaded = [np.where(source_mask(data), np.nan, data) for data in loaded]
    samples, swapped = pair_samples(*loaded, frames[0].grid, frames[1].grid, options)
    if not samples:
        msg = f"{image1} and {image2}: no pixel is good in both"
        raise LevelMatchError(msg)
    base = frames[1 if swapped else 0]
    totals = [
        sum((a.correction for a in f.corrections[n:]), Correction()).scaled(f.scale) for f in frames
    ]
    plane = _plane(facts.result.measured, row, sign, base.whole_grid.pixel_area)
    step = totals[0] + totals[1].scaled(-1)
    pair = facts.pairs[row]
    numbers = {key: float(values(pair[key])) for key in ("level", "sigma", "residual", "scatter")}
    numbers["level"] *= sign
    numbers["residual"] *= sign
    return PairPicture(
        base.name,
        **_blocks(samples, base, step, plane),
        samples=samples["difference"],
        kept=samples["kept"],
        **numbers,
    )


def _plane(measured, row, sign, pixel_area):
    """Return the plane fitted to one pair alone, as a `Correction`.

    Cells on a line, within the side of a pixel, do not determine the slope across the line, which
    is zero then.
    """
    gram, rhs = measured.gram[row], measured.rhs[row]
    weight, level, middle = gram[0, 0], rhs[0] / gram[0, 0], gram[0, 1:] / gram[0, 0]
    spread, axes = np.linalg.eigh(gram[1:, 1:] / weight - np.outer(middle, middle))
    known = spread > ARCMIN**2 * pixel_area
    axes, spread = axes[:, known], spread[known]
    slopes = (axes / spread) @ axes.T @ (rhs[1:] / weight - middle * level)
    coefficients = sign * np.array([level - middle @ slopes, *slopes])
    return Correction.from_coefficients(coefficients, measured.axes[row])


def _blocks(samples, base, step, plane):
    """Return the pictures of a pair: means of kept samples over blocks, and the fitted plane."""
    difference, columns, rows, kept = (samples[k] for k in ("difference", "x", "y", "kept"))
    x, y = (columns[kept], rows[kept]) if kept.any() else (columns, rows)
    x0, y0 = int(x.min()), int(y.min())
    side = max(int(np.ptp(x)), int(np.ptp(y))) + 1
    block = -(-side // MAX_BLOCKS)
    shape = int(y.max() - y0) // block + 1, int(x.max() - x0) // block + 1
    at = ((rows - y0) // block) * shape[1] + (columns - x0) // block
    used = kept & (at >= 0) & (at < shape[0] * shape[1])
    n = np.bincount(at[used], minlength=shape[0] * shape[1]).astype(float)
    n[n == 0] = np.nan
    total = np.bincount(at[used], difference[used], minlength=len(n))
    before = (total / n).reshape(shape)
    middle = (block - 1) / 2
    rows, columns = (
        start + block * np.arange(k) + middle for start, k in zip((y0, x0), shape, strict=True)
    )
    vectors = directions(base.whole_grid, rows, columns)
    covered = np.where(np.isfinite(before), 0.0, np.nan)
    edges = x0 - 0.5, x0 + shape[1] * block - 0.5, y0 - 0.5, y0 + shape[0] * block - 0.5
    return {
        "before": before,
        "after": before - (step.constant + vectors @ step.vector),
        "plane": covered + plane.constant + vectors @ plane.vector,
        "extent": edges,
    }


@share_parameters
def plot_pair(result, image1, image2, *, axs=None, files=None):
    """Plot the differences of a pair of images before and after matching.

    The first picture shows the differences in blocks of pixels of one image. The histogram
    shows all differences, the differences kept by the clipping, and their location with its
    error. The second picture shows the plane fitted to the kept differences, and the third the
    residuals after matching. The colours of the three pictures have the same range, centred on
    the level of each.

    Parameters
    ----------
    <<result>>
    image1, image2 : str
        Names of the images. Differences are the first image minus the second.
    axs : sequence of `~matplotlib.axes.Axes` or None
        Four axes in any layout, such as ``subplots(4, 1)`` of a figure of 3.5 by 9 inches for
        one column of a journal. By default two by two in a new figure.
    <<originals>>

    Returns
    -------
    axs : list of `~matplotlib.axes.Axes`
        The four axes.

    Raises
    ------
    ValueError
        If an image is not in the result, or if there are not four axes.
    LevelMatchError
        If the two images were not compared.
    FrameError
        If pixels are missing; the message names the files.

    Notes
    -----
    The differences are always sampled with ``MeasureOptions(method="direct")``, even if the pair
    was measured by another method.
    """
    if axs is not None and np.size(axs) != 4:
        msg = f"axs: {np.size(axs)} axes, not 4"
        raise ValueError(msg)
    facts = Diagnostics.of(result)
    picture = pair_picture(facts, image1, image2, files=files)
    if axs is None:
        axs = new_figure(figsize=(7, 6)).subplots(2, 2)
    axs = list(np.ravel(np.asarray(axs, dtype=object)))
    short = dict(zip(facts.names, image_labels(facts.names)[0], strict=True))
    label = f"Difference ({facts.unit_words})"
    _draw_map(axs[0], picture, picture.before, picture.level, label)
    _draw_histogram(axs[1], picture, label)
    _draw_map(axs[2], picture, picture.plane, picture.level, label)
    _draw_map(axs[3], picture, picture.after, picture.residual, label)
    for ax in (axs[0], *axs[2:]):
        ax.set_xlabel(f"x of {short[picture.base]} (pixel)", fontsize="small", parse_math=False)
    before = f"Before: {short[image1]}\nminus {short[image2]}"
    for ax, title in zip(
        axs, (before, "Clipped differences", "Plane of the pair", "After"), strict=True
    ):
        ax.set_title(title, fontsize="medium", loc="left", parse_math=False)
    return axs


def _draw_map(ax, picture, shown, middle, label):
    """Draw one picture and its colour bar."""
    image = ax.imshow(
        shown,
        origin="lower",
        extent=picture.extent,
        cmap="PuOr_r",
        vmin=middle - picture.reach,
        vmax=middle + picture.reach,
        interpolation="nearest",
        # A narrow strip would be too thin to see.
        aspect="equal" if 1 / MAX_ASPECT < shown.shape[0] / shown.shape[1] < MAX_ASPECT else "auto",
    )
    add_colour_bar(ax, image, label, extend="both", shrink=0.85, pad=0.02)
    ax.tick_params(labelsize="small")
    ax.locator_params(nbins=4)
    ax.set_ylabel("y (pixel)", fontsize="small")


def _draw_histogram(ax, picture, label):
    """Draw histograms of all and of kept differences, and their location with its error."""
    kept = picture.samples[picture.kept]
    low, high = np.percentile(picture.samples, [0.2, 99.8])
    reach = max(6 * picture.scatter, 1.1 * np.ptp(kept) / 2 if len(kept) else 0.0, 1e-30)
    low, high = max(low, picture.level - 2 * reach), min(high, picture.level + 2 * reach)
    low, high = min(low, kept.min(initial=low)), max(high, kept.max(initial=high))
    edges = np.linspace(low, high if high > low else low + 1, N_BINS + 1)
    ax.hist(
        np.clip(picture.samples, low, high), edges, histtype="step", color=GREY, label="all", lw=1.2
    )
    ax.hist(kept, edges, color=AFTER, alpha=0.6, label="kept")
    digits = decimals([picture.sigma])
    level, sigma = (fixed(x, digits).replace("-", "\u2212") for x in (picture.level, picture.sigma))
    words = f"{level} \u00b1 {sigma}"
    ax.axvline(picture.level, ymax=0.66, color=BEFORE, lw=1.4, label=words)
    ax.set_yscale("log")
    ax.set_xlabel(label, fontsize="small")
    ax.set_ylabel("Pixels", fontsize="small")
    ax.tick_params(labelsize="small")
    # Leave room for the legend above the bars and the line.
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.6)
    ax.locator_params(axis="x", nbins=4)
    ax.legend(fontsize="x-small", frameon=False, loc="upper right", borderaxespad=0.2)
