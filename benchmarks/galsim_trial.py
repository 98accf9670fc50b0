# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""True and stated errors of levels on images that GalSim draws: ``tox -e galsim``.

Optics, profiles, world coordinates and noise are those of GalSim, so the truth does not come from
this project. All cases run with the default options; ``--mask-sources`` changes one. The peer is
least squares of the median differences from ``reproject_interp``, weighted by the number of pixels.
"""

import argparse
import itertools
import sys
import warnings
from dataclasses import dataclass
from functools import cache, partial

import galsim
import numpy as np
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from reproject import reproject_interp
from reproject.mosaicking import find_optimal_celestial_wcs
from scipy.ndimage import map_coordinates

import levelmatch as lm

CENTRE = galsim.CelestialCoord(150.1 * galsim.degrees, 2.2 * galsim.degrees)
SIDE = 200
REACH = 5.0  # largest radius of a star, arcsec


@cache
def telescope(lam=1100.0, diam=2.4):
    """Return the PSF of a telescope with an obscured pupil and struts; lam in nm, diam in m."""
    return galsim.OpticalPSF(lam=lam, diam=diam, obscuration=0.33, nstruts=4)


def grid(x, y, *, scale=0.1, rotation=0.0, distortion=1.0):
    """Return the header of an image at (x, y) arcsec; ``distortion`` in pixels at its corners."""
    sky = CENTRE.deproject(x * galsim.arcsec, y * galsim.arcsec)
    cos, sin = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    header = fits.Header({"NAXIS": 2, "NAXIS1": SIDE, "NAXIS2": SIDE})
    header.update(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", CRPIX1=100.5, CRPIX2=100.5)
    header.update(CRVAL1=sky.ra.deg, CRVAL2=sky.dec.deg)
    cards = {"CD1_1": -cos, "CD1_2": sin, "CD2_1": sin, "CD2_2": cos}
    header.update({name: value * scale / 3600 for name, value in cards.items()})
    unit = distortion / (SIDE / 2) ** 2
    header.update(A_ORDER=2, A_2_0=0.6 * unit, A_1_1=0.2 * unit, A_0_2=-0.3 * unit)
    header.update(B_ORDER=2, B_2_0=-0.2 * unit, B_1_1=0.5 * unit, B_0_2=0.4 * unit)
    return header


def dithers(rng, *, scales=(0.1,), scatter=0.0):
    """Return headers of six dithers with shifts of up to 6 % of the side of 200 pixels."""
    shifts = rng.uniform(-1.2, 1.2, (6, 2))
    turns = scatter * rng.standard_normal(6)
    return [
        grid(*shift, scale=scales[k % len(scales)], rotation=turns[k])
        for k, shift in enumerate(shifts)
    ]


def mosaic(rng, *, overlap=0.15):
    """Return headers of 3 x 3 images, with an overlap as a fraction of their side."""
    step = 0.1 * SIDE * (1 - overlap)
    places = step * np.array([(i, j) for j in (-1, 0, 1) for i in (-1, 0, 1)])
    return [grid(*place) for place in places + rng.normal(0, 0.1, places.shape)]


def draw_stars(rng, density, brightest):
    """Return offsets (x, y) in arcsec and fluxes; density per square arcsec, dN/dF as F**-1.8."""
    n = rng.poisson(density * 80**2)
    uniform = rng.uniform(size=n)
    return [*rng.uniform(-40, 40, (2, n)), (1 + uniform * (brightest**-0.8 - 1)) ** (-1 / 0.8)]


def render_stars(header, stars, psf):
    """Return the stars through a PSF, in flux per square arcsec."""
    wcs = galsim.GSFitsWCS(header=header)
    image = galsim.ImageD(SIDE, SIDE)
    middle = wcs.local(galsim.PositionD(100.5, 100.5))
    side = middle.pixelArea() ** 0.5
    seen = galsim.Convolve(psf, middle.toWorld(galsim.Pixel(1.0)))
    n = 2 * round(4 * REACH / side) + 1
    fine = seen.drawImage(nx=n, ny=n, scale=side / 4, method="no_pixel")
    seen = galsim.InterpolatedImage(fine, x_interpolant="quintic")
    for x, y, flux in zip(*stars, strict=True):
        place = wcs.toImage(CENTRE.deproject(x * galsim.arcsec, y * galsim.arcsec))
        half = round(REACH / side * min(0.5 + 0.1 * np.log(flux), 1))
        box = galsim.BoundsI(galsim.PositionI(round(place.x), round(place.y))).withBorder(half)
        if (box & image.bounds).isDefined():
            local = wcs.local(place)
            stamp = galsim.ImageD(box, wcs=local)
            (seen * (flux / local.pixelArea())).drawImage(stamp, center=place, method="no_pixel")
            image[box & image.bounds] += stamp[box & image.bounds]
    return image.array


def draw_nebula(rng, n=800):
    """Return emission with the power spectrum k**-3, its smallest value 0, of n x n pixels."""
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n))
    k[0, 0] = np.inf
    smooth = np.exp(-0.5 * (2 * np.pi * k) ** 2)  # a PSF with a sigma of one pixel
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * k**-1.5 * smooth, (n, n))
    return (field - field.min()) / field.std()


def sky_positions(header):
    """Return (x, y) in arcsec of 3 x 3 points in each pixel."""
    step = np.arange(-1, 3 * SIDE - 1) / 3
    ra, dec = WCS(header).pixel_to_world_values(*np.meshgrid(step, step))
    x, y = CENTRE.project_rad(np.radians(ra), np.radians(dec))
    return np.degrees(x) * 3600, np.degrees(y) * 3600


def pixel_means(values):
    """Return the means of 3 x 3 points in each pixel."""
    return values.reshape(SIDE, 3, SIDE, 3).mean((1, 3))


def render_nebula(header, field, pixel=0.1):
    """Return an image of the sky, interpolated and averaged over each pixel."""
    x, y = sky_positions(header)
    middle = len(field) / 2
    return pixel_means(map_coordinates(field, [y / pixel + middle, x / pixel + middle]))


def render_galaxy(header):
    """Return an exponential disc that is larger than the image."""
    x, y = sky_positions(header)
    return pixel_means(60 * np.exp(-np.hypot(x - 3, (y + 2) / 0.6) / 8))


# --------------------------------------------------------------------------------------
# Detectors: functions of the random numbers, the number of the image, and its signal


def trail(rng, k, signal):
    """Add a satellite's trail to every second image."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-40, 40)
    distance = x * np.sin(angle) - y * np.cos(angle) - offset
    return signal + k % 2 * rng.lognormal(1, 1) / (1 + (distance / 2) ** 2) ** 2


