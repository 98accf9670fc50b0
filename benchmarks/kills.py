"""Kill commands at many moments, check the files, and run each command again.

Run as ``python benchmarks/kills.py [--kills N] [--seed N]``. The commands ``run`` (also with a
report), ``apply``, ``undo``, ``mosaic``, ``solve`` and ``report`` are killed by SIGKILL at moments
that are spread evenly over their duration. Each time the inputs must be unchanged, all files
complete, and no litter left but the checkpoint and the lock. Then the same command runs again.
Afterwards its outputs must equal those of an undisturbed command, and neither of the two is left.
"""

import argparse
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from commands import KEPT, call, command, litter, pixels, small_set, sums


def commands_of(paths, done):
    """Return the arguments of each command, and whether it may replace its outputs."""
    record = done / "levelmatch.asdf"
    outputs = [done / path.name for path in paths]
    return {
        "run": (["run", *paths, "-o", "OUT", "-q"], False),
        "run --report": (["run", *paths, "-o", "OUT", "-q", "--report"], False),
        "apply": (["apply", record, *paths, "-o", "OUT", "-q"], False),
        "undo": (["undo", record, *outputs, "-o", "OUT", "-q"], True),
        "mosaic": (["mosaic", record, *paths, "-o", "OUT/m.fits", "-q"], True),
        "solve": (["solve", record, "-o", "OUT/new.asdf", "-q"], True),
        "report": (["report", record, "-o", "OUT/page.html"], True),
    }


def filled(arguments, output, overwrite=False):
    """Return the arguments with an output folder."""
    out = [str(a).replace("OUT", str(output)) for a in arguments]
    return out + (["--overwrite"] if overwrite and "report" not in out[:1] else [])


def check_once(name, arguments, overwrite, output, moment, whole, counts):
    """Kill a command once, and run it again."""
    output.mkdir()
    process = subprocess.Popen(
        command(*filled(arguments, output)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    pixels(output)
    counts["litter"] += len(litter(output))
    if killed:
        counts["with files"] += bool(sums(output))
        done = call(*filled(arguments, output, overwrite))
        finished = pixels(output) == whole and "exists" in done.stderr
        counts["not continued"] += done.returncode != 0 and not finished
    counts["another result"] += pixels(output) != whole
    left = KEPT.intersection(sums(output)) | set(litter(output))
    counts["left at the end"] += len(left) if name != "run --report" else 0
    shutil.rmtree(output)
    return killed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    total = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = small_set(folder / "in", n=4, side=160)
        before = sums(folder / "in")
        done = folder / "done"
        assert call("run", *paths, "-o", done, "-q").returncode == 0
        kinds = commands_of(paths, done)
        each = -(-arguments.kills // len(kinds))
        for name, (words, overwrite) in kinds.items():
            whole_folder = folder / "whole"
            whole_folder.mkdir()
            start = time.perf_counter()
            assert call(*filled(words, whole_folder)).returncode == 0, name
            lasted = time.perf_counter() - start
            whole = pixels(whole_folder)
            shutil.rmtree(whole_folder)
            counts, tried = Counter(), 0
            while counts["kills"] < each and tried < 3 * each:
                moment = lasted * (tried % each + rng.uniform()) / each
                tried += 1
                killed = check_once(name, words, overwrite, folder / "out", moment, whole, counts)
                counts["kills"] += killed
            assert sums(folder / "in") == before, "an input has changed"
            total += counts
            print(f"{name:13} {lasted:5.1f} s: {_text(counts)}", flush=True)
    print(f"{'all':13}          {_text(total)}")
    bad = ("litter", "not continued", "another result", "left at the end")
    raise SystemExit(any(total[key] for key in bad))


def _text(counts):
    keys = ("kills", "with files", "litter", "not continued", "another result", "left at the end")
    return ", ".join(f"{key} {counts[key]}" for key in keys)


if __name__ == "__main__":
    main()
