# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the plots: content, units, and unusual names."""

import io
import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from helpers import DARK

from levelmatch import (
    FrameError,
    LevelMatchError,
    LevelMatchWarning,
    MeasureOptions,
    ReadOptions,
    SolveOptions,
    match_levels,
    match_mosaic,
)
from levelmatch.testing import simulate_generic, simulate_miri

figures = pytest.importorskip("matplotlib.figure")
plots = pytest.importorskip("levelmatch.plots")

HOSTILE = ("$x^", "a\nb" * 40, r"\frac{$", "\u6c34\u202e", "very_long_" * 30)


@pytest.fixture
def figure():
    """Return a figure of one column of a journal."""
    return new_figure(3.5, 3)


def new_figure(width=5, height=4):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    new = figures.Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(new)
    return new


@pytest.fixture
def ax(figure):
    return figure.add_subplot()


def draw(ax):
    """Draw a figure, so that errors of drawing appear."""
    ax.figure.savefig(io.BytesIO(), format="png")


def boxes(artists, renderer):
    return [a.get_window_extent(renderer) for a in artists if a.get_text() and a.get_visible()]


def overlap(boxes):
    """Return whether any two boxes share more than a small fraction."""
    return any(
        min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
        for k, a in enumerate(boxes)
        for b in boxes[:k]
    )


def test_names_are_in_order():
    assert plots.__all__ == sorted(plots.__all__, key=lambda n: (n[0].islower(), n))
    assert all(getattr(plots, name).__doc__ for name in plots.__all__)


DRAWS = {
    "levels": plots.plot_levels,
    "overlaps": plots.plot_overlaps,
    "residuals": plots.plot_residuals,
    "closures": plots.plot_closures,
}


def test_each_plot_has_a_figure_of_its_own(square):
    from matplotlib import pyplot as plt

    drawn = [draws(square) for draws in DRAWS.values()]
    assert len({ax.figure for ax in drawn}) == len(drawn) == len(plt.get_fignums())
    for ax in drawn:
        draw(ax)
        box = ax.get_tightbbox(ax.figure.canvas.get_renderer())
        assert ax.figure.bbox.padded(1).contains(box.x0, box.y0)
        assert ax.figure.bbox.padded(1).contains(box.x1, box.y1)
    plt.close("all")


