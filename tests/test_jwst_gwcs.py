# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the gwcs of JWST files, made by assign_wcs from a distortion of this test."""

import io
import pickle
import warnings

import asdf
import numpy as np
import pytest
from astropy import units as u
from astropy.modeling import models as m
from helpers import write_with_tree
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.images.inputs import collect_frames
from levelmatch.sky.vectors import lonlat

SHAPE = (2048, 2048)
# Region of the detector that the images cover, where the distortion is large.
CORNER, SMALL = (1700, 1600), (96, 120)
SKY = (5.0, 0.6, -0.9)


@pytest.fixture(scope="module")
def pipeline():
    """Return the packages of the pipeline."""
    reason = "jwst is not installed; tox -e test-jwst"
    return {
        "models": pytest.importorskip("stdatamodels.jwst.datamodels", reason=reason),
        "assign": pytest.importorskip("jwst.assign_wcs.assign_wcs", reason=reason),
    }


def distortion(folder, datamodels):
    """Write a distortion with a scale error of 0.083 % and 3 arcsec at the corners."""
    x, y = m.Shift(-1024.5), m.Shift(-1024.5)
    v2 = m.Polynomial2D(3, c0_0=80.0, c1_0=0.063, c2_0=1.5e-6, c0_2=-1.2e-6, c3_0=4e-10)
    v3 = m.Polynomial2D(3, c0_0=-490.0, c0_1=0.0631, c1_1=2e-6, c2_0=1e-6, c0_3=-3e-10)
    model = x & y | m.Mapping((0, 1, 0, 1)) | v2 & v3
    model.bounding_box = ((-0.5, SHAPE[0] - 0.5), (-0.5, SHAPE[1] - 0.5))
    units = {"input_units": u.pix, "output_units": u.arcsec}
    path = folder / "distortion.asdf"
    reference = datamodels.DistortionModel(model=model, **units)
    reference.meta.description = "test"
    reference.meta.author = reference.meta.pedigree = "test"
    reference.meta.useafter = "2020-01-01T00:00:00"
    reference.meta.instrument.name = "NIRCAM"
    reference.meta.instrument.detector = "NRCB1"
    reference.save(path)
    return str(path)


def exposure(folder, pipeline, k, level, reference):
    """Write an exposure of a plane sky with its gwcs, shifted by some pixels."""
    model = pipeline["models"].ImageModel(np.zeros(SMALL, "f4"))
    keys = {
        "meta.telescope": "JWST",
        "meta.instrument.name": "NIRCAM",
        "meta.instrument.detector": "NRCB1",
        "meta.instrument.channel": "SHORT",
        "meta.instrument.module": "B",
        "meta.instrument.filter": "F200W",
        "meta.instrument.pupil": "CLEAR",
        "meta.exposure.type": "NRC_IMAGE",
        "meta.bunit_data": "MJy/sr",
        "meta.subarray.xstart": CORNER[1] + 1,
        "meta.subarray.ystart": CORNER[0] + 1,
        "meta.subarray.xsize": SMALL[1],
        "meta.subarray.ysize": SMALL[0],
        "meta.velocity_aberration.scale_factor": 1.0,
    }
    wcsinfo = {
        "v2_ref": 80.0,
        "v3_ref": -490.0,
        "ra_ref": 150.0 + 21 * k * 0.063 / 3600,
        "dec_ref": 2.0 + 6 * k * 0.063 / 3600,
        "roll_ref": 2.0 * k,
        "v3yangle": 0.0,
        "vparity": -1,
        "wcsaxes": 2,
    }
    for key, value in (keys | {f"meta.wcsinfo.{key}": v for key, v in wcsinfo.items()}).items():
        model[key] = value
    model = pipeline["assign"].load_wcs(model, {"distortion": reference, "filteroffset": None})
    y, x = np.indices(SMALL)
    ra, dec = model.meta.wcs(x, y)
    rng = np.random.default_rng(k)
    sky = SKY[0] + SKY[1] * (ra - 150) * 60 + SKY[2] * (dec - 2) * 60
    # The sky is curved, so that a shift of one image is not a level.
    sky += 300 * ((ra - 150) ** 2 + (dec - 2) ** 2) * 3600 / 100
    model.data = (sky + level + rng.normal(0, 0.002, SMALL)).astype("f4")
    model.err = np.full(SMALL, 0.002, "f4")
    model.dq = np.zeros(SMALL, "u4")
    path = folder / f"{k}_cal.fits"
    model.save(path)
    return path, model.meta.wcs


LEVELS = np.array([0.0, 0.7, -0.4])


@pytest.fixture(scope="module")
def exposures(pipeline, tmp_path_factory):
    """Return files of three exposures, and the gwcs from the pipeline."""
    folder = tmp_path_factory.mktemp("exposures")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = distortion(folder, pipeline["models"])
        made = [exposure(folder, pipeline, k, LEVELS[k], reference) for k in range(3)]
    return [path for path, _ in made], [wcs for _, wcs in made]


