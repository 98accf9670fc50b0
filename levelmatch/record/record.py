# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The record of a run: what was done to what, as plain arrays in an ASDF file."""

import hashlib
import io
import warnings
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.exceptions import RecordError
from levelmatch.measure.table import ROW, PairTable
from levelmatch.record.guard import checked_content
from levelmatch.record.inputs import describe_inputs, keys_of, owned, unit_text
from levelmatch.record.reading import record_from_tree
from levelmatch.record.writing import (
    background_keyword,
    correction_columns,
    image_columns,
    pass_tree,
)
from levelmatch.results.files import whole_stream
from levelmatch.results.header import Story
from levelmatch.results.levels import Levels

__all__ = ["RECORD_NAME", "Record", "as_record", "check_not_recorded", "read_record"]


RECORD_NAME = "levelmatch.asdf"
KEY = "levelmatch"
# How asdf begins to tell of a node that it could not convert.
FAILED = "failed to convert with: "


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
    frames : list of `~levelmatch.images.frame.Frame`
        The images with their corrections, in the order of the input.
    passes, measured, unit, run
        See `~levelmatch.results.levels.Levels`.
    inputs : dict of `~numpy.ndarray`
        What tells the inputs: ``file``, ``path``, ``size``, ``sha256``, ``mask_sha256``,
        ``dtype``, ``hdu``, ``dq_bits`` and ``wcs``, for the images sorted by name.
    keys : `~numpy.ndarray` of uint8, shape (n_pairs, 32)
        Keys of the pairs, see `~levelmatch.measure.store.pair_keys`; zero for a pair whose
        measurement cannot be used again.
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
            describe_inputs(frames),
            keys_of(result, frames, n_earlier),
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
            "unit": unit_text(self.unit),
            "reference": self.reference,
            "reference_reason": self.reference_reason,
            "gauge": self.gauge,
            "images": _plain_rows(self.table),
            "pairs": _plain_rows(self.pairs),
            "closures": _plain_rows(self.closures),
        }

    def rows(self):
        """Return the rows of the pairs by their keys, for a `~levelmatch.measure.store.PairStore`.

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
        from levelmatch.record.solving import solve_record

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
            "unit": unit_text(self.unit),
            "recombine": run.recombine,
            "order": np.array(run.order, dtype=np.int64),
            "n_earlier": self.n_earlier,
            "sky": run.sky,
            "subsets": np.array(run.subsets, dtype=np.int64),
            "images": {
                **image_columns(frames, background_keyword(run.steps)),
                **self._total_columns(),
                **self.inputs,
            },
            "corrections": correction_columns(frames),
            "pairs": {
                "key": self.keys,
                **{f.name: getattr(self.measured, f.name) for f in fields(PairTable)},
            },
            "passes": [pass_tree(p) for p in self.passes],
        }
        return owned(tree)

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
            return record_from_tree(cls, tree)
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
