# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The record of a run in an ASDF file."""
