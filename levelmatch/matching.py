# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The four functions, and the whole job: find, measure, solve each pass, correct."""

import glob
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from logging import getLogger
from pathlib import Path

import numpy as np

from levelmatch.exceptions import FrameError, LevelMatchWarning
from levelmatch.images import jwst
from levelmatch.images.collect import collect_frames
from levelmatch.images.frame import Frame
from levelmatch.images.scales import compare_scales, flux_factors, scaled_frames
from levelmatch.measure.overlaps import Overlaps
from levelmatch.options import WEIGHTS, MeasureOptions, SolveOptions, fit_terms
from levelmatch.results.header import check_not_matched
from levelmatch.results.levels import Run, plain
from levelmatch.results.result import MatchResult, make_products
from levelmatch.sky.overlaps import overlap_groups
from levelmatch.solve.passes import solve_pass
from levelmatch.solve.reference import find_reference
from levelmatch.solve.run import correct_frames, run_steps, warn_flux_scales
from levelmatch.solve.steps import Step

__all__ = [
    "combine_nircam_short",
    "match_dithers",
    "match_levels",
    "match_mosaic",
    "recombine_lyot",
    "separate_lyot",
    "stack_tile",
]

logger = getLogger(__name__)

# Options of the whole job, one a pass.
FIT_TYPE_OF = ("dithers", "recombine_lyot", "combine_nircam_short", "mosaic_tiles")
GROUP_BY = ("auto", "jwst", "overlap")


@dataclass(frozen=True)
class _Settings:
    """What every function takes besides its images, checked once."""

    weights: str
    group_by: object
    measure: MeasureOptions
    solve: SolveOptions
    progress_bar: Callable | None
    dq_bits: object
    hdu: object
    rematch: bool
    flux_scale: object
    apply_flux_scale: bool

    @classmethod
    def of(
        cls,
        weights="ivar",
        group_by="auto",
        measure=None,
        solve=None,
        progress_bar=None,
        dq_bits=None,
        hdu=None,
        rematch=False,
        flux_scale=None,
        apply_flux_scale=False,
    ):
        if weights not in WEIGHTS:
            msg = f"weights: {weights!r} is none of {WEIGHTS}"
            raise ValueError(msg)
        for name, value, kind in (
            ("measure", measure, MeasureOptions),
            ("solve", solve, SolveOptions),
        ):
            if value is not None and not isinstance(value, kind):
                msg = f"{name}: expected {kind.__name__}, not {type(value).__name__}"
                raise TypeError(msg)
        if progress_bar is not None and not callable(progress_bar):
            msg = f"progress_bar: {progress_bar!r} is not callable; give for example tqdm.tqdm"
            raise TypeError(msg)
        if apply_flux_scale and flux_scale is None:
            msg = "apply_flux_scale: there is nothing to apply without flux_scale"
            raise ValueError(msg)
        _check_group_by(group_by)
        return cls(
            weights,
            group_by,
            measure or MeasureOptions(),
            solve or SolveOptions(),
            progress_bar,
            dq_bits,
            hdu,
            rematch,
            flux_scale,
            bool(apply_flux_scale),
        )

    @property
    def options(self):
        """The settings as plain values."""
        return {
            "weights": self.weights,
            "group_by": plain(self.group_by),
            "measure": asdict(self.measure),
            "solve": asdict(self.solve),
            "dq_bits": plain(self.dq_bits),
            "hdu": plain(self.hdu),
            "rematch": bool(self.rematch),
            "flux_scale": plain(self.flux_scale),
            "apply_flux_scale": self.apply_flux_scale,
        }


def _check_group_by(group_by):
    """Refuse what is neither a word, nor header keywords, nor a function."""
    if callable(group_by) or (isinstance(group_by, str) and group_by):
        return
    if not isinstance(group_by, list | tuple) or not all(isinstance(k, str) for k in group_by):
        msg = f"group_by: {group_by!r} is none of {GROUP_BY}, header keywords or a function"
        raise TypeError(msg)
    if not group_by:
        msg = f"group_by: {group_by!r} names no keyword; name one"
        raise ValueError(msg)


