# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Detectors of the simulated instruments."""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

import numpy as np
from astropy.wcs import WCS, Sip
from numpy.polynomial.polynomial import polyval2d, polyvander2d

from levelmatch.option_values import check_names, check_shape
from levelmatch.testing.sky import lonlat, tangent_frame

__all__ = ["Detector", "jwst_detector", "make_wcs", "miri_regions", "nircam_detectors"]


# JWST data quality bits (jwst.datamodels.dqflags.pixel).
DO_NOT_USE, JUMP_DET, NON_SCIENCE, DEAD, HOT = 1, 4, 512, 1024, 2048


@dataclass(frozen=True, eq=False)
class Detector:
    """
    Geometry of a detector.

    ``linear`` (2, 2) converts pixel offsets from ``crpix`` (x, y; FITS) to ideal coordinates in
    arcsec. ``sip`` holds the distortion as SIP's A, B, AP and BP. ``v2v3`` (arcsec), ``parity``
    and ``angle`` (radian) transform ideal coordinates to telescope coordinates.
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


def make_wcs(frame, detector):
    """Return the FITS WCS of a detector in a frame on the sky."""
    ra, dec = lonlat(frame[:, 0])
    sky = tangent_frame(ra, dec)[:, 1:].T @ frame[:, 1:]
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
def jwst_detector(name, shape):
    """
    Return the geometry of a JWST detector, scaled to a number of pixels.

    A smaller ``shape`` keeps the pixel size and reduces the detector about its reference point.
    """
    siaf = _siaf()[name]
    scale = np.array(shape) / siaf["shape"]
    crpix = (np.array(siaf["reference"]) - 0.5) * scale + 0.5
    polynomials = [_polynomial(siaf[axis], siaf["degree"]) for axis in "xy"]
    linear = np.array([[p[1, 0], p[0, 1]] for p in polynomials])
    sip = _sip_matrices(polynomials, linear, shape, crpix)
    return Detector(
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

    Raises
    ------
    TypeError, ValueError
        If the shape is not two positive whole numbers.
    """
    ny, nx = check_shape("shape", shape, 1)
    y, x = np.ogrid[:ny, :nx]
    # Pixel positions on the full detector, 0-based.
    y, x = (y + 0.5) * 1024 / ny - 0.5, (x + 0.5) * 1032 / nx - 0.5
    main = np.broadcast_to((x >= 360) & (x <= 1027), shape)
    spot = (np.hypot(y - 880, x - 145) < 14) | ((abs(x - 145) < 4) & (y > 880))
    lyot = (y >= 735) & (x <= 290) & (y <= 1019) & (x >= 5) & ~spot
    return main, lyot


def nircam_detectors(names, shape):
    """Return NIRCam detectors, brought together in proportion to their shape."""
    names = check_names("detectors", names)
    unknown = [name for name in names if name not in _siaf() or name == "mirimage"]
    if unknown or not len(names):
        msg = f"detectors must be some of nrca1-nrca4 and nrcb1-nrcb4, not {tuple(names)}"
        raise ValueError(msg)
    chips = [jwst_detector(name, shape) for name in names]
    v2v3 = np.array([chip.v2v3 for chip in chips])
    mean = v2v3.mean(axis=0)
    v2v3 = mean + (v2v3 - mean) * np.array(shape[::-1]) / 2048
    return [replace(chip, v2v3=tuple(v)) for chip, v in zip(chips, v2v3, strict=True)]
