# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Simulated sets of images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable

from levelmatch.docstrings import share_parameters
from levelmatch.option_values import as_path
from levelmatch.testing.detectors import Detector, jwst_detector, miri_regions, nircam_detectors
from levelmatch.testing.exposures import (
    SCI_KEYWORDS,
    check_arguments,
    draw_planes,
    generic_exposure,
    generic_offsets,
    jwst_exposures,
    make_dither_offsets,
    make_tile_offsets,
    with_backgrounds,
)
from levelmatch.testing.render import render
from levelmatch.testing.sky import (
    STREAM_LAYOUT,
    STREAM_LEVELS,
    SURFACE_BRIGHTNESS,
    Recipe,
    make_scene,
    pointing_frame,
    random_stream,
)
from levelmatch.testing.truth import footprint, scene_bounds, true_planes

__all__ = [
    "SimulatedSet",
    "simulate_generic",
    "simulate_miri",
    "simulate_nircam_short",
]

NGC628 = (24.174, 15.783)


@dataclass(frozen=True, eq=False)
class SimulatedSet:
    """
    A simulated set of overlapping images, and its truth.

    Attributes
    ----------
    images : sequence of `~astropy.nddata.CCDData`
        One image at a time is rendered, on access, always the same to the bit; none is kept.
        ``list(sim.images)`` holds all of them. Each has float32 data, a mask (True is bad), a
        float32 `~astropy.nddata.StdDevUncertainty` (None if the set has no noise), flags (the
        uint32 data quality array), a WCS, and a `~astropy.io.fits.Header` as ``meta``.
    truth : `~astropy.table.QTable`
        One row per image: ``name`` (its ``FILENAME``), ``tile``, ``detector``, ``ra`` and
        ``dec`` of its centre, the ``level``, ``slope_u`` and ``slope_v`` that were added, and
        ``gram``, the mean over its science pixels of the outer product of (1, u, v) with
        itself, u and v in arcmin. Sets with a Lyot region also have ``lyot_level``,
        ``lyot_slope_u`` and ``lyot_slope_v``, the additional background of that region.
    """

    images: Sequence[CCDData]
    truth: QTable

    def write(self, directory, *, overwrite=False):
        """
        Write the images as JWST-like FITS files, holding one in memory at a time.

        A file has an empty primary HDU with the keywords, and the extensions ``SCI``, ``ERR``
        (omitted if there is no noise) and ``DQ``.

        Parameters
        ----------
        directory : path-like
            Where to write. It is created if need be.
        overwrite : bool, optional
            Whether existing files may be replaced.

        Returns
        -------
        paths : list of `~pathlib.Path`
            One path per image, in the order of the set.

        Raises
        ------
        FileExistsError
            If a file exists and ``overwrite`` is False. Nothing is written then.
        """
        directory = as_path("directory", directory)
        paths = [directory / str(name) for name in self.truth["name"]]
        existing = [path for path in paths if path.exists()]
        if existing and not overwrite:
            msg = (
                f"{len(existing)} files exist already, the first is {existing[0]}; "
                "overwrite=True replaces them"
            )
            raise FileExistsError(msg)
        directory.mkdir(parents=True, exist_ok=True)
        for path, image in zip(paths, self.images, strict=True):
            _to_hdulist(image).writeto(path, overwrite=overwrite)
        return paths


def _to_hdulist(image):
    """Return the HDU list of a JWST-like calibrated exposure."""
    primary = fits.PrimaryHDU()
    sci = fits.ImageHDU(image.data, header=image.wcs.to_header(relax=True), name="SCI")
    for card in image.meta.cards:
        target = sci if card.keyword in SCI_KEYWORDS else primary
        target.header.append(card)
    hdus = [primary, sci]
    if image.uncertainty is not None:
        hdus.append(fits.ImageHDU(image.uncertainty.array, name="ERR"))
        hdus[-1].header["BUNIT"] = image.meta["BUNIT"]
    hdus.append(fits.ImageHDU(image.flags, name="DQ"))
    return fits.HDUList(hdus)


class _Images(Sequence):
    """A lazy sequence of the images of a set: each is rendered on access."""

    def __init__(self, exposures, planes, scene, recipe):
        self._exposures = tuple(exposures)
        self._planes = planes
        self._scene = scene
        self._recipe = recipe

    def __len__(self):
        return len(self._exposures)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]
        return render(i, self._exposures[i], self._planes[i], self._scene, self._recipe)

    def __repr__(self):
        return f"<{len(self)} simulated images>"


