# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of footprints and candidate pairs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import ConvexHull

from levelmatch.sky.grid import Grid, convex_hull
from levelmatch.sky.overlaps import DepthMap, components, convex_overlap, find_pairs, overlap_groups
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import lonlat, tangent_axes, unit_vectors

PLACES = [(0.0, 0.0), (359.99, 45.0), (10.0, 90.0), (10.0, -90.0), (200.0, -89.9)]


def rectangle(centre, width, height, angle=0.0, offset=(0.0, 0.0), n=8):
    """Return a rectangle on the tangent plane at a position, counter-clockwise, as vectors."""
    axes = tangent_axes(unit_vectors(*centre))
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    corners = 0.5 * np.array(
        [[-width, -height], [width, -height], [width, height], [-width, height]]
    )
    flat = np.tan(np.radians(corners @ [[c, s], [-s, c]] + offset))
    vectors = axes[0] + flat @ axes[1:]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.concatenate([vectors, np.repeat(vectors[-1:], n - 4, axis=0)])


def area_of(*polygons):
    """Return the overlap of the first polygon with the last, in square degrees."""
    vertices = np.ascontiguousarray(polygons)
    pair = np.array([[0, len(polygons) - 1]])
    return convex_overlap(vertices, pair)[0] * np.degrees(1) ** 2


@pytest.mark.parametrize("centre", PLACES)
@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((0.0, 0.0), 0.02),
        ((0.05, 0.0), 0.015),
        ((0.05, 0.03), 0.0105),
        ((-0.1, 0.05), 0.005),
        ((0.2, 0.0), 0.0),
        ((0.0, 0.101), 0.0),
        ((1.0, 1.0), 0.0),
        ((0.1999, 0.0), 1e-5),
    ],
)
def test_shared_area_of_rectangles(centre, offset, expected):
    first = rectangle(centre, 0.2, 0.1)
    second = rectangle(centre, 0.2, 0.1, offset=offset)
    # At this size, areas on the plane and the sphere agree to 1e-5.
    assert_allclose(area_of(first, second), expected, rtol=1e-3, atol=1e-9)
    assert_allclose(area_of(second, first), expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("n", [3, 10, 500])
def test_hull_agrees_with_scipy(n):
    points = np.random.default_rng(n).normal(size=(n, 2))
    # Points given twice, and points within, change nothing.
    points = np.concatenate([points, points[::2], 0.3 * points])
    ours, theirs = convex_hull(points, 1e-15), ConvexHull(points).vertices
    start = np.flatnonzero(np.all(points[theirs] == points[ours[0]], axis=1))[0]
    assert_array_equal(points[ours], np.roll(points[theirs], -start, axis=0))


@pytest.mark.parametrize("angle", [0.0, 13.0, 45.0, 90.0])
def test_hull_of_a_rectangle_has_four_corners(angle):
    side = np.linspace(0, 1, 65)
    zero, one = np.zeros(65), np.ones(65)
    sides = [(side, zero), (side, 0.5 * one), (zero, 0.5 * side), (one, 0.5 * side)]
    edge = np.concatenate([np.stack(xy, axis=1) for xy in sides])
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    hull = edge[convex_hull(np.ascontiguousarray(edge @ [[c, s], [-s, c]]), 1e-15)]
    assert sorted(map(tuple, hull)) == [(0, 0), (0, 0.5), (1, 0), (1, 0.5)]
    x, y = hull.T
    assert_allclose(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)), 0.5)


@pytest.mark.parametrize("angle", [0.0, 13.0, 45.0, 90.0])
def test_identical_and_nested_footprints(angle):
    one = rectangle((40.0, 60.0), 0.2, 0.1, angle)
    assert_allclose(area_of(one), 0.02, rtol=1e-4)
    assert_allclose(area_of(one, one.copy()), 0.02, rtol=1e-4)
    inner = rectangle((40.0, 60.0), 0.02, 0.01, 7.0)
    assert_allclose(area_of(one, inner), 0.0002, rtol=1e-4)


def test_square_turned_by_45_degrees():
    # Two unit squares, one rotated by 45 degrees, share an octagon of 2 (sqrt(2) - 1).
    first = rectangle((0.0, 0.0), 0.1, 0.1)
    second = rectangle((0.0, 0.0), 0.1, 0.1, 45.0)
    assert_allclose(area_of(first, second), 0.01 * 2 * (np.sqrt(2) - 1), rtol=1e-5)


def test_opposite_sides_of_the_sphere_share_nothing():
    assert area_of(rectangle((0, 0), 1, 1), rectangle((180, 0), 1, 1)) == 0
    assert area_of(rectangle((0, 90), 1, 1), rectangle((0, -90), 1, 1)) == 0


