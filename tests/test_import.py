# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Importing the package is light, and gives every public name."""

import subprocess
import sys

import pytest

import levelmatch

HEAVY = ("matplotlib", "dask", "ccdproc", "click", "reproject", "photutils", "tqdm", "scipy.stats")


@pytest.mark.parametrize(
    "statement", ["import levelmatch", "from levelmatch import match_levels, MatchResult"]
)
def test_import_is_light(statement):
    assert heavy_after(statement) - heavy_after("import astropy.nddata") == set()


def heavy_after(statement):
    """Heavy packages that a statement imports in a new process; some astropys bring Dask."""
    code = f"{statement}; import sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_public_names():
    assert levelmatch.__all__ == sorted(levelmatch.__all__)
    for name in levelmatch.__all__:
        value = getattr(levelmatch, name)
        assert value.__doc__
        assert value.__module__.startswith("levelmatch.")
    assert set(levelmatch.__all__) <= set(dir(levelmatch))
    assert levelmatch.__version__


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'levelmatch' has no attribute 'match_stars'"):
        levelmatch.match_stars  # noqa: B018
