# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Data models of Roman: their images, and the metadata of corrections."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io.fits import Header
from astropy.nddata import NDData, StdDevUncertainty

from levelmatch.images.jwst import DEFAULT_BAD_BITS, load_gwcs
from levelmatch.images.mask_arrays import bad_bits
from levelmatch.images.roman import KEYWORDS, ROMAN_BITS, UNKNOWN, add_entries
from levelmatch.images.sources import flagged
from levelmatch.options import ReadOptions
from levelmatch.record.run import Provenance
from levelmatch.results.asdf_files import METHOD, entry_of
from levelmatch.results.products import Product

__all__ = ["add_cards", "bits_of", "image_of", "record_level"]


def bits_of(read: ReadOptions) -> int:
    """Return the flags of bad pixels of Roman."""
    flags = read.dq_bits
    return DEFAULT_BAD_BITS if flags is None else bad_bits(flags, names=ROMAN_BITS)


def image_of(model: Any, bits: int) -> NDData:
    """Return the image of a model, which shares the pixels of the model.

    Parameters
    ----------
    model : `~roman_datamodels.datamodels.ImageModel`
        The model.
    bits : int
        Flags of bad pixels, see `bits_of`.
    """
    done = _value(model.meta, "cal_step.flux") == "COMPLETE"
    return NDData(
        np.asarray(model.data),
        mask=flagged(np.asarray(model.dq), bits),
        uncertainty=StdDevUncertainty(np.asarray(model.err)) if "err" in model else None,
        wcs=load_gwcs(model.meta.wcs),
        meta=_header_of(model),
        unit=u.MJy / u.sr if done else u.DN / u.s,
    )


def record_level(model: Any, level: float, entry: dict[str, Any]) -> None:
    """Set the metadata of a model whose level is subtracted or kept.

    Parameters
    ----------
    model : `~roman_datamodels.datamodels.ImageModel`
        The model.
    level : float
        The level subtracted or kept by this run.
    entry : dict
        The corrections, see `~levelmatch.results.header.provenance_entry`.
    """
    before, subtracted = 0.0, "subtracted" in entry
    if subtracted and _value(model.meta, "background.subtracted"):
        before = _value(model.meta, "background.level") or 0.0
    values = {"level": float(level + before), "method": METHOD, "subtracted": subtracted}
    model.meta["background"] = values
    if "cal_step" in model.meta:
        model.meta.cal_step["skymatch"] = "COMPLETE"


def add_cards(model: Any, product: Product, provenance: Provenance) -> None:
    """Add the run to the list ``meta.levelmatch``."""
    entries = list(model.meta.get("levelmatch", []))
    model.meta["levelmatch"] = [*entries, entry_of(product.frame, provenance)]


def _value(meta: Any, place: str) -> Any:
    """Return the value at a dotted path in the metadata, or `None`."""
    for key in place.split("."):
        if meta is None or key not in meta:
            return None
        meta = meta[key]
    return meta


def _header_of(model: Any) -> Header:
    """Return metadata of a model as a header, with the cards of earlier runs."""
    header = Header()
    for key, place in KEYWORDS.items():
        value = _value(model.meta, place)
        if value not in UNKNOWN and isinstance(value, str | int | float):
            header[key] = value
    # A level measured by the pipeline's skymatch step is replaced, so it is not pending.
    for key in ("BKGLEVEL", "BKGMETH", "BKGSUB"):
        header.remove(key, ignore_missing=True)
    entries = [dict(e) for e in model.meta.get("levelmatch", []) if isinstance(e, Mapping)]
    return add_entries(header, entries)
