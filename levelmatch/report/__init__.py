# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A result in words, numbers and pictures: one page of HTML that stands by itself."""

from levelmatch.facts import decimals, fixed, has_slopes, label_names, notes, summary_lines
from levelmatch.report.page import make_page, write_report

__all__ = [
    "decimals",
    "fixed",
    "has_slopes",
    "label_names",
    "make_page",
    "notes",
    "summary_lines",
    "write_report",
]
