# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Steps of the JWST and Roman pipelines, for data models in memory."""
