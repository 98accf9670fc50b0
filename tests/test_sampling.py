# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the compiled kernel against plain numpy code written from its description."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from levelmatch.measure import pairs, plot_samples

COLUMNS = ("location", "scatter", "brightness", "x", "y", "smooth", "kept", "good")
COLUMNS = (*COLUMNS, "star_diff", "star_flux")


def difference_cells(
    a, b, ys, xs, map_x, map_y, cells, *clipping, part_a=None, part_b=None, columns=COLUMNS
):
    """Return the kernel's cells as columns; the clipping may have two additional values."""
    clipping, parts = clipping[:3], (*clipping[3:], part_a, part_b)[:2]
    lattice = pairs.Lattice(ys, xs, map_x, map_y)
    found = pairs.difference_cells(
        a, b, lattice, cells, pairs.Clipping(*clipping), (None, None), parts
    )
    return np.stack([found[name].astype(float) for name in columns], axis=1)


def difference_samples(a, b, ys, xs, map_x, map_y, iy, ix):
    """Return all samples of a cell: difference, brightness, x and y."""
    lattice = pairs.Lattice(ys, xs, map_x, map_y)
    clipping = pairs.Clipping(1e6, 1.0)
    found = plot_samples.difference_samples(a, b, lattice, (iy, ix), clipping)
    return tuple(found[name] for name in ("difference", "brightness", "x", "y"))


SNAP = 1e-3
CLIP = 3.0
# Scatter of a normal variable divided by its scatter after clipping at 3 sigma.
TRUNCATION = 1.0135


def guarded(image):
    """Return the image within an array of infinities, which spoil samples of a wrong read."""
    pad = 4 * (image.shape[1] + 2)
    buffer = np.full(image.size + 2 * pad, np.inf, image.dtype)
    out = buffer[pad : pad + image.size].reshape(image.shape)
    out[:] = image
    return out


def affine_map(matrix, shift, ys, xs):
    """Return pixel coordinates in the second image at the nodes of a linear map."""
    matrix = np.asarray(matrix, float)
    y, x = np.meshgrid(ys, xs, indexing="ij")
    return (
        matrix[0][0] * x + matrix[0][1] * y + shift[1],
        matrix[1][0] * x + matrix[1][1] * y + shift[0],
    )


def rotation(angle, scale=1.0, parity=1):
    c, s = np.cos(angle), np.sin(angle)
    return scale * np.array([[c, -s], [s, c]]) @ np.diag([parity, 1])


def bilinear(image, x, y):
    """Return interpolated values, and the loose and strict masks of good samples.

    A neighbour of next to no weight need not count: ``loose`` is good where those of
    weight are, ``strict`` where all four are.
    """
    ny, nx = image.shape
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    value = np.zeros(x.shape)
    loose = np.ones(x.shape, bool)
    strict = np.ones(x.shape, bool)
    for dy in (0, 1):
        for dx in (0, 1):
            wx, wy = np.abs(1 - dx - (x - x0)), np.abs(1 - dy - (y - y0))
            yy, xx = y0 + dy, x0 + dx
            inside = (yy >= 0) & (yy < ny) & (xx >= 0) & (xx < nx)
            pixel = np.where(
                inside, image[np.clip(yy, 0, ny - 1), np.clip(xx, 0, nx - 1)], np.nan
            ).astype(float)
            good = np.isfinite(pixel)
            value += wx * wy * np.where(good, pixel, 0)
            strict &= good
            loose &= good | (wx <= SNAP) | (wy <= SNAP)
    return value, loose, strict


