# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Match images: read, find pairs, measure them, solve each pass, correct."""

from dataclasses import replace
from logging import getLogger

from levelmatch.call_checks import (
    check_chips,
    check_held,
    check_subtract,
    fit_types_of,
    missing_dithers,
    warn_idle_options,
    warn_lone_images,
    warn_unheld_reference,
    with_excluded_pass,
)
from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import warn_user
from levelmatch.images.collection import collection_of
from levelmatch.measure.copies import warn_coadds, warn_copies
from levelmatch.measure.pair_selection import Overlaps
from levelmatch.option_values import check_flag
from levelmatch.options import fit_terms
from levelmatch.record.run import Run
from levelmatch.results.header import check_not_matched
from levelmatch.results.result import MatchResult
from levelmatch.settings import Settings
from levelmatch.solve.flux_scales import warn_exposures, warn_flux_scales
from levelmatch.solve.passes import Pass
from levelmatch.solve.reference import named_reference
from levelmatch.solve.run import run_passes
from levelmatch.solve.wings import warn_wings

__all__ = [
    "combine_detectors",
    "combine_nircam_short",
    "match_dithers",
    "match_levels",
    "match_mosaic",
    "recombine_lyot",
]

logger = getLogger(__name__)


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
    settings = Settings.of("match_dithers", moved, group_by, progress_bar, (read, measure, solve))
    collection = collection_of(images, settings)
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
        zero. An image without the region is unchanged.

    Raises
    ------
    <<raises>>
    """
    fit_terms(fit_type)
    settings = Settings.of("recombine_lyot", moved, group_by, progress_bar, (read, measure, solve))
    collection = collection_of(images, settings, recombine=True, lyot=lyot)
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
        Their detectors are nrca1 to nrca4 and nrcb1 to nrcb4, and their dithers are matched.
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
        "combine_nircam_short", moved, group_by, progress_bar, (read, measure, solve)
    )
    collection = collection_of(images, settings)
    check_chips(collection.frames)
    return _match("combine_nircam_short", collection, settings, [Pass("nircam_short", fit_type)])


@share_parameters
def combine_detectors(
    images,
    *,
    detector="auto",
    fit_type="level",
    group_by="auto",
    progress_bar=None,
    read=None,
    measure=None,
    solve=None,
):
    """Match the detectors of each tile: the chips of any camera.

    This is the general form of `combine_nircam_short`.

    Parameters
    ----------
    <<images>>
        Their dithers are matched.
    detector : str
        Header keyword of the detector. ``"auto"`` uses the extension in a file of several images,
        otherwise DETECTOR, CCDNUM, CCDCHIP, CHIPID or CCDNAME in the header.
    fit_type : {"level", "level+slope", "auto"}
        Subtract a constant or a plane from all dithers of each detector; ``"auto"`` chooses
        for each.
    <<group_by>>
    <<options>>

    Returns
    -------
    result : `MatchResult`
        The corrected images. The mean correction of the detectors of a tile is
        zero; `match_mosaic` then treats each tile as one image.

    Raises
    ------
    <<raises>>
    """
    fit_terms(fit_type)
    settings = Settings.of("combine_detectors", {}, group_by, progress_bar, (read, measure, solve))
    settings = replace(settings, solve=replace(settings.solve, combine_detectors=detector))
    collection = collection_of(images, settings)
    return _match("combine_detectors", collection, settings, [Pass("detectors", fit_type)])


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
    settings = Settings.of("match_mosaic", moved, group_by, progress_bar, (read, measure, solve))
    collection = collection_of(images, settings, mosaic=True)
    frames = collection.frames
    if combine_chips is None:
        combine_chips = any(frame.has_pass("nircam_short") for frame in frames)
    recombined = any(frame.has_pass("lyot") for frame in frames)
    mosaic = _mosaic_pass(collection, settings, fit_type, reference, combine_chips, recombined)
    passes = [*missing_dithers(frames, settings, fit_type), mosaic]
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
        ``"lyot"``, ``"nircam_short"``, ``"detectors"`` and ``"mosaic"``, or the names in
        ``fit_types``.
    recombine_lyot : bool
        Match MIRI's Lyot coronagraph to its main chip, and make them one image.
    combine_nircam_short : bool
        Match NIRCam's short-wavelength chips of each module, and then treat them as one image.
    <<reference>>
    <<group_by>>
    <<options>>
    **fit_types
        ``fit_type_dithers``, ``fit_type_recombine_lyot``,
        ``fit_type_combine_nircam_short``, ``fit_type_combine_detectors`` and
        ``fit_type_mosaic_tiles``: the fit type of one pass.

    Returns
    -------
    result : `MatchResult`
        The corrected images. The four functions, called one after another, give the same
        images, except for rounding errors.

    Raises
    ------
    <<raises>>
    NoOverlapError
        If there are several images and none overlap.

    Notes
    -----
    Each pass subtracts its solution from the pairs that were measured at the start. This is exact:
    a constant shifts the level of a difference, and a plane changes the right-hand side of the
    normal equations by the normal matrix times its coefficients.
    """
    fit_type_of = fit_types_of(fit_type, fit_types)
    settings = Settings.of(
        "match_levels", fit_types, group_by, progress_bar, (read, measure, solve)
    )
    check_flag("recombine_lyot", recombine_lyot)
    check_flag("combine_nircam_short", combine_nircam_short)
    collection = collection_of(images, settings, recombine=bool(recombine_lyot), mosaic=True)
    subtract_local = settings.solve.subtract_local
    passes = [Pass("dithers", fit_type_of["dithers"], subtract_local=subtract_local)]
    if recombine_lyot:
        passes.append(Pass("lyot", fit_type_of["lyot"]))
    if combine_nircam_short:
        passes.append(Pass("nircam_short", fit_type_of["nircam_short"]))
    if settings.solve.combine_detectors is not None:
        passes.append(Pass("detectors", fit_type_of["detectors"]))
    last = fit_type_of["mosaic"], reference, combine_nircam_short, recombine_lyot
    passes.append(_mosaic_pass(collection, settings, *last))
    warn_idle_options(collection, settings, passes)
    return _match("match_levels", collection, settings, passes)


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
        combine_detectors=settings.solve.combine_detectors is not None
        or any(frame.has_pass("detectors") for frame in frames),
        recombined=bool(recombined),
    )


