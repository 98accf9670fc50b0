# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Options of reading, measuring and solving, with their defaults.

Light to import: the command line derives its flags from these classes.
"""

import math
from dataclasses import dataclass, field, fields

from levelmatch.option_values import (
    check_blank,
    check_fields,
    check_keyword,
    check_shape,
    choice,
    hdu_choices,
    number,
    region_text,
)

__all__ = [
    "FIT_TYPES",
    "CoaddOptions",
    "MeasureOptions",
    "ReadOptions",
    "SolveOptions",
    "choices_of",
    "fit_terms",
]

FIT_TYPES = {
    "level": "level",
    "level+slope": "level+slope",
    "level+match": "level+slope",
    "auto": "auto",
}


def fit_terms(fit_type: str) -> int:
    """Return the number of terms of a fit type: 1 for a level, 3 for a plane.

    Raises
    ------
    ValueError
        If the fit type is unknown.
    """
    if fit_type not in FIT_TYPES:
        msg = f"fit_type: {fit_type!r} is none of {tuple(FIT_TYPES)}"
        raise ValueError(msg)
    return 1 if FIT_TYPES[fit_type] == "level" else 3


def choices_of(options: type, name: str) -> tuple:
    """Return the values that a field of an option class admits; empty if any."""
    return next(f for f in fields(options) if f.name == name).metadata.get("choices", ())


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How images are read, and the scale in which they are compared.

    Parameters
    ----------
    hdu : {"auto", "all"}, int, str, tuple or list
        The images' extensions in files: index, name (of one extension or several), name and
        version as ``("SCI", 2)``, or a list of these. ``"all"`` takes all images with a
        celestial WCS. ``"auto"`` takes the extension of an ImageFileCollection, else all called
        SCI, else all chips: images of the sky that lie side by side. A note names images that
        are not matched.
    dq_bits : None, int, str or list
        Data-quality bits of files that make a pixel bad: a number, or names separated by
        commas, after ~ all bits but these. Names are JWST's, or those of the header's cards
        ``MP_name`` (LSST). By default DO_NOT_USE and NON_SCIENCE for JWST; BAD, SAT, CR, EDGE,
        NO_DATA, INTRP and UNMASKEDNAN of bits with names in the header; any bit for others.
    blank : None, False, float or list of float
        Values of pixels without data, by default found: one exact value in large regions at
        the border of an image or between its chips, which a note names. `False` for none.
    mask_extensions : bool
        Mask pixels by the extensions beside an image, weights, masks and flags. These are WHT,
        WGT, WEIGHT, IVAR, INVVAR, COVERAGE, EXP or EXPOSURE, bad where not positive; MASK or
        BPM, bad where not 0; MSK or DQM, by ``dq_bits``. DQ is always used.
    weight_files : None, str, mapping or sequence of path
        Files of weights, bad where not positive: a pattern such as {stem}.weight.fits beside
        each image. Or the file of each image, by its name or in the order of the input.
    mask_files : None, str, mapping or sequence of path
        Files of masks, bad where not 0: a pattern such as {stem}_mask.fits beside each image.
        Or the file of each image, by its name or in the order of the input.
    levels : None, mapping, sequence, table, record or path
        Known levels, subtracted before the images are compared, in the unit of each image: by
        name or in the order of the input. A table has the columns name and level. Of a record
        or a result, the corrections are subtracted. A path is that of a record or a table.
    regions : None, path, ``regions.Region`` or sequence of ``regions.Region``
        Regions that are left out of the comparison, of the sky or of each image's pixels: of
        the package regions, or a file of DS9. They are corrected with their image.
    only_regions : bool
        Compare only pixels inside of the regions.
    on_error : {"raise", "skip"}
        For an image that cannot be used: raise an error, or leave the image out with a
        warning. The latter reads each image once more.
    flux_scale : None, str, sequence or mapping
        Header keyword of the zero point in magnitudes, or factors, that bring the images to
        one flux scale before they are compared. ``"1/EXPTIME"`` is for counts that are
        proportional to that keyword. Factors are in the order of the input, or by name. The
        corrections are in each image's own scale.
    apply_flux_scale : bool
        Multiply the corrected data and uncertainties by the factors, too. The zero point of
        the keyword changes with them.
    rematch : bool
        Match images again whose header says that they are matched.
    pixel_area : {"auto", True, False}
        Divide values per pixel (counts, electrons, photons, DN, fluxes) by the pixel area:
        by the mean area of each camera, so that images of one camera compare directly
        (``"auto"``); by each image's own area, also without a unit (`True`); or never
        (`False`). In order of pixel area, images within 10 % of the next count as one camera.
    mix_filters : bool
        Match images of different filters with one another. By default they are refused.
    max_bytes : int
        The most bytes of an image, and of a compressed file after unpacking. Files that declare
        more are refused before they are read.
    """

    hdu: int | str | tuple | list | None = "auto"
    dq_bits: int | str | list | None = None
    blank: object = None
    mask_extensions: bool = True
    weight_files: object = None
    mask_files: object = None
    levels: object = None
    regions: object = None
    only_regions: bool = False
    on_error: str = choice("raise", "raise", "skip")
    flux_scale: object = None
    apply_flux_scale: bool = False
    rematch: bool = False
    pixel_area: str | bool = choice("auto", "auto", True, False)
    mix_filters: bool = False
    max_bytes: int = number(1 << 31, whole=True, least=1)

    def __post_init__(self):
        check_fields(self)
        check_blank(self.blank)
        hdu_choices(self.hdu)
        object.__setattr__(self, "regions", region_text(self.regions))
        if self.only_regions and self.regions is None:
            msg = "only_regions: there are no regions; give regions too"
            raise ValueError(msg)
        if self.hdu is None:
            object.__setattr__(self, "hdu", "auto")
        if self.apply_flux_scale and self.flux_scale is None:
            msg = "apply_flux_scale: there is nothing to apply without flux_scale"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How the difference of two images is measured.

    Parameters
    ----------
    method : {"direct", "interp", "exact", "adaptive"}
        Sampling of a pair: midway between the pixels of both images (``"direct"``), or
        reprojected to a common grid by a function of reproject. The functions are
        `~reproject.reproject_interp`, `~reproject.reproject_exact` and
        `~reproject.reproject_adaptive`.
    location : {"mean", "median"}
        Centre of the clipped differences of each cell.
    clip : float
        Clip differences farther than this many sigma from the centre of their cell.
    structure : bool
        Weight each cell by its own scatter, else by the median scatter of all cells. On
        simulated MIRI and NIRCam images and on 2MASS images both are equally accurate.
    mask_sources : bool
        Mask the sources of each image, detected by ``photutils.segmentation``, in both
        images of a pair.
    stacked : bool
        Measure `match_mosaic` between stacks of the tiles (see `stack_tile`), not between
        their images. On simulated MIRI images both are equally accurate (0.0017 and 0.0016
        MJy/sr), and stacks take 60 times as long.
    n_workers : int or None
        Number of threads; `None` for Dask's default. A current `dask.distributed.Client`
        has priority.
    extend : `~levelmatch.Record`, path or None
        A record of earlier images to which new ones are added. Its pairs are reused if
        neither their images nor the images that share their noise have changed.
    checkpoint : path or None
        A file that stores pairs as they are measured. An interrupted run with the same file
        continues from there.
    """

    method: str = choice("direct", "direct", "interp", "exact", "adaptive")
    location: str = choice("mean", "mean", "median")
    clip: float = number(3.0, zero=False)
    structure: bool = False
    mask_sources: bool = False
    # A pair's measurement does not depend on the fields below.
    stacked: bool = field(default=False, metadata={"pairs": False})
    n_workers: int | None = number(None, whole=True, least=1, pairs=False)
    extend: object = field(default=None, metadata={"pairs": False})
    checkpoint: object = field(default=None, metadata={"pairs": False})

    def __post_init__(self):
        check_fields(self)

    @property
    def truncation(self) -> float:
        """Standard deviation of a normal variable over that of its clipped values."""
        density = math.sqrt(2 / math.pi) * math.exp(-0.5 * self.clip**2)
        return 1 / math.sqrt(1 - self.clip * density / math.erf(self.clip / math.sqrt(2)))

    @property
    def identity(self) -> dict:
        """The options that a measured pair depends on."""
        names = [f.name for f in fields(self) if f.metadata.get("pairs", True)]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """How pairs are weighted, rejected and solved.

    Parameters
    ----------
    weights : {"ivar", "equal", "npix", "rms"}
        Weights of the pairs: inverse variance with a systematic floor estimated from the
        data, or PJPipe's 1, number of pixels, 1 / scatter**2.
    floor : float or None
        Systematic scatter of the pairs, in the common unit; `None` to estimate it.
    robust : {"auto", "tukey", "huber", None}
        Treatment of wrong pairs, with the weights ``"ivar"`` and in sets of at least 10
        independent loops. ``"auto"`` predicts each pair from the others, and rejects it if it
        lies clearly outside of their scatter. It rejects none where large differences are
        part of the scatter. ``"tukey"`` and ``"huber"``
        weigh each pair by its residual, with Tukey's biweight or Huber's weights, and suit
        images that overlap with many others; where an image has about four neighbours, they
        make the floor and the errors too small. `None` keeps the weight of all pairs.
    min_area : float
        Reject pairs with fewer pixels than this fraction of the mean.
    min_linear : float
        Reject pairs whose overlap is shorter, in its longest direction, than this fraction
        of the smaller image's side.
    rms_limit : float
        Reject pairs whose scatter is this many standard deviations above the mean, both of
        the logarithm. A scatter under 1.5 times the geometric mean is never rejected.
    max_pairs : int or None
        Approximate maximum number of pairs of each image: the largest overlaps, and others
        that keep the graph of overlaps short. Links between sets are always measured.
        `None` to measure all pairs.
    slope_prior : float or None
        Standard deviation of a Gaussian prior, about 0, on the slopes of planes, in the
        common unit per arcmin.
    slope_gauge : {"reference", "mean"}
        Plane of a mosaic that overlaps cannot determine, where planes are fitted: that of the
        reference image is zero, or the mean slope of each connected set is. In both, the
        level of the reference is zero.
    pattern : {None, "gradient", "quadratic"}
        Solve for a pattern that stays with the detector, such as a flat error or a bowl,
        jointly with the levels or planes, and subtract it: a gradient, or a polynomial of the
        second degree in pixel coordinates, for each detector, filter and image shape.
    share_offsets : bool
        Let the tiles share the offsets of their detectors: of MIRI's Lyot part against the main
        chip, and of chips against each other. Mean and scatter of the offsets come from the
        tiles whose pairs determine them, and tie those of the others. For levels.
    disconnected : {"warn", "error", "sky"}
        For sets of images without overlap between them: keep a zero point for each set and
        warn, raise an error, or tie the sets by their clipped sky levels. The last assumes
        equal emission in all sets, which extended objects violate.
    flux_limit : float
        Warn of images whose flux scale differs from that of the others by more than this
        fraction, and by more than 4 sigma.
    time_from_background : str
        Header keyword of the time between an image and its background observations, by which
        the reference of a mosaic is chosen.
    combine_detectors : None, "auto" or str
        Match the detectors of each tile after its dithers, and treat a tile as one image from
        then on: by the header keyword of the detector, or as `combine_detectors` finds it.
    hold : None, str, sequence or mapping
        Names of images whose correction is zero; a mapping gives their corrections, in the
        unit of each image. The corrections of all others are relative to these.
    fit_exclude : None, str or sequence of str
        Names of images that are corrected without any influence on the others.
    subtract : bool
        Subtract the levels in the output. Otherwise the output has the pixels of the input, and
        its header has the level that the next step subtracts, in the image's own unit.
    sky_keyword : str or None
        Another header keyword of levels that are not subtracted, beside BKGLEVEL for JWST and
        MDRIZSKY for HST; by default LMSKY for other telescopes.
    subtract_local : bool
        After the dithers pass, subtract from each tile the sigma-clipped median of its first
        image (by name, corrected), with sources masked, as PJPipe's
        ``do_local_subtraction``.
    """

    weights: str = choice("ivar", "ivar", "equal", "npix", "rms")
    floor: float | None = number(None)
    robust: str | None = choice("auto", "auto", "tukey", "huber", None)
    min_area: float = number(0.002)
    min_linear: float = number(0.2)
    rms_limit: float = number(2.0)
    max_pairs: int | None = number(24, whole=True, least=2, optional=True)
    slope_prior: float | None = number(None, zero=False)
    slope_gauge: str = choice("reference", "reference", "mean")
    pattern: str | None = choice(None, None, "gradient", "quadratic")
    share_offsets: bool = False
    disconnected: str = choice("warn", "warn", "error", "sky")
    flux_limit: float = number(0.03)
    time_from_background: str = "DT_BGR"
    combine_detectors: str | None = None
    hold: object = None
    fit_exclude: object = None
    subtract: bool = True
    sky_keyword: str | None = None
    subtract_local: bool = False

    def __post_init__(self):
        check_fields(self)
        if not (self.combine_detectors is None or isinstance(self.combine_detectors, str)):
            msg = (
                f"combine_detectors: {self.combine_detectors!r} is neither None, 'auto' nor a "
                "header keyword"
            )
            raise TypeError(msg)
        check_keyword("sky_keyword", self.sky_keyword)


@dataclass(frozen=True, kw_only=True)
class CoaddOptions:
    """How images are reprojected and combined into a mosaic.

    Parameters
    ----------
    weights : None, "ivar", str, sequence or mapping
        Weights of the mean: ``"ivar"`` for the inverse variance of each pixel, or a header
        keyword, such as ``"XPOSURE"``. Or a number per image, in the order of the input or by
        name. By default all images have equal weights. If a file has the variance of the read
        noise (``VAR_RNOISE``), ``"ivar"`` is its inverse, as in JWST's resampling, since noise
        that grows with the signal biases a mean.
    method : {"auto", "interp", "exact", "adaptive"}
        The function of `reproject`. ``"auto"`` is bilinear interpolation, or ``"adaptive"``,
        which averages all pixels of an image, for mosaic pixels more than 1.5 times as
        large as those of the image.
    tile_size : int or tuple of int
        Side of the mosaic's tiles in pixels. Or their shape (ny, nx).
    shape : tuple of int or None
        Shape (ny, nx) of the mosaic, if its WCS does not have one.
    """

    weights: object = None
    method: str = choice("auto", "auto", "interp", "exact", "adaptive")
    tile_size: int | tuple[int, int] = 1024
    shape: tuple[int, int] | None = None

    def __post_init__(self):
        check_fields(self)
        check_shape("tile_size", self.tile_shape, 16)
        if self.shape is not None:
            check_shape("shape", self.shape, 1)

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of a tile of the mosaic."""
        size = self.tile_size
        return size if isinstance(size, tuple | list) else (size, size)
