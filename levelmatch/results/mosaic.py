# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A quick-look mosaic, tile by tile, through reproject."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.wcsapi import BaseLowLevelWCS, SlicedLowLevelWCS

from levelmatch.atomic import atomic_path
from levelmatch.exceptions import FrameError, NoOverlapError
from levelmatch.images.collect import collect_frames
from levelmatch.images.fits_files import partner_hdu
from levelmatch.images.scales import compare_scales, image_values
from levelmatch.images.sources import FileSource
from levelmatch.options import ReadOptions
from levelmatch.results.corrected import read_uncertainty
from levelmatch.results.files import file_identity
from levelmatch.sky.reprojection import common_grid
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import lonlat, unit_vectors

__all__ = ["make_mosaic", "scaled_frames", "stack_frames"]


METHODS = ("interp", "exact", "adaptive")
COMBINE = ("mean", "median")
# Coarser pixels than this, in those of the finest image, are averages of several.
COARSE = 1.5
# Images that are kept between tiles, in bytes.
CACHE = 1 << 28
# Reprojected images that a median of a tile holds at once, in bytes.
STACK = 1 << 29
# Pixels of a mosaic in memory, and in a file: more was hardly meant.
MOST_PIXELS = {"memory": 1 << 31, "file": 1 << 37}


def make_mosaic(
    images,
    *,
    output=None,
    wcs=None,
    shape=None,
    pixel_scale=None,
    combine="mean",
    weights=None,
    method="auto",
    tile_size=1024,
    overwrite=False,
    progress_bar=None,
    dq_bits=None,
    hdu=None,
):
    """Reproject images to one grid and combine them, in memory or into a FITS file.

    For a look at what matching did, and for photometry of extended emission; it does not
    drizzle. The mosaic is made in tiles, and of each tile only the images that touch
    it are read, so that memory does not grow with the size of the mosaic or the
    number of images. The result does not depend on the size of the tiles.

    Parameters
    ----------
    images : `MatchResult`, iterable, mapping or `~ccdproc.ImageFileCollection`
        A result, whose corrections are applied, or images as for `match_dithers`, as they are.
    output : path or None
        FITS file to write, its parent folder made where it is missing; by default the mosaic is
        returned.
    wcs : `~astropy.wcs.WCS`, APE 14 WCS, `~astropy.io.fits.Header` or None
        The grid, any celestial one. By default tangential with North up, and large
        enough for all images.
    shape : tuple of int or None
        Shape (ny, nx) of ``wcs``, if it does not have one.
    pixel_scale : float, `~astropy.units.Quantity` or None
        Side of a pixel, in arcsec if a number, where there is no ``wcs``; by default
        that of the finest image.
    combine : {"mean", "median"}
        How the images that cover a pixel are combined.
    weights : None, "ivar", str, sequence or mapping
        Weights of the mean: none; the inverse variance of each pixel, of the read
        noise alone (``VAR_RNOISE``) where a file has it, as in JWST's resampling, since
        noise that grows with the signal biases a mean; a header keyword, such as ``"XPOSURE"``; or
        a number an image, in the order of the input or by name.
    method : {"auto", "interp", "exact", "adaptive"}
        The function of `reproject`: ``"auto"`` is bilinear interpolation, or
        ``"adaptive"`` for pixels more than 1.5 times as large as those of an image, so
        that all of its pixels count.
    tile_size : int or tuple of int
        Pixels of a tile, or (ny, nx) of it.
    overwrite : bool
        Whether a file may be replaced.
    progress_bar : callable or None
        Wraps an iterable over the tiles, as `tqdm.tqdm` does.
    dq_bits, hdu
        See `match_dithers`.

    Returns
    -------
    mosaic : `~astropy.nddata.CCDData` or `~pathlib.Path`
        In float32, masked and NaN where there is no image, in the unit of the first image by
        name (units per pixel: of that image's pixels, whatever the mosaic's are). With
        ``output``, the file, with the mosaic in its first extension and the coverage
        in the extension COVERAGE.
    coverage : `~numpy.ndarray`
        Number of images, or sum of their weights, at each pixel; only without ``output``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not understood; the message names it.
    FileExistsError
        If the file is there and ``overwrite`` is not set.
    FrameError
        If an image cannot be used.
    NoOverlapError
        If no image has a good pixel on the grid.
    `~astropy.units.UnitsError`
        If units cannot be compared.

    See Also
    --------
    stack_tile : The mean of one tile's images, on their own grid.
    """
    _check_words(combine, weights, method, progress_bar)
    tile = _tile_shape(tile_size)
    path = None if output is None else _check_output(output, overwrite)
    frames, unit = scaled_frames(images, ReadOptions(dq_bits=dq_bits, hdu=hdu))
    if path is not None:
        _check_inputs(path, frames)
    where = "memory" if path is None else "file"
    target = _Target(*_output_grid(frames, wcs, shape, pixel_scale), where)
    layers = _Layers(frames, target, combine, _weights_of(frames, weights), method)
    if path is None:
        planes = _empty_planes(target.shape, layers.weighted)
        _fill(planes, layers, tile, progress_bar)
        mosaic = CCDData(
            planes[0], mask=planes[1] == 0, wcs=target.wcs, unit=unit or "", meta=_cards(layers)
        )
        return mosaic, planes[1]
    with atomic_path(path) as part, _file_planes(part, target, layers, unit) as planes:
        _fill(planes, layers, tile, progress_bar)
    return path


