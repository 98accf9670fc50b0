# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests on real images and distortions: 2MASS Atlas tiles, and gwcs of JWST images."""

import io
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData
from astropy.wcs import WCS, FITSFixedWarning
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.measure.pairs import map_cells
from levelmatch.sky.grid import Grid, default_spacing
from levelmatch.sky.overlaps import convex_overlap, count_inside
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import plane_terms, tangent_axes

# 2MASS


@pytest.fixture(scope="module")
def tiles(real_data):
    return sorted((real_data / "2mass_orion").glob("*.fits.fz"))


def run(paths, **options):
    # A warning states that the nights share no sky with M42 and differ in flux scale.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lm.DisconnectedWarning)
        warnings.simplefilter("ignore", lm.FluxScaleWarning)
        return lm.match_levels(paths, **options)


def test_2mass_nights_differ_in_flux_scale(tiles):
    nights = [path for path in tiles if not _is_m42(path)]
    result = run(nights)
    zero_points = [frame.meta["MAGZP"] for frame in result.frames]
    # The narrow overlaps hold few stars, so the zero points determine the ratios better.
    names = [frame.name for frame in result.frames]
    sure = result.pairs[result.pairs["gain_error"] < 0.1]
    assert len(sure) >= 5
    for pair in sure:
        one, two = (zero_points[names.index(pair[key])] for key in ("image1", "image2"))
        true = 2 * np.tanh(0.2 * np.log(10) * (one - two))
        assert abs(pair["gain"] - true) < 4 * np.hypot(pair["gain_error"], 0.005)
    worst = np.abs(sure["gain"]).argmax()
    assert sure["gain"][worst] == pytest.approx(-0.2, abs=0.08)


