# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The tree of a record."""

from dataclasses import asdict

import numpy as np

from levelmatch.record.inputs import text, unit_text

__all__ = ["FRAME_TEXT", "correction_columns", "image_columns", "pass_tree"]

FRAME_TEXT = ("name", "tile", "detector", "part", "whole")


# --------------------------------------------------------------------------------------
# To a tree


def image_columns(frames, keyword):
    """Return the columns of the images of a record."""
    region = [[-1] * 4 if f.region is None else _bounds(f.region) for f in frames]
    return {
        **{key: text([getattr(f, key) for f in frames]) for key in FRAME_TEXT},
        "unit": text([unit_text(f.unit) for f in frames]),
        "shape": np.array([f.shape for f in frames], dtype=np.int64),
        "region": np.array(region, dtype=np.int64),
        "origin": np.array([_origin(f.meta) for f in frames], dtype=np.int64),
        "subset": np.array([f.subset for f in frames], dtype=np.int64),
        "scale": np.array([f.scale for f in frames]),
        "output_factor": np.array([f.output_factor for f in frames], dtype=float),
        "zero_point": text([f.zero_point for f in frames]),
        "axes": np.array([f.whole_grid.axes for f in frames]),
        "outline": np.array([f.grid.polygon for f in frames]),
        "pixel_area": np.array([f.grid.pixel_area for f in frames]),
        "background_time": np.array([_number(f.meta.get(keyword)) for f in frames]),
    }


def _bounds(region):
    y, x = region
    return [y.start, y.stop, x.start, x.stop]


def _origin(meta):
    return [int(meta.get("SUBSTRT2", 1)), int(meta.get("SUBSTRT1", 1))]


def background_keyword(steps):
    """Header keyword of the time from the backgrounds, that the reference was chosen by."""
    return steps[-1].keyword


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def correction_columns(frames):
    """Return the columns of the corrections of a record."""
    rows = [(i, a) for i, f in enumerate(frames) for a in f.corrections]
    return {
        "image": np.array([i for i, _ in rows], dtype=np.int64),
        "pass": text([a.name for _, a in rows]),
        "constant": np.array([a.correction.constant for _, a in rows], dtype=float),
        "vector": np.array([a.correction.vector for _, a in rows]).reshape(-1, 3),
        "variance": np.array([a.variance for _, a in rows]).reshape(-1, 3),
        "reference": text([a.reference for _, a in rows]),
    }


def pass_tree(p):
    """Return the tree of one pass."""
    s = p.solution
    return {
        "name": p.matched.name,
        "fit_type": p.matched.fit_type,
        "domain": np.asarray(p.matched.domain, dtype=np.int64),
        "group": np.asarray(p.matched.group, dtype=np.int64),
        "references": [asdict(r) for r in p.references],
        "rows": np.asarray(p.rows, dtype=np.int64),
        "kept": np.asarray(p.kept),
        "reason": text(p.reason),
        "residual": p.residual,
        "group_axes": p.group_axes,
        "isolated": np.asarray(p.isolated),
        "tie": p.tie,
        "coefficients": s.coefficients,
        "errors": s.errors,
        "component": np.asarray(s.component, dtype=np.int64),
        "held": np.asarray(s.reference, dtype=np.int64),
        "floors": s.floors,
        "weight": s.weight,
        "robust": s.robust,
        "n_sigma": s.n_sigma,
        "active": np.asarray(s.active),
    }
