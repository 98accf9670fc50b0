# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of wrong pairs and images, floors and few overlaps, by many trials."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from levelmatch.options import SolveOptions
from levelmatch.sky.vectors import tangent_axes, unit_vectors
from levelmatch.solve import dissection
from levelmatch.solve.equations import Equations
from levelmatch.solve.groups import solve_groups
from levelmatch.solve.linear import Factors, NormalMatrix
from levelmatch.solve.outlier_tests import redundancy
from levelmatch.solve.solver import Solver

SIGMA = 0.01


def mosaic(ny, nx, diagonals=False):
    """Return pairs of neighbours along the rows and columns of a mosaic, and axes."""
    number = np.arange(ny * nx).reshape(ny, nx)
    sides = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    if diagonals:
        sides += [(number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1])]
    first, second = (np.concatenate([s[k].ravel() for s in sides]) for k in (0, 1))
    y, x = np.divmod(np.arange(ny * nx), nx)
    return first, second, tangent_axes(unit_vectors(10 + 0.1 * x, 0.1 * y))


GRAPHS = {
    "triangle": ([0, 1, 0], [1, 2, 2]),
    "square and diagonal": ([0, 1, 2, 0, 0], [1, 3, 3, 2, 3]),
}


def graph(name):
    """Return pairs of a named graph, or of a mosaic of ny by nx images, and axes."""
    if isinstance(name, tuple):
        return mosaic(*name)
    first, second = (np.array(side) for side in GRAPHS[name])
    return first, second, mosaic(1, int(second.max()) + 1)[2]


def solved(first, second, axes, sigma, difference, **options):
    """Return the solution of pairs with known errors."""
    weight = np.broadcast_to(sigma, difference.shape) ** -2.0
    equations = Equations(
        first, second, weight[:, None, None], (weight * difference)[:, None], axes[first], axes
    )
    return solve_groups(equations, SolveOptions(**options))


@lru_cache(maxsize=64)
def trials(name, *, floor=0.0, n=30, spoil=None, given=False, **options):
    """Return errors, stated errors and floors of many trials, in units of the pair errors.

    ``spoil`` is called with the pairs' errors and a generator, and returns wrong ones.
    """
    first, second, axes = graph(name)
    if given:
        options["floor"] = floor * SIGMA
    errors, stated, floors = [], [], []
    for seed in range(n):
        rng = np.random.default_rng([seed, len(axes)])
        noise = np.hypot(1, floor) * rng.standard_normal(len(first))
        if spoil is not None:
            noise = spoil(noise, np.hypot(1, floor), rng)
        true = rng.normal(0, 3, len(axes))
        difference = true[first] - true[second] + SIGMA * noise
        solution = solved(first, second, axes, SIGMA, difference, **options)
        errors.append(solution.coefficients[:, 0] - true + true.mean())
        stated.append(solution.errors[:, 0])
        floors.append(solution.floor)
    return np.array(errors) / SIGMA, np.array(stated) / SIGMA, np.array(floors) / SIGMA


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


@pytest.mark.parametrize("size", [(5, 5), (3, 8)])
def test_a_mosaic_of_few_overlaps_keeps_its_floor(size):
    errors, stated, floors = trials(size, floor=3.0)
    assert floors.mean() > 0.85 * 3
    assert 0.85 < rms(errors / stated) < 1.25
    plain, _, _ = trials(size, floor=3.0, robust=None)
    assert rms(errors) < 1.03 * rms(plain)


def stripes(noise, total, rng):
    """Return scatter that is larger in pairs along columns than in pairs along rows."""
    along = len(noise) // 2
    noise[:along] += rng.standard_normal(along)
    noise[along:] += 4 * rng.standard_normal(len(noise) - along)
    return noise


def test_pairs_of_unlike_scatter_are_all_kept():
    errors, stated, _ = trials((6, 6), spoil=stripes)
    assert 0.85 < rms(errors / stated) < 1.25
    plain, _, _ = trials((6, 6), spoil=stripes, robust=None)
    assert rms(errors) < 1.03 * rms(plain)


