# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Error bars on real noise: a simulator of its own, and the rows of the benchmark.

Run by ``benchmarks/calibration.py``. The modules:

sky
    Analytic skies. Stars are Gaussians averaged over each pixel by error functions, in equal
    flux through every PSF; emission is a sum of wider Gaussians. Each image is rendered on its
    own pixel grid, and nothing is resampled. Also the noise and the patterns of detectors.
scores
    The only module that calls the package. Errors are taken in the gauge of the zero mean.
goals
    A `Row` is a function of a generator of random numbers, which makes one set, matches it and
    returns samples; its goals make a figure of the samples of all trials, with its range.
pixels, mixtures, pairs, surveys, tiles
    The trials. The docstring of each says how its images differ from white noise.
rows
    The rows, with trials and ranges; ``before.json`` has the figures of an earlier version.

Unless a row says otherwise, a set is 6 dithers of 200 x 200 pixels of 1 arcsec within 20 pixels
of one place, or a mosaic of 3 x 3 such images 170 pixels apart. Positions differ by fractions of
a pixel; levels are normal with a scatter of 3; noise is white with a scatter of 0.5; the sky is
uniform, 5. A pull is the rms, over images and trials, of error over stated error.
"""