@pytest.mark.parametrize("kind", DRAWS)
def test_without_matplotlib(kind, square, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "levelmatch\[plot\]"'):
        DRAWS[kind](square)


# Levels


def test_levels(result, ax):
    assert plots.plot_levels(result, ax) is ax
    draw(ax)
    before, after = (container.lines[0].get_ydata() for container in ax.containers)
    assert before == pytest.approx(result.table["level"].value)
    assert np.abs(after).max() < 1e-9
    bars = ax.containers[0].lines[2][0].get_segments()
    assert [np.ptp(b[:, 1]) for b in bars] == pytest.approx(2 * result.table["error"].value)
    assert ax.get_ylabel() == "Level subtracted (MJy/sr)"
    (star,) = (line for line in ax.lines if line.get_label() == "reference")
    assert star.get_xdata() == np.flatnonzero(result.table["reference"])
    assert star.get_ydata() == [0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["00000", "00001", "00002", "00003"]
    assert ax.get_xlabel() == "Image (image_*.fits)"


def test_levels_after_are_what_is_left_of_pairs(square, ax):
    plots.plot_levels(square, ax)
    after = ax.containers[1].lines[0].get_ydata()
    pairs = square.pairs[square.pairs["kept"]]
    for frame, found in zip(square.frames, after, strict=True):
        rest = [p["residual"].value for p in pairs if p["image1"] == frame.name]
        rest += [-p["residual"].value for p in pairs if p["image2"] == frame.name]
        assert found == pytest.approx(np.mean(rest))


def test_a_dollar_in_a_name_is_no_formula(simulated, ax):
    images = list(simulated.images)
    for k, image in enumerate(images):
        image.meta["FILENAME"] = rf"$\no{k}$_{k}_$\frac$.fits"
    draw(plots.plot_levels(match_levels(images), ax))
    assert ax.get_xticklabels()[0].get_text() == r"$\no0$_0"


def test_levels_of_sets_are_apart(simulated, ax):
    images = simulated.images
    with pytest.warns(UserWarning, match="pass mosaic"):
        # The first image overlaps no other image.
        found = match_levels([images[k] for k in (3, 0, 1)])
    plots.plot_levels(found, ax)
    draw(ax)
    assert [t.get_text() for t in ax.texts] == ["set 1", "set 2"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["00000", "00001", "00003"]
    level = found.table["level"].value[[1, 2, 0]]
    assert ax.containers[0].lines[0].get_ydata() == pytest.approx(level)


def test_what_is_left_is_seen_beside_far_larger_levels(ax):
    images = list(simulate_generic(n_images=4, shape=(64, 64), seed=3).images)
    images[0].data += 1000
    plots.plot_levels(match_levels(images), ax)
    draw(ax)
    assert ax.get_yscale() == "symlog"
    after = ax.containers[1].lines[2][0].get_segments()
    tall = [
        np.ptp(ax.transAxes.inverted().transform(ax.transData.transform(b))[:, 1]) for b in after
    ]
    assert max(tall) > 0.02


@pytest.mark.parametrize("kind", ["levels", "residuals"])
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ([f"a{'x' * 40}_b{k}b_{'y' * 40}.fits" for k in range(4)], ["b0b", "b1b", "b2b", "b3b"]),
        (
            [f"a{k}b{'_cd' * (8 + k)}.fits" for k in range(4)],
            [f"a{k}b{'_cd' * k}" for k in range(4)],
        ),
        # No shortened part distinguishes them.
        ([f"{k % 2}{'x' * 30}{k}{'y' * 30}{k % 2}" for k in range(4)], list("0123")),
    ],
)
def test_labels_differ(kind, names, labels, simulated, ax):
    images = list(simulated.images)
    for name, image in zip(names, images, strict=True):
        image.meta["FILENAME"] = name
    DRAWS[kind](match_levels(images), ax=ax)
    found = [t.get_text() for t in ax.get_xticklabels()]
    assert len(set(found)) == 4
    assert found == labels


def test_levels_in_the_common_unit(simulated, ax):
    images = list(simulated.images)
    images[2].data = images[2].data / 1000
    images[2].unit = u.GJy / u.sr
    same = match_levels(list(simulated.images), reference=0)
    mixed = match_levels(images, reference=0)
    assert mixed.table["level"][2] != same.table["level"][2].value
    plots.plot_levels(mixed, ax)
    assert ax.containers[0].lines[0].get_ydata() == pytest.approx(
        same.table["level"].value, abs=0.05
    )


# The sky


def test_overlaps_on_plain_axes(split, ax):
    assert plots.plot_overlaps(split, ax) is ax
    draw(ax)
    first, second, links = ax.collections
    assert [len(c.get_paths()) for c in (first, second, links)] == [2, 1, 1]
    assert not np.array_equal(first.get_edgecolor(), second.get_edgecolor())
    assert links.get_array() == pytest.approx(np.nan_to_num(split.pairs["n_sigma"]))
    # East is left.
    assert ax.xaxis.get_inverted()
    assert ax.get_xlabel().endswith("(arcsec)")
    assert links.colorbar.ax.get_xlabel() == "|Residual| / \u03c3"
    assert links.get_linewidths() == pytest.approx(1.0 + 0.4 * links.get_array())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "set 1: 2 images",
        "set 2: 1 image",
        "reference",
    ]


@pytest.mark.parametrize("centre", [(150.1, 2.2), (0.0, -30.0), (10.0, 89.9)])
def test_overlaps_on_the_sky(centre, figure):
    sim = simulate_generic(n_images=4, shape=(32, 32), center=centre, seed=1)
    found = match_levels(list(sim.images))
    ax = figure.add_subplot(projection=plots.sky_wcs(found))
    assert plots.plot_overlaps(found, ax) is ax
    draw(ax)
    # The centres of the images are at their positions in the axes.
    (points,) = (line for line in ax.lines if line.get_marker() == "o")
    sky = ax.wcs.pixel_to_world(*points.get_data())
    truth = SkyCoord(sim.truth["ra"], sim.truth["dec"])
    # They agree to a fifth of a pixel.
    assert sky.separation(truth).arcsec.max() < 0.1
    assert [axis.get_axislabel() for axis in ax.coords] == ["RA (ICRS)", "Dec (ICRS)"]


def test_a_southern_map_has_a_proper_minus(ax):
    sim = simulate_generic(n_images=2, shape=(32, 32), center=(10.0, -30.0), seed=1)
    plots.plot_overlaps(match_levels(list(sim.images)), ax)
    assert ax.get_ylabel().startswith("North of Dec \u221230.")


