# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What an ASDF file declares, checked before asdf opens it: a record may come from anyone.

asdf follows references to other files and URLs, and makes arrays as large as they say they
are. Of all that, a record needs plain values, and arrays that lie in its own blocks.
"""

import re
import struct
import zlib
from hashlib import md5
from math import prod

from levelmatch.exceptions import RecordError

__all__ = ["checked_content"]


# zlib packs no better than this: what declares more was not made by packing.
MOST_PACKED = 1100
# More than any record of a survey has.
MOST_BYTES = 1 << 33
MOST_DEPTH = 32
MAGIC = b"\xd3BLK"

_BEGIN = re.compile(rb"#ASDF [^\r\n]*\r?\n(?:#[^\r\n]*\r?\n)*(?=%YAML)")
_END = re.compile(rb"\r?\n\.\.\.(?:\r?\n|$)")
_WHOLE = re.compile(r"0|[1-9]\d{0,17}")
# Tags of nodes that asdf makes no more of than they are, and that of records.
_PLAIN = re.compile(
    r"tag:yaml\.org,2002:(?:map|seq|str|int|float|bool|null|timestamp)"
    r"|tag:stsci\.edu:asdf/core/(?:asdf|software|extension_metadata|history_entry)-[\d.]+"
    r"|asdf://levelmatch\.org/tags/record-[\d.]+"
)
_ARRAY = re.compile(r"tag:stsci\.edu:asdf/core/ndarray-[\d.]+")
_NUMBER = re.compile(r"(?:u?int|float|complex|bool)(\d+)")
_ITEM_OF_TEXT = {"ucs4": 4, "ascii": 1}


def checked_content(content, key):
    """Return the bytes of an ASDF file that asdf may open, or refuse them.

    Parameters
    ----------
    content : bytes
        The file.
    key : str
        What its tree has to hold.

    Returns
    -------
    content : bytes
        The file without its block index, which could tell of other blocks.

    Raises
    ------
    RecordError
        If it refers to anything outside of it, or declares more than it can hold.
    ValueError, ``yaml.YAMLError``
        If it is no ASDF file.
    """
    begin = _BEGIN.match(content)
    end = None if begin is None else _END.search(content, begin.end())
    if end is None:
        msg = "it is no ASDF file with a tree"
        raise ValueError(msg)
    sizes, stop = _block_sizes(content, end.end())
    root, arrays = _tree(content[begin.end() : end.end()])
    if key not in root:
        msg = f"not a record of this version of levelmatch: it holds no level match ({key})"
        raise RecordError(msg)
    total = sum(_array_size(array, sizes) for array in arrays)
    # Arrays may share a block, but not so that a small file becomes many large arrays.
    if total > 4 * sum(sizes) + 1024:
        msg = f"its arrays declare {total} bytes, its blocks {sum(sizes)}"
        raise RecordError(msg)
    return content[:stop]


def _block_sizes(content, position):
    """Sizes of the blocks once unpacked, and where the last one ends."""
    start = content.find(MAGIC, position)
    if start < 0:
        return [], len(content)
    sizes, total, position = [], 0, start
    while content[position : position + 4] == MAGIC:
        (header,) = struct.unpack_from(">H", content, position + 4)
        flags, kind, allocated, used, size, checksum = struct.unpack_from(
            ">I4sQQQ16s", content, position + 6
        )
        sizes.append(size)
        total += size
        if size > MOST_PACKED * used + 1024 or total > MOST_BYTES:
            msg = f"an array declares {size} bytes, the file has {used} of it"
            raise RecordError(msg)
        if flags or kind not in (bytes(4), b"zlib") or used > allocated or header < 48:
            msg = "an array is not laid out as levelmatch writes it"
            raise RecordError(msg)
        begin = position + 6 + header
        position = begin + allocated
        if position > len(content):
            msg = "it ends before its last array does"
            raise RecordError(msg)
        if not _is_whole(content[begin : begin + used], kind, size, checksum):
            msg = f"the record is damaged: its array {len(sizes) - 1} does not match its checksum"
            raise RecordError(msg)
    return sizes, position


def _is_whole(data, kind, size, checksum):
    """Whether a block has the checksum that asdf gave it: until asdf 5.2 that of unpacked data."""
    if checksum in (bytes(16), md5(data, usedforsecurity=False).digest()):
        return True
    if kind == bytes(4):
        return False
    try:
        unpacked = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error:
        return False
    return checksum == md5(unpacked, usedforsecurity=False).digest()


def _tree(text):
    """The root of a tree, and the nodes of its arrays: scalars are ``(text, plain)``."""
    import yaml

    root, arrays, stack, documents = None, [], [], 0
    # By events, which neither follow references nor nest calls.
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        documents += isinstance(event, yaml.DocumentStartEvent)
        if isinstance(event, yaml.AliasEvent) or documents > 1 or len(stack) > MOST_DEPTH:
            msg = "its tree is not laid out as levelmatch writes it"
            raise RecordError(msg)
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            continue
        node = _node(event, yaml)
        if event.tag is not None and _ARRAY.fullmatch(event.tag):
            arrays.append(node)
        elif event.tag not in (None, "!") and not _PLAIN.fullmatch(event.tag):
            msg = f"it holds what no record does: {event.tag[:80]}"
            raise RecordError(msg)
        _attach(stack, node)
        root = node if root is None else root
        if not isinstance(node, tuple):
            stack.append(_Open(node))
    return root if isinstance(root, dict) else {}, arrays


class _Open:
    """A node whose end has not come, and its key whose value has not."""

    def __init__(self, node):
        self.node = node
        self.key = None


def _node(event, yaml):
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    return event.value, event.implicit[0] and event.tag is None


def _attach(stack, node):
    """Put a node into that which is open: as an item, a key or a key's value."""
    if not stack:
        return
    top = stack[-1]
    if isinstance(top.node, list):
        top.node.append(node)
    elif top.key is not None:
        top.node[top.key], top.key = node, None
    else:
        if not isinstance(node, tuple) or node[0] in top.node or node[0] in ("$ref", "<<"):
            msg = f"its tree has a key that no record has: {str(node)[:80]}"
            raise RecordError(msg)
        top.key = node[0]


