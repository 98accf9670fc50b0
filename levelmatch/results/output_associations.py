# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Associations of the output images."""

from pathlib import Path

from levelmatch.associations import planned_associations
from levelmatch.atomic import refuse_existing
from levelmatch.record.run import Provenance
from levelmatch.results.lock import OutputLock
from levelmatch.results.products import Product, by_file

__all__ = ["output_associations"]


def output_associations(
    products: list[Product],
    paths: list[Path],
    directory: str | Path,
    overwrite: bool,
    provenance: Provenance | None,
    lock: OutputLock,
) -> dict[Path, bytes]:
    """Return the associations of the output images, which are written after the images.

    Parameters
    ----------
    products : list of `~levelmatch.results.products.Product`
        The images.
    paths : list of `~pathlib.Path`
        The output files, see `~levelmatch.results.files.check_outputs`.
    directory : str or `~pathlib.Path`
        The output folder.
    overwrite : bool
        Whether existing files may be replaced.
    provenance : `~levelmatch.record.run.Provenance` or None
        The run; `None` for images whose corrections are undone.
    lock : `~levelmatch.results.lock.OutputLock`
        Lock that recognises the files of an interrupted run, which may be replaced.

    Returns
    -------
    contents : dict of `~pathlib.Path` to bytes
        Content of each file; empty if no association was an input.

    Raises
    ------
    FrameError
        If an association would replace its input, or two would have the same name.
    FileExistsError
        If a file exists and ``overwrite`` is not set.
    """
    files = zip(by_file(products), paths, strict=True)
    pairs = [(f, path) for images, path in files for p in images for f in p.frames]
    associations = dict.fromkeys(a for frame, _ in pairs for a in frame.associations)
    if not associations:
        return {}
    written = {f.source.path: path for f, path in pairs if hasattr(f.source, "path")}
    contents = planned_associations(
        written, associations, directory, overwrite=True, provenance=provenance
    )
    for path in contents:
        refuse_existing(path, overwrite=overwrite or lock.may_replace(path))
    return contents
