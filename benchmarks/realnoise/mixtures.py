# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Trials of mixtures: each set has some of the other rows' effects, with random strengths.

Errors of the flat field and of the images' flux scales are not among them: what these add to a
level depends on the brightness of the sky, and overlaps need not show it.
"""

import numpy as np

from realnoise import pixels, scores, sky

# Probability of each effect, and the range of its strength, which is drawn evenly in its logarithm.
EFFECTS = {
    # Stars per pixel, and the peak of the brightest nebula.
    "stars": (0.7, 3e-4, 2e-2),
    "nebula": (0.4, 1.0, 100.0),
    # Fractional scatter of the PSF's width, and errors of astrometry in pixels.
    "seeing": (0.4, 0.01, 0.1),
    "astrometry": (0.3, 0.02, 0.3),
    # Of the noise: its correlation in pixels, and the largest ratio of the images' scatter.
    "correlation": (0.3, 0.4, 1.5),
    "depths": (0.4, 1.2, 4.0),
    # Rms offsets of rows and columns.
    "rows": (0.3, 0.02, 0.5),
    "columns": (0.2, 0.02, 0.5),
    # Rms rise, from edge to edge, of the images' own gradients.
    "gradients": (0.2, 0.05, 1.0),
    # Fractions of unflagged cosmic rays and of masked pixels.
    "cosmic rays": (0.4, 1e-4, 1e-2),
    "masked": (0.3, 0.01, 0.4),
}


def mixtures(rng):
    """Random dithers and mosaics with random effects; warned sets have no pulls."""
    out = {}
    for label, planes in (("dithers", False), ("mosaic", False), ("mosaic, planes", True)):
        layout = label.split(",")[0]
        grids = _grids(rng, layout)
        found, slopes = _match(rng, layout, grids, planes=planes)
        out[f"{label}, warned"] = float(bool(found.messages))
        if not found.messages:
            out[label] = scores.plane_pulls(found, grids, slopes)[0] if planes else found.pulls
    return out


def _grids(rng, layout):
    """Return the grids of 3 to 8 dithers, or of 2 x 2 to 4 x 4 images that overlap by 7 to 30 %."""
    size = int(rng.choice([120, 200, 300]))
    if layout == "dithers":
        return sky.dithers(rng, rng.integers(3, 9), size=size, spread=rng.uniform(5, 60))
    return sky.mosaic(rng, *rng.integers(2, 5, 2), size=size, step=size * rng.uniform(0.7, 0.93))


def _match(rng, layout, grids, *, planes):
    """Return the match of a set, and the true slopes of its images, see `scores.plane_pulls`."""
    drawn = {
        name: (rng.random() < p, np.exp(rng.uniform(*np.log(ends))))
        for name, (p, *ends) in EFFECTS.items()
    }
    effects = {name: strength if there else 0.0 for name, (there, strength) in drawn.items()}
    sources = []
    if effects["stars"]:
        sources.append(sky.Stars.draw(rng, grids, effects["stars"]))
    if effects["nebula"]:
        sources.append(sky.Nebula.draw(rng, grids, peak=effects["nebula"]))
    fwhm = rng.uniform(1.2, 3.5)
    rises = effects["gradients"] * rng.standard_normal((len(grids), 2))
    pictures = [
        _picture(rng, grid, level, rise, fwhm=fwhm, effects=effects)
        for grid, level, rise in zip(grids, pixels.levels_of(rng, len(grids)), rises, strict=True)
    ]
    found = pixels.match(
        rng,
        layout,
        pictures,
        sources=sources,
        background=rng.choice([0.0, 5.0, 50.0]),
        fit_type="level+slope" if planes else "level",
    )
    extents = [np.subtract(grid.shape, 1) * grid.scale / 60 for grid in grids]
    return found, (rises / extents)[:, ::-1]


def _picture(rng, grid, level, rise, *, fwhm, effects):
    """Return one image of a set."""
    extra = (
        sky.stripes(rng, grid.shape, effects["rows"])
        + sky.stripes(rng, grid.shape, effects["columns"], axis=1)
        + sky.cosmic_rays(rng, grid.shape, effects["cosmic rays"])
        + sky.gradient(grid, rise)
    )
    angle = rng.uniform(0, 2 * np.pi)
    return sky.Picture(
        grid,
        level,
        noise=0.5 * rng.uniform(1, max(1.0, effects["depths"])),
        fwhm=fwhm * max(0.5, 1 + effects["seeing"] * rng.standard_normal()),
        offset=tuple(effects["astrometry"] * np.array([np.cos(angle), np.sin(angle)])),
        extra=extra,
        mask=rng.random(grid.shape) < effects["masked"],
        correlation=effects["correlation"],
    )
