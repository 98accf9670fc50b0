# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Text as HTML; all names and values of a report use these functions."""

import re
from html import escape

import numpy as np

from levelmatch.text import fixed

__all__ = ["items", "number", "safe"]

DASH = "\u2013"


def safe(text):
    """Return text escaped for an element or a quoted attribute.

    Lone surrogates, which UTF-8 cannot encode, control characters and marks of writing direction
    become replacement characters.
    """
    return escape("".join(c if c.isprintable() else "\ufffd" for c in str(text)), quote=True)


def items(lines):
    """Return sentences as an HTML list."""
    return "<ul>\n" + "\n".join(f"<li>{safe(_minus(line))}</li>" for line in lines) + "\n</ul>"


def _minus(line):
    """Return a sentence with minus signs before numbers; names keep their hyphens."""
    return re.sub(r"(?<!\S)-(?=\d)", "\u2212", line)


def number(value, digits):
    """Return a number with a given number of decimals and a minus sign; a dash if not finite."""
    return fixed(value, digits).replace("-", "\u2212") if np.isfinite(value) else DASH
