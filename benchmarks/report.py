# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Time to write the report of 500 images, its size, and the time to sort its tables.

Run as ``python benchmarks/report.py``. Sorting requires selenium and Debian's chromium and
chromium-driver; without them it is left out.
"""

import shutil
import tempfile
import time
from pathlib import Path

from levelmatch import match_levels
from levelmatch.report import write_report
from levelmatch.testing import simulate_generic

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Click each heading of the pairs twice, and include the layout in the time.
SORT = """
const times = [];
for (const button of document.querySelectorAll("#pairs thead button")) {
  for (let turn = 0; turn < 2; turn++) {
    const start = performance.now();
    button.click();
    document.body.getBoundingClientRect();
    times.push(performance.now() - start);
  }
}
return times;
"""


def make_result(n_images, overlap):
    """Return a result of many small images, one per tile."""
    simulated = simulate_generic(n_images=n_images, shape=(48, 48), overlap=overlap, seed=1)
    return match_levels(list(simulated.images), group_by=lambda name, meta: name)


def sort_times(path):
    """Return the time of each sort with its layout, in ms; `None` without a browser."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        return None
    if not all(programs):
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(executable_path=programs[1])
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.get(path.absolute().as_uri())
            return driver.execute_script(SORT)
        finally:
            driver.quit()


def main():
    """Print the results."""
    for overlap in (0.4, 0.55):
        result = make_result(500, overlap)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            path = write_report(result, Path(folder) / "report.html")
            took = time.perf_counter() - start
            size = path.stat().st_size / 1e6
            print(f"500 images, {len(result.pairs)} pairs: {took:.1f} s, {size:.2f} MB")
            times = sort_times(path)
        if times is None:
            print("sorting: no browser")
            continue
        middle = sorted(times)[len(times) // 2]
        print(f"sorting the pairs: median {middle:.0f} ms, largest {max(times):.0f} ms")


if __name__ == "__main__":
    main()
