# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Plain FITS files by their bytes: what their headers say, and where their pixels are.

Astropy reads any file; to read the headers of a common one takes it longer than to
read the pixels. Whatever is not plain here is left to it.
"""

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import WCS, Sip, Wcsprm

from levelmatch.images._decode import decode_pixels
from levelmatch.sky.transform import SkyTransform, wcs_error

__all__ = ["MODERN", "Plane", "RawHeader", "plain_transform", "read_plane", "scan"]


BLOCK = 2880
CARD = 80
END = b"END".ljust(CARD)
# Pixels read at once: what is decoded together stays in the processor's cache.
CHUNK = 2**18
# A header longer than this, in bytes, is none.
LONGEST = 1 << 22
# Projections, with their distortions, whose names need no repair.
MODERN = ("-TAN", "-TAN-SIP", "--TAN", "--TAN-SIP", "-SIN", "--SIN", "-TPV", "--TPV")

_STRING = re.compile(r"= '((?:[^']|'')*)' *(?:/|$)")
_NUMBER = re.compile(r"= *([+-]?\d+(?:\.\d*)?(?:E[+-]?\d+)?) *(?:/|$)")
_WCS_KEY = re.compile(
    r"WCSAXES|C(?:TYPE|UNIT|RVAL|RPIX)[12]|CDELT[12]|(?:PC|CD)[12]_[12]|PV[12]_\d+|LONPOLE|LATPOLE|RADESYS"
)
_SIP_KEY = re.compile(r"([AB])_(\d)_(\d)")
_TEXT_OR_NUMBER = re.compile(
    r"(C(?:TYPE|UNIT)[12]|RADESYS)|WCSAXES|C(?:RVAL|RPIX|DELT)[12]|(?:PC|CD)[12]_[12]|PV[12]_\d+"
    r"|LONPOLE|LATPOLE|[AB]P?_(?:ORDER|\d_\d)"
)
# A header with any of these is no plain one: tables of distortion, other axes and frames.
_HARD = re.compile(
    r"CPDIS|CQDIS|CPERR|CQERR|DP[12]|DQ[12]|D2IM|AXISCORR|CROTA|EQUINOX|EPOCH|RADECSYS"
    r"|(?:CRVAL|CTYPE|CDELT|CRPIX)3|(?:PC|CD)\d{3}"
)


class RawHeader:
    """A header's text, its cards parsed when asked for.

    Parameters
    ----------
    text : str
        The cards, of 80 characters each, without END.
    """

    def __init__(self, text):
        self.text = text

    @cached_property
    def _keys(self):
        return [self.text[i : i + 8].rstrip() for i in range(0, len(self.text), CARD)]

    @cached_property
    def places(self):
        """Where the first card of each keyword begins."""
        starts = range(0, len(self.text), CARD)
        return dict(zip(reversed(self._keys), reversed(starts), strict=True))

    @cached_property
    def repeated(self):
        """Keywords of more than one card."""
        last = dict(zip(self._keys, range(0, len(self.text), CARD), strict=True))
        return {key for key, start in last.items() if start != self.places[key]}

    def is_finite(self, key):
        """Return whether the card of a keyword is a number as wcslib reads it."""
        found = _NUMBER.match(self.text, self.places[key] + 8, self.places[key] + CARD)
        return found is not None and isfinite(float(found[1]))

    def _place(self, key):
        key = key.upper()
        if len(key) > 8 or key in ("", "COMMENT", "HISTORY", "HIERARCH"):
            return None
        return self.places.get(key)

    def __contains__(self, key):
        return self._place(key) is not None or (self._odd(key) and key in self.parsed)

    def _odd(self, key):
        """Whether a keyword is one that is not found by its first eight characters."""
        return (
            not isinstance(key, str)
            or self._place(key) is None
            and (
                "HIERARCH" in self.places or "." in key or key.upper() in ("COMMENT", "HISTORY", "")
            )
        )

    def __getitem__(self, key):
        place = None if self._odd(key) else self._place(key)
        if place is None:
            if key not in self:
                raise KeyError(key)
            return self.parsed[key]
        card = self.text[place + 8 : place + CARD]
        found = _STRING.match(card)
        if found is not None and self.text[place + CARD : place + CARD + 8] != "CONTINUE":
            return found[1].replace("''", "'").rstrip()
        found = _NUMBER.match(card)
        if found is not None:
            return float(found[1]) if set(found[1]) & set(".E") else int(found[1])
        return self.parsed[key]

    def get(self, key, default=None):
        """Return the value of a keyword, or a default."""
        return self[key] if key in self else default

    @cached_property
    def parsed(self):
        """The `~astropy.io.fits.Header`."""
        return fits.Header.fromstring(self.text)

    def copy(self):
        """Return a new `~astropy.io.fits.Header`."""
        return fits.Header.fromstring(self.text)


@dataclass(frozen=True)
class Plane:
    """An HDU of a plain file.

    Parameters
    ----------
    header : `RawHeader`
        Its header.
    offset, size : int
        Where its data begin in the file, and how many bytes they are.
    shape : tuple of int
        Its shape.
    stamp : tuple of int
        The file's size and time when it was looked at.
    """

    header: RawHeader = field(repr=False)
    offset: int
    size: int
    shape: tuple
    stamp: tuple

    @property
    def name(self):
        """EXTNAME, or as astropy names the first one."""
        name = self.header.get("EXTNAME", "" if "XTENSION" in self.header else "PRIMARY")
        return str(name).strip().upper()

    @property
    def version(self):
        """EXTVER."""
        return self.header.get("EXTVER", 1)

    @property
    def is_image(self):
        """Whether it can hold an image."""
        return self.header.get("XTENSION", "IMAGE") == "IMAGE"

    @property
    def offset_of_values(self):
        """What is added to the stored values; `None` if they are scaled or may be blank."""
        if self.header.get("BSCALE", 1) != 1 or "BLANK" in self.header:
            return None
        return self.header.get("BZERO", 0)


def scan(path):
    """Return the `Plane` of each HDU of a plain FITS file, or `None` if it is not plain.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file. Compressed ones and whatever is unusual, truncated or against the standard
        are not plain.
    """
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        stamp = status.st_size, status.st_mtime_ns
        planes, position = [], 0
        while position < stamp[0]:
            header, start = _read_header(file, position)
            plane = None if header is None else _plane(header, start, stamp, first=not planes)
            if plane is None:
                return None
            planes.append(plane)
            position = start + -(-plane.size // BLOCK) * BLOCK
    return planes if position == stamp[0] else None


def _read_header(file, position):
    """Header at a position, `None` if there is none, and where its data begin."""
    file.seek(position)
    begin = b"SIMPLE  =" if position == 0 else b"XTENSION="
    content, looked = bytearray(), 0
    while True:
        more = file.read(4 * BLOCK)
        content += more
        if not content.startswith(begin):
            return None, position
        found = content.find(END, looked)
        while found >= 0 and found % CARD:
            found = content.find(END, found + 1)
        if found >= 0:
            break
        # Each card is looked at once, when it is whole.
        looked = len(content) // CARD * CARD
        if len(more) < BLOCK or len(content) > LONGEST:
            return None, position
    try:
        text = content[:found].decode("ascii")
    except UnicodeDecodeError:
        return None, position
    return RawHeader(text), position + (found // BLOCK + 1) * BLOCK


def _plane(header, start, stamp, *, first):
    """The HDU of a header, or `None` if it is not plain."""
    expected = "SIMPLE" if first else "XTENSION"
    if not header.text.startswith(f"{expected:8}= ") or "ZIMAGE" in header:
        return None
    if first and header.text[10:30].strip() != "T":
        return None
    try:
        shape = tuple(int(header[f"NAXIS{n}"]) for n in range(header["NAXIS"], 0, -1))
        count = int(np.prod(shape)) if shape else 0
        # Random groups, and tables' heaps.
        extra = header.get("PCOUNT", 0)
        size = (count + extra) * header.get("GCOUNT", 1) * abs(header["BITPIX"]) // 8
    except (KeyError, TypeError, ValueError, VerifyError):
        return None
    if "GROUPS" in header or min(shape, default=0) < 0 or start + size > stamp[0]:
        return None
    return Plane(header, start, size, shape, stamp)


def plain_transform(name, header):
    """Return the `~levelmatch.sky.transform.SkyTransform` of a plain header, else `None`.

    Only the cards that the transform takes are parsed: the rest, an inverse distortion
    among it, waits until the whole WCS is asked for.

    Parameters
    ----------
    name : str
        The image, for error messages.
    header : `RawHeader`
        Its header.
    """
    try:
        plain = _is_plain_wcs(header)
    except VerifyError:
        return None
    if not plain:
        return None
    try:
        return _text_transform(name, header.text)
    except Exception as error:
        raise wcs_error(name, error) from error


def _is_plain_wcs(header):
    """Return whether a header's WCS is of a kind that is read here as astropy reads it."""
    kinds = [str(header.get(f"CTYPE{n}", "")) for n in (1, 2)]
    plain = (
        all(kind[4:] in MODERN for kind in kinds)
        and {kind[:4].rstrip("-") for kind in kinds} == {"RA", "DEC"}
        and all(header.get(f"CUNIT{n}") == "deg" for n in (1, 2))
        and header.get("RADESYS") == "ICRS"
        and header.get("NAXIS") == 2
        and header.get("WCSAXES", 2) == 2
        and not any(map(_HARD.match, header.places))
    )
    found = [m for m in map(_TEXT_OR_NUMBER.fullmatch, header.places) if m is not None]
    # astropy counts the last of two cards with one keyword, and names a card without a number.
    plain = (
        plain
        and header.repeated.isdisjoint(m[0] for m in found)
        and all(header.is_finite(m[0]) for m in found if m[1] is None)
    )
    tpv = all(kind.endswith("TPV") for kind in kinds)
    # Parameters of another projection astropy may take for an old way of writing TPV.
    plain = plain and (tpv or not any(key.startswith("PV") for key in header.places))
    sip = {kind.endswith("-SIP") for kind in kinds}
    if not plain or sip != {key in header for key in ("A_ORDER", "B_ORDER")}:
        return False
    # astropy ignores a distortion of order 1.
    return sip == {False} or min(header["A_ORDER"], header["B_ORDER"]) >= 2


