# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Position of an image on the sky, exact at the nodes of a coarse grid and smooth in between."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.spatial import ConvexHull

from levelmatch.exceptions import FrameError
from levelmatch.sky._geometry import polynomial_sums, project, sky_to_pixel
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import tangent_axes

__all__ = ["Footprint", "Grid", "are_at_one_place", "hull_vertices"]


# Number of vertices of a footprint.
N_VERTICES = 16
# Largest distance of a pixel from the centre of an image, in degrees.
MOST_REACH = 45
# Largest error, in pixels, of the polynomial map from sky to pixel.
MAP_TOLERANCE = 0.005
# Vertices of an outline that are this close to a line between others, in radian, are left out.
FLAT = 1e-15
# Degrees of that map that are tried, and the fraction of the positions checked first.
DEGREES = (1, 2, 5, 8)
CHECKED = 16
# A direction (x, y) of the pixels along which dithers hardly ever have no distance.
DIRECTION = np.array([0.93, -0.37])
# Coefficients of a polynomial that equals its coordinates.
IDENTITY = np.array([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])


def hull_vertices(points):
    """Return the vertices of the convex hull of points in a plane, shape (n, 2), as indices.

    They are counter-clockwise. Points on its sides, within rounding errors, are left out.
    """
    return ConvexHull(points, qhull_options=f"C-{FLAT}").vertices


def _nodes(start, stop, spacing):
    """Return indices from start to stop - 1, both included, about ``spacing`` apart."""
    n_cells = max(1, round((stop - 1 - start) / spacing))
    return np.unique(np.linspace(start, stop - 1, n_cells + 1).round().astype(np.intp))


@lru_cache
def _powers(degree):
    """Return the degrees in two coordinates of the products up to a total degree."""
    return np.nonzero(np.add.outer(np.arange(degree + 1), np.arange(degree + 1)) <= degree)


def _fit_polynomial(linear, values, degree, step):
    """Fit products of Chebyshev polynomials up to a total degree.

    The fit solves the normal equations, which are well-conditioned for these polynomials. It
    uses neither LAPACK's least-squares solver nor BLAS, because their threads slow down Dask.

    Parameters
    ----------
    linear : `~numpy.ndarray`, shape (2, n)
        Coordinates from -1 to 1.
    values : `~numpy.ndarray`, shape (2, n)
        The two functions to fit, at these coordinates.
    degree : int
        Largest total degree.
    step : int
        Distance between the positions that are fitted.

    Returns
    -------
    coefficients : `~numpy.ndarray`, shape (2, degree + 1, degree + 1)
        Coefficients of the two functions.
    """
    sums = polynomial_sums(linear, values, degree, step)
    # A tiny ridge keeps the equations solvable if points coincide.
    sums.ravel()[:: len(sums) + 1] *= 1 + 1e-13
    coefficients = np.zeros((2, degree + 1, degree + 1))
    coefficients[:, *_powers(degree)] = np.linalg.solve(sums[:-2, :-2], sums[:-2, -2:]).T
    return coefficients


def _apply(affine, flat):
    """Return the values of an affine map, shape (2, 3), at positions of shape (2, n)."""
    return affine[:, :1] + affine[:, 1:2] * flat[0] + affine[:, 2:] * flat[1]


