"""Growth of time and memory with the number of images.

Run as ``python benchmarks/growth.py [--images 50 100 200 400 800] [--side 256]``. Prints the
exponent of the growth of time with the number of images, overall and for each step.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from memory import measured
from mosaics import write_mosaic


def run(numbers, side, repeats, workers):
    seconds = []
    for n in numbers:
        with tempfile.TemporaryDirectory() as folder:
            _, levels = write_mosaic(folder, n, side=side)
            np.savetxt(Path(folder) / "levels.txt", levels)
            found, peak, _, pairs, error = measured(folder, repeats, workers)
        seconds.append(found)
        print(
            f"{n} images of {side} x {side}, {pairs:.0f} pairs: {found:.2f} s, "
            f"{1e3 * found / n:.2f} ms an image, peak {peak:.0f} MB, level error {error:.4f}",
            flush=True,
        )
    log_n, log_s = np.log(numbers), np.log(seconds)
    steps = np.diff(log_s) / np.diff(log_n)
    print(
        f"time grows as the number of images to the power {np.polyfit(log_n, log_s, 1)[0]:.2f} "
        f"(step by step {' '.join(f'{s:.2f}' for s in steps)})"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[50, 100, 200, 400, 800])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    run(args.images, args.side, args.repeats, args.workers)


if __name__ == "__main__":
    main()
