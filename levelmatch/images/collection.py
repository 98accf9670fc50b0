# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The images of a run: read, paired, split, assigned to tiles and scaled."""

import glob
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path

import numpy as np

from levelmatch.exceptions import FrameError
from levelmatch.images import jwst
from levelmatch.images.associations import is_association
from levelmatch.images.boxes import with_boxes
from levelmatch.images.filters import check_filters
from levelmatch.images.frame import Frame
from levelmatch.images.inputs import collect_frames
from levelmatch.images.known_levels import note_pending_levels, with_known_levels
from levelmatch.images.notes import Notes
from levelmatch.images.overscan import note_overscan
from levelmatch.images.scales import flux_factors, to_common_unit, with_output_factors
from levelmatch.images.selection import selection_of, with_roles
from levelmatch.images.sky_cells import CellsSource, of_cells
from levelmatch.images.table_files import is_table
from levelmatch.images.tiles import assign_tiles, with_detectors

__all__ = ["Collection", "collection_of", "without_lyot"]

logger = getLogger(__name__)

# Smallest distance, in pixels, of the science and the Lyot image of one exposure for which another
# science image may be the right one. That one is nearer by the second factor: the astrometry of the
# two may differ.
LYOT_SHIFT, NEARER = 2.0, 0.5


@dataclass(frozen=True)
class Collection:
    """The images of a run.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        Sorted by name: no result depends on the order of the input.
    order : list of int
        For each frame of the input, its index in ``frames``.
    recombine : bool
        Join Lyot parts to their science parts in the output.
    unit : `~astropy.units.Unit` or None
        The common unit, in which images are compared.
    notes : `~levelmatch.images.notes.Notes`
        Notes on the images.
    """

    frames: list[Frame]
    order: list[int]
    recombine: bool
    unit: object
    notes: Notes = field(default_factory=Notes)

    @property
    def nside(self):
        """Resolution of the healpix cells that take the place of pixels, or `None`."""
        source = self.frames[0].source
        return source.cells.nside if isinstance(source, CellsSource) else None


def collection_of(images, settings, *, recombine=False, lyot=None, mosaic=False):
    """Return the images of a run as a `Collection`.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `~levelmatch.MatchResult`
        Any input, see `~levelmatch.match_dithers`.
    settings : `~levelmatch.settings.Settings`
        The settings of the run.
    recombine : bool
        Split full MIRI images into their parts, and join the parts in the output.
    lyot : iterable or None
        The Lyot image of each of ``images``.
    mosaic : bool
        Images of all tiles are compared, not only those of each tile.

    Raises
    ------
    FrameError
        If an image cannot be used.
    """
    if isinstance(images, str | Path) and not (is_association(images) or is_table(images)):
        call = f"sorted(glob.glob({str(images)!r}))" if glob.has_magic(str(images)) else "[...]"
        msg = f"images: {str(images)!r} is one path, not a list of images; give {call}"
        raise TypeError(msg)
    read, notes = settings.read, Notes()
    frames = collect_frames(images, read, notes)
    recombine |= any(frame.has_pass("lyot") for frame in frames)
    if recombine and of_cells(frames):
        msg = f"{frames[0].name}: recombine_lyot needs pixels, and it is given by healpix cells"
        raise FrameError(msg)
    # Warn now, because a note may explain a later error.
    notes.warn()
    if lyot is not None:
        frames = _paired(frames, collect_frames(lyot, read, notes))
    else:
        frames = [_with_jwst_keys(frame) for frame in frames]
        _check_halves(frames)
        frames = _split(frames) if recombine else frames
    frames = [_with_jwst_keys(frame) for frame in frames]
    of_cells(frames, settings)
    frames = _fitted_regions(frames) if recombine else without_lyot(frames, notes, mosaic)
    frames = with_boxes(_with_options(frames, settings))
    frames = assign_tiles(frames, settings.group_by)
    if not read.mix_filters:
        check_filters(frames, by_tile=not mosaic)
    note_overscan(frames, notes)
    note_pending_levels(frames, notes, keep=not settings.solve.subtract)
    frames, order, unit = _on_common_scale(frames, read, notes)
    notes.warn()
    return Collection(frames, order, recombine, unit, notes)


def _with_options(frames, settings):
    """Return the frames with known levels, roles, regions and detectors that the user gave."""
    read, solve = settings.read, settings.solve
    if read.levels is not None:
        frames = with_known_levels(frames, read.levels)
    frames = with_roles(frames, solve.hold, solve.fit_exclude)
    selection = selection_of(read.regions, only=read.only_regions)
    if selection is not None:
        frames = [frame.with_keys(selection=selection) for frame in frames]
    if solve.combine_detectors is not None:
        frames = with_detectors(frames, solve.combine_detectors)
    return frames


def _on_common_scale(frames, read, notes):
    """Return the frames sorted by name with factors to a common unit, their order, and the unit."""
    factors = flux_factors(frames, read.flux_scale)
    by_name = np.argsort([frame.name for frame in frames], kind="stable")
    frames, factors = [frames[i] for i in by_name], factors[by_name]
    frames, unit = to_common_unit(frames, factors, read.pixel_area, notes)
    if read.apply_flux_scale:
        frames = with_output_factors(frames, factors, read.flux_scale)
    return frames, np.argsort(by_name).tolist(), unit


