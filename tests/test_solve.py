# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the solver on simulated pairs, against dense algebra, a minimizer and trials."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.stats import chi2

from levelmatch.exceptions import ConvergenceError
from levelmatch.options import SolveOptions, fit_terms
from levelmatch.sky.overlaps import components
from levelmatch.sky.vectors import lonlat, tangent_axes, transfer_matrix, unit_vectors
from levelmatch.solve import equations as equations_module, solution as solution_module, solver
from levelmatch.solve.equations import NONE_KNOWN, Equations, KnownErrors
from levelmatch.solve.gauge import Gauge
from levelmatch.solve.groups import solve_groups
from levelmatch.solve.outlier_tests import redundancy

PLAIN = SolveOptions(floor=0.0, robust=None)
derandomized = settings(derandomize=True, max_examples=60, deadline=None)


def places(n, *, centre=(80.0, 30.0), size=0.3, seed=0):
    """Return the centres of groups as axes."""
    rng = np.random.default_rng([seed, n])
    lon, lat = np.array(centre)[:, None] + size * rng.uniform(-1, 1, (2, n))
    return tangent_axes(unit_vectors(lon, lat))


def random_graph(n, n_extra, seed):
    """Return a spanning tree and other pairs, the lower group first."""
    rng = np.random.default_rng([seed, n, n_extra])
    pairs = {(int(rng.integers(k)), k) for k in range(1, n)}
    for _ in range(n_extra):
        i, j = sorted(rng.choice(n, 2, replace=False).tolist())
        pairs.add((i, j))
    return np.array(sorted(pairs)).T


def between(axes, first, second):
    """Return axes midway between the groups of each pair."""
    return tangent_axes(axes[first, 0] + axes[second, 0])


def differences(axes, middle, first, second, true):
    """Return the differences of exact pairs for true corrections."""
    if true.shape[1] == 1:
        return true[first] - true[second]
    there = [
        np.einsum("pij,pj->pi", transfer_matrix(axes[side], middle), true[side])
        for side in (first, second)
    ]
    return there[0] - there[1]


def equations_of(first, second, gram, d, axes, middle=None):
    middle = between(axes, first, second) if middle is None else middle
    return Equations(
        first=np.asarray(first),
        second=np.asarray(second),
        gram=gram,
        rhs=np.einsum("pij,pj->pi", gram, d),
        axes=middle,
        group_axes=axes,
    )


def made_up(n, n_extra, k, *, seed=0, noise=0.0, axes=None, graph=None):
    """Return equations of random pairs about random true corrections."""
    rng = np.random.default_rng([seed, n, n_extra, k])
    first, second = random_graph(n, n_extra, seed) if graph is None else graph
    axes = places(n, seed=seed) if axes is None else axes
    true = rng.normal(0, 3, (n, k))
    root = rng.normal(0, 1, (len(first), k, k)) + 2 * np.eye(k)
    gram = 50 * np.einsum("pji,pjk->pik", root, root)
    middle = between(axes, first, second)
    d = differences(axes, middle, first, second, true)
    if noise:
        chol = np.linalg.cholesky(np.linalg.inv(gram))
        d = d + noise * np.einsum("pij,pj->pi", chol, rng.standard_normal(d.shape))
    return equations_of(first, second, gram, d, axes, middle), true


def solved(equations, options=PLAIN, *, weights="ivar", **keywords):
    return solve_groups(equations, replace(options, weights=weights), **keywords)


def without_gauge(coefficients, axes):
    """Return coefficients minus the mean, or the mean plane, of all."""
    if coefficients.shape[1] == 1:
        return coefficients - coefficients.mean(axis=0)
    centre = tangent_axes(axes[:, 0].sum(axis=0))
    mean = np.einsum("gij,gj->i", transfer_matrix(axes, centre), coefficients) / len(axes)
    return coefficients - transfer_matrix(centre, axes) @ mean


def dense(equations, factor):
    """Return the whole problem as dense least squares."""
    n, k = equations.n_groups, equations.n_terms
    rows, values = [], []
    for p, (i, j) in enumerate(zip(equations.first, equations.second, strict=True)):
        root = np.linalg.cholesky(factor[p] * equations.gram[p]).T
        row = np.zeros((k, n, k))
        row[:, i] += equations.transfer[0, p]
        row[:, j] -= equations.transfer[1, p]
        rows.append(root @ row.reshape(k, n * k))
        values.append(root @ np.linalg.solve(equations.gram[p], equations.rhs[p]))
    return np.concatenate(rows), np.concatenate(values)


@derandomized
@given(
    n=st.integers(2, 12),
    extra=st.integers(0, 20),
    k=st.sampled_from([1, 3]),
    seed=st.integers(0, 100),
)
def test_exact_pairs_give_the_truth_back(n, extra, k, seed):
    equations, true = made_up(n, extra, k, seed=seed)
    found = solved(equations).coefficients
    scale = np.abs(true).max() * (1 if k == 1 else 100)
    assert_allclose(found, without_gauge(true, equations.group_axes), atol=1e-9 * scale)


@derandomized
@given(
    n=st.integers(2, 9),
    extra=st.integers(0, 20),
    k=st.sampled_from([1, 3]),
    seed=st.integers(0, 100),
    held=st.integers(0, 8),
)
def test_noisy_pairs_as_dense_algebra_solves_them(n, extra, k, seed, held):
    assume(held < n)
    equations, _ = made_up(n, extra, k, seed=seed, noise=1.0)
    matrix, value = dense(equations, np.ones(len(equations.first)))
    free = np.repeat(np.arange(n) != held, k)
    expected = np.zeros(n * k)
    expected[free] = np.linalg.lstsq(matrix[:, free], value, rcond=None)[0]
    solution = solved(equations, reference=lambda members: held)
    scale = np.abs(expected).max()
    assert_allclose(solution.coefficients.ravel(), expected, atol=1e-8 * scale)
    assert_array_equal(solution.coefficients[held], 0)
    assert_array_equal(solution.reference, [held])
    covariance = np.zeros((n * k, n * k))
    covariance[np.ix_(free, free)] = np.linalg.inv(matrix[:, free].T @ matrix[:, free])
    tolerance = 1e-7 * covariance.max()
    assert_allclose(solution.covariance_matrix, covariance, atol=tolerance)
    assert_allclose(solution.errors.ravel() ** 2, np.diag(covariance), atol=tolerance)


