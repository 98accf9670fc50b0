# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The record of a run: its inputs, pairs and corrections in an ASDF file."""

import hashlib
import warnings
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch.atomic import refuse_existing, write_content
from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import RecordError
from levelmatch.images.file_checks import check_wcs_sizes
from levelmatch.images.frame import Frame
from levelmatch.measure.pair_selection import Overlaps
from levelmatch.measure.pair_store import KEY_SIZE, pair_keys
from levelmatch.measure.table import PairTable
from levelmatch.option_values import as_path
from levelmatch.options import MeasureOptions
from levelmatch.record.asdf_writer import asdf_bytes
from levelmatch.record.columns import (
    correction_columns,
    image_columns,
    input_columns,
    owned,
    pass_tree,
    unit_name,
)
from levelmatch.record.reading import read_tree
from levelmatch.record.run import Provenance, Run
from levelmatch.record.run_result import RunResult
from levelmatch.record.tables import plain_rows
from levelmatch.solve.passes import Pass
from levelmatch.text import values

__all__ = [
    "KEY",
    "OTHER_NAME",
    "RECORD_NAME",
    "Record",
    "check_record_path",
]


RECORD_NAME = "levelmatch.asdf"
# Name of a record beside images in ASDF, so that it is not mistaken for an image.
OTHER_NAME = "levelmatch.record"
# Key of the record in the tree of its file.
KEY = "levelmatch"


