# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sources of the pixels and the uncertainty of an image: memory or a FITS file."""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.nddata import (
    InverseVariance,
    NDData,
    NDUncertainty,
    StdDevUncertainty,
    VarianceUncertainty,
)

from levelmatch.exceptions import FrameError
from levelmatch.images import fastfits
from levelmatch.images.compression import open_raw
from levelmatch.images.digests import pixel_digests, xxh3_128
from levelmatch.images.file_checks import MOST_BYTES, named_warnings, reason_of
from levelmatch.images.file_state import FileState, changed
from levelmatch.images.mask_arrays import MaskArray, as_image, image_shape, known_partner
from levelmatch.text import as_text

__all__ = [
    "POWERS",
    "FileSource",
    "MemorySource",
    "as_mask",
    "bad_pixels",
    "decoded_image",
    "flagged",
    "float_type",
    "image_mask",
    "read_uncertainty",
]

# Power by which each uncertainty scales with a factor of the data.
POWERS = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}


@dataclass(frozen=True, eq=False)
class MemorySource:
    """An image in memory.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        The image.
    hdus : `~astropy.io.fits.HDUList` or None
        The HDUs from which the image was made.
    hdu : int
        Index of the image's HDU.
    name : str
        The image, for error messages.
    checksums : list of str
        Digest of the pixels and their unit when they were first read.
    """

    image: NDData
    hdus: Any = None
    hdu: int = 0
    name: str = ""
    checksums: list[str] = field(default_factory=list)

    @cached_property
    def identity(self) -> dict:
        """Identity of the image: empty file name, and digests of data and mask."""
        self.check_unchanged()
        image = self.image
        digests = pixel_digests(np.asarray(image.data), [image_mask(image)])
        return {"file": "", "path": "", "size": 0, "hdu": self.hdu, **digests}

    def read(self, dq_bits: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a copy of the pixels as floats, and the mask of bad pixels or `None`."""
        image = self.image
        data, mask = as_image(np.asarray(image.data)), image_mask(image)
        if mask is not None and mask.ndim > 2:
            mask = as_image(mask)
        pixels = np.array(data, dtype=float_type(data), order="C")
        self._check(pixels)
        return pixels, mask

    def check_unchanged(self) -> None:
        """Check that pixels and unit equal those that were first read.

        The corrections of a run are valid only for the pixels that it measured.

        Raises
        ------
        FrameError
            If they differ.
        """
        data = as_image(np.asarray(self.image.data))
        self._check(np.ascontiguousarray(data, dtype=float_type(data)))

    def _check(self, pixels):
        total = xxh3_128(pixels.data)
        total.update(str(self.image.unit).encode())
        checksum = total.hexdigest()
        if not self.checksums:
            self.checksums.append(checksum)
        if checksum != self.checksums[0]:
            msg = f"{self.name}: its pixels or its unit changed after they were read; match it anew"
            raise FrameError(msg)


@dataclass(frozen=True, eq=False)
class FileSource:
    """An image in a FITS file.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    hdu : int
        Index of the image's HDU.
    masks : tuple of `~levelmatch.images.mask_arrays.MaskArray`
        Arrays of flags, masks or weights.
    plain : tuple of `~levelmatch.images.fastfits.PlainHDU` or None
        The image and its flags (or `None`), if both can be read without astropy.
    name : str
        Unique name of the file; by default the file's own name.
    state : `~levelmatch.images.file_state.FileState` or None
        State of the files when they were first read.
    max_bytes : int
        Largest number of bytes of a compressed file after unpacking.
    """

    path: Path
    hdu: int
    masks: tuple[MaskArray, ...] = ()
    plain: tuple | None = None
    name: str = ""
    state: FileState | None = None
    max_bytes: int = MOST_BYTES

    @property
    def dq_hdu(self) -> int | None:
        """Index of the HDU of the image's flags, or `None`."""
        return next((m.hdu for m in self.masks if m.kind == "flags" and m.path is None), None)

    @cached_property
    def identity(self) -> dict:
        """Identity of the image: file name, and digests of data and masks.

        The digests are of the decompressed and scaled values in FITS's byte order. Pixels that were
        not yet read are read.

        Raises
        ------
        FrameError
            If the file cannot be read.
        """
        digests = None if self.state is None else self.state.digests
        if digests is None:
            digests = self._read(0)[2]
        path = self.path.absolute()
        if self.state is not None:
            self.state.check_files(self.label)
        return {
            "file": self.label,
            "path": as_text(path),
            "size": path.stat().st_size,
            "hdu": self.hdu,
            **digests,
        }

    @contextmanager
    def opened(self):
        """Open the file; errors and warnings name it."""
        try:
            # Do not filter warnings here: threads read files and share the filters.
            with (
                named_warnings(self.path.name),
                open_raw(self.path, self.max_bytes) as raw,
                fits.open(raw, memmap=False) as hdus,
            ):
                self._check_length(hdus)
                yield hdus
        except FrameError:
            raise
        except Exception as error:
            why = reason_of(error)
            msg = f"{self.path.name}: the pixels cannot be read: {why}; get the file again"
            raise FrameError(msg) from error

    def _check_length(self, hdus):
        """Refuse a truncated file, for which astropy only warns and fills in zeros."""
        used = [self.hdu, *(mask.hdu for mask in self.masks if mask.path is None)]
        places = [hdus[i].fileinfo() for i in used]
        with open(self.path, "rb") as stream:
            compressed = stream.read(6) != b"SIMPLE"
            size = stream.seek(0, 2)
        if not compressed and max(p["datLoc"] + p["datSpan"] for p in places) > size:
            msg = f"it is truncated to {size} bytes"
            raise OSError(msg)

    @contextmanager
    def _opened_masks(self, hdus):
        """Open the files of the masks, and yield the list of masks with their HDUs."""
        with ExitStack() as stack:
            files = {None: hdus}
            for path in {mask.path for mask in self.masks} - {None}:
                files[path] = stack.enter_context(fits.open(path, memmap=False))
            yield [(mask, files[mask.path][mask.hdu]) for mask in self.masks]

    def bad(self, hdus: fits.HDUList, dq_bits: int) -> np.ndarray | None:
        """Return the mask of bad pixels, or `None` without masks.

        Parameters
        ----------
        hdus : `~astropy.io.fits.HDUList`
            The open file.
        dq_bits : int
            Data-quality bits that make a pixel bad.
        """
        with self._opened_masks(hdus) as masks:
            return bad_pixels(masks, dq_bits)

    @property
    def label(self) -> str:
        """Name of the image."""
        return self.name or self.path.name

    def check_unchanged(self, dq_bits: int) -> None:
        """Check that the files are unchanged since they were first read.

        The check compares sizes and modification times. If inodes or status times differ, it
        also compares the pixels.

        Parameters
        ----------
        dq_bits : int
            Data-quality bits that make a pixel bad.

        Raises
        ------
        FrameError
            If the file changed.
        """
        if self.state is None or self.state.check_files(self.label):
            return
        if self.state.digests is None:
            raise changed(self.label, "it was touched, and another process has read its pixels")
        self.read(dq_bits)

    def read(self, dq_bits: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the pixels as floats, and the mask of bad pixels.

        Returns
        -------
        data : 2D `~numpy.ndarray`
            The pixels. Pixels of a plain file are NaN where bad.
        bad : 2D `~numpy.ndarray` of bool, or None
            The mask; `None` for a plain file or without masks.

        Raises
        ------
        FrameError
            If the file cannot be read, or changed since it was first read.
        """
        data, bad, digests = self._read(dq_bits)
        if self.state is not None:
            self.state.check_files(self.label)
            self.state.check_digests(self.label, digests)
        return data, bad

    def _read(self, dq_bits):
        """Return pixels, mask and digests, see `~levelmatch.images.digests.pixel_digests`."""
        if self.plain is not None:
            try:
                data, digests = fastfits.read_pixels(self.path, *self.plain, dq_bits & 0xFFFFFFFF)
            except OSError:
                pass
            else:
                return data, None, digests
        with self.opened() as hdus:
            data = decoded_image(hdus[self.hdu])
            with self._opened_masks(hdus) as masks:
                digests = pixel_digests(hdus[self.hdu].data, [hdu.data for _, hdu in masks])
                bad = bad_pixels(masks, dq_bits)
            return np.require(data, float_type(data), "CW"), bad, digests

    def read_rows(self, start: int, stop: int, dq_bits: int) -> np.ndarray | None:
        """Return rows of a plain file, NaN where flagged, or `None` for other files."""
        if self.plain is None:
            return None
        image, dq = (hdu and hdu.rows(start, stop) for hdu in self.plain)
        try:
            return fastfits.read_pixels(self.path, image, dq, dq_bits & 0xFFFFFFFF)[0]
        except OSError:
            return None

    def all_flagged(self, rows: slice, columns: slice, dq_bits: int) -> bool:
        """Return whether the flags of a plain file mark a region as bad, without its pixels."""
        if self.plain is None or self.plain[1] is None:
            return False
        dq = self.plain[1].rows(rows.start, rows.stop)
        try:
            return fastfits.all_flagged(self.path, dq, columns, dq_bits & 0xFFFFFFFF)
        except OSError:
            return False


def decoded_image(hdu) -> np.ndarray:
    """Return the pixels of an HDU as a 2D array, NaN where blank.

    astropy ignores BLANK in unsigned integers, and a BLANK of 0.

    Parameters
    ----------
    hdu : `~astropy.io.fits.ImageHDU`, `PrimaryHDU` or `CompImageHDU`
        The HDU. Its data must not have been used before.
    """
    blank, offset = hdu.header.get("BLANK"), hdu.header.get("BZERO", 0)
    bits, scale = hdu.header.get("BITPIX", 0), hdu.header.get("BSCALE", 1)
    data = as_image(hdu.data)
    if not isinstance(blank, int) or bits <= 0:
        return data
    # astropy before 6.1.2 decompresses unsigned integers to floats, without blanks.
    unsigned = scale == 1 and offset == 1 << (bits - 1)
    if data.dtype.kind == "f" and blank != 0 and not unsigned:
        return data
    blanks = data == blank + (offset if data.dtype.kind == "f" else int(offset))
    if not blanks.any():
        return data
    data = data.astype(float_type(data))
    data[blanks] = np.nan
    return data


def bad_pixels(masks: list, dq_bits: int) -> np.ndarray | None:
    """Return the mask of bad pixels, or `None` without masks.

    Parameters
    ----------
    masks : list of tuple
        Pairs of a `~levelmatch.images.mask_arrays.MaskArray` and its HDU.
    dq_bits : int
        Data-quality bits that make a pixel bad.
    """
    bad = None
    for mask, hdu in masks:
        where = _bad(as_image(hdu.data), mask.kind, dq_bits)
        bad = where if bad is None else bad | where
    return bad


def _bad(values, kind, dq_bits):
    """Return the mask of bad pixels from the values of one array."""
    if kind == "flags":
        return flagged(values, dq_bits)
    return values != 0 if kind == "mask" else ~(values > 0)


def float_type(data: np.ndarray) -> np.dtype:
    """Return float32 for integers of at most 16 bits and floats of at most 32, else float64."""
    small = data.dtype.kind == "f" and data.dtype.itemsize <= 4
    small |= data.dtype.kind in "iu" and data.dtype.itemsize <= 2
    return np.dtype(np.float32 if small else np.float64)


def flagged(dq: np.ndarray, bits: int) -> np.ndarray:
    """Return where at least one of the bits is set in an array of signed or unsigned integers."""
    unsigned = dq.view(dq.dtype.str.replace("i", "u"))
    bits = bits & int(np.iinfo(unsigned.dtype).max)
    return (unsigned & unsigned.dtype.type(bits)) != 0


def as_mask(mask) -> np.ndarray | None:
    """Return a mask as a boolean array; `None` stays `None`."""
    return None if mask is None else np.asarray(mask, dtype=bool)


def image_mask(image: NDData) -> np.ndarray | None:
    """Return the mask of an image in memory, or `None` without bad pixels.

    Pixels whose inverse variance is not positive are bad.
    """
    mask, uncertainty = as_mask(image.mask), image.uncertainty
    if mask is not None and mask.ndim == 0:
        # NDData keeps numpy.ma.nomask, and a single value for all pixels.
        mask = np.full(np.shape(image.data), mask) if mask else None
    if isinstance(uncertainty, InverseVariance) and uncertainty.array is not None:
        weightless = ~(np.asarray(uncertainty.array) > 0)
        if weightless.any():
            return weightless if mask is None else mask | weightless
    return mask


def read_uncertainty(
    hdus: fits.HDUList, index: int, shape: tuple[int, int]
) -> NDUncertainty | None:
    """Return the uncertainty of an image in a file.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.
    index : int
        Index of the image's HDU.
    shape : tuple of int
        Shape of the image.

    Returns
    -------
    uncertainty : `~astropy.nddata.NDUncertainty` or None
        Content of the ERR extension of JWST, or of the UNCERT extension written by `CCDData`;
        `None` if the file has neither in the image's shape.
    """
    kinds = {kind.__name__: kind for kind in POWERS}
    for name in ("ERR", "UNCERT"):
        i = known_partner(hdus, index, name)
        if i is not None and image_shape(hdus[i].shape) == shape:
            kind = kinds.get(hdus[i].header.get("UTYPE"), StdDevUncertainty)
            data = as_image(hdus[i].data)
            return kind(np.array(data, dtype=data.dtype.newbyteorder("=")))
    return None
