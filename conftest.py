# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fixtures of the documentation's doctests."""

import pytest


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(request, tmp_path, monkeypatch):
    """Run each page in an empty folder, so that it may write files."""
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
