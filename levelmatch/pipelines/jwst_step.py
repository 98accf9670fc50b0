# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The step of the JWST pipeline; this module imports the pipeline."""

from jwst.datamodels import ModelLibrary
from jwst.stpipe import Step

from levelmatch.pipelines import jwst_models
from levelmatch.pipelines.options import SPEC
from levelmatch.pipelines.step import Matching

__all__ = ["LevelMatchStep"]


class LevelMatchStep(Matching, Step):
    """Match the background levels of the science images of an association.

    The parameters equal those of `~levelmatch.match_levels` and of its option classes. The
    corrections are subtracted, or with ``subtract=False`` kept for resampling, and stated in
    ``meta.background`` and ``meta.cal_step``. Images are saved under their own names with the
    suffix ``levelmatch``, together with an association and the record of the run.
    """

    class_alias = "level_match"

    spec = SPEC

    reference_file_types: list = []

    models = jwst_models
    record_suffix = "asdf"

    def process(self, input_models):
        """Match the images of an association.

        Parameters
        ----------
        input_models : str, `~pathlib.Path`, list or `~jwst.datamodels.ModelLibrary`
            An association, data models, or a library of these.

        Returns
        -------
        library : `~jwst.datamodels.ModelLibrary`
            The matched library. A list of models is copied to a library.
        """
        library = self.prepare_output(input_models, open_models=False)
        if not isinstance(library, ModelLibrary):
            library = ModelLibrary(library, on_disk=not self.in_memory)
        self.match(library)
        return library
