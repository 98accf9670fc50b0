# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Write the tree of a record as an ASDF file.

asdf loads the extensions of all installed packages before it writes, which takes longer than
matching a few images. A record consists of plain values and arrays, so it is written here.
"""

import struct
import zlib
from hashlib import md5
from typing import Any

import numpy as np
import yaml

__all__ = ["BASE", "VERSION", "asdf_bytes"]

BASE = "asdf://levelmatch.org"
VERSION = "1.0.0"

STANDARD = "tag:stsci.edu:asdf/"
NDARRAY = f"{STANDARD}core/ndarray-1.1.0"
SOFTWARE = f"{STANDARD}core/software-1.0.0"
# Layout of the file:
# https://www.asdf-format.org/projects/asdf-standard/en/latest/file_layout.html
INDEX = "#ASDF BLOCK INDEX\n%YAML 1.1\n"
HEADER = b"#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n"
MAGIC, BLOCK_HEADER = b"\xd3BLK", struct.Struct(">I4sQQQ16s")


class _TreeDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML dumper of plain values and `_Tagged` mappings."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values in full, without aliases."""
        return True


class _Tagged:
    """A mapping with a YAML tag."""

    def __init__(self, tag: str, value: dict[str, Any], flow: bool = False) -> None:
        self.tag, self.flow, self.pairs = tag, flow, list(value.items())


class _Line(list):
    """A list that is written on one line."""


_TreeDumper.add_representer(
    _Tagged, lambda dumper, node: dumper.represent_mapping(node.tag, node.pairs, node.flow)
)
_TreeDumper.add_representer(
    _Line, lambda dumper, node: dumper.represent_sequence("tag:yaml.org,2002:seq", node, True)
)


def asdf_bytes(key: str, tree: dict[str, Any], version: str) -> bytes:
    """Return an ASDF file with a record, as bytes.

    Parameters
    ----------
    key : str
        Key of the record in the file's tree.
    tree : dict
        The record as nested dictionaries and lists of plain values and arrays.
    version : str
        Version of the package.

    Returns
    -------
    content : bytes
        The file, with arrays compressed by zlib.
    """
    arrays: list[np.ndarray] = []
    content = {
        "asdf_library": _software(version),
        "history": {"extensions": [_extension(version)]},
        key: _Tagged(f"{BASE}/tags/record-{VERSION}", _with_blocks(tree, arrays)),
    }
    root = _Tagged(f"{STANDARD}core/asdf-1.1.0", content)
    text = yaml.dump(
        root,
        Dumper=_TreeDumper,
        encoding="utf-8",
        version=(1, 1),
        tags={"!": STANDARD},
        explicit_start=True,
        explicit_end=True,
        allow_unicode=True,
    )
    blocks = [_block(array) for array in arrays]
    starts = np.cumsum([len(HEADER) + len(text), *map(len, blocks)])[:-1].tolist()
    index = f"{INDEX}{yaml.safe_dump(starts, explicit_start=True, explicit_end=True)}"
    return b"".join([HEADER, text, *blocks, index.encode()])


def _software(version: str) -> _Tagged:
    return _Tagged(SOFTWARE, {"name": "levelmatch", "version": version}, flow=True)


def _extension(version: str) -> _Tagged:
    return _Tagged(
        f"{STANDARD}core/extension_metadata-1.0.0",
        {
            "extension_class": "asdf.extension._manifest.ManifestExtension",
            "extension_uri": f"{BASE}/extensions/levelmatch-{VERSION}",
            "software": _software(version),
        },
    )


def _with_blocks(node: Any, arrays: list[np.ndarray]) -> Any:
    """Return a tree whose arrays are replaced by nodes; append the arrays to a list."""
    if isinstance(node, dict):
        return {key: _with_blocks(value, arrays) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_with_blocks(value, arrays) for value in node]
    if not isinstance(node, np.ndarray):
        return node
    array = np.ascontiguousarray(node, dtype=node.dtype.newbyteorder("<"))
    arrays.append(array)
    return _Tagged(
        NDARRAY,
        {
            "source": len(arrays) - 1,
            "datatype": _datatype(array.dtype),
            "byteorder": "little",
            "shape": _Line(node.shape),
        },
    )


def _datatype(dtype: np.dtype) -> str | list:
    """Return the ASDF name of a type."""
    if dtype.kind == "U":
        return _Line(["ucs4", dtype.itemsize // 4])
    if dtype.kind == "S":
        return _Line(["ascii", dtype.itemsize])
    return "bool8" if dtype.kind == "b" else dtype.name


def _block(array: np.ndarray) -> bytes:
    """Return an array as a compressed ASDF block."""
    data = array.tobytes()
    packed = zlib.compress(data)
    header = BLOCK_HEADER.pack(
        0, b"zlib", len(packed), len(packed), len(data), md5(packed, usedforsecurity=False).digest()
    )
    return MAGIC + struct.pack(">H", len(header)) + header + packed