def match_dithers(
    images,
    *,
    fit_type="level",
    weights="ivar",
    group_by="auto",
    subtract_local=False,
    measure=None,
    solve=None,
    progress_bar=None,
    dq_bits=None,
    hdu=None,
    rematch=False,
    flux_scale=None,
    apply_flux_scale=False,
):
    """Match the dithers of each tile to one another.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `MatchResult`
        `~astropy.nddata.CCDData` or `~astropy.nddata.NDData` objects, paths of FITS files, or
        a mapping of tile name to such a list. Two-dimensional, of any shapes, each with a
        celestial WCS. Never changed.
    fit_type : {"level", "level+slope"}
        Subtract a constant or a plane from each image; ``"level+match"`` is the
        same as ``"level+slope"``.
    weights : {"ivar", "equal", "npix", "rms"}
        Weights of the pairs: inverse variance with a systematic floor estimated from
        the data, or PJPipe's 1, number of pixels, 1 / scatter**2.
    group_by : {"auto", "jwst", "overlap"}, str, list of str or callable
        What makes images one tile: JWST's program, observation, visit, group and
        activity; ``"overlap"``, sharing more than half of their area; the value
        of header keywords, where ``"FILENAME"`` is the file's name if a header has none; or of
        a function of an image's name and header. ``"auto"`` is
        the mapping's key, else ``"jwst"`` where all images have its keys, else ``"overlap"``.
    subtract_local : bool
        Also subtract from each tile the sigma-clipped median of its first image (by
        name, corrected), with sources masked, as PJPipe's ``do_local_subtraction``.
    measure : `MeasureOptions` or None
        How pairs are measured.
    solve : `SolveOptions` or None
        Which pairs count.
    progress_bar : callable or None
        Wraps an iterable over the pairs, such as `tqdm.tqdm`.
    dq_bits : None, int, str or list of str
        Data-quality bits of files that make a pixel bad; by default DO_NOT_USE and
        NON_SCIENCE for JWST, any for others.
    hdu : None, int, str or tuple
        The image's extension in files; by default SCI, else the first image.
    rematch : bool
        Whether to go on with images that a header says are already matched.
    flux_scale : None, str, sequence or mapping
        Factors that bring the images to one flux scale before they are compared: in the order
        of the input, by name, or as a header keyword with the zero point in magnitudes.
        What is subtracted is in each image's own scale.
    apply_flux_scale : bool
        Whether the images come out on that one flux scale too: data and uncertainties
        multiplied by the factors after the subtraction, and a keyword's zero point moved
        along; else only the comparison is in it.

    Returns
    -------
    result : `MatchResult`
        The corrected images. The mean correction of each tile is zero; a lone image
        gets zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is not understood.
    FrameError
        If an image cannot be used, or is already matched.
    `~astropy.units.UnitsError`
        If units cannot be compared.
    """
    fit_terms(fit_type)
    settings = _Settings.of(
        weights,
        group_by,
        measure,
        solve,
        progress_bar,
        dq_bits,
        hdu,
        rematch,
        flux_scale,
        apply_flux_scale,
    )
    collection = _collect(images, settings)
    return _match(
        "match_dithers",
        collection,
        settings,
        [Step("dithers", fit_type, subtract_local=subtract_local)],
    )


