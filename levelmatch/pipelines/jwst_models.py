# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Data models of JWST: their images, and the metadata of corrections."""

from typing import Any

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty

from levelmatch.images.jwst import load_gwcs
from levelmatch.images.mask_arrays import bad_bits
from levelmatch.images.sources import flagged
from levelmatch.images.units import read_unit
from levelmatch.options import ReadOptions
from levelmatch.record.run import Provenance
from levelmatch.results.asdf_trees import run_text
from levelmatch.results.header import add_corrections, add_kept, remove_provenance
from levelmatch.results.history import history_texts
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


# Metadata attribute for each header keyword used for matching.
KEYWORDS = {
    "FILENAME": "meta.filename",
    "TELESCOP": "meta.telescope",
    "INSTRUME": "meta.instrument.name",
    "DETECTOR": "meta.instrument.detector",
    "FILTER": "meta.instrument.filter",
    "PUPIL": "meta.instrument.pupil",
    "BUNIT": "meta.bunit_data",
    "PROGRAM": "meta.observation.program_number",
    "OBSERVTN": "meta.observation.observation_number",
    "VISIT": "meta.observation.visit_number",
    "VISITGRP": "meta.observation.visit_group",
    "SEQ_ID": "meta.observation.sequence_id",
    "ACT_ID": "meta.observation.activity_id",
    "EXPOSURE": "meta.observation.exposure_number",
    "SUBSTRT1": "meta.subarray.xstart",
    "SUBSTRT2": "meta.subarray.ystart",
}


# Metadata that a run changes: group and name.
CHANGED = (
    ("background", "level"),
    ("background", "method"),
    ("background", "subtracted"),
    ("cal_step", "skymatch"),
    ("cal_step", "level_match"),
)


def open_model(path: Any) -> Any:
    """Open the data model of a file."""
    from stdatamodels.jwst import datamodels

    return datamodels.open(path)


def bits_of(read: ReadOptions) -> int:
    """Return the flags of bad pixels of JWST."""
    return bad_bits(read.dq_bits, is_jwst=True)


def image_of(model: Any, bits: int) -> NDData:
    """Return the image of a model, which shares the pixels of the model.

    Parameters
    ----------
    model : `~stdatamodels.jwst.datamodels.ImageModel`
        The model.
    bits : int
        Flags of bad pixels, see `bits_of`.
    """
    unit = model.meta.bunit_data
    return NDData(
        np.asarray(model.data),
        mask=flagged(np.asarray(model.dq), bits),
        uncertainty=StdDevUncertainty(np.asarray(model.err)) if model.hasattr("err") else None,
        wcs=load_gwcs(model.meta.wcs),
        meta=header_of(model),
        unit=read_unit(unit) if unit else None,
    )


def state_of(model: Any) -> dict[str, Any]:
    """Return the metadata that a run changes, by dotted name; without those that are not set."""
    meta = model.instance["meta"]
    values = {f"{group}.{name}": (meta.get(group) or {}).get(name) for group, name in CHANGED}
    return {name: value for name, value in values.items() if value is not None}


def record_level(model: Any, level: float, entry: dict[str, Any]) -> None:
    """Set the metadata of a model whose level is subtracted or kept.

    Parameters
    ----------
    model : `~stdatamodels.jwst.datamodels.ImageModel`
        The model.
    level : float
        The level subtracted or kept by this run.
    entry : dict
        The corrections, see `~levelmatch.results.header.provenance_entry`.
    """
    background = model.meta.background
    subtracted = "subtracted" in entry
    # A level that was measured but not subtracted is replaced.
    before = background.level if subtracted and background.subtracted else None
    background.level = level + (before or 0.0)
    background.subtracted = subtracted
    background.method = "levelmatch"
    model.meta.cal_step.skymatch = "COMPLETE"
    model.meta.cal_step.level_match = "COMPLETE"
    tree = model.instance
    tree["levelmatch"] = [*tree.get("levelmatch", []), entry]
    # The pipeline copies texts, but no mappings, from the first image to a combined image.
    tree["meta"]["levelmatch"] = run_text(entry)


def add_cards(model: Any, product: Product, provenance: Provenance, entry: dict[str, Any]) -> None:
    """Add the cards of the corrections to the header with which the model is saved.

    Parameters
    ----------
    model : `~stdatamodels.jwst.datamodels.ImageModel`
        The model.
    product : `~levelmatch.results.products.Product`
        The image.
    provenance : `~levelmatch.record.run.Provenance`
        The run.
    entry : dict
        The entry of the run, which `record_level` has added.
    """
    header = _extra_header(model, "SCI")
    before = len(history_texts(header))
    if provenance.keep:
        add_kept(header, product.frame, provenance)
    else:
        add_corrections(header, product, provenance)
    for text in history_texts(header)[before:]:
        add_history(model, text)
    _set_extra_header(model, header)


def forget_run(model: Any, product: Product, provenance: Provenance) -> None:
    """Undo `record_level` and `add_cards`.

    Parameters
    ----------
    model : `~stdatamodels.jwst.datamodels.ImageModel`
        The model of a corrected image.
    product : `~levelmatch.results.products.Product`
        The image, with the corrections of the run.
    provenance : `~levelmatch.record.run.Provenance`
        The run.
    """
    tree = model.instance
    entries = tree.get("levelmatch", [])
    own = [e for e in entries if e["record_sha256"] == provenance.sha256]
    kept = [e for e in entries if e["record_sha256"] != provenance.sha256]
    before = own[0].get("before", {}) if own else {}
    for group, name in CHANGED:
        values = tree["meta"].setdefault(group, {})
        values.pop(name, None)
        if f"{group}.{name}" in before:
            values[name] = before[f"{group}.{name}"]
    if kept:
        tree["levelmatch"], tree["meta"]["levelmatch"] = kept, run_text(kept[-1])
    else:
        tree.pop("levelmatch", None)
        tree["meta"].pop("levelmatch", None)
    header = _extra_header(model, "SCI")
    history = tree.pop("history", {})
    entries = history if isinstance(history, list) else history.get("entries", [])
    for entry in entries:
        header.add_history(entry["description"])
    remove_provenance(header, product.frame, provenance)
    for line in header.get("HISTORY", []):
        add_history(model, line)
    _set_extra_header(model, header)


def _set_extra_header(model: Any, header: fits.Header) -> None:
    """Set the cards of the image's header that are not in the schema, without HISTORY."""
    cards = [[c.keyword, c.value, c.comment] for c in header.cards if c.keyword != "HISTORY"]
    extra = model.instance.setdefault("extra_fits", {})
    extra.setdefault("SCI", {})["header"] = cards


def header_of(model: Any) -> fits.Header:
    """Return a header of the keywords used for matching, and of cards not in the schema."""
    header = fits.Header()
    for name in ("PRIMARY", "SCI"):
        header.update(_extra_header(model, name))
    for key, attribute in KEYWORDS.items():
        value = model[attribute] if attribute in model else None
        if value is not None:
            header[key] = value
    return header


def _extra_header(model: Any, name: str) -> fits.Header:
    """Return the cards of an extension that are not in the schema."""
    header = fits.Header()
    extra = model.instance.get("extra_fits", {})
    for card in extra.get(name, {}).get("header", []):
        header.append(tuple(card), end=True)
    return header


def add_history(model: Any, text: str) -> None:
    """Add a text to the history of a model, which is saved as HISTORY."""
    model.add_history_entry(text)
