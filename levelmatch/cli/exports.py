# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Additional output files: the table of images, the footprints and the record."""

from pathlib import Path

import click

__all__ = ["check_exports", "export_flags", "write_exports"]

# Format of the table by suffix of the file.
FORMATS = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".fits": "fits"}


def export_flags(option, *, record=False):
    """Return the flags that name the files.

    Parameters
    ----------
    option : callable
        Function that makes a flag, such as `click.option`.
    record : bool
        Whether to include the flag of the record.
    """
    kind = {"type": click.Path(path_type=Path, dir_okay=False), "metavar": "FILE"}
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
