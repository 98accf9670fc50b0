# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Corrected copies of plain files, written without astropy.

Writing such a file takes little more time than copying its bytes.
"""

import io
import threading
from functools import partial
from typing import BinaryIO

import numpy as np

from levelmatch.images import fastfits
from levelmatch.images._decode import copy_minus, subtract_level, sum_words
from levelmatch.images.fill import quick_test
from levelmatch.images.known_levels import pending_levels
from levelmatch.images.sources import FileSource
from levelmatch.record.run import Provenance
from levelmatch.results.asdf_trees import add_to_asdf, has_tree
from levelmatch.results.card_text import OwnCards, is_simple, with_cards, with_checksums
from levelmatch.results.corrected import corrected_data
from levelmatch.results.header import add_corrections, provenance_entry
from levelmatch.results.products import Product
from levelmatch.results.splice import BLOCK, Places, Replaced, table_parts

__all__ = ["plain_replacement"]

# Cards that change the meaning of the stored values, which only astropy handles.
_HARD = ("BLANK", "BSCALE", "BZERO")
_SUMS = ("CHECKSUM", "DATASUM")
# Number of bytes that are corrected at once: they fit into the processor's cache.
AT_ONCE = 1 << 19
_memory = threading.local()


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
    if not all(_is_own(product) for product in products):
        return None
    try:
        hdus = fastfits.scan(source.path)
        trees = {} if hdus is None else _trees(products[0], hdus, provenance)
    except OSError:
        return None
    if hdus is None or trees is None:
        return None
    own = {product.frame.source.hdu: product for product in products}
    if not all(_is_plain(hdus[index]) for index in own):
        return None
    if 0 not in own and pending_levels(hdus[0].header):
        return None
    places, start = {}, 0
    for index, hdu in enumerate(hdus):
        stop = hdu.offset + -(-hdu.size // BLOCK) * BLOCK
        places[index] = start, hdu.offset, stop
        start = stop
    replaced: Replaced = {}
    # The texts of all headers are made first: pixels evict them from the processor's cache.
    for index, product in own.items():
        text = _header_text(hdus[index].header, product, provenance)
        replaced[index] = partial(_write_corrected, product, hdus[index], text)
    return places, replaced | trees


def _is_own(product: Product) -> bool:
    """Return whether the output image is the image of one file minus a correction."""
    lyot = product.lyot
    own = lyot is None or lyot.source is product.frame.source
    return own and product.frame.output_factor == 1.0


def _trees(
    product: Product, hdus: list[fastfits.PlainHDU], provenance: Provenance
) -> Replaced | None:
    """Return the ASDF extension of a JWST file with an entry added; `None` if it is not plain."""
    found = [index for index, hdu in enumerate(hdus) if hdu.name == "ASDF"]
    if not found:
        return {}
    header = hdus[found[0]].header
    if header.get("TFIELDS") != 1 or header.get("NAXIS2") != 1:
        return None
    hdu = hdus[found[0]]
    content = np.empty(hdu.size, np.uint8)
    with open(product.frame.source.path, "rb", buffering=0) as file:
        fastfits.fill_from(file, hdu.offset, content)
    if not has_tree(content.tobytes()):
        return None
    tree = add_to_asdf(content.tobytes(), provenance_entry(product.frame, provenance, product.lyot))
    return {found[0]: table_parts(header.copy(), tree)}


def _is_plain(hdu: fastfits.PlainHDU) -> bool:
    """Return whether an HDU holds a 2D image of unscaled 32-bit floats."""
    header = hdu.header
    return (
        header["BITPIX"] == -32
        and len(hdu.shape) == 2
        and not any(key in header for key in _HARD)
        and ("CHECKSUM" not in header or "DATASUM" in header)
        and header.repeated.isdisjoint(_SUMS)
    )


def _own_bytes(size: int) -> np.ndarray:
    """Return an array that the thread reuses: allocating memory costs more than the sums."""
    if getattr(_memory, "array", np.empty(0)).size < size:
        _memory.array = np.empty(size, np.uint8)
    return _memory.array[:size]


def _write_corrected(product: Product, hdu: fastfits.PlainHDU, text: str, stream: BinaryIO) -> None:
    """Write the HDU of the corrected image."""
    if not _write_directly(product, hdu, text, stream):
        data = _own_bytes(hdu.size).view(">f4").reshape(hdu.shape)
        _correct(product, hdu, data)
        words = data.view("u4").ravel()
        stream.write(with_checksums(text, sum_words(words)).encode("ascii"))
        stream.write(words.data)
    stream.write(bytes(-hdu.size % BLOCK))


def _write_directly(product: Product, hdu: fastfits.PlainHDU, text: str, stream: BinaryIO) -> bool:
    """Write header and pixels without holding the image; return `False` if this is not possible."""
    frame = product.frame
    is_file = isinstance(stream, io.BufferedWriter)
    is_level = product.lyot is None and frame.correction.is_level
    if not (is_file and is_level and (frame.blank is None or frame.blank is False)):
        return False
    step, rounding = quick_test(hdu.shape)
    step = 0 if frame.blank is False else step
    stream.flush()
    start = stream.tell()
    with open(frame.source.path, "rb", buffering=0) as file:
        places = file.fileno(), hdu.offset, stream.fileno(), start + len(text)
        buffer = _own_bytes(max(AT_ONCE, 4 * hdu.shape[1])).view("u4")
        level = frame.correction.constant
        total = copy_minus(*places, buffer, *hdu.shape, level, step, rounding)
    if total is None:
        return False
    stream.write(with_checksums(text, total).encode("ascii"))
    stream.seek(start + len(text) + hdu.size)
    return True


def _correct(product: Product, hdu: fastfits.PlainHDU, data: np.ndarray) -> None:
    """Fill an array with the corrected pixels."""
    frame = product.frame
    with open(frame.source.path, "rb", buffering=0) as file:
        fastfits.fill_from(file, hdu.offset, data)
    if product.lyot is not None or not frame.correction.is_level:
        data[:] = corrected_data(product, data)
        return
    missing = frame.missing(data)
    kept = None if missing is None else data[missing]
    words = data.view("u4").ravel()
    subtract_level(words, words, frame.correction.constant)
    if kept is not None:
        # Later programs must recognise the fill values.
        data[missing] = kept


def _header_text(header: fastfits.RawHeader, product: Product, provenance: Provenance) -> str:
    """Return the text of a header with the cards of the corrections."""
    if product.lyot is None and is_simple(header.text):
        own = OwnCards()
        add_corrections(own, product, provenance)
        return with_cards(header.text, own)
    whole = header.copy()
    add_corrections(whole, product, provenance)
    return whole.tostring()
