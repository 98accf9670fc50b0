# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images that show the same exposure, and count twice."""

import re
from functools import cache
from numbers import Real

import numpy as np

from levelmatch.exceptions import FrameError, warn_user
from levelmatch.images.file_headers import readable_value
from levelmatch.images.jwst import exposure_of
from levelmatch.sky.grid import are_at_one_place
from levelmatch.text import list_names

__all__ = ["warn_coadds", "warn_copies"]

# Largest scatter of a difference, relative to the noise, of two images with the same noise.
SAME_NOISE = 0.25
# Approximate number of pixels from which the noise of an image is found.
SAMPLE = 1_000_000
# Side of the blocks in which the noise is found, and the fraction of them without stars.
BLOCK, CALM = 8, 0.1
# Standard deviation of normal values whose absolute values have a median of 1.
NORMAL = 1.4826
# Keywords of the number of exposures in a coadd: of IRAF and ccdproc, AstroDrizzle, Siril, WISE,
# others, and `~levelmatch.make_mosaic`.
COUNTS = ("NCOMBINE", "NDRIZIM", "STACKCNT", "NUMFRMS", "NCOADD", "NSTACK", "NIMAGES")
# Names of coadds of JWST, of an observation or a candidate, with program and observation, and of
# its exposures.
LEVEL_3 = re.compile(r"jw(\d{5})-(?:o(\d{3})|[ac]\d+)_t\d+_", re.IGNORECASE)
EXPOSURE = re.compile(r"jw\d{11}_", re.IGNORECASE)
# Names of files that a user made of single integrations of an exposure.
INTEGRATION = re.compile(r"ints_\d+", re.IGNORECASE)
# Smallest number of images inside of a coadd, and fraction of their sides that it covers.
SEVERAL, INSIDE = 2, 0.9
# Keywords of the time of an exposure, and the largest difference, in days, of equal times.
TIMES = ("DATE-OBS", "TIME-OBS", "DATE-BEG", "MJD-OBS", "EXPSTART")
SAME_TIME = 1e-5


def warn_copies(frames, measured):
    """Warn of images that are copies of others, or made from the same exposure.

    Examples are a file and its compressed copy, or two calibrations of an exposure.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    measured : `~levelmatch.measure.table.PairTable`
        Their pairs.

    Warns
    -----
    LevelMatchWarning
        If all differences of two images at one place are zero. If they scatter much less than the
        noise of each image and than the other differences of both, unless the headers give
        different times. If the names of two files at one place are of one exposure of JWST.
    """
    equal = (measured.scatter == 0) & (measured.level == 0) & (measured.npix > 0)
    quiet = ~equal & (measured.scatter < SAME_NOISE * _typical_scatter(measured, len(frames)))
    noise = cache(lambda k: _noise(frames[k]))
    named = _named_alike(frames)
    # In crowded fields, stars look like noise, and images at one place have the same stars.
    versions = [
        pair
        for pair in _at_one_place(frames, measured, quiet)
        if tuple(pair[:2]) not in named
        and not _differ_in_time(*(frames[k].meta for k in pair[:2]))
        and all(measured.scatter[pair[2]] < SAME_NOISE * noise(k) for k in pair[:2])
    ]
    for found, kind, pairs in (
        ("images have equal pixels at one place", "Copies", _at_one_place(frames, measured, equal)),
        ("images show the same noise at one place", "Versions of one exposure", versions),
        ("files are of one exposure by their names", "Versions of one exposure", named),
    ):
        names = [_both(frames, pair) for pair in pairs]
        if names:
            msg = (
                f"{found}: {list_names(names)}. {kind} count twice, and the errors are too small; "
                "leave out one of each"
            )
            warn_user(msg)


def _named_alike(frames):
    """Return the pairs of images at one place that are of one exposure of JWST by their names."""
    firsts, pairs = {}, {}
    for k, frame in enumerate(frames):
        key = exposure_of(frame.name), frame.part, frame.extension
        first = firsts.setdefault(key, k)
        names = {frames[first].name, frame.name}
        if len(names) > 1 and all(INTEGRATION.search(name) for name in names):
            continue
        # Parts of an image may have its name, such as sections that a user cut.
        if first != k and not frame.whole and _is_inside(frame.grid, frames[first].grid):
            pairs[first, k] = None
    return pairs


