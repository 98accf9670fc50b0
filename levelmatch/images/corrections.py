# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Corrections that are subtracted from images: constants, planes on the sky, detector patterns."""

from dataclasses import dataclass, field

import numpy as np

from levelmatch.sky.vectors import ARCMIN

__all__ = ["AppliedCorrection", "Correction"]


def _zeros(n):
    """Return zeros that cannot be changed, for all corrections."""
    zeros = np.zeros(n)
    zeros.flags.writeable = False
    return zeros


NO_PLANE, NO_PATTERN = _zeros(3), _zeros(5)


@dataclass(frozen=True, eq=False, slots=True)
class Correction:
    """Sum of a constant, a plane linear in the sky unit vector, and a detector pattern.

    Parameters
    ----------
    constant : float
        In the unit of the image.
    vector : `~numpy.ndarray`, shape (3,)
        The scalar product of this vector with the sky unit vector is the plane.
    pattern : `~numpy.ndarray`, shape (5,)
        Coefficients of x, y, x**2 - 1/3, x y and y**2 - 1/3. The coordinates x and y increase
        from -1 at the first pixel of the whole image to 1 at the last.
    """

    constant: float = 0.0
    vector: np.ndarray = field(default_factory=lambda: NO_PLANE)
    pattern: np.ndarray = field(default_factory=lambda: NO_PATTERN)

    @classmethod
    def from_coefficients(cls, coefficients, axes):
        """Return a correction from a group's coefficients.

        Parameters
        ----------
        coefficients : `~numpy.ndarray`, shape (1,) or (3,)
            Level and slopes per arcmin about the group's centre.
        axes : `~numpy.ndarray`, shape (3, 3)
            Unit vectors of the centre and of the directions of the slopes.

        Returns
        -------
        correction : `Correction`
            A constant without slopes, so that rounding errors add no slope.
        """
        if len(coefficients) == 1 or not np.any(coefficients[1:]):
            return cls(float(coefficients[0]))
        weight = np.array([1.0, ARCMIN, ARCMIN])
        return cls(0.0, (weight * coefficients) @ axes)

    @property
    def is_level(self):
        """True for a constant."""
        if self.vector is NO_PLANE and self.pattern is NO_PATTERN:
            return True
        return not (self.vector.any() or self.pattern.any())

    def __add__(self, other):
        constant = self.constant + other.constant
        if self.is_level and other.is_level:
            return Correction(constant)
        return Correction(constant, self.vector + other.vector, self.pattern + other.pattern)

    def scaled(self, factor):
        """Return the correction times a factor."""
        if self.is_level:
            return Correction(self.constant * factor)
        return Correction(self.constant * factor, self.vector * factor, self.pattern * factor)

    def coefficients(self, axes):
        """Return the level and the two slopes per arcmin about a centre, shape (3,).

        The pattern, whose mean over the detector is zero, is left out.
        """
        plane = axes @ self.vector / np.array([1.0, ARCMIN, ARCMIN])
        plane[0] += self.constant
        return plane

    def evaluate(self, grid):
        """Return the correction at the pixels of a whole image.

        Parameters
        ----------
        grid : `~levelmatch.sky.grid.Grid`
            Position of the image. The plane is exact at the nodes of the grid and bilinear
            between and beyond them.

        Returns
        -------
        values : float or 2D `~numpy.ndarray` of float64
            A float for a constant.

        Notes
        -----
        Values are bitwise equal on every machine, so that a record can be verified anywhere.
        Sums are written out, because libraries sum the terms of a matrix product in different
        orders.
        """
        if self.pattern.any():
            plane = Correction(self.constant, self.vector).evaluate(grid)
            return plane + self._on_detector(grid.shape)
        if not self.vector.any():
            return self.constant
        x, y, z = np.moveaxis(grid.nodes, -1, 0)
        at_nodes = self.constant + (self.vector[0] * x + self.vector[1] * y + self.vector[2] * z)
        rows, columns = (np.arange(n) for n in grid.shape)
        return interpolate(interpolate(at_nodes.T, grid.xs, columns).T, grid.ys, rows)

    def _on_detector(self, shape):
        """Return the pattern at the pixels of a whole image."""
        y, x = (2 * np.arange(n) / max(n - 1, 1) - 1 for n in shape)
        y = y[:, None]
        a, b, c, d, e = self.pattern.tolist()
        of_x = a * x + c * (x * x - 1 / 3)
        of_y = b * y + e * (y * y - 1 / 3)
        return of_x + (of_y + d * (x * y))


@dataclass(frozen=True, eq=False, slots=True)
class AppliedCorrection:
    """Correction of one image by one pass, in the unit of the image.

    Parameters
    ----------
    name : str
        Name of the pass.
    correction : `Correction`
        The correction.
    variance : `~numpy.ndarray`, shape (3,)
        Variance of the level and the two slopes about the image's centre.
    reference : str
        The image held at zero, or ``"mean"``.
    """

    name: str
    correction: Correction
    variance: np.ndarray
    reference: str


def interpolate(values, nodes, positions):
    """Interpolate values linearly from nodes to positions on the first axis; extrapolate beyond."""
    cell = np.clip(np.searchsorted(nodes, positions, side="right") - 1, 0, len(nodes) - 2)
    t = (positions - nodes[cell]) / (nodes[cell + 1] - nodes[cell])
    t = t.reshape(-1, *[1] * (values.ndim - 1))
    return (1 - t) * values[cell] + t * values[cell + 1]
