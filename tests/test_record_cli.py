# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The commands that take a record: what they print, and what they refuse."""

import pytest
from click.testing import CliRunner

import levelmatch as lm
from levelmatch.cli import main
from levelmatch.testing import simulate_generic


@pytest.fixture(scope="module")
def matched(tmp_path_factory):
    """The inputs and the record of a run."""
    folder = tmp_path_factory.mktemp("run")
    simulated = simulate_generic(n_images=4, shape=(64, 64), noise=0.1, stars=False)
    paths = simulated.write(folder / "raw")
    lm.match_levels(paths, group_by="FILENAME").write(folder / "matched")
    return paths, folder / "matched" / "levelmatch.asdf"


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="levelmatch")


def assert_refused(done, words):
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert words in line


def test_the_record_of_images_is_not_replaced(matched):
    _, record = matched
    before = record.read_bytes()
    done = run("solve", record, "-o", record, "--overwrite")
    assert_refused(done, "levelmatch.asdf is RECORD, which the corrected images name; name another")
    assert record.read_bytes() == before


def test_solve(matched, tmp_path):
    done = run("solve", matched[1], "-o", tmp_path / "new.asdf", "--reference", "1")
    assert done.exit_code == 0, done.output
    assert "Reference: image_00001.fits, named by the user." in done.stdout
