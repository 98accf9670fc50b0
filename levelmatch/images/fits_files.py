# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Frames of FITS files."""

import warnings

from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.exceptions import FrameError
from levelmatch.images import fastfits, jwst
from levelmatch.images.cards import check_header, wcs_header
from levelmatch.images.frame import FileMeta, Frame
from levelmatch.images.sources import FileSource
from levelmatch.images.units import read_unit
from levelmatch.sky.transform import SkyTransform, wcs_error

__all__ = ["check_shape", "file_frame", "partner_hdu"]


def check_shape(name, shape):
    """Return an image's shape as integers; refuse all but two dimensions."""
    if len(shape) != 2:
        msg = (
            f"{name}: the image has {len(shape)} dimensions (shape {tuple(shape)}), not 2; "
            "give a plane of it, or name another extension by hdu"
        )
        raise FrameError(msg)
    if min(shape) < 2:
        msg = (
            f"{name}: the image is empty or a single line, its shape is {tuple(shape)}; "
            "leave it out, or name another extension by hdu"
        )
        raise FrameError(msg)
    return tuple(int(n) for n in shape)


# Kinds of compression that astropy opens and that are not written again.
_PACKED = {b"PK": "a zip archive", b"\x1f\x9d": "packed by compress (.Z)"}


def _check_packing(path):
    """Refuse a file whose output would not be what its name says."""
    try:
        with open(path, "rb") as stream:
            packed = _PACKED.get(stream.read(2))
    except OSError:
        return
    if packed is not None:
        msg = f"{path.name}: it is {packed}; unpack it, or pack it by gzip, bzip2 or xz"
        raise FrameError(msg)


