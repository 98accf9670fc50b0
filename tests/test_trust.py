# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of columns and the gauge, symmetry, long chains and spoilt images."""

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.wcs import WCS
from helpers import DARK
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.testing import level_errors, simulate_generic


def matched(images, **options):
    return lm.match_mosaic(images, group_by="FILENAME", **{"reference": "mean", **options})


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_columns_say_what_the_gauge_does(fit_type):
    simulation = simulate_generic(shape=(64, 64), overlap=0.4, noise=0.3, seed=3)
    images = list(simulation.images)
    mean = matched(images, fit_type=fit_type)
    held = matched(images, fit_type=fit_type, reference=4)
    for attribute in ("table", "pairs", "closures"):
        one, other = getattr(mean, attribute), getattr(held, attribute)
        for name in one.colnames:
            words = one[name].info.description or ""
            if "does not depend on the gauge" in words:
                values = (np.asarray(t[name], dtype=float) for t in (one, other))
                assert_allclose(*values, rtol=1e-6, atol=1e-9, err_msg=name)
            if one[name].dtype.kind == "f" and name not in ("ra", "dec"):
                assert "gauge" in words, name
    for name in ("level", "error"):
        assert "relative to the gauge" in mean.table[name].info.description
        assert not np.allclose(mean.table[name].value, held.table[name].value)
    assert "pass mosaic" in mean.table["level_mosaic"].info.description


def chain(n, *, size=24, step=16):
    """Return images of a noisy sky along a line, in which neighbours overlap, and levels."""
    rng = np.random.default_rng(n)
    sky = rng.normal(10, 1, (size, size + step * (n - 1)))
    # Multiples of 1/64 add up without rounding errors.
    levels = rng.integers(-500, 500, n) / 64
    images = []
    for k, level in enumerate(levels):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---CAR", "DEC--CAR"
        wcs.wcs.crval = 30.0, 0.0
        wcs.wcs.crpix = 1.0 - step * k + step * n / 2, size / 2
        wcs.wcs.cdelt = -0.5 / 3600, 0.5 / 3600
        data = sky[:, step * k : step * k + size] + level
        meta = {"FILENAME": f"{(k * 7919) % 1000:03d}-{k}.fits"}
        images.append(CCDData(data, unit="MJy/sr", wcs=wcs, meta=meta))
    return images, levels


def test_a_chain_of_500_images_from_its_pixels():
    images, levels = chain(500)
    result = matched(images, reference=0)
    assert len(result.pairs) == 499
    assert_allclose(result.table["level"].value, levels - levels[0], atol=1e-9)
    found = dict(zip(result.table["name"], result.table["level"].value, strict=True))
    order = np.random.default_rng(0).permutation(500)
    for again in (images, [images[i] for i in order]):
        table = matched(again, reference=images[0].meta["FILENAME"]).table
        assert_array_equal([found[name] for name in table["name"]], table["level"].value)


def errors_of(result, simulation, without=()):
    table = result.table
    found = dict(zip(table["name"], table["level"].value, strict=True))
    errors = np.asarray(level_errors(found, simulation.truth))
    errors = errors[[k for k in range(len(errors)) if k not in without]]
    return np.std(errors)


def test_one_image_with_a_gradient_spoils_little_of_the_others():
    clean, spoilt = [], []
    for seed in range(8):
        simulation = simulate_generic(
            n_images=16, shape=(96, 96), overlap=0.6, noise=0.5, seed=seed, **DARK
        )
        images = list(simulation.images)
        clean.append(errors_of(matched(images), simulation, [5]))
        images[5].data += (0.02 * np.arange(96)).astype("f4")
        spoilt.append(errors_of(matched(images), simulation, [5]))
    rms = [np.sqrt(np.mean(np.square(errors))) for errors in (clean, spoilt)]
    assert rms[1] < 1.2 * rms[0]


def test_a_mask_of_one_image_is_the_pairs():
    images, _ = chain(2, size=96, step=32)
    y, x = np.mgrid[:96, :96]
    # The same position on the sky, in the pixels of each image.
    masks = [np.hypot(y - 40, x - 60 + 32 * k) < 12 for k in range(2)]
    tables = []
    for masked in ((0,), (1,), (0, 1)):
        own = [image.copy() for image in images]
        for k in masked:
            own[k].mask = masks[k]
            own[k].data[masks[k]] = 1e6
        tables.append(matched(own).pairs)
    everything = matched(images).pairs
    for table in tables:
        for name in ("npix", "level", "sigma", "scatter"):
            assert_array_equal(table[name], tables[0][name])
    assert tables[0]["npix"][0] < everything["npix"][0] - masks[0].sum() / 2
