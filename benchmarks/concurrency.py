"""Start runs that write to one folder at the same time, and count mixed results.

Run as ``python benchmarks/concurrency.py [--rounds N]``. In each round three runs on different
sets of images write to one folder with ``--overwrite``. A folder is mixed if it does not hold the
outputs that its record names, each of that record.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from commands import call, command, small_set


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    mixed = refused = unnamed = won = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = small_set(folder / "in", side=150)
        for _ in range(arguments.rounds):
            output = folder / "out"
            started = [
                subprocess.Popen(
                    command("run", *group, "-o", output, "-q", "--overwrite"),
                    stderr=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    text=True,
                )
                for group in (paths[:4], paths[1:5], paths)
            ]
            ended = [(process.communicate()[1], process.returncode) for process in started]
            won += sum(status == 0 for _, status in ended)
            refused += sum(status == 2 for _, status in ended)
            unnamed += sum(status == 2 and "out" not in text for text, status in ended)
            record = output / "levelmatch.asdf"
            names = [p for p in paths if (output / p.name).exists()]
            checked = call("verify", record, *(output / p.name for p in names))
            # Outputs of an earlier run of the round may remain.
            own = [p for p in names if _is_of(output / p.name, record)]
            mixed += checked.returncode != 0 and len(own) < _count(record)
            shutil.rmtree(output)
    print(f"{arguments.rounds} rounds of 3 runs: {won} ended well, {refused} were refused")
    print(f"  mixed folders {mixed}, refusals without the folder {unnamed}")
    raise SystemExit(bool(mixed or unnamed))


def _is_of(image, record):
    """Return whether an image names a record."""
    from hashlib import sha256

    return sha256(record.read_bytes()).hexdigest().encode() in image.read_bytes()


def _count(record):
    from levelmatch.record.record_files import read_record

    return len(read_record(record).names)


if __name__ == "__main__":
    main()
