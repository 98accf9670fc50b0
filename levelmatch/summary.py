# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sentences on a result or its record, for the command line, the report and the tables."""

from dataclasses import dataclass

import numpy as np

from levelmatch.diagnostics import Diagnostics
from levelmatch.images.frame import all_held
from levelmatch.pass_names import PASSES
from levelmatch.solve.flux_scales import flux_text, scatter_text
from levelmatch.solve.wings import wings_text
from levelmatch.text import capitalised, count, decimals, fixed, list_names, values

__all__ = [
    "Finding",
    "anchored_gauge",
    "findings",
    "gauge_sentence",
    "headline",
    "notes",
    "summary_lines",
    "trust_lines",
    "verdict",
]


# Reasons why an image is isolated.
NO_OVERLAP, NONE_KEPT = "no overlap", "no pair kept"
# Largest number of references that the summary names.
MAX_REFERENCES = 3
# Smallest residual of the worst seam, in standard errors, that is a finding.
NOTED_SIGMA = 3.0
# Smallest ratio of the systematic floor to the errors of pairs for which the floor is named.
FLOOR_RATIO = 3.0
# Largest number of findings that the headline names.
MAX_FINDINGS = 4


# --------------------------------------------------------------------------------------
# The headline


@dataclass(frozen=True)
class Finding:
    """Finding that needs attention.

    Parameters
    ----------
    words : str
        The finding in a few words, for the headline.
    sentence : str
        The finding as a sentence.
    target : tuple of str and int, or None
        Row of the table that shows it: ``("pair", row)`` or ``("image", row)``.
    """

    words: str
    sentence: str
    target: tuple | None = None


def verdict(result):
    """Return one sentence on the seams before and after matching."""
    facts = Diagnostics.of(result)
    n_kept = int(np.count_nonzero(facts.kept))
    if n_kept == 0:
        reason = "the caller holds all images" if all_held(facts.frames) else "no pair is kept"
        return f"No seam was matched: {reason}."
    seams, unit = facts.seams, facts.unit_words
    before = f"{seams.before:.3g} {unit} rms ({seams.before_worst:.3g} at worst)"
    if len(facts.closures) == 0:
        return f"Steps of {before} are removed, but no loop of pairs tests the result."
    after = (
        f"{seams.after:.3g} {unit} rms ({seams.after_worst:.3g} at worst), or "
        f"{seams.sigma:.1f} \u03c3 ({seams.sigma_worst:.1f} \u03c3 at worst), after"
    )
    if seams.n_bad == 0 and seams.sigma < 2:
        head = "The seams agree within their errors"
        if np.isfinite(facts.left_by_planes):
            head += ", which gradients of the images enlarge"
        elif seams.floor > FLOOR_RATIO * seams.noise:
            head += f", which include a systematic floor of {seams.floor:.2g} {unit}"
    elif seams.sigma < 2:
        noun = "seam does" if seams.n_bad == 1 else "seams do"
        head = f"{seams.n_bad} of {n_kept} {noun} not agree within the errors"
    else:
        head = "The seams do not agree within their errors"
    return f"{head}: {before} before matching, {after}."


def headline(result):
    """Return the verdict, and a sentence that names the most important findings."""
    facts = Diagnostics.of(result)
    words = [finding.words for finding in findings(facts)]
    shown = "; ".join(words[:MAX_FINDINGS])
    return [verdict(facts), f"Look first at: {shown}."] if shown else [verdict(facts)]


def findings(result):
    """Return the `Finding` objects of a result, the most important first."""
    facts = Diagnostics.of(result)
    return [
        *(f for f in _seam_findings(facts) if facts.seams.sigma_worst > NOTED_SIGMA),
        *_suspect_findings(facts),
        *_flux_findings(facts),
        *_wings_findings(facts),
        *_tilt_findings(facts),
        *_slope_findings(facts),
        *_isolated_findings(facts),
        *_set_findings(facts),
    ]


def _seam_findings(facts):
    """Yield the finding on the worst seam."""
    row = facts.worst_seam
    if row is None or len(facts.closures) == 0:
        return
    numbers = float(values(facts.pairs["residual"])[row]), facts.seam_error(row)
    digits = decimals([numbers[1]])
    left, error = (f"{fixed(x, digits)} {facts.unit_words}" for x in numbers)
    ends = " and ".join(facts.labels[facts.names[i]] for i in facts.ends[row].tolist())
    sigma = f"{facts.n_sigma[row]:.1f} \u03c3"
    sentence = (
        f"Worst seam: {ends}, with a residual of {left}, {sigma}; the standard error of the step "
        f"between their corrections is {error}."
    )
    yield Finding(f"the worst seam, {ends} ({sigma})", sentence, ("pair", row))


