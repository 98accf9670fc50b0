# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Check the tree of a record and build its objects."""

import os
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np

from levelmatch.exceptions import RecordError
from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.images.frame import Frame
from levelmatch.images.units import recorded_unit
from levelmatch.measure.pair_store import KEY_SIZE
from levelmatch.measure.table import PAIR, PairTable, unmeasured
from levelmatch.options import SolveOptions, fit_terms
from levelmatch.record.columns import FRAME_TEXT, INPUTS
from levelmatch.record.run import Run
from levelmatch.record.run_result import RunResult
from levelmatch.record.solved_again import SolvedAgain
from levelmatch.sky.grid import Footprint
from levelmatch.solve.offsets import SharedOffsets
from levelmatch.solve.passes import Pass
from levelmatch.solve.reference import Reference
from levelmatch.solve.shared_pattern import SharedPattern
from levelmatch.solve.solution import Solution

__all__ = ["read_tree"]

# Kinds of numbers and shape of each array of a pass. A pass has n images, m pairs (k are kept), g
# groups, s sets of groups and c coefficients.
ARRAYS = {
    "domain": ("iu", "n"),
    "group": ("iu", "n"),
    "kept": ("b", "m"),
    "reason": ("US", "m"),
    "residual": ("f", "m"),
    "group_axes": ("f", "g33"),
    "isolated": ("b", "g"),
    "coefficients": ("f", "gc"),
    "errors": ("f", "gc"),
    "component": ("iu", "g"),
    "active": ("b", "gc"),
    "held": ("iu", "s"),
    "floors": ("f", "s"),
    "weight": ("f", "k"),
    "robust": ("f", "k"),
    "n_sigma": ("f", "k"),
}
# Characters that no name of a file may contain. A backslash separates folders on some systems.
SEPARATORS = {"/", "\0", os.sep, os.altsep or os.sep}


def _require(good: Any, what: str) -> None:
    """Refuse a damaged record."""
    if not good:
        msg = f"the record is damaged: {what}"
        raise RecordError(msg)


def read_tree(tree: dict[str, Any]) -> tuple[RunResult, dict[str, np.ndarray], np.ndarray]:
    """Return the objects of a recorded tree.

    Parameters
    ----------
    tree : dict
        See `~levelmatch.record.record.Record.to_tree`.

    Returns
    -------
    result : `~levelmatch.record.run_result.RunResult`
        The corrections, pairs and passes.
    inputs : dict of `~numpy.ndarray`
        Columns that identify the inputs, and the significance of the slopes.
    keys : `~numpy.ndarray` of uint8, shape (n_pairs, 32)
        Keys of the pairs.

    Raises
    ------
    RecordError
        If values are impossible or contradict each other. Missing values raise a `KeyError` or
        another exception, see `~levelmatch.record.record.Record.from_tree`.
    """
    n = _length("images", tree["images"])
    images = {key: np.array(value) for key, value in tree["images"].items()}
    # Old records lack these columns: no output was multiplied, and each file had one image.
    images.setdefault("output_factor", np.ones(n))
    # Older ones identify pixels by other digests.
    for key in ("zero_point", "extension", "exposure", "role", "digest", "mask_digest"):
        images.setdefault(key, np.full(n, "", dtype="U1"))
    run = _run(tree)
    _check_images(images, run, n)
    corrections = _corrections(tree["corrections"], n)
    frames = [_frame(images, i, corrections[i], run.planned[-1].keyword) for i in range(n)]
    n_recorded, n_earlier = len(frames[0].corrections), int(tree["n_earlier"])
    what = f"{n_recorded} corrections of each image, {n_earlier} of earlier runs and"
    good = n_recorded == n_earlier + run.n_corrections
    _require(good, f"{what} {run.n_corrections} of this one")
    measured, keys = _pairs(tree["pairs"], n)
    n_found, n_asked = len(tree["passes"]), len(run.planned)
    _require(n_found == n_asked, f"{n_found} passes recorded, {n_asked} asked for")
    nodes = list(zip(tree["passes"], run.planned, strict=True))
    rows = [_rows(node, planned, len(measured)) for node, planned in nodes]
    pattern = _pattern(nodes[0][0]) if nodes else None
    # Earlier versions chose references by other rules.
    kept = [replace(p, references=_references(node)) for node, p in nodes]
    again = SolvedAgain(frames, rows, measured, replace(run, planned=kept), pattern)
    passes = [_pass(node, planned, n, rows[k], again, k) for k, (node, planned) in enumerate(nodes)]
    result = RunResult([frames[k] for k in run.order], passes, measured, run)
    return result, {key: images[key] for key in (*INPUTS, "slope_n_sigma")}, keys


