"""Run commands on thousands of mutated files, and count how each ends.

Run as ``python benchmarks/sweeps.py [SWEEP ...] [--number N] [--python EXE] [--keep FOLDER]``. The
commands run in a process of their own, by default of this Python; another may have another
version of the package. ``--keep`` keeps the files of bad ends.

========== ================================= ======================================================
Sweep      Cases                             Commands
========== ================================= ======================================================
fits       2400 images of four kinds         run; its result is compared with astropy's pixels
record     1500 records with odd bytes       show, solve, apply, undo, verify, report, run --extend
tree       1900 records with odd trees       the same
config     800 configurations                run --dry-run
========== ================================= ======================================================

The ends: ``ok``; ``refused`` with exit status 2 and the name of the file; ``unnamed``, a refusal
without it; ``warned``, a warning of another package without it; ``exit 1``; ``foreign``, an
exception that no command may raise; ``silent``, a wrong result without a warning; ``raw``, control
characters on the terminal; ``left``, files of a refused run, or files elsewhere; ``crash`` of the
process; ``hang``, no end within ``--limit`` seconds.
"""

import argparse
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from mutations import LEVELS, case, write_images

NUMBERS = {
    "fits-plain": 600,
    "fits-planes": 600,
    "fits-integers": 600,
    "fits-compressed": 600,
    "record": 1500,
    "tree": 1900,
    "config": 800,
}
ENDS = (
    *("ok", "refused", "unnamed", "warned", "exit 1", "foreign", "silent", "raw", "left"),
    *("crash", "hang"),
)
BAD = ENDS[2:]
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Warnings of other packages.
FOREIGN = re.compile(r"^Warning: \w+: .*", re.MULTILINE)
MEMORY = 4 << 30


# --------------------------------------------------------------------------------------
# The process of the commands