def brute(a, b, map_x, map_y, ys, xs):
    """Return differences at every pixel of the first image, in a grid of one cell."""
    y, x = np.indices(a.shape).astype(float)
    height, width = ys[-1] - ys[0], xs[-1] - xs[0]
    t, s = (y - ys[0]) / height, (x - xs[0]) / width
    qx, qy = (
        (1 - t) * ((1 - s) * m[0, 0] + s * m[0, 1]) + t * ((1 - s) * m[1, 0] + s * m[1, 1])
        for m in (map_x, map_y)
    )
    jacobian = np.array(
        [
            [np.mean(m[:, 1] - m[:, 0]) / width, np.mean(m[1] - m[0]) / height]
            for m in (map_x, map_y)
        ]
    )
    rx, ry = np.floor(qx + 0.5), np.floor(qy + 0.5)
    fx, fy = qx - rx, qy - ry
    ax, ay = -0.5 * np.einsum("ij,jyx->iyx", np.linalg.inv(jacobian), np.stack([fx, fy]))
    va, loose_a, strict_a = bilinear(a, x + ax, y + ay)
    vb, loose_b, strict_b = bilinear(b, rx + fx / 2, ry + fy / 2)
    near = (np.abs(np.stack([ax, ay, fx, fy])) < SNAP).any(axis=0)
    return {
        "difference": va - vb,
        "brightness": 0.5 * (va + vb),
        "loose": loose_a & loose_b,
        "strict": strict_a & strict_b,
        "near": near,
        # Halfway between two pixels, either one is the nearest.
        "tie": (0.5 - np.abs(np.stack([fx, fy])) < 1e-9).any(axis=0),
        "x": x + ax,
        "y": y + ay,
    }


def check_samples(a, b, map_x, map_y, ys, xs, *, exact=True):
    """Compare all samples of a grid of one cell with the brute force; return their number.

    Unless exact, one next to a pixel's centre may be taken for one on its other side, where
    there may be no neighbour.
    """
    expected = brute(a, b, map_x, map_y, ys, xs)
    difference, brightness, x, y = difference_samples(
        guarded(a), guarded(b), ys, xs, map_x, map_y, 0, 0
    )
    assert difference.dtype == a.dtype
    found = np.zeros(a.shape, int)
    np.add.at(found, (y, x), 1)
    assert found.max(initial=0) <= 1
    found = found.astype(bool)
    inside = np.zeros(a.shape, bool)
    inside[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] = True
    assert not found[~inside].any()
    clear = inside & ~expected["tie"]
    assert not (clear & found & ~expected["loose"]).any()
    sure = clear if exact else clear & ~expected["near"]
    assert not (sure & expected["strict"] & ~found).any()
    # A very small weight may count as zero.
    rounding = 1e-5 if a.dtype == np.float32 else 1e-9
    tolerance = np.where(expected["near"][y, x], 10 * SNAP, rounding)
    for values, column in ((difference, "difference"), (brightness, "brightness")):
        off = np.abs(values - expected[column][y, x]) > tolerance
        assert not (off & clear[y, x]).any()
    return len(difference)


def noise_pair(shape_a=(23, 29), shape_b=(23, 29), dtype=np.float64, bad=0.0, seed=1):
    rng = np.random.default_rng(seed)
    out = []
    for shape in (shape_a, shape_b):
        image = rng.standard_normal(shape).astype(dtype)
        image[rng.random(shape) < bad] = np.nan
        out.append(image)
    return out


def whole(shape):
    """Return the nodes of a grid of one cell."""
    return np.array([0, shape[0] - 1]), np.array([0, shape[1] - 1])


MAPS = {
    "identity": (rotation(0), (0, 0)),
    "integer": (rotation(0), (3, -5)),
    "fractional": (rotation(0), (0.4, 2.7)),
    "half": (rotation(0), (0.499999, -0.499999)),
    "negative": (rotation(0), (-4.3, -0.9)),
    "under the snap": (rotation(0), (2.0003, -0.9996)),
    "0.001": (rotation(0.001), (0.2, -0.7)),
    "0.001 about the corner": (rotation(0.001), (0, 0)),
    "0.01": (rotation(0.01), (-1.4, 0.3)),
    "0.3": (rotation(0.3), (1.2, 6.1)),
    "90 deg": (rotation(np.pi / 2), (0.0, 25.3)),
    "90 deg aligned": ([[0, -1], [1, 0]], (0, 22)),
    "180 deg": ([[-1, 0], [0, -1]], (22, 28)),
    "180 deg off": (rotation(np.pi), (22.4, 27.6)),
    "parity": ([[-1, 0], [0, 1]], (1, 28.3)),
    "parity and 0.3": (rotation(0.3, parity=-1), (0.5, 24.0)),
    "finer": (rotation(0.05, 1.7), (0.3, -2.2)),
    "twice as fine": (rotation(0, 2.0), (0, 0)),
    "coarser": (rotation(0.05, 0.6), (0.3, 1.2)),
    "half as fine": (rotation(0, 0.5), (0, 0)),
    "far away": (rotation(0), (500, -500)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [0.0, 0.08])
@pytest.mark.parametrize("name", MAPS)
def test_samples(name, bad, dtype):
    a, b = noise_pair(dtype=dtype, bad=bad)
    ys, xs = whole(a.shape)
    n = check_samples(a, b, *affine_map(*MAPS[name], ys, xs), ys, xs)
    assert (n == 0) == (name == "far away")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [0.0, 0.08])
