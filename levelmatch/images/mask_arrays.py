# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Flags, masks and weights of an image, in its file or in separate files."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata.bitmask import interpret_bit_flags

from levelmatch.exceptions import FrameError
from levelmatch.images.compression import open_raw
from levelmatch.images.file_checks import check_file, reason_of
from levelmatch.images.file_state import file_identity
from levelmatch.images.jwst import DEFAULT_BAD_BITS, DQ_BITS
from levelmatch.images.notes import Notes
from levelmatch.options import ReadOptions

__all__ = [
    "BESIDE",
    "KINDS",
    "MaskArray",
    "NAMED_BAD",
    "OpenHDUs",
    "as_image",
    "bad_bits",
    "companions",
    "find_masks",
    "hdu_keys",
    "image_shape",
    "is_weight",
    "known_partner",
    "partner_hdu",
    "partner_masks",
]


# Names of bits whose pixels are bad by default: of the LSST pipelines, and of SPHEREx.
NAMED_BAD = (
    *("BAD", "SAT", "CR", "EDGE", "NO_DATA", "INTRP", "UNMASKEDNAN"),
    *("TRANSIENT", "OVERFLOW", "SUR_ERROR", "PHANTOM", "NONFUNC", "DICHROIC", "MISSING_DATA"),
    *("HOT", "COLD", "PHANMISS", "NONLINEAR", "PERSIST", "OUTLIER"),
)
_NAME = re.compile(r"[A-Za-z_]\w*")


def header_bits(header: Mapping) -> dict[str, int]:
    """Return the bits named by the cards ``MP_name`` of a header, as LSST and SPHEREx write."""
    return {
        key[3:].upper(): 1 << header[key]
        for key in header
        if key.startswith("MP_") and isinstance(header[key], int)
    }


def bad_bits(flags, is_jwst: bool = False, names: Mapping[str, int] | None = None) -> int:
    """Return the data-quality bits that make a pixel bad, as one integer.

    Parameters
    ----------
    flags : None, int, str or list
        Bits in the form of `~astropy.nddata.bitmask.interpret_bit_flags`: a number, or names
        and numbers joined by ``+``, ``,`` or ``|``; a leading ``~`` inverts the selection.
        `None` selects the default: DO_NOT_USE and NON_SCIENCE for JWST; those of `NAMED_BAD`
        if the header names any of them; every bit otherwise.
    is_jwst : bool
        Whether the image is JWST's.
    names : mapping or None
        Bits that the header names; by default JWST's.

    Raises
    ------
    ValueError
        If the flags are not understood, or a name is not known.
    """
    if flags is None:
        named = sum(bit for name, bit in (names or {}).items() if name in NAMED_BAD)
        if named:
            return named
        return DEFAULT_BAD_BITS if is_jwst else ~0
    text = flags
    if isinstance(flags, list | tuple) and any(isinstance(flag, str) for flag in flags):
        text = "+".join(map(str, flags))
    if isinstance(text, str):
        text = _NAME.sub(lambda found: str(_bit(found[0], names)), text)
    try:
        return int(interpret_bit_flags(list(text) if isinstance(text, tuple) else text))
    except (TypeError, ValueError) as error:
        msg = f"dq_bits: {flags!r} is not understood: {error}"
        raise ValueError(msg) from error


def _bit(name, names):
    """Return the bit of a name."""
    bits = names or DQ_BITS
    if name.upper() not in bits:
        what = f"among the bits {', '.join(names)}" if names else "the name of a JWST"
        msg = f"dq_bits: {name!r} is not {what}{'' if names else ' data-quality bit'}"
        raise ValueError(msg)
    return bits[name.upper()]


# --------------------------------------------------------------------------------------
# Arrays of flags, masks and weights

# Names of extensions for each kind of array.
KINDS = {
    "flags": ("DQ", "DQM", "MSK", "FLAGS", "FLAG", "FLG"),
    "mask": ("MASK", "BPM"),
    "weight": ("WHT", "WGT", "WEIGHT", "IVAR", "INVVAR", "COVERAGE", "EXP", "EXPOSURE"),
}


