# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Roles of images in the fit."""

__all__ = ["EXCLUDE", "HOLD"]

# Held at a level; corrected without influence on the others.
HOLD, EXCLUDE = "hold", "exclude"
