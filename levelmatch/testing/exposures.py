# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Exposures of a simulated set."""

from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from levelmatch.option_values import check_shape
from levelmatch.testing.detectors import Detector, make_wcs
from levelmatch.testing.sky import ARCSEC, STREAM_LAYOUT, random_stream, shift, tangent_frame

__all__ = [
    "SCI_KEYWORDS",
    "check_arguments",
    "draw_planes",
    "generic_exposure",
    "generic_offsets",
    "jwst_exposures",
    "with_backgrounds",
]


# Keywords that JWST keeps in the SCI header; the others go to the primary header.
SCI_KEYWORDS = ("BUNIT", "PIXAR_SR", "PIXAR_A2")


@dataclass(frozen=True, eq=False)
class _Exposure:
    """An image before it is rendered: its pointing and header cards."""

    name: str
    tile: int
    detector: Detector
    frame: np.ndarray  # columns: the reference point, and the directions of V2 and V3 there
    cards: dict

    @property
    def wcs(self):
        """The image's FITS WCS, computed at each access."""
        return make_wcs(self.frame, self.detector)


def draw_planes(rng, exposures, offset_rms, slope, lyot_offset_rms=0.0, lyot_slope=0.0):
    """
    Return the random backgrounds of each exposure and of its Lyot region.

    A background is (level, slope_u, slope_v).
    """
    tiles = sorted({exposure.tile for exposure in exposures})
    detector = exposures[0].detector
    main = _draw(rng, len(exposures), offset_rms, slope, detector)
    extra = _draw(rng, len(tiles), lyot_offset_rms, lyot_slope, detector)
    lyot = dict(zip(tiles, extra, strict=True))
    return [(plane, lyot[e.tile]) for plane, e in zip(main, exposures, strict=True)]


def _draw(rng, n, offset_rms, slope, detector):
    """
    Draw n backgrounds (level, slope_u, slope_v).

    ``slope`` is the rms change over half the detector's side, in a random direction.
    """
    half = np.sqrt(np.prod(detector.shape)) * detector.pixel_scale / 120.0  # arcmin
    values = rng.standard_normal((n, 3)) * [offset_rms, *[slope / half / np.sqrt(2)] * 2]
    return [tuple(row) for row in values.tolist()]


# Arguments of simulations that are numbers, and that are counts.
NUMBERS = (
    *("offset_rms", "slope", "lyot_offset_rms", "lyot_slope", "tile_overlap", "dither_size", "pa"),
    *("star_density", "pixel_scale", "rotation", "rotation_rms"),
)
COUNTS = ("n_images", "n_dithers", "n_tiles")
# Smallest values of arguments; by default any number, and 1 for counts.
LEAST = {"star_density": 0, "pixel_scale": 1e-9, "seed": 0}


def check_arguments(asked):
    """Check the arguments of a simulation, by name."""
    shape, noise, center = (asked[name] for name in ("shape", "noise", "center"))
    if not _are_whole(shape, 8):
        msg = f"shape must be two numbers of at least 8 pixels, not {shape}"
        raise ValueError(msg)
    if not (_is_finite(noise) and noise >= 0):
        msg = f"noise must be finite and not negative, not {noise}"
        raise ValueError(msg)
    if not (np.shape(center) == (2,) and all(map(_is_finite, center))):
        msg = f"center must be two numbers in degrees, not {center}"
        raise ValueError(msg)
    for name in (name for name in NUMBERS if name in asked):
        if not _is_finite(asked[name]):
            msg = f"{name} must be a finite number, not {asked[name]!r}"
            raise ValueError(msg)
        if asked[name] < LEAST.get(name, -np.inf):
            msg = f"{name} must be at least {LEAST[name]}, not {asked[name]}"
            raise ValueError(msg)
    for name in (name for name in (*COUNTS, "seed") if name in asked):
        if not _are_whole((asked[name],) * 2, LEAST.get(name, 1)):
            msg = f"{name} must be at least {LEAST.get(name, 1)}, not {asked[name]!r}"
            raise ValueError(msg)


