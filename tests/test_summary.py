# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the sentences about a result."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from helpers import DARK

from levelmatch import LevelMatchWarning, SolveOptions, match_levels, summary, text
from levelmatch.diagnostics import Diagnostics
from levelmatch.testing import simulate_generic


def test_summary(result):
    dithers, mosaic = result.passes
    facts = Diagnostics.of(result)
    assert (dithers.n_pairs, mosaic.n_pairs, mosaic.n_kept) == (0, 3, 3)
    level = result.pairs["level"].value
    assert facts.rms_of_pass(mosaic)[0] == pytest.approx(np.sqrt(np.mean(level**2)))
    assert np.isnan(facts.rms_of_pass(dithers)[0])
    lines = summary.summary_lines(result)
    assert lines[0] == "4 images in 4 tiles, 3 of 3 pairs kept."
    assert lines[1] == (
        "Pass 1, dithers of each tile (level): each tile has one image: nothing to match."
    )
    # A chain has no closed loop, and no residuals.
    assert lines[2].endswith("MJy/sr before, 0 after.")
    assert summary.notes(result) == []


def dark_sky(layout, **options):
    return list(simulate_generic(layout=layout, noise=0.1, **DARK, **options).images)


def test_pairs_at_odds_are_noted():
    images = dark_sky("grid", n_images=16, shape=(64, 64), overlap=0.35, seed=2)
    options = {"solve": SolveOptions(robust="tukey"), "group_by": "FILENAME"}
    assert not any("at odds" in x for x in summary.notes(match_levels(images, **options)))
    # The overlap with the left neighbour is wrong.
    images[5].data[:, :20] += 5
    (line,) = [x for x in summary.notes(match_levels(images, **options)) if "at odds" in x]
    assert int(line.split()[0]) >= 1


def test_a_wrong_image_is_noted_and_its_error_is_wide():
    images = dark_sky("pile", n_images=9, shape=(48, 48), overlap=0.6, seed=1)
    images[4].data[:, :20] += 5
    result = match_levels(images)
    (line,) = [x for x in summary.notes(result) if "disagrees" in x]
    assert "image_00004.fits" in line
    # All of its pairs contain the wrong columns, so its level is off by about their mean.
    error = result.table["error"].value
    assert error[4] > 0.5
    assert np.delete(error, 4).max() < 0.2


def test_one_tile_leaves_the_mosaic_nothing_to_do(simulated):
    found = match_levels({"tile": list(simulated.images)})
    words = "Pass 2, mosaic tiles (level): all images are one tile: nothing to match."
    assert words in summary.summary_lines(found)


def test_pairs_left_out_say_why():
    images = list(simulate_generic(n_images=4, shape=(64, 64), seed=3).images)
    found = match_levels(images, solve=SolveOptions(min_linear=0.3))
    n = np.count_nonzero(~found.pairs["kept"])
    assert summary.notes(found)[0] == (
        f"{n} pairs rejected: overlap too short, under 0.3 of an image's side (min_linear)."
    )
    found = match_levels(images, solve=SolveOptions(min_area=0.8))
    assert "overlap too small, under 0.8 of the mean overlap (min_area)" in summary.notes(found)[0]


def test_mean_reference(simulated):
    found = match_levels(list(simulated.images), reference="mean")
    assert summary.summary_lines(found)[-1] == "Reference: none, the mean correction is zero."


@pytest.mark.parametrize(
    ("names", "short", "pattern"),
    [
        (["a_1_cal.fits", "a_2_cal.fits"], ["1", "2"], "a_*_cal.fits"),
        (["a_10.fits", "a_1.fits"], ["10", "1"], "a_*.fits"),
        (["one.fits"], ["one.fits"], ""),
        (["x", "y"], ["x", "y"], ""),
        (["a_b", "a_b_c"], ["b", "b_c"], "a_*"),
        (["a_.fits", "a_b.fits"], ["a_.fits", "a_b.fits"], ""),
    ],
)
def test_label_names(names, short, pattern):
    assert text.label_names(names) == (short, pattern)


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [
        (1.23456e-13, 15, "1.23e-13"),
        (-4.2e-15, 15, "-4e-15"),
        (4e-16, 15, "0"),
        (0.0, 15, "0"),
        (1.23456e-13, 4, "0.0000"),
        (12345.6, -2, "12346"),
        (1.23456e12, -9, "1.235e+12"),
        (np.nan, 3, "nan"),
    ],
)
def test_numbers_have_digits_that_tell(value, digits, words):
    assert text.fixed(value, digits) == words


