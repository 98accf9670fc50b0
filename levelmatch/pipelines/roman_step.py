# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The step of the Roman pipeline; this module imports the pipeline."""

from romancal.datamodels import ModelLibrary
from romancal.stpipe import RomanStep

from levelmatch.pipelines import roman_models
from levelmatch.pipelines.options import SPEC
from levelmatch.pipelines.step import Matching

__all__ = ["LevelMatchStep"]


class LevelMatchStep(Matching, RomanStep):
    """Match the background levels of the science images of an association.

    The parameters equal those of `~levelmatch.match_levels` and of its option classes. The
    corrections are subtracted, or with ``subtract=False`` kept for resampling, and stated in
    ``meta.background``. Images are saved under their own names with the suffix ``levelmatch``,
    together with an association and the record of the run.
    """

    class_alias = "roman_level_match"

    spec = SPEC

    reference_file_types: list = []

    models = roman_models
    record_suffix = "record"

    def process(self, dataset):
        """Match the images of an association.

        Parameters
        ----------
        dataset : str, `~pathlib.Path`, list or `~romancal.datamodels.ModelLibrary`
            An association, data models, or a library of these.

        Returns
        -------
        library : `~romancal.datamodels.ModelLibrary`
            The library, whose models are changed in place.
        """
        library = dataset
        if not isinstance(dataset, ModelLibrary):
            library = ModelLibrary(dataset, on_disk=not self.in_memory)
        self.match(library)
        return library