def _text_transform(name, text):
    """The transform of a plain header's text."""
    header = RawHeader(text)
    cards = [
        text[i : i + CARD] for key, i in sorted(header.places.items()) if _WCS_KEY.fullmatch(key)
    ]
    # What `~astropy.wcs.WCS` does with a header beside this, such a one does not need.
    wcs = WCS(naxis=2)
    wcs.wcs = Wcsprm("".join(cards).encode("ascii"))
    if "A_ORDER" in header:
        wcs.sip = Sip(*_sip(header), None, None, wcs.wcs.crpix)
    wcs.wcs.set()

    def original():
        return WCS(header.copy(), naxis=2, fix=False)

    return SkyTransform(wcs, name, original=original, rebuild=(_text_transform, (name, text)))


def _sip(header):
    """The distortion from pixels to the sky, as two arrays of coefficients up to its order."""
    out = [np.zeros((header[f"{letter}_ORDER"] + 1,) * 2) for letter in "AB"]
    for key in header.places:
        found = _SIP_KEY.fullmatch(key)
        if found is not None:
            array, i, j = out["AB".index(found[1])], int(found[2]), int(found[3])
            if i + j < len(array):
                array[i, j] = header[key]
    return out


def read_plane(path, image, dq, bits):
    """Return the pixels of a plain image of 32-bit floats, NaN where flagged.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    image : `Plane`
        The image.
    dq : `Plane` or None
        Its flags.
    bits : int
        Those that make a pixel bad.

    Returns
    -------
    data : 2D `~numpy.ndarray` of float32, or None
        `None` if the file is no longer the one that was looked at, or its planes are of
        other types.
    """
    if not _is_plain(image, -32, (0,)) or not (dq is None or _is_plain(dq, 32, (0, 2**31))):
        return None
    out = np.empty(image.shape, np.float32)
    words = out.view(np.uint32).ravel()
    flags = None if dq is None else np.empty(min(CHUNK, words.size), np.uint32)
    flip = 0 if dq is None or dq.offset_of_values == 0 else 2**31
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != image.stamp:
            return None
        for start in range(0, words.size, CHUNK):
            part = words[start : start + CHUNK]
            _fill(file, image.offset + 4 * start, part)
            if dq is not None:
                _fill(file, dq.offset + 4 * start, flags[: part.size])
            decode_pixels(part, None if dq is None else flags[: part.size], bits, flip)
    return out


def _is_plain(plane, bitpix, offsets):
    return plane.header["BITPIX"] == bitpix and plane.offset_of_values in offsets


def _fill(file, position, words):
    """Read an array's bytes from a position of a file."""
    view = memoryview(words).cast("B")
    file.seek(position)
    while len(view):
        count = file.readinto(view)
        if not count:
            msg = "it ends before its data do"
            raise OSError(msg)
        view = view[count:]
