# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Positions on the sky, independent of the package, and the simulated sky."""

from dataclasses import dataclass, fields

import numpy as np
from astropy import units as u
from scipy.fft import irfft2, rfft2
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter
from scipy.spatial.transform import Rotation

__all__ = [
    "ARCMIN",
    "ARCSEC",
    "Recipe",
    "deproject",
    "jacobian",
    "lonlat",
    "make_scene",
    "pointing_frame",
    "project",
    "shift",
    "sky_grid",
    "tangent_frame",
]

ARCSEC = np.pi / 648000.0  # radian
ARCMIN = 60.0 * ARCSEC

# Independent streams of random numbers, so that the order of rendering has no effect.
STREAM_IMAGE, STREAM_DETECTOR, STREAM_SCENE, STREAM_LEVELS, STREAM_LAYOUT = range(5)


def random_stream(seed, *key):
    """Return the generator of one stream of a simulation."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _unit_vectors(lon, lat):
    """Return unit vectors (..., 3) of longitudes and latitudes in radian."""
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def tangent_frame(lon, lat):
    """Return the matrix whose columns are a position (radian), its East and its North."""
    east = [-np.sin(lon), np.cos(lon), 0.0]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    return np.column_stack([_unit_vectors(lon, lat), east, north])


def lonlat(s):
    """Return longitude (0 to 2 pi) and latitude in radian of unit vectors (..., 3)."""
    lon = np.arctan2(s[..., 1], s[..., 0]) % (2 * np.pi)
    return lon, np.arctan2(s[..., 2], np.hypot(s[..., 0], s[..., 1]))


def pointing_frame(center, angle):
    """Return the frame at ``center`` (ra, dec; degrees), its third axis at ``angle`` E of N."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return tangent_frame(*np.radians(center)) @ [[1, 0, 0], [0, c, s], [0, -s, c]]


def shift(offset):
    """Return the rotation that moves the first axis by ``offset`` (two arcsec values)."""
    a, b = np.asarray(offset) * ARCSEC
    return Rotation.from_rotvec([0.0, -b, a]).as_matrix()


def project(frame, s):
    """Return y and x (arcsec) of unit vectors on a zenithal equidistant projection."""
    cos, x, y = np.moveaxis(s @ frame, -1, 0)
    sin = np.hypot(x, y)
    factor = np.arctan2(sin, cos) / np.where(sin == 0, 1.0, sin) / ARCSEC
    return y * factor, x * factor


def deproject(frame, y, x):
    """Return unit vectors of positions in arcsec: the inverse of `project`."""
    r = np.hypot(x, y)
    factor = np.sinc(r * ARCSEC / np.pi) * ARCSEC
    return np.stack([np.cos(r * ARCSEC), x * factor, y * factor], axis=-1) @ frame.T


def sky_grid(wcs, y, x):
    """Return unit vectors (len(y), len(x), 3) at pixel rows ``y`` and columns ``x``."""
    ygrid, xgrid = np.meshgrid(y, x, indexing="ij")
    ra, dec = wcs.all_pix2world(xgrid.ravel(), ygrid.ravel(), 0)
    return _unit_vectors(np.radians(ra), np.radians(dec)).reshape(*ygrid.shape, 3)


def plane_basis(s, center):
    """Return u and v (arcmin) of unit vectors (..., 3) about a central unit vector."""
    axes = tangent_frame(*lonlat(center))[:, 1:]
    return np.moveaxis(s @ axes / ARCMIN, -1, 0)


def center_of(wcs, shape):
    """Return the unit vector of an image's central position."""
    return sky_grid(wcs, [(shape[0] - 1) / 2], [(shape[1] - 1) / 2])[0, 0]


def jacobian(y, x, wcs, scene):
    """Return the scene's (y, x) steps (arcsec) per pixel along rows' and columns' axes."""

    def positions(dy, dx):
        ra, dec = wcs.all_pix2world(x + dx, y + dy, 0)
        return np.array(scene.positions(_unit_vectors(np.radians(ra), np.radians(dec))))

    origin = positions(0, 0)
    return positions(1, 0) - origin, positions(0, 1) - origin


