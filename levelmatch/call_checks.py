# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Passes of a call, checks of its options, and warnings of options without effect."""

from collections.abc import Mapping
from numbers import Real

from levelmatch.exceptions import FrameError, warn_user
from levelmatch.images import jwst
from levelmatch.images.frame import EXCLUDE, HOLD
from levelmatch.options import SolveOptions, fit_terms
from levelmatch.pass_names import PASS_OF
from levelmatch.solve.offsets import OFFSET_PASSES
from levelmatch.solve.passes import Pass

__all__ = [
    "check_chips",
    "check_held",
    "check_subtract",
    "fit_types_of",
    "missing_dithers",
    "warn_idle_options",
    "warn_lone_images",
    "warn_unheld_reference",
    "with_excluded_pass",
]


def fit_types_of(fit_type, keywords):
    """Return the fit type of each pass; remove the ``fit_type_*`` keywords from ``keywords``."""
    if isinstance(fit_type, Mapping):
        unknown = set(fit_type) - set(PASS_OF) - set(PASS_OF.values())
        if unknown:
            known = ", ".join(PASS_OF.values())
            msg = f"fit_type: {min(unknown)!r} is not a pass; the passes are {known}"
            raise ValueError(msg)
        given = {PASS_OF.get(word, word): value for word, value in fit_type.items()}
    else:
        given = dict.fromkeys(PASS_OF.values(), fit_type)
    for word, name in PASS_OF.items():
        if f"fit_type_{word}" in keywords:
            given[name] = keywords.pop(f"fit_type_{word}")
    for value in given.values():
        fit_terms(value)
    return {name: given.get(name, "level") for name in PASS_OF.values()}


def missing_dithers(frames, settings, fit_type):
    """Return a list with the dithers pass if a tile has unmatched images, otherwise an empty list.

    If the pass cannot be added, a warning names two of the images.
    """
    matched = [frame.has_pass("dithers") or "LMDLEV" in frame.meta for frame in frames]
    tiles = {}
    for frame, done in zip(frames, matched, strict=True):
        if not done:
            tiles.setdefault((frame.tile, frame.detector, frame.part), []).append(frame.name)
    together = [names for names in tiles.values() if len(names) > 1]
    if not together:
        return []
    if not any(matched) and not settings.measure.stacked:
        return [Pass("dithers", fit_type)]
    names = max(together, key=len)
    cause = "other images are" if any(matched) else "stacked=True measures whole tiles"
    msg = (
        f"{names[0]} and {names[1]} are of one tile, which no dithers pass has matched, and "
        f"{cause}: the steps between the {len(names)} images of this tile stay; call match_dithers "
        "first, or see group_by"
    )
    warn_user(msg)
    return []


def check_chips(frames):
    """Refuse images of detectors other than NIRCam's short-wavelength chips."""
    for frame in frames:
        if not jwst.NIRCAM_SHORT.match(frame.detector):
            msg = (
                f"{frame.name}: its detector {frame.detector or 'unknown'!r} is none of "
                "NIRCam's short-wavelength chips; leave it out"
            )
            raise FrameError(msg)


def check_held(frames, solve, last):
    """Refuse held images that contradict another option.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    solve : `~levelmatch.SolveOptions`
        Options of solving.
    last : `~levelmatch.solve.passes.Pass`
        The last pass of the call.

    Raises
    ------
    ValueError
        If held images contradict another option; the message names both.
    """
    held = [frame for frame in frames if frame.role == HOLD]
    if not held:
        return
    names = {name for f in held for name in (f.name, f.product, f.file)}
    if last.reference == "image" and last.image not in names:
        msg = f"reference: {last.image} is not among the images of hold; omit one of the two"
        raise ValueError(msg)
    for name, value in (("subtract_local", True), ("disconnected", "sky")):
        if getattr(solve, name) == value:
            msg = f"hold: {name}={value!r} moves the images that are held; omit one of the two"
            raise ValueError(msg)


def with_excluded_pass(passes, frames):
    """Return the passes, with an additional pass if images are excluded from the fit."""
    if not any(frame.role == EXCLUDE for frame in frames):
        return passes
    last = passes[-1]
    return [*passes, Pass("fit_exclude", last.fit_type, keyword=last.keyword)]


