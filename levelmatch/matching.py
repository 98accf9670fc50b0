# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Match images: read, find pairs, measure them, solve each pass, correct."""

from collections.abc import Mapping

from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import FrameError, warn_user
from levelmatch.images import jwst
from levelmatch.images.collection import collect
from levelmatch.measure.overlaps import Overlaps
from levelmatch.options import Settings, SolveOptions, fit_terms
from levelmatch.pass_names import PASS_OF
from levelmatch.record.run import Run
from levelmatch.results.header import check_not_matched
from levelmatch.results.result import MatchResult
from levelmatch.solve.flux_scales import warn_flux_scales
from levelmatch.solve.passes import Pass
from levelmatch.solve.reference import named_reference
from levelmatch.solve.run import run_passes

__all__ = [
    "combine_nircam_short",
    "match_dithers",
    "match_levels",
    "match_mosaic",
    "recombine_lyot",
]


@share_parameters
def match_dithers(
    images,
    *,
    fit_type="level",
    group_by="auto",
    progress_bar=None,
    read=None,
    measure=None,
    solve=None,
    **moved,
):
    """Match the dithers of each tile to one another.

    Parameters
    ----------
    <<images>>
    fit_type : {"level", "level+slope", "auto"}
        Subtract a constant or a plane from each image; ``"auto"`` chooses for each image.
        ``"level+match"`` is the same as ``"level+slope"``.
    <<group_by>>
    <<options>>
    <<moved>>

    Returns
    -------
    result : `MatchResult`
        The corrected images. The mean correction of each tile is zero; a lone image
        gets zero.

    Raises
    ------
    <<raises>>
    """
    fit_terms(fit_type)
    settings = Settings.of(
        "match_dithers",
        moved,
        group_by=group_by,
        progress_bar=progress_bar,
        read=read,
        measure=measure,
        solve=solve,
    )
    collection = collect(images, settings)
    dithers = Pass("dithers", fit_type, subtract_local=settings.solve.subtract_local)
    return _match("match_dithers", collection, settings, [dithers])


@share_parameters
def recombine_lyot(
    images,
    lyot=None,
    *,
    fit_type="level",
    group_by="auto",
    progress_bar=None,
    read=None,
    measure=None,
    solve=None,
    **moved,
):
    """Match MIRI's Lyot coronagraph to its main chip, and make them one image again.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `MatchResult`
        Full MIRI images, which `separate_lyot` splits; or science and Lyot images
        named ``...mirimages...`` and ``...mirimagel...``; or, with ``lyot``, science images.
    lyot : iterable or None
        The Lyot image of each of ``images``.
    fit_type : {"level", "level+slope", "auto"}
        Subtract a constant or a plane from the Lyot parts of each tile; ``"auto"``
        chooses for each.
    <<group_by>>
    <<options>>
    <<moved>>

    Returns
    -------
    result : `MatchResult`
        One image for each pair: data, uncertainty, mask and all other arrays come
        from the Lyot image inside its region. The correction of the science part is
        zero. An image without the region passes through.

    Raises
    ------
    <<raises>>
    """
    fit_terms(fit_type)
    settings = Settings.of(
        "recombine_lyot",
        moved,
        group_by=group_by,
        progress_bar=progress_bar,
        read=read,
        measure=measure,
        solve=solve,
    )
    collection = collect(images, settings, recombine=True, lyot=lyot)
    return _match("recombine_lyot", collection, settings, [Pass("lyot", fit_type)])


@share_parameters
def combine_nircam_short(
    images,
    *,
    fit_type="level",
    group_by="auto",
    progress_bar=None,
    read=None,
    measure=None,
    solve=None,
    **moved,
):
    """Match the four short-wavelength chips of each NIRCam module of a tile.

    Parameters
    ----------
    <<images>>
        Of the detectors nrca1 to nrca4 and nrcb1 to nrcb4, with matched dithers.
    fit_type : {"level", "level+slope", "auto"}
        Subtract a constant or a plane from all dithers of each chip; ``"auto"`` chooses
        for each.
    <<group_by>>
    <<options>>
    <<moved>>

    Returns
    -------
    result : `MatchResult`
        The corrected images. The mean correction of the chips of a module is
        zero; `match_mosaic` then treats each module of a tile as one image.

    Raises
    ------
    <<raises>>
    """
    fit_terms(fit_type)
    settings = Settings.of(
        "combine_nircam_short",
        moved,
        group_by=group_by,
        progress_bar=progress_bar,
        read=read,
        measure=measure,
        solve=solve,
    )
    collection = collect(images, settings)
    _check_chips(collection.frames)
    return _match("combine_nircam_short", collection, settings, [Pass("nircam_short", fit_type)])