def test_white_noise_is_white_noise():
    errors, stated, floors = trials((6, 6))
    assert 0.9 < rms(errors / stated) < 1.1
    assert np.median(floors) < 0.3


def wild(noise, total, rng):
    """Return 5 % of pairs off by 50 times their errors."""
    return spoilt(noise, total, rng, 50, 50)


def unlike(noise, total, rng):
    """Return 5 % of pairs off by 30 to 70 times their errors."""
    return spoilt(noise, total, rng, 30, 70)


def spoilt(noise, total, rng, low, high):
    """Return noise of a square mosaic with wild pairs, but not both pairs of a corner."""
    n = round((1 + np.sqrt(1 + 2 * len(noise))) / 2)
    first, second, _ = mosaic(n, n)
    bad, wild_of = [], np.array([2])
    while (wild_of == np.bincount(np.concatenate([first, second]))[: len(wild_of)]).any():
        bad = rng.choice(len(noise), round(0.05 * len(noise)), replace=False)
        wild_of = np.bincount(np.concatenate([first[bad], second[bad]]), minlength=n * n)
    noise[bad] += total * rng.choice([-1, 1], len(bad)) * rng.uniform(low, high, len(bad))
    return noise


@pytest.mark.parametrize("size", [(5, 5), (8, 8)])
@pytest.mark.parametrize(("floor", "spoil"), [(0.0, wild), (3.0, wild), (0.0, unlike)])
def test_wild_pairs_of_a_mosaic(size, floor, spoil):
    clean, stated_clean, _ = trials(size, floor=floor)
    errors, stated, _ = trials(size, floor=floor, spoil=spoil)
    # The two pairs of a corner cannot be distinguished, and the stated error shows this.
    told = stated < 4 * np.median(stated_clean)
    assert told.mean() > 0.7
    assert rms(errors[told]) < 2.5 * rms(clean)
    assert np.median(np.abs(errors[told])) < 1.7 * np.median(np.abs(clean))
    assert rms(errors / stated) < 1.5
    plain, _, _ = trials(size, floor=floor, spoil=spoil, robust=None)
    assert rms(errors[told]) < 0.5 * rms(plain[told])


def test_two_wild_pairs_of_an_edge_may_be_one():
    """Two equally wrong pairs of an image with three look like one wrong pair."""
    first, second, axes = mosaic(5, 5)
    rng = np.random.default_rng(2)
    noise = SIGMA * rng.standard_normal(len(first))
    one, two = np.flatnonzero((first == 2) | (second == 2))[:2]
    noise[one] += 50 * SIGMA * (1 if first[one] == 2 else -1)
    noise[two] += 50 * SIGMA * (1 if first[two] == 2 else -1)
    solution = solved(first, second, axes, SIGMA, noise)
    error = solution.coefficients[2, 0]
    assert_allclose(error, 50 * SIGMA, rtol=0.2)
    assert abs(error) < 12 * solution.errors[2, 0]
    others = np.setdiff1d(np.arange(25), 2)
    assert np.std(solution.coefficients[others, 0]) < 2 * SIGMA


def test_a_wild_pair_of_a_corner_may_be_either():
    first, second, axes = mosaic(5, 5)
    rng = np.random.default_rng(1)
    noise = SIGMA * rng.standard_normal(len(first))
    corner = np.flatnonzero((first == 0) | (second == 0))
    noise[corner[0]] += 60 * SIGMA
    solution = solved(first, second, axes, SIGMA, noise)
    others = np.setdiff1d(np.arange(len(first)), corner)
    assert_allclose(solution.robust[corner], 0.5, atol=0.45)
    assert_allclose(solution.robust[others], 1, atol=0.05)
    assert_allclose(solution.coefficients[0, 0], 30 * SIGMA, rtol=0.25, atol=0)
    assert_allclose(solution.errors[0, 0], 30 * SIGMA, rtol=0.15)
    # The other images are unaffected, and well known relative to each other.
    assert np.std(solution.coefficients[1:, 0]) < 2 * SIGMA
    covariance = solution.covariance_matrix
    variance = covariance[12, 12] + covariance[18, 18] - 2 * covariance[12, 18]
    assert np.sqrt(variance) < 2 * SIGMA
    assert_allclose(np.sqrt(np.diag(solution.covariance_matrix)), solution.errors[:, 0])
    assert_allclose(solution.covariance(0, 7), solution.covariance_matrix[0:1, 7:8])


