# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Headers and pixels of plain FITS files, read without astropy.

astropy reads all other files, but takes longer for the headers of common files than for pixels.
"""

import os
import re
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import isfinite, prod
from sys import intern

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import WCS, Sip, Wcsprm

from levelmatch.images._decode import read_decoded
from levelmatch.images.digests import xxh3_128
from levelmatch.sky.transform import SkyTransform, wcs_error

__all__ = [
    "all_flagged",
    "fill_from",
    "MODERN",
    "PlainHDU",
    "RawHeader",
    "plain_transform",
    "read_pixels",
    "scan",
]

BLOCK = 2880
CARD = 80
END = b"END".ljust(CARD)
# Keywords that do not name one value.
_COMMENTARY = ("", "COMMENT", "HISTORY", "HIERARCH")
# Longest header, in bytes; rows of flags that are read first, as few suffice; rows at a time.
LONGEST, FIRST_ROWS, ROWS = 1 << 22, 4, 64
# Projections and distortions in current spelling.
MODERN = ("-TAN", "-TAN-SIP", "--TAN", "--TAN-SIP", "-SIN", "--SIN", "-TPV", "--TPV")

_STRING = re.compile(r"= '((?:[^']|'')*)' *(?:/|$)")
_NUMBER = re.compile(r"= *([+-]?\d+(?:\.\d*)?(?:E[+-]?\d+)?) *(?:/|$)")
_WCS_KEY = re.compile(
    r"WCSAXES|C(?:TYPE|UNIT|RVAL|RPIX)[12]|CDELT[12]|(?:PC|CD)[12]_[12]|PV[12]_\d+|LONPOLE|LATPOLE|RADESYS"
)
_SIP_KEY = re.compile(r"([AB])_(\d)_(\d)")
# Whether wcslib reads a keyword.
_is_of_wcslib = lru_cache(maxsize=4096)(_WCS_KEY.fullmatch)
_TEXT_OR_NUMBER = re.compile(
    r"(C(?:TYPE|UNIT)[12]|RADESYS)|WCSAXES|C(?:RVAL|RPIX|DELT)[12]|(?:PC|CD)[12]_[12]|PV[12]_\d+"
    r"|LONPOLE|LATPOLE|[AB]P?_(?:ORDER|\d_\d)"
)
# Keywords that astropy must read: distortion tables, other axes and frames.
_HARD = re.compile(
    r"^(?:CPDIS|CQDIS|CPERR|CQERR|DP[12]|DQ[12]|D2IM|AXISCORR|CROTA|EQUINOX|EPOCH|RADECSYS"
    r"|(?:CRVAL|CTYPE|CDELT|CRPIX)3|(?:PC|CD)\d{3})",
    re.MULTILINE,
)


class RawHeader:
    """Text of a header whose cards are parsed when indexed.

    Parameters
    ----------
    text : str
        The cards, of 80 characters each, without END.
    """

    def __init__(self, text):
        self.text = text

    @cached_property
    def _keys(self):
        # Images share their keywords, which would otherwise take more memory than the places.
        text = self.text
        return [intern(text[i : i + 8].rstrip()) for i in range(0, len(text), CARD)]

    @cached_property
    def places(self):
        """Start of the first card of each keyword."""
        starts = range(0, len(self.text), CARD)
        return dict(zip(reversed(self._keys), reversed(starts), strict=True))

    @cached_property
    def repeated(self):
        """Keywords with more than one card."""
        last = dict(zip(self._keys, range(0, len(self.text), CARD), strict=True))
        return {key for key, start in last.items() if start != self.places[key]}

    def select(self, keys):
        """Return the text of the first card of each of some keywords."""
        return "".join(self.text[i : i + CARD] for i in map(self.places.get, keys))

    def is_finite(self, key):
        """Return whether the first card of a keyword is a finite number that wcslib can read."""
        found = _NUMBER.match(self.text, self.places[key] + 8, self.places[key] + CARD)
        return found is not None and isfinite(float(found[1]))

    def _place(self, key):
        """Return the start of the first card of a keyword, `None` if only astropy may find it."""
        if not isinstance(key, str) or key.upper() in _COMMENTARY:
            return None
        place = self.places.get(key)
        return self.places.get(key.upper()) if place is None else place

    def __contains__(self, key):
        return self._place(key) is not None or (self._odd(key) and key in self.parsed)

    def _odd(self, key):
        """Return whether a keyword without a place may be one that astropy finds."""
        return (
            not isinstance(key, str)
            or "HIERARCH" in self.places
            or "." in key
            or key.upper() in _COMMENTARY
        )

    def __getitem__(self, key):
        place = self._place(key)
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
        """Return the value of a keyword, or the default."""
        try:
            return self[key]
        except KeyError:
            return default

    @cached_property
    def parsed(self):
        """The `~astropy.io.fits.Header`."""
        return fits.Header.fromstring(self.text)

    def copy(self):
        """Return a new `~astropy.io.fits.Header` of the cards."""
        return fits.Header.fromstring(self.text)


@dataclass(frozen=True)
class PlainHDU:
    """An HDU of a plain file.

    Parameters
    ----------
    header : `RawHeader`
        Its header.
    offset, size : int
        Position and number of bytes of its data in the file.
    shape : tuple of int
        Shape of its data.
    stamp : tuple of int
        Size and modification time of the file when its headers were read.
    """

    header: RawHeader = field(repr=False)
    offset: int
    size: int
    shape: tuple
    stamp: tuple

    @cached_property
    def name(self):
        """EXTNAME; without it, PRIMARY for the first HDU."""
        name = self.header.get("EXTNAME", "" if "XTENSION" in self.header else "PRIMARY")
        return str(name).strip().upper()

    @cached_property
    def version(self):
        """EXTVER."""
        return self.header.get("EXTVER", 1)

    @property
    def is_image(self):
        """Return whether it can hold an image."""
        return self.header.get("XTENSION", "IMAGE") == "IMAGE"

    def rows(self, start, stop):
        """Return the HDU with a range of its rows."""
        row = self.size // self.shape[0]
        shape = (stop - start, *self.shape[1:])
        return replace(self, offset=self.offset + start * row, size=shape[0] * row, shape=shape)

    @property
    def offset_of_values(self):
        """Offset of the stored values, `None` if they are scaled or astropy must read them."""
        try:
            scale, offset = self.header.get("BSCALE", 1), self.header.get("BZERO", 0)
        except fits.VerifyError:
            return None
        return None if scale != 1 or "BLANK" in self.header else offset


def scan(path):
    """Return the HDUs of a plain FITS file.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.

    Returns
    -------
    hdus : list of `PlainHDU`, or None
        One for each HDU; `None` if the file is compressed, truncated or non-standard.
    """
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        stamp = status.st_size, status.st_mtime_ns
        hdus, position = [], 0
        while position < stamp[0]:
            header, start = _read_header(file, position)
            hdu = None if header is None else _plain_hdu(header, start, stamp, first=not hdus)
            if hdu is None:
                return None
            hdus.append(hdu)
            position = start + -(-hdu.size // BLOCK) * BLOCK
    return hdus if position == stamp[0] else None


def _read_header(file, position):
    """Return the header at a position (`None` without one) and the position of its data."""
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
        # The next search for END starts behind the cards that are already searched.
        looked = len(content) // CARD * CARD
        if len(more) < BLOCK or len(content) > LONGEST:
            return None, position
    try:
        text = content[:found].decode("ascii")
    except UnicodeDecodeError:
        return None, position
    return RawHeader(text), position + (found // BLOCK + 1) * BLOCK


def _plain_hdu(header, start, stamp, *, first):
    """Return the HDU of a header, or `None` if it is not plain."""
    expected = "SIMPLE" if first else "XTENSION"
    if not header.text.startswith(f"{expected:8}= ") or "ZIMAGE" in header:
        return None
    if first and header.text[10:30].strip() != "T":
        return None
    try:
        shape = tuple(int(header[f"NAXIS{n}"]) for n in range(header["NAXIS"], 0, -1))
        count = prod(shape) if shape else 0
        # PCOUNT counts parameters of random groups and bytes of table heaps.
        extra = header.get("PCOUNT", 0)
        size = (count + extra) * header.get("GCOUNT", 1) * abs(header["BITPIX"]) // 8
    except (KeyError, TypeError, ValueError, VerifyError):
        return None
    # A size with a decimal point is not FITS.
    is_sound = isinstance(size, int) and min(shape, default=0) >= 0 and start + size <= stamp[0]
    if not is_sound or "GROUPS" in header:
        return None
    return PlainHDU(header, start, size, shape, stamp)


def plain_transform(name, header):
    """Return the transformation of a plain header.

    Only the cards of the transformation are parsed. Others, such as an inverse distortion, are
    parsed when `SkyTransform.original` is used.

    Parameters
    ----------
    name : str
        The image, for error messages.
    header : `RawHeader`
        Its header.

    Returns
    -------
    transform : `~levelmatch.sky.transform.SkyTransform` or None
        The transformation; `None` if astropy must read the header.
    """
    try:
        plain = _is_plain_wcs(header)
    except VerifyError:
        return None
    if not plain:
        return None
    try:
        return _header_transform(name, header)
    except Exception as error:
        raise wcs_error(name, error) from error


@lru_cache(maxsize=4096)
def _kind(key):
    """Return whether a keyword of a WCS holds a text or a number, `None` for other keywords."""
    found = _TEXT_OR_NUMBER.fullmatch(key)
    return None if found is None else "number" if found[1] is None else "text"


@lru_cache(maxsize=4096)
def _sip_place(key):
    """Return the index of the distortion and the powers of a SIP coefficient, or `None`."""
    found = _SIP_KEY.fullmatch(key)
    return None if found is None else ("AB".index(found[1]), int(found[2]), int(found[3]))


def _is_plain_wcs(header):
    """Return whether a header's WCS can be read without astropy."""
    names = [str(header.get(f"CTYPE{n}", "")) for n in (1, 2)]
    plain = (
        all(name[4:] in MODERN for name in names)
        and {name[:4].rstrip("-") for name in names} == {"RA", "DEC"}
        and all(header.get(f"CUNIT{n}") == "deg" for n in (1, 2))
        and header.get("RADESYS") == "ICRS"
        and header.get("NAXIS") == 2
        and header.get("WCSAXES", 2) == 2
        and not _HARD.search("\n".join(header.places))
    )
    kinds = {key: kind for key in header.places if (kind := _kind(key)) is not None}
    # For repeated cards, astropy uses the last. Unreadable numbers are left to its error message.
    plain = (
        plain
        and header.repeated.isdisjoint(kinds)
        and all(header.is_finite(key) for key, kind in kinds.items() if kind == "number")
    )
    tpv = all(name.endswith("TPV") for name in names)
    # With other projections, astropy may read PV cards as an old form of TPV.
    plain = plain and (tpv or not any(key.startswith("PV") for key in header.places))
    sip = {name.endswith("-SIP") for name in names}
    if not plain or sip != {key in header for key in ("A_ORDER", "B_ORDER")}:
        return False
    # astropy ignores a distortion of order 1.
    return sip == {False} or min(header["A_ORDER"], header["B_ORDER"]) >= 2


