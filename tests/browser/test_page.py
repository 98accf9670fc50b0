# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the report in a browser: its script, style and colours."""

import math

import numpy as np
import pytest
from helpers import DARK
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from levelmatch import SolveOptions, match_levels
from levelmatch.report import write_report
from levelmatch.testing import simulate_generic, simulate_miri

EVIL = "</script></style></title><img src=x onerror=\"document.title='hit'\">'\"$x^\n\u202eb"


@pytest.fixture(scope="session")
def result():
    """Return a result of four tiles with two dithers; pairs of opposite corners are rejected."""
    images = simulate_miri(tiles=(2, 2), n_dithers=2, shape=(96, 97), seed=1).images
    return match_levels(list(images), solve=SolveOptions(min_linear=0.3))


@pytest.fixture(scope="session")
def page(result, tmp_path_factory):
    return write_report(result, tmp_path_factory.mktemp("page") / "page.html", title="A field")


@pytest.fixture(scope="session")
def page_with_faults(tmp_path_factory):
    """Return a page whose headline names a bad image."""
    simulated = simulate_generic(
        n_images=9, shape=(48, 48), layout="pile", overlap=0.6, noise=0.1, seed=1, **DARK
    )
    images = list(simulated.images)
    images[4].data[:, :30] += 5
    path = tmp_path_factory.mktemp("faults") / "page.html"
    return write_report(match_levels(images), path, before_after=False)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """Return the page of 500 images, and its number of pairs."""
    simulated = simulate_generic(n_images=500, shape=(32, 32), overlap=0.4, stars=False, seed=1)
    found = match_levels(list(simulated.images), group_by=lambda name, meta: name)
    path = tmp_path_factory.mktemp("many") / "page.html"
    return write_report(found, path, before_after=False), len(found.pairs)


def numbers(browser, table, heading):
    """Return the shown numbers of a column, in their order."""
    headings = browser(
        "Array.from(document.getElementById(arguments[0]).tHead.rows[0].cells, "
        "(cell) => cell.textContent)",
        table,
    )
    cells = texts(browser, table, headings.index(heading))
    return [math.nan if c == "\u2013" else float(c.replace("\u2212", "-")) for c in cells]


def texts(browser, table, column):
    script = (
        "Array.from(document.querySelectorAll(`#${arguments[0]} tbody tr:not([hidden])`), "
        "(row) => row.cells[arguments[1]].textContent)"
    )
    return browser(script, table, column)


def head(browser, table, heading):
    """Return the cell of a heading, and its button."""
    for cell in browser.all(f"#{table} thead th"):
        if cell.text.split("\n")[0].strip().startswith(heading):
            return cell, cell.find_element("css selector", "button")
    raise AssertionError(heading)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1200])
def test_loads_alone_and_in_silence(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    assert browser.console == []
    assert browser.requests == [page.as_uri()]
    assert browser("document.title") == "A field"
    # Pictures of both colour schemes are decoded.
    assert browser("Array.from(document.images).every((i) => i.complete && i.naturalWidth > 1)")
    # Plots are as wide as a phone, and readable without scrolling.
    assert min(
        browser(
            "Array.from(document.querySelectorAll('.plots > figure img'), "
            "(i) => i.getBoundingClientRect().width)"
        )
    ) > min(500, 0.9 * width)
    # No element makes the page wider than the screen.
    assert browser("document.documentElement.scrollWidth") <= width


def test_the_headline_leads_to_its_findings(browser, page_with_faults):
    browser.open(page_with_faults)
    link = browser.all(".headline a")[0]
    target = link.get_attribute("href").partition("#")[2]
    for _ in range(2):
        link.click()
        assert browser("document.activeElement.id") == target
        assert "chosen" in browser(f"document.getElementById('{target}').className")


def test_dark_paper(browser, page):
    def look():
        return browser(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.body).color, "
            "document.querySelector('picture img').currentSrc]"
        )

    browser.open(page)
    light = look()
    browser.open(page, dark=True)
    dark = look()
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] == "rgb(20, 23, 27)"
    assert all(a != b for a, b in zip(light, dark, strict=True))


def contrast(browser, selector):
    """Return the contrast of a text with its background, as defined by WCAG."""
    ink, paper = (
        np.array([int(x) for x in value[value.index("(") + 1 : -1].split(",")[:3]]) / 255
        for value in browser(
            "[getComputedStyle(document.querySelector(arguments[0])).color, "
            "getComputedStyle(document.body).backgroundColor]",
            selector,
        )
    )
    light = [
        np.dot(
            [0.2126, 0.7152, 0.0722],
            np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4),
        )
        for c in (ink, paper)
    ]
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable(browser, page, dark):
    browser.open(page, dark=dark)
    for selector in ("main li", "figcaption", "caption", "tr.out td", "td a", "tr.held th"):
        assert contrast(browser, selector) >= 4.5, selector


