# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Checks of all outputs before anything is written, and the associations of the outputs."""

import errno
import io
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import CCDData, NDData

from levelmatch.atomic import refuse_existing
from levelmatch.exceptions import FrameError
from levelmatch.images.associations import output_association, read_association
from levelmatch.images.fastfits import RawHeader
from levelmatch.images.file_checks import named_errors
from levelmatch.images.frame import Frame
from levelmatch.images.roman import AsdfSource
from levelmatch.images.sky_cells import CellsSource
from levelmatch.images.sources import FileSource, MemorySource, float_type
from levelmatch.record.run import Provenance
from levelmatch.results.card_text import is_simple
from levelmatch.results.corrected import ccd_wcs, uncertainty_powers
from levelmatch.results.header import add_corrections
from levelmatch.results.lock import OutputLock
from levelmatch.results.products import Product, by_file
from levelmatch.results.stored_integers import remove_scaling

__all__ = ["check_contents", "check_space", "output_associations"]


CANNOT = "it cannot be written"


def check_contents(products: list[Product], provenance: Provenance) -> None:
    """Check that FITS can hold the output images.

    Parameters
    ----------
    products : list of `~levelmatch.results.products.Product`
        The output images.
    provenance : `~levelmatch.record.run.Provenance`
        The run.

    Raises
    ------
    FrameError
        If a header has a card that cannot be written, or if an image in memory has a type, an
        uncertainty or metadata that FITS cannot hold, or has changed. The message names the
        image.
    """
    for product in (product.opened() for product in products):
        source = product.frame.source
        if isinstance(source, MemorySource):
            source.check_unchanged()
        with named_errors(product.name, CANNOT):
            if isinstance(source, FileSource) or getattr(source, "hdus", None) is not None:
                _check_header(product, provenance)
                _check_uncertainties(product)
            elif not isinstance(source, CellsSource):
                _check_memory(product, provenance)


def _check_header(product: Product, provenance: Provenance) -> None:
    """Check that the cards of the header of a FITS output can be written."""
    own = getattr(product.frame.meta, "header", None)
    # A factor changes a zero point, and kept levels any keyword.
    others = product.frame.output_factor != 1.0 or provenance.keep
    if isinstance(own, RawHeader) and is_simple(own.text) and not others:
        return
    header = None if own is None else own.copy()
    if not isinstance(header, fits.Header):
        return
    remove_scaling(header, provenance)
    with np.errstate(all="raise"):
        add_corrections(header, product, provenance)
    for card in header.cards:
        with named_errors(product.name, f"{CANNOT}: the card {card.keyword or 'without keyword'}"):
            image = str(card)
            if not image.isascii() or not image.isprintable():
                msg = f"it has a character that FITS does not allow: {image.strip()[:80]!r}"
                raise ValueError(msg)
    header.tostring()


def _check_uncertainties(product: Product) -> None:
    """Check that each uncertainty, which a factor changes, belongs to a known image."""
    source = product.frame.source
    if product.frame.output_factor == 1.0 or isinstance(source, AsdfSource):
        return
    opened = source.opened() if isinstance(source, FileSource) else nullcontext(source.hdus)
    with opened as hdus:
        try:
            uncertainty_powers(hdus, source.hdu)
        except FrameError as error:
            msg = f"{product.name}: {CANNOT}: {error}"
            raise FrameError(msg) from error


def _check_memory(product: Product, provenance: Provenance) -> None:
    """Check an image in memory by writing a small image with its types and metadata to memory."""
    image = product.frame.source.image
    small = _small_copy(image, product.frame)
    with np.errstate(all="raise"):
        add_corrections(small.meta, product, provenance)
    small.to_hdu().writeto(io.BytesIO())


def _small_copy(image: NDData, frame: Frame) -> CCDData:
    """Return an image of four pixels with the types, metadata and WCS of a given image."""
    shape = (2, 2)
    uncertainty = getattr(image, "uncertainty", None)
    data = np.asarray(image.data)
    if data.dtype.char in "eg":
        msg = f"FITS has no pixels of {data.dtype}; convert them to {float_type(data)}"
        raise ValueError(msg)
    dtype = data.dtype if data.dtype.kind == "f" else float_type(data)
    if uncertainty is not None:
        kind = np.asarray(uncertainty.array).dtype
        uncertainty = type(uncertainty)(np.ones(shape, kind))
    return CCDData(
        np.zeros(shape, dtype),
        mask=None if image.mask is None else np.zeros(shape, bool),
        uncertainty=uncertainty,
        meta=image.meta.copy(),
        wcs=ccd_wcs(frame),
        unit=image.unit or "",
    )


