# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Corrected pixels, and corrected images in memory."""

import copy
import warnings
from typing import Any, Literal

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.exceptions import FrameError
from levelmatch.images._decode import subtract_level
from levelmatch.images.corrections import Correction
from levelmatch.images.frame import Frame
from levelmatch.images.mask_arrays import as_image, companions, hdu_keys, partner_hdu
from levelmatch.images.roman import AsdfSource, native
from levelmatch.images.sky_cells import CellsSource, corrected_cells
from levelmatch.images.sources import POWERS, FileSource, decoded_image, read_uncertainty
from levelmatch.record.run import Provenance
from levelmatch.results.header import add_corrections
from levelmatch.results.products import Product

__all__ = [
    "add_lookup_tables",
    "ccd_wcs",
    "corrected_data",
    "corrected_image",
    "scaled",
    "subtracted",
    "uncertainty_power",
    "uncertainty_powers",
]


# Power by which each extension of uncertainties scales with a factor of the data, by name.
UNCERTAINTY_NAMES = {
    **dict.fromkeys(("ERR", "ERROR", "UNCERT", "UNCERTAINTY"), 1),
    **dict.fromkeys(("STD", "SIG", "SIGMA", "RMS", "NOISE"), 1),
    **dict.fromkeys(("VAR", "VARIANCE"), 2),
    **dict.fromkeys(("IVAR", "IVARIANCE", "INVVAR"), -2),
}
# Number of pixels that are corrected at once.
BLOCK = 1 << 16
# Beginnings of keywords of distortions in tables.
_DISTORTIONS = ("CPDIS", "CPERR", "DP1", "DP2", "D2IM")


# --------------------------------------------------------------------------------------
# Pixels


