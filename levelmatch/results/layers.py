# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images of a mosaic: their positions, pixels and weights on its grid."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import InverseVariance, NDUncertainty
from astropy.wcs import WCS
from astropy.wcs.wcsapi import SlicedLowLevelWCS

from levelmatch.exceptions import FrameError
from levelmatch.images.frame import Frame
from levelmatch.images.mask_arrays import known_partner
from levelmatch.images.roman import AsdfSource
from levelmatch.images.sources import FileSource, read_uncertainty
from levelmatch.sky.grid import Grid
from levelmatch.sky.reprojection import reproject_by_areas
from levelmatch.sky.transform import IcrsWCS, SkyTransform
from levelmatch.sky.vectors import unit_vectors

__all__ = ["METHODS", "Box", "Layers", "MosaicGrid", "reproject_layer"]


METHODS = ("interp", "exact", "adaptive")
# Largest side of a mosaic pixel, in image pixels, for interpolation. Larger pixels are averages.
COARSE = 1.5
# Largest memory of the images that are kept between tiles, in bytes.
CACHE = 1 << 26
# Largest number of pixels of a mosaic in memory and in a file.
MOST_PIXELS = {"memory": 1 << 31, "file": 1 << 37}

# Limits (y0, y1, x0, x1) of a section of the mosaic.
Box = tuple[int, int, int, int]


# --------------------------------------------------------------------------------------
# Grids


class MosaicGrid:
    """Pixel grid of a mosaic.

    Parameters
    ----------
    wcs : APE 14 WCS
        The WCS of the mosaic.
    shape : tuple of int
        The shape of the mosaic, (ny, nx).
    where : {"memory", "file"}
        Storage of the mosaic.

    Raises
    ------
    ValueError
        If the mosaic has too many pixels.
    """

    def __init__(self, wcs: Any, shape: tuple[int, int], where: str) -> None:
        if shape[0] * shape[1] > MOST_PIXELS[where]:
            msg = f"the mosaic would have {shape[0]} x {shape[1]} pixels; give a larger pixel_scale"
            if where == "memory":
                msg += ", or an output file"
            raise ValueError(msg)
        self.wcs = wcs
        self.shape = shape
        self.transform = SkyTransform(wcs, "wcs")

    def box(self, grid: Grid) -> tuple[Box | None, bool]:
        """Return the section that an image covers, and whether the image is in one piece.

        An image on a seam or a pole of the mosaic's projection is not in one piece. Its section
        has the full width or height of the mosaic. The section is `None` for an image outside
        of the mosaic.
        """
        x, y = self.transform.to_pixel(grid.nodes)
        bounds, whole = [], True
        for values, n in ((y, self.shape[0]), (x, self.shape[1])):
            good = np.isfinite(values)
            if not good.any():
                return None, False
            # At a seam or a pole, neighbouring nodes are far apart.
            steps = np.concatenate([np.abs(np.diff(values, axis=k)).ravel() for k in (0, 1)])
            steps = steps[np.isfinite(steps)]
            smooth = bool(good.all() and steps.max() < 10 * np.median(steps) + 10)
            whole &= smooth
            margin = 2 if smooth else n
            low, high = np.nanmin(values) - margin, np.nanmax(values) + margin
            bounds += [max(int(np.floor(low)), 0), min(int(np.ceil(high)) + 1, n)]
        y0, y1, x0, x1 = bounds
        return (None if y0 >= y1 or x0 >= x1 else (y0, y1, x0, x1)), whole

    def part(self, box: Box) -> Any:
        """Return the WCS of a section of the grid."""
        y0, y1, x0, x1 = box
        slices = slice(y0, y1), slice(x0, x1)
        if isinstance(self.wcs, WCS):
            return self.wcs[slices]
        return SlicedLowLevelWCS(getattr(self.wcs, "low_level_wcs", self.wcs), slices)


