# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What was found, as tables: images, pairs and loops."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache

import numpy as np
from astropy import units as u
from astropy.table import QTable

from levelmatch.results.header import Story
from levelmatch.sky.vectors import lonlat, transfer_matrix
from levelmatch.solve.loops import find_closures
from levelmatch.solve.passes import subtract_solution

__all__ = ["Levels", "Run", "now", "versions"]


def now():
    """Return the time in UTC, ISO 8601, to the microsecond: headers tell runs apart by it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def versions():
    """Return the versions of the packages that a result depends on, by name."""
    from platform import python_version

    packages = ("levelmatch", "numpy", "scipy", "astropy")
    return {"python": python_version(), **{name: _version(name) for name in packages}}


@cache
def _version(package):
    # From a file of many lines, read anew each time.
    from importlib.metadata import version

    return version(package)


@dataclass(frozen=True, eq=False)
class Run:
    """What was asked for, and when.

    Parameters
    ----------
    function : str
        The function that was called.
    steps : list of `~levelmatch.solve.steps.Step`
        Its passes.
    options : dict
        Its options as plain values.
    created : str
        When, in UTC, ISO 8601.
    order : list of int
        Of the images, sorted by name, those of the input in its order.
    recombine : bool
        Whether Lyot parts come out with their science partners.
    sky : `~numpy.ndarray`, shape (n,), or None
        The images' clipped sky levels, where they were measured.
    subsets : list of int
        The set of each image, sorted by name, that an earlier pass had left it in.
    versions : dict
        Versions of the packages.
    """

    function: str
    steps: list
    options: dict
    created: str
    order: list
    recombine: bool
    sky: np.ndarray | None
    subsets: list
    versions: dict

    @classmethod
    def of(cls, function, steps, options, collection, sky):
        """Return the run of a function on a collection of images, as of now."""
        return cls(
            function,
            list(steps),
            options,
            now(),
            [int(k) for k in collection.order],
            collection.recombine,
            sky,
            [int(frame.subset) for frame in collection.frames],
            versions(),
        )


# What the columns mean. Of those said to be relative to the gauge, only differences between
# images are found; the rest is put in, see ``gauge``.
RELATIVE = "; relative to the gauge"
FREE = "; does not depend on the gauge"
IMAGE_COLUMNS = {
    "level": "what is subtracted, at the image's centre" + RELATIVE,
    "error": "standard error of the level" + RELATIVE,
    "slope_u": "slope toward East of what is subtracted" + RELATIVE,
    "slope_u_error": "standard error of slope_u" + RELATIVE,
    "slope_v": "slope toward North of what is subtracted" + RELATIVE,
    "slope_v_error": "standard error of slope_v" + RELATIVE,
    "slope_n_sigma": "significance of the two slopes" + RELATIVE,
    "n_pairs": "number of pairs that counted" + FREE,
    "reference": "whether the image is held at zero",
    "isolated": "whether no overlap could be used" + FREE,
}
PAIR_COLUMNS = {
    "level": "first image less second, before matching" + FREE,
    "sigma": "standard error of level, without the floor" + FREE,
    "scatter": "scatter of the pixels' differences about their plane" + FREE,
    "residual": "what matching leaves of level" + FREE,
    "weight": "weight of the pair in the objective" + FREE,
    "robust": "part of its weight that the pair kept" + FREE,
    "n_sigma": "what is left over its expected error" + FREE,
    "gain": "relative difference of the flux scales, first less second" + FREE,
    "gain_error": "standard error of gain" + FREE,
    "npix": "number of pixels compared" + FREE,
    "kept": "whether the pair counted" + FREE,
}
LOOP_COLUMNS = {
    "n_pairs": "number of pairs around the loop" + FREE,
    "closure": "sum of the differences around the loop, zero if all agree" + FREE,
    "sigma": "standard error of closure, with the floor" + FREE,
    "n_sigma": "closure over sigma" + FREE,
}


def _describe(table, words):
    """Add to a table's columns what they mean, in place."""
    for name in table.colnames:
        if name in words:
            table[name].info.description = words[name]
        elif name.startswith("level_"):
            share = name.removeprefix("level_")
            table[name].info.description = f"share of the pass {share} in level" + RELATIVE
    return table