@pytest.mark.parametrize("angle", [0.002, 0.01, 0.02, 0.03])
@pytest.mark.parametrize("parity", [1, -1])
def test_samples_whose_neighbours_change_sides(angle, bad, dtype, parity):
    # In the middle of the cell, the pixels of both images coincide.
    a, b = noise_pair((60, 64), (60, 64), dtype=dtype, bad=bad)
    ys, xs = np.array([12, 44]), np.array([11, 43])
    matrix, shift = [[1, -parity * angle], [angle, 1]], (-27 * angle, 28 * parity * angle)
    n = check_samples(a, b, *affine_map(matrix, shift, ys, xs), ys, xs, exact=False)
    assert n > 0.4 * 33**2


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    shapes=st.tuples(*[st.integers(2, 12)] * 4),
    angle=st.floats(-4, 4) | st.sampled_from([0.0, 1e-9, 1e-4, np.pi / 4]),
    scale=st.floats(0.6, 2.5),
    shift=st.tuples(*[st.floats(-8, 8) | st.integers(-3, 3)] * 2),
    parity=st.sampled_from([-1, 1]),
    bend=st.floats(0, 0.5),
    seed=st.integers(0, 5),
)
def test_samples_of_any_map(shapes, angle, scale, shift, parity, bend, seed):
    a, b = noise_pair(shapes[:2], shapes[2:], bad=0.05, seed=seed)
    ys, xs = whole(a.shape)
    map_x, map_y = affine_map(rotation(angle, scale, parity), shift, ys, xs)
    # The corners of a distorted image do not form a parallelogram.
    rng = np.random.default_rng(seed)
    map_x += bend * rng.uniform(-0.5, 0.5, map_x.shape)
    map_y += bend * rng.uniform(-0.5, 0.5, map_y.shape)
    jacobian = [[np.ptp(m) for m in (map_x, map_y)]]
    if np.min(jacobian) > 1e-6:
        check_samples(a, b, map_x, map_y, ys, xs)


@pytest.mark.parametrize(
    "scale",
    [0.5, 0.4, 0.1],
)
def test_samples_stay_between_the_pixels(scale):
    # Samples are interpolated, not extrapolated, for any coarseness of the second image.
    a = np.random.default_rng(0).random((60, 70))
    b = np.zeros((30, 30))
    ys, xs = whole(a.shape)
    map_x, map_y = affine_map(rotation(0.4, scale), (1, 6), ys, xs)
    difference = difference_samples(a, b, ys, xs, map_x, map_y, 0, 0)[0]
    assert len(difference) > 50
    assert difference.min() >= 0
    assert difference.max() <= 1


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_bad_neighbours(shift):
    a, b = np.zeros((9, 11)), np.zeros((9, 11))
    a[4, 5] = np.nan
    ys, xs = whole(a.shape)
    y, x = np.indices(a.shape)
    _, _, found_x, found_y = difference_samples(
        a, b, ys, xs, *affine_map(rotation(0), (0, shift), ys, xs), 0, 0
    )
    found = np.zeros(a.shape, bool)
    found[found_y, found_x] = True
    # An aligned sample needs only its own pixel; 0.2 pixel to the left, it also needs that one.
    expected = ~((y == 4) & (x == 5))
    if shift:
        expected &= ~((y == 4) & (x == 6)) & (x > 0) & (x < 10)
    assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_are_bad(value):
    a, b = noise_pair((5, 6), (5, 6))
    b[2, 3] = value
    ys, xs = whole(a.shape)
    n = len(difference_samples(a, b, ys, xs, *affine_map(rotation(0), (0, 0), ys, xs), 0, 0)[0])
    assert n == 29


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("corner", [(0, 0), (1, 1)])
def test_undefined_corners(bad, corner):
    a, b = noise_pair((8, 8), (8, 8))
    ys, xs = whole(a.shape)
    for k in (0, 1):
        maps = affine_map(rotation(0), (0, 0), ys, xs)
        maps = [m.astype(float) for m in maps]
        maps[k][corner] = bad
        difference = difference_samples(guarded(a), guarded(b), ys, xs, *maps, 0, 0)[0]
        assert np.isfinite(difference).all()
        cells = difference_cells(
            guarded(a), guarded(b), ys, xs, *maps, np.array([[0, 0]]), CLIP, TRUNCATION, False
        )
        if np.isnan(bad):
            assert cells[0, 6] == 0
            assert cells[0, 7] == 0


