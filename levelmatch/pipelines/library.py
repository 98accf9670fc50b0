# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Match the data models of a library, which lends one model at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from threading import Lock
from typing import Any

import numpy as np

from levelmatch.exceptions import FrameError
from levelmatch.images.associations import is_science
from levelmatch.images.collect import collect_frames
from levelmatch.images.frame import Frame
from levelmatch.images.sources import MemorySource
from levelmatch.matching import match_levels
from levelmatch.options import ReadOptions
from levelmatch.record.run import Provenance
from levelmatch.results.files import corrected_data
from levelmatch.results.header import provenance_entry
from levelmatch.results.products import Product
from levelmatch.results.result import MatchResult

__all__ = ["LibraryImages", "correct_library", "match_library"]

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

    @property
    def image(self):
        """The model as a new `~astropy.nddata.NDData`."""
        with self.library.borrowed(self.index) as model:
            return self.library.models.image_of(model, self.library.bits)

    # The base class caches the identity, but the pixels of a model change.
    @property
    def identity(self):
        """Identity of the image, see `~levelmatch.images.sources.MemorySource`."""
        return MemorySource(self.image).identity


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

    def _frame(self, index: int, read: ReadOptions) -> Frame:
        with self.borrowed(index) as model:
            image = self.models.image_of(model, self.bits)
        (frame,) = collect_frames([image], read)
        return frame.with_keys(source=ModelSource(self, index), dq_bits=self.bits)


def match_library(library: Any, models: Any, options: dict[str, Any]) -> MatchResult:
    """Match the science models of a library.

    Parameters
    ----------
    library : `~stpipe.library.AbstractModelLibrary`
        The open library.
    models : module
        See `LibraryImages`.
    options : dict
        Arguments of `~levelmatch.match_levels`.

    Returns
    -------
    result : `~levelmatch.MatchResult`
        The result, valid while the library is open and the models are unchanged.
    """
    read = options.get("read") or ReadOptions()
    return match_levels(LibraryImages(library, models, read), **options)


def correct_library(result: MatchResult, provenance: Provenance) -> None:
    """Subtract the corrections of a result from the models of its library, in place.

    If the run keeps its levels, the pixels are unchanged, and the levels are written to the
    metadata.

    Parameters
    ----------
    result : `~levelmatch.MatchResult`
        The result of `match_library`.
    provenance : `~levelmatch.record.run.Provenance`
        The run.

    Raises
    ------
    FrameError
        If the parts of an image are separate models; no model is changed in this case.
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
            word = "kept" if provenance.keep else "subtracted"
            level = sum(p["level"] for p in entry[word])
            library.models.record_level(model, level, entry)
            library.models.add_cards(model, product, provenance)
        logger.info("%s: level %.6g %s", frame.name, level, word)


def _check_parts(product: Product) -> None:
    """Refuse an image whose parts are separate models."""
    lyot = product.lyot
    if lyot is not None and lyot.source is not product.frame.source:
        msg = (
            f"{product.name}: its Lyot part is a model of its own, {lyot.name}, which stays; "
            "recombine the files by levelmatch.match_levels"
        )
        raise FrameError(msg)