def test_sorts_numbers(browser, page, result):
    browser.open(page)
    cell, button = head(browser, "images", "Level")
    assert cell.get_attribute("aria-sort") is None
    button.click()
    assert cell.get_attribute("aria-sort") == "ascending"
    values = numbers(browser, "images", "Level")
    assert values == sorted(values)
    assert values == pytest.approx(np.sort(result.table["level"].value), abs=2e-3)
    button.click()
    assert cell.get_attribute("aria-sort") == "descending"
    assert numbers(browser, "images", "Level") == values[::-1]
    assert browser.text("#said") == "Sorted by Level, descending"
    # One column is sorted at a time.
    other, button = head(browser, "images", "Error")
    button.click()
    assert cell.get_attribute("aria-sort") is None
    assert other.get_attribute("aria-sort") == "ascending"


def test_sorts_what_is_no_number_last(browser, page, result):
    browser.open(page)
    left_out = int(np.count_nonzero(~result.pairs["kept"]))
    assert left_out > 0
    _, button = head(browser, "pairs", "Significance (\u03c3)")
    for turn in (1, -1):
        button.click()
        values = numbers(browser, "pairs", "Significance (\u03c3)")
        assert np.isnan(values[-left_out:]).all()
        good = values[:-left_out]
        assert good == sorted(good, reverse=turn < 0)


def test_sorts_text_from_the_keyboard(browser, page):
    browser.open(page)
    before = texts(browser, "images", 0)
    cell, button = head(browser, "images", "Image")
    browser("arguments[0].focus()", button)
    browser.press(Keys.ENTER)
    assert texts(browser, "images", 0) == sorted(before)
    browser.press(Keys.SPACE)
    assert texts(browser, "images", 0) == sorted(before)[::-1]
    assert cell.get_attribute("aria-sort") == "descending"


def test_focus_is_seen(browser, page):
    browser.open(page)
    browser.press(Keys.TAB)
    assert browser.focused.get_attribute("class") == "skip"
    seen = set()
    for _ in range(40):
        browser.press(Keys.TAB)
        style = browser(
            "[document.activeElement.tagName, "
            "getComputedStyle(document.activeElement).outlineStyle]"
        )
        seen.add(style[0])
        if style[0] not in ("BODY", "a"):
            assert style[1] == "solid"
    assert {"INPUT", "a", "BUTTON"} <= seen


def test_side_by_side_or_with_a_slider(browser, page):
    def rects():
        return browser(
            "['before', 'after'].map((id) => { const r = document.querySelector(`#${id} img`)"
            ".getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })"
        )

    browser.open(page)
    pressed = {k: browser.one(f"#{k}").get_attribute("aria-pressed") for k in ("aside", "over")}
    assert pressed == {"aside": "true", "over": "false"}
    before, after = rects()
    assert after[0] >= before[0] + before[2]
    assert after[1] == pytest.approx(before[1], abs=0.5)
    assert not browser.one("#cut").is_displayed()
    browser.one("#over").click()
    before, after = rects()
    assert before == pytest.approx(after, abs=0.5)
    assert browser.one("#cut").is_displayed()
    # Go backward with the keyboard.
    browser("document.getElementById('aside').focus()")
    browser.press(Keys.ENTER)
    before, after = rects()
    assert after[0] >= before[0] + before[2]
    # On a phone the page has one column, with the slider first.
    browser.open(page, width=390)
    assert browser.one("#over").get_attribute("aria-pressed") == "true"
    assert browser.one("#cut").is_displayed()


def test_more_pictures_of_pairs(browser, page, result):
    browser.open(page)
    n = len(browser.all("#differences figure"))
    assert n == len(result.pairs) > 6
    shown = [f for f in browser.all("#differences figure") if f.is_displayed()]
    assert len(shown) == 6
    browser.one("#pictures").click()
    assert all(f.is_displayed() for f in browser.all("#differences figure"))
    assert not browser.one("#pictures").is_displayed()


