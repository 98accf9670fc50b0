"""A season of a wide survey of 18 detectors, from outlines alone: time and memory of each step.

Run as ``python benchmarks/survey.py [--images 10000 30000 100000]``. A visit is four dithered
exposures, shifted to fill the gaps between the detectors; visits follow each other in rows of
declination, neighbours sharing 3 % of their side. Pairs have simulated differences in place of
pixels, with a systematic scatter, and one in a thousand is wrong. The steps:

- overlaps of the outlines, at most 24 an image;
- detectors of a visit against each other, then visits, by `run_passes` with default options;
- exposures, jointly with one offset of each detector that all exposures share.

Prints the memory that each image keeps, from outline to corrections, and the growth of the time.
"""

import argparse
import time
import tracemalloc
import warnings

import numpy as np
from scaling import outlines, peak, simulated_pairs

import levelmatch as lm
from levelmatch.images.frame import Frame
from levelmatch.measure.pair_selection import assign_pairs
from levelmatch.measure.table import PairTable
from levelmatch.sky.grid import Footprint
from levelmatch.sky.overlaps import find_outline_pairs, thin_pairs
from levelmatch.sky.vectors import ARCMIN, tangent_axes, unit_vectors
from levelmatch.solve.equations import Equations
from levelmatch.solve.groups import solve_groups
from levelmatch.solve.passes import Pass
from levelmatch.solve.run import run_passes

# Side of a detector and steps between those of a row and between rows, in arcmin; pixels of a side.
SIDE, STEP_X, STEP_Y, N_PIXELS = 7.5, 8.1, 8.9, 4088
N_X, N_Y = 6, 3
# Shifts of the exposures of a visit, as fractions of the side, and the visits' common edge.
DITHERS = np.array([[0.0, 0.0], [0.12, 0.05], [0.24, 0.22], [0.36, 0.27]])
COMMON = 0.03
OFFSET, FLOOR = 0.5, 0.01
# Number of pairs whose rows of the joint solution are in memory at once.
BLOCK = 100_000