def _match(function, collection, settings, passes):
    """Run passes over a collection: find pairs, measure them, solve each pass, correct."""
    settings = settings.in_unit(collection.unit)
    frames = collection.frames
    if settings.solve.pattern is not None:
        # A pattern is measured from pixels, so the files of a catalogue are opened.
        frames = [frame.opened() for frame in frames]
    check_subtract(frames, settings, passes, recombine=collection.recombine)
    last = passes[-1]
    check_held(frames, settings.solve, last)
    passes = with_excluded_pass(passes, frames)
    grouped = [p.grouped(frames) for p in passes]
    if not settings.read.rematch:
        check_not_matched(frames, [p.name for p in passes if p.name != "fit_exclude"])
    warn_lone_images(frames, settings, grouped)
    overlaps = Overlaps.of(frames, grouped, settings.solve)
    overlaps.check(frames, grouped)
    known = _known_pairs(settings.measure)
    logger.info("measuring %d pairs of %d images", len(overlaps.pairs), len(frames))
    measured, sky = overlaps.measure(frames, settings, known, collection.notes)
    collection.notes.warn()
    warn_copies(frames, measured)
    warn_coadds(frames, measured)
    if settings.read.flux_scale is None:
        warn_exposures(frames, measured)
    warn_flux_scales(frames, measured, settings.solve.flux_limit)
    corrected, solved = run_passes(
        frames, passes, measured, overlaps.pass_of, settings.solve, sky=sky
    )
    run = Run.of(function, passes, _recorded(settings, collection), collection, sky)
    # A later run measures cells again.
    again = None if overlaps.cells is not None else overlaps
    result = _result(collection, corrected, solved, measured, run, again)
    warn_unheld_reference(result, last.image, grouped[-1])
    warn_wings(result)
    return result


def _recorded(settings, collection):
    """Return the settings of a run as plain values, with notes and resolution of its images."""
    notes, nside = collection.notes, collection.nside
    options = settings.plain()
    if notes.noted:
        options |= {"notes": notes.sentences, "noted": notes.noted}
    return options | ({} if nside is None else {"nside": nside})


def _known_pairs(measure):
    """Return rows of pairs that are measured already, and the file of new rows; `None` without."""
    if measure.extend is None and measure.checkpoint is None:
        return None
    from levelmatch.measure.pair_store import PairFile
    from levelmatch.record.record_files import as_record

    rows = {} if measure.extend is None else as_record(measure.extend).rows()
    return rows, None if measure.checkpoint is None else PairFile(measure.checkpoint)


def _match_stacks(collection, settings, matched):
    """Run the mosaic pass between stacks of its tiles."""
    from levelmatch.stacks import solve_stacks

    settings = settings.in_unit(collection.unit)
    if settings.solve.pattern is not None:
        warn_user("pattern: stacks do not keep a pattern of the detector: it has no effect")
    check_subtract(collection.frames, settings, [matched], recombine=collection.recombine)
    if not settings.read.rematch:
        check_not_matched(collection.frames, ["mosaic"])
    frames, solved, measured, sky = solve_stacks(collection, settings, matched)
    run = Run.of("match_mosaic", [matched], _recorded(settings, collection), collection, sky)
    return _result(collection, frames, [solved], measured, run)


def _result(collection, frames, passes, measured, run, overlaps=None):
    for p in passes:
        kept, floor = p.kept.sum(), p.solution.floor
        logger.info("pass %s: %d of %d pairs kept, floor %.3g", p.name, kept, len(p.kept), floor)
    frames = [frames[k] for k in collection.order]
    return MatchResult(frames, passes, measured, run, overlaps)