def recombine_lyot(
    images,
    lyot=None,
    *,
    fit_type="level",
    weights="ivar",
    group_by="auto",
    measure=None,
    solve=None,
    progress_bar=None,
    dq_bits=None,
    hdu=None,
    rematch=False,
    flux_scale=None,
    apply_flux_scale=False,
):
    """Match MIRI's Lyot coronagraph to its main chip, and make them one image again.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `MatchResult`
        Full MIRI images, which `separate_lyot` splits; or science and Lyot images
        named ``...mirimages...`` and ``...mirimagel...``; or, with ``lyot``, science images.
    lyot : iterable or None
        The Lyot image of each of ``images``.
    fit_type : {"level", "level+slope"}
        Subtract a constant or a plane from the Lyot parts of each tile.
    weights, group_by, measure, solve, progress_bar, dq_bits, hdu, rematch
        See `match_dithers`.
    flux_scale, apply_flux_scale
        See `match_dithers`.

    Returns
    -------
    result : `MatchResult`
        One image for each pair: data, uncertainty, mask and every other plane come
        from the Lyot image inside of its region. The science part's correction is
        zero. An image without the region passes through.

    Raises
    ------
    ValueError
        If the two lists differ in length, or an argument is not understood.
    FrameError
        If an image cannot be used, or is already matched.
    """
    fit_terms(fit_type)
    settings = _Settings.of(
        weights,
        group_by,
        measure,
        solve,
        progress_bar,
        dq_bits,
        hdu,
        rematch,
        flux_scale,
        apply_flux_scale,
    )
    collection = _collect(images, settings, recombine=True, lyot=lyot)
    return _match("recombine_lyot", collection, settings, [Step("lyot", fit_type)])


def combine_nircam_short(
    images,
    *,
    fit_type="level",
    weights="ivar",
    group_by="auto",
    measure=None,
    solve=None,
    progress_bar=None,
    dq_bits=None,
    hdu=None,
    rematch=False,
    flux_scale=None,
    apply_flux_scale=False,
):
    """Match the four short-wavelength chips of each NIRCam module of a tile.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `MatchResult`
        Images of nrca1 to nrca4 and nrcb1 to nrcb4, their dithers matched.
    fit_type : {"level", "level+slope"}
        Subtract a constant or a plane from all dithers of each chip.
    weights, group_by, measure, solve, progress_bar, dq_bits, hdu, rematch
        See `match_dithers`.
    flux_scale, apply_flux_scale
        See `match_dithers`.

    Returns
    -------
    result : `MatchResult`
        The corrected images. The mean correction of the chips of a module is
        zero; `match_mosaic` treats each module of a tile as one image from then on.

    Raises
    ------
    FrameError
        If an image cannot be used, is already matched, or is of no such chip.
    """
    fit_terms(fit_type)
    settings = _Settings.of(
        weights,
        group_by,
        measure,
        solve,
        progress_bar,
        dq_bits,
        hdu,
        rematch,
        flux_scale,
        apply_flux_scale,
    )
    collection = _collect(images, settings)
    for frame in collection.frames:
        if not jwst.NIRCAM_SHORT.match(frame.detector):
            msg = (
                f"{frame.name}: its detector {frame.detector or 'unknown'!r} is none of "
                "NIRCam's short-wavelength chips; leave it out"
            )
            raise FrameError(msg)
    return _match("combine_nircam_short", collection, settings, [Step("nircam_short", fit_type)])


