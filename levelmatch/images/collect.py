# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Frames of any kind of input."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from astropy.nddata import NDData
from astropy.wcs import WCS

from levelmatch.exceptions import FrameError
from levelmatch.images.cards import check_wcs
from levelmatch.images.fits_files import check_shape, file_frame
from levelmatch.images.frame import Frame
from levelmatch.images.sources import FileSource, MemorySource, as_mask
from levelmatch.sky.transform import SkyTransform

__all__ = ["collect_frames"]


def collect_frames(images, *, dq_bits=None, hdu=None):
    """Return the frames of any kind of input.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `~levelmatch.MatchResult`
        `~astropy.nddata.CCDData` or `~astropy.nddata.NDData` objects, paths of FITS
        files, or a mapping of tile name to such a list.
    dq_bits : None, int, str or list
        Data-quality bits that make a pixel bad, see `~levelmatch.images.jwst.bad_bits`.
    hdu : None, int, str or tuple
        The image's extension in files; by default SCI, else the first image.

    Returns
    -------
    frames : list of `Frame`
        In the order of the input.

    Raises
    ------
    TypeError
        If an input is none of these.
    FrameError
        If an image cannot be used; the message names it.
    """
    if hasattr(images, "frames"):
        return list(images.frames)
    if isinstance(images, Mapping):
        frames = [
            frame.with_keys(tile=str(tile))
            for tile, members in images.items()
            for frame in collect_frames(members, dq_bits=dq_bits, hdu=hdu)
        ]
        return _check_names(frames)
    if hasattr(images, "files_filtered"):
        images = images.files_filtered(include_path=True)
    if isinstance(images, str | Path | NDData) or not isinstance(images, Iterable):
        msg = (
            "images: expected a list of images or paths, a mapping of tile to images or an "
            f"ImageFileCollection, not {type(images).__name__}"
        )
        raise TypeError(msg)
    frames = [_frame(image, i, dq_bits, hdu) for i, image in enumerate(images)]
    return _check_names(frames)


def _check_names(frames):
    if not frames:
        msg = "images: there are none; look at the list, or at the pattern of the files"
        raise FrameError(msg)
    seen = {}
    for i, frame in enumerate(frames):
        if frame.name in seen and isinstance(frame.source, FileSource):
            both = f"{seen[frame.name]} and {frame.source.path}"
            msg = f"{frame.name}: two files have this name: {both}; rename one"
            raise FrameError(msg)
        if frame.name in seen:
            frames[i] = frame.with_keys(name=f"{frame.name}#{i}")
        seen[frames[i].name] = getattr(frame.source, "path", frame.name)
    return frames


def _frame(image, index, dq_bits, hdu):
    if isinstance(image, NDData):
        return _memory_frame(image, index, dq_bits)
    if isinstance(image, str | Path):
        return file_frame(Path(image), dq_bits, hdu)
    msg = f"images: image {index} is a {type(image).__name__}, not a CCDData, NDData or path"
    raise TypeError(msg)


def _memory_frame(image, index, dq_bits):
    meta = image.meta
    name = Path(str(meta.get("FILENAME") or f"image{index:04d}")).name
    data = np.asarray(image.data)
    shape = check_shape(name, data.shape)
    if data.dtype.kind not in "fiu":
        msg = f"{name}: the data are of type {data.dtype}, not real numbers; convert them"
        raise FrameError(msg)
    planes = {"mask": image.mask}
    if image.uncertainty is not None:
        planes["uncertainty"] = image.uncertainty.array
    for what, plane in planes.items():
        if plane is not None and np.ndim(plane) != 0 and np.shape(plane) != shape:
            msg = f"{name}: the {what} has shape {np.shape(plane)}, the data {shape}; cut one"
            raise FrameError(msg)
    mask = as_mask(image.mask)
    if mask is not None and mask.all():
        msg = f"{name}: every pixel is masked; leave the image out"
        raise FrameError(msg)
    if isinstance(image.wcs, WCS):
        check_wcs(name, image.wcs, meta)
    return Frame(
        name=name,
        source=MemorySource(image),
        shape=shape,
        meta=meta,
        unit=image.unit,
        transform=SkyTransform(image.wcs, name),
    )