@pytest.mark.parametrize("k", [1, 3])
def test_mean_gauge(k):
    equations, _ = made_up(7, 9, k, noise=1.0)
    zero_mean = solved(equations)
    held = solved(equations, reference=lambda members: 3)
    axes = equations.group_axes
    assert_allclose(zero_mean.coefficients, without_gauge(held.coefficients, axes), atol=1e-10)
    assert_array_equal(zero_mean.reference, [-1])
    # The residuals do not depend on the gauge.
    assert_allclose(
        equations.residuals(zero_mean.coefficients),
        equations.residuals(held.coefficients),
        atol=1e-10,
    )


@pytest.mark.parametrize("k", [1, 3])
def test_sets_without_a_link_have_a_gauge_each(k):
    first, second = np.array([0, 1, 0, 4, 5]), np.array([1, 2, 2, 5, 6])
    equations, true = made_up(8, 0, k, graph=(first, second))
    axes = equations.group_axes
    found = solved(equations).coefficients
    expected = np.zeros((8, k))
    for members in ([0, 1, 2], [4, 5, 6]):
        expected[members] = without_gauge(true[members], axes[members])
    assert_allclose(found, expected, atol=1e-8)
    assert_array_equal(found[[3, 7]], 0)
    asked = []

    def last(members):
        asked.append(list(members))
        return members[-1]

    solution = solved(equations, reference=last)
    assert sorted(asked) == [[0, 1, 2], [3], [4, 5, 6], [7]]
    assert_array_equal(solution.coefficients[[2, 6]], 0)
    assert_array_equal(solution.errors[[2, 3, 6, 7]], 0)
    assert (solution.errors[[0, 1, 4, 5]] > 0).all()
    assert_array_equal(components(np.stack([first, second], 1), 8)[1], solution.component)


def test_the_first_group_can_be_the_reference():
    equations, _ = made_up(5, 3, 1, noise=1.0)
    assert solved(equations, reference=lambda members: 0).coefficients[0, 0] == 0


def test_no_pair_at_all():
    axes = places(3)
    empty = np.zeros(0, dtype=np.intp)
    equations = equations_of(empty, empty, np.zeros((0, 3, 3)), np.zeros((0, 3)), axes)
    solution = solved(equations, SolveOptions())
    assert_array_equal(solution.coefficients, 0)
    assert_array_equal(solution.errors, 0)
    assert solution.floor == 0


WEIGHTINGS = {
    "ivar": lambda own, npix, scatter: own,
    "equal": lambda own, npix, scatter: np.ones_like(own),
    "npix": lambda own, npix, scatter: npix,
    "rms": lambda own, npix, scatter: scatter**-2,
}


@pytest.mark.parametrize("weights", WEIGHTINGS)
def test_the_objective_is_the_weighted_sum_of_squares(weights):
    # Rows scaled by the weight instead of its root would minimize another sum.
    rng = np.random.default_rng(2)
    first, second = random_graph(5, 8, 0)
    m = len(first)
    own, npix, scatter = 10 ** rng.uniform(0, 2, m), rng.uniform(10, 1e3, m), rng.uniform(0.1, 2, m)
    d = rng.normal(0, 1, m)
    equations = equations_of(first, second, own[:, None, None], d[:, None], places(5))
    solution = solved(equations, weights=weights, npix=npix, scatter=scatter)
    w = WEIGHTINGS[weights](own, npix, scatter)

    def objective(c, power=1.0):
        return np.sum((w / w.max()) ** power * (d - c[first] + c[second]) ** 2)

    found = solution.coefficients[:, 0]
    best = minimize(objective, np.zeros(5), tol=1e-12).x
    assert_allclose(found, best - best.mean(), atol=2e-5)
    assert_allclose(solution.weight / solution.weight[0], w / w[0])
    if weights != "equal":
        wrong = minimize(objective, np.zeros(5), args=(2.0,), tol=1e-12).x
        assert np.abs(found - (wrong - wrong.mean())).max() > 0.01


def test_weights_with_a_floor():
    own = np.array([100.0, 4.0])
    equations = equations_of([0, 1], [1, 2], own[:, None, None], np.zeros((2, 1)), places(3))
    solution = solved(equations, SolveOptions(floor=0.3))
    assert_allclose(solution.weight, 1 / (1 / own + 0.09))
    assert solution.floor == 0.3
    assert_allclose(solution.covariance(0, 0), solution.errors[0, 0] ** 2)