def test_small_numbers_have_digits_of_their_error():
    digits = text.decimals([2.3e-15])
    assert (text.fixed(1.234567e-13, digits), text.fixed(2.3e-15, digits)) == (
        "1.235e-13",
        "2.3e-15",
    )


@pytest.mark.parametrize(
    ("errors", "digits"),
    [
        ([120.0], -1),
        ([1.5e-15, 2e-15, np.nan], 16),
        ([0.0123], 3),
        ([12.0, 0.0], 0),
        ([0, 0], 4),
        ([np.nan], 4),
        ([0.5, 0.0021, 0.5], 2),
    ],
)
def test_decimals(errors, digits):
    assert text.decimals(errors) == digits


def test_a_rounded_zero_has_no_sign():
    assert text.fixed(-0.0004, 3) == "0.000"
    assert text.fixed(-0.0006, 3) == "-0.001"


def test_parts_of_an_image_are_one_where_they_come_out_as_one():
    frames = [SimpleNamespace(product=name) for name in ("a", "a", "b", "b")]
    for recombine, n in ((True, 2), (False, 4)):
        run = SimpleNamespace(recombine=recombine)
        facts = Diagnostics(SimpleNamespace(frames=frames, passes=[], unit=None, run=run))
        assert facts.n_images == n


def test_facts_have_the_order_of_the_input(square, simulated):
    images = list(simulate_generic(n_images=4, shape=(64, 64), seed=3).images)
    turned = Diagnostics(match_levels(images[::-1]))
    names = [frame.name for frame in turned.frames]
    assert names == sorted(names, reverse=True)
    for (i, j), pair in zip(turned.ends.tolist(), turned.pairs, strict=True):
        assert (names[i], names[j]) == (pair["image1"], pair["image2"])
    assert turned.linked.all()
    assert Diagnostics.of(turned) is turned


def test_sets_are_numbered_by_their_size():
    images = simulate_generic(
        n_images=5, shape=(64, 64), layout="chain", overlap=0.3, seed=2
    ).images
    with pytest.warns(UserWarning, match="pass mosaic"):
        found = match_levels([images[k] for k in (4, 0, 1, 2)])
    facts = Diagnostics(found)
    assert facts.sets.tolist() == [1, 0, 0, 0]
    assert facts.linked.tolist() == [False, True, True, True]
    # An isolated image is named as isolated.
    assert not any("sets" in words for words in [*summary.headline(facts), *summary.notes(facts)])


def test_the_headline_names_sets_of_images():
    images = simulate_generic(
        n_images=6, shape=(64, 64), layout="chain", overlap=0.3, seed=2
    ).images
    with pytest.warns(UserWarning, match="pass mosaic"):
        found = match_levels([images[k] for k in (0, 1, 3, 4, 5)])
    assert "2 sets of images that do not overlap" in summary.headline(found)[1]
    (note,) = [note for note in summary.notes(found) if "sets" in note]
    assert note.startswith("The tiles form 2 sets with no overlap between them")


def flat(n_images=9, **options):
    """Return images of noise and levels, in a square in which neighbours overlap."""
    options = {"shape": (48, 48), "overlap": 0.5, "noise": 0.1, "seed": 1, **options}
    return list(simulate_generic(n_images=n_images, **DARK, **options).images)


def test_the_headline_of_images_that_agree():
    found = match_levels(flat())
    facts = Diagnostics(found)
    kept, pairs = found.pairs["kept"], found.pairs
    seams = facts.seams
    assert seams.before == pytest.approx(np.sqrt(np.mean(pairs["level"][kept].value ** 2)))
    assert seams.after_worst == pytest.approx(np.abs(pairs["residual"][kept].value).max())
    assert seams.sigma == pytest.approx(np.sqrt(np.mean(pairs["n_sigma"][kept] ** 2)))
    assert summary.headline(facts) == [
        f"The seams agree within their errors: {seams.before:.3g} MJy/sr rms "
        f"({seams.before_worst:.3g} at worst) before matching, {seams.after:.3g} MJy/sr rms "
        f"({seams.after_worst:.3g} at worst), or {seams.sigma:.1f} \u03c3 "
        f"({seams.sigma_worst:.1f} \u03c3 at worst), after."
    ]
    assert seams.sigma_worst < 3
    assert facts.suspects == {}
    assert facts.slope_step == 0


