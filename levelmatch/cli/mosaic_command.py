# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command `levelmatch mosaic`."""

from pathlib import Path

import click

from levelmatch.cli.errors import one_error, shown_warnings
from levelmatch.cli.flags import flags_of
from levelmatch.cli.logs import start_log
from levelmatch.cli.options import DEBUG, IMAGES, QUIET_HELP, RecordPath, add_options
from levelmatch.cli.printing import progress_bars, without_excluded
from levelmatch.cli.terminal import echo
from levelmatch.options import CoaddOptions

__all__ = ["mosaic"]

COADD = ("weights", "method", "tile_size")
EPILOG = """\
\b
Examples:
  levelmatch mosaic matched/levelmatch.asdf -o mosaic.fits
  levelmatch mosaic matched/levelmatch.asdf raw/*_cal.fits -o mosaic.fits
  levelmatch mosaic matched/levelmatch.asdf -o quick.fits --pixel-scale 0.5
  levelmatch mosaic matched/levelmatch.asdf -o median.fits --combine median --like other.fits
"""


@click.command(epilog=EPILOG)
@click.argument("record", type=RecordPath())
@IMAGES
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FITS",
    required=True,
    help="The mosaic, with its coverage in the extension COVERAGE.",
)
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
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--force", is_flag=True, help="Accept images that differ from the recorded ones.")
@click.option("-q", "--quiet", is_flag=True, help=QUIET_HELP)
@DEBUG
def mosaic(record, files, output, like, *, overwrite, force, quiet, debug, **options):
    """Make a mosaic of the images of RECORD with its corrections.

    FILES are all inputs of the run, by default from their recorded place. The corrected
    images are not needed.
    """
    start_log(debug=debug)
    with one_error(debug=debug), shown_warnings():
        from levelmatch.record.record import read_record
        from levelmatch.results.apply_undo import recorded_files, recorded_result
        from levelmatch.results.mosaic import make_mosaic

        if output.exists() and not overwrite:
            msg = f"{output} exists; --overwrite replaces it"
            raise FileExistsError(msg)
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
