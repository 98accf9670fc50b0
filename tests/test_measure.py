# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of measured pairs: truth, symmetry and errors."""

import numpy as np
import pytest
import reproject
from astropy.nddata import CCDData
from astropy.wcs import WCS, Sip
from hypothesis import event, given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.inputs import collect_frames
from levelmatch.measure import pairs as measure
from levelmatch.measure.cells import PAIR_CELL
from levelmatch.measure.pairs import (
    Image,
    measure_pair,
    needed_box,
    second_has_cells,
    summarise,
)
from levelmatch.options import MeasureOptions
from levelmatch.sky import reprojection
from levelmatch.sky._geometry import balance_map, map_error
from levelmatch.sky.grid import Grid, default_spacing
from levelmatch.sky.overlaps import DepthMap
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import plane_terms, tangent_axes, unit_vectors
from levelmatch.solve.equations import Equations
from levelmatch.testing import simulate_miri

SHAPE = (64, 72)


def measure_arrays(a, b, grid_a, grid_b, others, options):
    """Measure two arrays, of which other images share the noise."""
    maps = DepthMap(grid_a, [grid_b, *others]), DepthMap(grid_b, [grid_a, *others])
    return measure_pair(Image(a, grid_a), Image(b, grid_b), maps, options)


def grid_of(wcs, shape=SHAPE, spacing=None):
    box = (0, shape[0], 0, shape[1])
    return Grid(SkyTransform(wcs, "test"), shape, box, spacing or default_spacing(box))


@pytest.fixture
def pair(paint):
    """Return a function that paints two images, and returns their data and grids."""

    def make(shift=(0.0, 0.0), *, shape=SHAPE, second=None, noise=0.1, seed=0, **options):
        own = {"shape": shape, "noise": noise, "seed": seed, "dtype": "f8"}
        a = paint("a.fits", **own)
        b = paint("b.fits", shift, **{**own, **options, **({"shape": second} if second else {})})
        return a.data, b.data, grid_of(a.wcs, a.data.shape), grid_of(b.wcs, b.data.shape)

    return make


