# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Checks of an ASDF file before asdf opens it, because a record may come from anyone.

asdf follows references to other files and URLs, expands aliases, and allocates arrays of any
declared size. A record needs none of these: its values are plain, and its arrays lie in its own
blocks.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from hashlib import md5
from math import prod
from typing import Any

from levelmatch.exceptions import RecordError

__all__ = ["block_sizes", "checked_content", "item_size", "split_tree", "whole_number"]

# Largest compression ratio of zlib.
MOST_PACKED = 1100
# Largest size of all blocks, in bytes.
MOST_BYTES = 1 << 33
# Largest depth of nested nodes, and largest number of dimensions of an array.
MOST_DEPTH = 32
MAGIC = b"\xd3BLK"

_BEGIN = re.compile(rb"#ASDF [^\r\n]*\r?\n(?:#[^\r\n]*\r?\n)*(?=%YAML)")
_END = re.compile(rb"\r?\n\.\.\.(?:\r?\n|$)")
_WHOLE = re.compile(r"0|[1-9]\d{0,17}")
_ARRAY = re.compile(r"tag:stsci\.edu:asdf/core/ndarray-[\d.]+")
# Tags that occur in a record.
_TAGS = re.compile(
    r"!|tag:yaml\.org,2002:(?:map|seq|str|int|float|bool|null|timestamp)"
    r"|tag:stsci\.edu:asdf/core/(?:asdf|software|extension_metadata|history_entry|ndarray)-[\d.]+"
    r"|asdf://levelmatch\.org/tags/record-[\d.]+"
)
_NUMBER = re.compile(r"(?:u?int|float|complex|bool)(\d+)")
_TEXT = {"ucs4": 4, "ascii": 1}


def checked_content(content: bytes, key: str) -> bytes:
    """Check an ASDF file, and return its bytes for asdf to open.

    Parameters
    ----------
    content : bytes
        The file.
    key : str
        A key that its tree must have.

    Returns
    -------
    content : bytes
        The file without its block index, which might point to wrong positions.

    Raises
    ------
    RecordError
        If the file refers to other files, uses aliases, declares more than it holds, is damaged
        or is not a record.
    ValueError, ``yaml.YAMLError``
        If it is not an ASDF file.
    """
    _, text, rest = split_tree(content)
    sizes, stop = block_sizes(rest, 0, MOST_BYTES, check=_check_block)
    root = _tree(text)
    mappings = [] if root is None else list(_mappings(root))
    if not mappings or mappings[0] is not root or key not in _fields(root):
        msg = f"not a record of this version of levelmatch: it holds no level match ({key})"
        raise RecordError(msg)
    total = sum(_array_size(node, sizes) for node in mappings if _ARRAY.fullmatch(node.tag))
    # Arrays may share a block, but a small file must not become many large arrays.
    if total > 4 * sum(sizes) + 1024:
        msg = f"its arrays declare {total} bytes, its blocks {sum(sizes)}"
        raise RecordError(msg)
    return content[: len(content) - len(rest) + stop]


# --------------------------------------------------------------------------------------
# Blocks


