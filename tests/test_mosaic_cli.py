# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the command that makes a mosaic, and of completion in shells."""

import re

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from helpers import run, succeed
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.cli import main
from levelmatch.testing import simulate_generic


@pytest.fixture(scope="module")
def matched(tmp_path_factory):
    """Return the inputs and the record of a run."""
    folder = tmp_path_factory.mktemp("run")
    simulated = simulate_generic(n_images=4, shape=(64, 64), noise=0.1, stars=False)
    paths = simulated.write(folder / "raw")
    result = lm.match_mosaic(paths, group_by="FILENAME")
    result.write(folder / "matched")
    return paths, folder / "matched" / "levelmatch.asdf", result


@pytest.mark.parametrize("named", [True, False])
def test_mosaic_of_a_record(matched, tmp_path, named):
    paths, record, result = matched
    out = tmp_path / "mosaic.fits"
    done = succeed("mosaic", record, *(paths if named else []), "-o", out)
    assert done.output == f"Written: {out}\n"
    expected, coverage = lm.make_mosaic(result)
    assert_allclose(fits.getdata(out), expected.data, rtol=1e-6)
    assert_array_equal(fits.getdata(out, "COVERAGE"), coverage)


def test_options(matched, tmp_path):
    paths, record, result = matched
    out = tmp_path / "mosaic.fits"
    options = ["--combine", "median", "--like", paths[0], "--method", "interp", "--tile-size", 32]
    done = succeed("mosaic", record, "-o", out, *options, "--quiet")
    assert done.output == ""
    assert fits.getdata(out).shape == (64, 64)
    assert fits.getheader(out)["COMBINE"] == "median"
    succeed("mosaic", record, "-o", tmp_path / "coarse.fits", "--pixel-scale", 2.0)
    assert np.isclose(fits.getheader(tmp_path / "coarse.fits")["CDELT2"] * 3600, 2.0)


def test_errors(matched, tmp_path):
    paths, record, _ = matched
    out = tmp_path / "mosaic.fits"
    out.write_text("mine")
    for arguments, message in (
        ((record, "-o", out), "exists; --overwrite replaces it"),
        ((record, paths[0], "-o", tmp_path / "m.fits"), "Error: .*image_0000[1-3]"),
        ((paths[0], "-o", tmp_path / "m.fits"), "is an image, not the record of a run"),
        ((record, "-o", tmp_path / "m.fits", "--weights", "EXPTIM"), "keyword 'EXPTIM' is missing"),
        ((record, "-o", tmp_path / "m.png"), "does not end in .fits"),
    ):
        done = run("mosaic", *arguments)
        assert done.exit_code == 2, done.output
        assert re.search(message, done.output), done.output
        assert done.output.count("\n") == 1
    assert out.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["mosaic.fits"]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_has_examples_that_are_understood(name):
    """The help of each command ends with examples, whose options exist."""
    command = main.commands[name]
    text = run(name, "--help").output
    examples = re.findall(rf"^ +levelmatch {name} (.*(?:\\\n.*)?)$", text, re.MULTILINE)
    assert examples
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    for example in examples:
        assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", example)) <= options, example


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, monkeypatch):
    """The lines of the help make a script for each shell that completes commands and options."""
    assert f"_LEVELMATCH_COMPLETE={shell}_source" in run("--help").output
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)
    script = CliRunner().invoke(
        main, [], prog_name="levelmatch", env={"_LEVELMATCH_COMPLETE": f"{shell}_source"}
    )
    assert "_levelmatch_completion" in script.output
    for typed, wanted in (("lev mo", "mosaic"), ("lev mosaic --com", "--combine")):
        words = typed.replace("lev", "levelmatch")
        env = {"_LEVELMATCH_COMPLETE": f"{shell}_complete", "COMP_WORDS": words}
        env["COMP_CWORD"] = words.split()[-1] if shell == "fish" else str(len(words.split()) - 1)
        done = CliRunner().invoke(main, [], prog_name="levelmatch", env=env)
        assert wanted in done.output, done.output
