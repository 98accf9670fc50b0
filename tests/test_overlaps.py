# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of footprints and candidate pairs."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from levelmatch.sky.grid import Grid, default_spacing, hull_vertices
from levelmatch.sky.overlaps import (
    DepthMap,
    components,
    convex_overlap,
    count_inside,
    find_pairs,
    overlap_groups,
)
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import lonlat, tangent_axes, unit_vectors

PLACES = [(0.0, 0.0), (359.99, 45.0), (10.0, 90.0), (10.0, -90.0), (200.0, -89.9)]


def square(centre, half, *, angle=0.0, n=4, stretch=1.0):
    """Return a rectangle on the sky, counter-clockwise (East, North), with half sides in radian."""
    axes = tangent_axes(np.asarray(centre, float))
    u, v = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]]) * np.array([[half * stretch], [half]])
    c, s = np.cos(angle), np.sin(angle)
    vectors = axes[0] + np.outer(c * u - s * v, axes[1]) + np.outer(s * u + c * v, axes[2])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.concatenate([vectors, np.repeat(vectors[-1:], n - 4, axis=0)])


def area_of(*polygons):
    return convex_overlap(np.ascontiguousarray(polygons), np.array([[0, 1]]))[0]


CENTRES = {
    "equator": (1, 0, 0),
    "wrap": (1, -1e-12, 0),
    "pole": (0, 0, 1),
    "south": (1e-14, 0, -1),
    "near the pole": (-1.6e-3, -6e-4, -1),
    "anywhere": (-0.3, 0.5, -0.8),
}


@pytest.mark.parametrize("centre", CENTRES.values(), ids=CENTRES)
@pytest.mark.parametrize("half", [1e-8, 1e-5, 1e-2])
def test_overlap_of_squares(centre, half):
    one = square(centre, half)
    area = 4 * half**2
    tolerance = {"rtol": 1e-7 + 10 * half**2}
    assert_allclose(area_of(one, one), area, **tolerance)
    assert_allclose(area_of(one, square(centre, half / 2)), area / 4, **tolerance)
    assert_allclose(area_of(square(centre, half / 2), one), area / 4, **tolerance)
    # A square and its rotation share a regular octagon.
    octagon = area * 2 * (np.sqrt(2) - 1)
    assert_allclose(area_of(one, square(centre, half, angle=np.pi / 4)), octagon, **tolerance)
    assert_allclose(area_of(one, square(centre, half, n=16)[:4]), area, **tolerance)
    padded = square(centre, half, n=16)
    assert_allclose(area_of(padded, padded), area, **tolerance)
    assert_allclose(convex_overlap(one[None], np.zeros((1, 2), np.intp)), area, **tolerance)


@pytest.mark.parametrize("centre", CENTRES.values(), ids=CENTRES)
@pytest.mark.parametrize("step", [0.5, 1.9, 1.999999, 2.000001, 2.5, 10, 1e6])
@pytest.mark.parametrize("across", [0.0, 0.6, -1.0, 2.02])
def test_overlap_of_neighbours(centre, step, across):
    half = 1e-6
    axes = tangent_axes(np.array(centre, float))
    # A shift in the tangent plane keeps both aligned.
    one = square(centre, half)
    other = one + half * (step * axes[1] + across * axes[2])
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    expected = half**2 * max(2 - step, 0) * max(2 - abs(across), 0)
    assert_allclose(area_of(one, other), expected, rtol=1e-3, atol=1e-6 * half**2)
    assert_allclose(area_of(other, one), expected, rtol=1e-3, atol=1e-6 * half**2)


def test_overlap_of_opposite_sides():
    assert area_of(square((1, 0, 0), 0.1), square((-1, 0, 0), 0.1)) == 0
    assert area_of(square((1, 0, 0), 0.1), square((-1, 1e-9, 0), 0.1)) == 0
    assert area_of(square((1, 0, 0), 0.1), square((0, 1, 0), 0.1)) == 0
    assert area_of(square((0, 0, 1), 0.1), square((0, 0, -1), 0.1)) == 0


def test_overlap_of_slivers():
    half = 1e-5
    one = square((0, 1, 0), half)
    for stretch in (1e-3, 1e-6, 1e-9):
        thin = square((0, 1, 0), half, stretch=stretch)
        assert_allclose(area_of(one, thin), 4 * half**2 * stretch, rtol=1e-3, atol=1e-21)
        assert_allclose(area_of(thin, thin), 4 * half**2 * stretch, rtol=1e-3, atol=1e-21)
    line = one.copy()
    line[1], line[2] = line[0], line[3]
    assert area_of(one, line) < 1e-20
    assert area_of(line, line) < 1e-20


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    lon=st.floats(0, 2 * np.pi),
    z=st.floats(-1, 1),
    step=st.tuples(*[st.floats(-3, 3)] * 2),
    half=st.sampled_from([1e-7, 1e-4, 1e-2]),
    ratio=st.floats(0.1, 3),
    angle=st.floats(0, 6.3),
)
def test_overlap_anywhere(lon, z, step, half, ratio, angle):
    centre = np.array([np.sqrt(1 - z**2) * np.cos(lon), np.sqrt(1 - z**2) * np.sin(lon), z])
    axes = tangent_axes(centre)
    one = square(centre, half)
    other = square(
        centre + half * (step[0] * axes[1] + step[1] * axes[2]), half * ratio, angle=angle
    )
    shared = area_of(one, other)
    atol = 1e-9 * half**2
    assert_allclose(shared, area_of(other, one), rtol=1e-6, atol=atol)
    least = 4 * half**2 * min(1, ratio) ** 2
    # Far from the common middle, the projection stretches slightly.
    assert 0 <= shared <= least * (1 + 1e-8 + 50 * half**2) + atol
    # The same outlines about the pole give the same area.
    pole = tangent_axes(np.array([0.0, 0.0, 1.0]))
    turned = [polygon @ axes.T @ pole for polygon in (one, other)]
    assert_allclose(shared, area_of(*turned), rtol=1e-6, atol=atol)
    # Number of points of one square that lie in the other.
    if half == 1e-4:
        rng = np.random.default_rng(0)
        p = (rng.random((4000, 2)) * 2 - 1) * half
        c, s = np.cos(angle), np.sin(angle)
        q = (p - half * np.array(step)) @ np.array([[c, -s], [s, c]])
        inside = (np.abs(q) <= half * ratio).all(axis=1).mean()
        assert_allclose(shared / (4 * half**2), inside, atol=0.04)


