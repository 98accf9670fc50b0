# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of one pass: its pairs, its rejection, its corrections and its reference."""

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.exceptions import DisconnectedWarning
from levelmatch.measure.pair_selection import assign_pairs
from levelmatch.measure.table import PairTable, unmeasured
from levelmatch.options import SolveOptions
from levelmatch.sky.vectors import plane_terms, tangent_axes, transfer_matrix, unit_vectors
from levelmatch.solve.equations import Equations
from levelmatch.solve.groups import solve_groups
from levelmatch.solve.passes import Pass, labels
from levelmatch.solve.solve_pass import solve_pass, subtract_solution
from levelmatch.solve.weights import limits_of, select_pairs, short_variances
from levelmatch.testing import simulate_generic


def table_of(pairs, **columns):
    """Return a table of equal pairs, except for the given columns."""
    pairs = np.array(pairs)
    n = len(pairs)
    values = {
        "first": pairs[:, 0],
        "second": pairs[:, 1],
        "gram": np.repeat(np.diag([100.0, 10, 10])[None], n, axis=0),
        "rhs": np.zeros((n, 3)),
        "axes": np.repeat(tangent_axes(np.array([1.0, 0, 0]))[None], n, axis=0),
        "npix": np.full(n, 1000),
        "extent": np.full((n, 2), 0.8),
        "sigma": np.full(n, 0.1),
        "scatter": np.full(n, 1.0),
        "chi2": np.full(n, 1.0),
        "gain": np.full(n, np.nan),
        "gain_error": np.full(n, np.inf),
        "multiplicity": np.ones(n),
        **unmeasured(n),
    }
    for name, column in columns.items():
        values[name] = np.asarray(column)
    return PairTable(**{f.name: values[f.name] for f in fields(PairTable)})


RING = [(0, 1), (1, 2), (2, 3), (0, 3), (0, 2)]


def test_labels():
    assert_array_equal(labels(["b", "a", "b", "c"]), [1, 0, 1, 2])
    assert_array_equal(labels([("t", 2), ("s", 9), ("t", 1)]), [2, 0, 1])
    assert labels([]).shape == (0,)


def test_a_pair_is_used_in_the_first_pass_that_joins_it():
    # Six images in two tiles; the first tile has two detectors of two dithers.
    tile = np.array([0, 0, 0, 0, 1, 1])
    chip = np.array([0, 0, 1, 1, 2, 2])
    each = np.arange(6)
    passes = [
        Pass("dithers", "level", domain=chip, group=each),
        Pass("nircam_short", "level", domain=tile, group=chip),
        Pass("mosaic", "level", domain=np.zeros(6, int), group=tile),
    ]
    pairs = np.array([(0, 1), (0, 2), (0, 4), (2, 3), (1, 3), (3, 5), (4, 5)])
    assert_array_equal(assign_pairs(passes, pairs), [0, 1, 2, 0, 1, 2, 0])
    # Without the first two passes, nothing connects the images of a tile.
    assert_array_equal(assign_pairs(passes[2:], pairs), [-1, -1, 0, -1, -1, 0, -1])
    assert assign_pairs(passes, np.zeros((0, 2), int)).shape == (0,)


def test_all_good_pairs_count():
    kept, reason = select_pairs(table_of(RING), np.arange(4), SolveOptions())
    assert kept.all()
    assert reason == [""] * 5


def test_pairs_without_pixels_never_count():
    npix = np.array([1000, 1000, 1000, 1000, 0])
    gram = np.repeat(np.diag([100.0, 10, 10])[None], 5, axis=0)
    gram[4] = 0
    table = table_of(RING, npix=npix, gram=gram, scatter=[1, 1, 1, 1, np.nan])
    kept, reason = select_pairs(table, np.arange(4), SolveOptions())
    assert_array_equal(kept, [True] * 4 + [False])
    assert reason[4] == "no common good pixel"
    none = table_of(RING, npix=np.zeros(5, int))
    kept, reason = select_pairs(none, np.arange(4), SolveOptions())
    assert not kept.any()
    assert set(reason) == {"no common good pixel"}


CUTS = {
    "area": ({"npix": [1000, 1000, 1000, 1000, 1]}, "area: 1 pixels, under 2"),
    "extent": (
        {"extent": [(0.8, 0.8), (0.19, 0.3), (0.8, 0.8), (0.8, 0.8), (0.15, 0.19)]},
        "extent: 0.190 of the side, under 0.2",
    ),
    "scatter": ({"scatter": [1, 1.02, 0.98, 1, 9], "chi2": [1, 1, 1, 2, 5]}, "scatter: 9, over"),
}


