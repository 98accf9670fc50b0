# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Write corrected images of Roman as complete ASDF files."""

import re
from typing import Any, BinaryIO

import numpy as np
import yaml

from levelmatch.exceptions import FrameError
from levelmatch.images.asdf_file import INDEX, AsdfFile, packed_block, plain_value
from levelmatch.images.frame import Frame
from levelmatch.images.roman import UNCERTAINTIES, AsdfSource, native, run_entries
from levelmatch.record.run import Provenance
from levelmatch.results.corrected import scaled, subtracted
from levelmatch.results.header import add_provenance, provenance_entry
from levelmatch.results.products import Product
from levelmatch.results.splice import add_to_asdf, remove_from_asdf

__all__ = ["METHOD", "corrected_pixels", "entry_of", "write_asdf", "write_undone_asdf"]

# The schema of Roman knows no other word for levels from overlaps.
METHOD = "match"
# Trees of these versions have a tag for the background.
_TAGGED = re.compile(r".*/wfi_image-1\.[0-3]\.\d+")
_TAG = "!<asdf://stsci.edu/datamodels/roman/tags/sky_background-1.0.0> "


def corrected_pixels(frame: Frame) -> np.ndarray:
    """Return the corrected pixels of an image in ASDF."""
    return subtracted(native(frame.source.data), frame.correction, frame)


def write_asdf(product: Product, stream: BinaryIO, provenance: Provenance) -> None:
    """Copy a file with other pixels and ``meta.background``, and nothing else changed.

    Pixels stay where levels are kept.

    Parameters
    ----------
    product : `~levelmatch.results.products.Product`
        The image.
    stream : binary file
        The copy, open for writing.
    provenance : `~levelmatch.record.run.Provenance`
        The run.
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
    """Return the corrections of an image as plain values, with the keywords that FITS has."""
    header = frame.meta.copy()
    add_provenance(header, frame, provenance)
    cards = {k: header[k] for k in header if k.startswith("LM") and k[2:5] != "REC"}
    return {**provenance_entry(frame, provenance), "cards": cards}


def write_undone_asdf(product: Product, provenance: Provenance, stream: BinaryIO) -> None:
    """Copy a corrected file with its pixels and ``meta.background`` as they were before a run.

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


# --------------------------------------------------------------------------------------
# Arrays and blocks


def _arrays(frame: Frame, data: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays that change, by their names."""
    arrays, factor = {"data": data}, frame.output_factor
    if factor != 1.0:
        for name, power in UNCERTAINTIES.items():
            old = frame.source.array(name)
            if old is not None:
                arrays[name] = scaled(native(old), factor**power)
    return arrays


def _write(
    file: AsdfFile,
    tree: bytes,
    source: AsdfSource,
    arrays: dict[str, np.ndarray],
    stream: BinaryIO,
) -> None:
    """Write a tree and the blocks of a file, those of some arrays with other values."""
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
            raw.seek(block.position)
            _copy(raw, stream, block.stop - block.position)
            position += block.stop - block.position
        raw.seek(file.blocks_stop)
        if raw.read(len(INDEX)) == INDEX:
            lines = "".join(f"- {place}\n" for place in places)
            stream.write(INDEX + f"\n%YAML 1.1\n---\n{lines}...\n".encode())


def _copy(raw: BinaryIO, stream: BinaryIO, count: int) -> None:
    while count > 0:
        part = raw.read(min(count, 1 << 20))
        if not part:
            return
        stream.write(part)
        count -= len(part)


# --------------------------------------------------------------------------------------
# The background in the tree

_FIELDS = ("level", "method", "subtracted")


def _with_background(file: AsdfFile, level: float, *, subtracted: bool) -> tuple[str, str]:
    """Return the tree with another background, and the text that it replaces."""
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
    """Return the lines of ``meta.background``, or the place for them."""
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
    # Its own line, and those that are indented more.
    deeper = " " * (column + 1)
    own = re.compile(rf"[^\n]*\n(?:{deeper}[^\n]*\n|[ \t]*\n)*").match(file.text, start)
    return start, own.end() if own else start


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1
