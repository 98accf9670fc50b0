# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The table of measured pairs."""

from dataclasses import dataclass, fields

import numpy as np

__all__ = ["ROW", "PairTable", "pair_table"]


@dataclass(frozen=True, eq=False)
class PairTable:
    """What was measured of each pair; ``n`` pairs, in ascending order of their images.

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
        Standard error of the pair's level by itself.
    scatter : `~numpy.ndarray`, shape (n,)
        Scatter of the differences about their plane.
    chi2 : `~numpy.ndarray`, shape (n,)
        Variance of the cells about the plane over that expected of their pixels' noise.
    npix : `~numpy.ndarray` of int, shape (n,)
        Differences kept.
    extent : `~numpy.ndarray`, shape (n, 2)
        Longest side of the overlap over that of the first and the second image.
    gain, gain_error : `~numpy.ndarray`, shape (n,)
        Relative difference of the flux scales, first less second, and its
        standard error; NaN and infinity where nothing tells.
    multiplicity : `~numpy.ndarray`, shape (n,)
        For how many pairs it counts in a solution: more than 1 where others of its images
        are not measured. All other columns are the pair's own.
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
    multiplicity: np.ndarray

    def __len__(self):
        return len(self.first)

    @property
    def level(self):
        """Level of each difference, shape (n,); NaN where nothing was measured."""
        weight = np.where(self.npix > 0, self.gram[:, 0, 0], np.nan)
        return self.rhs[:, 0] / weight

    def take(self, rows):
        """Return the table of some of the pairs."""
        return PairTable(*(getattr(self, f.name)[rows] for f in fields(self)))


# The columns of a pair that are measured, and the shape of one value of each.
ROW = {
    "gram": (3, 3),
    "rhs": (3,),
    "axes": (3, 3),
    "sigma": (),
    "scatter": (),
    "chi2": (),
    "npix": (),
    "extent": (2,),
    "gain": (),
    "gain_error": (),
}


def pair_table(pairs, rows):
    """Return the `PairTable` of pairs, shape (n, 2), and their rows, see `measure_pair`."""
    columns = {key: np.array([row[key] for row in rows]) for key in ROW} if rows else {}
    n = len(rows)
    return PairTable(
        first=pairs[:, 0],
        second=pairs[:, 1],
        multiplicity=np.ones(n),
        **{name: columns.get(name, np.zeros(0)).reshape(n, *shape) for name, shape in ROW.items()},
    )