def test_2mass_on_one_flux_scale(tiles):
    nights = [path for path in tiles if not _is_m42(path)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", lm.FluxScaleWarning)
        result = lm.match_levels(nights, read=lm.ReadOptions(flux_scale="MAGZP"))
    assert np.nanmax(np.abs(result.pairs["residual"].value)) < 0.2


def _is_m42(path):
    return any(f"j0{n}" in path.name for n in (86, 87, 88))


@pytest.fixture(scope="module")
def levels(tiles):
    """Return the tiles matched by levels."""
    return run(tiles)


@pytest.fixture(scope="module")
def reprojected(tiles, levels):
    """Return the second tile of each pair reprojected to the first, without this package."""
    reproject = pytest.importorskip("reproject")
    images = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        for path in tiles:
            with fits.open(path) as hdus:
                images[path.name] = hdus[1].data.astype(float), WCS(hdus[1].header)
    pairs = levels.pairs
    out = {}
    for a, b in zip(pairs["image1"], pairs["image2"], strict=True):
        (data, wcs), other = images[a], images[b]
        # The cut limits the area that reproject searches.
        y, x = np.mgrid[: data.shape[0] : 8, : data.shape[1] : 8]
        xb, yb = other[1].world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
        near = (abs(xb - 256) < 270) & (abs(yb - 512) < 526)
        box = tuple(slice(max(v[near].min() - 8, 0), v[near].max() + 9) for v in (y, x))
        shape = data[box].shape
        moved = reproject.reproject_interp(other, wcs[box], shape_out=shape, return_footprint=False)
        good = np.isfinite(data[box]) & np.isfinite(moved)
        y, x = (v + b.start for v, b in zip(np.nonzero(good), box, strict=True))
        xb, yb = other[1].world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
        out[a, b] = (data[box] - moved)[good], (y, x), (yb, xb)
    return out


def at(frame, y, x):
    """Return a frame's correction at pixel positions, interpolated bilinearly."""
    from scipy.ndimage import map_coordinates

    values = np.broadcast_to(frame.correction.evaluate(frame.whole_grid), frame.shape)
    return map_coordinates(values, [y, x], order=1, mode="nearest")


def rms_of_medians(reprojected, result):
    frames = {frame.name: frame for frame in result.frames}
    medians = [
        np.median(difference - at(frames[a], *first) + at(frames[b], *second))
        for (a, b), (difference, first, second) in reprojected.items()
    ]
    return np.sqrt(np.mean(np.square(medians)))


def test_2mass_before(reprojected):
    assert len(reprojected) == 16
    medians = [np.median(difference) for difference, _, _ in reprojected.values()]
    assert_allclose(np.sqrt(np.mean(np.square(medians))), 45.8, atol=0.3)


def test_2mass_after_levels(levels, reprojected):
    assert rms_of_medians(reprojected, levels) <= 1.20


def test_2mass_after_planes(tiles, reprojected):
    planes = run(tiles, fit_type_mosaic_tiles="level+slope")
    assert rms_of_medians(reprojected, planes) <= 0.09


def test_2mass_pairs_are_those_of_reproject(levels, reprojected):
    pairs = levels.pairs
    for row in pairs:
        difference = reprojected[row["image1"], row["image2"]][0]
        # Because of gradients, a weighted mean differs from a median.
        assert_allclose(row["level"].value, np.median(difference), atol=0.8)


def test_2mass_tiles_of_one_scan(tiles):
    # The tiles share frames. Their difference is a constant to 3e-4 DN, with steps of 0.01.
    names = ["001124n-j0880032", "001124n-j0880044"]
    paths = [p for p in tiles if any(n in p.name for n in names)]
    assert len(paths) == 2
    pair = run(paths, group_by=lambda name, meta: name).pairs[0]
    # Each tile is rounded to steps of 0.01, which gives a scatter of sqrt(2 / 12) steps.
    assert pair["scatter"].value < 0.01
    assert pair["sigma"].value < 1e-3


def test_2mass_files_out(tiles, tmp_path):
    result = run(tiles[:3])
    for path, source, image in zip(result.write(tmp_path), tiles, result, strict=False):
        with fits.open(path) as out, fits.open(source) as old:
            assert isinstance(out[1], fits.CompImageHDU)
            assert len(out) == len(old)
            assert_allclose(out[1].data, image.data, rtol=0, atol=0)
            assert out[1].header["CRVAL1"] == old[1].header["CRVAL1"]


# gwcs


GWCS = {"miriwcs": (1024, 1032), "nircamwcs": (2048, 2048), "nrcb1-wcs": (2048, 2048)}


@pytest.fixture(scope="module", params=sorted(GWCS))
def distorted(request, real_data):
    """Return a gwcs, and the shape of its image."""
    pytest.importorskip("gwcs")
    asdf = pytest.importorskip("asdf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with asdf.open(
            real_data / "gwcs" / f"{request.param}.asdf", lazy_load=False, memmap=False
        ) as tree:
            wcs = tree.tree.get("wcs") or next(
                v for v in tree.tree.values() if hasattr(v, "pixel_to_world_values")
            )
    return wcs, GWCS[request.param]


def grid_of(wcs, shape):
    transform = SkyTransform(wcs, "image")
    box = transform.defined_box(shape)
    return Grid(transform, shape, box, default_spacing(box))


def tangential(grid, shape, shift, scale):
    """Return a FITS WCS about the middle of an image."""
    from levelmatch.sky.vectors import lonlat

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = lonlat(grid.centre)
    wcs.wcs.cdelt = -scale, scale
    wcs.wcs.crpix = shape[1] / 2 + shift[1], shape[0] / 2 + shift[0]
    return wcs


def test_map_follows_the_exact_transform(distorted):
    wcs, shape = distorted
    grid = grid_of(wcs, shape)
    y0, y1, x0, x1 = grid.box
    rng = np.random.default_rng(3)
    x, y = rng.uniform(x0, x1 - 1, 2000), rng.uniform(y0, y1 - 1, 2000)
    found = grid.to_pixel(grid.transform.to_sky(x, y))
    assert np.hypot(found[0] - x, found[1] - y).max() < 0.01
    # The kernel maps pixels to another image bilinearly between nodes.
    scale = np.degrees(np.sqrt(grid.pixel_area))
    other_shape = (600, 700)
    other = grid_of(tangential(grid, other_shape, (20, -30), scale), other_shape)
    nodes, map_x, map_y, _ = map_cells(grid, other)
    iy = np.clip(np.searchsorted(nodes.ys, y, side="right") - 1, 0, len(nodes.ys) - 2)
    ix = np.clip(np.searchsorted(nodes.xs, x, side="right") - 1, 0, len(nodes.xs) - 2)
    t = (y - nodes.ys[iy]) / (nodes.ys[iy + 1] - nodes.ys[iy])
    s = (x - nodes.xs[ix]) / (nodes.xs[ix + 1] - nodes.xs[ix])
    exact = other.transform.to_pixel(grid.transform.to_sky(x, y))
    inside = (exact[0] > 0) & (exact[0] < 699) & (exact[1] > 0) & (exact[1] < 599)
    assert inside.sum() > 100
    for values, true in zip((map_x, map_y), exact, strict=True):
        linear = (1 - t) * ((1 - s) * values[iy, ix] + s * values[iy, ix + 1])
        linear += t * ((1 - s) * values[iy + 1, ix] + s * values[iy + 1, ix + 1])
        assert np.abs(linear - true)[inside].max() < 0.015


def painted(grid, shape, wcs, plane, name, axes):
    """Return an image of a plane sky as NDData, because CCDData accepts no gwcs."""
    y, x = np.indices(shape)
    sky = _smooth(grid, y, x)
    value = plane_terms(sky, axes) @ (np.array([10.0, 2.0, -1.5]) + plane)
    rng = np.random.default_rng(list(name.encode()))
    value = value + 0.01 * rng.standard_normal(shape)
    return NDData(value.astype("f4"), wcs=wcs, unit=u.MJy / u.sr, meta={"FILENAME": name})


def _smooth(grid, y, x):
    """Return unit vectors of all pixels from a cubic through exact ones, faster than the gwcs."""
    from scipy.interpolate import RectBivariateSpline

    out = np.stack(
        [
            RectBivariateSpline(grid.ys, grid.xs, grid.nodes[..., k])(y[:, 0], x[0])
            for k in range(3)
        ],
        axis=-1,
    )
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


def test_planes_of_distorted_images(distorted):
    wcs, shape = distorted
    grid = grid_of(wcs, shape)
    axes = tangent_axes(grid.centre)
    scale = np.degrees(np.sqrt(grid.pixel_area))
    flat = tangential(grid, (600, 700), (20, -30), scale)
    planes = [np.array([0.0, 0, 0]), np.array([2.5, 1.0, 0]), np.array([-1.5, 0, -1.0])]
    images = [
        painted(grid, shape, wcs, planes[0], "a.fits", axes),
        painted(grid, shape, wcs, planes[1], "b.fits", axes),
        painted(grid_of(flat, (600, 700)), (600, 700), flat, planes[2], "c.fits", axes),
    ]
    result = lm.match_mosaic(images, fit_type="level+slope", reference=0, group_by=lambda n, m: n)
    for frame, plane in zip(result.frames, planes, strict=True):
        assert_allclose(frame.correction.coefficients(axes), plane, atol=2e-3)


def test_outline_of_a_distorted_image(distorted):
    # A curved side has many vertices and a corner one. All corners must be kept.
    wcs, shape = distorted
    grid = grid_of(wcs, shape)
    area = convex_overlap(grid.polygon[None].copy(), np.array([[0, 0]]))[0]
    ny, nx = (grid.box[1] - grid.box[0] - 1, grid.box[3] - grid.box[2] - 1)
    assert_allclose(area / (grid.pixel_area * ny * nx), 1, atol=0.005)
    inner = grid.nodes[1:-1, 1:-1].reshape(-1, 3)
    assert (count_inside(inner.copy(), grid.normals[None]) == 1).all()


def test_file_with_a_gwcs(distorted, tmp_path):
    # As in JWST files: an ASDF extension, and a FITS WCS fitted to it in the header.
    import asdf

    wcs, shape = distorted
    if shape[0] > 1100:
        pytest.skip("one camera is enough")
    grid = grid_of(wcs, shape)
    axes = tangent_axes(grid.centre)
    paths = []
    for name, level in (("a.fits", 0.0), ("b.fits", 3.0)):
        image = painted(grid, shape, wcs, np.array([level, 0, 0]), name, axes)
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asdf.AsdfFile({"meta": {"wcs": wcs}}).write_to(buffer)
            header = wcs.to_fits_sip(degree=4, npoints=16)
        content = np.frombuffer(buffer.getvalue(), np.uint8)[None]
        column = fits.Column("ASDF_METADATA", f"{content.size}B", array=content)
        primary = fits.PrimaryHDU()
        primary.header["TELESCOP"] = "JWST"
        header = fits.Header([c for c in header.cards if c.keyword not in ("SIMPLE", "EXTEND")])
        header["BUNIT"] = "MJy/sr"
        fits.HDUList(
            [
                primary,
                fits.ImageHDU(image.data, header, name="SCI"),
                fits.BinTableHDU.from_columns([column], name="ASDF"),
            ]
        ).writeto(tmp_path / name)
        paths.append(tmp_path / name)
    result = lm.match_mosaic(paths, reference=0, group_by=lambda n, m: n)
    assert not isinstance(result.frames[0].transform.original, WCS)
    assert_allclose(np.asarray(result.table["level"])[1], 3.0, atol=1e-3)
    image = result[1]
    assert isinstance(image, CCDData)
    middle = (shape[1] / 2, shape[0] / 2)
    there = image.wcs.world_to_pixel_values(*wcs.pixel_to_world_values(*middle))
    assert_allclose(there, middle, atol=0.1)
    for path, before in zip(result.write(tmp_path / "out"), paths, strict=True):
        assert path.stat().st_size >= before.stat().st_size
        with fits.open(path) as out, fits.open(before) as old:
            with asdf.open(io.BytesIO(out["ASDF"].data.tobytes())) as tree:
                assert [e["pass"] for e in tree["levelmatch"][0]["subtracted"]] == ["mosaic"]
                there = tree["meta"]["wcs"].pixel_to_world_values(*middle)
            assert there == wcs.pixel_to_world_values(*middle)
            added = len(out["ASDF"].data.tobytes()) - len(old["ASDF"].data.tobytes())
            assert 0 < added < 500