@dataclass(frozen=True, eq=False)
class Grid:
    """Position of an image on the sky, exact on a coarse grid of its pixels.

    Parameters
    ----------
    transform : `SkyTransform`
        The image's WCS.
    shape : tuple of int
        The image's shape, (ny, nx).
    box : tuple of int
        Limits ``(y0, y1, x0, x1)`` of the rows and columns that can hold good pixels; the upper
        limits are excluded.
    spacing : int
        Approximate distance between nodes, in pixels.
    """

    transform: SkyTransform
    shape: tuple
    box: tuple
    spacing: int

    @cached_property
    def ys(self):
        """Rows of the nodes."""
        return _nodes(self.box[0], self.box[1], self.spacing)

    @cached_property
    def cell(self):
        """Median height and width of the cells, in pixels."""
        return tuple(float(np.median(np.diff(axis))) for axis in (self.ys, self.xs))

    @property
    def side(self):
        """Longer side of the box, in pixels."""
        return max(self.box[1] - self.box[0], self.box[3] - self.box[2])

    @cached_property
    def xs(self):
        """Columns of the nodes."""
        return _nodes(self.box[2], self.box[3], self.spacing)

    @cached_property
    def nodes(self):
        """Unit vectors at the nodes, shape (len(ys), len(xs), 3)."""
        vectors = self.transform.to_sky(*np.meshgrid(self.xs, self.ys))
        if not np.isfinite(vectors).any():
            msg = f"{self.transform.name}: the WCS gives no position for any pixel; correct it"
            raise FrameError(msg)
        return vectors

    @cached_property
    def middles(self):
        """Unit vectors at the middle of each cell, shape (len(ys) - 1, len(xs) - 1, 3)."""
        x, y = (0.5 * (edges[1:] + edges[:-1]) for edges in (self.xs, self.ys))
        return self.transform.to_sky(*np.meshgrid(x, y))

    @cached_property
    def axes(self):
        """Unit vectors (centre, East, North) of the whole image, not of its box."""
        ny, nx = self.shape
        centre = self.transform.to_sky((nx - 1) / 2, (ny - 1) / 2)
        if not np.isfinite(centre).all():
            centre = np.nansum(self.nodes, axis=(0, 1))
        return tangent_axes(centre)

    @cached_property
    def _box_axes(self):
        total = self.nodes.sum(axis=(0, 1))
        if np.isnan(total).any():
            total = np.nansum(self.nodes, axis=(0, 1))
        return tangent_axes(total)

    @cached_property
    def _linear(self):
        """Affine part of the map from sky to pixel: its matrix, middle, half sides, and bend.

        The bend is the largest distance of a node from it, in half sides. Outlines need no more.
        """
        middle, half, flat, pixel = self._flat_nodes
        affine = self._affine(flat, pixel)
        bend = np.abs(_apply(affine, flat) - pixel).max(initial=0.0)
        return affine, middle, half, bend

    @cached_property
    def _inverse(self):
        """Map from sky to pixel (affine, coefficients, middle, half sides), and its error.

        The map is fitted to the positions of the nodes, so it needs no inverse of the WCS. Its
        largest error, in pixels, is measured at the nodes and at the middles of the cells.
        """
        affine, middle, half, bend = self._linear
        _, _, flat, pixel = self._flat_nodes
        return self._fitted((affine, middle, half), _apply(affine, flat), pixel, bend)

    @cached_property
    def _flat_nodes(self):
        """Middle and half sides of the box, and the nodes in gnomonic and in scaled coordinates.

        The nodes have the shape (2, n). Scaled coordinates are those of pixels, from -1 to 1.
        """
        half = 0.5 * np.array([max(np.ptp(self.xs), 1), max(np.ptp(self.ys), 1)])
        middle = np.array([self.xs[0], self.ys[0]]) + half
        scaled = (self.xs - middle[0]) / half[0], (self.ys - middle[1]) / half[1]
        pixel = np.stack(np.meshgrid(*scaled)).reshape(2, -1)
        flat = project(self.nodes.reshape(-1, 3), self._box_axes)
        good = np.isfinite(flat[0])
        if not good.all():
            flat, pixel = flat[:, good], pixel[:, good]
        return middle, half, flat, pixel

    def _affine(self, flat, pixel):
        """Return the affine map, shape (2, 3), from gnomonic to scaled pixel coordinates."""
        n = max(flat.shape[1], 1)
        columns = np.concatenate([np.ones((1, flat.shape[1])), flat, pixel])
        sums = np.einsum("in,jn->ij", columns[:3], columns) / n
        # Scaling makes the test of the determinant independent of the pixel size.
        size = np.sqrt(sums.diagonal())
        size[size == 0] = 1
        gram, rhs = sums[:, :3] / (size[:, None] * size), sums[:, 3:] / size[:, None]
        if not np.linalg.det(gram) > 1e-12:
            msg = f"{self.transform.name}: all pixels of the WCS lie on one line; correct it"
            raise FrameError(msg)
        return np.ascontiguousarray(np.linalg.solve(gram, rhs).T / size)

    def _fitted(self, about, linear, pixel, bend):
        """Return the map of the lowest degree that suffices, and its error."""
        affine, middle, half = about
        check = self._check_positions()
        for degree in DEGREES:
            n_terms = (degree + 1) * (degree + 2) // 2
            if n_terms > pixel.shape[1]:
                break
            if degree == 1 and half.max() * bend > MAP_TOLERANCE and pixel.shape[1] >= 6:
                continue
            # A subset of the nodes suffices for few terms.
            step = max(1, pixel.shape[1] // (6 * n_terms))
            coefficients = _fit_polynomial(linear, pixel, degree, step)
            inverse = affine, coefficients, middle, half
            # A fraction of the positions shows that a degree is too low.
            if self._largest_error(inverse, *check, CHECKED) < MAP_TOLERANCE / 5:
                error = self._largest_error(inverse, *check, 1)
                if error < MAP_TOLERANCE / 5:
                    return inverse, error
        return inverse, self._largest_error(inverse, *check, 1)

    def _check_positions(self):
        """Return unit vectors of the middles of cells and the nodes, and their pixels (x, y)."""
        middles = (0.5 * (edges[1:] + edges[:-1]) for edges in (self.xs, self.ys))
        axes = [np.meshgrid(*middles), np.meshgrid(self.xs, self.ys)]
        x, y = (np.concatenate([grid[k].ravel() for grid in axes]) for k in (0, 1))
        vectors = [part.reshape(-1, 3) for part in (self.middles, self.nodes)]
        return np.concatenate(vectors), x, y

    def _largest_error(self, inverse, vectors, x, y, step):
        """Return the largest error, in pixels, of a map at every so many of some positions."""
        mapped = self._evaluate(inverse, vectors[::step], np.inf)
        off = np.abs(np.subtract(mapped, (x[::step], y[::step])))
        return float(np.fmax.reduce(off, axis=None, initial=0.0))

    def _evaluate(self, inverse, vectors, reach):
        """Return pixel coordinates (x, y) by the polynomial map, NaN beyond ``reach``."""
        affine, coefficients, middle, half = inverse
        flat = np.ascontiguousarray(vectors).reshape(-1, 3)
        x, y = sky_to_pixel(flat, self._box_axes, affine, coefficients, middle, half, reach)
        return x.reshape(vectors.shape[:-1]), y.reshape(vectors.shape[:-1])

    def to_pixel(self, vectors, margin=0.0):
        """Return pixel coordinates (x, y) of unit vectors, NaN far outside of the box.

        Parameters
        ----------
        vectors : `~numpy.ndarray`, shape (..., 3)
            Unit vectors.
        margin : float
            Distance outside of the box, in pixels, up to which coordinates are returned.

        Returns
        -------
        x, y : `~numpy.ndarray`, shape (...)
            Pixel coordinates, counted from 0.
        """
        inverse = self._inverse[0]
        reach = 1 + self._linear[3] + (margin + 1) / inverse[3].min()
        if self.is_smooth:
            return self._evaluate(inverse, vectors, reach)
        # No polynomial fits a distortion such as a table, so the WCS's own inverse is used.
        near = np.isfinite(self._evaluate(inverse, vectors, 1.2 * reach)[0])
        x, y = np.full((2, *near.shape), np.nan)
        x[near], y[near] = self.transform.to_pixel(vectors[near])
        return x, y

    @property
    def is_smooth(self):
        """True if a polynomial maps the sky to the pixels."""
        return self._inverse[1] < MAP_TOLERANCE

    def near_pixel(self, vectors, margin):
        """Return pixel coordinates (x, y) by the affine part of the map, and their error.

        The largest error at the nodes is doubled, for positions beyond them.
        """
        affine, middle, half, bend = self._linear
        error = 2 * bend * half.max()
        reach = 1 + bend + (margin + error + 1) / half.min()
        return *self._evaluate((affine, IDENTITY, middle, half), vectors, reach), error

    @cached_property
    def polygon(self):
        """Unit vectors of the convex outline of the box, shape (16, 3), counter-clockwise."""
        self._check_width()
        edge = np.concatenate(
            [
                self.nodes[0, :],
                self.nodes[-1, :],
                self.nodes[:, 0],
                self.nodes[:, -1],
            ]
        )
        finite = np.isfinite(edge)
        if not finite.all():
            edge = edge[finite.all(axis=1)]
        if len(edge) < 3:
            msg = (
                f"{self.transform.name}: the image's borders lie outside of the sky, as in an "
                "all-sky map; cut out a part within"
            )
            raise FrameError(msg)
        flat = project(edge, self._box_axes)
        about = flat - flat.mean(axis=1, keepdims=True)
        (xx, xy), (_, yy) = np.einsum("in,jn->ij", about, about) / len(edge)
        if not xx * yy - xy * xy > 1e-30:
            msg = f"{self.transform.name}: the outline has no area on the sky; correct its WCS"
            raise FrameError(msg)
        flat = flat.T
        vertices = hull_vertices(flat)
        if len(vertices) > N_VERTICES:
            # A curved side has many vertices. The farthest vertex in each of 16 directions is
            # kept. The directions are relative to the image's sides, which keeps the corners.
            angle = 2 * np.pi * np.arange(N_VERTICES) / N_VERTICES
            affine = self._linear[0]
            reach = flat[vertices] @ affine[:, 1:].T @ np.stack([np.cos(angle), np.sin(angle)])
            vertices = vertices[np.unique(reach.argmax(axis=0))]
        hull = edge[vertices]
        return np.concatenate([hull, np.repeat(hull[-1:], N_VERTICES - len(hull), axis=0)])

    def _check_width(self):
        """Refuse an image of a large part of the sky, because a plane cannot hold its outline."""
        cosines = (self.nodes @ self._box_axes[0]).ravel()
        cosines = cosines[np.isfinite(cosines)]
        reach = np.degrees(np.arccos(np.clip(cosines.min(initial=1.0), -1, 1)))
        if reach > MOST_REACH:
            msg = (
                f"{self.transform.name}: the image reaches {reach:.0f} degrees from its centre, as "
                f"an all-sky map does; cut it into parts that reach less than {MOST_REACH} degrees"
            )
            raise FrameError(msg)

    @cached_property
    def radius(self):
        """Angle from the box's centre to its farthest vertex, in radian."""
        cosine = np.clip(self.polygon @ self._box_axes[0], -1, 1)
        return float(np.arccos(cosine.min()))

    @property
    def centre(self):
        """Unit vector at the middle of the box."""
        return self._box_axes[0]

    @cached_property
    def direction(self):
        """Vector whose product with a unit vector is its distance from the centre, in pixels.

        The distance is along `DIRECTION`, about as in the tangent plane.
        """
        affine, _, half, _ = self._linear
        return (DIRECTION * half) @ affine[:, 1:] @ self._box_axes[1:]

    @cached_property
    def pixel_area(self):
        """Mean solid angle of a pixel, in steradian."""
        affine, _, half, _ = self._linear
        return float(1 / abs(np.linalg.det(affine[:, 1:]) * half.prod()))

    @cached_property
    def normals(self):
        """Inward normals of the planes through the outline's edges, shape (16, 3).

        The normal of an edge without length is zero.
        """
        return np.cross(self.polygon, np.roll(self.polygon, -1, axis=0))

    def forget(self):
        """Free the memory of the nodes' positions, which are computed again when used."""
        for name in ("nodes", "middles", "refined", "_flat_nodes"):
            vars(self).pop(name, None)

    @cached_property
    def refined(self):
        """The same grid with half the distance between nodes."""
        finer = Grid(self.transform, self.shape, self.box, self.spacing // 2)
        # The map from sky to pixel is shared, because fitting it takes long.
        shared = {name: getattr(self, name) for name in ("_box_axes", "_linear", "_inverse")}
        vars(finer).update(shared)
        return finer


def default_spacing(box):
    """Return the spacing for a box: about 32 cells per side, of 8 to 32 pixels."""
    size = np.sqrt((box[1] - box[0]) * (box[3] - box[2]))
    return int(np.clip(round(size / 32), 8, 32))


@dataclass(frozen=True, eq=False)
class Footprint:
    """Position of an image on the sky: the attributes of a `Grid` that need no WCS.

    It takes the place of the grid of an image in a record or a catalogue.

    Parameters
    ----------
    axes : `~numpy.ndarray`, shape (3, 3)
        Unit vectors to the image's centre, and toward East and North at the centre.
    polygon : `~numpy.ndarray`, shape (n, 3)
        Unit vectors to the vertices of the convex outline.
    pixel_area : float
        Mean solid angle of a pixel, in steradian.
    centre : `~numpy.ndarray`, shape (3,)
        Unit vector to the middle of the pixels that can be good.
    shape : tuple of int
        The image's shape, (ny, nx), for an image in a catalogue.
    """

    axes: np.ndarray
    polygon: np.ndarray
    pixel_area: float
    centre: np.ndarray
    shape: tuple = (0, 0)

    @property
    def radius(self):
        """Angle from the centre to the farthest vertex, in radian."""
        return float(np.arccos(np.clip(self.polygon @ self.centre, -1, 1).min()))

    @cached_property
    def normals(self):
        """Inward normals of the planes through the outline's edges; zero for edges of no length."""
        return np.cross(self.polygon, np.roll(self.polygon, -1, axis=0))

    def forget(self):
        """Do nothing, because a footprint has no nodes, see `Grid.forget`."""


def are_at_one_place(a, b):
    """Return whether the outlines of two images agree to a hundredth of a pixel."""
    if np.shape(a.polygon) != np.shape(b.polygon):
        return False
    return np.abs(a.polygon - b.polygon).max() < 0.01 * np.sqrt(a.pixel_area)
