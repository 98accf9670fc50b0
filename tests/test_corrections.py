# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of corrections as functions on the sky."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from levelmatch.images.corrections import Correction, interpolate
from levelmatch.sky.grid import Grid
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import tangent_axes, unit_vectors


@pytest.fixture
def axes():
    return tangent_axes(unit_vectors(150.0, 2.0))


def test_nothing():
    correction = Correction()
    assert correction.constant == 0
    assert_array_equal(correction.vector, 0)
    assert_array_equal(correction.coefficients(np.eye(3)), 0)


def test_level_is_constant_exactly(axes):
    correction = Correction.from_coefficients(np.array([2.5]), axes)
    assert correction.evaluate(None) == 2.5
    assert_array_equal(correction.coefficients(axes), [2.5, 0, 0])


def test_coefficients_come_back(axes):
    plane = np.array([2.0, 0.3, -0.7])
    correction = Correction.from_coefficients(plane, axes)
    assert_allclose(correction.coefficients(axes), plane, rtol=1e-12)


def test_sum_and_scale(axes):
    one = Correction.from_coefficients(np.array([2.0, 0.3, -0.7]), axes)
    two = Correction.from_coefficients(np.array([-1.0]), axes)
    total = sum([one, two], Correction())
    assert_allclose(total.coefficients(axes), [1.0, 0.3, -0.7], rtol=1e-9)
    assert_allclose(total.scaled(-3).coefficients(axes), [-3.0, -0.9, 2.1], rtol=1e-9)


@pytest.mark.parametrize("box", [(0, 48, 0, 64), (10, 40, 5, 60)])
@pytest.mark.parametrize("angle", [0.0, 31.0])
def test_plane_at_every_pixel(wcs_of, plane_of, axes, box, angle):
    # Extrapolation works beyond the nodes, where the bounding box of a gwcs ends.
    wcs = wcs_of((3, -5), angle=angle)
    grid = Grid(SkyTransform(wcs, "a"), (48, 64), box, 8)
    plane = np.array([2.0, 0.3, -0.7])
    found = Correction.from_coefficients(plane, axes).evaluate(grid)
    assert found.shape == (48, 64)
    assert_allclose(found, plane_of(wcs, (48, 64), plane), atol=1e-6)


def test_interpolation_goes_through_its_nodes_and_beyond():
    values = interpolate(np.array([[2.0], [4.0], [9.0]]), np.array([2, 4, 9]), np.arange(11))
    assert_allclose(values[:, 0], np.arange(11))