def match_mosaic(
    images,
    *,
    fit_type="level",
    reference="auto",
    weights="ivar",
    group_by="auto",
    time_from_background="DT_BGR",
    combine_chips=None,
    stacked=False,
    measure=None,
    solve=None,
    progress_bar=None,
    dq_bits=None,
    hdu=None,
    rematch=False,
    flux_scale=None,
    apply_flux_scale=False,
):
    """Match all tiles of a mosaic, relative to a reference image.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `MatchResult`
        Images of the tiles, each tile's own images matched. Those of one tile
        are corrected as one.
    fit_type : {"level", "level+slope"}
        Subtract a constant or a plane from each tile.
    reference : str or int
        The image (or tile) whose correction is zero: its name, its index in the input,
        ``"mean"`` for a mean correction of zero, or ``"auto"``: the image closest in time to
        dedicated backgrounds, else that with the most overlaps, ties going to the
        largest overlapping area and then to the first name. Never a Lyot image. Where all images
        are one tile, `match_levels` holds a named image in the last pass that has pairs, and
        without such a pass it has no effect, which is warned of.
    time_from_background : str
        Header keyword of the time between an image and its backgrounds.
    combine_chips : bool or None
        Whether the NIRCam short-wavelength chips of a module are one image; by
        default, if `combine_nircam_short` has matched them.
    stacked : bool
        Measure between stacks of the tiles (see `stack_tile`), not between
        their images. On simulated MIRI sets the two are equally accurate (0.0017 and 0.0016
        MJy/sr over two sets), and stacks take 60 times as long: so not by default.
    weights, group_by, measure, solve, progress_bar, dq_bits, hdu, rematch
        See `match_dithers`.
    flux_scale, apply_flux_scale
        See `match_dithers`.

    Returns
    -------
    result : `MatchResult`
        The corrected images.

    Raises
    ------
    ValueError
        If the reference is not known, or an argument is not understood.
    FrameError
        If an image cannot be used, or is already matched.
    NoOverlapError
        If there are several tiles and none overlap.
    """
    fit_terms(fit_type)
    settings = _Settings.of(
        weights,
        group_by,
        measure,
        solve,
        progress_bar,
        dq_bits,
        hdu,
        rematch,
        flux_scale,
        apply_flux_scale,
    )
    collection = _collect(images, settings)
    frames = collection.frames
    if combine_chips is None:
        combine_chips = any(_has_pass(frame, "nircam_short") for frame in frames)
    mosaic = Step(
        "mosaic",
        fit_type,
        *_named_reference(reference, collection),
        keyword=time_from_background,
        combine_chips=bool(combine_chips),
        recombined=any(_has_pass(frame, "lyot") for frame in frames),
    )
    if stacked:
        return _match_stacks(collection, settings, mosaic)
    return _match("match_mosaic", collection, settings, [mosaic])


