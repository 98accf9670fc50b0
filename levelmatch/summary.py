# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A result, or its record, in words and numbers: what the command line and the report say."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from levelmatch.images.units import unit_text
from levelmatch.sky.vectors import transfer_matrix
from levelmatch.text import count, decimals, fixed, values

__all__ = [
    "Facts",
    "PassSummary",
    "Seam",
    "has_slopes",
    "notes",
    "summarise",
    "summary_lines",
    "trust_lines",
    "unit_words",
    "worst_seam",
]


PASS_NAMES = {
    "dithers": "dithers of each tile",
    "lyot": "Lyot coronagraph to main chip",
    "nircam_short": "NIRCam short-wavelength chips",
    "mosaic": "mosaic tiles",
}
# Why a pass had nothing to match.
LONE = {
    "dithers": "each tile has one image",
    "lyot": "no tile has both parts",
    "nircam_short": "no module has more than one chip",
    "mosaic": "all images are one tile",
}
# Sets of images whose references are named in the summary.
MAX_REFERENCES = 3


class Facts:
    """What is said of a result or its record, each worked out once.

    Parameters
    ----------
    result : `~levelmatch.record.levels.Levels`
        The result, or its record.
    """

    def __init__(self, result):
        self.result = result
        self.frames = result.frames
        self.passes = result.passes
        self.unit = result.unit

    @classmethod
    def of(cls, result):
        """Return the facts of a result, or those that were given."""
        return result if isinstance(result, cls) else cls(result)

    @property
    def unit_words(self):
        """The unit of comparison as labels have it."""
        return unit_words(self.unit)

    @cached_property
    def table(self):
        """The table of images."""
        return self.result.table

    @cached_property
    def pairs(self):
        """The table of pairs."""
        return self.result.pairs

    @cached_property
    def closures(self):
        """The table of loops."""
        return self.result.closures

    @cached_property
    def n_images(self):
        """Number of images that come out; a frame may be a part of one."""
        whole = {frame.product for frame in self.frames}
        return len(whole) if self.result.run.recombine else len(self.frames)

    @cached_property
    def order(self):
        """Rows of the table of images in the order of their names, as passes have them."""
        names = [frame.name for frame in self.frames]
        return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=int)

    @cached_property
    def ends(self):
        """Rows of each pair's two images in the table of images, shape (n, 2)."""
        measured = self.result.measured
        return self.order[np.stack([measured.first, measured.second], axis=1).astype(int)]

    @cached_property
    def kept(self):
        """Whether each pair counted, shape (n,)."""
        return np.asarray(self.pairs["kept"], dtype=bool)

    @cached_property
    def n_sigma(self):
        """What is left of each pair over its expected error, shape (n,); NaN if left out."""
        return values(self.pairs["n_sigma"])

    @cached_property
    def references(self):
        """Names of the images that the others are relative to."""
        return {r.name for r in self.result.references}

    @cached_property
    def sets(self):
        """The set of each image in the last pass, shape (n,); the largest is 0."""
        out = np.zeros(len(self.frames), dtype=int)
        for p in self.passes[-1:]:
            label = p.solution.component[p.matched.group]
            _, first, inverse, n = np.unique(
                label, return_index=True, return_inverse=True, return_counts=True
            )
            rank = np.argsort(np.lexsort((first, -n)))
            out[self.order] = rank[inverse]
        return out

    @cached_property
    def linked(self):
        """Whether any pair that counts joins each image, or one that is corrected with it."""
        linked = np.zeros(len(self.frames), dtype=bool)
        rank = np.argsort(self.order)
        for p in self.passes:
            groups = p.matched.group[rank[self.ends[p.rows[p.kept]]]]
            linked[self.order] |= np.isin(p.matched.group, groups)
        return linked

    @cached_property
    def levels(self):
        """Level of each image and its error in the unit of comparison, shape (2, n)."""
        scale = np.array([frame.scale for frame in self.frames])
        return np.stack([values(self.table["level"]), values(self.table["error"])]) * scale


# --------------------------------------------------------------------------------------
# In words


@dataclass(frozen=True)
class PassSummary:
    """One pass in numbers.

    Parameters
    ----------
    name, fit_type : str
        The pass, and what it fitted.
    n_pairs, n_kept : int
        Pairs measured, and those that counted.
    before, after : float
        Rms of the levels of the pairs that counted, before any pass and after this
        one; NaN without any.
    floor : float
        Systematic scatter of the pairs.
    """

    name: str
    fit_type: str
    n_pairs: int
    n_kept: int
    before: float
    after: float
    floor: float


