# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Base class of the steps of all pipelines; this module imports stpipe."""

from pathlib import Path
from typing import Any

from stpipe.library import AbstractModelLibrary

from levelmatch.pipelines.library import correct_library, match_library
from levelmatch.pipelines.options import match_options
from levelmatch.pipelines.outputs import write_association, write_record

__all__ = ["Matching"]


class Matching:
    """Mixin of a step that matches a library and saves its record and association.

    It precedes the step class of the pipeline among the base classes.
    """

    # Class that reads and changes the models.
    models: type
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
            result = match_library(library, self.models(options["read"]), options)
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