@pytest.mark.parametrize("weights", WEIGHTINGS)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("reference", [None, 2])
def test_covariance_is_that_of_the_noise_carried_through(weights, k, reference):
    # The solution is linear in the right-hand sides, whose covariance is the normal matrix.
    n = 6
    equations, _ = made_up(n, 6, k)
    m = len(equations.first)
    rng = np.random.default_rng(1)
    npix, scatter = rng.uniform(10, 1000, (2, m))
    keywords = {
        "weights": weights,
        "npix": npix,
        "scatter": scatter,
        "reference": None if reference is None else lambda members: reference,
    }
    chol = np.linalg.cholesky(equations.gram)
    response = []
    for p, c in np.ndindex(m, k):
        rhs = np.zeros((m, k))
        rhs[p] = chol[p, :, c]
        unit = replace(equations, rhs=rhs)
        response.append(solved(unit, **keywords).coefficients.ravel())
    expected = np.transpose(response) @ np.array(response)
    stated = solved(equations, **keywords)
    tolerance = {"rtol": 1e-6, "atol": 1e-8 * expected.max()}
    assert_allclose(stated.covariance_matrix, expected, **tolerance)
    assert_allclose(stated.errors.ravel(), np.sqrt(np.diag(expected)), rtol=1e-6, atol=1e-8)
    assert_allclose(stated.covariance(1, 4), expected[k : 2 * k, 4 * k : 5 * k], **tolerance)


@pytest.mark.parametrize("weights", ["ivar", "equal"])
def test_errors_are_those_of_many_trials(weights):
    equations, true = made_up(6, 6, 1)
    pulls = []
    for seed in range(250):
        rng = np.random.default_rng([4, seed])
        noise = np.sqrt(equations.gram[:, 0]) * rng.standard_normal(equations.rhs.shape)
        solution = solved(replace(equations, rhs=equations.rhs + noise), weights=weights)
        pulls.append((solution.coefficients - true + true.mean()) / solution.errors)
    assert_allclose(np.std(pulls), 1, atol=0.08)


def with_rows(n, size, seed=0):
    """Return a lattice of planes, whose every third pair has a shared noise of its level."""
    first, second, axes = lattice(n)
    rng = np.random.default_rng([seed, n])
    root = rng.normal(0, 0.2, (len(first), 3, 3)) + np.diag([20.0, 6.0, 6.0])
    gram = np.einsum("pji,pjk->pik", root, root)
    kinds = np.where(np.arange(len(first)) % 3 == 0, 1.0, 0.0)[:, None] * [1.0, 0.0, 0.0]
    shared = np.einsum("pji,pj,pjk->pik", root, size**2 * kinds, root)
    true = rng.normal(0, 3, (n * n, 3))
    middle = between(axes, first, second)
    d = differences(axes, middle, first, second, true)
    return replace(
        equations_of(first, second, gram, d, axes, middle), known=KnownErrors(shared)
    ), true


def response_of(equations, **keywords):
    """Return the matrix from the right-hand sides of the pairs to the coefficients."""
    columns = []
    for p, c in np.ndindex(equations.rhs.shape):
        rhs = np.zeros_like(equations.rhs)
        rhs[p, c] = 1.0
        columns.append(solved(replace(equations, rhs=rhs), **keywords).coefficients.ravel())
    return np.array(columns).T


@pytest.mark.parametrize("gauge", ["reference", "mean"])
def test_covariance_has_the_shared_noise_of_the_pairs(gauge):
    equations, _ = with_rows(3, 5.0)
    options = replace(PLAIN, slope_gauge=gauge)
    keywords = {"options": options, "reference": lambda members: members[4]}
    response = response_of(equations, **keywords)
    noise = np.zeros((len(equations.first), 3) * 2)
    own = np.arange(len(equations.first))
    noise[own, :, own] = equations.gram + equations.known.shared
    expected = response @ noise.reshape(2 * (response.shape[1],)) @ response.T
    stated = solved(equations, **keywords)
    assert_allclose(stated.covariance_matrix, expected, rtol=1e-6, atol=1e-9 * expected.max())
    # From the blocks alone, as in a large system.
    errors = solved(equations, **keywords).errors.ravel()
    assert_allclose(errors, np.sqrt(np.diag(expected)), rtol=1e-3, atol=1e-9)
    plain = solved(replace(equations, known=NONE_KNOWN), **keywords)
    assert_allclose(stated.coefficients, plain.coefficients)
    assert plain.errors[0, 0] < 0.9 * stated.errors[0, 0]


def test_a_prior_and_no_shared_noise_leave_the_covariance():
    equations, _ = with_rows(3, 5.0)
    none = replace(equations, known=KnownErrors(np.zeros_like(equations.gram)))
    options = replace(PLAIN, slope_prior=0.1)
    one, two = (solved(e, options) for e in (replace(equations, known=NONE_KNOWN), none))
    assert_allclose(two.covariance_matrix, one.covariance_matrix, rtol=1e-6, atol=1e-12)
    two = solved(none, options)
    assert_allclose(two.errors, one.errors, rtol=1e-4)


@pytest.mark.parametrize("size", [0.0, 10.0])
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_errors_with_shared_noise_and_a_floor_are_those_of_many_trials(size, floor):
    """The floor does not count the shared noise a second time."""
    equations, true = with_rows(4, size)
    square = 1 + floor**2 * equations.gram[:, 0, 0]
    root = np.linalg.cholesky(square[:, None, None] * equations.gram + equations.known.shared)
    pulls = {"with": [], "without": []}
    for seed in range(200):
        rng = np.random.default_rng([5, seed])
        noise = np.einsum("pij,pj->pi", root, rng.standard_normal(equations.rhs.shape))
        noisy = replace(equations, rhs=equations.rhs + noise)
        for name, one in (("with", noisy), ("without", replace(noisy, known=NONE_KNOWN))):
            solution = solved(one, SolveOptions(robust=None))
            error = without_gauge(solution.coefficients - true, equations.group_axes)
            pulls[name].append(error / solution.errors)
    found = {name: np.sqrt(np.mean(np.square(p), axis=(0, 1))) for name, p in pulls.items()}
    assert_allclose(found["with"], 1, atol=0.1)
    if size and not floor:
        # The floor alone widens slopes like levels.
        assert (found["without"][1:] < 0.9).all()


