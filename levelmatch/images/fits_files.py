# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Frames of FITS files."""

import warnings
from dataclasses import replace
from pathlib import Path

from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.exceptions import FrameError
from levelmatch.images import fastfits, jwst
from levelmatch.images.binding import Binding
from levelmatch.images.cards import check_header, wcs_header
from levelmatch.images.extensions import image_hdu, is_science, other_images
from levelmatch.images.flags import bad_bits
from levelmatch.images.frame import FileMeta, Frame
from levelmatch.images.notes import Notes
from levelmatch.images.packing import DAMAGED, damage_of
from levelmatch.images.planes import (
    KINDS,
    MaskPlane,
    find_planes,
    partner_hdu,
    partner_planes,
    plane_shape,
)
from levelmatch.images.sources import FileSource
from levelmatch.images.units import read_unit
from levelmatch.options import ReadOptions
from levelmatch.sky.transform import SkyTransform, wcs_error

__all__ = ["check_shape", "file_frame", "partner_hdu"]


def check_shape(name: str, shape) -> tuple[int, int]:
    """Return an image's shape without axes of one pixel; refuse all but two dimensions."""
    plane = plane_shape(shape)
    if len(plane) != 2:
        msg = (
            f"{name}: the image has {len(shape)} dimensions (shape {tuple(shape)}), not 2; "
            "give a plane of it, or name another extension by hdu"
        )
        raise FrameError(msg)
    if min(plane) < 2:
        msg = (
            f"{name}: the image is empty or a single line, its shape is {tuple(shape)}; "
            "leave it out, or name another extension by hdu"
        )
        raise FrameError(msg)
    return int(plane[0]), int(plane[1])


# Kinds of compression that astropy opens and that are not written again.
_PACKED = {b"PK": "a zip archive", b"\x1f\x9d": "packed by compress (.Z)"}


def _check_packing(path):
    """Refuse a file whose output would not have the format that its name implies."""
    try:
        with open(path, "rb") as stream:
            packed = _PACKED.get(stream.read(2))
    except OSError:
        return
    if packed is not None:
        msg = f"{path.name}: it is {packed}; unpack it, or pack it by gzip, bzip2 or xz"
        raise FrameError(msg)


def file_frame(path: Path, read: ReadOptions, notes: Notes, place: int = 0) -> Frame:
    """Return the frame of a FITS file.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    read : `~levelmatch.ReadOptions`
        How it is read.
    notes : `~levelmatch.images.notes.Notes`
        Takes notes on the image.
    place : int
        Its place in the input.

    Raises
    ------
    FrameError
        If the image cannot be used; the message names it.
    """
    name = path.name
    try:
        # Before anything is read.
        binding = Binding(path)
        frame = _opened_frame(path, read, notes, place)
        for mask in frame.source.masks:
            if mask.path is not None:
                binding.watch(mask.path)
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file; check its path"
        raise FrameError(msg) from error
    except FrameError as error:
        # astropy takes the end of a truncated file for the end of its extensions.
        damage = damage_of(path)
        if damage:
            msg = f"{name}: the compressed file is damaged: {damage}; get the file anew"
            raise FrameError(msg) from error
        raise
    except (*DAMAGED, VerifyError) as error:
        msg = f"{name}: not a readable FITS file: {error}"
        raise FrameError(msg) from error
    return frame.with_keys(source=replace(frame.source, binding=binding))


