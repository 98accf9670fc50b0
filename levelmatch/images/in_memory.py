# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Frames of images in memory: NDData, arrays with a WCS or header, HDUs and lists of HDUs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData
from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseHighLevelWCS, BaseLowLevelWCS, SlicedLowLevelWCS

from levelmatch.exceptions import FrameError
from levelmatch.images.extensions import ExtensionChoice, extensions_of
from levelmatch.images.file_headers import check_linear
from levelmatch.images.fits_files import check_shape, hdu_frame
from levelmatch.images.frame import Frame
from levelmatch.images.mask_arrays import OpenHDUs
from levelmatch.images.sources import (
    MemorySource,
    as_mask,
    bad_pixels,
    decoded_image,
    image_mask,
    read_uncertainty,
)
from levelmatch.images.wcs_cards import check_wcs
from levelmatch.sky.transform import SkyTransform

__all__ = ["memory_frames"]


def memory_frames(image, index, read, notes):
    """Return the frames of an image in memory.

    Parameters
    ----------
    image : object
        `~astropy.nddata.NDData`; a tuple of an array and its WCS or header; an image HDU; or an
        `~astropy.io.fits.HDUList`, whose images are selected like the images of a file.
    index : int
        Index of the object in the input.
    read : `~levelmatch.ReadOptions`
        How images are read.
    notes : `~levelmatch.images.notes.Notes`
        Receives the notes on the image.

    Returns
    -------
    frames : list of `Frame` or None
        The frames; `None` for an object of another type.

    Raises
    ------
    FrameError
        If the image cannot be used; the message names it.
    """
    if isinstance(image, NDData):
        return [_nddata_frame(image, index, read, notes)]
    if isinstance(image, tuple) and len(image) == 2 and hasattr(image[0], "shape"):
        image = _of_array(*image)
        # The mask is that of the array.
        read = replace(read, mask_extensions=True)
    if isinstance(image, NDData):
        return [_nddata_frame(image, index, read, notes)]
    if isinstance(image, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
        first = [] if isinstance(image, fits.PrimaryHDU) else [fits.PrimaryHDU()]
        image = fits.HDUList([*first, image])
    if not isinstance(image, fits.HDUList):
        return None
    name = _name(image.filename() or image[0].header.get("FILENAME"), index)
    chosen = ExtensionChoice.of(name, extensions_of(image), read)
    opened = OpenHDUs(image, read, notes)
    return chosen.frames(lambda name, k: _hdu_frame(name, k, opened), notes)


def _name(path, index):
    """Return the name of a path; without one, a name from the index in the input."""
    name = Path(str(path or "")).name
    return f"image{index:04d}" if name in ("", "..") else name


def _of_array(array, position):
    """Return HDUs or NDData of an array and its header or WCS, or `None` for other objects.

    A masked array keeps its mask, and a `~astropy.units.Quantity` its unit.
    """
    mask, unit = as_mask(getattr(array, "mask", None)), getattr(array, "unit", None)
    values = np.asarray(getattr(array, "unmasked", array))
    if mask is not None:
        mask = np.broadcast_to(mask, values.shape)
    if isinstance(position, BaseHighLevelWCS | BaseLowLevelWCS):
        return NDData(values, wcs=position, mask=mask, unit=unit)
    if not isinstance(position, fits.Header):
        return None
    hdus = fits.HDUList([fits.PrimaryHDU(values, position)])
    if unit is not None:
        hdus[0].header["BUNIT"] = unit.to_string()
    if mask is not None and mask.any():
        hdus.append(fits.ImageHDU(mask.astype(np.uint8), name="MASK"))
    return hdus


def _hdu_frame(name, index, opened):
    """Return the frame of an image in a list of HDUs."""
    hdus = opened.hdus

    def make_source(frame, masks):
        try:
            data = decoded_image(hdus[index])
        except (OSError, ValueError) as error:
            msg = f"{name}: its pixels cannot be read: {error}; keep its file open"
            raise FrameError(msg) from error
        _check_type(name, data)
        _check_scaled(name, hdus[index])
        image = CCDData(
            data,
            mask=bad_pixels([(mask, hdus[mask.hdu]) for mask in masks], frame.dq_bits),
            uncertainty=read_uncertainty(hdus, index, frame.shape),
            unit=frame.unit or u.dimensionless_unscaled,
            meta=frame.meta.copy(),
        )
        original = frame.transform.original
        if isinstance(original, WCS):
            image.wcs = original
        return MemorySource(image, hdus, index, name)

    return hdu_frame(name, index, opened, make_source)


def _check_type(name, data):
    """Refuse data that are not real numbers."""
    if data.dtype.kind not in "fiu":
        msg = f"{name}: the data are of type {data.dtype}, not real numbers; convert them"
        raise FrameError(msg)


def _check_scaled(name, hdu):
    """Refuse pixels as they are stored, without the scale that the header gives them."""
    scale, zero = hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0)
    stored = np.dtype(fits.BITPIX2DTYPE[hdu.header["BITPIX"]])
    # astropy removes the cards when it scales pixels to other types.
    if (scale, zero) != (1, 0) and hdu.data.dtype.newbyteorder("=") == stored:
        msg = (
            f"{name}: its pixels are not scaled by BSCALE = {scale} and BZERO = {zero}; open the "
            "file without do_not_scale_image_data"
        )
        raise FrameError(msg)


