# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Growth of time with the number of images, for footprints of a simulated all-sky survey.

Run as ``python benchmarks/scaling.py [--solve] [--overlaps] [--covariance]``, with any of these
options. Times are those of the processor. ``--images`` and ``--planes`` set the number of images
for levels and for planes.
"""

import argparse
import resource
import tempfile
import time
import tracemalloc
from dataclasses import replace

import numpy as np

import levelmatch as lm
from levelmatch.images.inputs import collect_frames
from levelmatch.sky.overlaps import find_outline_pairs
from levelmatch.sky.vectors import ARCMIN, tangent_axes, transfer_matrix, unit_vectors
from levelmatch.solve.equations import Equations
from levelmatch.solve.groups import solve_groups
from levelmatch.testing import simulate_generic

# Number of vertices of a footprint.
N_VERTICES = 16
# Systematic scatter of the simulated pairs, relative to the scatter of the levels.
FLOOR = 0.003


def survey(n_images, *, overlap=0.06, seed=0):
    """Return centres and axes of the fields of an all-sky survey, and their side in radian.

    The fields are squares in rings of declination, as those of 2MASS or VISTA. Each field has two
    dithers, a third of the overlap apart. Fields of neighbouring rings overlap along a fraction of
    their sides.
    """
    rng = np.random.default_rng(seed)
    n_fields = n_images // 2
    step = np.sqrt(4 * np.pi / n_fields)
    side = step * (1 + overlap)
    n_rings = round(np.pi / step)
    lat = (np.arange(n_rings) + 0.5) / n_rings * np.pi - np.pi / 2
    in_ring = np.maximum(np.round(2 * np.pi * np.cos(lat) / step), 3).astype(int)
    lon = np.concatenate([(np.arange(n) + rng.random()) / n * 2 * np.pi for n in in_ring])
    lat = np.repeat(lat, in_ring)
    dither = overlap * step / 3 * rng.normal(0, 1, (2, 2, len(lat))).clip(-1, 1)
    lon = (lon + dither[0] / np.cos(lat)).ravel()
    lat = np.clip(lat + dither[1], -1.57, 1.57).ravel()
    axes = tangent_axes(unit_vectors(np.degrees(lon), np.degrees(lat)))
    return axes, side


def outlines(axes, side):
    """Return footprints of square fields, shape (n, 16, 3), and their radii."""
    half = np.tan(side / 2)
    corners = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    vectors = axes[:, None, 0] + np.einsum("kc,ncx->nkx", corners, axes[:, 1:])
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vertices = np.empty((len(axes), N_VERTICES, 3))
    vertices[:, :4] = vectors
    vertices[:, 4:] = vectors[:, 3:]
    return vertices, np.full(len(axes), np.arctan(np.sqrt(2) * half))


def simulated_pairs(axes, side, pairs, *, planes, floor=FLOOR, noise=0.5, n_pixels=1e6, seed=0):
    """Return equations of pairs of square fields with known corrections.

    The differences have white noise over each overlap and a systematic scatter of the levels. One
    pair in a thousand is wrong by far more.

    Returns
    -------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs.
    true : `~numpy.ndarray`, shape (n, 1) or (n, 3)
        The corrections.
    """
    rng = np.random.default_rng([seed, len(axes)])
    first, second = (np.ascontiguousarray(end) for end in pairs.T)
    middle = tangent_axes(axes[first, 0] + axes[second, 0])
    ends = [np.einsum("pki,pi->pk", middle, axes[side_, 0]) for side_ in (first, second)]
    apart = np.abs(ends[0][:, 1:] / ends[0][:, :1] - ends[1][:, 1:] / ends[1][:, :1])
    extent = np.maximum(side - apart, 1e-3 * side)
    weight = n_pixels * extent.prod(axis=1) / side**2 / (2 * noise**2)
    k = 3 if planes else 1
    true = rng.standard_normal((len(axes), k))
    gram = np.zeros((len(pairs), k, k))
    gram[:, 0, 0] = weight
    if planes:
        true[:, 1:] /= ARCMIN * side / 2
        for c in (1, 2):
            gram[:, c, c] = weight * (ARCMIN * extent[:, c - 1]) ** 2 / 12
    else:
        # Levels have no directions.
        middle = np.broadcast_to(np.eye(3), middle.shape)
    equations = Equations(first, second, gram, np.zeros((len(pairs), k)), middle, axes)
    d = equations.differences(true)
    d += rng.standard_normal(d.shape) / np.sqrt(np.einsum("pii->pi", gram))
    d[:, 0] += floor * rng.standard_normal(len(d))
    wrong = rng.choice(len(d), len(d) // 1000, replace=False)
    d[wrong, 0] += rng.normal(0, 1, len(wrong))
    return replace(equations, rhs=(gram @ d[:, :, None])[:, :, 0]), true


def footprints(n_images):
    """Return axes, side and overlapping pairs of a survey, and the time to find the pairs."""
    axes, side = survey(n_images)
    vertices, radii = outlines(axes, side)
    start = time.process_time()
    pairs, _ = find_outline_pairs(axes[:, 0], radii, vertices)
    return axes, side, pairs, time.process_time() - start


def solved(equations, options):
    """Return the solution relative to the first group, and its time."""
    start = time.process_time()
    solution = solve_groups(equations, options, reference=lambda members: members[0])
    return solution, time.process_time() - start


def unpreconditioned_residual(equations, solution):
    """Return the relative residual of the normal equations without scaling."""
    factor = solution.weight / equations.gram[:, 0, 0]
    left = equations.gradient(factor, solution.coefficients)
    whole = equations.gradient(factor, np.zeros_like(solution.coefficients))
    # The first group is held at zero.
    return np.linalg.norm(left[1:]) / np.linalg.norm(whole[1:])


def error(equations, solution, true):
    """Return the rms errors of coefficients, minus a common level or plane."""
    off = solution.coefficients - true
    if off.shape[1] == 1:
        return (off - off.mean()).std(axis=0)
    modes = transfer_matrix(np.eye(3), equations.group_axes).reshape(-1, 3)
    seen = np.linalg.solve(modes.T @ modes, modes.T @ off.ravel())
    return (off - (modes @ seen).reshape(off.shape)).std(axis=0)


OPTIONS = {
    "one solution (floor given, not robust)": lm.SolveOptions(floor=FLOOR, robust=None),
    "by default (floor fitted, robust)": lm.SolveOptions(),
}


def peak():
    """Return the peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run_solve(n_images, *, planes, shuffle=False):
    axes, side, pairs, _ = footprints(n_images)
    if shuffle:
        place = np.random.default_rng(1).permutation(len(axes))
        axes, pairs = axes[np.argsort(place)], np.sort(place[pairs], axis=1)
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    equations, true = simulated_pairs(axes, side, pairs, planes=planes)
    kind = "planes" if planes else "levels"
    print(f"{len(axes)} images, {len(pairs)} pairs, {kind}{', names shuffled' * shuffle}")
    for name, options in OPTIONS.items():
        # Without what an earlier solution has computed, and kept.
        line = solution_line(replace(equations), true, options)
        print(f"  {name}: {line}, peak {peak():.1f} GiB", flush=True)