def _is_finite(value):
    return isinstance(value, Real) and bool(np.isfinite(value))


def _are_whole(values, least):
    """Return whether an argument is two whole numbers of at least a least one."""
    try:
        check_shape("", tuple(values), least)
    except (TypeError, ValueError):
        return False
    return True


def make_tile_offsets(tiles, pitch):
    """Return the (y, x) offsets in arcsec of tiles on a grid about its centre."""
    if not _are_whole(tiles, 1):
        msg = f"the numbers of tiles along y and x must be at least 1, not {tiles}"
        raise ValueError(msg)
    index = np.argwhere(np.ones(tiles)) - (np.array(tiles) - 1) / 2
    return index * pitch


def make_dither_offsets(n, size):
    """
    Return n (y, x) offsets in arcsec that fill a box of a size evenly, the first at its centre.

    Multiples of irrational numbers (the R2 sequence) share no fraction of a pixel.
    """
    step = np.array([0.5698402909980532, 0.7548776662466927])
    return ((0.5 + np.arange(n)[:, np.newaxis] * step) % 1 - 0.5) * size


def generic_offsets(layout, n_images, shape, overlap, rng):
    """Return the (y, x) offsets of images in pixels, with a random fraction of a pixel."""
    if not (_is_finite(overlap) and 0 <= overlap < 1):
        msg = f"overlap must be at least 0 and less than 1, not {overlap}"
        raise ValueError(msg)
    pitch = (1 - overlap) * shape
    if layout == "pile":
        return rng.uniform(-0.5, 0.5, size=(n_images, 2)) * pitch
    if layout not in ("grid", "chain"):
        msg = f"layout must be 'grid', 'chain' or 'pile', not {layout!r}"
        raise ValueError(msg)
    n_columns = n_images if layout == "chain" else int(np.ceil(np.sqrt(n_images)))
    offsets = make_tile_offsets((-(-n_images // n_columns), n_columns), pitch)[:n_images]
    return offsets + rng.uniform(-0.5, 0.5, size=offsets.shape)


def generic_exposure(i, frame, detector, offset, turn, unit):
    """Return image ``i`` of a generic set."""
    y, x = offset
    c, s = np.cos(turn), np.sin(turn)
    moved = frame @ shift((-x, y)) @ [[1, 0, 0], [0, c, s], [0, -s, c]]
    name = f"image_{i:05d}.fits"
    cards = {"FILENAME": name, "BUNIT": unit.to_string().replace(" ", "")}
    return _Exposure(name=name, tile=i + 1, detector=detector, frame=moved, cards=cards)


def jwst_exposures(frame, detectors, tile_offsets, dither_offsets, cards):
    """
    Return the exposures of a JWST mosaic: by tile, then dither, then detector.

    Offsets are (y, x) in arcsec along the axes of the first detector.
    """
    v2v3 = np.mean([detector.v2v3 for detector in detectors], axis=0)
    base = tangent_frame(*v2v3 * ARCSEC).T
    to_v2v3 = detectors[0].to_v2v3()
    exposures = []
    for t, tile in enumerate(tile_offsets):
        for d, dither in enumerate(dither_offsets):
            pointing = frame @ shift(to_v2v3 @ (tile + dither)[::-1]) @ base
            for detector in detectors:
                own = pointing @ tangent_frame(*np.array(detector.v2v3) * ARCSEC)
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


def with_backgrounds(exposures, seed):
    """Return exposures with the days since dedicated background observations as DT_BGR."""
    times = np.array([exposure.cards["MJD-AVG"] for exposure in exposures])
    time = random_stream(seed, STREAM_LAYOUT).uniform(times.min() - 0.05, times.max() + 0.05)
    return [
        replace(exposure, cards={**exposure.cards, "DT_BGR": round(t - time, 6)})
        for exposure, t in zip(exposures, times, strict=True)
    ]