def cells_of(n=40, *, plane=(0.0, 0.0, 0.0), noise=1.0, seed=0, index=None):
    """Return cells of known variance scattered about a known plane."""
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(150 + 0.02 * rng.random(n), 2 + 0.02 * rng.random(n))
    variance = rng.uniform(0.5, 2, n) * 1e-4
    axes = tangent_axes(np.sum(vectors / variance[:, None], axis=0))
    exact = plane_terms(vectors, axes) @ np.asarray(plane)
    index = np.stack([np.arange(n) // 8, np.arange(n) % 8], axis=1)
    cells = np.zeros(n, PAIR_CELL)
    values = {
        "location": exact + noise * np.sqrt(variance) * rng.standard_normal(n),
        "brightness": np.zeros(n),
        "star_diff": np.zeros(n),
        "star_flux": np.zeros(n),
        "variance": variance,
        "scatter": np.sqrt(64 * variance),
        "npix": np.full(n, 64),
        "vector": vectors,
        "y": index[:, 0],
        "x": index[:, 1],
        "weight": 1 / variance,
        "pixel_variance": 64 * variance,
    }
    for name, column in values.items():
        cells[name] = column
    cells["clipped"] = cells["location"]
    return measure._Cells(cells, None, np.full(n, 64), extent=(0.5, 0.25))


def test_normal_equations_hold_the_plane():
    plane = np.array([1.5, -0.4, 0.7])
    cells = cells_of(plane=plane, noise=0.0)
    row = summarise(cells, np.full(40, 2))
    assert_allclose(np.linalg.solve(row["gram"], row["rhs"]), plane, rtol=1e-9)
    weight = cells.cells["weight"]
    freedom = 37 / 40 * weight.sum() ** 2 / np.sum(weight**2)
    assert_allclose(row["chi2"], 10 / (10 + freedom))
    assert row["npix"] == 40 * 64
    assert_array_equal(row["extent"], [0.5, 0.25])
    # Level and slopes about the weighted centre are independent to second order.
    assert abs(row["gram"][0, 1:]).max() < 1e-6 * row["gram"][0, 0]


def test_error_of_the_level_is_that_of_its_cells():
    cells = cells_of()
    row = summarise(cells, np.full(40, 2))
    own = np.sqrt(row["chi2"] / np.sum(1 / cells.cells["variance"]))
    assert_allclose(row["sigma"], own)
    assert_allclose(row["gram"][0, 0], 1 / own**2)
    assert_allclose(row["scatter"], np.sqrt(np.mean(cells.cells["scatter"] ** 2)), rtol=0.02)


def test_cells_that_scatter_more_than_their_pixels():
    rows = [summarise(cells_of(400, noise=3.0, seed=s), np.full(400, 2)) for s in range(5)]
    assert_allclose(np.mean([row["chi2"] for row in rows]), (10 + 9 * 397) / 407, rtol=0.05)


@pytest.mark.parametrize("size", [30, 1e4])
@pytest.mark.parametrize("n_bad", [1, 4])
def test_outlying_cells_are_left_out(size, n_bad):
    cells = cells_of(plane=(1.0, 0.1, 0.1))
    bad = np.arange(n_bad) * 5
    keep = np.setdiff1d(np.arange(40), bad)
    cells.cells["location"][bad] += size * np.sqrt(cells.cells["variance"][bad])
    row = summarise(cells, np.full(40, 2))
    terms = plane_terms(cells.cells["vector"], row["axes"])[keep]
    root = 1 / np.sqrt(cells.cells["variance"][keep])
    plane = np.linalg.lstsq(
        terms * root[:, None], cells.cells["location"][keep] * root, rcond=None
    )[0]
    assert row["npix"] == (40 - n_bad) * 64
    assert_allclose(np.linalg.solve(row["gram"], row["rhs"]), plane, atol=1e-9)


def test_few_cells_are_all_kept():
    cells = cells_of(4)
    cells.cells["location"][0] += 1.0
    row = summarise(cells, np.full(4, 2))
    assert row["npix"] == 4 * 64
    assert row["chi2"] > 10


@pytest.mark.parametrize("n", [1, 2])
def test_a_cell_or_two_tell_a_level_alone(n):
    row = summarise(cells_of(n, plane=(2.0, 0, 0), noise=0.0), np.full(n, 2))
    assert np.linalg.matrix_rank(row["gram"], tol=1e-9 * row["gram"][0, 0]) == n
    assert_allclose(row["rhs"][0] / row["gram"][0, 0], 2.0)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_all_pairs_hold_the_information_of_the_joint_fit(n):
    # The information of n images of one patch is identity - 1/n over an image's variance.
    row = summarise(cells_of(), np.full(40, n))
    first, second = np.triu_indices(n, 1)
    count = len(first)
    axes = np.repeat(row["axes"][None], max(n, count), axis=0)
    equations = Equations(
        first,
        second,
        np.repeat(row["gram"][None, :1, :1], count, axis=0),
        np.repeat(row["rhs"][None, :1], count, axis=0),
        axes[:count],
        axes[:n],
    )
    matrix = equations.assemble(np.ones(count)).toarray()
    # The variance of a pair is the sum for two images.
    joint = (np.eye(n) - 1 / n) * 2 / row["sigma"] ** 2
    assert_allclose(matrix, joint, rtol=1e-10, atol=1e-9 * joint.max())


def at(row, axes):
    """Return level and slopes of a measured pair about given axes."""
    from levelmatch.sky.vectors import transfer_matrix

    return transfer_matrix(row["axes"], axes) @ np.linalg.solve(row["gram"], row["rhs"])


PLACES = {
    "aligned": {"shift": (9, -14)},
    "fractional": {"shift": (9.4, -13.7)},
    "rotated": {"shift": (3.0, 4.0), "angle": 25.0},
    "opposite": {"shift": (3.0, 4.0), "angle": 180.0},
    "coarser": {"shift": (2.0, 3.0), "scale": 1.9, "angle": 5.0},
    "finer": {"shift": (2.0, 3.0), "scale": 0.6, "angle": 5.0},
    "other size": {"shift": (9.4, -3.7), "second": (40, 90)},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("location", ["mean", "median"])
def test_a_plane_is_found(pair, place, location):
    # The centre of the second image differs.
    plane = np.array([0.8, 0.5, -0.3])
    options = dict(place)
    shift = options.pop("shift")
    a, b, grid_a, grid_b = pair(shift, plane=tuple(-plane), noise=1e-4, **options)
    row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions(location=location))
    centre = tangent_axes(unit_vectors(150.0, 2.0))
    # The median of a half-filled cell differs from its plane at the centroid.
    assert_allclose(at(row, centre), plane, atol=2e-4 if location == "mean" else 2e-3)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_swapped_images_change_the_sign(pair, place):
    options = dict(place)
    a, b, grid_a, grid_b = pair(options.pop("shift"), level=0.7, **options)
    one = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions())
    two = measure_arrays(b, a, grid_b, grid_a, [], MeasureOptions())
    error = np.sqrt(np.diagonal(np.linalg.inv(one["gram"])))
    off = at(one, one["axes"]) + at(two, one["axes"])
    # One of the images has the cells in both directions, unless a half turn makes them alike.
    exact = place.get("angle") != 180
    assert (np.abs(off) < (1e-6 if exact else 1.5) * error).all()
    assert_allclose(one["sigma"], two["sigma"], rtol=1e-9 if exact else 0.25)
    assert_allclose(one["extent"], two["extent"][::-1], rtol=1e-9 if exact else 0.2)


def test_direction_has_no_bias(pair):
    # Rare bright pixels, such as cosmic rays, skew the noise equally in both images.
    rng = np.random.default_rng(0)
    off = []
    for seed in range(60):
        a, b, grid_a, grid_b = pair((5.4, 6.3), seed=seed)
        for image in (a, b):
            image += 0.1 * rng.gamma(0.3, 1.0, image.shape)
        assert second_has_cells(grid_a, grid_b) != second_has_cells(grid_b, grid_a)
        row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions())
        off.append(row["rhs"][0] / row["gram"][0, 0] / row["sigma"])
    assert abs(np.mean(off)) < 3.5 / np.sqrt(60)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_finer_image_is_walked(pair, scale):
    a, b, grid_a, grid_b = pair((0.3, 0.2), scale=scale)
    row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions(clip=8.0))
    overlap = a.size * min(scale, 1.0) ** 2
    finer = overlap / min(scale, 1.0) ** 2
    assert 0.88 * finer < row["npix"] <= finer