def test_the_map_has_names_that_can_be_read(browser, page):
    for width in (390, 1200):
        browser.open(page, width=width)
        heights = browser(
            "Array.from(document.querySelectorAll('#graph .names text'), "
            "(t) => t.getBoundingClientRect().height)"
        )
        assert len(heights) == 4
        assert min(heights) > 9
    # The whole map is visible at a moderate width.
    assert browser("document.getElementById('graph').getBoundingClientRect().height") < 560


def test_options_open(browser, page):
    browser.open(page)
    table = browser.one(".options table")
    assert not table.is_displayed()
    browser.one(".options summary").click()
    assert table.is_displayed()


def test_the_cut_moves(browser, page):
    browser.open(page)
    browser.one("#over").click()

    def clips():
        return browser(
            "['before', 'after'].map("
            "(id) => getComputedStyle(document.getElementById(id)).clipPath)"
        )

    def place():
        """Return the position of the cut in the map, in per cent."""
        return 100 * (float(clips()[1].split()[-1].strip("%)")) - left) / (right - left)

    left, right, _, _ = map(float, browser.one("#compare").get_attribute("data-box").split())

    cut = browser.one("#cut")
    assert cut.get_attribute("type") == "range"
    assert browser("document.querySelector('label[for=cut]').textContent.length") > 10
    assert place() == pytest.approx(50, abs=0.1)
    browser("arguments[0].focus()", cut)
    browser.press(Keys.END)
    assert place() == pytest.approx(100, abs=0.1)
    assert cut.get_attribute("aria-valuetext") == "100 % before, 0 % after"
    browser.press(Keys.HOME, Keys.ARROW_RIGHT)
    assert place() == pytest.approx(1, abs=0.1)
    box = browser.one("#compare")
    ActionChains(browser.driver).move_to_element_with_offset(
        box, box.size["width"] // 4, 0
    ).click().perform()
    assert abs(int(cut.get_attribute("value")) - 100 * (75 - left) / (right - left)) <= 1
    # The two pictures lie on top of each other.
    rects = browser(
        "['before', 'after'].map((id) => { const r = document.querySelector(`#${id} img`)"
        ".getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })"
    )
    assert rects[0] == pytest.approx(rects[1], abs=0.5)


def test_a_link_tells_and_shows_its_pair(browser, page, result):
    browser.open(page)
    # Middle of the longest link in the window.
    browser("document.getElementById('graph').scrollIntoView()")
    target, x, y = browser(
        """(() => {
        const paths = Array.from(document.querySelectorAll("#graph a:not(.node):not(.out) path"));
        paths.sort((a, b) => b.getTotalLength() - a.getTotalLength());
        const m = paths[0].getScreenCTM();
        const p = paths[0].getPointAtLength(paths[0].getTotalLength() / 2);
        const name = paths[0].parentElement.getAttribute("href");
        return [name, p.x * m.a + m.e, p.y * m.d + m.f]; })()"""
    )
    pair = result.pairs[int(target[2:])]
    move = ActionChains(browser.driver)
    move.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    move.perform()
    tip = browser.one("#tip")
    assert tip.is_displayed()
    assert " minus " in tip.text
    assert "MJy/sr after" in tip.text
    told = tip.text
    ActionChains(browser.driver).click().perform()
    shown = browser.one("#shown")
    assert shown.is_displayed()
    assert shown.find_element("css selector", "h3").text == told
    assert len(browser.all("#shown dd")) == len(browser.all("#pairs thead th"))
    assert len(browser.all("tr.chosen")) == 1
    assert browser.text("#said") == told
    # The row is in the window, not covered by the tip, and its link stays marked.
    bottom, height = browser(
        "[document.getElementById('shown').getBoundingClientRect().bottom, innerHeight]"
    )
    assert bottom < height + 1
    assert not tip.is_displayed()
    picked = "Array.from(document.querySelectorAll('a.picked'), (a) => a.getAttribute('href'))"
    assert browser(picked) == [target]
    assert [i.get_attribute("alt") for i in browser.all("#shown figure img")] == ["before", "after"]
    names = [cell.text for cell in browser.all("#shown dd")][:2]
    assert names == [pair["image1"], pair["image2"]]
    browser.one("#shown a").click()
    assert browser.focused.get_attribute("id") == target[1:]


