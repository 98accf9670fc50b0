# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The table of measured pairs."""

from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ["PAIR", "PairTable", "empty_pair", "pair_table", "unmeasured"]

# The measured quantities of a pair, described in `PairTable`. After a change, also change `PairRow`
# in _summary.pyx, `unmeasured`, and the first bytes of files of pairs, `MAGIC` in pair_store.py.
PAIR = np.dtype(
    [
        ("gram", "f8", (3, 3)),
        ("rhs", "f8", (3,)),
        ("axes", "f8", (3, 3)),
        ("sigma", "f8"),
        ("scatter", "f8"),
        ("chi2", "f8"),
        ("npix", "i8"),
        ("extent", "f8", (2,)),
        ("gain", "f8"),
        ("gain_error", "f8"),
        ("shift", "f8"),
        ("shift_error", "f8"),
        ("bright", "f8"),
        ("strips", "f4", (8, 9)),
        ("turn", "f8"),
        ("step", "f8", (2,)),
        ("neighbours", "f8", (2,)),
        ("wings", "f8"),
        ("wings_error", "f8"),
        ("wings_term", "f8"),
        ("wings_light", "f8"),
        ("wide_wings", "f8"),
        ("wide_wings_error", "f8"),
        ("wide_wings_term", "f8"),
    ]
)


def empty_pair():
    """Return the row of a pair without a common good pixel."""
    row = np.zeros((), PAIR)
    for name in ("axes", "sigma", "scatter", "chi2", "neighbours"):
        row[name] = np.nan
    for name in ("gain", "shift", "wings", "wide_wings"):
        row[name], row[f"{name}_error"] = np.nan, np.inf
    return row[()]


def unmeasured(n):
    """Return default values, for n pairs, of the columns that older records lack."""
    rows = np.zeros(n, PAIR)
    for name in ("shift", "wings", "wide_wings"):
        rows[name], rows[f"{name}_error"] = np.nan, np.inf
    rows["neighbours"] = np.nan
    names = ["shift", "shift_error", "bright", "strips", "turn", "step", "neighbours"]
    names += ["wings", "wings_error", "wings_term", "wings_light"]
    names += ["wide_wings", "wide_wings_error", "wide_wings_term"]
    return {name: rows[name] for name in names}


