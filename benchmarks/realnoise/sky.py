# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Analytic skies, rendered on the pixel grid of each image, and the noise of detectors.

All coordinates are arcsec in the plane tangent at one point, (y, x). The images of a set share
that tangent point, so that their pixel grids differ by exact shifts and scales. Nothing is
resampled: a Gaussian's mean over a pixel is a product of differences of error functions.
"""

from dataclasses import dataclass, field

import numpy as np
from astropy.nddata import CCDData
from astropy.wcs import WCS
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr

# Sigma of a Gaussian with a full width at half maximum of one.
SIGMA = 1 / np.sqrt(8 * np.log(2))
# Radius of a rendered Gaussian, in sigma. A fraction of 4e-8 of the flux lies beyond.
REACH = 5.5


@dataclass(frozen=True)
class Grid:
    """Pixel grid of an image.

    Parameters
    ----------
    origin : tuple of float
        Position (y, x) of the centre of the first pixel, arcsec.
    shape : tuple of int
        Pixels along y and x.
    scale : float
        Side of a pixel, arcsec.
    """

    origin: tuple
    shape: tuple = (200, 200)
    scale: float = 1.0

    def wcs(self, offset=(0.0, 0.0)):
        """Return the WCS, with an error (y, x) of its astrometry in arcsec."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval = 30.0, 1.0
        y, x = np.add(self.origin, offset) / self.scale
        wcs.wcs.crpix = 1 - x, 1 - y
        wcs.wcs.cdelt = -self.scale / 3600, self.scale / 3600
        return wcs

    def centres(self):
        """Return the centres of the pixels in arcsec, y of shape (ny, 1) and x of shape (1, nx)."""
        y, x = (o + self.scale * np.arange(n) for o, n in zip(self.origin, self.shape, strict=True))
        return y[:, None], x[None, :]

    def fractions(self):
        """Return the positions of pixels on the detector, from -1 to 1 along each axis."""
        y, x = (np.linspace(-1, 1, n) for n in self.shape)
        return y[:, None], x[None, :]


def bounds(grids, margin=30.0):
    """Return the lowest and highest (y, x) of several grids, with a margin."""
    low = np.min([g.origin for g in grids], axis=0) - margin
    high = np.max([np.add(g.origin, np.multiply(g.shape, g.scale)) for g in grids], axis=0) + margin
    return low, high


@dataclass(frozen=True)
class Stars:
    """Point sources with positions (y, x) and fluxes (brightness times arcsec**2)."""

    y: np.ndarray
    x: np.ndarray
    flux: np.ndarray

    @classmethod
    def draw(cls, rng, grids, density, *, faintest=40.0, brightest=4e4):
        """Draw stars with a density per arcsec**2, and dN/dF as F**-2 between two fluxes."""
        low, high = bounds(grids)
        n = rng.poisson(density * np.prod(high - low))
        y, x = rng.uniform(low, high, (n, 2)).T
        return cls(y, x, faintest / rng.uniform(faintest / brightest, 1, n))

    @classmethod
    def cluster(cls, rng, grids, n=20000, *, sigma=40.0, faintest=10.0, brightest=1e3):
        """Draw a round cluster of stars, with the same distribution of fluxes."""
        low, high = bounds(grids, -40.0)
        y, x = rng.uniform(low, high)[:, None] + sigma * rng.standard_normal((2, n))
        return cls(y, x, faintest / rng.uniform(faintest / brightest, 1, n))

    @classmethod
    def moving(cls, k, flux):
        """Return a source that moves by 7 arcsec along both axes from image to image."""
        return cls(*np.array([[60.0 + 7 * k], [50.0 + 7 * k], [flux]]))

    def varied(self, rng):
        """Return stars at the same positions, with fluxes multiplied by normal deviates."""
        return Stars(self.y, self.x, self.flux * rng.standard_normal(len(self.flux)))

    def render(self, grid, fwhm):
        """Return the mean brightness of each pixel for a Gaussian PSF with a width in arcsec."""
        sigma = fwhm * SIGMA / grid.scale
        half = int(np.ceil(REACH * sigma)) + 1
        centre = (np.stack([self.y, self.x]) - np.reshape(grid.origin, (2, 1))) / grid.scale
        near = np.all(
            (centre > -half - 1) & (centre < np.reshape(grid.shape, (2, 1)) + half), axis=0
        )
        centre, flux = centre[:, near], self.flux[near] / grid.scale**2
        first = np.round(centre).astype(int) - half
        edges = first[..., None] + np.arange(2 * half + 2) - 0.5
        py, px = np.diff(ndtr((edges - centre[..., None]) / sigma), axis=-1)
        stamps = (flux[:, None] * py)[:, :, None] * px[:, None, :]
        # The array has a margin for complete stamps around every star.
        pad = 2 * half + 2
        shape = np.add(grid.shape, 2 * pad)
        rows, columns = (f[:, None] + np.arange(2 * half + 1) + pad for f in first)
        place = rows[:, :, None] * shape[1] + columns[:, None, :]
        image = np.bincount(place.ravel(), stamps.ravel(), minlength=np.prod(shape))
        return image.reshape(shape)[pad:-pad, pad:-pad]