def _opened_frame(path, read, notes, place):
    """Return the frame of a file, read without astropy where that suffices."""
    if read.hdu is None and read.weight_files is None and read.mask_files is None:
        frame = _plain_frame(path, read)
        if frame is not None:
            return frame
    _check_packing(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        warnings.filterwarnings("error", message=".*truncated.*")
        # astropy leaves a file open whose header it cannot read.
        with open(path, "rb") as file, fits.open(file, memmap=False) as hdus:
            return _header_frame(path, hdus, read, notes, place)


# --------------------------------------------------------------------------------------
# Without astropy


def _plain_frame(path, read):
    """Return the frame of a plain file; `None` if astropy must read it, or explain it."""
    try:
        planes = fastfits.scan(path)
    except OSError:
        return None
    index = None if planes is None else _plain_image(planes)
    if index is None:
        return None
    image = planes[index]
    dq_hdu = _plain_flags(planes, image)
    if dq_hdu is None:
        return None
    dq = planes[dq_hdu] if dq_hdu >= 0 else None
    transform = fastfits.plain_transform(path.name, image.header)
    if transform is None or min(image.shape) < 2 or (dq is not None and dq.shape != image.shape):
        return None
    meta = FileMeta(planes[0].header, image.header)
    masks = () if dq is None else (MaskPlane(dq_hdu, "flags"),)
    return Frame(
        name=path.name,
        source=FileSource(path, index, masks, planes=(image, dq)),
        shape=image.shape,
        meta=meta,
        unit=_header_unit(meta),
        transform=transform,
        dq_bits=bad_bits(read.dq_bits, meta.get("TELESCOP") == "JWST"),
        blank=read.blank,
    )


def _plain_image(planes):
    """Return the index of the HDU that holds the image, `None` if astropy must find it."""
    images = [i for i, p in enumerate(planes) if p.is_image and len(p.shape)]
    science = [i for i, p in enumerate(planes) if p.name == "SCI"]
    if len(science) > 1 or not set(science) <= set(images) or not images:
        return None
    index = (science or images)[0]
    if not science and any(
        i != index and "CTYPE1" in planes[i].header.text and is_science(planes[i].name)
        for i in images
    ):
        return None
    return index if len(planes[index].shape) == 2 else None


def _plain_flags(planes, image):
    """Return the index of the DQ extension, -1 without one; `None` if astropy must read it."""
    named = {(p.name, p.version): i for i, p in reversed(list(enumerate(planes)))}
    own = {name for name, version in named if version == image.version}
    if own.intersection(_NOT_PLAIN) or image.name == "DQ":
        return None
    index = named.get(("DQ", image.version), -1)
    flags = planes[index] if index >= 0 else None
    if flags is not None and (flags.header["BITPIX"] < 0 or "MP_" in flags.header.text):
        return None
    return index


# Extensions that astropy reads.
_NOT_PLAIN = {"ASDF"}.union(*KINDS.values()) - {"DQ"}


# --------------------------------------------------------------------------------------
# By astropy


def _header_frame(path, hdus, read, notes, place):
    name = path.name
    index = image_hdu(name, hdus, read.hdu)
    header = hdus[index].header
    shape = check_shape(name, hdus[index].shape)
    meta = FileMeta(hdus[0].header, header)
    is_jwst = meta.get("TELESCOP") == "JWST"
    masks, bits = find_planes(name, hdus, index, shape, read, is_jwst)
    frame = Frame(
        name=name,
        source=FileSource(path, index, masks + partner_planes(name, path, place, shape, read)),
        shape=shape,
        meta=meta,
        unit=_header_unit(meta),
        transform=SkyTransform(_any_wcs(name, hdus, index, is_jwst, notes), name),
        dq_bits=bits,
        blank=read.blank,
    )
    _note_others(name, hdus, index, read, notes)
    return frame


def _note_others(name, hdus, index, read, notes):
    """Note a file with images that are not matched; a warning unless the user chose one."""
    labels = other_images(hdus, index)
    if len(labels) > 1:
        kind = "extensions" if read.hdu is None else "chosen extensions"
        notes.add(kind, name, f"{labels[0]} of {len(labels)}: {', '.join(labels)}")


def _any_wcs(name, hdus, index, is_jwst, notes):
    """Return the gwcs of a JWST image, else the FITS WCS."""
    wcs, reason = jwst.read_gwcs(hdus) if is_jwst else (None, "")
    if wcs is not None:
        return wcs
    wcs = _fits_wcs(name, hdus[index], hdus)
    if reason:
        notes.add("gwcs", name, reason)
    return wcs


def _fits_wcs(name, hdu, hdus):
    header = hdu.header
    # FITS counts axes from the last. Axes of one pixel are left out.
    axes = [k + 1 for k, n in enumerate(hdu.shape[::-1]) if n != 1 or len(hdu.shape) <= 2]
    check_header(name, header, axes)
    header = wcs_header(header)
    # The repair of old headers takes half of the reading time.
    modern = str(header.get("CTYPE1", ""))[4:] in fastfits.MODERN and header.get("CUNIT1") == "deg"
    try:
        if axes == [1, 2]:
            wcs = WCS(header, hdus, naxis=2, fix=not modern)
        else:
            wcs = WCS(header, hdus, fix=not modern).sub(axes)
    except Exception as error:
        raise wcs_error(name, error) from error
    if not wcs.has_celestial:
        msg = (
            f"{name}: the header has no celestial WCS (CTYPE {list(wcs.wcs.ctype)}); "
            "find its astrometry first"
        )
        raise FrameError(msg)
    return wcs


def _header_unit(meta):
    """Return the unit of BUNIT in the image's header, or if blank there, in the primary one."""
    for header in (meta.header, meta.primary):
        text = str(header.get("BUNIT") or "").strip()
        if text:
            return read_unit(text)
    return None
