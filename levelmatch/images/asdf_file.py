# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Layout of an ASDF file: the nodes of its tree and the places of its arrays.

asdf follows references to other files, expands aliases, and allocates arrays of any declared
size. Therefore asdf opens only small files that this module makes of checked nodes and blocks.
Uncompressed arrays are memory-mapped without asdf.
"""

import io
import os
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from levelmatch.exceptions import RecordError

__all__ = [
    "ARRAY",
    "ArrayPlace",
    "AsdfFile",
    "Block",
    "array_size",
    "packed_block",
    "plain_value",
    "read_blocks",
    "split_tree",
    "whole_number",
]

# Largest size of a tree, in bytes. A tree of the Roman pipeline has 0.05 MB, one of JWST 0.1 MB.
MOST_TEXT = 1 << 24
# Largest depth of nested nodes, and largest number of dimensions of an array.
MOST_DEPTH = 150
# Largest compression ratio of zlib.
MOST_PACKED = 1100
# Largest number of blocks that are read.
MOST_BLOCKS = 10_000
MAGIC = b"\xd3BLK"
BLOCK_HEADER = struct.Struct(">I4sQQQ16s")
# Compression of a block without compression.
PLAIN = bytes(4)
INDEX = b"#ASDF BLOCK INDEX"
_TREE_BEGIN = re.compile(rb"#ASDF [^\r\n]*\r?\n(?:#[^\r\n]*\r?\n)*(?=%YAML)")
_TREE_END = re.compile(rb"\r?\n\.\.\.(?:\r?\n|$)")
# Tag of an array.
ARRAY = re.compile(r"tag:stsci\.edu:asdf/core/ndarray-[\d.]+")
_DTYPE = re.compile(r"(?:u?int|float)(?:8|16|32|64)")
_WHOLE = re.compile(r"0|[1-9]\d{0,17}")
_NUMBER = re.compile(r"(?:u?int|float|complex|bool)(\d+)")
_TEXT = {"ucs4": 4, "ascii": 1}


@dataclass(frozen=True)
class Block:
    """A block of an ASDF file.

    Parameters
    ----------
    position : int
        Start of its header in the file.
    start : int
        Start of its content.
    kind : bytes
        Its compression, four bytes; zeros without compression.
    allocated, used : int
        Number of bytes reserved in the file, and number of bytes with content.
    size : int
        Number of bytes after decompression.
    checksum : bytes
        MD5 of its content; zeros without one.
    """

    position: int
    start: int
    kind: bytes
    allocated: int
    used: int
    size: int
    checksum: bytes

    @property
    def stop(self) -> int:
        """Start of the next block."""
        return self.start + self.allocated


@dataclass(frozen=True)
class ArrayPlace:
    """Place of an array in a file.

    Parameters
    ----------
    index : int
        Index of its block.
    block : `Block`
        The block.
    offset : int
        Start of the array in the decompressed block.
    dtype : str
        Type of its items, with the byte order.
    shape : tuple of int
        Its shape.
    """

    index: int
    block: Block
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Number of bytes of the array."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def load(self, path: Path) -> np.ndarray:
        """Return the array, read-only; an uncompressed array is memory-mapped."""
        if self.block.kind == PLAIN:
            start = self.block.start + self.offset
            return np.memmap(path, self.dtype, "r", start, self.shape)
        content = self.content(path)
        return np.frombuffer(content, self.dtype, prod(self.shape), self.offset).reshape(self.shape)

    def content(self, path: Path) -> bytes:
        """Return the content of the whole block, decompressed."""
        with open(path, "rb") as stream:
            if self.block.kind == PLAIN:
                stream.seek(self.block.start)
                return stream.read(self.block.size)
            stream.seek(self.block.position)
            raw = stream.read(self.block.start - self.block.position + self.block.used)
        try:
            content = _file_of(_LONE % self.block.size, [raw], [self.block])
            return np.array(_opened(content, "data")).tobytes()
        except ImportError:
            raise
        except Exception as error:
            # Each compression library has its own exceptions.
            msg = f"its block {self.index} cannot be decompressed: {error}"
            raise RecordError(msg) from error


# Tree of a file with one array of bytes.
_LONE = "data: !core/ndarray-1.0.0 {source: 0, datatype: uint8, byteorder: big, shape: [%d]}\n"
_HEADER = """#ASDF 1.0.0
#ASDF_STANDARD 1.5.0
%YAML 1.1
%TAG ! tag:stsci.edu:asdf/
--- !core/asdf-1.1.0
"""


def _file_of(tree: str, raws: list[bytes], blocks: list[Block]) -> bytes:
    """Return an ASDF file of a tree and of blocks without padding."""
    out = [_HEADER.encode(), tree.encode(), b"...\n"]
    out += [_compact(raw, block) for raw, block in zip(raws, blocks, strict=True)]
    return b"".join(out)


def _compact(raw: bytes, block: Block) -> bytes:
    """Return the bytes of a block with the allocated size set to the used size."""
    # The allocated size follows magic, header size, flags and compression.
    return raw[:14] + struct.pack(">Q", block.used) + raw[22:]


def _opened(content: bytes, key: str) -> Any:
    """Return a value, with its array loaded, of an ASDF file made by this module."""
    import asdf

    with asdf.open(io.BytesIO(content), memmap=False, lazy_load=False) as file:
        value = file.tree[key]
        return np.array(value) if hasattr(value, "dtype") else value


def packed_block(data: bytes, kind: bytes) -> bytes:
    """Return a block of given content and compression, as written by asdf."""
    import asdf

    buffer = io.BytesIO()
    name = kind.strip(b"\0 ").decode("ascii") or None
    file = asdf.AsdfFile({"data": np.frombuffer(data, np.uint8)})
    file.write_to(buffer, all_array_compression=name, all_array_storage="internal")
    content = buffer.getvalue()
    (block,), _ = read_blocks(io.BytesIO(content), len(content) - len(split_tree(content)[2]))
    return content[block.position : block.stop]


# --------------------------------------------------------------------------------------
# Files


class AsdfFile:
    """Layout of an ASDF file, from its tree and the headers of its blocks.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    content : bytes or None
        Its content, if it is not the content of ``path``.

    Raises
    ------
    RecordError
        If the tree is too large or nests too deep, or a block declares more than it holds.
    ValueError, ``yaml.YAMLError``
        If it is not an ASDF file.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self.path = path
        self._content = content
        with self._open() as stream:
            tree = _read_tree(stream)
            self.header, text, _ = split_tree(tree)
            # Blocks follow the tree, perhaps after padding.
            self.blocks, self.blocks_stop = read_blocks(stream, len(tree))
        self.text = text.decode("utf-8")

    def _open(self) -> BinaryIO:
        return open(self.path, "rb") if self._content is None else io.BytesIO(self._content)

    @cached_property
    def root(self) -> Any:
        """Root node of the tree."""
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        _check_depth(yaml.parse(self.text, Loader=loader))
        return yaml.compose(self.text, Loader=loader)

    def find(self, *keys: str) -> Any:
        """Return the node at a path of keys, or `None`."""
        node = self.root
        for key in keys:
            if node is None or node.id != "mapping":
                return None
            node = next((v for k, v in node.value if k.id == "scalar" and k.value == key), None)
        return node

    def place(self, node: Any, name: str) -> ArrayPlace:
        """Return the place of the array of a node.

        Raises
        ------
        RecordError
            If it is not a contiguous array of numbers in a block of the file.
        """
        fields = {k.value: v for k, v in node.value} if node.id == "mapping" else {}
        unknown = set(fields) - {"source", "datatype", "byteorder", "shape", "offset"}
        kind = getattr(fields.get("datatype"), "value", None)
        is_number = isinstance(kind, str) and _DTYPE.fullmatch(kind)
        if unknown or not is_number or not ARRAY.fullmatch(node.tag) or "byteorder" not in fields:
            msg = f"{name} is not a contiguous array of numbers in the file"
            raise RecordError(msg)
        array_size(fields, [block.size for block in self.blocks])
        source = whole_number(fields["source"], "source")
        offset = whole_number(fields["offset"], "offset") if "offset" in fields else 0
        is_little = fields["byteorder"].value == "little"
        dtype = np.dtype(kind).newbyteorder("<" if is_little else ">")
        shape = tuple(whole_number(n, "shape") for n in fields["shape"].value)
        return ArrayPlace(source, self.blocks[source], offset, dtype.str, shape)

    def compact(self, index: int) -> bytes:
        """Return the bytes of a block without padding, with the allocated size adjusted."""
        return _compact(self.raw(index), self.blocks[index])

    def raw(self, index: int) -> bytes:
        """Return the stored bytes of a block and its header, without padding."""
        block = self.blocks[index]
        with self._open() as stream:
            stream.seek(block.position)
            return stream.read(block.start - block.position + block.used)


