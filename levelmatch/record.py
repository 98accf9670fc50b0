# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The record of a run: what was done to what, as plain arrays in an ASDF file."""

import hashlib
import io
import warnings
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.corrections import AppliedCorrection, Correction
from levelmatch.exceptions import RecordError
from levelmatch.files import whole_stream
from levelmatch.frames import Frame
from levelmatch.levels import Levels, Run
from levelmatch.measure import ROW, MeasureOptions, PairTable
from levelmatch.passes import Pass, PassResult
from levelmatch.pipeline import Step
from levelmatch.provenance import Story
from levelmatch.reference import Reference
from levelmatch.solve import Solution
from levelmatch.store import KEY_SIZE, image_keys, pair_keys
from levelmatch.units import recorded_unit
from levelmatch.untrusted import checked_content

__all__ = ["RECORD_NAME", "Record", "as_record", "check_not_recorded", "read_record"]

RECORD_NAME = "levelmatch.asdf"
KEY = "levelmatch"
# How asdf begins to tell of a node that it could not convert.
FAILED = "failed to convert with: "
FRAME_TEXT = ("name", "tile", "detector", "part", "whole")


@dataclass(frozen=True, eq=False)
class RecordedGrid:
    """Where a recorded image lies: as much of a `~levelmatch.sky.Grid` as needs no WCS."""

    axes: np.ndarray
    polygon: np.ndarray
    pixel_area: float

    @property
    def centre(self):
        """Unit vector at the image's centre."""
        return self.axes[0]


class _SolvedAgain:
    """The covariance of a recorded pass, whose pairs are solved again for it, once."""

    def __init__(self, record, k):
        self.record = record
        self.k = k

    def __getattr__(self, name):
        return getattr(self.record._again.passes[self.k].solution._covariance, name)


