# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the documentation: all examples are tests, and all names are documented."""

import configparser
import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import runpy
import textwrap
import tomllib
from pathlib import Path

import pytest

import levelmatch
from levelmatch.cli import main

ROOT = Path(__file__).parents[1]
FOLDERS = {"_build", "api", "gallery"}
PAGES = [
    page
    for page in sorted([*ROOT.glob("*.rst"), *(ROOT / "docs").rglob("*.rst")])
    if not FOLDERS & set(page.relative_to(ROOT).parts)
]
BLOCK = re.compile(r"^( *)\.\. code-block:: (?:python|pycon)\n\n((?:(?:\1 +.*)?\n)+)", re.MULTILINE)
SKIPPED = re.compile(r"^\.\. doctest-skip::\n\n((?:(?: +.*)?\n)+)", re.MULTILINE)


def untested_lines(text):
    """Return the first line of each block of Python that is neither a doctest nor skipped."""
    blocks = [textwrap.dedent(m[2]).strip() for m in BLOCK.finditer(SKIPPED.sub("", text + "\n"))]
    chunks = [chunk for block in blocks for chunk in block.split("\n\n")]
    return [chunk.split("\n")[0] for chunk in chunks if not chunk.startswith(">>> ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_is_a_doctest(page):
    assert untested_lines(page.read_text(encoding="utf-8")) == []


def test_untested_examples_are_found():
    script = ".. code-block:: python\n\n   x = 1\n"
    session = ".. code-block:: python\n\n   >>> x = 1\n   >>> x\n   1\n\n   y = 2\n"
    skipped = ".. doctest-skip::\n\n" + textwrap.indent(script, "   ")
    assert untested_lines(f"{script}\n{session}\n{skipped}\nText.\n\n{script}") == [
        "x = 1",
        "y = 2",
        "x = 1",
    ]


def test_examples_are_run(pytestconfig):
    assert sum(page.read_text(encoding="utf-8").count(">>> ") for page in PAGES) > 150
    assert pytestconfig.getoption("doctest_plus")
    assert "*.rst" in pytestconfig.getoption("doctestglob")
    assert {"docs", "README.rst"} <= set(pytestconfig.getini("testpaths"))


def test_first_screen():
    """The README has the two commands that .ci/run takes from it."""
    lines = (ROOT / "README.rst").read_text(encoding="utf-8").splitlines()
    commands = [line.strip() for line in lines if line.startswith("    python3 -m venv ")]
    assert len(commands) == 2
    assert commands[0].endswith("levelmatch demo levelmatch-demo")
    assert commands[1].endswith("tox -e test")


def test_oldest_dependencies():
    """The versions pinned by tox are the lower bounds in setup.cfg."""
    setup, tox = configparser.ConfigParser(), configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg")
    tox.read(ROOT / "tox.ini")
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    bounds = dict(re.findall(r"^([\w-]+)>=([\d.]+)$", wanted, re.MULTILINE))
    pins = re.findall(r"^oldestdeps: ([\w-]+)==([\d.]+)$", tox["testenv"]["deps"], re.MULTILINE)
    assert len(bounds) > 10
    pins = {name: version for name, version in pins}
    assert pins.keys() == bounds.keys()
    for name, bound in bounds.items():
        release = bound.split(".")
        pinned = pins[name].split(".")
        assert pinned[: len(release)] == release
        assert set(pinned[len(release) :]) <= {"0"}, name


def public_modules():
    """Return the modules that users import: the package, and its modules named in the guide."""
    pages = (page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.rst"))
    sources = [*pages, (ROOT / "README.rst").read_text(encoding="utf-8")]
    form = re.compile(r"(?:from|import) (levelmatch(?:\.\w+)*)|`~?(levelmatch(?:\.\w+)+)\.\w+`")
    found = {m[1] or m[2] for text in sources for m in form.finditer(text)}
    return {name for name in found if is_module(name)} | {"levelmatch"}


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_every_public_name_is_in_the_reference():
    """Modules are documented as a whole, or by the names of their functions."""
    text = (ROOT / "docs" / "reference" / "index.rst").read_text(encoding="utf-8")
    whole = set(re.findall(r"^\.\. automodapi:: (\S+)$", text, re.MULTILINE))
    single = set(re.findall(r"^\.\. auto(?:function|class):: (\S+)$", text, re.MULTILINE))
    assert {"levelmatch", "levelmatch.jwst", "levelmatch.testing"} <= whole
    assert "levelmatch.report" in public_modules()
    for module in public_modules() - whole:
        for name in importlib.import_module(module).__all__:
            assert f"{module}.{name}" in single | {f"levelmatch.{n}" for n in levelmatch.__all__}


def documented(item):
    """Return the names of the parameters that a docstring describes."""
    text = inspect.cleandoc(item.__doc__)
    section = re.search(
        r"^(?:Parameters|Attributes)\n-+\n(.*?)(?:\n\n\S[^\n]*\n-|\Z)", text, re.S | re.M
    )
    heads = re.findall(r"^(\*{0,2}\w[\w*, ]*?)(?: : .*)?$", section[1] if section else "", re.M)
    return {word.strip("* ") for head in heads for word in head.split(",")}


def test_every_option_is_in_the_reference():
    """Each parameter of a public function, class and method stands in its docstring."""
    missing = {}
    for module in map(importlib.import_module, public_modules() - {"levelmatch.asdf"}):
        for item in (getattr(module, name) for name in module.__all__):
            if not callable(item) or (inspect.isclass(item) and issubclass(item, Exception)):
                continue
            members = inspect.getmembers(item, inspect.isfunction) if inspect.isclass(item) else ()
            own = [m for _, m in members if m.__module__.startswith("levelmatch")]
            methods = [m for m in own if not m.__name__.startswith("_")]
            for one in [item, *methods]:
                left = set(inspect.signature(one).parameters) - {"self"} - documented(one)
                if left:
                    missing[f"{one.__module__}.{one.__qualname__}"] = left
    assert missing == {}


def test_every_command_is_in_the_reference():
    """sphinx-click documents the whole command line."""
    text = (ROOT / "docs" / "reference" / "cli.rst").read_text(encoding="utf-8")
    assert re.search(
        r"^\.\. click:: levelmatch\.cli:main\n +:prog: levelmatch\n +:nested: full$",
        text,
        re.MULTILINE,
    )
    assert not any(command.hidden for command in main.commands.values())


def test_every_folder_and_module_is_on_the_map():
    text = (ROOT / "CONTRIBUTING.rst").read_text(encoding="utf-8")
    modules = list(pkgutil.iter_modules(levelmatch.__path__))
    folders = {module.name for module in modules if module.ispkg}
    assert len(folders) > 8
    assert folders == set(re.findall(r"^``(\w+)/`` ", text, re.MULTILINE)) - {
        "benchmarks",
        "docs",
        "tests",
    }
    ours = {module.name for module in modules if not module.ispkg}
    named = set(re.findall(r"^``(\w+)\.py`` ", text, re.MULTILINE))
    assert {name for name in ours if "version" not in name} - {"__main__", "setup_package"} == named


def test_places_for_new_code_exist():
    """Each file of the list exists, and holds at least one name that stands with it."""
    text = (ROOT / "CONTRIBUTING.rst").read_text(encoding="utf-8")
    # An installation holds no compiled sources.
    package = ROOT / "levelmatch"
    places = text.partition("Where to add new code:")[2].partition("How it works")[0]
    items = [re.findall(r"``([^`]+)``", item) for item in places.split("\n- ")[1:]]
    assert len(items) > 15
    for words in items:
        files = [package / word for word in words if word.endswith((".py", ".pyx", "/"))]
        assert all(file.exists() for file in files), words
        texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
        for name in (word for word in words if re.fullmatch(r"_?\w+", word)):
            assert any(re.search(rf"\b{name}\b", text) for text in texts), name


@pytest.mark.parametrize("name", ["ReadOptions", "MeasureOptions", "SolveOptions"])
def test_every_option_is_in_the_guide(name):
    """The page on options names each field with its class."""
    text = (ROOT / "docs" / "user_guide" / "options.rst").read_text(encoding="utf-8")
    calls = re.findall(rf"``{name}\(([^`]*)\)``", text)
    named = set(re.findall(r"(\w+)=", " ".join(calls)))
    fields = {field.name for field in dataclasses.fields(getattr(levelmatch, name))}
    assert fields - named == set()
    assert named - fields == set()


def test_notes_on_changes_have_a_kind():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    kinds = {kind["directory"] for kind in settings["tool"]["towncrier"]["type"]}
    notes = [p for p in (ROOT / "docs" / "changes").iterdir() if p.name != "README.rst"]
    for path in notes:
        assert re.fullmatch(rf"(\d+|\+[\w-]+)\.({'|'.join(kinds)})(\.\d+)?\.rst", path.name)
        assert path.read_text(encoding="utf-8").strip()


def test_dead_links_are_found(tmp_path):
    check = runpy.run_path(str(ROOT / "docs" / "check_links.py"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<p id="here"></p><a href="#here">1</a><a href="sub/b.html#there">2</a>'
        '<a href="sub">3</a><a href="https://astropy.org/none">4</a><img src="none.png">'
        '<a href="#nowhere">5</a>'
    )
    (tmp_path / "sub" / "b.html").write_text('<a href="../a.html">1</a><a href="../c.html">2</a>')
    n_pages, dead = check["dead_links"](tmp_path)
    assert n_pages == 2
    assert {link for _, link in dead} == {
        "sub",
        "none.png",
        "#nowhere",
        "sub/b.html#there",
        "../c.html",
    }
    assert check["main"](tmp_path) == 1