def _suspect_findings(facts):
    """Yield a finding for each suspect image or tile."""
    for row, suspect in facts.suspects.items():
        whole = len(suspect.images) > 1
        label = facts.labels[facts.names[row]]
        name = f"tile {facts.frames[row].tile}" if whole else f"image {label}"
        reasons = []
        if suspect.n_sigma > 0:
            reasons.append(
                f"its differences lie {suspect.n_sigma:.1f} \u03c3 (rms) from those that the "
                "others predict"
            )
        if suspect.scatter > 0:
            reasons.append(
                f"the variance within its overlaps is {suspect.scatter:.0f} times that of the "
                "others (astrometry, flux scale or artefacts)"
            )
        head = f"{capitalised(name)} disagrees with its neighbours"
        reason, closure = ", and ".join(reasons), _closure_words(facts, suspect)
        yield Finding(f"the suspect {name}", f"{head}: {reason}; {closure}.", ("image", row))


def _closure_words(facts, suspect):
    """Return the rms closure of loops without and with a suspect, in words."""
    if np.isnan(suspect.without_it):
        return "without it no loop of pairs tests the others"
    without = f"without it the closure is {suspect.without_it:.2g} {facts.unit_words} (rms)"
    return f"{without}, with it {suspect.with_it:.2g}"


def _flux_findings(facts):
    """Yield the finding on images of other flux scales, or on the scatter of all scales."""
    differences = facts.flux_differences
    if not differences:
        text = scatter_text(facts.result.measured, facts.unit_words)
        if text:
            yield Finding("the flux scales", f"{capitalised(text)}.")
        return
    frames = [facts.frames[k] for k in facts.order]
    row = int(facts.order[differences[0].image])
    yield Finding(
        f"the flux scale of {facts.labels[facts.names[row]]} (factor {differences[0].factor:.3g})",
        flux_text(frames, differences, facts.flux_limit) + ".",
        ("image", row),
    )


def _wings_findings(facts):
    """Yield the finding on wings of stars that differ between the images."""
    text = wings_text(facts.result)
    if text:
        yield Finding("the wings of stars", f"{capitalised(text)}.")


def _slope_findings(facts):
    """Yield the finding that planes leave smaller residuals than levels."""
    left = facts.left_by_planes
    if np.isfinite(left):
        after, unit = facts.seams.after, facts.unit_words
        yield Finding(
            f"planes (fit type auto), which leave {left:.3g} {unit} where levels leave {after:.3g}",
            f"Levels leave {after:.3g} {unit} rms between images, planes {left:.3g}: the fit type "
            "auto fits planes where the data need them (fit_type).",
        )


def _tilt_findings(facts):
    """Yield a finding for each reference whose gradient tilts the mosaic."""
    for r in facts.result.references:
        if r.tilt > 0:
            row = facts.names.index(r.name)
            yield Finding(
                f"the gradient of the reference {r.name}",
                f"The reference {r.name} is not flat: its zero plane tilts the mosaic by "
                f"{r.tilt:.3g} {facts.unit_words} from edge to edge, which is the mean slope of "
                f"the other images relative to it ({r.tilt_sigma:.1f} \u03c3). Name a "
                "flatter reference, or let the mean slope be zero (slope_gauge mean).",
                ("image", row),
            )


def _isolated_findings(facts):
    """Yield the finding on images without a kept pair."""
    rows = np.flatnonzero(~facts.linked).tolist()
    if rows and len(facts.frames) > 1:
        names = list_names([facts.labels[facts.names[row]] for row in rows])
        words = "the isolated image" if len(rows) == 1 else "the isolated images"
        yield Finding(
            f"{words} {names}",
            f"Without any pair that is kept, so not corrected: {names}.",
            ("image", rows[0]),
        )


def _set_findings(facts):
    """Yield the finding on disconnected sets of the mosaic."""
    last = facts.passes[-1] if facts.passes else None
    if last is None or last.name != "mosaic" or last.tie is not None:
        return
    n_sets, n_linked = (len(np.unique(facts.sets[rows])) for rows in (slice(None), facts.linked))
    if n_sets > 1 and n_linked > 1:
        yield Finding(
            f"{n_linked} sets of images that do not overlap",
            f"The tiles form {n_sets} sets with no overlap between them: levels do not compare "
            "from set to set.",
        )


# --------------------------------------------------------------------------------------
# The summary


