# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Corrected images in memory, and as whole FITS files."""

import bz2
import copy
import gzip
import lzma
import os
import secrets
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.exceptions import FrameError
from levelmatch.images.fits_files import partner_hdu
from levelmatch.images.sources import FileSource, decoded_image
from levelmatch.results.header import add_provenance, provenance_entry
from levelmatch.results.splice import (
    add_to_asdf,
    compressed_bytes,
    image_bytes,
    splice,
    table_bytes,
)

__all__ = [
    "asdf_hdu",
    "check_outputs",
    "corrected_data",
    "corrected_image",
    "encoded_hdu",
    "file_identity",
    "fits_name",
    "open_decoded",
    "open_stored",
    "read_uncertainty",
    "scaled_planes",
    "whole_file",
    "whole_stream",
    "write_product",
]


# Where Linux has the files of a process.
OWN_FILES = "/proc/self/fd"


def corrected_image(product, story):
    """Return the corrected image of a product, everything else of it as it was.

    Parameters
    ----------
    product : `~levelmatch.results.result.Product`
        An image, and what belongs to its Lyot region.
    story : `~levelmatch.results.header.Story`
        The run.

    Returns
    -------
    image : `~astropy.nddata.CCDData`, or of the class of the input
        A copy.
    """
    base = product.frame
    image = _read_image(base)
    image = _with_data(image, _subtract(image.data, base.correction, base))
    _scale_uncertainty(image, base)
    add_provenance(image.meta, base, story)
    if product.lyot is None:
        return image
    region = product.region
    other = _read_image(product.lyot)
    other = _with_data(other, _subtract(other.data, product.lyot.correction, product.lyot))
    _scale_uncertainty(other, product.lyot)
    for target, source in zip(_planes(image), _planes(other), strict=True):
        if target is not None and source is not None and np.shape(target) == image.data.shape:
            target[region] = source[region]
    add_provenance(image.meta, product.lyot, story, part="lyot")
    return image


def _with_data(image, data):
    """Return an image with other data: set where its class allows that, else made anew."""
    try:
        image.data = data
    except AttributeError:
        return type(image)(
            data,
            uncertainty=image.uncertainty,
            mask=image.mask,
            wcs=image.wcs,
            meta=image.meta,
            unit=image.unit,
        )
    return image


def _subtract(data, correction, frame):
    """Return the data less a correction, on the scale they come out in, as floats."""
    kind = data.dtype.kind == "f"
    dtype = data.dtype.newbyteorder("=") if kind else np.dtype(np.float32)
    if not kind and data.dtype.itemsize > 2:
        dtype = np.dtype(np.float64)
    # In double precision, whichever kind of float a constant is.
    values = np.subtract(data, correction.evaluate(frame.whole_grid), dtype=np.float64)
    if frame.output_factor != 1.0:
        values *= frame.output_factor
    return values.astype(dtype)


# The powers of a factor on the data that uncertainties take.
POWERS = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}


def _scale_uncertainty(image, frame):
    """Bring an image's uncertainty to the flux scale of its data, in place."""
    uncertainty = getattr(image, "uncertainty", None)
    if frame.output_factor == 1.0 or uncertainty is None:
        return
    power = next((p for kind, p in POWERS.items() if isinstance(uncertainty, kind)), None)
    if power is None:
        kind = type(uncertainty).__name__
        msg = f"{frame.name}: apply_flux_scale: the kind of uncertainty ({kind}) is not known"
        raise FrameError(msg)
    uncertainty.array = _scaled(np.asarray(uncertainty.array), frame.output_factor**power)


def _scaled(data, factor):
    """Data times a factor, of their own type of float."""
    dtype = data.dtype if data.dtype.kind == "f" else np.dtype(np.float32)
    return (data * np.float64(factor)).astype(dtype.newbyteorder("="))


def _plane_power(hdu):
    """The power of a factor on the data that an HDU's plane takes: 0 if it has none of it."""
    name = hdu.name.strip().upper()
    if name.startswith("VAR_"):
        return 2
    kinds = {kind.__name__: power for kind, power in POWERS.items()}
    default = {"ERR": "StdDevUncertainty", "UNCERT": "StdDevUncertainty"}.get(name)
    return kinds.get(hdu.header.get("UTYPE", default), 0) if default else 0


