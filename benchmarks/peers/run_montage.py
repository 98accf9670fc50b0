"""
Montage: mProjExec, mOverlaps, mDiffFitExec and mBgModel, through MontagePy.

The steps and their arguments are those of the notebooks of the Montage project,
https://github.com/Caltech-IPAC/MontageNotebooks (mProjExec, mDiffFitExec, mBgModel), and of
http://montage.ipac.caltech.edu/docs/m101tutorial.html. Bad pixels are NaN. The reprojection is
the default of mProjExec, which conserves flux. For levels, both the fits to the differences and
the model have levels only. A correction is a plane a x + b y + c, x and y in
pixels of the common grid from its reference pixel; see ``mBackground``.
"""

import os

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from common import fit_plane, main, read_blanked, sample_grid
from MontagePy.main import mBgModel, mDiffFitExec, mImgtbl, mMakeHdr, mOverlaps, mProjExec


def write_plain(path, folder):
    """Write an image for Montage: one HDU, bad pixels NaN, the WCS with a CD matrix."""
    data, wcs = read_blanked(path)
    header = wcs.to_header(relax=True)
    matrix = wcs.wcs.get_cdelt()[:, np.newaxis] * wcs.wcs.get_pc()
    for name in ("PC1_1", "PC1_2", "PC2_1", "PC2_2", "CDELT1", "CDELT2", "MJDREF"):
        header.remove(name, ignore_missing=True)
    for (i, j), value in np.ndenumerate(matrix):
        header[f"CD{i + 1}_{j + 1}"] = value
    fits.PrimaryHDU(data, header).writeto(folder / path.name)


def checked(answer):
    """Return a step's answer, or raise its message."""
    if int(answer["status"]) != 0:
        raise RuntimeError(str(answer))
    return answer


def find(paths, fit, scratch):
    """Return the correction of each image."""
    os.chdir(scratch)
    for name in ("raw", "projected", "differences"):
        (scratch / name).mkdir()
    for path in paths:
        write_plain(path, scratch / "raw")
    only = fit == "level"
    checked(mImgtbl("raw", "raw.tbl"))
    checked(mMakeHdr("raw.tbl", "region.hdr"))
    checked(mProjExec("raw", "raw.tbl", "region.hdr", projdir="projected"))
    checked(mImgtbl("projected", "projected.tbl"))
    checked(mOverlaps("projected.tbl", "pairs.tbl"))
    checked(
        mDiffFitExec(
            "projected", "pairs.tbl", "region.hdr", "differences", "fits.tbl", levelOnly=only
        )
    )
    checked(mBgModel("projected.tbl", "fits.tbl", "corrections.tbl", noslope=only))
    return corrections(paths, fit)


def corrections(paths, fit):
    """Return the corrections of the current folder's tables."""
    images = Table.read("projected.tbl", format="ascii.ipac")
    planes = Table.read("corrections.tbl", format="ascii.ipac")
    by_number = {int(row["id"]): (row["a"], row["b"], row["c"]) for row in planes}
    names = {os.path.basename(row["fname"]): int(row["cntr"]) for row in images}
    with open("region.hdr", encoding="ascii") as lines:
        grid = WCS(fits.Header.fromstring(lines.read(), sep="\n"))
    found = []
    for path in paths:
        number = next(n for name, n in names.items() if name.endswith(path.name))
        a, b, c = by_number.get(number, (0.0, 0.0, 0.0))
        if fit == "level":
            found.append(c)
            continue
        data, wcs = read_blanked(path)
        y, x = sample_grid(data.shape)
        there = grid.wcs_world2pix(np.stack(wcs.all_pix2world(x.ravel(), y.ravel(), 0), 1), 1)
        dx, dy = (there - grid.wcs.crpix).T
        found.append(fit_plane(y, x, a * dx + b * dy + c, wcs, data.shape))
    return found


if __name__ == "__main__":
    main(find)