def summary_lines(result):
    """Return sentences on the images, the passes and the references."""
    facts = Diagnostics.of(result)
    tiles = len({frame.tile for frame in facts.frames})
    parts = f" ({len(facts.frames)} parts)" if len(facts.frames) != facts.n_images else ""
    kept, n = (sum(getattr(p, name) for p in facts.passes) for name in ("n_kept", "n_pairs"))
    images = f"{count(facts.n_images, 'image')}{parts} in {count(tiles, 'tile')}"
    nside = facts.result.options.get("nside")
    cells = "" if nside is None else f", from healpix cells of nside {nside}"
    lines = [f"{images}, {kept} of {count(n, 'pair')} kept{cells}."]
    lines += [_pass_line(facts, k, p) for k, p in enumerate(facts.passes)]
    references = facts.result.references
    if not references:
        lines.append(f"Reference: none, {facts.result.reference_reason}.")
    lines += [
        f"Reference: {facts.labels.get(r.name, r.name)}, {r.reason}."
        for r in references[:MAX_REFERENCES]
    ]
    if len(references) > MAX_REFERENCES:
        lines.append(f"References of {len(references) - MAX_REFERENCES} more sets.")
    # `trust_lines` also names the terms that overlaps do not determine.
    shared = [words for p in facts.passes for words in _shared_words(p, facts.unit_words)]
    lines += [f"{capitalised(words.partition(';')[0])}." for words in shared]
    return lines + _anchor_lines(facts)


def _anchor_lines(facts):
    """Return a list with a sentence on the absolute level, empty without an anchor."""
    anchor = facts.result.options.get("anchor")
    if anchor is None:
        return []
    error = anchor["error"]
    digits = decimals([error])
    level, shown = (f"{fixed(x, digits)} {facts.unit_words}" for x in (anchor["level"], error))
    colours = [f"{c:.3g}" for c in anchor["colour"] if c != 1]
    colour = f", colour {', '.join(colours)}" if colours else ""
    known = f" \u00b1 {shown}" if np.isfinite(error) else ", of unknown error"
    return [f"Absolute level: {level}{known} subtracted, by {list_names(anchor['names'])}{colour}."]


def _pass_line(facts, k, p):
    """Return a sentence on one pass."""
    head = f"Pass {k + 1}, {PASSES[p.name].words} ({p.fit_type})"
    if p.n_kept == 0:
        if p.n_pairs:
            return f"{head}: none of {count(p.n_pairs, 'pair')} is kept."
        lone = p.has_lone_groups
        return f"{head}: {f'{PASSES[p.name].lone}: nothing to match' if lone else 'no pairs'}."
    # Rounding errors count as zero.
    before, after = facts.rms_of_pass(p)
    after = after if after > 1e-9 * before else 0
    floor = f", floor {p.floor:.2g}" if p.floor > 0 else ""
    return (
        f"{head}: {p.n_kept} of {count(p.n_pairs, 'pair')}, rms of differences "
        f"{before:.3g} {facts.unit_words} before, {after:.3g} after{floor}."
    )


# --------------------------------------------------------------------------------------
# Notes


def notes(result):
    """Return sentences on pairs, images, flux scales and sets, and the notes of the run."""
    facts = Diagnostics.of(result)
    # The worst seam is not repeated here, because `trust_lines` always names it.
    worst = list(_seam_findings(facts))
    others = [f.sentence for f in findings(facts) if f not in worst]
    patterns = [p.sentence(facts.unit_words) for q in facts.passes for p in q.patterns]
    patterns = [f"{capitalised(sentence)}." for sentence in patterns]
    sentences = [*_pair_notes(facts), *others, *patterns, *_set_notes(facts)]
    of_run = facts.result.options.get("notes", ())
    return sentences + [t if t.endswith((".", "!", "?")) else f"{t}." for t in of_run]


def _pair_notes(facts):
    """Return sentences on rejected pairs, and on kept pairs that disagree with the others."""
    out = []
    kept, reason = facts.kept, np.asarray(facts.pairs["reason"])
    kinds, counts = np.unique([str(r).partition(":")[0] for r in reason[~kept]], return_counts=True)
    if len(kinds):
        meaning = _reason_words(facts.result.options.get("solve", {}))
        words = [meaning.get(kind, kind) for kind in kinds]
        if len(kinds) > 1:
            words = [f"{n} with {word}" for n, word in zip(counts, words, strict=True)]
        out.append(f"{count(len(reason[~kept]), 'pair')} rejected: {'; '.join(words)}.")
    saved = int(np.count_nonzero(reason[kept] != ""))
    if saved:
        noun = "links" if saved > 1 else "link"
        out.append(
            f"{count(saved, 'pair')} kept in spite of the cuts, as the only {noun} of two sets of "
            "images."
        )
    low = int(np.count_nonzero(facts.odd))
    if low:
        out.append(
            f"{count(low, 'pair')} at odds with the others, with less than half of the weight."
        )
    return out