def test_overlaps_in_galactic_coordinates(result, figure):
    from astropy.wcs import WCS

    where = SkyCoord(150.1, 2.2, unit="deg").galactic
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "GLON-TAN", "GLAT-TAN"
    wcs.wcs.crval = where.l.deg, where.b.deg
    wcs.wcs.cdelt = -1e-4, 1e-4
    ax = plots.plot_overlaps(result, figure.add_subplot(projection=wcs))
    draw(ax)
    (points,) = (line for line in ax.lines if line.get_marker() == "o")
    sky = ax.wcs.pixel_to_world(*points.get_data()).icrs
    assert sky.separation(SkyCoord(150.1, 2.2, unit="deg")).arcmin.max() < 2


def test_new_axes_know_the_sky(result):
    from matplotlib import pyplot as plt

    for ax in (plots.plot_overlaps(result), plots.plot_mosaic(result)):
        assert [axis.get_axislabel() for axis in ax.coords] == ["RA (ICRS)", "Dec (ICRS)"]
    plt.close("all")


def test_pairs_left_out_are_dashed(ax):
    images = list(simulate_generic(n_images=4, shape=(64, 64), seed=3).images)
    found = match_levels(images, solve=SolveOptions(min_linear=0.3))
    plots.plot_overlaps(found, ax)
    _, links, dashed = ax.collections
    assert dashed.get_label() == "rejected pair"
    # The diagonals of the square.
    assert len(dashed.get_paths()) == 2
    assert len(links.get_paths()) == 4


# Pairs


def test_residuals_as_a_matrix(square, ax):
    assert plots.plot_residuals(square, ax=ax) is ax
    draw(ax)
    matrix = np.ma.filled(ax.images[0].get_array(), np.nan)
    names = [frame.name for frame in square.frames]
    for pair in square.pairs:
        i, j = names.index(pair["image1"]), names.index(pair["image2"])
        # Differences (row minus column) are below the diagonal, residuals above it.
        assert i < j
        assert matrix[j, i] == pytest.approx(-pair["level"].value)
        assert matrix[i, j] == pytest.approx(pair["residual"].value)
    assert np.isnan(np.diagonal(matrix)).all()
    bar = ax.images[0].colorbar
    assert "MJy/sr" in bar.ax.get_ylabel()
    # A missing pair differs from a pair with zero residual.
    missing, nothing = (ax.images[0].to_rgba(x)[:3] for x in (np.nan, 0.0))
    assert np.abs(np.subtract(missing, nothing)).min() > 0.2
    # No text is written on the cells.
    assert not ax.texts


def test_residuals_do_not_depend_on_the_order(square):
    images = list(simulate_generic(n_images=4, shape=(64, 64), seed=3).images)
    turned = match_levels(images[::-1], reference=3)
    same = match_levels(images, reference=0)
    matrices = []
    for found in (same, turned):
        ax = new_figure().add_subplot()
        plots.plot_residuals(found, ax=ax)
        matrices.append(np.ma.filled(ax.images[0].get_array(), np.nan))
    # Rows and columns are exchanged together, so that differences stay below the diagonal.
    below = np.tril_indices(4, -1)
    assert np.sort(np.abs(matrices[0][below])) == pytest.approx(np.sort(np.abs(matrices[1][below])))


def test_residuals_as_a_list(square, ax):
    plots.plot_residuals(square, kind="list", ax=ax)
    draw(ax)
    before, after = (line.get_ydata() for line in ax.lines[:2])
    assert before == pytest.approx(np.sort(np.abs(square.pairs["level"].value))[::-1])
    assert after == pytest.approx(np.sort(np.abs(square.pairs["residual"].value))[::-1])
    with pytest.raises(ValueError, match="kind: 'heap' is none of"):
        plots.plot_residuals(square, kind="heap", ax=ax)


def test_many_images_make_a_list(ax):
    sim = simulate_generic(n_images=26, shape=(24, 24), layout="chain", seed=1)
    plots.plot_residuals(match_levels(list(sim.images)), ax=ax)
    assert ax.get_yscale() == "log"
    draw(ax)


def test_closures(square, result, ax):
    assert plots.plot_closures(square, ax) is ax
    draw(ax)
    counts = sum(patch.get_height() for patch in ax.patches)
    assert counts == len(square.closures) == 3
    (named,) = ax.texts
    worst = np.abs(square.closures["n_sigma"]).max()
    assert f"{worst:.1f} \u03c3: " in named.get_text()
    assert "00003" in named.get_text()
    # A chain has no closed loop.
    other = new_figure().add_subplot()
    plots.plot_closures(result, other)
    assert other.texts[0].get_text() == "no loop of pairs"


