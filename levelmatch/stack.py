# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Common grids and stacked tiles, through reproject."""

import numpy as np
from astropy.nddata import CCDData
from astropy.wcs import WCS

from levelmatch.exceptions import NoOverlapError
from levelmatch.sky import lonlat, tangent_axes

__all__ = ["common_grid", "reproject_to", "stack_frames"]

METHODS = ("interp", "exact", "adaptive")


def common_grid(grids, *, overlap=False):
    """Return a tangential WCS, North up, and the shape that holds all images, or their overlap.

    Parameters
    ----------
    grids : list of `~levelmatch.sky.Grid`
        The images.
    overlap : bool
        Hold only what all of them share.

    Returns
    -------
    wcs, shape : `~astropy.wcs.WCS`, tuple of int
        With the pixel scale of the finest image; `None` if they share nothing.
    """
    axes = tangent_axes(np.sum([grid.centre for grid in grids], axis=0))
    scale = np.degrees(np.sqrt(min(grid.pixel_area for grid in grids)))
    low, high = [], []
    for grid in grids:
        w = grid.polygon @ axes[0]
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
    """Return an image on another grid, NaN where it has no good pixel.

    Parameters
    ----------
    image : 2D `~numpy.ndarray`
        The image, NaN where bad.
    grid : `~levelmatch.sky.Grid`
        Where it lies.
    wcs : `~astropy.wcs.WCS`
        The other grid.
    shape : tuple of int
        Its shape.
    method : {"interp", "exact", "adaptive"}
        The function of `reproject`.
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


def _window(grid, wcs, shape):
    """Return the slices (y, x) of a common grid that hold an image."""
    x, y = wcs.world_to_pixel_values(*lonlat(grid.polygon))
    return tuple(
        slice(max(int(np.floor(values.min())) - 1, 0), min(int(np.ceil(values.max())) + 2, n))
        for values, n in ((y, shape[0]), (x, shape[1]))
    )


def stack_frames(frames, *, method="interp", name=None, unit=None):
    """Return one image of several: their mean on a common grid.

    Parameters
    ----------
    frames : list of `~levelmatch.frames.Frame`
        The images, with their corrections.
    method : {"interp", "exact", "adaptive"}
        See `reproject_to`.
    name : str
        The ``FILENAME`` of the result.
    unit : `~astropy.units.Unit` or None
        The frames' common unit.

    Returns
    -------
    stack : `~astropy.nddata.CCDData`
        Mean, in the frames' common unit, and mask, True where no image is good.
    """
    if method not in METHODS:
        msg = f"method: {method!r} is none of {METHODS}"
        raise ValueError(msg)
    wcs, shape = common_grid([frame.grid for frame in frames])
    total = np.zeros(shape)
    count = np.zeros(shape, dtype=np.int32)
    for frame in frames:
        # Only where the image lies: reproject takes time for every pixel it is asked for.
        window = _window(frame.grid, wcs, shape)
        size = tuple(part.stop - part.start for part in window)
        plane = reproject_to(frame.load(), frame.grid, wcs[window], size, method)
        good = np.isfinite(plane)
        total[window][good] += plane[good]
        count[window] += good
    if not count.any():
        msg = f"{name}: the stacked images have no good pixel"
        raise NoOverlapError(msg)
    mean = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    return CCDData(
        mean.astype(np.float32),
        mask=count == 0,
        wcs=wcs,
        unit=unit or "",
        meta={"FILENAME": name},
    )
