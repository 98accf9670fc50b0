# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Mosaics and stacks of images, for quick looks and photometry of extended emission."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.atomic import atomic_stream, refuse_existing
from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import FrameError, NoOverlapError
from levelmatch.images.file_state import file_identity
from levelmatch.images.frame import Frame
from levelmatch.images.inputs import collect_frames
from levelmatch.images.scales import image_values, to_common_unit
from levelmatch.images.units import in_arcsec
from levelmatch.option_values import as_path, check_progress, check_shape
from levelmatch.options import CoaddOptions, ReadOptions
from levelmatch.results.coadd import coadd_layers, mosaic_hdus
from levelmatch.results.layers import METHODS, Layers, MosaicGrid
from levelmatch.settings import MOVED_OF_MOSAIC, filled
from levelmatch.sky.reprojection import common_grid

__all__ = ["comparable_frames", "compared_mosaic", "make_mosaic", "stack_frames"]


COMBINE = ("mean", "median")


@share_parameters
def make_mosaic(
    images: Any,
    *,
    output: str | Path | None = None,
    wcs: Any = None,
    pixel_scale: float | u.Quantity | None = None,
    combine: str = "mean",
    overwrite: bool = False,
    progress_bar: Callable | None = None,
    read: ReadOptions | None = None,
    coadd: CoaddOptions | None = None,
    **moved: Any,
) -> tuple[CCDData, np.ndarray] | Path:
    """Reproject images to one grid and combine them, in memory or into a FITS file.

    The mosaic serves for a quick look at a result, and for photometry of extended emission. The
    images are not drizzled. The mosaic is computed in tiles, each from the images that touch it,
    so that memory does not grow with the number of images or, for a file, with the
    size of the mosaic. The result does not depend on the size of the tiles.

    Parameters
    ----------
    <<images>>
        The corrections of a result are subtracted; other images are combined unchanged.
    output : str, `~pathlib.Path` or None
        FITS file to write; its folder is created if it is missing. By default the mosaic
        is returned.
    wcs : `~astropy.wcs.WCS`, APE 14 WCS, `~astropy.io.fits.Header` or None
        The grid of the mosaic, any celestial one. By default tangential with North up, and
        large enough for all images.
    pixel_scale : float, `~astropy.units.Quantity` or None
        Side of a pixel, if no ``wcs`` is given. A number is in arcsec. By default the side of
        a pixel of the finest image.
    combine : {"mean", "median"}
        How the images that cover a pixel are combined.
    overwrite : bool
        Whether an existing file may be replaced.
    progress_bar : callable or None
        Wraps an iterable over the tiles, as `tqdm.tqdm` does.
    read : `ReadOptions` or None
        How images are read.
    coadd : `CoaddOptions` or None
        How images are reprojected and weighted.
    <<moved>>

    Returns
    -------
    mosaic : `~astropy.nddata.CCDData` or `~pathlib.Path`
        The mosaic in float32, masked and NaN where there is no image. It has the unit of
        the first image by name; a unit per pixel refers to the pixels of that image. With
        ``output``, the file; its first HDU holds the mosaic, and its extension COVERAGE the
        coverage.
    coverage : `~numpy.ndarray`, shape (ny, nx)
        Number of images, or sum of their weights, at each pixel; only without ``output``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not understood; the message names it.
    FileExistsError
        If the file exists and ``overwrite`` is not set.
    FrameError
        If an image cannot be used.
    NoOverlapError
        If no image has a good pixel on the grid.
    `~astropy.units.UnitsError`
        If units cannot be compared.

    See Also
    --------
    stack_tile : Return the mean of a tile's images on their own grid.
    """
    options = filled("make_mosaic", moved, {"read": read, "coadd": coadd}, MOVED_OF_MOSAIC)
    read, coadd = options["read"], options["coadd"]
    _check_words(combine, coadd.weights, progress_bar)
    path = None if output is None else _check_output(output, overwrite)
    frames, unit = comparable_frames(images, read)
    if path is not None:
        _check_inputs(path, frames)
    where = "memory" if path is None else "file"
    grid = MosaicGrid(*_output_grid(frames, wcs, coadd.shape, pixel_scale), where)
    layers = Layers(frames, grid, _weights_of(frames, coadd.weights), coadd.method)
    cards = _cards(layers, combine)
    if path is None:
        arrays = _empty_arrays(grid.shape, weighted=layers.weights is not None)
        coadd_layers(arrays, layers, combine, coadd.tile_shape, progress_bar)
        mosaic = CCDData(arrays[0], mask=arrays[1] == 0, wcs=grid.wcs, unit=unit or "", meta=cards)
        return mosaic, arrays[1]
    headers = _file_headers(cards, grid, unit, weighted=layers.weights is not None)
    with atomic_stream(path) as stream:
        hdus = mosaic_hdus(stream, path, headers)
        coadd_layers(hdus, layers, combine, coadd.tile_shape, progress_bar)
    return path