def stack_frames(frames, *, method="interp", name=None, unit=None):
    """Return one image of several: their mean on a common grid.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, with their corrections.
    method : {"interp", "exact", "adaptive"}
        The function of `reproject`.
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
    target = _Target(*_output_grid(frames, None, None, None), "memory")
    planes = _empty_planes(target.shape, weighted=False)
    layers = _Layers(frames, target, "mean", None, method)
    try:
        _fill(planes, layers, target.shape, None)
    except NoOverlapError as error:
        msg = f"{name}: the stacked images have no good pixel; look at their masks and flags"
        raise NoOverlapError(msg) from error
    mean, count = planes
    return CCDData(mean, mask=count == 0, wcs=target.wcs, unit=unit or "", meta={"FILENAME": name})


def scaled_frames(images, read=None):
    """Return the frames of any input, with the factors to a common unit, and that unit.

    A result's images keep the factors, of flux scales too, by which they were compared.

    Parameters
    ----------
    images, read
        See `~levelmatch.images.collect.collect_frames`.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    unit : `~astropy.units.Unit` or None
        Their common unit.
    """
    frames = collect_frames(images, read)
    if hasattr(images, "frames"):
        return _with_lyot_pixels(frames), images.unit
    scales, unit = compare_scales(frames)
    return [f.with_keys(scale=s) for f, s in zip(frames, scales, strict=True)], unit


def _with_lyot_pixels(frames):
    """Return the frames, whole where their Lyot region was left out of the comparison only."""
    split = {frame.product for frame in frames if frame.part == "lyot"}
    return [
        frame if frame.part == "lyot" or frame.product in split else frame.with_keys(region=None)
        for frame in frames
    ]


# --------------------------------------------------------------------------------------
# Arguments


def _check_words(combine, weights, method, progress_bar):
    for name, value, words in (
        ("combine", combine, COMBINE),
        ("method", method, ("auto", *METHODS)),
    ):
        if value not in words:
            msg = f"{name}: {value!r} is none of {words}"
            raise ValueError(msg)
    if weights is not None and combine == "median":
        msg = "weights: they are those of a mean; combine='median' takes none"
        raise ValueError(msg)
    if progress_bar is not None and not callable(progress_bar):
        msg = f"progress_bar: {progress_bar!r} is not callable; give for example tqdm.tqdm"
        raise TypeError(msg)


def _pair_of_sizes(name, value, least):
    """Return two whole numbers, or raise in the name of an argument."""
    good = isinstance(value, list | tuple) and len(value) == 2
    if not good or any(isinstance(n, bool) or not isinstance(n, Integral) for n in value):
        msg = f"{name}: {value!r}: expected two whole numbers, (ny, nx)"
        raise TypeError(msg)
    if min(value) < least:
        msg = f"{name}: {tuple(value)}: expected {least} pixels or more a side"
        raise ValueError(msg)
    return int(value[0]), int(value[1])


def _tile_shape(size):
    return _pair_of_sizes("tile_size", (size, size) if isinstance(size, Real) else size, 16)


def _check_output(output, overwrite):
    """Return the path of the file, which may be written."""
    if not isinstance(output, str | Path):
        msg = f"output: expected a path, not {type(output).__name__}"
        raise TypeError(msg)
    path = Path(output)
    if path.suffix not in (".fits", ".fit", ".fts"):
        msg = f"output: {path.name!r} does not end in .fits; a compressed file cannot be filled"
        raise ValueError(msg)
    if path.exists() and not overwrite:
        msg = f"{path} exists; overwrite=True replaces it"
        raise FileExistsError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_inputs(path, frames):
    output = file_identity(path)
    for frame in frames:
        source = getattr(frame.source, "path", None)
        if source is not None and output is not None and file_identity(source) == output:
            msg = f"{frame.name}: output: {path} is this input; name another file"
            raise FrameError(msg)


def _output_grid(frames, wcs, shape, pixel_scale):
    """Return the WCS and the shape of the mosaic."""
    if wcs is None:
        if shape is not None:
            msg = f"shape: {shape!r} is that of a wcs, and there is none; give wcs too"
            raise ValueError(msg)
        return _own_grid(frames, _scale_in_degrees(pixel_scale))
    if pixel_scale is not None:
        msg = "pixel_scale: the wcs has one; give one of the two"
        raise ValueError(msg)
    return _given_grid(wcs, shape)


def _own_grid(frames, scale):
    """Return a grid that holds all images, of a pixel scale in degrees or of the finest image."""
    grids = [frame.grid for frame in frames]
    finest = np.degrees(np.sqrt(min(grid.pixel_area for grid in grids)))
    grid = None
    if scale is None or 1e-4 < scale / finest < 1e5:
        grid = common_grid(grids, scale=scale)
    if grid is None:
        msg = f"pixel_scale: {3600 * scale:g} arcsec, where an image has {3600 * finest:g} arcsec"
        raise ValueError(msg)
    return grid


def _scale_in_degrees(pixel_scale):
    if pixel_scale is None:
        return None
    try:
        scale = u.Quantity(pixel_scale, u.arcsec if isinstance(pixel_scale, Real) else None)
        value = float(scale.to_value(u.deg))
    except (TypeError, ValueError) as error:
        msg = f"pixel_scale: {pixel_scale!r}: expected an angle, or a number of arcsec"
        raise TypeError(msg) from error
    if not (np.isfinite(value) and value > 0):
        msg = f"pixel_scale: {pixel_scale!r} is not positive"
        raise ValueError(msg)
    return value


def _given_grid(wcs, shape):
    if isinstance(wcs, fits.Header):
        header = wcs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(header, naxis=2)
        if shape is None and "NAXIS1" in header and "NAXIS2" in header:
            shape = header["NAXIS2"], header["NAXIS1"]
    if not hasattr(wcs, "world_to_pixel_values") and not hasattr(wcs, "low_level_wcs"):
        msg = f"wcs: expected a WCS or a FITS header, not {type(wcs).__name__}"
        raise TypeError(msg)
    if shape is None:
        shape = getattr(wcs, "array_shape", None)
    if shape is None:
        msg = "shape: the wcs has none; give shape=(ny, nx)"
        raise ValueError(msg)
    return wcs, _pair_of_sizes("shape", tuple(shape), 1)


def _weights_of(frames, weights):
    """Return ``"ivar"``, a number for each frame, or `None`."""
    if weights is None or (isinstance(weights, str) and weights == "ivar"):
        return weights
    if not isinstance(weights, str | Mapping | list | tuple | np.ndarray):
        msg = f"weights: {weights!r} is neither 'ivar', a keyword, nor numbers of the images"
        raise TypeError(msg)
    return image_values(frames, weights, "weights")


# --------------------------------------------------------------------------------------
# Grids


class _Target:
    """The mosaic's grid.

    Parameters
    ----------
    wcs : APE 14 WCS
        Its WCS.
    shape : tuple of int
        Its shape, (ny, nx).
    where : {"memory", "file"}
        What it has to fit into.
    """

    def __init__(self, wcs, shape, where):
        if shape[0] * shape[1] > MOST_PIXELS[where]:
            msg = f"the mosaic would have {shape[0]} x {shape[1]} pixels; give a larger pixel_scale"
            if where == "memory":
                msg += ", or an output file"
            raise ValueError(msg)
        self.wcs = wcs
        self.shape = shape
        self.transform = SkyTransform(wcs, "wcs")

    def box(self, grid):
        """Return where an image lies: (y0, y1, x0, x1), or `None` where it does not."""
        x, y = self.transform.to_pixel(grid.nodes)
        bounds = []
        for values, n in ((y, self.shape[0]), (x, self.shape[1])):
            good = np.isfinite(values)
            if not good.any():
                return None
            # At a seam or a pole of the grid, neighbours are far apart.
            steps = [np.abs(np.diff(values, axis=axis)).ravel() for axis in (0, 1)]
            steps = np.concatenate(steps)
            steps = steps[np.isfinite(steps)]
            smooth = good.all() and steps.max() < 10 * np.median(steps) + 10
            margin = 2 if smooth else n
            low, high = np.nanmin(values) - margin, np.nanmax(values) + margin
            bounds += [max(int(np.floor(low)), 0), min(int(np.ceil(high)) + 1, n)]
        y0, y1, x0, x1 = bounds
        return None if y0 >= y1 or x0 >= x1 else tuple(bounds)

    def part(self, box):
        """Return the WCS of a part of the grid."""
        y0, y1, x0, x1 = box
        slices = slice(y0, y1), slice(x0, x1)
        if isinstance(self.wcs, WCS):
            return self.wcs[slices]
        return SlicedLowLevelWCS(getattr(self.wcs, "low_level_wcs", self.wcs), slices)


class _GridWCS(BaseLowLevelWCS):
    """The map of a `~levelmatch.sky.grid.Grid` as a WCS: compiled, and right to 0.005 pixel.

    Parameters
    ----------
    grid : `~levelmatch.sky.grid.Grid`
        The grid.
    margin : float
        How far off the image, in its pixels, a position still has coordinates.
    """

    def __init__(self, grid, margin):
        self._grid = grid
        self._margin = margin

    pixel_n_dim = world_n_dim = 2
    world_axis_physical_types = ("pos.eq.ra", "pos.eq.dec")
    world_axis_units = ("deg", "deg")
    world_axis_object_components = (
        ("celestial", 0, "spherical.lon.degree"),
        ("celestial", 1, "spherical.lat.degree"),
    )

    @property
    def world_axis_object_classes(self):
        from astropy.coordinates import SkyCoord

        return {"celestial": (SkyCoord, (), {"frame": "icrs", "unit": "deg"})}

    @property
    def array_shape(self):
        return self._grid.shape

    def pixel_to_world_values(self, x, y):
        return lonlat(self._grid.transform.to_sky(x, y))

    def world_to_pixel_values(self, lon, lat):
        return self._grid.to_pixel(unit_vectors(lon, lat), margin=self._margin)


# --------------------------------------------------------------------------------------
# Pixels


@dataclass(frozen=True, eq=False)
class _Loader:
    """Images as they are read, the latest of them kept."""

    kept: OrderedDict
    weights: object

    def __call__(self, k, frame):
        """Return an image, or with weights by pixel, a stack of it and these."""
        if k in self.kept:
            self.kept.move_to_end(k)
            return self.kept[k]
        image = frame.load()
        if isinstance(self.weights, str):
            image = np.stack([image, _inverse_variance(frame)])
            image[0][~np.isfinite(image[1])] = np.nan
        self.kept[k] = image
        while len(self.kept) > 1 and sum(i.nbytes for i in self.kept.values()) > CACHE:
            self.kept.popitem(last=False)
        return image


def _inverse_variance(frame):
    """Return an image's inverse variance in the common unit, NaN where there is none."""
    source = frame.source
    ivar = None
    if isinstance(source, FileSource):
        with fits.open(source.path, memmap=False) as hdus:
            k = partner_hdu(hdus, source.hdu, "VAR_RNOISE")
            if k is not None and hdus[k].shape == frame.shape:
                with np.errstate(divide="ignore"):
                    ivar = 1 / np.asarray(hdus[k].data, dtype=float)
            else:
                uncertainty = read_uncertainty(hdus, source.hdu, frame.shape)
    else:
        uncertainty = source.image.uncertainty
    if ivar is None:
        if uncertainty is None:
            msg = (
                f"{frame.name}: weights='ivar': the image has no uncertainty; "
                "give a header keyword, numbers, or no weights"
            )
            raise FrameError(msg)
        ivar = _as_inverse_variance(frame.name, uncertainty)
    ivar = ivar / frame.scale**2
    return np.where(np.isfinite(ivar) & (ivar > 0), ivar, np.nan)