@pytest.mark.parametrize(("columns", "words"), CUTS.values(), ids=CUTS)
def test_cuts_and_their_reasons(columns, words):
    options = SolveOptions(rms_limit=1.5)
    kept, reason = select_pairs(table_of(RING, **columns), np.arange(4), options)
    assert_array_equal(kept, [True] * 4 + [False])
    assert reason[:4] == [""] * 4
    assert reason[4].startswith(words)


def test_a_scatter_of_stars_is_no_reason_to_reject():
    """The cells of the last pair agree as those of the others do."""
    table = table_of(RING, scatter=[1, 1.02, 0.98, 1, 9], chi2=[1, 1, 2, 2, 5])
    for weights, last in (("ivar", True), ("rms", False)):
        kept, _ = select_pairs(table, np.arange(4), SolveOptions(rms_limit=1.5, weights=weights))
        assert_array_equal(kept, [True] * 4 + [last])


@pytest.mark.parametrize("columns", [c for c, _ in CUTS.values()], ids=CUTS)
def test_cuts_can_be_loosened(columns):
    options = SolveOptions(min_area=0, min_linear=0, rms_limit=20)
    assert select_pairs(table_of(RING, **columns), np.arange(4), options)[0].all()


SHORT = [0.8, 0.8, 0.1, 0.8, 0.05]
CHI2 = [4.0, 3.0, 2.0, 5.0, 8.0]


@pytest.mark.parametrize(
    ("fit_type", "weights", "added"),
    [
        # The typical scatter is 4: twice that of the first short pair, less than that of the other.
        ("level+slope", "ivar", [0, 0, 2 * 2**2 - 1, 0, 4**2 - 1]),
        ("level", "ivar", [0] * 5),
        ("level+slope", "equal", [0] * 5),
    ],
)
def test_short_overlaps_of_planes_count_less(fit_type, weights, added):
    table = table_of(RING, extent=np.outer(SHORT, [1.0, 0.5]), chi2=CHI2, sigma=np.full(5, 0.1))
    options = SolveOptions(weights=weights)
    kept, _ = select_pairs(table, np.arange(4), limits_of(fit_type, options))
    assert_array_equal(kept, [True, True, any(added), True, any(added)])
    found = short_variances(table, np.zeros(5, int), [fit_type], options)
    assert_allclose(found, 0.01 * np.array(added))


def test_a_set_of_short_overlaps_keeps_its_errors():
    table = table_of(RING, extent=np.full((5, 2), 0.1))
    assert not short_variances(table, np.zeros(5, int), ["level+slope"], SolveOptions()).any()


def test_short_overlaps_do_not_determine_the_floor():
    """Short overlaps that agree with the solution leave the floor as it is."""
    rng = np.random.default_rng(2)
    pairs = np.array([(i, j) for i in range(6) for j in range(i + 1, 6)])
    axes = np.repeat(np.eye(3)[None], 6, axis=0)

    def solved(ends, difference, short):
        first, second = ends.T
        gram = np.full((len(ends), 1, 1), 1e4)
        rhs = 1e4 * difference[:, None]
        middle = np.repeat(np.eye(3)[None], len(ends), axis=0)
        equations = Equations(first, second, gram, rhs, middle, axes, short=short)
        return solve_groups(equations, SolveOptions())

    difference = 0.1 * rng.standard_normal(len(pairs))
    alone = solved(pairs, difference, None)
    level = alone.coefficients[:, 0]
    agreeing = level[pairs[:, 0]] - level[pairs[:, 1]]
    ends, both = np.concatenate([pairs, pairs]), np.concatenate([difference, agreeing])
    short = np.repeat([False, True], len(pairs))
    assert_allclose(solved(ends, both, short).floor, alone.floor, rtol=1e-3)
    assert solved(ends, both, None).floor < 0.8 * alone.floor


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_corners_of_a_mosaic(fit_type):
    """The corners of the images overlap by 0.15 of a side, and count in passes of planes."""
    sim = simulate_generic(n_images=9, layout="grid", overlap=0.15, shape=(96, 96), seed=4)
    results = [
        lm.match_mosaic(
            list(sim.images),
            fit_type=fit_type,
            reference="mean",
            group_by="FILENAME",
            solve=SolveOptions(min_linear=m),
        )
        for m in (0.2, 0.0)
    ]
    now, full = (result.pairs for result in results)
    short = now["npix"] < 0.3 * np.max(now["npix"])
    assert np.count_nonzero(short) == 8
    assert_array_equal(now["kept"][~short], True)
    assert_array_equal(now["kept"][short], fit_type == "level+slope")
    if fit_type == "level+slope":
        assert (now["weight"][short] < 0.8 * full["weight"][short]).all()


