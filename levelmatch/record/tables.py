# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tables of images, pairs and loops of a run, and how they are printed."""

import shutil
from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable

from levelmatch.images.frame import HOLD
from levelmatch.images.units import unit_text
from levelmatch.sky.vectors import lonlat
from levelmatch.solve.loops import find_closures
from levelmatch.solve.passes import Pass, linked_sets
from levelmatch.solve.shared_pattern import subtract_pattern
from levelmatch.solve.solve_pass import loop_levels, subtract_solution
from levelmatch.text import SHORT_NAME, decimals, short_names, values

__all__ = [
    "connected_sets",
    "LevelTable",
    "image_table",
    "loop_table",
    "pair_table",
    "plain_rows",
    "with_short_names",
]


# Overlaps determine only differences between images. The gauge fixes the common level.
# Endings of the descriptions of columns.
RELATIVE = "; relative to the gauge"
FREE = "; does not depend on the gauge"
IMAGE_COLUMNS = {
    "level": "level subtracted at the image's centre" + RELATIVE,
    "error": "standard error of the level" + RELATIVE,
    "slope_u": "slope subtracted, toward East" + RELATIVE,
    "slope_u_error": "standard error of slope_u" + RELATIVE,
    "slope_v": "slope subtracted, toward North" + RELATIVE,
    "slope_v_error": "standard error of slope_v" + RELATIVE,
    "slope_n_sigma": "significance of the two slopes" + RELATIVE,
    "unit": "unit of level, error and slopes (per arcmin)",
    "n_pairs": "number of kept pairs" + FREE,
    "reference": "whether the image's correction is held at zero",
    "isolated": "whether a pass had no usable pair of the image" + FREE,
}
PAIR_COLUMNS = {
    "level": "first image minus second, before matching" + FREE,
    "sigma": "standard error of level, without the floor" + FREE,
    "scatter": "scatter of the pixel differences about their plane" + FREE,
    "residual": "level minus the difference of the corrections" + FREE,
    "weight": "weight of the pair in the least-squares sum" + FREE,
    "robust": "fraction of its weight that the pair kept" + FREE,
    "n_sigma": "residual divided by its expected error" + FREE,
    "gain": "relative difference of the flux scales, first minus second" + FREE,
    "gain_error": "standard error of gain" + FREE,
    "npix": "number of pixels compared" + FREE,
    "kept": "whether the solution used the pair" + FREE,
}
PAIR_FORMATS: dict[str, str | int] = {
    **dict.fromkeys(("level", "sigma", "scatter", "residual"), "sigma"),
    "robust": 2,
    "n_sigma": 1,
    "gain": 4,
    "gain_error": 4,
    "ra": 5,
    "dec": 5,
}
LOOP_COLUMNS = {
    "n_pairs": "number of pairs around the loop" + FREE,
    "closure": "sum of the differences around the loop, zero except for errors" + FREE,
    "sigma": "standard error of closure, with the floor" + FREE,
    "n_sigma": "closure divided by sigma" + FREE,
}


# --------------------------------------------------------------------------------------
# Table of the images


def image_table(result: Any) -> QTable:
    """Return the table of the images, in the order of the input."""
    frames, rank = result.frames, result.rank
    table = LevelTable()
    table["name"], table["tile"] = [f.name for f in frames], [f.tile for f in frames]
    totals = _coefficients(frames)
    _, without_pairs, unknown = connected_sets(result.passes, len(frames))
    variance = np.maximum(total_variances(result, unknown), 0.0)
    table["level"], table["error"] = totals[:, 0], np.sqrt(variance[:, 0])
    table["n_pairs"] = _count_pairs(result)[rank]
    held = {r.name for p in result.passes for r in p.references}
    table["reference"] = [frame.name in held or frame.role == HOLD for frame in frames]
    table["isolated"] = without_pairs[rank]
    for k, axis in ((1, "u"), (2, "v")):
        table[f"slope_{axis}"] = totals[:, k]
        table[f"slope_{axis}_error"] = np.sqrt(variance[:, k])
    table["slope_n_sigma"] = result.slope_significance()
    for name in dict.fromkeys(a.name for f in frames for a in f.corrections):
        table[f"level_{name}"] = _coefficients(frames, name)[:, 0]
    for key in ("detector", "part"):
        table[key] = [getattr(frame, key) for frame in frames]
    _set_units(table, [frame.unit for frame in frames])
    _set_image_formats(table)
    table.meta["gauge"] = result.gauge
    if result.options.get("notes"):
        table.meta["notes"] = list(result.options["notes"])
    return _describe(table, IMAGE_COLUMNS)


