"""The table of a side-by-side benchmark, as reStructuredText."""

import numpy as np

TITLES = {
    "miri": (
        "Levels of 16 MIRI exposures (4 tiles of 4 dithers, 1024 x 1032 pixels, noise 0.5 MJy/sr)"
    ),
    "miri-planes": "Planes of 16 MIRI exposures (the same, with a slope in each image)",
    "nircam": (
        "Levels of 32 NIRCam images (2 tiles of 4 dithers, 4 detectors, 2048 x 2048 pixels each)"
    ),
}
COLUMNS = (
    "Package",
    "In process (s)",
    "ratio",
    "Whole process (s)",
    "ratio",
    "CPU (s)",
    "Memory (GiB)",
    "Error, level out",
    "Error, plane out",
)
# Elapsed times are left out if other processes took more than this part of them.
BUSY = 0.1
ERRORS = ("Package", "Sets", "Error, level out", "ratio", "Error, plane out", "ratio")
HEAD = """\
.. Written by ``tox -e bench -- peers``.

The packages ran one after the other on one machine: {machine}.

"In process" is the time of the package itself in a running Python, without imports. For levelmatch
it is the time of ``match_levels``, which reads, measures and solves. "Whole process" is the time of
the command. For levelmatch it is ``levelmatch run FILES -o OUT``, which also writes all images. The
steps included for other packages are listed below the tables. CPU time and memory include all child
processes. Ratios are relative to levelmatch.

Errors are rms values in MJy/sr relative to the truth. "Error, level out" is the error of the levels
at the centres of the images, minus one level common to all. "Error, plane out" is the error over
the pixels of the images, minus one plane over the whole mosaic.
"""


def write_table(records, peers, machine):
    """Return the text of all tables, given the results of packages on simulations."""
    parts = [HEAD.format(machine=machine)]
    for name, title in TITLES.items():
        chosen = [record for record in records if record["set"] == name]
        first = [record for record in chosen if record["seed"] == 0]
        if first:
            parts.append(f"**{title}**\n\n{one_table(first, peers)}\n{notes(first, peers)}")
        if len(first) < len(chosen):
            parts.append(errors_table(chosen, peers))
    made = [f"* {p.label} {p.version}: {p.makes}" for p in peers.values()]
    parts.append(
        "Versions, and steps included in the time in process:\n\n" + "\n".join(made) + "\n"
    )
    return "\n".join(parts)


def one_table(records, peers):
    """Return the table of one simulation, fastest first."""
    own = next((r for r in records if r["peer"] == "levelmatch"), {})
    return laid_out(COLUMNS, [row_of(record, own, peers) for record in sorted(records, key=order)])


def laid_out(columns, rows):
    """Return a table of cells."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])


def errors_table(records, peers):
    """Return the errors over several simulations, and their ratios to those of levelmatch."""
    errors = {}
    for record in records:
        if record["status"] == "measured":
            pair = record["level_error"], record["plane_error"]
            errors.setdefault(record["peer"], {})[record["seed"]] = pair
    own, rows = errors.get("levelmatch", {}), []
    for peer, found in errors.items():
        common = sorted(found.keys() & own.keys())
        values = mean_square([found[seed] for seed in common])
        ratios = values / mean_square([own[seed] for seed in common])
        cells = [f"{values[0]:.5f}", f"{ratios[0]:.2f}", f"{values[1]:.5f}", f"{ratios[1]:.2f}"]
        if len(common) > 1:
            rows.append((ratios[0], [peers[peer].label, str(len(common)), *cells]))
    rows = [row for _, row in sorted(rows, key=lambda row: row[0])]
    return (
        "Errors over several such simulations with other noise, stars and levels, and their\n"
        f"ratios to those of levelmatch for the same simulations:\n\n{laid_out(ERRORS, rows)}"
    )


def mean_square(pairs):
    """Return the rms of two kinds of errors."""
    return np.sqrt(np.mean(np.square(np.reshape(pairs, (-1, 2))), axis=0))


def order(record):
    """Sort by time, then timeouts, then packages without a time."""
    if record["status"] == "measured":
        return 0, record["seconds"]
    return (1 if record["status"] == "timeout" else 2), 0.0


def row_of(record, own, peers):
    """Return the cells of a result."""
    name = peers[record["peer"]].label
    if record["status"] == "timeout":
        shown = f"> {record['limit']:.0f}"
        ratios = [at_least(record["limit"], own.get(key)) for key in ("seconds", "wall")]
        return [name, shown, ratios[0], shown, ratios[1], "–", "–", "–", "–"]
    if record["status"] != "measured":
        return [name, record["status"], *["–"] * (len(COLUMNS) - 2)]
    elapsed = ["–"] * 4
    if not was_busy(record):
        elapsed = [
            figure(record["seconds"]),
            ratio(record["seconds"], own.get("seconds")),
            figure(record["wall"]),
            ratio(record["wall"], own.get("wall")),
        ]
    return [
        name,
        *elapsed,
        figure(record["cpu"]),
        f"{record['memory'] / 2**30:.2f}",
        f"{record['level_error']:.4f}",
        f"{record['plane_error']:.4f}",
    ]


def was_busy(record):
    """Return whether other processes slowed the run of a package."""
    return record.get("others", 0.0) > BUSY * record["wall"]


def figure(value):
    """Return a time with three digits."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def ratio(value, own):
    """Return the ratio to the value of levelmatch, if that is known."""
    return "–" if own is None else figure(value / own)


def at_least(value, own):
    """Return the ratio of a lower limit of a time."""
    return "–" if own is None else f"> {value / own:.0f}"


def notes(records, peers):
    """Return a line for each package without a result or elapsed time, with the reason."""
    lines = []
    for record in records:
        label = peers[record["peer"]].label
        if record["status"] == "timeout":
            lines.append(f"* {label}: ended after {record['limit']:.0f} s.")
        elif record["status"] != "measured":
            lines.append(f"* {label}: {record['status']}: ``{record['reason']}``.")
        elif was_busy(record):
            lines.append(f"* {label}: ran beside other processes; elapsed times are left out.")
    return "\n".join(lines) + "\n" if lines else ""
