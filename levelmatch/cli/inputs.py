# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images on the command line: files, folders and quoted patterns."""

from glob import glob, has_magic
from pathlib import Path

import click

__all__ = ["Images", "expand"]

# Ends of the names of images in a folder; compressed files have another end after it.
SUFFIXES = (".fits", ".fit", ".fts")
PACKED = (".fz", ".gz", ".bz2", ".xz")


def expand(path: Path) -> list[Path]:
    """Return the files of an argument: a file, the images in a folder, or those of a pattern.

    Parameters
    ----------
    path : `~pathlib.Path`
        The argument.

    Raises
    ------
    ValueError
        If a folder has no image, or no file matches a pattern.
    """
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.is_file() and _is_image(p.name))
        if not found:
            msg = f"{path}: the folder has no image: no file ends in {', '.join(SUFFIXES)}"
            raise ValueError(msg)
        return found
    if path.exists() or not has_magic(str(path)):
        return [path]
    found = sorted(Path(name) for name in glob(str(path), recursive=True))
    if not found:
        msg = f"{path}: no file matches this pattern"
        raise ValueError(msg)
    return [p for p in found if p.is_file()]


def _is_image(name):
    name = name.lower()
    packed = next((end for end in PACKED if name.endswith(end)), "")
    return name.removesuffix(packed).endswith(SUFFIXES) and not name.startswith(".")


class Images(click.Path):
    """One or several images, as `expand` finds them."""

    def __init__(self):
        super().__init__(path_type=Path)

    @staticmethod
    def joined(ctx, param, paths):
        """Return all images of several arguments, each once: the callback of the argument."""
        try:
            files = [file for path in paths for file in expand(path)]
        except ValueError as error:
            raise click.BadParameter(str(error), ctx=ctx, param=param) from error
        # A file that is named twice is refused with its name later.
        return tuple(files)
