# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Corrections of a run, and the pairs from which they were solved, as tables."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable

from levelmatch.images.frame import HOLD, Frame
from levelmatch.measure.pooling import pooled_passes
from levelmatch.measure.table import PairTable
from levelmatch.record.run import Provenance, Run
from levelmatch.record.shown import LevelTable, set_formats
from levelmatch.record.unknown import Joined, total_variances
from levelmatch.record.views import Views
from levelmatch.sky.vectors import lonlat, transfer_matrix
from levelmatch.solve.loops import find_closures
from levelmatch.solve.passes import Pass
from levelmatch.solve.reference import Reference
from levelmatch.solve.shared_pattern import subtract_pattern
from levelmatch.solve.solve_pass import subtract_solution
from levelmatch.summary import Facts, anchored_gauge, gauge_sentence, notes, unit_words

__all__ = ["Levels", "row_of"]

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


def row_of(name: str, items: Sequence) -> int:
    """Return the index of the item with a name.

    Raises
    ------
    KeyError
        If no item has the name.
    """
    names = [item.name for item in items]
    if name not in names:
        msg = f"there is no image {name!r}; the first is {names[0]!r}"
        raise KeyError(msg)
    return names.index(name)


class Levels(Views):
    """Numbers of a run: corrections, pairs and passes, without pixels.

    It is the base class of `~levelmatch.MatchResult` and `~levelmatch.Record`.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images with their corrections, in the order of the input.
    passes : list of `~levelmatch.solve.passes.Pass`
        The solved passes; their images are sorted by name.
    measured : `~levelmatch.measure.table.PairTable`
        The measured pairs; their images are sorted by name.
    run : `~levelmatch.record.run.Run`
        The run.
    """

    def __init__(
        self, frames: list[Frame], passes: list[Pass], measured: PairTable, run: Run
    ) -> None:
        self.frames = list(frames)
        self.passes = list(passes)
        self.measured = measured
        self.run = run

    @cached_property
    def pooled(self) -> PairTable:
        """The pairs with the pooled errors of the passes, see `~levelmatch.measure.pooling`."""
        used = np.full(len(self.measured), -1)
        for k, p in enumerate(self.passes):
            used[p.rows] = k
        area = np.array([frame.whole_grid.pixel_area for frame in self.sorted_frames])
        return pooled_passes(self.measured, used, [p.fit_type for p in self.passes], area)

    @property
    def sorted_frames(self) -> list[Frame]:
        """The images sorted by name, which is the order in passes and pairs."""
        return sorted(self.frames, key=lambda frame: frame.name)

    @cached_property
    def rank(self) -> np.ndarray:
        """Index of each image among the images sorted by name, shape (n,)."""
        return np.argsort(np.argsort([frame.name for frame in self.frames], kind="stable"))

    @property
    def unit(self) -> u.UnitBase | None:
        """The common unit, in which the images were compared."""
        return self.run.unit

    @property
    def options(self) -> dict[str, Any]:
        """The function, its passes and its options, as nested plain values."""
        return self.run.all_options

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python and of the used packages, by name."""
        return dict(self.run.versions)

    @property
    def created(self) -> str:
        """Time of the run, in UTC, ISO 8601."""
        return self.run.created

    @property
    def provenance(self) -> Provenance:
        """Identity of the run for headers, without a record."""
        return Provenance.of(self.run)

    @property
    def n_earlier(self) -> int:
        """Number of corrections that an image had before this run."""
        return len(self.frames[0].corrections) - self.run.n_corrections

    # ------------------------------------------------------------------ gauge

    @property
    def reference(self) -> str:
        """Name of the image whose correction is zero, or ``"mean"`` if the mean is zero."""
        return self.references[0].name if self.references else "mean"

    @property
    def reference_reason(self) -> str:
        """Reason for the choice of the reference."""
        return self.references[0].reason if self.references else "the mean correction is zero"

    @property
    def references(self) -> list[Reference]:
        """The reference of each connected set; empty if the mean correction is zero.

        These are the references of the last pass that has any. The Lyot pass counts only if it
        is the last one.
        """
        of_all = [p for p in self.passes if p.name != "fit_exclude"]
        last = of_all[-1:]
        earlier = [p for p in of_all[:-1] if p.name != "lyot"]
        return next((p.references for p in [*last, *reversed(earlier)] if p.references), [])

    @property
    def gauge(self) -> str:
        """Sentence on the gauge: the conditions that fix the levels beyond their differences."""
        gauge = gauge_sentence(self.passes, self.options.get("solve", {}), unit_words(self.unit))
        return anchored_gauge(gauge, self.options.get("anchor"))

    @property
    def suspects(self) -> list[str]:
        """Names of the images that disagree with their neighbours, the worst first.

        Images whose levels disagree precede images whose flux scales disagree.
        """
        facts = Facts(self)
        images = [i for s in facts.suspects.values() for i in s.images]
        images += [difference.image for difference in facts.flux_differences]
        return [self.frames[facts.order[i]].name for i in dict.fromkeys(images)]

    @property
    def notes(self) -> list[str]:
        """Sentences on the pairs, images, flux scales and sets that need attention."""
        return notes(self)

    # ------------------------------------------------------------------ tables

    @property
    def table(self) -> QTable:
        """The images as a `~astropy.table.QTable`, one row per image or part of a MIRI image.

        ``level`` is the level subtracted at the image's centre. ``slope_u`` and ``slope_v`` are
        the slopes subtracted toward East and North. The columns ``level_dithers`` and so on hold
        the levels of the passes. ``error`` is the standard error of ``level`` relative to the
        gauge; it includes the noise of the reference. ``slope_n_sigma`` is the significance of
        the slopes. ``meta["gauge"]`` holds `gauge`. ``meta["notes"]`` holds the notes of the run
        on its images.
        """
        return _image_table(self)

    @property
    def pairs(self) -> QTable:
        """The pairs as a `~astropy.table.QTable`, one row per pair, in the common unit.

        ``level`` is the difference, first image minus second, before matching. ``residual`` is
        the difference after matching. ``n_sigma`` is the residual divided by its expected error.
        ``kept`` states whether the solution used the pair, and ``reason`` why it did not.
        ``weight`` is the weight in the least-squares sum. ``robust`` is the fraction of its
        weight that the pair kept: 1 for a pair that agrees with the others. ``gain`` is the
        relative difference of the two flux scales. No column depends on the gauge.
        """
        return _pair_table(self)

    @property
    def closures(self) -> QTable:
        """Independent loops of overlapping images as a `~astropy.table.QTable`, one row per loop.

        ``pass`` is the pass. ``images`` names the images of the loop, or the tiles if the pass
        gives the images of a tile one level. ``n_pairs`` is the number of pairs. ``closure`` is
        the sum of the differences around the loop, after subtraction of fitted planes; it is
        zero except for errors. ``sigma`` is the standard error of the sum, with the floor, and
        ``n_sigma`` the ratio of both. ``meta["rms"]`` is the root mean square of the ratios. No
        column depends on the gauge.
        """
        return _loop_table(self)

    # ------------------------------------------------------------------ errors

    def slope_significance(self) -> np.ndarray:
        """Return the significance of each image's slopes, in the order of the input.

        The significance, of shape (n,), is the square root of the Wald statistic of the two
        slopes of all passes of this run, about the image's centre. It is NaN without slopes.
        """
        planes = [p for p in self.passes if p.solution.coefficients.shape[1] > 1]
        out = np.full(len(self.frames), np.nan)
        for row, frame in enumerate(self.frames) if planes else ():
            i, axes = self.rank[row], frame.whole_grid.axes
            slopes, covariance = np.zeros(2), np.zeros((2, 2))
            # A slope that was not fitted is zero within rounding errors, and so is its error.
            for p in (p for p in planes if p.solution.active[p.group[i], 1:].any()):
                slopes += p.correction(i).coefficients(axes)[1:]
                covariance += p.covariance(i, axes)[1:, 1:]
            inverse = np.linalg.pinv(covariance, rcond=1e-10, hermitian=True)
            out[row] = np.sqrt(max(float(slopes @ inverse @ slopes), 0.0))
        return out

    @cached_property
    def _joined(self) -> Joined:
        """The sets in which overlaps join the images."""
        return Joined(self.passes, len(self.frames))

    @property
    def _carried(self):
        """Covariance of all corrections, or `None` if only the covariances of passes are known."""
        carried_of = self.passes[-1].carried_of if self.passes else None
        return None if carried_of is None else carried_of()

    def covariance(self, i: int | str, j: int | str) -> np.ndarray:
        """Return the covariance of the corrections of two rows of `table`.

        Parameters
        ----------
        i, j : int or str
            Rows of `table`, or their names.

        Returns
        -------
        covariance : `~numpy.ndarray`, shape (3, 3)
            Covariance of level and slopes (per arcmin), each about its image's centre, in the
            common unit and relative to the gauge. NaN if no chain of pairs connects the two
            images. The covariance of the difference of two corrections is
            ``c(i, i) + c(j, j) - c(i, j) - c(j, i)``.

        Raises
        ------
        KeyError
            If no row has the name.
        """
        rows = [row_of(k, self.frames) if isinstance(k, str) else k for k in (i, j)]
        at = [self.rank[k] for k in rows]
        if not self._joined.known(*at):
            return np.full((3, 3), np.nan)
        carried = self._carried
        if carried is not None:
            return carried.covariance(*(int(self.rank[k]) for k in rows))
        total = np.zeros((3, 3))
        axes = [self.frames[k].whole_grid.axes for k in rows]
        for p in self.passes:
            groups = [p.group[self.rank[k]] for k in rows]
            part = p.solution.covariance(*groups)
            if len(part) == 1:
                total[0, 0] += part[0, 0]
                continue
            change = [
                transfer_matrix(p.group_axes[g], a) for g, a in zip(groups, axes, strict=True)
            ]
            total += change[0] @ part @ change[1].T
        return total


# --------------------------------------------------------------------------------------
# Table of the images


def _image_table(levels: Levels) -> QTable:
    """Return the table of the images, in the order of the input."""
    frames, rank = levels.frames, levels.rank
    table = LevelTable()
    table["name"], table["tile"] = [f.name for f in frames], [f.tile for f in frames]
    totals = _coefficients(frames)
    variance = np.maximum(total_variances(levels, levels._joined), 0.0)
    table["level"], table["error"] = totals[:, 0], np.sqrt(variance[:, 0])
    table["n_pairs"] = _count_pairs(levels)[rank]
    held = {r.name for p in levels.passes for r in p.references}
    table["reference"] = [frame.name in held or frame.role == HOLD for frame in frames]
    table["isolated"] = levels._joined.without_pairs[rank]
    for k, axis in ((1, "u"), (2, "v")):
        table[f"slope_{axis}"] = totals[:, k]
        table[f"slope_{axis}_error"] = np.sqrt(variance[:, k])
    table["slope_n_sigma"] = levels.slope_significance()
    for name in dict.fromkeys(a.name for f in frames for a in f.corrections):
        table[f"level_{name}"] = _coefficients(frames, name)[:, 0]
    for key in ("detector", "part"):
        table[key] = [getattr(frame, key) for frame in frames]
    _set_units(table, {frame.unit for frame in frames})
    _set_image_formats(table)
    table.meta["gauge"] = levels.gauge
    if levels.options.get("notes"):
        table.meta["notes"] = list(levels.options["notes"])
    return _describe(table, IMAGE_COLUMNS)


def _set_image_formats(table: QTable) -> None:
    """Print levels and slopes with the digits of their errors."""
    levels = [name for name in table.colnames if name.startswith("level")]
    slopes = {
        f"slope_{axis}{end}": f"slope_{axis}_error" for axis in "uv" for end in ("", "_error")
    }
    set_formats(table, {**dict.fromkeys([*levels, "error"], "error"), **slopes, "slope_n_sigma": 1})


def _coefficients(frames, name: str | None = None) -> np.ndarray:
    """Return level and slopes of each frame by one pass, or by all passes; shape (n, 3)."""
    rows = []
    for frame in frames:
        applied = [a for a in frame.corrections if name is None or a.name == name]
        axes = frame.whole_grid.axes
        rows.append(sum((a.correction.coefficients(axes) for a in applied), np.zeros(3)))
    return np.array(rows)


def _set_units(table: QTable, units: set) -> None:
    """Set the unit of levels and slopes, in place, if all images have the same unit."""
    unit = units.pop() if len(units) == 1 else None
    if unit is None:
        return
    for name in table.colnames:
        if name.startswith(("level", "error", "slope")) and name != "slope_n_sigma":
            slope = name.startswith("slope")
            table[name] = table[name] * (unit / u.arcmin if slope else unit)


def _count_pairs(levels: Levels) -> np.ndarray:
    """Return the number of kept pairs of each image's groups, for images sorted by name."""
    count = np.zeros(len(levels.frames), dtype=int)
    for p in levels.passes:
        rows, group = p.rows[p.kept], p.group
        of_group = np.zeros(int(group.max()) + 1, dtype=int)
        np.add.at(of_group, group[levels.measured.first[rows]], 1)
        np.add.at(of_group, group[levels.measured.second[rows]], 1)
        count += of_group[group]
    return count


