# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Files that a step writes beside its images: the record and the association."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from levelmatch.associations import output_association, read_association, write_associations
from levelmatch.atomic import atomic_stream
from levelmatch.record.run import Provenance
from levelmatch.results.result import MatchResult

__all__ = ["write_association", "write_record"]


def _name_of(library: Any, ending: str) -> str:
    """Return a file name with the stem of the library's association."""
    name = str(library.asn.get("table_name") or "")
    stem = name.removesuffix(".json").removesuffix("asn").rstrip("_")
    return f"{stem}_{ending}" if stem else ending


def write_record(library: Any, result: MatchResult, folder: str | Path, suffix: str) -> Provenance:
    """Write the record of a result; replace the record of an earlier run of the step.

    Parameters
    ----------
    library : `~stpipe.library.AbstractModelLibrary`
        The library.
    result : `~levelmatch.MatchResult`
        The result. Its models must not be corrected yet.
    folder : str or `~pathlib.Path`
        The output folder.
    suffix : str
        Suffix of the record's file.

    Returns
    -------
    provenance : `~levelmatch.record.run.Provenance`
        The run, with the name of its record.
    """
    path = Path(folder) / _name_of(library, f"levelmatch.{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_stream(path) as stream:
        stream.write(result.record.content)
    return replace(result.record.provenance, record=path.name)


def write_association(library: Any, paths: list[Path], provenance: Provenance | None) -> None:
    """Write an association of saved images, if the library was made from an association file.

    Parameters
    ----------
    library : `~stpipe.library.AbstractModelLibrary`
        The library.
    paths : list of `~pathlib.Path`
        Saved file of each model.
    provenance : `~levelmatch.record.run.Provenance` or None
        The run.
    """
    table, folder = library.asn.get("table_name"), getattr(library, "_asn_dir", None)
    if not table or not folder or not (Path(folder) / table).is_file():
        return
    association = read_association(Path(folder) / table)
    members = library.asn["products"][0]["members"]
    written = {
        association.file_of(member["expname"]): path
        for member, path in zip(members, paths, strict=True)
    }
    target = paths[0].parent / _name_of(library, "levelmatch_asn.json")
    write_associations(
        {target: output_association(association, written, target.parent, provenance)}
    )