class Record(Levels):
    """What a run did, as it is written to a file and read back.

    It has the tables and numbers of a `MatchResult`, and no images: `recorded_result` gives these
    from the same files.

    Parameters
    ----------
    frames : list of `~levelmatch.frames.Frame`
        The images with their corrections, in the order of the input.
    passes, measured, unit, run
        See `~levelmatch.levels.Levels`.
    inputs : dict of `~numpy.ndarray`
        What tells the inputs: ``file``, ``path``, ``size``, ``sha256``, ``mask_sha256``,
        ``dtype``, ``hdu``, ``dq_bits`` and ``wcs``, for the images sorted by name.
    keys : `~numpy.ndarray` of uint8, shape (n_pairs, 32)
        What each pair's measurement depends on, see `~levelmatch.store.pair_keys`; zero where
        it is not to be used again.
    n_earlier : int
        How many corrections an image had before this run.
    history : list of dict
        What led to the record, the oldest first.
    parent : dict or None
        The record that this one was made of: ``name`` and ``sha256``.
    """

    def __init__(
        self, frames, passes, measured, unit, run, inputs, keys, n_earlier, history, parent=None
    ):
        super().__init__(frames, passes, measured, unit, run)
        self.inputs = inputs
        self.keys = keys
        self.n_earlier = n_earlier
        self.history = list(history)
        self.parent = parent
        self._content = None
        for k, step in enumerate(passes):
            if step.solution._covariance is None:
                vars(step.solution)["_covariance"] = _SolvedAgain(self, k)

    @classmethod
    def of(cls, result):
        """Return the record of a `MatchResult`; reads its inputs, for their checksums.

        Parameters
        ----------
        result : `MatchResult`
            The result.
        """
        frames = sorted(result.frames, key=lambda frame: frame.name)
        entry = {
            "time": result.created,
            "function": result.options["function"],
            "images": len(frames),
            "software": result.versions,
        }
        n_passes = sum(1 + step.subtract_local for step in result.run.steps)
        n_earlier = len(frames[0].corrections) - n_passes
        return cls(
            result.frames,
            result.passes,
            result.measured,
            result.unit,
            result.run,
            _describe_inputs(frames),
            _keys_of(result, frames, n_earlier),
            n_earlier,
            [entry],
        )

    def __len__(self):
        return len(self.names)

    def __repr__(self):
        passes = ", ".join(step.name for step in self.run.steps)
        return f"<Record: {len(self)} images, {len(self.measured)} pairs, passes: {passes}>"

    @property
    def names(self):
        """Names of the images that come out, in the order of the input."""
        if not self.run.recombine:
            return [frame.name for frame in self.frames]
        return list(dict.fromkeys(frame.product for frame in self.frames))

    @property
    def sorted_frames(self):
        """The frames sorted by name, as passes, pairs and ``inputs`` have them."""
        return sorted(self.frames, key=lambda frame: frame.name)

    def wcs(self, name):
        """Return the `~astropy.wcs.WCS` of an image; of one with a gwcs, its FITS equivalent.

        Parameters
        ----------
        name : str
            The image.

        Returns
        -------
        wcs : `~astropy.wcs.WCS`
            Its WCS.

        Raises
        ------
        RecordError
            If there is no such image.
        """
        for k, frame in enumerate(self.sorted_frames):
            if frame.name == name:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FITSFixedWarning)
                    return WCS(self.inputs["wcs"][k], naxis=2)
        msg = f"{name}: the record has no such image"
        raise RecordError(msg)

    def to_plain(self):
        """Return what a reader wants of it as plain values: for JSON, without the equations.

        Returns
        -------
        plain : dict
            The run, its options, and its tables as lists of rows.
        """
        return {
            "created": self.created,
            "software": self.versions,
            "parent": self.parent,
            "history": self.history,
            "options": self.options,
            "unit": _unit_text(self.unit),
            "reference": self.reference,
            "reference_reason": self.reference_reason,
            "gauge": self.gauge,
            "images": _plain_rows(self.table),
            "pairs": _plain_rows(self.pairs),
            "closures": _plain_rows(self.closures),
        }

    def rows(self):
        """Return the rows of the pairs by their keys, for a `~levelmatch.store.PairStore`.

        Returns
        -------
        rows : dict
            What was measured of each pair, by its key.
        """
        columns = {name: getattr(self.measured, name) for name in ROW}
        return {
            key.tobytes(): {name: column[p] for name, column in columns.items()}
            for p, key in enumerate(self.keys)
            if key.any()
        }

    @cached_property
    def _again(self):
        from levelmatch.replay import solve_record

        return solve_record(self)

    def _slope_significance(self, rank):
        known = self.inputs.get("slope_n_sigma")
        return Levels._slope_significance(self, rank) if known is None else known[rank]

    # ------------------------------------------------------------------ to a file

    @property
    def content(self):
        """The bytes of the file, made once."""
        if self._content is None:
            import asdf

            buffer = io.BytesIO()
            tree = asdf.AsdfFile({KEY: self})
            tree.write_to(buffer, all_array_compression="zlib")
            self._content = buffer.getvalue()
        return self._content

    @property
    def sha256(self):
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def story(self):
        """What headers say of the run."""
        return Story(self.versions["levelmatch"], self.created, RECORD_NAME, self.sha256)

    def write(self, path, *, overwrite=False):
        """Write the record to a file, whole or not at all.

        Parameters
        ----------
        path : path
            Where.
        overwrite : bool
            Whether a file may be replaced.

        Returns
        -------
        path : `~pathlib.Path`
            The file.

        Raises
        ------
        FileExistsError
            If there is a file, and ``overwrite`` is not set.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            msg = f"{path} exists; overwrite=True replaces it"
            raise FileExistsError(msg)
        content = self.content
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_stream(path) as stream:
            stream.write(content)
        return path

    def to_tree(self):
        """Return the record as nested dictionaries of plain values and arrays.

        Returns
        -------
        tree : dict
            What the ASDF file holds.
        """
        frames = self.sorted_frames
        run = self.run
        tree = {
            "software": self.versions,
            "created": self.created,
            "parent": self.parent,
            "history": self.history,
            "options": self.options,
            "unit": _unit_text(self.unit),
            "recombine": run.recombine,
            "order": np.array(run.order, dtype=np.int64),
            "n_earlier": self.n_earlier,
            "sky": run.sky,
            "subsets": np.array(run.subsets, dtype=np.int64),
            "images": {
                **_image_columns(frames, _keyword(run.steps)),
                **self._total_columns(),
                **self.inputs,
            },
            "corrections": _correction_columns(frames),
            "pairs": {
                "key": self.keys,
                **{f.name: getattr(self.measured, f.name) for f in fields(PairTable)},
            },
            "passes": [_pass_tree(p) for p in self.passes],
        }
        return _owned(tree)

    def _total_columns(self):
        """Level and slopes of all that is subtracted, with errors, for those who read the file."""
        table = self.table[np.argsort([f.name for f in self.frames], kind="stable")]
        columns = ("level", "error", "slope_u", "slope_v", "slope_u_error", "slope_v_error")
        out = {name: np.asarray(getattr(table[name], "value", table[name])) for name in columns}
        return {"slope_n_sigma": np.asarray(table["slope_n_sigma"]), **out}

    @classmethod
    def from_tree(cls, tree):
        """Return the record of a tree, checked.

        Parameters
        ----------
        tree : dict
            As `to_tree` gives.

        Returns
        -------
        record : `Record`
            The record.

        Raises
        ------
        RecordError
            If anything in it cannot be.
        """
        try:
            return _from_tree(cls, tree)
        except RecordError:
            raise
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            msg = f"the record is damaged: {type(error).__name__}: {error}"
            raise RecordError(msg) from error


def read_record(path):
    """Read a record.

    Parameters
    ----------
    path : path
        An ASDF file that levelmatch wrote.

    Returns
    -------
    record : `Record`
        The record; nothing in it refers to the file any more.

    Raises
    ------
    RecordError
        If the file is no record, is of another version, or is damaged; the message
        names it.
    """
    import asdf

    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        msg = f"{path}: the record cannot be read: {error.strerror or error}"
        raise RecordError(msg) from error
    try:
        checked = checked_content(content, KEY)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with asdf.open(io.BytesIO(checked), memmap=False) as tree:
                record = tree.tree.get(KEY)
    except Exception as error:
        what = "" if isinstance(error, RecordError) else f"not a readable record: {_named(error)}"
        msg = f"{path.name}: {what or error}"
        raise RecordError(msg) from error
    if not isinstance(record, Record):
        # asdf warns of a node that it cannot convert, and goes on.
        failed = [str(w.message) for w in caught if FAILED in str(w.message)]
        tag = getattr(record, "_tag", None)
        what = f"its version ({tag}) is not known" if tag else "it holds no level match"
        what = f"not a record of this version of levelmatch: {what}"
        msg = f"{path.name}: {failed[0].partition(FAILED)[2] if failed else what}"
        raise RecordError(msg)
    record._content = content
    return record


def as_record(record):
    """Return a record that is given as such, or by its path; see `read_record`."""
    return record if isinstance(record, Record) else read_record(record)


def check_not_recorded(paths):
    """Refuse images that lie beside the record of the run that wrote them.

    Parameters
    ----------
    paths : list of path
        Images.

    Raises
    ------
    RecordError
        Naming the first such image, and the record.
    """
    names = {}
    for path in map(Path, paths):
        beside = path.parent / RECORD_NAME
        if path.parent not in names:
            names[path.parent] = set(read_record(beside).names) if beside.is_file() else set()
        if path.name in names[path.parent]:
            msg = f"{path.name}: already matched, says the record {beside}; rematch=True goes on"
            raise RecordError(msg)


def _plain_rows(table):
    """Rows of a table as dictionaries; what is not a finite number is none."""
    columns = {
        name: np.asarray(getattr(table[name], "value", table[name])) for name in table.colnames
    }
    columns = {
        name: [None if isinstance(v, float) and not np.isfinite(v) else v for v in column.tolist()]
        for name, column in columns.items()
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _named(error):
    """The kind of an error, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