def pulls(pair, n, place, **options):
    out = []
    place = dict(place)
    shift = place.pop("shift")
    for seed in range(n):
        a, b, grid_a, grid_b = pair(shift, seed=seed, **place)
        row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions(**options))
        found = np.linalg.solve(row["gram"], row["rhs"])
        error = np.sqrt(np.diagonal(np.linalg.inv(row["gram"])))
        out.append([*(found / error), row["rhs"][0] / row["gram"][0, 0] / row["sigma"]])
    return np.array(out)


@pytest.mark.parametrize("location", ["mean", "median"])
@pytest.mark.parametrize("name", ["aligned", "fractional", "rotated", "coarser", "finer"])
def test_errors_are_calibrated(pair, name, location):
    values = pulls(pair, 80, PLACES[name], location=location)
    # The standard deviation of 80 trials is known to 8 %. The nearest pixels of a rotated image
    # are used repeatedly or never, and coarse pixels repeatedly. The scatter of the cells shows
    # this only partly.
    most = {"rotated": 1.3, "coarser": 1.55, "finer": 1.5}.get(name, 1.25)
    assert (values.std(axis=0) > 0.75).all()
    assert (values.std(axis=0) < most).all()
    assert (np.abs(values.mean(axis=0)) < 4 / np.sqrt(80)).all()


def test_interpolation_does_not_lower_the_error(pair):
    # Samples at half pixels average four pixels; their mean is as noisy as that of the pixels.
    sigma = {}
    for shift in ((9, -14), (9.5, -13.5)):
        a, b, grid_a, grid_b = pair(shift, shape=(128, 128))
        row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions())
        sigma[shift] = row["sigma"] * np.sqrt(row["npix"] / row["chi2"])
        assert_allclose(row["chi2"], 1, atol=0.35)
    for value in sigma.values():
        assert_allclose(value, 0.1 * np.sqrt(2), rtol=0.05)


