# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of stated errors on real noise: the fast rows of the benchmark, with few trials.

``benchmarks/calibration.py`` runs all rows, often enough for tight figures.
"""

import importlib
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

FOLDER = Path(__file__).parents[1] / "benchmarks"
MODULES = (
    "goals",
    "sky",
    "scores",
    "pixels",
    "mixtures",
    "pairs",
    "surveys",
    "tiles",
    "rows",
    "table",
)
# Few trials determine a figure to about 10 %.
SLACK = 0.15


# Number of trials for each row.
TRIALS = {
    "white": 16,
    "psf": 8,
    "psf-dense": 40,
    "psf-wide": 40,
    "sources": 6,
    "spoilt": 4,
    "stripes": 12,
    "rows-columns": 12,
    "striped-planes": 10,
    "crossed-planes": 10,
    "astrometry": 5,
    "flat": 40,
    "bowls": 40,
    "gradients": 40,
    "rounded": 30,
    "scales": 8,
    "depths": 30,
    "correlated": 12,
    "cosmic-rays": 8,
    "grids": 8,
    "striped-grid": 4,
    "wild-pairs": 16,
    "misplaced-image": 6,
    "misscaled-image": 6,
    "detector-bowl": 1,
    "auto": 1,
    "apart": 1,
    "shared-offsets": 10,
}
MET = [
    ("correlated", "dithers"),
    ("depths", "deep-deep"),
    ("depths", "shallow-shallow"),
    ("rounded", "noise 0.3"),
    ("rounded", "noise 0.2"),
    ("rounded", "noise 0.1"),
    ("flat", "dithers"),
    ("flat", "mosaic"),
    ("bowls", "mosaic"),
    ("gradients", "dithers"),
    ("astrometry", "nebula"),
    ("rows-columns", "dithers"),
    ("striped-planes", "dithers, levels"),
    ("striped-planes", "dithers, slopes"),
    ("striped-planes", "mosaic, levels"),
    ("striped-planes", "mosaic, slopes"),
    ("crossed-planes", "dithers, levels"),
    ("crossed-planes", "dithers, slopes"),
    ("crossed-planes", "mosaic, levels"),
    ("crossed-planes", "mosaic, slopes"),
    ("stripes", "dithers"),
    ("psf-dense", "mosaic"),
    ("psf-dense", "dithers"),
    ("astrometry", "stars"),
    ("cosmic-rays", "mosaic, bias over stated"),
    ("cosmic-rays", "dithers"),
    ("scales", "1 : 1.5, stars"),
    ("scales", "1 : 3, stars"),
    ("cosmic-rays", "dithers, bias over stated"),
    ("psf-dense", "mosaic, bias over stated"),
    ("psf-dense", "dithers, bias over stated"),
    ("psf", "mosaic, bias over stated"),
    ("psf-wide", "dithers, bias over stated"),
    ("psf-wide", "dithers"),
    ("psf-wide", "mosaic, bias over stated"),
    ("stripes", "mosaic warned of a pattern"),
    ("psf", "dithers"),
    ("psf", "dithers, bias over stated"),
    ("white", "dithers"),
    ("white", "mosaic"),
    ("white", "dithers, error over the bound"),
    ("white", "mosaic, error over the bound"),
    ("white", "planes, levels"),
    ("white", "planes, slopes"),
    ("white", "warned of a pattern"),
    ("sources", "warned of a pattern"),
    ("sources", "dithers"),
    ("sources", "mosaic"),
    ("sources", "dithers, error over the bound"),
    ("spoilt", "cosmic rays of 0.1 %, error over the bound"),
    ("spoilt", "hot pixels, error over the bound"),
    ("spoilt", "variable stars, error over the bound"),
    ("spoilt", "moving source, error over the bound"),
    ("spoilt", "saturated stars, error over the bound"),
    ("scales", "1 : 1.5"),
    ("scales", "1 : 3"),
    ("misplaced-image", "nobody named without it"),
    ("misscaled-image", "nobody named without it"),
    ("apart", "others known"),
    ("detector-bowl", "warned of"),
    ("detector-bowl", "with pattern, error over stated"),
    ("detector-bowl", "with pattern, error over that without"),
    ("misscaled-image", "named among the first two"),
    ("misplaced-image", "named among the first two"),
    ("grids", "5 x 5, floor over truth"),
    ("grids", "3 x 8, floor over truth"),
    ("grids", "3 x 8, pull"),
    ("striped-grid", "default"),
    ("wild-pairs", "5 x 5, growth over the least"),
    ("wild-pairs", "8 x 8, growth over the least"),
    ("wild-pairs", "5 x 5, pull"),
    ("wild-pairs", "5 x 5, growth where told"),
    ("wild-pairs", "5 x 5, told"),
    ("wild-pairs", "8 x 8, growth where told"),
    ("wild-pairs", "8 x 8, told"),
    ("wild-pairs", "8 x 8, pull"),
    ("apart", "difference of two sets unknown"),
    ("apart", "isolated image unknown"),
    ("shared-offsets", "stable, own offset"),
    ("shared-offsets", "stable, none"),
    ("shared-offsets", "1 error, own offset"),
    ("shared-offsets", "1 error, none"),
    ("shared-offsets", "10 errors, own offset"),
    ("shared-offsets", "10 errors, none"),
    ("auto", "fraction given slopes"),
    ("auto", "no slopes, error over that of the better"),
    ("auto", "slopes, error over that of the better"),
]


@pytest.fixture(scope="module")
def bench():
    """Return the modules of the benchmark by name."""
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not beside the tests")
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(f"realnoise.{name}") for name in MODULES}
    sys.path.remove(str(FOLDER))
    for name in ["realnoise", *(f"realnoise.{name}" for name in MODULES)]:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def outcomes(bench):
    """Return a function that returns the samples of a row's trials, computed once."""
    return cache(lambda name: bench["rows"].ROWS[name].outcomes(TRIALS[name]))