def summarise(result):
    """Return a `PassSummary` of each pass of a result."""
    level = values(Facts.of(result).pairs["level"])
    out = []
    for p in result.passes:
        rows = p.rows[p.kept]
        out.append(
            PassSummary(
                p.matched.name,
                p.matched.fit_type,
                len(p.rows),
                len(rows),
                _rms(level[rows]),
                _rms(p.residual[p.kept]),
                p.solution.floor,
            )
        )
    return out


def _rms(numbers):
    return float(np.sqrt(np.mean(np.square(numbers)))) if len(numbers) else np.nan


def summary_lines(result):
    """Return what was done and found, a list of sentences."""
    facts = Facts.of(result)
    frames = facts.frames
    tiles = len({frame.tile for frame in frames})
    passes = summarise(facts)
    parts = f" ({len(frames)} parts)" if len(frames) != facts.n_images else ""
    kept, n = (sum(getattr(p, name) for p in passes) for name in ("n_kept", "n_pairs"))
    lines = [
        f"{count(facts.n_images, 'image')}{parts} in {count(tiles, 'tile')}, "
        f"{kept} of {count(n, 'pair')} kept."
    ]
    for k, p in enumerate(passes, start=1):
        head = f"Pass {k}, {PASS_NAMES.get(p.name, p.name)} ({p.fit_type})"
        if p.n_kept == 0:
            none = f"none of {count(p.n_pairs, 'pair')} counts" if p.n_pairs else "no pairs"
            lone = p.n_pairs == 0 and _has_lone_groups(facts.passes[k - 1].matched)
            lines.append(f"{head}: {f'{LONE[p.name]}: nothing to do' if lone else none}.")
            continue
        # What rounding alone leaves is nothing.
        after = p.after if p.after > 1e-9 * p.before else 0
        floor = f", floor {p.floor:.2g}" if p.floor > 0 else ""
        lines.append(
            f"{head}: {p.n_kept} of {count(p.n_pairs, 'pair')}, rms of differences "
            f"{p.before:.3g} {facts.unit_words} before, {after:.3g} after{floor}."
        )
    references = facts.result.references
    if not references:
        lines.append("Reference: none, the mean correction is zero.")
    for reference in references[:MAX_REFERENCES]:
        lines.append(f"Reference: {reference.name}, {reference.reason}.")
    if len(references) > MAX_REFERENCES:
        lines.append(f"References of {len(references) - MAX_REFERENCES} more sets.")
    return lines


def _has_lone_groups(matched):
    """Return whether a pass had nothing to match: each group is alone in its domain."""
    return len(np.unique(matched.domain)) == len(np.unique(matched.group))


def notes(result):
    """Return what needs a look, a list of sentences: rejected pairs, sets, lone images."""
    facts = Facts.of(result)
    out = []
    kept, reason = facts.kept, np.asarray(facts.pairs["reason"])
    kinds, counts = np.unique([str(r).partition(":")[0] for r in reason[~kept]], return_counts=True)
    if len(kinds):
        meaning = _reason_words(facts.result.options.get("solve", {}))
        words = [meaning.get(kind, kind) for kind in kinds]
        if len(kinds) > 1:
            words = [f"{n} {word}" for n, word in zip(counts, words, strict=True)]
        out.append(f"{count(len(reason[~kept]), 'pair')} left out: {'; '.join(words)}.")
    saved = int(np.count_nonzero(reason[kept] != ""))
    if saved:
        out.append(
            f"{count(saved, 'pair')} kept against the cuts, as the only link of two sets of images."
        )
    low = sum(np.count_nonzero(p.solution.robust < 0.5) for p in facts.passes)
    if low:
        out.append(
            f"{count(low, 'pair')} at odds with the rest, with less than half of the weight."
        )
    return out + _set_notes(facts)


def _reason_words(options):
    """What the reasons of pairs mean, by their first word; with the option that decides."""

    def limit(name):
        return f" {options[name]:g}" if options.get(name) is not None else " the limit"

    return {
        "area": f"overlap too small, under{limit('min_area')} of the mean overlap (min_area)",
        "extent": f"overlap too short, under{limit('min_linear')} of an image's side (min_linear)",
        "scatter": f"pixels scatter too much, by{limit('rms_limit')} sigma (rms_limit)",
    }


