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
    without_numpy,
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
    if not isinstance(fit_type, str) or fit_type not in FIT_TYPES:
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
        Extensions of the images in files: an index, a name, a name and version such as
        ``("SCI", 2)``, or a list of these. A name selects all extensions that have it. ``"all"``
        selects all images with a celestial WCS. ``"auto"`` selects the extension of an
        ImageFileCollection, else all named SCI, else all images of the sky that lie side by side.
        A note names images that are not matched.
    dq_bits : None, int, str or list
        Data-quality bits that make a pixel bad: a number, or names separated by commas. A leading
        ~ selects all other bits. JWST defines the names, or the cards ``MP_name`` in the
        header (LSST, SPHEREx). By default DO_NOT_USE and NON_SCIENCE for JWST; if the header names
        its bits, those of LSST or SPHEREx for bad pixels, such as BAD, SAT, CR, NO_DATA, HOT and
        OUTLIER; otherwise every bit.
    blank : None, False, float or list of float
        Values of pixels without data; by default values found in large regions of one exact value
        at the border of an image or between its chips. A note names these images. `False` for
        none.
    mask_extensions : bool
        Mask pixels by the extensions with weights, masks and flags of an image. Weights (WHT, WGT,
        WEIGHT, IVAR, INVVAR, COVERAGE, EXP, EXPOSURE) must be positive, and masks (MASK, BPM) 0 at
        good pixels. Flags (MSK, DQM) are selected by ``dq_bits``. DQ is always used.
    weight_files : None, str, mapping or sequence of path
        Files of weights, which are positive at good pixels: a pattern such as {stem}.weight.fits
        beside each image. Or the file of each image, by name or in the order of the input.
    mask_files : None, str, mapping or sequence of path
        Files of masks, which are 0 at good pixels: a pattern such as {stem}_mask.fits beside each
        image. Or the file of each image, by name or in the order of the input.
    levels : None, mapping, sequence, table, record or path
        Known levels that are subtracted before the images are compared, by name or in the order of
        the input. Levels are in the unit of each image. A table has the columns name and level.
        The corrections of a record or a result are subtracted. A path names a record or a table.
    regions : None, path, ``regions.Region`` or sequence of ``regions.Region``
        Regions of the sky, or of the pixels of each image, that are left out of the comparison:
        objects of the package regions, or a file of DS9. Their pixels are corrected.
    only_regions : bool
        Compare only pixels inside of the regions.
    on_error : {"raise", "skip"}
        For an image that cannot be used: raise an error, or leave the image out with a
        warning. Leaving out requires that each image is read once more.
    flux_scale : None, str, sequence or mapping
        Header keyword of the zero point in magnitudes, or factors, that bring the images to
        one flux scale before they are compared. ``"1/EXPTIME"`` divides counts by the keyword.
        Factors are given by name or in the order of the input. Corrections are in the scale of
        each image.
    apply_flux_scale : bool
        Also multiply the corrected data and uncertainties by the factors. The zero point in the
        header changes accordingly.
    rematch : bool
        Match images again although their header states that they are matched.
    pixel_area : {"auto", True, False}
        Divide values per pixel (counts, electrons, photons, DN, fluxes) by a pixel area: the mean
        area of each camera, so that images of one camera compare directly (``"auto"``); the area
        of each image, also without a unit (`True`); or none (`False`). Gaps of more than 10 %
        between the sorted areas separate cameras.
    mix_filters : bool
        Match images of different filters, Stokes parameters or frequencies. By default they are
        refused.
    max_bytes : int
        Largest number of bytes of an image, and of a compressed file after unpacking. Files that
        declare more are refused before they are read.
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
        for name in ("hdu", "blank"):
            object.__setattr__(self, name, without_numpy(getattr(self, name)))
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
        Sampling of a pair: midway between the pixels of both images (``"direct"``), or on a
        common grid by a function of reproject. The functions are `~reproject.reproject_interp`,
        `~reproject.reproject_exact` and `~reproject.reproject_adaptive`.
    location : {"mean", "median"}
        Location of the clipped differences of each cell.
    clip : float
        Clip differences that lie more than this number of sigma from the centre of their cell.
        With 3 or more, a cell without sources and without outliers beyond 4 sigma keeps all
        differences, unless more than 0.2 % of the pair's samples are such outliers.
    structure : bool
        Weight each cell by its own scatter; by default by the median scatter of all cells. Both
        are equally accurate on simulated MIRI and NIRCam images and on 2MASS images.
    mask_sources : bool
        Mask the sources that ``photutils.segmentation`` detects in either image of a pair.
    stacked : bool
        Compare stacks of the tiles in `match_mosaic`, see `stack_tile`; by default their images are
        compared. On simulated MIRI images both are equally accurate (0.0017 and 0.0016 MJy/sr),
        and stacks take 60 times as long.
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
    floor : float, `~astropy.units.Quantity` or None
        Systematic scatter of the pairs, in the common unit if a number; `None` to estimate it.
    robust : {"auto", "tukey", "huber", None}
        Treatment of wrong pairs, with the weights ``"ivar"`` and in sets of at least 10
        independent loops. ``"auto"`` predicts each pair from the others, and rejects it if it
        lies clearly outside of their scatter. It rejects no pair if large differences are part of
        the scatter. ``"tukey"`` and ``"huber"`` use Tukey's biweight or Huber's weights of the
        residuals. They suit images that overlap with many others; for images with about four
        neighbours, they make the floor and the errors too small. `None` keeps the weight of all
        pairs.
    min_area : float
        Reject pairs with fewer pixels than this fraction of the mean.
    min_linear : float
        Reject pairs whose overlap is shorter, in its longest direction, than this fraction of
        the side of the smaller image. Passes of planes with the weights ``"ivar"`` keep these
        pairs, with a variance that grows with the inverse square of the length.
    rms_limit : float
        Reject pairs whose scatter is this number of standard deviations above the mean, both of
        the logarithm. A scatter below 1.5 times the geometric mean is never rejected. With the
        weights ``"ivar"``, the variance of the cells must also exceed 4 times its median.
    max_pairs : int or None
        Approximate largest number of pairs of each image. The largest overlaps are selected, and
        others that keep paths between images short. The only links between images are always
        measured. `None` to measure all pairs.
    slope_prior : float, `~astropy.units.Quantity`, "auto" or None
        Standard deviation of a Gaussian prior on the slopes of planes, in the common unit per
        arcmin if a number. Its mean is 0. ``"auto"`` estimates it from the slopes of all images
        (empirical Bayes), as the fit type ``"auto"`` does by default.
    slope_gauge : {"reference", "mean"}
        Condition that fixes the plane of a mosaic, which overlaps cannot determine: a zero plane
        of the reference image, or a zero mean slope of each connected set. The level of the
        reference is zero in both cases.
    pattern : {None, "gradient", "quadratic"}
        Pattern of each detector, filter and image shape that is solved for jointly with the levels
        or planes, and subtracted: a gradient, or a polynomial of the second degree in pixel
        coordinates. It describes, for example, an error of the flat field.
    share_offsets : bool
        Let the tiles share the offsets between their detectors, or between MIRI's Lyot part and
        main chip. The mean and the scatter of the offsets are estimated from the tiles whose pairs
        determine them, and constrain the offsets of the other tiles. For levels only.
    disconnected : {"warn", "error", "sky"}
        For sets of images without overlap between them: keep a zero point for each set and
        warn, raise an error, or tie the sets by their clipped sky levels. ``"sky"`` assumes
        equal emission in all sets, which is wrong for extended objects.
    flux_limit : float
        Warn of images whose flux scale differs from the others by more than this fraction, and
        by more than 4 sigma.
    time_from_background : str
        Header keyword of the time between an image and its background observations, which
        determines the reference of a mosaic.
    combine_detectors : None, "auto" or str
        Match the detectors of each tile after its dithers, and then treat the tile as one image.
        Give the header keyword of the detector, or ``"auto"`` as in `combine_detectors`.
    hold : None, str, sequence or mapping
        Names of images whose correction is zero; a mapping gives other corrections, in the unit
        of each image. The corrections of all other images are relative to these.
    fit_exclude : None, str or sequence of str
        Names of images that are corrected without influence on the others.
    subtract : bool
        Subtract the levels in the output. Otherwise the output has the pixels of the input, and
        its header has the level that a later step subtracts, in the unit of the image.
    sky_keyword : str or None
        Additional header keyword of levels that are not subtracted; by default LMSKY for
        telescopes other than JWST (BKGLEVEL) and HST (MDRIZSKY).
    subtract_local : bool
        After the dithers pass, subtract from each tile the sigma-clipped median of its first
        corrected image by name, with sources masked. PJPipe's ``do_local_subtraction`` is
        similar.
    """

    weights: str = choice("ivar", "ivar", "equal", "npix", "rms")
    floor: float | None = number(None, unit=True)
    robust: str | None = choice("auto", "auto", "tukey", "huber", None)
    min_area: float = number(0.002)
    min_linear: float = number(0.2)
    rms_limit: float = number(2.0)
    max_pairs: int | None = number(24, whole=True, least=2, optional=True)
    slope_prior: float | str | None = number(None, zero=False, word="auto", unit=True)
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
        noise (``VAR_RNOISE``), ``"ivar"`` is the inverse of this variance, as in the resampling
        of JWST, because noise that grows with the signal biases a mean.
    method : {"auto", "interp", "exact", "adaptive"}
        The function of `reproject`. ``"auto"`` selects ``"interp"``, or ``"adaptive"``, which
        averages all pixels, if mosaic pixels are more than 1.5 times as large as image pixels.
    tile_size : int or tuple of int
        Side of the tiles of the mosaic in pixels. Or their shape (ny, nx).
    shape : tuple of int or None
        Shape (ny, nx) of the mosaic, if its WCS does not have one.
    """

    weights: object = None
    method: str = choice("auto", "auto", "interp", "exact", "adaptive")
    tile_size: int | tuple[int, int] = 1024
    shape: tuple[int, int] | None = None

    def __post_init__(self):
        check_fields(self)
        for name in ("tile_size", "shape"):
            object.__setattr__(self, name, without_numpy(getattr(self, name)))
        check_shape("tile_size", self.tile_shape, 16)
        if self.shape is not None:
            check_shape("shape", self.shape, 1)

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of a tile of the mosaic."""
        size = self.tile_size
        return size if isinstance(size, tuple | list) else (size, size)