def lattice(n):
    """Return groups on a square lattice, each paired with all within two steps."""
    steps = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (1, 2), (2, 1), (1, -2), (2, -1)]
    pairs = [
        (y * n + x, (y + dy) * n + x + dx)
        for y in range(n)
        for x in range(n)
        for dy, dx in steps
        if 0 <= y + dy < n and 0 <= x + dx < n
    ]
    first, second = np.array(pairs).T
    axes = tangent_axes(
        unit_vectors(10 + 0.1 * (np.arange(n * n) % n), 0.1 * (np.arange(n * n) // n))
    )
    return first, second, axes


@lru_cache(maxsize=32)
def lattice_errors(options, *, floor=0.0, spoil=None, n_trials=20, n=5):
    """Return level errors and pulls of trials on the lattice, without a spoilt group."""
    first, second, axes = lattice(n)
    m, middle = len(first), between(axes, first, second)
    errors, pulls, floors = [], [], []
    for seed in range(n_trials):
        rng = np.random.default_rng([7, seed])
        sigma = 0.01 * rng.uniform(0.5, 2, m)
        true = rng.normal(0, 3, n * n)
        total = np.hypot(sigma, floor)
        d = true[first] - true[second] + total * rng.standard_normal(m)
        keep = np.ones(n * n, dtype=bool)
        if spoil == "pairs":
            bad = rng.choice(m, round(0.05 * m), replace=False)
            d[bad] += rng.choice([-50, 50], len(bad)) * total[bad]
        elif spoil == "image":
            keep[n * n // 2] = False
            bad = (first == n * n // 2) | (second == n * n // 2)
            d[bad] += 0.3 * rng.standard_normal(bad.sum())
        equations = equations_of(
            first, second, sigma[:, None, None] ** -2, d[:, None], axes, middle
        )
        solution = solved(equations, options)
        error = solution.coefficients[:, 0] - true
        error = error[keep] - error[keep].mean()
        # Errors are relative to the mean of all groups, including a spoilt one.
        about = np.eye(n * n)[keep] - keep / keep.sum()
        covariance = about @ solution.covariance_matrix @ about.T
        pulls.append(error / np.sqrt(np.diag(covariance)))
        errors.append(error)
        floors.append(solution.floor)
    return np.std(errors), np.std(pulls), np.array(floors)


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("robust", ["huber", "tukey"])
def test_robust_weights_cost_little(robust, floor):
    plain, _, _ = lattice_errors(SolveOptions(robust=None), floor=floor)
    error, pull, _ = lattice_errors(SolveOptions(robust=robust), floor=floor)
    assert error < 1.08 * plain
    assert 0.9 < pull < 1.15


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("spoil", ["pairs", "image"])
def test_wild_pairs_do_little_harm(spoil, floor):
    clean, _, _ = lattice_errors(SolveOptions(robust=None), floor=floor)
    plain, _, _ = lattice_errors(SolveOptions(robust=None), floor=floor, spoil=spoil)
    robust, pull, _ = lattice_errors(SolveOptions(), floor=floor, spoil=spoil)
    assert robust < 1.2 * clean
    # A systematic scatter of 0.1 hides one image's scatter of 0.3, which then does little harm.
    assert plain > (1.5 if spoil == "pairs" or floor == 0 else 1.01) * clean
    assert 0.85 < pull < 1.25


@pytest.mark.parametrize("robust", [None, "tukey"])
@pytest.mark.parametrize("floor", [0.0, 0.03, 0.3])
def test_floor_is_the_injected_scatter(floor, robust):
    _, pull, found = lattice_errors(SolveOptions(robust=robust), floor=floor)
    if floor:
        assert_allclose(found.mean(), floor, rtol=0.08)
    else:
        assert found.max() < 0.008
    assert 0.9 < pull < 1.12


def test_sets_have_floors_of_their_own():
    rng = np.random.default_rng(0)
    first, second, axes = lattice(4)
    first, second = np.concatenate([first, first + 16]), np.concatenate([second, second + 16])
    axes = np.concatenate([axes, axes])
    m = len(first)
    d = rng.normal(0, 0.01, m)
    d[m // 2 :] += rng.normal(0, 0.5, m // 2)
    equations = equations_of(first, second, np.full((m, 1, 1), 1e4), d[:, None], axes)
    floors = solved(equations, SolveOptions(robust=None)).floors
    assert floors[0] < 0.008
    assert_allclose(floors[1], 0.5, rtol=0.25)


def test_a_tree_has_no_loop_to_tell_a_floor():
    rng = np.random.default_rng(0)
    first, second = np.arange(9), np.arange(1, 10)
    equations = equations_of(
        first, second, np.full((9, 1, 1), 1e4), rng.normal(0, 1, (9, 1)), places(10)
    )
    solution = solved(equations, SolveOptions())
    assert solution.floor == 0
    assert_array_equal(solution.robust, 1)


def test_a_wild_pair_stands_out():
    first, second, axes = lattice(4)
    rng = np.random.default_rng(5)
    d = rng.normal(0, 0.01, len(first))
    d[17] += 5
    equations = equations_of(first, second, np.full((len(d), 1, 1), 1e4), d[:, None], axes)
    solution = solved(equations, SolveOptions())
    assert np.argmin(solution.robust) == 17
    assert solution.robust[17] < 1e-3
    assert np.argmax(solution.n_sigma) == 17
    assert solution.n_sigma[17] > 100
    assert np.median(solution.robust) > 0.85


@pytest.mark.parametrize("robust", ["huber", "tukey"])
def test_the_only_link_is_never_dropped(robust):
    # Two precise lattices, and one pair between them that no loop tests.
    first, second, axes = lattice(4)
    rng = np.random.default_rng(6)
    n, m = 16, len(first)
    first = np.concatenate([first, first + n, [3]])
    second = np.concatenate([second, second + n, [n + 5]])
    true = np.repeat([0.0, 1e4], n)
    d = true[first] - true[second] + rng.normal(0, 0.01, 2 * m + 1)
    equations = equations_of(
        first, second, np.full((2 * m + 1, 1, 1), 1e4), d[:, None], np.concatenate([axes, axes])
    )
    solution = solved(equations, SolveOptions(robust=robust))
    step = solution.coefficients[n:, 0].mean() - solution.coefficients[:n, 0].mean()
    assert_allclose(step, 1e4, atol=0.1)
    assert solution.robust[-1] > 0.99


def test_slope_prior():
    equations, _ = made_up(5, 4, 3, noise=1.0)
    matrix, value = dense(equations, np.ones(len(equations.first)))
    prior = 0.2
    ridge = np.diag(np.tile([0, prior**-2, prior**-2], 5))
    free = np.arange(15) >= 3
    expected = np.zeros(15)
    expected[free] = np.linalg.solve(
        (matrix.T @ matrix + ridge)[np.ix_(free, free)], (matrix.T @ value)[free]
    )
    options = SolveOptions(floor=0.0, robust=None, slope_prior=prior)
    found = solved(equations, options, reference=lambda members: 0)
    assert_allclose(found.coefficients.ravel(), expected, atol=1e-9)
    # A very wide prior changes nothing, and a very narrow one leaves only levels.
    loose = SolveOptions(floor=0.0, robust=None, slope_prior=1e9)
    assert_allclose(
        solved(equations, loose).coefficients, solved(equations).coefficients, atol=1e-8
    )
    tight = SolveOptions(floor=0.0, robust=None, slope_prior=1e-9)
    held = solved(equations, tight, reference=lambda members: 0)
    assert np.abs(held.coefficients[:, 1:]).max() < 1e-9
    assert np.abs(held.coefficients[1:, 0]).min() > 0.01


def line_of_planes(gram_of_last):
    """Return three well measured groups, and a fourth with one poor pair."""
    axes = places(4, size=0.05)
    first, second = np.array([0, 0, 1, 2]), np.array([1, 2, 2, 3])
    middle = between(axes, first, second)
    true = np.random.default_rng(3).normal(0, 1, (4, 3))
    true[3, 1:] = true[2, 1:]
    gram = np.repeat(np.diag([1e4, 1e4, 1e4])[None], 4, axis=0)
    gram[3] = gram_of_last
    d = differences(axes, middle, first, second, true)
    return equations_of(first, second, gram, d, axes, middle), true


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("reference", [None, 0])
def test_slopes_that_no_pair_sees_do_not_blow_up(rank, reference):
    # One cell gives a level, and two cells give a slope along one direction.
    rng = np.random.default_rng(rank)
    for _ in range(20):
        terms = np.array([[1.0, *rng.uniform(-2, 2, 2)] for _ in range(rank)])
        equations, true = line_of_planes(1e3 * terms.T @ terms)
        rhs = equations.rhs + np.einsum(
            "pij,pj->pi", equations.gram, 0.01 * rng.standard_normal((4, 3))
        )
        solution = solved(
            replace(equations, rhs=rhs),
            reference=None if reference is None else lambda members: reference,
        )
        assert np.isfinite(solution.coefficients).all()
        assert np.isfinite(solution.errors).all()
        assert np.abs(solution.coefficients).max() < 100 * np.abs(true).max()


@pytest.mark.parametrize("weights", WEIGHTINGS)
@pytest.mark.parametrize("k", [1, 3])
def test_long_chain(k, weights):
    n = 500 if k == 1 else 200
    lon = 10 + 0.02 * np.arange(n)
    axes = tangent_axes(unit_vectors(lon, 5 + 0.01 * np.sin(lon)))
    graph = np.stack([np.arange(n - 1), np.arange(1, n)])
    equations, true = made_up(n, 0, k, graph=graph, axes=axes)
    expected = true - (transfer_matrix(axes[0], axes) @ true[0] if k == 3 else true[0])
    one = solved(equations, weights=weights, reference=lambda members: 0)
    assert_array_equal(one.coefficients[0], 0)
    if k == 1:
        assert_allclose(one.coefficients, expected, atol=1e-11)
        mean = solved(equations, SolveOptions(), weights=weights).coefficients
        assert_allclose(mean, true - true.mean(), atol=1e-11)
    # Errors of slopes grow along a chain with the lever arm; rounding must not add to them.
    assert_allclose(one.coefficients[:100], expected[:100], atol=1e-7)
    # Planes are carried over 200 images with rounding errors far below their errors.
    off = np.abs(one.coefficients - expected)[1:]
    assert (off < 0.05 * one.errors[1:]).all()
    two = solved(equations, weights=weights, reference=lambda members: 0)
    assert one.coefficients.tobytes() == two.coefficients.tobytes()


@pytest.mark.parametrize(
    "reference",
    [None, 0],
)
@pytest.mark.parametrize("weights", ["ivar", "equal"])
def test_errors_of_large_systems(monkeypatch, reference, weights):
    first, second, axes = lattice(12)
    rng = np.random.default_rng(0)
    m = len(first)
    gram = rng.uniform(1, 10, m)[:, None, None]
    equations = equations_of(first, second, gram, rng.normal(0, 1, (m, 1)), axes)
    keywords = {
        "weights": weights,
        "reference": None if reference is None else lambda members: reference,
    }
    exact = solved(equations, **keywords)
    covariance, errors = exact.covariance_matrix, exact.errors
    monkeypatch.setattr(solution_module, "MAX_DENSE", 10)
    # The variances free the factors, and each other covariance computes them again.
    monkeypatch.setattr(solution_module, "MIN_BORROWED", 10)
    large = solved(equations, **keywords)
    with pytest.raises(MemoryError, match="the covariance of 144 coefficients is too large"):
        _ = large.covariance_matrix
    for i, j in ((0, 0), (3, 77), (77, 3), (143, 143)):
        assert_allclose(large.covariance(i, j), covariance[i : i + 1, j : j + 1], atol=1e-12)
    assert_allclose(large.errors, errors, rtol=1e-6)


def test_errors_of_many_slopes():
    # They are small beside the levels, which must not drown them.
    equations, _ = made_up(144, 0, 3, noise=1.0, graph=lattice(12)[:2], axes=lattice(12)[2])
    unit = np.array([1.0, 1e-3, 1e-3])
    equations = replace(
        equations, gram=equations.gram / (unit[:, None] * unit), rhs=equations.rhs / unit
    )
    one, two = (solved(equations, reference=lambda members: 0) for _ in range(2))
    exact = np.sqrt(np.diagonal(one.covariance_matrix)).reshape(-1, 3)
    assert_allclose(two.errors, exact, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("k", [1, 3])
def test_the_order_of_pairs_does_not_matter(k):
    equations, _ = made_up(20, 40, k, noise=1.0)
    order = np.random.default_rng(0).permutation(len(equations.first))
    shuffled = Equations(
        equations.first[order],
        equations.second[order],
        equations.gram[order],
        equations.rhs[order],
        equations.axes[order],
        equations.group_axes,
    )
    options = SolveOptions()
    one, two = solved(equations, options), solved(shuffled, options)
    assert_allclose(one.coefficients, two.coefficients, rtol=1e-6, atol=1e-7)
    assert_allclose(one.robust[order], two.robust, atol=1e-4)


def test_noise_has_the_expected_sum_of_squares():
    values = []
    for seed in range(60):
        equations, _ = made_up(8, 20, 3, seed=seed, noise=1.0)
        solution = solved(equations)
        freedom = 3 * (len(equations.first) - 7)
        values.append(chi2.cdf(equations.quadratic(solution.coefficients).sum(), freedom))
    assert abs(np.mean(values) - 0.5) < 3.5 * np.sqrt(1 / 12 / 60)


def test_active_slopes():
    equations, _ = made_up(6, 8, 3, noise=1.0)
    active = np.ones((6, 3), dtype=bool)
    active[[1, 4], 1:] = False
    matrix, value = dense(equations, np.ones(len(equations.first)))
    free = active.copy()
    free[0, 0] = False
    expected = np.zeros(18)
    columns = np.flatnonzero(free)
    expected[columns] = np.linalg.lstsq(matrix[:, columns], value, rcond=None)[0]
    expected = expected.reshape(6, 3)
    solution = solved(equations, active=active, reference=lambda members: 0)
    assert_allclose(solution.coefficients, expected, atol=1e-8)
    expected[:, 0] -= expected[:, 0].mean()
    mean = solved(equations, active=active)
    assert_allclose(mean.coefficients, expected, atol=1e-8)
    assert_array_equal(mean.errors[[1, 4], 1:], 0)


def test_fit_types():
    assert [fit_terms(t) for t in ("level", "level+slope", "level+match")] == [1, 3, 3]


@pytest.fixture
def by_iterations(monkeypatch):
    """Return a function that solves iteratively, like for large systems, and says so."""

    def solve_iteratively(equations, options=PLAIN, **keywords):
        with monkeypatch.context() as patch:
            patch.setattr(solver, "MIN_BORROWED", 0)
            patch.setattr(equations_module, "LARGEST_FRONT", 12)
            iterate, used = solver.WeightedSolution.iterate, []
            patch.setattr(
                solver.WeightedSolution, "iterate", lambda *a: used.append(a[0]) or iterate(*a)
            )
            solution = solved(replace(equations), options, **keywords)
            assert used
        return solution

    return solve_iteratively


def spoilt_lattice(n, k, *, sets=1, noise=1.0, spoilt=None):
    """Return pairs of lattices with known planes, a few of them wrong, in disconnected sets.

    ``spoilt`` lists the sets with wrong pairs, by default all.
    """
    first, second, axes = lattice(n)
    first = np.concatenate([first + s * n * n for s in range(sets)])
    second = np.concatenate([second + s * n * n for s in range(sets)])
    lon, lat = lonlat(axes[:, 0])
    axes = np.concatenate([tangent_axes(unit_vectors(lon + 20 * s, lat)) for s in range(sets)])
    equations, true = made_up(
        len(axes), 0, k, noise=noise, graph=(first, second), axes=axes, seed=n
    )
    rng = np.random.default_rng(n)
    bad = rng.choice(len(first), len(first) // 20, replace=False)
    if spoilt is not None:
        bad = bad[np.isin(first[bad] // n**2, spoilt)]
    rhs = equations.rhs.copy()
    rhs[bad] += equations.gram[bad, :, 0] * 3
    return replace(equations, rhs=rhs), true


ITERATIVE_OPTIONS = {
    "plain": PLAIN,
    "default": SolveOptions(),
    "huber": SolveOptions(robust="huber"),
    "floor": SolveOptions(floor=0.1),
    "prior": SolveOptions(slope_prior=0.2),
}


@pytest.mark.parametrize(
    ("k", "sets", "reference", "options"),
    [
        (1, 1, None, "default"),
        (1, 2, None, "default"),
        (3, 1, -1, "default"),
        (3, 1, None, "huber"),
        (3, 1, -1, "prior"),
        (3, 3, None, "huber"),
        (3, 3, -1, "default"),
    ],
)
def test_iterations_find_what_factors_do(by_iterations, options, reference, k, sets):
    options = ITERATIVE_OPTIONS[options]
    equations, _ = spoilt_lattice(8, k, sets=sets)
    keywords = {"reference": None if reference is None else lambda members: members[reference]}
    one = solved(equations, options, **keywords)
    two = by_iterations(equations, options, **keywords)
    assert two.residual < 1e-8
    # Weights converge to a thousandth, far below the errors.
    error = np.where(one.errors > 0, one.errors, 1)
    assert (np.abs(one.coefficients - two.coefficients) < 0.01 * error).all()
    assert_allclose(two.floors, one.floors, rtol=0.02, atol=1e-4)
    assert_array_equal(two.reference, one.reference)
    largest = one.covariance_matrix.max()
    assert_allclose(two.covariance_matrix, one.covariance_matrix, rtol=0.02, atol=1e-3 * largest)
    assert_allclose(two.n_sigma, one.n_sigma, rtol=0.1, atol=0.02)
    again = by_iterations(equations, options, **keywords)
    assert two.coefficients.tobytes() == again.coefficients.tobytes()


@pytest.mark.parametrize("k", [1, 3])
def test_sets_are_searched_as_if_alone(k):
    equations, true = spoilt_lattice(7, k, sets=5, spoilt=[1, 3])
    whole = solved(equations, SolveOptions())
    set_of = equations.first // 49
    assert np.unique(set_of[whole.robust < 0.5]).tolist() == [1, 3]
    for s in range(5):
        rows, groups = set_of == s, slice(49 * s, 49 * (s + 1))
        alone = solved(
            Equations(
                equations.first[rows] - 49 * s,
                equations.second[rows] - 49 * s,
                equations.gram[rows],
                equations.rhs[rows],
                equations.axes[rows],
                equations.group_axes[groups],
            ),
            SolveOptions(),
        )
        assert_array_equal(whole.robust[rows] < 0.5, alone.robust < 0.5)
        assert_allclose(whole.floors[s], alone.floors[0], rtol=0.01, atol=1e-4)
        off = whole.coefficients[groups] - alone.coefficients
        assert (np.abs(off) < 0.01 * alone.errors).all()
        off = without_gauge(whole.coefficients[groups] - true[groups], equations.group_axes[groups])
        assert np.sqrt(np.mean(np.square(off / whole.errors[groups]))) < 1.5


def large_set(scatter, n_wrong, *, n=40, sigma=0.01):
    """Return levels of a lattice of n x n groups with some wrong pairs, and these."""
    first, second, axes = lattice(n)
    rng = np.random.default_rng(0)
    true = rng.normal(0, 3, n * n)
    d = true[first] - true[second] + scatter(rng, len(first))
    wrong = np.sort(rng.choice(len(first), n_wrong, replace=False))
    d[wrong] += rng.choice([-2, 2], n_wrong)
    gram = np.full((len(first), 1, 1), sigma**-2)
    middle = between(axes, first, second)
    return equations_of(first, second, gram, d[:, None], axes, middle), wrong


def test_a_large_set_without_long_tails_is_not_searched_on(by_iterations, monkeypatch):
    # A uniform scatter is not normal, and has no tails in which wrong pairs could hide.
    equations, _ = large_set(lambda rng, m: 0.05 * rng.uniform(-1, 1, m), 5)
    solve, n_solutions = solver.Solver.solve, []
    monkeypatch.setattr(solver.Solver, "solve", lambda *args: n_solutions.append(1) or solve(*args))
    solution = solved(equations, SolveOptions())
    # All 40 rounds would need more than 40 solutions.
    assert len(n_solutions) < 20
    # Where the right pairs are not normally distributed, none is rejected.
    assert (solution.robust > 0.5).all()
    # Nor if the search starts without the wrong ones.
    again = by_iterations(equations, SolveOptions())
    assert (again.robust > 0.5).all()
    assert_allclose(again.floors, solution.floors, rtol=2e-3)
    assert (np.abs(again.coefficients - solution.coefficients) < 0.01 * solution.errors).all()


def test_pairs_far_off_are_left_out_from_the_start(by_iterations, monkeypatch):
    equations, wrong = large_set(lambda rng, m: rng.normal(0, 0.03, m), 30)
    one = solved(equations, SolveOptions())
    factors, n_factors = solver.Factors, []
    monkeypatch.setattr(solver, "Factors", lambda *args: n_factors.append(1) or factors(*args))
    two = by_iterations(equations, SolveOptions())
    assert len(n_factors) == 1
    for solution in (one, two):
        assert_array_equal(np.flatnonzero(solution.robust < 0.5), wrong)
    assert_allclose(two.floors, one.floors, rtol=2e-3)
    assert (np.abs(one.coefficients - two.coefficients) < 0.01 * one.errors).all()


def test_iterations_with_slopes_held(by_iterations):
    equations, _ = spoilt_lattice(8, 3)
    active = np.ones((64, 3), dtype=bool)
    active[np.random.default_rng(0).choice(64, 40, replace=False), 1:] = False
    options = SolveOptions(robust="huber")
    one, two = (f(equations, options, active=active) for f in (solved, by_iterations))
    assert (np.abs(two.coefficients - one.coefficients) < 0.01 * np.maximum(one.errors, 1e-9)).all()
    assert_array_equal(two.coefficients[~active], 0)


@pytest.mark.parametrize("weights", ["equal", "npix", "rms"])
def test_iterations_with_other_weights(by_iterations, weights):
    equations, _ = spoilt_lattice(8, 1)
    one, two = (f(equations, SolveOptions(), weights=weights) for f in (solved, by_iterations))
    assert_allclose(two.coefficients, one.coefficients, atol=1e-6)
    assert_allclose(two.errors, one.errors, rtol=1e-3)


def test_a_solution_that_is_not_exact_is_an_error(by_iterations, monkeypatch):
    equations, _ = spoilt_lattice(12, 3)
    monkeypatch.setattr(solver, "PROMISED", 0.0)
    match = "1186 pairs of 144 groups: the solution leaves .* of the right-hand side, over 0"
    with pytest.raises(ConvergenceError, match=match):
        by_iterations(equations, SolveOptions(robust="huber"))


def test_a_long_chain_of_levels():
    n = 20_000
    axes = tangent_axes(unit_vectors(np.arange(n) * 0.01, np.zeros(n)))
    graph = np.stack([np.arange(n - 1), np.arange(1, n)])
    equations, true = made_up(n, 0, 1, graph=graph, axes=axes)
    found = solved(equations, reference=lambda members: 0).coefficients
    assert_allclose(found, true - true[0], atol=1e-9)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    ("n", "extra", "largest"),
    [(2, 0, 1), (7, 15, 8), (90, 0, 4), (90, 200, 2), (300, 900, 32)],
)
def test_factors_as_dense_algebra(monkeypatch, n, extra, largest, k):
    monkeypatch.setattr(equations_module, "LARGEST_FRONT", largest * k)
    equations, _ = made_up(n, extra, k, noise=1.0, seed=n)
    weights = np.random.default_rng(n).uniform(0.1, 2, len(equations.first))
    free = np.ones((n, k), dtype=bool)
    free[0] = False
    system = solver.WeightedSolution(equations, weights, free, None)
    whole = system.matrix.toarray()
    inverse = np.linalg.inv(whole)
    assert sorted(equations.dissection.order.tolist()) == list(range(n))
    rhs = np.random.default_rng(0).standard_normal((n * k, 2))
    scale = np.abs(inverse).max()
    assert_allclose(system.factors.solve(rhs), inverse @ rhs, atol=1e-10 * scale)
    assert_allclose(system.factors.solve(rhs[:, 0]), inverse @ rhs[:, 0], atol=1e-10 * scale)
    by_columns = np.asfortranarray(rhs)
    assert_allclose(system.factors.solve(by_columns), inverse @ rhs, atol=1e-10 * scale)
    assert_allclose(system.factors.inverse(), inverse, atol=1e-10 * scale)
    own, across = system.factors.blocks()
    by_block = inverse.reshape(n, k, n, k)
    assert_allclose(own, np.einsum("gigj->gij", by_block), atol=1e-10 * scale)
    expected = by_block[equations.first, :, equations.second]
    assert_allclose(equations.of_pairs(across), expected, atol=1e-10 * scale)
    assert_allclose(system.matrix @ rhs, whole @ rhs, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_leverages_for_other_weights(k):
    equations, _ = spoilt_lattice(8, k)
    gram = equations.gram[:, 0, 0]
    free = np.ones((64, k), dtype=bool)
    free[0] = False
    before, after = (1 / (1 + floor**2 * gram) for floor in (0.6, 0.3))
    after[::150] *= 1e-4
    exact, near, far = (solver.WeightedSolution(equations, after, free, None) for _ in range(3))
    near.known = solver.WeightedSolution(equations, before, free, None)
    found, expected = (np.trace(redundancy(system), axis1=1, axis2=2) for system in (near, exact))
    assert near.known.ready
    assert not near.ready
    assert_allclose(found, expected, rtol=0.15)
    assert np.sqrt(np.mean(np.square(found / expected - 1))) < 0.03
    # All weights of the one half are ten times larger than those of the other.
    far.known = solver.WeightedSolution(
        equations, after * np.where(gram < np.median(gram), 1, 10), free, None
    )
    assert_array_equal(redundancy(far), redundancy(exact))


@pytest.mark.parametrize("weights", ["equal", "npix", "rms"])
def test_errors_of_other_weights_hold_the_floor(weights):
    first, second, axes = lattice(5)
    m, pulls = len(first), []
    for seed in range(60):
        rng = np.random.default_rng([11, seed])
        sigma = 0.01 * rng.uniform(0.5, 2, m)
        true = rng.normal(0, 3, 25)
        d = true[first] - true[second] + np.hypot(sigma, 0.1) * rng.standard_normal(m)
        equations = equations_of(first, second, sigma[:, None, None] ** -2, d[:, None], axes)
        solution = solved(
            equations,
            SolveOptions(),
            weights=weights,
            npix=sigma**-2,
            scatter=rng.uniform(0.5, 2, m),
        )
        assert_allclose(solution.floor, 0.1, rtol=0.6)
        error = solution.coefficients[:, 0] - true
        pulls.append((error - error.mean()) / solution.errors[:, 0])
    assert_allclose(np.std(pulls), 1, atol=0.1)


def test_slope_prior_of_a_mean_slope():
    """Where the mean slope is zero, no group's own slope is the centre of the prior."""
    equations, _ = made_up(5, 4, 3, noise=1.0)
    matrix, value = dense(equations, np.ones(len(equations.first)))
    ridge = np.diag(np.tile([0, 25.0, 25.0], 5))
    # The first level is zero before the mean is subtracted.
    normal, right = (matrix.T @ matrix + ridge)[1:, 1:], (matrix.T @ value)[1:]
    expected = np.append(0, np.linalg.solve(normal, right))
    options = SolveOptions(floor=0.0, robust=None, slope_prior=0.2)
    found = solved(equations, options).coefficients
    # The plane of the gauge is subtracted from both.
    gauge = Gauge(equations, np.zeros(5, dtype=int), np.ones((5, 3), dtype=bool))
    assert_allclose(found.ravel(), gauge.apply(expected[:, None])[:, 0], atol=1e-6)
    turned = replace(equations, first=4 - equations.first, second=4 - equations.second)
    turned = replace(turned, group_axes=equations.group_axes[::-1])
    assert_allclose(solved(turned, options).coefficients[::-1], found, atol=1e-3)
