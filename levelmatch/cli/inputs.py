# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images on the command line: files, folders and quoted patterns."""

from glob import glob, has_magic
from pathlib import Path

import click

__all__ = ["RECORD_NAME", "Images", "expand"]

RECORD_NAME = "levelmatch.asdf"

# Suffixes of images in a folder.
SUFFIXES = (".fits", ".fit", ".fts")
# Suffix of Roman's images, and of records.
ASDF = ".asdf"
# Additional suffixes of compressed images.
PACKED = (".fz", ".gz", ".bz2", ".xz")


def expand(path: Path) -> list[Path]:
    """Return the files of an argument.

    Parameters
    ----------
    path : `~pathlib.Path`
        A file, a folder of images or a pattern.

    Returns
    -------
    files : list of `~pathlib.Path`
        The file, the images in the folder, or the files that match the pattern.

    Raises
    ------
    ValueError
        If a folder has no image, or no file matches a pattern.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file())
        # ASDF files beside FITS images are records.
        images = [p for p in files if _is_image(p.name)] or [
            p for p in files if p.suffix.lower() == ASDF and p.name != RECORD_NAME
        ]
        if not images:
            ends = ", ".join((*SUFFIXES, ASDF))
            msg = f"{path}: the folder has no image: no file ends in {ends}"
            raise ValueError(msg)
        return images
    if path.exists() or not has_magic(str(path)):
        return [path]
    matches = sorted(Path(name) for name in glob(str(path), recursive=True))
    if not matches:
        msg = f"{path}: no file matches this pattern"
        raise ValueError(msg)
    return [p for p in matches if p.is_file()]


def _is_image(name):
    name = name.lower()
    packed = next((end for end in PACKED if name.endswith(end)), "")
    return name.removesuffix(packed).endswith(SUFFIXES) and not name.startswith(".")


class Images(click.Path):
    """Type of an argument that names images, see `expand`."""

    def __init__(self):
        super().__init__(path_type=Path)

    @staticmethod
    def joined(ctx, param, paths):
        """Return all images of several arguments; the callback of the argument."""
        try:
            files = [file for path in paths for file in expand(path)]
        except ValueError as error:
            raise click.BadParameter(str(error), ctx=ctx, param=param) from error
        # A repeated file is refused later, with its name.
        return tuple(files)
