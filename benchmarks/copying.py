"""Time of the whole command relative to copying the files, and to a short script with astropy.

The script subtracts constants that are known and writes all files. The three commands alternate, on
files that are in the file cache, and on files that are not (Linux). The ratios are of the least
times. For ``chips``, four files of 60 chips of 2 MB with checksums, only the writing counts.
Run as ``python benchmarks/copying.py [--sets nircam,miri,chips] [--repeats N] [--folder FOLDER]``.
"""

import argparse
import compileall
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from processes import measure
from sets import written

import levelmatch

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


def write_chips(folder, n_chips=60, shape=(1024, 512)):
    """Write four dithered exposures of a camera of many chips; return the files."""
    rng, paths = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(4):
        hdus = [fits.PrimaryHDU()]
        for chip in range(n_chips):
            wcs = WCS(naxis=2)
            wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 2)
            wcs.wcs.cdelt = (-7e-5, 7e-5)
            row, column = divmod(chip, 10)
            wcs.wcs.crpix = 2500 - 540 * column + 60 * k, 3000 - 1050 * row - 80 * k
            header = wcs.to_header()
            header["BUNIT"] = "adu"
            # As many cards as the chips of DECam have.
            header.update({f"CARD{i}": (2.5 * i, "card of the chip") for i in range(60)})
            data = 1000 + 5 * k + rng.normal(0, 3, shape).astype("f4")
            hdus.append(fits.ImageHDU(data, header, name=f"N{chip + 1}"))
        paths.append(folder / f"exposure{k}.fits")
        fits.HDUList(hdus).writeto(paths[-1], checksum=True, overwrite=True)
    return paths


def used(who, function):
    """Return wall time and processor time of a function in this process or a child process."""
    before, start = resource.getrusage(who), time.perf_counter()
    function()
    after, wall = resource.getrusage(who), time.perf_counter() - start
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_chips(folder, repeats):
    """Measure the writing of files of many chips relative to copying them."""
    paths = write_chips(Path(folder) / "chips")
    output = Path(folder) / "output"
    result = levelmatch.match_levels(paths)
    # The record is computed once.
    assert result.record
    copy = ["cp", "-r", str(paths[0].parent), str(output)]
    steps = {
        "cp -r": (resource.RUSAGE_CHILDREN, lambda: subprocess.run(copy, check=True)),
        "write": (resource.RUSAGE_SELF, lambda: result.write(output)),
    }
    found = {label: [] for label in steps}
    for _ in range(repeats):
        for label, step in steps.items():
            shutil.rmtree(output, ignore_errors=True)
            os.sync()
            found[label].append(used(*step))
    shutil.rmtree(output, ignore_errors=True)
    least = {label: [min(v) for v in zip(*rows, strict=True)] for label, rows in found.items()}
    for label, (wall, cpu) in least.items():
        times = wall / least["cp -r"][0], cpu / least["cp -r"][1]
        print(
            f"chips: {label}: {wall:.3f} s, {times[0]:.2f} cp; CPU {cpu:.3f} s, {times[1]:.2f} cp"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="nircam,miri,chips")
    parser.add_argument("--folder", default=None, help="where the sets are kept")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    # An installed package has its bytecode; a checkout may have none.
    compileall.compile_dir(Path(levelmatch.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.sets.split(","):
            one = run_chips if name == "chips" else partial(run, name)
            one(args.folder or temporary, args.repeats)


if __name__ == "__main__":
    main()
