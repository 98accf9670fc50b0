"""Run all commands on a small disk that becomes full at many stages.

Run as ``python benchmarks/fulldisk.py``. It mounts file systems in memory of several sizes, which
needs the right to do so, and runs each command. A command must end well, or with exit status 1 or
2 and a text that names a file or the folder; never by a signal, and leave no partial file.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from commands import litter, pixels, small_set
from kills import commands_of, ended, filled


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    total = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = small_set(folder / "in", n=4, side=200)
        done, disk = folder / "done", folder / "disk"
        assert ended(["run", *paths, "-o", done, "-q"]) == (0, "")
        disk.mkdir()
        for name, (words, _) in commands_of(paths, done).items():
            counts, whole = Counter(), folder / name.replace(" ", "")
            assert ended(filled(words, whole)) == (0, ""), name
            # The last size is sufficient for all outputs.
            needed = 1.5 * sum(path.stat().st_size for path in whole.iterdir()) + 100_000
            for step in range(arguments.steps):
                size = 4096 + int(needed * step / (arguments.steps - 1))
                mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
                subprocess.run(mount, check=True)
                try:
                    one(words, disk, counts)
                finally:
                    subprocess.run(["umount", str(disk)], check=True)
            print(f"{name:13} {dict(counts)}", flush=True)
            total += counts
    print(f"{'all':13} {dict(total)}")
    raise SystemExit(any(total[key] for key in ("signals", "unnamed", "litter", "tracebacks")))


def one(words, disk, counts):
    """Run one command on the disk."""
    output = disk / "out"
    status, errors = ended(filled(words, output))
    counts["ended well" if status == 0 else "refused"] += 1
    counts["signals"] += status < 0
    counts["tracebacks"] += "Traceback" in errors
    counts["unnamed"] += status > 0 and str(disk) not in errors
    if output.exists():
        pixels(output)
        counts["litter"] += len(litter(output))


if __name__ == "__main__":
    main()
