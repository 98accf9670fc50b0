# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Cards that an extension takes from the primary header, by the convention INHERIT."""

from typing import Any

from astropy.io import fits

from levelmatch.images.frame import FileMeta

__all__ = ["file_meta", "with_inherited_frame"]

# Cards of the reference frame, which some cameras write to the primary header only.
FRAME_CARDS = ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH", "LONPOLE", "LATPOLE")


def file_meta(primary: Any, header: Any) -> FileMeta:
    """Return the cards that apply to an image.

    Parameters
    ----------
    primary, header : `~astropy.io.fits.Header` or `~levelmatch.images.fastfits.RawHeader`
        The primary header and that of the image.

    Returns
    -------
    meta : `~levelmatch.images.frame.FileMeta`
        Both headers; that of the image alone if its card ``INHERIT`` is false.
    """
    return FileMeta(header if header.get("INHERIT", True) is False else primary, header)


def with_inherited_frame(primary: fits.Header, header: fits.Header) -> fits.Header:
    """Return a header with the primary header's reference frame, if it inherits that.

    Parameters
    ----------
    primary, header : `~astropy.io.fits.Header`
        The primary header and that of the image.
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
    """Return whether a header has a card, in its new or old spelling."""
    pairs = {"RADESYS": "RADECSYS", "EQUINOX": "EPOCH"}
    other = pairs.get(key) or {old: new for new, old in pairs.items()}.get(key, key)
    return key in header or other in header
