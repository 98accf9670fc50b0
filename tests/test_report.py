# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the report as text; tests/browser tests it in a browser."""

import base64
import hashlib
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import NDData
from helpers import DARK
from PIL import Image

from levelmatch import FrameError, LevelMatchWarning, SolveOptions, match_levels, report
from levelmatch.diagnostics import Diagnostics
from levelmatch.record.record_files import read_record
from levelmatch.report.page import make_page
from levelmatch.report.tables import pair_order
from levelmatch.summary import findings, verdict
from levelmatch.testing import simulate_generic, simulate_miri

EVIL = "<script>alert('x')</script>&\"$title"


@pytest.fixture(scope="module")
def planes(simulated):
    return match_levels(list(simulated.images), fit_type_mosaic_tiles="level+slope")


@pytest.fixture
def no_pictures(monkeypatch):
    """Hide matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)


class Page(HTMLParser):
    """Tags of a page, its text, and the text of its cells by table; tags must match."""

    void = frozenset({"meta", "img", "source", "br", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def column(self, table, heading):
        head, *rows = self.tables[table]
        return [row[head.index(heading)] for row in rows]


def floats(cells):
    return [float(cell.replace("\u2212", "-")) for cell in cells]


@pytest.fixture(scope="module")
def text(result):
    """Return the page with all of its pictures, which take time."""
    return make_page(result, title="My field")


def make(result, **options):
    return make_page(result, **{"title": "T", "before_after": False, **options})


def test_the_page_is_written(result, tmp_path, no_pictures):
    path = report.write_report(result, tmp_path / "new" / "page.html", title="My field")
    assert path.read_text(encoding="utf-8") == make_page(result, title="My field")
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_the_page_stands_by_itself(text):
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in text
    assert not {"link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    assert page.all("script") == page.all("style") == [{}]
    assert re.findall(r"https?:|url\(|@import|\bon\w+=| style=", text) == []
    assert "My field" in page.text
    assert len(text) < 1_000_000
    # All links lead to an element of the page.
    identifiers = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    targets = [a["href"] for a in page.all("a")]
    assert {t[1:] for t in targets} <= identifiers
    assert all(t.startswith("#") for t in targets)
    assert len(identifiers) == sum("id" in attrs for _, attrs in page.tags)


def test_the_policy_lets_only_the_page_itself_run(text):
    (policy,) = (m["content"] for m in Page(text).all("meta") if "http-equiv" in m)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_pictures_have_words_and_both_papers(text):
    page = Page(text)
    images, dark = page.all("img"), page.all("source")
    assert len(dark) == 8
    words = [i["alt"].partition(" of")[0] for i in images]
    assert words == [
        "Mosaic",
        "Mosaic",
        "Correction subtracted from the mosaic",
        "Histogram",
        *["before", "after"] * 3,
        "Level subtracted from each",
        "Differences",
        "Histogram",
        "Histogram",
    ]
    for url in [i["src"] for i in images] + [d["srcset"] for d in dark]:
        kind, _, data = url.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True)[:4] == b"\x89PNG"


def test_smooth_colours_have_no_bands():
    from levelmatch.report.pictures import draw_picture

    text, _ = draw_picture(
        lambda ax: ax.imshow(np.arange(256.0)[None], aspect="auto", cmap="cividis"), ""
    )
    data = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]*)"', text)[1])
    blue = np.array(Image.open(io.BytesIO(data)).convert("RGB"))[..., 2]
    row = blue[blue.shape[0] // 2]
    assert len(np.unique(row)) > 60


def test_of_many_pairs_the_worst_have_pictures(result, monkeypatch):
    monkeypatch.setattr("levelmatch.report.pictures.MAX_PAIR_PICTURES", 2)
    monkeypatch.setattr("levelmatch.report.pictures.N_WORST", 1)
    page = Page(make(result, before_after=True))
    assert "Pictures of the 1 worst of 3 pairs." in page.text
    assert [i["alt"] for i in page.all("img")].count("before") == 1
    (drawn,) = [f["id"] for f in page.all("figure") if f.get("id", "")[:1] == "d"]
    assert drawn == f"d{pair_order(Diagnostics.of(result))[0]}"


def test_pictures_of_pairs_share_one_range_of_colours(monkeypatch):
    """A step of many sigma is visible before matching, and gone after."""
    options = {"stars": False, "nebula": False, "galaxy": False, "noise": 0.1, "offset_rms": 50.0}
    images = simulate_generic(n_images=2, shape=(64, 64), layout="chain", seed=3, **options).images
    shown = []
    monkeypatch.setattr(
        "levelmatch.report.pictures.coloured",
        lambda values: shown.append(values) or np.zeros((2, 2, 3), dtype=np.uint8),
    )
    make(match_levels(list(images)), before_after=True)
    before, after = (np.nanmedian(np.abs(values)) for values in shown)
    assert before > 10
    assert after < 1


@pytest.fixture(scope="module")
def blind():
    """Return three images in a row; the outer ones overlap but share no good pixel."""
    chain = simulate_generic(n_images=3, shape=(64, 64), layout="chain", overlap=0.6, seed=3)
    images = list(chain.images)
    images[2].data[:, :14] = np.nan
    return match_levels(images, group_by="FILENAME")


def test_a_pair_without_common_good_pixels(blind):
    assert blind.pairs["npix"].tolist().count(0) == 1
    page = Page(make_page(blind))
    assert "00000 and 00002: no pixel is good in both images." in page.text
    alts = [i["alt"] for i in page.all("img")]
    assert (alts.count("before"), alts.count("after")) == (2, 2)
    # Each pair has a place for its picture, to which the map links.
    figures = [f["id"] for f in page.all("figure") if "id" in f]
    assert {"d0", "d1", "d2"} <= set(figures)


DRAWN = {
    "levelmatch.plots.quick_look": ("Before and after", 4),
    "levelmatch.plots.plot_mosaic": ("Mosaics before and after", 3),
    "levelmatch.plots.plot_gains": ("Flux scales", 1),
    "levelmatch.plots.pairs.pair_picture": ("Differences of 00000 and 00001", 6),
    "levelmatch.plots.plot_levels": ("Levels", 1),
    "levelmatch.plots.plot_residuals": ("Differences of pairs", 2),
    "levelmatch.plots.plot_closures": ("Closures of loops", 1),
    "levelmatch.report.page.graph_section": ("Overlaps on the sky", 0),
    "levelmatch.report.page.image_table": ("Images", 0),
    "levelmatch.report.page.pair_table": ("Pairs", 0),
}


@pytest.mark.parametrize("function", DRAWN)
def test_a_failed_picture_leaves_a_note(result, monkeypatch, tmp_path, function):
    name, n_lost = DRAWN[function]

    def fail(*args, **options):
        msg = "<no ink>"
        raise RuntimeError(msg)

    monkeypatch.setattr(function, fail)
    words = f"the report lacks {name!r}: RuntimeError: <no ink>"
    with pytest.warns(LevelMatchWarning) as caught:
        path = report.write_report(result, tmp_path / "page.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert words in [str(w.message) for w in caught]
    assert f"{name} could not be drawn: RuntimeError: <no ink>" in page.text
    assert "4 images in 4 tiles, 3 of 3 pairs kept." in page.text
    # All other content is present.
    assert len(page.all("img")) == 14 - n_lost
    assert len(page.tables) == 4 - (name in ("Images", "Pairs"))


def test_what_needs_pixels_can_be_left_out(result):
    page = Page(make(result))
    assert [i["alt"][:5] for i in page.all("img")] == ["Level", "Diffe", "Histo", "Histo", "Histo"]
    assert "without its images" not in page.text


def test_tables(result, no_pictures):
    page = Page(make(result))
    captions = [tag for tag, _ in page.tags].count("caption")
    assert captions == len(page.tables) == 4
    images, pairs, options, versions = page.tables
    assert images[0] == ["Image", "Mark", "Pairs", "Level", "Error"]
    table = result.table
    assert page.column(0, "Image") == ["00000", "00001", "00002", "00003"]
    assert floats(page.column(0, "Level")) == pytest.approx(table["level"].value, abs=6e-4)
    assert page.column(0, "Mark") == ["reference" if x else "" for x in table["reference"]]
    assert pairs[0] == [
        "First",
        "Second",
        "Pass",
        "Before",
        "Error",
        "Residual",
        "Significance (\u03c3)",
        "Weight",
        "Scatter",
        "Pixels",
        "Gain (%)",
        "Kept",
    ]
    # The most significant residual comes first.
    found = result.pairs[pair_order(Diagnostics.of(result))]
    assert (np.diff(found["n_sigma"]) <= 0).all()
    assert floats(page.column(1, "Before")) == pytest.approx(found["level"].value, abs=6e-3)
    assert floats(page.column(1, "Error")) == pytest.approx(found["sigma"].value, abs=6e-3)
    assert floats(page.column(1, "Pixels")) == found["npix"].tolist()
    assert page.column(1, "Kept") == ["kept"] * 3
    assert ["function", "match_levels"] in options
    assert ["measure.clip", "3.0"] in options
    assert "\u2013" not in [value for _, value in options]
    assert ["levelmatch", result.versions["levelmatch"]] in versions
    assert ["created (UTC)", result.created] in versions
    assert page.all("th").count({"scope": "row"}) > 20


def test_the_headline_is_on_top(no_pictures):
    simulated = simulate_generic(
        n_images=9, shape=(48, 48), layout="pile", overlap=0.6, noise=0.1, seed=1, **DARK
    )
    images = list(simulated.images)
    images[4].data[:, :30] += 5
    facts = Diagnostics(match_levels(images))
    text = make(facts.result)
    (top,) = re.findall(r'<section class="headline".*?</section>', text, re.DOTALL)
    assert text.index(top) < text.index("<h2>Summary")
    found = findings(facts)
    assert found
    for finding in found[:4]:
        (link,) = re.findall(f'<a href="#{finding.target[0][0]}{finding.target[1]}">(.*?)</a>', top)
        # Names are shortened.
        assert link in (finding.words.replace("image_", "").replace(".fits", ""))
    assert verdict(facts) in Page(text).text
    assert "Matched by match_levels on 20" in Page(text).text
    assert Page(text).column(0, "Mark")[4] == "suspect"


def test_tiny_numbers(no_pictures):
    images = list(simulate_generic(n_images=4, shape=(64, 64), seed=3).images)
    for image in images:
        image.data = image.data * 1e-13
    found = match_levels(images)
    page = Page(make(found))
    levels = [cell.replace("\u2212", "-") for cell in page.column(0, "Level")]
    errors = found.table["error"].value
    assert np.array(levels, dtype=float) == pytest.approx(
        found.table["level"].value, abs=0.1 * np.median(errors[errors > 0])
    )


def test_errors_that_are_unknown(result, no_pictures, monkeypatch):
    table = result.table
    table["error"][1] = np.nan
    monkeypatch.setattr(type(result), "table", property(lambda self: table))
    page = Page(make(result))
    assert page.column(0, "Error")[1] == "\u2013"
    assert "nan" not in page.text


def test_every_pair_is_a_link_of_the_drawing(result, no_pictures):
    page = Page(make(result))
    drawn = [a["href"] for a in page.all("a") if "tabindex" in a]
    assert sorted(drawn) == ["#i0", "#i1", "#i2", "#i3", "#p0", "#p1", "#p2"]
    assert len(page.all("polygon")) == 4
    assert len(page.all("title")) == 1 + len(drawn)
    assert "MJy/sr after" in page.text


def test_references_are_on_top_of_the_drawing(simulated, no_pictures):
    page = Page(make(match_levels(list(simulated.images), reference=0)))
    drawn = [a["href"] for a in page.all("a") if "tabindex" in a]
    assert drawn[-1] == "#i0"


def test_the_map_has_a_compass_and_a_scale(result, no_pictures):
    text = make(result)
    (bar,) = re.findall(r'<g class="compass".*?h([0-9.]+)m0 -5.*?>([0-9.]+) (\w+)</text>', text)
    length = float(bar[1]) * u.Unit(bar[2])
    # The footprint of an image has 64 pixels of 0.5 arcsec.
    (points, *_) = re.findall(r'<polygon class="s0" points="([^"]*)"', text)
    xs = [float(point.partition(",")[0]) for point in points.split()]
    side = length / float(bar[0]) * (max(xs) - min(xs))
    assert side.to_value(u.arcsec) == pytest.approx(32, rel=0.1)
    assert ">N</text>" in text
    assert ">E</text>" in text


def test_data_without_a_unit_are_in_data_units(simulated, no_pictures):
    found = match_levels([NDData(i.data, wcs=i.wcs, meta=i.meta) for i in simulated.images])
    assert found.unit is None
    page = Page(make(found))
    assert "data units before" in page.text
    assert page.text.count(" in data units") == 2
    assert page.text.count(" data units after, ") == len(found.pairs)


def test_planes_have_slopes(planes, no_pictures):
    head = Page(make(planes)).tables[0][0]
    assert head[5:10] == [
        "Slope to East",
        "Error East",
        "Slope to North",
        "Error North",
        "Slope / \u03c3",
    ]


def test_rejected_pairs_say_why(no_pictures):
    images = simulate_miri(tiles=(2, 2), n_dithers=1, shape=(96, 97), seed=1).images
    found = match_levels(list(images), solve=SolveOptions(min_linear=0.3))
    n = int(np.count_nonzero(~found.pairs["kept"]))
    assert n > 0
    text = make(found)
    page = Page(text)
    verdicts = page.column(1, "Kept")
    assert sum(v.startswith("rejected: extent: ") for v in verdicts) == n
    why = "overlap too short, under 0.3 of an image's side (min_linear)"
    assert f"{n} pair{'s' if n > 1 else ''} rejected: {why}." in page.text
    sigmas = page.column(1, "Significance (\u03c3)")
    # Rejected pairs come last, without significance.
    assert [s == "\u2013" for s in sigmas] == [v.startswith("rejected") for v in verdicts]
    assert all(v.startswith("rejected") for v in verdicts[-n:])
    assert text.count('class="out"><title>') == n


def test_sets_and_lone_images_are_noted(split, no_pictures):
    page = Page(make(split))
    assert "The tiles form" not in page.text
    assert "Without any pair that is kept, so not corrected: 00003." in page.text
    assert page.column(0, "Mark").count("no overlap") == 1
    # Levels without pairs have no error.
    assert [cell == "\u2013" for cell in page.column(0, "Error")] == [False, False, True]
    assert page.column(0, "Set") == ["1", "1", "2"]
    assert "set 2: 1 image" in page.text
    assert {p["class"] for p in page.all("polygon")} == {"s0", "s1"}


def test_mixed_units(simulated, no_pictures):
    images = list(simulated.images)
    images[2].data = images[2].data / 1000
    images[2].unit = u.GJy / u.sr
    images[2].meta["BUNIT"] = "GJy / sr"
    page = Page(make(match_levels(images)))
    assert page.column(0, "Unit") == ["MJy / sr", "MJy / sr", "GJy / sr", "MJy / sr"]
    assert "Each image is in its own unit." in page.text


@pytest.mark.parametrize("fit_type", ["auto", "level", "level+slope"])
def test_one_image_alone(fit_type):
    (image,) = simulate_generic(n_images=1, shape=(32, 32), seed=1).images
    with pytest.warns(UserWarning, match="is the only image"):
        found = match_levels([image], fit_type_mosaic_tiles=fit_type)
    page = Page(make(found))
    assert "1 image in 1 tile" in page.text
    assert len(page.tables) == 3


def test_everything_is_escaped(simulated):
    images = list(simulated.images)
    for k, image in enumerate(images):
        image.meta["FILENAME"] = f"<script>{k}</script>.fits"
        image.meta["TILE"] = f"{EVIL}{k // 2}"
    found = match_levels(images, group_by="TILE")
    # Any text that is not a file name may be foreign.
    found.frames = [f.with_keys(name=f"{k}{EVIL}{k}") for k, f in enumerate(found.frames)]
    text = make(found, title=EVIL)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert text.count("<script") == 1
    assert page.text.count(EVIL) > 8
    assert page.column(0, "Image")[0] == f"0{EVIL}0"
    assert page.text.count("Level matching") == 0


def test_signs_that_are_none(result, no_pictures, tmp_path):
    """Foreign names contain lone surrogates, control characters and direction marks."""
    images = list(result.frames)
    found = match_levels(list(simulate_generic(n_images=4, shape=(64, 64), seed=3).images))
    found.frames = [f.with_keys(name=f"\udcff\x00\u202e\n{k}") for k, f in enumerate(found.frames)]
    path = report.write_report(found, tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert not set("\x00\u202e") & set(text)
    assert "\ufffd" * 4 in text
    assert len(images) == 4


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
    assert 'pip install "levelmatch[report]"' in page.text
    assert len(page.tables[0]) == 5
    assert len(page.all("polygon")) == 4


def test_a_failed_page_leaves_nothing(result, tmp_path, monkeypatch, no_pictures):
    path = report.write_report(result, tmp_path / "page.html", title="Old", before_after=False)

    def fail(*args):
        msg = "the disk is full"
        raise OSError(msg)

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="the disk is full"):
        report.write_report(result, path, before_after=False)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    assert "<title>Old</title>" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"SIMPLE  =", b"<!DOCTYPE html>\n<p>levelmatch"])
def test_only_a_page_is_replaced(result, tmp_path, no_pictures, content):
    path = tmp_path / "page.html"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"page\.html exists and is not a page of levelmatch"):
        report.write_report(result, path)
    assert path.read_bytes() == content
    with pytest.raises(FileExistsError, match="name another"):
        report.write_report(result, tmp_path)
    path.unlink()
    report.write_report(result, path, title="First")
    report.write_report(result, path, title="Second")
    assert "<title>Second</title>" in path.read_text(encoding="utf-8")


def test_a_page_on_another_run_is_replaced_if_asked_for(result, simulated, tmp_path, no_pictures):
    path = report.write_report(result, tmp_path / "page.html", title="First")
    again = match_levels(list(simulated.images))
    with pytest.raises(FileExistsError, match=r"page\.html exists; overwrite=True replaces it"):
        report.write_report(again, path, title="Second")
    assert "<title>First</title>" in path.read_text(encoding="utf-8")
    report.write_report(again, path, title="Second", overwrite=True)
    assert "<title>Second</title>" in path.read_text(encoding="utf-8")


def test_a_record_has_no_pictures_of_pixels(result, as_record):
    page = Page(make_page(as_record(result)))
    assert [i["alt"][:5] for i in page.all("img")] == ["Level", "Diffe", "Histo", "Histo", "Histo"]
    assert "made from a record without its images" in page.text
    # All other content is equal.
    assert page.tables == Page(make(result)).tables


def test_a_record_with_its_files(simulated, as_record, tmp_path):
    paths = simulated.write(tmp_path)
    found = match_levels(paths)
    whole = make_page(found, title="T")
    assert make_page(as_record(found), title="T", files=paths) == whole
    assert make_page(as_record(found), title="T", files=tmp_path) == whole
    with pytest.raises(FrameError, match=r"image_00001\.fits, image_00003\.fits: a record"):
        make_page(as_record(found), files=[paths[0], paths[2]])


def test_a_record_from_its_file(simulated, tmp_path):
    paths = simulated.write(tmp_path / "raw")
    found = match_levels(paths)
    record = read_record(found.record.write(tmp_path / "levelmatch.asdf"))
    page, whole = (Page(make_page(r, files=paths)) for r in (record, found))
    assert page.tables[:2] == whole.tables[:2]
    assert [sorted(t) for t in page.tables] == [sorted(t) for t in whole.tables]
    assert [i["alt"] for i in page.all("img")] == [i["alt"] for i in whole.all("img")]


def test_the_page_leaves_the_backend_alone():
    code = """
import sys
from levelmatch import match_levels
from levelmatch.report import page
from levelmatch.testing import simulate_generic
images = simulate_generic(n_images=2, shape=(32, 32), layout="chain", seed=1).images
page.make_page(match_levels(list(images)), title="", before_after=True)
pyplot = sys.modules.get("matplotlib.pyplot")
sys.exit(pyplot is not None and bool(pyplot.get_fignums()))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_imports_no_matplotlib():
    code = "import sys, levelmatch.plots, levelmatch.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
