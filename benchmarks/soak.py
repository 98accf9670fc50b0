"""Match, write, apply and undo many times in one process, and watch memory and open files.

Run as ``python benchmarks/soak.py [--runs N]``. Memory may not grow by more than 10 MB after the
first fifth of the runs, nor the number of open files or threads at all.
"""

import argparse
import os
import shutil
import tempfile
import threading
import warnings
from pathlib import Path

from commands import small_set

import levelmatch as lm


def state():
    """Return the resident memory in MB, and the numbers of open files and threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return memory, len(os.listdir("/proc/self/fd")), threading.active_count()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    seen = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = small_set(folder / "in", n=4, side=48)
        for k in range(arguments.runs):
            result = lm.match_levels(paths)
            outputs = result.write(folder / "out")
            if k % 10 == 0:
                lm.verify_record(result.record, outputs)
                lm.undo_record(result.record, outputs, folder / "back")
                shutil.rmtree(folder / "back")
            shutil.rmtree(folder / "out")
            if k % max(arguments.runs // 20, 1) == 0:
                seen.append(state())
                print(f"{k:5d} runs: {seen[-1][0]:.1f} MB, {seen[-1][1:]} files and threads")
    start = seen[len(seen) // 5]
    growth = [end - begin for begin, end in zip(start, seen[-1], strict=True)]
    print(f"growth: {growth[0]:.1f} MB, {growth[1]} files, {growth[2]} threads")
    raise SystemExit(growth[0] > 10 or growth[1] > 0 or growth[2] > 0)


if __name__ == "__main__":
    main()