def match_levels(
    images,
    *,
    fit_type_dithers="level",
    recombine_lyot=False,
    fit_type_recombine_lyot="level",
    combine_nircam_short=False,
    fit_type_combine_nircam_short="level",
    fit_type_mosaic_tiles="level",
    reference="auto",
    weights="ivar",
    group_by="auto",
    time_from_background="DT_BGR",
    subtract_local=False,
    measure=None,
    solve=None,
    progress_bar=None,
    dq_bits=None,
    hdu=None,
    rematch=False,
    flux_scale=None,
    apply_flux_scale=False,
    extend=None,
    checkpoint=None,
    **unknown,
):
    """Do the whole job: all passes, with one look at the pixels.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `MatchResult`
        See `match_dithers`.
    fit_type_dithers : {"level", "level+slope"}
        See `match_dithers`.
    recombine_lyot : bool
        Whether to match MIRI's Lyot coronagraph to its main chip, and to make them one image.
    fit_type_recombine_lyot : {"level", "level+slope"}
        See `recombine_lyot`.
    combine_nircam_short : bool
        Whether to match NIRCam's short-wavelength chips of a module, from then on one image.
    fit_type_combine_nircam_short : {"level", "level+slope"}
        See `combine_nircam_short`.
    fit_type_mosaic_tiles : {"level", "level+slope"}
        See `match_mosaic`.
    reference, time_from_background
        See `match_mosaic`.
    weights, group_by, subtract_local, measure, solve, progress_bar, dq_bits
        See `match_dithers`.
    hdu, rematch, flux_scale, apply_flux_scale
        See `match_dithers`.

    extend : `~levelmatch.record.record.Record`, path or None
        A record of earlier images, to which new ones are added: pairs whose images are what
        they were, and share their noise with no new one, are not measured again.
    checkpoint : path or None
        A file that keeps pairs as they are measured. If the job is interrupted, it goes on
        from there when it is started again with the same file.
    **unknown
        Refused; each pass has a ``fit_type`` of its own.

    Returns
    -------
    result : `MatchResult`
        The corrected images: those of the four functions one after another, to rounding.

    Raises
    ------
    TypeError, ValueError
        If an argument is not understood.
    FrameError
        If an image cannot be used, or is already matched.
    NoOverlapError
        If there are several images and none overlap.
    `~astropy.units.UnitsError`
        If units cannot be compared.

    Notes
    -----
    Each pass subtracts its solution from the pairs measured at the outset. That is exact:
    the level of a difference shifts with a constant, and the right-hand side of its
    normal equations with the normal matrix times a plane's coefficients.
    """
    if unknown:
        name = next(iter(unknown))
        own = ", ".join(f"fit_type_{word}" for word in FIT_TYPE_OF)
        msg = f"match_levels() got an unexpected keyword argument {name!r}" + (
            f"; each pass has its own: {own}" if name == "fit_type" else ""
        )
        raise TypeError(msg)
    for fit_type in (
        fit_type_dithers,
        fit_type_recombine_lyot,
        fit_type_combine_nircam_short,
        fit_type_mosaic_tiles,
    ):
        fit_terms(fit_type)
    settings = _Settings.of(
        weights,
        group_by,
        measure,
        solve,
        progress_bar,
        dq_bits,
        hdu,
        rematch,
        flux_scale,
        apply_flux_scale,
    )
    collection = _collect(images, settings, recombine=recombine_lyot)
    steps = [Step("dithers", fit_type_dithers, subtract_local=subtract_local)]
    if recombine_lyot:
        steps.append(Step("lyot", fit_type_recombine_lyot))
    if combine_nircam_short:
        steps.append(Step("nircam_short", fit_type_combine_nircam_short))
    steps.append(
        Step(
            "mosaic",
            fit_type_mosaic_tiles,
            *_named_reference(reference, collection),
            keyword=time_from_background,
            combine_chips=combine_nircam_short,
            recombined=recombine_lyot,
        )
    )
    _check_idle(collection, settings, steps)
    known = None
    if extend is not None or checkpoint is not None:
        known = _pair_store(extend, checkpoint)
    return _match("match_levels", collection, settings, steps, known=known)


def _pair_store(extend, checkpoint):
    """The pairs that need no measurement, and where new ones are kept."""
    from levelmatch.measure.store import PairFile, PairStore
    from levelmatch.record.record import as_record

    rows = {} if extend is None else as_record(extend).rows()
    return PairStore(rows, None if checkpoint is None else PairFile(checkpoint))


def separate_lyot(image):
    """Split a full MIRI image into its main chip and its Lyot coronagraph.

    Parameters
    ----------
    image : `~astropy.nddata.CCDData`
        The image; ``SUBSTRT1`` and ``SUBSTRT2`` in its header give a subarray's origin.

    Returns
    -------
    science, lyot : `~astropy.nddata.CCDData`
        Copies of the image, masked inside of the region (rows from 735, columns up
        to 290 of the full array, 0-based) and outside of it; the second is `None`
        for a subarray without the region. Flags get DO_NOT_USE and NON_SCIENCE.
    """
    import copy

    region = jwst.lyot_region(image.meta, image.data.shape)
    science = copy.deepcopy(image)
    if region is None:
        return science, None
    lyot = copy.deepcopy(image)
    inside = np.zeros(image.data.shape, dtype=bool)
    inside[region] = True
    for part, away, name in ((science, inside, "science"), (lyot, ~inside, "lyot")):
        mask = np.zeros_like(inside) if part.mask is None else np.array(part.mask, dtype=bool)
        part.mask = mask | away
        if getattr(part, "flags", None) is not None:
            part.flags[away] |= part.flags.dtype.type(jwst.DEFAULT_BAD_BITS)
        if image.meta.get("FILENAME"):
            part.meta["FILENAME"] = jwst.part_name(str(image.meta["FILENAME"]), name)
    return science, lyot


