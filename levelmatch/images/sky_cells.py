# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sky values of an image in healpix cells, used instead of its pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import FrameError
from levelmatch.images.digests import xxh3_128
from levelmatch.images.frame import Frame
from levelmatch.images.table_files import filled, read_table, write_table
from levelmatch.images.units import read_unit
from levelmatch.option_values import check_type
from levelmatch.sky.grid import N_VERTICES, Footprint
from levelmatch.sky.vectors import tangent_axes, unit_vectors

__all__ = [
    "CellsSource",
    "SkyCells",
    "cell_area",
    "cell_vectors",
    "cells_frame",
    "corrected_cells",
    "is_resolution",
    "of_cells",
]

COLUMNS = ("index", "value", "error", "coverage")
# Directions from the middle of an image to the vertices of its outline, shape (2, k).
_ANGLE = 2 * np.pi * np.arange(N_VERTICES) / N_VERTICES
DIRECTIONS = np.stack([np.cos(_ANGLE), np.sin(_ANGLE)])
# Keys of a table's metadata that are not header keywords of the image.
OWN = ("NSIDE", "ORDERING", "NAME", "BUNIT", *(f"{c}{k}" for c in ("RA", "DEC") for k in range(4)))
# Values that the options must have for images in cells, because other values need pixels.
PIXELS_ONLY: dict[str, dict[str, Any]] = {
    "read": {"regions": None, "levels": None, "on_error": "raise"},
    "measure": {"method": "direct", "mask_sources": False, "stacked": False, "extend": None},
    "solve": {"subtract_local": False, "pattern": None, "subtract": True},
}


