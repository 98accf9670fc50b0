# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Write corrected images as complete FITS files."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS

from levelmatch.atomic import atomic_stream, refuse_existing
from levelmatch.cluster import current_client, run_jobs, spread
from levelmatch.exceptions import FrameError
from levelmatch.images.compression import open_raw
from levelmatch.images.file_checks import named_writing
from levelmatch.images.file_state import file_identity
from levelmatch.images.frame import Frame
from levelmatch.images.known_levels import pending_levels
from levelmatch.images.roman import AsdfSource
from levelmatch.images.sky_cells import CellsSource
from levelmatch.images.sources import FileSource, decoded_image
from levelmatch.record.run import Provenance
from levelmatch.results.asdf_files import write_asdf
from levelmatch.results.asdf_trees import add_to_asdf, has_tree
from levelmatch.results.corrected import (
    add_lookup_tables,
    ccd_wcs,
    corrected_data,
    corrected_image,
    scaled,
    uncertainty_power,
    uncertainty_powers,
)
from levelmatch.results.fast_write import plain_replacement
from levelmatch.results.header import add_corrections, add_kept, provenance_entry
from levelmatch.results.history import as_header
from levelmatch.results.kept_levels import clear_levels, keep_levels, kept_cards
from levelmatch.results.lock import OutputLock
from levelmatch.results.products import Product, by_file
from levelmatch.results.splice import (
    Parts,
    Places,
    Replaced,
    add_checksums,
    compressed_parts,
    image_parts,
    splice,
    splice_places,
    table_parts,
)
from levelmatch.results.stored_integers import needs_cards, remove_scaling

__all__ = [
    "asdf_hdu",
    "check_outputs",
    "hdu_parts",
    "fits_name",
    "header_content",
    "open_decoded",
    "open_stored",
    "scaled_hdus",
    "write_products",
]


# Number of files that are written at the same time.
N_WRITERS = 2


# --------------------------------------------------------------------------------------
# Checks before anything is written


