# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that the import is light and provides every public name."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import levelmatch

HEAVY = (
    *("matplotlib", "dask", "ccdproc", "click", "reproject", "photutils", "tqdm", "scipy.stats"),
    *("astropy_healpix", "scipy.ndimage"),
)


@pytest.mark.parametrize(
    "statement", ["import levelmatch", "from levelmatch import match_levels, MatchResult"]
)
def test_import_is_light(statement):
    assert heavy_after(statement) - heavy_after("import astropy.nddata") == set()


def heavy_after(statement):
    """Return the heavy packages that a statement imports in a new process, without Dask."""
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


def test_dir_shows_public_names_alone():
    code = """
import levelmatch
levelmatch.match_levels
from levelmatch.record import record
print(*dir(levelmatch))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = ["plots", "report", "testing"]
    assert done.stdout.split() == sorted([*levelmatch.__all__, *packages, "__version__"])


@pytest.mark.parametrize("name", ["plots", "report", "testing"])
def test_subpackages_resolve_at_first_use(name):
    code = f"import levelmatch; print(levelmatch.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"levelmatch.{name}"


def test_type_checkers_see_the_public_names():
    """The stub imports each name from the module in which the package finds it."""
    stub = ast.parse(Path(levelmatch.__file__).with_name("__init__.pyi").read_text())
    found = {
        alias.asname: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    packages = {name for name in dir(levelmatch) if name not in levelmatch.__all__}
    assert found == {
        **{name: (getattr(levelmatch, name).__module__, name) for name in levelmatch.__all__},
        **{name: ("levelmatch", name) for name in packages - {"__version__"}},
    }
    assert Path(levelmatch.__file__).with_name("py.typed").exists()


def test_a_source_tree_that_is_not_compiled_says_so(tmp_path):
    package = tmp_path / "levelmatch"
    (package / "images").mkdir(parents=True)
    shutil.copy(levelmatch.__file__, package)
    (package / "images" / "_decode.pyx").touch()
    code = "import levelmatch"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"ImportError: levelmatch is not compiled: run 'pip install -e .' in {tmp_path}"


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'levelmatch' has no attribute 'match_stars'"):
        levelmatch.match_stars  # noqa: B018