def _paired(science, lyot):
    """Return the frames of two lists of equal length, named by the science images."""
    if len(science) != len(lyot):
        msg = f"lyot: {len(lyot)} images for {len(science)} science images; give one of each"
        raise ValueError(msg)
    for a, b in zip(science, lyot, strict=True):
        if a.shape != b.shape:
            msg = f"{b.name}: its shape {b.shape} is not that of {a.name}, {a.shape}"
            raise FrameError(msg)
    _check_order(science, lyot)
    frames = []
    for a, b in zip(science, lyot, strict=True):
        whole = a.product
        name = b.name if b.name != a.name else jwst.part_name(b.name, "lyot")
        frames += [
            a.with_keys(part="science", whole=whole),
            b.with_keys(
                part="lyot", whole=whole, name=name, region=jwst.lyot_region(b.meta, b.shape)
            ),
        ]
    return frames


def _check_order(science, lyot):
    """Refuse Lyot images that lie at the science images of other exposures."""
    centres, own = (np.array([f.whole_grid.axes[0] for f in part]) for part in (science, lyot))
    shifts = own - centres
    limits = LYOT_SHIFT * np.sqrt([a.whole_grid.pixel_area for a in science])
    # Only lists in one order have one shift, which the astrometry of one part may have.
    if (np.linalg.norm(shifts - shifts.mean(axis=0), axis=1) <= limits).all():
        return
    for k, (a, b) in enumerate(zip(science, lyot, strict=True)):
        distance = np.linalg.norm(centres - own[k], axis=1)
        nearest = int(np.argmin(distance))
        if distance[k] > limits[k] and distance[nearest] < NEARER * distance[k]:
            msg = (
                f"{b.name}: lyot: it is given as the Lyot image of {a.name}, but lies at "
                f"{science[nearest].name}; give both lists in one order"
            )
            raise FrameError(msg)


def _check_halves(frames):
    """Refuse a full MIRI image beside a part of the same exposure, whose pixels it holds."""
    halves = {jwst.exposure_of(f.name): f for f in frames if _is_half(f)}
    for frame in frames if halves else ():
        half = halves.get(jwst.exposure_of(frame.name))
        if half is not None and _is_miri(frame) and not _is_half(frame):
            msg = (
                f"{frame.name}: {half.name} is a part of this exposure, and its pixels would count "
                "twice; give either full images or their parts"
            )
            raise FrameError(msg)


def _is_half(frame):
    """Return whether a frame is the science or the Lyot part of a MIRI image."""
    by_name = frame.part == "lyot" or jwst.recombined_name(frame.name) != frame.name
    # Parts that an earlier call split may have any name.
    return by_name or frame.whole != ""


def _split(frames):
    """Split full MIRI images into their two parts; keep images that are such parts."""
    frames = [part for frame in frames for part in _parts(frame)]
    if not any(frame.part == "lyot" for frame in frames):
        logger.info("no image is a Lyot image or has the Lyot region: all pass through")
    return frames


def _parts(frame):
    return frame.split_lyot() if _is_miri(frame) and not _is_half(frame) else [frame]


def _is_miri(frame):
    """Return whether a frame is of MIRI's imager."""
    detector = str(frame.meta.get("DETECTOR", "")).strip().upper()
    return frame.detector == "mirimage" or detector == "MIRIMAGE"


def without_lyot(frames, notes, mosaic):
    """Return the frames; exclude the Lyot region of MIRI images if it has good pixels.

    The coronagraph has its own background. Its pixels get the correction of the image. The user is
    warned in the mosaic pass only, because `recombine_lyot` may follow an earlier one.
    """
    frames = list(frames)
    for k, frame in enumerate(frames):
        if isinstance(frame.source, CellsSource):
            continue
        region = _lyot_of_main_chip(frame)
        if region is None:
            continue
        if frame.region is None and frame.has_good_pixels(region):
            frames[k] = frame.with_keys(region=region)
        if frames[k].region is not None:
            notes.add("lyot" if mosaic else "lyot left out", frame.name)
    return frames


def _lyot_of_main_chip(frame):
    """Return the Lyot region of a MIRI image, `None` of others and of the Lyot subarray."""
    if not _is_miri(frame) or frame.part == "lyot":
        return None
    region = jwst.lyot_region(frame.meta, frame.shape)
    if region is None:
        return None
    height, width = (
        len(range(*part.indices(n))) for part, n in zip(region, frame.shape, strict=True)
    )
    return region if height * width < 0.5 * frame.shape[0] * frame.shape[1] else None


def _fitted_regions(frames):
    """Return the frames; fit the Lyot region of split MIRI images to their good pixels."""
    science = {f.product: k for k, f in enumerate(frames) if f.part == "science"}
    frames = list(frames)
    for k, lyot in enumerate(frames):
        partner = science.get(lyot.product) if lyot.part == "lyot" else None
        # Two parts of one image share its region.
        if partner is None or lyot.source is frames[partner].source or lyot.region is None:
            continue
        good = [_good_pixels(frames[partner]), _good_pixels(lyot)]
        region = jwst.fitted_region(*good, lyot.region)
        frames[k] = lyot.with_keys(region=region)
        frames[partner] = frames[partner].with_keys(region=region)
    return frames


def _good_pixels(frame):
    """Return the mask of good pixels of the whole image, whatever its region."""
    return np.isfinite(frame.with_keys(region=None, part="science", corrections=()).load())


def _with_jwst_keys(frame):
    """Return the frame with the detector and the part of a JWST image."""
    keys = frame.jwst
    if keys is None or frame.detector:
        return frame
    region = jwst.lyot_region(frame.meta, frame.shape) if keys["part"] == "lyot" else None
    return frame.with_keys(detector=keys["detector"], part=keys["part"], region=region)
