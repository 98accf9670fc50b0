# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Result of a match: corrected images, which are read one at a time."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from levelmatch.atomic import write_content
from levelmatch.docstrings import share_parameters
from levelmatch.images.frame import Frame
from levelmatch.measure.pair_selection import Overlaps
from levelmatch.measure.table import PairTable
from levelmatch.option_values import check_progress
from levelmatch.record.record import Record
from levelmatch.record.run import Run
from levelmatch.record.run_result import RunResult, row_of
from levelmatch.results.corrected import corrected_image
from levelmatch.results.files import check_outputs, write_products
from levelmatch.results.lock import output_lock
from levelmatch.results.prewrite import check_contents, check_space, output_associations
from levelmatch.results.products import make_products
from levelmatch.solve.passes import Pass

__all__ = ["MatchResult"]


@share_parameters
class MatchResult(RunResult, Sequence):
    """Corrected images, computed when indexed, and their corrections.

    ``result[i]`` or ``result[name]`` reads and corrects one image, and returns it as a
    `~astropy.nddata.CCDData`. An image in memory is returned in its own class. ``name in result``
    tests for the name of an image. The other functions of the package accept the result in place
    of a list of images.

    Parameters
    ----------
    <<run>>
    overlaps : `~levelmatch.measure.pair_selection.Overlaps` or None
        The overlaps before they were measured; `None` if later runs cannot reuse the
        measurements.
    """

    def __init__(
        self,
        frames: list[Frame],
        passes: list[Pass],
        measured: PairTable,
        run: Run,
        overlaps: Overlaps | None = None,
    ) -> None:
        super().__init__(frames, passes, measured, run)
        self.products = make_products(self.frames, recombine=run.recombine)
        self.overlaps = overlaps

    def __len__(self) -> int:
        return len(self.products)

    def __contains__(self, item: object) -> bool:
        """Return whether an image has a name; images are computed, so no other object is found."""
        return isinstance(item, str) and item in self.names

    def __getitem__(self, item: int | str | slice) -> Any:
        if isinstance(item, str):
            item = row_of(item, self.products)
        if isinstance(item, slice):
            return [corrected_image(product, self.provenance) for product in self.products[item]]
        return corrected_image(self.products[item], self.provenance)

    def __repr__(self) -> str:
        passes = ", ".join(p.name for p in self.passes)
        return f"<MatchResult: {len(self)} images, {len(self.measured)} pairs, passes: {passes}>"

    @property
    def names(self) -> list[str]:
        """Names of the corrected images."""
        return [product.name for product in self.products]

    @property
    def files(self) -> list[str]:
        """Names of the output files, which hold one or more images each."""
        return list(dict.fromkeys(product.file for product in self.products))

    @cached_property
    def record(self) -> Record:
        """The `~levelmatch.Record` of the run. Images without a checksum are read again."""
        return Record.of(self, self.overlaps)

    def write(
        self,
        directory: str | Path,
        *,
        overwrite: bool = False,
        record: bool = True,
        progress_bar: Callable | None = None,
    ) -> list[Path]:
        """Write the corrected images to a folder, each file atomically.

        The record is written first, as ``levelmatch.asdf``, or as ``levelmatch.record`` beside
        ASDF images. The header of each image names the record. Associations that were inputs
        are written last, with the names of the outputs.

        Parameters
        ----------
        directory : str or `~pathlib.Path`
            The folder, which is created if it is missing. It must not hold an input.
        overwrite : bool
            Whether existing files may be replaced.
        record : bool
            Whether to write the record.
        progress_bar : callable or None
            Wraps an iterable over the files, as `tqdm.tqdm` does.

        Returns
        -------
        paths : list of `~pathlib.Path`
            The written images, in the order of the input; one file for all images of a file.

        Raises
        ------
        FrameError
            If the folder holds an input, an input changed, two outputs would have the same name,
            or an image cannot be written to FITS. Nothing is written in this case.
        NotADirectoryError
            If ``directory`` is a file.
        FileExistsError
            If a file exists and ``overwrite`` is not set.
        LevelMatchError
            If another run writes to the folder.
        OSError
            If the disk has no space.
        """
        check_progress(progress_bar)
        with output_lock(directory) as lock:
            paths = check_outputs(self.products, directory, overwrite=overwrite, lock=lock)
            provenance = self.record.provenance if record else self.provenance
            associations = output_associations(
                self.products, paths, directory, overwrite, provenance, lock
            )
            check_contents(self.products, provenance)
            check_space(self.products, paths, len(self.record.content) if record else 0)
            if record:
                own = Path(directory) / self.record.file_name
                replace = overwrite or lock.may_replace(own)
                self.record.write(own, overwrite=replace, lock=lock)
            write_products(self.products, paths, provenance, progress_bar)
            for path, content in associations.items():
                write_content(path, content)
        return paths