def stack_tile(images, *, method="interp", dq_bits=None, hdu=None):
    """Return the mean of a tile's images on a common grid.

    Parameters
    ----------
    images : iterable, `~ccdproc.ImageFileCollection` or `MatchResult`
        The images, matched.
    method : {"interp", "exact", "adaptive"}
        The function of `reproject`.
    dq_bits, hdu
        See `match_dithers`.

    Returns
    -------
    stack : `~astropy.nddata.CCDData`
        In the unit of the first image by name, on a tangential grid with North up and
        the pixel scale of the finest image; masked where no image is good.
    """
    from levelmatch.results.mosaic import scaled_frames, stack_frames

    frames, unit = scaled_frames(images, dq_bits=dq_bits, hdu=hdu)
    name = f"{frames[0].tile or 'stack'}.fits"
    return stack_frames(frames, method=method, name=name, unit=unit)


@dataclass(frozen=True)
class _Collection:
    """Images with their tiles, and what comes out of them.

    ``order`` gives, for each frame of the input, its place in ``frames``, which are
    sorted by name: no result depends on the order of the input.
    """

    frames: list[Frame]
    order: list[int]
    recombine: bool
    unit: object


def _collect(images, settings, *, recombine=False, lyot=None):
    if isinstance(images, str | Path):
        call = f"sorted(glob.glob({str(images)!r}))" if glob.has_magic(str(images)) else "[...]"
        msg = f"images: {str(images)!r} is one path, not a list of images; give {call}"
        raise TypeError(msg)
    frames = collect_frames(images, dq_bits=settings.dq_bits, hdu=settings.hdu)
    recombine |= any(_has_pass(frame, "lyot") for frame in frames)
    if lyot is not None:
        frames = _paired(frames, collect_frames(lyot, dq_bits=settings.dq_bits, hdu=settings.hdu))
    elif recombine and not any(frame.part == "lyot" for frame in frames):
        frames = [_with_jwst_keys(frame) for frame in frames]
        if not any(frame.part == "lyot" for frame in frames):
            frames = [part for frame in frames for part in _split(frame)]
        if not any(frame.part == "lyot" for frame in frames):
            logger.info("no image is a Lyot image or has the Lyot region: all pass through")
    frames = _assign_tiles(frames, settings.group_by)
    factors = flux_factors(frames, settings.flux_scale)
    order = np.argsort([frame.name for frame in frames], kind="stable")
    rank = np.argsort(order)
    frames = [frames[i] for i in order]
    scales, unit = compare_scales(frames)
    scales = scales * factors[order]
    frames = [f.with_keys(scale=s) for f, s in zip(frames, scales, strict=True)]
    if settings.apply_flux_scale:
        frames = scaled_frames(frames, factors[order], settings.flux_scale)
    return _Collection(frames, list(rank), recombine, unit)


def _warn_idle(what):
    """Warn of an option that no image gives anything to do."""
    warnings.warn(f"{what}: it changes nothing", LevelMatchWarning, stacklevel=4)


def _check_idle(collection, settings, steps):
    """Warn of options of the whole job that do nothing for these images."""
    frames, names = collection.frames, [step.name for step in steps]
    if len(frames) == 1:
        msg = f"{frames[0].name} is the only image: there is nothing to match"
        warnings.warn(msg, LevelMatchWarning, stacklevel=3)
    if "lyot" in names and not any(frame.part == "lyot" for frame in frames):
        _warn_idle("recombine_lyot: no image is a Lyot image or has the Lyot region")
    if "nircam_short" in names and not any(
        jwst.NIRCAM_SHORT.match(frame.detector) for frame in frames
    ):
        _warn_idle("combine_nircam_short: no image is of NIRCam's short-wavelength chips")
    keyword = steps[-1].keyword
    # Most telescopes do not have the default.
    if keyword != Step.keyword and not any(keyword in frame.meta for frame in frames):
        _warn_idle(f"time_from_background: no image has the keyword {keyword!r}")
    if settings.solve.slope_prior is not None and all(s.fit_type == "level" for s in steps):
        _warn_idle("slope_prior: no pass fits slopes")


