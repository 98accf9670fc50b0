# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Numbers and names as text."""

import os
import re

import numpy as np

__all__ = [
    "as_text",
    "capitalised",
    "count",
    "decimals",
    "fixed",
    "label_names",
    "list_names",
    "short_names",
    "values",
]

# Largest number of characters of a name that stays whole, and target length of longer names.
SHORT_NAME = 13


def values(column):
    """Return the numbers of a column, with or without a unit, as floats."""
    return np.asarray(getattr(column, "value", column), dtype=float)


def as_text(name):
    """Return the name of a file as UTF-8, with its other bytes escaped."""
    return str(name).encode(errors="backslashreplace").decode()


def capitalised(words):
    """Return words with a capital first letter."""
    return words[:1].upper() + words[1:]


def count(n, noun):
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def label_names(names):
    """Shorten names by their common beginning and end.

    Parameters
    ----------
    names : list of str
        The names.

    Returns
    -------
    short : list of str
        The remaining middles of the names.
    pattern : str
        The common beginning and end, with ``*`` between them; empty if names stay whole.
    """
    head, tail = _common_ends(names)
    if not head and not tail:
        return list(names), ""
    return [name[len(head) : len(name) - len(tail)] for name in names], f"{head}*{tail}"


def _common_ends(names):
    """Return the common beginning and end of names, cut at separators to keep numbers whole."""
    head, tail = _alike(names)
    head = head[: max(head.rfind(c) for c in "_-. ") + 1]
    cuts = [i for i in (tail.find(c) for c in "_-. ") if i >= 0]
    tail = tail[min(cuts) :] if cuts else ""
    if len(set(names)) < 2 or min(len(name) for name in names) <= len(head) + len(tail):
        return "", ""
    return head, tail


def _alike(texts):
    """Return the common beginning and end of texts."""
    return os.path.commonprefix(texts), os.path.commonprefix([t[::-1] for t in texts])[::-1]


def short_names(names, width=None):
    """Shorten names by all pieces that they have in common, at any position.

    Parameters
    ----------
    names : list of str
        The names.
    width : int or None
        Target length. Names of at most this length stay whole. Longer names also lose common
        characters within numbers, and then their first pieces, as long as the names remain
        different.

    Returns
    -------
    short : list of str
        The differing pieces, with an ellipsis for each omission.
    pattern : str
        The common pieces, with ``*`` for each differing piece; empty if names stay whole.
    """
    if width is not None and max(map(len, names), default=0) <= width:
        return list(names), ""
    head, tail = _common_ends(names)
    short = [name[len(head) : len(name) - len(tail)] for name in names]
    pattern = f"{head}*{tail}" if head or tail else ""
    rows = [re.split(r"([_.-])", name) for name in short]
    if len({len(row) for row in rows}) > 1:
        rows = [[name] for name in short]
    columns = list(zip(*rows, strict=True))
    # Shorten in steps until the names fit.
    tries = [(0, 0), (1, 0), *((2, k) for k in range(0, len(columns), 2))]
    for closer, start in tries:
        if closer and (width is None or max(len(name) for name in short) <= width):
            break
        cut, middle = _without_common(columns, closer, start)
        if len(set(cut)) == len(set(names)) > 1 and cut != short:
            short, pattern = cut, f"{head}{middle}{tail}"
    return short, pattern


def _without_common(columns, closer, start):
    """Return names without their common pieces, and the pattern of the names.

    If ``closer`` is 1, differing pieces lose their common beginning, up to the zeros of a
    number. If it is 2, they lose the whole common beginning and end. Pieces before the column
    ``start`` are omitted.
    """
    kept, pattern = [], ""
    for k, column in enumerate(columns):
        separator = k % 2 == 1
        # A separator is omitted if the piece after it is.
        alike = len(set(columns[k + separator] if k + separator < len(columns) else column)) == 1
        begin = end = ""
        out = alike or k < start
        if not out and not separator and closer:
            begin, end = _alike(column)
            least = min(len(part) for part in column)
            begin = begin[: max(least - 1, 0)]
            if closer == 1:
                begin = begin.rstrip("0")
            end = end[max(len(end) - max(least - 1 - len(begin), 0), 0) :] if closer > 1 else ""
        pattern += column[0] if alike or separator else f"{begin}*{end}"
        kept.append(["\0" if out else part[len(begin) : len(part) - len(end)] for part in column])
    cut = ["".join(parts) for parts in zip(*kept, strict=True)]
    return [re.sub("\0+[_-]?", "\u2026", name).lstrip("\u2026") for name in cut], pattern


# Largest number of decimals, and smallest power of ten, for numbers without exponent.
MAX_DECIMALS, MAX_DIGITS = 7, 9


def decimals(errors, percent=50):
    """Return the number of decimals that shows a percentile of errors with two digits.

    Parameters
    ----------
    errors : array-like of float
        The errors. Only positive and finite errors are used.
    percent : float
        The percentile; by default the median.

    Returns
    -------
    digits : int
        Number of decimals; negative if two digits end before the decimal point, and 4 without
        any error.
    """
    errors = np.asarray(errors, dtype=float)
    errors = errors[np.isfinite(errors) & (errors > 0)]
    if len(errors) == 0:
        return 4
    return int(1 - np.floor(np.log10(np.percentile(errors, percent))))


def fixed(value, digits):
    """Return a number as text with a number of decimals; a rounded zero has no sign.

    Very small and very large numbers are written with a power of ten, rounded at the same
    decimal.
    """
    value = float(value)
    if not np.isfinite(value):
        return str(value)
    rounded = round(value, digits) if digits > 0 else value
    size = int(np.floor(np.log10(abs(rounded)))) if rounded else 0
    if digits > MAX_DECIMALS or size >= MAX_DIGITS:
        if rounded == 0 or size + digits < 0:
            return "0"
        return f"{value:.{size + digits}e}"
    # Adding zero makes a negative zero positive.
    text = f"{value:.{max(digits, 0)}f}"
    return f"{float(text) + 0.0:.{max(digits, 0)}f}"


def list_names(names, most=5):
    """Return the first names joined by commas, and the number of further names."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
