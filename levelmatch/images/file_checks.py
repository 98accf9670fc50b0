# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Checks of a file before astropy reads it, and errors that name the image."""

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from levelmatch.exceptions import FrameError, LevelMatchError, LevelMatchWarning
from levelmatch.options import ReadOptions
from levelmatch.text import as_text

__all__ = [
    "MOST_BYTES",
    "check_file",
    "check_layout",
    "check_name",
    "check_regular",
    "check_wcs_sizes",
    "is_of_option",
    "named_errors",
    "named_warnings",
    "named_writing",
    "reason_of",
]

# Default of max_bytes.
MOST_BYTES = 1 << 31
BLOCK = 2880
CARD = 80
# Longest header, and longest padding after the last HDU, in bytes.
LONGEST = 1 << 22
# Largest number of axes of a FITS array.
MOST_AXES = 99
# Highest order of a SIP distortion.
MOST_ORDER = 9
# Largest number of columns of a table.
MOST_COLUMNS = 999
# Largest values of PCOUNT and GCOUNT.
MOST_COUNT = 1 << 62
# Admitted parameter values of Rice compression.
CODEC = {
    b"BLOCKSIZE": {b"16", b"32", b"64"},
    b"BYTEPIX": {b"1", b"2", b"4", b"8"},
}
# First bytes of files packed by gzip, bzip2 and xz.
PACKED = (b"\x1f\x8b", b"BZ", b"\xfd7")

# Names of the options of reading.
OPTIONS = {field.name for field in fields(ReadOptions)}
# END may be followed by other characters, as in astropy.
_END = re.compile(rb"END(?: {77}|$| {0,76}[^A-Z0-9_-])")
_SIZES = re.compile(
    rb"((?:Z?(?:BITPIX|NAXIS\d*|TILE\d+))|PCOUNT|GCOUNT|TFIELDS) *= *([+-]?\d+)(?:\.0*)? *(?:/|$| )"
)
# Sizes of a WCS. wcslib crashes with many axes, and astropy loops over the squared order.
_WCS_SIZES = re.compile(
    rb"(?i)(WCSAXES[A-Z]?|[AB]P?_ORDER) *= *'? *\+?((?:\d+\.?\d*|\.\d+)(?:[ED]\+?\d+)?)"
)
# First four bytes of cards that the two expressions match.
_SIZES_BEGIN = {b"BITP", b"NAXI", b"TILE", b"ZBIT", b"ZNAX", b"ZTIL", b"PCOU", b"GCOU", b"TFIE"}
_WCS_SIZES_BEGIN = {b"WCSA", b"A_OR", b"B_OR", b"AP_O", b"BP_O"}
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


# --------------------------------------------------------------------------------------
# Errors


def reason_of(error: BaseException) -> str:
    """Return the text of another package's error on one line, or its type if it has no text."""
    # astropy names an option that this package does not have.
    text = " ".join(str(error).split()).partition(" If this is really a FITS file")[0]
    kind = type(error).__name__
    if isinstance(error, KeyError | AttributeError | IndexError | TypeError | MemoryError):
        # The texts of these errors alone say little.
        text = f"{kind}: {text}" if text else kind
    return text[:300] or kind


def is_of_option(error: BaseException) -> bool:
    """Return whether the message of an error starts with the name of an option."""
    return isinstance(error, ValueError | TypeError) and str(error).partition(":")[0] in OPTIONS


@contextmanager
def named_errors(name: str, what: str = "it cannot be read") -> Iterator[None]:
    """Turn the exceptions of other packages into a `FrameError` that names the image.

    Their warnings name it, too.

    Parameters
    ----------
    name : str
        The image.
    what : str
        What failed.

    Raises
    ------
    FrameError
        For any exception, except for a `LevelMatchError`, a `FileNotFoundError` and an error
        that names an option.
    """
    try:
        with named_warnings(name):
            yield
    except (LevelMatchError, FileNotFoundError):
        raise
    except Exception as error:
        if is_of_option(error):
            raise
        msg = f"{name}: {what}: {reason_of(error)}"
        raise FrameError(msg) from error


@contextmanager
def named_writing(name: str) -> Iterator[None]:
    """Turn the exceptions of writing an image into errors that name the image.

    Parameters
    ----------
    name : str
        The image.

    Raises
    ------
    FrameError
        For the exceptions that `named_errors` turns, except for an `OSError`.
    OSError
        If the system cannot write; it names the image or the file.
    """
    try:
        with named_warnings(name):
            yield
    except OSError as error:
        if error.filename is not None:
            raise
        msg = f"{name}: it cannot be written: {reason_of(error)}"
        raise OSError(msg) from error
    except Exception as error:
        with named_errors(name, "it cannot be written"):
            raise error from error.__cause__