def subtracted(
    data: np.ndarray, correction: Correction, frame: Frame, *, order: Literal["=", ">"] = "="
) -> np.ndarray:
    """Return data minus a correction, multiplied by the frame's output factor, as floats.

    Parameters
    ----------
    data : `~numpy.ndarray`
        The pixels of the whole image, 2D except for axes of one pixel.
    correction : `~levelmatch.images.corrections.Correction`
        The correction.
    frame : `~levelmatch.images.frame.Frame`
        The image.
    order : {"=", ">"}
        Byte order of the output: native, or big-endian as in FITS.

    Returns
    -------
    out : `~numpy.ndarray`
        The corrected pixels in the float type of ``data``; float32 for integers of up to 16
        bits and float64 for larger integers. Missing pixels keep their fill value.
    """
    is_float = data.dtype.kind == "f"
    dtype = data.dtype.newbyteorder("=") if is_float else np.dtype(np.float32)
    if not is_float and data.dtype.itemsize > 2:
        dtype = np.dtype(np.float64)
    plane = as_image(data)
    out = np.empty(plane.shape, dtype.newbyteorder(order))
    level = correction.evaluate(frame.whole_grid)
    if _is_plain(plane, out, level) and frame.output_factor == 1.0:
        subtract_level(plane.view("u4").ravel(), out.view("u4").ravel(), level)
        return _with_fill(out, plane, frame).reshape(data.shape)
    # Blocks of rows stay in the cache; large temporary arrays would cost more than the sums.
    rows = max(BLOCK // max(plane.shape[1], 1), 1)
    for block in (slice(k, k + rows) for k in range(0, len(plane), rows)):
        subtrahend = level[block] if isinstance(level, np.ndarray) else level
        # The subtraction is in double precision for every type of constant.
        values = np.subtract(plane[block], subtrahend, dtype=np.float64)
        if frame.output_factor != 1.0:
            values *= frame.output_factor
        out[block] = values
    return _with_fill(out, plane, frame).reshape(data.shape)


def corrected_data(product: Product, data: np.ndarray) -> np.ndarray:
    """Return the corrected pixels of an output image, including its Lyot region.

    Parameters
    ----------
    product : `~levelmatch.results.products.Product`
        The image.
    data : 2D `~numpy.ndarray`
        The pixels in its file, see `~levelmatch.images.sources.decoded_image`.

    Returns
    -------
    out : 2D `~numpy.ndarray`
        The corrected pixels, in the byte order of FITS.
    """
    out = subtracted(data, product.frame.correction, product.frame, order=">")
    if product.lyot is not None:
        lyot = product.lyot
        if lyot.source is not product.frame.source:
            with fits.open(lyot.source.path, memmap=False, ignore_missing_end=True) as hdus:
                data = decoded_image(hdus[lyot.source.hdu])
        out[lyot.region] = subtracted(data, lyot.correction, lyot)[lyot.region]
    return out


def _is_plain(plane: np.ndarray, out: np.ndarray, level: Any) -> bool:
    """Return whether input and output are big-endian 32-bit floats corrected by a constant."""
    types = {plane.dtype.str, out.dtype.str}
    contiguous = plane.flags["C_CONTIGUOUS"] and plane.flags["ALIGNED"]
    return types == {">f4"} and contiguous and not isinstance(level, np.ndarray)


def _with_fill(out: np.ndarray, plane: np.ndarray, frame: Frame) -> np.ndarray:
    """Set missing pixels back to their fill values, in place; return the corrected pixels."""
    missing = frame.missing(plane)
    if missing is not None:
        # Later programs must recognise the fill values.
        out[missing] = plane[missing]
    return out


def scaled(data: np.ndarray, factor: float) -> np.ndarray:
    """Return data multiplied by a factor, in the same float type; integers become float32."""
    dtype = data.dtype if data.dtype.kind == "f" else np.dtype(np.float32)
    return (data * np.float64(factor)).astype(dtype.newbyteorder("="))


def uncertainty_power(hdu: Any, name: str | None = None) -> int:
    """Return the power by which an HDU scales with a factor of the data.

    The power is 0 for an HDU without uncertainties. By default the HDU's own name is used.
    """
    name = (hdu.name if name is None else name).strip().upper()
    default = 2 if name.startswith("VAR_") else UNCERTAINTY_NAMES.get(name, 0)
    kinds = {kind.__name__: power for kind, power in POWERS.items()}
    return kinds.get(hdu.header.get("UTYPE"), default) if default else 0


def uncertainty_powers(hdus: fits.HDUList, index: int) -> dict[int, int]:
    """Return the powers by which the uncertainties of an image scale with a factor of its data.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The file.
    index : int
        Index of the image.

    Returns
    -------
    powers : dict of int to int
        The power, by index of the HDU.

    Raises
    ------
    FrameError
        If several extensions have one name, and which belongs to the image is unknown.
    """
    keys = hdu_keys(hdus)
    joined = companions(keys)
    powers = {}
    for i, hdu in enumerate(hdus):
        word, _ = joined.get(i, keys[i])
        power = uncertainty_power(hdu, word) if hdu.is_image else 0
        if power and hdu.shape == hdus[index].shape and partner_hdu(hdus, index, word, keys) == i:
            powers[i] = power
    return powers


# --------------------------------------------------------------------------------------
# Images in memory


def corrected_image(product: Product, provenance: Provenance) -> NDData:
    """Return the output image: corrected, or unchanged if the run keeps its levels.

    Both get the header cards of the run.

    Parameters
    ----------
    product : `~levelmatch.results.products.Product`
        The image, with its Lyot part.
    provenance : `~levelmatch.record.run.Provenance`
        The run.

    Returns
    -------
    image : `~astropy.nddata.CCDData`, or the class of the input
        A new image. Its mask, flags and WCS are copied from the input, except in the Lyot
        region, whose arrays are copied from the Lyot part.
    """
    product = product.opened()
    if isinstance(product.frame.source, CellsSource):
        meta = dict(product.frame.source.cells.meta)
        add_corrections(meta, product, provenance)
        return corrected_cells(product.frame, meta)
    image = (_read_image if provenance.keep else _corrected_part)(product.frame)
    add_corrections(image.meta, product, provenance)
    if product.lyot is None or provenance.keep:
        return image
    region = product.lyot.region
    other = _corrected_part(product.lyot)
    for target, source in zip(_arrays(image), _arrays(other), strict=True):
        if target is not None and source is not None and np.shape(target) == image.data.shape:
            target[region] = source[region]
    return image


def _corrected_part(frame: Frame) -> NDData:
    """Return a copy of a frame's whole image minus the frame's correction."""
    image = _read_image(frame)
    # The data may be an array of Dask.
    data = np.asarray(image.data)
    image = _with_data(image, subtracted(data, frame.correction, frame))
    _scale_uncertainty(image, frame)
    return image


def _with_data(image: NDData, data: np.ndarray) -> NDData:
    """Return an image with other data, set in place if its class allows this."""
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


def _scale_uncertainty(image: NDData, frame: Frame) -> None:
    """Multiply an image's uncertainty by the frame's factor, in place."""
    uncertainty = getattr(image, "uncertainty", None)
    if frame.output_factor == 1.0 or uncertainty is None:
        return
    power = next((p for kind, p in POWERS.items() if isinstance(uncertainty, kind)), None)
    if power is None:
        kind = type(uncertainty).__name__
        msg = f"{frame.name}: apply_flux_scale: the kind of uncertainty ({kind}) is not known"
        raise FrameError(msg)
    uncertainty.array = scaled(np.asarray(uncertainty.array), frame.output_factor**power)


def _arrays(image: NDData) -> list[np.ndarray | None]:
    """Return data, mask, uncertainty and flags of an image, `None` for missing ones."""
    uncertainty = getattr(image, "uncertainty", None)
    return [
        image.data,
        image.mask,
        None if uncertainty is None else uncertainty.array,
        getattr(image, "flags", None),
    ]


def _read_image(frame: Frame) -> NDData:
    """Return a new copy of a frame's whole image, from its file or from memory."""
    source = frame.source
    if not isinstance(source, FileSource):
        source.check_unchanged()
        return copy.deepcopy(source.image)
    if isinstance(source, AsdfSource):
        data, uncertainty, dq, bad = _asdf_arrays(source, frame.dq_bits)
    else:
        data, uncertainty, dq, bad = _fits_arrays(source, frame.dq_bits)
    source.check_unchanged(frame.dq_bits)
    mask = ~np.isfinite(data) if data.dtype.kind == "f" else np.zeros(data.shape, dtype=bool)
    if dq is not None:
        dq = dq.astype(dq.dtype.newbyteorder("="), copy=False)
    for where in (bad, frame.missing(data)):
        if where is not None:
            mask |= where
    return CCDData(
        data,
        mask=mask,
        uncertainty=uncertainty,
        flags=dq,
        unit=frame.unit or u.dimensionless_unscaled,
        wcs=ccd_wcs(frame),
        meta=frame.meta.copy(),
    )


def _fits_arrays(source: FileSource, dq_bits: int) -> tuple[Any, ...]:
    """Return pixels, uncertainty, flags and mask of an image in a FITS file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        with source.opened() as hdus:
            data = np.array(decoded_image(hdus[source.hdu]))
            data = data.astype(data.dtype.newbyteorder("="), copy=False)
            uncertainty = read_uncertainty(hdus, source.hdu, data.shape)
            dq = None if source.dq_hdu is None else np.array(as_image(hdus[source.dq_hdu].data))
            return data, uncertainty, dq, source.bad(hdus, dq_bits)


def _asdf_arrays(source: AsdfSource, dq_bits: int) -> tuple[Any, ...]:
    """Return pixels, uncertainty, flags and mask of an image in an ASDF file."""
    dq, bad = source.array("dq"), source.bad_pixels(dq_bits)
    flags = None if dq is None else np.array(dq)
    return native(source.data), source.uncertainty(), flags, bad


def ccd_wcs(frame: Frame) -> WCS:
    """Return the FITS WCS of a frame; for a gwcs, the WCS of the header or a SIP fit."""
    wcs = frame.transform.original
    if isinstance(wcs, WCS):
        return wcs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        if isinstance(frame.source, FileSource):
            from_header = WCS(frame.meta.copy(), naxis=2)
            if from_header.has_celestial:
                return from_header
        # gwcs fits in a precision that scipy 1.18 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        return WCS(wcs.to_fits_sip())


def add_lookup_tables(hdus: fits.HDUList, wcs: Any) -> None:
    """Add the tables of a WCS's distortions to HDUs; CCDData writes the other cards alone."""
    names = ("cpdis1", "cpdis2", "det2im1", "det2im2")
    if not isinstance(wcs, WCS) or all(getattr(wcs, name) is None for name in names):
        return
    own, header = wcs.to_fits(relax=True), hdus[0].header
    # Cards of the input may count its tables in another way.
    for index in reversed(range(len(header))):
        if header.cards[index].keyword.startswith(_DISTORTIONS):
            del header[index]
    header.extend([c for c in own[0].header.cards if c.keyword.startswith(_DISTORTIONS)])
    for table in own[1:]:
        hdus.append(table)
