# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Trials of pixels: PSFs, stripes, astrometry, flats, rounding, scales, cosmic rays."""

import numpy as np

import levelmatch as lm
from realnoise import scores, sky

INF = np.inf


def levels_of(rng, n):
    """Return the true levels of images."""
    return rng.normal(0, 3, n)


def match(rng, layout, pictures, *, sources=(), background=5.0, step=None, **options):
    """Render images, and match them as ``"dithers"`` or as a ``"mosaic"``."""
    images = [
        sky.make_image(rng, p, f"{k:03d}.fits", sources, background, step)
        for k, p in enumerate(pictures)
    ]
    function = scores.match_dithers if layout == "dithers" else scores.match_mosaic
    return function(images, [p.level for p in pictures], **options)


def grids_of(rng, layout, **options):
    """Return the grids of 6 dithers, or of a 3 x 3 mosaic."""
    return (sky.dithers if layout == "dithers" else sky.mosaic)(rng, **options)


def simple(rng, layout, change, *, sources=None, background=5.0, **options):
    """Match a set; ``change(k, grid)`` returns additional options of each `sky.Picture`."""
    grids = grids_of(rng, layout)
    drawn = () if sources is None else sources(grids)
    levels = levels_of(rng, len(grids))
    pictures = [
        sky.Picture(g, level, **change(k, g))
        for k, (g, level) in enumerate(zip(grids, levels, strict=True))
    ]
    return match(rng, layout, pictures, sources=drawn, background=background, **options)


def white(rng):
    """White noise on a flat sky; the mosaic is also matched with planes."""
    out = {}
    for layout in ("dithers", "mosaic"):
        grids = grids_of(rng, layout)
        levels = levels_of(rng, len(grids))
        pictures = [sky.Picture(*p) for p in zip(grids, levels, strict=True)]
        found = match(rng, layout, pictures)
        out[layout] = found.pulls
        out[f"{layout}, error over the bound"] = found.errors / scores.noise_bound(grids, 0.5)
    planes = match(rng, "mosaic", pictures, fit_type="level+slope")
    out["planes, levels"], out["planes, slopes"] = scores.plane_pulls(planes, grids)
    out["warned of a pattern"] = [found.warned, planes.warned]
    return out


def psf(rng, *, density, widths):
    """Stars of equal flux through two alternating PSFs."""
    out = {}
    for layout in ("dithers", "mosaic"):
        found = simple(
            rng,
            layout,
            lambda k, g: {"fwhm": widths[k % 2]},
            sources=lambda grids: [sky.Stars.draw(rng, grids, density)],
        )
        n = len(found.true)
        broad = np.arange(n) % 2 == 1
        weights = np.where(broad, 1 / broad.sum(), -1 / (~broad).sum())
        out[f"{layout}, bias over stated"] = found.contrast(weights)
        out[layout] = found.pulls
    return out


def stripes(rng):
    """Independent row offsets in each image, as large as the noise."""
    out = {}
    for layout in ("dithers", "mosaic"):
        found = simple(rng, layout, lambda k, g: {"extra": sky.stripes(rng, g.shape)})
        out[layout] = found.pulls
    out["mosaic warned of a pattern"] = found.warned
    return out


def striped_planes(rng, *, columns):
    """Planes fitted to images with row offsets, and column offsets, as large as the noise.

    Six dithers, and 6 x 6 images. Slopes are those across the stripes.
    """

    def change(_, grid):
        extra = sky.stripes(rng, grid.shape)
        return {"extra": extra + (sky.stripes(rng, grid.shape, axis=1) if columns else 0.0)}

    out = {}
    for layout, sizes in (("dithers", ()), ("mosaic", (6, 6))):
        grids = sky.dithers(rng) if layout == "dithers" else sky.mosaic(rng, *sizes)
        levels = levels_of(rng, len(grids))
        pictures = [
            sky.Picture(g, v, **change(k, g))
            for k, (g, v) in enumerate(zip(grids, levels, strict=True))
        ]
        found = match(rng, layout, pictures, fit_type="level+slope")
        pulls, slopes = scores.plane_pulls(found, grids)
        out[f"{layout}, levels"] = pulls
        out[f"{layout}, slopes"] = slopes if columns else slopes[:, 1]
    return out