def split_tree(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the header lines of an ASDF file, the text of its tree, and its blocks.

    Raises
    ------
    ValueError
        If it is not an ASDF file with a complete tree.
    """
    begin = _BEGIN.match(content)
    end = None if begin is None else _END.search(content, begin.end())
    if begin is None or end is None:
        msg = "it is not an ASDF file with a tree"
        raise ValueError(msg)
    return content[: begin.end()], content[begin.end() : end.end()], content[end.end() :]


def block_sizes(
    content: bytes, position: int, most: int, check: Callable | None = None
) -> tuple[list[int], int]:
    """Return the uncompressed sizes of the blocks, and the end position of the last block.

    Parameters
    ----------
    content : bytes
        A file, or the blocks of a file.
    position : int
        Position from which blocks are searched.
    most : int
        Largest size of all blocks, in bytes.
    check : callable or None
        Function that is called with the index, bytes, compression, size and checksum of each
        block.

    Returns
    -------
    sizes : list of int
        Size of each block after decompression, in bytes.
    stop : int
        End of the last block.

    Raises
    ------
    RecordError
        If a block does not lie in the file, or declares more than it can hold.
    """
    start = content.find(MAGIC, position)
    if start < 0:
        return [], len(content)
    sizes: list[int] = []
    position = start
    while content[position : position + 4] == MAGIC:
        if position + 54 > len(content):
            msg = "it ends before the end of its last array"
            raise RecordError(msg)
        (header,) = struct.unpack_from(">H", content, position + 4)
        flags, kind, allocated, used, size, checksum = struct.unpack_from(
            ">I4sQQQ16s", content, position + 6
        )
        sizes.append(size)
        packed = MOST_PACKED if kind != bytes(4) else 1
        if size > packed * used + 1024 or sum(sizes) > most:
            msg = f"an array declares {size} bytes, the file has {used} of it"
            raise RecordError(msg)
        if flags or used > allocated or header < 48:
            msg = "an array is not laid out as asdf writes it"
            raise RecordError(msg)
        begin = position + 6 + header
        position = begin + allocated
        if position > len(content):
            msg = "it ends before the end of its last array"
            raise RecordError(msg)
        if check is not None:
            check(len(sizes) - 1, content[begin : begin + used], kind, size, checksum)
    return sizes, position


def _check_block(index: int, data: bytes, kind: bytes, size: int, checksum: bytes) -> None:
    """Refuse a block that is damaged or was not written by levelmatch."""
    if kind not in (bytes(4), b"zlib"):
        msg = "an array is not laid out as levelmatch writes it"
        raise RecordError(msg)
    if not _is_whole(data, kind, size, checksum):
        msg = f"the record is damaged: its array {index} does not match its checksum"
        raise RecordError(msg)


def _is_whole(data: bytes, kind: bytes, size: int, checksum: bytes) -> bool:
    """Return whether a block matches its checksum.

    The checksum covers the stored data, or the decompressed data if asdf before 5.2 wrote it.
    """
    if checksum in (bytes(16), md5(data, usedforsecurity=False).digest()):
        return True
    if kind == bytes(4):
        return False
    try:
        unpacked = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error:
        return False
    return checksum == md5(unpacked, usedforsecurity=False).digest()


# --------------------------------------------------------------------------------------
# The tree


def _tree(text: bytes) -> Any:
    """Check a tree event by event, and return its root node.

    Events neither expand aliases nor nest calls, unlike nodes.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = documents = 0
    for event in yaml.parse(text, Loader=loader):
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or documents > 1 or depth > MOST_DEPTH:
            msg = "its tree is not laid out as levelmatch writes it"
            raise RecordError(msg)
        tag = getattr(event, "tag", None)
        if tag is not None and not _TAGS.fullmatch(tag):
            msg = f"it holds a tag that no record has: {tag[:80]}"
            raise RecordError(msg)
    return yaml.compose(text, Loader=loader)


def _mappings(root: Any) -> Iterator[Any]:
    """Yield the mappings of a tree; refuse arrays with inline values, and references."""
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node.value, str):
            continue
        if node.id == "mapping":
            nodes += _fields(node).values()
            yield node
            continue
        if _ARRAY.fullmatch(node.tag):
            msg = "an array is not laid out as levelmatch writes it: inline values"
            raise RecordError(msg)
        nodes += node.value


def _fields(node: Any) -> dict[str, Any]:
    """Return the items of a mapping; refuse repeated keys and references."""
    items: dict[str, Any] = {}
    for key, value in node.value:
        if key.id != "scalar" or key.value in items or key.value in ("$ref", "<<"):
            msg = f"its tree has a key that no record has: {str(key.value)[:80]}"
            raise RecordError(msg)
        items[key.value] = value
    return items


def _array_size(node: Any, sizes: list[int]) -> int:
    """Return the number of bytes of an array; refuse an array that exceeds its block."""
    fields = _fields(node)
    unknown = set(fields) - {"source", "datatype", "byteorder", "shape", "offset"}
    if unknown:
        msg = f"an array is not laid out as levelmatch writes it: {min(unknown)}"
        raise RecordError(msg)
    source = whole_number(fields.get("source"), "source")
    offset = whole_number(fields["offset"], "offset") if "offset" in fields else 0
    item, shape = item_size(fields.get("datatype")), _items(fields.get("shape"))
    if not item or shape is None or len(shape) > MOST_DEPTH or source >= len(sizes):
        msg = f"an array is not laid out as levelmatch writes it: {sorted(fields)}"
        raise RecordError(msg)
    lengths = [whole_number(n, "shape") for n in shape]
    size = prod(lengths) * item
    # An array without bytes could still declare any number of rows.
    if offset + size > sizes[source] or max(lengths, default=0) > max(sizes[source], 64):
        msg = f"an array declares {size} bytes, its block has {sizes[source]}"
        raise RecordError(msg)
    return size


def _items(node: Any) -> list | None:
    """Return the items of a sequence, or `None` for another node."""
    return node.value if node is not None and node.id == "sequence" else None


def whole_number(node: Any, name: str) -> int:
    """Return the value of a scalar node; refuse any other than a whole number."""
    is_number = node is not None and node.tag == "tag:yaml.org,2002:int"
    if not is_number or not _WHOLE.fullmatch(node.value):
        msg = f"an array's {name} is not a whole number: {str(node and node.value)[:80]}"
        raise RecordError(msg)
    return int(node.value)


def item_size(node: Any) -> int | None:
    """Return the number of bytes of an item, or `None` for a type that no record has."""
    parts = _items(node)
    if parts is not None and len(parts) == 2:
        item = _TEXT.get(parts[0].value) if parts[0].id == "scalar" else None
        return None if item is None else item * whole_number(parts[1], "datatype")
    found = _NUMBER.fullmatch(node.value) if node is not None and node.id == "scalar" else None
    return None if found is None else max(int(found[1]) // 8, 1)