def serve():
    """Run the commands that come on standard input, one line of JSON each."""
    import resource
    import warnings

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from click.testing import CliRunner

    from levelmatch.cli import main as command

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write("{}\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        with warnings.catch_warnings():
            found = CliRunner().invoke(command, asked["arguments"])
        error = found.exception
        answer = {
            "code": found.exit_code,
            "foreign": "" if error is None or isinstance(error, SystemExit) else repr(error)[:300],
            "output": found.output,
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Process:
    """A process that runs commands, started anew after a crash or a hang."""

    def __init__(self, python, limit):
        self.python, self.limit, self.process = python, limit, None

    def run(self, arguments):
        """Return the answer to a command: a dictionary, or ``"crash"`` or ``"hang"``."""
        if self.process is None:
            self.process = subprocess.Popen(
                [self.python, __file__, "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self.left = b""
            # Until it has imported the package.
            self._answer(600)
        words = json.dumps({"arguments": [str(a) for a in arguments]})
        self.process.stdin.write(words.encode() + b"\n")
        self.process.stdin.flush()
        return self._answer(self.limit)

    def _answer(self, limit):
        end, output = time.monotonic() + limit, self.process.stdout
        while b"\n" not in self.left:
            ready, _, _ = select.select([output], [], [], max(end - time.monotonic(), 0))
            more = os.read(output.fileno(), 1 << 20) if ready else b""
            if not more:
                self.close()
                return "crash" if ready else "hang"
            self.left += more
        line, _, self.left = self.left.partition(b"\n")
        return json.loads(line)

    def close(self):
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


# --------------------------------------------------------------------------------------
# Cases


def commands_of(sweep, number, path, good, output):
    """Return the arguments of the command for a case."""
    images = [good / "in" / name for name in LEVELS]
    if sweep.startswith("fits"):
        return ["run", path.with_name("a.fits"), path, "-o", output, "-q"]
    if sweep == "config":
        return ["run", "--config", path, "--dry-run"]
    outputs = [good / "out" / name for name in LEVELS]
    choices = [
        ["show", path],
        ["show", path, "--json"],
        ["show", path, "--pairs"],
        ["solve", path, "-o", output / "new.asdf", "-q"],
        ["apply", path, *images, "-o", output, "-q"],
        ["undo", path, *outputs, "-o", output, "-q"],
        ["verify", path, *outputs, "--inputs", good / "in"],
        ["run", *images, "-o", output, "-q", "--extend", path],
        ["mosaic", path, *images, "-o", output / "m.fits", "-q"],
        ["report", path, "-o", output / "page.html"],
    ]
    # A report takes as long as all others.
    return choices[-1] if number % 60 == 59 else choices[number % (len(choices) - 1)]


def end_of(answer, arguments, path, output):
    """Return how a command ended."""
    if isinstance(answer, str):
        return answer
    if answer["foreign"]:
        return "foreign"
    if RAW.search(answer["output"]):
        return "raw"
    if any(not _names(line, arguments, path) for line in FOREIGN.findall(answer["output"])):
        return "warned" if answer["code"] in (0, 2) else "exit 1"
    if answer["code"] == 0:
        return "silent" if is_silent(answer, arguments, output) else "ok"
    if any(output.rglob("*.fits")):
        return "left"
    if answer["code"] != 2:
        return "exit 1"
    return "refused" if _names(answer["output"], arguments, path) else "unnamed"


def _names(text, arguments, path):
    """Return whether a text names the file, an image of the command, or an option."""
    if any(Path(a).name in text for a in (path, *arguments, *LEVELS) if isinstance(a, Path | str)):
        return True
    # Of a configuration, its options as flags, and its texts.
    subject = text.removeprefix("Error: ").partition(": ")[0].replace("\\", "")
    content = path.read_text("utf-8", "replace").replace("\\", "") if path.suffix == ".toml" else ""
    return bool(content) and (subject.startswith("--") or subject in content)


def is_silent(answer, arguments, output):
    """Return whether a command that ended well wrote a wrong result without a warning."""
    paths = [a for a in arguments if isinstance(a, Path)]
    written = sorted(output.glob("*.fits"))
    if arguments[0] == "run" and "--config" not in arguments:
        if len(written) != len(LEVELS):
            return True
        return "Warning" not in answer["output"] and not _agrees(paths[:2], written)
    if arguments[0] in ("apply", "undo"):
        return any(not _is_finite(path) for path in written)
    return False


def _planes(path):
    """Return the units and the pixels of the images of a file, by name of the extension."""
    from astropy.io import fits

    arrays = {}
    with fits.open(path, memmap=False) as hdus:
        for k, hdu in enumerate(hdus):
            if hdu.is_image and hdu.data is not None and hdu.data.ndim >= 2:
                pixels = np.squeeze(hdu.data).astype(float)
                arrays[k, hdu.name] = hdu.header.get("BUNIT"), pixels
    return arrays


def _agrees(inputs, outputs):
    """Return whether the difference of the corrected images is their true one, by astropy.

    Files that astropy cannot read, and those of other units or extensions, are not judged.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            before, after = ([_planes(p) for p in paths] for paths in (inputs, outputs))
        except Exception:
            return True
    left = []
    if before[0].keys() != before[1].keys():
        return True
    for old, new in zip(before, after, strict=True):
        if old.keys() != new.keys():
            return False
        pixels = [(u, a, new[k][1]) for k, (u, a) in old.items() if u is not None]
        if len(pixels) != 1 or pixels[0][0] != "MJy/sr":
            return True
        good = np.isfinite(pixels[0][1])
        if (np.isfinite(pixels[0][2]) & ~good).any() or not good.any():
            return False
        # A band of the images with flags is wrong by 100.
        left.append(np.percentile(pixels[0][2][good], (5, 30)))
    # About the noise, whatever its scale.
    return bool(abs(left[0][1] - left[1][1]) < 0.05 + sum(high - low for low, high in left))


def _is_finite(path):
    from astropy.io import fits

    with fits.open(path, memmap=False) as hdus:
        return all(np.isfinite(hdu.data).all() for hdu in hdus if hdu.name == "SCI")


# --------------------------------------------------------------------------------------
# Sweeps


def sweep(name, number, process, folder, options):
    """Run a sweep; return the counts of ends."""
    good, work = folder / f"good-{name}", folder / f"work-{name}"
    kind = name.partition("-")[2] or "plain"
    inputs = write_images(good / "in", kind)
    answer = process.run(["run", *inputs, "-o", good / "out", "-q"])
    assert answer["code"] == 0, answer
    source = {"config": inputs, "record": good / "out" / "levelmatch.asdf"}
    source["tree"] = source["record"]
    start = source.get(name, inputs[1])
    content = start if name == "config" else start.read_bytes()
    file = {"config": "odd.toml", "record": "odd.asdf", "tree": "odd.asdf"}.get(name, "b.fits")
    counts = Counter()
    before = _listed(folder)
    for k in range(options.start, options.start + number):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        path, output = work / file, work / "out"
        path.write_bytes(case(name, k, options.seed, content))
        if name.startswith("fits"):
            shutil.copy(inputs[0], work)
        arguments = commands_of(name, k, path, good, output)
        answer = process.run(arguments)
        end = end_of(answer, arguments, path, output)
        shutil.rmtree(output, ignore_errors=True)
        if end in ("ok", "refused") and (
            _listed(folder) != before or len(list(work.iterdir())) > 2
        ):
            end = "left"
        counts[end] += 1
        if end in BAD:
            _keep(options.keep, f"{name}-{k}-{end}", path, arguments, answer)
    shutil.rmtree(work, ignore_errors=True)
    return counts


def _listed(folder):
    """Return the names and times of the files of a folder, without those of the case."""
    return {
        (path, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and "work-" not in str(path.relative_to(folder))
    }


def _keep(folder, name, path, arguments, answer):
    """Keep the file of a bad end, and what was said."""
    said = answer if isinstance(answer, str) else answer["foreign"] or answer["output"]
    if folder is not None:
        kept = Path(folder) / name.replace(" ", "_")
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)
        (kept / "said.txt").write_text(f"{' '.join(map(str, arguments))}\n{said}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweeps", nargs="*", help=f"of {', '.join(NUMBERS)}; by default all")
    parser.add_argument("--number", type=int, help="cases of each sweep")
    parser.add_argument("--start", type=int, default=0, help="first case of each sweep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python", default=sys.executable, help="Python of the commands")
    parser.add_argument("--limit", type=float, default=60, help="seconds of a command")
    parser.add_argument("--keep", help="folder of the files of bad ends")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    names = [n for n in NUMBERS if not options.sweeps or n.startswith(tuple(options.sweeps))]
    total, process = Counter(), Process(options.python, options.limit)
    print(f"{'':16}" + "".join(f"{end:>9}" for end in ENDS))
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            number = options.number or NUMBERS[name]
            counts = sweep(name, number, process, Path(temporary), options)
            print(f"{name:16}" + _row(counts), flush=True)
            total += counts
    process.close()
    print(f"{'all':16}" + _row(total))
    raise SystemExit(any(total[end] for end in BAD))


def _row(counts):
    return "".join(f"{counts[end]:9d}" for end in ENDS)


if __name__ == "__main__":
    main()