def _has_pass(frame, name):
    return any(applied.name == name for applied in frame.corrections)


def _paired(science, lyot):
    """Frames of two lists of the same length, named by the science images."""
    if len(science) != len(lyot):
        msg = f"lyot: {len(lyot)} images for {len(science)} science images; give one of each"
        raise ValueError(msg)
    frames = []
    for a, b in zip(science, lyot, strict=True):
        if a.shape != b.shape:
            msg = f"{b.name}: its shape {b.shape} is not that of {a.name}, {a.shape}"
            raise FrameError(msg)
        whole = a.product
        name = b.name if b.name != a.name else jwst.part_name(b.name, "lyot")
        frames += [
            a.with_keys(part="science", whole=whole),
            b.with_keys(
                part="lyot", whole=whole, name=name, region=jwst.lyot_region(b.meta, b.shape)
            ),
        ]
    return frames


def _split(frame):
    is_miri = frame.detector == "mirimage" or str(frame.meta.get("DETECTOR")) == "MIRIMAGE"
    return frame.split_lyot() if is_miri and frame.part != "lyot" else [frame]


def _with_jwst_keys(frame):
    """The frame with its detector and part, where they are JWST's; the tile if it has none."""
    keys = frame.jwst
    if keys is None or frame.detector:
        return frame
    region = jwst.lyot_region(frame.meta, frame.shape) if keys.part == "lyot" else None
    return frame.with_keys(detector=keys.detector, part=keys.part, region=region)


def _assign_tiles(frames, group_by):
    frames = [_with_jwst_keys(frame) for frame in frames]
    if isinstance(group_by, str) and group_by == "auto":
        if all(frame.tile for frame in frames):
            return frames
        group_by = "jwst" if all(frame.jwst is not None for frame in frames) else "overlap"
    if isinstance(group_by, str) and group_by == "overlap":
        label = overlap_groups([frame.whole_grid for frame in frames])
        first = {}
        for k in np.argsort([frame.name for frame in frames]):
            first.setdefault(label[k], frames[k].product)
        tiles = [first[k] for k in label]
    elif isinstance(group_by, str) and group_by == "jwst":
        for frame in frames:
            if frame.jwst is None:
                msg = f"{frame.name}: group_by='jwst', but neither name nor header are JWST's"
                raise FrameError(msg)
        tiles = [frame.jwst.tile for frame in frames]
    elif callable(group_by):
        tiles = [str(group_by(frame.whole or frame.name, frame.meta.copy())) for frame in frames]
    else:
        keywords = [group_by] if isinstance(group_by, str) else list(group_by)
        tiles = ["_".join(_card(frame, key) for key in keywords) for frame in frames]
    return [frame.with_keys(tile=tile) for frame, tile in zip(frames, tiles, strict=True)]


def _card(frame, key):
    if key == "FILENAME" and key not in frame.meta:
        # Plain files do not repeat their names; parts of an image are one still.
        return frame.product
    if key not in frame.meta:
        msg = f"{frame.name}: group_by: the header has no keyword {key!r}; name another"
        raise FrameError(msg)
    return str(frame.meta[key]).strip()


def _named_reference(reference, collection):
    """Return the kind of reference, and the name of the frame if the user named one."""
    frames = collection.frames
    if isinstance(reference, str) and reference in ("auto", "mean"):
        return reference, ""
    if isinstance(reference, int | np.integer) and not isinstance(reference, bool):
        names = (
            list(dict.fromkeys(frames[k].product for k in collection.order))
            if collection.recombine
            else [frames[k].name for k in collection.order]
        )
        if not -len(names) <= reference < len(names):
            msg = f"reference: there is no image {reference} among {len(names)}; the first is 0"
            raise ValueError(msg)
        reference = names[reference]
    return "image", find_reference(frames, reference)


