# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the command line: outputs, printed lines and refusals."""

import html
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path

import click
import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from helpers import assert_refused

from levelmatch import LevelMatchWarning, __version__, cli, options as package
from levelmatch.cli import errors, flags, options, run_command
from levelmatch.record.record_files import read_record
from levelmatch.report.page import make_page
from levelmatch.testing import level_errors, simulate_generic

N = 4


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return a row of images as files, and their truth."""
    sim = simulate_generic(n_images=N, shape=(64, 64), layout="chain", overlap=0.4, seed=3)
    return sim.write(tmp_path_factory.mktemp("raw")), sim.truth


@pytest.fixture
def files(simulated):
    return [str(path) for path in simulated[0]]


@pytest.fixture
def run():
    """Run a command in this process and return its result."""
    runner = CliRunner()

    def call(*args):
        return runner.invoke(cli.main, [str(arg) for arg in args])

    return call


def listing(folder):
    return sorted(path.name for path in Path(folder).iterdir())


CLASSES = (package.ReadOptions, package.MeasureOptions, package.SolveOptions)


def test_every_field_is_a_flag():
    """Each field of an option class has a flag with its name, default and choices."""
    params = {p.name: p for p in cli.run.params}
    for cls in CLASSES:
        for f in fields(cls):
            if f.name in ("extend", "checkpoint", "stacked"):
                continue
            # Footprints are written by --regions, which is another option.
            name = "ignore_regions" if f.name == "regions" else f.name
            param = params[name]
            assert f"--{name.replace('_', '-')}" in param.opts
            assert (
                param.multiple
                if f.default is None and param.multiple
                else param.default == f.default
            )
            assert param.help
            if "choices" in f.metadata:
                assert list(param.type.values.values()) == list(f.metadata["choices"])


@dataclass(frozen=True, kw_only=True)
class Later:
    """Options of a later release.

    Parameters
    ----------
    pixel_area : {"auto", True, False}
        Scale by ``pixel_area``, or not (`False`), e.g. for counts. By default it depends.
    blank : float, str or None
        Value of pixels without data.
    depth, width : int
        Numbers. They are positive.
    loud : bool
        Say more.

    Notes
    -----
    Not a field : of the class.
    """

    pixel_area: str | bool = field(default="auto", metadata={"choices": ("auto", True, False)})
    blank: float | str | None = None
    depth: int | None = 3
    width: int = 4
    loud: bool = False


def later_command():
    seen = {}

    def spy(**values):
        seen.update(values)

    command = click.command(cls=flags.GroupedCommand)(
        options.add_options(flags.flags_of(Later))(spy)
    )
    return command, seen


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        ([], "pixel_area", "auto"),
        (["--pixel-area", "true"], "pixel_area", True),
        (["--pixel-area", "false"], "pixel_area", False),
        ([], "blank", None),
        (["--blank", "none"], "blank", None),
        (["--blank", "-999"], "blank", -999.0),
        (["--blank", "edge"], "blank", "edge"),
        ([], "depth", 3),
        (["--depth", "none"], "depth", None),
        (["--depth", "7"], "depth", 7),
        (["--loud"], "loud", True),
    ],
)
def test_a_new_field_becomes_a_flag(monkeypatch, args, name, value):
    monkeypatch.setattr(flags, "CLASSES", (*flags.CLASSES, Later))
    command, seen = later_command()
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output
    assert seen[name] == value
    assert type(seen[name]) is type(value)


def test_the_help_of_a_new_field(monkeypatch):
    monkeypatch.setattr(flags, "CLASSES", (*flags.CLASSES, Later))
    text = " ".join(CliRunner().invoke(later_command()[0], ["--help"]).output.split())
    assert "File options: --pixel-area [auto|true|false]" in text
    assert "Scale by --pixel-area, or not (false), e.g. for counts. [default: auto]" in text
    assert "By default it depends" not in text
    assert "--width INTEGER Numbers. [default: 4]" in text
    assert "Not a field" not in text


def test_values_that_a_new_field_does_not_take(monkeypatch):
    monkeypatch.setattr(flags, "CLASSES", (*flags.CLASSES, Later))
    command, _ = later_command()
    for args, words in (
        (["--pixel-area", "True"], "'True' is not one of"),
        (["--width", "none"], "'none' is not a valid integer"),
        (["--depth", "x"], "'x' is not a valid integer"),
    ):
        result = CliRunner().invoke(command, args)
        assert result.exit_code == 2
        assert words in result.output


def test_help_shows_options_in_groups(run):
    lines = run("run", "--help").stdout.splitlines()
    heads = [line for line in lines if line.endswith(" options:")]
    assert heads == ["Common options:", "JWST options:", "File options:", "Statistics options:"]
    place = {name: k for k, line in enumerate(lines) for name in heads if line == name}
    at = {w: k for k, line in enumerate(lines) for w in line.split()[:1] if w.startswith("--")}
    assert place["Common options:"] < at["--reference"] < place["JWST options:"]
    assert place["JWST options:"] < at["--recombine-lyot"] < place["File options:"]
    assert place["File options:"] < at["--dq-bits"] < place["Statistics options:"] < at["--clip"]


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        (
            "min_area: -1 is not a number",
            "--min-area: -1 is not a number",
        ),
        ("clip: 0 is not", "--clip: 0 is not"),
        ("a.fits: matched; rematch=True is", "a.fits: matched; --rematch is"),
        ("give read=ReadOptions(rematch=True)", "give --rematch"),
        ("say ReadOptions(hdu=('SCI', n))", "say --hdu SCI,n"),
        ("use group_by='FILENAME'", "use --group-by FILENAME"),
        ("under 0.3 of the side (min_linear)", "under 0.3 of the side (--min-linear)"),
        ("extension by hdu", "extension by --hdu"),
        ("images; flux_scale brings them", "images; --flux-scale brings them"),
        ("sets (see max_pairs)", "sets (see --max-pairs)"),
        # Names of files and ordinary words are not replaced.
        ("min_area_1.fits: no WCS", "min_area_1.fits: no WCS"),
        ("flux_scale.fits: no WCS", "flux_scale.fits: no WCS"),
        (
            "the weights of the reference and the floor",
            "the weights of the reference and the floor",
        ),
    ],
)
def test_messages_name_the_flags(text, spelt):
    assert errors.spell(text) == spelt


def test_run_writes_corrected_images(run, simulated, files, tmp_path):
    out = tmp_path / "new" / "matched"
    result = run("run", *files, "-o", out)
    assert result.exit_code == 0, result.output
    assert listing(out) == [*(Path(f).name for f in files), "levelmatch.asdf"]
    before = [fits.getdata(f, "SCI") for f in files]
    after = [fits.getdata(out / Path(f).name, "SCI") for f in files]
    found = [np.mean(b - a) for b, a in zip(before, after, strict=True)]
    assert np.abs(level_errors(found, simulated[1]).value).max() < 0.2
    assert np.abs(level_errors(np.zeros(N), simulated[1]).value).max() > 1


def test_run_prints_table_and_summary(run, files, tmp_path):
    out = tmp_path / "matched"
    result = run("run", *files, "-o", out, "--reference", Path(files[1]).name)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["name", "level", "(MJy/sr)", "pairs"]
    words = lines[2].split()
    assert words[0] == "image_00001.fits"
    assert (float(words[1]), words[2], float(words[3]), words[4]) == (0, "+-", 0, "2*")
    assert f"{N} images in {N} tiles, 3 of 3 pairs kept." in lines
    assert "Reference: image_00001.fits, named by the user." in lines
    assert lines[-1] == f"Written: {N} images to {out}{os.sep}"
    assert result.stderr == ""
    assert max(map(len, lines[:5])) <= 80


def test_the_headline_ends_the_summary(run, tmp_path):
    paths = simulate_generic(n_images=4, shape=(64, 64), seed=3).write(tmp_path / "raw")
    result = run("run", *paths, "-o", tmp_path / "out")
    *_, first, written = result.stdout.splitlines()
    assert " before matching, " in first
    assert first.endswith("at worst), after.")
    assert written.startswith("Written: 4 images")
    assert first in run("show", tmp_path / "out").stdout.splitlines()


def test_warnings_of_a_run_are_kept(run, files, tmp_path):
    """A warning of a run is in its record, in `show` and in the report."""
    out = tmp_path / "out"
    result = run("run", *files, "-o", out, "--combine-nircam-short")
    words = "combine_nircam_short: no image is of NIRCam's short-wavelength chips"
    spelt = words.replace("combine_nircam_short", "--combine-nircam-short")
    assert f"Warning: {spelt}" in result.stderr
    assert words not in result.stdout
    record = read_record(out / "levelmatch.asdf")
    (note,) = record.options["notes"]
    assert note.startswith(words)
    assert f"Note: {spelt}: it has no effect." in run("show", out).stdout
    assert note in json.loads(run("show", out, "--json").stdout)["options"]["notes"]
    page = make_page(record, before_after=False)
    assert f"<li>{html.escape(note)}.</li>" in page
    assert "<td>" + html.escape(note) not in page


def test_a_file_with_several_images_is_noted(run, files, tmp_path):
    """The note is on the terminal, in the record, in `show` and in the report."""
    paths = []
    for path in files:
        with fits.open(path) as hdus:
            second = hdus["SCI"].copy()
            second.header["EXTVER"] = 2
            hdus.append(second)
            paths.append(tmp_path / Path(path).name)
            hdus.writeto(paths[-1])
    out = tmp_path / "out"
    result = run("run", *paths, "-o", out, "--hdu", "SCI,1")
    assert result.exit_code == 0, result.output
    words = "are matched, the others are left as they are"
    assert f"{words}: image_00000.fits (" in result.stdout
    assert words in run("show", out).stdout
    assert words in make_page(read_record(out / "levelmatch.asdf"), before_after=False)


def test_tiny_values_have_digits_that_tell(run, tmp_path):
    sim = simulate_generic(n_images=4, shape=(64, 64), seed=3)
    paths = sim.write(tmp_path)
    for path in paths:
        with fits.open(path, mode="update") as hdus:
            hdus["SCI"].data = hdus["SCI"].data * 1e-13
    result = run("run", *paths, "--dry-run")
    rows = [line.split()[1:4] for line in result.stdout.splitlines()[1:5]]
    levels = [float(row[0]) for row in rows]
    true = (sim.truth["level"] - sim.truth["level"].mean()).value * 1e-13
    assert np.array(levels) - np.mean(levels) == pytest.approx(true, abs=3e-14)
    assert any(0 < float(row[2]) < 1e-13 for row in rows)


def test_an_error_that_is_unknown(run, files, monkeypatch):
    from levelmatch.results.result import MatchResult

    def table(self, of=MatchResult.table.fget):
        out = of(self)
        out["error"][1] = np.nan
        return out

    monkeypatch.setattr(MatchResult, "table", property(table))
    lines = run("run", *files, "--dry-run").stdout.splitlines()
    assert lines[2].split()[2:4] == ["+-", "nan"]


def test_planes_have_slopes_in_the_table(run, files):
    result = run("run", *files, "--dry-run", "--fit-type-mosaic-tiles", "level+match")
    assert result.exit_code == 0, result.output
    assert "E/arcmin" in result.stdout.splitlines()[0]
    assert "mosaic tiles (level+slope): 3 of 3 pairs" in result.stdout


def test_notes_name_the_options(run, tmp_path):
    paths = simulate_generic(n_images=4, shape=(64, 64), seed=3).write(tmp_path)
    result = run("run", *paths, "--dry-run", "--min-linear", "0.3")
    assert "overlap too short, under 0.3 of an image's side (--min-linear)." in result.stdout


def test_slopes_that_were_not_fitted(run, paint, write, tmp_path):
    images = [paint(f"{k}.fits", (0, 40 * k), level=k, noise=0.3) for k in range(4)]
    images[1].data += np.linspace(-1, 1, 64, dtype="f4")
    paths = [write(image, tmp_path / image.meta["FILENAME"]) for image in images]
    options = ["--dry-run", "--fit-type-mosaic-tiles", "auto"]
    lines = run("run", paths[0], *paths[2:], "--disconnected", "warn", *options).stdout.splitlines()
    assert "E/arcmin" not in lines[0]
    lines = run("run", *paths, *options, "--reference", "0.fits").stdout.splitlines()
    slopes = [line.split()[4:6] for line in lines[1:5]]
    assert slopes[0] == slopes[2] == slopes[3] == ["0", "0"]
    assert slopes[1] != ["0", "0"]


def test_long_names_are_shortened(run, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    lines = run("run", *files, "--dry-run").stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["name", *(f"0000{k}" for k in range(4))]
    assert lines[5] == "name: the part * of image_*.fits"


def test_tiles_are_shown_where_they_are_not_the_images(run, files):
    lines = run("run", *files, "--dry-run", "--group-by", "BUNIT").stdout.splitlines()
    assert lines[0].split()[:2] == ["name", "level"]  # A single tile has no note.
    lines = run(
        "run",
        *files,
        "--dry-run",
        "--group-by",
        "FILENAME",
        "--group-by",
        "BUNIT",
    ).stdout.splitlines()
    assert lines[1].split()[:2] == ["image_00000.fits", "image_00000.fits_MJy/sr"]


def test_the_column_of_pairs_is_explained(run, files):
    lines = run("run", *files, "--dry-run").stdout.splitlines()
    assert lines[5] == "pairs: number of kept pairs that determine the level; *: the reference"
    lines = run("run", *files, "--dry-run", "--group-by", "BUNIT").stdout.splitlines()
    assert lines[5].endswith("level, with those of the whole tile")
    lines = run("run", *files[:2], files[3], "--dry-run").stdout.splitlines()
    assert lines[3].split() == ["image_00003.fits", "-", "no", "overlap"]
    lines = run("run", *files, "--dry-run", "--disconnected", "sky").stdout.splitlines()
    assert "-" not in lines[1].split()


def test_robust_weights_can_be_left_out(run, files, monkeypatch):
    seen = []
    monkeypatch.setattr("levelmatch.match_levels", lambda *args, **options: seen.append(options))
    run("run", *files, "--dry-run", "--robust", "none")
    run("run", *files, "--dry-run", "--robust", "huber")
    assert [options["solve"].robust for options in seen] == [None, "huber"]


def test_dry_run_writes_nothing(run, files, tmp_path):
    out = tmp_path / "matched"
    result = run("run", *files, "-o", out, "--dry-run", "--report")
    assert result.exit_code == 0, result.output
    assert "Dry run: nothing was written." in result.stdout
    assert listing(tmp_path) == []


def test_quiet_prints_nothing(run, files, tmp_path):
    result = run("run", *files, "-o", tmp_path / "matched", "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_report(run, files, tmp_path, monkeypatch):
    for module in ("page", "pictures"):
        monkeypatch.setattr(f"levelmatch.report.{module}.has_matplotlib", lambda: False)
    result = run("run", *files, "-o", tmp_path / "matched", "--report")
    page = tmp_path / "matched" / "levelmatch.html"
    assert result.stdout.splitlines()[-2:] == [
        f"Written: {page}",
        'Note: the report has no pictures: pip install "levelmatch[report]"',
    ]
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_failed_picture_does_not_stop_the_run(run, files, tmp_path, monkeypatch):
    def fail(*args, **options):
        msg = "no ink"
        raise RuntimeError(msg)

    monkeypatch.setattr("levelmatch.plots.plot_levels", fail)
    out = tmp_path / "matched"
    result = run("run", *files, "-o", out, "--report")
    assert result.exit_code == 0, result.output
    assert result.stderr == "Warning: the report lacks 'Levels': RuntimeError: no ink\n"
    assert result.stdout.splitlines()[-1] == f"Written: {out / 'levelmatch.html'}"


def test_a_failed_report_comes_after_the_summary(run, files, tmp_path, monkeypatch):
    def fail(*args, **options):
        msg = "the disk is full"
        raise OSError(msg)

    monkeypatch.setattr("levelmatch.report.write_report", fail)
    out = tmp_path / "matched"
    result = run("run", *files, "-o", out, "--report")
    assert result.exit_code == 3
    assert f"Written: {N} images to" in result.stdout
    assert "3 of 3 pairs kept" in result.stdout
    words = "Error: the images are written, but the report is not: the disk is full\n"
    assert result.stderr == words
    assert ".levelmatch-pairs" not in listing(out)
    assert "Traceback" in run("run", *files, "-o", out, "--overwrite", "--report", "--debug").stderr


def test_overwrite(run, files, tmp_path):
    out = tmp_path / "matched"
    assert run("run", *files, "-o", out, "-q").exit_code == 0
    first = (out / "image_00000.fits").stat().st_mtime_ns
    assert_refused(run("run", *files, "-o", out), "image_00000.fits exists; --overwrite replaces")
    assert (out / "image_00000.fits").stat().st_mtime_ns == first
    assert run("run", *files, "-o", out, "-q", "--overwrite").exit_code == 0
    assert (out / "image_00000.fits").stat().st_mtime_ns > first


def test_what_is_left_of_an_earlier_run_is_noted(run, files, tmp_path, monkeypatch):
    monkeypatch.setattr("levelmatch.report.page.has_matplotlib", lambda: False)
    out = tmp_path / "matched"
    assert run("run", *files, "-o", out, "--report").exit_code == 0
    (out / "mine.fits").write_bytes(b"")
    lines = run("run", *files[:2], "-o", out, "--overwrite").stdout.splitlines()
    assert lines[-1] == (
        "Note: still there from an earlier run: "
        "image_00002.fits, image_00003.fits, levelmatch.html."
    )
    again = run("run", *files[:2], "-o", out, "--overwrite", "--report").stdout
    assert "earlier run" not in again


def test_an_old_page_is_not_overwritten(run, files, tmp_path):
    (tmp_path / "levelmatch.html").write_text("mine", encoding="utf-8")
    result = run("run", *files, "-o", tmp_path, "--report")
    assert_refused(result, "levelmatch.html exists; --overwrite replaces it")
    assert listing(tmp_path) == ["levelmatch.html"]


def test_matched_images_are_refused(run, files, tmp_path):
    first = tmp_path / "first"
    run("run", *files, "-o", first)
    again = ["run", *sorted(first.glob("*.fits")), "-o", tmp_path / "second"]
    assert_refused(run(*again), "image_00000.fits: already matched, by the record")
    (first / "levelmatch.asdf").unlink()
    assert_refused(run(*again), "record levelmatch.asdf); --rematch matches it again")
    result = run(*again, "--rematch")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--reference", "nobody"], "--reference: 'nobody' is neither an image"),
        (["--reference", "9"], "--reference: there is no image 9 among 4"),
        (["--weights", "best"], "'--weights': 'best' is not one of"),
        (["--fit-type-dithers", "cubic"], "'--fit-type-dithers': 'cubic' is not one of"),
        (["--clip", "x"], "'--clip': 'x' is not a valid float"),
        (["--clip", "0"], "--clip: 0.0 is not a positive number"),
        (["--min-area", "nan"], "--min-area: nan is not a number of 0 or more"),
        (["--n-workers", "0"], "--n-workers: 0 is not"),
        (["--group-by", "NOKEY"], "--group-by: the header has no keyword 'NOKEY'"),
        (["--group-by", "jwst"], "--group-by jwst"),
        (["--hdu", "FOO"], "there is no extension 'FOO'"),
        (["--hdu", "SCI,,1"], "'SCI,,1' is neither NAME, INDEX, NAME,VERSION nor a list"),
        (["--dq-bits", "FOO"], "--dq-bits: 'FOO' is not the name"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_bad_options(run, files, tmp_path, args, words):
    assert_refused(run("run", *files, "-o", tmp_path / "out", *args), words)
    assert listing(tmp_path) == []


def test_missing_file(run, files, tmp_path):
    out = tmp_path / "out"
    assert_refused(run("run", *files, "nowhere.fits", "-o", out), "nowhere.fits: there is no such")
    assert_refused(run("run", tmp_path, "-o", out), "the folder has no image")
    assert_refused(run("run", tmp_path / "*_cal.fits", "-o", out), "no file matches this pattern")
    assert not out.exists()


def test_wrong_files(run, files, tmp_path):
    text = tmp_path / "text.fits"
    text.write_text("no image", encoding="utf-8")
    out = tmp_path / "out"
    assert_refused(run("run", *files, text, "-o", out), "text.fits: not a readable FITS file")
    whole = Path(files[0]).read_bytes()
    cut = tmp_path / "image_00009.fits"
    cut.write_bytes(whole[: len(whole) // 3])
    assert_refused(run("run", *files, cut, "-o", out), "image_00009.fits: ")
    assert not out.exists()


def test_units_and_overlaps(run, files, tmp_path):
    other = tmp_path / "other.fits"
    with fits.open(files[1]) as hdus:
        hdus["SCI"].header["BUNIT"] = "K"
        hdus.writeto(other)
    out = tmp_path / "out"
    assert_refused(run("run", files[0], other, "-o", out), "cannot be compared")
    assert_refused(run("run", files[0], files[3], "-o", out), "none of the 2 images overlap")
    assert not out.exists()


def test_output_is_no_folder_or_that_of_the_input(run, files, tmp_path):
    assert_refused(run("run", *files, "-o", files[0]), "is not a folder")
    assert_refused(run("run", *files, "-o", Path(files[0]).parent), "is the folder of the input")
    link = tmp_path / "link"
    link.symlink_to(Path(files[0]).parent)
    assert_refused(run("run", *files, "-o", link), "is the folder of the input")


def test_output_below_a_file(run, files, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    result = run("run", *files, "-o", tmp_path / "file" / "out", "--dry-run")
    assert_refused(result, "file is not a folder")
    result = run("demo", tmp_path / "file" / "out")
    assert "Errno" not in result.stderr


def test_one_image_is_an_error(run, files, tmp_path):
    result = run("run", files[0], "-o", tmp_path / "out")
    assert_refused(result, "only one image: there is nothing to match")
    assert listing(tmp_path) == []


def test_one_fit_type_for_all_passes(run, files, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("levelmatch.match_levels", lambda *args, **options: seen.append(options))

    def types(*args):
        run("run", *files, "--dry-run", *args)
        options = seen.pop()
        return {options[f"fit_type_{name}"] for name in ("dithers", "recombine_lyot")}, options[
            "fit_type_mosaic_tiles"
        ]

    both = ["--fit-type", "level+slope", "--fit-type-mosaic-tiles", "auto"]
    assert types() == ({"level"}, "level")
    assert types("--fit-type", "auto") == ({"auto"}, "auto")
    assert types(*both) == ({"level+slope"}, "auto")
    config = write_config(tmp_path, 'fit-type = "auto"\nfit-type-mosaic-tiles = "level"\n')
    assert types("--config", config) == ({"auto"}, "level")
    assert types("--config", config, "--fit-type", "level+slope") == (
        {"level+slope"},
        "level+slope",
    )


def test_an_extended_run_is_in_the_order_of_names(run, files, tmp_path):
    first = [*files[1:], "-o", tmp_path / "a", "--fit-type-mosaic-tiles", "level+slope"]
    assert run("run", *first).exit_code == 0
    more = ["run", files[0], "-o", tmp_path / "b", "--extend", tmp_path / "a", "--overwrite"]
    lines = run(*more).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == [Path(f).name for f in files]
    assert "mosaic tiles (level+slope)" in "".join(lines)
    assert "mosaic tiles (level)" in run(*more, "--fit-type", "level").stdout


def test_hints_name_the_command(files):
    def error(*args):
        return CliRunner().invoke(cli.main, list(args), prog_name="levelmatch").stderr

    assert "(see 'levelmatch run --help')" in error("run", *files, "--weights")
    assert "(see 'levelmatch show --help')" in error("show")
    assert "(see 'levelmatch --help')" in error("walk")


def test_words_of_the_command(run, files, tmp_path):
    result = run("run", *files, "--dry-run", "--apply-flux-scale")
    assert_refused(result, "--apply-flux-scale: there is nothing to apply without --flux-scale")
    fits.writeto(tmp_path / "plain.fits", np.ones((64, 64), dtype="f4"))
    result = run("run", *files, tmp_path / "plain.fits", "--dry-run")
    assert_refused(result, "plain.fits: the header has no celestial WCS; solve its astrometry")


def test_files_and_output_are_needed(run, files):
    assert_refused(
        run("run"),
        "no files: name the images to match (see 'levelmatch run --help')".replace(
            "levelmatch run", "main run"
        ),
    )
    assert_refused(run("run", *files), "no output: name a folder by -o")
    assert_refused(run("walk"), "No such command 'walk'")


def test_inner_errors(run, files, monkeypatch):
    def fail(*args, **kwargs):
        msg = "this is\na bug"
        raise RuntimeError(msg)

    monkeypatch.setattr("levelmatch.match_levels", fail)
    result = run("run", *files, "--dry-run")
    assert_refused(result, "RuntimeError: this is a bug; --debug shows where", code=1)


def test_debug_shows_the_traceback(run, files):
    result = run("run", *files, "--dry-run", "--debug", "--reference", "nobody")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: --reference")


def test_warnings_are_lines(run, files):
    result = run("run", files[0], files[1], files[3], "--dry-run")
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Warning: pass mosaic")
    assert "Look first at: the isolated image image_00003.fits." in result.stdout
    assert (
        "Note: Without any pair that is kept, so not corrected: image_00003.fits." in result.stdout
    )


def test_other_warnings_are_not_hidden(capsys):
    with errors.shown_warnings():
        warnings.simplefilter("default")
        warnings.warn("a look\nis due", LevelMatchWarning, stacklevel=1)
        warnings.warn("of another", RuntimeWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == [
        "Warning: a look is due",
        "Warning: RuntimeWarning: of another",
    ]


def write_config(folder, text):
    path = folder / "levelmatch.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_config_and_its_precedence(run, files, tmp_path, monkeypatch):
    seen = {}
    match = run_command.match_files

    def spy(names, values, *rest):
        seen.update(values)
        return match(names, values, *rest)

    monkeypatch.setattr(run_command, "match_files", spy)
    folder = Path(files[0]).parent
    config = write_config(
        tmp_path,
        f"""
        files = ["{os.path.relpath(folder, tmp_path)}/*.fits"]
        output = "there"
        weights = "equal"
        clip = 4
        max-pairs = "none"
        robust = "none"
        min_area = 0.01
        fit-type-mosaic-tiles = "level+slope"
        reference = 1
        hdu = ["SCI", 1]
        group-by = ["FILENAME"]
        dq-bits = 1
        dry-run = true
        report = true
    """,
    )
    result = run("run", "--config", config, "--weights", "rms", "--no-report")
    assert result.exit_code == 0, result.output
    assert (seen["weights"], seen["clip"], seen["min_area"]) == ("rms", 4.0, 0.01)
    assert (seen["max_pairs"], seen["robust"]) == (None, None)
    assert (seen["hdu"], seen["reference"], seen["dq_bits"]) == (("SCI", 1), 1, "1")
    assert seen["report"] is False
    assert seen["output"].resolve() == (tmp_path / "there").resolve()
    assert "Reference: image_00001.fits, named by the user." in result.stdout
    result = run(
        "run",
        files[0],
        files[1],
        "--config",
        config,
        "--no-dry-run",
        "-o",
        tmp_path / "here",
        "--reference",
        "mean",
    )
    assert result.exit_code == 0, result.output
    assert listing(tmp_path / "here") == [
        "image_00000.fits",
        "image_00001.fits",
        "levelmatch.asdf",
        "levelmatch.html",
    ]
    assert not (tmp_path / "there").exists()


def test_command_line_goes_first_even_with_a_default(run, files, tmp_path):
    config = write_config(tmp_path, 'reference = "nobody"\nweights = "equal"\n')
    result = run("run", *files, "--dry-run", "--config", config, "--reference", "auto")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clip = ", "levelmatch.toml: not TOML: "),
        ("weihts = 'equal'", "there is no option 'weihts'; did you mean 'weights'?"),
        ("config = 'other.toml'", "there is no option 'config'"),
        ("clip = 'x'", "clip = 'x': expected a number"),
        ("robust = true", "robust = True: expected text"),
        ("max-pairs = 2.5", "max-pairs = 2.5: expected a whole number or text"),
        ("max-pairs = 'all'", "max-pairs: 'all' is not a valid integer"),
        ("clip = true", "clip = True: expected a number"),
        ("report = 1", "report = 1: expected true or false"),
        ("n-workers = 1.5", "n-workers = 1.5: expected a whole number"),
        ("weights = 'best'", "weights: 'best' is not one of"),
        ("files = [1]", "files = [1]: expected text or a list of text"),
        ("files = ['none*.fits']", "none*.fits: no file matches this pattern"),
        ("[run]\nclip = 1", "there is no option 'run'"),
        ("min-area = 1\nmin_area = 1", "'min_area' is given twice"),
    ],
)
def test_bad_config(run, files, tmp_path, text, words):
    result = run("run", *files, "--dry-run", "--config", write_config(tmp_path, text))
    assert_refused(result, words)
    assert "levelmatch.toml: " in result.stderr


def test_missing_config(run, files, tmp_path):
    result = run("run", *files, "--dry-run", "--config", tmp_path / "no.toml")
    assert_refused(result, "no.toml: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("SCI", "SCI"),
        ("1", 1),
        ("SCI,2", ("SCI", 2)),
        ("sci, 2", ("sci", 2)),
    ],
)
def test_hdu(text, value):
    assert options.hdu(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("003", "003"),
        ("tile 3", "tile 3"),
        ("mean", "mean"),
        ("--1", "--1"),
    ],
)
def test_reference(text, value):
    assert options.REFERENCE.convert(text, None, None) == value


def test_help_and_version(run):
    result = run("--help")
    assert result.exit_code == 0
    assert "levelmatch run raw/*_cal.fits -o matched --report" in result.stdout
    assert "_LEVELMATCH_COMPLETE=bash_source" in result.stdout
    assert "[default: ivar]" in run("run", "-h").stdout
    assert run("--version").stdout == f"levelmatch, version {__version__}\n"


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_demo(run, tmp_path, monkeypatch, fit_type):
    # Drawing takes time, and pictures have tests of their own.
    monkeypatch.setattr("levelmatch.report.page.has_matplotlib", lambda: False)
    out = tmp_path / "demo"
    args = ["demo", out, "--shape", "96", "97", "--seed", "2", "--fit-type", fit_type]
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert listing(out) == ["levelmatch.html", "matched", "raw"]
    assert len(listing(out / "raw")) == 16
    assert listing(out / "matched") == sorted([*listing(out / "raw"), "levelmatch.asdf"])
    (line,) = [x for x in result.stdout.splitlines() if x.startswith("Rms of the backgrounds")]
    numbers = [float(x) for x in line.split() if x[0].isdigit()]
    assert numbers[1] < numbers[0] / 5
    head = next(x for x in result.stdout.splitlines() if "found-true" in x)
    assert head.split()[-2:] == ["found-true", "(MJy/sr)"]
    assert_refused(run(*args), "raw exists; --overwrite replaces it")


def test_demo_leaves_other_folders_alone(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert_refused(run("demo", tmp_path), "has other files, such as mine.txt; name a new folder")
    (tmp_path / "levelmatch.html").write_text("mine", encoding="utf-8")
    assert_refused(run("demo", tmp_path, "--overwrite"), "is not a page of levelmatch")
    assert listing(tmp_path) == ["levelmatch.html", "mine.txt"]


def test_a_process_of_its_own(files, tmp_path):
    # `--help` must not import the rest of the package, which takes long.
    code = "import sys; from levelmatch.cli import main; main(prog_name='levelmatch')"
    command = [sys.executable, "-c", code, "run", *files[:2], "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "1 of 1 pair kept." in done.stdout
    done = subprocess.run(
        [*command, "--weights", "best"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_module_itself_imports_little():
    code = (
        "import sys; before = set(sys.modules); import levelmatch; own = set(sys.modules);"
        "import levelmatch.cli; print(*(set(sys.modules) - own))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = {name.partition(".")[0] for name in done.stdout.split()}
    assert new <= {"levelmatch", "click"} | set(sys.stdlib_module_names)
