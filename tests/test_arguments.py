# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of arguments of other types: each error names the argument."""

import re

import numpy as np
import pytest
from astropy import units as u

import levelmatch as lm
from levelmatch.jwst import write_skylist
from levelmatch.plots import plot_levels, plot_mosaic, plot_overlaps, quick_look
from levelmatch.report import write_report
from levelmatch.testing import (
    level_errors,
    miri_regions,
    plane_errors,
    simulate_generic,
    simulate_miri,
    simulate_nircam_short,
)

BAD = (object(), 3, 2.5, None, [3], {"a": 1}, b"x")


@pytest.fixture(scope="module")
def sim():
    return simulate_generic(n_images=3, shape=(32, 32), layout="chain")


@pytest.fixture(scope="module")
def result(sim):
    return lm.match_levels(sim.images, group_by="FILENAME")


@pytest.mark.parametrize(
    ("function", "name", "others"),
    [
        (lm.match_dithers, "fit_type", {"images": []}),
        (lm.anchor_levels, "result", {"anchor": "anchor.fits"}),
        (lm.apply_record, "record", {"files": [], "directory": "out"}),
        (lm.make_sky_cells, "nside", {"images": []}),
        (lm.read_catalogue, "path", {}),
        (lm.read_record, "path", {}),
        (lm.recorded_result, "record", {"files": []}),
        (lm.separate_lyot, "image", {}),
        (lm.SkyCells.from_table, "table", {}),
        (lm.SkyCells.read, "path", {}),
        (lm.solve_record, "record", {}),
        (lm.undo_record, "record", {"files": [], "directory": "out"}),
        (lm.verify_record, "record", {"outputs": []}),
        (lm.write_catalogue, "path", {"images": []}),
        (lm.write_skyfile, "result", {"path": "sky.txt"}),
        (level_errors, "truth", {"found": []}),
        (miri_regions, "shape", {}),
        (plane_errors, "truth", {"found": []}),
        (plot_mosaic, "result", {}),
        (quick_look, "result", {}),
        (simulate_generic, "center", {}),
        (simulate_generic, "layout", {}),
        (simulate_generic, "n_images", {}),
        (simulate_generic, "overlap", {}),
        (simulate_generic, "pixel_scale", {}),
        (simulate_generic, "shape", {}),
        (simulate_miri, "lyot_slope", {}),
        (simulate_miri, "n_dithers", {}),
        (simulate_miri, "seed", {}),
        (simulate_nircam_short, "detectors", {}),
        (simulate_nircam_short, "dither_size", {}),
        (simulate_nircam_short, "n_tiles", {}),
        (write_report, "result", {"path": "page.html"}),
        (write_skylist, "result", {"path": "sky.txt"}),
    ],
)
def test_argument_is_named(function, name, others):
    for value in BAD:
        if function in (lm.make_sky_cells, simulate_generic) and value is None:
            # The default, or an argument that some values of the others need.
            continue
        if (name in ("n_tiles", "n_dithers", "n_images", "seed") and value == 3) or (
            name in ("pixel_scale", "lyot_slope", "dither_size") and value in (3, 2.5)
        ):
            continue
        with pytest.raises((TypeError, ValueError), match=rf"(^|\b){name}\b"):
            function(**others, **{name: value})


@pytest.mark.parametrize("name", ["files", "directory", "progress_bar"])
def test_arguments_of_a_record_are_named(result, sim, name, tmp_path):
    paths = sim.write(tmp_path / "raw")
    matched = lm.match_levels(paths, group_by="FILENAME")
    matched.write(tmp_path / "out")
    arguments = {"record": matched.record, "files": paths, "directory": tmp_path / "again"}
    corrected = [tmp_path / "out" / path.name for path in paths]
    for value in (object(), 3, 2.5):
        with pytest.raises(TypeError, match=f"^{name}: "):
            lm.apply_record(**{**arguments, name: value})
        with pytest.raises(TypeError, match=f"^{name}: "):
            lm.undo_record(**{**arguments, "files": corrected, name: value})
    assert not (tmp_path / "again").exists()


