# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Files on the command line: images as inputs, and additional outputs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import glob, has_magic
from pathlib import Path
from threading import Event, Thread

import click

__all__ = [
    "ASDF",
    "RECORD_NAME",
    "check_exports",
    "expand",
    "expand_all",
    "export_flags",
    "is_image",
    "reading_ahead",
    "write_exports",
]


RECORD_NAME = "levelmatch.asdf"

# Suffixes of images in a folder.
SUFFIXES = (".fits", ".fit", ".fts")
# Suffix of Roman's images, and of records.
ASDF = ".asdf"
# Additional suffixes of compressed images.
PACKED = (".fz", ".gz", ".bz2", ".xz")
# Number of bytes that the system is asked to read ahead at once, which it limits.
REQUEST = 1 << 20


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
        images = [p for p in files if is_image(p.name)] or [
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


def is_image(name: str) -> bool:
    """Return whether the name of a file ends as that of a FITS image, perhaps compressed."""
    stem = name.lower()
    packed = next((end for end in PACKED if stem.endswith(end)), "")
    return stem.removesuffix(packed).endswith(SUFFIXES) and not name.startswith(".")


def expand_all(ctx, param, paths):
    """Return the files of several arguments, see `expand`; the callback of these arguments."""
    try:
        # A repeated file is refused later, with its name.
        return tuple(file for path in paths for file in expand(path))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from error


@contextmanager
def reading_ahead(files: Iterable[Path]) -> Iterator[None]:
    """Let the system read files into its cache, in order, as long as the context is entered.

    Parameters
    ----------
    files : iterable of `~pathlib.Path`
        The files; those that cannot be opened are passed over.
    """
    stop = Event()
    if hasattr(os, "posix_fadvise"):
        Thread(target=_ask_for, args=(files, stop), daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _ask_for(files, stop):
    """Ask the system to read files, until it is to stop."""
    # Unlike `Path.is_file`, this function passes over names that are too long.
    for path in filter(os.path.isfile, files):
        with suppress(OSError), open(path, "rb") as file:
            for start in range(0, os.fstat(file.fileno()).st_size, REQUEST):
                if stop.is_set():
                    return
                os.posix_fadvise(file.fileno(), start, REQUEST, os.POSIX_FADV_WILLNEED)


class GivenPath(click.Path):
    """Type of a path that is not empty."""

    def __init__(self, **options):
        super().__init__(path_type=Path, **options)

    def convert(self, value, param, ctx):
        """Return the path; refuse an empty text, as of an unset variable of the shell."""
        if value == "":
            self.fail("the path is empty; name a file or a folder, or '.' for this folder")
        return super().convert(value, param, ctx)


# Format of the table by suffix of the file.
FORMATS = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".fits": "fits"}


def export_flags(*, record=False):
    """Return the flags that name the files, optionally with that of the record."""
    option = click.option
    kind = {"type": GivenPath(dir_okay=False), "metavar": "FILE"}
    table = option("--table", **kind, help="Write the table of images: .ecsv, .csv or .fits.")
    regions = option("--regions", **kind, help="Write the footprints as a region file of DS9.")
    if not record:
        return [table, regions]
    words = "Also write the record to this file, even with --dry-run."
    return [table, regions, option("--record", **kind, help=words)]


def check_exports(*, table=None, regions=None, record=None, overwrite):
    """Refuse existing files and unknown table formats before pixels are read."""
    if table is not None and table.suffix not in FORMATS:
        msg = f"--table: {table}: the name must end in {', '.join(FORMATS)}"
        raise ValueError(msg)
    from levelmatch.atomic import refuse_existing

    for path in (table, regions, record):
        if path is not None:
            refuse_existing(path, overwrite=overwrite, is_data=path is record)
    if record is not None and record.exists():
        from levelmatch.record.record import check_record_path

        check_record_path(record)


def write_exports(result, *, table=None, regions=None, record=None):
    """Write the named files, and return a line on each."""
    from levelmatch.atomic import atomic_path
    from levelmatch.results.regions import write_regions

    if table is not None:
        with atomic_path(table) as part:
            result.table.write(part, format=FORMATS[table.suffix], overwrite=True)
    if regions is not None:
        write_regions(result, regions)
    if record is not None:
        getattr(result, "record", result).write(record, overwrite=True)
    return [f"Written: {path}" for path in (table, regions, record) if path is not None]