def test_singular_map():
    a, b = noise_pair((8, 8), (8, 8))
    ys, xs = whole(a.shape)
    flat = np.zeros((2, 2))
    assert len(difference_samples(a, b, ys, xs, flat, flat, 0, 0)[0]) == 0


@pytest.mark.parametrize("shape", [(2, 2), (2, 30), (30, 2)])
def test_tiny_images(shape):
    a, b = noise_pair(shape, shape)
    ys, xs = whole(shape)
    n = check_samples(a, b, *affine_map(rotation(0), (0, 0), ys, xs), ys, xs)
    assert n == a.size
    check_samples(a, b, *affine_map(rotation(0.2), (0.1, 0.3), ys, xs), ys, xs)


def test_second_image_of_one_pixel():
    a, b = noise_pair((6, 6), (1, 1))
    ys, xs = whole(a.shape)
    difference, brightness, x, y = difference_samples(
        guarded(a), guarded(b), ys, xs, *affine_map(rotation(0), (-2, -3), ys, xs), 0, 0
    )
    assert_array_equal((x, y), ([3], [2]))
    assert_allclose(difference, a[2, 3] - b[0, 0])
    assert_allclose(brightness, 0.5 * (a[2, 3] + b[0, 0]))


def grid_of(shape, n):
    """Return the nodes of about n by n cells."""
    ys = np.linspace(0, shape[0] - 1, n + 1).round().astype(np.intp)
    xs = np.linspace(0, shape[1] - 1, n + 1).round().astype(np.intp)
    cells = np.ascontiguousarray(np.argwhere(np.ones((n, n), bool)))
    return ys, xs, cells


def test_cells_cover_each_pixel_once():
    a, b = noise_pair((33, 41), (33, 41))
    ys, xs, cells = grid_of(a.shape, 4)
    maps = affine_map(rotation(0), (0, 0), ys, xs)
    values = difference_cells(a, b, ys, xs, *maps, cells, 1e6, 1.0, False)
    assert values[:, 7].sum() == a.size
    assert_allclose(values[:, 6] @ values[:, 0], np.sum(a - b))
    assert_allclose(values[:, 6] @ values[:, 2], np.sum(a + b) / 2)
    y, x = np.indices(a.shape)
    assert_allclose(values[:, 7] @ values[:, 3], x.sum())
    assert_allclose(values[:, 7] @ values[:, 4], y.sum())


def clip_to_the_end(values, clip, truncation):
    """Return mean, scatter and kept values, clipped about the mean until nothing changes."""
    keep = np.ones(len(values), bool)
    centre = np.median(values)
    scale = 1.4826 * np.median(np.abs(values - centre))
    for _ in range(100):
        new = np.abs(values - centre) <= clip * scale
        if (new == keep).all():
            break
        keep = new
        centre, scale = values[keep].mean(), truncation * values[keep].std(ddof=1)
    return centre, scale, keep


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("use_median", [False, True])
def test_clipped_locations(dtype, use_median):
    a, b = noise_pair((65, 65), (65, 65), dtype=dtype, bad=0.02)
    rng = np.random.default_rng(3)
    # Stars in only one image.
    # The stars are faint and few enough that their neighbours are kept.
    a[rng.integers(0, 65, 20), rng.integers(0, 65, 20)] += 6
    ys, xs, cells = grid_of(a.shape, 3)
    maps = affine_map(rotation(0.1), (2.3, 4.4), ys, xs)
    measured = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, use_median)
    for (iy, ix), row in zip(cells, measured, strict=True):
        difference, brightness, _, _ = difference_samples(a, b, ys, xs, *maps, iy, ix)
        centre, scale, keep = clip_to_the_end(difference.astype(float), CLIP, TRUNCATION)
        assert row[7] == len(difference)
        # The start of the iteration may change a few values at the limit. Pixels beside a far
        # outlier are rejected with it.
        assert -0.15 * len(keep) <= row[6] - keep.sum() <= 2
        if use_median:
            centre = np.median(difference[keep])
        assert_allclose(row[1], scale, rtol=0.02)
        assert_allclose(row[2], brightness[keep].mean(), atol=0.02)
        if row[6] == keep.sum():
            assert_allclose(row[0], centre, atol=1e-5)
            assert_allclose(row[1], scale, rtol=1e-5)


