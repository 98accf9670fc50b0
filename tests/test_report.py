# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The page of a result, and its pictures."""

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from astropy import units as u

from levelmatch import match_levels, report
from levelmatch.testing import simulate_generic, simulate_miri

EVIL = "<script>alert('x')</script>&\"$title"


@pytest.fixture(scope="module")
def simulated():
    return simulate_generic(n_images=4, shape=(64, 64), layout="chain", overlap=0.4, seed=3)


@pytest.fixture(scope="module")
def result(simulated):
    return match_levels(list(simulated.images))


@pytest.fixture(scope="module")
def planes(simulated):
    return match_levels(list(simulated.images), fit_type_mosaic_tiles="level+slope")


@pytest.fixture(scope="module")
def split(simulated):
    """The last image overlaps none of the others."""
    images = simulated.images
    with pytest.warns(UserWarning, match="pass mosaic"):
        return match_levels([images[0], images[1], images[3]])


@pytest.fixture
def no_pictures(monkeypatch):
    """As if matplotlib were not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)


class Page(HTMLParser):
    """The tags of a page, its text, and the text of its cells by row; tags must match."""

    void = {"meta", "img", "source", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def text(result):
    """The page with all of its pictures, which take their time."""
    return report.make_page(result, title="My field", before_after=True)


def make(result, **options):
    return report.make_page(result, **{"title": "T", "before_after": False, **options})


def test_the_page_is_written(result, tmp_path, no_pictures):
    path = report.write_report(result, tmp_path / "new" / "page.html", title="My field")
    assert path.read_text(encoding="utf-8") == report.make_page(
        result, title="My field", before_after=True
    )
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_the_page_stands_by_itself(text):
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert re.findall(r"https?:|url\(|@import|\bon\w+=", text) == []
    assert "My field" in page.text
    assert len(text) < 1_000_000


def test_pictures_have_words_and_both_papers(text):
    page = Page(text)
    images, dark = page.all("img"), page.all("source")
    assert len(images) == len(dark) == 4
    assert [i["alt"].partition(" of")[0] for i in images] == [
        "Mosaic",
        "Mosaic",
        "Level",
        "Outlines",
    ]
    for url in [i["src"] for i in images] + [d["srcset"] for d in dark]:
        kind, _, data = url.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True)[:4] == b"\x89PNG"


def test_the_mosaics_can_be_left_out(result):
    assert [i["alt"][:5] for i in Page(make(result)).all("img")] == ["Level", "Outli"]


def test_tables(result, no_pictures):
    page = Page(make(result))
    captions = [tag for tag, _ in page.tags].count("caption")
    assert captions == 2
    head, *rows = page.rows
    assert head == ["Image", "Mark", "Pairs", "Level", "Error", "Mosaic"]
    table = result.table
    assert [r[0] for r in rows[:4]] == ["00000", "00001", "00002", "00003"]
    assert [float(r[3]) for r in rows[:4]] == pytest.approx(table["level"].value, abs=6e-4)
    assert [r[1] for r in rows[:4]] == ["reference" if x else "" for x in table["reference"]]
    assert rows[4] == [
        "First",
        "Second",
        "Pass",
        "Before",
        "After",
        "After / \u03c3",
        "Pixels",
        "Counted",
    ]
    assert [float(r[3]) for r in rows[5:]] == pytest.approx(result.pairs["level"].value, abs=6e-3)
    assert [r[7] for r in rows[5:]] == ["kept"] * 3
    assert {"scope": "row"} in page.all("th")


def test_planes_have_slopes(planes, no_pictures):
    head = Page(make(planes)).rows[0]
    assert head[5:9] == ["Slope to East", "Error", "Slope to North", "Error"]


def test_rejected_pairs_say_why(simulated, no_pictures):
    from levelmatch import SolveOptions

    images = simulate_miri(tiles=(2, 2), n_dithers=1, shape=(96, 97), seed=1).images
    found = match_levels(list(images), solve=SolveOptions(min_linear=0.3))
    n = int(np.count_nonzero(~found.pairs["kept"]))
    assert n > 0
    page = Page(make(found))
    verdicts = [row[-1] for row in page.rows if row[-1].startswith("left out: extent: ")]
    assert len(verdicts) == n
    assert f"{n} pair{'s' if n > 1 else ''} left out: extent {n}." in page.text


def test_sets_and_lone_images_are_noted(split, no_pictures):
    page = Page(make(split))
    assert "The tiles form 2 sets with no overlap between them" in page.text
    assert "Without any pair that counts: image_00003.fits." in page.text
    assert [row[1] for row in page.rows[1:4]].count("no pairs") == 1


def test_everything_is_escaped(simulated):
    images = list(simulated.images)
    for k, image in enumerate(images):
        image.meta["FILENAME"] = f"<script>{k}</script>.fits"
        image.meta["TILE"] = f"{EVIL}{k // 2}"
    found = match_levels(images, group_by="TILE")
    # What is no file name may come from anywhere.
    found.frames = [f.with_keys(name=f"{EVIL}{k}") for k, f in enumerate(found.frames)]
    text = make(found, title=EVIL)
    page = Page(text)
    assert page.all("script") == []
    assert "<script" not in text
    assert page.text.count(EVIL) > 8
    assert page.rows[1][0] == f"{EVIL}0"
    assert page.all("title") == [{}]


def test_names_are_escaped_in_the_summary(simulated, no_pictures):
    images = list(simulated.images)
    for k, image in enumerate(images):
        image.meta["FILENAME"] = f"<b>{k}"
    text = make(match_levels(images))
    assert "Reference: &lt;b&gt;" in text
    assert "<b>" not in text


def test_without_matplotlib(result, no_pictures):
    page = Page(make(result, before_after=True))
    assert page.all("img") == []
    assert "pip install levelmatch[report]" in page.text
    assert len(page.rows) == 9


def test_a_failed_page_leaves_nothing(result, tmp_path, monkeypatch, no_pictures):
    path = tmp_path / "page.html"
    path.write_text("old", encoding="utf-8")

    def fail(*args):
        msg = "the disk is full"
        raise OSError(msg)

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="the disk is full"):
        report.write_report(result, path, before_after=False)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text(encoding="utf-8") == "old"


def test_many_pairs_are_cut(result, monkeypatch, no_pictures):
    monkeypatch.setattr(report, "MAX_PAIRS", 2)
    page = Page(make(result))
    assert len(page.rows) == 5 + 3
    assert "Of 3 pairs these are the 2 that were left out or disagree most." in page.text


def test_summary(result):
    (dithers, mosaic) = report.summarise(result)
    assert (dithers.n_pairs, mosaic.n_pairs, mosaic.n_kept) == (0, 3, 3)
    level = result.pairs["level"].value
    assert mosaic.before == pytest.approx(np.sqrt(np.mean(level**2)))
    assert np.isnan(dithers.before)
    lines = report.summary_lines(result)
    assert lines[0] == "4 images in 4 tiles, 3 of 3 pairs kept."
    assert lines[1] == "Pass 1, dithers of each tile (level): no pairs."
    # A chain closes no loop: nothing is left.
    assert lines[2].endswith("MJy / sr before, 0 after.")
    assert report.notes(result) == []


def test_pairs_at_odds_are_noted():
    sim = simulate_generic(
        n_images=9,
        shape=(48, 48),
        layout="pile",
        overlap=0.6,
        seed=1,
        noise=0.1,
        stars=False,
        nebula=False,
        galaxy=False,
    )
    images = list(sim.images)
    assert not any("at odds" in line for line in report.notes(match_levels(images)))
    images[4].data[:, :20] += 5
    (line,) = [x for x in report.notes(match_levels(images)) if "at odds" in x]
    assert int(line.split()[0]) >= 1


def test_mean_reference(simulated):
    found = match_levels(list(simulated.images), reference="mean")
    assert report.summary_lines(found)[-1] == "Reference: none, the mean correction is zero."


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
    assert report.label_names(names) == (short, pattern)


@pytest.mark.parametrize(
    ("errors", "digits"),
    [
        ([0.0123], 3),
        ([12.0, 0.0], 0),
        ([0, 0], 4),
        ([np.nan], 4),
        ([0.5, 0.0021, 0.5], 2),
    ],
)
def test_decimals(errors, digits):
    assert report.decimals(errors) == digits


def test_a_rounded_zero_has_no_sign():
    assert report.fixed(-0.0004, 3) == "0.000"
    assert report.fixed(-0.0006, 3) == "-0.001"


# --------------------------------------------------------------------------------------
# Plots


@pytest.fixture
def ax():
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(5, 4))
    return figure.add_subplot()


def draw(ax):
    """Draw, so that what only fails then fails here."""
    ax.figure.savefig(io.BytesIO(), format="png")


def test_plot_levels(result, ax):
    from levelmatch.plots import plot_levels

    assert plot_levels(result, ax) is ax
    draw(ax)
    before, after = (container.lines[0].get_ydata() for container in ax.containers)
    assert before == pytest.approx(result.table["level"].value)
    assert np.abs(after).max() < 1e-9
    assert "MJy / sr" in ax.get_ylabel()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["00000", "00001", "00002", "00003"]
    assert ax.get_xlabel() == "Image (image_*.fits)"


def test_a_dollar_in_a_name_is_no_formula(simulated, ax):
    from levelmatch.plots import plot_levels

    images = list(simulated.images)
    for k, image in enumerate(images):
        image.meta["FILENAME"] = rf"a$\nothing{k}$_{k}_$\frac$.fits"
    draw(plot_levels(match_levels(images), ax))
    assert ax.get_xticklabels()[0].get_text() == r"a$\nothing0$_0"


def test_plot_levels_in_the_common_unit(simulated, ax):
    from levelmatch.plots import plot_levels

    images = list(simulated.images)
    images[2] = images[2].multiply(1000).divide(1)
    images[2].unit = u.kJy / u.sr
    images[2].meta["FILENAME"] = "image_00002.fits"
    images[2].meta.update({k: v for k, v in simulated.images[2].meta.items() if k != "BUNIT"})
    images[2].wcs = simulated.images[2].wcs
    same = match_levels(list(simulated.images), reference=0)
    mixed = match_levels(images, reference=0)
    plot_levels(mixed, ax)
    assert ax.containers[0].lines[0].get_ydata() == pytest.approx(
        same.table["level"].value, abs=0.05
    )


def test_plot_overlaps(split, ax):
    from levelmatch.plots import plot_overlaps

    assert plot_overlaps(split, ax) is ax
    draw(ax)
    outlines, links = ax.collections
    assert len(outlines.get_paths()) == 3
    assert len(links.get_paths()) == 1
    assert links.get_array() == pytest.approx(np.abs(report.pair_sigmas(split)))
    # East is to the left.
    assert ax.xaxis.get_inverted()
    assert ax.get_xlabel().endswith("(arcsec)")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["reference"]


def test_pair_sigmas_have_the_floor(result):
    from levelmatch import SolveOptions

    images = list(result)
    found = match_levels(images, rematch=True, solve=SolveOptions(floor=0.5))
    expected = found.pairs["residual"] / np.sqrt(
        found.pairs["sigma"] ** 2 + 0.25 * u.Unit("MJy2 / sr2")
    )
    assert report.pair_sigmas(found) == pytest.approx(expected.value)


@pytest.mark.parametrize("centre", [(150.1, 2.2), (0.0, -30.0), (10.0, 89.999)])
def test_quick_look_takes_out_the_levels(centre):
    from levelmatch.plots import quick_look

    sim = simulate_generic(
        n_images=4,
        shape=(64, 64),
        center=centre,
        stars=False,
        nebula=False,
        galaxy=False,
        noise=0.01,
        offset_rms=3.0,
        seed=5,
    )
    look = quick_look(match_levels(list(sim.images)), size=60)
    assert max(look.before.shape) <= 62
    good = np.isfinite(look.after)
    # A square of four tiles, whole.
    assert good[3:-3, 3:-3].all()
    assert np.array_equal(good, np.isfinite(look.before))
    assert np.std(look.before[good]) > 1
    assert np.std(look.after[good]) < 0.02
    left, right, bottom, top = look.extent
    assert left > 0 > right
    assert top > 0 > bottom


def test_quick_look_is_the_right_way_up():
    from levelmatch.plots import quick_look

    sim = simulate_generic(
        n_images=2,
        shape=(64, 64),
        layout="chain",
        stars=False,
        nebula=False,
        galaxy=False,
        noise=0.01,
        seed=5,
    )
    images = list(sim.images)
    # A source to the North-East of the first image's centre; North is up, East to the left.
    ra, dec = images[0].wcs.pixel_to_world_values(31.5, 31.5)
    x, y = images[0].wcs.world_to_pixel_values(ra + 10 / 3600, dec + 5 / 3600)
    for image in images:
        image.data -= np.median(image.data)
    images[0].data[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] += 1000
    look = quick_look(match_levels(images))
    row, column = np.unravel_index(np.nanargmax(look.after), look.after.shape)
    left, right, bottom, top = look.extent
    east = left + (column + 0.5) / look.after.shape[1] * (right - left)
    north = bottom + (row + 0.5) / look.after.shape[0] * (top - bottom)
    middle = look.sky.project(images_centre(images[0]))
    assert look.sky.unit == u.arcsec
    assert (east - middle[0], north - middle[1]) == pytest.approx((10, 5), abs=1.0)


def images_centre(image):
    from levelmatch.sky import unit_vectors

    return unit_vectors(*image.wcs.pixel_to_world_values(31.5, 31.5))


def test_plot_mosaic(result, ax):
    from levelmatch.plots import plot_mosaic, quick_look

    look = quick_look(result, size=80)
    assert plot_mosaic(look, ax=ax, corrected=False) is ax
    draw(ax)
    shown = ax.images[0]
    assert np.array_equal(np.ma.filled(shown.get_array(), np.nan), look.before, equal_nan=True)
    other = ax.figure.add_subplot()
    plot_mosaic(result, ax=other, limits=(1, 9))
    assert other.images[0].get_clim() == (1, 9)
    assert shown.get_clim() == look.stretch()[:2]


def test_importing_plots_imports_no_matplotlib():
    code = "import sys, levelmatch.plots, levelmatch.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_leaves_the_backend_alone():
    code = """
import sys
from levelmatch import match_levels, report
from levelmatch.testing import simulate_generic
images = simulate_generic(n_images=2, shape=(32, 32), layout="chain", seed=1).images
report.make_page(match_levels(list(images)), title="", before_after=True)
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
