"""Medians of the differences of real images before and after matching, from reproject.

Run as ``python benchmarks/tiles.py FOLDER``, with a folder of eleven 2MASS images. The medians are
independent of the package: one image of each pair is reprojected onto the other.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from reproject import reproject_interp

import levelmatch


def read(paths):
    """Return data and WCS of each file."""
    images = {}
    for path in paths:
        with fits.open(path) as hdus:
            hdu = next(h for h in hdus if h.is_image and h.shape)
            images[path.name] = hdu.data.astype(float), WCS(hdu.header)
    return images


def scan(name):
    """Return the scan of an image from its name: the night and the leading digits."""
    return name.rsplit("-j", 1)[0], name.rsplit("-j", 1)[1][:5]


def report(images, result):
    """Print the medians and, for pairs of one scan, the error of their constant difference."""
    corrections = {f.name: f.correction.evaluate(f.whole_grid) for f in result.frames}
    before, after, shared = [], [], []
    for row in result.pairs:
        a, b = str(row["image1"]), str(row["image2"])
        (first, wcs), (second, other) = images[a], images[b]
        shape = first.shape
        there = reproject_interp((second, other), wcs, shape_out=shape, return_footprint=False)
        difference = first - there
        correction = np.broadcast_to(corrections[b], second.shape).astype(float)
        moved = reproject_interp((correction, other), wcs, shape_out=shape, return_footprint=False)
        before.append(np.nanmedian(difference))
        after.append(np.nanmedian(difference - corrections[a] + moved))
        if scan(a) == scan(b):
            shared.append(
                f"  {a[11:29]} {b[11:29]} level {row['level'].value:+.6f} +- "
                f"{row['sigma'].value:.1e}, scatter {row['scatter'].value:.4f}, "
                f"after matching {after[-1]:+.4f}"
            )
    print(
        f"  rms of {len(before)} medians: {np.sqrt(np.nanmean(np.square(before))):.2f} before, "
        f"{np.sqrt(np.nanmean(np.square(after))):.4f} after"
    )
    print("  pairs of one scan, which share frames:", *shared, sep="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    paths = sorted(args.folder.glob("*.fits.fz"))
    images = read(paths)
    for fit_type in ("level", "level+slope"):
        for weights in ("ivar", "equal", "npix", "rms"):
            print(f"{fit_type}, weights {weights}")
            result = levelmatch.match_levels(
                paths,
                fit_type_mosaic_tiles=fit_type,
                solve=levelmatch.SolveOptions(weights=weights),
            )
            report(images, result)


if __name__ == "__main__":
    main()
