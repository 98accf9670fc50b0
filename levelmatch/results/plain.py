# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Corrected copies of plain files, written without astropy.

Writing such a file takes little more time than copying its bytes.
"""

from functools import partial

import numpy as np

from levelmatch.images import fastfits
from levelmatch.images._decode import subtract_level
from levelmatch.images.sky_cards import pending_levels
from levelmatch.images.sources import FileSource
from levelmatch.record.run import Provenance
from levelmatch.results.header import add_provenance
from levelmatch.results.products import Product
from levelmatch.results.splice import BLOCK, Parts, Places, Replaced

__all__ = ["plain_replacement"]

# Cards that only astropy handles: checksums, and cards that change the stored values' meaning.
_HARD = ("CHECKSUM", "DATASUM", "BLANK", "BSCALE", "BZERO")


def plain_replacement(
    products: list[Product], provenance: Provenance
) -> tuple[Places, Replaced] | None:
    """Return the places of the HDUs of a plain file, and the HDUs changed by corrections.

    Parameters
    ----------
    products : list of `~levelmatch.results.products.Product`
        The images of one file.
    provenance : `~levelmatch.record.run.Provenance`
        The run.

    Returns
    -------
    places, replaced : dict, or None
        Arguments of `~levelmatch.results.splice.splice_places`; `None` if astropy must write the
        file.
    """
    source = products[0].frame.source
    if not isinstance(source, FileSource) or provenance.keep:
        return None
    if not all(_is_level(product) for product in products):
        return None
    try:
        planes = fastfits.scan(source.path)
    except OSError:
        return None
    if planes is None or any(plane.name == "ASDF" for plane in planes):
        return None
    own = {product.frame.source.hdu: product for product in products}
    if not all(_is_plain(planes[index]) for index in own):
        return None
    if 0 not in own and pending_levels(planes[0].header):
        return None
    places, start = {}, 0
    for index, plane in enumerate(planes):
        stop = plane.offset + -(-plane.size // BLOCK) * BLOCK
        places[index] = start, plane.offset, stop
        start = stop
    # The images of a file share one array, because allocating memory costs more than the sums.
    size = max(planes[index].size for index in own)
    scratch = np.empty(size // 4, ">f4")
    replaced: Replaced = {
        index: partial(_corrected, product, planes[index], provenance, scratch)
        for index, product in own.items()
    }
    return places, replaced


def _is_level(product: Product) -> bool:
    """Return whether the output image is the input minus a constant."""
    frame = product.frame
    return product.lyot is None and frame.output_factor == 1.0 and frame.correction.is_level


def _is_plain(plane: fastfits.Plane) -> bool:
    """Return whether an HDU holds a 2D image of unscaled 32-bit floats without checksums."""
    header = plane.header
    return (
        header["BITPIX"] == -32
        and len(plane.shape) == 2
        and not any(key in header for key in _HARD)
    )


def _corrected(
    product: Product, plane: fastfits.Plane, provenance: Provenance, scratch: np.ndarray
) -> Parts:
    """Return the bytes of the HDU of the corrected image; the pixels are computed in `scratch`."""
    frame = product.frame
    header = plane.header.copy()
    add_provenance(header, frame, provenance)
    data = scratch[: plane.shape[0] * plane.shape[1]].reshape(plane.shape)
    with open(frame.source.path, "rb", buffering=0) as file:
        fastfits.fill_from(file, plane.offset, data)
    missing = frame.missing(data)
    kept = None if missing is None else data[missing]
    words = data.view("u4").ravel()
    subtract_level(words, words, frame.correction.constant)
    if kept is not None:
        # Later programs must recognise the fill values.
        data[missing] = kept
    padding = bytes(-data.nbytes % BLOCK)
    return header.tostring().encode("ascii"), data.data.cast("B"), padding