def _text_transform(name, text):
    """Return the transform of a plain header's text."""
    return _header_transform(name, RawHeader(text))


def _header_transform(name, header):
    # A plain header needs none of the further processing by `~astropy.wcs.WCS`.
    wcs = WCS(naxis=2)
    wcs.wcs = Wcsprm(header.select(sorted(filter(_is_of_wcslib, header.places))).encode("ascii"))
    if "A_ORDER" in header:
        wcs.sip = Sip(*_sip(header), None, None, wcs.wcs.crpix)
    wcs.wcs.set()

    def original():
        return WCS(header.copy(), naxis=2, fix=False)

    def cards():
        sip = [key for key in header.places if key[1:] == "_ORDER" or _sip_place(key)]
        return header.select([*filter(_is_of_wcslib, header.places), *(sip if wcs.sip else ())])

    rebuild = _text_transform, (name, header.text)
    return SkyTransform(wcs, name, original=original, rebuild=rebuild, cards=cards)


def _sip(header):
    """Return the two arrays of SIP coefficients for the direction from pixels to the sky."""
    out = [np.zeros((header[f"{letter}_ORDER"] + 1,) * 2) for letter in "AB"]
    for key in filter(_sip_place, header.places):
        k, i, j = _sip_place(key)
        if i + j < len(out[k]):
            out[k][i, j] = header[key]
    return out


