# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Where the pixels of an image come from: memory or a FITS file."""

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData

from levelmatch.exceptions import FrameError
from levelmatch.images import fastfits

__all__ = ["FileSource", "MemorySource", "as_mask", "flagged"]


@dataclass(frozen=True, eq=False)
class MemorySource:
    """An image in memory."""

    image: NDData

    @cached_property
    def identity(self):
        """What tells the image: no file, and the SHA-256 of data and mask."""
        data, mask = np.asarray(self.image.data), as_mask(self.image.mask)
        return {"file": "", "path": "", "size": 0, "hdu": 0, **_digests(data, [mask])}

    def read(self, dq_bits):
        """Return a copy of the data as floats, and a boolean array (or `None`) of bad pixels."""
        data = np.asarray(self.image.data)
        return np.array(data, dtype=_float_type(data), order="C"), as_mask(self.image.mask)


@dataclass(frozen=True, eq=False)
class FileSource:
    """An image in a FITS file.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    hdu : int
        Index of the image's HDU.
    dq_hdu : int or None
        Index of the HDU with its data quality.
    mask_hdu : int or None
        Index of the HDU with its mask, which `~astropy.nddata.CCDData` writes.
    planes : tuple of `~levelmatch.images.fastfits.Plane` or None
        The image and its data quality (or `None`) in a plain file.
    """

    path: Path
    hdu: int
    dq_hdu: int | None
    mask_hdu: int | None = None
    planes: tuple | None = None

    @cached_property
    def identity(self):
        """What tells the image: its file, and the SHA-256 of data and mask planes.

        That is of the bytes in FITS's order, once scaled and decompressed. Read when first
        asked for.

        Raises
        ------
        FrameError
            If the file cannot be read.
        """
        with self._opened() as hdus:
            planes = [hdus[i].data for i in (self.dq_hdu, self.mask_hdu) if i is not None]
            digests = _digests(hdus[self.hdu].data, planes)
        path = self.path.absolute()
        size = path.stat().st_size
        return {"file": path.name, "path": str(path), "size": size, "hdu": self.hdu, **digests}

    @contextmanager
    def _opened(self):
        """Open the file; what goes wrong with it names it."""
        try:
            # In threads too, where no filter of warnings may be set.
            with fits.open(self.path, memmap=False) as hdus:
                self._check_length(hdus)
                yield hdus
        except (OSError, EOFError, TypeError, ValueError, IndexError, UserWarning) as error:
            msg = f"{self.path.name}: the pixels cannot be read: {error}; get the file anew"
            raise FrameError(msg) from error

    def _check_length(self, hdus):
        """Refuse a truncated file: astropy only warns, and fills in zeros."""
        used = [i for i in (self.hdu, self.dq_hdu, self.mask_hdu) if i is not None]
        places = [hdus[i].fileinfo() for i in used]
        with open(self.path, "rb") as stream:
            compressed = stream.read(6) != b"SIMPLE"
            size = stream.seek(0, 2)
        if not compressed and max(p["datLoc"] + p["datSpan"] for p in places) > size:
            msg = f"it is truncated to {size} bytes"
            raise OSError(msg)

    def read(self, dq_bits):
        """Return the data as floats, and a boolean array (or `None`) of pixels still to mask."""
        plain = self._read_plain(dq_bits)
        if plain is not None:
            return plain, None
        with self._opened() as hdus:
            data = hdus[self.hdu].data
            bad = None
            if self.dq_hdu is not None:
                bad = flagged(hdus[self.dq_hdu].data, dq_bits)
            if self.mask_hdu is not None:
                masked = hdus[self.mask_hdu].data != 0
                bad = masked if bad is None else bad | masked
            return np.require(data, _float_type(data), "CW"), bad

    def _read_plain(self, dq_bits):
        """The pixels of a plain file, or `None`: then astropy reads it, or says what is wrong."""
        if self.planes is None:
            return None
        try:
            return fastfits.read_plane(self.path, *self.planes, dq_bits & 0xFFFFFFFF)
        except OSError:
            return None


def _float_type(data):
    """The type of floats that holds the values of an array, in single precision if they are."""
    small = data.dtype.kind == "f" and data.dtype.itemsize <= 4
    small |= data.dtype.kind in "iu" and data.dtype.itemsize <= 2
    return np.dtype(np.float32 if small else np.float64)


def _digests(data, planes):
    """The type of an image's data, their SHA-256, and that of its mask planes."""
    masks = hashlib.sha256()
    for plane in planes:
        if plane is not None:
            masks.update(_in_fits_order(np.asarray(plane)))
    return {
        "dtype": data.dtype.newbyteorder("=").str[1:],
        "sha256": hashlib.sha256(_in_fits_order(data)).hexdigest(),
        "mask_sha256": masks.hexdigest() if any(p is not None for p in planes) else "",
    }


def _in_fits_order(data):
    """An array's bytes, C-contiguous and big-endian, as FITS has them."""
    return np.ascontiguousarray(data, dtype=data.dtype.newbyteorder(">")).data


def flagged(dq, bits):
    """Return where any of some bits is set in an array of integers, its sign bit among them."""
    unsigned = dq.view(dq.dtype.str.replace("i", "u"))
    bits = bits & int(np.iinfo(unsigned.dtype).max)
    return (unsigned & unsigned.dtype.type(bits)) != 0


def as_mask(mask):
    """Return a mask as a boolean array, or `None`."""
    return None if mask is None else np.asarray(mask, dtype=bool)
