# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The step of the JWST pipeline; imports its packages."""

from pathlib import Path

from jwst.datamodels import ModelLibrary
from jwst.stpipe import Step

from levelmatch.pipelines.jwst_models import Models
from levelmatch.pipelines.library import correct_library, match_library
from levelmatch.pipelines.options import SPEC, match_options
from levelmatch.pipelines.outputs import write_association, write_record

__all__ = ["LevelMatchStep"]


class LevelMatchStep(Step):
    """Match the background levels of the science images of an association.

    The parameters are those of `~levelmatch.match_levels` and of its option classes. The
    corrections are subtracted, as ``meta.background`` and ``meta.cal_step`` say. Images are
    saved under their own names with the suffix ``levelmatch``, beside their association and the
    record of the run.
    """

    class_alias = "level_match"

    spec = SPEC

    reference_file_types: list = []

    def process(self, input_models):
        """Match the images of an association.

        Parameters
        ----------
        input_models : str, `~pathlib.Path`, list or `~jwst.datamodels.ModelLibrary`
            An association, data models, or a library of these.

        Returns
        -------
        library : `~jwst.datamodels.ModelLibrary`
            The library; of a list of models, a library of their copies.
        """
        library = self.prepare_output(input_models, open_models=False)
        if not isinstance(library, ModelLibrary):
            library = ModelLibrary(library, on_disk=not self.in_memory)
        options = match_options(self.get_pars())
        with library:
            result = match_library(library, Models(options["read"]), options)
            self.provenance = result.provenance
            if self.save_results:
                folder = self.search_attr("output_dir", default="") or "."
                self.provenance = write_record(library, result, folder, "asdf")
            correct_library(result, self.provenance)
        return library

    def save_model(self, model, *args, **kwargs):
        """Save models, each under its own name, and the association of a library.

        Parameters
        ----------
        model : `~stdatamodels.jwst.datamodels.JwstDataModel` or `~jwst.datamodels.ModelLibrary`
            What to save.
        *args, **kwargs
            See `stpipe.step.Step.save_model`.

        Returns
        -------
        paths : str or list of str
            The files.
        """
        paths = super().save_model(model, *args, **kwargs)
        if isinstance(model, ModelLibrary) and paths:
            write_association(model, [Path(path) for path in paths], self.provenance)
        return paths