def _set_image_formats(table: QTable) -> None:
    """Print levels and slopes with the digits of their errors."""
    levels = [name for name in table.colnames if name.startswith("level")]
    slopes = {
        f"slope_{axis}{end}": f"slope_{axis}_error" for axis in "uv" for end in ("", "_error")
    }
    _set_formats(
        table, {**dict.fromkeys([*levels, "error"], "error"), **slopes, "slope_n_sigma": 1}
    )


def _coefficients(frames, name: str | None = None) -> np.ndarray:
    """Return level and slopes of each frame by one pass, or by all passes; shape (n, 3)."""
    rows = []
    for frame in frames:
        applied = [a for a in frame.corrections if name is None or a.name == name]
        axes = frame.whole_grid.axes
        rows.append(sum((a.correction.coefficients(axes) for a in applied), np.zeros(3)))
    return np.array(rows)


def _set_units(table: QTable, units: list) -> None:
    """Set the unit of levels and slopes, in place; add a column of units if they differ."""
    unit = units[0] if units else None
    if len(set(units)) > 1:
        words = [unit_text(unit) for unit in units]
        table.add_column(words, name="unit", index=table.colnames.index("error") + 1)
        return
    for name in table.colnames if unit is not None else ():
        if name.startswith(("level", "error", "slope")) and name != "slope_n_sigma":
            slope = name.startswith("slope")
            table[name] = table[name] * (unit / u.arcmin if slope else unit)


def _count_pairs(result: Any) -> np.ndarray:
    """Return the number of kept pairs of each image's groups, for images sorted by name."""
    count = np.zeros(len(result.frames), dtype=int)
    for p in result.passes:
        rows, group = p.kept_rows, p.group
        of_group = np.zeros(int(group.max()) + 1, dtype=int)
        np.add.at(of_group, group[result.measured.first[rows]], 1)
        np.add.at(of_group, group[result.measured.second[rows]], 1)
        count += of_group[group]
    return count


# --------------------------------------------------------------------------------------
# Table of the pairs


def pair_table(result: Any) -> QTable:
    """Return the table of the pairs, in the common unit."""
    measured = result.pooled
    names = [frame.name for frame in result.sorted_frames]
    unit = result.unit or u.dimensionless_unscaled
    solved = _solved_columns(result)
    table = LevelTable()
    table["image1"] = [names[i] for i in measured.first]
    table["image2"] = [names[i] for i in measured.second]
    table["pass"] = solved["pass"]
    table["level"] = measured.level * unit
    table["sigma"] = measured.sigma * unit
    table["residual"] = solved["residual"] * unit
    table["n_sigma"] = solved["n_sigma"]
    table["kept"] = solved["kept"]
    table["scatter"] = measured.scatter * unit
    table["weight"] = solved["weight"] / unit**2
    table["robust"] = solved["robust"]
    table["gain"] = measured.gain
    table["gain_error"] = measured.gain_error
    table["npix"] = measured.npix
    lon, lat = lonlat(measured.axes[:, 0])
    table["ra"], table["dec"] = lon * u.deg, lat * u.deg
    table["reason"] = solved["reason"].astype(str)
    _set_formats(table, PAIR_FORMATS)
    return _describe(table, PAIR_COLUMNS)


