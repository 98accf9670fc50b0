"""Time to start the command line and to import the package, compared with numpy and astropy.

Run as ``python benchmarks/startup.py [--repeats N]``.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

CASES = {
    "import numpy": ["-c", "import numpy"],
    "import astropy.nddata": ["-c", "import astropy.nddata"],
    "import levelmatch": ["-c", "import levelmatch"],
    "from levelmatch import match_levels": ["-c", "from levelmatch import match_levels"],
    "levelmatch --help": None,
}


def command(arguments):
    if arguments is None:
        return [str(Path(sys.executable).with_name("levelmatch")), "--help"]
    return [sys.executable, *arguments]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    seconds = {name: [] for name in CASES}
    # Cases alternate, so that other processes affect all equally. The first round is not counted.
    for _ in range(args.repeats + 1):
        for name, arguments in CASES.items():
            start = time.perf_counter()
            subprocess.run(command(arguments), check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(times[1:]) for name, times in seconds.items()}
    for name, value in best.items():
        print(f"{name}: {value:.3f} s")
    print(
        f"levelmatch --help: {best['levelmatch --help'] - best['import numpy']:+.3f} s to "
        "import numpy"
    )
    for name in ("import levelmatch", "from levelmatch import match_levels"):
        print(f"{name}: {best[name] - best['import astropy.nddata']:+.3f} s to astropy.nddata")


if __name__ == "__main__":
    main()
