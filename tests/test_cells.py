# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images in healpix cells: their levels are those of pixels."""

from dataclasses import fields

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, Table
from astropy_healpix import healpix_to_xyz, xyz_to_healpix
from astropy_healpix.core import nested_to_ring
from helpers import succeed
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch
from levelmatch import FrameError, SkyCells, SolveOptions, make_sky_cells, match_mosaic
from levelmatch.images.table_files import write_table
from levelmatch.measure.cells import CellRows
from levelmatch.measure.table import PairTable
from levelmatch.sky.vectors import plane_terms, tangent_axes, unit_vectors
from levelmatch.testing import level_errors, simulate_generic

NSIDE = 4096
LEVELS = np.array([0.0, 1.5, -0.7, 2.0])


def cells_about(
    centre, *, side=24, level=0.0, noise=0.05, name="a", plane=(0, 0, 0), seed=0, about=None
):
    """Cells within so many cells of a centre, of a sky that all share and a plane of their own."""
    axes = tangent_axes(unit_vectors(*centre))
    step = np.sqrt(4 * np.pi / 12) / NSIDE
    grid = (np.arange(2 * side) - side + 0.5) * step / 2
    points = axes[0] + grid[:, None, None] * axes[1] + grid[:, None] * axes[2]
    index = np.unique(xyz_to_healpix(*np.moveaxis(points, -1, 0), NSIDE, order="nested"))
    vectors = np.stack(healpix_to_xyz(index, NSIDE, order="nested"), axis=-1)
    about = tangent_axes(unit_vectors(*(about or centre)))
    sky = 5 + 3 * np.sin(4000 * vectors[:, 0]) + plane_terms(vectors, about) @ plane
    rng = np.random.default_rng([seed, *name.encode()])
    value = sky + level + noise * rng.standard_normal(len(index))
    error, coverage = np.full(len(index), noise), np.full(len(index), 100)
    return SkyCells(index, value, error, coverage, nside=NSIDE, name=name, unit="MJy/sr")


@pytest.fixture
def row():
    """Four images in a row, half of each shared with the next."""
    step = np.degrees(np.sqrt(4 * np.pi / 12) / NSIDE)
    return [
        cells_about((30.0 + 13 * k * step, 0.0), level=level, name=f"{k}.fits", seed=2)
        for k, level in enumerate(LEVELS)
    ]


def test_levels_are_known_and_errors_right(row):
    result = match_mosaic(row, group_by="FILENAME", reference="0.fits")
    errors = result.table["error"].value
    assert_array_equal(result.names, ["0.fits", "1.fits", "2.fits", "3.fits"])
    assert (np.abs(result.table["level"].value - LEVELS) < 4 * errors + 1e-12).all()
    # About 264 cells of each pair, of a noise of 0.05 in both.
    assert_allclose(result.measured.sigma, 0.05 * np.sqrt(2 / 264), rtol=0.3)
    assert_allclose(errors[1:], result.measured.sigma[0] * np.sqrt([1, 2, 3]), rtol=0.25)
    assert result.run.options["nside"] == NSIDE


def test_no_result_depends_on_the_order_of_images_or_cells(row):
    expected = match_mosaic(row, group_by="FILENAME", reference="0.fits").table["level"]
    turned = [_shuffled(cells) for cells in row[::-1]]
    found = match_mosaic(turned, group_by="FILENAME", reference="0.fits").table["level"]
    assert_array_equal(found[::-1], expected)


def _shuffled(cells):
    order = np.random.default_rng(1).permutation(len(cells))
    ring = nested_to_ring(cells.index, cells.nside)
    columns = [column[order] for column in (ring, cells.value, cells.error, cells.coverage)]
    return SkyCells(*columns, nside=cells.nside, name=cells.name, order="ring", unit=cells.unit)