def check_outputs(
    products: list[Product],
    directory: str | Path,
    *,
    overwrite: bool,
    lock: OutputLock | None = None,
) -> list[Path]:
    """Check that inputs are unchanged and that outputs replace no other file.

    Parameters
    ----------
    products : list of `~levelmatch.results.products.Product`
        The output images.
    directory : str or `~pathlib.Path`
        The output folder.
    overwrite : bool
        Whether existing files may be replaced.
    lock : `~levelmatch.results.lock.OutputLock` or None
        Lock that recognises the files of an interrupted run, which may be replaced.

    Returns
    -------
    paths : list of `~pathlib.Path`
        The output files, in the order of `~levelmatch.results.products.by_file`.

    Raises
    ------
    FrameError
        If an input changed since it was measured; if the folder holds an input or the target of
        an input's link; if an output would replace an input or a folder; if two outputs have the
        same name; or if a WCS cannot be written to FITS.
    NotADirectoryError
        If ``directory`` is a file.
    FileExistsError
        If a file exists and ``overwrite`` is not set.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        msg = f"directory: {directory} is not a folder; name another"
        raise NotADirectoryError(msg)
    files = [f for p in products for f in p.frames if isinstance(f.source, FileSource)]
    for frame in files:
        frame.source.check_unchanged(frame.dq_bits)
    sources = list(dict.fromkeys(frame.source.path for frame in files))
    folder = directory.resolve()
    for source in sources:
        if folder in (source.parent.resolve(), source.resolve().parent):
            msg = f"{source.name}: the output folder {directory} holds it; name another"
            raise FrameError(msg)
    known = {identity: source for source in sources if (identity := file_identity(source))}
    paths: list[Path] = []
    for product, *_ in by_file(products):
        path = directory / _output_name(product)
        if (identity := file_identity(path)) in known:
            msg = f"{path} is the input {known[identity]}; name another folder"
            raise FrameError(msg)
        if path in paths:
            msg = f"{path.name}: two outputs would have this name; rename an input"
            raise FrameError(msg)
        if path.is_dir():
            msg = f"{path.name}: the folder {path} has the name of this output; move it away"
            raise FrameError(msg)
        is_own = lock is not None and lock.may_replace(path)
        refuse_existing(path, overwrite=overwrite or is_own, is_data=True)
        paths.append(path)
    return paths


def _output_name(product: Product) -> str:
    """Return the file name of an output image; refuse a WCS that FITS cannot hold."""
    name = Path(product.file).name
    source = product.frame.source
    if isinstance(source, CellsSource):
        return f"{name}.cells.ecsv"
    in_memory = not isinstance(source, FileSource)
    if in_memory and source.hdus is None:
        _written_wcs(product.frame)
    return fits_name(name) if in_memory or source.path.name == fits_name(name) else name


def fits_name(name: str) -> str:
    """Return a file name with a suffix of FITS, by default ``.fits``."""
    return name if name.endswith((".fits", ".fits.gz", ".fit")) else f"{name}.fits"


# --------------------------------------------------------------------------------------
# Write images


def write_products(
    products: list[Product],
    paths: list[Path],
    provenance: Provenance,
    progress_bar: Callable | None = None,
) -> None:
    """Write the output images, each file atomically.

    The output of a file keeps all extensions, headers and the compression of the file. An image
    from memory is written by `~astropy.nddata.CCDData`. Files are written by the workers of a
    cluster if there is one.

    Parameters
    ----------
    products : list of `~levelmatch.results.products.Product`
        The images.
    paths : list of `~pathlib.Path`
        The output files, see `check_outputs`.
    provenance : `~levelmatch.record.run.Provenance`
        The run.
    progress_bar : callable or None
        Wraps an iterable over the files.

    Raises
    ------
    FrameError
        If an input changed, or an image cannot be written; the message names it.
    OSError
        If the system cannot write.
    """
    work = list(zip(by_file(products), paths, strict=True))
    in_files = all(isinstance(f.source, FileSource) for p in products for f in p.frames)
    client = current_client() if in_files and len(work) > 1 else None
    shown = work if progress_bar is None else progress_bar(work)
    if client is None:
        run_jobs((_job(images, path, provenance) for images, path in shown), N_WRITERS)
        return
    steps = iter(shown)
    items = [([p.bare() for p in images], path, provenance) for images, path in work]
    spread(client, write_images, items, [path.name for path in paths], lambda: next(steps, None))
    for _ in steps:
        pass


def write_images(images: list[Product], path: Path, provenance: Provenance) -> None:
    """Write the images of one file, atomically."""
    write, _ = _job(images, path, provenance)
    write()


def _job(
    images: list[Product], path: Path, provenance: Provenance
) -> tuple[Callable[[], None], bool]:
    """Return the function that writes an output file, and whether a thread may call it.

    Files that astropy writes are left to the main thread: threads share the filters of warnings.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [product.opened() for product in images]
    with named_writing(images[0].name):
        plain = plain_replacement(images, provenance)
    return partial(_write_output, images, path, provenance, plain), plain is not None


def _write_output(
    images: list[Product],
    path: Path,
    provenance: Provenance,
    plain: tuple[Places, Replaced] | None,
) -> None:
    """Write an output file; ``plain`` is the result of `plain_replacement` for it."""
    source = images[0].frame.source
    if isinstance(source, CellsSource):
        with named_writing(images[0].name):
            corrected_image(images[0], provenance).write(path, overwrite=True)
        return
    with named_writing(images[0].name), atomic_stream(path) as stream:
        if isinstance(source, AsdfSource):
            write_asdf(images[0], stream, provenance)
        elif isinstance(source, FileSource) or source.hdus is not None:
            _write_file(images, stream, provenance, plain)
        else:
            _write_memory(images[0], stream, provenance)


def _write_memory(product: Product, stream: BinaryIO, provenance: Provenance) -> None:
    """Write an image from memory as a FITS file."""
    image = corrected_image(product, provenance)
    own = image.wcs if isinstance(image, CCDData) else _written_wcs(product.frame)
    image = CCDData(
        np.asarray(image.data),
        mask=image.mask if np.ndim(image.mask) else None,
        uncertainty=image.uncertainty,
        meta=as_header(image.meta),
        wcs=own,
        unit=image.unit or u.dimensionless_unscaled,
        psf=getattr(image, "psf", None),
    )
    hdus = image.to_hdu()
    add_lookup_tables(hdus, image.wcs)
    hdus.writeto(stream)