# Names of extensions that accompany an image, such as errors, flags, weights and models.
BESIDE = re.compile(
    r"ERR(OR)?|UNCERT(AINTY)?|STD(DEV)?|STDEV|STAT|SIG(MA)?|RMS|NOISE|I?VAR(IANCE)?|VAR_\w+|INVVAR|SNR|"
    r"DQ|DQM|PIXELDQ|\w*MASK|MSK|BPM|FLAGS?|FLG|QUAL(ITY)?|BADPIX\w*|SEG\w*|SAMP|TIME|"
    r"WHT|WGT|WEIGHT|COV(ERAGE)?|EXP(OSURE)?|EXPTIME|CTX|CON|NEXP|NPIX|"
    r"AREA|MODEL|BKG|BACKGROUND|SKY|PSF|D2IMARR|WCSDVARR|WCSCORR|THUMB\w*|PREVIEW"
)


@lru_cache(maxsize=64)
def companions(keys: tuple[tuple[str, int], ...]) -> dict[int, tuple[str, int]]:
    """Return the extensions whose names join a word and the name or the number of an image.

    Examples are ``MASK_CCD1``, ``CCD1_MASK`` and ``MASK1`` beside ``CCD1``, and ``DET11.DQ`` beside
    ``DET11.SCI``. A number must belong to one image.

    Parameters
    ----------
    keys : tuple of tuple of str and int
        Name and version of each extension of a file.

    Returns
    -------
    found : dict of int to tuple of str and int
        The word, such as ``MASK``, and the index of the image, by index of the extension.
    """
    images = [k for k, (name, _) in enumerate(keys) if name and not _word(name)]
    numbers = Counter({keys[k][0]: _number(keys[k][0]) for k in images}.values())
    found = {}
    for k, (name, version) in enumerate(keys):
        for image in images if _word(name) else ():
            tag, own = keys[image][0].removesuffix(".SCI"), keys[image][1]
            tags = (tag, _number(tag)) if numbers[_number(tag)] == 1 else (tag,)
            words = (w for t in tags if t for w in (_without(name, t),) if w)
            word = next(words, None)
            if word is not None and own == version:
                found[k] = word, image
    return found


def _word(name: str) -> bool:
    """Return whether a name begins or ends with the name of an accompanying extension."""
    parts = re.split(r"[._]|(?<=[A-Z])(?=\d)|(?<=\d)(?=[A-Z])", name)
    return any(BESIDE.fullmatch(part) for part in (parts[0], parts[-1]))


def _number(name: str) -> str:
    """Return the digits at the end of a name."""
    return name[len(name.rstrip("0123456789")) :]


def _without(name: str, tag: str) -> str:
    """Return the accompanying word that remains of a name without a tag; empty if none does."""
    starts = [name.removesuffix(tag).rstrip("_.")] if name.endswith(tag) else []
    ends = [name.removeprefix(tag).lstrip("_.")] if name.startswith(tag) else []
    return next((rest for rest in starts + ends if BESIDE.fullmatch(rest)), "")


@dataclass(frozen=True)
class MaskArray:
    """An array of flags, masks or weights in a FITS file.

    Parameters
    ----------
    hdu : int
        Index of its HDU.
    kind : {"flags", "mask", "weight"}
        A pixel is bad if a chosen bit is set, if the value is not 0, or if the weight is not
        positive, respectively.
    path : `~pathlib.Path` or None
        Its file; `None` for the file of the image.
    """

    hdu: int
    kind: str
    path: Path | None = None


def image_shape(shape) -> tuple[int, ...]:
    """Return a shape without axes of one pixel, such as frequency and Stokes in radio images."""
    if len(shape) <= 2:
        return tuple(shape)
    return tuple(n for n in shape if n != 1)


def as_image(array: np.ndarray) -> np.ndarray:
    """Return an array without the axes of one pixel."""
    return array.reshape(image_shape(array.shape))


def hdu_keys(hdus: fits.HDUList) -> tuple[tuple[str, int], ...]:
    """Return name and version of each HDU; astropy takes long for each of them."""
    return tuple((hdu.name.strip().upper(), hdu.ver) for hdu in hdus)


def partner_hdu(
    hdus: fits.HDUList, index: int, name: str, keys: tuple[tuple[str, int], ...] | None = None
) -> int | None:
    """Return the index of the extension with a name and the version of an image, or `None`.

    Without one, the name may be joined to that of the image, see `companions`. LSST names the
    extensions of small files by ``EXTTYPE`` alone. Extensions of equal name and version belong to
    the images in the same order.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The file.
    index : int
        Index of the image.
    name : str
        The name.
    keys : tuple of tuple of str and int, or None
        See `hdu_keys`; by default computed.

    Raises
    ------
    FrameError
        If there are several such extensions, and not one for each image.
    """
    keys = hdu_keys(hdus) if keys is None else keys
    key = (name, keys[index][1])
    alike = [i for i, found in enumerate(keys) if found == key]
    if index in alike:
        return None
    if not alike and "EXTTYPE" in hdus[index].header:
        typed = [i for i, h in enumerate(hdus) if not h.name and h.header.get("EXTTYPE") == name]
        return typed[0] if typed and typed[0] != index else None
    if not alike:
        return next((k for k, found in companions(keys).items() if found == (name, index)), None)
    return alike[0] if len(alike) == 1 else _in_order(hdus, index, alike, keys)


