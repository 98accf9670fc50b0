# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Text as HTML: every name and value of a page goes through here."""

import re
from html import escape

import numpy as np

from levelmatch.text import fixed

__all__ = ["dashed", "items", "number", "safe"]

DASH = "\u2013"


def safe(text):
    """Return text for an element or an attribute in quotes; what has no sign, as a sign for it.

    Among them are lone surrogates, which are no UTF-8, and signs that turn the order of others.
    """
    return escape("".join(c if c.isprintable() else "\ufffd" for c in str(text)), quote=True)


def items(lines):
    """Return a list of sentences."""
    return "<ul>\n" + "\n".join(f"<li>{safe(_minus(line))}</li>" for line in lines) + "\n</ul>"


def _minus(line):
    """Return a sentence with a proper minus before its numbers; names keep their hyphens."""
    return re.sub(r"(?<!\S)-(?=\d)", "\u2212", line)


def number(value, digits):
    """Return a number with so many decimals, its minus a proper one; a dash where there is none."""
    return fixed(value, digits).replace("-", "\u2212") if np.isfinite(value) else DASH


def dashed(text):
    """Return text, or a dash for none."""
    return str(text) if str(text) else DASH
