# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Simulated dithered mosaics with known levels.

Each set is one scene on the sky (a spiral disc, nebulosity, stars) seen by many overlapping
images, each with its own background level or plane. The truth comes with the set, so any
level-matching setting can be judged: `level_errors` and `plane_errors` compare what was found
with what was added.

A background plane is, throughout the package, ``f(s) = level + slope_u * u + slope_v * v``,
where ``u`` and ``v`` are the components of the sky unit vector ``s`` on the directions East
``(-sin ra, cos ra, 0)`` and North ``(-sin dec cos ra, -sin dec sin ra, cos dec)`` at the
image's centre, pixel ``((ny - 1) / 2, (nx - 1) / 2)``, expressed in arcmin.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable
from astropy.wcs import WCS, Sip
from numpy.polynomial.polynomial import polyval2d, polyvander2d
from scipy.fft import irfft2, rfft2
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter
from scipy.spatial.transform import Rotation
from scipy.special import erf

__all__ = [
    "SimulatedSet",
    "level_errors",
    "miri_regions",
    "plane_errors",
    "simulate_generic",
    "simulate_miri",
    "simulate_nircam_short",
]

ARCSEC = np.pi / 648000.0  # radian
ARCMIN = 60.0 * ARCSEC
NGC628 = (24.174, 15.783)
SURFACE_BRIGHTNESS = u.MJy / u.sr

# JWST data quality bits (jwst.datamodels.dqflags.pixel).
DO_NOT_USE, JUMP_DET, NON_SCIENCE, DEAD, HOT = 1, 4, 512, 1024, 2048

# Signal (MJy/sr) above the background whose photon noise equals the background's.
PHOTON_SCALE = 10.0

# Keywords that JWST keeps in the SCI header; the others go to the primary header.
SCI_KEYWORDS = ("BUNIT", "PIXAR_SR", "PIXAR_A2")

# The streams of random numbers: each is independent of all others, whatever is rendered first.
STREAM_IMAGE, STREAM_DETECTOR, STREAM_SCENE, STREAM_LEVELS, STREAM_LAYOUT = range(5)


def _rng(seed, *key):
    """Return the generator of one stream of a simulation."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


# --------------------------------------------------------------------------------------
# The result


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
        ``lyot_slope_u`` and ``lyot_slope_v``: what that region has on top of its image.
    """

    images: Sequence[CCDData]
    truth: QTable

    def write(self, directory, *, overwrite=False):
        """
        Write the images as JWST-like FITS files, holding one in memory at a time.

        A file has an empty primary HDU with the keywords, and the extensions ``SCI``, ``ERR``
        (left out if the set has no noise) and ``DQ``.

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
        directory = Path(directory)
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
        return _render(i, self._exposures[i], self._planes[i], self._scene, self._recipe)

    def __repr__(self):
        return f"<{len(self)} simulated images>"


# --------------------------------------------------------------------------------------
# Geometry


@dataclass(frozen=True, eq=False)
class _Detector:
    """
    The geometry of a detector.

    ``linear`` (2, 2) turns pixels from ``crpix`` (x, y; FITS) into ideal coordinates in arcsec;
    ``sip`` holds the rest, SIP's A, B, AP and BP; ``v2v3`` (arcsec), ``parity`` and ``angle``
    (radian) place the ideal coordinates in the telescope's.
    """

    name: str
    shape: tuple
    crpix: tuple
    linear: np.ndarray
    sip: tuple | None = None
    v2v3: tuple = (0.0, 0.0)
    parity: int = -1
    angle: float = 0.0

    @property
    def pixel_scale(self):
        """Mean side of a pixel in arcsec."""
        return np.sqrt(abs(np.linalg.det(self.linear)))

    def to_v2v3(self):
        """Return the matrix (2, 2) from ideal to telescope coordinates."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.array([[self.parity * c, s], [-self.parity * s, c]])


@dataclass(frozen=True, eq=False)
class _Exposure:
    """An image to be: where it looks, and its header cards."""

    name: str
    tile: int
    detector: _Detector
    frame: np.ndarray  # columns: the reference point, and the directions of V2 and V3 there
    cards: dict

    @property
    def wcs(self):
        """The image's FITS WCS, made anew."""
        return _make_wcs(self.frame, self.detector)


@dataclass(frozen=True)
class _Plane:
    """What is added to an image: (level, slope_u, slope_v), and the same for its Lyot region."""

    main: tuple
    lyot: tuple = (0.0, 0.0, 0.0)


def _unit_vectors(lon, lat):
    """Return unit vectors (..., 3) of longitudes and latitudes in radian."""
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _tangent_frame(lon, lat):
    """Return the matrix whose columns are a position (radian), its East and its North."""
    east = [-np.sin(lon), np.cos(lon), 0.0]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    return np.column_stack([_unit_vectors(lon, lat), east, north])


def _lonlat(s):
    """Return longitude (0 to 2 pi) and latitude in radian of unit vectors (..., 3)."""
    lon = np.arctan2(s[..., 1], s[..., 0]) % (2 * np.pi)
    return lon, np.arctan2(s[..., 2], np.hypot(s[..., 0], s[..., 1]))