def _jwst_set(recipe, frame, exposures, backgrounds, planes):
    """Return the set of a JWST mosaic; ``planes`` are the arguments of `draw_planes`."""
    if backgrounds:
        exposures = with_backgrounds(exposures, recipe.seed)
    planes = draw_planes(random_stream(recipe.seed, STREAM_LEVELS), exposures, *planes)
    return _assemble(exposures, planes, frame, recipe)


def _assemble(exposures, planes, frame, recipe):
    """Return the set of the given exposures."""
    grids = [footprint(exposure) for exposure in exposures]
    bounds = scene_bounds(frame, grids)
    scene = make_scene(recipe.seed, frame, bounds, recipe)
    truth = true_planes(exposures, planes, grids, recipe)
    return SimulatedSet(images=_Images(exposures, planes, scene, recipe), truth=truth)


@share_parameters
def simulate_miri(
    *,
    tiles=(2, 2),
    n_dithers=4,
    shape=(1024, 1032),
    noise=0.5,
    offset_rms=3.0,
    slope=0.0,
    lyot=False,
    lyot_offset_rms=1.5,
    lyot_slope=0.0,
    tile_overlap=0.12,
    dither_size=8.0,
    center=NGC628,
    pa=40.0,
    filter_name="F770W",
    backgrounds=False,
    stars=True,
    star_density=800.0,
    nebula=True,
    galaxy=True,
    cosmic_rays=True,
    bad_pixels=True,
    seed=0,
):
    """
    Simulate a dithered mosaic of JWST/MIRI images.

    Positions, orientation and distortion equal those of the MIRI imager in flight. Pixels off
    the main imager (the coronagraphs and the gaps) are flagged DO_NOT_USE and NON_SCIENCE.

    Parameters
    ----------
    tiles : tuple of int, optional
        Number of mosaic tiles along y and x of the detector.
    n_dithers : int, optional
        Number of dithered exposures per tile.
    shape : tuple of int, optional
        Shape (ny, nx) of the images. Smaller than the detector's own, the pixels keep their
        size and all else (regions, tiles, dithers) shrinks in proportion.
    <<noise>>
    lyot : bool, optional
        Whether the Lyot coronagraph's region may be used too. It then has, on top of its
        image's plane, a level and plane of its own, the same for all dithers of a tile.
    lyot_offset_rms, lyot_slope : float, optional
        As ``offset_rms`` and ``slope``, for the Lyot region's additional background.
    tile_overlap : float, optional
        Overlap of adjacent tiles, as a fraction of the main imager's side.
    <<pointing>>
    <<scene>>
    """
    asked = dict(locals())
    check_arguments(asked)
    recipe = Recipe.of(asked, pixel_scale=0.111, fwhm=0.25, node_step=2, regions=miri_regions)
    detector = jwst_detector("mirimage", tuple(shape))
    ny, nx = shape
    side = np.array([ny, nx * 668 / 1032]) * detector.pixel_scale  # of the main imager
    offsets = make_tile_offsets(tiles, side * (1 - tile_overlap))
    dithers = make_dither_offsets(n_dithers, dither_size * np.array([ny / 1024, nx / 1032]))
    cards = {"INSTRUME": "MIRI", "EXP_TYPE": "MIR_IMAGE", "FILTER": filter_name}
    frame = pointing_frame(center, pa)
    exposures = jwst_exposures(frame, [detector], offsets, dithers, cards)
    planes = offset_rms, slope, lyot_offset_rms, lyot_slope
    return _jwst_set(recipe, frame, exposures, backgrounds, planes)