def _solved_columns(result: Any) -> dict[str, np.ndarray]:
    """Return the results for each pair from its pass; NaN or blank for a pair of no pass."""
    n = len(result.measured)
    out = {
        "pass": np.full(n, "", dtype="U12"),
        "kept": np.zeros(n, dtype=bool),
        "reason": np.full(n, "", dtype=object),
        **{name: np.full(n, np.nan) for name in ("residual", "weight", "robust", "n_sigma")},
    }
    for p in result.passes:
        out["pass"][p.rows] = p.name
        for name in ("kept", "reason", "residual"):
            out[name][p.rows] = getattr(p, name)
        for name in ("weight", "robust", "n_sigma"):
            out[name][p.kept_rows] = getattr(p.solution, name)
    return out


# --------------------------------------------------------------------------------------
# Table of the loops


def loop_table(result: Any) -> QTable:
    """Return the table of the independent loops, in the common unit."""
    unit = result.unit or u.dimensionless_unscaled
    rows, ratios = [], []
    pairs = result.pooled
    for p in result.passes:
        after, kept = subtract_solution(pairs, p), p.kept_rows
        (first, second), level = loop_levels(p, subtract_pattern(pairs, p.pattern), after, kept)
        errors = np.hypot(pairs.sigma[kept], p.solution.floors[p.solution.component[first]])
        nodes, _, closure, sigma = find_closures(first, second, level, errors)
        ratios.append(closure / np.where(sigma > 0, sigma, np.inf))
        names = _group_names(result.sorted_frames, p.group)
        for loop, *numbers in zip(nodes, closure, sigma, ratios[-1], strict=True):
            images = " ".join(names[g] for g in loop)
            rows.append((p.name, images, len(loop), *numbers))
        pairs = after
    columns = ("pass", "images", "n_pairs", "closure", "sigma", "n_sigma")
    types = ("U12", object, int, float, float, float)
    out = LevelTable(rows=rows or None, names=columns, dtype=types)
    out["images"] = out["images"].astype(str)
    out["closure"], out["sigma"] = out["closure"] * unit, out["sigma"] * unit
    every = np.concatenate(ratios) if ratios else np.zeros(0)
    out.meta["rms"] = float(np.sqrt(np.mean(every**2))) if len(every) else np.nan
    _set_formats(out, {"closure": "sigma", "sigma": "sigma", "n_sigma": 1})
    return _describe(out, LOOP_COLUMNS)


def _group_names(frames, group: np.ndarray) -> dict[int, str]:
    """Return the name of each group of a pass: its only image, or the tile of its images.

    Images of several tiles, or of a tile without a name, are named by the first.
    """
    members: dict[int, list] = {}
    for frame, g in zip(frames, group.tolist(), strict=True):
        members.setdefault(g, []).append(frame)
    tiles = {g: {frame.tile for frame in images} for g, images in members.items()}
    return {
        g: (len(images) > 1 and len(tiles[g]) == 1 and images[0].tile) or images[0].name
        for g, images in members.items()
    }


def _describe(table: QTable, words: Mapping[str, str]) -> QTable:
    """Add descriptions to a table's columns, in place."""
    for name in table.colnames:
        if name in words:
            table[name].info.description = words[name]
        elif name.startswith("level_"):
            pass_name = name.removeprefix("level_")
            table[name].info.description = f"level subtracted by the pass {pass_name}" + RELATIVE
    return table


# --------------------------------------------------------------------------------------
# Printed tables

# Largest number of decimals. Smaller numbers are printed with a power of ten.
MAX_DECIMALS = 7
# Columns that must be shown. If they do not fit, names of images are shortened.
NEEDED = "error", "n_sigma", "closure"
# Largest number of characters in the column of images of a loop.
MAX_TEXT = 36


class LevelTable(QTable):
    """A `~astropy.table.QTable` that prints as many of its first columns as fit.

    Other tables omit columns in the middle. If important columns do not fit, names of images are
    shortened, and their pattern is printed below.
    """

    def __str__(self) -> str:
        """Return the first columns as text, and the names of the others."""
        if not self.colnames:
            return ""
        width = shutil.get_terminal_size().columns
        n, lines = _first_columns(self, width)
        notes: list[str] = []
        needed = [self.colnames.index(name) + 1 for name in NEEDED if name in self.colnames]
        if n < max(needed, default=1):
            short, notes = with_short_names(self)
            n, lines = _first_columns(short, width)
        rest = ", ".join(self.colnames[n:])
        notes += [f"Columns not shown: {rest}"] if rest else []
        return "\n".join([*lines, *(line for note in notes for line in wrap(note, width))])


