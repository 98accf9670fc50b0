# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Base class of the steps of all pipelines: match the models of a library; imports stpipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from stpipe.library import AbstractModelLibrary

from levelmatch.atomic import write_content
from levelmatch.exceptions import FrameError
from levelmatch.images.associations import (
    is_science,
    output_association,
    read_association,
)
from levelmatch.images.frame import Frame
from levelmatch.images.inputs import collect_frames
from levelmatch.images.sources import MemorySource
from levelmatch.matching import match_levels
from levelmatch.options import ReadOptions
from levelmatch.pipelines.options import match_options
from levelmatch.record.run import Provenance
from levelmatch.results.files import corrected_data
from levelmatch.results.header import provenance_entry
from levelmatch.results.products import Product
from levelmatch.results.result import MatchResult

__all__ = ["LibraryImages", "Matching"]


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
            images = LibraryImages(library, self.models, options.get("read") or ReadOptions())
            result = match_levels(images, **options)
            self.provenance = result.provenance
            if self.save_results:
                names = [product.file for product in result.products]
                saved = {name: Path(self.make_output_path(basepath=name)).name for name in names}
                result.run.options["outputs"] = saved
                folder = self.search_attr("output_dir", default="") or "."
                self.provenance = _write_record(library, result, folder, self.record_suffix)
            _correct_library(result, self.provenance)

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
            _write_association(model, [Path(path) for path in paths], self.provenance)
        return paths


def _name_of(library: Any, ending: str) -> str:
    """Return a file name with the stem of the library's association."""
    name = str(library.asn.get("table_name") or "")
    stem = name.removesuffix(".json").removesuffix("asn").rstrip("_")
    return f"{stem}_{ending}" if stem else ending


def _write_record(library: Any, result: MatchResult, folder: str | Path, suffix: str) -> Provenance:
    """Write the record of a result, before its models are corrected; return the run with its name.

    The record of an earlier run of the step is replaced.
    """
    path = Path(folder) / _name_of(library, f"levelmatch.{suffix}")
    write_content(path, result.record.content)
    return replace(result.record.provenance, record=path.name)


def _write_association(library: Any, paths: list[Path], provenance: Provenance | None) -> None:
    """Write an association of the saved files, if the library was made from an association file."""
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
    write_content(target, output_association(association, written, target.parent, provenance))


# --------------------------------------------------------------------------------------
# Images of a library, which lends one model at a time

logger = getLogger(__name__)


class ModelSource(MemorySource):
    """Pixels of a data model, which is borrowed from its library when they are read.

    Parameters
    ----------
    library : `LibraryImages`
        The library.
    index : int
        Index of the model.
    """

    def __init__(self, library, index):
        object.__setattr__(self, "library", library)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "checksums", [])

    @property
    def image(self):
        """The model as a new `~astropy.nddata.NDData`."""
        with self.library.borrowed(self.index) as model:
            return self.library.models.image_of(model, self.library.bits)

    def _check(self, pixels):
        """Accept all pixels, because the steps correct models in place."""

    # The base class caches the identity, but the pixels of a model change.
    @property
    def identity(self):
        """Identity of the image, see `~levelmatch.images.sources.MemorySource`, with its file."""
        path = self.library.file_of(self.index)
        files = {} if path is None else {"file": path.name, "path": str(path)}
        return {**MemorySource(self.image).identity, **files}


class LibraryImages:
    """Science images of a library, an input of the functions of the package.

    Threads borrow one model at a time.

    Parameters
    ----------
    library : `~stpipe.library.AbstractModelLibrary`
        The open library.
    models : module
        `~levelmatch.pipelines.jwst_models`, or the module of another observatory, which reads and
        changes its models.
    read : `~levelmatch.ReadOptions`
        How images are read.

    Raises
    ------
    FrameError
        If an image cannot be used, two images have the same name, or there is no image.
    """

    def __init__(self, library: Any, models: Any, read: ReadOptions) -> None:
        self.library, self.models, self.bits = library, models, models.bits_of(read)
        self._lock = Lock()
        members = library.asn["products"][0]["members"]
        science = [i for i, member in enumerate(members) if is_science(member)]
        self.frames = [self._frame(index, read) for index in science]
        names = [frame.name for frame in self.frames]
        for name in names:
            if names.count(name) > 1:
                msg = f"{name}: two models have this file name; give each its own meta.filename"
                raise FrameError(msg)
        if not names:
            msg = "library: it has no member of the exptype science; name the images"
            raise FrameError(msg)

    @contextmanager
    def borrowed(self, index: int, *, modify: bool = False) -> Iterator[Any]:
        """Borrow a model, and return it to the library at the end."""
        with self._lock:
            model = self.library.borrow(index)
            try:
                yield model
            finally:
                self.library.shelve(model, index, modify=modify)

    def file_of(self, index: int) -> Path | None:
        """Return the file of a model that an association lists; `None` for a model in memory."""
        folder = getattr(self.library, "_asn_dir", None)
        path = Path(folder or "") / self.library.asn["products"][0]["members"][index]["expname"]
        return path.absolute() if folder and path.is_file() else None

    def _frame(self, index: int, read: ReadOptions) -> Frame:
        with self.borrowed(index) as model:
            image = self.models.image_of(model, self.bits)
        (frame,) = collect_frames([image], read)
        return frame.with_keys(source=ModelSource(self, index), dq_bits=self.bits)


def _correct_library(result: MatchResult, provenance: Provenance) -> None:
    """Subtract the corrections of a result from the models of its library, in place.

    If the run keeps its levels, the pixels are unchanged, and the levels are written to the
    metadata. No model is changed if the parts of an image are separate models, which is an error.
    """
    for product in result.products:
        _check_parts(product)
    for product in result.products:
        frame = product.frame
        library = frame.source.library
        with library.borrowed(frame.source.index, modify=True) as model:
            if not provenance.keep:
                data = np.asarray(model.data)
                model.data = corrected_data(product, data).astype(data.dtype, copy=False)
            entry = provenance_entry(frame, provenance, product.lyot)
            entry["before"] = library.models.state_of(model)
            word = "kept" if provenance.keep else "subtracted"
            level = sum(p["level"] for p in entry[word])
            library.models.record_level(model, level, entry)
            library.models.add_cards(model, product, provenance, entry)
        logger.info("%s: level %.6g %s", frame.name, level, word)


def _check_parts(product: Product) -> None:
    """Refuse an image whose parts are separate models."""
    lyot = product.lyot
    if lyot is not None and lyot.source is not product.frame.source:
        msg = (
            f"{product.name}: its Lyot part is a separate model, {lyot.name}, and the step cannot "
            "join them; match the files by levelmatch.match_levels"
        )
        raise FrameError(msg)
