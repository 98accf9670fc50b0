# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Frames of FITS files."""

import io
import re
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.units import UnitsError
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.exceptions import FrameError
from levelmatch.images import fastfits, jwst
from levelmatch.images.compression import damage_of, open_raw
from levelmatch.images.extensions import Extension, ExtensionChoice, extensions_of
from levelmatch.images.file_checks import (
    check_file,
    check_layout,
    check_name,
    is_of_option,
    named_warnings,
    reason_of,
)
from levelmatch.images.file_headers import check_linear, file_meta, with_inherited_frame
from levelmatch.images.file_state import FileState
from levelmatch.images.frame import Frame
from levelmatch.images.mask_arrays import (
    KINDS,
    MaskArray,
    OpenHDUs,
    bad_bits,
    companions,
    find_masks,
    image_shape,
    is_weight,
    partner_masks,
)
from levelmatch.images.notes import Notes
from levelmatch.images.sources import FileSource
from levelmatch.images.units import read_unit
from levelmatch.images.wcs_cards import check_header, has_scale, wcs_header
from levelmatch.options import ReadOptions
from levelmatch.sky.transform import SkyTransform, wcs_error

__all__ = ["check_shape", "file_frames", "hdu_frame"]


def check_shape(name: str, shape) -> tuple[int, int]:
    """Return an image's shape without axes of one pixel; refuse any other than a 2D image."""
    plane = image_shape(shape)
    if len(plane) != 2:
        msg = (
            f"{name}: the image has {len(shape)} dimensions (shape {tuple(shape)}), not 2; "
            "give one 2D image of it, or name another extension by hdu"
        )
        raise FrameError(msg)
    if min(plane) < 2:
        msg = (
            f"{name}: the image is empty or a single line, its shape is {tuple(shape)}; "
            "leave it out, or name another extension by hdu"
        )
        raise FrameError(msg)
    return int(plane[0]), int(plane[1])


# Compressions that astropy reads, but in which no output is written.
_PACKED = {b"PK": "a zip archive", b"\x1f\x9d": "packed by compress (.Z)"}


def _check_packing(path):
    """Refuse a file whose output would lack the compression that its name implies."""
    try:
        with open(path, "rb") as stream:
            packed = _PACKED.get(stream.read(2))
    except OSError:
        return
    if packed is not None:
        msg = f"{path.name}: it is {packed}; unpack it, or pack it by gzip, bzip2 or xz"
        raise FrameError(msg)


def file_frames(path: Path, read: ReadOptions, notes: Notes, place: int = 0) -> list[Frame]:
    """Return the frames of the images in a FITS file.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    read : `~levelmatch.ReadOptions`
        How it is read.
    notes : `~levelmatch.images.notes.Notes`
        Receives the notes on the images.
    place : int
        Index of the file in the input.

    Returns
    -------
    frames : list of `Frame`
        One or more frames. Each of several is named by file and extension, such as
        ``a.fits[SCI,2]``.

    Raises
    ------
    FrameError
        If an image cannot be used; the message names it.
    """
    name = path.name
    try:
        check_name(path)
        check_file(path, read.max_bytes)
        # The state is taken before anything is read, so that it shows a change during reading.
        first = FileState(path)
        with named_warnings(name):
            frames = opened_frames(path, read, notes, place)
        return [
            _bound(frame, first if k == 0 else first.copy(), read) for k, frame in enumerate(frames)
        ]
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file; check its path"
        raise FrameError(msg) from error
    except FrameError as error:
        # In a truncated compressed file, astropy misses extensions without an error.
        damage = damage_of(path, read.max_bytes)
        if damage:
            msg = f"{name}: the compressed file is damaged: {damage}; get the file again"
            raise FrameError(msg) from error
        raise
    except (UnitsError, ImportError, NameError):
        raise
    except Exception as error:
        if is_of_option(error):
            raise
        msg = f"{name}: not a readable FITS file: {reason_of(error)}"
        raise FrameError(msg) from error