def _run(tree: dict[str, Any]) -> Run:
    """Return the recorded run."""
    options = _current_options(tree["options"])
    for group in ("read", "measure", "solve"):
        _require(isinstance(options.get(group), dict), f"its options lack {group!r}")
    planned = [Pass(**plan) for plan in options["passes"]]
    try:
        SolveOptions(**options["solve"])
        for plan in planned:
            fit_terms(plan.fit_type)
    except (TypeError, ValueError) as error:
        msg = f"the record is damaged: its options: {error}"
        raise RecordError(msg) from error
    return Run(
        function=str(options["function"]),
        planned=planned,
        options={k: v for k, v in options.items() if k not in ("function", "passes")},
        created=str(tree["created"]),
        order=np.array(tree["order"]).tolist(),
        recombine=bool(tree["recombine"]),
        sky=None if tree["sky"] is None else np.array(tree["sky"]),
        subsets=np.array(tree["subsets"]).tolist(),
        versions={str(k): str(v) for k, v in tree["software"].items()},
        unit=recorded_unit(tree["unit"]),
        history=[dict(entry) for entry in tree["history"]],
        parent=tree["parent"] and {k: str(v) for k, v in tree["parent"].items()},
    )


def _current_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return recorded options in the current layout; the layout of old records was flat."""
    if "read" in options:
        return options
    read = ("dq_bits", "hdu", "rematch", "flux_scale", "apply_flux_scale")
    moved = {k: options[k] for k in read if k in options}
    kept = {k: v for k, v in options.items() if k not in (*read, "weights", "stacked")}
    return {
        **kept,
        "read": moved,
        "solve": {"weights": options["weights"], **options["solve"]},
        "measure": {"stacked": options.get("stacked", False), **options["measure"]},
    }


def _length(name: str, columns: dict[str, Any]) -> int:
    """Return the number of rows of a table without reading its columns."""
    rows = {key: np.shape(column)[0] for key, column in columns.items()}
    _require(len(set(rows.values())) == 1, f"{name}: its columns differ in length: {rows}"[:280])
    return next(iter(rows.values()))


def _check_images(images: dict[str, np.ndarray], run: Run, n: int) -> None:
    """Refuse repeated or missing images, names that are paths, and impossible numbers."""
    names = images["name"].tolist()
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < n else ()
    _require(not twice, f"the image {min(twice, default='')!r} occurs twice")
    subsets = np.array(run.subsets)
    ordered = names == sorted(names) and sorted(run.order) == list(range(n))
    ordered = ordered and subsets.shape == (n,) and subsets.dtype.kind in "iu"
    _require(ordered, "images are missing, or not in order")
    for name in {*names, *images["whole"].tolist(), *images["file"].tolist()} - {""}:
        is_path = name in (".", "..") or any(c in name for c in SEPARATORS)
        _require(not is_path, f"{name!r} is a path, not the name of an image")
    good = (images["output_factor"] > 0).all()
    _require(good, "a factor on an image is not a positive number")
    for key in ("axes", "outline", "pixel_area", "scale", "output_factor"):
        bad = ~np.isfinite(images[key].reshape(n, -1)).all(axis=1)
        _require(not bad.any(), f"{names[int(bad.argmax())]}: {key!r} is not finite")


def _corrections(node: dict[str, Any], n: int) -> list[list[AppliedCorrection]]:
    """Return the corrections of each image."""
    _length("corrections", node)
    columns = {key: np.array(value) for key, value in node.items()}
    # Old records have no pattern.
    columns.setdefault("pattern", np.zeros((len(columns["image"]), 5)))
    out: list[list[AppliedCorrection]] = [[] for _ in range(n)]
    for row, i in enumerate(columns["image"].tolist()):
        _require(0 <= i < n, f"a correction of image {i} among {n}")
        correction = Correction(
            float(columns["constant"][row]), columns["vector"][row], columns["pattern"][row]
        )
        numbers = [correction.constant, *correction.vector, *correction.pattern]
        _require(np.isfinite(numbers).all(), f"a correction of image {i} is not a finite number")
        out[i].append(
            AppliedCorrection(
                str(columns["pass"][row]),
                correction,
                columns["variance"][row],
                str(columns["reference"][row]),
            )
        )
    complete = len({len(of_image) for of_image in out}) <= 1
    _require(complete, "corrections of some images are missing")
    return out


def _frame(images: dict[str, np.ndarray], i: int, corrections: list, keyword: str) -> Frame:
    """Return a recorded image as a frame without pixels and WCS."""
    text: dict[str, Any] = {key: str(images[key][i]) for key in FRAME_TEXT}
    y0, y1, x0, x1 = images["region"][i].tolist()
    (y, x), time = images["origin"][i].tolist(), float(images["background_time"][i])
    return Frame(
        **text,
        source=None,
        shape=tuple(images["shape"][i].tolist()),
        meta={"SUBSTRT2": y, "SUBSTRT1": x, keyword: time},
        unit=recorded_unit(str(images["unit"][i])),
        # The footprint takes the place of the transformation.
        transform=None,  # type: ignore[arg-type]
        dq_bits=int(images["dq_bits"][i]),
        region=None if y0 < 0 else (slice(y0, y1), slice(x0, x1)),
        subset=int(images["subset"][i]),
        scale=float(images["scale"][i]),
        output_factor=float(images["output_factor"][i]),
        zero_point=str(images["zero_point"][i]),
        corrections=tuple(corrections),
        footprint=Footprint(
            axes=images["axes"][i],
            polygon=images["outline"][i],
            pixel_area=float(images["pixel_area"][i]),
            centre=images["axes"][i, 0],
        ),
    )


def _pairs(node: dict[str, Any], n: int) -> tuple[PairTable, np.ndarray]:
    """Return the table of the pairs and their keys."""
    _length("pairs", node)
    blank = unmeasured(len(node["first"]))
    columns = {f.name: node.get(f.name, blank.get(f.name)) for f in fields(PairTable)}
    table = PairTable(**{name: np.array(column) for name, column in columns.items()})
    for name in columns:
        kinds = "iu" if name in ("first", "second", "npix") else "iuf"
        inner = PAIR[name].shape if name in (PAIR.names or ()) else ()
        found = getattr(table, name)
        good = found.dtype.kind in kinds and found.shape == (len(table.first), *inner)
        _require(good, f"{name!r} of its pairs has shape {found.shape}")
    keys = np.array(node["key"], dtype=np.uint8).reshape(-1, KEY_SIZE)
    _require(len(keys) == len(table), "its columns of pairs differ in length")
    for end in (table.first, table.second):
        good = not len(end) or (0 <= end.min() and end.max() < n)
        _require(good, f"a pair names an image beyond the {n}")
    bad = ~np.isfinite(table.gram).all(axis=(1, 2)) | ~np.isfinite(table.rhs).all(axis=1)
    worst = int(bad.argmax()) if len(bad) else 0
    _require(not bad.any(), f"pair {worst} has numbers that are not finite")
    return table, keys


def _rows(node: dict[str, Any], planned: Pass, n_pairs: int) -> np.ndarray:
    """Return the indices of the pairs of a pass."""
    rows = np.array(node["rows"])
    good = not len(rows) or (0 <= rows.min() and rows.max() < n_pairs)
    _require(good, f"the pass {planned.name!r} has a pair that does not exist")
    return rows


def _references(node: dict[str, Any]) -> list[Reference]:
    """Return the references of a recorded pass."""
    return [_reference(r) for r in node["references"]]


def _reference(node: dict[str, Any]) -> Reference:
    # Old records have no tilt, and no flag of suspects.
    tilt, sigma = (float(node.get(key, 0.0)) for key in ("tilt", "tilt_sigma"))
    return Reference(
        int(node["group"]),
        str(node["name"]),
        str(node["reason"]),
        tilt,
        sigma,
        suspect=bool(node.get("suspect", False)),
    )


def _pattern(node: dict[str, Any]) -> SharedPattern | None:
    """Return the pattern of the detectors recorded with a pass, or `None`."""
    pattern = node.get("pattern")
    if pattern is None:
        return None
    return SharedPattern(
        detectors=[str(word) for word in pattern["detectors"]],
        of_image=np.array(pattern["of_image"]),
        coefficients=np.array(pattern["coefficients"]),
        errors=np.array(pattern["errors"]),
        trends=[str(word) for word in pattern["trends"]],
        step=np.array(pattern["step"]),
        columns=np.array(pattern["columns"]),
    )


def _offsets(node: dict[str, Any]) -> SharedOffsets:
    return SharedOffsets(
        tuple(str(name) for name in node["detectors"]),
        tuple(float(value) for value in node["mean"]),
        tuple(float(value) for value in node["error"]),
        float(node["scatter"]),
        int(node["n_known"]),
        int(node["n_tied"]),
    )


def _check_arrays(name: str, arrays: dict[str, np.ndarray], sizes: dict[str, int]) -> None:
    """Refuse arrays of a pass with wrong types or shapes, and indices of missing groups or sets."""
    for key, (kinds, letters) in ARRAYS.items():
        array = arrays[key]
        if letters == "k":
            sizes["k"] = int(arrays["kept"].sum())
        lengths = list(zip(letters, array.shape, strict=False))
        good = array.dtype.kind in kinds and array.ndim == len(letters)
        good = good and all(sizes.setdefault(letter, n) == n for letter, n in lengths)
        what = f"the pass {name!r} has {key!r} of type {array.dtype} and shape {array.shape}"
        _require(good, what)
    tie = arrays["tie"]
    good = tie.shape == (sizes["g"],) if tie.dtype.kind == "f" else tie[()] is None
    for key, size in (("group", "g"), ("component", "s")):
        numbers = arrays[key]
        good = good and (not numbers.size or 0 <= numbers.min() <= numbers.max() < sizes[size])
    good = good and sizes["c"] in (1, 3)
    _require(good, f"the pass {name!r} refers to missing groups or sets")


def _pass(
    node: dict[str, Any], planned: Pass, n: int, rows: np.ndarray, again: SolvedAgain, k: int
) -> Pass:
    """Return a recorded pass; solve it again only if its covariance is needed."""
    plain = ("name", "fit_type", "references", "offsets", "pattern")
    array = {key: np.array(v) for key, v in node.items() if key not in plain}
    same = node["name"] == planned.name
    _require(same, f"the pass {node['name']!r} is not {planned.name!r}")
    fit_terms(node["fit_type"])
    _check_arrays(planned.name, array, {"n": n, "m": len(rows), "3": 3})
    solution = Solution(
        coefficients=array["coefficients"],
        component=array["component"],
        reference=array["held"],
        floors=array["floors"],
        weight=array["weight"],
        robust=array["robust"],
        n_sigma=array["n_sigma"],
        active=array["active"],
        covariance_of=partial(again.covariance, k),
        known_errors=array["errors"],
    )
    return replace(
        planned,
        fit_type=str(node["fit_type"]),
        domain=array["domain"],
        group=array["group"],
        rows=rows,
        kept=array["kept"],
        reason=array["reason"].tolist(),
        solution=solution,
        group_axes=array["group_axes"],
        residual=array["residual"],
        references=_references(node),
        # Old records have no offsets.
        offsets=tuple(_offsets(o) for o in node.get("offsets", ())),
        pattern=_pattern(node),
        isolated=array["isolated"],
        tie=None if node["tie"] is None else array["tie"],
        carried_of=partial(again.carried, k),
    )