def test_loops_of_tiles_name_the_tiles(ax):
    images = simulate_miri(tiles=(2, 2), n_dithers=2, shape=(96, 97), seed=1).images
    found = match_levels(list(images))
    tiles = {frame.tile for frame in found.frames}
    mosaic = found.closures[found.closures["pass"] == "mosaic"]
    assert len(mosaic) > 1
    for loop in mosaic:
        around = loop["images"].split()
        assert len(around) == loop["n_pairs"]
        assert set(around) <= tiles
    plots.plot_closures(found, ax)
    assert "\u03c3: tiles jw02107001001 \u2013 jw0210700" in ax.texts[0].get_text()


def test_a_pair(simulated, result):
    names = [frame.name for frame in result.frames]
    figure = new_figure(7, 6)
    axs = plots.plot_pair(result, names[1], names[2], axs=figure.subplots(2, 2))
    draw(axs[0])
    (row,) = np.flatnonzero(
        (result.pairs["image1"] == names[1]) & (result.pairs["image2"] == names[2])
    )
    pair = result.pairs[row]
    before, plane, after = (np.ma.filled(axs[k].images[0].get_array(), np.nan) for k in (0, 2, 3))
    level = pair["level"].value
    assert np.nanmean(before) == pytest.approx(level, abs=0.05)
    # One colour range, about the level of each picture.
    low, high = axs[0].images[0].get_clim()
    assert (low + high) / 2 == pytest.approx(level)
    assert np.diff(axs[3].images[0].get_clim()) == pytest.approx(high - low)
    step = result.table["level"][1] - result.table["level"][2]
    # A block may have no good pixel.
    expected = np.where(np.isnan(before), np.nan, step.value)
    assert np.isfinite(expected).mean() > 0.9
    assert before - after == pytest.approx(expected, nan_ok=True)
    assert np.nanmean(plane) == pytest.approx(level, abs=0.05)
    assert all("pixel" in axs[k].get_xlabel() for k in (0, 2, 3))
    assert axs[1].get_xlabel() == "Difference (MJy/sr)"
    words = axs[1].get_legend().get_texts()[-1].get_text()
    found = [float(x.replace("\u2212", "-")) for x in words.split(" \u00b1 ")]
    assert found == pytest.approx([level, pair["sigma"].value], abs=0.51 * pair["sigma"].value)


def test_samples_are_those_that_were_measured():
    from levelmatch.plots.pairs import pair_picture

    sim = simulate_generic(
        n_images=2, shape=(96, 96), layout="chain", overlap=0.6, rotation_rms=3.0, seed=4
    )
    found = match_levels(list(sim.images))
    (pair,) = found.pairs
    for first, second, sign in ((0, 1, 1), (1, 0, -1)):
        names = [str(pair["image1"]), str(pair["image2"])]
        picture = pair_picture(found, names[first], names[second])
        # Rounding may change the clipping of few samples.
        assert np.count_nonzero(picture.kept) == pytest.approx(int(pair["npix"]), rel=0.006)
        assert picture.level == sign * pair["level"].value
        kept = picture.samples[picture.kept]
        assert np.mean(kept) == pytest.approx(sign * pair["level"].value, abs=0.05)


def test_a_pair_of_a_later_run_is_before_that_run(simulated):
    """Differences before matching exclude the corrections of earlier runs."""
    from levelmatch.plots.pairs import pair_picture

    first = match_levels(list(simulated.images), reference=0)
    again = match_mosaic(first, read=ReadOptions(rematch=True))
    pair = again.pairs[0]
    assert abs(pair["level"].value) < 0.1
    picture = pair_picture(again, str(pair["image1"]), str(pair["image2"]))
    assert np.mean(picture.samples[picture.kept]) == pytest.approx(pair["level"].value, abs=0.03)


def test_a_pair_of_planes(ax):
    from levelmatch.plots.pairs import pair_picture

    sim = simulate_generic(
        n_images=4,
        shape=(96, 96),
        overlap=0.5,
        slope=4.0,
        noise=0.1,
        **DARK,
        seed=4,
    )
    found = match_levels(list(sim.images), fit_type_mosaic_tiles="level+slope")
    pair = found.pairs[0]
    picture = pair_picture(found, str(pair["image1"]), str(pair["image2"]))
    assert np.nanstd(picture.before) > 0.5
    assert np.nanstd(picture.before - picture.plane) < 0.1
    assert np.nanstd(picture.after) < 0.1


