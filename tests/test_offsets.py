# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of offsets that the detectors of all tiles share."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose
from scipy.special import chdtr

import levelmatch as lm
from levelmatch import summary
from levelmatch.solve.equations import Equations
from levelmatch.solve.groups import solve_groups
from levelmatch.solve.linear import one_thread
from levelmatch.solve.offsets import _are_equal, _Given, _weighted, share_offsets

KINDS = {2: (("mirimage", "science"), ("mirimage", "lyot"))}
KINDS[4] = tuple((f"nrca{k}", "") for k in range(1, 5))
MEANS = np.array([0.0, 2.0, -1.0, 0.5])


def tile_of(level, error):
    """Return a tile of two parts whose offset is known."""
    return SimpleNamespace(
        information=np.full((1, 1), error**-2.0),
        asked=np.array([level / error**2]),
        levels=np.array([level]),
        design=np.ones((1, 1)),
        prior=np.full((1, 1), 0.5),
        rank=1,
    )


@one_thread
def simulate(
    seed, n_parts, n_known, n_open, *, scatter, sigma=0.05, equal=False, inherited=0.0, common=0.0
):
    """Solve tiles of detectors, some of which have measured offsets.

    A given fraction of the variances is inherited from earlier passes, which may also leave a
    common error of the last part of all tiles. Returns the solution, that with shared offsets,
    these, and the true levels.
    """
    rng = np.random.default_rng(seed)
    n_tiles = n_known + n_open
    true = rng.normal(0, 3, n_tiles)[:, None] + MEANS[:n_parts]
    true = true + scatter * rng.standard_normal(true.shape)
    first = (np.arange(n_known)[:, None] * n_parts + np.arange(n_parts - 1)).ravel()
    second = first + 1
    error = sigma * (np.ones(len(first)) if equal else rng.uniform(0.5, 2, len(first)))
    difference = true.ravel()[first] - true.ravel()[second]
    difference = difference + error * rng.standard_normal(len(first))
    weight = error**-2.0 / (1 - inherited)
    axes = np.broadcast_to(np.eye(3), (max(true.size, len(first)), 3, 3))
    equations = Equations(
        first,
        second,
        weight[:, None, None],
        (weight * difference)[:, None],
        axes[: len(first)],
        axes[: true.size],
    )
    frames = [
        SimpleNamespace(detector=detector, part=part, meta={})
        for _ in range(n_tiles)
        for detector, part in KINDS[n_parts]
    ]
    matched = SimpleNamespace(
        group=np.arange(true.size),
        domain=np.repeat(np.arange(n_tiles), n_parts),
        name="lyot" if n_parts == 2 else "nircam_short",
        held="science" if n_parts == 2 else None,
    )
    reference = (lambda members: members[0]) if n_parts == 2 else None
    solution = solve_groups(equations, lm.SolveOptions(), reference=reference)
    earlier = None
    if inherited or common:
        last = np.arange(true.size) % n_parts == n_parts - 1
        earlier = solution.covariance_matrix * inherited / (1 - inherited)
        earlier = earlier + common**2 * np.outer(last, last)
    shared, offsets = share_offsets(solution, matched, frames, earlier)
    true = true - (true[:, :1] if n_parts == 2 else true.mean(axis=1, keepdims=True))
    return solution, shared, offsets, true


def pulls(n_parts, n_known, n_open, scatter, n_trials):
    """Return the pulls of the tiles with measured offsets, and of the others."""
    out = []
    for seed in range(n_trials):
        _, shared, _, true = simulate(seed, n_parts, n_known, n_open, scatter=scatter)
        found = shared.coefficients[:, 0].reshape(true.shape)
        own = slice(1, None) if n_parts == 2 else slice(None)
        out.append((found - true)[:, own] / shared.errors.reshape(true.shape)[:, own])
    out = np.array(out)
    return [np.sqrt(np.mean(part**2)) for part in (out[:, :n_known], out[:, n_known:])]


@pytest.mark.parametrize("scatter", [0.1, 0.4])
@pytest.mark.parametrize("n_parts", [2, 4])
def test_errors_of_unstable_offsets(n_parts, scatter):
    known, tied = pulls(n_parts, 10, 6, scatter, 100)
    assert 0.85 < known < 1.25
    assert 0.8 < tied < 1.25


@pytest.mark.parametrize("n_parts", [2, 4])
def test_errors_of_stable_offsets(n_parts):
    """A zero scatter is not known to be zero, so errors may be large but never small."""
    known, tied = pulls(n_parts, 16, 6, 0.0, 60)
    assert 0.5 < known < 1.2
    assert 0.5 < tied < 1.2


