"""Functions shared by the runners: reading files, planes about an image's centre, times and JSON.

A runner is a module with a function ``find(paths, fit, scratch)``. For each path it returns the
level to subtract or, with ``fit="level+slope"``, (level, slope_u, slope_v) in the convention of
`levelmatch.testing`. Two functions are optional: ``prepare`` converts the input and is not timed,
and ``collect`` reads the output of ``find`` from the scratch folder. Each function runs in a
process of its own, with the Python of the package. Only ``find`` is timed.

This module imports only numpy and astropy, because levelmatch is not in the other environments.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

ARCMIN = np.pi / 10800.0
# The bad pixels of JWST's steps: "~DO_NOT_USE+NON_SCIENCE".
BAD_BITS = 1 | 512


def read(path):
    """Return data, errors, the mask of good pixels and the WCS of a file."""
    with fits.open(path, memmap=False) as hdus:
        data = np.asarray(hdus["SCI"].data, dtype=np.float32)
        error = np.asarray(hdus["ERR"].data, dtype=np.float32)
        good = ((hdus["DQ"].data & BAD_BITS) == 0) & np.isfinite(data)
        return data, error, good, WCS(hdus["SCI"].header)


def read_blanked(path):
    """Return data whose bad pixels are NaN, and the WCS."""
    data, _, good, wcs = read(path)
    data[~good] = np.nan
    return data, wcs


def sample_grid(shape, n=17):
    """Return y and x of n x n pixels over an image."""
    return np.meshgrid(*(np.linspace(0, size - 1, n) for size in shape), indexing="ij")


def _unit_vectors(ra, dec):
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def fit_plane(y, x, values, wcs, shape):
    """Fit (level, slope_u, slope_v) about an image's centre to values at its pixels."""
    ra, dec = np.radians(wcs.all_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0))
    east = np.array([-np.sin(ra), np.cos(ra), 0.0])
    north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    s = _unit_vectors(*wcs.all_pix2world(np.ravel(x), np.ravel(y), 0))
    terms = np.stack([np.ones(len(s)), s @ east / ARCMIN, s @ north / ARCMIN], axis=1)
    return np.linalg.lstsq(terms, np.ravel(values), rcond=None)[0].tolist()


def plane_of_difference(before, after):
    """Return (level, slope_u, slope_v) of the difference between two files."""
    data, _, good, wcs = read(before)
    with fits.open(after, memmap=False) as hdus:
        difference = data.astype(float) - hdus["SCI"].data
    y, x = np.nonzero(good & np.isfinite(difference) & (data != 0))
    step = max(1, len(y) // 4000)
    y, x = y[::step], x[::step]
    return fit_plane(y, x, difference[y, x], wcs, data.shape)


def main(find, prepare=None, collect=None):
    """Run one phase of a runner from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=["prepare", "find", "collect"])
    parser.add_argument("--fit", choices=["level", "level+slope"], required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("paths", nargs="+", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    function = {"prepare": prepare, "find": find, "collect": collect}[args.phase]
    start = time.perf_counter()
    found = function(args.paths, args.fit, args.scratch)
    seconds = time.perf_counter() - start
    answer = {"seconds": seconds}
    if found is not None:
        names = [path.name for path in args.paths]
        values = np.asarray(found, dtype=float).tolist()
        answer["found"] = dict(zip(names, values, strict=True))
    args.output.write_text(json.dumps(answer), encoding="utf-8")