def _written_wcs(frame: Frame) -> WCS:
    """Return the FITS WCS of an image in memory; refuse a WCS that FITS cannot hold."""
    try:
        wcs = ccd_wcs(frame)
        if wcs.wcs.tab:
            msg = "it has tables of coordinates (-TAB)"
            raise ValueError(msg)
        return wcs
    except Exception as error:
        kind = type(frame.transform.original).__name__
        msg = (
            f"{frame.name}: its {kind} cannot be written to a FITS header: {error}; give the "
            "image a FITS WCS"
        )
        raise FrameError(msg) from error


def _write_file(
    products: list[Product],
    stream: BinaryIO,
    provenance: Provenance,
    plain: tuple[Places, Replaced] | None,
) -> None:
    """Write a copy of a file in which only images, headers and the ASDF tree change."""
    if plain is None:
        _write_hdus(products, stream, provenance)
    else:
        with open_raw(products[0].frame.source.path) as raw:
            splice_places(raw, *plain, stream)
    # An input that changed meanwhile is refused before the output gets its final name.
    for frame in (frame for product in products for frame in product.frames):
        if isinstance(frame.source, FileSource):
            frame.source.check_unchanged(frame.dq_bits)


def _write_hdus(products: list[Product], stream: BinaryIO, provenance: Provenance) -> None:
    """Write a copy of a file that astropy must read."""
    with _opened(products[0].frame.source) as (raw, decoded, stored):
        replaced: Replaced = {}
        headers = _changed_headers(products, stored, provenance)
        for product in () if provenance.keep else products:
            replaced |= _replaced_hdus(product, decoded, stored, provenance)
        index = asdf_hdu(stored)
        if index is not None:
            entry = provenance_entry(products[0].frame, provenance, products[0].lyot)
            content = add_to_asdf(stored[index].data.tobytes(), entry)
            replaced[index] = table_parts(stored[index].header, content)
        splice(raw, stored, replaced, stream, headers)


@contextmanager
def _opened(source: Any) -> Iterator[tuple[BinaryIO, fits.HDUList, fits.HDUList]]:
    """Open the file of a source: its bytes, its decoded HDUs and its stored HDUs."""
    if isinstance(source, FileSource):
        path = source.path
        with open_raw(path) as raw, open_decoded(path) as decoded, open_stored(path) as stored:
            yield raw, decoded, stored
        return
    content = _file_content(source.hdus)
    with (
        io.BytesIO(content) as raw,
        open_decoded(io.BytesIO(content)) as decoded,
        open_stored(io.BytesIO(content)) as stored,
    ):
        yield raw, decoded, stored


def _file_content(hdus: fits.HDUList) -> bytes:
    """Return HDUs in memory as the bytes of a file, without changing the HDUs."""
    copies = fits.HDUList()
    for hdu in hdus:
        if isinstance(hdu, fits.CompImageHDU):
            copies.append(_compressed(hdu.data, hdu.header.copy()))
        else:
            copies.append(hdu.copy())
    buffer = io.BytesIO()
    copies.writeto(buffer, output_verify="silentfix+ignore")
    return buffer.getvalue()


def _changed_headers(
    products: list[Product], stored: fits.HDUList, provenance: Provenance
) -> dict[int, bytes]:
    """Return the changed headers of HDUs with unchanged data, as bytes by index of the HDU."""
    changed = set()
    for frame in (product.frame for product in products):
        hdu, primary = stored[frame.source.hdu].header, stored[0].header
        if provenance.keep:
            of_primary, of_image = kept_cards(frame, provenance)
            keep_levels(primary, of_primary, provenance)
            keep_levels(hdu, of_image, provenance)
            add_kept(hdu, frame, provenance)
            changed |= {frame.source.hdu, *([0] if of_primary else [])}
        elif frame.source.hdu != 0 and frame.corrections and pending_levels(primary):
            clear_levels(primary, provenance)
            changed.add(0)
    return {index: header_content(stored[index]) for index in changed}


def header_content(hdu: Any) -> bytes:
    """Return the bytes of an HDU's changed header; update checksums that it has.

    Parameters
    ----------
    hdu : `~astropy.io.fits.ImageHDU`, `PrimaryHDU` or `BinTableHDU`
        An HDU of `open_stored`, whose data were not used.
    """
    return add_checksums(hdu).tostring().encode("ascii")