def solution_line(equations, true, options):
    """Return the time and the errors of a solution, in words."""
    start = time.perf_counter()
    solution, seconds = solved(equations, options)
    elapsed = time.perf_counter() - start
    off = " ".join(f"{e:.2e}" for e in error(equations, solution, true))
    return (
        f"{seconds:.1f} s, elapsed {elapsed:.1f} s, relative residual {solution.residual:.1e} "
        f"({unpreconditioned_residual(equations, solution):.1e} unscaled), "
        f"floor {solution.floor:.5f} (true {FLOOR}), rms error {off}"
    )


def run_chain(n_images=100_000):
    """Solve a chain, whose factors are sparse."""
    lon = np.arange(n_images) * 300 / n_images
    axes = tangent_axes(unit_vectors(lon, 5 * np.sin(np.radians(3 * lon))))
    pairs = np.stack([np.arange(n_images - 1), np.arange(1, n_images)], axis=1)
    equations, true = simulated_pairs(axes, np.radians(0.004), pairs, planes=False, floor=0)
    equations = replace(equations, rhs=equations.gram[:, 0] * equations.differences(true))
    solution, seconds = solved(equations, lm.SolveOptions())
    off = np.abs(solution.coefficients - (true - true[0])).max()
    print(f"chain of {n_images} exact pairs: {seconds:.1f} s, largest error {off:.1e}", flush=True)