def test_scatters_that_differ_little_are_all_kept():
    # The largest of twenty values exceeds two sigma by chance.
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    scatter = np.exp(0.1 * np.random.default_rng(0).standard_normal(len(pairs)))
    scatter[3] = 1.4
    assert select_pairs(table_of(pairs, scatter=scatter), np.arange(7), SolveOptions())[0].all()


@pytest.mark.parametrize("name", CUTS)
def test_the_only_link_is_kept_and_says_so(name):
    # Two rings of three groups and the pair that connects them.
    pairs = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)]
    bad = {
        "area": {"npix": [1000] * 6 + [1]},
        "extent": {"extent": [(0.8, 0.8)] * 6 + [(0.1, 0.1)]},
        "scatter": {"scatter": [1.0] * 6 + [50], "chi2": [1.0] * 6 + [9]},
    }[name]
    kept, reason = select_pairs(table_of(pairs, **bad), np.arange(6), SolveOptions())
    assert kept.all()
    assert reason[6].startswith(f"kept as the only link, although {name}: ")


def test_the_largest_of_the_only_links_is_kept():
    pairs = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3), (1, 3), (0, 4)]
    table = table_of(
        pairs, extent=[(0.8, 0.8)] * 6 + [(0.1, 0.1)] * 3, npix=[1000] * 6 + [50, 70, 60]
    )
    kept, reason = select_pairs(table, np.arange(6), SolveOptions())
    assert_array_equal(kept, [True] * 6 + [False, True, False])
    assert reason[6] == reason[8] == "extent: 0.100 of the side, under 0.2"


def test_links_are_between_groups():
    # The two images of group 1 need no link between them.
    group = np.array([0, 1, 1, 2])
    pairs = [(0, 1), (0, 2), (1, 3), (2, 3)]
    table = table_of(pairs, extent=[(0.8, 0.8), (0.1, 0.1), (0.8, 0.8), (0.1, 0.1)])
    kept, _ = select_pairs(table, group, SolveOptions())
    assert_array_equal(kept, [True, False, True, False])


def doubles(images):
    for image in images:
        image.data = image.data.astype(float)
    return images