def rows_and_columns(rng):
    """Independent row and column offsets in each image, both as large as the noise."""

    def change(_, grid):
        return {"extra": sky.stripes(rng, grid.shape) + sky.stripes(rng, grid.shape, axis=1)}

    return {"dithers": simple(rng, "dithers", change).pulls}


def correlated(rng):
    """Noise of the same scatter, smoothed by a Gaussian with a sigma of 2 pixels."""
    return {"dithers": simple(rng, "dithers", lambda k, g: {"correlation": 2.0}).pulls}


def misplaced(rng):
    """Astrometry of each image off by 0.3 pixel in a random direction."""

    def change(*_):
        angle = rng.uniform(0, 2 * np.pi)
        return {"offset": (0.3 * np.cos(angle), 0.3 * np.sin(angle))}

    drawn = {
        "stars": lambda g: [sky.Stars.draw(rng, g, 3e-3)],
        "cluster": lambda g: [sky.Stars.cluster(rng, g)],
        "nebula": lambda g: [sky.Nebula.draw(rng, g)],
    }
    return {
        label: simple(rng, "dithers", change, sources=sources).pulls
        for label, sources in drawn.items()
    }


def flat_errors(rng):
    """A flat field with errors of 1 % at low frequency, equal in all images, on a sky of 20."""
    out = {}
    for layout in ("dithers", "mosaic"):
        pattern = sky.smooth_pattern(rng, sky.Grid((0, 0)), 0.01)
        found = simple(rng, layout, lambda k, g, p=pattern: {"flat": 1 + p}, background=20.0)
        out[layout] = found.pulls
        out[f"{layout}: warned"] = found.warned
    return out


def bowls(rng):
    """A bowl of zero mean in each image, with random depths of scatter 0.5."""
    found = simple(rng, "mosaic", lambda k, g: {"extra": sky.bowl(g, rng.normal(0, 0.5))})
    return {"mosaic": found.pulls, "mosaic: warned": found.warned}


def gradients(rng):
    """A gradient of zero mean in each image, with rises of scatter 0.5 along each axis."""
    out = {}
    for layout in ("dithers", "mosaic"):
        found = simple(rng, layout, lambda k, g: {"extra": sky.gradient(g, rng.normal(0, 0.5, 2))})
        out[layout] = found.pulls
    return out


def rounded(rng):
    """Data rounded to steps of 1, with noise of 0.1, 0.2 and 0.3."""
    out = {}
    for noise in (0.1, 0.2, 0.3):
        label = f"noise {noise}"
        try:
            found = simple(rng, "dithers", lambda k, g, n=noise: {"noise": n}, step=1.0)
        except (lm.LevelMatchError, ValueError):
            out[f"{label}: refused"] = 1.0
        else:
            # An image of one value is not compared, and a warning names it.
            refused = any("all pixels have one value" in m for m in found.messages)
            out[f"{label}: refused"] = float(refused)
            if not refused:
                out[label] = found.pulls
    return out


def rounded_stars(rng):
    """Stars in data rounded to steps of 1, with noise of 0.1, 0.2 and 0.3."""
    out = {}
    for noise in (0.1, 0.2, 0.3):
        for density in (3e-3, 1e-2):
            found = simple(
                rng,
                "dithers",
                lambda k, g, n=noise: {"noise": n},
                sources=lambda grids, d=density: [sky.Stars.draw(rng, grids, d)],
                step=1.0,
            )
            out[f"noise {noise}, {density:g} stars a pixel"] = found.pulls
    return out


