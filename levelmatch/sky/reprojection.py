# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Common pixel grids, and reprojection to them."""

import numpy as np
from astropy.wcs import WCS
from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS

from levelmatch.exceptions import FrameError
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import lonlat, tangent_axes

__all__ = ["common_grid", "reproject_by_areas", "reproject_to"]

# Largest number of pixels that are computed at a time by areas, which takes about 0.3 s.
STRIP = 50_000
# Distance, in pixels, between the positions that show which pixels of an image are on a strip.
SPACING = 16
# Margin about these pixels.
MARGIN = 4


def common_grid(grids, *, overlap=False, scale=None):
    """Return a tangential WCS, North up, and a shape that hold all images or their overlap.

    Parameters
    ----------
    grids : list of `~levelmatch.sky.grid.Grid`
        The images.
    overlap : bool
        Whether to hold only the area shared by all images.
    scale : float or None
        Side of a pixel, in degrees; by default the pixel side of the finest image.

    Returns
    -------
    wcs, shape : `~astropy.wcs.WCS`, tuple of int
        The WCS and the shape (ny, nx); `None` if the images share no area.

    Raises
    ------
    FrameError
        If an image lies about 90 degrees or more from the common centre.
    """
    axes = tangent_axes(np.sum([grid.centre for grid in grids], axis=0))
    if scale is None:
        scale = np.degrees(np.sqrt(min(grid.pixel_area for grid in grids)))
    low, high = [], []
    for grid in grids:
        w = grid.polygon @ axes[0]
        if not w.min() > 0.02:
            msg = (
                f"{grid.transform.name}: a plane cannot hold images so far apart; give a wcs "
                "that can, or fewer images"
            )
            raise FrameError(msg)
        # Pixels on the tangent plane: x toward West, y toward North.
        x = -np.degrees(grid.polygon @ axes[1] / w) / scale
        y = np.degrees(grid.polygon @ axes[2] / w) / scale
        low.append((x.min(), y.min()))
        high.append((x.max(), y.max()))
    low = np.max(low, axis=0) if overlap else np.min(low, axis=0)
    high = np.min(high, axis=0) if overlap else np.max(high, axis=0)
    low, high = np.floor(low).astype(int), np.ceil(high).astype(int)
    nx, ny = high - low + 1
    if nx < 2 or ny < 2:
        return None
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = lonlat(axes[0])
    wcs.wcs.cdelt = -scale, scale
    wcs.wcs.crpix = 1 - low
    wcs.array_shape = int(ny), int(nx)
    return wcs, (int(ny), int(nx))


def reproject_to(image, grid, wcs, shape, method):
    """Return an image reprojected to another grid, NaN where it has no good pixel.

    Parameters
    ----------
    image : 2D `~numpy.ndarray`
        The image, NaN where bad.
    grid : `~levelmatch.sky.grid.Grid`
        Position of the image.
    wcs : `~astropy.wcs.WCS`
        The other grid.
    shape : tuple of int
        Its shape (ny, nx).
    method : {"interp", "exact", "adaptive"}
        Name of the function of `reproject`.
    """
    import reproject

    if method == "exact":
        out, footprint = reproject_by_areas(image, grid, wcs, shape)
    else:
        functions = {"interp": reproject.reproject_interp, "adaptive": reproject.reproject_adaptive}
        source = grid.transform.for_others(image.shape)
        out, footprint = functions[method]((image, source), wcs, shape_out=shape)
    out[footprint < 1 - 1e-6] = np.nan
    return out.astype(image.dtype, copy=False)


def reproject_by_areas(planes, grid, wcs, shape):
    """Return images reprojected by `~reproject.reproject_exact`, and their footprints.

    `~reproject.reproject_exact` transforms all pixels of an image and does not react to an
    interrupt. Therefore it is called for one strip of rows at a time, with the pixels that can
    fall on it.

    Parameters
    ----------
    planes : `~numpy.ndarray`, shape (..., ny, nx)
        Images on one grid, NaN where bad.
    grid : `~levelmatch.sky.grid.Grid`
        Their position.
    wcs : `~astropy.wcs.WCS` or APE 14 WCS
        The other grid.
    shape : tuple of int
        Its shape.

    Returns
    -------
    out, footprints : `~numpy.ndarray`, shape (..., *shape)
        Pixels, and the fraction of each that the image covers.
    """
    from reproject import reproject_exact

    source = grid.transform.for_others(planes.shape[-2:])
    sky = SkyTransform(wcs, "grid")
    out = np.full((*planes.shape[:-2], *shape), np.nan)
    footprints = np.zeros(out.shape)
    rows = max(STRIP // shape[1], 1)
    for start in range(0, shape[0], rows):
        # Bad pixels that only touch the edge of a grid spoil its first row.
        low, high = max(start - 1, 0), min(start + rows + 1, shape[0])
        box = _pixels_on_strip(sky, grid, planes.shape[-2:], (low, high), shape[1])
        if box is None:
            continue
        section = slice(low, high), slice(0, shape[1])
        part = wcs[section] if isinstance(wcs, WCS) else _section(wcs, section)
        image = np.ascontiguousarray(planes[(..., *box)]), _section(source, box)
        strip = reproject_exact(image, part, shape_out=(*out.shape[:-2], high - low, shape[1]))
        for plane, values in zip((out, footprints), strip, strict=True):
            plane[..., start : start + rows, :] = values[..., start - low :, :][..., :rows, :]
    return out, footprints


def _section(wcs, slices):
    """Return the APE 14 WCS of a section of a grid."""
    return HighLevelWCSWrapper(SlicedLowLevelWCS(getattr(wcs, "low_level_wcs", wcs), slices))


def _pixels_on_strip(sky, grid, shape, rows, width):
    """Return the slices of an image that hold its pixels on a strip of rows; `None` if none."""
    y = np.linspace(rows[0] - 1, rows[1], (rows[1] - rows[0]) // SPACING + 3)
    x = np.linspace(-1, width, width // SPACING + 3)
    places = grid.transform.to_pixel(sky.to_sky(*np.meshgrid(x, y)))
    box = []
    for values, n in zip(reversed(places), shape, strict=True):
        if not np.isfinite(values).all():
            return slice(0, shape[0]), slice(0, shape[1])
        low = max(int(np.floor(values.min())) - MARGIN, 0)
        high = min(int(np.ceil(values.max())) + MARGIN + 1, n)
        if low >= high:
            return None
        box.append(slice(low, high))
    return tuple(box)
