"""
reproject's ``reproject_and_coadd(..., match_background=True)``.

As in https://reproject.readthedocs.io/en/stable/mosaicking.html ("Computing an optimal WCS" and
"Co-addition with background matching"): the optimal WCS of all images, ``reproject_interp``. Bad
pixels are NaN. The function returns only the mosaic, so the corrections are intercepted where its
solver returns them.
"""

from unittest import mock

from common import main, read_blanked
from reproject import reproject_interp
from reproject.mosaicking import _coadd, find_optimal_celestial_wcs, reproject_and_coadd


def find(paths, fit, scratch):
    """Return the correction of each image."""
    images = [read_blanked(path) for path in paths]
    wcs, shape = find_optimal_celestial_wcs([(data.shape, w) for data, w in images])
    solve, answers = _coadd.solve_corrections_sgd, []

    def solve_and_keep(matrix):
        answers.append(solve(matrix))
        return answers[-1]

    with mock.patch.object(_coadd, "solve_corrections_sgd", solve_and_keep):
        reproject_and_coadd(
            images,
            wcs,
            shape_out=shape,
            reproject_function=reproject_interp,
            match_background=True,
        )
    return answers[0]


if __name__ == "__main__":
    main(find)