def _replaced_hdus(
    product: Product, decoded: fits.HDUList, stored: fits.HDUList, provenance: Provenance
) -> Replaced:
    """Return the HDUs that change with the correction of an image, by index.

    The HDU of the image itself is a function that writes it to a stream.
    """
    source = product.frame.source
    replaced: Replaced = {source.hdu: partial(_write_hdu, product, decoded, provenance)}
    if product.lyot is not None and product.lyot.source is not source:
        replaced |= _overlay(product, product.lyot, stored)
    elif product.frame.output_factor != 1.0:
        replaced |= scaled_hdus(product.frame, decoded)
    return replaced


# --------------------------------------------------------------------------------------
# HDUs


def open_decoded(path: Path | BinaryIO) -> fits.HDUList:
    """Open a FITS file; its images are scaled and decompressed."""
    return fits.open(path, memmap=False, ignore_missing_end=True)


def open_stored(path: Path | BinaryIO) -> fits.HDUList:
    """Open a FITS file; its data stay as stored."""
    return fits.open(
        path, memmap=False, do_not_scale_image_data=True, disable_image_compression=True
    )


def asdf_hdu(hdus: fits.HDUList) -> int | None:
    """Return the index of the ASDF extension of a JWST file, or `None` if missing or incomplete."""
    if "ASDF" not in hdus:
        return None
    index = hdus.index_of("ASDF")
    header = hdus[index].header
    one_value = header.get("TFIELDS") == 1 and header.get("NAXIS2") == 1
    return index if one_value and has_tree(hdus[index].data.tobytes()) else None


def _write_hdu(
    product: Product, hdus: fits.HDUList, provenance: Provenance, stream: BinaryIO
) -> None:
    """Write the HDU of the corrected image."""
    old = hdus[product.frame.source.hdu]
    # Decoding puts a blank card in the place of a scale.
    header = old.header.copy()
    data = corrected_data(product, decoded_image(old))
    # The pixels are freed, because a file of many chips may be larger than memory.
    del old.data
    remove_scaling(header, provenance if needs_cards(old) else None)
    add_corrections(header, product, provenance)
    stream.writelines(hdu_parts(old, header, data))


def hdu_parts(old: Any, header: fits.Header, data: np.ndarray) -> Parts:
    """Return the bytes of an image HDU, compressed if the replaced HDU is.

    Parameters
    ----------
    old : `~astropy.io.fits.ImageHDU`, `PrimaryHDU` or `CompImageHDU`
        The replaced HDU.
    header : `~astropy.io.fits.Header`
        The new header.
    data : 2D `~numpy.ndarray`
        The new pixels.
    """
    # The old HDU may have axes of one pixel.
    data = data.reshape(old.shape)
    if isinstance(old, fits.CompImageHDU):
        return compressed_parts(_compressed(data, header))
    return image_parts(header, data)


def _compressed(data: np.ndarray, header: fits.Header) -> fits.CompImageHDU:
    """Return a compressed HDU; it is lossless, to add no quantisation error to the input's."""
    return fits.CompImageHDU(data, header, compression_type="GZIP_2", quantize_level=0.0)


def scaled_hdus(frame: Frame, hdus: fits.HDUList) -> Replaced:
    """Return the HDUs of an image's uncertainties multiplied by powers of its output factor."""
    out: Replaced = {}
    for i, power in uncertainty_powers(hdus, frame.source.hdu).items():
        header = hdus[i].header.copy()
        remove_scaling(header)
        out[i] = hdu_parts(hdus[i], header, scaled(hdus[i].data, frame.output_factor**power))
    return out


def _overlay(product: Product, other: Frame, hdus: fits.HDUList) -> Replaced:
    """Return the accompanying image HDUs with the Lyot region copied from the Lyot image's file."""
    shape, index = product.frame.shape, product.frame.source.hdu
    lyot = other.source
    replaced: Replaced = {}
    with fits.open(lyot.path, memmap=False, do_not_scale_image_data=True) as others:
        for i, hdu in enumerate(hdus):
            if i == index or not hdu.is_image or tuple(hdu.shape) != shape:
                continue
            if (hdu.name, hdu.ver) not in others:
                msg = f"{lyot.path.name}: there is no extension {hdu.name!r} as in {product.name}"
                raise FrameError(msg)
            data = np.array(hdu.data)
            data[other.region] = others[(hdu.name, hdu.ver)].data[other.region]
            power = uncertainty_power(hdu)
            if product.frame.output_factor != 1.0 and power:
                data = scaled(data, product.frame.output_factor**power)
            replaced[i] = image_parts(hdu.header, data)
    return replaced