class LayerWCS(IcrsWCS):
    """APE 14 WCS of an image, with its pixels and parameters of reprojection.

    The transformation is the compiled map of the image's grid, with errors below 0.005 pixel.

    Parameters
    ----------
    grid : `~levelmatch.sky.grid.Grid`
        The position of the image.
    arrays : `~numpy.ndarray`, shape (1 or 2, ny, nx)
        The pixels, and their weights if each pixel has its own.
    weight : float
        Weight of the image.
    method : {"interp", "exact", "adaptive"}
        Name of the function of `reproject`.
    ratio : float
        Side of a mosaic pixel, in image pixels.
    whole : bool
        Whether the image is in one piece on the mosaic.
    """

    def __init__(
        self,
        grid: Grid,
        arrays: np.ndarray,
        weight: float,
        method: str,
        ratio: float,
        whole: bool,
    ) -> None:
        super().__init__(grid.transform, grid.shape)
        self.grid = grid
        self.arrays = arrays
        self.weight = weight
        self.method = method
        # Averages need positions beyond the edges of the image.
        self.margin = 1 if method == "interp" else 3 + 3 * ratio
        self.whole = whole

    def pixel_to_world_values(self, x: np.ndarray, y: np.ndarray) -> Any:
        """Return longitude and latitude; NaN for an image that is not in one piece.

        `reproject_and_coadd` finds the section of an image from the positions of its edge. If a
        position is NaN, it uses the whole mosaic.
        """
        if not self.whole:
            return np.full((2, *np.shape(x)), np.nan)
        return super().pixel_to_world_values(x, y)

    def world_to_pixel_values(self, lon: np.ndarray, lat: np.ndarray) -> Any:
        return self.grid.to_pixel(unit_vectors(lon, lat), margin=self.margin)


# --------------------------------------------------------------------------------------
# Images


class Layers:
    """Images on the grid of a mosaic.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, with their corrections and scales.
    grid : `MosaicGrid`
        The grid.
    weights : None, "ivar" or `~numpy.ndarray`
        Weights of the images.
    method : str
        See `~levelmatch.make_mosaic`.

    Raises
    ------
    ValueError
        If a pixel of the mosaic is larger than a quarter of an image's side.
    """

    def __init__(
        self, frames: list[Frame], grid: MosaicGrid, weights: Any, method: str = "auto"
    ) -> None:
        self.frames = frames
        self.grid = grid
        self.weights = weights
        placed = [grid.box(frame.grid) for frame in frames]
        self.boxes = [box for box, _ in placed]
        self.whole = [whole for _, whole in placed]
        self.ratios = [self._pixel_ratio(k) for k in range(len(frames))]
        self.methods = [
            ("adaptive" if ratio > COARSE else "interp") if method == "auto" else method
            for ratio in self.ratios
        ]
        self._check_ratios()
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def _pixel_ratio(self, k: int) -> float:
        """Return the side of a mosaic pixel, in image pixels, in the middle of its section."""
        box = self.boxes[k]
        if box is None:
            return 1.0
        y0, y1, x0, x1 = box
        x, y = np.array([0.5, -0.5, 0]) + (x0 + x1) / 2, np.array([0, 0, 0.5]) + (y0 + y1) / 2
        right, left, up = self.grid.transform.to_sky(x, y)
        area = np.linalg.norm(np.cross(right - left, 2 * up - right - left))
        return float(np.sqrt(area / self.frames[k].grid.pixel_area))

    def _check_ratios(self) -> None:
        """Refuse mosaic pixels that average over a large fraction of an image."""
        for frame, ratio, method in zip(self.frames, self.ratios, self.methods, strict=True):
            if method == "adaptive" and ratio > min(frame.shape) / 4:
                msg = (
                    f"{frame.name}: a pixel of the mosaic is {ratio:.3g} pixels of this image of "
                    f"{frame.shape[0]} x {frame.shape[1]}; give smaller pixels"
                )
                raise ValueError(msg)

    def touching(self, box: Box) -> dict[int, Box]:
        """Return the part of a section that each image covers, by index of the image."""
        covered = {}
        for k, section in enumerate(self.boxes):
            if section is not None:
                y0, y1 = max(section[0], box[0]), min(section[1], box[1])
                x0, x1 = max(section[2], box[2]), min(section[3], box[3])
                if y0 < y1 and x0 < x1:
                    covered[k] = y0, y1, x0, x1
        return covered

    def load(self, k: int) -> tuple[np.ndarray, LayerWCS]:
        """Return the pixels and the WCS of an image; keep the latest images in memory."""
        frame, by_image = self.frames[k], isinstance(self.weights, np.ndarray)
        wcs = LayerWCS(
            frame.grid,
            self._arrays(k),
            float(self.weights[k]) if by_image else 1.0,
            self.methods[k],
            self.ratios[k],
            self.whole[k],
        )
        return wcs.arrays[0], wcs

    def _arrays(self, k: int) -> np.ndarray:
        """Return the pixels of an image, and their weights if each pixel has its own."""
        if k in self._kept:
            self._kept.move_to_end(k)
            return self._kept[k]
        arrays = self.frames[k].load()[None]
        if isinstance(self.weights, str):
            arrays = np.concatenate([arrays, _inverse_variance(self.frames[k])[None]])
            arrays[0][~np.isfinite(arrays[1])] = np.nan
        self._kept[k] = arrays
        while len(self._kept) > 1 and sum(p.nbytes for p in self._kept.values()) > CACHE:
            self._kept.popitem(last=False)
        return arrays