@pytest.mark.parametrize(("name", "label"), MET)
def test_figure(bench, outcomes, name, label):
    (goal,) = [g for g in bench["rows"].ROWS[name].goals if g.label == label]
    figure = goal.figure(outcomes(name), slack=SLACK)
    assert figure.met, f"{figure.value:.3g} is not {goal.range}"


def test_every_row_has_its_docstring_and_figures_of_before(bench):
    for row in bench["rows"].ROWS.values():
        # The earlier version does not share offsets.
        known = [goal.before is not None for goal in row.goals]
        assert all(known) or row.name == "shared-offsets", row.name
        assert getattr(row.trial, "func", row.trial).__doc__, row.name
    assert set(TRIALS) == {name for name, _ in MET}


def fine_mean(profile, grid, k, n=120):
    """Return the mean of a profile (y, x) over pixel k of a grid, from n x n points."""
    offsets = ((np.arange(n) + 0.5) / n - 0.5) * grid.scale
    y, x = (o + i * grid.scale + offsets for o, i in zip(grid.origin, k, strict=True))
    return profile(y[:, None], x[None, :]).mean()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_sources_are_means_over_pixels(bench, scale):
    sky = bench["sky"]
    grid = sky.Grid((0.3, -0.2), (30, 31), scale)
    y, x, fwhm = 11.2, 9.7, 2.3
    star = sky.Stars(*np.array([[y], [x], [50.0]]))
    blob = sky.Nebula(*np.array([[y], [x], [4.0], [6.0]]))

    def of_star(py, px):
        sigma = fwhm / 2.3548200450309493
        r2 = (py - y) ** 2 + (px - x) ** 2
        return 50 * np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)

    def of_blob(py, px):
        return 4 * np.exp(-((py - y) ** 2 + (px - x) ** 2) / 72)

    for source, profile in ((star, of_star), (blob, of_blob)):
        image = source.render(grid, fwhm)
        for k in ((2, 3), (3, 4), (4, 3), (11, 9), (10, 10), (14, 5)):
            assert_allclose(image[k], fine_mean(profile, grid, k), rtol=2e-3, atol=1e-9)


def test_stars_have_equal_flux_through_every_psf_and_scale(bench):
    sky = bench["sky"]
    rng = np.random.default_rng(1)
    stars = sky.Stars(*rng.uniform(80, 120, (2, 30)), rng.uniform(10, 1e4, 30))
    for scale, shape in ((1.0, 200), (1.5, 140), (3.0, 70)):
        for fwhm in (2.0, 2.3, 2.6):
            grid = sky.Grid(tuple(rng.uniform(-3, 3, 2)), (shape, shape), scale)
            flux = stars.render(grid, fwhm).sum() * scale**2
            assert_allclose(flux, stars.flux.sum(), rtol=1e-6)
    # Stars just outside of the image contribute to it.
    outside = sky.Stars(*np.array([[-1.0], [5.0], [100.0]]))
    assert outside.render(sky.Grid((0.0, 0.0), (20, 20)), 2.0)[0].sum() > 5