def scaled_planes(frame, hdus):
    """The uncertainties of a frame's image in its file, on its flux scale, as bytes by HDU."""
    main = hdus[frame.source.hdu]
    scaled = {}
    for i, hdu in enumerate(hdus):
        power = _plane_power(hdu)
        if power and hdu.is_image and hdu.ver == main.ver and hdu.shape == main.shape:
            header = hdu.header.copy()
            for key in ("BSCALE", "BZERO", "BLANK"):
                header.remove(key, ignore_missing=True)
            data = _scaled(hdu.data, frame.output_factor**power)
            scaled[i] = encoded_hdu(hdu, header, data)
    return scaled


def _planes(image):
    """Every array of an image's shape that belongs to its pixels."""
    uncertainty = getattr(image, "uncertainty", None)
    return [
        image.data,
        image.mask,
        None if uncertainty is None else uncertainty.array,
        getattr(image, "flags", None),
    ]


def _read_image(frame):
    """Return a copy of a frame's image, read from its file or copied in memory."""
    if not isinstance(frame.source, FileSource):
        return copy.deepcopy(frame.source.image)
    source = frame.source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        with fits.open(source.path, memmap=False) as hdus:
            data = np.array(decoded_image(hdus[source.hdu]))
            data = data.astype(data.dtype.newbyteorder("="), copy=False)
            uncertainty = read_uncertainty(hdus, source.hdu, data.shape)
            dq = None if source.dq_hdu is None else np.array(hdus[source.dq_hdu].data)
            bad = source.bad(hdus, frame.dq_bits)
    mask = ~np.isfinite(data) if data.dtype.kind == "f" else np.zeros(data.shape, dtype=bool)
    if dq is not None:
        dq = dq.astype(dq.dtype.newbyteorder("="), copy=False)
    if bad is not None:
        mask |= bad
    return CCDData(
        data,
        mask=mask,
        uncertainty=uncertainty,
        flags=dq,
        unit=frame.unit or u.dimensionless_unscaled,
        wcs=_ccd_wcs(frame),
        meta=frame.meta.copy(),
    )


def _ccd_wcs(frame):
    """Return the WCS that a `CCDData` takes: for a gwcs, that of the header, or a fit to it."""
    wcs = frame.transform.original
    if isinstance(wcs, WCS):
        return wcs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        if isinstance(frame.source, FileSource):
            told = WCS(frame.meta.copy(), naxis=2)
            if told.has_celestial:
                return told
        return WCS(wcs.to_fits_sip())


def read_uncertainty(hdus, index, shape):
    """Return the uncertainty from JWST's ERR, or from what `CCDData` writes; `None` without."""
    kinds = {k.__name__: k for k in (StdDevUncertainty, VarianceUncertainty, InverseVariance)}
    for name in ("ERR", "UNCERT"):
        i = partner_hdu(hdus, index, name)
        if i is not None and hdus[i].shape == shape:
            kind = kinds.get(hdus[i].header.get("UTYPE"), StdDevUncertainty)
            return kind(np.array(hdus[i].data, dtype=hdus[i].data.dtype.newbyteorder("=")))
    return None