def _nddata_frame(image, index, read, notes):
    """Return the frame of an `~astropy.nddata.NDData` object."""
    meta = image.meta
    name = _name(meta.get("FILENAME"), index)
    check_linear(name, meta)
    data = np.asarray(image.data)
    shape = check_shape(name, data.shape)
    _check_type(name, data)
    _check_shapes(name, image, data.shape)
    mask = image_mask(image)
    if mask is not None and mask.all():
        msg = f"{name}: every pixel is masked, or has no weight; leave the image out"
        raise FrameError(msg)
    if isinstance(image.wcs, WCS):
        check_wcs(name, image.wcs, meta)
    unknown = _unknown_errors(image, data, mask)
    if unknown:
        notes.add("unknown errors", name, f"{unknown} pixels")
    if _has_unread_flags(image, mask, read):
        notes.add("unread flags", name)
    return Frame(
        name=name,
        source=MemorySource(image, name=name),
        shape=shape,
        meta=meta,
        unit=image.unit,
        transform=SkyTransform(_plane_wcs(image.wcs, data.shape), name),
        blank=read.blank,
    )


def _unknown_errors(image, data, mask):
    """Return the number of good pixels whose uncertainty is NaN."""
    array = None if image.uncertainty is None else np.asarray(image.uncertainty.array)
    if array is None or array.dtype.kind != "f" or not np.isnan(array).any():
        return 0
    good = np.isfinite(data) & np.isnan(array)
    return int(np.sum(good if mask is None else good & ~mask))


def _has_unread_flags(image, mask, read):
    """Return whether an image has flags that may mark bad pixels beyond its mask."""
    flags = getattr(image, "flags", None)
    if flags is None or not read.mask_extensions or (mask is not None and read.dq_bits is None):
        return False
    planes = flags.values() if isinstance(flags, Mapping) else [flags]
    return any(np.any(plane) for plane in planes)


def _check_shapes(name, image, shape):
    """Refuse a mask or an uncertainty whose shape differs from the data's."""
    arrays = {"mask": image.mask}
    if image.uncertainty is not None:
        arrays["uncertainty"] = image.uncertainty.array
    for what, array in arrays.items():
        if array is not None and np.ndim(array) != 0 and np.shape(array) != shape:
            msg = f"{name}: the {what} has shape {np.shape(array)}, the data {shape}; cut one"
            raise FrameError(msg)


def _plane_wcs(wcs, shape):
    """Return the WCS of an image without axes of one pixel."""
    if isinstance(wcs, WCS) and wcs.naxis > 2 and len(shape) == 2:
        # The axes of one pixel are already dropped from the data.
        return wcs.sub([1, 2])
    if wcs is None or len(shape) == 2:
        return wcs
    if isinstance(wcs, WCS):
        return wcs.sub([k + 1 for k, n in enumerate(shape[::-1]) if n != 1])
    low = getattr(wcs, "low_level_wcs", wcs)
    return SlicedLowLevelWCS(low, [0 if n == 1 else slice(None) for n in shape])