def _read_tree(stream: BinaryIO) -> bytes:
    """Return the bytes of a file up to the end of its tree."""
    content = b""
    while len(content) <= MOST_TEXT:
        more = stream.read(1 << 16)
        start = max(len(content) - 8, 0)
        content += more
        end = _TREE_END.search(content, start)
        # The line break after the end marker may be in the next chunk.
        if end is not None and (end.end() < len(content) or not more):
            return content[: end.end()]
        if not more:
            msg = "it is not an ASDF file with a complete tree"
            raise ValueError(msg)
    msg = f"its tree has more than {MOST_TEXT} bytes"
    raise RecordError(msg)


def split_tree(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the header lines of an ASDF file, the text of its tree, and its blocks.

    Raises
    ------
    ValueError
        If it is not an ASDF file with a complete tree.
    """
    begin = _TREE_BEGIN.match(content)
    end = None if begin is None else _TREE_END.search(content, begin.end())
    if begin is None or end is None:
        msg = "it is not an ASDF file with a tree"
        raise ValueError(msg)
    return content[: begin.end()], content[begin.end() : end.end()], content[end.end() :]


def read_blocks(stream: BinaryIO, position: int) -> tuple[list[Block], int]:
    """Return the blocks of a file after its tree, and the end position of the last block.

    Parameters
    ----------
    stream : binary file
        The file.
    position : int
        End of its tree.

    Raises
    ------
    RecordError
        If a block does not lie in the file, or declares more than it can hold.
    """
    size_of_file = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    start = stream.read(1 << 16).find(MAGIC)
    if start < 0:
        return [], position
    position += start
    blocks: list[Block] = []
    while len(blocks) < MOST_BLOCKS:
        stream.seek(position)
        head = stream.read(6 + BLOCK_HEADER.size)
        if head[:4] != MAGIC:
            break
        if len(head) < 6 + BLOCK_HEADER.size:
            msg = "it ends before the end of its last array"
            raise RecordError(msg)
        (length,) = struct.unpack_from(">H", head, 4)
        flags, kind, allocated, used, size, checksum = BLOCK_HEADER.unpack_from(head, 6)
        block = Block(position, position + 6 + length, kind, allocated, used, size, checksum)
        packed = MOST_PACKED if kind != PLAIN else 1
        if size > packed * used + 1024:
            msg = f"an array declares {size} bytes, the file has {used} of it"
            raise RecordError(msg)
        if flags or used > allocated or length < BLOCK_HEADER.size:
            msg = "an array is not laid out as asdf writes it"
            raise RecordError(msg)
        if block.stop > size_of_file:
            msg = "it ends before the end of its last array"
            raise RecordError(msg)
        blocks.append(block)
        position = block.stop
    return blocks, position


# --------------------------------------------------------------------------------------
# Nodes


def _check_depth(events: Any) -> None:
    """Check that a tree is not too deep for recursive readers."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            msg = f"its tree nests deeper than {MOST_DEPTH} levels"
            raise RecordError(msg)


def array_size(fields: dict[str, Any], sizes: list[int]) -> int:
    """Return the number of bytes of an array; refuse an array that exceeds its block.

    Parameters
    ----------
    fields : dict of str to ``yaml.Node``
        The array's node as a dictionary.
    sizes : list of int
        Number of bytes of each block of the file.
    """
    source = whole_number(fields.get("source"), "source")
    offset = whole_number(fields["offset"], "offset") if "offset" in fields else 0
    item, shape = _item_size(fields.get("datatype")), _items(fields.get("shape"))
    if not item or shape is None or len(shape) > MOST_DEPTH or source >= len(sizes):
        msg = f"an array is not laid out as asdf writes it: {sorted(fields)}"
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


def _item_size(node: Any) -> int | None:
    """Return the number of bytes of an item, or `None` for an unknown type."""
    parts = _items(node)
    if parts is not None and len(parts) == 2:
        item = _TEXT.get(parts[0].value) if parts[0].id == "scalar" else None
        return None if item is None else item * whole_number(parts[1], "datatype")
    found = _NUMBER.fullmatch(node.value) if node is not None and node.id == "scalar" else None
    return None if found is None else max(int(found[1]) // 8, 1)


def plain_value(node: Any) -> Any:
    """Return the value of a scalar node; `None` for other nodes."""
    if node is None or node.id != "scalar":
        return None
    kind = node.tag.rpartition(":")[2]
    try:
        if kind == "int":
            return int(node.value.replace("_", ""))
        if kind == "float":
            return float(node.value.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return node.value
    if kind == "bool":
        return node.value.lower() in ("true", "yes", "on")
    return None if kind == "null" else str(node.value)