def test_the_plane_of_a_narrow_overlap_has_no_slope_across_it():
    from levelmatch.plots.pairs import pair_picture

    images = simulate_generic(n_images=2, shape=(48, 48), layout="chain", noise=0.3, seed=3).images
    found = match_levels(list(images))
    picture = pair_picture(found, *found.names)
    assert np.nanmax(np.abs(picture.plane - picture.level)) < picture.scatter


def test_a_pair_with_sources_masked(simulated):
    from levelmatch.plots.pairs import pair_picture

    images = list(simulated.images)
    whole, masked = (
        pair_picture(
            match_levels(images, measure=MeasureOptions(mask_sources=mask)),
            "image_00000.fits",
            "image_00001.fits",
        )
        for mask in (False, True)
    )
    assert 0 < len(masked.samples) < len(whole.samples)


@pytest.mark.parametrize(
    ("plot", "error", "match"),
    [
        (lambda r: plots.plot_levels(3), TypeError, "result: expected a MatchResult or a Record"),
        (lambda r: plots.sky_wcs(3), TypeError, "result: expected .*, not int"),
        (lambda r: plots.quick_look(r, size=0), ValueError, "size: 0 is not a positive"),
        (lambda r: plots.plot_mosaic(r, limits=3), ValueError, "limits: 3: expected the lowest"),
    ],
)
def test_arguments_are_refused_by_name(result, plot, error, match):
    with pytest.raises(error, match=match):
        plot(result)


def test_no_such_pair(result, ax):
    with pytest.raises(ValueError, match="image2: 'x' is none of the 4 images"):
        plots.plot_pair(result, "image_00000.fits", "x")
    with pytest.raises(LevelMatchError, match=".* are not a pair"):
        plots.plot_pair(result, "image_00000.fits", "image_00003.fits")
    with pytest.raises(ValueError, match="axs: 1 axes, not 4"):
        plots.plot_pair(result, "image_00000.fits", "image_00001.fits", axs=[ax])


# Mosaics


@pytest.mark.parametrize("centre", [(150.1, 2.2), (0.0, -30.0), (10.0, 89.999)])
def test_quick_look_takes_out_the_levels(centre):
    sim = simulate_generic(
        n_images=4,
        shape=(64, 64),
        center=centre,
        **DARK,
        noise=0.01,
        offset_rms=3.0,
        seed=5,
    )
    look = plots.quick_look(match_levels(list(sim.images)), size=60)
    assert max(look.before.shape) <= 62
    good = np.isfinite(look.after)
    # A square of four tiles, complete.
    assert good[3:-3, 3:-3].all()
    assert np.array_equal(good, np.isfinite(look.before))
    assert np.std(look.before[good]) > 1
    assert np.std(look.after[good]) < 0.02
    assert np.array_equal(look.difference, look.before - look.after, equal_nan=True)
    left, right, bottom, top = look.extent
    assert left > 0 > right
    assert top > 0 > bottom


def test_quick_look_shows_one_image_a_pixel():
    """A mean would hide the seams, and the stretch is scaled to the steps."""
    levels = (0.0, 8.0)
    sim = simulate_generic(
        n_images=2, shape=(64, 64), layout="chain", overlap=0.5, noise=0.01, seed=5,
        stars=False, nebula=False, galaxy=False, offset_rms=0.0,
    )  # fmt: skip
    images = list(sim.images)
    for image, level in zip(images, levels, strict=True):
        image.data[:] += level - np.median(image.data)
    look = plots.quick_look(match_levels(images))
    shown = look.before[np.isfinite(look.before)]
    near = np.abs(shown[:, None] - levels).min(axis=1)
    assert near.max() < 0.1
    assert 0.4 < np.mean(shown > 4) < 0.6
    low, high, width = look.stretch()
    assert width == pytest.approx(8, rel=0.05)
    assert low < 0.1
    assert high > 7.9


def test_plot_gains(ax):
    images = list(simulate_generic(n_images=4, shape=(96, 96), overlap=0.5, seed=3).images)
    images[2].data *= 1.3
    with pytest.warns(LevelMatchWarning, match="flux scale"):
        found = match_levels(images)
    plots.plot_gains(found, ax)
    gains = 100 * found.pairs["gain"]
    left, right = ax.get_xlim()
    assert right == -left > np.abs(gains).max() > 20
    assert sum(patch.get_height() for patch in ax.patches) == len(gains)
    draw(ax)