def compared_mosaic(result: Any, pixel_scale: float) -> CCDData:
    """Return the mean of matched images without the regions that the run did not compare.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The images, with their corrections.
    pixel_scale : float
        Side of a pixel, in arcsec.

    Raises
    ------
    NoOverlapError
        If no image has a good pixel.
    """
    frames = _with_lyot_pixels(result.frames)
    grid = MosaicGrid(*_output_grid(frames, None, None, pixel_scale), "memory")
    arrays = _empty_arrays(grid.shape, weighted=False)
    # Areas do not depend on the phase of the grids, unlike interpolation on a coarser grid.
    coadd_layers(arrays, Layers(frames, grid, None, "exact"))
    return CCDData(arrays[0], mask=arrays[1] == 0, wcs=grid.wcs, unit=result.unit or "")


def stack_frames(
    frames: list[Frame], *, name: str, method: str, unit: u.UnitBase | None
) -> CCDData:
    """Return the mean of images on a common grid as one image.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, with their corrections.
    name : str
        The ``FILENAME`` of the result.
    method : {"interp", "exact", "adaptive"}
        The function of `reproject`.
    unit : `~astropy.units.Unit` or None
        The common unit of the images.

    Returns
    -------
    stack : `~astropy.nddata.CCDData`
        The mean, and the mask, True where no image is good.

    Raises
    ------
    ValueError
        If the method is unknown.
    NoOverlapError
        If no image has a good pixel.
    """
    if method not in METHODS:
        msg = f"method: {method!r} is none of {METHODS}"
        raise ValueError(msg)
    grid = MosaicGrid(*_output_grid(frames, None, None, None), "memory")
    arrays = _empty_arrays(grid.shape, weighted=False)
    try:
        coadd_layers(arrays, Layers(frames, grid, None, method))
    except NoOverlapError as error:
        msg = f"{name}: the stacked images have no good pixel; look at their masks and flags"
        raise NoOverlapError(msg) from error
    mean, count = arrays
    return CCDData(mean, mask=count == 0, wcs=grid.wcs, unit=unit or "", meta={"FILENAME": name})


def comparable_frames(images: Any, read: ReadOptions) -> tuple[list[Frame], u.UnitBase | None]:
    """Return the frames of any input, with the factors to a common unit.

    Parameters
    ----------
    images : `~levelmatch.MatchResult`, iterable, mapping or `~ccdproc.ImageFileCollection`
        The images. Images of a result keep the factors of unit and flux scale with which they
        were compared.
    read : `~levelmatch.ReadOptions`
        How images are read.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    unit : `~astropy.units.Unit` or None
        Their common unit.
    """
    frames = collect_frames(images, read)
    if hasattr(images, "frames"):
        frames = [f if f.selection is None else f.with_keys(selection=None) for f in frames]
        return _with_lyot_pixels(frames), images.unit
    return to_common_unit(frames, pixel_area=read.pixel_area)


def _with_lyot_pixels(frames: list[Frame]) -> list[Frame]:
    """Return the frames with the Lyot regions that were left out only of the comparison."""
    split = {frame.product for frame in frames if frame.part == "lyot"}
    return [
        frame if frame.part == "lyot" or frame.product in split else frame.with_keys(region=None)
        for frame in frames
    ]


# --------------------------------------------------------------------------------------
# Arguments


def _check_words(combine: Any, weights: Any, progress_bar: Any) -> None:
    if combine not in COMBINE:
        msg = f"combine: {combine!r} is none of {COMBINE}"
        raise ValueError(msg)
    if weights is not None and combine == "median":
        msg = "weights: a median has no weights; omit them, or use combine='mean'"
        raise ValueError(msg)
    check_progress(progress_bar)