@pytest.fixture
def mosaic(paint):
    """Return six images in two rows, with known planes."""
    rng = np.random.default_rng(2)
    return doubles(
        [
            paint(
                f"{k}.fits",
                (30.3 * (k // 3), 40.2 * (k % 3)),
                dtype="f8",
                plane=rng.normal(0, [2, 0.3, 0.3]),
                noise=0.02,
            )
            for k in range(6)
        ]
    )


def matched(images, fit_type, **options):
    return lm.match_mosaic(images, fit_type=fit_type, group_by="FILENAME", **options)


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("reference", ["mean", 2])
def test_subtracting_is_as_good_as_measuring_again(mosaic, fit_type, reference):
    result = matched(mosaic, fit_type, reference=reference)
    updated = subtract_solution(result.measured, result.passes[0])
    again = matched(
        list(result), fit_type, reference=reference, read=lm.ReadOptions(rematch=True)
    ).measured
    assert_array_equal(updated.first, again.first)
    if fit_type == "level":
        assert_allclose(updated.level, again.level, atol=1e-10)
        assert_allclose(updated.rhs, again.rhs, atol=1e-6 * np.abs(result.measured.rhs).max())
        assert_allclose(updated.gram, again.gram, rtol=1e-6, atol=1e-6 * again.gram.max())
    # Clipping and the scatter of a cell change with a slope by less than the pair's error.
    assert (np.abs(updated.level - again.level) < again.sigma).all()
    # Residuals refer to the updated pairs.
    assert_allclose(updated.level, result.passes[0].residual, atol=1e-9)


def test_planes_are_subtracted_about_each_pairs_centre(mosaic):
    result = matched(mosaic, "level+slope", reference=0)
    p, table = result.passes[0], result.measured
    updated = subtract_solution(table, p)
    rng = np.random.default_rng(0)
    for row in range(len(table)):
        before, after = (np.linalg.solve(t.gram[row], t.rhs[row]) for t in (table, updated))
        # Values at a few positions; each plane is evaluated about its own centre.
        points = unit_vectors(150 + 0.02 * rng.random(5), 2 + 0.02 * rng.random(5))
        i, j = table.first[row], table.second[row]
        planes = [plane_terms(points, p.group_axes[k]) @ p.solution.coefficients[k] for k in (i, j)]
        terms = plane_terms(points, table.axes[row])
        # They agree to the second order of the pair's extent.
        assert_allclose(terms @ after, terms @ before - planes[0] + planes[1], atol=1e-6)


def test_pairs_without_pixels_stay_so():
    axes = np.repeat(tangent_axes(np.array([1.0, 0, 0]))[None], 5, axis=0)
    axes[4] = np.nan
    gram = np.repeat(np.eye(3)[None], 5, axis=0)
    gram[4] = 0
    table = table_of(RING, npix=[9, 9, 9, 9, 0], axes=axes, gram=gram)

    class Solution:
        coefficients = np.arange(12.0).reshape(4, 3)

    solved = Pass(
        "mosaic",
        "level+slope",
        domain=np.zeros(4, int),
        group=np.arange(4),
        solution=Solution(),
        group_axes=np.repeat(axes[:1], 4, axis=0),
    )
    updated = subtract_solution(table, solved)
    assert_array_equal(updated.rhs[4], 0)
    assert np.isnan(updated.level[4])
    assert_allclose(updated.rhs[0], [3, 3, 3])


def test_reference_is_held_at_zero(mosaic):
    for fit_type in ("level", "level+slope"):
        result = matched(mosaic, fit_type, reference=0)
        assert_array_equal(result.passes[0].solution.coefficients[0], 0)
        assert [r.name for r in result.passes[0].references] == ["0.fits"]


def test_mean_has_no_reference(mosaic):
    result = matched(mosaic, "level", reference="mean")
    assert result.passes[0].references == []
    assert_allclose(result.passes[0].solution.coefficients.mean(), 0, atol=1e-12)


def test_sets_that_do_not_overlap(paint):
    images = [paint(f"{k}.fits", (0, 300.0 * (k // 2) + 30 * (k % 2))) for k in range(5)]
    match = "pass mosaic: the images form 3 sets without overlap between them; "
    match += ".* without any overlap .*4.fits"
    with pytest.warns(DisconnectedWarning, match=match):
        result = matched(images, "level", reference="mean")
    p = result.passes[0]
    assert_array_equal(p.isolated, [False] * 4 + [True])
    assert_array_equal(p.solution.component, [0, 0, 1, 1, 2])
    coefficients = p.solution.coefficients[:, 0]
    assert_allclose(coefficients[:4].reshape(2, 2).sum(axis=1), 0, atol=1e-12)
    assert coefficients[4] == 0
    assert_array_equal(result.table["isolated"], p.isolated)


def test_each_set_has_a_reference_of_its_own(paint):
    images = [paint(f"{k}.fits", (0, 300.0 * (k // 2) + 30 * (k % 2))) for k in range(4)]
    with pytest.warns(DisconnectedWarning, match="the images form 2 sets without overlap"):
        result = matched(images, "level", reference=1)
    held = [r.group for r in result.passes[0].references]
    assert held[0] == 1
    assert held[1] in (2, 3)
    assert_array_equal(result.passes[0].solution.coefficients[held], 0)


def test_variance_about_another_centre(mosaic):
    result = matched(mosaic, "level+slope", reference=0)
    p = result.passes[0]
    own = p.variance(4, p.group_axes[4])
    assert_allclose(own, p.solution.errors[4] ** 2)
    # The level far away is uncertain, because the slopes are.
    there = p.group_axes[0]
    change = transfer_matrix(p.group_axes[4], there)
    assert_allclose(p.variance(4, there), np.diag(change @ p.solution.covariance(4, 4) @ change.T))
    level = matched(mosaic, "level", reference=0).passes[0]
    assert_allclose(level.variance(4, there), [level.solution.errors[4, 0] ** 2, 0, 0])


def test_the_correction_of_a_group_is_that_of_its_images(paint):
    images = doubles(
        [paint(f"{k}.fits", (3.0 * (k % 2), 30.0 * (k // 2)), dtype="f8") for k in range(4)]
    )
    result = lm.match_mosaic(images, group_by=lambda name, meta: int(name[0]) // 2)
    p = result.passes[-1]
    assert p.group[0] == p.group[1] != p.group[2]
    level = [p.correction(i).coefficients(p.group_axes[0])[0] for i in range(4)]
    assert_allclose(level[0], level[1])
    assert_allclose(level[2], level[3])


def test_take_and_replace_keep_a_table_whole():
    table = table_of(RING)
    assert len(replace(table, rhs=table.rhs + 1).take([0, 2])) == 2


def test_a_pair_that_counts_for_two_has_twice_the_weight(mosaic):
    result = matched(mosaic, "level")
    p, table = result.passes[0], result.measured
    double = replace(table, multiplicity=2 * table.multiplicity)
    once, twice = (
        solve_pass(p, result.frames, t, p.rows, SolveOptions(floor=0.0)) for t in (table, double)
    )
    assert_allclose(twice.solution.coefficients, once.solution.coefficients, atol=1e-12)
    assert_allclose(twice.solution.errors, once.solution.errors / np.sqrt(2))
    assert_array_equal(double.level, table.level)