def test_plot_gains_without_any(figure):
    sim = simulate_generic(
        n_images=2, shape=(32, 32), layout="chain", stars=False, nebula=False, galaxy=False, seed=1
    )
    ax = figure.add_subplot()
    plots.plot_gains(match_levels(list(sim.images)), ax)
    assert [t.get_text() for t in ax.texts] == ["no pair with a flux ratio"]


def test_the_kind_of_mosaic_may_be_positional(result, ax):
    plots.plot_mosaic(result, "before", ax=ax)
    assert ax.images[0].colorbar is not None
    assert "Before" in ax.images[0].colorbar.ax.get_ylabel() + ax.images[0].colorbar.ax.get_xlabel()


def test_histograms_collect_what_is_beyond_their_ends(ax):
    from levelmatch.plots.style import draw_sigmas

    draw_sigmas(ax, np.array([0.5, -1.0, 100.0]), "pair", "x")
    assert ax.get_xlim() == (-8, 8)
    heights = [patch.get_height() for patch in ax.patches]
    assert sum(heights) == 3
    assert heights[-1] == 1
    assert "3 pairs, 1 beyond the ends" in ax.get_legend_handles_labels()[1]


def test_quick_look_is_the_right_way_up():
    sim = simulate_generic(
        n_images=2,
        shape=(64, 64),
        layout="chain",
        **DARK,
        noise=0.01,
        seed=5,
    )
    images = list(sim.images)
    # A source North-East of the first image's centre. North is up, East left.
    ra, dec = images[0].wcs.pixel_to_world_values(31.5, 31.5)
    source = ra + 10 / 3600, dec + 5 / 3600
    x, y = images[0].wcs.world_to_pixel_values(*source)
    for image in images:
        image.data -= np.median(image.data)
    images[0].data[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] += 1000
    look = plots.quick_look(match_levels(images))
    row, column = np.unravel_index(np.nanargmax(look.after), look.after.shape)
    left, right, bottom, top = look.extent
    east = left + (column + 0.5) / look.after.shape[1] * (right - left)
    north = bottom + (row + 0.5) / look.after.shape[0] * (top - bottom)
    middle = look.sky.project(images_centre(images[0]))
    assert look.sky.unit == u.arcsec
    assert (east - middle[0], north - middle[1]) == pytest.approx((10, 5), abs=1.0)
    # The WCS gives the same position.
    found = look.wcs.pixel_to_world(column, row)
    assert found.separation(SkyCoord(*source, unit="deg")).arcsec < 1.0


def images_centre(image):
    from levelmatch.sky.vectors import unit_vectors

    return unit_vectors(*image.wcs.pixel_to_world_values(31.5, 31.5))


def test_mosaic(result):
    figure = new_figure(12, 4)
    look = plots.quick_look(result, size=80)
    shown = {}
    for k, show in enumerate(("before", "after", "difference"), start=1):
        ax = figure.add_subplot(1, 3, k)
        assert plots.plot_mosaic(look, ax=ax, show=show) is ax
        shown[show] = ax.images[0]
        values = np.ma.filled(ax.images[0].get_array(), np.nan)
        assert np.array_equal(values, getattr(look, show), equal_nan=True)
        bar = shown[show].colorbar.ax
        # The colour bar is below the wide map.
        assert "(MJy/sr)" in bar.get_xlabel()
        assert bar.get_ylabel() == ""
    draw(ax)
    assert shown["before"].get_clim() == shown["after"].get_clim() == look.stretch()[:2]
    other = new_figure().add_subplot()
    plots.plot_mosaic(result, ax=other, limits=(1, 9))
    assert other.images[0].get_clim() == (1, 9)
    with pytest.raises(ValueError, match="show: 'now' is none of"):
        plots.plot_mosaic(look, show="now", ax=other)


def test_a_mosaic_of_sets_says_so(split, result, ax):
    plots.plot_mosaic(split, ax=ax)
    assert [t.get_text() for t in ax.texts] == ["2 sets without overlap:\nlevels do not compare"]
    other = new_figure().add_subplot()
    plots.plot_mosaic(result, ax=other)
    assert not other.texts
    # The sky's edge is outside of the frame; no image is neither black nor white.
    left, right, _, _ = other.images[0].get_extent()
    assert other.get_xlim()[0] > left > right > other.get_xlim()[1]
    assert 0.1 < min(other.get_facecolor()[:3]) < max(other.get_facecolor()[:3]) < 0.95


