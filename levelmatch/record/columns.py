# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The columns of a record: images, inputs, corrections and passes as arrays."""

import warnings
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from astropy import units as u
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.images.frame import Frame
from levelmatch.solve.passes import Pass

__all__ = [
    "FRAME_TEXT",
    "INPUTS",
    "correction_columns",
    "image_columns",
    "input_columns",
    "owned",
    "wcs_text",
    "pass_tree",
    "unit_name",
]

FRAME_TEXT = ("name", "tile", "detector", "part", "whole", "extension", "exposure", "role")
INPUTS = ("file", "path", "dtype", "digest", "mask_digest", "size", "hdu", "dq_bits", "wcs")


def _text(values: Iterable) -> np.ndarray:
    """Return values as an array of text with at least one character per item."""
    array = np.array([str(value) for value in values], dtype=str)
    return array.astype("U1") if array.dtype.itemsize == 0 else array


def unit_name(unit: u.UnitBase | None) -> str:
    """Return a unit as text that astropy can parse; empty for `None`."""
    return "" if unit is None else unit.to_string()


def owned(node: Any) -> Any:
    """Return a tree with contiguous copies of its arrays.

    For a slice, older releases of asdf write the whole base array.
    """
    if isinstance(node, dict):
        return {key: owned(value) for key, value in node.items()}
    if isinstance(node, list):
        return [owned(value) for value in node]
    return np.array(node, order="C") if isinstance(node, np.ndarray) else node


def image_columns(frames: list[Frame], keyword: str) -> dict[str, np.ndarray]:
    """Return the columns of the images.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, sorted by name.
    keyword : str
        Header keyword of the time from the dedicated backgrounds.

    Returns
    -------
    columns : dict of str to `~numpy.ndarray`
        The columns by name.
    """
    return {
        **{key: _text(getattr(f, key) for f in frames) for key in FRAME_TEXT},
        "unit": _text(unit_name(f.unit) for f in frames),
        "shape": np.array([f.shape for f in frames], dtype=np.int64),
        "region": np.array([_bounds(f.region) for f in frames], dtype=np.int64),
        # Origin (y, x) of a subarray, counted from 1.
        "origin": np.array(
            [[_whole(f.meta.get(key, 1)) for key in ("SUBSTRT2", "SUBSTRT1")] for f in frames],
            dtype=np.int64,
        ),
        "subset": np.array([f.subset for f in frames], dtype=np.int64),
        "scale": np.array([f.scale for f in frames]),
        "output_factor": np.array([f.output_factor for f in frames], dtype=float),
        "zero_point": _text(f.zero_point for f in frames),
        "axes": np.array([f.whole_grid.axes for f in frames]),
        "outline": np.array([f.grid.polygon for f in frames]),
        "pixel_area": np.array([f.grid.pixel_area for f in frames]),
        "background_time": np.array([_number(f.meta.get(keyword)) for f in frames]),
    }


def _bounds(region) -> list[int]:
    """Return the limits (y0, y1, x0, x1) of a region, or -1 without a region."""
    if region is None:
        return [-1] * 4
    y, x = region
    return [y.start, y.stop, x.start, x.stop]


def _whole(value: Any) -> int:
    """Return the value of a card as an integer, by default 1.

    Only the Lyot region of MIRI needs these cards.
    """
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 1


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def input_columns(frames: list[Frame]) -> dict[str, np.ndarray]:
    """Return the columns that identify the inputs, for frames sorted by name.

    Files that were not yet read are read.
    """
    rows = []
    for frame in (frame.opened() for frame in frames):
        rows.append({**frame.source.identity, "dq_bits": frame.dq_bits, "wcs": wcs_text(frame)})
        # An image in memory is named by its output file.
        own = frame.file if frame.extension else frame.name
        rows[-1]["file"] = rows[-1]["file"] or frame.whole or own
    columns = {key: [row[key] for row in rows] for key in INPUTS}
    return {
        **{key: _text(columns[key]) for key in ("file", "path", "dtype", "digest", "mask_digest")},
        **{key: np.array(columns[key], dtype=np.int64) for key in ("size", "hdu", "dq_bits")},
        "wcs": np.array([text.encode("ascii", "replace") for text in columns["wcs"]]),
    }


def wcs_text(frame: Frame) -> str:
    """Return the image's WCS as FITS cards; for a gwcs, the WCS of its header; else a blank."""
    if frame.transform is None:
        # Images in cells have no WCS.
        return " "
    if frame.transform.cards is not None:
        return frame.transform.cards()
    # The complete WCS, `original`, is not used because it parses the whole header.
    wcs = frame.transform.wcs
    try:
        if not isinstance(wcs, WCS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FITSFixedWarning)
                wcs = WCS(frame.meta.copy(), naxis=2)
        return wcs.to_header_string(relax=True) if wcs.has_celestial else " "
    except Exception:
        # This column is informative. A WCS that FITS cannot express must not end a run.
        return " "


def correction_columns(frames: list[Frame]) -> dict[str, np.ndarray]:
    """Return the columns of the corrections, one row for each image and pass."""
    rows = [(i, a) for i, f in enumerate(frames) for a in f.corrections]
    return {
        "image": np.array([i for i, _ in rows], dtype=np.int64),
        "pass": _text(a.name for _, a in rows),
        "constant": np.array([a.correction.constant for _, a in rows], dtype=float),
        "vector": np.array([a.correction.vector for _, a in rows]).reshape(-1, 3),
        "pattern": np.array([a.correction.pattern for _, a in rows]).reshape(-1, 5),
        "variance": np.array([a.variance for _, a in rows]).reshape(-1, 3),
        "reference": _text(a.reference for _, a in rows),
    }


def pass_tree(p: Pass) -> dict[str, Any]:
    """Return a pass as nested plain values and arrays."""
    s = p.solution
    return {
        "name": p.name,
        "fit_type": p.fit_type,
        "domain": np.asarray(p.domain, dtype=np.int64),
        "group": np.asarray(p.group, dtype=np.int64),
        "references": [asdict(r) for r in p.references],
        "offsets": [
            {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(o).items()}
            for o in p.offsets
        ],
        "pattern": None if p.pattern is None else asdict(p.pattern),
        "rows": np.asarray(p.rows, dtype=np.int64),
        "kept": np.asarray(p.kept),
        "reason": _text(p.reason),
        "residual": p.residual,
        "group_axes": p.group_axes,
        "isolated": np.asarray(p.isolated),
        "tie": p.tie,
        "coefficients": s.coefficients,
        "errors": np.where(np.asarray(p.isolated)[:, None], np.nan, s.errors),
        "component": np.asarray(s.component, dtype=np.int64),
        "held": np.asarray(s.reference, dtype=np.int64),
        "floors": s.floors,
        "weight": s.weight,
        "robust": s.robust,
        "n_sigma": s.n_sigma,
        "active": np.asarray(s.active),
    }