def warn_coadds(frames, measured):
    """Warn of coadds that cover several images, which they may contain.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    measured : `~levelmatch.measure.table.PairTable`
        Their pairs.

    Warns
    -----
    LevelMatchWarning
        If an image combines several exposures, according to its header or the name of its file,
        and covers several single exposures, or several coadds with as many exposures in sum.
    """
    counts = np.array([_exposures(frame) for frame in frames], dtype=float)
    coadds = []
    for k, others in _covered(frames, measured, counts).items():
        # Coadds of other exposures, such as those of other nights, may also have fewer.
        inside = [j for j in others if counts[j] == 1]
        if np.sum(counts[others]) == counts[k]:
            inside = others
        if len(inside) >= SEVERAL:
            names = sorted(frames[j].name for j in inside)
            coadds.append(f"{frames[k].name} ({list_names(names, most=3)})")
    if coadds:
        msg = (
            f"coadds cover several images: {list_names(coadds)}. If they are made of these, "
            "exposures count twice, and the errors are too small; leave out the coadds, or these"
        )
        warn_user(msg)


def _covered(frames, measured, counts):
    """Return the images of fewer exposures that each coadd covers, by the index of the coadd."""
    coadd = np.concatenate([measured.first, measured.second])
    other = np.concatenate([measured.second, measured.first])
    extent = np.concatenate([measured.extent[:, 1], measured.extent[:, 0]])
    covered = {}
    for row in np.flatnonzero((counts[other] < counts[coadd]) & (extent > INSIDE)):
        k, j = int(coadd[row]), int(other[row])
        may_contain = _may_contain(frames[k].name, frames[j].name)
        if may_contain and _is_inside(frames[j].grid, frames[k].grid):
            covered.setdefault(k, []).append(j)
    return dict(sorted(covered.items()))


def _may_contain(coadd, name):
    """Return whether a coadd may contain an image by the names of both, as JWST gives them."""
    found = LEVEL_3.match(coadd)
    if found is None or not EXPOSURE.match(name):
        return True
    return name[2:].startswith("".join(found.groups(default="")))


def _is_inside(grid, other):
    """Return whether the centre of an image lies within the outline of another."""
    return bool((other.normals @ grid.centre >= 0).all())


def _exposures(frame):
    """Return the number of exposures in an image, 1 if unknown, and infinity if it is not given."""
    if LEVEL_3.match(frame.name):
        return np.inf
    values = (readable_value(frame.meta, key) for key in COUNTS)
    return max((v for v in values if isinstance(v, Real) and v > 1), default=1)


def _both(frames, pair):
    return f"{frames[pair[0]].name} and {frames[pair[1]].name}"


def _at_one_place(frames, measured, chosen):
    """Return the two images and the index of each chosen pair whose images are at one place."""
    return [
        (measured.first[k], measured.second[k], k)
        for k in np.flatnonzero(chosen)
        if are_at_one_place(frames[measured.first[k]].grid, frames[measured.second[k]].grid)
    ]


def _differ_in_time(first, second):
    """Return whether two headers give different times of their exposures."""
    for key in TIMES:
        a, b = readable_value(first, key), readable_value(second, key)
        if isinstance(a, Real) and isinstance(b, Real):
            if abs(a - b) > SAME_TIME:
                return True
        elif isinstance(a, str) and isinstance(b, str) and a != b:
            return True
    return False


def _typical_scatter(measured, n):
    """Return the smaller of the mean scatters of the pairs of both images, for each pair."""
    ends = np.concatenate([measured.first, measured.second])
    known = np.isfinite(measured.scatter) & (measured.npix > 0)
    total = np.bincount(ends, np.tile(np.where(known, measured.scatter, 0), 2), minlength=n)
    mean = total / np.maximum(np.bincount(ends, np.tile(known, 2), minlength=n), 1)
    return np.minimum(mean[measured.first], mean[measured.second])


def _noise(frame):
    """Return the noise of an image beside its stars; NaN without pixels.

    It is found from differences of neighbours in a row, in the blocks where they are small.
    """
    try:
        data = frame.load()
    except FrameError:
        return np.nan
    side = min(BLOCK, len(data), data.shape[1] - 1)
    bands = len(data) // side
    rows = np.arange(bands * side).reshape(bands, side)[:: 1 + data.size // SAMPLE]
    steps = np.abs(np.diff(data[rows], axis=2))
    steps = steps[:, :, : steps.shape[2] // side * side].reshape(len(rows), side, -1, side)
    blocks = steps.swapaxes(1, 2).reshape(-1, side**2)
    blocks = blocks[np.count_nonzero(np.isfinite(blocks), axis=1) > side**2 // 2]
    if not len(blocks):
        return np.nan
    medians = np.nanmedian(blocks, axis=1)
    return float(np.quantile(medians, CALM)) * NORMAL / np.sqrt(2)