def _match(function, collection, settings, steps, *, known=None):
    """Run passes over a collection."""
    frames = collection.frames
    plan = [step.plan(frames) for step in steps]
    if not settings.rematch:
        check_not_matched(frames, [step.name for step in steps])
    overlaps = Overlaps.of(frames, plan, settings.solve)
    overlaps.check(frames, plan)
    measured, sky = overlaps.measure(frames, settings, known)
    warn_flux_scales(frames, measured, settings.solve.flux_limit)
    corrected, results = run_steps(
        frames, steps, measured, overlaps.used, settings.weights, settings.solve, sky=sky
    )
    run = Run.of(function, steps, settings.options, collection, sky)
    result = _result(collection, corrected, results, measured, run, overlaps)
    named = steps[-1].image
    if named and len(frames) > 1 and plan[-1].group.max() == 0 and not result.references:
        msg = (
            f"reference: {named} changes nothing: all {len(frames)} images are one tile (see "
            "group_by), and get one correction; group_by='FILENAME' makes each image a tile"
        )
        warnings.warn(msg, LevelMatchWarning, stacklevel=3)
    return result


def _result(collection, frames, results, measured, run, overlaps=None):
    frames = [frames[k] for k in collection.order]
    products = make_products(frames, recombine=collection.recombine)
    return MatchResult(products, frames, results, measured, collection.unit, run, overlaps)


def _match_stacks(collection, settings, step):
    """Run the mosaic pass between stacks of its groups."""
    frames = collection.frames
    mosaic = step.plan(frames)
    if not settings.rematch:
        check_not_matched(frames, ["mosaic"])
    stacks = _stacks(collection, settings, mosaic)
    between = replace(
        mosaic, domain=np.zeros(len(stacks), dtype=np.intp), group=np.arange(len(stacks))
    )
    overlaps = Overlaps.of(stacks, [between], settings.solve)
    overlaps.check(stacks, [between])
    measured, sky = overlaps.measure(stacks, settings)
    rows = np.arange(len(measured))
    result = solve_pass(between, stacks, measured, rows, settings.weights, settings.solve, sky=sky)
    first = np.array([np.flatnonzero(mosaic.group == g)[0] for g in range(len(stacks))])
    references = [replace(r, name=frames[first[r.group]].name) for r in result.references]
    per_image = replace(result, matched=mosaic, references=references)
    measured = replace(measured, first=first[measured.first], second=first[measured.second])
    sky = None if sky is None else sky[mosaic.group]
    run = Run.of("match_mosaic", [step], {**settings.options, "stacked": True}, collection, sky)
    return _result(collection, correct_frames(frames, per_image), [per_image], measured, run)


def _stacks(collection, settings, mosaic):
    """Frames of the stacks of a pass's groups."""
    from levelmatch.results.mosaic import stack_frames

    method = "interp" if settings.measure.method == "direct" else settings.measure.method
    stacks = []
    for g in range(int(mosaic.group.max()) + 1):
        members = [collection.frames[i] for i in np.flatnonzero(mosaic.group == g)]
        science = [f for f in members if f.part != "lyot"] or members
        stack = stack_frames(members, method=method, name=f"{g:06d}", unit=collection.unit)
        stack.meta[mosaic.keyword] = _best_time(science, mosaic.keyword)
        stacks.append(stack)
    return [replace(f, part="science") for f in collect_frames(stacks)]


def _best_time(frames, keyword):
    """The smallest absolute time from the backgrounds of a tile's images, or blank."""
    times = []
    for frame in frames:
        try:
            times.append(abs(float(frame.meta.get(keyword))))
        except (TypeError, ValueError):
            continue
    return min(times, default="")