def run_covariance(n_images, *, planes):
    """Print the time of the standard errors of a solution by default."""
    axes, side, pairs, _ = footprints(n_images)
    equations, _ = simulated_pairs(axes, side, pairs, planes=planes)
    solution, _ = solved(equations, lm.SolveOptions())
    start = time.process_time()
    errors = solution.errors
    print(f"{errors.size} standard errors: {time.process_time() - start:.1f} s", flush=True)


def measured_pairs_per_second(side=1024, n_images=25):
    """Return the number of pairs of 1-Mpixel images that one core measures per second."""
    sim = simulate_generic(
        shape=(side, side), layout="grid", n_images=n_images, overlap=0.1, noise=0.5, seed=0
    )
    one_core = {"measure": lm.MeasureOptions(n_workers=1), "group_by": each_its_own}
    seconds, n_pairs = [], 0
    with tempfile.TemporaryDirectory() as folder:
        paths = sim.write(folder)
        for _ in range(3):
            start = time.perf_counter()
            result = lm.match_mosaic(paths, **one_core)
            seconds.append(time.perf_counter() - start)
            n_pairs = len(result.measured)
    return n_pairs / min(seconds), n_pairs


def cost_of_headers(n_images=400):
    """Return the time in ms and the memory in kB of the header and the footprint of an image."""
    sim = simulate_generic(shape=(32, 32), layout="grid", n_images=n_images, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        paths = sim.write(folder)
        collect_frames(paths)
        start = time.process_time()
        collect_frames(paths)
        milliseconds = 1e3 * (time.process_time() - start) / len(paths)
        tracemalloc.start()
        frames = collect_frames(paths)
        memory, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return milliseconds, memory / 1e3 / len(frames)


def each_its_own(name, _meta=None):
    """Assign each image to a tile of its own."""
    return name


def run_overlaps(n_images):
    axes, side, pairs, seconds = footprints(n_images)
    print(
        f"{len(axes)} outlines: {len(pairs)} overlaps in {seconds:.1f} s, peak {peak():.1f} GiB",
        flush=True,
    )
    equations, _ = simulated_pairs(axes, side, pairs, planes=False)
    _, solving = solved(equations, lm.SolveOptions())
    rate, n_small = measured_pairs_per_second()
    measuring = len(pairs) / rate
    milliseconds, kilobytes = cost_of_headers()
    print(f"solved by default in {solving:.1f} s")
    print(f"header and footprint: {milliseconds:.2f} ms and {kilobytes:.0f} kB an image")
    print(f"{rate:.1f} pairs of 1-Mpixel images measured per second and core ({n_small} pairs)")
    print(
        f"so the survey takes {measuring / 3600:.0f} core hours of measuring "
        f"({measuring / 64 / 3600:.1f} hours of 64 cores), and {seconds + solving:.0f} s beside it"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("solve", "overlaps", "covariance", "shuffle"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--images", type=float, default=1e6, help="with levels")
    parser.add_argument("--planes", type=float, default=1e5, help="with planes; 0 for none")
    args = parser.parse_args()
    if not (args.solve or args.overlaps or args.covariance):
        parser.print_help()
    if args.solve:
        run_chain()
        if args.images:
            run_solve(int(args.images), planes=False, shuffle=args.shuffle)
        if args.planes:
            run_solve(int(args.planes), planes=True, shuffle=args.shuffle)
    if args.overlaps:
        run_overlaps(int(args.images))
    for n_images, planes in ((args.images, False), (args.planes, True)):
        if args.covariance and n_images:
            run_covariance(int(n_images), planes=planes)


if __name__ == "__main__":
    main()