@share_parameters
def match_mosaic(
    images,
    *,
    fit_type="level",
    reference="auto",
    group_by="auto",
    combine_chips=None,
    progress_bar=None,
    read=None,
    measure=None,
    solve=None,
    **moved,
):
    """Match all tiles of a mosaic, relative to a reference image.

    Parameters
    ----------
    <<images>>
        The images of each tile get one correction. If no dithers pass has matched them
        (see `match_dithers`), the call begins with that pass.
    fit_type : {"level", "level+slope", "auto"}
        Subtract a constant or a plane from each tile; ``"auto"`` chooses for each tile.
    <<reference>>
    <<group_by>>
    combine_chips : bool or None
        Treat the NIRCam short-wavelength chips of a module as one image; by
        default, if `combine_nircam_short` has matched them.
    <<options>>
    <<moved>>

    Returns
    -------
    result : `MatchResult`
        The corrected images.

    Raises
    ------
    <<raises>>
    NoOverlapError
        If there are several tiles and none overlap.
    """
    fit_terms(fit_type)
    settings = Settings.of(
        "match_mosaic",
        moved,
        group_by=group_by,
        progress_bar=progress_bar,
        read=read,
        measure=measure,
        solve=solve,
    )
    collection = collect(images, settings, mosaic=True)
    frames = collection.frames
    if combine_chips is None:
        combine_chips = any(frame.has_pass("nircam_short") for frame in frames)
    recombined = any(frame.has_pass("lyot") for frame in frames)
    mosaic = _mosaic_pass(collection, settings, fit_type, reference, combine_chips, recombined)
    passes = [*_missing_dithers(frames, settings, fit_type), mosaic]
    if settings.measure.stacked:
        return _match_stacks(collection, settings, mosaic)
    return _match("match_mosaic", collection, settings, passes)


@share_parameters
def match_levels(
    images,
    *,
    fit_type="level",
    recombine_lyot=False,
    combine_nircam_short=False,
    reference="auto",
    group_by="auto",
    progress_bar=None,
    read=None,
    measure=None,
    solve=None,
    **fit_types,
):
    """Match images in all passes, reading each image once.

    Parameters
    ----------
    <<images>>
    fit_type : {"level", "level+slope", "auto"} or mapping
        Subtract a constant or a plane in each pass; ``"auto"`` chooses for each image or
        tile. A mapping gives the fit type of some passes, with the keys ``"dithers"``,
        ``"lyot"``, ``"nircam_short"`` and ``"mosaic"``, or the names in ``fit_types``.
    recombine_lyot : bool
        Match MIRI's Lyot coronagraph to its main chip, and make them one image.
    combine_nircam_short : bool
        Match NIRCam's short-wavelength chips of a module; they are one image from then on.
    <<reference>>
    <<group_by>>
    <<options>>
    **fit_types
        ``fit_type_dithers``, ``fit_type_recombine_lyot``,
        ``fit_type_combine_nircam_short`` and ``fit_type_mosaic_tiles``: the fit type of
        one pass.

    Returns
    -------
    result : `MatchResult`
        The corrected images. They are those of the four functions called one after
        another, to rounding.

    Raises
    ------
    <<raises>>
    NoOverlapError
        If there are several images and none overlap.

    Notes
    -----
    Each pass subtracts its solution from the pairs that were measured at the start. That is
    exact: the level of a difference shifts with a constant, and the right-hand side of its
    normal equations with the normal matrix times the coefficients of a plane.
    """
    fit_type_of = _fit_types(fit_type, fit_types)
    settings = Settings.of(
        "match_levels",
        fit_types,
        group_by=group_by,
        progress_bar=progress_bar,
        read=read,
        measure=measure,
        solve=solve,
    )
    collection = collect(images, settings, recombine=recombine_lyot, mosaic=True)
    subtract_local = settings.solve.subtract_local
    passes = [Pass("dithers", fit_type_of["dithers"], subtract_local=subtract_local)]
    if recombine_lyot:
        passes.append(Pass("lyot", fit_type_of["lyot"]))
    if combine_nircam_short:
        passes.append(Pass("nircam_short", fit_type_of["nircam_short"]))
    last = fit_type_of["mosaic"], reference, combine_nircam_short, recombine_lyot
    passes.append(_mosaic_pass(collection, settings, *last))
    _warn_idle_options(collection, settings, passes)
    return _match("match_levels", collection, settings, passes)


def _fit_types(fit_type, keywords):
    """Return the fit type of each pass; take the keywords that give one out of a dictionary."""
    if isinstance(fit_type, Mapping):
        unknown = set(fit_type) - set(PASS_OF) - set(PASS_OF.values())
        if unknown:
            known = ", ".join(PASS_OF.values())
            msg = f"fit_type: {min(unknown)!r} is no pass; the passes are {known}"
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


def _mosaic_pass(collection, settings, fit_type, reference, combine_chips, recombined):
    frames = [collection.frames[k] for k in collection.order]
    names = [f.product if collection.recombine else f.name for f in frames]
    kind, image = named_reference(reference, collection.frames, list(dict.fromkeys(names)))
    return Pass(
        "mosaic",
        fit_type,
        reference=kind,
        image=image,
        keyword=settings.solve.time_from_background,
        combine_chips=bool(combine_chips),
        recombined=bool(recombined),
    )