def season(n_images, seed=0):
    """Return axes of the images, and the visit, exposure and detector of each."""
    n_detectors = N_X * N_Y
    n_visits = max(round(n_images / n_detectors / len(DITHERS)), 1)
    width, height = N_X * STEP_X * (1 - COMMON), N_Y * STEP_Y * (1 - COMMON)
    n_rows = max(round(np.sqrt(n_visits * width / height)), 1)
    row, place = np.divmod(np.arange(n_visits), -(-n_visits // n_rows))
    dec = (row - 0.5 * n_rows) * height
    # Beyond a few thousand square degrees rows are longer, not more: dec stays within 60 degrees.
    ra = place * width / np.cos(np.radians(dec / 60))
    rng = np.random.default_rng(seed)
    shift = SIDE * (DITHERS + 0.01 * rng.standard_normal((n_visits, *DITHERS.shape)))
    y, x = np.divmod(np.arange(n_detectors), N_X)
    at = np.stack([(x - 0.5 * N_X + 0.5) * STEP_X, (y - 0.5 * N_Y + 0.5) * STEP_Y], axis=1)
    visits = tangent_axes(unit_vectors(ra / 60, dec / 60))
    flat = (shift[:, :, None] + at).reshape(n_visits, -1, 2) / ARCMIN
    vectors = visits[:, None, 0] + np.einsum("vda,vac->vdc", flat, visits[:, 1:])
    axes = tangent_axes(vectors.reshape(-1, 3))
    exposure = np.repeat(np.arange(n_visits * len(DITHERS)), n_detectors)
    return axes, exposure // len(DITHERS), exposure, np.tile(np.arange(n_detectors), n_visits * 4)


def frames_of(axes, polygons, visit, exposure, detector):
    """Return the images as frames, of which only the outlines are known."""
    area = np.radians(SIDE / 60 / N_PIXELS) ** 2
    meta = {}
    tiles = [f"v{v:06d}" for v in range(int(visit.max()) + 1)]
    detectors = [f"WFI{d + 1:02d}" for d in range(N_X * N_Y)]
    return [
        Frame(
            name=f"e{e:06d}_{d:02d}",
            source=None,
            shape=(N_PIXELS, N_PIXELS),
            meta=meta,
            unit=None,
            transform=None,
            tile=tiles[v],
            detector=detectors[d],
            footprint=Footprint(axes[k], polygons[k], area, axes[k, 0]),
        )
        for k, (v, e, d) in enumerate(
            zip(visit.tolist(), exposure.tolist(), detector.tolist(), strict=True)
        )
    ]


def table_of(axes, pairs, area, levels):
    """Return a table of pairs with simulated differences of images of known levels."""
    equations, true = simulated_pairs(
        axes, np.radians(SIDE / 60), pairs, planes=False, floor=FLOOR, n_pixels=1e4
    )
    n, weight = len(pairs), equations.gram[:, 0, 0]
    gram = np.zeros((n, 3, 3))
    gram[:, [0, 1, 2], [0, 1, 2]] = weight[:, None]
    rhs = np.zeros((n, 3))
    # With the levels of the survey in place of those of independent images.
    own = levels - true[:, 0]
    rhs[:, 0] = equations.rhs[:, 0] + weight * (own[pairs[:, 0]] - own[pairs[:, 1]])
    share = area / np.radians(SIDE / 60) ** 2

    def constant(value, *shape):
        # Of no memory, as columns that a survey does not measure.
        return np.broadcast_to(value, (n, *shape))

    return PairTable(
        *(equations.first, equations.second, gram, rhs, equations.axes),
        sigma=1 / np.sqrt(weight),
        scatter=constant(0.5),
        chi2=constant(1.0),
        npix=np.maximum(share * N_PIXELS**2, 1).astype(int),
        extent=np.repeat(np.sqrt(share)[:, None], 2, axis=1),
        gain=constant(np.nan),
        gain_error=constant(np.inf),
        shift=constant(np.nan),
        shift_error=constant(np.inf),
        bright=constant(0.0),
        wings=constant(np.nan),
        wings_error=constant(np.inf),
        wings_term=constant(0.0),
        wings_light=constant(0.0),
        wide_wings=constant(np.nan),
        wide_wings_error=constant(np.inf),
        wide_wings_term=constant(0.0),
        strips=constant(np.float32(0), 8, 9),
        turn=constant(0.0),
        step=constant(0.0, 2),
        neighbours=constant(np.nan, 2),
        multiplicity=constant(1.0),
    )


def common_offsets(table, group, group_axes, detector):
    """Return levels of groups and an offset of each detector, solved together, and its error.

    The offsets are eliminated by the response of the levels to each of them.
    """
    joined = np.flatnonzero(group[table.first] != group[table.second])
    ends = [side[joined] for side in (table.first, table.second)]
    first, second = (detector[end] for end in ends)
    equations = Equations(
        *(group[end] for end in ends),
        table.gram[joined, :1, :1],
        table.rhs[joined, :1],
        np.broadcast_to(np.eye(3), (len(joined), 3, 3)),
        group_axes,
    )
    solution = solve_groups(equations, lm.SolveOptions())
    n, m, weight = int(detector.max()) + 1, len(group_axes), solution.weight
    signs = {(0, 0): 1, (0, 1): -1, (1, 0): -1, (1, 1): 1}
    groups, detectors = (equations.first, equations.second), (first, second)
    right = sum(
        sign * np.bincount(groups[a] * n + detectors[b], weight, m * n)
        for (a, b), sign in signs.items()
    )
    response = solution.respond(right.reshape(m, n))
    residual = equations.level_residuals(solution.coefficients)
    normal, score, each = np.zeros((n, n)), np.zeros(n), np.eye(n)
    for start in range(0, len(first), BLOCK):
        rows = slice(start, start + BLOCK)
        left = each[first[rows]] - each[second[rows]]
        left += response[equations.second[rows]] - response[equations.first[rows]]
        weighted = weight[rows, None] * left
        normal += left.T @ weighted
        score += weighted.T @ residual[rows]
    offsets = np.linalg.pinv(normal, rcond=1e-10, hermitian=True) @ score
    return solution.coefficients[:, 0] - response @ offsets, offsets


def clock(what, steps, function):
    """Run a step, and note its time of the processor."""
    start = time.process_time()
    out = function()
    steps[what] = time.process_time() - start
    return out


def overlaps(steps, axes, radii, polygons):
    """Return the overlapping pairs, at most 24 of each image, and their areas."""
    pairs, area = clock("overlaps", steps, lambda: find_outline_pairs(axes[:, 0], radii, polygons))
    kept = clock("thinned", steps, lambda: thin_pairs(pairs, area, len(axes), 24)[0])
    return pairs[kept], area[kept]


def run(n_images, *, trace=False):
    """Run one size; return the time of each step, and the largest error of a detector's offset."""
    steps = {}
    axes, visit, exposure, detector = season(n_images)
    polygons, radii = outlines(axes, np.radians(SIDE / 60))
    pairs, area = overlaps(steps, axes, radii, polygons)
    if trace:
        tracemalloc.start()
    # Squares have four vertices; the others repeat them.
    polygons = polygons[:, :4].copy()
    frames = clock("frames", steps, lambda: frames_of(axes, polygons, visit, exposure, detector))
    outline = tracemalloc.get_traced_memory()[0] if trace else 0
    passes = [
        Pass("detectors", "level"),
        Pass("mosaic", "level", combine_detectors=True),
    ]
    grouped = clock("groups", steps, lambda: [p.grouped(frames) for p in passes])
    pass_of = assign_pairs(grouped, pairs)
    rng = np.random.default_rng(1)
    offset = OFFSET * rng.standard_normal(N_X * N_Y)
    levels = rng.standard_normal(int(exposure.max()) + 1)[exposure] + offset[detector]
    table, n_pairs = table_of(axes, pairs, area, levels), len(pairs)
    del pairs, area
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames, _solved = clock(
            "passes", steps, lambda: run_passes(frames, passes, table, pass_of, lm.SolveOptions())
        )
    del _solved
    if trace:
        kept_bytes = (tracemalloc.get_traced_memory()[0] - outline) / len(frames)
        print(f"corrections keep {kept_bytes:.0f} bytes an image", flush=True)
        tracemalloc.stop()
    n_exposures = int(exposure.max()) + 1
    sums = np.stack([np.bincount(exposure, axes[:, 0, c]) for c in range(3)], axis=1)
    _, found = clock(
        "offsets", steps, lambda: common_offsets(table, exposure, tangent_axes(sums), detector)
    )
    off = float(np.abs(found - found.mean() - offset + offset.mean()).max())
    whole = sum(steps.values())
    print(
        f"{len(axes)} images of {n_exposures} exposures, {n_pairs} pairs: "
        + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in steps.items())
        + f"; {1e6 * whole / len(axes):.0f} us an image, peak {peak():.1f} GiB; offsets of "
        f"detectors within {off:.1e} of {OFFSET}",
        flush=True,
    )
    return steps, off


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=float, nargs="+", default=[1e4, 3e4, 1e5])
    parser.add_argument("--trace", action="store_true", help="memory of frames, of the first size")
    args = parser.parse_args()
    if args.trace:
        run(int(args.images[0]), trace=True)
        return
    seconds = [run(int(n))[0] for n in args.images]
    if len(seconds) > 1:
        log_n = np.log(args.images)
        for what in seconds[0]:
            power = np.polyfit(log_n, np.log([s[what] for s in seconds]), 1)[0]
            print(f"{what}: time grows as the number of images to the power {power:.2f}")
        power = np.polyfit(log_n, np.log([sum(s.values()) for s in seconds]), 1)[0]
        print(f"all: {power:.2f}")


if __name__ == "__main__":
    main()
