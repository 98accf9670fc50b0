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
CORE = f"{STANDARD}core/"
# Layout of the file:
# https://www.asdf-format.org/projects/asdf-standard/en/latest/file_layout.html
INDEX = "#ASDF BLOCK INDEX\n%YAML 1.1\n"
HEADER = b"#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n"
MAGIC, BLOCK_HEADER = b"\xd3BLK", struct.Struct(">I4sQQQ16s")


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
    extension = {
        "extension_class": "asdf.extension._manifest.ManifestExtension",
        "extension_uri": f"{BASE}/extensions/levelmatch-{VERSION}",
        "software": _software(version),
    }
    content = {
        "asdf_library": _software(version),
        "history": {"extensions": [_mapping(extension, tag=f"{CORE}extension_metadata-1.0.0")]},
        key: _mapping(tree, arrays, tag=f"{BASE}/tags/record-{VERSION}"),
    }
    text = yaml.serialize(
        _mapping(content, tag=f"{CORE}asdf-1.1.0"),
        Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
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


def _software(version: str) -> yaml.Node:
    values = {"name": "levelmatch", "version": version}
    return _mapping(values, tag=f"{CORE}software-1.0.0", flow=True)


def _mapping(
    values: dict[str, Any], arrays: list[np.ndarray] | None = None, *, tag: str, flow: bool = False
) -> yaml.Node:
    """Return a dictionary as a YAML node; append its arrays to a list."""
    pairs = [(_node(key), _node(value, arrays)) for key, value in values.items()]
    return yaml.MappingNode(tag, pairs, flow_style=flow)


def _node(value: Any, arrays: list[np.ndarray] | None = None, *, flow: bool = False) -> yaml.Node:
    """Return a value as a YAML node; append its arrays to a list."""
    if isinstance(value, yaml.Node):
        return value
    if isinstance(value, dict):
        node = _mapping(value, arrays, tag="tag:yaml.org,2002:map")
        node.value.sort(key=lambda item: item[0].value)
        return node
    if isinstance(value, list | tuple):
        items = [_node(item, arrays) for item in value]
        return yaml.SequenceNode("tag:yaml.org,2002:seq", items, flow_style=flow)
    if not isinstance(value, np.ndarray) or arrays is None:
        return yaml.representer.SafeRepresenter().represent_data(value)
    array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    arrays.append(array)
    fields = {
        "source": len(arrays) - 1,
        "datatype": _node(_datatype(array.dtype), flow=True),
        "byteorder": "little",
        "shape": _node(value.shape, flow=True),
    }
    return _mapping(fields, tag=f"{CORE}ndarray-1.1.0")


def _datatype(dtype: np.dtype) -> str | list:
    """Return the ASDF name of a type."""
    if dtype.kind == "U":
        return ["ucs4", dtype.itemsize // 4]
    if dtype.kind == "S":
        return ["ascii", dtype.itemsize]
    return "bool8" if dtype.kind == "b" else dtype.name


def _block(array: np.ndarray) -> bytes:
    """Return an array as a compressed ASDF block."""
    data = array.tobytes()
    packed = zlib.compress(data)
    header = BLOCK_HEADER.pack(
        0, b"zlib", len(packed), len(packed), len(data), md5(packed, usedforsecurity=False).digest()
    )
    return MAGIC + struct.pack(">H", len(header)) + header + packed