def _set_notes(facts):
    """Sentences on passes whose images fall apart, and on images without any overlap."""
    out = []
    for p in facts.passes:
        n_sets = [
            len(np.unique(p.solution.component[p.matched.group[p.matched.domain == d]]))
            for d in np.unique(p.matched.domain)
        ]
        if max(n_sets) > 1 and p.tie is not None:
            n = sum(n for n in n_sets if n > 1)
            out.append(
                f"{n} sets without overlap were tied by their sky; errors do not include that tie."
            )
        elif p.matched.name == "mosaic" and n_sets[0] > 1:
            out.append(
                f"The tiles form {n_sets[0]} sets with no overlap between them: levels "
                "do not compare from set to set."
            )
        elif max(n_sets) > 1:
            n = sum(n > 1 for n in n_sets)
            out.append(
                f"Pass {p.matched.name}: in {count(n, 'tile')} the images form "
                "several sets with no overlap between them."
            )
    alone = [f.name for f, linked in zip(facts.frames, facts.linked, strict=True) if not linked]
    if alone and len(facts.frames) > 1:
        shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        out.append(f"Without any pair that counts: {shown}.")
    return out


def unit_words(unit):
    """Return a unit as a label has it."""
    return "data units" if unit is None or not str(unit) else unit_text(unit)


# --------------------------------------------------------------------------------------
# How far to trust it


@dataclass(frozen=True)
class Seam:
    """The pair that is left the farthest from zero, in units of what is expected.

    Parameters
    ----------
    row : int
        Its row in the table of pairs.
    image1, image2 : str
        Its images.
    residual, error : float
        What is left of the difference, and the standard error of the difference of the two
        corrections where the images overlap.
    n_sigma : float
        What is left over what is expected.
    """

    row: int
    image1: str
    image2: str
    residual: float
    error: float
    n_sigma: float


def worst_seam(result):
    """Return the `Seam` of a result that agrees least, or `None` if no pair counts."""
    facts = Facts.of(result)
    sigmas = np.where(facts.kept, facts.n_sigma, np.nan)
    if not np.isfinite(sigmas).any():
        return None
    row = int(np.nanargmax(sigmas))
    pair = facts.pairs[row]
    return Seam(
        row,
        str(pair["image1"]),
        str(pair["image2"]),
        float(values(pair["residual"])),
        seam_error(facts, row),
        float(sigmas[row]),
    )


def seam_error(result, row):
    """Return the standard error of the difference of two corrections at their pair's centre."""
    facts = Facts.of(result)
    ends = facts.ends[row].tolist()
    axes = facts.result.measured.axes[row]
    to_pair = [transfer_matrix(facts.frames[k].whole_grid.axes, axes)[0] for k in ends]
    variance = 0.0
    for a, i in enumerate(ends):
        for b, j in enumerate(ends):
            sign = 1 if a == b else -1
            variance += sign * to_pair[a] @ facts.result.covariance(i, j) @ to_pair[b]
    return float(np.sqrt(max(variance, 0.0)))


def _zero_points(facts):
    """What was put in by each pass, in short."""
    for p in facts.passes:
        names = [r.name for r in p.references]
        held = ", ".join(names[:MAX_REFERENCES])
        if len(names) > MAX_REFERENCES:
            held += f" and {len(names) - MAX_REFERENCES} more"
        words = held or f"mean of each {'tile' if p.matched.name == 'dithers' else 'set'}"
        if p.matched.fit_type != "level":
            words += ", with its plane"
        if p.tie is not None:
            words += ", sets tied by their clipped sky levels"
        yield f"{p.matched.name}: {words}"


def trust_lines(result):
    """Return the gauge, how loops close and the worst seam, a list of sentences."""
    facts = Facts.of(result)
    lines = [f"Zero points, which overlaps cannot give: {'; '.join(_zero_points(facts))}."]
    loops = facts.closures
    if len(loops) == 0:
        lines.append("No loop of pairs: nothing tests the differences against each other.")
    else:
        sigmas = np.abs(values(loops["n_sigma"]))
        worst = int(np.argmax(np.nan_to_num(sigmas)))
        lines.append(
            f"Around {count(len(loops), 'loop')} of overlapping images the differences add up to "
            f"zero within {loops.meta['rms']:.2f} \u03c3 (rms, 1 is expected), at worst "
            f"{sigmas[worst]:.1f} \u03c3."
        )
    seam = worst_seam(facts)
    if seam is not None and len(loops):
        digits = decimals([seam.error])
        left, error = (
            f"{fixed(x, digits)} {facts.unit_words}" for x in (seam.residual, seam.error)
        )
        lines.append(
            f"Worst seam: {seam.image1} and {seam.image2}, where {left} is left, "
            f"{seam.n_sigma:.1f} \u03c3; the step between their corrections is known to {error}."
        )
    return lines


def has_slopes(table):
    """Return whether any correction is a plane."""
    return any(values(table[f"slope_{axis}"]).any() for axis in "uv")
