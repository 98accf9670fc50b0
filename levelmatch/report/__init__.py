# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Report on a result: one self-contained HTML page with text, tables and pictures."""

from levelmatch.report.page import write_report

__all__ = ["write_report"]
