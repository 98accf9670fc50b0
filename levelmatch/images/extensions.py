# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The extension of a FITS file that holds the image."""

import re

from astropy.io import fits

from levelmatch.exceptions import FrameError
from levelmatch.images.planes import plane_shape

__all__ = ["image_hdu", "is_science", "other_images"]

# Names of arrays that belong to an image: errors, flags, weights, models and the like.
_BESIDE = re.compile(
    r"ERR(OR)?|UNCERT(AINTY)?|STD|SIG(MA)?|RMS|NOISE|I?VAR(IANCE)?|VAR_\w+|INVVAR|SNR|"
    r"DQ|DQM|PIXELDQ|MASK|MSK|BPM|FLAGS?|SEG\w*|"
    r"WHT|WGT|WEIGHT|COV(ERAGE)?|EXP(OSURE)?|EXPTIME|CTX|CON|NEXP|NPIX|"
    r"AREA|MODEL|BKG|BACKGROUND|SKY|PSF|D2IMARR|WCSDVARR|WCSCORR|THUMB\w*|PREVIEW"
)
_CELESTIAL = re.compile(r"(RA--|DEC-|[GESH]L(ON|AT))")


def is_science(name: str) -> bool:
    """Return whether an extension of this name can be an image of the sky."""
    return _BESIDE.fullmatch(name.strip().upper()) is None


def image_hdu(name: str, hdus: fits.HDUList, hdu: int | str | tuple | None) -> int:
    """Return the index of the HDU that holds the image.

    Parameters
    ----------
    name : str
        The file, for error messages.
    hdus : `~astropy.io.fits.HDUList`
        The file.
    hdu : None, int, str or tuple
        The extension; by default SCI, else the first image.

    Raises
    ------
    FrameError
        If there is no such image, or several have the name.
    """
    if hdu is not None:
        return _named_hdu(name, hdus, hdu)
    if any(_name(h) == "SCI" for h in hdus):
        return _only(name, hdus, "SCI")
    images = [i for i, h in enumerate(hdus) if h.is_image and h.shape]
    if not images:
        msg = f"{name}: there is no image extension; leave the file out"
        raise FrameError(msg)
    return images[0]


def _named_hdu(name, hdus, hdu):
    try:
        index = hdus.index_of(hdu)
        hdus[index]
    except (KeyError, IndexError) as error:
        names = [h.name or str(i) for i, h in enumerate(hdus)]
        msg = f"{name}: there is no extension {hdu!r}; there are {names}"
        raise FrameError(msg) from error
    if isinstance(hdu, str):
        index = _only(name, hdus, hdu.strip().upper())
    if not hdus[index].is_image:
        msg = f"{name}: hdu={hdu!r} is a table, not an image; name another extension"
        raise FrameError(msg)
    return index


def _only(name, hdus, extension):
    """Return the index of the only HDU of a name."""
    found = [i for i, h in enumerate(hdus) if _name(h) == extension]
    if len(found) > 1:
        msg = (
            f"{name}: there are {len(found)} {extension} extensions; "
            f"name one by hdu=({extension!r}, n)"
        )
        raise FrameError(msg)
    return found[0] if found else hdus.index_of(extension)


def _name(hdu):
    return hdu.name.strip().upper()


def other_images(hdus: fits.HDUList, index: int) -> list[str]:
    """Return labels of the images of the sky in a file, the one at an index first.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The file.
    index : int
        The HDU of the image that is matched.

    Returns
    -------
    labels : list of str
        Name and version, or number, of each image with a celestial WCS of its own. Where
        the matched one is called SCI, of those called SCI alone.
    """
    own = _name(hdus[index])
    found = [
        i
        for i, h in enumerate(hdus)
        if i != index
        and h.is_image
        and len(plane_shape(h.shape)) == 2
        and (_name(h) == "SCI" if own == "SCI" else is_science(h.name))
        and _CELESTIAL.match(str(h.header.get("CTYPE1", "")).upper())
    ]
    return [_label(hdus, i) for i in (index, *found)]


def _label(hdus, i):
    name = _name(hdus[i])
    if not name:
        return str(i)
    many = sum(_name(h) == name for h in hdus) > 1
    return f"{name},{hdus[i].ver}" if many else name