def test_clockwise_outlines_share_nothing():
    one = square((1, 0, 0), 1e-3)
    assert area_of(one[::-1], one[::-1]) == 0


def test_too_many_vertices():
    with pytest.raises(ValueError, match="vertices: at most 32 a footprint, not 33"):
        convex_overlap(np.zeros((2, 33, 3)), np.array([[0, 1]]))


def test_vertices_in_disorder_stay_within_the_buffers():
    # Rounding can make a sliver non-convex: its area is meaningless, but finite.
    rng = np.random.default_rng(4)
    vertices = np.array([1.0, 0, 0]) + 1e-3 * rng.standard_normal((40, 32, 3))
    vertices /= np.linalg.norm(vertices, axis=-1, keepdims=True)
    pairs = np.ascontiguousarray(np.argwhere(np.ones((40, 40), bool)))
    assert np.isfinite(convex_overlap(vertices, pairs)).all()


def test_points_in_outlines():
    square = np.array([[1, 0.1, 0.1], [1, -0.1, 0.1], [1, -0.1, -0.1], [1, 0.1, -0.1]])[::-1]
    normals = np.cross(square, np.roll(square, -1, axis=0))
    if normals[0] @ [1, 0, 0] < 0:
        normals = -normals
    points = np.array(
        [[1, 0, 0], [1, 0.05, -0.09], [1, 0.11, 0], [-1, 0, 0], [np.nan, 0, 0], [1, 0.1, 0.0]]
    )
    count = count_inside(points, np.stack([normals, normals, np.roll(normals, 1, axis=0)]))
    assert_array_equal(count, [3, 3, 0, 0, 0, 3])
    assert_array_equal(count_inside(points, np.zeros((0, 4, 3))), 0)


@pytest.mark.parametrize("angle", [0.0, 13.0, 45.0, 90.0])
def test_hull_of_a_rectangle_has_four_corners(angle):
    side = np.linspace(0, 1, 65)
    zero, one = np.zeros(65), np.ones(65)
    sides = [(side, zero), (side, 0.5 * one), (zero, 0.5 * side), (one, 0.5 * side)]
    edge = np.concatenate([np.stack(xy, axis=1) for xy in sides])
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    hull = edge[hull_vertices(edge @ [[c, s], [-s, c]])]
    assert sorted(map(tuple, hull)) == [(0, 0), (0, 0.5), (1, 0), (1, 0.5)]
    x, y = hull.T
    assert_allclose(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)), 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_hull_of_a_rectangle_with_rounding_errors(seed):
    """Points of a vertical side that are out of order must not replace a corner."""
    side = np.linspace(-1, 1, 17)
    ends = np.ones(17)
    sides = [(side, -ends), (side, ends), (-ends, side), (ends, side)]
    edge = np.concatenate([np.stack(xy, axis=1) for xy in sides])
    noise = np.random.default_rng(seed).integers(-5, 6, edge.shape)
    hull = hull_vertices(1e-3 * edge + 1e-17 * noise)
    assert sorted(map(tuple, edge[hull])) == [(-1, -1), (-1, 1), (1, -1), (1, 1)]


@pytest.mark.parametrize("shape", [(120, 140), (64, 64), (1024, 1032)])
@pytest.mark.parametrize("scale", [0.05, 1.0, 6.0])
def test_outlines_have_the_corners_of_images(wcs_of, shape, scale):
    """The sides of an image that is not rotated are vertical at its centre."""
    wcs = wcs_of(shape=shape, scale=scale)
    box = (0, shape[0], 0, shape[1])
    grid = Grid(SkyTransform(wcs, "a.fits"), shape, box, default_spacing(box))
    x, y = (shape[1] - 1) * np.array([0, 1, 0, 1]), (shape[0] - 1) * np.array([0, 0, 1, 1])
    corners = unit_vectors(*wcs.pixel_to_world_values(x, y))
    nearest = np.linalg.norm(grid.polygon[:, np.newaxis] - corners, axis=-1).min(axis=0)
    assert nearest.max() < 0.01 * np.sqrt(grid.pixel_area)


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