@pytest.mark.parametrize("columns", [10, 20, 30])
def test_the_headline_names_a_bad_image(columns):
    images = flat(layout="pile", overlap=0.6)
    images[4].data[:, :columns] += 5
    facts = Diagnostics(match_levels(images))
    assert list(facts.suspects) == [4]
    look = summary.headline(facts)[1]
    assert f"the suspect image {facts.names[4]}" in look
    pair = facts.pairs[facts.worst_seam]
    words = f"the worst seam, {pair['image1']} and {pair['image2']} ({pair['n_sigma']:.1f} \u03c3)"
    assert (words in look) == (pair["n_sigma"] > 3)
    sentence = next(n for n in summary.notes(facts) if "disagrees with its neighbours" in n)
    assert sentence.startswith(f"Image {facts.names[4]} disagrees")
    assert ("image", 4) in [f.target for f in summary.findings(facts)]


@pytest.mark.parametrize("seed", range(3))
def test_good_images_are_not_suspect(seed):
    """The sky has stars and nebulae; images have levels and planes."""
    for slope in (0.0, 3.0):
        sim = simulate_generic(n_images=9, shape=(64, 64), overlap=0.4, slope=slope, seed=seed)
        assert not Diagnostics(match_levels(list(sim.images))).suspects


def test_planes_are_hinted_at_where_levels_leave_gradients():
    images = flat(slope=5.0)
    facts = Diagnostics(match_levels(images))
    assert facts.slope_step > facts.seams.after / 2
    (note,) = [n for n in summary.notes(facts) if "fit type auto" in n]
    left = facts.left_by_planes
    assert 0 < left < 0.3 * facts.seams.after
    assert note.startswith(
        f"Levels leave {facts.seams.after:.3g} MJy/sr rms between images, planes {left:.3g}: "
    )
    assert (
        f"planes (fit type auto), which leave {left:.3g} MJy/sr where levels leave "
        f"{facts.seams.after:.3g}" in summary.headline(facts)[1]
    )
    assert summary.verdict(facts).startswith(
        "The seams agree within their errors, which gradients of the images enlarge: "
    )
    # Residuals of the fit with planes; without them there is no hint.
    auto = match_levels(images, fit_type_dithers="auto", fit_type_mosaic_tiles="auto")
    planes = Diagnostics(auto)
    assert planes.seams.after == pytest.approx(left, rel=1e-6)
    assert planes.slope_step == 0
    assert np.isnan(planes.left_by_planes)


@pytest.mark.parametrize("seed", range(3))
def test_planes_are_not_hinted_at_where_levels_do(seed):
    simulated = simulate_generic(n_images=9, shape=(64, 64), overlap=0.4, seed=seed)
    assert np.isnan(Diagnostics(match_levels(list(simulated.images))).left_by_planes)


def test_suspects_are_compared_within_their_set():
    """A set of precise pairs makes no image of a noisier set suspect."""
    options = {"n_images": 6, "shape": (48, 48), "overlap": 0.5, "nebula": False, "stars": False}
    quiet = list(simulate_generic(noise=0.001, seed=1, **options).images)
    noisy = list(simulate_generic(noise=1.0, seed=2, **options).images)
    for k, image in enumerate(noisy):
        image.wcs.wcs.crval += [0.5, 0]
        image.wcs.wcs.set()
        image.meta["FILENAME"] = f"noisy_{k}.fits"
    with pytest.warns(LevelMatchWarning, match="overlap"):
        found = match_levels(quiet + noisy)
    facts = Diagnostics(found)
    assert facts.sets.max() == 1
    assert facts.suspects == {}