@pytest.mark.parametrize(
    ("shift", "second", "expected"),
    [
        ((0, 0), None, (1, 1)),
        ((0, 36), None, (64 / 72, 64 / 72)),
        ((48, 54), None, (18 / 72, 18 / 72)),
        ((0, 0), (32, 32), (32 / 72, 1)),
    ],
)
def test_extent(pair, shift, second, expected):
    a, b, grid_a, grid_b = pair(shift, second=second)
    row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions())
    assert_allclose(row["extent"], expected, atol=0.09)


def test_no_common_good_pixel(pair):
    a, b, grid_a, grid_b = pair((3, 3))
    a[:, :40], b[:, 30:] = np.nan, np.nan
    row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions())
    assert row["npix"] == 0
    assert not row["gram"].any()
    assert np.isnan(row["sigma"])


def test_bad_half_does_not_count(pair):
    a, b, grid_a, grid_b = pair((0, 0))
    b[:, 36:] = np.nan
    a[:32] = np.nan
    row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions(clip=8.0))
    assert row["npix"] == 32 * 36


def test_single_and_double_precision_mix(pair):
    a, b, grid_a, grid_b = pair((3.3, 4.1), level=0.7)
    exact = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions())
    for one, two in ((a, b.astype("f4")), (a.astype("f4"), b.astype("f4"))):
        row = measure_arrays(one, two, grid_a, grid_b, [], MeasureOptions())
        assert_allclose(row["rhs"], exact["rhs"], rtol=1e-3, atol=1e-3 * abs(exact["rhs"][0]))
        assert_allclose(row["sigma"], exact["sigma"], rtol=1e-3)


def test_copies_of_one_image(pair):
    a, _, grid_a, _ = pair()
    row = measure_arrays(a, a.copy(), grid_a, grid_a, [], MeasureOptions())
    assert_allclose(row["rhs"], 0, atol=1e-20)
    assert np.isfinite(row["gram"]).all()
    assert row["sigma"] > 0


@pytest.mark.parametrize("angle", [0, 35])
@pytest.mark.parametrize("kind", ["tan", "sip"])
def test_areas_are_those_of_reproject_exact(paint, monkeypatch, angle, kind):
    monkeypatch.setattr(reprojection, "STRIP", 700)
    exact, sizes = reproject.reproject_exact, []

    def recorded(image, wcs, shape_out):
        sizes.append(shape_out[-2] * shape_out[-1])
        return exact(image, wcs, shape_out=shape_out)

    monkeypatch.setattr(reproject, "reproject_exact", recorded)
    if kind == "sip":
        images = simulate_miri(tiles=(1, 1), n_dithers=2, shape=(80, 90)).images[:2]
    else:
        images = [paint("a.fits", noise=1.0), paint("b.fits", (7.3, 20.5), angle=angle, noise=1.0)]
    images[0].data[10:14, 20:30] = np.nan
    frames = collect_frames(images)
    wcs, shape = reprojection.common_grid([frame.grid for frame in frames])
    for frame in frames:
        pixels = frame.load()
        planes = np.stack([pixels, 2 * pixels])
        expected = exact((planes, frame.grid.transform.original), wcs, shape_out=(2, *shape))
        found = reprojection.reproject_by_areas(planes, frame.grid, wcs, shape)
        for one, other in zip(found, expected, strict=True):
            assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    # An interrupt waits for the end of a call.
    assert len(sizes) > 10
    assert max(sizes) <= 700 + 2 * shape[1]


@pytest.mark.parametrize("method", ["interp", "exact", "adaptive"])
def test_reprojection_tells_the_same(pair, method):
    a, b, grid_a, grid_b = pair((9.4, -13.7), level=-0.7, angle=7.0)
    direct = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions())
    row = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions(method=method))
    error = direct["sigma"]
    level = at(direct, row["axes"])[0]
    assert abs(level - 0.7) < 4 * error
    assert abs(at(row, row["axes"])[0] - level) < error
    # Releases of reproject and astropy treat edges differently.
    assert_allclose(row["npix"], direct["npix"], rtol=0.25)
    assert_allclose(row["sigma"], error, rtol=0.5)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_values_of_any_size(pair, factor):
    a, b, *grids = pair((0.0, 20.3))
    plain = measure_arrays(a, b, *grids, [], MeasureOptions())
    scaled = ((image * factor).astype("f4") for image in (a, b))
    found = measure_arrays(*scaled, *grids, [], MeasureOptions())
    assert found["npix"] == plain["npix"]
    assert_allclose(found["sigma"], factor * plain["sigma"], rtol=1e-3)
    assert_allclose(at(found, found["axes"])[0], factor * at(plain, plain["axes"])[0], rtol=1e-3)


