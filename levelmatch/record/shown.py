# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tables of results as they are printed: the first columns, with the digits of their errors."""

import shutil
from collections.abc import Mapping
from textwrap import wrap

import numpy as np
from astropy.table import QTable

from levelmatch.text import SHORT_NAME, decimals, short_names, values

__all__ = ["LevelTable", "set_formats", "with_short_names"]

# Numbers with more decimals than this are printed with a power of ten.
MAX_DECIMALS = 7
# Columns up to the last of these are shown, with short names if necessary.
NEEDED = "error", "n_sigma", "closure"
# Maximum number of characters of other text.
MAX_TEXT = 36


class LevelTable(QTable):
    """A `~astropy.table.QTable` whose text shows as many of its first columns as fit.

    The text of other tables lacks the columns in the middle where not all fit. Names of images
    are shortened where the numbers would not fit, with the pattern of the names below.
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
    """Return the number of columns up to the numbers of interest."""
    return max([names.index(name) + 1 for name in NEEDED if name in names], default=1)


def _first_columns(table: QTable, width: int) -> tuple[int, list[str]]:
    """Return the number of first columns that fit, at least one, and their lines."""
    names, lines, n = table.colnames, [], 1
    for n in range(len(names), 0, -1):
        part = QTable(table[names[:n]], copy=False)
        lines = part.pformat(max_lines=None, max_width=-1)
        if max(map(len, lines)) <= width:
            break
    return n, lines


def with_short_names(table: QTable) -> tuple[QTable, list[str]]:
    """Return a table with short names, and notes on the patterns of the names."""
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
        short["images"] = [_cut(str(value)) for value in table["images"]]
    return short, notes


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}\u2026"


def set_formats(table: QTable, of: Mapping[str, str | int]) -> None:
    """Set the formats of columns, in place.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The table.
    of : mapping
        For each column the column of its errors, whose digits decide, or a number of decimals.
        Columns that the table lacks are ignored.
    """
    for name, by in of.items():
        if name not in table.colnames or len(table) == 0:
            continue
        digits = by if isinstance(by, int) else decimals(_small(values(table[by])))
        table[name].info.format = f".{max(digits, 0)}f" if digits <= MAX_DECIMALS else ".4g"


def _small(errors: np.ndarray) -> list[float]:
    """Return a small error: errors of pairs differ by much."""
    good = errors[np.isfinite(errors) & (errors > 0)]
    return [float(np.percentile(good, 10))] if len(good) else []
