# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Entries of runs in the text of an ASDF tree, which is changed without parsing the rest."""

import re
from typing import Any

from levelmatch.images.asdf_file import INDEX, MAGIC

__all__ = ["add_to_asdf", "has_tree", "remove_from_asdf", "run_text"]

# Mapping ``meta`` of a tree, in block style.
META = re.compile(
    rb"^(?P<head>meta:(?: !\S+)?[ \t]*\r?\n)(?=(?P<indent> +)\S)(?: +.*\n|\r?\n)+", re.MULTILINE
)
MODEL_TYPE = re.compile(rb"^ +model_type:", re.MULTILINE)
TREE_END = re.compile(rb"^\.\.\.\r?$", re.MULTILINE)


def has_tree(content: bytes) -> bool:
    """Return whether entries can be added to the tree of an ASDF file."""
    if not content.startswith(b"#ASDF") or TREE_END.search(content) is None:
        return False
    start, end = _own_lines(content)
    return start is None or _own_entries(content[start:end]) is not None


def _own_entries(text: bytes) -> list[dict[str, Any]] | None:
    """Return the entries of the list ``levelmatch``, or `None` if another program wrote it."""
    import yaml

    try:
        entries = yaml.safe_load(text)["levelmatch"]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None
    is_own = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if is_own else None


def add_to_asdf(content: bytes, entry: dict[str, Any]) -> bytes:
    """Return an ASDF file with an entry added to the list ``levelmatch``.

    A data model also gets a text on the run in ``meta``, which JWST's pipeline copies from the
    first image to a mosaic.

    Parameters
    ----------
    content : bytes
        The file.
    entry : dict
        The entry as plain values.

    Returns
    -------
    content : bytes
        The file. Everything else is unchanged, except for the index of the blocks.
    """
    import yaml

    content = _with_meta(content, entry)
    text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True).encode()
    start, end = _own_lines(content)
    if start is None:
        return _put(content, end, end, b"levelmatch:\n" + text)
    return _put(content, end, end, text)


def remove_from_asdf(content: bytes, record: str) -> bytes:
    """Return an ASDF file without a record's entries in the list ``levelmatch``.

    Parameters
    ----------
    content : bytes
        The file.
    record : str
        SHA-256 of the record.

    Returns
    -------
    content : bytes
        The file. Everything else is unchanged, except for the index of the blocks.
    """
    import yaml

    start, end = _own_lines(content)
    if start is None:
        return content
    entries = _own_entries(content[start:end]) or []
    kept = [e for e in entries if e.get("record_sha256") != record]
    if len(kept) == len(entries):
        return content
    text = yaml.safe_dump({"levelmatch": kept}, sort_keys=False, allow_unicode=True).encode()
    content = _put(content, start, end, text if kept else b"")
    return _with_meta(content, kept[-1] if kept else {})


def _with_meta(content: bytes, entry: dict[str, Any]) -> bytes:
    """Return an ASDF file with the text on a run in ``meta``, which replaces an earlier text.

    Only data models get the text. An empty entry removes it.
    """
    last = TREE_END.search(content)
    meta = META.search(content, 0, last.start() if last else 0)
    if meta is None or MODEL_TYPE.search(meta[0]) is None:
        return content
    indent, block = meta["indent"], meta.end("head")
    own = re.compile(rb"^%slevelmatch:.*\n(?:%s +.*\n)*" % (indent, indent), re.MULTILINE)
    old = own.search(content, block, meta.end())
    start, end = old.span() if old else (block, block)
    line = f"levelmatch: {run_text(entry)}\n".encode() if entry else b""
    return _put(content, start, end, indent + line if entry else b"")


def run_text(entry: dict[str, Any]) -> str:
    """Return the text on a run from the entry of an image."""
    text = f"levelmatch {entry['levelmatch']} {entry['created']}"
    return f"{text} record {entry['record']} {entry['record_sha256']}" if entry["record"] else text


def _own_lines(content: bytes) -> tuple[int | None, int]:
    """Return the start (`None` without a list) and the end of the list ``levelmatch``.

    Without a list, the end is the place for a new one.
    """
    last = TREE_END.search(content)
    if last is None:
        msg = "the ASDF extension has no end of its tree"
        raise ValueError(msg)
    end = last.start()
    found = re.search(rb"^levelmatch:", content[:end], re.MULTILINE)
    if found is None:
        return None, end
    after = re.compile(rb"^[^\s#-]", re.MULTILINE).search(content, found.end(), end)
    return found.start(), after.start() if after else end


def _put(content: bytes, start: int, end: int, text: bytes) -> bytes:
    """Return an ASDF file with a section of its tree replaced and its block index shifted."""
    shift = len(text) - (end - start)
    index = content.rfind(INDEX)
    tail = content[end:]
    if index > end and content.find(MAGIC, end) > 0:
        moved = re.sub(rb"(?m)^- (\d+)", lambda m: b"- %d" % (int(m[1]) + shift), content[index:])
        tail = content[end:index] + moved
    return content[:start] + text + tail