def test_a_place_on_the_sky_has_the_pixels_that_the_grids_say(bench):
    sky = bench["sky"]
    place = np.array([61.3, 48.9])
    worlds = []
    for origin, scale in (((0.4, -3.2), 1.0), ((-11.7, 8.1), 1.0), ((2.0, 2.0), 3.0)):
        y, x = (place - origin) / scale
        worlds.append(sky.Grid(origin, (60, 60), scale).wcs().pixel_to_world_values(x, y))
    assert_allclose(worlds[1:], np.broadcast_to(worlds[0], (2, 2)), atol=1e-11)
    grid = sky.Grid((0.0, 0.0))
    moved = grid.wcs((0.3, 0.0)).pixel_to_world_values(5.0, 5.0)
    assert_allclose(moved, grid.wcs().pixel_to_world_values(5.0, 5.3), atol=1e-11)


def test_noise_and_patterns_have_their_sizes(bench):
    sky = bench["sky"]
    rng = np.random.default_rng(2)
    assert_allclose(sky.unit_noise(rng, (400, 400)).std(), 1, rtol=0.01)
    smooth = sky.unit_noise(rng, (400, 400), 2.0)
    assert_allclose(smooth.std(), 1, rtol=0.05)
    # The correlation is exp(-r**2 / (4 sigma**2)).
    assert_allclose(np.mean(smooth[:, 2:] * smooth[:, :-2]), np.exp(-1 / 4), atol=0.05)
    grid = sky.Grid((0.0, 0.0))
    pattern = sky.smooth_pattern(rng, grid, 0.01)
    assert_allclose([pattern.mean(), pattern.std()], [0, 0.01], atol=1e-12)
    bowl = sky.bowl(grid, 0.5)
    assert_allclose([bowl.mean(), bowl[0, 0] - bowl[100, 100]], [0, 1], atol=1e-3)
    rays = sky.cosmic_rays(rng, (1000, 1000), 0.01)
    assert_allclose(np.mean(rays > 0), 0.01, rtol=0.05)
    assert np.min(rays[rays > 0]) >= 2


def test_a_strip_moves_the_difference_of_one_pair(bench):
    pairs, scores = bench["pairs"], bench["scores"]
    levels, differences = np.zeros(6), []
    for size in (0.0, 10.0):
        shifts = np.zeros(pairs.n_strips(2, 3))
        shifts[4] = size
        rng = np.random.default_rng(3)
        found = scores.match_mosaic(pairs.strip_grid(rng, 2, 3, shifts, levels), levels)
        table = found.result.pairs
        differences.append(table["level"].value[table["npix"] > 0])
    change = np.abs(differences[1] - differences[0])
    assert len(change) == 7
    assert np.count_nonzero(change > 1e-12) == 1
    assert_allclose(change.max(), 10, rtol=0.02)


def test_bound_of_coincident_images(bench):
    scores, sky = bench["scores"], bench["sky"]
    grids = [sky.Grid((0.0, 0.0), (10, 10))] * 4
    # Each level minus the mean of four has 3/4 of the variance of an image's mean.
    assert_allclose(scores.noise_bound(grids, 0.5), 0.05 * np.sqrt(3 / 4))


def test_goals(bench):
    goals = bench["goals"]
    goal = goals.Goal("x", 0.8, 1.3, excuse="warned")
    low, high = {"x": np.array([3.0, 4.0])}, {"x": np.array([1.0])}
    assert_allclose(goal.figure([low, low]).value, np.sqrt(12.5))
    assert not goal.figure([low]).met
    assert goal.figure([high]).met
    assert goal.figure([low | {"x: warned": 1.0}] * 20).met
    assert not goal.figure([low | {"x: warned": 1.0}, low]).met
    assert not goal.figure([]).met
    assert goals.bias([(0.2, 0.1), (0.0, 0.1)]) == pytest.approx(1)
    assert goals.growth([(9.0, 1.0), (7.0, 3.0)]) == pytest.approx(2)
    assert goals.ratio_to_best([(4.0, 1.0, 9.0), (0.0, 3.0, 0.0)]) == pytest.approx(1)


def test_table(bench, capsys, tmp_path, monkeypatch):
    table = bench["table"]
    path = tmp_path / "figures.json"
    assert table.run_rows(["apart"], trials=1, path=path) == 0
    kept = json.loads(path.read_text())
    assert kept["apart"]["others known"]["value"] == 1
    assert kept["apart"]["others known"]["met"]
    out = capsys.readouterr().out
    assert "at least 1" in out
    assert "of 3 figures within their ranges" in out
    tiles = bench["tiles"]
    tiles.tiles.cache_clear()
    monkeypatch.setattr(tiles, "FOLDER", tmp_path / "none")
    assert table.run_rows(["real-tiles"]) == 0
    assert "left out: the 100 real tiles are not in" in capsys.readouterr().out
