# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that a catalogue of outlines replaces headers, with the same results."""

import pickle

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from helpers import assert_refused, run, succeed
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch
from levelmatch.images import fits_files
from levelmatch.images.catalogue import sky_outlines
from levelmatch.images.inputs import collect_frames
from levelmatch.measure import pair_selection
from levelmatch.measure.schedule import measure_pairs
from levelmatch.sky.overlaps import find_outline_pairs
from levelmatch.sky.vectors import unit_vectors
from levelmatch.testing import simulate_miri


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Return six small exposures of two tiles."""
    simulation = simulate_miri(tiles=(2, 1), n_dithers=3, shape=(128, 136), seed=3)
    return simulation.write(tmp_path_factory.mktemp("catalogue") / "raw")


@pytest.fixture(scope="module")
def expected(paths):
    return levelmatch.match_levels(paths, fit_type="level+slope")


@pytest.mark.parametrize("kind", ["ecsv", "fits", "parquet"])
def test_a_catalogue_gives_what_headers_give(paths, expected, tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: no parquet")
    path = tmp_path / f"outlines.{kind}"
    levelmatch.write_catalogue(paths, path)
    table = levelmatch.read_catalogue(path)
    found = levelmatch.match_levels(table, fit_type="level+slope")
    assert found.names == expected.names
    assert_array_equal(found.measured.first, expected.measured.first)
    assert_allclose(found.measured.level, expected.measured.level, rtol=1e-9)
    assert found.run.all_options["passes"] == expected.run.all_options["passes"]
    for name in ("level", "error", "slope_u"):
        # The centre of an image is the centre of its outline, not its middle pixel.
        tolerance = 1e-3 * expected.table["error"].value.min()
        assert_allclose(found.table[name].value, expected.table[name].value, atol=tolerance)
    found.write(tmp_path / "matched")
    expected.write(tmp_path / "expected")
    for file in found.files:
        one, two = (
            fits.getdata(tmp_path / folder / file, "SCI") for folder in ("matched", "expected")
        )
        assert_allclose(one, two, rtol=1e-6, atol=1e-5)


def test_no_file_is_opened_before_its_pixels_are_measured(paths, tmp_path, monkeypatch):
    levelmatch.write_catalogue(paths, tmp_path / "outlines.ecsv")
    read = []
    original = fits_files.opened_frames

    def opened(path, *arguments):
        read.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(fits_files, "opened_frames", opened)
    table = levelmatch.read_catalogue(tmp_path / "outlines.ecsv")
    opened_before = []

    def measure(*arguments, **keywords):
        opened_before.append(list(read))
        return measure_pairs(*arguments, **keywords)

    monkeypatch.setattr(pair_selection, "measure_pairs", measure)
    levelmatch.match_levels(table)
    assert opened_before == [[]]
    assert sorted(read) == sorted(path.name for path in paths)


def test_a_catalogue_by_hand_has_regions_and_names_of_cards(paths, expected, tmp_path):
    made = levelmatch.write_catalogue(paths, tmp_path / "made.fits")
    regions = [
        "POLYGON ICRS " + " ".join(f"{a:.9f} {d:.9f}" for a, d in zip(ra, dec, strict=True))
        for ra, dec in zip(made["ra"], made["dec"], strict=True)
    ]
    table = Table({"file": [str(p) for p in paths], "s_region": regions, "unit": ["MJy/sr"] * 6})
    table["detector"] = "mirimage"
    found = levelmatch.match_levels(table, fit_type="level+slope")
    # Unknown shapes may change the weights of images of unequal noise slightly.
    assert_allclose(
        found.table["level"].value,
        expected.table["level"].value,
        atol=0.1 * expected.table["error"].value.min(),
    )


def test_outlines_of_any_order_and_at_the_pole():
    around = np.array([0.0, 90.0, 180.0, 270.0])
    table = Table({"name": ["a", "b"], "ra": [around, around[::-1]], "dec": np.full((2, 4), 89.9)})
    centres, radii, outlines = sky_outlines(table)
    assert_allclose(centres, [[0, 0, 1]] * 2, atol=1e-12)
    assert_allclose(radii, np.radians(0.1), rtol=1e-6)
    pairs, area = find_outline_pairs(centres, radii, outlines)
    assert_array_equal(pairs, [[0, 1]])
    # Side of a square with this diagonal.
    assert_allclose(area, 2 * np.radians(0.1) ** 2, rtol=1e-5)
    crossed = Table({"name": ["c"], "ra": [[359.9, 0.1, 359.9, 0.1]], "dec": [[0, 0, 0.2, 0.2]]})
    centre, _, hull = sky_outlines(crossed)
    assert_allclose(centre[0], unit_vectors(0.0, 0.1), atol=1e-6)
    assert_allclose(
        find_outline_pairs(*sky_outlines(_twice(crossed)))[1], np.radians(0.2) ** 2, 1e-4
    )
    assert hull.shape == (1, 16, 3)


@pytest.mark.parametrize("points", [5, 10, 33])
def test_outlines_of_many_vertices_keep_their_corners(points):
    """Along a parallel, no vertex lies on a line between others."""
    side = np.linspace(0, 1, points)[:-1]
    zero, one = np.zeros_like(side), np.ones_like(side)
    ra = 10 + np.concatenate([side, one, 1 - side, zero])
    dec = 60 + 0.5 * np.concatenate([zero, side, one, 1 - side])
    _, _, outlines = sky_outlines(Table({"name": ["a"], "ra": [ra], "dec": [dec]}))
    corners = unit_vectors(np.array([10, 11, 11, 10.0]), np.array([60, 60, 60.5, 60.5]))
    assert_allclose(
        np.abs(outlines[0][:, np.newaxis] - corners).max(axis=-1).min(axis=0), 0, atol=1e-12
    )


def _twice(table):
    return Table({name: [*table[name], *table[name]] for name in table.colnames})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("file", "nowhere.fits", r"nowhere\.fits: there is no such file"),
        ("nx", 99, r"mirimage_cal\.fits: its shape is \(128, 136\), in the catalogue"),
        ("unit", "Jy", r"mirimage_cal\.fits: its unit is MJy / sr, in the"),
        ("FILTER", "F560W", r"mirimage_cal\.fits: its FILTER is F770W, in the"),
        (
            "nx",
            0,
            r"mirimage_cal\.fits: its nx in the catalogue \(0\) is not a whole number above 0",
        ),
        ("ny", 127.5, r"mirimage_cal\.fits: its ny in the catalogue \(127\.5\) is not a whole"),
        ("ny", np.nan, r"mirimage_cal\.fits: its ny in the catalogue \(nan\) is not a whole"),
        ("ny", "many", r"mirimage_cal\.fits: its ny in the catalogue \(many\) is not a whole"),
        ("hdu", -7, r"mirimage_cal\.fits: its hdu in the catalogue \(-7\) is not a whole number"),
        (
            "ra_centre",
            np.nan,
            r"00001_mirimage_cal\.fits: its ra_centre and dec_centre are no",
        ),
        (
            "dec_centre",
            91.0,
            r"00001_mirimage_cal\.fits: its ra_centre and dec_centre are no",
        ),
        ("dec", 95.0, r"00001_mirimage_cal\.fits: its outline has no area"),
        ("s_region", "CIRCLE 1 2 3", r"00001_mirimage_cal\.fits: s_region: 'CIRCLE"),
        ("dec", None, r"00001_mirimage_cal\.fits: its outline has no area"),
    ],
)
def test_a_wrong_row_is_named(paths, tmp_path, column, value, message):
    table = levelmatch.write_catalogue(paths, tmp_path / "a.ecsv", overwrite=True)
    table["file"] = [str(path) for path in paths]
    if column == "s_region":
        table.remove_columns(["ra", "dec"])
        table[column] = value
    elif column == "dec" and value is not None:
        table[column][0] = value
    elif column == "dec":
        table[column][0] = table[column][0, 0]
        table["ra"][0] = table["ra"][0, 0]
    elif column == "file":
        table[column] = value
    else:
        table[column] = [value] * len(table)
    with pytest.raises(levelmatch.FrameError, match=message):
        levelmatch.match_levels(table)


@pytest.mark.parametrize("suffix", ["table", "ecsv", "fits"])
def test_units_and_missing_values_of_catalogues(paths, expected, tmp_path, suffix):
    table = levelmatch.write_catalogue(paths, tmp_path / "a.ecsv")
    table["file"] = [str(path) for path in paths]
    for name in ("ra", "dec", "ra_centre", "dec_centre"):
        table[name] = (np.asarray(table[name]) * u.deg).to(u.rad)
    for name in ("extension", "hdu"):
        table[name] = MaskedColumn(table[name], mask=[True] * len(table))
    if suffix != "table":
        table.write(tmp_path / f"b.{suffix}", overwrite=True)
        table = levelmatch.read_catalogue(tmp_path / f"b.{suffix}")
    found = levelmatch.match_levels(table, fit_type="level+slope")
    assert found.names == expected.names
    # The conversion from radian rounds the middles of the images.
    assert_allclose(found.table["level"].value, expected.table["level"].value, atol=1e-9)
    table["dec"] = Column(np.asarray(table["dec"]), unit="m")
    with pytest.raises(u.UnitsError, match="the column dec of the catalogue is in m, not in deg"):
        levelmatch.match_levels(table)


def test_a_catalogue_without_rows_is_refused(paths, tmp_path):
    table = levelmatch.write_catalogue(paths, tmp_path / "a.ecsv")
    with pytest.raises(ValueError, match="images: the catalogue has no rows"):
        levelmatch.match_levels(table[:0])


def test_a_row_without_a_file_has_no_pixels(paths, tmp_path):
    table = levelmatch.write_catalogue(paths, tmp_path / "a.ecsv")
    table["file"] = ["", *(str(path) for path in paths[1:])]
    with pytest.raises(levelmatch.FrameError, match="row 0 of the catalogue: it has neither"):
        levelmatch.match_mosaic(table)
    table["name"] = [path.name for path in paths]
    message = f"{paths[0].name}: the catalogue names no file of it, so it has no pixels"
    with pytest.raises(levelmatch.FrameError, match=message):
        levelmatch.match_mosaic(table, group_by="FILENAME")


def test_a_row_of_another_place_is_named(paths, tmp_path):
    table = levelmatch.write_catalogue(paths, tmp_path / "a.ecsv")
    table["file"] = [str(path) for path in paths[1:] + paths[:1]]
    table.remove_column("EXPOSURE")
    with pytest.raises(levelmatch.FrameError, match="arcsec off its outline"):
        levelmatch.match_levels(table)


def test_matched_images_are_refused(paths, expected, tmp_path):
    expected.write(tmp_path / "matched")
    matched = [tmp_path / "matched" / path.name for path in paths]
    table = levelmatch.write_catalogue(matched, tmp_path / "a.ecsv")
    with pytest.raises(levelmatch.FrameError, match="already matched by the pass 'dithers'"):
        levelmatch.match_levels(tmp_path / "a.ecsv")
    table["file"] = [str(path) for path in matched]
    table.remove_columns([name for name in table.colnames if name.startswith("LM")])
    with pytest.raises(levelmatch.FrameError, match="its LM.* is .*, in the catalogue it is None"):
        levelmatch.match_levels(table)


def test_images_in_memory_have_no_catalogue(paint, tmp_path):
    with pytest.raises(levelmatch.FrameError, match=r"a\.fits: a catalogue lists files"):
        levelmatch.write_catalogue([paint("a.fits")], tmp_path / "a.ecsv")


def test_the_command_takes_a_catalogue(paths, expected, tmp_path):
    levelmatch.write_catalogue(paths, tmp_path / "a.ecsv")
    words = ["run", "--catalogue", tmp_path / "a.ecsv", "-o", tmp_path / "out", "-q"]
    succeed(*words, "--fit-type", "level+slope")
    record = levelmatch.read_record(tmp_path / "out" / "levelmatch.asdf")
    tolerance = 1e-3 * expected.table["error"].value.min()
    assert_allclose(record.table["level"].value, expected.table["level"].value, atol=tolerance)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.fits")) == sorted(record.names)
    assert_refused(run(*words, paths[0]), "takes the place of FILES")


@pytest.mark.filterwarnings("ignore::levelmatch.LevelMatchWarning")
def test_patterns_and_stacks_open_the_files(paths, tmp_path):
    levelmatch.write_catalogue(paths, tmp_path / "a.ecsv")
    solve = levelmatch.SolveOptions(pattern="gradient")
    found, expected = (
        levelmatch.match_levels(images, solve=solve) for images in (tmp_path / "a.ecsv", paths)
    )
    assert expected.passes[0].pattern is not None
    assert_allclose(
        found.passes[0].pattern.coefficients, expected.passes[0].pattern.coefficients, rtol=1e-6
    )


def test_a_row_is_sent_to_workers_alone(paths, tmp_path):
    levelmatch.write_catalogue(paths, tmp_path / "a.ecsv")
    table = levelmatch.read_catalogue(tmp_path / "a.ecsv")
    one, two = collect_frames(table)[:2]
    sent = pickle.loads(pickle.dumps(two))
    assert sent.meta.copy() == two.meta.copy() != one.meta.copy()
    assert {len(column) for column in sent.meta.columns.values()} == {1}
    assert_array_equal(sent.read()[0], two.read()[0])
