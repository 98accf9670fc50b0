# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that the files of a release agree."""

import configparser
import re
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]

if not (ROOT / "setup.cfg").exists():
    pytest.skip("the source tree is not beside the tests", allow_module_level=True)


@pytest.fixture(scope="module")
def setup():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_comes_from_tags(setup, pyproject):
    assert "version" not in setup["metadata"]
    assert any(r.startswith("setuptools-scm") for r in pyproject["build-system"]["requires"])
    # Versions of a release, of a state after a tag, and of a copy without tags.
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?(\.dev\d+)?(\+.*)?", version("levelmatch"))
    assert not version("levelmatch").startswith("0.0")


def test_versions_of_python_agree(setup, pyproject):
    """The classifiers, tox, the wheels and the workflows name the same versions."""
    named = re.findall(r"Python :: (3\.\d+)\n", setup["metadata"]["classifiers"] + "\n")
    assert named == ["3.11", "3.12", "3.13", "3.14"]
    assert setup["options"]["python_requires"] == f">={named[0]}"
    short = [name.replace(".", "") for name in named]
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    assert f"py{{{','.join(short)}}}-test" in tox
    assert pyproject["tool"]["cibuildwheel"]["build"].split() == [f"cp{v}-*" for v in short]
    tests = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    assert set(re.findall(r'python: "(3\.\d+)"', tests)) == set(named)


WORKFLOWS = ("tests", "docs", "weekly", "wheels")


@pytest.mark.parametrize(
    "name",
    [
        *(f".github/workflows/{name}.yml" for name in WORKFLOWS),
        ".github/dependabot.yml",
        ".readthedocs.yaml",
        ".pre-commit-config.yaml",
        "CITATION.cff",
    ],
)
def test_files_of_services_can_be_read(name):
    content = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    assert content


def test_environments_of_the_workflows_exist(pyproject):
    """Each environment named by a workflow is defined in tox.ini."""
    tox = configparser.RawConfigParser()
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    known = {section.removeprefix("testenv:") for section in tox.sections()}
    factors = {"test", "oldestdeps", "alldeps", "devdeps"}
    text = "".join(
        (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
        for name in WORKFLOWS
    )
    used = re.findall(r"toxenv: ([\w-]+)|tox -e ([\w-]+)", text)
    names = {a or b for a, b in used}
    assert len(names) > 8
    for name in names:
        parts = {part for part in name.split("-") if not re.fullmatch(r"py3\d+", part)}
        assert name in known or parts <= factors, name


def test_the_citation_and_the_notes_name_one_release(pyproject):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pyproject["tool"]["towncrier"]["version"]
    recipe = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8")
    assert f'{{% set version = "{citation["version"]}" %}}' in recipe


def test_the_recipe_has_the_dependencies_of_the_package(setup):
    recipe = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8")
    run = recipe.partition("  run:\n")[2].partition("\ntest:")[0]
    # conda distributes two packages without their optional dependencies, and a C library as xxhash.
    other = {"astropy": "astropy-base", "dask": "dask-core", "xxhash": "python-xxhash"}
    wanted = setup["options"]["install_requires"].strip().replace(">=", " >=")
    for line in wanted.splitlines():
        name, floor = line.split(" ")
        assert f"- {other.get(name, name)} {floor}\n" in f"{run}\n"


def test_links_of_the_package():
    found = dict(line.split(", ", 1) for line in metadata("levelmatch").get_all("Project-URL"))
    assert {"Documentation", "Source", "Issues", "Changelog"} <= set(found)
    assert all(url.startswith("https://") for url in found.values())


def test_pictures_of_the_readme_show_on_a_package_index():
    """The page of a package index has no access to other files."""
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    pictures = re.findall(r"\.\. (?:image|figure):: (\S+)", text)
    assert pictures
    for url in pictures:
        assert url.startswith("https://")
        assert (ROOT / url.partition("/main/")[2]).is_file()


def test_messages_of_the_troubleshooting_page_exist():
    """Each message on the page is a message of the package."""
    page = (ROOT / "docs" / "user_guide" / "troubleshooting.rst").read_text(encoding="utf-8")
    source = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "levelmatch").rglob("*.py"))
    )
    # Adjacent literals form one text.
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    heads = re.findall(r"^(``.*)$", page, re.M)
    messages = [m for head in heads for m in re.findall(r"``([^`]+)``", head)]
    assert len(messages) > 18
    for message in messages:
        for part in message.replace("--", "").split("..."):
            if words := part.strip(" ':"):
                assert words in source, message