def _first_columns(table: QTable, width: int) -> tuple[int, list[str]]:
    """Return the number of first columns that fit, at least one, and their printed lines."""
    names, lines, n = table.colnames, [], 1
    for n in range(len(names), 0, -1):
        shown = QTable(table[names[:n]], copy=False)
        lines = shown.pformat(max_lines=None, max_width=-1)
        if max(map(len, lines)) <= width:
            break
    return n, lines


def with_short_names(table: QTable) -> tuple[QTable, list[str]]:
    """Return a table with shortened names, and notes with the patterns of the names."""
    short, notes = QTable(table, copy=True), []
    for columns in (("name", "image1", "image2"), ("tile",)):
        present = [name for name in columns if name in table.colnames]
        whole = sorted({str(value) for name in present for value in table[name]})
        cut, pattern = short_names(whole, SHORT_NAME) if whole else ([], "")
        if pattern:
            by_name = dict(zip(whole, cut, strict=True))
            for name in present:
                short[name] = [by_name[str(value)] for value in table[name]]
            notes.append(f"{' and '.join(present)}: the part * of {pattern}")
    if "images" in table.colnames:
        texts = [str(value) for value in table["images"]]
        short["images"] = [t if len(t) <= MAX_TEXT else f"{t[: MAX_TEXT - 1]}\u2026" for t in texts]
    return short, notes


def _set_formats(table: QTable, of: Mapping[str, str | int]) -> None:
    """Set the formats of columns, in place; missing columns are ignored.

    ``of`` gives for each column the number of decimals, or the column of its errors.
    """
    for name, by in of.items():
        if name not in table.colnames or len(table) == 0:
            continue
        digits = by if isinstance(by, int) else decimals(values(table[by]), 10)
        table[name].info.format = f".{max(digits, 0)}f" if digits <= MAX_DECIMALS else ".4g"


def plain_rows(table: QTable) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries, with `None` for NaN and infinity."""
    columns = [
        [None if isinstance(v, float) and not np.isfinite(v) else v for v in column]
        for column in (np.asarray(getattr(c, "value", c)).tolist() for c in table.itercols())
    ]
    return [dict(zip(table.colnames, row, strict=True)) for row in zip(*columns, strict=True)]


# --------------------------------------------------------------------------------------
# Errors of images without a connection to others


def connected_sets(passes: list[Pass], n_images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sets of images that are connected by the overlaps of all passes.

    Parameters
    ----------
    passes : list of `~levelmatch.solve.passes.Pass`
        The solved passes.
    n_images : int
        Number of images, sorted by name.

    Returns
    -------
    sets : `~numpy.ndarray` of int, shape (n_images,)
        Index of the set of each image.
    without_pairs : `~numpy.ndarray` of bool, shape (n_images,)
        True for an image without a usable pair in at least one pass.
    unknown : `~numpy.ndarray` of bool, shape (n_images,)
        True for an image whose level no overlap determines.
    """
    sets, without_pairs = linked_sets(passes, n_images), np.zeros(n_images, dtype=bool)
    for p in passes:
        without_pairs |= p.isolated[p.group]
    alone = np.bincount(sets, minlength=1)[sets] == 1
    return sets, without_pairs, alone & without_pairs


def total_variances(result: Any, unknown: np.ndarray) -> np.ndarray:
    """Return variances of level and slopes of each frame, NaN if unknown; shape (n, 3)."""
    names, out = {p.name for p in result.passes}, []
    for frame, i in zip(result.frames, result.rank.tolist(), strict=True):
        if unknown[i]:
            planes = any(p.solution.coefficients.shape[1] > 1 for p in result.passes)
            out.append(np.where([True, planes, planes], np.nan, 0.0))
            continue
        # A pass without a pair of the image adds no variance to a level known from other passes.
        variances = [
            np.nan_to_num(a.variance) if a.name in names else a.variance for a in frame.corrections
        ]
        out.append(sum(variances, np.zeros(3)))
    return np.array(out)
