# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Cards that an extension inherits from the primary header, by the FITS convention INHERIT."""

from typing import Any

from astropy.io import fits

from levelmatch.images.frame import FileMeta

__all__ = ["file_meta", "with_inherited_frame"]

# Cards of the reference frame; some cameras write them to the primary header only.
FRAME_CARDS = ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH", "LONPOLE", "LATPOLE")


def file_meta(primary: Any, header: Any) -> FileMeta:
    """Return the cards that apply to an image.

    Parameters
    ----------
    primary, header : `~astropy.io.fits.Header` or `~levelmatch.images.fastfits.RawHeader`
        Primary header and header of the image.

    Returns
    -------
    meta : `~levelmatch.images.frame.FileMeta`
        Both headers, or the image's header alone if its card ``INHERIT`` is false.
    """
    return FileMeta(header if header.get("INHERIT", True) is False else primary, header)


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