def _missing_dithers(frames, settings, fit_type):
    """Return the dithers pass, in a list, if no pass has matched the images of a tile.

    Where the pass cannot be added, a warning names two of the images.
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
        f"{names[0]} and {names[1]} are of one tile, which no dithers pass has matched, while "
        f"{cause}: the steps between its {len(names)} images stay; call match_dithers first, or "
        "see group_by"
    )
    warn_user(msg)
    return []


def _check_chips(frames):
    """Refuse images of other detectors than NIRCam's short-wavelength chips."""
    for frame in frames:
        if not jwst.NIRCAM_SHORT.match(frame.detector):
            msg = (
                f"{frame.name}: its detector {frame.detector or 'unknown'!r} is none of "
                "NIRCam's short-wavelength chips; leave it out"
            )
            raise FrameError(msg)


def _warn_idle_options(collection, settings, passes):
    """Warn of options that have no effect on these images."""
    frames, names = collection.frames, [p.name for p in passes]
    if len(frames) == 1:
        msg = f"{frames[0].name} is the only image: there is nothing to match"
        warn_user(msg)
    if "lyot" in names and not any(frame.part == "lyot" for frame in frames):
        _warn_idle("recombine_lyot: no image is a Lyot image or has the Lyot region")
    if "nircam_short" in names and not any(
        jwst.NIRCAM_SHORT.match(frame.detector) for frame in frames
    ):
        _warn_idle("combine_nircam_short: no image is of NIRCam's short-wavelength chips")
    keyword = passes[-1].keyword
    # Most telescopes lack the default keyword.
    is_default = keyword == SolveOptions.time_from_background
    if not is_default and not any(keyword in frame.meta for frame in frames):
        _warn_idle(f"time_from_background: no image has the keyword {keyword!r}")
    if settings.solve.slope_prior is not None and all(p.fit_type == "level" for p in passes):
        _warn_idle("slope_prior: no pass fits slopes")
    if settings.solve.slope_gauge == "mean" and passes[-1].fit_type == "level":
        _warn_idle("slope_gauge: the mosaic fits no slopes")


def _warn_idle(reason):
    warn_user(f"{reason}: it has no effect")


def _match(function, collection, settings, passes):
    """Run passes over a collection: find pairs, measure them, solve each pass, correct."""
    frames = collection.frames
    grouped = [p.grouped(frames) for p in passes]
    if not settings.read.rematch:
        check_not_matched(frames, [p.name for p in passes])
    overlaps = Overlaps.of(frames, grouped, settings.solve)
    overlaps.check(frames, grouped)
    known = _known_pairs(settings.measure)
    measured, sky = overlaps.measure(frames, settings, known, collection.notes)
    collection.notes.warn()
    warn_flux_scales(frames, measured, settings.solve.flux_limit)
    corrected, solved = run_passes(frames, passes, measured, overlaps.used, settings.solve, sky=sky)
    run = Run.of(function, passes, _recorded(settings, collection), collection, sky)
    result = _result(collection, corrected, solved, measured, run, overlaps)
    _warn_unheld_reference(result, passes[-1].image, grouped[-1])
    return result


def _recorded(settings, collection):
    """Return the settings of a run as plain values, with the notes on its images if any."""
    notes = collection.notes.sentences
    return settings.plain() | ({"notes": notes} if notes else {})


def _known_pairs(measure):
    """Return the store of pairs that are measured already, or `None`."""
    if measure.extend is None and measure.checkpoint is None:
        return None
    from levelmatch.measure.store import PairFile, PairStore
    from levelmatch.record.record import as_record

    rows = {} if measure.extend is None else as_record(measure.extend).rows()
    return PairStore(rows, None if measure.checkpoint is None else PairFile(measure.checkpoint))


def _match_stacks(collection, settings, matched):
    """Run the mosaic pass between stacks of its tiles."""
    from levelmatch.stacks import solve_stacks

    if not settings.read.rematch:
        check_not_matched(collection.frames, ["mosaic"])
    frames, solved, measured, sky = solve_stacks(collection, settings, matched)
    run = Run.of("match_mosaic", [matched], _recorded(settings, collection), collection, sky)
    return _result(collection, frames, [solved], measured, run)


def _result(collection, frames, passes, measured, run, overlaps=None):
    frames = [frames[k] for k in collection.order]
    return MatchResult(frames, passes, measured, run, overlaps)


def _warn_unheld_reference(result, named, last):
    """Warn of a named reference that no pass could hold at zero."""
    n = len(result.frames)
    if named and n > 1 and last.group.max() == 0 and not result.references:
        msg = (
            f"reference: {named} has no effect: all {n} images are one tile (see group_by), and "
            "get one correction; group_by='FILENAME' makes each image a tile"
        )
        warn_user(msg)