def test_mosaic_on_another_map(result, figure):
    """Cells are drawn at their positions in the axes' own coordinates."""
    look = plots.quick_look(result, size=40)
    ax = figure.add_subplot(projection=plots.sky_wcs(result))
    plots.plot_mosaic(look, ax=ax)
    draw(ax)
    (mesh,) = (
        c for c in ax.collections if c.get_array() is not None and np.size(c.get_array()) > 9
    )
    own = new_figure().add_subplot(projection=look.wcs)
    plots.plot_mosaic(look, ax=own)
    assert len(own.images) == 1
    assert np.ma.count(np.ma.masked_invalid(mesh.get_array())) == np.isfinite(look.after).sum()


# Records


def test_records_need_no_pixels(square, as_record, figure):
    record = as_record(square)
    for draws in (
        plots.plot_levels,
        plots.plot_overlaps,
        lambda r, ax: plots.plot_residuals(r, ax=ax),
        plots.plot_closures,
    ):
        images = []
        for found in (square, record):
            new = new_figure()
            draws(found, new.add_subplot())
            new.canvas.draw()
            images.append(np.array(new.canvas.buffer_rgba()))
        assert np.array_equal(*images)


def test_records_say_which_files_they_lack(simulated, as_record, tmp_path):
    paths = simulated.write(tmp_path)
    found = match_levels(paths)
    record = as_record(found)
    names = [path.name for path in paths]
    with pytest.raises(FrameError, match=f"{', '.join(names)}: a record holds no pixels: name"):
        plots.quick_look(record)
    with pytest.raises(FrameError, match=f"^{names[1]}: a record holds no pixels: files= has no"):
        plots.plot_pair(record, names[0], names[1], files=[paths[0], paths[2]])
    look, same = plots.quick_look(found), plots.quick_look(record, files=tmp_path)
    assert np.array_equal(look.after, same.after, equal_nan=True)


def test_records_refuse_other_files(simulated, as_record, tmp_path):
    paths = simulated.write(tmp_path / "raw")
    found = match_levels(paths)
    record = as_record(found)
    written = found.write(tmp_path / "matched")
    with pytest.raises(FrameError, match=r"image_00000\.fits: already matched by the pass"):
        plots.quick_look(record, files=written)
    other = simulate_generic(n_images=4, shape=(64, 64), layout="chain", center=(10.0, 2.0), seed=3)
    with pytest.raises(FrameError, match=r"image_0000\d\.fits: it lies elsewhere on the sky"):
        plots.quick_look(record, files=other.write(tmp_path / "other"))
    small = simulate_generic(n_images=4, shape=(60, 64), layout="chain", seed=3)
    with pytest.raises(
        FrameError, match=r"its shape \(60, 64\) is not the recorded one, \(64, 64\)"
    ):
        plots.quick_look(record, files=small.write(tmp_path / "small"))


# Anything in a name


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name):
    images = list(simulate_generic(n_images=4, shape=(48, 48), overlap=0.4, seed=3).images)
    found = match_levels(images)
    frames = [f.with_keys(name=f"{name}{k}{name}", tile=name) for k, f in enumerate(found.frames)]
    found.frames = frames
    for draws in (
        plots.plot_levels,
        plots.plot_overlaps,
        lambda r, ax: plots.plot_residuals(r, ax=ax),
        plots.plot_closures,
    ):
        figure = new_figure(3.5, 3)
        draw(draws(found, figure.add_subplot()))
    axs = new_figure(7, 6).subplots(2, 2)
    draw(plots.plot_pair(found, frames[0].name, frames[1].name, axs=axs)[0])


@pytest.mark.parametrize("kind", ["levels", "residuals"])
def test_names_do_not_overlap(kind, figure):
    sim = simulate_generic(n_images=16, shape=(24, 24), overlap=0.4, seed=1)
    images = list(sim.images)
    for k, image in enumerate(images):
        image.meta["FILENAME"] = f"jw0210700{k // 4}001_02101_0000{k % 4}_mirimage_cal.fits"
    found = match_levels(images, group_by=lambda name, meta: name)
    ax = figure.add_subplot()
    if kind == "levels":
        plots.plot_levels(found, ax)
    else:
        plots.plot_residuals(found, ax=ax)
    draw(ax)
    renderer = figure.canvas.get_renderer()
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert len(boxes(labels, renderer)) > 1
        assert not overlap(boxes(labels, renderer))
    # No text leaves the figure.
    box = ax.get_tightbbox(renderer)
    assert box.x0 > -1
    assert box.y0 > -1
    assert box.x1 < figure.bbox.x1 + 1
    assert box.y1 < figure.bbox.y1 + 1