def _pointing_frame(center, angle):
    """Return the frame at ``center`` (ra, dec; degrees), its third axis at ``angle`` E of N."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return _tangent_frame(*np.radians(center)) @ [[1, 0, 0], [0, c, s], [0, -s, c]]


def _shift(offset):
    """Return the rotation that moves the first axis by ``offset`` (two arcsec values)."""
    a, b = np.asarray(offset) * ARCSEC
    return Rotation.from_rotvec([0.0, -b, a]).as_matrix()


def _make_wcs(frame, detector):
    """Return the FITS WCS of a detector in a frame on the sky."""
    ra, dec = _lonlat(frame[:, 0])
    sky = _tangent_frame(ra, dec)[:, 1:].T @ frame[:, 1:]
    wcs = WCS(naxis=2)
    suffix = "" if detector.sip is None else "-SIP"
    wcs.wcs.ctype = f"RA---TAN{suffix}", f"DEC--TAN{suffix}"
    wcs.wcs.cunit = "deg", "deg"
    wcs.wcs.crval = np.degrees([ra, dec])
    wcs.wcs.crpix = detector.crpix
    wcs.wcs.cd = sky @ detector.to_v2v3() @ detector.linear / 3600.0
    wcs.wcs.lonpole = 180.0  # not FITS's default at the poles
    wcs.wcs.radesys = "ICRS"
    if detector.sip is not None:
        wcs.sip = Sip(*detector.sip, detector.crpix)
    wcs.wcs.set()
    wcs.pixel_shape = detector.shape[::-1]
    return wcs


@lru_cache(maxsize=1)
def _siaf():
    """Return the apertures of the JWST science instruments, as copied from pysiaf."""
    text = (files("levelmatch") / "data" / "siaf.json").read_text(encoding="utf-8")
    return json.loads(text)["apertures"]


@lru_cache(maxsize=32)
def _jwst_detector(name, shape):
    """
    Return the geometry of a JWST detector, scaled to a number of pixels.

    A smaller ``shape`` keeps the pixels and cuts the detector down about its reference point.
    """
    siaf = _siaf()[name]
    scale = np.array(shape) / siaf["shape"]
    crpix = (np.array(siaf["reference"]) - 0.5) * scale + 0.5
    polynomials = [_polynomial(siaf[axis], siaf["degree"]) for axis in "xy"]
    linear = np.array([[p[1, 0], p[0, 1]] for p in polynomials])
    sip = _sip_matrices(polynomials, linear, shape, crpix)
    return _Detector(
        name=name,
        shape=shape,
        crpix=tuple(crpix[::-1]),
        linear=linear,
        sip=sip,
        v2v3=(siaf["v2"], siaf["v3"]),
        parity=siaf["parity"],
        angle=np.radians(siaf["angle"]),
    )


def _polynomial(coefficients, degree):
    """Return SIAF coefficients as a matrix: element (p, q) multiplies x**p y**q."""
    matrix = np.zeros((degree + 1, degree + 1))
    order = [(i - j, j) for i in range(degree + 1) for j in range(i + 1)]
    matrix[tuple(np.transpose(order))] = coefficients
    return matrix


def _sip_matrices(polynomials, linear, shape, crpix):
    """Return SIP's A, B, AP and BP of two ideal polynomials; the inverse, AP and BP, is fitted."""
    bent = np.tensordot(np.linalg.inv(linear), polynomials, axes=1)  # in pixels
    p, q = np.indices(bent.shape[1:])
    bent[:, p + q < 2] = 0.0
    axes = [np.linspace(0.5, n + 0.5, 25) - c for n, c in zip(shape, crpix, strict=True)]
    y, x = (grid.ravel() for grid in np.meshgrid(*axes, indexing="ij"))
    shifts = np.array([polyval2d(x, y, c) for c in bent])
    degree = len(p)  # one more than forward
    p, q = np.indices((degree + 1, degree + 1))
    keep = (p + q >= 1) & (p + q <= degree)
    unit = float(max(shape))  # so that the powers stay comparable in the fit
    powers = polyvander2d(*((np.array([x, y]) + shifts) / unit), [degree, degree])
    fit = np.linalg.lstsq(powers[:, keep.ravel()], -shifts.T, rcond=None)[0].T
    inverse = np.zeros((2, *keep.shape))
    inverse[:, keep] = fit / unit ** (p + q)[keep]
    return (*bent, *inverse)


def miri_regions(shape):
    """
    Return the masks (ny, nx) of MIRI's main imager and of its Lyot coronagraph.

    The four-quadrant phase masks, the gaps, and the Lyot's occulting spot and bar are in
    neither.

    Parameters
    ----------
    shape : tuple of int
        Shape (ny, nx) of the image. If not the full detector's (1024, 1032), the regions are
        scaled with it, as `simulate_miri` does.

    Returns
    -------
    main, lyot : `~numpy.ndarray` of bool
        True within the region, shape (ny, nx).
    """
    ny, nx = shape
    y, x = np.ogrid[:ny, :nx]
    # Pixel positions on the full detector, 0-based.
    y, x = (y + 0.5) * 1024 / ny - 0.5, (x + 0.5) * 1032 / nx - 0.5
    main = np.broadcast_to((x >= 360) & (x <= 1027), shape)
    spot = (np.hypot(y - 880, x - 145) < 14) | ((abs(x - 145) < 4) & (y > 880))
    lyot = (y >= 735) & (x <= 290) & (y <= 1019) & (x >= 5) & ~spot
    return main, lyot


# --------------------------------------------------------------------------------------
# The scene


@dataclass(frozen=True, eq=False)
class _Scene:
    """
    Surface brightness on the sky, in the unit of the images.

    Positions are in arcsec on a zenithal equidistant projection about ``frame``, so that a
    scene may cover any part of the sky.
    """

    frame: np.ndarray
    origin: np.ndarray  # (y, x) of the nebula's first pixel
    pitch: float  # of the nebula's pixels
    nebula: np.ndarray | None  # spline coefficients
    disc: dict | None
    stars: np.ndarray  # (n, 3) unit vectors
    peaks: np.ndarray  # (n,)
    fwhm: float

    def positions(self, s):
        """Return y and x of unit vectors (..., 3)."""
        return _project(self.frame, s)

    def smooth(self, y, x):
        """Return the brightness of disc and nebula at positions in arcsec."""
        value = np.zeros(y.shape)
        if self.disc is not None:
            value += _disc(y, x, **self.disc)
        if self.nebula is not None:
            index = (np.stack([y, x]) - self.origin.reshape(2, *[1] * y.ndim)) / self.pitch
            value += map_coordinates(self.nebula, index, mode="nearest", prefilter=False)
        return value


def _project(frame, s):
    """Return y and x (arcsec) of unit vectors on a zenithal equidistant projection."""
    cos, x, y = np.moveaxis(s @ frame, -1, 0)
    sin = np.hypot(x, y)
    factor = np.arctan2(sin, cos) / np.where(sin == 0, 1.0, sin) / ARCSEC
    return y * factor, x * factor


def _deproject(frame, y, x):
    """Return unit vectors of positions in arcsec: the inverse of `_project`."""
    r = np.hypot(x, y)
    factor = np.sinc(r * ARCSEC / np.pi) * ARCSEC
    return np.stack([np.cos(r * ARCSEC), x * factor, y * factor], axis=-1) @ frame.T


