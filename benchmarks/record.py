"""Size of the record of a large run, and the time to open it and solve it again.

Run as ``python benchmarks/record.py [--images N]``. The images are small, because the record does
not depend on their size. The time to start Python and import numpy is printed for scale.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import levelmatch as lm
from levelmatch.testing import simulate_generic


def each_its_own(name, _meta=None):
    """Assign each image to a tile of its own."""
    return name


def timed(function, *args, **keywords):
    """Return the result and the shortest of three times in seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = function(*args, **keywords)
        times.append(time.perf_counter() - start)
    return result, min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    n = parser.parse_args().images
    simulated = simulate_generic(
        n_images=n,
        shape=(32, 32),
        layout="grid",
        overlap=0.62,
        noise=0.1,
        slope=0.1,
        stars=False,
        nebula=False,
        galaxy=False,
    )
    images = list(simulated.images)
    for fit_type in ("level", "level+slope"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lm.LevelMatchWarning)
            result = lm.match_mosaic(images, fit_type=fit_type, group_by=each_its_own)
            with tempfile.TemporaryDirectory() as folder:
                path = result.record.write(Path(folder) / "record.asdf")
                size = path.stat().st_size
                record, opening = timed(lm.read_record, path)
            print(
                f"{fit_type}: {len(record)} images, {len(record.measured)} pairs, "
                f"{size / 1e6:.1f} MB, opened in {opening:.2f} s"
            )
            for words, changes in (
                ("the same", {}),
                ("weights equal", {"weights": "equal"}),
                ("levels", {"fit_type": "level"}),
                ("another reference", {"reference": n // 2}),
                ("ten images left out", {"exclude": record.names[5 : n : n // 10]}),
            ):
                _, seconds = timed(lm.solve_record, record, **changes)
                print(f"  solved again, {words}: {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