def _bound(frame, state, read):
    """Return a frame whose source is bound to the current state of its files."""
    for mask in frame.source.masks:
        if mask.path is not None:
            state.watch(mask.path)
    return frame.with_keys(source=replace(frame.source, state=state, max_bytes=read.max_bytes))


def opened_frames(path, read, notes, place):
    """Return the frames of a file; read a plain file without astropy."""
    if read.weight_files is None and read.mask_files is None:
        frames = plain_frames(path, read, notes)
        if frames is not None:
            return frames
    _check_packing(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        warnings.filterwarnings("error", message=".*truncated.*")
        # The outer file is closed even if astropy fails to read its header.
        with open_raw(path, read.max_bytes) as file, fits.open(file, memmap=False) as hdus:
            if isinstance(file, io.BytesIO):
                check_layout(path.name, file, file.getbuffer().nbytes, read.max_bytes)
            chosen = ExtensionChoice.of(path.name, extensions_of(hdus), read)
            opened = OpenHDUs(hdus, read, notes)
            make = partial(_header_frame, opened=opened, path=path, place=place)
            return chosen.frames(make, notes)


# --------------------------------------------------------------------------------------
# Without astropy


def plain_frames(path, read, notes):
    """Return the frames of a plain file, or `None` if astropy must read it or name its fault."""
    try:
        hdus = fastfits.scan(path)
    except OSError:
        return None
    if hdus is None:
        return None
    try:
        chosen = ExtensionChoice.of(path.name, [_extension(hdu) for hdu in hdus], read)
        if any(_plain_flags(hdus, i) is None for i in chosen.indices):
            return None
        return chosen.frames(lambda name, i: _plain_frame(name, path, hdus, i, read), notes)
    except (_NotPlainError, VerifyError):
        return None


def _extension(hdu):
    ctype = hdu.header.get("CTYPE1", "") if "CTYPE1" in hdu.header.text else ""
    name = hdu.name or str(hdu.header.get("EXTTYPE", ""))
    return Extension.of(name, hdu, hdu.version, ctype)


class _NotPlainError(Exception):
    """An image that astropy must read."""


def _plain_frame(name, path, hdus, index, read):
    """Return the frame of an image of a plain file."""
    image = hdus[index]
    dq_hdu = _plain_flags(hdus, index)
    dq = hdus[dq_hdu] if dq_hdu >= 0 else None
    if len(image.shape) != 2 or min(image.shape) < 2 or not has_scale(image.header.places):
        raise _NotPlainError
    transform = fastfits.plain_transform(name, image.header)
    if transform is None or (dq is not None and dq.shape != image.shape):
        raise _NotPlainError
    meta = file_meta(hdus[0].header, image.header)
    check_linear(name, meta)
    masks = () if dq is None else (MaskArray(dq_hdu, "flags"),)
    return Frame(
        name=name,
        source=FileSource(path, index, masks, plain=(image, dq)),
        shape=image.shape,
        meta=meta,
        unit=_header_unit(meta),
        transform=transform,
        dq_bits=bad_bits(read.dq_bits, meta.get("TELESCOP") == "JWST"),
        blank=read.blank,
    )


def _plain_flags(hdus, i):
    """Return the index of the DQ extension, -1 without one, or `None` if astropy must read it."""
    image = hdus[i]
    keys = tuple((h.name, h.version) for h in hdus)
    indices = {key: k for k, key in reversed(list(enumerate(keys)))}
    beside = {name for name, version in indices if version == image.version}
    typed = "EXTTYPE" in image.header.text
    joined = any(of == i for _, of in companions(keys).values())
    if joined or not beside.isdisjoint(_NOT_PLAIN) or keys.count(("DQ", image.version)) > 1:
        return None
    if image.name == "DQ" or typed or not image.is_image:
        return None
    index = indices.get(("DQ", image.version), -1)
    flags = hdus[index] if index >= 0 else None
    if flags is not None and (flags.header["BITPIX"] < 0 or "MP_" in flags.header.text):
        return None
    uncertainty = indices.get(("UNCERT", image.version))
    if uncertainty is not None and is_weight(hdus[uncertainty].header):
        return None
    return index


# Names of accompanying extensions that astropy must read.
_NOT_PLAIN = {"ASDF"}.union(*KINDS.values()) - {"DQ"}


# --------------------------------------------------------------------------------------
# By astropy


def hdu_frame(name, index, opened, make_source):
    """Return the frame of an image that astropy reads.

    Parameters
    ----------
    name : str
        The image.
    index : int
        Index of the image's HDU.
    opened : `~levelmatch.images.mask_arrays.OpenHDUs`
        The open file, or HDUs in memory.
    make_source : callable
        Function of the frame without source, and of its masks, which returns the source of its
        pixels.

    Returns
    -------
    frame : `Frame`
        The frame.

    Raises
    ------
    FrameError
        If the image cannot be used; the message names it.
    """
    hdus = opened.hdus
    header = hdus[index].header
    shape = check_shape(name, hdus[index].shape)
    meta = file_meta(hdus[0].header, header)
    check_linear(name, meta)
    is_jwst = meta.get("TELESCOP") == "JWST"
    masks, bits = find_masks(name, opened, index, shape, is_jwst)
    frame = Frame(
        name=name,
        source=None,
        shape=shape,
        meta=meta,
        unit=_header_unit(meta),
        transform=SkyTransform(_any_wcs(name, hdus, index, is_jwst, opened.notes), name),
        dq_bits=bits,
        blank=opened.read.blank,
    )
    return frame.with_keys(source=make_source(frame, masks))


def _header_frame(name, index, *, opened, path, place):
    """Return the frame of an image of a file."""

    def make_source(frame, masks):
        beside = partner_masks(name, opened, index, frame.shape, path, place)
        return FileSource(path, index, masks + beside)

    return hdu_frame(name, index, opened, make_source)


def _any_wcs(name, hdus, index, is_jwst, notes):
    """Return the gwcs of a JWST image; otherwise return the FITS WCS."""
    wcs, reason = jwst.read_gwcs(hdus) if is_jwst else (None, "")
    if wcs is not None:
        return wcs
    wcs = _fits_wcs(name, hdus[index], hdus)
    if reason:
        notes.add("gwcs", name, reason)
    return wcs


def _fits_wcs(name, hdu, hdus):
    """Return the celestial WCS of a header without axes of one pixel."""
    header = with_inherited_frame(hdus[0].header, hdu.header)
    # FITS axes count from the last numpy axis. Axes of one pixel are left out.
    axes = [k + 1 for k, n in enumerate(hdu.shape[::-1]) if n != 1 or len(hdu.shape) <= 2]
    check_header(name, header, axes)
    header = wcs_header(header)
    # astropy's repair of old headers takes half of the reading time.
    modern = str(header.get("CTYPE1", ""))[4:] in fastfits.MODERN and header.get("CUNIT1") == "deg"
    try:
        if axes == [1, 2]:
            wcs = WCS(header, hdus, naxis=2, fix=not modern)
        else:
            wcs = WCS(header, hdus, fix=not modern).sub(axes)
    except Exception as error:
        others = sorted({card[6:] for card in header if re.fullmatch("CTYPE1[A-Z]", card)})
        if isinstance(error, KeyError) and others and "CTYPE1" not in header:
            msg = (
                f"{name}: the header has a WCS only with the key {others[0]}; rename its cards, as "
                f"CTYPE1{others[0]} to CTYPE1"
            )
            raise FrameError(msg) from error
        raise wcs_error(name, error) from error
    if not wcs.has_celestial:
        msg = (
            f"{name}: the header has no celestial WCS (CTYPE {list(wcs.wcs.ctype)}); "
            "solve its astrometry first"
        )
        raise FrameError(msg)
    return wcs


def _header_unit(meta):
    """Return the unit from BUNIT of the image's header, or if blank, of the primary header."""
    for header in (meta.header, meta.primary):
        text = str(header.get("BUNIT") or "").strip()
        if text:
            return read_unit(text)
    return None