def test_scatter_of_normal_values():
    rng = np.random.default_rng(8)
    a = rng.normal(5, 2, (400, 400))
    b = np.zeros(a.shape)
    ys, xs, cells = grid_of(a.shape, 1)
    maps = affine_map(rotation(0), (0, 0), ys, xs)
    row = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, False)[0]
    assert_allclose(row[:3], [5, 2, 2.5], rtol=0.01)
    assert 0.996 < row[6] / a.size < 0.9985


@pytest.mark.parametrize("use_median", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_difference(use_median, dtype):
    a = np.arange(100, dtype=dtype).reshape(10, 10)
    b = a - dtype(3)
    ys, xs, cells = grid_of(a.shape, 1)
    maps = affine_map(rotation(0), (0, 0), ys, xs)
    row = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, use_median)[0]
    assert_allclose(row[:3], [3, 0, 48])
    assert_array_equal(row[6:], [100, 100, 0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_numbers(dtype):
    # Most differences are 0, so the median deviation is 0, but the scatter is not.
    rng = np.random.default_rng(5)
    a = rng.choice([-1.0, 0, 0, 0, 0, 0, 0, 1], (80, 80)).astype(dtype)
    a[::13, ::17] = 500
    b = np.zeros_like(a)
    ys, xs, cells = grid_of(a.shape, 1)
    maps = affine_map(rotation(0), (0, 0), ys, xs)
    row = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, False)[0]
    good = a[a < 2]
    assert row[6] == good.size
    assert_allclose(row[0], good.mean(), atol=1e-6)
    assert_allclose(row[1], good.std(ddof=1), rtol=1e-5)


def test_a_large_common_level():
    # In float32, sums are relative to the centre, not to 0.
    rng = np.random.default_rng(6)
    a = (1e4 + rng.normal(0, 1, (64, 64))).astype("f4")
    b = np.full_like(a, -1e4)
    ys, xs, cells = grid_of(a.shape, 1)
    maps = affine_map(rotation(0), (0, 0), ys, xs)
    row = difference_cells(a, b, ys, xs, *maps, cells, 10.0, 1.0, False)[0]
    assert_allclose(row[0], np.mean(a.astype(float) - b), atol=2e-3)
    assert_allclose(row[1], np.std(a.astype(float), ddof=1), rtol=1e-4)


def test_an_unclipped_location_is_the_mean_at_a_large_level():
    # Steps of float32 at the level are a third of the noise.
    rng = np.random.default_rng(6)
    a = (1e5 + rng.normal(0, 0.025, (64, 64))).astype("f4")
    b = np.zeros_like(a)
    ys, xs, cells = grid_of(a.shape, 2)
    maps = affine_map(rotation(0), (0, 0), ys, xs)
    rows = difference_cells(a, b, ys, xs, *maps, cells, 10.0, 1.0, False)
    for (iy, ix), row in zip(cells, rows, strict=True):
        difference = difference_samples(a, b, ys, xs, *maps, iy, ix)[0]
        assert row[6] == len(difference)
        assert_allclose(row[0], difference.astype(float).mean(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("use_median", [False, True])
@pytest.mark.parametrize(("clip", "outliers"), [(3.0, 4), (3.0, 40), (2.5, 4), (4.0, 4)])
def test_cells_without_outliers_are_clipped_beside_many(clip, outliers, use_median):
    """Two thirds of the cells have outliers beyond 4 sigma: 0.04 or 0.4 % of all samples."""
    rng = np.random.default_rng(2)
    a, b = np.clip(rng.normal(0, 1, (96, 96)), -3.7, 3.7), np.zeros((96, 96))
    a.flat[rng.permutation(62 * 96)[:outliers]] = 30
    ys, xs, cells = grid_of(a.shape, 3)
    maps, clipping = affine_map(rotation(0), (0, 0), ys, xs), (clip, 1.0135, use_median)
    names = ("location", "clipped", "good")
    rows = difference_cells(a, b, ys, xs, *maps, cells, *clipping, columns=names)
    reversed_rows = difference_cells(
        a, b, ys, xs, *maps, cells[::-1].copy(), *clipping, columns=names
    )
    assert_array_equal(rows, reversed_rows[::-1])
    middle = np.median if use_median else np.mean
    for (iy, ix), row in list(zip(cells, rows, strict=True))[-3:]:
        difference = difference_samples(a, b, ys, xs, *maps, iy, ix)[0]
        assert np.abs(difference).max() > clip or clip == 4
        kept = difference
        if clip < 3 or (outliers > 20 and not use_median):
            centre, _, keep = clip_to_the_end(difference, clip, 1.0135)
            assert_allclose(row[1], centre, atol=1e-3)
            kept = difference[keep]
        assert_allclose(row[0], middle(kept), atol=1e-3 if len(kept) < row[2] else 1e-9)


@pytest.mark.parametrize("power", [-112, -90, -1, 60, 100])
def test_tiny_and_huge_values(power):
    # Powers of two change no bit.
    a, b = noise_pair((64, 64), (64, 64), dtype=np.float32)
    ys, xs, cells = grid_of(a.shape, 2)
    maps = affine_map(rotation(0.2), (1.3, 2.4), ys, xs)
    plain = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, False)
    factor = np.float32(2.0**power)
    found = difference_cells(a * factor, b * factor, ys, xs, *maps, cells, CLIP, TRUNCATION, False)
    assert_array_equal(found[:, :2], plain[:, :2] * float(factor))
    assert_array_equal(found[:, 3:8], plain[:, 3:8])


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize(("low", "high"), [(0.02, 0.05), (0.05, 0.15), (0.2, 0.3), (4.0, 5.0)])
def test_few_photons_are_not_clipped_away(low, high, shift):
    rng = np.random.default_rng(7)
    a, b = (rng.poisson(mean, (256, 256)).astype(np.float32) for mean in (low, high))
    ys, xs, cells = grid_of(a.shape, 8)
    maps = affine_map(rotation(0), (shift, shift), ys, xs)
    for use_median in (False, True) if high < 0.2 else (False,):
        rows = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, use_median)
        error = np.sqrt((low + high) / a.size)
        assert abs(np.mean(rows[:, 0]) - (a.mean() - b.mean())) < 2 * error
        assert_allclose(
            np.sqrt(np.mean(rows[:, 1] ** 2 / rows[:, 5])), np.sqrt(low + high), rtol=0.1
        )


def test_noise_below_the_least_step():
    rng = np.random.default_rng(8)
    a, b = (np.round(rng.normal(mean, 0.25, (128, 128))) for mean in (100.3, 100.0))
    ys, xs, cells = grid_of(a.shape, 4)
    maps = affine_map(rotation(0), (0, 0), ys, xs)
    rows = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, False)
    assert_allclose(np.mean(rows[:, 0]), np.mean(a - b), atol=1e-3)
    # An integer image with steps coarser than its noise is clipped like any other.
    a, b = (np.round(rng.normal(0, 2, (128, 128))) for _ in range(2))
    a[5, 5] = 1e4
    rows = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, False)
    assert np.abs(rows[:, 0]).max() < 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_excess_of_what_is_clipped(dtype):
    rng = np.random.default_rng(9)
    a, b = rng.normal(0, 1, (2, 80, 80))
    a += 7
    a[20, 30] += 1000
    b[20, 30] += 900
    a, b = a.astype(dtype), b.astype(dtype)
    ys, xs, cells = grid_of(a.shape, 1)
    maps = affine_map(rotation(0), (0, 0), ys, xs)
    row = difference_cells(
        a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, False, columns=(*COLUMNS, "clipped")
    )[0]
    difference = a.astype(float) - b
    assert_allclose(row[8], np.sum(difference - row[10]), atol=0.05)
    assert_allclose(row[9], np.sum(0.5 * (a.astype(float) + b) - row[2]), atol=0.05)
    assert_allclose(row[8] / row[9], 100 / 950, rtol=0.2)