@pytest.mark.parametrize("seed", range(6))
def test_shared_area_against_a_brute_count(seed):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 360), rng.uniform(-90, 90)
    shapes = [
        (*rng.uniform(0.05, 0.2, 2), rng.uniform(0, 360), rng.uniform(-0.05, 0.05, 2))
        for _ in range(2)
    ]
    first, second = (rectangle(centre, w, h, a, o) for w, h, a, o in shapes)
    x, y = np.meshgrid(np.linspace(-0.25, 0.25, 1001), np.linspace(-0.25, 0.25, 1001))
    inside = np.ones(x.shape, dtype=bool)
    for w, h, a, (ox, oy) in shapes:
        c, s = np.cos(np.radians(a)), np.sin(np.radians(a))
        u, v = c * (x - ox) + s * (y - oy), -s * (x - ox) + c * (y - oy)
        inside &= (abs(u) <= w / 2) & (abs(v) <= h / 2)
    assert_allclose(area_of(first, second), inside.sum() * 0.0005**2, rtol=0.02, atol=2e-6)


def test_too_many_vertices():
    with pytest.raises(ValueError, match="vertices: at most 32 a footprint, not 40"):
        convex_overlap(np.zeros((1, 40, 3)), np.array([[0, 0]]))


@pytest.fixture
def grids(wcs_of):
    """Return a function that makes grids of 48 x 64 images, shifted by (y, x) pixels."""

    def make(*shifts, centre=(150.0, 2.0)):
        return [
            Grid(SkyTransform(wcs_of(s, centre=centre), str(s)), (48, 64), (0, 48, 0, 64), 8)
            for s in shifts
        ]

    return make


@pytest.mark.parametrize("centre", PLACES)
def test_pairs_of_a_row(grids, centre):
    pairs, area = find_pairs(grids((0, 0), (0, 40), (0, 80), (0, 200), centre=centre))
    assert_array_equal(pairs, [[0, 1], [1, 2]])
    # The outlines of pixel centres share 23 by 47 pixels of an arcsec.
    assert_allclose(area / np.radians(1 / 3600) ** 2, 23 * 47, rtol=1e-4)


def test_all_pairs_of_a_crowd_are_found(grids):
    rng = np.random.default_rng(8)
    shifts = rng.uniform(-200, 200, size=(60, 2))
    pairs, _ = find_pairs(grids(*shifts))
    gap = np.abs(shifts[:, None] - shifts[None])
    touch = (gap[..., 0] < 47) & (gap[..., 1] < 63)
    expected = np.argwhere(np.triu(touch, 1))
    assert_array_equal(pairs, expected)


def test_one_image_has_no_pair(grids):
    pairs, area = find_pairs(grids((0, 0)))
    assert pairs.shape == (0, 2)
    assert area.shape == (0,)


@pytest.mark.parametrize(("shift", "same"), [(20, True), (30, True), (34, False), (70, False)])
def test_groups_share_more_than_half(grids, shift, same):
    label = overlap_groups(grids((0, 0), (0, shift)))
    assert (label[0] == label[1]) == same


def test_components():
    n, label = components([(0, 1), (3, 4)], 5)
    assert n == 3
    assert label[0] == label[1] != label[2]
    assert label[3] == label[4]
    assert components(np.zeros((0, 2)), 3)[0] == 3


def test_depth(grids):
    three = grids((0, 0), (0, 40), (0, 80))
    points = np.concatenate([g.nodes[2:3, 3] for g in three])
    depth = DepthMap(three[0], three[1:])
    assert_array_equal(depth.at(three[1], None, points), [1, 2, 2])
    shared = three[0].nodes[2:3, -2]
    assert_array_equal(depth.at(three[1], None, shared), [2])
    ny, nx = depth.cells.shape
    index = np.argwhere(np.ones((ny, nx), dtype=bool))
    middles = three[0].middles.reshape(-1, 3)
    assert_array_equal(depth.at(three[0], index, middles), depth.at(three[1], None, middles))
    assert set(depth.cells.ravel()) == {1, 2}


def test_outline_and_axes(grids):
    (grid,) = grids((0, 0), centre=(150.0, 2.0))
    assert grid.polygon.shape == (16, 3)
    assert_allclose(lonlat(grid.axes[0]), (150.0, 2.0), atol=1e-9)
    assert_allclose(grid.pixel_area, np.radians(1 / 3600) ** 2, rtol=1e-6)
    assert_allclose(np.degrees(grid.radius) * 3600, np.hypot(23.5, 31.5), rtol=5e-3)