# --------------------------------------------------------------------------------------
# Table of the pairs


def _pair_table(levels: Levels) -> QTable:
    """Return the table of the pairs, in the common unit."""
    measured = levels.pooled
    names = [frame.name for frame in levels.sorted_frames]
    unit = levels.unit or u.dimensionless_unscaled
    solved = _solved_columns(levels)
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
    set_formats(table, PAIR_FORMATS)
    return _describe(table, PAIR_COLUMNS)


def _solved_columns(levels: Levels) -> dict[str, np.ndarray]:
    """Return the results for each pair from its pass; NaN or blank for a pair of no pass."""
    n = len(levels.measured)
    out = {
        "pass": np.full(n, "", dtype="U12"),
        "kept": np.zeros(n, dtype=bool),
        "reason": np.full(n, "", dtype=object),
        **{name: np.full(n, np.nan) for name in ("residual", "weight", "robust", "n_sigma")},
    }
    for p in levels.passes:
        out["pass"][p.rows] = p.name
        for name in ("kept", "reason", "residual"):
            out[name][p.rows] = getattr(p, name)
        for name in ("weight", "robust", "n_sigma"):
            out[name][p.rows[p.kept]] = getattr(p.solution, name)
    return out


# --------------------------------------------------------------------------------------
# Table of the loops


