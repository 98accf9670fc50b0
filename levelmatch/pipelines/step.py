# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Base class of the steps of all pipelines, and the files beside their images; imports stpipe."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from stpipe.library import AbstractModelLibrary

from levelmatch.atomic import atomic_stream
from levelmatch.images.associations import output_association, read_association, write_associations
from levelmatch.pipelines.library import correct_library, match_library
from levelmatch.pipelines.options import match_options
from levelmatch.record.run import Provenance
from levelmatch.results.result import MatchResult

__all__ = ["Matching", "write_association", "write_record"]


class Matching:
    """Mixin of a step that matches a library and saves its record and association.

    It precedes the step class of the pipeline among the base classes.
    """

    # Module that reads and changes the models.
    models: ModuleType
    # Suffix of the record's file.
    record_suffix: str
    provenance: Any = None

    def match(self: Any, library: Any) -> None:
        """Match the images of a library, and subtract their corrections in place.

        Parameters
        ----------
        library : `~stpipe.library.AbstractModelLibrary`
            The library, which must be closed.
        """
        options = match_options(self.get_pars())
        with library:
            result = match_library(library, self.models, options)
            self.provenance = result.provenance
            if self.save_results:
                folder = self.search_attr("output_dir", default="") or "."
                self.provenance = write_record(library, result, folder, self.record_suffix)
            correct_library(result, self.provenance)

    def save_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Save models, each under its own name, and the association of a library.

        Parameters
        ----------
        model : data model or `~stpipe.library.AbstractModelLibrary`
            The model or the models.
        *args, **kwargs
            Arguments of `stpipe.step.Step.save_model`.

        Returns
        -------
        paths : str or list of str
            The saved files.
        """
        paths = super().save_model(model, *args, **kwargs)  # type: ignore[misc]
        if isinstance(model, AbstractModelLibrary) and paths:
            write_association(model, [Path(path) for path in paths], self.provenance)
        return paths


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