def _reason_words(options):
    """Return the meaning of each reason for rejection, with the option that sets the limit."""

    def limit(name):
        return f" {options[name]:g}" if options.get(name) is not None else " the limit"

    return {
        "area": f"overlap too small, under{limit('min_area')} of the mean overlap (min_area)",
        "extent": f"overlap too short, under{limit('min_linear')} of an image's side (min_linear)",
        "scatter": f"pixel scatter too large, by{limit('rms_limit')} sigma (rms_limit)",
    }


def _set_notes(facts):
    """Return sentences on passes whose images form disconnected sets."""
    out = []
    for p in facts.passes:
        n_sets = [
            len(np.unique(p.solution.component[p.group[p.domain == d]]))
            for d in np.unique(p.domain)
        ]
        if max(n_sets) > 1 and p.tie is not None:
            n = sum(n for n in n_sets if n > 1)
            out.append(
                f"{n} sets without overlap were tied by their sky; errors do not include that tie."
            )
        elif p.name != "mosaic" and max(n_sets) > 1:
            n = sum(n > 1 for n in n_sets)
            out.append(
                f"Pass {p.name}: in {count(n, 'tile')} the images form "
                "several sets with no overlap between them."
            )
    return out


# --------------------------------------------------------------------------------------
# Trust


def _zero_points(facts):
    """Yield the gauge of each pass in a few words."""
    if all_held(facts.frames):
        yield facts.result.reference_reason
        return
    for p in facts.passes:
        held = [facts.labels.get(r.name, r.name) for r in p.references]
        held = list_names(held, MAX_REFERENCES)
        words = held or f"mean of each {'tile' if p.name == 'dithers' else 'set'}"
        if p.fit_type != "level":
            by_mean = p.references and _holds_mean_slope(p, facts.result.options.get("solve", {}))
            words += ", and the mean slope of each set" if by_mean else ", with its plane"
        if p.tie is not None:
            words += ", sets tied by their clipped sky levels"
        words = "; ".join([words, *_shared_words(p, facts.unit_words)])
        yield f"{p.name}: {words}"


def _shared_words(p, unit):
    """Return sentences on the pattern and the offsets shared by detectors."""
    pattern = [] if p.pattern is None else [p.pattern.words(unit)]
    return pattern + [offsets.words(unit) for offsets in p.offsets]


def _holds_mean_slope(p, solve):
    """Return whether a pass sets the mean slope to zero."""
    return p.name != "lyot" and solve.get("slope_gauge") == "mean"


def gauge_sentence(passes, solve, unit):
    """Return the gauge of all passes as a sentence, for the tables and the record.

    Parameters
    ----------
    passes : list of `~levelmatch.solve.passes.Pass`
        The passes.
    solve : dict
        Recorded options of solving.
    unit : str
        The common unit as text.

    Returns
    -------
    sentence : str
        The gauge.
    """
    words = []
    for p in passes:
        held = list_names([r.name for r in p.references])
        text = f"the correction of {held} is zero" if held else ""
        text = text or "the mean correction of each connected set is zero"
        if p.fit_type != "level" and held and _holds_mean_slope(p, solve):
            text += ", and the mean slope of each connected set is"
            text += ": a plane common to all images is not seen"
        elif p.fit_type != "level":
            text += ", its plane included: a plane common to all images is not seen"
        if p.tie is not None:
            text += "; sets without overlap have the same mean clipped sky level, as assumed"
        text = "; ".join([text, *_shared_words(p, unit)])
        words.append(f"{p.name}: {text}")
    return "; ".join(words)


def anchored_gauge(gauge, anchor):
    """Return the sentence on the gauge, extended by the recorded anchor if there is one."""
    if anchor is None:
        return gauge
    return f"{gauge}; all: the absolute level is that of {list_names(anchor['names'])}"


def trust_lines(result):
    """Return sentences on the gauge, the closures of loops and the worst seam."""
    facts = Diagnostics.of(result)
    lines = [f"Zero points, which overlaps cannot determine: {'; '.join(_zero_points(facts))}."]
    loops = facts.closures
    if len(loops) == 0:
        lines.append("No loop of pairs: nothing tests the differences against each other.")
        return lines
    sigmas = np.abs(values(loops["n_sigma"]))
    worst = int(np.argmax(np.nan_to_num(sigmas)))
    lines.append(
        f"Around {count(len(loops), 'loop')} of overlapping images the differences add up to "
        f"zero within {loops.meta['rms']:.2f} \u03c3 (rms, 1 is expected), at worst "
        f"{sigmas[worst]:.1f} \u03c3."
    )
    return lines + [finding.sentence for finding in _seam_findings(facts)]