def read_pixels(path, image, dq, bits):
    """Return the pixels of a plain image of 32-bit floats, NaN where flagged.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    image : `PlainHDU`
        The image.
    dq : `PlainHDU` or None
        Its flags.
    bits : int
        Data-quality bits that make a pixel bad.

    Returns
    -------
    data : 2D `~numpy.ndarray` of float32
        The pixels.
    digests : dict of str to str
        See `~levelmatch.images.digests.pixel_digests`.

    Raises
    ------
    OSError
        If the file changed since its headers were read, or has other types.
    """
    file_flags = dq is None or _is_plain(dq, 32, (0, 2**31))
    if not (_is_plain(image, -32, (0,)) and file_flags):
        msg = "it has other types than 32-bit floats and flags"
        raise OSError(msg)
    out = np.empty(image.shape, np.float32)
    flip = 0 if dq is None or dq.offset_of_values == 0 else 2**31
    places = image.offset, -1 if dq is None else dq.offset
    own, of_flags = xxh3_128(), xxh3_128()

    def on_read(part, flags):
        own.update(part)
        if flags is not None:
            of_flags.update(flags)

    # The system reads ahead if each open file is read in order.
    with open(path, "rb", buffering=0) as file, open(path, "rb", buffering=0) as flags:
        files = file.fileno(), flags.fileno()
        for status in map(os.fstat, files):
            if (status.st_size, status.st_mtime_ns) != image.stamp:
                msg = "it changed since its headers were read"
                raise OSError(msg)
        read_decoded(*files, *places, out.view("u4").ravel(), bits, flip, on_read)
    mask_digest = "" if dq is None else of_flags.hexdigest()
    return out, {"dtype": "f4", "digest": own.hexdigest(), "mask_digest": mask_digest}


