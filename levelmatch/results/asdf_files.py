# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Write corrected Roman images as complete ASDF files."""

import re
from typing import Any, BinaryIO

import numpy as np
import yaml

from levelmatch.exceptions import FrameError
from levelmatch.images.asdf_file import INDEX, AsdfFile, packed_block, plain_value
from levelmatch.images.frame import Frame
from levelmatch.images.roman import UNCERTAINTIES, AsdfSource, native, run_entries
from levelmatch.record.run import Provenance
from levelmatch.results.asdf_trees import add_to_asdf, remove_from_asdf
from levelmatch.results.corrected import scaled, subtracted
from levelmatch.results.header import add_provenance, provenance_entry
from levelmatch.results.products import Product
from levelmatch.results.splice import copy_bytes

__all__ = ["METHOD", "corrected_pixels", "entry_of", "write_asdf", "write_undone_asdf"]

# Word for levels from overlaps in Roman's schema.
METHOD = "match"
# Versions of trees in which the background has a tag.
_TAGGED = re.compile(r".*/wfi_image-1\.[0-3]\.\d+")
_TAG = "!<asdf://stsci.edu/datamodels/roman/tags/sky_background-1.0.0> "


def corrected_pixels(frame: Frame) -> np.ndarray:
    """Return the corrected pixels of an image in ASDF."""
    return subtracted(native(frame.source.data), frame.correction, frame)


def write_asdf(product: Product, stream: BinaryIO, provenance: Provenance) -> None:
    """Write a copy of a file with corrected pixels, new ``meta.background`` and an entry.

    If the run keeps its levels, the pixels are unchanged. Everything else is unchanged, except
    for uncertainties that a flux scale multiplies.

    Parameters
    ----------
    product : `~levelmatch.results.products.Product`
        The image.
    stream : binary file
        The copy, open for writing.
    provenance : `~levelmatch.record.run.Provenance`
        The run.

    Raises
    ------
    FrameError
        If the input changed, or its metadata are not laid out as expected.
    """
    frame, source = product.frame, product.frame.source
    file = AsdfFile(source.path)
    entry = entry_of(frame, provenance)
    keep = provenance.keep
    level = sum(p["level"] for p in entry["kept" if keep else "subtracted"])
    before = {k: plain_value(file.find("roman", "meta", "background", k)) for k in _FIELDS}
    if before["subtracted"] and not keep and isinstance(before["level"], float | int):
        level += before["level"]
    text, entry["background"] = _with_background(file, level, subtracted=not keep)
    tree = add_to_asdf(file.header + text.encode(), entry)
    arrays = {} if keep else _arrays(frame, corrected_pixels(frame))
    _write(file, tree, source, arrays, stream)
    source.check_unchanged(frame.dq_bits)


def entry_of(frame: Frame, provenance: Provenance) -> dict[str, Any]:
    """Return the corrections of an image as plain values, with the cards of a FITS output."""
    header = frame.meta.copy()
    add_provenance(header, frame, provenance)
    cards = {k: header[k] for k in header if k.startswith("LM") and k[2:5] != "REC"}
    return {**provenance_entry(frame, provenance), "cards": cards}


def write_undone_asdf(product: Product, provenance: Provenance, stream: BinaryIO) -> None:
    """Write a copy of a corrected file with the pixels and ``meta.background`` before a run.

    Parameters
    ----------
    product : `~levelmatch.results.products.Product`
        The corrected image, with the inverse corrections.
    provenance : `~levelmatch.record.run.Provenance`
        The run.
    stream : binary file
        The copy, open for writing.
    """
    frame, source = product.frame, product.frame.source
    file, sha256 = AsdfFile(source.path), provenance.sha256
    entries = [e for e in run_entries(file) if e["record_sha256"] == sha256]
    text = file.text
    if entries:
        start, stop = _background_span(file)
        text = text[:start] + str(entries[-1].get("background", "")) + text[stop:]
    tree = remove_from_asdf(file.header + text.encode(), sha256)
    arrays = {} if provenance.keep else _arrays(frame, corrected_pixels(frame))
    _write(file, tree, source, arrays, stream)


def _arrays(frame: Frame, data: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays that change, by name: the data, and uncertainties times a factor."""
    arrays, factor = {"data": data}, frame.output_factor
    if factor != 1.0:
        for name, power in UNCERTAINTIES.items():
            uncertainty = frame.source.array(name)
            if uncertainty is not None:
                arrays[name] = scaled(native(uncertainty), factor**power)
    return arrays


def _write(
    file: AsdfFile,
    tree: bytes,
    source: AsdfSource,
    arrays: dict[str, np.ndarray],
    stream: BinaryIO,
) -> None:
    """Write a tree and the blocks of a file, with new values of some arrays."""
    contents: dict[int, bytearray] = {}
    for name, array in arrays.items():
        place = source.arrays[name]
        if place.index not in contents:
            contents[place.index] = bytearray(place.content(source.path))
        new = np.ascontiguousarray(array, dtype=place.dtype).tobytes()
        contents[place.index][place.offset : place.offset + place.nbytes] = new
    stream.write(tree)
    position, places = len(tree), []
    with open(file.path, "rb") as raw:
        for index, block in enumerate(file.blocks):
            places.append(position)
            if index in contents:
                new = packed_block(bytes(contents[index]), block.kind)
                stream.write(new)
                position += len(new)
                continue
            copy_bytes(raw, stream, block.position, block.stop)
            position += block.stop - block.position
        raw.seek(file.blocks_stop)
        if raw.read(len(INDEX)) == INDEX:
            lines = "".join(f"- {place}\n" for place in places)
            stream.write(INDEX + f"\n%YAML 1.1\n---\n{lines}...\n".encode())


_FIELDS = ("level", "method", "subtracted")


def _with_background(file: AsdfFile, level: float, *, subtracted: bool) -> tuple[str, str]:
    """Return the text of the tree with a new background, and the replaced text."""
    start, stop = _background_span(file)
    meta = file.find("roman", "meta")
    indent = " " * meta.start_mark.column
    node = file.find("roman", "meta", "background")
    tag = _TAG if _TAGGED.fullmatch(file.find("roman").tag) else ""
    if node is not None and not node.tag.startswith("tag:yaml.org"):
        tag = f"!<{node.tag}> "
    values = {"level": float(level), "method": METHOD, "subtracted": subtracted}
    flow = yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=float("inf"))
    text = f"{indent}background: {tag}{flow}"
    return file.text[:start] + text + file.text[stop:], file.text[start:stop]


def _background_span(file: AsdfFile) -> tuple[int, int]:
    """Return the start and end of ``meta.background`` in the text, or of its empty place."""
    meta = file.find("roman", "meta")
    if meta is None or meta.id != "mapping" or meta.flow_style or not meta.value:
        msg = f"{file.path.name}: roman.meta is not a mapping in block style"
        raise FrameError(msg)
    first = _line_start(file.text, meta.value[0][0].start_mark.index)
    key = next((k for k, _ in meta.value if k.value == "background"), None)
    if key is None:
        return first, first
    start = _line_start(file.text, key.start_mark.index)
    column = key.start_mark.column
    # The node consists of the line of its key and the following lines with more indentation.
    deeper = " " * (column + 1)
    lines = re.compile(rf"[^\n]*\n(?:{deeper}[^\n]*\n|[ \t]*\n)*").match(file.text, start)
    return start, lines.end() if lines else start


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1