def known_partner(hdus: fits.HDUList, index: int, name: str) -> int | None:
    """Return the index of `partner_hdu`, or `None` also if several extensions may be meant."""
    try:
        return partner_hdu(hdus, index, name)
    except FrameError:
        return None


def _in_order(hdus, index, alike, keys):
    """Return the one of several extensions of equal name that belongs to an image."""
    images = [
        i
        for i, (name, version) in enumerate(keys)
        if version == keys[index][1] and not BESIDE.fullmatch(name)
        if hdus[i].is_image and hdus[i].shape
    ]
    if len(images) != len(alike) or index not in images:
        msg = (
            f"{len(alike)} extensions are called {keys[alike[0]][0]}, and which belongs to an "
            "image is unknown; number them and their images by EXTVER"
        )
        raise FrameError(msg)
    return alike[images.index(index)]


@dataclass(frozen=True, eq=False)
class OpenHDUs:
    """The HDUs of an open file or in memory, and how their images are read.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The HDUs.
    read : `~levelmatch.ReadOptions`
        How images are read.
    notes : `~levelmatch.images.notes.Notes`
        Receives the notes on the images.
    """

    hdus: fits.HDUList
    read: ReadOptions
    notes: Notes

    @cached_property
    def keys(self) -> tuple[tuple[str, int], ...]:
        """Name and version of each HDU."""
        return hdu_keys(self.hdus)

    def has_several(self, shape: tuple[int, int]) -> bool:
        """Return whether there are several images of a shape, besides accompanying arrays."""
        beside = companions(self.keys)
        images = (
            hdu
            for i, (hdu, (name, _)) in enumerate(zip(self.hdus, self.keys, strict=True))
            if hdu.is_image and i not in beside and not BESIDE.fullmatch(name)
        )
        return sum(image_shape(hdu.shape) == shape for hdu in images) > 1


def find_masks(
    name: str, opened: OpenHDUs, index: int, shape: tuple[int, int], is_jwst: bool
) -> tuple[tuple[MaskArray, ...], int]:
    """Return the masks of an image in its file, and the bits that make a pixel bad.

    Parameters
    ----------
    name : str
        The image, for error messages.
    opened : `OpenHDUs`
        Its file.
    index : int
        Index of its HDU.
    shape : tuple of int
        Its shape (ny, nx).
    is_jwst : bool
        Whether it is an image of JWST.

    Returns
    -------
    masks : tuple of `MaskArray`
        The masks.
    bits : int
        Data-quality bits.

    Raises
    ------
    FrameError
        If an array cannot be used; the message names image and extension.
    """
    hdus, read = opened.hdus, opened.read
    masks: list = []
    names: dict = {}

    def partner(extension, how=", or leave out masks and weights by mask_extensions=False"):
        try:
            return partner_hdu(hdus, index, extension, opened.keys)
        except FrameError as error:
            msg = f"{name}: {error}{how}"
            raise FrameError(msg) from error

    for kind, extensions in KINDS.items():
        for extension in extensions:
            if kind == "flags":
                i = partner(extension, how="")
            else:
                i = partner(extension) if read.mask_extensions else None
            if i is None:
                continue
            named = header_bits(hdus[i].header) if kind != "weight" else {}
            masks.append(MaskArray(i, "flags" if named else kind))
            names |= named
    bits = bad_bits(read.dq_bits, is_jwst, names)
    uncertainty = partner("UNCERT") if read.mask_extensions else None
    if uncertainty is not None and is_weight(hdus[uncertainty].header):
        masks.append(MaskArray(uncertainty, "weight"))
    keep = [m for m in masks if _has_values(name, hdus[m.hdu], m.kind, shape, bits)]
    return tuple(keep), bits


def is_weight(header: Mapping) -> bool:
    """Return whether an extension UNCERT, as `CCDData` writes, holds inverse variances."""
    return header.get("UTYPE") == "InverseVariance"


