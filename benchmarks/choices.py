"""Errors of alternatives to the default options: location, structure, masks, weights, budgets.

Run as ``python benchmarks/choices.py [--folder FOLDER] [--tiles FOLDER]``. The second folder holds
2MASS images; without it they are left out.
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
    """Return the rms of the residuals of pairs."""
    return float(np.sqrt(np.nanmean(np.square(result.pairs["residual"].value))))


WAYS = {
    "default": {},
    "median": {"location": "median"},
    "structure": {"structure": True},
    "sources masked": {"mask_sources": True},
}
FIELDS = {
    "crowded": {"star_density": 20000.0, "nebula": False, "galaxy": False},
    "nebular": {"stars": False, "nebula": True, "galaxy": True},
}


def cases(folder, seed):
    """Return name, truth, files, options and error function for each simulation."""
    miri, planes, nircam = (
        written(name, folder, seed) for name in ("miri", "miri-planes", "nircam")
    )
    return [
        ("miri", *miri, {}, level_rms),
        ("miri-planes", *planes, PLANES, plane_rms),
        ("nircam", *nircam, {"combine_nircam_short": True}, level_rms),
    ]


def fields(seed):
    """Return the cases of a crowded field of stars, and of a field with extended emission."""
    for name, scene in FIELDS.items():
        for suffix, slope, options, measure in (
            ("", 0.0, {}, level_rms),
            ("-planes", 0.6, PLANES, plane_rms),
        ):
            simulation = testing.simulate_generic(
                n_images=9,
                shape=(256, 256),
                noise=0.3,
                slope=slope,
                cosmic_rays=True,
                seed=seed,
                **scene,
            )
            yield name + suffix, simulation, list(simulation.images), options, measure


def compare(sets, ways):
    """Print the rms error over seeds of each case, for each choice of options.

    Parameters
    ----------
    sets : iterable
        For each seed, a list of name, truth, images, options and error function.
    ways : dict
        Options of the matching, by name.
    """
    errors = {}
    for members in sets:
        for name, simulation, images, options, measure in members:
            for way, changes in ways.items():
                result = levelmatch.match_levels(images, **options, **changes)
                errors.setdefault((name, way), []).append(measure(result, simulation))
    for (name, way), values in errors.items():
        rms = np.sqrt(np.mean(np.square(values)))
        print(
            f"{name:15s} {way:16s} {rms:.5f}  of {' '.join(f'{v:.4f}' for v in values)}", flush=True
        )


def measurements(folder, tiles, seeds):
    """Print the errors for each way of measuring pairs, and for other weights."""
    measured = {way: {"measure": MeasureOptions(**changes)} for way, changes in WAYS.items()}
    weighed = {f"weights {w}": {"weights": w} for w in ("equal", "npix", "rms")}
    compare((cases(folder, seed) for seed in range(seeds)), measured | weighed)
    if tiles is not None:
        paths = sorted(Path(tiles).glob("*.fits.fz"))
        real = [("2mass", None, paths, {}, residual_rms)]
        real.append(("2mass-planes", None, paths, PLANES, residual_rms))
        compare([real], measured | weighed)


def masks(seeds):
    """Print the effect of source masks on crowded and on nebular fields."""
    ways = {way: {"measure": MeasureOptions(**WAYS[way])} for way in ("default", "sources masked")}
    compare((fields(seed) for seed in range(seeds)), ways)


def directions(folder):
    """Print forward minus reverse differences, which are zero for symmetric sampling."""
    from levelmatch.images.inputs import collect_frames
    from levelmatch.measure.pairs import Image, measure_pair
    from levelmatch.sky.overlaps import DepthMap, find_pairs

    def measured(a, b):
        maps = DepthMap(a.grid, [b.grid]), DepthMap(b.grid, [a.grid])
        return measure_pair(a, b, maps, MeasureOptions())

    for name in ("miri", "nircam"):
        _, paths = written(name, folder)
        frames = collect_frames(paths[:8])
        pairs, _ = find_pairs([f.grid for f in frames])
        images = [Image(f.load(), f.grid) for f in frames]
        step = []
        for i, j in pairs:
            one, two = measured(images[i], images[j]), measured(images[j], images[i])
            if one["npix"] and two["npix"]:
                levels = [r["rhs"][0] / r["gram"][0, 0] for r in (one, two)]
                step.append(levels[0] + levels[1])
        step = np.array(step)
        print(
            f"{name:14s} forward minus reverse {step.mean():+.6f} +- "
            f"{step.std() / np.sqrt(len(step)):.6f} over {len(step)} pairs",
            flush=True,
        )


def budgets(shape, seeds):
    """Print error and time of 64 dithers relative to all pairs, for each ``max_pairs``."""
    errors, seconds, number = {}, {}, {}
    for seed in range(seeds):
        simulation = testing.simulate_generic(
            n_images=64,
            shape=(shape, shape),
            layout="pile",
            overlap=0.85,
            noise=0.5,
            star_density=500.0,
            seed=seed,
        )
        images = list(simulation.images)
        for budget in (4, 8, 12, 16, 24, 32, None):
            start = time.perf_counter()
            result = levelmatch.match_dithers(
                images, group_by=lambda name, meta: "field", solve=SolveOptions(max_pairs=budget)
            )
            seconds.setdefault(budget, []).append(time.perf_counter() - start)
            errors.setdefault(budget, []).append(level_rms(result, simulation))
            number[budget] = len(result.pairs)
    rms = {b: np.sqrt(np.mean(np.square(e))) for b, e in errors.items()}
    for budget, error in rms.items():
        print(
            f"budget {budget!s:5s} {number[budget]:5d} pairs  error {error:.5f}, "
            f"{error / rms[None]:.3f} of that of all; {np.mean(seconds[budget]):.2f} s, "
            f"{np.sum(seconds[budget]) / np.sum(seconds[None]):.3f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=None, help="where the sets are kept")
    parser.add_argument("--tiles", default=None, help="where the 2MASS tiles are")
    parser.add_argument("--only", choices=["measurements", "masks", "directions", "budgets"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shape", type=int, default=256, help="pixels a side, for the budgets")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or temporary
        if args.only in (None, "measurements"):
            measurements(folder, args.tiles, args.seeds)
        if args.only in (None, "masks"):
            masks(args.seeds)
        if args.only in (None, "directions"):
            directions(folder)
        if args.only in (None, "budgets"):
            budgets(args.shape, args.seeds)


if __name__ == "__main__":
    main()