def _as_inverse_variance(name, uncertainty):
    try:
        with np.errstate(divide="ignore"):
            return np.asarray(uncertainty.represent_as(InverseVariance).array, dtype=float)
    except (TypeError, AttributeError) as error:
        msg = (
            f"{name}: weights='ivar': the kind of uncertainty ({type(uncertainty).__name__}) is "
            "not known; give a header keyword, numbers, or no weights"
        )
        raise FrameError(msg) from error


class _Layers:
    """The images on the mosaic's grid.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, with their corrections and scales.
    target : `_Target`
        The grid.
    combine : {"mean", "median"}
        How they are combined.
    weights : None, "ivar" or `~numpy.ndarray`
        Their weights.
    method : str
        See `make_mosaic`.
    """

    def __init__(self, frames, target, combine, weights, method):
        self.frames = frames
        self.target = target
        self.combine = combine
        self.weights = weights
        self.boxes = [target.box(frame.grid) for frame in frames]
        self.ratios = [self._pixel_ratio(k) for k in range(len(frames))]
        self.methods = [
            ("adaptive" if ratio > COARSE else "interp") if method == "auto" else method
            for ratio in self.ratios
        ]
        self._check_ratios()
        self._load = _Loader(OrderedDict(), weights)

    @property
    def weighted(self):
        """Whether the coverage is one of weights."""
        return self.weights is not None

    def _pixel_ratio(self, k):
        """Side of the mosaic's pixels in those of an image, in the middle of where it lies."""
        if self.boxes[k] is None:
            return 1.0
        y0, y1, x0, x1 = self.boxes[k]
        x, y = np.array([0.5, -0.5, 0]) + (x0 + x1) / 2, np.array([0, 0, 0.5]) + (y0 + y1) / 2
        right, left, up = self.target.transform.to_sky(x, y)
        area = np.linalg.norm(np.cross(right - left, 2 * up - right - left))
        return float(np.sqrt(area / self.frames[k].grid.pixel_area))

    def _check_ratios(self):
        """Refuse averages over more than an image has."""
        for frame, ratio, method in zip(self.frames, self.ratios, self.methods, strict=True):
            if method == "adaptive" and ratio > min(frame.shape) / 4:
                msg = (
                    f"{frame.name}: a pixel of the mosaic is {ratio:.3g} pixels of this image of "
                    f"{frame.shape[0]} x {frame.shape[1]}; give smaller pixels"
                )
                raise ValueError(msg)

    def touching(self, box):
        """Return the images that touch a part of the mosaic, and the part of it that each does."""
        found = {}
        for k, own in enumerate(self.boxes):
            if own is not None:
                y0, y1 = max(own[0], box[0]), min(own[1], box[1])
                x0, x1 = max(own[2], box[2]), min(own[3], box[3])
                if y0 < y1 and x0 < x1:
                    found[k] = y0, y1, x0, x1
        return found

    def planes(self, box):
        """Yield, for each image that touches a part, where it does, its values and weights."""
        for k, own in self.touching(box).items():
            values, weight = self._reproject(k, own)
            good = np.isfinite(values)
            if weight is not None:
                good &= np.isfinite(weight) & (weight > 0)
            if good.any():
                where = (
                    slice(own[0] - box[0], own[1] - box[0]),
                    slice(own[2] - box[2], own[3] - box[2]),
                )
                yield where, values, weight, good

    def _reproject(self, k, box):
        """Return an image's values, and weights or `None`, on a part of the mosaic."""
        frame, shape = self.frames[k], (box[1] - box[0], box[3] - box[2])
        # An average needs the positions of its neighbours.
        margin = 1 if self.methods[k] == "interp" else 3 + 3 * self.ratios[k]
        out = _reproject(
            self._load(k, frame), frame.grid, self.target.part(box), shape, self.methods[k], margin
        )
        if isinstance(self.weights, str):
            return out
        if self.weights is None:
            return out, None
        return out, np.full(shape, self.weights[k])


