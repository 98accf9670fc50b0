"""Levels from healpix cells: their errors against those from pixels, and the time of many pairs.

Run as ``python benchmarks/cells.py [--errors] [--pairs 1000000] [--seeds 3]``. The sets of
``--errors`` are simulated; the cells of ``--pairs`` are made without pixels, about 100 of each
image, on a square grid in which each image overlaps 24 others.
"""

import argparse
import resource
import tempfile
import time
import warnings

import numpy as np
from astropy_healpix import healpix_to_xyz, xyz_to_healpix

from levelmatch import SkyCells, make_sky_cells, match_levels, match_mosaic
from levelmatch.sky.vectors import tangent_axes, unit_vectors
from levelmatch.testing import (
    level_errors,
    simulate_generic,
    simulate_miri,
    simulate_nircam_short,
)

SETS = {
    "MIRI, 8 of 512 x 516": lambda seed: simulate_miri(
        tiles=(2, 1), n_dithers=4, shape=(512, 516), seed=seed
    ),
    "NIRCam, short": lambda seed: simulate_nircam_short(shape=(256, 256), seed=seed),
    "ground, 9 of 400 x 400": lambda seed: simulate_generic(
        n_images=9, shape=(400, 400), seed=seed
    ),
}
# Cells along an image, and the step between images in units of its side.
SIDE = 10
STEP = 0.4
NSIDE = 1 << 14
NOISE = 0.1


def errors(seeds):
    """Print the rms errors of levels by pixels, by cells of means, and by cells of medians."""
    for name, simulate in SETS.items():
        squares = {"pixels": [], "mean": [], "median": []}
        for seed in range(seeds):
            simulation = simulate(seed)
            with tempfile.TemporaryDirectory() as folder:
                paths = simulation.write(folder)
                for kind, square in squares.items():
                    images = paths if kind == "pixels" else make_sky_cells(paths, statistic=kind)
                    table = match_levels(images, group_by="FILENAME").table
                    square.append(
                        np.mean(level_errors(table["level"], simulation.truth).value ** 2)
                    )
        rms = {kind: np.sqrt(np.mean(square)) for kind, square in squares.items()}
        words = ", ".join(f"{k} {r:.5f} ({r / rms['pixels']:.2f})" for k, r in rms.items())
        print(f"{name}: rms error of levels, and over that of pixels: {words}", flush=True)


def grid_of_cells(n_pairs, rng):
    """Return cells of about enough images on a square grid, and their levels."""
    # Each image but those at the border is in 12 pairs with images behind it.
    along = int(np.ceil(np.sqrt(n_pairs / 12))) + 1
    step = np.sqrt(4 * np.pi / 12) / NSIDE
    axes = tangent_axes(unit_vectors(120.0, 5.0))
    points = (np.arange(2 * SIDE) + 0.5) * step / 2
    levels = rng.normal(size=along**2)
    images = []
    for k, level in enumerate(levels.tolist()):
        u, v = (STEP * SIDE * step * place for place in divmod(k, along))
        plane = axes[0] + (points + u)[:, None, None] * axes[1] + (points + v)[:, None] * axes[2]
        index = np.unique(xyz_to_healpix(*np.moveaxis(plane, -1, 0), NSIDE, order="nested"))
        x = healpix_to_xyz(index, NSIDE, order="nested")[0]
        value = np.sin(1e4 * x) + level + NOISE * rng.normal(size=len(index))
        error, coverage = np.full(len(index), NOISE), np.full(len(index), 100)
        name = f"{k:07d}.fits"
        images.append(SkyCells(index, value, error, coverage, nside=NSIDE, name=name))
    return images, levels


def many(n_pairs):
    """Print the time and memory of a match of many pairs."""
    start = time.perf_counter()
    images, levels = grid_of_cells(n_pairs, np.random.default_rng(0))
    made, before, busy = time.perf_counter(), _peak(), time.process_time()
    result = match_mosaic(images, group_by="FILENAME")
    seconds, busy = time.perf_counter() - made, time.process_time() - busy
    found = np.array([f.correction.constant for f in result.frames]) - levels
    print(
        f"{len(images)} images of {np.mean([len(c) for c in images]):.0f} cells, "
        f"{len(result.measured)} pairs: {seconds:.1f} s ({busy:.1f} s of processor time), peak "
        f"{_peak():.0f} MB ({before:.0f} MB of images, made in {made - start:.0f} s), rms error "
        f"{np.std(found):.4f}",
        flush=True,
    )


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--errors", action="store_true", help="compare errors")
    parser.add_argument("--pairs", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.errors:
        errors(args.seeds)
    for n_pairs in args.pairs:
        many(n_pairs)


if __name__ == "__main__":
    main()