@dataclass(frozen=True, eq=False)
class PairTable:
    """The measured quantities of ``n`` pairs, in ascending order of their images.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of intp, shape (n,)
        Indices of the two images; differences are first minus second.
    gram : `~numpy.ndarray`, shape (n, 3, 3)
        Normal matrix of the plane (1, u, v) about the pair's centre, in 1 / unit**2.
    rhs : `~numpy.ndarray`, shape (n, 3)
        Right-hand side of the normal equations, in 1 / unit.
    axes : `~numpy.ndarray`, shape (n, 3, 3)
        Centre, East and North of the pair.
    sigma : `~numpy.ndarray`, shape (n,)
        Standard error of the level of the pair alone.
    scatter : `~numpy.ndarray`, shape (n,)
        Scatter of the differences about their plane.
    chi2 : `~numpy.ndarray`, shape (n,)
        Variance of the cells about the plane divided by the variance expected from pixel noise.
    npix : `~numpy.ndarray` of int, shape (n,)
        Number of differences kept.
    extent : `~numpy.ndarray`, shape (n, 2)
        Longest side of the overlap divided by the longest side of the first and the second image.
    gain, gain_error : `~numpy.ndarray`, shape (n,)
        Relative difference of the flux scales, first minus second, and its
        standard error; NaN and infinity where it is not determined.
    shift, shift_error : `~numpy.ndarray`, shape (n,)
        Part of the level that is due to a shift between the images, where their emission has a
        gradient, and its standard error; NaN and infinity where it is not determined.
    bright : `~numpy.ndarray`, shape (n,)
        Mean brightness of the emission in the overlap above its faint parts, without the cores of
        stars; its negative where stars or nothing determine the gain.
    strips : `~numpy.ndarray` of float32, shape (n, 8, 9)
        Sums over the rows and columns of the first and of the second image, and over blocks of 2,
        4, 8 and 16 cells: Q, E, T, and the lower triangle of A, see ``_strips.pxi``, in units of
        the pair's weight or its square. Zero if not measured.
    turn : `~numpy.ndarray`, shape (n,)
        Angle between the rows of the two images, 0 to 90 degrees.
    step : `~numpy.ndarray`, shape (n, 2)
        Step to which the values of each image are rounded; 0 for none.
    neighbours : `~numpy.ndarray`, shape (n, 2)
        Fraction of neighbouring pixels of each image that differ by one step, see
        `~levelmatch.measure.rounding.Rounding`; NaN if unknown.
    wings, wings_error : `~numpy.ndarray`, shape (n,)
        Dependence of the cells on the light of stars, and its standard error, see ``_wings.pxi``;
        NaN and infinity where it is not determined.
    wings_term, wings_light : `~numpy.ndarray`, shape (n,)
        Mean of the term of the light, whose product with ``wings`` is a part of the level, and of
        the light of stars per pixel.
    wide_wings, wide_wings_error, wide_wings_term : `~numpy.ndarray`, shape (n,)
        The same for the light of stars within a larger distance.
    multiplicity : `~numpy.ndarray`, shape (n,)
        Number of pairs that the pair represents in a solution: more than 1 if other pairs of its
        images are not measured. The other columns refer to the pair alone.
    """

    first: np.ndarray
    second: np.ndarray
    gram: np.ndarray
    rhs: np.ndarray
    axes: np.ndarray
    sigma: np.ndarray
    scatter: np.ndarray
    chi2: np.ndarray
    npix: np.ndarray
    extent: np.ndarray
    gain: np.ndarray
    gain_error: np.ndarray
    shift: np.ndarray
    shift_error: np.ndarray
    bright: np.ndarray
    strips: np.ndarray
    turn: np.ndarray
    step: np.ndarray
    neighbours: np.ndarray
    wings: np.ndarray
    wings_error: np.ndarray
    wings_term: np.ndarray
    wings_light: np.ndarray
    wide_wings: np.ndarray
    wide_wings_error: np.ndarray
    wide_wings_term: np.ndarray
    multiplicity: np.ndarray

    def __len__(self):
        return len(self.first)

    @property
    def level(self):
        """Level of each difference, shape (n,); NaN where nothing was measured."""
        weight = np.where(self.npix > 0, self.gram[:, 0, 0], np.nan)
        return self.rhs[:, 0] / weight

    def rows(self):
        """Return the measured quantities of each pair as an array of `PAIR`, shape (n,)."""
        out = np.zeros(len(self), PAIR)
        for name in PAIR.names:
            out[name] = getattr(self, name)
        return out

    def take(self, rows):
        """Return the table of some of the pairs; the table itself if a mask selects all."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind == "b" and rows.all():
            return self
        n = len(self.first[rows])
        return PairTable(*(_taken(getattr(self, f.name), rows, n) for f in fields(self)))

    def minus(self, planes):
        """Return the table with planes, shape (n, 3), subtracted from the differences.

        This is exact: a plane changes a right-hand side by the normal matrix times its
        coefficients.
        """
        return replace(self, rhs=self.rhs - np.einsum("pij,pj->pi", self.gram, planes))

    def slope_equations(self):
        """Return normal matrices and right-hand sides of slopes, for free levels.

        Their shapes are (n, 2, 2) and (n, 2). The level is eliminated from the equations.
        """
        mixed = self.gram[:, 0, 1:] / self.gram[:, :1, 0]
        normal = self.gram[:, 1:, 1:] - mixed[:, :, None] * self.gram[:, :1, 1:]
        return normal, self.rhs[:, 1:] - mixed * self.rhs[:, :1]

    def without_strips(self):
        """Return the table with zeros as strips, which take no memory."""
        return replace(self, strips=np.broadcast_to(np.float32(0), self.strips.shape))


def _taken(column, rows, n):
    """Return n rows of a column; a column that holds one row for all pairs stays so."""
    if len(column) and column.strides[0] == 0:
        return np.broadcast_to(column[0], (n, *column.shape[1:]))
    return column[rows]


def pair_table(pairs, rows):
    """Return the `PairTable` of pairs, shape (n, 2), and of their rows of `PAIR`."""
    columns = np.asarray(rows, dtype=PAIR)
    return PairTable(
        first=pairs[:, 0],
        second=pairs[:, 1],
        multiplicity=np.ones(len(columns)),
        **{name: np.ascontiguousarray(columns[name]) for name in PAIR.names},
    )
