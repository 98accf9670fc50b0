# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The inputs of a run as columns of its record."""

import warnings

import numpy as np
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.measure.store import KEY_SIZE, image_keys, pair_keys
from levelmatch.options import MeasureOptions

__all__ = ["describe_inputs", "keys_of", "owned", "text", "unit_text"]


# --------------------------------------------------------------------------------------
# Inputs


def keys_of(result, frames, n_earlier):
    """Keys of the pairs of a result, as its images were before its passes."""
    if result.overlaps is None:
        return np.zeros((len(result.measured), KEY_SIZE), dtype=np.uint8)
    options = MeasureOptions(**result.options["measure"])
    before = [f.with_keys(corrections=f.corrections[:n_earlier]) for f in frames]
    keys = pair_keys(image_keys(before), result.overlaps, options)
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_SIZE)


def describe_inputs(frames):
    """Columns on the inputs, for frames sorted by name."""
    rows = []
    for frame in frames:
        rows.append({**frame.source.identity, "dq_bits": frame.dq_bits, "wcs": _wcs_text(frame)})
        rows[-1]["file"] = rows[-1]["file"] or frame.whole or frame.name
    return {
        "file": text([row["file"] for row in rows]),
        "path": text([row["path"] for row in rows]),
        "dtype": text([row["dtype"] for row in rows]),
        "sha256": text([row["sha256"] for row in rows]),
        "mask_sha256": text([row["mask_sha256"] for row in rows]),
        "size": np.array([row["size"] for row in rows], dtype=np.int64),
        "hdu": np.array([row["hdu"] for row in rows], dtype=np.int64),
        "dq_bits": np.array([row["dq_bits"] for row in rows], dtype=np.int64),
        "wcs": np.array([row["wcs"].encode("ascii", "replace") for row in rows]),
    }


def _wcs_text(frame):
    """The image's WCS as FITS cards; of a gwcs, those that the header has, or none."""
    wcs = frame.transform.original
    try:
        if not isinstance(wcs, WCS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FITSFixedWarning)
                wcs = WCS(frame.meta.copy(), naxis=2)
        return wcs.to_header_string(relax=True) if wcs.has_celestial else " "
    except Exception:
        # It is for the reader alone: no run should end for a WCS that FITS cannot say.
        return " "


def text(values):
    """Text as an array, of at least one character a value."""
    array = np.array([str(value) for value in values], dtype=str)
    return array.astype("U1") if array.dtype.itemsize == 0 else array


def owned(node):
    """A tree with each array laid out row by row, in memory of its own.

    Of one that is a part of another, older releases of asdf write all of the other.
    """
    if isinstance(node, dict):
        return {key: owned(value) for key, value in node.items()}
    if isinstance(node, list):
        return [owned(value) for value in node]
    return np.array(node, order="C") if isinstance(node, np.ndarray) else node


def unit_text(unit):
    """Return a unit as text; empty without one."""
    return "" if unit is None else unit.to_string()
