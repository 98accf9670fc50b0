# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Maps of the sky about the centre of all images, and the plot of overlaps."""

import numpy as np
from astropy import units as u

from levelmatch.diagnostics import Diagnostics
from levelmatch.docstrings import share_parameters
from levelmatch.images.corrections import interpolate
from levelmatch.plots.style import (
    BEFORE,
    GREY,
    MOST_SIGMA,
    SETS,
    STAR,
    add_colour_bar,
    axes_or_new,
    legend_above,
    link_colours,
    signed,
)
from levelmatch.sky.vectors import lonlat, tangent_axes
from levelmatch.text import count

__all__ = [
    "Chart",
    "directions",
    "plot_overlaps",
    "sky_wcs",
]


# Number of pixels along the longer side of the map's WCS.
SIZE = 400
# Margin around all images, as a fraction of the longer side.
MARGIN = 0.04


class Chart:
    """Equal-area map with offsets to East and North from the centre of all images.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    """

    def __init__(self, frames):
        total = np.sum([frame.grid.centre for frame in frames], axis=0)
        # Images all around the sky have no centre, so any centre serves.
        centre = total if np.linalg.norm(total) > 1e-9 else frames[0].grid.centre
        self.axes = tangent_axes(centre)
        corners = np.concatenate([self._flat(frame.grid.polygon) for frame in frames])
        size = np.degrees(np.ptp(corners, axis=0).max())
        self.unit = next((x for x in (u.deg, u.arcmin) if size * u.deg > 1.5 * x), u.arcsec)
        corners = corners * u.rad.to(self.unit)
        self.low, self.high = corners.min(axis=0), corners.max(axis=0)

    def _flat(self, vectors):
        """Return offsets (East, North) in radian, shape (..., 2)."""
        w, east, north = np.moveaxis(vectors @ self.axes.T, -1, 0)
        factor = np.sqrt(2 / np.maximum(1 + w, 1e-12))
        return np.stack([east * factor, north * factor], axis=-1)

    def project(self, vectors):
        """Return offsets (East, North) of unit vectors, shape (..., 2), in the map's unit."""
        return self._flat(vectors) * u.rad.to(self.unit)

    def label_axes(self, ax):
        """Label the axes with the position of zero offset."""
        ra, dec = lonlat(self.axes[0])
        ax.set_xlabel(f"East of RA {ra:.4f}\u00b0 ({self.unit})", fontsize="small")
        ax.set_ylabel(f"North of Dec {signed(dec, 4)}\u00b0 ({self.unit})", fontsize="small")
        ax.tick_params(labelsize="small")
        ax.set_aspect("equal")

    def wcs(self, pixel, corner):
        """Return a WCS of the map, North up and East left.

        Parameters
        ----------
        pixel : float
            Side of a pixel, in the map's unit.
        corner : tuple of float
            Offsets (East, North) of the first pixel's centre.
        """
        from astropy.wcs import WCS

        wcs = WCS(naxis=2)
        # `project` computes the zenithal equal-area projection.
        wcs.wcs.ctype = "RA---ZEA", "DEC--ZEA"
        wcs.wcs.cunit = "deg", "deg"
        wcs.wcs.crval = lonlat(self.axes[0])
        side = pixel * self.unit.to(u.deg)
        wcs.wcs.cdelt = -side, side
        wcs.wcs.crpix = corner[0] / pixel + 1, -corner[1] / pixel + 1
        wcs.wcs.lonpole = 180.0
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        return wcs

    def whole_wcs(self):
        """Return a WCS whose ``pixel_shape`` holds all images with a margin."""
        size = self.high - self.low
        margin = MARGIN * size.max()
        pixel = (size.max() + 2 * margin) / SIZE
        nx, ny = np.ceil((size + 2 * margin) / pixel).astype(int)
        wcs = self.wcs(pixel, (self.high[0] + margin, self.low[1] - margin))
        wcs.pixel_shape = int(nx), int(ny)
        return wcs


@share_parameters
def sky_wcs(result):
    """Return a WCS of all images of a result, for axes with sky coordinates.

    Parameters
    ----------
    <<result>>

    Returns
    -------
    wcs : `~astropy.wcs.WCS`
        WCS of an equal-area map, North up, whose ``pixel_shape`` holds all images.

    Examples
    --------
    Draw two plots side by side::

        figure = plt.figure()
        for k, show in enumerate(("before", "after"), start=1):
            ax = figure.add_subplot(1, 2, k, projection=sky_wcs(result))
            plot_mosaic(result, show=show, ax=ax)
    """
    return Chart(Diagnostics.of(result).frames).whole_wcs()


def has_sky(ax):
    """Return whether axes have sky coordinates."""
    return getattr(ax, "coords", None) is not None and getattr(ax, "wcs", None) is not None