def _check_output(output: Any, overwrite: bool) -> Path:
    """Return the path of the output file, after checking that it may be written."""
    path = as_path("output", output)
    if path.suffix not in (".fits", ".fit", ".fts"):
        msg = f"output: {path.name!r} does not end in .fits; a compressed file cannot be filled"
        raise ValueError(msg)
    refuse_existing(path, overwrite=overwrite, is_data=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_inputs(path: Path, frames: list[Frame]) -> None:
    """Refuse an output that is an input."""
    output = file_identity(path)
    for frame in frames:
        source = getattr(frame.source, "path", None)
        if source is not None and output is not None and file_identity(source) == output:
            msg = f"{frame.name}: output: {path} is this input; name another file"
            raise FrameError(msg)


def _output_grid(
    frames: list[Frame], wcs: Any, shape: Any, pixel_scale: Any
) -> tuple[Any, tuple[int, int]]:
    """Return the WCS and the shape of the mosaic."""
    if wcs is None:
        if shape is not None:
            msg = f"shape: {shape!r} belongs to a wcs, and there is none; give wcs too"
            raise ValueError(msg)
        scale = None if pixel_scale is None else in_arcsec("pixel_scale", pixel_scale) / 3600
        return _own_grid(frames, scale)
    if pixel_scale is not None:
        msg = "pixel_scale: the wcs determines it; omit one of the two"
        raise ValueError(msg)
    return _given_grid(wcs, shape)


def _own_grid(frames: list[Frame], scale: float | None) -> tuple[WCS, tuple[int, int]]:
    """Return a grid that holds all images, by default with the pixel scale of the finest.

    ``scale`` is in degrees.
    """
    grids = [frame.grid for frame in frames]
    finest = np.degrees(np.sqrt(min(grid.pixel_area for grid in grids)))
    side = finest if scale is None else scale
    grid = common_grid(grids, scale=scale) if 1e-4 < side / finest < 1e5 else None
    if grid is None:
        msg = f"pixel_scale: {3600 * side:g} arcsec, where an image has {3600 * finest:g} arcsec"
        raise ValueError(msg)
    return grid


def _given_grid(wcs: Any, shape: Any) -> tuple[Any, tuple[int, int]]:
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
        msg = "shape: the wcs has none; give coadd=CoaddOptions(shape=(ny, nx))"
        raise ValueError(msg)
    return wcs, check_shape("shape", tuple(shape), 1)


def _weights_of(frames: list[Frame], weights: Any) -> Any:
    """Return ``"ivar"``, a number per frame, or `None`."""
    if weights is None or (isinstance(weights, str) and weights == "ivar"):
        return weights
    if not isinstance(weights, str | Mapping | list | tuple | np.ndarray):
        msg = f"weights: {weights!r} is neither 'ivar', a keyword, nor numbers of the images"
        raise TypeError(msg)
    return image_values(frames, weights, "weights")


# --------------------------------------------------------------------------------------
# The mosaic in memory and in a file


def _empty_arrays(shape: tuple[int, int], *, weighted: bool) -> list[np.ndarray]:
    coverage = np.empty(shape, dtype=np.float32 if weighted else np.int32)
    return [np.empty(shape, dtype=np.float32), coverage]


def _cards(layers: Layers, combine: str) -> fits.Header:
    """Return the cards on how the mosaic is made."""
    from levelmatch import __version__

    weights = layers.weights
    kind = "none" if weights is None else weights if isinstance(weights, str) else "by image"
    return fits.Header(
        [
            ("NIMAGES", len(layers.frames), "images given to the mosaic"),
            ("COMBINE", combine, "how they are combined"),
            ("WEIGHTS", kind, "weights of the mean"),
            ("REPROJ", ", ".join(sorted(set(layers.methods))), "functions of reproject"),
            ("CREATOR", f"levelmatch {__version__}", "what made the mosaic"),
        ]
    )


def _file_headers(
    cards: fits.Header, grid: MosaicGrid, unit: u.UnitBase | None, *, weighted: bool
) -> list[fits.Header]:
    """Return the headers of the mosaic and of its coverage."""
    header, coverage = cards.copy(), _wcs_header(grid)
    header.update(_wcs_header(grid))
    if unit is not None:
        header["BUNIT"] = _unit_text(unit), "unit of the mosaic"
    coverage["BUNIT"] = "weight" if weighted else "images"
    coverage["EXTNAME"] = "COVERAGE"
    return [
        _hdu_header(header, grid.shape, -32, primary=True),
        _hdu_header(coverage, grid.shape, -32 if weighted else 32, primary=False),
    ]


def _unit_text(unit: u.UnitBase) -> str:
    try:
        return unit.to_string("fits")
    except ValueError:
        # The FITS standard does not have the unit.
        return unit.to_string()


def _wcs_header(grid: MosaicGrid) -> fits.Header:
    if not hasattr(grid.wcs, "to_header"):
        kind = type(grid.wcs).__name__
        msg = f"wcs: a {kind} cannot be written to a FITS header; give a FITS WCS, or no output"
        raise ValueError(msg)
    return grid.wcs.to_header(relax=True)


def _hdu_header(
    cards: fits.Header, shape: tuple[int, int], bitpix: int, *, primary: bool
) -> fits.Header:
    """Return the header of an image HDU, its mandatory cards first."""
    first = ("SIMPLE", True) if primary else ("XTENSION", "IMAGE")
    header = fits.Header([first, ("BITPIX", bitpix), ("NAXIS", 2)])
    header["NAXIS1"], header["NAXIS2"] = shape[1], shape[0]
    if primary:
        header["EXTEND"] = True
    else:
        header["PCOUNT"], header["GCOUNT"] = 0, 1
    header.extend(cards, unique=True)
    return header
