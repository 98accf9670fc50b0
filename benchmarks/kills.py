"""Kill commands at many moments, check the files, and run each command again.

Run as ``python benchmarks/kills.py [--kills N] [--seed N]``. The commands ``run`` (also with a
report), ``apply``, ``undo``, ``mosaic``, ``solve`` and ``report`` are killed by SIGKILL. Each runs
in a fork of this process, which has imported all packages, so that every moment is one of its
work. A third of the moments are spread evenly over its duration, a third follow its first file,
and a third its first complete output. Each time the inputs must be unchanged, all files complete,
and no litter left except for the checkpoint and the lock. Then the same command runs again.
Afterwards its outputs must equal those of an undisturbed command, and checkpoint and lock must be
removed.
"""

import argparse
import importlib
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from commands import KEPT, litter, pixels, small_set, sums

from levelmatch.cli import main as run_command


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


def start(arguments, errors):
    """Start a command in a fork, its errors in a file; return the process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors.fileno(), 2)
        run_command(list(map(str, arguments)), prog_name="levelmatch")
    except SystemExit as end:
        status = end.code or 0
    finally:
        os._exit(status)


def ended(arguments):
    """Run a command in a fork; return its exit status and errors."""
    with tempfile.TemporaryFile() as errors:
        _, status = os.waitpid(start(arguments, errors), 0)
        errors.seek(0)
        return os.waitstatus_to_exitcode(status), errors.read().decode()


def kill(arguments, output, phase, moment):
    """Kill a command after a moment of a phase; return whether it was still running."""
    with tempfile.TemporaryFile() as errors:
        process = start(arguments, errors)
        if phase:
            wanted = "*" if phase == 1 else "*.[afh][sit][dtm]*"
            last = time.perf_counter() + 60
            while not any(output.glob(wanted)) and time.perf_counter() < last:
                if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.0005)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def check_once(name, words, overwrite, output, phase, moment, whole, counts):
    """Kill a command once, and run it again."""
    output.mkdir()
    killed = kill(filled(words, output), output, phase, moment)
    pixels(output)
    counts["litter"] += len(litter(output))
    if killed:
        counts["kills"] += 1
        counts["with files"] += bool(sums(output))
        counts["with outputs"] += bool(set(sums(output)) - KEPT)
        status, errors = ended(filled(words, output, overwrite))
        finished = pixels(output) == whole and "exists" in errors
        counts["not continued"] += status != 0 and not finished
    counts["another result"] += pixels(output) != whole
    left = KEPT.intersection(sums(output)) | set(litter(output))
    counts["left at the end"] += len(left) if name != "run --report" else 0
    shutil.rmtree(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    importlib.import_module("matplotlib.pyplot")
    total = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = small_set(folder / "in", n=4, side=64)
        before = sums(folder / "in")
        done = folder / "done"
        assert ended(["run", *paths, "-o", done, "-q"]) == (0, "")
        kinds = commands_of(paths, done)
        for name, (words, overwrite) in kinds.items():
            whole_folder = folder / "whole"
            whole_folder.mkdir()
            begin = time.perf_counter()
            assert ended(filled(words, whole_folder)) == (0, ""), name
            lasted = time.perf_counter() - begin
            whole = pixels(whole_folder)
            shutil.rmtree(whole_folder)
            # A report takes as long as all others.
            weight = 1 if "report" in name else 4
            each = -(-arguments.kills * weight // (4 * len(kinds) - 6))
            counts, tried = Counter(), 0
            while counts["kills"] < each and tried < 5 * each:
                phase, part = tried % 3, (tried % each + rng.uniform()) / each
                tried += 1
                moment = lasted * (part, part, part**2 / 10)[phase]
                check_once(name, words, overwrite, folder / "out", phase, moment, whole, counts)
            assert sums(folder / "in") == before, "an input has changed"
            total += counts
            print(f"{name:13} {lasted:5.1f} s: {_text(counts)}", flush=True)
    print(f"{'all':13}          {_text(total)}")
    bad = ("litter", "not continued", "another result", "left at the end")
    raise SystemExit(any(total[key] for key in bad))


def _text(counts):
    keys = ("kills", "with files", "with outputs", "litter", "not continued", "another result")
    keys += ("left at the end",)
    return ", ".join(f"{key} {counts[key]}" for key in keys)


if __name__ == "__main__":
    main()
