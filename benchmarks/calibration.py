# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Compare stated errors with true ones, on white noise and on the noise of detectors and skies.

Run as ``python benchmarks/calibration.py [--only ROW ...] [--trials N] [--jobs N] [--json FILE]``;
``--list`` names the rows. Prints a table with the figures of each row: those of an earlier
version of the package, those of today, and the ranges they must lie in. The simulator is
independent of the package, and its truth is exact; the docstrings in ``realnoise`` describe
the sky of each row. The whole table takes 7 to 12 minutes.

Four more parts run only if they are named. They simulate white noise by the package's own
simulator, and tables of pairs: ``pulls``, the standard deviation of
(found - true) / stated error, which should be 1; ``scattered``, the same with a systematic
scatter of the pairs' levels; ``unlike``, pairs of unlike pixels; ``bound``, the true error over
that of the best possible estimate from the same pixels (the Cramer-Rao bound of the joint fit
of sky and levels).
"""

import argparse
import sys

import numpy as np
from astropy.nddata import CCDData
from astropy.wcs import WCS

import levelmatch as lm
from levelmatch.sky.vectors import tangent_axes, transfer_matrix, unit_vectors
from levelmatch.solve.equations import Equations
from levelmatch.solve.groups import solve_groups
from levelmatch.testing import simulate_generic

LEVELS = ("level",)
SLOPES = ("level", "slope_u", "slope_v")
PLAIN = {"stars": False, "nebula": False, "galaxy": False}


def each_its_own(name, _meta=None):
    """Assign each image to a tile of its own."""
    return name


def simulated_pulls(n_trials, *, fit_type="level", location="mean", shape=(128, 128), **layout):
    """Return pulls of noise-limited simulations minus their mean, shape (n_trials, n_images, k)."""
    layout = {"layout": "grid", "n_images": 9, "overlap": 0.3, **layout}
    pulls = []
    for seed in range(n_trials):
        slope = 0.3 if fit_type == "level+slope" else 0.0
        sim = simulate_generic(shape=shape, noise=0.5, slope=slope, seed=seed, **layout, **PLAIN)
        result = lm.match_mosaic(
            list(sim.images),
            fit_type=fit_type,
            reference="mean",
            group_by=each_its_own,
            measure=lm.MeasureOptions(location=location),
        )
        truth = sim.truth[np.argsort(sim.truth["name"])]
        columns = LEVELS if fit_type == "level" else SLOPES
        true = np.stack([truth[c].value for c in columns], axis=1)
        p = result.passes[0]
        error = without_mean(p.solution.coefficients - true, p.group_axes)
        pulls.append(error / p.solution.errors)
    return np.array(pulls)


def without_mean(coefficients, axes):
    """Return coefficients in the gauge of a zero mean level or plane."""
    if coefficients.shape[1] == 1:
        return coefficients - coefficients.mean(axis=0)
    centre = tangent_axes(axes[:, 0].sum(axis=0))
    mean = np.einsum("gij,gj->i", transfer_matrix(axes, centre), coefficients) / len(axes)
    return coefficients - transfer_matrix(centre, axes) @ mean


def lattice(n):
    """Return pairs of neighbours among n by n images, and the axes of the images."""
    steps = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (1, 2), (2, 1), (1, -2), (2, -1)]
    first, second = np.array(
        [
            (y * n + x, (y + dy) * n + x + dx)
            for y in range(n)
            for x in range(n)
            for dy, dx in steps
            if 0 <= y + dy < n and 0 <= x + dx < n
        ]
    ).T
    axes = tangent_axes(unit_vectors(np.arange(n * n) % n / 10, np.arange(n * n) // n / 10))
    return first, second, axes


def solved_levels(first, second, axes, sigma, difference, robust):
    """Solve for levels from the differences and errors of pairs."""
    weight = sigma**-2
    equations = Equations(
        first, second, weight[:, None, None], (weight * difference)[:, None], axes[first], axes
    )
    return solve_groups(equations, lm.SolveOptions(robust=robust))


def scattered_pulls(n_trials, *, floor=10.0, n=5, robust="tukey"):
    """Return pulls of a lattice whose pairs scatter by a multiple of their errors."""
    first, second, axes = lattice(n)
    pulls, floors = [], []
    for seed in range(n_trials):
        rng = np.random.default_rng([seed, n])
        sigma = 0.01 * rng.uniform(0.5, 2, len(first))
        true = rng.normal(0, 3, n * n)
        d = true[first] - true[second]
        d += np.hypot(sigma, 0.01 * floor) * rng.standard_normal(len(first))
        solution = solved_levels(first, second, axes, sigma, d, robust)
        error = solution.coefficients[:, 0] - true
        pulls.append((error - error.mean()) / solution.errors[:, 0])
        floors.append(solution.floor / 0.01)
    return np.array(pulls), np.array(floors)


def spoilt_growth(n_trials, *, part=0.05, size=50.0, n=5, robust="tukey"):
    """Return the ratio of rms errors with and without a fraction of wrong pairs."""
    first, second, axes = lattice(n)
    squares = np.zeros(2)
    for seed in range(n_trials):
        rng = np.random.default_rng([seed, n, 1])
        sigma = 0.01 * rng.uniform(0.5, 2, len(first))
        true = rng.normal(0, 3, n * n)
        clean = true[first] - true[second] + sigma * rng.standard_normal(len(first))
        bad = rng.choice(len(first), int(np.ceil(part * len(first))), replace=False)
        spoilt = clean.copy()
        spoilt[bad] += size * sigma[bad] * rng.choice([-1, 1], len(bad))
        for k, d in enumerate((clean, spoilt)):
            error = solved_levels(first, second, axes, sigma, d, robust).coefficients[:, 0] - true
            squares[k] += np.var(error)
    return np.sqrt(squares[1] / squares[0])


STACKS = {
    "2 coincident": [(0, 0)] * 2,
    "5 coincident": [(0, 0)] * 5,
    "5 dithered": [(0, 0), (5, 9), (-7, 4), (3, -6), (11, -2)],
    "4 of a mosaic": [(0, 0), (0, 70), (64, 5), (68, 75)],
    "6 of a chain": [(0, 60 * k) for k in range(6)],
}


def flat_image(shift, name, noise, shape=(96, 96), angle=0.0, scale=1.0):
    """Return an image of a dark sky on a shifted, rotated and scaled grid."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 30.0, 1.0
    wcs.wcs.crpix = shape[1] / 2 + 2 - shift[1], shape[0] / 2 + 2 - shift[0]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * 0.5 * scale / 3600
    data = noise.standard_normal(shape)
    return CCDData(data, unit="MJy/sr", wcs=wcs, meta={"FILENAME": name})


