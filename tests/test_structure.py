# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the structure: small modules, short functions, no import cycles."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_MODULE = 499
MAX_FUNCTION = 45


@pytest.fixture(scope="module")
def structure():
    """Return the script that measures the source tree."""
    folder = ROOT / "benchmarks"
    if not (folder.exists() and (ROOT / "levelmatch").exists()):
        pytest.skip("the source tree is not beside the tests")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("structure")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def modules(structure):
    return structure.sources(ROOT)


def test_modules_are_small(modules):
    sizes = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, (p, _) in modules.items()}
    assert {n: size for n, size in sizes.items() if size > MAX_MODULE} == {}


def test_functions_are_short(structure, modules):
    lengths = {(m, f.name): n for m, f, n in structure.functions(modules)}
    assert {place: n for place, n in lengths.items() if n > MAX_FUNCTION} == {}


def test_no_module_imports_itself_in_a_circle(structure, modules):
    assert structure.cycles(structure.imports(modules)) == []


def test_benchmarks_import_each_other_in_one_direction(structure):
    graph = structure.imports(structure.sources(ROOT / "benchmarks", "."))
    assert graph["realnoise.table"] == ["realnoise.goals", "realnoise.rows"]
    assert structure.cycles(graph) == []
    graph["realnoise.goals"].append("realnoise.rows")
    assert {"realnoise.goals", "realnoise.rows"} <= set(structure.cycles(graph))


def test_functions_have_six_keywords_beside_the_option_classes(structure, modules):
    options = {"images", "read", "measure", "solve"}
    for _, node, _ in structure.functions({"m": modules["levelmatch.matching"]}):
        if node.name.startswith(("match_", "recombine_", "combine_")):
            assert len({a.arg for a in node.args.kwonlyargs} - options) <= 6, node.name
