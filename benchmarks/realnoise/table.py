# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Run rows of the benchmark, and print and store their figures."""

import json
import math
import sys
import time
import traceback

from realnoise.goals import Skip
from realnoise.rows import ROWS

__all__ = ["list_rows", "run_rows"]

WIDTH = 44


def list_rows():
    """Print name, title and number of trials of each row."""
    for row in ROWS.values():
        print(f"{row.name:16s} {row.title} ({row.trials} trials)")


def run_rows(names, *, trials=None, jobs=1, path=None):
    """Run rows and print a table.

    Parameters
    ----------
    names : sequence of str
        The rows; all if empty.
    trials : int or None
        At most so many trials of each.
    jobs : int
        Processes.
    path : str or None
        A JSON file that gets the figures.

    Returns
    -------
    code : int
        1 if a row ended with an error, else 0. Figures out of their ranges are no error.
    """
    start, kept, failed, met = time.monotonic(), {}, 0, []
    print(f"{'':{WIDTH}s} {'before':>9s} {'now':>9s}  must")
    for row in [ROWS[name] for name in names or ROWS]:
        begun = time.monotonic()
        try:
            figures = row.figures(trials, jobs)
        except Skip as reason:
            print(f"{row.name}: {row.title}: left out: {reason}", flush=True)
            continue
        except Exception:
            traceback.print_exc(file=sys.stdout)
            print(f"{row.name}: {row.title}: FAILED", flush=True)
            failed += 1
            continue
        n = row.trials if trials is None else min(trials, row.trials)
        print(f"{row.name}: {row.title} ({n} trials, {time.monotonic() - begun:.0f} s)")
        for figure in figures:
            print(_line(figure), flush=True)
            met.append(figure.met)
        kept[row.name] = {f.goal.label: _record(f) for f in figures}
    minutes = (time.monotonic() - start) / 60
    print(f"{sum(met)} of {len(met)} figures within their ranges; {minutes:.1f} minutes")
    if path is not None:
        with open(path, "w") as file:
            json.dump(kept, file, indent=1)
    return int(failed > 0)


def _line(figure):
    goal = figure.goal
    word = "ok" if figure.met else "MISS"
    if figure.excused:
        word += f", {goal.excuse} in {figure.excused:.0%}"
    return (
        f"  {goal.label:{WIDTH - 2}s} {_number(goal.before)} {_number(figure.value)}"
        f"  {goal.range:28s} {word}"
    )


def _number(value):
    if value is None or math.isnan(value):
        return f"{'-':>9s}"
    return f"{value:9.3g}" if abs(value) >= 1000 else f"{value:9.3f}"


def _record(figure):
    goal = figure.goal
    # JSON cannot hold NaN and infinity.
    numbers = {"value": figure.value, "low": goal.low, "high": goal.high}
    values = {key: v if math.isfinite(v) else None for key, v in numbers.items()}
    return values | {"excused": figure.excused, "met": figure.met}