def _disc(y, x, *, center, scale, soft, tilt, angle, peak):
    """Return an inclined exponential disc with two spiral arms, softened at its centre."""
    c, s = np.cos(angle), np.sin(angle)
    a = (x - center[1]) * s + (y - center[0]) * c
    b = ((x - center[1]) * c - (y - center[0]) * s) / np.cos(tilt)
    r2 = a**2 + b**2
    r = np.sqrt(r2 + soft**2)
    phase = 2 * (np.arctan2(b, a) - np.log(r / scale) / np.tan(np.radians(18)))
    arms = 0.55 * r2**2 / (r2 + (4 * soft) ** 2) ** 2 * np.cos(phase)
    return peak * np.exp(-r / scale) * (1 + arms)


def _gaussian_field(rng, shape, index):
    """Return a periodic Gaussian random field of unit variance and power law ``index``."""
    ky, kx = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    k = np.hypot(ky[:, np.newaxis], kx)
    k[0, 0] = 1.0
    amplitude = k ** (index / 2)
    amplitude[0, 0] = 0.0
    values = irfft2(rfft2(rng.standard_normal(shape)) * amplitude, s=shape)
    return values / values.std()


def _nebula(rng, shape, rms):
    """Return nebulosity (shape) with filaments, everywhere positive."""
    clouds = np.exp(0.7 * _gaussian_field(rng, shape, -2.8))
    ridges = np.exp(-((_gaussian_field(rng, shape, -2.6) / 0.2) ** 2))
    value = gaussian_filter(clouds * (0.5 + ridges), 2.0, mode="wrap")
    return (value - value.min()) * (rms / value.std())


def _make_scene(seed, frame, bounds, recipe):
    """
    Return a scene that covers ``bounds``, ((y0, y1), (x0, x1)) in arcsec.

    Nothing but stars is finer than a few of the recipe's nodes, so that images may evaluate
    the rest on their nodes.
    """
    rng = _rng(seed, STREAM_SCENE)
    low, high = np.transpose(bounds)
    margin = 20 * recipe.pixel_scale
    low, high = low - margin, high + margin
    size = high - low
    area = np.prod(size)
    pitch = max(recipe.node_step * recipe.pixel_scale, np.sqrt(area / 4e6))
    shape = tuple(np.ceil(size / pitch).astype(int) + 4)
    nebula = spline_filter(_nebula(rng, shape, 2.0)) if recipe.nebula else None
    disc = _draw_disc(rng, (low + high) / 2, np.sqrt(area), pitch) if recipe.galaxy else None
    n_stars = rng.poisson(recipe.star_density * area / (1e6 * recipe.pixel_scale**2))
    y, x = rng.uniform(low, high, size=(n_stars, 2)).T
    # As many stars in each octave of brightness, but for a few bright ones.
    peaks = np.minimum(2.0 * rng.uniform(size=n_stars) ** -1.1, 5000.0)
    return _Scene(
        frame=frame,
        origin=low - 2 * pitch,
        pitch=pitch,
        nebula=nebula,
        disc=disc,
        stars=_deproject(frame, y, x),
        peaks=peaks,
        fwhm=recipe.fwhm,
    )


def _draw_disc(rng, center, size, pitch):
    """Draw the parameters of a disc in a field of a size, both in arcsec."""
    scale = 0.18 * size
    return {
        "center": center + 0.08 * size * rng.uniform(-1, 1, size=2),
        "scale": scale,
        "soft": max(0.06 * scale, 3 * pitch),
        "tilt": np.radians(rng.uniform(20, 50)),
        "angle": rng.uniform(0, np.pi),
        "peak": rng.uniform(30, 50),
    }


# --------------------------------------------------------------------------------------
# Rendering


@dataclass(frozen=True, eq=False)
class _Recipe:
    """How images are rendered: what all images of a set have in common."""

    seed: int
    noise: float
    pixel_scale: float  # arcsec
    fwhm: float  # of the core of a star, arcsec
    node_step: int  # pixels between the nodes where the smooth scene is evaluated
    star_density: float  # per 10**6 pixels
    nebula: bool
    galaxy: bool
    cosmic_rays: bool
    bad_pixels: bool
    unit: u.UnitBase = SURFACE_BRIGHTNESS
    regions: object = None  # shape -> masks of the main region and of the Lyot region
    lyot: bool = False

    def science(self, shape):
        """Return the mask (ny, nx) of the pixels that see the sky and may be used."""
        if self.regions is None:
            return np.ones(shape, dtype=bool)
        main, lyot = self.regions(shape)
        return main | lyot if self.lyot else main


@lru_cache(maxsize=16)
def _spline_matrix(n, m):
    """Return the matrix (n, m) of cubic spline interpolation from m nodes to n pixels."""
    return CubicSpline(np.linspace(0, n - 1, m), np.eye(m))(np.arange(n))


def _upsample(nodes, shape):
    """Interpolate values on nodes, which span the image edge to edge, to all pixels."""
    ymatrix, xmatrix = (_spline_matrix(n, m) for n, m in zip(shape, nodes.shape, strict=True))
    return ymatrix @ nodes @ xmatrix.T


def _sky_grid(wcs, y, x):
    """Return unit vectors (len(y), len(x), 3) at pixel rows ``y`` and columns ``x``."""
    ygrid, xgrid = np.meshgrid(y, x, indexing="ij")
    ra, dec = wcs.all_pix2world(xgrid.ravel(), ygrid.ravel(), 0)
    return _unit_vectors(np.radians(ra), np.radians(dec)).reshape(*ygrid.shape, 3)


def _basis(s, center):
    """Return u and v (arcmin) of unit vectors (..., 3) about a central unit vector."""
    axes = _tangent_frame(*_lonlat(center))[:, 1:]
    return np.moveaxis(s @ axes / ARCMIN, -1, 0)


def _center(wcs, shape):
    """Return the unit vector of an image's central position."""
    return _sky_grid(wcs, [(shape[0] - 1) / 2], [(shape[1] - 1) / 2])[0, 0]


