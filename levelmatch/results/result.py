# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a match gives back: corrected images, one at a time, and what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from levelmatch.images.frame import Frame
from levelmatch.record.record import RECORD_NAME, Record
from levelmatch.results.files import check_outputs, corrected_image, write_product
from levelmatch.results.levels import Levels, row_of

__all__ = ["MatchResult", "Product", "make_products", "write_products"]


@dataclass(frozen=True, eq=False)
class Product:
    """An image that comes out, and the frames it is made of.

    Parameters
    ----------
    name : str
        Its file name.
    frame : `~levelmatch.images.frame.Frame`
        The image.
    lyot : `~levelmatch.images.frame.Frame` or None
        The frame that its Lyot region comes from.
    region : tuple of slice or None
        That region.
    """

    name: str
    frame: Frame
    lyot: Frame | None = None
    region: tuple | None = None

    @property
    def frames(self):
        """The frames, as a list."""
        return [self.frame] if self.lyot is None else [self.frame, self.lyot]


class MatchResult(Levels, Sequence):
    """Corrected images, made when asked for, and how they were found.

    A sequence: ``result[i]``, or ``result[name]``, reads, corrects and returns one image,
    a `~astropy.nddata.CCDData` (or of the class of an image in memory). It can be
    given to the next function of the package as it is.

    Parameters
    ----------
    products : list of `Product`
        The images, in the order of the input.
    frames : list of `~levelmatch.images.frame.Frame`
        Their frames, with their corrections, in the order of the input.
    passes : list of `~levelmatch.solve.passes.PassResult`
        What each pass found; its images are sorted by name.
    measured : `~levelmatch.measure.table.PairTable`
        The pairs as measured; their images are sorted by name.
    unit : `~astropy.units.Unit` or None
        The unit in which images were compared.
    run : `~levelmatch.results.levels.Run`
        What was asked for.
    overlaps : `~levelmatch.measure.overlaps.Overlaps` or None
        The pairs as they were found; `None` where no record could use them again.
    """

    def __init__(self, products, frames, passes, measured, unit, run, overlaps=None):
        super().__init__(frames, passes, measured, unit, run)
        self.products = list(products)
        self.overlaps = overlaps

    def __len__(self):
        return len(self.products)

    def __getitem__(self, item):
        if isinstance(item, str):
            item = row_of(item, self.products)
        if isinstance(item, slice):
            return [corrected_image(product, self._story) for product in self.products[item]]
        return corrected_image(self.products[item], self._story)

    def __repr__(self):
        passes = ", ".join(p.matched.name for p in self.passes)
        return f"<MatchResult: {len(self)} images, {len(self.measured)} pairs, passes: {passes}>"

    @property
    def names(self):
        """Names of the images."""
        return [product.name for product in self.products]

    @cached_property
    def record(self):
        """The `~levelmatch.record.record.Record` of the run; reads the images once more."""
        return Record.of(self)

    def write(self, directory, *, overwrite=False, record=True, progress_bar=None):
        """Write the corrected images to a folder, each whole or not at all.

        The record is written first, as ``levelmatch.asdf``; each image's header names it.

        Parameters
        ----------
        directory : str or `~pathlib.Path`
            Made where it is missing; never that of an input.
        overwrite : bool
            Whether files of the same name may be replaced.
        record : bool
            Whether to write the record.
        progress_bar : callable or None
            Wraps an iterable over the files, as `tqdm.tqdm` does.

        Returns
        -------
        paths : list of `~pathlib.Path`
            The files, in the order of the images.

        Raises
        ------
        FrameError
            If the folder holds an input, or two outputs have one name.
        FileExistsError
            If a file is there and ``overwrite`` is not set.
        """
        paths = check_outputs(self.products, directory, overwrite=overwrite)
        story = self._story
        if record:
            self.record.write(Path(directory) / RECORD_NAME, overwrite=overwrite)
            story = self.record.story
        write_products(self.products, paths, story, progress_bar)
        return paths


def write_products(products, paths, story, progress_bar=None):
    """Write each product to its path, whole or not at all.

    Parameters
    ----------
    products : list of `Product`
        The images.
    paths : list of `~pathlib.Path`
        Where.
    story : `~levelmatch.results.header.Story`
        The run.
    progress_bar : callable or None
        Wraps an iterable over the files.
    """
    work = list(zip(products, paths, strict=True))
    for product, path in work if progress_bar is None else progress_bar(work):
        write_product(product, path, story)


def make_products(frames, *, recombine):
    """Return the products of frames, Lyot parts joined to their science partners if asked.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        In the order of the input.
    recombine : bool
        Whether to join them.
    """
    if not recombine:
        return [Product(frame.name, frame) for frame in frames]
    lyot = {f.product: f for f in frames if f.part == "lyot"}
    products, done = [], set()
    for frame in frames:
        name = frame.product
        if frame.part == "lyot":
            continue
        partner = lyot.get(name)
        if partner is None:
            products.append(Product(frame.name, frame))
            continue
        done.add(name)
        region = partner.region
        products.append(
            Product(name, frame, partner, region) if region else Product(frame.name, frame)
        )
    products += [Product(f.name, f) for name, f in lyot.items() if name not in done]
    return products