def scales(rng):
    """Every second image with coarser pixels of the same noise, on a flat sky and on stars."""
    out = {}
    for ratio in (1.5, 3.0):
        grids = sky.dithers(rng, scales=(1.0, ratio))
        pictures = [sky.Picture(g, v) for g, v in zip(grids, levels_of(rng, 6), strict=True)]
        stars = sky.Stars.draw(rng, grids, 3e-3)
        out[f"1 : {ratio:g}"] = match(rng, "dithers", pictures).pulls
        out[f"1 : {ratio:g}, stars"] = match(rng, "dithers", pictures, sources=[stars]).pulls
    return out


def depths(rng):
    """Six dithers, of which every second has a third of the exposure time."""
    grids = sky.dithers(rng)
    pictures = [
        sky.Picture(g, v, noise=0.5 * (1, np.sqrt(3))[k % 2])
        for k, (g, v) in enumerate(zip(grids, levels_of(rng, 6), strict=True))
    ]
    found = match(rng, "dithers", pictures)
    out = {}
    for label, members in (("deep-deep", (0, 2, 4)), ("shallow-shallow", (1, 3, 5))):
        seams = []
        for i, j in ((0, 1), (0, 2), (1, 2)):
            error, stated = found.contrast(np.eye(6)[members[i]] - np.eye(6)[members[j]])
            seams.append(error / stated)
        out[label] = seams
    return out


def cosmic_rays(rng):
    """Unflagged cosmic rays on 1 % of the pixels of every second image."""
    out = {}
    for layout in ("dithers", "mosaic"):
        found = simple(
            rng,
            layout,
            lambda k, g: {"extra": sky.cosmic_rays(rng, g.shape, 0.01) if k % 2 else 0.0},
        )
        struck = np.arange(len(found.true)) % 2 == 1
        weights = np.where(struck, 1 / struck.sum(), -1 / (~struck).sum())
        out[f"{layout}, bias over stated"] = found.contrast(weights)
        out[layout] = found.pulls
    return out


def sources(rng):
    """Stars and emission with the same PSF in all images."""
    out, warned = {}, []
    for layout in ("dithers", "mosaic"):
        grids = grids_of(rng, layout)
        drawn = [sky.Stars.draw(rng, grids, 3e-3), sky.Nebula.draw(rng, grids)]
        levels = levels_of(rng, len(grids))
        pictures = [sky.Picture(*p) for p in zip(grids, levels, strict=True)]
        found = match(rng, layout, pictures, sources=drawn)
        warned.append(found.warned)
        out[layout] = found.pulls
        out[f"{layout}, error over the bound"] = found.errors / scores.noise_bound(grids, 0.5)
    out["warned of a pattern"] = warned
    return out


def spoilt(rng):
    """Dithers of stars, with bad pixels and changing sources in every second image.

    Faint and bright cosmic rays on 0.1 %; hot pixels of 10 to 1000 on 0.1 % of the detector, in
    all images; stars that vary by 20 %; a moving source of flux 1e4; stars that saturate at 300.
    """
    grids = sky.dithers(rng)
    bound = scores.noise_bound(grids, 0.5)
    stars = sky.Stars.draw(rng, grids, 1e-3, brightest=4e5)
    levels = levels_of(rng, len(grids))
    hot = sky.cosmic_rays(rng, grids[0].shape, 1e-3, 10.0, 1000.0)
    out = {}
    for label, extra in {
        "cosmic rays of 0.1 %": lambda k, g: k % 2 * sky.cosmic_rays(rng, g.shape, 1e-3),
        "hot pixels": lambda k, g: hot,
        "variable stars": lambda k, g: k % 2 * 0.2 * stars.varied(rng).render(g, 2.0),
        "moving source": lambda k, g: sky.Stars.moving(k, 1e4).render(g, 2.0),
        "saturated stars": lambda k, g: -np.maximum(stars.render(g, 2.0) - 300, 0) * (k % 2),
    }.items():
        pictures = [
            sky.Picture(g, v, extra=extra(k, g))
            for k, (g, v) in enumerate(zip(grids, levels, strict=True))
        ]
        found = match(rng, "dithers", pictures, sources=[stars])
        out[f"{label}, error over the bound"] = found.errors / bound
        out[label] = found.pulls
    return out