def test_positions_are_those_of_the_gwcs(exposures):
    paths, made = exposures
    x, y = np.meshgrid([0.0, 40.5, 119.0], [0.0, 33.3, 95.0])
    # Warnings of asdf would be errors here.
    for frame, wcs in zip(collect_frames(paths), made, strict=True):
        lon, lat = lonlat(frame.transform.to_sky(x, y))
        assert_allclose([lon, lat], wcs(x, y), atol=1e-10)
        assert type(frame.transform.original).__module__.startswith("gwcs")


def test_levels_with_the_distortion(exposures, tmp_path):
    paths, _ = exposures
    result = lm.match_mosaic(paths, group_by="FILENAME", reference=0)
    levels = result.table["level"].value
    assert_allclose(levels - levels[0], LEVELS - LEVELS[0], atol=1e-3)
    written = result.write(tmp_path / "out")
    again = lm.match_mosaic(
        written, group_by="FILENAME", reference=0, read=lm.ReadOptions(rematch=True)
    )
    assert_allclose(again.table["level"].value, 0, atol=1e-5)


def test_gwcs_reaches_the_workers_of_a_cluster(exposures):
    frame = collect_frames(exposures[0][:1])[0]
    copy = pickle.loads(pickle.dumps(frame.for_workers()))
    assert_allclose(copy.load(), frame.load())
    assert_allclose(copy.grid.nodes, frame.grid.nodes)


# Without the pipeline


def with_tree(image, path, tree):
    """Write an image with a FITS WCS and a tree in the extension ASDF."""
    buffer = io.BytesIO()
    asdf.AsdfFile(tree).write_to(buffer)
    return write_with_tree(image, path, buffer.getvalue())


TREES = {
    "wcs of a type that is not known": {"meta": {"wcs": {"name": "270", "steps": [1, 2]}}},
    "arrays in other extensions, and no gwcs": {"meta": {"wcs": "none"}},
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_fallback_to_the_fits_wcs_names_the_images(paint, tmp_path, tree):
    paths = [
        with_tree(paint(f"{n}.fits", (0, 20.5 * k), level=k), tmp_path / f"{n}_cal.fits", tree)
        for k, n in enumerate("ab")
    ]
    with pytest.warns(
        lm.LevelMatchWarning, match=r"the gwcs cannot be read, .*a_cal\.fits .*b_cal\.fits"
    ) as caught:
        result = lm.match_mosaic(paths, group_by="FILENAME")
    assert len(caught) == 1
    assert_allclose(np.diff(result.table["level"].value), 1, atol=0.01)


def test_damaged_tree_falls_back_too(paint, tmp_path):
    path = with_tree(paint("a.fits"), tmp_path / "a_cal.fits", {"meta": {"wcs": [1]}})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"#ASDF ", b"#NOPE ", 1))
    with pytest.warns(lm.LevelMatchWarning, match=r"gwcs cannot be read, .*a_cal\.fits"):
        collect_frames([path])


def test_tables_of_a_distortion_are_loaded(paint, tmp_path):
    gwcs = pytest.importorskip("gwcs")
    from astropy import coordinates as coord

    points = tuple(np.arange(0, 80, 10.0) for _ in range(2))
    table = np.random.default_rng(0).normal(0, 1, (8, 8))
    distortion = m.Tabular2D(points=points, lookup_table=table, bounds_error=False)
    transform = (
        m.Mapping((0, 1, 0, 1))
        | distortion & m.Identity(2)
        | m.Polynomial2D(1, c1_0=1.0, c0_1=1.0) & m.Identity(1)
        | m.Scale(1 / 3600) & m.Scale(1 / 3600)
        | m.Pix2Sky_TAN()
        | m.RotateNative2Celestial(150, 2, 180)
    )
    detector = gwcs.coordinate_frames.Frame2D(name="detector", unit=(u.pix, u.pix))
    sky = gwcs.coordinate_frames.CelestialFrame(name="world", reference_frame=coord.ICRS())
    wcs = gwcs.WCS([(detector, transform), (sky, None)])
    path = with_tree(paint("a.fits"), tmp_path / "a_cal.fits", {"meta": {"wcs": wcs}})
    (frame,) = collect_frames([path])
    for transform in (frame.transform, pickle.loads(pickle.dumps(frame.transform))):
        assert_allclose(lonlat(transform.to_sky(33.3, 44.4)), wcs(33.3, 44.4), atol=1e-10)


def test_file_without_a_gwcs_is_no_fallback(paint, tmp_path):
    path = with_tree(paint("a.fits"), tmp_path / "a_cal.fits", {"meta": {"filename": "a"}})
    assert len(collect_frames([path])) == 1