def test_errors_of_offsets_that_scatter_by_their_errors():
    """Their scatter is the hardest to see."""
    known, tied = pulls(2, 16, 2, 0.035, 150)
    assert 0.85 < known < 1.35
    assert 0.85 < tied < 1.35


@pytest.mark.parametrize(("scatter", "low", "high"), [(0.0, 0.5, 0.8), (0.4, 0.8, 1.25)])
def test_errors_of_offsets_that_four_tiles_know(scatter, low, high):
    known, tied = pulls(2, 4, 8, scatter, 150)
    assert 0.85 < known < 1.25
    assert low < tied < high


def test_errors_of_offsets_that_three_tiles_of_chips_know():
    """Levels relative to the mean of four chips, which have unequal errors."""
    known, tied = pulls(4, 3, 3, 0.07, 250)
    assert 0.85 < known < 1.25
    assert 0.85 < tied < 1.3


def test_equal_offsets():
    """Stable offsets count as equal in 41 % of sets of four; then the mean has its least error."""
    sets = [simulate(seed, 2, 4, 1, scatter=0.0, equal=True) for seed in range(200)]
    equal = [offsets.scatter == 0 for _, _, (offsets,), _ in sets]
    assert abs(np.mean(equal) - 0.41) < 0.1
    errors = np.array([shared.errors[-1, 0] for _, shared, _, _ in sets]) / 0.025
    assert_allclose(errors[equal], 1.0, rtol=5e-3)
    assert errors[~np.array(equal)].min() > 2
    assert "(mean), equal within their errors" in sets[np.argmax(equal)][2][0].words("MJy/sr")


@pytest.mark.parametrize("n_parts", [2, 4])
def test_offsets_of_any_size(n_parts, monkeypatch):
    """Offsets of a hundred million times their errors change no error."""
    plain = simulate(2, n_parts, 6, 2, scatter=0.02)
    monkeypatch.setitem(globals(), "MEANS", MEANS + 2.0**24 * np.arange(4))
    large = simulate(2, n_parts, 6, 2, scatter=0.02)
    assert_allclose(large[2][0].scatter, plain[2][0].scatter, rtol=1e-5)
    assert_allclose(large[2][0].error, plain[2][0].error, rtol=1e-5)
    assert_allclose(large[1].errors, plain[1].errors, rtol=1e-5)


