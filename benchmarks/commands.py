"""Commands of levelmatch on a small set of images, for the benchmarks of robustness."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from astropy.io import fits

CODE = "from levelmatch.cli import main; main(prog_name='levelmatch')"
CHECKPOINT, LOCK = ".levelmatch-pairs", ".levelmatch-lock"
# Files that an interrupted command may leave for the next command.
KEPT = {CHECKPOINT, LOCK}


def command(*arguments):
    """Return the command line of a process."""
    return [sys.executable, "-c", CODE, *map(str, arguments)]


def call(*arguments, **keywords):
    """Run a command; return the completed process."""
    keywords = {"capture_output": True, "text": True, "check": False, **keywords}
    return subprocess.run(command(*arguments), **keywords)


def small_set(folder, n=6, side=400):
    """Write simulated images; return their paths."""
    from levelmatch.testing import simulate_generic

    simulation = simulate_generic(n_images=n, shape=(side, side), overlap=0.4, noise=0.3, seed=1)
    return simulation.write(Path(folder))


def sums(folder):
    """Return the SHA-256 of each file in a folder, by name."""
    folder = Path(folder)
    names = os.listdir(folder) if folder.is_dir() else []
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in sorted(names)}


def pixels(folder):
    """Return the SHA-256 of the arrays of each image in a folder; raise if one is incomplete."""
    from levelmatch.record.record_files import read_record

    out = {}
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        if path.suffix == ".fits":
            with fits.open(path) as hdus:
                planes = [hdu.data.tobytes() for hdu in hdus if hdu.data is not None]
            out[path.name] = [hashlib.sha256(plane).hexdigest() for plane in planes]
        elif path.suffix == ".asdf":
            read_record(path)
    return out


def litter(folder):
    """Return the names of files that are neither outputs nor kept for the next command."""
    folder = Path(folder)
    names = os.listdir(folder) if folder.is_dir() else []
    good = (".fits", ".asdf", ".html")
    return sorted(n for n in names if not n.endswith(good) and n not in KEPT)
