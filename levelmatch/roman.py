# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A step and a hook for the Roman mosaic pipeline, ``roman_mos``.

The module is light to import. It imports the packages of the pipeline when they are first used.
"""

from typing import Any

__all__ = ["match_models"]


def __getattr__(name: str) -> Any:
    if name == "LevelMatchStep":
        from levelmatch.pipelines.roman_step import LevelMatchStep

        return LevelMatchStep
    msg = f"module 'levelmatch.roman' has no attribute {name!r}"
    raise AttributeError(msg)


def match_models(models: Any, **parameters: Any) -> Any:
    """Match the images of a library; a hook of ``roman_mos`` before or after its skymatch.

    Parameters
    ----------
    models : `~romancal.datamodels.ModelLibrary` or list of data models
        The models, which are changed in place.
    **parameters
        Parameters of ``LevelMatchStep``.

    Returns
    -------
    models : `~romancal.datamodels.ModelLibrary` or list
        The same object.
    """
    from romancal.datamodels import ModelLibrary

    from levelmatch.pipelines.roman_step import LevelMatchStep

    library = models if isinstance(models, ModelLibrary) else ModelLibrary(models)
    LevelMatchStep(**parameters).match(library)
    return models