@pytest.mark.parametrize(
    ("matrix", "shift", "expected"),
    [
        (rotation(0), (0, 0), 1.0),
        (rotation(0), (0, 0.5), 1 - 2 * 0.25 * 0.75),
        (rotation(0), (0.5, 0.5), (1 - 2 * 0.25 * 0.75) ** 2),
        (rotation(0), (0.2, 0), 1 - 2 * 0.1 * 0.9),
    ],
)
def test_smoothing(matrix, shift, expected):
    a, b = noise_pair((80, 80), (80, 80))
    ys, xs, cells = grid_of(a.shape, 1)
    maps = affine_map(matrix, shift, ys, xs)
    row = difference_cells(a, b, ys, xs, *maps, cells, 5.0, 1.0, False)[0]
    assert_allclose(row[5], expected, rtol=1e-6)
    assert_allclose(row[1] ** 2, 2 * expected, rtol=0.08)


def test_smoothing_of_a_rotated_image():
    a, b = noise_pair((120, 120), (120, 120))
    ys, xs, cells = grid_of(a.shape, 1)
    maps = affine_map(rotation(0.3), (5, 30), ys, xs)
    row = difference_cells(a, b, ys, xs, *maps, cells, 5.0, 1.0, False)[0]
    assert_allclose(row[1] ** 2 / 2, row[5], rtol=0.05)


