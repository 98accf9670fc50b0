# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A result in words, numbers and pictures: one page of HTML that stands by itself."""

from levelmatch.report.page import write_report

__all__ = ["write_report"]
