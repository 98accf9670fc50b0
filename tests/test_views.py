# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of results and records as text, tables, figures and in notebooks."""

import re
import sys

import numpy as np
import pytest
from astropy.table import QTable

from levelmatch import match_levels
from levelmatch.record.tables import LevelTable
from levelmatch.summary import headline, notes, summary_lines
from levelmatch.testing import simulate_generic, simulate_miri


@pytest.fixture(scope="module")
def result():
    images = simulate_miri(tiles=(2, 2), n_dithers=2, shape=(96, 97), seed=1).images
    return match_levels(list(images))


@pytest.fixture(params=["result", "record"])
def either(request, result, as_record):
    return result if request.param == "result" else as_record(result)


def printed(table, monkeypatch, columns=80):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "60")
    return str(table).splitlines()


def test_tables_show_their_first_columns_on_80_columns(either, monkeypatch):
    lines = printed(either.table, monkeypatch)
    assert lines[0].split()[:4] == ["name", "tile", "level", "error"]
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.startswith("00")]
    assert len(rows) == len(either.table)
    # The errors determine the number of digits.
    error = np.percentile([e for e in either.table["error"].value if e > 0], 10)
    digits = int(1 - np.floor(np.log10(error)))
    for row, level in zip(rows, either.table["level"].value, strict=True):
        assert row[2] == f"{level:.{digits}f}"
    assert any("name: the part * of jw02107*_02101_*_mirimage_cal.fits" in line for line in lines)
    assert "slope_u" in " ".join(lines[-3:])


def test_wide_terminals_show_whole_names(result, monkeypatch):
    lines = printed(result.table, monkeypatch, columns=400)
    assert lines[0].split() == result.table.colnames
    assert str(result.table["name"][0]) in "\n".join(lines)
    assert "not shown" not in "\n".join(lines)


def test_pairs_and_loops_fit(result, monkeypatch):
    lines = printed(result.pairs, monkeypatch)
    head = ["image1", "image2", "pass", "level", "sigma", "residual", "n_sigma"]
    assert lines[0].split()[:7] == head
    assert max(map(len, lines)) <= 80
    lines = printed(result.closures, monkeypatch)
    assert lines[0].split()[:4] == ["pass", "images", "n_pairs", "closure"]
    assert max(map(len, lines)) <= 80


def test_tables_remain_tables(result, tmp_path):
    table = result.table
    assert isinstance(table, QTable)
    assert isinstance(table["name", "level"], LevelTable)
    table.write(tmp_path / "levels.ecsv")
    again = QTable.read(tmp_path / "levels.ecsv")
    assert again.colnames == table.colnames
    assert (again["level"] == table["level"]).all()
    assert str(LevelTable()) == ""
    assert str(table[:0]).splitlines()[0].split()[0] == "name"


def test_tiny_levels_are_printed(monkeypatch):
    images = list(simulate_generic(n_images=4, shape=(48, 48), seed=3).images)
    for image in images:
        image.data = image.data * 1e-13
    table = match_levels(images).table
    lines = printed(table, monkeypatch, 200)
    column = lines[0].split().index("level")
    shown = [float(line.split()[column]) for line in lines[3:7]]
    assert shown == pytest.approx(table["level"].value, rel=1e-3)


def test_summary(either):
    lines = either.summary().splitlines()
    n = len(headline(either))
    assert lines[:n] == headline(either)
    assert lines[n + 1 : n + 1 + len(summary_lines(either))] == summary_lines(either)
    assert [line for line in lines if line.startswith("Note: ")] == [
        f"Note: {note}" for note in notes(either)
    ]


def test_notebooks_show_headline_table_and_picture(either):
    html = either._repr_html_()
    assert headline(either)[0] in html
    (table,) = re.findall(r"<table.*?</table>", html, re.DOTALL)
    assert "<th>level</th>" in table
    # Names are shortened, with their pattern below.
    assert "<td>001001\u202600001</td>" in table
    assert "jw02107*_02101_*_mirimage_cal.fits" in html
    assert html.count("data:image/png;base64,") == 1
    assert len(html) < 200_000


def test_notebooks_without_matplotlib(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    html = result._repr_html_()
    assert "<img" not in html
    assert "<table" in html


def test_long_tables_are_cut_in_notebooks(monkeypatch, result):
    monkeypatch.setattr("levelmatch.record.run_result.N_ROWS", 3)
    html = result._repr_html_()
    assert html.count("<tr><td>") == 3
    assert "5 more images" in html
    assert "str43" not in html


def test_plot(either):
    figure = either.plot()
    assert len(figure.subfigs) == 4
    ax = either.plot("levels")
    assert "Level subtracted" in ax.get_ylabel()
    with pytest.raises(ValueError, match="kind: 'stars' is none of"):
        either.plot("stars")
    from matplotlib import pyplot as plt

    plt.close("all")


def test_report(either, tmp_path):
    path = either.report(tmp_path / "page.html", title="Mine", before_after=False)
    assert "<title>Mine</title>" in path.read_text(encoding="utf-8")