def all_flagged(path, dq, columns, bits):
    """Return whether the flags of a plain file mark all pixels of some columns as bad.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    dq : `PlainHDU`
        The flags.
    columns : slice
        The columns.
    bits : int
        Data-quality bits that make a pixel bad.
    """
    if not _is_plain(dq, 32, (0, 2**31)):
        return False
    # In the order of the file.
    flip, bits = np.array([0 if dq.offset_of_values == 0 else 2**31, bits], ">u4").view(np.uint32)
    rows = np.empty((min(ROWS, dq.shape[0]), dq.shape[1]), np.uint32)
    starts = [0, *range(FIRST_ROWS, dq.shape[0], ROWS)]
    with open(path, "rb", buffering=0) as file:
        for start, stop in zip(starts, [*starts[1:], dq.shape[0]], strict=True):
            part = rows[: stop - start]
            fill_from(file, dq.offset + start * rows.strides[0], part)
            if not ((part[:, columns] ^ flip) & bits).all():
                return False
    return True


def _is_plain(hdu, bitpix, offsets):
    return hdu.header["BITPIX"] == bitpix and hdu.offset_of_values in offsets


def fill_from(file, position, words):
    """Fill an array with the bytes from a position of a file.

    Parameters
    ----------
    file : binary file
        The file, open without a buffer.
    position : int
        Position of the first byte.
    words : `~numpy.ndarray`
        The array, C-contiguous.

    Raises
    ------
    OSError
        If the file ends too early.
    """
    view = words.reshape(-1).view(np.uint8).data
    file.seek(position)
    while len(view):
        count = file.readinto(view)
        if not count:
            msg = "it ends before the end of its data"
            raise OSError(msg)
        view = view[count:]
