# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fields of the option classes, and checks of their values. Light to import."""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

__all__ = [
    "as_path",
    "check_blank",
    "check_fields",
    "check_flag",
    "check_keyword",
    "check_names",
    "check_progress",
    "check_shape",
    "check_type",
    "choice",
    "hdu_choices",
    "number",
    "region_text",
    "without_numpy",
]

# Largest size of a region file, in bytes.
MOST_TEXT = 1 << 24
# Header keywords with a meaning of their own: those of the array, of times, of the WCS, and the
# cards of corrections.
RESERVED = re.compile(
    r"SIMPLE|XTENSION|EXTEND|BITPIX|NAXIS\d*|[PG]COUNT|GROUPS|BSCALE|BZERO|BLANK|BUNIT|INHERIT"
    r"|EXT(NAME|VER|LEVEL)|(CHECK|DATA)SUM|(HISTORY|COMMENT|CONTINUE|END)|(DATE|MJD).*"
    r"|C(TYPE|UNIT|RVAL|RPIX|DELT|ROTA|NAME)\d+[A-Z]?|(CD|PC|PV|PS)\d+_\d+[A-Z]?"
    r"|[AB]P?_(\d+_\d+|ORDER|DMAX)|(LON|LAT)POLE[A-Z]?|RA(DE|DEC)SYS[A-Z]?|EQUINOX[A-Z]?|WCS.*"
    r"|(CPDIS|CQDIS|CPERR|D2IM|DP|DQ)\w*|LM\w(LEV|SLU|SLV|ERR|REF)|LMREC.*|LMFLUX"
)


def check_type(name: str, value: Any, kinds: Any, words: str) -> None:
    """Refuse an argument of another type; the error names the argument."""
    if not isinstance(value, kinds):
        msg = f"{name}: expected {words}, not {type(value).__name__}"
        raise TypeError(msg)


def as_path(name: str, value: Any) -> Path:
    """Return an argument as a path; the error for another type, or no path, names the argument."""
    check_type(name, value, str | os.PathLike, "a path")
    if value == "":
        msg = f"{name}: the path is empty; '.' is the current folder"
        raise ValueError(msg)
    return Path(value)


def check_flag(name: str, value: Any) -> None:
    """Refuse a value that is neither true nor false, such as the text "no"."""
    if isinstance(value, str) or value not in (False, True):
        msg = f"{name}: {value!r} is neither True nor False"
        raise TypeError(msg)


def check_names(name: str, value: Any) -> list[str]:
    """Return an argument that is one text, or several, as a list."""
    names = [value] if isinstance(value, str) else value
    check_type(name, names, Iterable, "text, or a list of text")
    names = list(names)
    for item in names:
        check_type(name, item, str, "text, or a list of text")
    return names


def check_progress(progress_bar: Any) -> None:
    """Refuse a progress bar that cannot be called."""
    if progress_bar is not None and not callable(progress_bar):
        msg = f"progress_bar: {progress_bar!r} is not callable; give for example tqdm.tqdm"
        raise TypeError(msg)


def choice(default: Any, *choices: Any) -> Any:
    """Return a field of an option class that takes one of several values."""
    return field(default=default, metadata={"choices": choices})


def number(
    default: float | None,
    *,
    zero: bool = True,
    whole: bool = False,
    least: int = 0,
    optional: bool | None = None,
    word: str | None = None,
    **metadata: Any,
) -> Any:
    """Return a field of an option class that takes a number.

    Parameters
    ----------
    default : float or None
        Its default.
    zero : bool
        Whether it may be 0.
    whole : bool
        Whether it is a whole number.
    least : int
        The least whole number.
    optional : bool or None
        Whether `None` is a value; by default True if the default is `None`.
    word : str or None
        Word that is also a value.
    **metadata
        Further metadata of the field; with ``unit=True`` it may be a quantity.
    """
    optional = default is None if optional is None else optional
    kind = {"number": True, "zero": zero, "whole": whole, "least": least, "optional": optional}
    metadata["word"] = word
    return field(default=default, metadata={**kind, **metadata})


def check_fields(options: Any) -> None:
    """Refuse options with a field that its metadata do not admit."""
    for f in fields(options):
        value, kind = getattr(options, f.name), f.metadata
        if "choices" in kind and value not in kind["choices"]:
            msg = f"{f.name}: {value!r} is none of {kind['choices']}"
            raise ValueError(msg)
        if f.type is bool:
            check_flag(f.name, value)
        if "number" in kind and not (kind["optional"] if value is None else value == kind["word"]):
            _check_number(f.name, value, kind)


