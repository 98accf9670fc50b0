"""What the defaults rest on: location, structure, source masks, weights and budgets, measured.

Run as ``python benchmarks/choices.py [--folder FOLDER] [--tiles FOLDER]``; the second
folder holds the 2MASS tiles, which are left out where it is not given.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from accuracy import level_rms, plane_rms
from sets import written

import levelmatch
from levelmatch import MeasureOptions, SolveOptions, testing

PLANES = {"fit_type_dithers": "level+slope", "fit_type_mosaic_tiles": "level+slope"}


def residual_rms(result, _):
    """Root mean square of the pairs' residuals."""
    return float(np.sqrt(np.nanmean(np.square(result.pairs["residual"].value))))


def cases(folder, tiles):
    """Return name, truth, files, options and measure of each set."""
    out = [
        ("miri", *written("miri", folder), {}, level_rms),
        ("miri-planes", *written("miri-planes", folder), PLANES, plane_rms),
        ("nircam", *written("nircam", folder), {"combine_nircam_short": True}, level_rms),
    ]
    if tiles is not None:
        paths = sorted(Path(tiles).glob("*.fits.fz"))
        out.append(("2mass", None, paths, {}, residual_rms))
        out.append(("2mass-planes", None, paths, PLANES, residual_rms))
    return out


def measurements(folder, tiles):
    """Print the error of each set for each way of measuring."""
    ways = {
        "default": {},
        "median": {"location": "median"},
        "structure": {"structure": True},
        "median, structure": {"location": "median", "structure": True},
        "sources masked": {"mask_sources": True},
    }
    for name, simulation, paths, options, measure in cases(folder, tiles):
        for way, changes in ways.items():
            start = time.perf_counter()
            result = levelmatch.match_levels(paths, measure=MeasureOptions(**changes), **options)
            print(
                f"{name:14s} {way:22s} {measure(result, simulation):.5f}"
                f"  ({time.perf_counter() - start:.1f} s)",
                flush=True,
            )
        for weights in ("equal", "npix", "rms"):
            result = levelmatch.match_levels(paths, weights=weights, **options)
            print(f"{name:14s} weights {weights:14s} {measure(result, simulation):.5f}", flush=True)


def directions(folder):
    """Print forward less reverse differences: zero, as sampling is symmetric."""
    from levelmatch.frames import collect_frames
    from levelmatch.measure import measure_pair
    from levelmatch.overlaps import find_pairs

    for name in ("miri", "nircam"):
        _, paths = written(name, folder)
        frames = collect_frames(paths[:8])
        pairs, _ = find_pairs([f.grid for f in frames])
        images = [f.load() for f in frames]
        step = []
        for i, j in pairs:
            one = measure_pair(
                images[i], images[j], frames[i].grid, frames[j].grid, [], MeasureOptions()
            )
            two = measure_pair(
                images[j], images[i], frames[j].grid, frames[i].grid, [], MeasureOptions()
            )
            if one["npix"] and two["npix"]:
                levels = [r["rhs"][0] / r["gram"][0, 0] for r in (one, two)]
                step.append(levels[0] + levels[1])
        step = np.array(step)
        print(
            f"{name:14s} forward minus reverse {step.mean():+.6f} +- "
            f"{step.std() / np.sqrt(len(step)):.6f} over {len(step)} pairs",
            flush=True,
        )


def budgets():
    """Print error and time for 64 dithers of one field, as the budget of pairs grows."""
    simulation = testing.simulate_generic(
        n_images=64, shape=(256, 256), layout="pile", overlap=0.85, noise=0.5, star_density=500.0
    )
    images = list(simulation.images)
    for budget in (4, 8, 12, 16, 24, 32, None):
        start = time.perf_counter()
        result = levelmatch.match_dithers(
            images, group_by=lambda name, meta: "field", solve=SolveOptions(max_pairs=budget)
        )
        seconds = time.perf_counter() - start
        print(
            f"budget {budget!s:5s} {len(result.pairs):5d} pairs  error "
            f"{level_rms(result, simulation):.5f}  stated "
            f"{np.sqrt(np.mean(result.table['error'].value ** 2)):.5f}  {seconds:.2f} s",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=None, help="where the sets are kept")
    parser.add_argument("--tiles", default=None, help="where the 2MASS tiles are")
    parser.add_argument("--only", choices=["measurements", "directions", "budgets"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or temporary
        if args.only in (None, "measurements"):
            measurements(folder, args.tiles)
        if args.only in (None, "directions"):
            directions(folder)
        if args.only in (None, "budgets"):
            budgets()


if __name__ == "__main__":
    main()
