# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tables of results that print their first columns, with the digits of the errors."""

import shutil
from collections.abc import Mapping
from textwrap import wrap

from astropy.table import QTable

from levelmatch.text import SHORT_NAME, decimals, short_names, values

__all__ = ["LevelTable", "set_formats", "with_short_names"]

# Largest number of decimals. Smaller numbers are printed with a power of ten.
MAX_DECIMALS = 7
# Columns that must be shown. If they do not fit, names of images are shortened.
NEEDED = "error", "n_sigma", "closure"
# Largest number of characters in the column of images of a loop.
MAX_TEXT = 36


class LevelTable(QTable):
    """A `~astropy.table.QTable` that prints as many of its first columns as fit.

    Other tables omit columns in the middle. If important columns do not fit, names of images are
    shortened, and their pattern is printed below.
    """

    def __str__(self) -> str:
        """Return the first columns as text, and the names of the others."""
        if not self.colnames:
            return ""
        width = shutil.get_terminal_size().columns
        n, lines = _first_columns(self, width)
        notes: list[str] = []
        if n < _n_needed(self.colnames):
            short, notes = with_short_names(self)
            n, lines = _first_columns(short, width)
        rest = ", ".join(self.colnames[n:])
        notes += [f"Columns not shown: {rest}"] if rest else []
        return "\n".join([*lines, *(line for note in notes for line in wrap(note, width))])


def _n_needed(names: list[str]) -> int:
    """Return the number of columns up to the last needed column."""
    return max([names.index(name) + 1 for name in NEEDED if name in names], default=1)


def _first_columns(table: QTable, width: int) -> tuple[int, list[str]]:
    """Return the number of first columns that fit, at least one, and their printed lines."""
    names, lines, n = table.colnames, [], 1
    for n in range(len(names), 0, -1):
        shown = QTable(table[names[:n]], copy=False)
        lines = shown.pformat(max_lines=None, max_width=-1)
        if max(map(len, lines)) <= width:
            break
    return n, lines


def with_short_names(table: QTable) -> tuple[QTable, list[str]]:
    """Return a table with shortened names, and notes with the patterns of the names."""
    short, notes = QTable(table, copy=True), []
    for columns in (("name", "image1", "image2"), ("tile",)):
        present = [name for name in columns if name in table.colnames]
        whole = sorted({str(value) for name in present for value in table[name]})
        cut, pattern = short_names(whole, SHORT_NAME) if whole else ([], "")
        if pattern:
            by_name = dict(zip(whole, cut, strict=True))
            for name in present:
                short[name] = [by_name[str(value)] for value in table[name]]
            notes.append(f"{' and '.join(present)}: the part * of {pattern}")
    if "images" in table.colnames:
        texts = [str(value) for value in table["images"]]
        short["images"] = [t if len(t) <= MAX_TEXT else f"{t[: MAX_TEXT - 1]}\u2026" for t in texts]
    return short, notes


def set_formats(table: QTable, of: Mapping[str, str | int]) -> None:
    """Set the formats of columns, in place.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The table.
    of : mapping
        For each column, the column of its errors, which determine the digits, or the number of
        decimals. Missing columns are ignored.
    """
    for name, by in of.items():
        if name not in table.colnames or len(table) == 0:
            continue
        digits = by if isinstance(by, int) else decimals(values(table[by]), 10)
        table[name].info.format = f".{max(digits, 0)}f" if digits <= MAX_DECIMALS else ".4g"
