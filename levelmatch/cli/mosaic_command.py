# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command `levelmatch mosaic`."""

from pathlib import Path

import click

from levelmatch.cli.errors import reporting
from levelmatch.cli.flags import flags_of
from levelmatch.cli.options import (
    DEBUG,
    FORCE,
    IMAGES,
    QUIET,
    RECORD,
    add_options,
    examples,
    output_option,
    overwrite_option,
)
from levelmatch.cli.printing import progress_bars, without_excluded
from levelmatch.cli.terminal import echo
from levelmatch.options import CoaddOptions

__all__ = ["mosaic"]

COADD = ("weights", "method", "tile_size")


@click.command(
    epilog=examples(
        "mosaic matched/levelmatch.asdf -o mosaic.fits",
        "mosaic matched/levelmatch.asdf raw/*_cal.fits -o mosaic.fits",
        "mosaic matched/levelmatch.asdf -o quick.fits --pixel-scale 0.5",
        "mosaic matched/levelmatch.asdf -o median.fits --combine median --like other.fits",
    )
)
@RECORD
@IMAGES
@output_option("FITS", "The mosaic, with its coverage in the extension COVERAGE.")
@click.option(
    "--pixel-scale",
    type=float,
    metavar="ARCSEC",
    help="Side of a pixel; by default the side of the finest image's pixels.",
)
@click.option(
    "--like",
    type=click.Path(path_type=Path),
    metavar="FITS",
    help="A file whose image gives the grid of the mosaic.",
)
@click.option(
    "--combine",
    type=click.Choice(("mean", "median")),
    default="mean",
    show_default=True,
    help="How images are combined.",
)
@add_options(flags_of(CoaddOptions, without=("shape",)))
@overwrite_option("Replace the file if it exists.")
@FORCE
@QUIET
@DEBUG
def mosaic(record, files, output, like, *, overwrite, force, quiet, debug, **options):
    """Make a mosaic of the images of RECORD with its corrections.

    FILES are all inputs of the run, by default from their recorded place. The corrected
    images are not needed.
    """
    with reporting(debug=debug):
        from levelmatch.atomic import refuse_existing
        from levelmatch.record.record import read_record
        from levelmatch.results.apply_undo import recorded_files, recorded_result
        from levelmatch.results.mosaic import make_mosaic

        refuse_existing(output, overwrite=overwrite, is_data=True)
        coadd = CoaddOptions(**{name: options.pop(name) for name in COADD})
        known = read_record(record)
        files = without_excluded(known, files) or recorded_files(known)
        result = recorded_result(known, files, force=force)
        path = make_mosaic(
            result,
            output=output,
            wcs=None if like is None else _grid_of(like),
            overwrite=overwrite,
            progress_bar=progress_bars(quiet=quiet)("tiles"),
            coadd=coadd,
            **options,
        )
        if not quiet:
            echo(f"Written: {path}")


def _grid_of(path):
    """Return the header of a file's image, which defines the grid."""
    from astropy.io import fits

    from levelmatch.images.collect import collect_frames

    (frame,) = collect_frames([path])
    return fits.getheader(path, frame.source.hdu)
