"""Roman: levels of twelve simulated images from levelmatch and from romancal's skymatch.

Needs roman_datamodels and romancal (tox -e test-roman has them). Prints for each the rms of the
levels about the true ones, after their mean is taken out, and the time.
"""

import argparse
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import gwcs
import numpy as np
from astropy import coordinates as coord, units as u
from astropy.modeling import models as m
from gwcs import coordinate_frames as cf

SCALE, NOISE, CENTRE = 0.11, 0.05, (150.0, 2.0)


def make_wcs(ra, dec, angle, shape):
    """Return a gwcs about a position."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    transform = (
        m.Shift(-(shape[1] - 1) / 2) & m.Shift(-(shape[0] - 1) / 2)
        | m.AffineTransformation2D(np.array([[-c, s], [s, c]]) * SCALE / 3600)
        | m.Pix2Sky_TAN()
        | m.RotateNative2Celestial(ra, dec, 180)
    )
    detector = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    world = cf.CelestialFrame(name="world", reference_frame=coord.ICRS(), unit=(u.deg, u.deg))
    wcs = gwcs.WCS([(detector, transform), (world, None)])
    wcs.bounding_box = ((-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5))
    wcs.array_shape, wcs.pixel_shape = shape, shape[::-1]
    return wcs


def sky_at(ra, dec, stars):
    """Return a sky with a slope, a nebula and stars."""
    x = (ra - CENTRE[0]) * np.cos(np.radians(CENTRE[1])) * 3600
    y = (dec - CENTRE[1]) * 3600
    sky = 0.4 + 1e-4 * x + 0.2 * np.exp(-((x - 40) ** 2 + (y + 20) ** 2) / (2 * 30**2))
    for star_x, star_y, flux in stars:
        near = (np.abs(x - star_x) < 1) & (np.abs(y - star_y) < 1)
        r2 = (x[near] - star_x) ** 2 + (y[near] - star_y) ** 2
        sky[near] += flux * np.exp(-r2 / (2 * 0.06**2))
    return sky


def write_images(folder, size, seed):
    """Write images of a 4 x 3 mosaic that overlap by a fifth; return paths and true levels."""
    from roman_datamodels import datamodels

    rng = np.random.default_rng(seed)
    stars = rng.uniform((-60, -60, 0), (160, 130, 30), (400, 3))
    levels = rng.normal(0, 0.05, 12)
    paths = []
    for k, level in enumerate(levels):
        step = 0.8 * size * SCALE / 3600
        ra = CENTRE[0] + (k % 4) * step / np.cos(np.radians(CENTRE[1]))
        wcs = make_wcs(ra, CENTRE[1] + (k // 4) * step, rng.uniform(-3, 3), (size, size))
        y, x = np.indices((size, size))
        model = datamodels.ImageModel.create_fake_data(shape=(size, size))
        model.data = (sky_at(*wcs(x, y), stars) + level).astype("f4")
        model.data += rng.normal(0, NOISE, (size, size)).astype("f4")
        model.err = np.full((size, size), NOISE, "f2")
        model.dq = (rng.random((size, size)) < 0.01).astype("u4")
        model.data[model.dq > 0] += 100
        model.meta.wcs = wcs
        model.meta.observation.observation_id = f"{k}"
        path = folder / f"r0000101001001001001_{k + 1:04d}_wfi01_f158_cal.asdf"
        model.meta.filename = path.name
        model.save(path)
        paths.append(path)
    return paths, levels


def by_levelmatch(paths):
    """Return the levels from levelmatch."""
    from levelmatch import match_levels

    table = match_levels(paths, group_by="FILENAME").table
    return table["level"].value


def by_romancal(paths):
    """Return the levels from romancal."""
    import roman_datamodels
    from romancal.datamodels import ModelLibrary
    from romancal.skymatch import SkyMatchStep

    step = SkyMatchStep()
    models = [roman_datamodels.open(path) for path in paths]
    for model in models:
        model.meta["cal_step"] = {"skymatch": "INCOMPLETE"}
    library = step.run(ModelLibrary(models))
    levels = []
    with library:
        for k, model in enumerate(library):
            levels.append(model.meta.background.level)
            library.shelve(model, k, modify=False)
    return np.array(levels)


def main():
    """Print a line for each program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:
        paths, levels = write_images(Path(folder), given.size, given.seed)
        for name, function in (("levelmatch", by_levelmatch), ("romancal", by_romancal)):
            start = time.process_time()
            error = function(paths) - levels
            taken = time.process_time() - start
            print(f"{name:12s} rms {np.std(error):.5f} DN/s   {taken:.2f} s")


if __name__ == "__main__":
    main()
