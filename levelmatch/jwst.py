# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A step and hooks for the JWST pipeline, ``calwebb_image3``.

The module is light to import. It imports the packages of the pipeline when they are first used.
"""

from pathlib import Path
from typing import Any

import numpy as np

from levelmatch.atomic import refuse_existing, write_content
from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import FrameError
from levelmatch.option_values import as_path, check_type
from levelmatch.results.products import Product
from levelmatch.results.result import MatchResult

__all__ = ["add_history", "get_steps", "match_models", "write_skylist"]


def get_steps() -> list[tuple[str, str, bool]]:
    """Return the steps of the package, for the entry point ``stpipe.steps``."""
    return [
        ("levelmatch.jwst.LevelMatchStep", "level_match", False),
        ("levelmatch.roman.LevelMatchStep", "roman_level_match", False),
    ]


def __getattr__(name: str) -> Any:
    if name == "LevelMatchStep":
        from levelmatch.pipelines.jwst_step import LevelMatchStep

        return LevelMatchStep
    msg = f"module 'levelmatch.jwst' has no attribute {name!r}"
    raise AttributeError(msg)


def match_models(models: Any, **parameters: Any) -> Any:
    """Match the images of a library; a hook of ``calwebb_image3`` before or after its skymatch.

    Parameters
    ----------
    models : `~jwst.datamodels.ModelLibrary` or list of `~stdatamodels.jwst.datamodels.ImageModel`
        The models, which are changed in place.
    **parameters
        Parameters of ``LevelMatchStep``.

    Returns
    -------
    models : `~jwst.datamodels.ModelLibrary` or list
        The same object.
    """
    from jwst.datamodels import ModelLibrary

    from levelmatch.pipelines.jwst_step import LevelMatchStep

    library = models if isinstance(models, ModelLibrary) else ModelLibrary(models)
    LevelMatchStep(**parameters).process(library)
    return models


def add_history(model: Any) -> None:
    """Add the run that matched the images to the history of their mosaic; a hook of resample.

    Parameters
    ----------
    model : `~stdatamodels.jwst.datamodels.ImageModel`
        The combined image, which is changed in place. Its FITS file names the run in HISTORY.
    """
    from levelmatch.pipelines.jwst_models import add_history as add

    text = model.meta.instance.get("levelmatch")
    if text:
        add(model, text)


@share_parameters
def write_skylist(result: MatchResult, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the levels of a result for the skymatch step, ``skymethod="user"``.

    If ``skylist`` is set to this file, the pipeline subtracts the levels from the input images.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The result. Its corrections must be levels.
    path : str or `~pathlib.Path`
        The file, with the name and the level of one image on each line.
    <<written>>

    Raises
    ------
    FrameError
        If one level cannot express the correction of an image (a plane, a pattern, two parts or
        a flux scale), or its name has a blank; the message names the image.
    FileExistsError
        If the file exists and ``overwrite`` is not set.
    """
    check_type("result", result, MatchResult, "a MatchResult")
    path = as_path("path", path)
    lines = [_sky_line(product) for product in result.products]
    refuse_existing(path, overwrite=overwrite)
    write_content(path, "".join(lines).encode())
    return path


def _sky_line(product: Product) -> str:
    """Return the line of an image; refuse corrections that one level cannot express."""
    frame = product.frame
    # The step identifies images by the names in their headers.
    name = str(frame.meta.get("FILENAME") or frame.name)
    reason = ""
    if np.any(frame.correction.vector):
        reason = "its correction is a plane; match with fit_type='level'"
    elif np.any(frame.correction.pattern):
        reason = "it has a pattern of the detector; match without pattern"
    elif product.lyot is not None:
        reason = "its parts have different levels; match without recombine_lyot"
    elif frame.output_factor != 1.0:
        reason = "it is multiplied by a factor; match without apply_flux_scale"
    elif name.split() != [name]:
        reason = "the skymatch step cannot read names with blanks; rename it"
    if reason:
        msg = f"{frame.name}: a list of levels cannot express its correction: {reason}"
        raise FrameError(msg)
    return f"{name} {frame.correction.constant:.9g}\n"
