# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Make the picture of the README: a simulated mosaic before and after matching.

Run as ``python docs/make_readme_picture.py``; it needs matplotlib and takes half a minute.
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from levelmatch import match_levels
from levelmatch.plots import quick_look
from levelmatch.testing import simulate_miri

PICTURE = Path(__file__).parent / "_static" / "before_after.png"


def make_mosaics():
    """Return the mosaic before and after matching, NaN where there is none."""
    simulated = simulate_miri(
        tiles=(2, 3),
        n_dithers=2,
        shape=(256, 258),
        offset_rms=5.0,
        star_density=300,
        pa=355.0,
        seed=3,
    )
    look = quick_look(match_levels(list(simulated.images)))
    return [look.before, look.after]


def crop(mosaics):
    """Return the mosaics without their empty margins."""
    good = np.isfinite(mosaics[0])
    rows, columns = np.flatnonzero(good.any(axis=1)), np.flatnonzero(good.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return [mosaic[box] for mosaic in mosaics]


def draw(mosaics):
    """Return the figure: two panels with one stretch, each about its own median."""
    mosaics = [mosaic - np.nanmedian(mosaic) for mosaic in crop(mosaics)]
    low, high = np.nanpercentile(mosaics[1], [0.5, 96])
    margin = 0.2 * (high - low)
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.9), layout="constrained")
    cmap = plt.get_cmap("magma").with_extremes(bad="white")
    for ax, mosaic, title in zip(axes, mosaics, ("Before", "After"), strict=True):
        picture = ax.imshow(
            mosaic,
            origin="lower",
            cmap=cmap,
            vmin=low - margin,
            vmax=high + margin,
            interpolation="antialiased",
        )
        ax.set_title(title, fontsize=14)
        ax.set_axis_off()
    figure.colorbar(
        picture, ax=axes, label="Surface brightness less its median (MJy/sr)", shrink=0.85, pad=0.02
    )
    return figure


def main():
    """Make the picture."""
    PICTURE.parent.mkdir(exist_ok=True)
    draw(make_mosaics()).savefig(PICTURE, dpi=100)
    # A palette makes the file half of the size.
    Image.open(PICTURE).convert("RGB").quantize(256).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
