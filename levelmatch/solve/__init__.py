# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve for the corrections, one pass after another."""