def _check_number(name, value, kind):
    is_bool = isinstance(value, bool)
    if kind["whole"]:
        if is_bool or not (isinstance(value, Integral) and value >= kind["least"]):
            least = kind["least"]
            what = f"whole number of {least} or more" if least > 1 else "positive whole number"
            msg = f"{name}: {value!r} is not a {what}"
            raise ValueError(msg)
        return
    # A quantity is converted when the common unit is known.
    has_unit = kind.get("unit", False) and hasattr(value, "to_value")
    size = without_numpy(value.value) if has_unit else value
    good = not is_bool and isinstance(size, Real) and math.isfinite(size) and size >= 0
    if not good or (size == 0 and not kind["zero"]):
        wanted = "number of 0 or more" if kind["zero"] else "positive number"
        wanted += f", or {kind['word']!r}" if kind["word"] else ""
        msg = f"{name}: {value!r} is not a {wanted}"
        raise ValueError(msg)


def without_numpy(value: Any) -> Any:
    """Return an option with the numbers of Python in place of numpy's, and lists for arrays."""
    if isinstance(value, list | tuple):
        items = [without_numpy(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value.tolist() if hasattr(value, "tolist") else value


def check_blank(blank: Any) -> None:
    """Refuse all but `None`, `False`, a number and a list of numbers."""
    values = blank if isinstance(blank, list | tuple) else [blank]
    if blank is None or blank is False:
        return
    if not values or not all(isinstance(v, Real) and not isinstance(v, bool) for v in values):
        msg = f"blank: {blank!r} is neither None, False, a number nor a list of numbers"
        raise TypeError(msg)


def check_shape(name: str, value: Any, least: int) -> tuple[int, int]:
    """Return a shape (ny, nx) as two whole numbers.

    Parameters
    ----------
    name : str
        The option, for error messages.
    value : tuple or list of int
        The shape.
    least : int
        The least number of pixels of a side.

    Raises
    ------
    TypeError, ValueError
        If the value is not such a shape.
    """
    good = isinstance(value, list | tuple) and len(value) == 2
    if not good or any(isinstance(n, bool) or not isinstance(n, Integral) for n in value):
        msg = f"{name}: {value!r}: expected two whole numbers, (ny, nx)"
        raise TypeError(msg)
    if min(value) < least:
        msg = f"{name}: {tuple(value)}: expected {least} pixels or more a side"
        raise ValueError(msg)
    return int(value[0]), int(value[1])


def hdu_choices(hdu: Any) -> str | list[int | str | tuple[str, int]]:
    """Return the choice of extensions in its normal form.

    Parameters
    ----------
    hdu : None, int, str, tuple or list
        See `~levelmatch.ReadOptions`.

    Returns
    -------
    choices : "auto", "all" or list
        Indices, names, and tuples of name and version.

    Raises
    ------
    TypeError
        If the choice has another type.
    ValueError
        If the list is empty.
    """
    if hdu is None or (isinstance(hdu, str) and hdu.strip().lower() in ("auto", "all")):
        return "auto" if hdu is None else hdu.strip().lower()
    several = isinstance(hdu, list | tuple) and not _is_versioned(hdu)
    choices = [tuple(c) if isinstance(c, list) else c for c in (hdu if several else [hdu])]
    for choice in choices:
        single = isinstance(choice, int | str) and not isinstance(choice, bool)
        if not (single or _is_versioned(choice)):
            msg = (
                f"hdu: {hdu!r} is neither 'auto', 'all', an index, a name, a name and version, "
                "nor a list of these"
            )
            raise TypeError(msg)
    if not choices:
        msg = f"hdu: {hdu!r} names no extension; name one"
        raise ValueError(msg)
    return choices


def _is_versioned(hdu):
    """Return whether a choice is a name and a version."""
    return (
        isinstance(hdu, list | tuple)
        and len(hdu) == 2
        and isinstance(hdu[0], str)
        and isinstance(hdu[1], int)
        and not isinstance(hdu[1], bool)
    )


def region_text(regions: Any) -> Any:
    """Return the text of a region file, for the record; return any other argument unchanged."""
    is_path = isinstance(regions, os.PathLike) or (isinstance(regions, str) and "(" not in regions)
    if not is_path:
        return regions
    if os.path.exists(regions):
        regular = os.path.isfile(regions)
        if not regular or os.path.getsize(regions) > MOST_TEXT:
            why = f"it is larger than {MOST_TEXT} bytes" if regular else "it is not a regular file"
            msg = f"regions: {regions} cannot be read: {why}"
            raise ValueError(msg)
    try:
        with open(regions, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"regions: {regions} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ValueError(msg) from error


def check_keyword(name: str, value: Any) -> None:
    """Check that a value is `None` or a FITS keyword without a meaning of its own."""
    if value is None:
        return
    good = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,8}", value)
    if not good:
        msg = f"{name}: {value!r} is not a header keyword of 1 to 8 letters, digits, - and _"
        raise ValueError(msg)
    if RESERVED.fullmatch(value.upper()):
        msg = f"{name}: {value!r} has another meaning in FITS headers; name another keyword"
        raise ValueError(msg)