def test_a_tail_of_large_differences_is_scatter():
    """Differences of all sizes are not rejected, and the stated errors are true."""

    def tail(noise, total, rng):
        return 2 * rng.standard_t(2.5, len(noise))

    errors, stated, _ = trials((10, 10), spoil=tail, n=20)
    plain, _, _ = trials((10, 10), spoil=tail, n=20, robust=None)
    assert 0.8 < rms(errors / stated) < 1.25
    assert rms(errors) < 1.02 * rms(plain)


def test_the_only_link_is_kept():
    one, two, axes = mosaic(4, 4)
    first = np.concatenate([one, one + 16, [3]])
    second = np.concatenate([two, two + 16, [20]])
    rng = np.random.default_rng(0)
    true = np.repeat([0.0, 100.0], 16)
    difference = true[first] - true[second] + SIGMA * rng.standard_normal(len(first))
    difference[4] += 60 * SIGMA
    solution = solved(first, second, np.concatenate([axes, axes]), SIGMA, difference)
    assert solution.robust[-1] == 1
    assert solution.n_sigma[-1] == 0
    assert solution.robust[4] < 1e-3
    step = solution.coefficients[16:].mean() - solution.coefficients[:16].mean()
    assert_allclose(step, 100, atol=5 * SIGMA)


def test_the_pairs_of_a_wrong_image_share_their_scatter():
    size = (5, 5, True)
    first, second, axes = mosaic(*size)
    bad = (first == 12) | (second == 12)

    def spoil(noise, total, rng):
        noise[bad] += 40 * rng.standard_normal(bad.sum())
        return noise

    errors, stated, _ = trials(size, spoil=spoil, n=30)
    clean, _, _ = trials(size, n=30)
    others = np.arange(25) != 12
    relative = errors[:, others] - errors[:, others].mean(axis=1, keepdims=True)
    assert rms(relative) < 1.3 * rms(clean)
    # The level is the mean of its pairs, within the error.
    assert 0.6 < rms(errors[:, 12] / stated[:, 12]) < 1.5


@pytest.mark.parametrize("name", ["triangle", "square and diagonal", (2, 4)])
def test_few_loops_give_wide_enough_intervals(name):
    errors, stated, _ = trials(name, floor=3.0, n=150)
    coverage = np.mean(np.abs(errors) < 1.96 * stated)
    # The standard error of the fraction from 150 trials is about 0.015.
    assert 0.91 < coverage < 0.998


def test_a_given_floor_is_not_doubted():
    errors, stated, _ = trials("triangle", floor=3.0, n=150, given=True)
    assert 0.88 < rms(errors / stated) < 1.12


@pytest.mark.parametrize("k", [1, 3])
def test_redundancy_is_that_of_dense_algebra(k):
    first, second, axes = mosaic(4, 5)
    rng = np.random.default_rng(k)
    root = rng.normal(0, 1, (len(first), k, k)) + 2 * np.eye(k)
    gram = 30 * np.einsum("pji,pjk->pik", root, root)
    equations = Equations(first, second, gram, gram[:, 0], axes[first], axes)
    free = np.ones((20, k), dtype=bool)
    free[3] = False
    factor = rng.uniform(0.5, 1, len(first))
    found = Solver(equations, free, None).solve(factor)
    left = redundancy(found)
    rows = np.zeros((len(first), k, 20, k))
    whole = np.sqrt(factor)[:, None, None] * equations.root
    for p, (i, j) in enumerate(zip(first, second, strict=True)):
        rows[p, :, i] += whole[p] @ equations.transfer[0][p]
        rows[p, :, j] -= whole[p] @ equations.transfer[1][p]
    design = rows.reshape(len(first) * k, 20 * k)[:, free.ravel()]
    hat = design @ np.linalg.solve(design.T @ design, design.T)
    blocks = hat.reshape(len(first), k, len(first), k)[range(len(first)), :, range(len(first))]
    assert_allclose(left, np.eye(k) - blocks, atol=1e-8)
    assert_allclose(np.trace(left, axis1=1, axis2=2).sum(), k * len(first) - free.sum())