# ``name`` is the name of the image that a thread reads or writes.
_READING = threading.local()
_LOCK = threading.Lock()
# Number of images in progress, and the function that shows warnings otherwise.
_shown: dict[str, Any] = {"images": 0, "by": None}


@contextmanager
def named_warnings(name: str) -> Iterator[None]:
    """Prefix the warnings of other packages with the name of the image, within a context.

    Warnings of other threads are unchanged. So are the warning filters, which threads share.

    Parameters
    ----------
    name : str
        The image.
    """
    outer, _READING.name = getattr(_READING, "name", ""), name
    if outer == name:
        yield
        return
    with _LOCK:
        _shown["images"] += 1
        if warnings.showwarning is not _show:
            _shown["by"], warnings.showwarning = warnings.showwarning, _show
    try:
        yield
    finally:
        _READING.name = outer
        with _LOCK:
            _shown["images"] -= 1
            if not _shown["images"] and warnings.showwarning is _show:
                warnings.showwarning = _shown["by"]


def _show(message, category, filename, lineno, file=None, line=None):
    """Show a warning, with the name of the image that the thread reads or writes."""
    name, text = getattr(_READING, "name", ""), " ".join(str(message).split())
    own = issubclass(category, LevelMatchWarning) or text.startswith(name)
    _shown["by"](
        message if own else category(f"{name}: {text}"), category, filename, lineno, file, line
    )


# --------------------------------------------------------------------------------------
# Files


def check_regular(path: Path, most: int | None = None) -> os.stat_result:
    """Check that a path is a regular file; reading anything else may never end.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    most : int or None
        Largest number of its bytes; `None` for no limit.

    Returns
    -------
    status : `os.stat_result`
        Status of the file.

    Raises
    ------
    FrameError
        If it is a folder, a pipe or a device, or has more bytes.
    FileNotFoundError
        If there is no such file.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
        msg = f"{path.name or path}: it is {kind}, not a regular file; copy it to a file"
        raise FrameError(msg)
    if most is not None and status.st_size > most:
        msg = f"{path.name}: it has {status.st_size} bytes, more than {most}"
        raise FrameError(msg)
    return status


def check_name(path: Path) -> None:
    """Refuse a file whose name cannot be written in a record, because it is not valid Unicode.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.

    Raises
    ------
    FrameError
        If it is refused.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        msg = f"{as_text(path.name)}: the name of the file is not UTF-8; rename it"
        raise FrameError(msg) from error


def check_file(path: Path, most: int) -> None:
    """Check that a file is regular and declares no more bytes than a limit.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    most : int
        Largest number of bytes of an image.

    Raises
    ------
    FrameError
        If the file is refused; the message names it.
    FileNotFoundError
        If there is no such file.
    """
    status = check_regular(path)
    with open(path, "rb") as stream:
        begin = stream.read(6)
        if begin == b"SIMPLE":
            check_layout(path.name, stream, status.st_size, most)
        elif status.st_size > most and not begin.startswith(PACKED):
            msg = f"{path.name}: not a readable FITS file: it does not begin with SIMPLE"
            raise FrameError(msg)