def check_subtract(frames, settings, passes, *, recombine=False):
    """Check that headers can hold the corrections if the option ``subtract`` is false.

    A header can hold one level, but no plane, pattern, second level of a Lyot part or flux scale.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    settings : `~levelmatch.settings.Settings`
        The settings of the run.
    passes : list of `~levelmatch.solve.passes.Pass`
        The passes of the run.
    recombine : bool
        Whether Lyot parts are joined to their science parts.

    Raises
    ------
    ValueError
        If it is false, and an option needs more than one level for each image.
    """
    if settings.solve.subtract:
        if settings.solve.sky_keyword is not None:
            _warn_idle("sky_keyword: the levels are subtracted")
        return
    for matched in passes:
        if fit_terms(matched.fit_type) > 1:
            msg = (
                f"subtract=False: the pass {matched.name!r} fits {matched.fit_type!r}, and no "
                "header holds a plane; fit levels"
            )
            raise ValueError(msg)
    if settings.solve.pattern is not None:
        msg = "subtract=False: no header holds the pattern of a detector; omit pattern"
        raise ValueError(msg)
    if recombine:
        msg = "subtract=False: a recombined MIRI image has two levels; match without recombine_lyot"
        raise ValueError(msg)
    for frame in frames:
        _check_sky_keyword(frame, settings.solve.sky_keyword)
        if frame.output_factor != 1.0:
            msg = f"{frame.name}: subtract=False: apply_flux_scale changes its pixels; omit one"
            raise ValueError(msg)


def _check_sky_keyword(frame, keyword):
    """Refuse a keyword whose card holds something else than a number."""
    value = None if keyword is None else frame.meta.get(keyword.upper())
    if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
        msg = f"{frame.name}: sky_keyword: its {keyword.upper()} is {value!r}; name another keyword"
        raise ValueError(msg)


def warn_idle_options(collection, settings, passes):
    """Warn of options that have no effect on these images."""
    frames, names = collection.frames, [p.name for p in passes]
    if len(frames) == 1:
        msg = f"{frames[0].name} is the only image: there is nothing to match"
        warn_user(msg)
    if "lyot" in names and not any(frame.part == "lyot" for frame in frames):
        _warn_idle("recombine_lyot: no image is a Lyot image or has the Lyot region")
    if "detectors" in names and len({frame.detector for frame in frames}) < 2:
        _warn_idle("combine_detectors: all images are of one detector")
    if "nircam_short" in names and not any(
        jwst.NIRCAM_SHORT.match(frame.detector) for frame in frames
    ):
        _warn_idle("combine_nircam_short: no image is of NIRCam's short-wavelength chips")
    keyword = passes[-1].keyword
    # Most telescopes lack the default keyword, which causes no warning.
    is_default = keyword == SolveOptions.time_from_background
    if not is_default and not any(keyword in frame.meta for frame in frames):
        _warn_idle(f"time_from_background: no image has the keyword {keyword!r}")
    if settings.solve.slope_prior is not None and all(p.fit_type == "level" for p in passes):
        _warn_idle("slope_prior: no pass fits slopes")
    if settings.solve.share_offsets and not any(
        p.name in OFFSET_PASSES and p.fit_type == "level" for p in passes
    ):
        _warn_idle("share_offsets: no pass matches the levels of a tile's detectors")
    if settings.solve.slope_gauge == "mean" and passes[-1].fit_type == "level":
        _warn_idle("slope_gauge: the mosaic fits no slopes")


def _warn_idle(reason):
    warn_user(f"{reason}: it has no effect")


def warn_unheld_reference(result, named, last):
    """Warn of a named reference that no pass could hold at zero."""
    n = len(result.frames)
    if named and n > 1 and last.group.max() == 0 and not result.references:
        msg = (
            f"reference: {named} has no effect: all {n} images are one tile (see group_by), and "
            "get one correction; group_by='FILENAME' makes each image a tile"
        )
        warn_user(msg)


def warn_lone_images(frames, settings, grouped):
    """Warn if no image is corrected, because none shares half of its area with another.

    Nothing is said of tiles that the user names.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    settings : `~levelmatch.settings.Settings`
        The settings of the run.
    grouped : list of `~levelmatch.solve.passes.Pass`
        The passes with their groups.
    """
    by_overlap = settings.group_by in ("auto", "overlap") and all(f.tile == f.name for f in frames)
    if len(frames) < 2 or not by_overlap or any(frame.corrections for frame in frames):
        return
    if all(p.name == "dithers" and p.has_lone_groups for p in grouped):
        warn_user(
            f"no image is corrected: each of the {len(frames)} images is a tile of its own, as "
            "none shares more than half of its area with another; match_mosaic and match_levels "
            "match tiles, and group_by assigns images to tiles"
        )
