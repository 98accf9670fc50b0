# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Checks of the WCS in a FITS header, and of the gwcs in an ASDF tree.

wcslib replaces unreadable numbers by 0 or a default. asdf follows references to other files and
URLs, expands aliases, and allocates arrays of any declared size. A WCS needs none of these: it is
one subtree whose arrays lie in blocks of the same file.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.wcs import WCS

from levelmatch.exceptions import FrameError, RecordError
from levelmatch.images.asdf_file import ARRAY, MOST_DEPTH, AsdfFile, array_size, whole_number

__all__ = ["check_header", "check_wcs", "lone_wcs", "wcs_content", "wcs_header"]


_AXIS = re.compile(r"(?:CRPIX|CRVAL|CDELT|CROTA)(\d\d?)")
_MATRIX = re.compile(r"(?:PC|CD)(?:(\d\d?)_(\d\d?)|(\d{3})(\d{3}))")
_PARAMETER = re.compile(r"PV(\d\d?)_\d+")
_SIP = re.compile(r"(?:A|B|AP|BP)_(?:ORDER|\d_\d)")
_WHOLE_SKY = ("LONPOLE", "LATPOLE", "EQUINOX", "EPOCH")
# Texts that mean the equinox that wcslib assumes for an unreadable card.
_EQUINOX_2000 = re.compile(r"\s*[Jj]?2000(?:\.0*)?\s*")
_EXPONENT = re.compile(r"\d[Dd][+-]?\d")


def _is_wcs_number(key: str, axes: Iterable[int] = (1, 2)) -> bool:
    """Return whether a keyword, in upper case, holds a number of the WCS of the given axes."""
    found = _AXIS.fullmatch(key) or _MATRIX.fullmatch(key) or _PARAMETER.fullmatch(key)
    if found is not None:
        return {int(axis) for axis in found.groups() if axis is not None} <= set(axes)
    return key in _WHOLE_SKY or _SIP.fullmatch(key) is not None


def check_header(name: str, header: fits.Header, axes: Iterable[int] = (1, 2)) -> None:
    """Check that each WCS card of a header is a finite number.

    Parameters
    ----------
    name : str
        The image, for the error message.
    header : `~astropy.io.fits.Header`
        Its header.
    axes : iterable of int
        FITS axes of the image, counted from 1.

    Raises
    ------
    FrameError
        If a card is not a finite number; the message names image, card and value.
    """
    for key, text in _unreadable(header, axes):
        raise _card_error(name, key, text)


def _card_error(name, key, text):
    return FrameError(
        f"{name}: the WCS card {key} = {text or 'blank'} is not a finite number; "
        "correct the header, or leave the image out"
    )


def _unreadable(header, axes):
    """Yield the keyword and text of each WCS card that is not a finite number."""
    for card in header.cards:
        if not _is_wcs_number(card.keyword, axes):
            continue
        try:
            value = card.value
        except VerifyError:
            yield card.keyword, _text(card)
            continue
        if isinstance(value, str) and card.keyword in ("EQUINOX", "EPOCH"):
            if _EQUINOX_2000.fullmatch(value) and header.get("RADESYS", "ICRS") in ("ICRS", "FK5"):
                continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and np.isfinite(value)):
            yield card.keyword, _text(card)


def _text(card):
    """Return the value of a card as written in the header."""
    value = str(card._image)[9:] if card._image else str(card.rawvalue)
    quoted = re.match(r"\s*('(?:[^']|'')*')", value)
    return f"{quoted[1][:-1].rstrip()}'" if quoted else value.partition("/")[0].strip()


def wcs_header(header: fits.Header) -> fits.Header:
    """Return the header with exponents E in place of D, at which wcslib stops reading."""
    cards = [
        fits.Card(card.keyword, float(card.value), card.comment)
        if _is_wcs_number(card.keyword, range(1, 100)) and _EXPONENT.search(_text(card))
        else card
        for card in header.cards
    ]
    changed = any(new is not old for new, old in zip(cards, header.cards, strict=True))
    return fits.Header(cards) if changed else header


def check_wcs(name: str, wcs: WCS, meta: object = None) -> None:
    """Check that the numbers of a WCS in memory are finite.

    Parameters
    ----------
    name : str
        The image, for the error message.
    wcs : `~astropy.wcs.WCS`
        Its WCS.
    meta : mapping or None
        Header of the image. An unreadable card is refused if the WCS holds the number that
        wcslib substitutes for it.

    Raises
    ------
    FrameError
        If a number is not finite or was substituted; the message names the image, the
        attribute or card, and the value.
    """
    for attribute, values in _numbers(wcs):
        if not np.isfinite(values).all():
            shown = np.array2string(np.asarray(values), separator=", ").replace("\n", "")
            msg = (
                f"{name}: the WCS has {attribute} = {shown}, which is not finite; "
                "solve its astrometry first"
            )
            raise FrameError(msg)
    if isinstance(meta, fits.Header):
        for key, text in _unreadable(meta, range(1, wcs.naxis + 1)):
            if _was_guessed(wcs, key):
                raise _card_error(name, key, text)


def _was_guessed(wcs, key):
    """Return whether a WCS holds the number that wcslib substitutes for an unreadable card."""
    axis = _AXIS.fullmatch(key)
    if axis is None or key.startswith("CROTA"):
        return False
    if key.startswith("CDELT") and wcs.wcs.has_cd():
        return False
    values = getattr(wcs.wcs, key[:5].lower())
    # wcslib substitutes 1 for CDELT and 0 for the others.
    return values[int(axis[1]) - 1] == (1 if key.startswith("CDELT") else 0)


def _numbers(wcs):
    """Yield the name and the values of each defined attribute of a FITS WCS."""
    prm = wcs.wcs
    # astropy warns if CDELT is read where CD is present.
    scales = ("cd",) if prm.has_cd() else ("cdelt", "pc") if prm.has_pc() else ("cdelt",)
    for name in ("crpix", "crval", "latpole", *scales):
        yield name, getattr(prm, name)
    yield "pv", np.array([value for _, _, value in prm.get_pv()])
    if wcs.sip is not None:
        for name in ("a", "b", "ap", "bp", "crpix"):
            values = getattr(wcs.sip, name)
            if values is not None:
                yield f"sip.{name}", values


# --------------------------------------------------------------------------------------
# The gwcs of a tree

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
