"""Time of the whole command relative to copying the files, and to a short script with astropy.

The script subtracts constants that are known and writes all files. The three commands alternate, on
files that are in the file cache, and on files that are not (Linux). The ratios are of the least
times. Run as ``python benchmarks/copying.py [--sets nircam,miri] [--repeats N] [--folder FOLDER]``.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from processes import measure
from sets import written

SCRIPT = """
import sys
from pathlib import Path
from astropy.io import fits
output = Path(sys.argv[1])
output.mkdir()
for k, path in enumerate(map(Path, sys.argv[2:])):
    with fits.open(path, memmap=False) as hdus:
        hdus["SCI"].data -= 0.1 * k
        hdus["SCI"].header["LEVEL"] = 0.1 * k
        hdus.writeto(output / path.name)
"""
STATES = ("cached", "not cached")


def commands(paths, output):
    """Return the three commands that write to a folder."""
    files = [str(path) for path in paths]
    return {
        "cp -r": ["cp", "-r", str(paths[0].parent), str(output)],
        "astropy": [sys.executable, "-c", SCRIPT, str(output), *files],
        "levelmatch run": [
            str(Path(sys.executable).with_name("levelmatch")),
            *["run", *files, "-o", str(output), "--quiet"],
        ],
    }


def prepare(paths, state):
    """Put files into the file cache, or remove them from it."""
    for path in paths:
        if state == "cached":
            path.read_bytes()
            continue
        with open(path, "rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(name, folder, repeats):
    """Measure the commands on a simulation."""
    _, paths = written(name, folder)
    output, log = Path(folder) / "output", Path(folder) / "log"
    for state in STATES:
        found = {}
        for _ in range(repeats):
            for label, command in commands(paths, output).items():
                shutil.rmtree(output, ignore_errors=True)
                os.sync()
                prepare(paths, state)
                one = measure(command, log=log, limit=600)
                if one.code:
                    sys.exit(f"{label}: {log.read_text()}")
                found.setdefault(label, []).append((one.wall, one.cpu, one.memory))
        shutil.rmtree(output, ignore_errors=True)
        least = {label: [min(v) for v in zip(*rows, strict=True)] for label, rows in found.items()}
        for label, (wall, cpu, memory) in least.items():
            print(
                f"{name}, {state}: {label}: {wall:.2f} s, {wall / least['cp -r'][0]:.2f} times cp; "
                f"CPU {cpu:.2f} s, {cpu / least['astropy'][1]:.2f} times astropy; "
                f"{memory / 2**20:.0f} MiB",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="nircam,miri")
    parser.add_argument("--folder", default=None, help="where the sets are kept")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.sets.split(","):
            run(name, args.folder or temporary, args.repeats)


if __name__ == "__main__":
    main()