def test_equal_levels_count_as_equal():
    """Their chi squared is zero but for rounding, which may be negative."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        tiles = [tile_of(3.7, error) for error in rng.uniform(0.1, 1, 6)]
        given = _Given(tiles, np.array([1e-3, 0.1, 1.0]))
        assert given.chi_squared >= 0
        assert _are_equal(given, 5)


def test_offsets_that_scatter_far_beyond_their_errors_are_not_equal():
    sets = [simulate(seed, 2, 4, 1, scatter=1.0) for seed in range(100)]
    assert all(offsets.scatter > 0.2 for _, _, (offsets,), _ in sets)


@pytest.mark.parametrize(("n", "stable"), [(4, 0.65), (8, 0.70), (30, 0.65)])
def test_pulls_of_tiles_without_own_offset_by_integration(n, stable):
    """The stated variance is a function of chi squared, whose distribution is known."""
    shape = np.random.default_rng(n).normal(size=n)
    shape = (shape - shape.mean()) / (np.sqrt(n) * shape.std())
    squares = np.geomspace(1e-3, 1e6, 500) * n
    variances = []
    for square in squares:
        tiles = [tile_of(v, 1.0) for v in np.sqrt(square) * shape]
        given, weights = _weighted(tiles, n - 1)
        means = given.means[:, 0]
        of_levels = 2 * given.scatters**2 + given.of_means[:, 0, 0]
        variances.append(weights @ of_levels + weights @ np.square(means - weights @ means))
    pulls = []
    for scatter in (0, *np.geomspace(0.2, 100, 30)):
        true = scatter**2 + (1 + scatter**2) / n
        steps = np.diff(chdtr(n - 1, squares / (1 + scatter**2)), prepend=0.0)
        pulls.append(np.sqrt(true * np.sum(steps / variances)))
    assert_allclose(pulls[0], stable, atol=0.02)
    assert 1.15 < max(pulls) < 1.28
    assert_allclose(pulls[-1], 1, atol=0.05)


def test_equality_by_an_independent_formula():
    """Chi squared, its weights and the growth of the errors, for two parts."""
    rng = np.random.default_rng(8)
    y, sigma = rng.normal(2, 1, 5), rng.uniform(0.2, 2, 5)
    tiles = [tile_of(v, s) for v, s in zip(y, sigma, strict=True)]
    given = _Given(tiles, np.array([1e-5, 0.1, 1.0]))
    weight = sigma**-2.0
    mean = weight @ y / weight.sum()
    assert_allclose(given.chi_squared, weight @ (y - mean) ** 2, rtol=1e-6)
    for k, scatter in enumerate((1e-5, 0.1, 1.0)):
        variances = np.diag(sigma**2 + 2 * scatter**2)
        contrasts = np.eye(5)[1:] - np.eye(5)[:1]
        determinant = np.linalg.slogdet(contrasts @ variances @ contrasts.T)[1]
        determinant -= np.linalg.slogdet(contrasts @ np.diag(sigma**2) @ contrasts.T)[1]
        found = given.log_determinant - given.log_determinant[0]
        assert_allclose(found[k], determinant, atol=1e-6)
        part = weight / weight.sum()
        true = 2 * scatter**2 + part @ variances @ part
        assert_allclose(given.growth[k], true * weight.sum(), rtol=1e-6)


def test_stable_offsets_become_more_precise():
    solution, shared, (offsets,), true = simulate(1, 2, 12, 4, scatter=0.0)
    errors = shared.errors[:, 0].reshape(true.shape)[:, 1]
    assert np.median(errors[:12] / solution.errors[:, 0].reshape(true.shape)[:12, 1]) < 0.7
    assert_allclose(shared.coefficients[:, 0].reshape(true.shape)[12:, 1], 2.0, atol=0.1)
    assert offsets.n_known == 12
    assert offsets.n_tied == 16
    assert abs(offsets.mean[1] - 2) < 4 * offsets.error[1]
    assert offsets.scatter < 0.1


def test_precise_offsets_that_scatter_stay():
    solution, shared, (offsets,), true = simulate(2, 2, 12, 3, scatter=1.0, sigma=0.001)
    known = np.s_[: 12 * 2]
    assert_allclose(shared.coefficients[known], solution.coefficients[known], atol=1e-4)
    assert_allclose(shared.errors[known], solution.errors[known], rtol=0.05, atol=1e-9)
    assert 0.7 < offsets.scatter / np.sqrt(2) < 2
    tied = shared.errors[12 * 2 :].reshape(-1, 2)[:, 1]
    assert_allclose(tied, offsets.scatter, rtol=0.3)


def test_errors_that_earlier_passes_leave():
    """They count as errors of the pairs, but stay out of the covariance of the pass alone."""
    plain = simulate(6, 2, 8, 2, scatter=0.1)
    _, shared, (offsets,), true = simulate(6, 2, 8, 2, scatter=0.1, inherited=0.5)
    assert_allclose(offsets.error, plain[2][0].error, rtol=1e-9)
    assert_allclose(offsets.scatter, plain[2][0].scatter, rtol=1e-9)
    assert_allclose(shared.coefficients, plain[1].coefficients, atol=1e-12)
    n = true.size
    # The response to the levels by a tile's own pairs, of the variance that earlier passes leave.
    own = np.diagonal(plain[0].covariance_matrix)
    known = np.flatnonzero(own)
    response = plain[1].respond(np.eye(n))[:, known] / own[known]
    earlier = response @ np.diag(own[known] / 2) @ response.T
    assert_allclose(shared.covariance_matrix + earlier, plain[1].covariance_matrix, atol=1e-12)


def test_errors_that_earlier_passes_leave_in_all_tiles():
    """They do not average out, and are in the covariance of all passes."""
    common = 0.1
    plain = simulate(6, 2, 8, 2, scatter=0.0)[0]
    _, shared, _, true = simulate(6, 2, 8, 2, scatter=0.0, common=common)
    assert np.linalg.eigvalsh(shared.covariance_matrix).min() > -1e-12
    assert (shared.errors[1::2] > 0).all()
    last = np.tile([0.0, 1.0], len(true))
    # The response to the levels by a tile's own pairs.
    own = np.diagonal(plain.covariance_matrix)
    known = np.flatnonzero(own)
    response = shared.respond(np.eye(true.size))[:, known] / own[known]
    variances = np.square(response @ last[known]) * common**2 + np.square(shared.errors[:, 0])
    assert (variances[1::2] > common**2).all()


def test_the_tied_are_one_set_in_the_gauge_of_the_pass():
    for n_parts in (2, 4):
        _, shared, _, true = simulate(3, n_parts, 6, 2, scatter=0.1)
        component = shared.component.reshape(true.shape)
        assert (component == component[:, :1]).all()
        assert len(np.unique(component)) == len(true)
        levels = shared.coefficients[:, 0].reshape(true.shape)
        held = levels[:, 0] if n_parts == 2 else levels.mean(axis=1)
        assert_allclose(held, 0, atol=1e-12)
        whole = shared.covariance_matrix
        assert_allclose(whole, whole.T, atol=1e-15)
        assert np.linalg.eigvalsh(whole)[0] > -1e-12
        # Tied tiles share the error of the mean.
        assert whole[-1, -1 - n_parts] > 0
        assert_allclose(shared.errors[:, 0] ** 2, np.diagonal(whole), rtol=1e-12)


def test_response_to_the_pairs():
    """The levels respond linearly to the pairs if the scatter is well known."""
    solution, shared, _, true = simulate(4, 2, 8, 2, scatter=0.0)
    rhs = np.zeros((true.size, 1))
    rhs[0], rhs[1] = 5.0, -5.0
    change = shared.respond(rhs)[:, 0]
    assert_allclose(change[0::2], 0, atol=1e-12)
    own = solution.respond(rhs)[1, 0]
    # The own offset of a tile responds partly, those of the others slightly and equally.
    assert 0 < change[1] / own < 1
    assert_allclose(change[17], change[19], rtol=1e-9)
    assert 0 < change[17] / own < change[1] / own


@pytest.mark.parametrize("n_known", [0, 2, 3])
def test_off_where_too_few_tiles_know(n_known):
    solution, shared, (offsets,), _ = simulate(5, 2, n_known, 4, scatter=0.0)
    assert shared is solution
    assert offsets.n_tied == 0
    assert f"are not shared, as too few tiles ({n_known})" in offsets.words("MJy/sr")


SCALE = 0.5 / 3600


def part_image(rng, name, level, y, x, shape):
    """Return a flat image whose first pixel lies at a position on a common grid."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 30.0, 10.0
    wcs.wcs.crpix = 1 - x, 1 - y
    wcs.wcs.cdelt = -SCALE, SCALE
    data = level + 0.3 * rng.standard_normal(shape)
    return CCDData(data, unit="MJy/sr", wcs=wcs, meta={"FILENAME": name})


