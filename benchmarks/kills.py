"""Kill a run at random moments, check its files, and continue it.

Run as ``python benchmarks/kills.py [--kills N] [--folder FOLDER]``. The command matches simulated
MIRI images and is killed by SIGKILL. Each time, the inputs must be unchanged, all output files must
be complete, and the pairs of the checkpoint are counted. Then the command runs again, and its
images must equal those of an undisturbed run.
"""

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits
from sets import written

from levelmatch.measure.store import PairFile
from levelmatch.record.record import read_record

CHECKPOINT = ".levelmatch-pairs"


def command(paths, output):
    """Return the command line."""
    code = "from levelmatch.cli import main; main(prog_name='levelmatch')"
    return [sys.executable, "-c", code, "run", *map(str, paths), "-o", str(output), "--quiet"]


def checksums(paths):
    """Return the SHA-256 of files."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def pixels(folder):
    """Return the SHA-256 of all arrays of a folder's images; raise if a file is incomplete."""
    out = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".fits":
            with fits.open(path) as hdus:
                planes = [hdu.data.tobytes() for hdu in hdus if hdu.data is not None]
            out[path.name] = [hashlib.sha256(plane).hexdigest() for plane in planes]
        elif path.suffix == ".asdf":
            read_record(path)
        elif path.name == CHECKPOINT:
            PairFile(path).read()
        else:
            msg = f"{path}: what is this?"
            raise RuntimeError(msg)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        _, paths = written("miri", arguments.folder or temporary)
        before = checksums(paths)
        start = time.perf_counter()
        subprocess.run(command(paths, Path(temporary) / "whole"), check=True)
        lasted = time.perf_counter() - start
        whole = pixels(Path(temporary) / "whole")
        total = len(read_record(Path(temporary) / "whole" / "levelmatch.asdf").measured)
        print(f"an undisturbed run: {lasted:.1f} s, {total} pairs, {len(whole)} images")
        rng = np.random.default_rng(0)
        moments, kept, images = [], [], []
        while len(moments) < arguments.kills:
            output = Path(temporary) / f"out{len(moments)}"
            moment = rng.uniform(0.0, 1.0) * lasted
            process = subprocess.Popen(command(paths, output))
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                continue
            left = pixels(output) if output.exists() else {}
            moments.append(moment)
            images.append(len(left))
            kept.append(len(PairFile(output / CHECKPOINT).read()))
            # A run that is killed after its last image has no checkpoint.
            finished = left == whole and not (output / CHECKPOINT).exists()
            if not finished:
                subprocess.run(command(paths, output), check=True)
            assert pixels(output) == whole, f"killed after {moment} s: another result"
            assert not (output / CHECKPOINT).exists()
            assert checksums(paths) == before, "an input has changed"
    kept, images = np.array(kept), np.array(images)
    print(f"{len(moments)} kills: every restart gave the images of the undisturbed run")
    print(f"  before the first pair was kept: {np.sum(kept == 0)}")
    print(f"  with some of the pairs kept:    {np.sum((kept > 0) & (kept < total))}")
    print(f"  with all of them kept:          {np.sum(kept == total)}")
    print(f"  with some images written:       {np.sum(images > 0)}, half-written: none")


if __name__ == "__main__":
    main()
