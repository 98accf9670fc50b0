"""Time to read, measure and solve, relative to reading the same arrays with astropy.

Run as ``python benchmarks/speed.py [--folder FOLDER] [--repeats N]``.
"""

import argparse
import tempfile
import time
import warnings

import numpy as np
from astropy.io import fits
from sets import written

import levelmatch

PLANES = {"fit_type_dithers": "level+slope", "fit_type_mosaic_tiles": "level+slope"}


def plain_read(paths):
    """Read the SCI and DQ arrays with astropy."""
    for path in paths:
        with fits.open(path, memmap=False) as hdus:
            hdus["SCI"].data.sum()
            hdus["DQ"].data.any()


def best(function, repeats):
    """Return the shortest of several times, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times), float(np.median(times))


def run(folder, repeats):
    for name, options in (("miri", {}), ("nircam", {"combine_nircam_short": True})):
        _, paths = written(name, folder)
        # Run once for the file cache and the imports.
        plain_read(paths)
        levelmatch.match_levels(paths, **options)
        read, read_median = best(lambda paths=paths: plain_read(paths), repeats)
        print(f"{name}: plain read of {len(paths)} files {read:.3f} s (median {read_median:.3f})")
        for label, fit in (("levels", {}), ("planes", PLANES)):
            found, median = best(
                lambda paths=paths, fit=fit, options=options: levelmatch.match_levels(
                    paths, **options, **fit
                ),
                repeats,
            )
            print(
                f"{name}: read, measure and solve {label} {found:.3f} s (median {median:.3f}): "
                f"{found / read:.1f} times the plain read",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=None, help="where the sets are kept")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        run(args.folder or temporary, args.repeats)


if __name__ == "__main__":
    main()