def _array_size(array, sizes):
    """How many bytes an array takes, which lie in its block."""
    known = {"source", "datatype", "byteorder", "shape", "offset"}
    if not isinstance(array, dict) or set(array) - known:
        odd = min(set(array) - known) if isinstance(array, dict) else "inline values"
        msg = f"an array is not laid out as levelmatch writes it: {odd}"
        raise RecordError(msg)
    source = _whole(array.get("source"), "source")
    offset = _whole(array.get("offset", ("0", True)), "offset")
    shape = array.get("shape")
    shape = [_whole(n, "shape") for n in shape] if isinstance(shape, list) else None
    item = _item_size(array.get("datatype"))
    if shape is None or not item or len(shape) > MOST_DEPTH or source >= len(sizes):
        msg = f"an array is not laid out as levelmatch writes it: {array}"[:300]
        raise RecordError(msg)
    size = prod(shape) * item
    # Of no items, an array could still have any number of rows.
    if offset + size > sizes[source] or max(shape, default=0) > max(sizes[source], 64):
        msg = f"an array declares {size} bytes, its block has {sizes[source]}"
        raise RecordError(msg)
    return size


def _whole(node, what):
    """The value of a scalar that is a whole number, as asdf reads it."""
    if not isinstance(node, tuple) or not node[1] or not _WHOLE.fullmatch(node[0]):
        msg = f"an array's {what} is no whole number: {str(node)[:80]}"
        raise RecordError(msg)
    return int(node[0])


def _item_size(datatype):
    """Bytes of an item, `None` if it is of no type that a record has."""
    if isinstance(datatype, list):
        known = len(datatype) == 2 and isinstance(datatype[0], tuple)
        item = _ITEM_OF_TEXT.get(datatype[0][0]) if known else None
        return None if item is None else item * _whole(datatype[1], "datatype")
    found = _NUMBER.fullmatch(datatype[0]) if isinstance(datatype, tuple) else None
    return None if found is None else max(int(found[1]) // 8, 1)