def _reproject(image, grid, wcs, shape, method, margin):
    """Return an image, or a stack of them, on another grid, NaN where it has no good pixel."""
    import reproject

    if method == "interp":
        return reproject.reproject_interp(
            (image, _GridWCS(grid, margin)),
            wcs,
            shape_out=shape,
            return_footprint=False,
            roundtrip_coords=False,
        )
    if method == "exact":
        out, footprint = reproject.reproject_exact(
            (image, grid.transform.original), wcs, shape_out=shape
        )
        out[footprint < 1 - 1e-6] = np.nan
        return out
    # Bad pixels are left out of the average; where they are half of it, there is none.
    planes = image if image.ndim == 3 else image[None]
    good = np.isfinite(planes[0])
    out = reproject.reproject_adaptive(
        (np.concatenate([planes, good[None]]), _GridWCS(grid, margin)),
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
        # There the size of a pixel is not known, by which to average.
        y, x = np.nonzero(edge)
        beside = ~np.isfinite(
            [wcs.pixel_to_world_values(x + i, y + j) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        ).all(axis=(0, 1))
        y, x = y[beside], x[beside]
        out[:-1, y, x] = _interpolated(planes, grid, margin, wcs.pixel_to_world_values(x, y))
    return out[:-1] if image.ndim == 3 else out[0]


def _reaches_an_edge(wcs, shape):
    """Whether a grid ends, or is no map of the sky, beside a part of it."""
    ny, nx = shape
    y, x = np.ogrid[-1 : ny + 1, -1 : nx + 1]
    ring = (x < 0) | (x == nx) | (y < 0) | (y == ny)
    y, x = np.nonzero(ring)
    return not np.isfinite(wcs.pixel_to_world_values(x - 1, y - 1)).all()


def _interpolated(planes, grid, margin, sky):
    """Return images' values at positions on the sky, NaN off them and beside bad pixels."""
    from scipy.ndimage import map_coordinates

    x, y = _GridWCS(grid, margin).world_to_pixel_values(*sky)
    (ny, nx) = planes[0].shape
    inside = (np.abs(x - (nx - 1) / 2) <= nx / 2) & (np.abs(y - (ny - 1) / 2) <= ny / 2)
    out = np.full((len(planes), len(x)), np.nan)
    for values, plane in zip(out, planes, strict=True):
        places = y[inside], x[inside]
        values[inside] = map_coordinates(plane, places, order=1, mode="nearest")
    return out


def _fill(planes, layers, tile, progress_bar):
    """Combine the images tile by tile into the mosaic and its coverage.

    Raises
    ------
    NoOverlapError
        If no image has a good pixel there.
    """
    tiles = list(_tiles(layers.target.shape, tile))
    found = False
    for box in tiles if progress_bar is None else progress_bar(tiles):
        for part in _parts(box, layers):
            y0, y1, x0, x1 = part
            combined, coverage = _COMBINED[layers.combine](part, layers)
            planes[0][y0:y1, x0:x1] = combined
            planes[1][y0:y1, x0:x1] = coverage
            found |= bool(coverage.any())
    if not found:
        msg = (
            f"none of the {len(layers.frames)} images has a good pixel on the mosaic's grid; "
            "look at wcs or pixel_scale, and at the images' masks"
        )
        raise NoOverlapError(msg)


def _tiles(shape, tile):
    """Yield the tiles (y0, y1, x0, x1), there and back: neighbours share images."""
    columns = range(0, shape[1], tile[1])
    for row, y in enumerate(range(0, shape[0], tile[0])):
        for x in columns if row % 2 == 0 else reversed(columns):
            yield y, min(y + tile[0], shape[0]), x, min(x + tile[1], shape[1])


def _parts(box, layers):
    """Yield a tile, in parts if a median of it would hold too much at once."""
    y0, y1, x0, x1 = box
    if layers.combine == "median" and y1 - y0 > 1:
        boxes = layers.touching(box).values()
        if sum((b[1] - b[0]) * (b[3] - b[2]) for b in boxes) * 4 > STACK:
            middle = (y0 + y1) // 2
            yield from _parts((y0, middle, x0, x1), layers)
            yield from _parts((middle, y1, x0, x1), layers)
            return
    yield box


def _mean(box, layers):
    """Return the mean of the images on a part of the mosaic, and its coverage."""
    shape = box[1] - box[0], box[3] - box[2]
    total, coverage = np.zeros(shape), np.zeros(shape)
    for where, values, weight, good in layers.planes(box):
        total[where][good] += values[good] if weight is None else values[good] * weight[good]
        coverage[where][good] += 1 if weight is None else weight[good]
    mean = np.divide(total, coverage, out=np.full(shape, np.nan), where=coverage > 0)
    return mean, coverage


def _median(box, layers):
    """Return the median of the images on a part of the mosaic, and its coverage."""
    shape = box[1] - box[0], box[3] - box[2]
    held = [
        (where, np.where(good, values, np.nan).astype(np.float32))
        for where, values, _, good in layers.planes(box)
    ]
    coverage = np.zeros(shape, dtype=int)
    for where, values in held:
        coverage[where] += np.isfinite(values)
    median = np.full(shape, np.nan, dtype=np.float32)
    for y in range(shape[0]):
        _median_row(median[y], coverage[y], held, y)
    return median, coverage


def _median_row(out, count, held, y):
    """Fill a row with the medians of what covers it."""
    rows = [(w[1], values[y - w[0].start]) for w, values in held if w[0].start <= y < w[0].stop]
    stack = np.full((len(rows), len(out)), np.nan, dtype=np.float32)
    for k, (x, values) in enumerate(rows):
        stack[k, x] = values
    stack.sort(axis=0)
    x = np.flatnonzero(count)
    # NaN is sorted to the end.
    low, high = stack[(count[x] - 1) // 2, x], stack[count[x] // 2, x]
    out[x] = low + (high - low) / 2


_COMBINED = {"mean": _mean, "median": _median}


# --------------------------------------------------------------------------------------
# The mosaic in memory, and in a file


def _empty_planes(shape, weighted):
    return (
        np.empty(shape, dtype=np.float32),
        np.empty(shape, dtype=np.float32 if weighted else np.int32),
    )


def _cards(layers):
    """Cards on how the mosaic was made."""
    from levelmatch import __version__

    weights = layers.weights
    kind = "none" if weights is None else weights if isinstance(weights, str) else "by image"
    return fits.Header(
        [
            ("NIMAGES", len(layers.frames), "images given to the mosaic"),
            ("COMBINE", layers.combine, "how they are combined"),
            ("WEIGHTS", kind, "weights of the mean"),
            ("REPROJ", ", ".join(sorted(set(layers.methods))), "functions of reproject"),
            ("CREATOR", f"levelmatch {__version__}", "what made the mosaic"),
        ]
    )


@contextmanager
def _file_planes(path, target, layers, unit):
    """Make a FITS file of empty planes, and give these, mapped to memory."""
    header = _cards(layers)
    header.update(_wcs_header(target))
    coverage = _wcs_header(target)
    if unit is not None:
        header["BUNIT"] = _unit_text(unit), "unit of the mosaic"
    kinds = np.dtype(">f4"), np.dtype(">f4" if layers.weighted else ">i4")
    coverage["BUNIT"] = "weight" if layers.weighted else "images"
    hdus = [_hdu_header(header, target.shape, kinds[0], primary=True)]
    coverage["EXTNAME"] = "COVERAGE"
    hdus.append(_hdu_header(coverage, target.shape, kinds[1], primary=False))
    offsets = []
    with open(path, "wb") as stream:
        for head, kind in zip(hdus, kinds, strict=True):
            stream.write(head.tostring().encode("ascii"))
            offsets.append(stream.tell())
            size = target.shape[0] * target.shape[1] * kind.itemsize
            stream.seek(-(-size // 2880) * 2880, 1)
            stream.truncate()
    planes = [
        np.memmap(path, dtype=kind, mode="r+", offset=offset, shape=target.shape)
        for kind, offset in zip(kinds, offsets, strict=True)
    ]
    try:
        yield planes
        for plane in planes:
            plane.flush()
    finally:
        # A file that is mapped cannot be renamed everywhere.
        plane = None
        planes.clear()


def _unit_text(unit):
    try:
        return unit.to_string("fits")
    except ValueError:
        # One that the standard does not have.
        return unit.to_string()


def _wcs_header(target):
    if not hasattr(target.wcs, "to_header"):
        kind = type(target.wcs).__name__
        msg = f"wcs: a {kind} cannot be written to a FITS header; give a FITS WCS, or no output"
        raise ValueError(msg)
    return target.wcs.to_header(relax=True)


def _hdu_header(cards, shape, kind, *, primary):
    """Return the header of an image HDU, its mandatory cards first."""
    bitpix = kind.itemsize * (-8 if kind.kind == "f" else 8)
    first = ("SIMPLE", True) if primary else ("XTENSION", "IMAGE")
    header = fits.Header([first, ("BITPIX", bitpix), ("NAXIS", 2)])
    header["NAXIS1"], header["NAXIS2"] = shape[1], shape[0]
    if primary:
        header["EXTEND"] = True
    else:
        header["PCOUNT"], header["GCOUNT"] = 0, 1
    header.extend(cards, unique=True)
    return header