def unlike_pulls(n_trials, ratio, angle, *, location="mean", shape=(96, 96), noise=1.0):
    """Return pulls of two images with different pixel scales, rotations and noise."""
    pulls = []
    coarse = tuple(int(n / ratio) for n in shape)
    for trial in range(n_trials):
        rng = np.random.default_rng([trial, int(ratio), int(angle)])
        a = flat_image(rng.uniform(-0.5, 0.5, 2), "a.fits", rng, shape)
        b = flat_image(rng.uniform(-0.5, 0.5, 2), "b.fits", rng, coarse, angle, ratio)
        b.data *= noise
        measure = lm.MeasureOptions(location=location)
        table = lm.match_mosaic([a, b], reference=0, group_by=each_its_own, measure=measure).table
        pulls.append(table["level"].value[1] / table["error"].value[1])
    return np.sqrt(np.mean(np.square(pulls)))


def level_bound(shifts, shape=(96, 96)):
    """Return the smallest possible rms error of levels, for unit noise and whole-pixel shifts.

    A sky pixel covered by n images has the information matrix identity - 1/n.
    """
    shifts = np.array(shifts) - np.min(shifts, axis=0)
    extent = shifts.max(axis=0) + shape
    cover = np.zeros((len(shifts), *extent), dtype=bool)
    for k, (y, x) in enumerate(shifts):
        cover[k, y : y + shape[0], x : x + shape[1]] = True
    cover = cover.reshape(len(shifts), -1).astype(float)
    depth = np.maximum(cover.sum(axis=0), 1)
    fisher = np.diag(cover.sum(axis=1)) - (cover / depth) @ cover.T
    # The pseudo-inverse excludes the mean, which overlaps do not determine.
    return np.sqrt(np.trace(np.linalg.pinv(fisher, rcond=1e-10, hermitian=True)) / len(shifts))


