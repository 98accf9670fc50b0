# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Checks of an ASDF file before asdf opens it, because a record may come from anyone.

asdf follows references to other files and URLs, expands aliases, and allocates arrays of any
declared size. A record needs none of these: its values are plain, and its arrays lie in its own
blocks.
"""

import io
import re
import zlib
from collections.abc import Iterator
from hashlib import md5
from typing import Any

from levelmatch.exceptions import RecordError
from levelmatch.images.asdf_file import ARRAY, PLAIN, Block, array_size, read_blocks, split_tree

__all__ = ["checked_content"]

# Largest size of all blocks, in bytes.
MOST_BYTES = 1 << 33
# Largest depth of nested nodes.
MOST_DEPTH = 32
# Tags that occur in a record.
_TAGS = re.compile(
    r"!|tag:yaml\.org,2002:(?:map|seq|str|int|float|bool|null|timestamp)"
    r"|tag:stsci\.edu:asdf/core/(?:asdf|software|extension_metadata|history_entry|ndarray)-[\d.]+"
    r"|asdf://levelmatch\.org/tags/record-[\d.]+"
)


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
    blocks, stop = read_blocks(io.BytesIO(content), len(content) - len(rest))
    sizes = [block.size for block in blocks]
    if sum(sizes) > MOST_BYTES:
        msg = f"its arrays declare more than {MOST_BYTES} bytes"
        raise RecordError(msg)
    for index, block in enumerate(blocks):
        _check_block(index, block, content[block.start : block.start + block.used])
    root = _tree(text)
    mappings = [] if root is None else list(_mappings(root))
    if not mappings or mappings[0] is not root or key not in _fields(root):
        msg = f"not a record of this version of levelmatch: it holds no level match ({key})"
        raise RecordError(msg)
    total = sum(_array_size(node, sizes) for node in mappings if ARRAY.fullmatch(node.tag))
    # Arrays may share a block, but a small file must not become many large arrays.
    if total > 4 * sum(sizes) + 1024:
        msg = f"its arrays declare {total} bytes, its blocks {sum(sizes)}"
        raise RecordError(msg)
    return content[:stop]


def _check_block(index: int, block: Block, data: bytes) -> None:
    """Refuse a block that is damaged or was not written by levelmatch."""
    if block.kind not in (PLAIN, b"zlib"):
        msg = "an array is not laid out as levelmatch writes it"
        raise RecordError(msg)
    if not _is_whole(block, data):
        msg = f"the record is damaged: its array {index} does not match its checksum"
        raise RecordError(msg)


def _is_whole(block: Block, data: bytes) -> bool:
    """Return whether the content of a block matches its checksum.

    The checksum covers the stored data, or the decompressed data if asdf before 5.2 wrote it.
    """
    if block.checksum in (bytes(16), md5(data, usedforsecurity=False).digest()):
        return True
    if block.kind == PLAIN:
        return False
    try:
        unpacked = zlib.decompressobj().decompress(data, block.size + 1)
    except zlib.error:
        return False
    return block.checksum == md5(unpacked, usedforsecurity=False).digest()


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
        if ARRAY.fullmatch(node.tag):
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
    """Return the number of bytes of an array; refuse fields that no record has."""
    fields = _fields(node)
    unknown = set(fields) - {"source", "datatype", "byteorder", "shape", "offset"}
    if unknown:
        msg = f"an array is not laid out as levelmatch writes it: {min(unknown)}"
        raise RecordError(msg)
    return array_size(fields, sizes)
