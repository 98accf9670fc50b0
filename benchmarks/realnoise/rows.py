# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The rows of the benchmark, by name."""

import json
from functools import partial
from pathlib import Path

import numpy as np

from realnoise import mixtures, pairs, pixels, surveys, tiles
from realnoise.goals import Goal, Row, bias, growth, mean, ratio_to_best, rms

__all__ = ["ROWS"]

INF = np.inf


def pull(label, low=0.8, high=1.3, **options):
    """Return the goal of a pull: the rms of error divided by stated error."""
    return Goal(label, low, high, **options)


def least(label, low):
    """Return the goal of a fraction with a smallest value."""
    return Goal(label, low, INF, mean)


def most(label, high, score=growth, **options):
    """Return the goal of a ratio with a largest value."""
    return Goal(label, -INF, high, score, **options)


def unbiased(label):
    """Return the goal of a mean error that is smaller than the stated error."""
    return Goal(label, -1.0, 1.0, bias)


PSF_GOALS = (
    unbiased("dithers, bias over stated"),
    pull("dithers"),
    unbiased("mosaic, bias over stated"),
    pull("mosaic"),
)
STRIPED_PLANES = tuple(
    pull(f"{layout}, {term}") for layout in ("dithers", "mosaic") for term in ("levels", "slopes")
)

