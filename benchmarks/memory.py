"""Peak memory of a process that matches mosaics with different numbers of rows.

Run as ``python benchmarks/memory.py [--images 200 400] [--columns 20] [--workers N]``. About one
row along the shorter side of the mosaic is in memory at a time. With ``--mosaic``, also the peak
memory of ``levelmatch mosaic``. The files, 4 MB each, are removed at the end.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from commands import call, command
from mosaics import write_mosaic


def measured(folder, repeats=1, workers=None):
    """Run a process; return time (s), peak and initial memory (MB), pairs and level error."""
    command = [
        sys.executable,
        Path(__file__).with_name("mosaics.py"),
        folder,
        repeats,
        workers or 0,
    ]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def mosaic_peak(folder):
    """Return the peak memory in MB of the command that combines the images of a folder."""
    record, output = Path(folder) / "levelmatch.asdf", Path(folder) / "combined.fit"
    call("run", *sorted(Path(folder).glob("*.fits")), "--dry-run", "-q", "--record", record)
    process = subprocess.Popen(command("mosaic", record, "-o", output, "-q"))
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss / 1024


def run(numbers, side, columns, workers, mosaic):
    for n in numbers:
        with tempfile.TemporaryDirectory() as folder:
            _, levels = write_mosaic(folder, n, side=side, columns=columns)
            np.savetxt(Path(folder) / "levels.txt", levels)
            seconds, peak, before, pairs, error = measured(folder, workers=workers)
            combined = f"; mosaic: peak {mosaic_peak(folder):.0f} MB" if mosaic else ""
        print(
            f"{n} images of {side} x {side} in rows of {columns}, {pairs:.0f} pairs: "
            f"peak {peak:.0f} MB, {before:.0f} MB of them before; all pixels are "
            f"{n * side**2 * 4 / 2**20:.0f} MB; {seconds:.1f} s, level error {error:.4f}{combined}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 400])
    parser.add_argument("--side", type=int, default=1024, help="pixels along an image's side")
    parser.add_argument("--columns", type=int, default=20, help="images in a row")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--mosaic", action="store_true", help="also combine the images")
    args = parser.parse_args()
    run(args.images, args.side, args.columns, args.workers, args.mosaic)


if __name__ == "__main__":
    main()