COLUMN = {
    "levels": lambda r, ax: plots.plot_levels(r, ax),
    "matrix": lambda r, ax: plots.plot_residuals(r, kind="matrix", ax=ax),
    "list": lambda r, ax: plots.plot_residuals(r, kind="list", ax=ax),
    "histogram": lambda r, ax: plots.plot_residuals(r, kind="histogram", ax=ax),
    "closures": lambda r, ax: plots.plot_closures(r, ax),
    "gains": lambda r, ax: plots.plot_gains(r, ax),
    "overlaps": lambda r, ax: plots.plot_overlaps(r, ax),
    "mosaic": lambda r, ax: plots.plot_mosaic(r, "before", ax=ax),
}


@pytest.fixture(scope="module")
def eleven():
    """Return eleven images whose names have seven different characters."""
    images = list(simulate_generic(n_images=11, shape=(32, 32), overlap=0.4, seed=1).images)
    for k, image in enumerate(images):
        image.meta["FILENAME"] = f"2mass-atlas-{98 + k}1124n-j{80 + k}70232.fits.fz"
    return match_levels(images, group_by="FILENAME")


@pytest.mark.parametrize(
    ("kind", "sky"), [*((kind, False) for kind in COLUMN), ("overlaps", True), ("mosaic", True)]
)
def test_nothing_is_clipped_in_one_column_of_a_journal(eleven, figure, kind, sky):
    ax = figure.add_subplot(projection=plots.sky_wcs(eleven) if sky else None)
    draw(COLUMN[kind](eleven, ax))
    box = figure.get_tightbbox(figure.canvas.get_renderer()).extents
    width, height = figure.get_size_inches()
    assert box.min() > -0.02
    assert box[2] < width + 0.02
    assert box[3] < height + 0.02


@pytest.mark.parametrize("factor", [1e-13, 1e13])
def test_any_size_of_numbers(factor):
    images = list(simulate_generic(n_images=4, shape=(48, 48), overlap=0.4, seed=3).images)
    for image in images:
        image.data = image.data.astype(float) * factor
    found = match_levels(images)
    levels = plots.plot_levels(found)
    low, high = levels.get_ylim()
    assert low <= found.table["level"].value.min() < found.table["level"].value.max() <= high
    matrix = plots.plot_residuals(found, kind="matrix").images[0].get_array()
    assert np.nanmax(np.abs(matrix)) == pytest.approx(np.abs(found.pairs["level"].value).max())
    for draw in (plots.plot_closures, plots.plot_overlaps, plots.plot_mosaic):
        draw(found).figure.draw_without_rendering()
    pair = found.pairs[0]
    axs = plots.plot_pair(found, pair["image1"], pair["image2"])
    (label,) = [t.get_text() for t in axs[1].get_legend().get_texts() if "\u00b1" in t.get_text()]
    level, sigma = (float(x.replace("\u2212", "-")) for x in label.split(" \u00b1 "))
    assert sigma == pytest.approx(pair["sigma"].value, rel=0.1)
    assert level == pytest.approx(pair["level"].value, abs=pair["sigma"].value)
    axs[0].figure.draw_without_rendering()


def test_unknown_errors_have_no_bar(monkeypatch):
    found = match_levels(list(simulate_generic(n_images=4, shape=(48, 48), seed=3).images))
    table = found.table
    table["error"][2] = np.nan
    monkeypatch.setattr(type(found), "table", property(lambda self: table))
    ax = plots.plot_levels(found)
    assert np.isfinite(ax.get_ylim()).all()
    ax.figure.draw_without_rendering()


def test_a_histogram_of_residuals_over_their_errors(square):
    ax = plots.plot_residuals(square, kind="histogram")
    kept = square.pairs["kept"]
    heights = [patch.get_height() for patch in ax.patches]
    assert sum(heights) == np.count_nonzero(kept & np.isfinite(square.pairs["n_sigma"]))
    width = ax.patches[0].get_width()
    (curve,) = ax.lines
    assert curve.get_ydata().max() == pytest.approx(sum(heights) * width / np.sqrt(2 * np.pi))
    assert ax.get_ylabel() == "Pairs"
