# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Common pixel grids, and reprojection to them."""

import numpy as np
from astropy.wcs import WCS

from levelmatch.exceptions import FrameError
from levelmatch.sky.vectors import lonlat, tangent_axes

__all__ = ["common_grid", "reproject_to"]


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

    function = {
        "interp": reproject.reproject_interp,
        "exact": reproject.reproject_exact,
        "adaptive": reproject.reproject_adaptive,
    }[method]
    source = grid.transform.original
    out, footprint = function((image, source), wcs, shape_out=shape)
    out[footprint < 1 - 1e-6] = np.nan
    return out.astype(image.dtype, copy=False)