def test_a_pedestal_does_not_widen_the_errors_of_doubles(pair):
    a, b, *grids = pair((0.0, 20.3))
    plain = measure_arrays(a, b, *grids, [], MeasureOptions())
    found = measure_arrays(a + 1e9, b + 1e9, *grids, [], MeasureOptions())
    assert_allclose(found["sigma"], plain["sigma"], rtol=1e-2)
    # A type with fewer digits has larger rounding errors.
    coarse = measure_arrays((a + 1e9).astype("f4"), b + 1e9, *grids, [], MeasureOptions())
    assert coarse["sigma"] > 10 * plain["sigma"]


@settings(max_examples=150, deadline=None)
@given(
    shift=st.tuples(st.floats(-90, 90), st.floats(-90, 90)),
    scale=st.floats(0.3, 4.0),
    angle=st.floats(0, 360),
    bend=st.sampled_from([0.0, 3e-4]),
    box=st.tuples(
        st.integers(0, 30), st.integers(60, 96), st.integers(0, 40), st.integers(70, 110)
    ),
    spacing=st.sampled_from([8, 16]),
)
def test_the_needed_part_gives_what_the_whole_does(paint, shift, scale, angle, bend, box, spacing):
    shape = (96, 110)
    first = paint("a.fits", shape=shape, noise=0.1)
    second = paint("b.fits", shift, shape=shape, noise=0.1, scale=scale, angle=angle)
    grids = [
        Grid(SkyTransform(sip_wcs(first.wcs, bend), "a"), shape, (0, 96, 0, 110), spacing),
        Grid(SkyTransform(second.wcs, "b"), shape, box, 8),
    ]
    images = [Image(i.data, g) for i, g in zip((first, second), grids, strict=True)]
    for image, (y0, y1, x0, x1) in zip(images, (grids[0].box, grids[1].box), strict=True):
        outside = np.ones(shape, dtype=bool)
        outside[y0:y1, x0:x1] = False
        image.pixels[outside] = np.nan
    maps = [DepthMap(g, []) for g in grids]
    expected = measure_pair(*images, maps, MeasureOptions())
    parts = [
        image.cut(needed_box(image.grid, [other.grid]))
        for image, other in zip(images, images[::-1], strict=True)
    ]
    event("smaller" if parts[0].pixels.size < images[0].pixels.size else "whole")
    for pair in (parts, (parts[0], images[1]), (images[0], parts[1])):
        found = measure_pair(*pair, maps, MeasureOptions())
        for key, value in zip(expected.dtype.names, expected, strict=True):
            assert_array_equal(found[key], value, err_msg=key)


def test_the_needed_part_is_no_more(paint):
    shape = (256, 256)
    here, above, left, far = (
        grid_of(paint("a.fits", shift, shape=shape).wcs, shape)
        for shift in ((0, 0), (226, 0), (0, -226), (2000, 0))
    )
    # The 30 common rows, in whole cells, and a margin.
    y0, y1, x0, x1 = needed_box(here, [above])
    assert (y1, x0, x1) == (256, 0, 256)
    assert 30 <= y1 - y0 <= 30 + here.spacing + 16
    y0, y1, x0, x1 = needed_box(here, [left])
    assert (y0, y1, x0) == (0, 256, 0)
    assert 30 <= x1 - x0 <= 30 + here.spacing + 16
    assert needed_box(here, [above, left]) == (0, 256, 0, 256)
    # If no rows seem necessary, all are read.
    assert needed_box(here, [far]) == (0, 256, 0, 256)