def _has_values(name, hdu, kind, shape, bits):
    """Return whether an array has one value per pixel; refuse an array that cannot be used."""
    what = f"{name}: the {hdu.name.strip() or 'first'} extension"
    if not hdu.is_image:
        msg = f"{what} is a table, not an image; rename it"
        raise FrameError(msg)
    if not hdu.shape:
        # HST writes an array of one value as the card PIXVALUE.
        value = hdu.header.get("PIXVALUE", 1 if kind == "weight" else 0)
        if {"flags": int(value) & bits, "mask": value != 0, "weight": not value > 0}[kind]:
            msg = (
                f"{what} flags every pixel; leave the image out, or see dq_bits and mask_extensions"
            )
            raise FrameError(msg)
        return False
    if image_shape(hdu.shape) != shape:
        msg = f"{what} has shape {tuple(hdu.shape)}, the data {shape}"
        raise FrameError(msg)
    if kind == "flags" and (hdu.header["BITPIX"] < 0 or hdu.header.get("BSCALE", 1) != 1):
        msg = f"{what} does not hold whole numbers; convert it, or rename it"
        raise FrameError(msg)
    return True


# --------------------------------------------------------------------------------------
# Files of their own


def partner_masks(
    name: str, opened: OpenHDUs, index: int, shape: tuple[int, int], path: Path, place: int
) -> tuple[MaskArray, ...]:
    """Return the masks of an image from ``weight_files`` and ``mask_files``.

    Parameters
    ----------
    name : str
        The image.
    opened : `OpenHDUs`
        Its file.
    index : int
        Index of its HDU.
    shape : tuple of int
        Its shape (ny, nx).
    path : `~pathlib.Path`
        Path of the file.
    place : int
        Index of the file in the input.

    Returns
    -------
    masks : tuple of `MaskArray`
        The masks.

    Raises
    ------
    FrameError
        If a file is missing, cannot be read or has no array of the image's shape; the message
        names the image, the option and the file.
    """
    masks = []
    read, key = opened.read, opened.keys[index]
    for option, kind in (("weight_files", "weight"), ("mask_files", "mask")):
        partner = _partner_path(path, place, getattr(read, option), option)
        if partner is None:
            continue
        if file_identity(path) == file_identity(partner):
            msg = f"{name}: {option}: {partner.name} is the file of the image; name another"
            raise FrameError(msg)
        found = _mask_hdus(name, partner, shape, option, key, read.max_bytes)
        if len(found) > 1 and opened.has_several(shape):
            # Extensions without names are told by their places.
            if key[0] not in ("", "PRIMARY") or index not in found:
                msg = (
                    f"{name}: {option}: {partner.name} has {len(found)} arrays of its shape; "
                    f"name the one that belongs to it {key[0] or index}"
                )
                raise FrameError(msg)
            found = [index]
        masks.append(MaskArray(found[0], kind, partner))
    return tuple(masks)


def _partner_path(path, index, files, option):
    """Return the file that an option gives for an image, or `None` without one."""
    if files is None:
        return None
    if isinstance(files, str):
        stem = path.name.partition(".fit")[0]
        return path.parent / files.replace("{stem}", stem).replace("{name}", path.name)
    if isinstance(files, Mapping):
        found = files.get(path.name, files.get(str(path), files.get(path)))
    else:
        if index >= len(files):
            msg = f"{path.name}: {option}: there are {len(files)} files, none for image {index}"
            raise FrameError(msg)
        found = files[index]
    return None if found is None else Path(found)


def _mask_hdus(name, path, shape, option, extension, most):
    """Return the indices of the HDUs of a separate file that may mask an image.

    The HDU with the image's extension name and version has priority over the HDUs with the
    image's shape. An array of another shape is refused.
    """
    try:
        check_file(path, most)
        with open_raw(path, most) as file, fits.open(file, memmap=False) as hdus:
            shapes = {i: image_shape(h.shape) for i, h in enumerate(hdus) if h.is_image and h.shape}
            keys = hdu_keys(hdus)
            same = [i for i in shapes if keys[i] == extension]
    except FileNotFoundError as error:
        msg = f"{name}: {option}: there is no file {path}"
        raise FrameError(msg) from error
    except Exception as error:
        msg = f"{name}: {option}: {path.name} is not a readable FITS file: {reason_of(error)}"
        raise FrameError(msg) from error
    if extension[0] in ("", "PRIMARY") or not same:
        same = [i for i, found in shapes.items() if found == shape]
    if not same or shapes[same[0]] != shape:
        found = ", ".join(str(s) for s in shapes.values()) or "no image"
        msg = f"{name}: {option}: {path.name} has shape {found}, the data {shape}"
        raise FrameError(msg)
    return same
