# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images of any input as frames: their headers, positions on the sky, units and pixels."""
