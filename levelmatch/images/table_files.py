# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Read and write tables as ECSV, FITS and parquet files."""

from pathlib import Path

import numpy as np
from astropy.table import Column, Table

from levelmatch.atomic import atomic_path, refuse_existing
from levelmatch.docstrings import share_parameters
from levelmatch.images.file_checks import MOST_BYTES, check_regular, reason_of
from levelmatch.option_values import as_path

__all__ = ["FORMATS", "filled", "is_table", "read_table", "write_table"]

# Format of a table by suffix of the file. Parquet needs pyarrow.
FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".parquet": "parquet", ".parq": "parquet"}


def is_table(path: str | Path) -> bool:
    """Return whether a file has the suffix of a table, except .fits, which may be an image."""
    return Path(path).suffix.lower() in FORMATS and Path(path).suffix.lower() != ".fits"


def read_table(path: str | Path) -> Table:
    """Read a table from a file.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        The file: .ecsv, .fits or .parquet. Units of columns in a parquet file are not read.

    Returns
    -------
    table : `~astropy.table.Table`
        The table. Missing text is empty, and missing numbers are NaN.

    Raises
    ------
    ValueError
        If the name has another suffix, or the file is not a readable table; the message names
        it.
    ImportError
        If the file is parquet and pyarrow is not installed.
    """
    path = as_path("path", path)
    kind = _format(path)
    try:
        check_regular(path, MOST_BYTES)
        table = _read_parquet(path) if kind == "parquet" else Table.read(path, format=kind)
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:
        msg = f"{path}: not a readable table: {reason_of(error)}"
        raise ValueError(msg) from error
    for name in table.colnames:
        table[name] = Column(filled(table[name]), unit=table[name].unit)
    return table


@share_parameters
def write_table(table: Table, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a table to a file, atomically.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.
    path : str or `~pathlib.Path`
        The file: .ecsv, .fits or .parquet.
    <<written>>

    Raises
    ------
    ValueError
        If the name has another suffix.
    FileExistsError
        If the file exists and ``overwrite`` is not set.
    """
    path = as_path("path", path)
    kind = _format(path)
    refuse_existing(path, overwrite=overwrite)
    with atomic_path(path) as part:
        if kind == "parquet":
            _write_parquet(table, part)
        else:
            table.write(part, format=kind, overwrite=True)
    return path


def _format(path):
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        msg = f"{path}: the name of a table must end in {', '.join(FORMATS)}"
        raise ValueError(msg)
    return kind


def _parquet():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        msg = "parquet needs pyarrow: pip install 'levelmatch[parquet]', or write .ecsv"
        raise ImportError(msg) from error
    return pyarrow


def _read_parquet(path):
    """Return the table in a parquet file."""
    pyarrow = _parquet()
    content = pyarrow.parquet.read_table(path)
    columns = {}
    for name in content.column_names:
        column = content[name]
        nested = pyarrow.types.is_nested(column.type)
        values = column.to_pylist() if nested else column.to_numpy()
        columns[name] = np.array(values) if nested else values
    meta = {k.decode(): v.decode() for k, v in (content.schema.metadata or {}).items()}
    return Table(columns, meta=meta)


def _write_parquet(table, path):
    pyarrow = _parquet()
    columns = {
        name: pyarrow.array(column.tolist() if column.ndim > 1 else filled(column))
        for name, column in table.columns.items()
    }
    content = pyarrow.table(columns)
    meta = {str(key): str(value) for key, value in table.meta.items()}
    pyarrow.parquet.write_table(content.replace_schema_metadata(meta), path)


def filled(column: Column) -> np.ndarray:
    """Return a column as an array in which missing text is empty and missing numbers are NaN."""
    values = np.asarray(column)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    missing = np.ma.getmaskarray(column) if hasattr(column, "mask") else np.zeros(0, dtype=bool)
    if values.dtype.kind == "O":
        given = [value for value in values.tolist() if value is not None]
        text = any(isinstance(value, str) for value in given)
        values = np.array(
            [("" if text else np.nan) if value is None else value for value in values.tolist()]
        )
    elif missing.any():
        values = values.astype(values.dtype if values.dtype.kind == "U" else float)
        values[missing] = "" if values.dtype.kind == "U" else np.nan
    return values
