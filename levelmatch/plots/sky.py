# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Map of the sky about the centre of all images."""

import numpy as np
from astropy import units as u

from levelmatch.images.corrections import interpolate
from levelmatch.plots.style import new_figure, signed
from levelmatch.sky.vectors import lonlat, tangent_axes

__all__ = ["Chart", "directions", "sky_axes", "sky_wcs"]

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


def sky_wcs(result):
    """Return a WCS of all images of a result, for axes with sky coordinates.

    Parameters
    ----------
    result : `~levelmatch.MatchResult` or record
        The result, or its record.

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
    return Chart(result.frames).whole_wcs()


def sky_axes(ax, wcs):
    """Return the given axes, or axes of a new figure with the sky coordinates of a WCS."""
    return new_figure().add_subplot(projection=wcs) if ax is None else ax


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