def file_frame(path, dq_bits, hdu):
    """Return the frame of a FITS file."""
    name = path.name
    if hdu is None:
        frame = _plain_frame(path, dq_bits)
        if frame is not None:
            return frame
    _check_packing(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            warnings.filterwarnings("error", message=".*truncated.*")
            # astropy leaves a file open whose header it cannot read.
            with open(path, "rb") as file, fits.open(file, memmap=False) as hdus:
                return _header_frame(path, hdus, dq_bits, hdu)
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file; look at its path"
        raise FrameError(msg) from error
    except (OSError, UserWarning, VerifyError) as error:
        msg = f"{name}: not a readable FITS file: {error}"
        raise FrameError(msg) from error


def _plain_frame(path, dq_bits):
    """The frame of a plain file, or `None`: then astropy reads it, and says what is wrong."""
    try:
        planes = fastfits.scan(path)
    except OSError:
        return None
    index = None if planes is None else _plain_image(planes)
    if index is None:
        return None
    image = planes[index]
    named = {(p.name, p.version): i for i, p in reversed(list(enumerate(planes)))}
    if any((plane, image.version) in named for plane in ("MASK", "ASDF")) or image.name == "DQ":
        return None
    dq_hdu = named.get(("DQ", image.version))
    dq = None if dq_hdu is None else planes[dq_hdu]
    if dq is not None and dq.header["BITPIX"] < 0:
        return None
    transform = fastfits.plain_transform(path.name, image.header)
    if transform is None or min(image.shape) < 2 or (dq is not None and dq.shape != image.shape):
        return None
    meta = FileMeta(planes[0].header, image.header)
    return Frame(
        name=path.name,
        source=FileSource(path, index, dq_hdu, planes=(image, dq)),
        shape=image.shape,
        meta=meta,
        unit=_header_unit(image.header),
        transform=transform,
        dq_bits=jwst.bad_bits(dq_bits, meta.get("TELESCOP") == "JWST"),
    )


def _plain_image(planes):
    """Index of the HDU that holds the image, `None` if that is not plain to see."""
    images = [i for i, p in enumerate(planes) if p.is_image and len(p.shape)]
    science = [i for i, p in enumerate(planes) if p.name == "SCI"]
    if len(science) > 1 or not set(science) <= set(images) or not images:
        return None
    index = (science or images)[0]
    return index if len(planes[index].shape) == 2 else None


def _header_frame(path, hdus, dq_bits, hdu):
    name = path.name
    index = _image_hdu(name, hdus, hdu)
    header = hdus[index].header
    shape = check_shape(name, hdus[index].shape)
    meta = FileMeta(hdus[0].header, header)
    is_jwst = meta.get("TELESCOP") == "JWST"
    dq_hdu, mask_hdu = (partner_hdu(hdus, index, plane) for plane in ("DQ", "MASK"))
    bits = jwst.bad_bits(dq_bits, is_jwst)
    dq_hdu, mask_hdu = (
        None if i is None or not _has_flags(name, hdus[i], shape, bits) else i
        for i in (dq_hdu, mask_hdu)
    )
    wcs = jwst.read_gwcs(hdus) if is_jwst else None
    if wcs is None:
        wcs = _fits_wcs(name, header, hdus)
    return Frame(
        name=name,
        source=FileSource(path, index, dq_hdu, mask_hdu),
        shape=shape,
        meta=meta,
        unit=_header_unit(header),
        transform=SkyTransform(wcs, name),
        dq_bits=bits,
    )


def _has_flags(name, hdu, shape, bits):
    """Whether a plane of flags has any, checked; HST's may be one number for all pixels."""
    what = f"{name}: the {hdu.name} extension"
    if not hdu.is_image:
        msg = f"{what} is a table, not an image; rename it"
        raise FrameError(msg)
    if not hdu.shape:
        if int(hdu.header.get("PIXVALUE", 0)) & bits:
            msg = f"{what} flags every pixel; leave the image out, or see dq_bits"
            raise FrameError(msg)
        return False
    if tuple(hdu.shape) != shape:
        msg = f"{what} has shape {tuple(hdu.shape)}, the data {shape}"
        raise FrameError(msg)
    is_dq = hdu.name.strip().upper() == "DQ"
    if is_dq and (hdu.header["BITPIX"] < 0 or hdu.header.get("BSCALE", 1) != 1):
        msg = f"{what} is not of whole numbers; convert it, or rename it"
        raise FrameError(msg)
    return True


def partner_hdu(hdus, index, name):
    """Return the index of the image's other plane of a name, of its version, or `None`."""
    key = (name, hdus[index].ver)
    return hdus.index_of(key) if key in hdus and hdus.index_of(key) != index else None


def _image_hdu(name, hdus, hdu):
    """Return the index of the HDU that holds the image."""
    if hdu is not None:
        try:
            index = hdus.index_of(hdu)
            hdus[index]
        except (KeyError, IndexError) as error:
            names = [h.name or str(i) for i, h in enumerate(hdus)]
            msg = f"{name}: there is no extension {hdu!r}; there are {names}"
            raise FrameError(msg) from error
        if not hdus[index].is_image:
            msg = f"{name}: hdu={hdu!r} is a table, not an image; name another extension"
            raise FrameError(msg)
        return index
    science = [i for i, h in enumerate(hdus) if h.name.strip().upper() == "SCI"]
    if len(science) > 1:
        msg = f"{name}: there are {len(science)} SCI extensions; name one by hdu=('SCI', n)"
        raise FrameError(msg)
    if science:
        return science[0]
    images = [i for i, h in enumerate(hdus) if h.is_image and h.shape]
    if not images:
        msg = f"{name}: there is no image extension; leave the file out"
        raise FrameError(msg)
    return images[0]


def _fits_wcs(name, header, hdus):
    check_header(name, header)
    header = wcs_header(header)
    # Repairs of old forms of headers take half of the time to read a new one.
    modern = str(header.get("CTYPE1", ""))[4:] in fastfits.MODERN and header.get("CUNIT1") == "deg"
    try:
        wcs = WCS(header, hdus, naxis=2, fix=not modern)
    except Exception as error:
        raise wcs_error(name, error) from error
    if not wcs.has_celestial:
        msg = (
            f"{name}: the header has no celestial WCS (CTYPE {list(wcs.wcs.ctype)}); "
            "find its astrometry first"
        )
        raise FrameError(msg)
    return wcs


def _header_unit(header):
    return read_unit(str(header.get("BUNIT", "")))