def check_outputs(products, directory, *, overwrite):
    """Refuse a folder that holds an input, or a file that would be overwritten.

    Returns
    -------
    paths : list of `~pathlib.Path`
        The output of each product.

    Raises
    ------
    FrameError
        If the folder is that of an input or of what it links to, an output would replace an
        input, two outputs have one name, or a WCS cannot be written to FITS.
    FileExistsError
        If a file exists and ``overwrite`` is not set.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        msg = f"directory: {directory} is not a folder; name another"
        raise NotADirectoryError(msg)
    sources = [f.source.path for p in products for f in p.frames if hasattr(f.source, "path")]
    folder = directory.resolve()
    for source in sources:
        # Its own folder, and where its links lead to.
        if folder in (source.parent.resolve(), source.resolve().parent):
            msg = f"{source.name}: the output folder {directory} is its own; name another"
            raise FrameError(msg)
    known = {identity: source for source in sources if (identity := file_identity(source))}
    paths = []
    for product in products:
        name = Path(product.name).name
        source = product.frame.source
        in_memory = not isinstance(source, FileSource)
        if in_memory or source.path.name == fits_name(name):
            name = fits_name(name)
        if in_memory:
            _written_wcs(product.frame)
        path = directory / name
        if (identity := file_identity(path)) in known:
            msg = f"{path} is the input {known[identity]}; name another folder"
            raise FrameError(msg)
        if path in paths:
            msg = f"{name}: two outputs would have this name; rename an input"
            raise FrameError(msg)
        if path.exists() and not overwrite:
            msg = f"{path} exists; overwrite=True replaces it"
            raise FileExistsError(msg)
        paths.append(path)
    return paths


def fits_name(name):
    """Return the name of the file that an image in memory is written to."""
    return name if name.endswith((".fits", ".fits.gz", ".fit")) else f"{name}.fits"


def file_identity(path):
    """Return what a file and its links have in common, `None` if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def whole_file(path):
    """Give a name beside a path, which becomes the path when all went well."""
    part = _new_name(path)
    # Unlike one of tempfile, a file that the user's umask decides who reads.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _new_name(path):
    """Return a name beside a path that no file has, and that is not too long whatever the path."""
    return path.with_name(f".levelmatch-{secrets.token_hex(8)}")


@contextmanager
def whole_stream(path):
    """Open a file for writing that gets its name when all went well.

    Where the system can, the file has no name until then: not even a process that is
    killed leaves a part of it. What the suffix says is compressed.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file, replaced if it is there.
    """
    try:
        # By which the file gets its name.
        os.stat(OWN_FILES)
        handle = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        with whole_file(path) as part, open(part, "wb") as stream, _compressor(path, stream) as out:
            yield out
        return
    with os.fdopen(handle, "wb") as stream:
        with _compressor(path, stream) as out:
            yield out
        stream.flush()
        _give_name(handle, path)


def _compressor(path, stream):
    """The stream, or one that compresses into it, without a time or a name."""
    if path.name.endswith(".gz"):
        return gzip.GzipFile("", "wb", 6, stream, mtime=0)
    if path.name.endswith(".bz2"):
        return bz2.open(stream, "wb")
    if path.name.endswith(".xz"):
        return lzma.open(stream, "wb")
    return nullcontext(stream)


def _give_name(handle, path):
    """Give an unnamed file a name, in place of what has it."""
    origin, root = f"{OWN_FILES}/{handle}", os.open("/", os.O_RDONLY)
    try:
        # Through the link: only with a folder given does Python ask for that.
        os.link(origin, path, src_dir_fd=root, follow_symlinks=True)
    except FileExistsError:
        name = _new_name(path)
        os.link(origin, name, src_dir_fd=root, follow_symlinks=True)
        try:
            os.replace(name, path)
        finally:
            name.unlink(missing_ok=True)
    finally:
        os.close(root)