def check_space(products: list[Product], paths: list[Path], extra: int = 0) -> None:
    """Check that the disk has space for the outputs.

    Parameters
    ----------
    products : list of `~levelmatch.results.products.Product`
        The output images.
    paths : list of `~pathlib.Path`
        The output files, in one existing folder.
    extra : int
        Number of bytes of other outputs.

    Raises
    ------
    OSError
        If there is too little space; the message names the folder and the sizes.
    """
    if not paths:
        return
    sizes = [_output_bytes(images) for images in by_file(products)]
    replaced = sum(path.stat().st_size for path in paths if path.is_file())
    needed = max(sum(sizes) + extra - replaced, max(sizes))
    free = shutil.disk_usage(paths[0].parent).free
    if needed > free:
        msg = f"No space left: the outputs need {_megabytes(needed)}, {_megabytes(free)} are free"
        raise OSError(errno.ENOSPC, msg, str(paths[0].parent))


def _megabytes(n: int) -> str:
    return f"{n / 1e6:.1f} MB"


def _output_bytes(images: list[Product]) -> int:
    """Return the approximate number of bytes of an output file.

    The output of a compressed file is taken to be as large as the input.
    """
    frame = images[0].frame
    source, n = frame.source, int(np.prod(frame.shape))
    if isinstance(source, FileSource):
        size = source.path.stat().st_size
        # Integers become larger floats.
        kind = frame.meta.get("BITPIX", 0)
        return size + len(images) * n * {8: 3, 16: 2, 32: 4}.get(kind, 0)
    if isinstance(source, CellsSource):
        # A line of text per cell.
        return 100 * len(source.cells)
    data = np.asarray(source.image.data)
    size = n * float_type(data).itemsize
    size += 0 if source.image.mask is None else n
    uncertainty = getattr(source.image, "uncertainty", None)
    return size if uncertainty is None else size + np.asarray(uncertainty.array).nbytes


def output_associations(
    products: list[Product],
    paths: list[Path],
    directory: str | Path,
    overwrite: bool,
    provenance: Provenance | None,
    lock: OutputLock,
) -> dict[Path, bytes]:
    """Return the associations of the output images, which are written after the images.

    Parameters
    ----------
    products : list of `~levelmatch.results.products.Product`
        The images.
    paths : list of `~pathlib.Path`
        The output files, see `~levelmatch.results.files.check_outputs`.
    directory : str or `~pathlib.Path`
        The output folder.
    overwrite : bool
        Whether existing files may be replaced.
    provenance : `~levelmatch.record.run.Provenance` or None
        The run; `None` for images whose corrections are undone.
    lock : `~levelmatch.results.lock.OutputLock`
        Lock that recognises the files of an interrupted run, which may be replaced.

    Returns
    -------
    contents : dict of `~pathlib.Path` to bytes
        Content of each file; empty if no association was an input.

    Raises
    ------
    FrameError
        If an association would replace its input, or two would have the same name.
    FileExistsError
        If a file exists and ``overwrite`` is not set.
    """
    files = zip(by_file(products), paths, strict=True)
    pairs = [(f, path) for images, path in files for p in images for f in p.frames]
    written = {f.source.path: path for f, path in pairs if hasattr(f.source, "path")}
    directory, contents = Path(directory), {}
    for path in dict.fromkeys(a for frame, _ in pairs for a in frame.associations):
        target = directory / path.name
        if target.resolve() == path.resolve():
            msg = f"{path.name}: the output folder {directory} holds it; name another"
            raise FrameError(msg)
        if target in contents:
            msg = f"{path.name}: two associations would have this name; rename one"
            raise FrameError(msg)
        refuse_existing(target, overwrite=overwrite or lock.may_replace(target))
        association = read_association(path)
        contents[target] = output_association(association, written, directory, provenance)
    return contents
