# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The gwcs in an ASDF tree, checked and copied to a file that is safe to open with asdf.

asdf follows references to other files and URLs, expands aliases, and allocates arrays of any
declared size. A WCS needs none of these: it is one subtree whose arrays lie in blocks of the same
file.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from levelmatch.exceptions import RecordError
from levelmatch.images.asdf_file import ARRAY, MOST_DEPTH, AsdfFile, array_size, whole_number

__all__ = ["lone_wcs", "wcs_content"]

# Largest number of nodes of a WCS. One of the JWST pipeline has some thousand.
MOST_NODES = 200_000
# Largest size of the arrays of a WCS, in bytes. They hold tables of distortions.
MOST_BYTES = 1 << 27
# Largest number of inputs of a transform.
MOST_INPUTS = 100

_FOREIGN = re.compile(r"tag:stsci\.edu:asdf/core/(?:externalarray|column|table)|.*astropy/fits")
# Fields of an array node.
_FIELDS = {"source", "datatype", "byteorder", "shape", "offset", "strides", "data", "mask"}


def wcs_content(content: bytes) -> bytes | None:
    """Return an ASDF file with only the WCS, which is safe to open with asdf.

    Parameters
    ----------
    content : bytes
        The ASDF file of an image, with its WCS at ``meta.wcs``.

    Returns
    -------
    content : bytes or None
        An ASDF file with the subtree ``meta.wcs`` and its blocks; `None` if there is no WCS.

    Raises
    ------
    RecordError
        If the subtree refers to other files, or exceeds a limit for a WCS.
    ValueError, ``yaml.YAMLError``
        If it is not an ASDF file.
    """
    file = AsdfFile(Path(), content)
    node = file.find("meta", "wcs")
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return None
    return lone_wcs(file, node)


def lone_wcs(file: AsdfFile, node: Any) -> bytes:
    """Return an ASDF file with only a WCS and its blocks, which is safe to open with asdf.

    Parameters
    ----------
    file : `~levelmatch.images.asdf_file.AsdfFile`
        The file of an image.
    node : ``yaml.Node``
        The WCS in its tree. Its block numbers are changed in place.

    Returns
    -------
    content : bytes
        An ASDF file with the WCS at ``meta.wcs``.

    Raises
    ------
    RecordError
        If the WCS refers to other files, or exceeds a limit for a WCS.
    """
    import yaml

    _count(node, {}, 0)
    sizes = [block.size for block in file.blocks]
    used: dict[int, int] = {}
    for mapping in _mappings(node):
        _check_mapping(mapping, sizes)
        if ARRAY.fullmatch(mapping.tag):
            for key, value in mapping.value:
                if key.value == "source":
                    value.value = str(used.setdefault(int(value.value), len(used)))
    if sum(sizes[index] for index in used) > MOST_BYTES:
        msg = f"its WCS declares arrays of more than {MOST_BYTES} bytes"
        raise RecordError(msg)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    pruned = _pruned(file.root, node)
    wcs_text = yaml.serialize(pruned, Dumper=dumper, version=(1, 1), explicit_end=True)
    return file.header + wcs_text.encode() + b"".join(map(file.compact, used))


def _pruned(root: Any, wcs: Any) -> Any:
    """Return a root node that contains only the WCS."""
    import yaml

    def mapping(tag, key, value):
        return yaml.MappingNode(tag, [(yaml.ScalarNode("tag:yaml.org,2002:str", key), value)])

    return mapping(root.tag, "meta", mapping("tag:yaml.org,2002:map", "wcs", wcs))


def _count(node: Any, counts: dict[int, int], depth: int) -> int:
    """Return the number of nodes of a subtree with expanded aliases; refuse too many and loops."""
    if node.id == "scalar":
        return 1
    if id(node) not in counts:
        if depth > MOST_DEPTH:
            msg = f"its WCS nests deeper than {MOST_DEPTH} levels, or refers to itself"
            raise RecordError(msg)
        members = [m for pair in node.value for m in pair] if node.id == "mapping" else node.value
        counts[id(node)] = 1 + sum(_count(member, counts, depth + 1) for member in members)
    if counts[id(node)] > MOST_NODES:
        msg = f"its WCS has more than {MOST_NODES} nodes"
        raise RecordError(msg)
    return counts[id(node)]


def _mappings(root: Any) -> Iterator[Any]:
    """Yield each mapping of a tree once; refuse tags that refer to other content."""
    nodes, seen = [root], set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if _FOREIGN.match(node.tag):
            msg = f"its WCS holds a tag that no WCS has: {node.tag[:80]}"
            raise RecordError(msg)
        if node.id == "mapping":
            nodes += [member for pair in node.value for member in pair]
            yield node
        elif node.id == "sequence":
            nodes += node.value


def _check_mapping(node: Any, sizes: list[int]) -> None:
    """Refuse references to other files, too many inputs, and arrays outside of the blocks."""
    fields = {key.value: value for key, value in node.value if key.id == "scalar"}
    if "$ref" in fields or len(fields) < len(node.value):
        msg = "its WCS refers to another file, or has a key that is repeated or not text"
        raise RecordError(msg)
    for key in ("n_dims", "n_inputs"):
        if key in fields and whole_number(fields[key], key) > MOST_INPUTS:
            msg = f"a transform of its WCS has {key} = {fields[key].value}"
            raise RecordError(msg)
    if ARRAY.fullmatch(node.tag):
        _check_array(fields, sizes)


def _check_array(fields: dict[str, Any], sizes: list[int]) -> None:
    """Refuse an array that does not lie inside of a block of the file."""
    unknown = set(fields) - _FIELDS
    if unknown or ("source" in fields) == ("data" in fields):
        msg = f"an array of its WCS is not understood: {', '.join(sorted(fields))}"[:120]
        raise RecordError(msg)
    if "source" in fields:
        array_size(fields, sizes)