@share_parameters
def simulate_nircam_short(
    *,
    n_tiles=2,
    n_dithers=4,
    detectors=("nrcb1", "nrcb2", "nrcb3", "nrcb4"),
    shape=(2048, 2048),
    noise=0.3,
    offset_rms=3.0,
    slope=0.0,
    tile_overlap=0.12,
    dither_size=12.0,
    center=NGC628,
    pa=40.0,
    filter_name="F200W",
    backgrounds=False,
    stars=True,
    star_density=300.0,
    nebula=True,
    galaxy=True,
    cosmic_rays=True,
    bad_pixels=True,
    seed=0,
):
    """
    Simulate a dithered mosaic of JWST/NIRCam short-wavelength images.

    Positions, orientation and distortion equal those of the detectors in flight. Each image of
    each detector has its own level. The dithers are wider than the gaps between detectors, so
    that detectors overlap.

    Parameters
    ----------
    n_tiles : int, optional
        Number of mosaic tiles, laid out in rows as nearly square as possible.
    n_dithers : int, optional
        Number of dithered exposures per tile.
    detectors : sequence of str, optional
        Names of the detectors: any of ``"nrca1"`` to ``"nrca4"``, ``"nrcb1"`` to ``"nrcb4"``.
    shape : tuple of int, optional
        Shape (ny, nx) of the images. Smaller than the detector's own, the pixels keep their
        size and all else (gaps, tiles, dithers) shrinks in proportion.
    <<noise>>
    tile_overlap : float, optional
        Overlap of adjacent tiles, as a fraction of a tile's side.
    <<pointing>>
    <<scene>>
    """
    asked = dict(locals())
    check_arguments(asked)
    recipe = Recipe.of(asked, pixel_scale=0.0309, fwhm=0.05, node_step=4)
    chips = nircam_detectors(detectors, tuple(shape))
    scale = np.array(shape) / 2048
    v3v2 = np.array([chip.v2v3[::-1] for chip in chips])
    side = np.ptp(v3v2, axis=0) + np.array(shape) * recipe.pixel_scale
    n_columns = int(np.ceil(np.sqrt(n_tiles)))
    layout = (-(-n_tiles // n_columns), n_columns)
    offsets = make_tile_offsets(layout, side * (1 - tile_overlap))[:n_tiles]
    dithers = make_dither_offsets(n_dithers, dither_size * scale)
    cards = {"INSTRUME": "NIRCAM", "EXP_TYPE": "NRC_IMAGE", "FILTER": filter_name}
    frame = pointing_frame(center, pa)
    exposures = jwst_exposures(frame, chips, offsets, dithers, cards)
    return _jwst_set(recipe, frame, exposures, backgrounds, (offset_rms, slope))


@share_parameters
def simulate_generic(
    *,
    n_images=9,
    shape=(64, 64),
    layout="grid",
    overlap=0.2,
    noise=0.5,
    offset_rms=3.0,
    slope=0.0,
    center=(150.1, 2.2),
    pixel_scale=0.5,
    rotation=0.0,
    rotation_rms=0.0,
    unit=SURFACE_BRIGHTNESS,
    stars=True,
    star_density=2000.0,
    nebula=True,
    galaxy=True,
    cosmic_rays=False,
    bad_pixels=False,
    seed=0,
):
    """
    Simulate overlapping images of no instrument in particular, quickly.

    The images have a plain tangential (TAN) WCS and may be anywhere on the sky.

    Parameters
    ----------
    n_images : int, optional
        Number of images.
    shape : tuple of int, optional
        Shape (ny, nx) of the images.
    layout : {"grid", "chain", "pile"}, optional
        Rows of images as nearly square as possible; one row; or all on one spot, where any two
        images overlap by at least ``overlap`` along each axis.
    overlap : float, optional
        Overlap of adjacent images as a fraction of their side, from 0 to less than 1.
    noise : float, optional
        Standard deviation of the noise per pixel where there is no signal, in ``unit``.
    offset_rms : float, optional
        Standard deviation of the level of each image, in ``unit``.
    slope : float, optional
        Rms over images of the change of their planes across half the image, in ``unit``.
    center : tuple of float, optional
        Right ascension and declination of the centre in degrees.
    pixel_scale : float, optional
        Side of a pixel in arcsec.
    rotation : float, optional
        Position angle of the images' y axis, East of North, in degrees.
    rotation_rms : float, optional
        Standard deviation of a rotation of each image about its own centre, in degrees.
    unit : `~astropy.units.Unit`, optional
        Unit of the images.
    <<scene>>
    """
    asked = dict(locals())
    check_arguments(asked)
    shape = tuple(shape)
    recipe = Recipe.of(asked, fwhm=2 * pixel_scale, node_step=2, unit=u.Unit(unit))
    detector = Detector(
        name="generic",
        shape=shape,
        crpix=((shape[1] + 1) / 2, (shape[0] + 1) / 2),
        linear=pixel_scale * np.eye(2),
    )
    rng = random_stream(seed, STREAM_LAYOUT)
    offsets = generic_offsets(layout, n_images, np.array(shape), overlap, rng) * pixel_scale
    turns = np.radians(rotation_rms) * rng.standard_normal(n_images)
    frame = pointing_frame(center, rotation)
    exposures = [
        generic_exposure(i, frame, detector, offset, turn, recipe.unit)
        for i, (offset, turn) in enumerate(zip(offsets, turns, strict=True))
    ]
    planes = draw_planes(random_stream(seed, STREAM_LEVELS), exposures, offset_rms, slope)
    return _assemble(exposures, planes, frame, recipe)