# --------------------------------------------------------------------------------------
# Inputs


def _keys_of(result, frames, n_earlier):
    """Keys of the pairs of a result, as its images were before its passes."""
    if result.overlaps is None:
        return np.zeros((len(result.measured), KEY_SIZE), dtype=np.uint8)
    options = MeasureOptions(**result.options["measure"])
    before = [f.with_keys(corrections=f.corrections[:n_earlier]) for f in frames]
    keys = pair_keys(image_keys(before), result.overlaps, options)
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_SIZE)


def _describe_inputs(frames):
    """Columns on the inputs, for frames sorted by name."""
    rows = []
    for frame in frames:
        rows.append({**frame.source.identity, "dq_bits": frame.dq_bits, "wcs": _wcs_text(frame)})
        rows[-1]["file"] = rows[-1]["file"] or frame.whole or frame.name
    return {
        "file": _text([row["file"] for row in rows]),
        "path": _text([row["path"] for row in rows]),
        "dtype": _text([row["dtype"] for row in rows]),
        "sha256": _text([row["sha256"] for row in rows]),
        "mask_sha256": _text([row["mask_sha256"] for row in rows]),
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


def _text(values):
    """Text as an array, of at least one character a value."""
    array = np.array([str(value) for value in values], dtype=str)
    return array.astype("U1") if array.dtype.itemsize == 0 else array


def _owned(node):
    """A tree with each array laid out row by row, in memory of its own.

    Of one that is a part of another, older releases of asdf write all of the other.
    """
    if isinstance(node, dict):
        return {key: _owned(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_owned(value) for value in node]
    return np.array(node, order="C") if isinstance(node, np.ndarray) else node


def _unit_text(unit):
    return "" if unit is None else unit.to_string()


# --------------------------------------------------------------------------------------
# To a tree


def _image_columns(frames, keyword):
    region = [[-1] * 4 if f.region is None else _bounds(f.region) for f in frames]
    return {
        **{key: _text([getattr(f, key) for f in frames]) for key in FRAME_TEXT},
        "unit": _text([_unit_text(f.unit) for f in frames]),
        "shape": np.array([f.shape for f in frames], dtype=np.int64),
        "region": np.array(region, dtype=np.int64),
        "origin": np.array([_origin(f.meta) for f in frames], dtype=np.int64),
        "subset": np.array([f.subset for f in frames], dtype=np.int64),
        "scale": np.array([f.scale for f in frames]),
        "output_factor": np.array([f.output_factor for f in frames], dtype=float),
        "zero_point": _text([f.zero_point for f in frames]),
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


def _keyword(steps):
    """Header keyword of the time from the backgrounds, that the reference was chosen by."""
    return steps[-1].keyword


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def _correction_columns(frames):
    rows = [(i, a) for i, f in enumerate(frames) for a in f.corrections]
    return {
        "image": np.array([i for i, _ in rows], dtype=np.int64),
        "pass": _text([a.name for _, a in rows]),
        "constant": np.array([a.correction.constant for _, a in rows], dtype=float),
        "vector": np.array([a.correction.vector for _, a in rows]).reshape(-1, 3),
        "variance": np.array([a.variance for _, a in rows]).reshape(-1, 3),
        "reference": _text([a.reference for _, a in rows]),
    }


def _pass_tree(p):
    s = p.solution
    return {
        "name": p.matched.name,
        "fit_type": p.matched.fit_type,
        "domain": np.asarray(p.matched.domain, dtype=np.int64),
        "group": np.asarray(p.matched.group, dtype=np.int64),
        "references": [asdict(r) for r in p.references],
        "rows": np.asarray(p.rows, dtype=np.int64),
        "kept": np.asarray(p.kept),
        "reason": _text(p.reason),
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


# --------------------------------------------------------------------------------------
# From a tree


def _from_tree(cls, tree):
    n = _length("images", tree["images"])
    images = {key: np.array(value) for key, value in tree["images"].items()}
    # The first records have none, as no output was multiplied.
    images.setdefault("output_factor", np.ones(n))
    images.setdefault("zero_point", np.full(n, "", dtype="U1"))
    options = tree["options"]
    steps = [Step(**step) for step in options["passes"]]
    run = Run(
        function=str(options["function"]),
        steps=steps,
        options={k: v for k, v in options.items() if k not in ("function", "passes")},
        created=str(tree["created"]),
        order=np.array(tree["order"]).tolist(),
        recombine=bool(tree["recombine"]),
        sky=_optional(tree["sky"]),
        subsets=np.array(tree["subsets"]).tolist(),
        versions={str(k): str(v) for k, v in tree["software"].items()},
    )
    _check_images(images, run, n)
    corrections = _corrections(tree["corrections"], n)
    frames = [_frame(images, i, corrections[i], _keyword(steps)) for i in range(n)]
    measured, keys = _pairs(tree["pairs"], n)
    passes = [_pass(node, step, n, len(measured)) for node, step in _zip(tree["passes"], steps)]
    inputs = ("file", "path", "dtype", "sha256", "mask_sha256", "size", "hdu", "dq_bits", "wcs")
    return cls(
        [frames[k] for k in run.order],
        passes,
        measured,
        recorded_unit(tree["unit"]),
        run,
        {key: images[key] for key in (*inputs, "slope_n_sigma")},
        keys,
        int(tree["n_earlier"]),
        [dict(entry) for entry in tree["history"]],
        tree["parent"] and {k: str(v) for k, v in tree["parent"].items()},
    )


def _length(name, columns):
    """How many rows a table has, before its columns are read."""
    rows = {key: np.shape(column)[0] for key, column in columns.items()}
    if len(set(rows.values())) != 1:
        msg = f"the record is damaged: {name}: its columns differ in length: {rows}"[:300]
        raise RecordError(msg)
    return next(iter(rows.values()))


def _optional(value):
    return None if value is None else np.array(value)


def _zip(nodes, steps):
    if len(nodes) != len(steps):
        msg = (
            f"the record is damaged: {len(nodes)} passes are recorded, {len(steps)} were asked for"
        )
        raise RecordError(msg)
    return zip(nodes, steps, strict=True)


def _check_images(images, run, n):
    """Refuse images that are no images of one run, or whose names are paths."""
    names = images["name"].tolist()
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < n else ()
    if twice:
        msg = f"the record is damaged: the image {min(twice)!r} is there twice"
        raise RecordError(msg)
    if names != sorted(names) or sorted(run.order) != list(range(n)) or len(run.subsets) != n:
        msg = "the record is damaged: images are missing, or not in their order"
        raise RecordError(msg)
    for name in {*names, *images["whole"].tolist(), *images["file"].tolist()} - {""}:
        if name in (".", "..") or any(c in name for c in "/\\\0"):
            msg = f"the record is damaged: {name!r} is a path, not the name of an image"
            raise RecordError(msg)
    if not (images["output_factor"] > 0).all():
        msg = "the record is damaged: a factor on an image is not a positive number"
        raise RecordError(msg)
    for key in ("axes", "outline", "pixel_area", "scale", "output_factor"):
        bad = ~np.isfinite(images[key].reshape(n, -1)).all(axis=1)
        if bad.any():
            msg = f"the record is damaged: {names[int(bad.argmax())]}: {key!r} is not finite"
            raise RecordError(msg)


def _corrections(node, n):
    """The corrections of each image."""
    _length("corrections", node)
    columns = {key: np.array(value) for key, value in node.items()}
    out = [[] for _ in range(n)]
    for row, i in enumerate(columns["image"].tolist()):
        if not 0 <= i < n:
            msg = f"the record is damaged: a correction of image {i} among {n}"
            raise RecordError(msg)
        correction = Correction(float(columns["constant"][row]), columns["vector"][row])
        if not np.isfinite([correction.constant, *correction.vector]).all():
            msg = f"the record is damaged: a correction of image {i} is not a finite number"
            raise RecordError(msg)
        out[i].append(
            AppliedCorrection(
                str(columns["pass"][row]),
                correction,
                columns["variance"][row],
                str(columns["reference"][row]),
            )
        )
    if len({len(part) for part in out}) > 1:
        msg = "the record is damaged: corrections of some images are missing"
        raise RecordError(msg)
    return out


def _frame(images, i, corrections, keyword):
    text = {key: str(images[key][i]) for key in FRAME_TEXT}
    y0, y1, x0, x1 = images["region"][i].tolist()
    (y, x), time = images["origin"][i].tolist(), float(images["background_time"][i])
    frame = Frame(
        **text,
        source=None,
        shape=tuple(images["shape"][i].tolist()),
        meta={"SUBSTRT2": y, "SUBSTRT1": x, keyword: time},
        unit=recorded_unit(str(images["unit"][i])),
        transform=None,
        dq_bits=int(images["dq_bits"][i]),
        region=None if y0 < 0 else (slice(y0, y1), slice(x0, x1)),
        subset=int(images["subset"][i]),
        scale=float(images["scale"][i]),
        output_factor=float(images["output_factor"][i]),
        zero_point=str(images["zero_point"][i]),
        corrections=tuple(corrections),
    )
    grid = RecordedGrid(images["axes"][i], images["outline"][i], float(images["pixel_area"][i]))
    frame.__dict__.update(whole_grid=grid, grid=grid)
    return frame


def _pairs(node, n):
    _length("pairs", node)
    table = PairTable(**{f.name: np.array(node[f.name]) for f in fields(PairTable)})
    keys = np.array(node["key"], dtype=np.uint8).reshape(-1, KEY_SIZE)
    if len(keys) != len(table):
        msg = "the record is damaged: its columns of pairs differ in length"
        raise RecordError(msg)
    for end in (table.first, table.second):
        if len(end) and not (0 <= end.min() and end.max() < n):
            msg = f"the record is damaged: a pair of an image that is none of the {n}"
            raise RecordError(msg)
    bad = ~np.isfinite(table.gram).all(axis=(1, 2)) | ~np.isfinite(table.rhs).all(axis=1)
    if bad.any():
        msg = f"the record is damaged: pair {int(bad.argmax())} is not of finite numbers"
        raise RecordError(msg)
    return table, keys


def _pass(node, step, n, n_pairs):
    plain = ("name", "fit_type", "references")
    array = {k: np.array(v) for k, v in node.items() if k not in plain}
    if node["name"] != step.name or len(array["group"]) != n or len(array["domain"]) != n:
        msg = f"the record is damaged: the pass {node['name']!r} is not of its {n} images"
        raise RecordError(msg)
    rows = array["rows"]
    if len(rows) and not (0 <= rows.min() and rows.max() < n_pairs):
        msg = f"the record is damaged: the pass {step.name!r} has a pair that is not there"
        raise RecordError(msg)
    solution = Solution(
        coefficients=array["coefficients"],
        component=array["component"],
        reference=array["held"],
        floors=array["floors"],
        weight=array["weight"],
        robust=array["robust"],
        n_sigma=array["n_sigma"],
        active=array["active"],
        _covariance=None,
    )
    solution.__dict__["errors"] = array["errors"]
    return PassResult(
        Pass(step.name, str(node["fit_type"]), array["domain"], array["group"]),
        rows,
        array["kept"],
        array["reason"].tolist(),
        solution,
        array["group_axes"],
        array["residual"],
        [Reference(int(r["group"]), str(r["name"]), str(r["reason"])) for r in node["references"]],
        array["isolated"],
        None if node["tie"] is None else array["tie"],
    )