def row_of(name, items):
    """Return the place of what has a name; `KeyError` if nothing has."""
    names = [item.name for item in items]
    if name not in names:
        msg = f"there is no image {name!r}; the first is {names[0]!r}"
        raise KeyError(msg)
    return names.index(name)


class Levels:
    """What was found: of images, pairs and passes.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images with their corrections, in the order of the input.
    passes : list of `~levelmatch.solve.passes.PassResult`
        What each pass found; its images are sorted by name.
    measured : `~levelmatch.measure.table.PairTable`
        The pairs as measured; their images are sorted by name.
    unit : `~astropy.units.Unit` or None
        The unit in which images were compared.
    run : `Run`
        What was asked for.
    """

    def __init__(self, frames, passes, measured, unit, run):
        self.frames = list(frames)
        self.passes = list(passes)
        self.measured = measured
        self.unit = unit
        self.run = run

    @property
    def _story(self):
        """What headers say of the run."""
        return Story(self.run.versions["levelmatch"], self.run.created)

    @property
    def options(self):
        """The function, its passes and its options, as nested plain values."""
        run = self.run
        steps = [asdict(step) for step in run.steps]
        return {"function": run.function, "passes": steps, **run.options}

    @property
    def versions(self):
        """Versions of the packages that found it, by name."""
        return dict(self.run.versions)

    @property
    def created(self):
        """When, in UTC, ISO 8601."""
        return self.run.created

    @property
    def reference(self):
        """The image that all others are relative to; ``"mean"`` if none is."""
        return self.references[0].name if self.references else "mean"

    @property
    def reference_reason(self):
        """Why that image, in words."""
        return self.references[0].reason if self.references else "the mean correction is zero"

    @property
    def references(self):
        """The reference of each connected set, with its reason; none where the mean is zero.

        Those of the last pass, or of an earlier one if that held the image that was named.
        """
        last = self.passes[-1:]
        earlier = [p for p in self.passes[:-1] if p.matched.name != "lyot"]
        return next((p.references for p in [*last, *reversed(earlier)] if p.references), [])

    @property
    def table(self):
        """One row an image, or a part of one, as a `~astropy.table.QTable`.

        ``level`` is the value at the image's centre of all that is subtracted,
        ``slope_u`` and ``slope_v`` its slopes toward East and North there;
        ``level_dithers`` and so on are the passes' shares. ``error`` is the
        standard error of ``level`` relative to the gauge, the noise of
        the reference's side included; ``slope_n_sigma`` the significance of the slopes.
        What ``gauge`` says was put in is in ``meta["gauge"]`` too.
        """
        ordered = sorted(range(len(self.frames)), key=lambda i: self.frames[i].name)
        rank = np.argsort(ordered)
        table = QTable()
        table["name"] = [f.name for f in self.frames]
        table["tile"] = [f.tile for f in self.frames]
        table["detector"] = [f.detector for f in self.frames]
        table["part"] = [f.part for f in self.frames]
        names = list(dict.fromkeys(a.name for f in self.frames for a in f.corrections))
        totals = self._coefficients(None)
        table["level"] = totals[:, 0]
        variance = np.array(
            [sum((a.variance for a in f.corrections), np.zeros(3)) for f in self.frames]
        )
        table["error"] = np.sqrt(variance[:, 0])
        for k, axis in ((1, "u"), (2, "v")):
            table[f"slope_{axis}"] = totals[:, k]
            table[f"slope_{axis}_error"] = np.sqrt(variance[:, k])
        table["slope_n_sigma"] = self._slope_significance(rank)
        for name in names:
            table[f"level_{name}"] = self._coefficients(name)[:, 0]
        self._set_units(table)
        table["n_pairs"] = self._count_pairs()[rank]
        table["reference"] = [f.name in self._reference_names() for f in self.frames]
        table["isolated"] = self._isolated()[rank]
        table.meta["gauge"] = self.gauge
        return _describe(table, IMAGE_COLUMNS)

    def _slope_significance(self, rank):
        """Slopes of this result's passes over their errors, taken together; NaN for levels.

        The root of the Wald statistic of the two slopes about each image's centre.
        """
        planes = [p for p in self.passes if p.solution.coefficients.shape[1] > 1]
        out = np.full(len(self.frames), np.nan)
        for row, frame in enumerate(self.frames) if planes else ():
            i, axes = rank[row], frame.whole_grid.axes
            slopes, covariance = np.zeros(2), np.zeros((2, 2))
            # A slope that was not fitted is zero, to rounding, and so is its error.
            for p in (p for p in planes if p.solution.active[p.matched.group[i], 1:].any()):
                slopes += p.correction(i).coefficients(axes)[1:]
                covariance += p.covariance(i, axes)[1:, 1:]
            inverse = np.linalg.pinv(covariance, rcond=1e-10, hermitian=True)
            out[row] = np.sqrt(max(slopes @ inverse @ slopes, 0.0))
        return out

    def _coefficients(self, name):
        """Level and slopes of each frame's corrections of one pass, or of all; shape (n, 3)."""
        rows = []
        for frame in self.frames:
            parts = [a for a in frame.corrections if name is None or a.name == name]
            axes = frame.whole_grid.axes
            rows.append(sum((a.correction.coefficients(axes) for a in parts), np.zeros(3)))
        return np.array(rows)

    def _set_units(self, table):
        units = {frame.unit for frame in self.frames}
        unit = units.pop() if len(units) == 1 else None
        if unit is None:
            return
        for name in table.colnames:
            if name.startswith(("level", "error", "slope")) and name != "slope_n_sigma":
                slope = name.startswith("slope")
                table[name] = table[name] * (unit / u.arcmin if slope else unit)

    def _reference_names(self):
        return {r.name for p in self.passes for r in p.references}

    def _count_pairs(self):
        """Number of pairs that each image's correction rests on; images sorted by name."""
        count = np.zeros(len(self.frames), dtype=int)
        for p in self.passes:
            rows, group = p.rows[p.kept], p.matched.group
            of_group = np.zeros(int(group.max()) + 1, dtype=int)
            np.add.at(of_group, group[self.measured.first[rows]], 1)
            np.add.at(of_group, group[self.measured.second[rows]], 1)
            count += of_group[group]
        return count

    def _isolated(self):
        flags = np.zeros(len(self.frames), dtype=bool)
        for p in self.passes:
            flags |= p.isolated[p.matched.group]
        return flags

    @property
    def pairs(self):
        """One row a pair, as a `~astropy.table.QTable`, in the unit of comparison.

        ``level`` is the difference, first image less second, before matching and
        ``residual`` what is left of it, ``n_sigma`` that over its expected error;
        ``kept`` and ``reason`` say whether the pair counted and why not; ``weight`` is
        its share of the objective and ``robust`` the part that it kept of it, 1 for
        a pair that agrees with the rest; ``gain`` is the relative difference of the two
        flux scales. None of them depends on the gauge.
        """
        measured = self.measured
        names = [f.name for f in sorted(self.frames, key=lambda f: f.name)]
        n = len(measured)
        table = QTable()
        table["image1"] = [names[i] for i in measured.first]
        table["image2"] = [names[i] for i in measured.second]
        used = np.full(n, "", dtype="U12")
        kept = np.zeros(n, dtype=bool)
        reason = np.full(n, "", dtype=object)
        residual, weight, robust, n_sigma = np.full((4, n), np.nan)
        for p in self.passes:
            used[p.rows] = p.matched.name
            kept[p.rows] = p.kept
            reason[p.rows] = p.reason
            residual[p.rows] = p.residual
            weight[p.rows[p.kept]] = p.solution.weight
            robust[p.rows[p.kept]] = p.solution.robust
            n_sigma[p.rows[p.kept]] = p.solution.n_sigma
        table["pass"] = used
        unit = self.unit or u.dimensionless_unscaled
        table["level"] = measured.level * unit
        table["sigma"] = measured.sigma * unit
        table["scatter"] = measured.scatter * unit
        table["residual"] = residual * unit
        table["weight"] = weight / unit**2
        table["robust"] = robust
        table["n_sigma"] = n_sigma
        table["gain"] = measured.gain
        table["gain_error"] = measured.gain_error
        table["npix"] = measured.npix
        lon, lat = lonlat(measured.axes[:, 0])
        table["ra"], table["dec"] = lon * u.deg, lat * u.deg
        table["kept"] = kept
        table["reason"] = reason.astype(str)
        return _describe(table, PAIR_COLUMNS)

    @property
    def gauge(self):
        """What was put in where overlaps cannot tell, in words."""
        words = []
        for p in self.passes:
            if p.references:
                held = ", ".join(r.name for r in p.references[:5])
                held += f" and {len(p.references) - 5} more" if len(p.references) > 5 else ""
                text = f"the correction of {held} is zero"
            else:
                text = "the mean correction of each connected set is zero"
            if p.matched.fit_type != "level":
                text += ", its plane included: a plane common to all images is not seen"
            if p.tie is not None:
                text += "; sets without overlap have the same mean clipped sky level, as assumed"
            words.append(f"{p.matched.name}: {text}")
        return "; ".join(words)

    @property
    def closures(self):
        """Loops of overlapping images, as a `~astropy.table.QTable`.

        One row an independent loop: its pass and its images, or its tiles where the pass
        moves the images of a tile together; the number of its pairs, the sum of
        the differences around it (zero if all agree; planes that were fitted are taken out of them
        first, as each pair has its own place), its standard error with the
        systematic scatter, and their ratio. ``meta["rms"]`` is the root mean square of
        the ratios. None of it depends on the gauge.
        """
        unit = self.unit or u.dimensionless_unscaled
        rows, ratios = [], []
        table = self.measured
        for p in self.passes:
            part = table.take(p.rows[p.kept])
            group = p.matched.group
            floors = p.solution.floors[p.solution.component[group[part.first]]]
            left = subtract_solution(table, p)
            # Planes make the levels of a loop's pairs differ, each at its own place.
            level = part.level if p.matched.fit_type == "level" else left.take(p.rows[p.kept]).level
            loops = find_closures(
                group[part.first], group[part.second], level, np.hypot(part.sigma, floors)
            )
            ratios.append(loops.n_sigma)
            name_of = self._group_names(group)
            for nodes, value, sigma, ratio in zip(
                loops.nodes, loops.closure, loops.sigma, loops.n_sigma, strict=True
            ):
                images = " ".join(name_of[g] for g in nodes)
                rows.append((p.matched.name, images, len(nodes), value, sigma, ratio))
            table = left
        columns = ("pass", "images", "n_pairs", "closure", "sigma", "n_sigma")
        types = ("U12", object, int, float, float, float)
        out = QTable(rows=rows or None, names=columns, dtype=types)
        out["images"] = out["images"].astype(str)
        out["closure"], out["sigma"] = out["closure"] * unit, out["sigma"] * unit
        ratios = np.concatenate(ratios) if ratios else np.zeros(0)
        out.meta["rms"] = float(np.sqrt(np.mean(ratios**2))) if len(ratios) else np.nan
        return _describe(out, LOOP_COLUMNS)

    def _group_names(self, group):
        """Names of a pass's groups: the image, or the tile of several; by group."""
        frames = sorted(self.frames, key=lambda f: f.name)
        members = {}
        for frame, g in zip(frames, group.tolist(), strict=True):
            members.setdefault(g, []).append(frame)
        tiles = {g: {frame.tile for frame in part} for g, part in members.items()}
        return {
            g: (len(part) > 1 and len(tiles[g]) == 1 and part[0].tile) or part[0].name
            for g, part in members.items()
        }

    def covariance(self, i, j):
        """Return the covariance of the corrections of two rows of `table`.

        Parameters
        ----------
        i, j : int or str
            Rows of `table`, or their names.

        Returns
        -------
        covariance : `~numpy.ndarray`, shape (3, 3)
            Of level and slopes, each about its image's centre, in the unit of comparison (and
            per arcmin), relative to the gauge. The variance of a seam between two images is
            that of the difference: ``c(i, i) + c(j, j) - c(i, j) - c(j, i)``.

        Raises
        ------
        KeyError
            If no row has such a name.
        """
        i, j = (row_of(k, self.frames) if isinstance(k, str) else k for k in (i, j))
        ordered = sorted(range(len(self.frames)), key=lambda k: self.frames[k].name)
        rank = np.argsort(ordered)
        total = np.zeros((3, 3))
        axes = [self.frames[k].whole_grid.axes for k in (i, j)]
        for p in self.passes:
            groups = [p.matched.group[rank[k]] for k in (i, j)]
            part = p.solution.covariance(*groups)
            if len(part) == 1:
                total[0, 0] += part[0, 0]
                continue
            change = [
                transfer_matrix(p.group_axes[g], a) for g, a in zip(groups, axes, strict=True)
            ]
            total += change[0] @ part @ change[1].T
        return total