def test_arguments_of_methods_are_named(result, tmp_path):
    for value in (object(), 3, 2.5):
        for name in ("directory", "progress_bar"):
            with pytest.raises(TypeError, match=f"^{name}: "):
                result.write(**{"directory": tmp_path / "out", name: value})
        with pytest.raises(TypeError, match=r"^path: "):
            result.record.write(value)
        with pytest.raises(TypeError, match=r"^path: "):
            result.report(value)
        for name in ("fit_type", "exclude"):
            with pytest.raises(TypeError, match=f"^{name}: "):
                lm.solve_record(result.record, **{name: value})
        for draw in (plot_levels, plot_overlaps):
            with pytest.raises(TypeError, match="^ax: expected Axes"):
                draw(result, ax=value)
    with pytest.raises(TypeError, match=re.escape("j: expected a row of the table, or its name")):
        result.covariance(0, 1.5)
    assert list(tmp_path.iterdir()) == []


def test_options_and_keywords_are_named(sim, tmp_path):
    for value in (object(), 3, 2.5):
        for function in (lm.make_sky_cells, lm.stack_tile):
            with pytest.raises(TypeError, match="^read: expected ReadOptions"):
                function(sim.images, read=value)
        with pytest.raises(TypeError, match="^keywords: expected text"):
            lm.make_sky_cells(sim.images, keywords=value)
        with pytest.raises(TypeError, match="^keywords: expected text"):
            lm.write_catalogue(sim.images, tmp_path / "c.ecsv", keywords=value)


# Numbers of numpy, and quantities


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (np.int64(0), 0),
        ([np.int64(1), "SCI"], [1, "SCI"]),
        (np.arange(1, 3), [1, 2]),
        (("SCI", np.int16(2)), ("SCI", 2)),
    ],
)
def test_extensions_may_be_integers_of_numpy(given, plain):
    read = lm.ReadOptions(hdu=given)
    assert read == lm.ReadOptions(hdu=plain)
    assert type(read.hdu) is type(plain)


def test_arrays_may_be_options():
    assert lm.ReadOptions(blank=np.array([0.0, -1.0])).blank == [0.0, -1.0]
    assert lm.CoaddOptions(tile_size=np.array([64, 32])).tile_shape == [64, 32]
    with pytest.raises(TypeError, match="hdu: True is neither"):
        lm.ReadOptions(hdu=np.bool_(True))


def test_an_extension_by_an_integer_of_numpy(sim, tmp_path):
    paths = sim.write(tmp_path)
    found = lm.match_levels(paths, group_by="FILENAME", read=lm.ReadOptions(hdu=np.int64(1)))
    assert found.record.options["read"]["hdu"] == 1


def levels_with(result, images, **options):
    """Return the errors of planes and the recorded options of a match and of its record."""
    solve = lm.SolveOptions(**options)
    calls = {"group_by": "FILENAME", "fit_type": "level+slope"}
    matched = lm.match_levels(images, solve=solve, **calls)
    again = lm.solve_record(result.record, solve=solve, fit_type="level+slope")
    return [(r.table["error"].value, r.options["solve"]) for r in (matched, again)]


def test_quantities_in_another_unit(sim, result):
    unit = result.unit
    by_numbers = levels_with(result, sim.images, floor=0.02, slope_prior=0.1)
    floor, prior = 0.02 * unit, 0.1 * unit / u.arcmin
    kilo = u.Unit(1000 * unit)
    by_quantities = levels_with(
        result, sim.images, floor=floor.to(kilo), slope_prior=prior.to(kilo / u.deg)
    )
    for (error, options), (expected, plain) in zip(by_quantities, by_numbers, strict=True):
        np.testing.assert_allclose(error, expected, rtol=1e-9)
        for name in ("floor", "slope_prior"):
            assert isinstance(options[name], float)
            np.testing.assert_allclose(options[name], plain[name], rtol=1e-12)


def test_wrong_quantities_are_named(sim, result):
    for name in ("floor", "slope_prior"):
        solve = lm.SolveOptions(**{name: 1 * u.m})
        with pytest.raises(u.UnitsError, match=f"{name}: 1.0 m cannot be converted to"):
            lm.match_levels(sim.images, fit_type="level+slope", solve=solve)
        with pytest.raises(u.UnitsError, match=f"{name}: 1.0 m cannot be converted to"):
            lm.solve_record(result.record, solve=solve)
        with pytest.raises(ValueError, match=f"{name}: .* is not a"):
            lm.SolveOptions(**{name: -1 * u.adu})
        with pytest.raises(ValueError, match=f"{name}: .* is not a"):
            lm.SolveOptions(**{name: [1, 2] * u.adu})