def test_flux_scales_are_noted():
    images = list(simulate_generic(n_images=4, shape=(96, 96), overlap=0.5, seed=3).images)
    images[2].data *= 1.3
    with pytest.warns(LevelMatchWarning, match="flux scale"):
        found = match_levels(images)
    facts = Diagnostics(found)
    (difference,) = facts.flux_differences
    name = facts.names[2]
    assert facts.order[difference.image] == 2
    assert any(note.startswith(f"{name} differ in flux scale") for note in summary.notes(facts))
    assert f"the flux scale of {name} (factor 1.3" in summary.headline(facts)[1]


def test_the_headline_without_loops_or_pairs(result):
    assert summary.headline(result) == [
        f"Steps of {_words_before(result)} are removed, but no loop of pairs tests the result."
    ]
    (image,) = simulate_generic(n_images=1, shape=(32, 32), seed=1).images
    with pytest.warns(LevelMatchWarning, match="is the only image"):
        found = match_levels([image])
    assert summary.headline(found) == ["No seam was matched: no pair is kept."]


def _words_before(result):
    seams = Diagnostics(result).seams
    return f"{seams.before:.3g} MJy/sr rms ({seams.before_worst:.3g} at worst)"


def test_tiny_units():
    """Values of 1e-13 have the same sentences as values of 1, except for the power of ten."""
    images = flat(n_images=4)
    tiny = flat(n_images=4)
    for image in tiny:
        image.data = image.data * 1e-13
    with_one, with_tiny = (Diagnostics(match_levels(part)) for part in (images, tiny))
    digits = text.decimals(with_one.table["error"].value)
    assert text.decimals(with_tiny.table["error"].value) in (digits + 13, digits + 14)
    assert "e-13 MJy/sr rms" in summary.verdict(with_tiny)


def test_worst_seam(square):
    facts = Diagnostics(square)
    pair = square.pairs[facts.worst_seam]
    assert facts.worst_seam == np.argmax(square.pairs["n_sigma"])
    sentence = summary.trust_lines(facts)[-1]
    assert f"{pair['image1']} and {pair['image2']}, with a residual of " in sentence
    residual = float(sentence.partition("residual of ")[2].split()[0])
    assert residual == pytest.approx(pair["residual"].value, abs=1e-3)
    names = square.table["name"].tolist()
    i, j = names.index(pair["image1"]), names.index(pair["image2"])
    c = square.covariance
    variance = (c(i, i) + c(j, j) - c(i, j) - c(j, i))[0, 0]
    assert facts.seam_error(facts.worst_seam) == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_a_seam_of_planes_is_where_the_images_overlap():
    """The error of a step between two planes does not depend on their centres."""
    images = list(simulate_generic(n_images=4, shape=(64, 64), slope=1.0, seed=3).images)
    options = {"fit_type_mosaic_tiles": "level+slope"}
    errors = [
        Diagnostics(match_levels(images, reference=k, **options)).seam_error(0) for k in range(4)
    ]
    # It does not depend on the gauge either.
    assert errors == pytest.approx([errors[0]] * 4, rel=1e-6)
    found = match_levels(images, **options)
    assert errors[0] > 0.5 * found.pairs["sigma"][0].value


def test_the_error_of_a_seam_is_that_of_trials():
    steps, errors = [], []
    for seed in range(60):
        sim = simulate_generic(
            n_images=4,
            shape=(40, 40),
            overlap=0.4,
            noise=0.5,
            **DARK,
            seed=seed,
        )
        found = match_levels(list(sim.images), solve=SolveOptions(floor=0.0))
        facts = Diagnostics(found)
        i, j = facts.ends[0]
        level = found.table["level"] - sim.truth["level"]
        steps.append((level[i] - level[j]).value)
        errors.append(facts.seam_error(0))
    assert np.std(steps) == pytest.approx(np.mean(errors), rel=0.35)


def test_trust(square, result):
    gauge, closure, seam = summary.trust_lines(square)
    assert gauge == (
        "Zero points, which overlaps cannot determine: dithers: mean of each tile; "
        f"mosaic: {square.reference}."
    )
    n = len(square.closures)
    assert closure.startswith(f"Around {n} loops of overlapping images")
    assert f"{square.closures.meta['rms']:.2f} \u03c3" in closure
    worst = square.pairs[Diagnostics(square).worst_seam]
    assert seam.startswith(f"Worst seam: {worst['image1']} and ")
    # A chain has no closed loop.
    assert summary.trust_lines(result)[1:] == [
        "No loop of pairs: nothing tests the differences against each other."
    ]


