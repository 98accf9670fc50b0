# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Cards of the primary header and of an image's header that apply to the image."""

from collections.abc import Mapping
from typing import Any

from astropy.io import fits

from levelmatch.exceptions import FrameError

__all__ = ["FileMeta", "check_linear", "file_meta", "readable_value", "with_inherited_frame"]

# Cards of the reference frame; some cameras write them to the primary header only.
FRAME_CARDS = ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH", "LONPOLE", "LATPOLE")


class FileMeta(Mapping):
    """The primary header of a file and the header of an image, which has priority.

    Cards are looked up one by one, because merging the headers takes longer than reading them.

    Parameters
    ----------
    primary, header : `~astropy.io.fits.Header` or `~levelmatch.images.fastfits.RawHeader`
        The two headers; they may be the same.
    """

    def __init__(self, primary, header):
        self.primary = primary
        self.header = header

    def __getitem__(self, key):
        return self.header[key] if key in self.header else self.primary[key]

    def __contains__(self, key):
        return key in self.header or key in self.primary

    def __iter__(self):
        return iter(self.copy())

    def __len__(self):
        return len(self.copy())

    def copy(self):
        """Return a new header that merges both."""
        merged = self.primary.copy()
        if self.header is not self.primary:
            merged.extend(self.header.copy(), strip=True, update=True)
        return merged


def file_meta(primary: Any, header: Any) -> FileMeta:
    """Return the cards that apply to an image.

    Parameters
    ----------
    primary, header : `~astropy.io.fits.Header` or `~levelmatch.images.fastfits.RawHeader`
        Primary header and header of the image.

    Returns
    -------
    meta : `FileMeta`
        Both headers, or the image's header alone if its card ``INHERIT`` is false.
    """
    return FileMeta(header if header.get("INHERIT", True) is False else primary, header)


def readable_value(meta: Mapping, key: str) -> Any:
    """Return the value of a card, or `None` if there is none or its text is not FITS.

    Parameters
    ----------
    meta : mapping
        The header of an image.
    key : str
        The keyword.
    """
    try:
        return meta.get(key)
    except fits.VerifyError:
        return None


def check_linear(name: str, meta: Mapping) -> None:
    """Refuse pixels that are not linear in the brightness, according to the header.

    Parameters
    ----------
    name : str
        The image, for the error message.
    meta : mapping
        Its header.

    Raises
    ------
    FrameError
        If the pixels are compressed by an inverse hyperbolic sine, as stacks of Pan-STARRS are.
    """
    if "BSOFTEN" in meta and "BOFFSET" in meta:
        msg = (
            f"{name}: its pixels are not linear: they are the asinh of the flux, according to "
            "BSOFTEN and BOFFSET; convert them to fluxes, and remove these cards"
        )
        raise FrameError(msg)


def with_inherited_frame(primary: fits.Header, header: fits.Header) -> fits.Header:
    """Add the reference frame of the primary header to a header that inherits it.

    Parameters
    ----------
    primary, header : `~astropy.io.fits.Header`
        Primary header and header of the image.

    Returns
    -------
    header : `~astropy.io.fits.Header`
        The header itself, or a copy with the added cards.
    """
    if header.get("INHERIT") is not True:
        return header
    cards = [primary.cards[key] for key in FRAME_CARDS if key in primary and not _has(header, key)]
    if not cards:
        return header
    header = header.copy()
    header.extend(cards)
    return header


def _has(header, key):
    """Return whether a header has a card in its new or old spelling."""
    pairs = {"RADESYS": "RADECSYS", "EQUINOX": "EPOCH"}
    other = pairs.get(key) or {old: new for new, old in pairs.items()}.get(key, key)
    return key in header or other in header