def _loop_table(levels: Levels) -> QTable:
    """Return the table of the independent loops, in the common unit."""
    unit = levels.unit or u.dimensionless_unscaled
    rows, ratios = [], []
    pairs = levels.pooled
    for p in levels.passes:
        after = subtract_solution(pairs, p)
        loops = _closures(p, subtract_pattern(pairs, p.pattern), after)
        ratios.append(loops.n_sigma)
        names = _group_names(levels.sorted_frames, p.group)
        for nodes, *values in zip(
            loops.nodes, loops.closure, loops.sigma, loops.n_sigma, strict=True
        ):
            images = " ".join(names[g] for g in nodes)
            rows.append((p.name, images, len(nodes), *values))
        pairs = after
    columns = ("pass", "images", "n_pairs", "closure", "sigma", "n_sigma")
    types = ("U12", object, int, float, float, float)
    out = LevelTable(rows=rows or None, names=columns, dtype=types)
    out["images"] = out["images"].astype(str)
    out["closure"], out["sigma"] = out["closure"] * unit, out["sigma"] * unit
    every = np.concatenate(ratios) if ratios else np.zeros(0)
    out.meta["rms"] = float(np.sqrt(np.mean(every**2))) if len(every) else np.nan
    set_formats(out, {"closure": "sigma", "sigma": "sigma", "n_sigma": 1})
    return _describe(out, LOOP_COLUMNS)


def _closures(p, before, after):
    """Return the closures of a pass's loops, from the pairs before and after its corrections."""
    kept = p.rows[p.kept]
    pairs, group = before.take(kept), p.group
    first, second = group[pairs.first], group[pairs.second]
    floors = p.solution.floors[p.solution.component[first]]
    # The level of a fitted plane refers to the centre of the pair, so planes are subtracted.
    level = pairs.level if p.fit_type == "level" else after.take(kept).level
    return find_closures(first, second, level, np.hypot(pairs.sigma, floors))


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