def test_loops_of_planes_close():
    """Levels of pairs at different positions do not add up to zero if images have slopes."""
    sim = simulate_generic(
        n_images=9,
        shape=(64, 64),
        overlap=0.4,
        slope=3.0,
        **DARK,
        seed=3,
    )
    images = list(sim.images)
    planes = match_levels(images, fit_type_mosaic_tiles="level+slope").closures
    assert 0.3 < planes.meta["rms"] < 2
    levels = match_levels(images, solve=SolveOptions(floor=0.0)).closures
    assert np.abs(levels["closure"]).max() > 10 * np.abs(planes["closure"]).max()


def test_no_pair():
    (image,) = simulate_generic(n_images=1, shape=(32, 32), seed=1).images
    with pytest.warns(LevelMatchWarning, match="image_00000.fits is the only image"):
        found = match_levels([image])
    assert Diagnostics(found).worst_seam is None
    assert summary.trust_lines(found)[1].startswith("No loop")


@pytest.mark.parametrize(
    ("names", "width", "short", "pattern"),
    [
        (
            ["jw1_02101_00001_x.fits", "jw2_02101_00002_x.fits"],
            None,
            ["jw1\u202600001", "jw2\u202600002"],
            "*_02101_*_x.fits",
        ),
        (
            ["jw1_02101_00001_x.fits", "jw2_02101_00002_x.fits"],
            8,
            ["1\u202600001", "2\u202600002"],
            "jw*_02101_*_x.fits",
        ),
        # Zeros of a number are kept as long as they fit.
        (
            ["jw02107001_02101_00001_x.fits", "jw02107002_02101_00002_x.fits"],
            9,
            ["001\u202600001", "002\u202600002"],
            "jw02107*_02101_*_x.fits",
        ),
        (
            ["jw02107001_02101_00001_x.fits", "jw02107002_02101_00002_x.fits"],
            8,
            ["1\u20261", "2\u20262"],
            "jw0210700*_02101_0000*_x.fits",
        ),
        (
            ["a-000206s-j0140233.fz", "a-001124n-j0860032.fz"],
            13,
            ["0206s-140233", "1124n-860032"],
            "a-00*-j0*.fz",
        ),
        (
            ["0206s-j0140233.fz", "1124n-j0860032.fz"],
            8,
            ["140233", "860032"],
            "*-j0*.fz",
        ),
        (["a_b_1.fits", "a_c_1.fits"], None, ["b", "c"], "a_*_1.fits"),
        (["x_1_y", "z_2"], None, ["x_1_y", "z_2"], ""),
        (["one"], None, ["one"], ""),
        # No part is left empty.
        (["1_aaaa", "10_aaab"], 4, ["1_a", "10_b"], "*_aaa*"),
        (["a1", "a11"], 1, ["1", "11"], "a*"),
        (["a1", "a11"], 3, ["a1", "a11"], ""),
    ],
)
def test_short_names(names, width, short, pattern):
    assert text.short_names(names, width) == (short, pattern)


def test_common_levels_are_in_the_common_unit():
    frames = [SimpleNamespace(scale=1.0, name="a"), SimpleNamespace(scale=1000.0, name="b")]
    table = {"level": np.array([1.0, 2.0]) * u.Jy, "error": np.array([0.1, 0.2])}
    facts = Diagnostics(SimpleNamespace(frames=frames, passes=[], unit=u.mJy, table=table))
    assert facts.levels.tolist() == [[1.0, 2000.0], [0.1, 200.0]]


def test_results_have_suspects_and_notes():
    images = flat(layout="pile", overlap=0.6)
    images[4].data[:, :20] += 5
    found = match_levels(images)
    assert found.suspects == [found.frames[4].name]
    assert found.notes == summary.notes(found)
    assert any(f"Image {found.suspects[0]} disagrees" in note for note in found.notes)


def test_the_gauge_is_said_in_one_place(square):
    sentence = summary.gauge_sentence(square.passes, {}, "data units")
    assert square.gauge == square.table.meta["gauge"] == sentence
    assert square.gauge.endswith(f"mosaic: the correction of {square.reference} is zero")