@pytest.mark.parametrize(("k", "prior"), [(1, None), (1, 0.2), (3, None), (3, 0.2)])
def test_dense_solutions_are_those_of_the_fronts(k, prior):
    first, second, axes = mosaic(4, 5)
    rng = np.random.default_rng(k)
    root = rng.normal(0, 1, (len(first), k, k)) + 2 * np.eye(k)
    gram = 30 * np.einsum("pji,pjk->pik", root, root)
    rhs = np.einsum("pij,pj->pi", gram, rng.normal(size=(len(first), k)))
    middle = tangent_axes(axes[first, 0] + axes[second, 0])
    equations = Equations(first, second, gram, rhs, middle, axes)
    free = np.ones((20, k), dtype=bool)
    free[3] = free[7, 0] = False
    solver, factors = Solver(equations, free, prior), rng.uniform(0.5, 1, (4, len(first)))
    for factor, *found in zip(factors, *solver.solve_dense(factors), strict=True):
        solved = solver.finish(solver.solve(factor))
        left = np.trace(redundancy(solved), axis1=1, axis2=2)
        expected = equations.quadratic(solved.coefficients), left
        for one, other in zip(found, expected, strict=True):
            assert_allclose(one, other, rtol=1e-8, atol=1e-12)


def test_large_and_singular_systems_are_not_dense():
    first, second, axes = mosaic(4, 5)
    gram = np.ones((len(first), 1, 1))
    equations = Equations(first, second, gram, gram[:, 0], axes[first], axes)
    factors = np.ones((2, len(first)))
    # No group is held, so the levels have no zero.
    assert Solver(equations, np.ones((20, 1), dtype=bool), None).solve_dense(factors) is None
    first, second, axes = mosaic(12, 12)
    gram = np.ones((len(first), 1, 1))
    equations = Equations(first, second, gram, gram[:, 0], axes[first], axes)
    free = np.arange(144)[:, None] > 0
    assert Solver(equations, free, None).solve_dense(np.ones((2, len(first)))) is None


@pytest.mark.parametrize("many", [1, dissection.MANY])
@pytest.mark.parametrize("size", [3, 40, 200])
def test_entries_of_the_inverse(monkeypatch, size, many):
    monkeypatch.setattr(dissection, "MANY", many)
    rng = np.random.default_rng(size)
    chain = np.diag(np.full(size - 1, -1.0), 1)
    for _ in range(2 * size):
        chain[tuple(sorted(rng.choice(size, 2, replace=False)))] = -rng.uniform()
    matrix = chain + chain.T
    matrix += np.diag(0.1 - matrix.sum(axis=1))
    ends = np.array(np.triu(matrix, 1).nonzero(), dtype=np.intc)
    diagonal, above = matrix.diagonal().copy()[:, None, None], matrix[*ends][:, None, None]
    # The order follows positions, whatever these have to do with the links.
    points = tangent_axes(rng.standard_normal((size, 3)))[:, 0]
    order = dissection.Dissection(*ends, points, 8)
    own, across = Factors(NormalMatrix(diagonal, above, ends), order).blocks()
    inverse = np.linalg.inv(matrix)
    assert_allclose(own[:, 0, 0], inverse.diagonal(), rtol=1e-9)
    assert_allclose(across[:, 0, 0], inverse[*ends], rtol=1e-9)