def _inverse_variance(frame: Frame) -> np.ndarray:
    """Return the inverse variance of an image in the common unit, NaN where unknown."""
    source = frame.source
    if isinstance(source, AsdfSource):
        ivar = _as_inverse_variance(frame.name, source.uncertainty())
    elif isinstance(source, FileSource):
        with source.opened() as hdus:
            k = known_partner(hdus, source.hdu, "VAR_RNOISE")
            if k is not None and hdus[k].shape == frame.shape:
                with np.errstate(divide="ignore"):
                    ivar = 1 / np.asarray(hdus[k].data, dtype=float)
            else:
                uncertainty = read_uncertainty(hdus, source.hdu, frame.shape)
                ivar = _as_inverse_variance(frame.name, uncertainty)
    else:
        ivar = _as_inverse_variance(frame.name, source.image.uncertainty, source.image.unit)
    ivar = ivar / frame.scale**2
    return np.where(np.isfinite(ivar) & (ivar > 0), ivar, np.nan)


def _as_inverse_variance(
    name: str, uncertainty: NDUncertainty | None, unit: u.UnitBase | None = None
) -> np.ndarray:
    """Return an uncertainty as inverse variance; refuse a missing or unknown one.

    Negative values mark bad pixels. An uncertainty may have another unit than its image.
    """
    remedy = "give a header keyword, numbers, or no weights"
    if uncertainty is None:
        msg = f"{name}: weights='ivar': the image has no uncertainty; {remedy}"
        raise FrameError(msg)
    try:
        with np.errstate(divide="ignore"):
            inverse = uncertainty.represent_as(InverseVariance)
    except (TypeError, AttributeError) as error:
        kind = type(uncertainty).__name__
        msg = f"{name}: weights='ivar': the kind of uncertainty ({kind}) is not known; {remedy}"
        raise FrameError(msg) from error
    ivar = np.where(np.asarray(uncertainty.array) > 0, np.asarray(inverse.array, dtype=float), 0.0)
    if unit is not None and inverse.unit is not None:
        try:
            ivar *= inverse.unit.to(unit**-2)
        except u.UnitsError as error:
            # The image's unit was changed after the uncertainty was given.
            msg = (
                f"{name}: weights='ivar': the unit of the uncertainty ({uncertainty.unit}) does "
                f"not belong to that of the image ({unit}); correct one of them"
            )
            raise FrameError(msg) from error
    return ivar


# --------------------------------------------------------------------------------------
# Reprojection


