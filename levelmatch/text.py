# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Numbers and names as text."""

import os
import re

import numpy as np

__all__ = ["count", "decimals", "fixed", "label_names", "short_names", "values"]

# Characters that a short name is to have at most, if that tells names apart.
SHORT_NAME = 13


def values(column):
    """Return the numbers of a column, with or without a unit, as floats."""
    return np.asarray(getattr(column, "value", column), dtype=float)


def count(n, noun):
    """Return a number and what it counts."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# --------------------------------------------------------------------------------------
# Numbers and names as text


def label_names(names):
    """Shorten names by what all of them have in common.

    Parameters
    ----------
    names : list of str
        The names.

    Returns
    -------
    short : list of str
        The parts that differ.
    pattern : str
        What they are parts of, ``*`` in their place; empty if nothing was left out.
    """
    head, tail = _common_ends(names)
    if not head and not tail:
        return list(names), ""
    return [name[len(head) : len(name) - len(tail)] for name in names], f"{head}*{tail}"


def _common_ends(names):
    """What all names begin and end with, cut at a separator so that numbers stay whole."""
    head, tail = _alike(names)
    head = head[: max(head.rfind(c) for c in "_-. ") + 1]
    cuts = [i for i in (tail.find(c) for c in "_-. ") if i >= 0]
    tail = tail[min(cuts) :] if cuts else ""
    if len(set(names)) < 2 or min(len(name) for name in names) <= len(head) + len(tail):
        return "", ""
    return head, tail


def _alike(texts):
    """What all texts begin and end with."""
    return os.path.commonprefix(texts), os.path.commonprefix([t[::-1] for t in texts])[::-1]


def short_names(names, width=None):
    """Shorten names by what all of them have in common, within them too.

    Parameters
    ----------
    names : list of str
        The names.
    width : int or None
        Where the longest has more characters, what its parts have in common is left out too,
        in the middle of numbers, and then the first parts, if those after them tell names apart.

    Returns
    -------
    short : list of str
        The parts that differ, with an ellipsis where something in common was left out.
    pattern : str
        What they are parts of, ``*`` in place of each; empty if nothing was left out.
    """
    head, tail = _common_ends(names)
    short = [name[len(head) : len(name) - len(tail)] for name in names]
    pattern = f"{head}*{tail}" if head or tail else ""
    rows = [re.split(r"([_.-])", name) for name in short]
    if len({len(row) for row in rows}) > 1:
        rows = [[name] for name in short]
    columns = list(zip(*rows, strict=True))
    # As little is left out as fits.
    tries = [(False, 0), *((True, k) for k in range(0, len(columns), 2))]
    for closer, start in tries:
        if closer and (width is None or max(len(name) for name in short) <= width):
            break
        cut, middle = _without_common(columns, closer, start)
        if len(set(cut)) == len(set(names)) > 1 and cut != short:
            short, pattern = cut, f"{head}{middle}{tail}"
    return short, pattern


def _without_common(columns, closer, start):
    """Names of columns of parts, less the parts that are alike, and their pattern.

    Where ``closer``, parts that differ lose what they begin and end with in common; those
    before the column ``start`` are left out.
    """
    kept, pattern = [], ""
    for k, column in enumerate(columns):
        separator = k % 2 == 1
        # A separator goes with the part after it.
        alike = len(set(columns[k + separator] if k + separator < len(columns) else column)) == 1
        begin = end = ""
        out = alike or k < start
        if not out and not separator and closer:
            begin, end = _alike(column)
            least = min(len(part) for part in column)
            begin = begin[: max(least - 1, 0)]
            end = end[max(len(end) - max(least - 1 - len(begin), 0), 0) :]
        pattern += column[0] if alike or separator else f"{begin}*{end}"
        kept.append(["\0" if out else part[len(begin) : len(part) - len(end)] for part in column])
    cut = ["".join(parts) for parts in zip(*kept, strict=True)]
    return [re.sub("\0+[_-]?", "\u2026", name).lstrip("\u2026") for name in cut], pattern


def decimals(errors):
    """Return the decimals that show the median of errors to two digits; 4 without any."""
    errors = np.asarray(errors, dtype=float)
    errors = errors[np.isfinite(errors) & (errors > 0)]
    if len(errors) == 0:
        return 4
    return int(np.clip(1 - np.floor(np.log10(np.median(errors))), 0, 12))


def fixed(value, digits):
    """Return a number with so many decimals; a rounded zero has no sign."""
    # Adding zero makes a negative zero positive.
    return f"{round(float(value), digits) + 0.0:.{digits}f}"