def sip_wcs(wcs, strength):
    wcs = wcs.deepcopy()
    a, b = np.zeros((2, 4, 4))
    a[2, 0], a[0, 3], b[1, 1], b[0, 2] = strength, strength / 50, -strength, 2 * strength
    wcs.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    wcs.sip = Sip(a, b, np.zeros((4, 4)), np.zeros((4, 4)), wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def tpv_wcs():
    header = {
        "CTYPE1": "RA---TPV",
        "CTYPE2": "DEC--TPV",
        "CRVAL1": 150.0,
        "CRVAL2": 2.0,
        "CRPIX1": 100.0,
        "CRPIX2": 90.0,
        "CD1_1": -0.01,
        "CD2_2": 0.01,
        "CD1_2": 0.001,
        "CD2_1": 0.0005,
        "PV1_0": 0.0,
        "PV1_1": 1.0,
        "PV1_2": 0.01,
        "PV1_4": 0.05,
        "PV1_7": 0.01,
        "PV2_0": 0.0,
        "PV2_1": 1.0,
        "PV2_2": -0.01,
        "PV2_4": -0.04,
        "PV2_7": 0.02,
    }
    return WCS(header)


@pytest.mark.parametrize("kind", [5e-5, 7e-5, 1e-4, 2e-4, 3e-4, "tpv"])
def test_map_of_a_distorted_image_is_exact(paint, kind):
    shape = (200, 220)
    if kind != "tpv":
        wcs, flat = (
            sip_wcs(paint().wcs, kind),
            paint("b.fits", (20, 30), shape=shape, angle=10.0).wcs,
        )
    else:
        wcs = tpv_wcs()
        flat = paint("b.fits", (20, 30), shape=shape, scale=36.0, angle=10.0).wcs
    grid_a, grid_b = grid_of(flat, shape, 32), grid_of(wcs, shape, 32)
    grid, map_x, map_y, cells = measure.map_cells(grid_a, grid_b)
    assert grid.spacing < 32
    assert len(cells) > 4
    rng = np.random.default_rng(0)
    inside = 0
    for iy, ix in cells[rng.choice(len(cells), min(len(cells), 60), replace=False)]:
        t, s = rng.random(2)
        y = (1 - t) * grid.ys[iy] + t * grid.ys[iy + 1]
        x = (1 - s) * grid.xs[ix] + s * grid.xs[ix + 1]
        weights = np.outer([1 - t, t], [1 - s, s])
        found = [np.sum(weights * m[iy : iy + 2, ix : ix + 2]) for m in (map_x, map_y)]
        if not (0 <= found[0] < shape[1] and 0 <= found[1] < shape[0]):
            continue
        inside += 1
        # The reference goes through the sky by the forward transform, without iterations.
        sky = grid_a.transform.to_sky(x, y)
        there = grid_b.transform.to_sky(*found)
        off = np.linalg.norm(sky - there) / np.sqrt(grid_b.pixel_area)
        assert off < 0.02
    assert inside > 20


def test_clip_leaves_the_mean_of_photon_noise(paint):
    # The noise of the first image has a skewness of 0.1, and that of the second of 0.01.
    shape = (480, 480)
    grid, off = grid_of(paint(shape=shape).wcs, shape), []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a, b = (rng.poisson(n, shape) / n for n in (100, 10_000))
        row = measure_arrays(a, b, grid, grid, [], MeasureOptions())
        off.append(row["rhs"][0] / row["gram"][0, 0] / row["sigma"])
    # A clip at 3 sigma in all cells gives -1.7.
    assert abs(np.mean(off)) < 1.0


def test_balanced_map_errs_half_as_much_to_both_sides():
    # A quadratic map: x'' = 2 a and y'' = 2 b along both axes, over cells of 32 pixels.
    a, b, side = 1.3e-5, -0.7e-5, 32.0
    node = side * np.arange(6)
    y, x = np.meshgrid(node, node, indexing="ij")
    map_x, map_y = x + a * (x**2 + y**2), y + b * (x**2 + y**2)
    cells = np.ascontiguousarray(np.argwhere(np.ones((5, 5), bool)))
    middle = node[cells] + side / 2
    square = (middle**2).sum(axis=1)
    exact = middle[:, 1] + a * square, middle[:, 0] + b * square
    worst = 2 * a * (side / 2) ** 2
    assert_allclose(map_error(map_x, map_y, cells, *exact), worst, rtol=1e-9)
    unknown = exact[0].copy()
    unknown[7] = np.nan
    left = balance_map(map_x, map_y, cells, unknown, exact[1])
    assert_allclose(left, worst / 2, rtol=1e-9)
    assert_allclose(map_x, x + a * (x**2 + y**2) - worst / 2, atol=1e-12)
    assert_allclose(map_y, y + b * (x**2 + y**2) - worst / 2 * b / a, atol=1e-12)


def test_slightly_curved_map_is_balanced_and_not_refined(paint):
    shape = (200, 220)
    flat = paint("b.fits", (20, 30), shape=shape, angle=10.0).wcs
    grids = grid_of(flat, shape, 32), grid_of(sip_wcs(paint().wcs, 1e-5), shape, 32)
    grid, map_x, map_y, cells = measure.map_cells(*grids)
    assert grid is grids[0]
    exact = grids[1].to_pixel(grid.nodes)
    assert 0.001 < np.nanmax(np.hypot(map_x - exact[0], map_y - exact[1])) < 0.02
    middles = grids[1].to_pixel(grid.middles[cells[:, 0], cells[:, 1]])
    assert map_error(*exact, cells, *middles) > measure.MAP_ERROR
    assert map_error(map_x, map_y, cells, *middles) < measure.BALANCED_ERROR


def test_map_is_balanced_beyond_the_edge_of_the_other_image(paint):
    shape = (200, 220)
    flat = paint("b.fits", (192, 0), shape=shape).wcs
    grids = grid_of(flat, shape, 32), grid_of(sip_wcs(paint().wcs, 3e-5), shape, 32)
    grid, map_x, map_y, cells = measure.map_cells(*grids)
    middles = grid.middles[cells[:, 0], cells[:, 1]]
    assert np.isnan(grids[1].to_pixel(middles)).any()
    exact = grids[1].to_pixel(middles, 32)
    assert map_error(map_x, map_y, cells, *exact) < measure.BALANCED_ERROR


def test_map_of_a_plain_image_is_not_refined(pair):
    _, _, grid_a, grid_b = pair((5.2, 3.1), angle=30.0)
    assert measure.map_cells(grid_a, grid_b)[0] is grid_a


def test_depth_shares_the_weight(pair):
    a, b, grid_a, grid_b = pair((0, 0))
    alone = measure_arrays(a, b, grid_a, grid_b, [], MeasureOptions())
    shared = measure_arrays(a, b, grid_a, grid_b, [grid_a, grid_b], MeasureOptions())
    # Cells at the very edge of the outline count.
    assert_allclose(shared["gram"], alone["gram"] / 2, rtol=1e-9, atol=1e-9)
    assert_allclose(shared["sigma"], alone["sigma"])


@pytest.mark.parametrize("clip", [1.0, 2.0, 3.0, 5.0])
def test_truncation_is_that_of_a_clipped_normal(clip):
    from scipy.stats import truncnorm

    expected = 1 / truncnorm(-clip, clip).std()
    assert_allclose(MeasureOptions(clip=clip).truncation, expected, rtol=1e-9)


def trailed_dithers(seed, *, trails):
    """Return the levels less the true ones of six dithers; every second one may have a trail."""
    rng, images = np.random.default_rng(seed), []
    y, x = np.mgrid[:160, :160] - 80.0
    for k in range(6):
        noise, (down, right) = rng.normal(0, 0.3, y.shape), rng.uniform(-12, 12, 2)
        angle, offset, peak = rng.uniform(0, np.pi), rng.uniform(-30, 30), rng.lognormal(1, 0.5)
        distance = x * np.sin(angle) - y * np.cos(angle) - offset
        trail = trails * (k % 2) * peak / (1 + (distance / 2) ** 2) ** 2
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval, wcs.wcs.cdelt = (30.0, 1.0), (-1e-4, 1e-4)
        wcs.wcs.crpix = 80 - right, 80 - down
        data = noise + trail + k
        images.append(CCDData(data, unit="MJy/sr", wcs=wcs, meta={"FILENAME": f"{k}.fits"}))
    table = lm.match_dithers(images).table
    off = table["level"].value - np.arange(6)
    return off - off.mean(), table["error"].value


def test_wings_of_trails_are_left_out():
    """Cells beside those that a trail spoils are off in its direction, by less than is clipped."""
    plain, _ = np.stack([trailed_dithers(seed, trails=False) for seed in range(60)], axis=1)
    off, errors = np.stack([trailed_dithers(seed, trails=True) for seed in range(60)], axis=1)
    assert np.std(off) < 1.15 * np.std(plain)
    assert np.sqrt(np.mean(np.square(off / errors))) < 1.15
