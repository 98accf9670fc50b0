# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Data models in memory, as the steps of the observatories' pipelines pass them on."""