def miri_tiles(seed, spreads, *, scatter):
    """Return science and Lyot parts of tiles with dithers of given sizes, and true offsets."""
    rng = np.random.default_rng(seed)
    offsets = 1.5 + scatter * rng.standard_normal(len(spreads))
    images = []
    for tile, (spread, offset) in enumerate(zip(spreads, offsets, strict=True)):
        for dither, (sy, sx) in enumerate([(-0.5, -0.5), (0.5, 0.5), (-0.4, 0.6)]):
            y, x, level = spread * sy, 90 * tile + spread * sx, rng.normal(0, 3)
            name = "jw01234{:03d}001_02101_{:05d}_mirimage{}_cal.fits"
            for part, shift, shape in (("s", 0, (90, 100)), ("l", -60, (70, 50))):
                own = level + (offset if part == "l" else 0)
                where = name.format(tile + 1, dither + 1, part)
                images.append(part_image(rng, where, own, y, x + shift, shape))
    return images, offsets


def match_parts(images, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lm.DisconnectedWarning)
        return lm.match_levels(images, recombine_lyot=True, group_by="jwst", **options)


def test_lyot_parts_of_small_dithers(tmp_path):
    images, true = miri_tiles(1, [40] * 6 + [3] * 2, scatter=0.05)
    apart = match_parts(images)
    tied = match_parts(images, solve=lm.SolveOptions(share_offsets=True))
    assert "offsets" not in apart.gauge
    (offsets,) = tied.passes[1].offsets
    assert offsets.n_known == 6
    assert offsets.n_tied == 8
    assert "8 tiles share their offsets" in tied.gauge
    assert "8 tiles share their offsets" in " ".join(summary.trust_lines(tied))
    assert not any("not corrected" in note for note in tied.notes)
    last = [row for row, name in enumerate(tied.table["name"]) if "008001" in name]
    found = tied.table["level_lyot"].value[last]
    assert_allclose(found[1::2] + found[::2], true[-1], atol=4 * offsets.scatter + 0.1)
    assert_allclose(apart.table["level_lyot"].value[last], 0, atol=1e-12)
    # The error of a Lyot seam contains the scatter of the offsets.
    one, two = (str(tied.table["name"][row]) for row in last[:2])
    c = tied.covariance
    seam = np.sqrt((c(one, one) + c(two, two) - c(one, two) - c(two, one))[0, 0])
    assert seam > 0.9 * offsets.scatter
    tied.record.write(tmp_path / "record.asdf")
    record = lm.read_record(tmp_path / "record.asdf")
    assert record.passes[1].offsets == (offsets,)
    assert record.gauge == tied.gauge
    again = lm.solve_record(record)
    assert_allclose(again.table["level"].value, tied.table["level"].value, atol=1e-9)
    assert_allclose(record.covariance(one, two), c(one, two), atol=1e-12)


def test_off_where_no_tile_knows():
    images, _ = miri_tiles(2, [3] * 4, scatter=0.0)
    result = match_parts(images, solve=lm.SolveOptions(share_offsets=True))
    assert "are not shared, as too few tiles (0) determine theirs" in result.gauge