def bound_ratio(n_trials, shifts, *, location="mean", offset=0.0):
    """Return the ratio of the rms error of levels to the bound, and the rms of their pulls."""
    rng = np.random.default_rng(len(shifts))
    errors, pulls = [], []
    for _ in range(n_trials):
        images = [
            # Shifts by fractions of a pixel barely change the errors. They do not change the bound.
            flat_image(np.add(s, offset * k), f"{k}.fits", rng)
            for k, s in enumerate(shifts)
        ]
        result = lm.match_mosaic(
            images,
            reference="mean",
            group_by=each_its_own,
            measure=lm.MeasureOptions(location=location),
        )
        table = result.table
        errors.append(table["level"].value)
        pulls.append(table["level"].value / table["error"].value)
    return np.sqrt(np.mean(np.square(errors))) / level_bound(shifts), np.sqrt(
        np.mean(np.square(pulls))
    )


def report_pulls(n):
    """Print pulls of noise-limited simulations."""
    print(f"(found - true) / stated error, {n} trials: standard deviation of level, slopes")
    for fit_type in ("level", "level+slope"):
        for location in ("mean", "median"):
            for layout in ({}, {"layout": "pile", "n_images": 6, "overlap": 0.8}):
                pulls = simulated_pulls(n, fit_type=fit_type, location=location, **layout)
                name = layout.get("layout", "grid")
                values = " ".join(f"{v:.3f}" for v in pulls.std(axis=(0, 1)))
                print(f"  {fit_type:12s} {location:7s} {name:5s} {values}", flush=True)


def report_scattered(n):
    """Print pulls of simulations with scattered pairs, and the estimated floors."""
    print("the same where pairs scatter by a multiple of their errors; floor found")
    for floor in (0.0, 1.0, 10.0):
        for robust in (None, "huber", "tukey"):
            pulls, floors = scattered_pulls(n, floor=floor, robust=robust)
            print(f"  {floor:4.0f} sigma {robust!s:6s} {pulls.std():.3f}  {floors.mean():.2f}")
    print("growth of the errors where 5 % of the pairs are off by 50 sigma")
    for robust in (None, "huber", "tukey"):
        print(f"  {robust!s:6s} {spoilt_growth(n, robust=robust):.3f}")


def report_unlike(n):
    """Print pulls of pairs with different pixels."""
    print("pairs of unlike pixels: their scale, angle, noise of the coarser; rms of the pulls")
    for location in ("mean", "median"):
        for ratio in (1.0, 2.0, 4.0):
            for angle in (0.0, 30.0, 45.0):
                for noise in (1.0, 1 / ratio)[: 1 + (ratio > 1)]:
                    pull = unlike_pulls(n, ratio, angle, location=location, noise=noise)
                    print(
                        f"  {location:7s} {ratio:.0f} {angle:3.0f} {noise:.2f}  {pull:.3f}",
                        flush=True,
                    )


def report_bound(n):
    """Print ratios of true errors to the bound."""
    print("true error over the Cramer-Rao bound; standard deviation of the pulls")
    for name, shifts in STACKS.items():
        for location in ("mean", "median"):
            for offset in (0.0, 0.3):
                ratio, pull = bound_ratio(n, shifts, location=location, offset=offset)
                print(
                    f"  {name:14s} {location:7s} offset {offset:.1f}  {ratio:.3f}  {pull:.3f}",
                    flush=True,
                )


REPORTS = {
    "pulls": report_pulls,
    "scattered": report_scattered,
    "unlike": report_unlike,
    "bound": report_bound,
}


def parse(arguments=None):
    from realnoise.rows import ROWS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[*ROWS, *REPORTS], default=[], metavar="ROW")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--trials", type=int, help="trials of each, at most; 200 for the parts")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", metavar="FILE", help="file for the figures")
    return parser.parse_args(arguments)


def main():
    # Imported here, because tests load this module by its path, without its folder.
    from realnoise.table import list_rows, run_rows

    args = parse()
    if args.list:
        list_rows()
        return 0
    for part in args.only:
        if part in REPORTS:
            REPORTS[part](args.trials or 200)
    rows = [name for name in args.only if name not in REPORTS]
    if args.only and not rows:
        return 0
    return run_rows(rows, trials=args.trials, jobs=args.jobs, path=args.json)


if __name__ == "__main__":
    sys.exit(main())
