# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The record as an object of ASDF: its tag, schema and manifest."""