@pytest.mark.parametrize("side", [24, 80])
def test_outliers_of_cells_are_clipped(side):
    rng = np.random.default_rng(2)
    images = [
        cells_about((30.0, 0.0), level=level, name=f"{k}.fits", side=side)
        for k, level in enumerate(LEVELS)
    ]
    # A star in one of 50 cells, and in no other image.
    images[1].value[rng.choice(len(images[1]), len(images[1]) // 50, replace=False)] += 30
    result = match_mosaic(images, group_by="FILENAME", reference="0.fits")
    wrong = result.table["level"].value - LEVELS
    assert (np.abs(wrong) < 5 * result.table["error"].value + 1e-12).all()
    assert result.table["error"].value.max() < 0.2 * 0.05 * np.sqrt(24 / side)


def test_planes_are_known(row):
    centre, slopes = (30.02, 0.0), ((0, 0), (0.2, -0.1), (0.0, 0.3), (-0.2, 0.1))
    images = [
        cells_about(
            (30.0 + 0.04 * (k % 2), 0.04 * (k // 2)),
            side=80,
            plane=(LEVELS[k], *slopes[k]),
            name=f"{k}.fits",
            about=centre,
        )
        for k in range(4)
    ]
    options = {"group_by": "FILENAME", "reference": "0.fits", "fit_type": "level+slope"}
    table = match_mosaic(images, **options).table
    for name, truth in zip(("slope_u", "slope_v"), np.transpose(slopes), strict=True):
        error = table[f"{name}_error"].value
        assert (np.abs(table[name].value - truth) < 5 * error + 1e-12).all(), name
        assert error.max() < 0.02
    corrected = match_mosaic(images, **options)[2]
    expected = cells_about((30.0, 0.04), side=80, name="2.fits")
    assert_allclose(corrected.value - expected.value, 0, atol=0.05)


def test_the_poles_and_ra_zero_change_nothing():
    near = [(0.0, 0.0), (0.0, 89.99), (359.999, -45.0)]
    for centre in near:
        images = [
            cells_about(centre, level=level, name=f"{k}.fits") for k, level in enumerate(LEVELS)
        ]
        table = match_mosaic(images, group_by="FILENAME", reference="0.fits").table
        assert (np.abs(table["level"].value - LEVELS) < 5 * table["error"].value + 1e-12).all()


def test_pairs_are_those_that_share_cells(row):
    frames = levelmatch.images.inputs.collect_frames(row)
    rows = CellRows(frames)
    pairs, area = rows.pairs()
    assert_array_equal(pairs, [[0, 1], [1, 2], [2, 3]])
    sets = [set(cells.index.tolist()) for cells in row]
    shared = [len(sets[i] & sets[j]) for i, j in pairs]
    assert_allclose(area, np.array(shared) * 4 * np.pi / (12 * NSIDE**2))
    depth = rows.depth(np.zeros(4, int), np.ones(4, bool))
    count = {cell: sum(cell in s for s in sets) for cell in set.union(*sets)}
    assert_array_equal(depth, [count[cell] for cell in rows.cells[rows.cell].tolist()])


def test_chunks_change_nothing(row, monkeypatch):
    expected = match_mosaic(row, group_by="FILENAME").measured
    monkeypatch.setattr("levelmatch.measure.cells.CHUNK", 10)
    found = match_mosaic(row, group_by="FILENAME").measured
    for field in fields(PairTable):
        one, two = (getattr(table, field.name) for table in (found, expected))
        assert_array_equal(one, two, err_msg=field.name)


@pytest.mark.parametrize(
    "simulate",
    [
        lambda: simulate_generic(n_images=9, shape=(200, 200), seed=1),
    ],
    ids=["generic"],
)
@pytest.mark.filterwarnings("ignore::levelmatch.LevelMatchWarning")
def test_levels_of_cells_are_as_good_as_those_of_pixels(simulate, tmp_path):
    simulation = simulate()
    paths = simulation.write(tmp_path)
    rms = []
    for images in (paths, make_sky_cells(paths)):
        result = levelmatch.match_levels(images, group_by="FILENAME")
        wrong = level_errors(result.table["level"], simulation.truth).value
        rms.append(np.sqrt(np.mean(wrong**2)))
        assert rms[-1] < 2.5 * result.table["error"].value.max()
    # Of one small set the two differ by chance; benchmarks/cells.py compares many.
    assert rms[1] < 1.6 * rms[0]


def test_cells_of_an_image_have_its_values(paint):
    image = paint("a.fits", noise=0.1, shape=(200, 300), sky=(5, 2, -3))
    image.mask = np.zeros(image.shape, dtype=bool)
    image.mask[:40, :200] = True
    image.data[100:103, 100:103] = 1e4
    for statistic, efficiency in (("mean", 1.0), ("median", np.sqrt(np.pi / 2))):
        (cells,) = make_sky_cells([image], statistic=statistic, nside=16384)
        truth = plane_terms(cells.vectors, tangent_axes(unit_vectors(150.0, 2.0))) @ (5, 2, -3)
        pull = (cells.value - truth) / cells.error
        far = np.abs(pull) > 5
        assert far.mean() < 0.03
        whole = cells.coverage > 0.9 * cells.coverage.max()
        assert_allclose(np.std(pull[~far & whole]), 1, atol=0.2)
        expected = efficiency * 0.1 / np.sqrt(cells.coverage[whole])
        assert_allclose(np.median(cells.error[whole] / expected), 1, rtol=0.1)
        assert cells.coverage.sum() <= 200 * 300 - 40 * 200
    corner = image.wcs.pixel_to_world_values(-0.5, -0.5)
    assert_allclose(cells.corners[0], corner, atol=1e-8)


@pytest.mark.parametrize("kind", ["ecsv", "fits", "parquet"])
def test_tables_hold_cells(row, tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: no parquet")
    cells = SkyCells(
        row[1].index, row[1].value, row[1].error, row[1].coverage, nside=NSIDE, name="1.fits",
        unit="MJy/sr", corners=[(1, 2), (3, 4), (5, 6), (7, 8)], meta={"FILTER": "F770W"},
    )  # fmt: skip
    cells.write(tmp_path / f"a.{kind}")
    found = SkyCells.read(tmp_path / f"a.{kind}")
    assert found.digest == cells.digest
    assert (found.name, found.unit, found.meta) == (cells.name, cells.unit, cells.meta)
    assert_array_equal(found.corners, cells.corners)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"NSIDE": "many"}, "1.fits: the metadata of its cells cannot be used: .*'many'"),
        ({"RA0": 30.0, "DEC0": 0.0, "RA1": 30.0}, "cannot be used: it lacks 'DEC1'"),
        ({"value": u.Jy}, "1.fits: its column value is in Jy, its BUNIT is MJy / sr"),
        ({"error": u.Jy}, "1.fits: its column error is in Jy, its BUNIT is MJy / sr"),
        ({"BUNIT": "", "value": u.Jy, "error": u.mJy}, "1.fits: its column error is in mJy"),
    ],
)
def test_metadata_and_units_of_tables_are_checked(row, change, message):
    table = row[1].to_table()
    for key, value in change.items():
        if key in table.colnames:
            table[key].unit = value
        else:
            table.meta[key] = value
    with pytest.raises(FrameError, match=message):
        SkyCells.from_table(table)


def test_catalogues_are_no_tables_of_cells():
    table = Table({"name": ["a.fits"], "ra": [30.0]})
    with pytest.raises(FrameError, match="survey: not a table .*; read_catalogue, or --cat"):
        SkyCells.from_table(table, "survey")


@pytest.mark.parametrize("kind", ["table", "ecsv", "fits", "parquet"])
def test_masked_cells_are_missing(row, tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    table = row[1].to_table()
    for key in ("value", "coverage"):
        table[key] = MaskedColumn(table[key])
        table[key][7] = 10**6
        table[key].mask[7] = True
    expected = np.delete(row[1].value, 7)
    if kind == "table":
        assert_array_equal(SkyCells.from_table(table).value, expected)
        return
    write_table(table, tmp_path / f"a.{kind}")
    assert_array_equal(SkyCells.read(tmp_path / f"a.{kind}").value, expected)


def test_a_record_of_cells_is_read_solved_and_shown(row, tmp_path):
    result = match_mosaic(row, group_by="FILENAME", reference="0.fits")
    result.record.write(tmp_path / "levelmatch.asdf")
    record = levelmatch.read_record(tmp_path / "levelmatch.asdf")
    assert_array_equal(record.table["level"], result.table["level"])
    again = levelmatch.solve_record(record, solve=SolveOptions(weights="equal"))
    assert_allclose(again.table["level"].value, LEVELS, atol=0.05)
    assert "from healpix cells of nside 4096" in levelmatch.summary.summary_lines(record)[0]
    levelmatch.report.write_report(result, tmp_path / "page.html")
    assert "healpix cells of nside 4096" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_corrected_cells_are_written_and_refused_again(row, tmp_path):
    result = match_mosaic(row, group_by="FILENAME", reference="0.fits")
    paths = result.write(tmp_path / "out")
    assert [path.name for path in paths] == [f"{k}.fits.cells.ecsv" for k in range(4)]
    found = SkyCells.read(paths[1])
    assert_allclose(found.value, row[1].value - result.table["level"][1].value)
    with pytest.raises(FrameError, match=r"0\.fits: already matched"):
        match_mosaic(paths, group_by="FILENAME")


def test_levels_of_cells_are_applied_to_the_images(paint, tmp_path):
    images = [paint(f"{k}.fits", (0, 20 * k), level=LEVELS[k], shape=(64, 64)) for k in range(3)]
    paths = [tmp_path / image.meta["FILENAME"] for image in images]
    for image, path in zip(images, paths, strict=True):
        image.write(path)
    cells = make_sky_cells(paths, nside=65536)
    levelmatch.match_mosaic(cells, group_by="FILENAME", reference="0.fits").record.write(
        tmp_path / "levelmatch.asdf"
    )
    levelmatch.apply_record(tmp_path / "levelmatch.asdf", paths, tmp_path / "out")
    found = levelmatch.match_mosaic(
        [tmp_path / "out" / path.name for path in paths],
        group_by="FILENAME",
        reference="0.fits",
        read=levelmatch.ReadOptions(rematch=True),
    )
    assert_allclose(found.table["level"].value, 0, atol=0.02)


def _made(**changes):
    columns = {"index": [5, 6, 8], "value": [1.0, 2, 3], "error": [1.0] * 3, "coverage": [9] * 3}
    keys = {"nside": 64, "name": "x.fits"}
    return SkyCells(**{**columns, **keys, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": [5, 5, 8]}, r"x\.fits: the cell 5 \(nested\) is given twice"),
        ({"index": [5, 6, 49152]}, r"x\.fits: index: 5 to 49152 are not all cells of nside 64"),
        ({"index": [5.5, 6, 7]}, r"x\.fits: index: indices are whole numbers"),
        ({"value": [1.0, 2]}, r"x\.fits: its cells differ in number: 3 of index, 2 of value"),
        ({"error": [1, -1, 1]}, r"x\.fits: the cell 6 has the error -1\.0"),
        ({"error": [1, 1, np.nan]}, r"x\.fits: the cell 8 has the error nan"),
        ({"nside": 63}, r"x\.fits: nside: 63 is not a power of two"),
        ({"order": "uniq"}, r"x\.fits: order: 'uniq' is neither"),
        ({"coverage": [0, 0, 0]}, r"x\.fits: no cell has a value"),
    ],
)
def test_impossible_cells_are_named(changes, message):
    with pytest.raises(FrameError, match=message):
        _made(**changes)


@pytest.mark.parametrize("nside", [3, 0, 1.5, "x"])
def test_an_impossible_resolution_is_refused_at_once(paint, nside):
    with pytest.raises(ValueError, match=f"nside: {nside!r} is not a power of two"):
        make_sky_cells([paint()], nside=nside)


def test_mixtures_and_options_of_pixels_are_refused(row, paint):
    with pytest.raises(FrameError, match=r"0\.fits is given by healpix cells, b\.fits by pixels"):
        match_mosaic([*row, paint("b.fits")])
    coarse = SkyCells([1], [1.0], [1.0], [1], nside=64, name="c.fits", unit="MJy/sr")
    with pytest.raises(FrameError, match=r"c\.fits: its .* area of the sky"):
        match_mosaic([*row, coarse])
    with pytest.raises(FrameError, match=r"c\.fits: its cells have nside 2048, the cells of 0"):
        match_mosaic([*row, _coarse(row[0])])
    with pytest.raises(ValueError, match="pattern: it needs pixels"):
        match_mosaic(row, solve=SolveOptions(pattern="gradient"))
    with pytest.raises(ValueError, match="method: it needs pixels"):
        match_mosaic(row, measure=levelmatch.MeasureOptions(method="interp"))
    with pytest.raises(FrameError, match="recombine_lyot needs pixels"):
        levelmatch.match_levels(row, recombine_lyot=True)


def _coarse(cells):
    index, first = np.unique(cells.index // 4, return_index=True)
    columns = (column[first] for column in (cells.value, cells.error, cells.coverage))
    return SkyCells(index, *columns, nside=NSIDE // 2, name="c.fits", unit="MJy/sr")


def test_the_command_takes_tables_of_cells(row, tmp_path):
    paths = [tmp_path / f"{k}.ecsv" for k in range(4)]
    for cells, path in zip(row, paths, strict=True):
        cells.write(path)
    words = ["run", *paths, "-o", tmp_path / "out", "--group-by", "FILENAME"]
    done = succeed(*words, "--reference", "0.fits", "--report")
    assert "from healpix cells of nside 4096" in done.output
    record = levelmatch.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert_allclose(record.table["level"].value, LEVELS, atol=0.05)
    done = succeed("show", tmp_path / "out" / "levelmatch.asdf")
    assert "from healpix cells of nside 4096" in done.output


def test_two_versions_of_cells_have_no_pixels_to_compare(row):
    """The cells of a second calibration differ by a level."""
    first = row[0]
    second = SkyCells(
        first.index,
        first.value + 1,
        first.error,
        first.coverage,
        nside=NSIDE,
        name="0_sub.fits",
        unit="MJy/sr",
    )
    result = match_mosaic([*row, second], group_by="FILENAME", reference="0.fits")
    levels = dict(zip(result.names, result.table["level"].value, strict=True))
    assert_allclose(levels["0_sub.fits"], 1, atol=0.01)
