"""Peak memory of a process that matches a mosaic, and of one of half as many images.

Run as ``python benchmarks/memory.py [--images 200 400] [--side 1024] [--workers N]``. The
files, 4 MB each, are removed at the end.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from mosaics import write_mosaic


def measured(folder, repeats=1, workers=None):
    """Seconds, peak memory, memory before (MB), pairs and level error, of a process of its own."""
    command = [
        sys.executable,
        Path(__file__).with_name("mosaics.py"),
        folder,
        repeats,
        workers or 0,
    ]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def run(numbers, side, workers):
    for n in numbers:
        with tempfile.TemporaryDirectory() as folder:
            # Rows as long, and as many as there are images for.
            columns = int(np.ceil(np.sqrt(max(numbers))))
            _, levels = write_mosaic(folder, n, side=side, columns=columns)
            np.savetxt(Path(folder) / "levels.txt", levels)
            seconds, peak, before, pairs, error = measured(folder, workers=workers)
        print(
            f"{n} images of {side} x {side}, {pairs:.0f} pairs: peak {peak:.0f} MB, {before:.0f} MB "
            f"of them before; all pixels are {n * side**2 * 4 / 2**20:.0f} MB; {seconds:.1f} s, "
            f"level error {error:.4f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 400])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    run(args.images, args.side, args.workers)


if __name__ == "__main__":
    main()