_ROWS = (
    Row(
        "white",
        "white noise on a flat sky",
        pixels.white,
        (
            pull("dithers", 0.9, 1.1),
            pull("mosaic", 0.9, 1.1),
            most("dithers, error over the bound", 1.15, rms),
            most("mosaic, error over the bound", 1.15, rms),
            pull("planes, levels", 0.9, 1.1),
            pull("planes, slopes", 0.9, 1.1),
            most("warned of a pattern", 0.05, mean),
        ),
        trials=120,
    ),
    Row(
        "sources",
        "stars and emission, one PSF",
        pixels.sources,
        (
            pull("dithers"),
            pull("mosaic"),
            most("dithers, error over the bound", 1.15, rms),
            most("mosaic, error over the bound", 1.15, rms),
            most("warned of a pattern", 0.05, mean),
        ),
        trials=60,
    ),
    Row(
        "spoilt",
        "pixels that clipping is for, in dithers with stars",
        pixels.spoilt,
        tuple(
            goal
            for label in (
                "cosmic rays of 0.1 %",
                "hot pixels",
                "variable stars",
                "moving source",
                "saturated stars",
            )
            for goal in (pull(label), most(f"{label}, error over the bound", 1.15, rms))
        ),
    ),
    Row(
        "psf",
        "PSFs of 2.0 and 2.3 pixels FWHM in turn, 3e-3 stars a pixel",
        partial(pixels.psf, density=3e-3, widths=(2.0, 2.3)),
        PSF_GOALS,
    ),
    Row(
        "psf-dense",
        "PSFs of 2.0 and 2.6 pixels FWHM in turn, 3e-2 stars a pixel",
        partial(pixels.psf, density=3e-2, widths=(2.0, 2.6)),
        PSF_GOALS,
        trials=160,
    ),
    Row(
        "psf-wide",
        "PSFs of 2.0 and 4.0 pixels FWHM in turn, 3e-3 stars a pixel",
        partial(pixels.psf, density=3e-3, widths=(2.0, 4.0)),
        PSF_GOALS,
    ),
    Row(
        "stripes",
        "offsets of each row, as large as the noise",
        pixels.stripes,
        (pull("dithers"), pull("mosaic"), most("mosaic warned of a pattern", 0.05, mean)),
    ),
    Row(
        "rows-columns",
        "offsets of each row and of each column",
        pixels.rows_and_columns,
        (pull("dithers", high=1.4),),
    ),
    Row(
        "striped-planes",
        "planes with row offsets as large as the noise",
        partial(pixels.striped_planes, columns=False),
        STRIPED_PLANES,
    ),
    Row(
        "crossed-planes",
        "planes with row and column offsets as large as the noise",
        partial(pixels.striped_planes, columns=True),
        STRIPED_PLANES,
    ),
    Row(
        "correlated",
        "noise correlated over 2 pixels",
        pixels.correlated,
        (pull("dithers", high=1.2),),
        trials=60,
    ),
    Row(
        "astrometry",
        "astrometry of each image off by 0.3 pixel",
        pixels.misplaced,
        (pull("stars", high=1.5), pull("cluster", high=1.5), pull("nebula", high=1.5)),
        trials=24,
    ),
    Row(
        "flat",
        "a flat field wrong by 1 % at low frequency, a sky of 20",
        pixels.flat_errors,
        (
            most("dithers", 2.0, rms, excuse="warned"),
            most("mosaic", 2.0, rms, excuse="warned"),
        ),
    ),
    Row(
        "bowls",
        "a bowl of its own in each image, levels",
        pixels.bowls,
        (most("mosaic", 2.0, rms, excuse="warned"),),
    ),
    Row(
        "gradients",
        "a gradient of its own in each image, levels",
        pixels.gradients,
        (pull("dithers", 0.7), pull("mosaic", 0.7)),
    ),
    Row(
        "rounded",
        "data rounded to whole numbers",
        pixels.rounded,
        tuple(pull(f"noise {n}", excuse="refused") for n in (0.1, 0.2, 0.3)),
        # Most sets of little noise are refused.
        trials=120,
    ),
    Row(
        "rounded-stars",
        "stars in data rounded to whole numbers",
        pixels.rounded_stars,
        tuple(
            pull(f"noise {noise}, {density:g} stars a pixel", 0.6)
            for noise in (0.1, 0.2, 0.3)
            for density in (3e-3, 1e-2)
        ),
    ),
    Row(
        "scales",
        "every second image with coarser pixels",
        pixels.scales,
        tuple(pull(f"1 : {r}{what}") for r in (1.5, 3) for what in ("", ", stars")),
    ),
    Row(
        "depths",
        "every second dither with a third of the exposure",
        pixels.depths,
        (pull("deep-deep", 0.9, 1.1), pull("shallow-shallow", 0.9, 1.1)),
        trials=120,
    ),
    Row(
        "cosmic-rays",
        "unflagged cosmic rays on 1 % of every second image",
        pixels.cosmic_rays,
        PSF_GOALS,
    ),
    Row(
        "mixtures",
        "some of these effects together, at random; sets without a warning",
        mixtures.mixtures,
        tuple(
            goal
            for label in ("dithers", "mosaic", "mosaic, planes")
            for goal in (pull(label), most(f"{label}, warned", 0.1, mean))
        ),
        trials=120,
    ),
    Row(
        "few-pairs",
        "scatter of 3 errors in 1 to 4 loops: coverage of intervals of 95 %",
        pairs.few_pairs,
        tuple(
            Goal(label, 0.93, 0.99, mean) for label in ("1 loop", "2 loops", "3 loops", "4 loops")
        ),
        trials=300,
    ),
    Row(
        "grids",
        "scatter of 3 errors in grids of four neighbours",
        pairs.grids,
        (
            least("5 x 5, floor over truth", 0.85),
            pull("5 x 5, pull", 0.85, 1.25),
            least("3 x 8, floor over truth", 0.85),
            pull("3 x 8, pull", 0.85, 1.25),
        ),
    ),
    Row(
        "striped-grid",
        "6 x 6 images with offsets of each row",
        pairs.striped_grid,
        (pull("default", 0.85, 1.25), pull("robust=None", 0.85, 1.25)),
        trials=24,
    ),
    Row(
        "wild-pairs",
        "5 % of the pairs of a grid off by 50 errors",
        pairs.wild_pairs,
        (
            most("5 x 5, growth over the least", 2.5),
            most("5 x 5, growth where told", 2.5),
            least("5 x 5, told", 0.6),
            most("5 x 5, pull", 1.5, rms),
            most("8 x 8, growth over the least", 2.5),
            most("8 x 8, growth where told", 2.5),
            least("8 x 8, told", 0.6),
            most("8 x 8, pull", 1.5, rms),
        ),
        trials=60,
    ),
    Row(
        "misplaced-image",
        "one image of 3 x 3 off by 30 arcsec",
        pairs.misplaced_image,
        (least("named among the first two", 0.9), least("nobody named without it", 0.9)),
    ),
    Row(
        "misscaled-image",
        "one image of 3 x 3 off by 20 % in flux",
        pairs.misscaled_image,
        (least("named among the first two", 0.9), least("nobody named without it", 0.9)),
    ),
    Row(
        "detector-bowl",
        "planes over 10 x 10 images, a bowl common to all",
        surveys.detector_bowl,
        (
            least("warned of", 1.0),
            most("with pattern, error over stated", 1.25, rms),
            most("with pattern, error over that without", 0.1, mean),
        ),
        trials=16,
    ),
    Row(
        "auto",
        'stripes and fit_type="auto", 6 x 6 images',
        surveys.automatic_slopes,
        (
            most("fraction given slopes", 0.02, mean),
            most("no slopes, error over that of the better", 1.1, ratio_to_best),
            most("slopes, error over that of the better", 1.1, ratio_to_best),
        ),
        trials=16,
    ),
    Row(
        "apart",
        "two sets that nothing joins, and a lone image",
        pairs.apart,
        (
            least("difference of two sets unknown", 1.0),
            least("isolated image unknown", 1.0),
            least("others known", 1.0),
        ),
        trials=4,
    ),
    Row(
        "nircam",
        "NIRCam's short chips in three passes",
        surveys.nircam_short,
        (
            pull("tiles, dithers of 20 of 128 pixels", 0.85, 1.25),
            pull("tiles, dithers of 40 of 128 pixels", 0.85, 1.25),
        ),
    ),
    Row(
        "shared-offsets",
        "offsets of Lyot parts that 8 of 10 tiles determine, stable or scattered",
        surveys.shared_offsets,
        (
            pull("stable, own offset"),
            # With errors that are right for unstable offsets, 0.74 is the most.
            pull("stable, none", 0.6),
            pull("1 error, own offset"),
            pull("1 error, none"),
            pull("10 errors, own offset"),
            pull("10 errors, none"),
        ),
        trials=120,
    ),
    Row(
        "real-tiles",
        "100 real tiles of 2MASS: medians of the overlaps after matching, DN",
        tiles.real_tiles,
        (most("level", 0.55, rms), most("level+slope", 0.099, rms)),
        trials=1,
    ),
)

# Figures of an earlier version of the package.
_BEFORE = json.loads(Path(__file__).with_name("before.json").read_text())
ROWS = {row.name: row.with_before(_BEFORE.get(row.name, {})) for row in _ROWS}
