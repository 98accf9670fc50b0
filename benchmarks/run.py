"""Run the benchmarks: ``python benchmarks/run.py [NAME ...] [-- OPTIONS]``.

Without names, these are run: speed, accuracy, choices, calibration, memory, growth, startup and
record. Others are copying, tiles (real images; its option is their folder), scaling, survey, peers
(makes virtual environments with pip) and roman (needs romancal). All scripts get the options.
"""

import subprocess
import sys
from pathlib import Path

DEFAULT = (
    "speed",
    "accuracy",
    "choices",
    "calibration",
    "memory",
    "growth",
    "startup",
    "record",
)
NAMES = (*DEFAULT, "copying", "tiles", "scaling", "survey", "peers", "roman")


def main():
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    split = words.index("--") if "--" in words else len(words)
    names, options = words[:split] or DEFAULT, words[split + 1 :]
    unknown = set(names) - set(NAMES)
    if unknown:
        print(f"no benchmark {sorted(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in names:
        print(f"== {name}", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *options]
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
