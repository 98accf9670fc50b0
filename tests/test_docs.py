# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Every block of Python in the README and the documentation runs, and shows what it says."""

import configparser
import doctest
import importlib
import re
import runpy
import textwrap
import tomllib
from pathlib import Path

import pytest

from levelmatch.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.rst", *(ROOT / "docs").rglob("*.rst")])
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:(?: +.*)?\n)+)", re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page):
    """Return the first line and the text of each block of Python of a page."""
    text = page.read_text(encoding="utf-8") + "\n"
    return [(text[: m.start(1)].count("\n"), textwrap.dedent(m[1])) for m in BLOCK.finditer(text)]


def run_block(source, names, page, line):
    """Run a block: a session with prompts is compared with its output, a script just runs."""
    if ">>>" not in source:
        exec(compile("\n" * line + source, str(page), "exec"), names)
        return
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    test = doctest.DocTestParser().get_doctest(source, names, page.name, str(page), line)
    report = []
    runner.run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_page(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for line, source in blocks(page):
        run_block(source, names, page, line)


def test_pages_have_blocks():
    assert sum(len(blocks(page)) for page in PAGES) > 20


def test_first_screen():
    """The two commands of the README, which .ci/run takes from it."""
    lines = (ROOT / "README.rst").read_text(encoding="utf-8").splitlines()
    commands = [line.strip() for line in lines if line.startswith("    python3 -m venv ")]
    assert len(commands) == 2
    assert commands[0].endswith("levelmatch demo levelmatch-demo")
    assert commands[1].endswith("tox -e test")


def test_oldest_dependencies():
    """The releases that tox pins are the lower bounds that users are told."""
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


def test_every_public_name_is_in_the_reference():
    """Three modules are there whole; of the report each name."""
    text = (ROOT / "docs" / "reference" / "index.rst").read_text(encoding="utf-8")
    for module in ("levelmatch", "levelmatch.testing", "levelmatch.plots"):
        assert re.search(rf"^\.\. automodapi:: {module}$", text, re.MULTILINE)
    for name in importlib.import_module("levelmatch.report").__all__:
        found = rf"^\.\. autofunction:: levelmatch\.report\.{name}$"
        assert re.search(found, text, re.MULTILINE), name


def test_every_command_is_in_the_reference():
    text = (ROOT / "docs" / "reference" / "cli.rst").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.\. command-help:: (\w+)$", text, re.MULTILINE)) == set(main.commands)


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