@share_parameters
class Record(RunResult):
    """Inputs, pairs, solutions and corrections of a run, as written to a file.

    A record has the tables of a `MatchResult`, but no images. `recorded_result` returns the
    `MatchResult` from the record and the same input files.

    Parameters
    ----------
    <<run>>
    inputs : dict of `~numpy.ndarray`
        Columns that identify the inputs, sorted by name: ``file``, ``path``, ``size``, ``digest``,
        ``mask_digest``, ``dtype``, ``hdu``, ``dq_bits`` and ``wcs``.
    keys : `~numpy.ndarray` of uint8, shape (n_pairs, 32)
        Keys of the pairs, see `~levelmatch.measure.pair_store.pair_keys`; zero for a pair whose
        measurement cannot be used again.
    """

    def __init__(
        self,
        frames: list[Frame],
        passes: list[Pass],
        measured: PairTable,
        run: Run,
        inputs: dict[str, np.ndarray],
        keys: np.ndarray,
    ) -> None:
        super().__init__(frames, passes, measured, run)
        self.inputs = inputs
        self.keys = keys
        self._content: bytes | None = None

    @classmethod
    def of(cls, levels: RunResult, overlaps: Overlaps | None = None) -> "Record":
        """Return the record of a result; read the inputs for their checksums.

        Parameters
        ----------
        levels : `~levelmatch.record.run_result.RunResult`
            The result, whose images have pixels.
        overlaps : `~levelmatch.measure.pair_selection.Overlaps` or None
            The overlaps before they were measured. Without them, later runs cannot reuse the
            measurements.
        """
        keys = np.zeros((len(levels.measured), KEY_SIZE), dtype=np.uint8)
        if overlaps is not None:
            keys = _pair_keys(levels, overlaps)
        inputs = input_columns(levels.sorted_frames)
        return cls(levels.frames, levels.passes, levels.measured, levels.run, inputs, keys)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        passes = ", ".join(p.name for p in self.run.planned)
        return f"<Record: {len(self)} images, {len(self.measured)} pairs, passes: {passes}>"

    @property
    def names(self) -> list[str]:
        """Names of the corrected images, in the order of the input."""
        if not self.run.recombine:
            return [frame.name for frame in self.frames]
        return list(dict.fromkeys(frame.product for frame in self.frames))

    @property
    def files(self) -> list[str]:
        """Names of the corrected files, which hold one or more images each."""
        return list(dict.fromkeys(self.output_names))

    @property
    def input_names(self) -> list[str]:
        """Name of the input file of each frame."""
        return [str(self.input(frame, "file")) for frame in self.frames]

    @property
    def output_names(self) -> list[str]:
        """Name of the corrected file of each frame."""
        whole, saved = self.run.recombine, self.outputs
        names = (f.file if f.extension else f.product if whole else f.name for f in self.frames)
        return [saved.get(name, name) for name in names]

    @property
    def outputs(self) -> dict[str, str]:
        """Names under which a pipeline step saved the images, by input; empty without a step."""
        return self.run.options.get("outputs", {})

    @property
    def of_models(self) -> bool:
        """True if a pipeline step saved the images as data models."""
        return bool(self.outputs)

    @property
    def excluded(self) -> set[str]:
        """Names of the images that earlier calls excluded, and of files without other images."""
        names = {name for entry in self.history for name in entry.get("excluded", ())}
        names |= {name.rpartition("[")[0] for name in names if name.endswith("]")}
        return names - {name for frame in self.frames for name in (frame.name, frame.file)}

    @property
    def history(self) -> list[dict]:
        """Runs that led to the record, the oldest first."""
        return self.run.history

    @property
    def parent(self) -> dict[str, str] | None:
        """``name`` and ``sha256`` of the record from which this one was solved, or `None`."""
        return self.run.parent

    def input(self, frame: Frame, key: str) -> Any:
        """Return one value of `inputs` for an image.

        Parameters
        ----------
        frame : `~levelmatch.images.frame.Frame`
            The image.
        key : str
            Name of the column.
        """
        return self.inputs[key][self._rows[frame.name]]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {frame.name: row for row, frame in enumerate(self.sorted_frames)}

    def wcs(self, name: str) -> WCS:
        """Return the `~astropy.wcs.WCS` of an image; for a gwcs, the WCS of its FITS header.

        Parameters
        ----------
        name : str
            Name of the image.

        Returns
        -------
        wcs : `~astropy.wcs.WCS`
            Its WCS.

        Raises
        ------
        RecordError
            If the record has no such image.
        FrameError
            If the recorded WCS has sizes that FITS does not have.
        """
        if not isinstance(name, str) or name not in self._rows:
            msg = f"{name}: the record has no such image"
            raise RecordError(msg)
        text = self.inputs["wcs"][self._rows[name]]
        check_wcs_sizes(name, str(text).encode("ascii", "replace"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            return WCS(text, naxis=2)

    def to_plain(self) -> dict[str, Any]:
        """Return the run, its options and its tables as plain values, for JSON.

        Returns
        -------
        plain : dict
            The values. Tables are lists of rows; NaN and infinity are `None`. The equations are
            left out.
        """
        return {
            "created": self.created,
            "software": self.versions,
            "parent": self.parent,
            "history": self.history,
            "options": self.options,
            "unit": unit_name(self.unit),
            "reference": self.reference,
            "reference_reason": self.reference_reason,
            "gauge": self.gauge,
            "images": plain_rows(self.table),
            "pairs": plain_rows(self.pairs),
            "closures": plain_rows(self.closures),
        }

    def rows(self) -> dict[bytes, np.void]:
        """Return the measurement of each pair by its key.

        Returns
        -------
        rows : dict of bytes to `~numpy.void`
            Rows of the type `~levelmatch.measure.table.PAIR`, for
            `~levelmatch.measure.pair_store.known_rows`. Pairs without a key are left out.
        """
        rows = zip(self.keys, self.measured.rows(), strict=True)
        return {key.tobytes(): row for key, row in rows if key.any()}

    def slope_significance(self) -> np.ndarray:
        """Return the significance of the slopes of each image, in the order of the input.

        The recorded significance is used if possible, because computing it needs covariances.
        """
        recorded = self.inputs.get("slope_n_sigma")
        return super().slope_significance() if recorded is None else recorded[self.rank]

    # ------------------------------------------------------------------ to a file

    @property
    def content(self) -> bytes:
        """Content of the file, computed once."""
        if self._content is None:
            self._content = asdf_bytes(KEY, self.to_tree(), self.versions["levelmatch"])
        return self._content

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def provenance(self) -> Provenance:
        """Identity of the run and its record for headers."""
        return Provenance.of(self.run, self.file_name, self.sha256)

    @property
    def file_name(self) -> str:
        """Name of the file: ``levelmatch.asdf``, or ``levelmatch.record`` beside ASDF images."""
        in_asdf = any(name.lower().endswith(".asdf") for name in self.names)
        return OTHER_NAME if in_asdf else RECORD_NAME

    def write(self, path: str | Path, *, overwrite: bool = False, lock: Any = None) -> Path:
        """Write the record to a file, atomically.

        Parameters
        ----------
        path : str or `~pathlib.Path`
            The file.
        overwrite : bool
            Whether an existing record may be replaced.
        lock : `~levelmatch.results.lock.OutputLock` or None
            Lock that keeps the SHA-256 of the record whose images are written next.

        Returns
        -------
        path : `~pathlib.Path`
            The file.

        Raises
        ------
        FileExistsError
            If the file exists and ``overwrite`` is not set, or if it is not a record.
        """
        path = as_path("path", path)
        refuse_existing(path, overwrite=overwrite, is_data=True)
        check_record_path(path)
        content = self.content
        if lock is not None:
            lock.declare(self.sha256)
        write_content(path, content)
        return path

    def to_tree(self) -> dict[str, Any]:
        """Return the record as nested dictionaries of plain values and arrays.

        Returns
        -------
        tree : dict
            The content of the ASDF file.
        """
        frames, run = self.sorted_frames, self.run
        tree = {
            "software": self.versions,
            "created": self.created,
            "parent": self.parent,
            "history": self.history,
            "options": self.options,
            "unit": unit_name(self.unit),
            "recombine": run.recombine,
            "order": np.array(run.order, dtype=np.int64),
            "n_earlier": self.n_earlier,
            "sky": run.sky,
            "subsets": np.array(run.subsets, dtype=np.int64),
            "images": {
                **image_columns(frames, run.planned[-1].keyword),
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

    def _total_columns(self) -> dict[str, np.ndarray]:
        """Return total levels and slopes with errors, for other readers of the file."""
        table = self.table[np.argsort([f.name for f in self.frames], kind="stable")]
        columns = ("level", "error", "slope_u", "slope_v", "slope_u_error", "slope_v_error")
        return {name: values(table[name]) for name in ("slope_n_sigma", *columns)}

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> "Record":
        """Check a tree and return its record.

        Parameters
        ----------
        tree : dict
            See `to_tree`.

        Returns
        -------
        record : `Record`
            The record.

        Raises
        ------
        RecordError
            If a value is missing or impossible.
        """
        try:
            result, inputs, keys = read_tree(tree)
        except RecordError:
            raise
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            msg = f"the record is damaged: {type(error).__name__}: {error}"
            raise RecordError(msg) from error
        return cls(result.frames, result.passes, result.measured, result.run, inputs, keys)


def _pair_keys(result: RunResult, overlaps: Overlaps) -> np.ndarray:
    """Return the keys of a result's pairs, from its images without the corrections of the run."""
    options = MeasureOptions(**result.options["measure"])
    n = result.n_earlier
    before = [f.with_keys(corrections=f.corrections[:n]) for f in result.sorted_frames]
    key_of = pair_keys(before, overlaps, options)
    keys = b"".join(map(key_of, range(len(overlaps.pairs))))
    return np.frombuffer(keys, np.uint8).reshape(-1, KEY_SIZE)


def check_record_path(path: Path) -> None:
    """Check that a path is free, or an ASDF or empty file.

    Raises
    ------
    FileExistsError
        If the path is another file or a folder.
    """
    if not path.exists():
        return
    if path.is_file():
        with open(path, "rb") as stream:
            if stream.read(5) in (b"#ASDF", b""):
                return
    msg = f"{path} exists and is not a record; name another file, or move it away"
    raise FileExistsError(msg)
