"""Errors of levels and planes on simulated images with known truth.

Run as ``python benchmarks/accuracy.py [--seeds N] [--folder FOLDER]``.
"""

import argparse
import tempfile
import time
import warnings

import numpy as np
from sets import written

import levelmatch
from levelmatch.testing import level_errors, plane_errors


def level_rms(result, simulation):
    """Return the rms of the level errors, minus one common level."""
    table = result.table
    found = dict(zip(table["name"], table["level"].value, strict=True))
    return float(np.std(np.asarray(level_errors(found, simulation.truth))))


def plane_rms(result, simulation):
    """Return the rms over the pixels of the plane errors, minus one mosaic-wide plane."""
    table = result.table
    columns = (table[c].value for c in ("level", "slope_u", "slope_v"))
    found = dict(zip(table["name"], np.stack(list(columns), axis=1), strict=True))
    return float(np.sqrt(np.mean(np.square(np.asarray(plane_errors(found, simulation.truth))))))


def lyot_rms(result, simulation):
    """Return the rms of the errors of Lyot levels relative to the science part."""
    truth = simulation.truth
    rows = {str(name): i for i, name in enumerate(truth["name"])}
    table = result.table
    science, lyot = {}, {}
    for row, frame in zip(table, result.frames, strict=True):
        if frame.product in rows:
            (lyot if row["part"] == "lyot" else science)[frame.product] = row["level"].value
    common = np.mean([science[n] - truth["level"][rows[n]].value for n in science])
    errors = [
        lyot[n] - truth["level"][rows[n]].value - truth["lyot_level"][rows[n]].value - common
        for n in lyot
    ]
    return float(np.sqrt(np.mean(np.square(errors))))


def run(folder, seeds, weights):
    planes = {"fit_type_dithers": "level+slope", "fit_type_mosaic_tiles": "level+slope"}
    cases = [
        ("miri", {}, level_rms),
        ("miri-planes", planes, plane_rms),
        ("miri-lyot", {"recombine_lyot": True}, lyot_rms),
        ("nircam", {"combine_nircam_short": True}, level_rms),
    ]
    for name, options, measure in cases:
        errors, predicted, seconds = [], [], []
        for seed in range(seeds):
            simulation, paths = written(name, folder, seed)
            start = time.perf_counter()
            result = levelmatch.match_levels(
                paths, solve=levelmatch.SolveOptions(weights=weights), **options
            )
            seconds.append(time.perf_counter() - start)
            errors.append(measure(result, simulation))
            predicted.append(np.sqrt(np.mean(result.table["error"].value ** 2)))
        print(
            f"{name:12s} {weights:6s} rms error {np.sqrt(np.mean(np.square(errors))):.4f} "
            f"(seeds: {' '.join(f'{e:.4f}' for e in errors)}), stated level error "
            f"{np.mean(predicted):.4f}, {np.mean(seconds):.2f} s",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weights", default="ivar")
    parser.add_argument("--folder", default=None, help="where the sets are kept")
    args = parser.parse_args()
    warnings.simplefilter("default")
    with tempfile.TemporaryDirectory() as temporary:
        run(args.folder or temporary, args.seeds, args.weights)


if __name__ == "__main__":
    main()