@dataclass(frozen=True)
class Nebula:
    """Emission: a sum of round Gaussians with given peaks and widths, without PSF."""

    y: np.ndarray
    x: np.ndarray
    peak: np.ndarray
    sigma: np.ndarray

    @classmethod
    def draw(cls, rng, grids, *, spacing=100.0, peak=30.0, widths=(20.0, 60.0)):
        """Draw one blob per square of a given side, with peaks up to a brightness."""
        low, high = bounds(grids)
        n = max(int(np.prod(high - low) / spacing**2), 4)
        y, x = rng.uniform(low, high, (n, 2)).T
        return cls(y, x, peak * rng.uniform(0.1, 1, n), rng.uniform(*widths, n))

    def render(self, grid, fwhm=None):
        """Return the mean brightness of each pixel."""
        profiles = []
        for at, o, n in zip((self.y, self.x), grid.origin, grid.shape, strict=True):
            edges = o + grid.scale * (np.arange(n + 1)[:, None] - 0.5)
            mean = np.diff(ndtr((edges - at) / self.sigma), axis=0) * self.sigma / grid.scale
            profiles.append(np.sqrt(2 * np.pi) * mean)
        return (profiles[0] * self.peak) @ profiles[1].T


@dataclass(frozen=True)
class Picture:
    """Properties of one image: its pixels, its PSF and its noise.

    Parameters
    ----------
    grid : `Grid`
        Its true pixel grid.
    level : float
        Its level, the truth.
    noise : float
        Scatter of its pixels' noise.
    fwhm : float
        Full width at half maximum of its PSF, arcsec.
    gain : float
        Its flux scale.
    offset : tuple of float
        Error (y, x) of its astrometry, arcsec.
    extra : `~numpy.ndarray` or float
        Added by the detector: stripes, a pattern, cosmic rays.
    flat : `~numpy.ndarray` or float
        Factor that a wrong flat field leaves on the sky.
    mask : `~numpy.ndarray` of bool or None
        Its bad pixels.
    correlation : float
        Sigma of the Gaussian that its noise is smoothed by, in pixels.
    meta : dict
        More of its header.
    """

    grid: Grid
    level: float = 0.0
    noise: float = 0.5
    fwhm: float = 2.0
    gain: float = 1.0
    offset: tuple = (0.0, 0.0)
    extra: object = 0.0
    flat: object = 1.0
    mask: object = None
    correlation: float = 0.0
    meta: dict = field(default_factory=dict)