@dataclass(frozen=True, eq=False)
class SkyCells:
    """Sky values of one image in healpix cells, which functions accept instead of its pixels.

    Parameters
    ----------
    index : array-like of int, shape (n,)
        Healpix indices of the cells in ICRS, without repetitions.
    value : array-like, shape (n,)
        Sky value of each cell, a mean or a median of its pixels. Cells with NaN are left out.
    error : array-like, shape (n,)
        Standard error of each value, without errors that cells have in common.
    coverage : array-like, shape (n,)
        Number of good pixels of each cell, or the fraction of its area that they cover.
    nside : int
        Resolution of the cells: a power of two, the same for all images of a run.
    name : str
        File name of the image.
    order : {"nested", "ring"}
        Order of the indices.
    unit : `~astropy.units.Unit`, str or None
        Unit of values and errors.
    corners : array-like, shape (4, 2), or None
        Right ascension and declination of the image's corners, in degrees. The first is at the
        first pixel, the second at the end of the first row. They give the directions of rows
        and columns, whose pixels may have noise in common. By default rows and columns are
        taken to lie along parallels and meridians.
    meta : mapping
        Header keywords, such as FILTER, DETECTOR or the keywords of ``group_by``.

    Raises
    ------
    FrameError
        If the columns differ in length or hold an impossible value; the message names the image.
    """

    index: Any
    value: Any
    error: Any
    coverage: Any
    nside: int
    name: str
    order: str = "nested"
    unit: Any = None
    corners: Any = None
    meta: Mapping = field(default_factory=dict)

    def __post_init__(self):
        unit = read_unit(self.unit) if isinstance(self.unit, str) and self.unit else self.unit
        object.__setattr__(self, "unit", unit or None)
        _check_resolution(self)
        columns = {key: np.asarray(getattr(self, key)).ravel() for key in COLUMNS}
        if len({len(column) for column in columns.values()}) > 1:
            sizes = ", ".join(f"{len(column)} of {key}" for key, column in columns.items())
            msg = f"{self.name}: its cells differ in number: {sizes}"
            raise FrameError(msg)
        if columns["index"].dtype.kind not in "iu" and len(columns["index"]):
            msg = f"{self.name}: index: indices are whole numbers, not {columns['index'].dtype}"
            raise FrameError(msg)
        columns["index"] = _nested(self.name, columns["index"].astype(np.int64), self)
        for key in COLUMNS[1:]:
            columns[key] = columns[key].astype(float)
        good = np.isfinite(columns["value"]) & (columns["coverage"] > 0)
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(columns["index"][rows], kind="stable")]
        for key, column in columns.items():
            object.__setattr__(self, key, column[rows])
        object.__setattr__(self, "order", "nested")
        _check_values(self)

    def __len__(self):
        return len(self.index)

    def __repr__(self):
        unit = "" if self.unit is None else f", {self.unit}"
        return f"<SkyCells {self.name}: {len(self)} cells of nside {self.nside}{unit}>"

    @property
    def vectors(self):
        """Unit vectors to the middles of the cells, shape (n, 3)."""
        return cell_vectors(self.index, self.nside)

    @cached_property
    def footprint(self):
        """Position of the image on the sky, a `~levelmatch.sky.grid.Footprint`."""
        vectors = self.vectors
        if self.corners is None:
            middle = vectors.sum(axis=0)
        else:
            middle = unit_vectors(*np.asarray(self.corners, float).T).sum(axis=0)
        axes = tangent_axes(middle)
        along = vectors @ axes.T
        flat = along[:, 1:] / along[:, :1]
        apart = flat - flat.mean(axis=0)
        (uu, uv), (_, vv) = apart.T @ apart
        if len(flat) < 3 or not uu * vv - uv * uv > 1e-9 * max(uu, vv) ** 2:
            msg = f"{self.name}: its {len(self)} good cells span no area of the sky; leave it out"
            raise FrameError(msg)
        # Find the farthest cell in each of many directions. The corners are among these cells.
        far = (flat @ DIRECTIONS).argmax(axis=0)
        hull = vectors[list(dict.fromkeys(far.tolist()))]
        polygon = np.concatenate([hull, np.repeat(hull[-1:], N_VERTICES - len(hull), axis=0)])
        side = round(np.sqrt(len(self)))
        return Footprint(axes, polygon, cell_area(self.nside), axes[0], (side, side))

    @cached_property
    def rows_and_columns(self):
        """Directions of the image's rows and columns on the sky, unit vectors, shape (2, 3)."""
        if self.corners is None:
            return self.footprint.axes[1:]
        first, second, third, fourth = unit_vectors(*np.asarray(self.corners, float).T)
        sides = np.stack([second + third - first - fourth, third + fourth - first - second])
        return sides / np.linalg.norm(sides, axis=1, keepdims=True)

    @property
    def digest(self):
        """Digest (128-bit XXH3) of the cells, nested and sorted by index."""
        content = xxh3_128(repr((self.nside, str(self.unit))).encode())
        for key in COLUMNS:
            content.update(np.ascontiguousarray(getattr(self, key)).astype("<f8").tobytes())
        return content.hexdigest()

    def to_table(self):
        """Return the cells as a table.

        Returns
        -------
        table : `~astropy.table.Table`
            The columns index (nested), value, error and coverage; its metadata hold NSIDE,
            ORDERING, NAME, BUNIT, the corners as RA0, DEC0 to RA3, DEC3, and header keywords.
        """
        meta = {"NSIDE": self.nside, "ORDERING": "NESTED", "NAME": self.name}
        meta["BUNIT"] = "" if self.unit is None else self.unit.to_string()
        if self.corners is not None:
            for k, (ra, dec) in enumerate(np.asarray(self.corners, float).tolist()):
                meta |= {f"RA{k}": ra, f"DEC{k}": dec}
        table = Table({key: getattr(self, key) for key in COLUMNS})
        table.meta.update(meta | dict(self.meta))
        return table

    @classmethod
    def from_table(cls, table, name=""):
        """Return the cells of a table, see `to_table`.

        Parameters
        ----------
        table : `~astropy.table.Table`
            The table.
        name : str
            Name of the image if the metadata do not contain NAME.

        Raises
        ------
        FrameError
            If a column, NSIDE, ORDERING or the name is missing; the message names the image.
        """
        check_type("table", table, Table, "a table of cells")
        meta = {str(key).upper(): value for key, value in table.meta.items()}
        name = str(meta.get("NAME") or name)
        missing = [key for key in COLUMNS if key not in table.colnames]
        missing += [key for key in ("NSIDE", "ORDERING") if key not in meta]
        if missing or not name:
            what = f"it lacks {', '.join(missing)}" if missing else "its metadata lack NAME"
            other = "read_catalogue, or --catalogue, reads a catalogue of outlines"
            msg = f"{name or 'table'}: not a table of healpix cells: {what}; {other}"
            raise FrameError(msg)
        corners = None
        try:
            nside = int(meta["NSIDE"])
            if "RA0" in meta:
                corners = [[float(meta[f"{c}{k}"]) for c in ("RA", "DEC")] for k in range(4)]
        except (KeyError, TypeError, ValueError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            msg = f"{name}: the metadata of its cells cannot be used: {what}"
            raise FrameError(msg) from error
        return cls(
            *(filled(table[key]) for key in COLUMNS),
            nside=nside,
            name=name,
            order=str(meta["ORDERING"]).lower(),
            unit=_unit_of(table, name, str(meta.get("BUNIT", ""))),
            corners=corners,
            meta={key: value for key, value in meta.items() if key not in OWN},
        )

    @classmethod
    def read(cls, path):
        """Read the cells of an image from a table: .ecsv, .fits or .parquet.

        Parameters
        ----------
        path : str or `~pathlib.Path`
            The file.

        Raises
        ------
        ValueError, FrameError
            If the file is not a table, or not a table of cells; the message names it.
        FileNotFoundError
            If there is no such file.
        """
        return cls.from_table(read_table(path), Path(path).name)

    @share_parameters
    def write(self, path, *, overwrite=False):
        """Write the cells to a table, atomically: .ecsv, .fits or .parquet.

        Parameters
        ----------
        path : str or `~pathlib.Path`
            The file.
        <<written>>

        Raises
        ------
        ValueError
            If the name has another suffix.
        FileExistsError
            If the file exists and ``overwrite`` is not set.
        """
        return write_table(self.to_table(), path, overwrite=overwrite)


def cell_area(nside):
    """Return the solid angle of a cell, in steradian."""
    return np.pi / (3 * nside**2)


def cell_vectors(index, nside):
    """Return unit vectors to the middles of cells in the nested order, shape (n, 3)."""
    # Few runs need this import.
    from astropy_healpix import healpix_to_xyz

    return np.stack(healpix_to_xyz(index, nside, order="nested"), axis=-1)


def is_resolution(nside):
    """Return whether healpix has a resolution: a power of two up to 2**29."""
    whole = isinstance(nside, Real) and 1 <= nside <= 1 << 29 and int(nside) == nside
    return whole and not int(nside) & (int(nside) - 1)


def _unit_of(table, name, text):
    """Return the unit of a table of cells, from its metadata or its column of values."""
    unit = read_unit(text) if text else table["value"].unit
    for key in ("value", "error"):
        if table[key].unit not in (None, unit):
            msg = f"{name}: its column {key} is in {table[key].unit}, its BUNIT is {unit or 'none'}"
            raise FrameError(msg)
    return unit


def _check_resolution(cells):
    """Refuse a resolution or an order that healpix does not have."""
    if not is_resolution(cells.nside):
        msg = f"{cells.name}: nside: {cells.nside!r} is not a power of two up to 2**29"
        raise FrameError(msg)
    object.__setattr__(cells, "nside", int(cells.nside))
    if cells.order not in ("nested", "ring"):
        msg = f"{cells.name}: order: {cells.order!r} is neither 'nested' nor 'ring'"
        raise FrameError(msg)


def _check_values(cells):
    """Refuse an image without cells, repeated cells, and errors that are negative or not finite."""
    index = cells.index
    if not len(index):
        msg = f"{cells.name}: no cell has a value; leave the image out"
        raise FrameError(msg)
    twice = np.flatnonzero(np.diff(index) == 0)
    if len(twice):
        msg = f"{cells.name}: the cell {index[twice[0]]} (nested) is given twice"
        raise FrameError(msg)
    bad = np.flatnonzero(~(np.isfinite(cells.error) & (cells.error >= 0)))
    if len(bad):
        msg = f"{cells.name}: the cell {index[bad[0]]} has the error {cells.error[bad[0]]}"
        raise FrameError(msg)


def _nested(name, index, cells):
    """Return indices in the nested order."""
    nside = cells.nside
    if len(index) and not (0 <= index.min() and index.max() < 12 * nside**2):
        msg = f"{name}: index: {index.min()} to {index.max()} are not all cells of nside {nside}"
        raise FrameError(msg)
    if cells.order == "nested":
        return index
    from astropy_healpix.core import ring_to_nested

    return np.asarray(ring_to_nested(index, nside), dtype=np.int64)


# --------------------------------------------------------------------------------------
# Frames


@dataclass(frozen=True, eq=False)
class CellsSource:
    """Cells of an image as the source of its frame.

    Parameters
    ----------
    cells : `SkyCells`
        The cells.
    """

    cells: SkyCells
    hdus = None
    hdu = 0

    @property
    def identity(self):
        """Identity of the image: the digest of its cells."""
        return {
            "file": "",
            "path": "",
            "size": 0,
            "hdu": 0,
            "dtype": "cells",
            "digest": self.cells.digest,
            "mask_digest": "",
        }

    def read(self, dq_bits):
        """Refuse to read pixels."""
        msg = f"{self.cells.name}: its pixels are needed, but it is given by healpix cells"
        raise FrameError(msg)


def cells_frame(cells: SkyCells, read) -> Frame:
    """Return the frame of an image in cells."""
    return Frame(
        name=cells.name,
        source=CellsSource(cells),
        shape=cells.footprint.shape,
        meta=dict(cells.meta),
        unit=cells.unit,
        # Frames with a footprint do not use the WCS.
        transform=None,  # type: ignore[arg-type]
        blank=read.blank,
        footprint=cells.footprint,
    )


def of_cells(frames, settings=None) -> bool:
    """Return whether images are given by cells; refuse mixtures, and options that need pixels.

    Raises
    ------
    FrameError
        If only some images are given by cells, or their resolutions differ; the message names
        two images.
    ValueError
        If the images are given by cells and an option of the settings needs pixels.
    """
    given = [frame for frame in frames if isinstance(frame.source, CellsSource)]
    if not given:
        return False
    if len(given) < len(frames):
        other = next(frame for frame in frames if not isinstance(frame.source, CellsSource))
        msg = f"{given[0].name} is given by healpix cells, {other.name} by pixels; give both alike"
        raise FrameError(msg)
    first = given[0].source.cells
    for cells in (frame.source.cells for frame in given):
        if cells.nside != first.nside:
            msg = (
                f"{cells.name}: its cells have nside {cells.nside}, the cells of {first.name} "
                f"{first.nside}; bring them to one resolution"
            )
            raise FrameError(msg)
    for kind, values in PIXELS_ONLY.items() if settings is not None else ():
        for name, value in values.items():
            if getattr(getattr(settings, kind), name) != value:
                msg = f"{name}: it needs pixels, and the images are given by healpix cells"
                raise ValueError(msg)
    return True


def corrected_cells(frame: Frame, meta: Mapping | None = None) -> SkyCells:
    """Return an image's cells, corrected and multiplied by its output factor.

    Parameters
    ----------
    frame : `~levelmatch.images.frame.Frame`
        The image.
    meta : mapping or None
        Header keywords of the returned cells, by default the keywords of the image.
    """
    cells = frame.source.cells
    correction, factor = frame.correction, frame.output_factor
    level = correction.constant + cells.vectors @ correction.vector
    return replace(
        cells,
        value=(cells.value - level) * factor,
        error=cells.error * factor,
        meta=cells.meta if meta is None else meta,
    )