def _n_nodes(shape, step):
    """Return the numbers of nodes ``step`` pixels apart or less, edge to edge."""
    return tuple(max(5, -(-(n - 1) // step) + 1) for n in shape)


def _node_grid(wcs, shape):
    """Return unit vectors on the nodes from which positions are interpolated."""
    y, x = (np.linspace(0, n - 1, m) for n, m in zip(shape, _n_nodes(shape, 16), strict=True))
    return _sky_grid(wcs, y, x)


def _smooth_scene(scene, nodes, shape, step):
    """Return the brightness of disc and nebula at all pixels, evaluated every ``step`` pixels."""
    fine = _n_nodes(shape, step)
    y, x = (_upsample(values, fine) for values in scene.positions(nodes))
    return _upsample(scene.smooth(y, x), shape)


def _render(i, exposure, plane, scene, recipe):
    """Return image ``i`` of a set as CCDData."""
    shape = exposure.detector.shape
    rng = _rng(recipe.seed, STREAM_IMAGE, i)
    wcs = exposure.wcs
    nodes = _node_grid(wcs, shape)
    data = _smooth_scene(scene, nodes, shape, recipe.node_step)
    _add_stars(data, scene, wcs, recipe.pixel_scale)
    sigma = recipe.noise * np.sqrt(1 + np.clip(data, 0, None) / PHOTON_SCALE)
    _add_planes(data, plane, nodes, _center(wcs, shape), recipe)
    flags = np.zeros(shape, dtype=np.uint32)
    if recipe.noise > 0:
        data += sigma * rng.standard_normal(shape, dtype=np.float32)
    if recipe.cosmic_rays:
        _add_cosmic_rays(data, flags, recipe.noise, rng)
    science = recipe.science(shape)
    data[~science] = 0.4 * data[~science] + 10.0  # no sky there
    flags[~science] |= DO_NOT_USE | NON_SCIENCE
    if recipe.bad_pixels:
        _add_bad_pixels(data, flags, exposure.detector.name, recipe.seed)
    return _to_ccddata(data, sigma, flags, wcs, exposure, recipe)


def _to_ccddata(data, sigma, flags, wcs, exposure, recipe):
    """Bundle the arrays of an image."""
    uncertainty = StdDevUncertainty(sigma.astype(np.float32)) if recipe.noise > 0 else None
    return CCDData(
        data.astype(np.float32),
        unit=recipe.unit,
        uncertainty=uncertainty,
        mask=(flags & DO_NOT_USE) != 0,
        flags=flags,
        wcs=wcs,
        meta=fits.Header(exposure.cards),
    )


def _add_planes(data, plane, nodes, center, recipe):
    """Add an image's background to its data in place."""
    data += _evaluate_plane(plane.main, nodes, center, data.shape)
    if recipe.lyot:
        lyot = recipe.regions(data.shape)[1]
        extra = _evaluate_plane(plane.lyot, nodes, center, data.shape)
        data[lyot] += np.broadcast_to(extra, data.shape)[lyot]


def _evaluate_plane(plane, nodes, center, shape):
    """Return a plane at all pixels of an image; a scalar if it is level."""
    level, slope_u, slope_v = plane
    if slope_u == 0 and slope_v == 0:
        return level
    uu, vv = _basis(nodes, center)
    return level + _upsample(slope_u * uu + slope_v * vv, shape)


def _add_stars(data, scene, wcs, pixel_scale):
    """Add all stars of the scene to an image in place, 16 pixels about each."""
    half = 16
    y, x, peaks = _stars_on_image(scene, wcs, data.shape, half)
    padded = np.zeros(np.add(data.shape, 4 * half))
    for start in range(0, len(peaks), 256):
        part = slice(start, start + 256)
        stamps = _stamps(y[part], x[part], wcs, half, scene, pixel_scale)
        stamps *= peaks[part, np.newaxis, np.newaxis]
        corners = np.rint([y[part], x[part]]).astype(int).T + half
        for (j, i), stamp in zip(corners, stamps, strict=True):
            padded[j : j + 2 * half + 1, i : i + 2 * half + 1] += stamp
    data += padded[2 * half : -2 * half, 2 * half : -2 * half]


def _stars_on_image(scene, wcs, shape, pad):
    """Return y, x and peaks of the stars within ``pad`` pixels of an image."""
    center = _center(wcs, shape)
    corners = _sky_grid(wcs, [-2 * pad, shape[0] + 2 * pad], [-2 * pad, shape[1] + 2 * pad])
    near = scene.stars @ center >= (corners @ center).min()
    ra, dec = np.degrees(_lonlat(scene.stars[near]))
    peaks = scene.peaks[near]
    # The inverse of SIP diverges far from the detector: leave those stars out beforehand.
    x, y = wcs.wcs_world2pix(ra, dec, 0) if near.any() else (ra, dec)
    close = _inside(y, x, shape, 2 * pad)
    if not close.any():
        return np.empty(0), np.empty(0), np.empty(0)
    x, y = wcs.all_world2pix(ra[close], dec[close], 0, quiet=True)
    inside = _inside(y, x, shape, pad)
    return y[inside], x[inside], peaks[close][inside]


def _inside(y, x, shape, pad):
    """Return which positions are on an image or within ``pad`` pixels of it."""
    ny, nx = shape
    return (y > -pad) & (y < ny - 1 + pad) & (x > -pad) & (x < nx - 1 + pad)


def _stamps(y, x, wcs, half, scene, pixel_scale):
    """
    Return the profiles of stars (n, 2 half + 1, 2 half + 1), of peak one before pixelation.

    A Gaussian core, integrated over each pixel, and a Moffat wing that ends after 15 pixels.
    """
    offset = np.arange(-half, half + 1)
    dy = offset - (y - np.rint(y))[:, np.newaxis]
    dx = offset - (x - np.rint(x))[:, np.newaxis]
    jy, jx = _jacobian(y, x, wcs, scene)
    sigma = scene.fwhm / 2.3548
    core = _pixel_gaussian(dy, np.hypot(*jy), sigma)[:, :, np.newaxis]
    core = core * _pixel_gaussian(dx, np.hypot(*jx), sigma)[:, np.newaxis, :]
    dy, dx = dy[:, :, np.newaxis], dx[:, np.newaxis, :]
    r2 = sum(
        (a[:, np.newaxis, np.newaxis] * dy + b[:, np.newaxis, np.newaxis] * dx) ** 2
        for a, b in zip(jy, jx, strict=True)
    )
    wing = 0.03 / (1 + r2 / (2.5 * pixel_scale) ** 2) ** 2
    return 0.97 * core + wing * np.clip(1 - r2 / (15 * pixel_scale) ** 2, 0, None) ** 2


def _jacobian(y, x, wcs, scene):
    """Return the scene's (y, x) steps (arcsec) per pixel along rows' and columns' axes."""

    def positions(dy, dx):
        ra, dec = wcs.all_pix2world(x + dx, y + dy, 0)
        return np.array(scene.positions(_unit_vectors(np.radians(ra), np.radians(dec))))

    origin = positions(0, 0)
    return positions(1, 0) - origin, positions(0, 1) - origin


def _pixel_gaussian(offset, scale, sigma):
    """Return the mean over each pixel of a Gaussian of peak one, along one axis."""
    z = scale[:, np.newaxis] / (np.sqrt(2) * sigma)
    return (erf((offset + 0.5) * z) - erf((offset - 0.5) * z)) * np.sqrt(np.pi) / (2 * z)


def _add_cosmic_rays(data, flags, noise, rng):
    """Add cosmic rays to an image in place: short tracks, all but 4 per cent flagged."""
    ny, nx = data.shape
    n = rng.poisson(3e-3 * data.size)
    y, x = rng.integers(0, ny, n), rng.integers(0, nx, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    length = rng.geometric(0.5, n).clip(max=5)
    amplitude = noise * np.minimum(3 + rng.exponential(25, n), 100)
    flagged = rng.uniform(size=n) > 0.04
    for step in range(5):
        j = np.rint(y + step * np.sin(angle)).astype(int)
        i = np.rint(x + step * np.cos(angle)).astype(int)
        hit = (step < length) & (j >= 0) & (j < ny) & (i >= 0) & (i < nx)
        np.add.at(data, (j[hit], i[hit]), amplitude[hit])
        hit &= flagged
        flags[j[hit], i[hit]] |= DO_NOT_USE | JUMP_DET


def _add_bad_pixels(data, flags, detector, seed):
    """Put in a detector's bad pixels in place: the same ones for all of its images."""
    rng = _rng(seed, STREAM_DETECTOR, *detector.encode())
    index = rng.choice(data.size, size=max(3, data.size // 200), replace=False)
    unknown, dead, hot = np.array_split(index, 3)
    for pixels, value, bit in ((unknown, np.nan, 0), (dead, 0.0, DEAD), (hot, 1e4, HOT)):
        data.flat[pixels] = value
        flags.flat[pixels] |= DO_NOT_USE | bit


# --------------------------------------------------------------------------------------
# Truth


def _assemble(exposures, planes, frame, recipe):
    """Return the set of the given exposures."""
    grids = [_footprint(exposure) for exposure in exposures]
    bounds = _bounds(frame, grids)
    scene = _make_scene(recipe.seed, frame, bounds, recipe)
    truth = _truth(exposures, planes, grids, recipe)
    return SimulatedSet(images=_Images(exposures, planes, scene, recipe), truth=truth)


def _footprint(exposure):
    """Return unit vectors on an odd number of equal cells of an image along each axis."""
    n_cells = 9 if exposure.detector.sip is None else 33
    y, x = (_cells(n, n_cells) for n in exposure.detector.shape)
    return _sky_grid(exposure.wcs, y, x)


def _cells(n, n_cells):
    """Return the centres, in pixels, of equal cells along an axis of n pixels."""
    return (np.arange(n_cells) + 0.5) * n / n_cells - 0.5


def _bounds(frame, grids):
    """Return ((y0, y1), (x0, x1)) of footprints about a frame, in arcsec, with a margin."""
    bounds = []
    positions = [_project(frame, grid[:: len(grid) - 1, :: len(grid) - 1]) for grid in grids]
    for values in np.moveaxis(positions, 1, 0):
        margin = 0.1 * np.ptp(values[0])
        bounds.append((values.min() - margin, values.max() + margin))
    return tuple(bounds)


def _truth(exposures, planes, grids, recipe):
    """Return the truth table of a set."""
    n_cells = len(grids[0])
    science = recipe.science(exposures[0].detector.shape)
    y, x = (np.rint(_cells(n, n_cells)).astype(int) for n in science.shape)
    science = science[np.ix_(y, x)]
    centers = np.array([grid[n_cells // 2, n_cells // 2] for grid in grids])
    ra, dec = _lonlat(centers)
    truth = QTable()
    truth["name"] = [exposure.name for exposure in exposures]
    truth["tile"] = [exposure.tile for exposure in exposures]
    truth["detector"] = [exposure.cards.get("DETECTOR", "") for exposure in exposures]
    truth["ra"] = np.degrees(ra) * u.deg
    truth["dec"] = np.degrees(dec) * u.deg
    units = (recipe.unit, recipe.unit / u.arcmin, recipe.unit / u.arcmin)
    for part in ("main", "lyot") if recipe.lyot else ("main",):
        prefix = "" if part == "main" else "lyot_"
        columns = np.transpose([getattr(plane, part) for plane in planes])
        for name, values, unit in zip(("level", "slope_u", "slope_v"), columns, units, strict=True):
            truth[prefix + name] = values * unit
    truth["gram"] = [
        _gram(grid[science], center) for grid, center in zip(grids, centers, strict=True)
    ]
    return truth


def _gram(s, center):
    """Return the mean outer product (3, 3) of (1, u, v) over unit vectors (n, 3)."""
    uu, vv = _basis(s, center)
    basis = np.stack([np.ones_like(uu), uu, vv])
    return basis @ basis.T / len(uu)


def _draw_planes(rng, exposures, offset_rms, slope, lyot_offset_rms=0.0, lyot_slope=0.0):
    """Draw the background of each exposure, and of each tile's Lyot region."""
    tiles = sorted({exposure.tile for exposure in exposures})
    detector = exposures[0].detector
    main = _draw(rng, len(exposures), offset_rms, slope, detector)
    extra = _draw(rng, len(tiles), lyot_offset_rms, lyot_slope, detector)
    lyot = dict(zip(tiles, extra, strict=True))
    return [
        _Plane(main=plane, lyot=lyot[exposure.tile])
        for plane, exposure in zip(main, exposures, strict=True)
    ]


def _draw(rng, n, offset_rms, slope, detector):
    """
    Draw n backgrounds (level, slope_u, slope_v).

    ``slope`` is the rms change over half the detector's side, in a random direction.
    """
    half = np.sqrt(np.prod(detector.shape)) * detector.pixel_scale / 120.0  # arcmin
    values = rng.standard_normal((n, 3)) * [offset_rms, *[slope / half / np.sqrt(2)] * 2]
    return [tuple(row) for row in values.tolist()]


# --------------------------------------------------------------------------------------
# Sets of images


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

    Positions, orientation and distortion are those of the MIRI imager in flight. Pixels off
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
    noise : float, optional
        Standard deviation of the noise per pixel where there is no signal, in MJy/sr.
    offset_rms : float, optional
        Standard deviation of the level of each image, in MJy/sr.
    slope : float, optional
        Rms over images of the change of their planes across half the detector, in MJy/sr.
    lyot : bool, optional
        Whether the Lyot coronagraph's region may be used too. It then has, on top of its
        image's plane, a level and plane of its own, the same for all dithers of a tile.
    lyot_offset_rms, lyot_slope : float, optional
        As ``offset_rms`` and ``slope``, for what the Lyot region has on top.
    tile_overlap : float, optional
        Overlap of adjacent tiles, as a fraction of the main imager's side.
    dither_size : float, optional
        Side of the box, in arcsec on the full detector, that the dithers fill.
    center : tuple of float, optional
        Right ascension and declination of the mosaic's centre in degrees.
    pa : float, optional
        Position angle of the telescope's V3 axis, East of North, in degrees.
    filter_name : str, optional
        Value of the ``FILTER`` keyword.
    backgrounds : bool, optional
        Whether to give the ``DT_BGR`` keyword: days from dedicated background observations.
    stars, nebula, galaxy, cosmic_rays, bad_pixels : bool, optional
        What to put in.
    star_density : float, optional
        Number of stars per 10**6 pixels.
    seed : int, optional
        Seed of all random numbers. The same seed gives the same images to the bit.

    Returns
    -------
    sim : `SimulatedSet`
        The images, rendered on access, and the truth.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    _check_common(shape, noise, n_dithers)
    recipe = _Recipe(
        seed=seed,
        noise=noise,
        pixel_scale=0.111,
        fwhm=0.25,
        node_step=2,
        star_density=star_density if stars else 0.0,
        nebula=nebula,
        galaxy=galaxy,
        cosmic_rays=cosmic_rays,
        bad_pixels=bad_pixels,
        regions=miri_regions,
        lyot=lyot,
    )
    detector = _jwst_detector("mirimage", tuple(shape))
    ny, nx = shape
    side = np.array([ny, nx * 668 / 1032]) * detector.pixel_scale  # of the main imager
    offsets = _tile_offsets(tiles, side * (1 - tile_overlap))
    dithers = _dither_offsets(n_dithers, dither_size * np.array([ny / 1024, nx / 1032]))
    cards = {"INSTRUME": "MIRI", "EXP_TYPE": "MIR_IMAGE", "FILTER": filter_name}
    frame = _pointing_frame(center, pa)
    exposures = _jwst_exposures(frame, [detector], offsets, dithers, cards)
    if backgrounds:
        exposures = _with_backgrounds(exposures, seed)
    planes = _draw_planes(
        _rng(seed, STREAM_LEVELS), exposures, offset_rms, slope, lyot_offset_rms, lyot_slope
    )
    return _assemble(exposures, planes, frame, recipe)


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

    Positions, orientation and distortion are those of the detectors in flight. Each image of
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
    noise : float, optional
        Standard deviation of the noise per pixel where there is no signal, in MJy/sr.
    offset_rms : float, optional
        Standard deviation of the level of each image, in MJy/sr.
    slope : float, optional
        Rms over images of the change of their planes across half the detector, in MJy/sr.
    tile_overlap : float, optional
        Overlap of adjacent tiles, as a fraction of a tile's side.
    dither_size : float, optional
        Side of the box, in arcsec on the full detector, that the dithers fill.
    center : tuple of float, optional
        Right ascension and declination of the mosaic's centre in degrees.
    pa : float, optional
        Position angle of the telescope's V3 axis, East of North, in degrees.
    filter_name : str, optional
        Value of the ``FILTER`` keyword.
    backgrounds : bool, optional
        Whether to give the ``DT_BGR`` keyword: days from dedicated background observations.
    stars, nebula, galaxy, cosmic_rays, bad_pixels : bool, optional
        What to put in.
    star_density : float, optional
        Number of stars per 10**6 pixels.
    seed : int, optional
        Seed of all random numbers. The same seed gives the same images to the bit.

    Returns
    -------
    sim : `SimulatedSet`
        The images, rendered on access, and the truth.

    Raises
    ------
    ValueError
        If an argument is out of its range, or a detector is not known.
    """
    _check_common(shape, noise, n_dithers)
    if n_tiles < 1:
        msg = f"n_tiles must be at least 1, not {n_tiles}"
        raise ValueError(msg)
    recipe = _Recipe(
        seed=seed,
        noise=noise,
        pixel_scale=0.0309,
        fwhm=0.05,
        node_step=4,
        star_density=star_density if stars else 0.0,
        nebula=nebula,
        galaxy=galaxy,
        cosmic_rays=cosmic_rays,
        bad_pixels=bad_pixels,
    )
    chips = _nircam_detectors(detectors, tuple(shape))
    scale = np.array(shape) / 2048
    v3v2 = np.array([chip.v2v3[::-1] for chip in chips])
    side = np.ptp(v3v2, axis=0) + np.array(shape) * recipe.pixel_scale
    n_columns = int(np.ceil(np.sqrt(n_tiles)))
    layout = (-(-n_tiles // n_columns), n_columns)
    offsets = _tile_offsets(layout, side * (1 - tile_overlap))[:n_tiles]
    dithers = _dither_offsets(n_dithers, dither_size * scale)
    cards = {"INSTRUME": "NIRCAM", "EXP_TYPE": "NRC_IMAGE", "FILTER": filter_name}
    frame = _pointing_frame(center, pa)
    exposures = _jwst_exposures(frame, chips, offsets, dithers, cards)
    if backgrounds:
        exposures = _with_backgrounds(exposures, seed)
    planes = _draw_planes(_rng(seed, STREAM_LEVELS), exposures, offset_rms, slope)
    return _assemble(exposures, planes, frame, recipe)


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
    stars, nebula, galaxy, cosmic_rays, bad_pixels : bool, optional
        What to put in.
    star_density : float, optional
        Number of stars per 10**6 pixels.
    seed : int, optional
        Seed of all random numbers. The same seed gives the same images to the bit.

    Returns
    -------
    sim : `SimulatedSet`
        The images, rendered on access, and the truth.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    _check_common(shape, noise, n_images, name="n_images")
    shape = tuple(shape)
    recipe = _Recipe(
        seed=seed,
        noise=noise,
        pixel_scale=pixel_scale,
        fwhm=2 * pixel_scale,
        node_step=2,
        star_density=star_density if stars else 0.0,
        nebula=nebula,
        galaxy=galaxy,
        cosmic_rays=cosmic_rays,
        bad_pixels=bad_pixels,
        unit=u.Unit(unit),
    )
    detector = _Detector(
        name="generic",
        shape=shape,
        crpix=((shape[1] + 1) / 2, (shape[0] + 1) / 2),
        linear=pixel_scale * np.eye(2),
    )
    rng = _rng(seed, STREAM_LAYOUT)
    offsets = _generic_offsets(layout, n_images, np.array(shape), overlap, rng) * pixel_scale
    turns = np.radians(rotation_rms) * rng.standard_normal(n_images)
    frame = _pointing_frame(center, rotation)
    exposures = [
        _generic_exposure(i, frame, detector, offset, turn, recipe.unit)
        for i, (offset, turn) in enumerate(zip(offsets, turns, strict=True))
    ]
    planes = _draw_planes(_rng(seed, STREAM_LEVELS), exposures, offset_rms, slope)
    return _assemble(exposures, planes, frame, recipe)


def _check_common(shape, noise, n_images, name="n_dithers"):
    """Check the arguments that all simulations share."""
    if len(shape) != 2 or min(shape) < 8:
        msg = f"shape must be two numbers of at least 8 pixels, not {shape}"
        raise ValueError(msg)
    if not (np.isfinite(noise) and noise >= 0):
        msg = f"noise must be finite and not negative, not {noise}"
        raise ValueError(msg)
    if n_images < 1:
        msg = f"{name} must be at least 1, not {n_images}"
        raise ValueError(msg)


def _tile_offsets(tiles, pitch):
    """Return the (y, x) offsets in arcsec of tiles on a grid about its centre."""
    if len(tiles) != 2 or min(tiles) < 1:
        msg = f"the numbers of tiles along y and x must be at least 1, not {tiles}"
        raise ValueError(msg)
    index = np.argwhere(np.ones(tiles)) - (np.array(tiles) - 1) / 2
    return index * pitch


def _dither_offsets(n, size):
    """
    Return n (y, x) offsets in arcsec that fill a box of a size evenly, the first at its centre.

    Multiples of irrational numbers (the R2 sequence) share no fraction of a pixel.
    """
    step = np.array([0.5698402909980532, 0.7548776662466927])
    return ((0.5 + np.arange(n)[:, np.newaxis] * step) % 1 - 0.5) * size


def _generic_offsets(layout, n_images, shape, overlap, rng):
    """Return the (y, x) offsets of images in pixels, with a random fraction of a pixel."""
    if not 0 <= overlap < 1:
        msg = f"overlap must be at least 0 and less than 1, not {overlap}"
        raise ValueError(msg)
    pitch = (1 - overlap) * shape
    if layout == "pile":
        return rng.uniform(-0.5, 0.5, size=(n_images, 2)) * pitch
    n_columns = {"chain": n_images, "grid": int(np.ceil(np.sqrt(n_images)))}.get(layout)
    if n_columns is None:
        msg = f"layout must be 'grid', 'chain' or 'pile', not {layout!r}"
        raise ValueError(msg)
    offsets = _tile_offsets((-(-n_images // n_columns), n_columns), pitch)[:n_images]
    return offsets + rng.uniform(-0.5, 0.5, size=offsets.shape)


def _generic_exposure(i, frame, detector, offset, turn, unit):
    """Return image ``i`` of a generic set."""
    y, x = offset
    c, s = np.cos(turn), np.sin(turn)
    moved = frame @ _shift((-x, y)) @ [[1, 0, 0], [0, c, s], [0, -s, c]]
    name = f"image_{i:05d}.fits"
    cards = {"FILENAME": name, "BUNIT": unit.to_string().replace(" ", "")}
    return _Exposure(name=name, tile=i + 1, detector=detector, frame=moved, cards=cards)


def _nircam_detectors(names, shape):
    """Return NIRCam detectors, brought together in proportion to their shape."""
    unknown = [name for name in names if name not in _siaf() or name == "mirimage"]
    if unknown or not len(names):
        msg = f"detectors must be some of nrca1-nrca4 and nrcb1-nrcb4, not {tuple(names)}"
        raise ValueError(msg)
    chips = [_jwst_detector(name, shape) for name in names]
    v2v3 = np.array([chip.v2v3 for chip in chips])
    mean = v2v3.mean(axis=0)
    v2v3 = mean + (v2v3 - mean) * np.array(shape[::-1]) / 2048
    return [replace(chip, v2v3=tuple(v)) for chip, v in zip(chips, v2v3, strict=True)]


def _jwst_exposures(frame, detectors, tile_offsets, dither_offsets, cards):
    """
    Return the exposures of a JWST mosaic: by tile, then dither, then detector.

    Offsets are (y, x) in arcsec along the axes of the first detector.
    """
    v2v3 = np.mean([detector.v2v3 for detector in detectors], axis=0)
    base = _tangent_frame(*v2v3 * ARCSEC).T
    to_v2v3 = detectors[0].to_v2v3()
    exposures = []
    for t, tile in enumerate(tile_offsets):
        for d, dither in enumerate(dither_offsets):
            pointing = frame @ _shift(to_v2v3 @ (tile + dither)[::-1]) @ base
            for detector in detectors:
                own = pointing @ _tangent_frame(*np.array(detector.v2v3) * ARCSEC)
                exposures.append(_jwst_exposure(t + 1, d + 1, detector, own, cards))
    return exposures


def _jwst_exposure(tile, dither, detector, frame, cards):
    """Return one exposure with the keywords of a JWST file."""
    name = f"jw02107{tile:03d}001_02101_{dither:05d}_{detector.name}_cal.fits"
    nircam = detector.name != "mirimage"
    module = {"CHANNEL": "SHORT", "MODULE": detector.name[3].upper()} if nircam else {}
    ny, nx = detector.shape
    area = detector.pixel_scale**2
    mjd = 59777.25 + 0.1 * (tile - 1) + 0.004 * (dither - 1)
    cards = {
        "FILENAME": name,
        "TELESCOP": "JWST",
        **cards,
        "DETECTOR": detector.name.upper(),
        **module,
        "PROGRAM": "02107",
        "OBSERVTN": f"{tile:03d}",
        "VISIT": "001",
        "VISITGRP": "02",
        "SEQ_ID": "1",
        "ACT_ID": "01",
        "EXPOSURE": f"{dither:05d}",
        "SUBARRAY": "FULL",
        "SUBSTRT1": 1,
        "SUBSTRT2": 1,
        "SUBSIZE1": nx,
        "SUBSIZE2": ny,
        "DATE-OBS": "2022-07-17",
        "MJD-AVG": round(mjd, 6),
        "BUNIT": "MJy/sr",
        "PIXAR_SR": area * ARCSEC**2,
        "PIXAR_A2": area,
    }
    return _Exposure(name=name, tile=tile, detector=detector, frame=frame, cards=cards)


def _with_backgrounds(exposures, seed):
    """Return exposures with the days since dedicated background observations as DT_BGR."""
    times = np.array([exposure.cards["MJD-AVG"] for exposure in exposures])
    time = _rng(seed, STREAM_LAYOUT).uniform(times.min() - 0.05, times.max() + 0.05)
    return [
        replace(exposure, cards={**exposure.cards, "DT_BGR": round(t - time, 6)})
        for exposure, t in zip(exposures, times, strict=True)
    ]


# --------------------------------------------------------------------------------------
# Errors


def level_errors(found, truth, *, groups=None):
    """
    Return found levels minus true levels, without their mean.

    A constant common to all images cannot be known from their overlaps, so it does not count.

    Parameters
    ----------
    found : array_like, `~astropy.units.Quantity` or mapping
        The level to be subtracted from each image: (n,) in the order of ``truth``, or by name.
        Without a unit, in that of the truth.
    truth : `~astropy.table.QTable`
        Truth of a `SimulatedSet`, or some of its rows.
    groups : array_like, optional
        Labels (n,) of groups that were matched each on its own: the mean is taken out of each.

    Returns
    -------
    errors : `~astropy.units.Quantity`
        Residual (n,) of each image.

    Raises
    ------
    ValueError
        If ``found`` or ``groups`` do not have one value per row of ``truth``.
    """
    unit = truth["level"].unit
    errors = _one_per_image(found, truth, unit, shape=()) - truth["level"].value
    labels = np.zeros(len(truth)) if groups is None else np.asarray(groups)
    if labels.shape != (len(truth),):
        msg = f"groups must have shape ({len(truth)},), not {labels.shape}"
        raise ValueError(msg)
    _, index = np.unique(labels, return_inverse=True)
    means = np.bincount(index, weights=errors) / np.bincount(index)
    return (errors - means[index]) << unit


def plane_errors(found, truth):
    """
    Return the rms of found minus true planes over each image, without one common plane.

    One plane over the whole mosaic cannot be known from overlaps, so the one that leaves the
    smallest mean square over all images does not count.

    Parameters
    ----------
    found : array_like or mapping
        The plane to be subtracted from each image, (level, slope_u, slope_v) about the image's
        own centre, in the unit of the truth and per arcmin: (n, 3) in the order of ``truth``,
        or by name.
    truth : `~astropy.table.QTable`
        Truth of a `SimulatedSet`, or some of its rows.

    Returns
    -------
    errors : `~astropy.units.Quantity`
        Rms residual (n,) over the science pixels of each image.

    Raises
    ------
    ValueError
        If ``found`` does not have one plane per row of ``truth``.
    """
    unit = truth["level"].unit
    names = ("level", "slope_u", "slope_v")
    units = (unit, unit / u.arcmin, unit / u.arcmin)
    true = [truth[name].to_value(q) for name, q in zip(names, units, strict=True)]
    errors = _one_per_image(found, truth, None, shape=(3,)) - np.transpose(true)
    gram = np.asarray(truth["gram"])
    common = _common_planes(truth["ra"].to_value(u.rad), truth["dec"].to_value(u.rad))
    # Scaled by the Cholesky factor of its Gram matrix, a plane's norm is its rms.
    root = np.swapaxes(np.linalg.cholesky(gram), -1, -2)
    design, errors = root @ common, (root @ errors[:, :, np.newaxis])[:, :, 0]
    best = np.linalg.lstsq(design.reshape(-1, 3), errors.ravel(), rcond=None)[0]
    return np.linalg.norm(errors - design @ best, axis=1) << unit


def _common_planes(ra, dec):
    """Return matrices (n, 3, 3) from a plane about the mean centre to one about each centre."""
    frames = np.array([_tangent_frame(*position) for position in zip(ra, dec, strict=True)])
    center = frames[:, :, 0].sum(axis=0)
    axes = _tangent_frame(*_lonlat(center))[:, 1:]
    matrices = np.zeros((len(frames), 3, 3))
    matrices[:, 0, 0] = 1.0
    matrices[:, 0, 1:] = frames[:, :, 0] @ axes / ARCMIN
    matrices[:, 1:, 1:] = np.swapaxes(frames[:, :, 1:], 1, 2) @ axes
    return matrices


def _one_per_image(found, truth, unit, shape):
    """Return what was found for each image as an array (n, *shape)."""
    if isinstance(found, Mapping):
        missing = [str(name) for name in truth["name"] if name not in found]
        if missing:
            msg = f"{len(missing)} images are not in found, the first is {missing[0]}"
            raise ValueError(msg)
        found = [found[name] for name in truth["name"]]
        if unit is not None:
            found = u.Quantity(found, unit)
    if isinstance(found, u.Quantity) and unit is not None:
        found = found.to_value(unit)
    values = np.asarray(found, dtype=float)
    if values.shape != (len(truth), *shape):
        msg = f"found must have shape {(len(truth), *shape)}, not {values.shape}"
        raise ValueError(msg)
    return values