def reproject_layer(
    input_data: tuple[np.ndarray, Any], output_projection: Any, shape_out: tuple[int, int], **_: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image reprojected to another grid, and its weights on this grid.

    This function is an argument of `reproject_and_coadd`, which uses the weights as footprint.

    Parameters
    ----------
    input_data : tuple
        The pixels and the `LayerWCS` of an image.
    output_projection : APE 14 WCS
        The WCS of the other grid.
    shape_out : tuple of int
        Its shape (ny, nx).

    Returns
    -------
    values, weights : 2D `~numpy.ndarray`
        Values and weights; NaN and 0 without a good pixel.
    """
    wcs = getattr(input_data[1], "low_level_wcs", input_data[1])
    if 0 in shape_out:
        return np.zeros(shape_out), np.zeros(shape_out)
    arrays = _FUNCTIONS[wcs.method](wcs, output_projection, shape_out)
    values = arrays[0]
    weights = arrays[1] if len(arrays) > 1 else np.full(shape_out, wcs.weight)
    bad = ~(np.isfinite(values) & np.isfinite(weights) & (weights > 0))
    values[bad], weights[bad] = np.nan, 0
    return values, weights


def _interp(layer: LayerWCS, wcs: Any, shape: tuple[int, int]) -> np.ndarray:
    """Interpolate good pixels bilinearly; NaN where bad pixels have half of the weight or more.

    An image with a border of bad pixels thus gives the same as the image without it.
    """
    from reproject import reproject_interp

    arrays, good = layer.arrays, np.isfinite(layer.arrays[0])
    some_bad = not good.all()
    if some_bad:
        # A bad neighbour would count even if its weight is zero.
        arrays = np.concatenate([arrays, good[None]])
        arrays[:-1, ~good] = 0
    out = reproject_interp(
        (arrays, layer),
        wcs,
        shape_out=shape,
        return_footprint=False,
        roundtrip_coords=False,
    )
    if not some_bad:
        return out
    weight = np.where(out[-1] > 0.5, out[-1], np.nan)
    return out[:-1] / weight


def _exact(layer: LayerWCS, wcs: Any, shape: tuple[int, int]) -> np.ndarray:
    out, footprint = reproject_by_areas(layer.arrays, layer.grid, wcs, shape)
    out[footprint < 1 - 1e-6] = np.nan
    return out


def _adaptive(layer: LayerWCS, wcs: Any, shape: tuple[int, int]) -> np.ndarray:
    """Average good pixels; NaN where bad pixels have half of the weight or more."""
    from reproject import reproject_adaptive

    good = np.isfinite(layer.arrays[0])
    out = reproject_adaptive(
        (np.concatenate([layer.arrays, good[None]]), layer),
        wcs,
        shape_out=shape,
        return_footprint=False,
        roundtrip_coords=False,
        bad_value_mode="ignore",
        boundary_mode="ignore_threshold",
    )
    edge = ~np.isfinite(out[-1])
    out[:-1, ~(out[-1] > 0.5)] = np.nan
    if _reaches_an_edge(wcs, shape):
        # The size of a pixel at an edge of the projection is unknown, so its value is interpolated.
        y, x = np.nonzero(edge)
        beside = ~np.isfinite(
            [wcs.pixel_to_world_values(x + i, y + j) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        ).all(axis=(0, 1))
        y, x = y[beside], x[beside]
        out[:-1, y, x] = _interpolated(layer, wcs.pixel_to_world_values(x, y))
    return out[:-1]


_FUNCTIONS: dict[str, Callable] = {"interp": _interp, "exact": _exact, "adaptive": _adaptive}


def _reaches_an_edge(wcs: Any, shape: tuple[int, int]) -> bool:
    """Return whether the projection ends at the border of a grid or one pixel outside."""
    ny, nx = shape
    y, x = np.ogrid[-1 : ny + 1, -1 : nx + 1]
    ring = (x < 0) | (x == nx) | (y < 0) | (y == ny)
    y, x = np.nonzero(ring)
    return not np.isfinite(wcs.pixel_to_world_values(x - 1, y - 1)).all()


def _interpolated(layer: LayerWCS, sky: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return interpolated values at sky positions, NaN off the image and beside bad pixels."""
    from scipy.ndimage import map_coordinates

    x, y = layer.world_to_pixel_values(*sky)
    ny, nx = layer.grid.shape
    inside = (np.abs(x - (nx - 1) / 2) <= nx / 2) & (np.abs(y - (ny - 1) / 2) <= ny / 2)
    out = np.full((len(layer.arrays), len(x)), np.nan)
    for values, array in zip(out, layer.arrays, strict=True):
        places = y[inside], x[inside]
        values[inside] = map_coordinates(array, places, order=1, mode="nearest")
    return out
