# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Positions on the sphere, footprints and overlaps."""
