# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Read records from files, and find the record beside images."""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path

from levelmatch.exceptions import FrameError, RecordError
from levelmatch.images.file_checks import check_regular
from levelmatch.option_values import as_path
from levelmatch.record.asdf_writer import BASE
from levelmatch.record.guard import checked_content
from levelmatch.record.record import KEY, OTHER_NAME, RECORD_NAME, Record
from levelmatch.text import list_names

__all__ = ["as_record", "check_not_recorded", "find_record", "read_record", "record_in"]

# Largest size of a record, in bytes.
MOST_RECORD = 1 << 33
# Number of bytes at the start of a record that hold its tag.
HEAD = 1 << 16
# Text in asdf's warning of a node that could not be converted.
FAILED = "failed to convert with: "


def read_record(path: str | Path) -> Record:
    """Read a record.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        An ASDF file written by levelmatch.

    Returns
    -------
    record : `Record`
        The record; nothing is read from the file later.

    Raises
    ------
    RecordError
        If the file is missing, is not a record, has an unknown version or is damaged; the
        message names the file.
    """
    import asdf

    path = as_path("path", path)
    try:
        check_regular(path, MOST_RECORD)
        content = path.read_bytes()
    except FrameError as error:
        msg = f"{path}: the record cannot be read: {str(error).partition(': ')[2]}"
        raise RecordError(msg) from error
    except OSError as error:
        msg = f"{path}: the record cannot be read: {error.strerror or error}"
        raise RecordError(msg) from error
    try:
        checked = checked_content(content, KEY)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with asdf.config_context() as config:
                # asdf 6 checks no schema by default.
                config.validate_on_read = True
                with asdf.open(io.BytesIO(checked), memmap=False) as tree:
                    record = tree.tree.get(KEY)
    except Exception as error:
        what = "" if isinstance(error, RecordError) else f"not a readable record: {_named(error)}"
        msg = f"{path.name}: {what or error}"
        raise RecordError(msg) from error
    if not isinstance(record, Record):
        # For a node that it cannot convert, asdf only issues a warning.
        failed = [str(w.message) for w in caught if FAILED in str(w.message)]
        tag = getattr(record, "_tag", None)
        what = f"its version ({tag}) is not known" if tag else "it holds no level match"
        what = f"not a record of this version of levelmatch: {what}"
        msg = f"{path.name}: {failed[0].partition(FAILED)[2] if failed else what}"
        raise RecordError(msg)
    record._content = content
    return record


def record_in(folder: Path) -> Path:
    """Return the path of a folder's record, which may not exist."""
    usual, other = folder / RECORD_NAME, folder / OTHER_NAME
    return other if other.is_file() and not usual.exists() else usual


def find_record(folder: Path) -> Path:
    """Return the path of a folder's record, which a run or a step of a pipeline has written.

    Parameters
    ----------
    folder : `~pathlib.Path`
        The folder.

    Returns
    -------
    path : `~pathlib.Path`
        The record; ``levelmatch.asdf``, which does not exist, if the folder has none.

    Raises
    ------
    RecordError
        If steps have written several records, so that one must be named.
    """
    usual = record_in(folder)
    if usual.exists():
        return usual
    # A step names its record after its association, and saves ASDF images under similar names.
    endings = (f"*_{name}" for name in (RECORD_NAME, OTHER_NAME))
    found = sorted(path for name in endings for path in folder.glob(name) if _has_tag(path))
    if len(found) > 1:
        names = list_names([path.name for path in found])
        msg = f"{folder}: it has {len(found)} records: {names}; name one"
        raise RecordError(msg)
    return found[0] if found else usual


def _has_tag(path: Path) -> bool:
    """Return whether a file is an ASDF file with the tag of a record."""
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return f"{BASE}/tags/record-".encode() in stream.read(HEAD)


def as_record(record: Record | str | Path) -> Record:
    """Return a record, read by `read_record` if it is given as a path."""
    return record if isinstance(record, Record) else read_record(as_path("record", record))


def check_not_recorded(paths: Iterable[str | Path]) -> None:
    """Check that images are not outputs of a run, according to the record in their folder.

    Parameters
    ----------
    paths : list of str or `~pathlib.Path`
        The images.

    Raises
    ------
    RecordError
        If a record in the folder lists an image; the message names both.
    """
    names: dict[Path, set[str]] = {}
    for path in map(Path, paths):
        beside = record_in(path.parent)
        if path.parent not in names:
            found = read_record(beside) if beside.is_file() else None
            # A run that keeps its levels leaves its images unmatched.
            if found is None or found.provenance.keep:
                names[path.parent] = set()
            else:
                names[path.parent] = set(found.files)
        if path.name in names[path.parent]:
            msg = (
                f"{path.name}: already matched, by the record {beside}; rematch=True matches it "
                "again"
            )
            raise RecordError(msg)


def _named(error: Exception) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