@pytest.mark.parametrize("many", [1, dissection.MANY])
@pytest.mark.parametrize("linked", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_dissection_of_copies_and_of_sets_without_links(monkeypatch, linked, apart, many):
    """Groups at one position, links of all to all, and no links are factorised, too."""
    monkeypatch.setattr(dissection, "MANY", many)
    n, rng = 60, np.random.default_rng(1)
    points = tangent_axes(np.array([1.0, 0, 0]) + apart * rng.normal(size=(n, 3)).round(1))[:, 0]
    ends = np.array(np.triu(rng.uniform(size=(n, n)) < linked, 1).nonzero(), dtype=np.intc)
    above = -rng.uniform(0.1, 1, ends.shape[1])
    matrix = np.zeros((n, n))
    matrix[*ends] = above
    matrix += matrix.T
    matrix += np.diag(0.1 - matrix.sum(axis=1))
    order = dissection.Dissection(*ends, points, 4)
    assert sorted(order.order.tolist()) == list(range(n))
    blocks = NormalMatrix(matrix.diagonal().copy()[:, None, None], above[:, None, None], ends)
    found = Factors(blocks, order).solve(np.ones(n))
    assert_allclose(matrix @ found, 1, rtol=1e-10)


@pytest.mark.parametrize("k", [1, 3])
def test_halves_of_a_dissection(monkeypatch, k):
    """Two threads find what one finds, and the halves are of about equal size."""
    rng, (first, second, axes) = np.random.default_rng(k), mosaic(20, 20)
    shape, ends = (len(axes), k, k), np.array([first, second], dtype=np.intc)
    across = rng.uniform(-1, 1, (len(first), k, k))
    matrix = NormalMatrix(np.broadcast_to(20 * np.eye(k), shape).copy(), across, ends)
    dense, rhs = matrix.toarray(), rng.normal(size=(len(axes) * k, 2))
    for many in (1, dissection.MANY):
        monkeypatch.setattr(dissection, "MANY", many)
        order = dissection.Dissection(*ends, np.ascontiguousarray(axes[:, 0]), 8)
        factors = Factors(matrix, order)
        assert_allclose(dense @ factors.solve(rhs), rhs, atol=1e-12)
        assert_allclose(dense @ factors.solve(rhs[:, 0]), rhs[:, 0], atol=1e-12)
        diagonal = np.linalg.inv(dense).diagonal()
        found = np.einsum("pii->pi", factors.blocks()[0]).ravel()
        assert_allclose(found, diagonal, rtol=1e-12)
        if many == 1:
            (_, middle), (_, last) = order.halves
            assert 0.3 < order.start[middle] / order.start[last] < 0.7
        else:
            assert order.halves == ()


@pytest.mark.parametrize("spoil", [wild, unlike])
def test_wild_pairs_of_a_large_mosaic(spoil):
    clean, stated_clean, _ = trials((40, 40), n=2)
    errors, stated, floors = trials((40, 40), n=2, spoil=spoil)
    told = stated < 4 * np.median(stated_clean)
    assert told.mean() > 0.9
    assert rms(errors[told]) < 1.6 * rms(clean)
    assert rms(errors / stated) < 1.5
    assert floors.max() < 0.5


def test_wrong_planes_of_a_large_mosaic():
    """Scatter of the levels alone is no reason to keep pairs that are wrong by far more."""
    first, second, axes = mosaic(40, 40, diagonals=True)
    rng = np.random.default_rng(4)
    middle = tangent_axes(axes[first, 0] + axes[second, 0])
    gram = np.tile(np.diag([SIGMA**-2.0, 1.0, 1.0]), (len(first), 1, 1))
    gram[:, 1:, 1:] *= (3 * SIGMA) ** -2.0
    empty = np.zeros((len(first), 3))
    equations = Equations(first, second, gram, empty, middle, axes)
    true = rng.normal(0, 1, (len(axes), 3))
    difference = equations.differences(true)
    difference += rng.standard_normal(difference.shape) / np.sqrt(np.einsum("pii->pi", gram))
    difference[:, 0] += 0.8 * SIGMA * rng.standard_normal(len(difference))
    wrong = rng.choice(len(first), 6, replace=False)
    difference[wrong, 0] += 100 * SIGMA
    equations = replace(equations, rhs=np.einsum("pij,pj->pi", gram, difference))
    solution = solve_groups(equations, SolveOptions())
    assert_array_equal(np.flatnonzero(solution.robust < 0.5), np.sort(wrong))