def write_product(product, path, story):
    """Write one corrected image, whole or not at all.

    A file keeps all of its extensions, headers and compression; an image from
    memory is written by its class.

    Parameters
    ----------
    product : `~levelmatch.results.result.Product`
        The image.
    path : `~pathlib.Path`
        Where.
    story : `~levelmatch.results.header.Story`
        The run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write = _write_file if isinstance(product.frame.source, FileSource) else _write_memory
    with whole_stream(path) as stream:
        write(product, stream, story)


def _write_memory(product, stream, story):
    image = corrected_image(product, story)
    if not isinstance(image, CCDData):
        image = CCDData(
            image.data,
            mask=image.mask,
            uncertainty=image.uncertainty,
            meta=image.meta,
            wcs=_written_wcs(product.frame),
            unit=image.unit or u.dimensionless_unscaled,
        )
    image.to_hdu().writeto(stream)


def _written_wcs(frame):
    """Return the WCS that the FITS file of an image in memory gets, or raise if there is none."""
    try:
        return _ccd_wcs(frame)
    except Exception as error:
        kind = type(frame.transform.original).__name__
        msg = (
            f"{frame.name}: its {kind} cannot be written to a FITS header: {error}; give the "
            "image a FITS WCS"
        )
        raise FrameError(msg) from error


def _write_file(product, stream, story):
    """Copy the file with the image, its header and the ASDF tree changed, and nothing else."""
    source = product.frame.source
    with open_decoded(source.path) as decoded, open_stored(source.path) as stored:
        data = corrected_data(product, decoded[source.hdu].data)
        replaced = {source.hdu: _corrected_hdu(product, decoded[source.hdu], data, story)}
        if product.lyot is not None and product.lyot.source is not source:
            replaced |= _overlay(product, stored)
        elif product.frame.output_factor != 1.0:
            replaced |= scaled_planes(product.frame, decoded)
        index = asdf_hdu(stored)
        if index is not None:
            entry = provenance_entry(product.frame, story, product.lyot)
            content = add_to_asdf(stored[index].data.tobytes(), entry)
            replaced[index] = table_bytes(stored[index].header, content)
        splice(source.path, stored, replaced, stream)


def open_decoded(path):
    """Open a FITS file with its images unscaled and decompressed."""
    return fits.open(path, memmap=False, ignore_missing_end=True)


def open_stored(path):
    """Open a FITS file with its data as they are stored."""
    return fits.open(
        path, memmap=False, do_not_scale_image_data=True, disable_image_compression=True
    )


def asdf_hdu(hdus):
    """Return the index of a JWST file's ASDF extension, or `None`."""
    if "ASDF" not in hdus:
        return None
    index = hdus.index_of("ASDF")
    header = hdus[index].header
    one_value = header.get("TFIELDS") == 1 and header.get("NAXIS2") == 1
    return index if one_value and hdus[index].data.tobytes().startswith(b"#ASDF") else None


def corrected_data(product, data):
    """Return the corrected pixels of a product, given those of its file."""
    out = _subtract(data, product.frame.correction, product.frame)
    if product.lyot is not None:
        lyot = product.lyot
        if lyot.source is not product.frame.source:
            with open_decoded(lyot.source.path) as hdus:
                data = hdus[lyot.source.hdu].data
        out[product.region] = _subtract(data, lyot.correction, lyot)[product.region]
    return out


def _corrected_hdu(product, old, data, story):
    """Return the bytes of the corrected image's HDU."""
    header = old.header.copy()
    for key in ("BSCALE", "BZERO", "BLANK"):
        header.remove(key, ignore_missing=True)
    add_provenance(header, product.frame, story)
    if product.lyot is not None:
        add_provenance(header, product.lyot, story, part="lyot")
    return encoded_hdu(old, header, data)


def encoded_hdu(old, header, data):
    """Return the bytes of an image HDU like an old one, compressed if that was."""
    if isinstance(old, fits.CompImageHDU):
        # Without loss: a second quantisation would add its own error to the first's.
        hdu = fits.CompImageHDU(data, header, compression_type="GZIP_2", quantize_level=0.0)
        return compressed_bytes(hdu)
    return image_bytes(header, data)


def _overlay(product, hdus):
    """Return the other planes' HDUs with the Lyot region from the Lyot image's file."""
    shape, index = product.frame.shape, product.frame.source.hdu
    lyot = product.lyot.source
    replaced = {}
    with fits.open(lyot.path, memmap=False, do_not_scale_image_data=True) as others:
        for i, hdu in enumerate(hdus):
            if i == index or not hdu.is_image or tuple(hdu.shape) != shape:
                continue
            if (hdu.name, hdu.ver) not in others:
                msg = f"{lyot.path.name}: there is no extension {hdu.name!r} as in {product.name}"
                raise FrameError(msg)
            data = np.array(hdu.data)
            data[product.region] = others[(hdu.name, hdu.ver)].data[product.region]
            if product.frame.output_factor != 1.0 and _plane_power(hdu):
                data = _scaled(data, product.frame.output_factor ** _plane_power(hdu))
            replaced[i] = image_bytes(hdu.header, data)
    return replaced