def test_links_from_the_keyboard(browser, page, result):
    browser.open(page)
    assert len(browser.all("#graph a[tabindex='0']")) == 1
    browser("document.querySelector(\"#graph a[tabindex='0']\").focus()")
    worst = int(np.nanargmax(np.where(result.pairs["kept"], result.pairs["n_sigma"], np.nan)))
    assert browser("document.activeElement.getAttribute('href')") == f"#p{worst}"
    assert browser.one("#tip").is_displayed()
    browser.press(Keys.ARROW_RIGHT)
    second = browser("document.activeElement.getAttribute('href')")
    assert second != f"#p{worst}"
    browser.press(Keys.ENTER)
    assert browser("document.querySelector('tr.chosen').id") == second[1:]
    browser.press(Keys.ESCAPE)
    assert not browser.one("#tip").is_displayed()
    browser.press(Keys.END)
    assert browser("document.activeElement.classList.contains('node')")
    browser.press(Keys.HOME)
    assert browser("document.activeElement.getAttribute('href')") == f"#p{worst}"


def test_tables_lead_to_each_other(browser, page, result):
    browser.open(page)
    name = str(result.table["name"][2])
    count = sum(name in (p["image1"], p["image2"]) for p in result.pairs)
    browser.all("#images tbody tr")[2].find_element("css selector", "button.of").click()
    assert len(texts(browser, "pairs", 0)) == count
    assert browser.text("#said").startswith(f"{count} pairs of ")
    assert browser.focused.get_attribute("id") == "every"
    browser.press(Keys.ENTER)
    assert len(texts(browser, "pairs", 0)) == len(result.pairs)
    assert browser.focused.get_attribute("id") == "of"
    browser.press("00002_mirimage")
    n = sum("00002_mirimage" in f"{p['image1']} {p['image2']}" for p in result.pairs)
    assert len(texts(browser, "pairs", 0)) == n
    assert 0 < n < len(result.pairs)
    browser.one("#every").click()
    link = browser.one("#pairs tbody tr a")
    target = link.get_attribute("href").partition("#")[2]
    browser("arguments[0].click()", link)
    assert browser.focused.get_attribute("id") == target


def test_without_scripts(browser, page, result):
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.open(page)
    assert len(browser.all("#images tbody tr")) == len(result.table)
    assert len(browser.all("#pairs tbody tr")) == len(result.pairs)
    assert browser.all("thead button") == []
    assert not browser.one("#cut").is_displayed()
    for element in ("#before img", "#after img", "#differences figure", "#graph"):
        assert browser.one(element).is_displayed(), element
    box = [browser.one(f"#{k} img").rect["x"] for k in ("before", "after")]
    assert box[1] > box[0] + 100
    assert all(f.is_displayed() for f in browser.all("#differences figure"))


def test_hostile_names(browser, tmp_path):
    images = list(simulate_generic(n_images=4, shape=(48, 48), overlap=0.4, seed=3).images)
    found = match_levels(images)
    found.frames = [
        frame.with_keys(name=f"{k}{'_x' * k}{EVIL}{k}", tile=f"<b>{EVIL}", whole="")
        for k, frame in enumerate(found.frames)
    ]
    path = write_report(found, tmp_path / "page.html", title=EVIL, before_after=False)
    browser.open(path, width=390)
    assert browser.console == []
    assert browser.requests == [path.as_uri()]
    assert browser("document.title").startswith("</script>")
    assert browser("document.querySelectorAll('img[src=x], td b, th b').length") == 0
    assert browser("document.documentElement.scrollWidth") <= 390
    browser("document.querySelector(\"#graph a[tabindex='0']\").focus()")
    browser.press(Keys.ENTER)
    assert "'hit'" in browser.text("#shown h3")
    assert "onerror" in browser.one("#shown dd").text
    assert browser.all("#shown img") == []
    assert browser.console == []


def test_500_images(browser, many):
    path, n_pairs = many
    browser.open(path)
    assert browser.console == []
    assert len(texts(browser, "pairs", 0)) == 100
    _, button = head(browser, "pairs", "Before")
    button.click()
    values = numbers(browser, "pairs", "Before")
    browser("document.querySelectorAll('.more')[1].click()")
    everything = numbers(browser, "pairs", "Before")
    assert len(everything) == n_pairs > 1000
    assert everything == sorted(everything)
    assert values == everything[:100]
    # Rows are selected among all rows, not among the shown ones.
    browser.open(path)
    _, button = head(browser, "pairs", "Before")
    button.click()
    button.click()
    assert numbers(browser, "pairs", "Before") == everything[::-1][:100]


def test_a_row_out_of_sight_is_shown(browser, many):
    path, n_pairs = many
    browser.open(path)
    last = f"p{n_pairs - 1}"
    assert browser.all(f"#{last}") == []
    browser.driver.execute_script("location.hash = arguments[0]", last)
    assert browser.one(f"#{last}").is_displayed()
    assert browser.focused.get_attribute("id") == last
