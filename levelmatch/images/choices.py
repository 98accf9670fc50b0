# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Extensions, keywords and regions that a caller names. Light to import, as the options are."""

import os
import re
from typing import Any

__all__ = ["check_keyword", "hdu_choices", "region_text"]


def hdu_choices(hdu: Any) -> str | list[int | str | tuple[str, int]]:
    """Return the choice of extensions in one form.

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
        If the choice is none of these.
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
    """Return the content of a file of regions, so that a record holds it; others unchanged."""
    is_path = isinstance(regions, os.PathLike) or (isinstance(regions, str) and "(" not in regions)
    if not is_path:
        return regions
    try:
        with open(regions, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"regions: {regions} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ValueError(msg) from error


def check_keyword(name: str, value: Any) -> None:
    """Refuse all but `None` and a FITS keyword."""
    if value is None:
        return
    good = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,8}", value)
    if not good or value.upper() in ("HISTORY", "COMMENT", "END"):
        msg = f"{name}: {value!r} is not a header keyword of 1 to 8 letters, digits, - and _"
        raise ValueError(msg)
