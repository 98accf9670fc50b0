# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Undo the corrections of images that a pipeline step has saved."""

from importlib import import_module
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np

from levelmatch.exceptions import RecordError
from levelmatch.images.roman import AsdfSource
from levelmatch.record.run import Provenance
from levelmatch.results.corrected import corrected_data
from levelmatch.results.products import Product

__all__ = ["write_undone_model"]


def write_undone_model(
    product: Product, own: Product, provenance: Provenance, stream: BinaryIO
) -> None:
    """Write the data model of a corrected image as it was before a run.

    Parameters
    ----------
    product : `~levelmatch.results.products.Product`
        The corrected image, with the inverse corrections.
    own : `~levelmatch.results.products.Product`
        The same with the corrections of the run.
    provenance : `~levelmatch.record.run.Provenance`
        The run.
    stream : binary file
        The copy, open for writing.

    Raises
    ------
    RecordError
        If the package of the models is not installed; the message names the image.
    """
    source = product.frame.source
    mission = "roman" if isinstance(source, AsdfSource) else "jwst"
    models = import_module(f"levelmatch.pipelines.{mission}_models")
    try:
        model = models.open_model(source.path)
    except ImportError as error:
        msg = (
            f"{source.path.name}: a pipeline step has saved it, and its data models are needed: "
            f"{error}; see the extra {mission}"
        )
        raise RecordError(msg) from error
    with model, TemporaryDirectory() as folder:
        if not provenance.keep:
            data = np.array(model.data)
            model.data = corrected_data(product, data).astype(data.dtype, copy=False)
        models.forget_run(model, own, provenance)
        # Models name themselves after the file to which they are saved.
        copy = Path(folder) / Path(product.file).name
        model.save(copy)
        with open(copy, "rb") as saved:
            copyfileobj(saved, stream)