def saturate(rng, k, signal, most=100.0):
    """Let charge above a limit bleed along its column; the mask misses 30 % of it."""
    full = np.minimum(signal, most)
    for column in np.flatnonzero((signal > most).any(axis=0)):
        excess = (signal - full)[:, column].sum()
        near = np.argsort(np.abs(np.arange(SIDE) - signal[:, column].argmax()))
        room = most - full[near, column]
        full[near, column] += np.clip(excess - np.cumsum(room) + room, 0, room)
    return np.ma.array(full, mask=(full >= most) & (rng.uniform(size=full.shape) < 0.7))


def gradient(rng, k, signal):
    """Add a gradient of zero mean, at the border of about the noise of a pixel."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) - 0.5
    return signal + rng.normal(0, 0.5) * x + rng.normal(0, 0.5) * y


def ghost(rng, k, signal):
    """Add a ring of light at a random place."""
    y, x = np.mgrid[:SIDE, :SIDE]
    radius = np.hypot(y - rng.uniform(30, 170), x - rng.uniform(30, 170))
    return signal + 0.2 * ((radius > 10) & (radius < 30))


@dataclass(frozen=True)
class Case:
    """A set of images: its grids, sky, PSFs, detector, and relative exposure times."""

    grids: object
    stars: tuple = (0.2, 300.0)  # per square arcsec, and the largest flux
    nebula: float = 0.0
    galaxy: bool = False
    psf: object = lambda rng: telescope()
    detector: object = lambda rng, k, signal: signal
    exposure: object = lambda rng: 1.0
    correlated: bool = False
    written: object = lambda header: header  # the world coordinates that the image states

    def images(self, rng):
        """Return images and their true levels."""
        grids = self.grids(rng)
        stars, levels = draw_stars(rng, *self.stars), rng.uniform(0, 3, len(grids))
        field = self.nebula * draw_nebula(rng) if self.nebula else None
        images = []
        for k, (header, level) in enumerate(zip(grids, levels, strict=True)):
            signal = render_stars(header, stars, self.psf(rng)) + 2 + level
            signal += 0.0 if field is None else render_nebula(header, field)
            signal += render_galaxy(header) if self.galaxy else 0.0
            signal = np.ma.array(self.detector(rng, k, signal))
            data = self.noisy(rng, np.ascontiguousarray(signal.data))
            mask = np.ma.getmaskarray(signal)
            meta = {"FILENAME": f"{k:03d}.fits"}
            wcs = WCS(self.written(header.copy()))
            images.append(CCDData(data, unit="MJy/sr", mask=mask, wcs=wcs, meta=meta))
        return images, levels

    def noisy(self, rng, signal):
        """Return the signal with the noise of a CCD, or with noise as of drizzled images."""
        random, image = galsim.BaseDeviate(int(rng.integers(1, 2**31))), galsim.ImageD(signal)
        if self.correlated:
            image.scale = 1.0
            image.addNoise(galsim.getCOSMOSNoise(rng=random, variance=0.04, cosmos_scale=1.0))
            return image.array
        gain = 50 * self.exposure(rng)
        image *= gain
        image.addNoise(galsim.CCDNoise(random, gain=1.0, read_noise=0.1 * gain))
        return image.array / gain


def undistorted(header):
    """Return the header without its distortion."""
    for name in [name for name in header if name[:2] in ("A_", "B_")]:
        del header[name]
    header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN")
    return header


def seeing(rng):
    """Return a PSF of the ground; its width scatters between 0.7 and 1.3 of 0.35 arcsec."""
    return galsim.Moffat(beta=3.0, fwhm=0.35 * rng.uniform(0.7, 1.3))


CASES = {
    "galaxy that fills six dithers": Case(dithers, galaxy=True),
    "nebula, rotated dithers": Case(partial(dithers, scatter=20.0), nebula=20.0),
    "nebula, mosaic": Case(mosaic, nebula=20.0),
    "crowded mosaic": Case(mosaic, (1.0, 300.0)),
    "seeing +-30 %, depth 1 : 3": Case(mosaic, psf=seeing, exposure=lambda rng: 3 ** rng.uniform()),
    "PSF of 0.8 pixel": Case(dithers, (1.0, 300.0), psf=lambda rng: telescope(800.0, 2.4)),
    "pixels 1 : 1.6, rotated": Case(partial(dithers, scales=(0.1, 0.16), scatter=60.0)),
    "overlaps of 4 %": Case(partial(mosaic, overlap=0.04), nebula=2.0),
    "noise of drizzled images": Case(dithers, correlated=True),
    "bleeding stars, mask 70 %": Case(dithers, (0.2, 3000.0), detector=saturate),
    "satellite trails": Case(dithers, detector=trail),
    "ghosts": Case(dithers, detector=ghost),
    "gradients, dithers": Case(dithers, detector=gradient),
    "gradients, mosaic": Case(mosaic, detector=gradient),
    "distortion not in the header": Case(dithers, written=undistorted),
}


# --------------------------------------------------------------------------------------
# Figures


def peer_levels(images):
    """Return levels by least squares from the medians of reprojected differences."""
    inputs = [(np.where(i.mask, np.nan, i.data), i.wcs) for i in images]
    wcs, shape = find_optimal_celestial_wcs([(data.shape, w) for data, w in inputs])
    layers = [reproject_interp(i, wcs, shape, return_footprint=False) for i in inputs]
    equations, medians = [np.ones(len(images))], [0.0]
    for i, j in itertools.combinations(range(len(images)), 2):
        difference = layers[i] - layers[j]
        difference = difference[np.isfinite(difference)]
        if len(difference) > 50:
            root = len(difference) ** 0.5
            equations.append(root * (np.eye(len(images))[i] - np.eye(len(images))[j]))
            medians.append(root * np.median(difference))
    return np.linalg.lstsq(np.array(equations), np.array(medians))[0]


def trial(case, seed, measure):
    """Return errors, stated errors and errors of the peer, without the mean, and 1 if warned."""
    images, true = case.images(np.random.default_rng(seed))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if len(images) == 9:
            result = lm.match_mosaic(
                images, group_by=lambda name, meta: name, reference="mean", measure=measure
            )
        else:
            result = lm.match_dithers(images, group_by=lambda name, meta: "tile", measure=measure)
    errors, peer = result.table["level"].value - true, peer_levels(images) - true
    warned = any(issubclass(w.category, lm.LevelMatchWarning) for w in caught)
    return errors - errors.mean(), result.table["error"].value, peer - peer.mean(), warned


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", metavar="CASE", help="words in the names of cases")
    parser.add_argument("--mask-sources", action="store_true")
    args = parser.parse_args()
    measure = lm.MeasureOptions(mask_sources=args.mask_sources)
    print(f"{'case':30s} {'rms':>7s} {'pull':>5s} {'95 %':>5s} {'warned':>6s} {'peer':>7s}")
    for name, case in CASES.items():
        if args.only and not any(word in name for word in args.only):
            continue
        trials = zip(*(trial(case, seed, measure) for seed in range(args.seeds)), strict=True)
        errors, stated, peer, warned = map(np.array, trials)
        rms, pull, peer = (np.sqrt(np.mean(x**2)) for x in (errors, errors / stated, peer))
        inside = np.mean(np.abs(errors) < 1.96 * stated)
        figures = f"{rms:7.4f} {pull:5.2f} {inside:5.2f} {np.mean(warned):6.2f} {peer:7.4f}"
        print(f"{name:30s} {figures}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