@pytest.mark.parametrize("angle", [0.002, 0.01, 0.02, 0.03, 0.045])
def test_smoothing_where_neighbours_change_sides(angle):
    # Each sample lies half of the way between the pixels of the two images. At the largest angle,
    # the nearest pixel changes.
    a, b = noise_pair((60, 64), (60, 64))
    ys, xs, cells = np.array([12, 44]), np.array([11, 43]), np.zeros((1, 2), np.intp)
    maps = affine_map([[1, -angle], [angle, 1]], (-27 * angle, 28 * angle), ys, xs)
    row = difference_cells(a, b, ys, xs, *maps, cells, 5.0, 1.0, False)[0]
    y, x = np.indices((33, 33)) - 16.0
    offset = angle * np.stack([y, x])
    offset = 0.5 * np.abs(offset - np.round(offset))
    expected = np.mean(np.prod(1 - 2 * offset * (1 - offset), axis=0))
    assert_allclose(row[5], expected, rtol=0.01)


@pytest.mark.parametrize("shift", [(0, 0), (0, 7.4), (-5.6, 3.2), (0.3, -6.7)])
def test_centroid_is_that_of_the_samples(shift):
    # The difference of a plane and zero equals the plane at the mean position.
    shape = (40, 40)
    y, x = np.indices(shape).astype(float)
    ys, xs, cells = grid_of(shape, 1)
    maps = affine_map(rotation(0.02), shift, ys, xs)
    for plane, column in ((x, 3), (y, 4)):
        row = difference_cells(plane, np.zeros(shape), ys, xs, *maps, cells, 1e6, 1.0, False)[0]
        assert_allclose(row[0], row[column], atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("side", [41, 43])
def test_map_of_sources_hides_no_good_pixel(side, dtype):
    # Between bad pixels, single good ones have no place in the map as sources.
    a, b = noise_pair((side, side), (side, side), dtype=dtype)
    bad = np.ones((side, side), bool)
    bad[1::3, 2::3] = False
    bad[:20, :14] = True
    bad[-1, -1] = False
    a[bad] = b[bad] = np.nan
    ys, xs, cells = grid_of(a.shape, 6)
    lattice = pairs.Lattice(ys, xs, *affine_map(rotation(0), (0, 0), ys, xs))
    clipping = pairs.Clipping(CLIP, TRUNCATION)
    peaks = pairs.peak_map(a), pairs.peak_map(b)
    assert np.isneginf(peaks[0]).any()
    expected = pairs.difference_cells(a, b, lattice, cells, clipping)
    found = pairs.difference_cells(a, b, lattice, cells, clipping, peaks)
    assert found["good"].sum() == (~bad).sum()
    assert_array_equal(found["good"], expected["good"])


@pytest.mark.parametrize("angle", [0.0, 0.1, 0.8, np.pi])
def test_parts_of_images_are_as_good_as_the_whole(angle):
    a, b = noise_pair((120, 150), (140, 130), bad=0.02)
    ys, xs, cells = grid_of(a.shape, 6)
    # Coordinates are relative to the middle of both.
    turn = rotation(angle)
    x, y = np.array([65.4, 70.3]) - turn @ np.array([75.0, 60.0])
    maps = affine_map(turn, (y, x), ys, xs)
    cells = cells[(cells[:, 0] >= 2) & (cells[:, 0] <= 3) & (cells[:, 1] >= 3)]
    whole = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, True)
    assert (whole[:, 6] > 0).any()
    # Cells of a with a margin of one, and their cells of b with a margin of three.
    y, x = cells.T
    box_a = ys[y.min()] - 1, ys[y.max() + 1] + 2, xs[x.min()] - 1, xs[x.max() + 1] + 2
    corners = [[m[y + i, x + j] for i in (0, 1) for j in (0, 1)] for m in maps[::-1]]
    box_b = [int(f(c) + d) for c in corners for f, d in ((np.min, -2), (np.max, 3))]
    parts, where = [], []
    for image, (y0, y1, x0, x1) in ((a, box_a), (b, box_b)):
        y0, x0 = max(y0, 0), max(x0, 0)
        parts.append(np.ascontiguousarray(image[y0 : max(y1, 0), x0 : max(x1, 0)]))
        where.append((y0, x0, *image.shape))
        assert parts[-1].size < 0.9 * image.size
    found = difference_cells(*parts, ys, xs, *maps, cells, CLIP, TRUNCATION, True, *where)
    assert_array_equal(found, whole)
    # The maps of sources are cut with the images.
    lattice, clipping = pairs.Lattice(ys, xs, *maps), pairs.Clipping(CLIP, TRUNCATION, False, 0.2)
    images = [pairs.Image(image, None) for image in (a, b)]
    cut = [
        image.cut((y0, y0 + part.shape[0], x0, x0 + part.shape[1]))
        for image, part, (y0, x0, *_) in zip(images, parts, where, strict=True)
    ]
    whole, found = (
        pairs.difference_cells(
            *(i.pixels for i in some),
            lattice,
            cells,
            clipping,
            [i.peaks for i in some],
            [i.section for i in some],
        )
        for some in (images, cut)
    )
    assert (whole["weight"] < whole["kept"]).any()
    assert_array_equal(found, whole)
    assert cut[0].peaks.size < images[0].peaks.size
    with pytest.raises(ValueError, match="peaks: .* too few"):
        pairs.difference_cells(a, b, lattice, cells, clipping, [cut[0].peaks, None])
    # Missing samples are not invented.
    y0, x0, *shape = where[0]
    less = np.ascontiguousarray(parts[0][2:])
    with pytest.raises(IndexError, match="part_a: cell . reaches beyond"):
        difference_cells(
            less, b, ys, xs, *maps, cells, CLIP, TRUNCATION, True, (y0 + 2, x0, *shape)
        )
    y0, x0, *shape = where[1]
    less = np.ascontiguousarray(parts[1][:, :-4])
    with pytest.raises(IndexError, match="part_b"):
        difference_cells(
            a, less, ys, xs, *maps, cells, CLIP, TRUNCATION, True, None, (y0, x0, *shape)
        )
    with pytest.raises(ValueError, match="not of an image of 120 x 150"):
        difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, True, (1, 0, *a.shape))


def test_cells_without_a_sample():
    a, b = noise_pair((20, 20), (20, 20))
    ys, xs, cells = grid_of(a.shape, 2)
    maps = affine_map(rotation(0), (0, 100), ys, xs)
    values = difference_cells(a, b, ys, xs, *maps, cells, CLIP, TRUNCATION, False)
    assert_array_equal(values[:, 6:], 0)
    assert difference_cells(a, b, ys, xs, *maps, cells[:0], CLIP, TRUNCATION, False).shape == (
        0,
        10,
    )


@given(
    angle=st.floats(-0.03, 0.03),
    scale=st.floats(0.97, 1.03),
    shift=st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    bend=st.floats(-0.5, 0.5),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_samples_of_images_alike(angle, scale, shift, bend, seed):
    # Nearly equal grids are sampled at once, quarter by quarter, or row by row if necessary.
    a, b = noise_pair((48, 52), (50, 47), bad=0.05, seed=seed)
    ys, xs = whole(a.shape)
    map_x, map_y = affine_map(rotation(angle, scale), shift, ys, xs)
    map_x[1, 1] += bend
    check_samples(a, b, map_x, map_y, ys, xs, exact=False)