def placed(ax, chart, vectors):
    """Return the positions of unit vectors in axes, shape (..., 2).

    Positions are pixels on axes with sky coordinates, otherwise offsets to East and North.
    """
    if not has_sky(ax):
        return chart.project(vectors)
    from astropy.coordinates import SkyCoord

    ra, dec = lonlat(np.asarray(vectors))
    return np.stack(ax.wcs.world_to_pixel(SkyCoord(ra, dec, unit="deg")), axis=-1)


def finish_sky(ax, chart):
    """Label the axes of a map; put East to the left on axes without sky coordinates."""
    if not has_sky(ax):
        ax.xaxis.set_inverted(True)
        chart.label_axes(ax)
        return
    ax.set_aspect("equal")
    for axis, label, kind in zip(ax.coords, ("RA", "Dec"), ("lon", "lat"), strict=False):
        if axis.coord_type not in ("longitude", "latitude"):
            continue
        axis.set_ticks(number=4 if kind == "lon" else 5)
        axis.set_ticklabel(exclude_overlapping=True, size="small")
        axis.set_axislabel(f"{label} (ICRS)", minpad=0.6)


def directions(grid, ys, xs):
    """Return unit vectors at rows and columns, shape (len(ys), len(xs), 3), by interpolation."""
    on_columns = interpolate(grid.nodes.swapaxes(0, 1), grid.xs, xs).swapaxes(0, 1)
    return interpolate(on_columns, grid.ys, ys)


# --------------------------------------------------------------------------------------
# Overlaps

# Largest number of sets that the legend names.
MAX_SETS = 4
# Largest ratio of width to height for a colour bar beside the map; for wider maps it is below.
WIDE = 1.6


@share_parameters
def plot_overlaps(result, ax=None):
    """Plot the footprints of the images on the sky, and the pairs that link them.

    The colour and the width of a link show the absolute residual of the pair divided by its
    standard error. A dashed link is a rejected pair. A star marks a reference. Footprints of
    disconnected sets have different colours.

    Parameters
    ----------
    <<result>>
    ax : `~matplotlib.axes.Axes` or None
        Axes to draw into, with or without sky coordinates; by default new axes with the
        coordinates of `sky_wcs`.

    <<axes>>
    """
    facts = Diagnostics.of(result)
    chart = Chart(facts.frames)
    ax = axes_or_new(ax, projection=chart.whole_wcs())
    _draw_footprints(ax, facts, chart)
    centres = placed(ax, chart, np.array([frame.grid.centre for frame in facts.frames]))
    width, height = chart.high - chart.low
    _draw_links(ax, facts, centres, wide=width > WIDE * height)
    size = 3 if len(centres) < 100 else 1.5
    ax.plot(*centres.T, "o", ms=size, color=GREY, zorder=3)
    held = np.array([frame.name in facts.references for frame in facts.frames])
    if held.any():
        ax.plot(*centres[held].T, "*", ms=13, color=STAR, mec=BEFORE, zorder=4, label="reference")
    if ax.get_legend_handles_labels()[1]:
        legend_above(ax)
    ax.autoscale_view()
    # Put the free space of a square map below it, not between the map and the legend.
    ax.set_anchor("N")
    finish_sky(ax, chart)
    return ax


def _draw_footprints(ax, facts, chart):
    """Draw the footprints of each set in its colour."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    footprints = [placed(ax, chart, frame.grid.polygon) for frame in facts.frames]
    n_sets = facts.sets.max() + 1
    for s in range(n_sets):
        colour = SETS[s % len(SETS)]
        members = np.flatnonzero(facts.sets == s)
        label = f"set {s + 1}: {count(len(members), 'image')}"
        ax.add_collection(
            PolyCollection(
                [footprints[k] for k in members],
                facecolor=to_rgba(colour, 0.06),
                edgecolor=colour,
                lw=0.6 if n_sets == 1 else 1.2,
                label=label if 1 < n_sets <= MAX_SETS else None,
            )
        )


def _draw_links(ax, facts, centres, wide):
    """Draw the pairs, and a colour bar for the kept pairs."""
    from matplotlib.collections import LineCollection

    if len(facts.pairs) == 0:
        return
    ends, kept, sigmas = facts.ends, facts.kept, np.nan_to_num(facts.n_sigma)
    # The largest residuals are drawn last, so that they lie on top.
    order = np.flatnonzero(kept)[np.argsort(sigmas[kept], kind="stable")]
    links = LineCollection(
        centres[ends[order]],
        array=sigmas[order],
        lw=1.0 + 0.4 * np.minimum(sigmas[order], MOST_SIGMA),
        zorder=2,
        cmap=link_colours(),
        clim=(0, MOST_SIGMA),
    )
    ax.add_collection(links)
    if not kept.all():
        style = {"colors": GREY, "lw": 0.8, "ls": "--", "label": "rejected pair"}
        ax.add_collection(LineCollection(centres[ends[~kept]], **style))
    # The colour bar is beside the map, or below a wide map.
    place = {"location": "bottom", "aspect": 30} if wide else {"shrink": 0.85, "pad": 0.02}
    add_colour_bar(ax, links, "|Residual| / \u03c3", extend="max", **place)