def make_image(rng, picture, name, sources=(), sky=0.0, step=None):
    """Return a picture as a `~astropy.nddata.CCDData` in float64.

    Parameters
    ----------
    rng : `~numpy.random.Generator`
        Of the noise.
    picture : `Picture`
        Properties of the image.
    name : str
        Its file name.
    sources : sequence of `Stars` or `Nebula`
        Sources on the sky.
    sky : float
        Uniform brightness of the sky.
    step : float or None
        The data are rounded to multiples of this.
    """
    grid = picture.grid
    data = np.full(grid.shape, float(sky))
    for source in sources:
        data += source.render(grid, picture.fwhm)
    data = data * picture.gain * picture.flat + picture.level + picture.extra
    data += picture.noise * unit_noise(rng, grid.shape, picture.correlation)
    if step is not None:
        data = step * np.round(data / step)
    return CCDData(
        data,
        unit="MJy/sr",
        mask=picture.mask,
        wcs=grid.wcs(picture.offset),
        meta={"FILENAME": name, **picture.meta},
    )


def unit_noise(rng, shape, correlation=0.0):
    """Return normal noise of unit scatter, smoothed by a Gaussian with a sigma in pixels."""
    if correlation == 0:
        return rng.standard_normal(shape)
    pad = int(np.ceil(4 * correlation))
    noise = rng.standard_normal(np.add(shape, 2 * pad))
    kernel = np.zeros((2 * pad + 1, 2 * pad + 1))
    kernel[pad, pad] = 1.0
    kernel = gaussian_filter(kernel, correlation, truncate=4)
    smooth = gaussian_filter(noise, correlation, truncate=4)[pad:-pad, pad:-pad]
    return smooth / np.sqrt(np.sum(kernel**2))


def dithers(rng, n=6, *, size=200, spread=20.0, scales=(1.0,)):
    """Return grids of dithers of one field, shifted by up to a spread, in pixels of 1 arcsec.

    The scales alternate; a coarser image has fewer pixels, on the same field.
    """
    grids = []
    for k in range(n):
        scale = scales[k % len(scales)]
        shape = (round(size / scale),) * 2
        # The field begins at the edge of the first pixel, not at its centre.
        origin = rng.uniform(-spread, spread, 2) + 0.5 * scale
        grids.append(Grid(tuple(origin), shape, scale))
    return grids


def mosaic(rng, ny=3, nx=3, *, size=200, step=170.0, jitter=3.0):
    """Return grids of a mosaic of images with a given size and step, in pixels of 1 arcsec."""
    return [
        Grid(
            (y * step + rng.uniform(-jitter, jitter), x * step + rng.uniform(-jitter, jitter)),
            (size, size),
        )
        for y in range(ny)
        for x in range(nx)
    ]


def stripes(rng, shape, size=0.5, *, axis=0):
    """Return offsets of each row (axis 0), or of each column (axis 1)."""
    lines = size * rng.standard_normal(shape[axis])
    return lines[:, None] if axis == 0 else lines[None, :]


def smooth_pattern(rng, grid, size):
    """Return a pattern of low frequency on a detector, with zero mean and a given rms.

    A sum of cosines of up to three half waves along each axis.
    """
    y, x = ((f + 1) / 2 * np.pi for f in grid.fractions())
    orders = [(p, q) for p in range(4) for q in range(4) if p + q > 0]
    weights = rng.standard_normal(len(orders))
    pattern = sum(
        w * np.cos(p * y) * np.cos(q * x) for w, (p, q) in zip(weights, orders, strict=True)
    )
    pattern = pattern - pattern.mean()
    return size * pattern / pattern.std()


def bowl(grid, size):
    """Return a round bowl of zero mean; its size is the rise from the centre to each edge."""
    y, x = grid.fractions()
    square = y**2 + x**2
    return size * (square - square.mean())


def gradient(grid, rises):
    """Return a gradient of zero mean, with given rises from edge to edge along y and x."""
    y, x = grid.fractions()
    return (rises[0] * y + rises[1] * x) / 2


def cosmic_rays(rng, shape, fraction, low=2.0, high=200.0):
    """Return cosmic rays on a fraction of the pixels, equally many in each octave of brightness."""
    hit = rng.random(shape) < fraction
    image = np.zeros(shape)
    image[hit] = low * (high / low) ** rng.random(np.count_nonzero(hit))
    return image
