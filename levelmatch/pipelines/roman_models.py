# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Data models of Roman: their images, and the metadata of corrections.

The functions have the parameters of those of `~levelmatch.pipelines.jwst_models`.
"""

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

__all__ = [
    "add_cards",
    "bits_of",
    "forget_run",
    "image_of",
    "open_model",
    "record_level",
    "state_of",
]

# Metadata of the background.
BACKGROUND = ("level", "method", "subtracted")


def open_model(path: Any) -> Any:
    """Open the data model of a file."""
    from roman_datamodels import datamodels

    return datamodels.open(path)


def bits_of(read: ReadOptions) -> int:
    """Return the flags of bad pixels of Roman."""
    flags = read.dq_bits
    return DEFAULT_BAD_BITS if flags is None else bad_bits(flags, names=ROMAN_BITS)


def image_of(model: Any, bits: int) -> NDData:
    """Return the image of a model, which shares the pixels of the model."""
    done = _value(model.meta, "cal_step.flux") == "COMPLETE"
    return NDData(
        np.asarray(model.data),
        mask=flagged(np.asarray(model.dq), bits),
        uncertainty=StdDevUncertainty(np.asarray(model.err)) if "err" in model else None,
        wcs=load_gwcs(model.meta.wcs),
        meta=_header_of(model),
        unit=u.MJy / u.sr if done else u.DN / u.s,
    )


def state_of(model: Any) -> dict[str, Any]:
    """Return the metadata that a run changes, without those that are not set."""
    background = model.meta["background"] if "background" in model.meta else None
    state: dict[str, Any] = {}
    if background is not None:
        values = {key: background[key] for key in BACKGROUND if key in background}
        state["background"] = {k: v for k, v in values.items() if v is not None}
    skymatch = _value(model.meta, "cal_step.skymatch")
    return state if skymatch is None else {**state, "skymatch": str(skymatch)}


def record_level(model: Any, level: float, entry: dict[str, Any]) -> None:
    """Set the metadata of a model whose level is subtracted or kept."""
    before, subtracted = 0.0, "subtracted" in entry
    if subtracted and _value(model.meta, "background.subtracted"):
        before = _value(model.meta, "background.level") or 0.0
    values = {"level": float(level + before), "method": METHOD, "subtracted": subtracted}
    model.meta["background"] = values
    if "cal_step" in model.meta:
        model.meta.cal_step["skymatch"] = "COMPLETE"


def add_cards(model: Any, product: Product, provenance: Provenance, entry: dict[str, Any]) -> None:
    """Add the run to the list ``meta.levelmatch``, with the metadata before it."""
    entries = list(model.meta.get("levelmatch", []))
    own = {**entry_of(product.frame, provenance), "before": entry["before"]}
    model.meta["levelmatch"] = [*entries, own]


def forget_run(model: Any, product: Product, provenance: Provenance) -> None:
    """Undo `record_level` and `add_cards`."""
    entries = [dict(e) for e in model.meta.get("levelmatch", [])]
    own = [e for e in entries if e["record_sha256"] == provenance.sha256]
    kept = [e for e in entries if e["record_sha256"] != provenance.sha256]
    before = dict(own[0].get("before", {})) if own else {}
    if "background" in before:
        model.meta["background"] = {**dict.fromkeys(BACKGROUND), **dict(before["background"])}
    elif own:
        del model.meta["background"]
    if "skymatch" in before:
        model.meta.cal_step["skymatch"] = before["skymatch"]
    model.meta["levelmatch"] = kept
    if not kept:
        del model.meta["levelmatch"]


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
