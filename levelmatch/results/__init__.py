# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The corrected images, their tables and headers."""
