"""Mosaics of any size for the benchmarks of memory and growth."""

import resource
import sys
import time
from pathlib import Path

import numpy as np
from astropy.io import fits

SCALE = 0.1 / 3600


def write_mosaic(folder, n_images, *, side=1024, overlap=0.12, noise=0.5, columns=None, seed=0):
    """Write a mosaic of images with known levels, one image per tile.

    The sky is dark. The noise of each image is cut from one larger array. The images do not share
    a pixel grid.

    Parameters
    ----------
    folder : path
        Folder of the files.
    n_images : int
        Number of images.
    side : int
        Pixels along each side of an image.
    overlap : float
        Fraction of the side that neighbours share.
    columns : int, optional
        Images in a row; by default the number of rows.

    Returns
    -------
    paths : list of `~pathlib.Path`
        The files.
    levels : `~numpy.ndarray`
        Their levels.
    """
    rng = np.random.default_rng(seed)
    columns = columns or int(np.ceil(np.sqrt(n_images)))
    levels = rng.normal(0, 3, n_images)
    plane = rng.normal(0, noise, (2 * side, 2 * side)).astype(np.float32)
    paths = []
    for k, level in enumerate(levels):
        row, column = divmod(k, columns)
        step = (1 - overlap) * side
        header = _header(side, column * step + rng.random(), row * step + rng.random())
        y, x = rng.integers(0, side, 2)
        data = plane[y : y + side, x : x + side] + np.float32(level)
        paths.append(Path(folder) / f"image_{k:05d}.fits")
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, header, name="SCI")]
        fits.HDUList(hdus).writeto(paths[-1], overwrite=True)
    return paths, levels


def _header(side, x, y):
    """Return the header of an image whose first pixel is at (x, y) of the mosaic's grid."""
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 24.17, 15.78
    header["CRPIX1"], header["CRPIX2"] = side / 2 - x, side / 2 - y
    header["CDELT1"], header["CDELT2"] = -SCALE, SCALE
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["RADESYS"], header["BUNIT"] = "ICRS", "MJy/sr"
    return header


def match(folder, repeats, workers):
    """Match the images of a folder; print time, peak and initial memory, pairs and error."""
    import levelmatch

    paths = sorted(Path(folder).glob("*.fits"))
    levels = np.loadtxt(Path(folder) / "levels.txt", ndmin=1)
    options = levelmatch.MeasureOptions(n_workers=workers)
    # The memory of Dask and other packages does not depend on the images.
    levelmatch.match_levels(paths[:2], measure=options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = levelmatch.match_levels(paths, measure=options)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    error = np.std(result.table["level"].value - levels)
    print(min(seconds), peak, before, len(result.pairs), error)


if __name__ == "__main__":
    match(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) or None)