def check_layout(name: str, stream: BinaryIO, size: int, most: int) -> None:
    """Check that the images of a FITS file declare no more bytes than a limit.

    Other damage is left to astropy.

    Parameters
    ----------
    name : str
        The image.
    stream : binary file
        The uncompressed file.
    size : int
        Its size in bytes.
    most : int
        Largest number of bytes of an image.

    Raises
    ------
    FrameError
        If the file is refused; the message names the image.
    """
    position = 0
    while position < size:
        stream.seek(position)
        header = _read_header(name, stream, size - position)
        if header is None:
            return
        position += -(-len(header) // BLOCK) * BLOCK
        position += -(-_data_bytes(name, header, most) // BLOCK) * BLOCK


def _read_header(name: str, stream: BinaryIO, rest: int) -> bytes | None:
    """Return the bytes of a header including its END card, or `None` without a header."""
    content = stream.read(min(4 * BLOCK, rest))
    # astropy looks for an END card in whatever follows the last extension.
    if rest > LONGEST and not content.startswith((b"SIMPLE", b"XTENSION")):
        msg = f"{name}: {rest} bytes after its last extension are not an extension; cut them off"
        raise FrameError(msg)
    looked = 0
    while True:
        for found in _END.finditer(content, looked):
            if found.start() % CARD == 0:
                return content[: found.start() + CARD]
        if len(content) > LONGEST:
            msg = f"{name}: a header has no END card in {LONGEST} bytes; get the file again"
            raise FrameError(msg)
        looked = len(content) // CARD * CARD
        more = stream.read(64 * BLOCK)
        if not more:
            return None
        content += more


def _data_bytes(name: str, header: bytes, most: int) -> int:
    """Return the number of bytes of an HDU's data; refuse an image of more than a limit."""
    places = (i for i in range(0, len(header), CARD) if header[i : i + 4] in _SIZES_BEGIN)
    cards = (_SIZES.match(header[i : i + CARD]) for i in places)
    values: dict[str, bytes] = {}
    for found in (card for card in cards if card is not None):
        key, value = found[1].decode(), found[2]
        # A size may not be declared twice with different values, because programs differ in the
        # one that they use.
        if len(value) > 19 or values.setdefault(key, value) != value:
            why = "twice" if len(value) <= 19 else "of more than 18 digits"
            msg = f"{name}: a header declares the size {key} {why}; get the file again"
            raise FrameError(msg)
    sizes = {key: int(value) for key, value in values.items()}
    # With other values astropy seeks backwards in the file or loops over columns endlessly.
    for key, largest in (("PCOUNT", MOST_COUNT), ("GCOUNT", MOST_COUNT), ("TFIELDS", MOST_COLUMNS)):
        if not 0 <= sizes.get(key, 0) <= largest:
            msg = f"{name}: a header declares {key} = {sizes[key]}; get the file again"
            raise FrameError(msg)
    is_table = header.startswith(b"XTENSION") and not header[:30].partition(b"'")[2].startswith(
        b"IMAGE"
    )
    check_wcs_sizes(name, header)
    if b"ZNAME1" in header:
        _check_codec(name, header)
    n_bytes = _declared(name, sizes, "")
    for prefix, what in (("", "pixels"), ("Z", "pixels"), ("ZTILE", "a tile")):
        if prefix == "" and is_table:
            continue
        declared = _declared(name, sizes, prefix)
        if declared > most:
            msg = (
                f"{name}: a header declares {declared} bytes of {what}, more than the {most} of "
                "max_bytes; raise it if that is right"
            )
            raise FrameError(msg)
    return n_bytes


def check_wcs_sizes(name: str, header: bytes) -> None:
    """Refuse a WCS of more axes or of a higher order of distortion than FITS has.

    Parameters
    ----------
    name : str
        The image.
    header : bytes
        The cards of its header.

    Raises
    ------
    FrameError
        If it is refused; the message names image, card and value.
    """
    upper = header.upper()
    places = (i for i in range(0, len(header), CARD) if upper[i : i + 4] in _WCS_SIZES_BEGIN)
    for found in (_WCS_SIZES.match(header, i) for i in places):
        if found is not None:
            key = found[1].decode().upper()
            value = float(found[2].upper().replace(b"D", b"E"))
            most = MOST_AXES if key.startswith("WCSAXES") else MOST_ORDER
            if value > most:
                card = f"{key} = {value:.0f}"
                msg = f"{name}: a header declares {card}, more than {most}; get the file again"
                raise FrameError(msg)


def _check_codec(name: str, header: bytes) -> None:
    """Refuse compression parameters that crash the decoder."""
    cards = [header[i : i + CARD] for i in range(0, len(header), CARD)]
    values = {card[:8].rstrip(): card[10:].partition(b"/")[0].strip(b" '") for card in cards}
    for key, what in values.items():
        admitted = CODEC.get(what.rstrip()) if key.startswith(b"ZNAME") else None
        value = values.get(b"ZVAL" + key[5:], b"")
        if admitted is not None and value not in admitted:
            text = value.decode("ascii", "replace")
            msg = f"{name}: the compression has {what.decode()} = {text}; get the file again"
            raise FrameError(msg)


def _declared(name: str, sizes: dict[str, int], prefix: str) -> int:
    """Return the number of bytes that a header declares.

    The prefix selects the data (none), the uncompressed image (``Z``) or one tile (``ZTILE``).
    """
    z = "Z" if prefix else ""
    n = sizes.get(f"{z}NAXIS", 0)
    if not 0 <= n <= MOST_AXES:
        msg = f"{name}: a header declares {z}NAXIS = {n}; get the file again"
        raise FrameError(msg)
    key = "ZTILE" if prefix == "ZTILE" else f"{z}NAXIS"
    lengths = [sizes.get(f"{key}{k + 1}", 1) for k in range(n)]
    if min(lengths, default=1) < 0:
        msg = f"{name}: a header declares an axis of {min(lengths)} pixels; get the file again"
        raise FrameError(msg)
    count = prod(lengths) if n else 0
    if not prefix:
        count = (count + sizes.get("PCOUNT", 0)) * sizes.get("GCOUNT", 1)
    return count * abs(sizes.get(f"{z}BITPIX", 8)) // 8
