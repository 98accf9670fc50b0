# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure the differences of overlapping images."""