# --------------------------------------------------------------------------------------
# The scene

SURFACE_BRIGHTNESS = u.MJy / u.sr


@dataclass(frozen=True, eq=False)
class _Disc:
    """An inclined exponential disc with two spiral arms, softened at its centre."""

    center: np.ndarray  # (y, x), arcsec
    scale: float  # arcsec
    soft: float  # arcsec
    tilt: float  # radians
    angle: float  # radians
    peak: float

    def brightness(self, y, x):
        """Return the brightness at positions in arcsec."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        a = (x - self.center[1]) * s + (y - self.center[0]) * c
        b = ((x - self.center[1]) * c - (y - self.center[0]) * s) / np.cos(self.tilt)
        r2 = a**2 + b**2
        r = np.sqrt(r2 + self.soft**2)
        phase = 2 * (np.arctan2(b, a) - np.log(r / self.scale) / np.tan(np.radians(18)))
        arms = 0.55 * r2**2 / (r2 + (4 * self.soft) ** 2) ** 2 * np.cos(phase)
        return self.peak * np.exp(-r / self.scale) * (1 + arms)


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
    disc: _Disc | None
    stars: np.ndarray  # (n, 3) unit vectors
    peaks: np.ndarray  # (n,)
    fwhm: float

    def positions(self, s):
        """Return y and x of unit vectors (..., 3)."""
        return project(self.frame, s)

    def smooth(self, y, x):
        """Return the brightness of disc and nebula at positions in arcsec."""
        value = np.zeros(y.shape)
        if self.disc is not None:
            value += self.disc.brightness(y, x)
        if self.nebula is not None:
            index = (np.stack([y, x]) - self.origin.reshape(2, *[1] * y.ndim)) / self.pitch
            value += map_coordinates(self.nebula, index, mode="nearest", prefilter=False)
        return value


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


def make_scene(seed, frame, bounds, recipe):
    """
    Return a scene that covers ``bounds``, ((y0, y1), (x0, x1)) in arcsec.

    Nothing but stars is finer than a few of the recipe's nodes, so that images may evaluate
    the rest on their nodes.
    """
    rng = random_stream(seed, STREAM_SCENE)
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
    # Equal numbers of stars in each octave of brightness, except for a few bright stars.
    peaks = np.minimum(2.0 * rng.uniform(size=n_stars) ** -1.1, 5000.0)
    return _Scene(
        frame=frame,
        origin=low - 2 * pitch,
        pitch=pitch,
        nebula=nebula,
        disc=disc,
        stars=deproject(frame, y, x),
        peaks=peaks,
        fwhm=recipe.fwhm,
    )


def _draw_disc(rng, center, size, pitch):
    """Draw a disc in a field of a size, in arcsec."""
    scale = 0.18 * size
    return _Disc(
        center=center + 0.08 * size * rng.uniform(-1, 1, size=2),
        scale=scale,
        soft=max(0.06 * scale, 3 * pitch),
        tilt=np.radians(rng.uniform(20, 50)),
        angle=rng.uniform(0, np.pi),
        peak=rng.uniform(30, 50),
    )


@dataclass(frozen=True, eq=False)
class Recipe:
    """Settings of rendering that all images of a simulation share."""

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

    @classmethod
    def of(cls, asked, **own):
        """Return the recipe of a simulation's arguments, by name, and of settings of its own."""
        names = {f.name for f in fields(cls)}
        asked = {name: value for name, value in asked.items() if name in names | {"stars"}}
        if not asked.pop("stars"):
            asked["star_density"] = 0.0
        return cls(**{**asked, **own})

    def science(self, shape):
        """Return the mask (ny, nx) of the pixels that see the sky and may be used."""
        if self.regions is None:
            return np.ones(shape, dtype=bool)
        main, lyot = self.regions(shape)
        return main | lyot if self.lyot else main
