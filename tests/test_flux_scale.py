# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of flux scales, for the comparison only and for the output."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    InverseVariance,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.results.header import remove_provenance
from levelmatch.results.history import add_history, history_texts, own_history
from levelmatch.testing import simulate_generic

FACTORS = [1.0, 1.25, 0.8]


def images_of(*, uncertainty=StdDevUncertainty):
    """Return three images of one sky on different flux scales, and on one scale."""
    simulation = simulate_generic(n_images=3, shape=(96, 96), noise=0.02, overlap=0.5, seed=6)
    images = list(simulation.images)
    same = [image.data.copy() for image in images]
    for image, factor in zip(images, FACTORS, strict=True):
        image.data = (image.data / factor).astype("f4")
        if uncertainty is not None:
            image.uncertainty = uncertainty(np.full(image.data.shape, 0.5, "f4"))
        image.meta["MAGZP"] = 20.0 - 2.5 * np.log10(factor)
    return images, same


def match(images, **options):
    read = {"flux_scale": FACTORS, "apply_flux_scale": True}
    for name in ("flux_scale", "apply_flux_scale", "rematch"):
        if name in options:
            read[name] = options.pop(name)
    options = {"reference": 0, "read": lm.ReadOptions(**read), **options}
    return lm.match_mosaic(images, group_by="FILENAME", **options)


def test_outputs_are_on_one_scale():
    images, same = images_of()
    compared = match(images, apply_flux_scale=False)
    applied = match(images)
    assert_array_equal(applied.table["level"], compared.table["level"])
    assert applied.options["read"]["apply_flux_scale"] is True
    for plain, out, image, factor in zip(compared, applied, images, FACTORS, strict=True):
        assert out.data.dtype == image.data.dtype
        assert out.unit == image.unit
        assert_allclose(out.data, factor * plain.data, rtol=1e-5, atol=1e-5)
    # The remaining difference of the images is a level, not a function of brightness.
    off = [np.std(out.data - true) for out, true in zip(applied, same, strict=True)]
    assert max(off) < 1e-5


@pytest.mark.parametrize(
    ("kind", "power"), [(StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)]
)
def test_uncertainties_go_along(kind, power):
    images, _ = images_of(uncertainty=kind)
    for out, image, factor in zip(match(images), images, FACTORS, strict=True):
        assert type(out.uncertainty) is kind
        assert out.uncertainty.array.dtype == np.dtype("f4")
        assert_allclose(out.uncertainty.array, 0.5 * factor**power)
        assert_array_equal(image.uncertainty.array, np.float32(0.5))


def test_uncertainty_of_no_known_kind_is_refused():
    images, _ = images_of(uncertainty=UnknownUncertainty)
    with pytest.raises(lm.FrameError, match=r"image_00001.fits: apply_flux_scale: .*Unknown"):
        match(images)[1]


def test_factors_need_a_scale():
    images, _ = images_of()
    with pytest.raises(ValueError, match="apply_flux_scale: there is nothing to apply without"):
        match(images, flux_scale=None)


def test_headers_tell_and_can_be_taken_back():
    images, _ = images_of()
    result = match(images, flux_scale="MAGZP")
    for frame, out, image, factor in zip(result.frames, result, images, FACTORS, strict=True):
        assert_allclose(frame.output_factor, factor)
        header = out.meta
        assert_allclose(header["MAGZP"], 20.0)
        back = out.data / header.get("LMFLUX", 1.0) + header["LMMLEV"]
        assert_allclose(back, image.data, rtol=1e-5, atol=1e-5)
        if factor == 1:
            assert "LMFLUX" not in header
            continue
        assert_allclose(header["LMFLUX"], factor)
        # A card loses its trailing blank.
        history = "".join(header["HISTORY"]).replace(" ", "")
        assert f"fluxscale:multipliedby{factor:.10g},MAGZPwas{image.meta['MAGZP']}" in history


@pytest.fixture
def files(tmp_path):
    """Return the three images as JWST files with all uncertainty extensions."""
    images, _ = images_of(uncertainty=None)
    (tmp_path / "in").mkdir()
    paths = []
    for image in images:
        header = image.wcs.to_header()
        header["BUNIT"] = "MJy/sr"
        header["MAGZP"] = image.meta["MAGZP"]
        planes = {"ERR": 0.5, "VAR_POISSON": 0.1, "VAR_RNOISE": 0.2, "AREA": 1.5}
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(image.data, header, name="SCI")]
        hdus += [fits.ImageHDU(np.full((96, 96), v, "f4"), name=n) for n, v in planes.items()]
        hdus.append(fits.ImageHDU(np.zeros((96, 96), "u4"), name="DQ"))
        paths.append(tmp_path / "in" / image.meta["FILENAME"])
        fits.HDUList(hdus).writeto(paths[-1])
    return paths


@pytest.mark.parametrize("spelling", [str.upper, str.lower])
def test_files_with_all_planes(files, tmp_path, spelling):
    for path in files:
        with fits.open(path, mode="update") as hdus:
            for hdu in hdus[1:]:
                hdu.header["EXTNAME"] = spelling(hdu.header["EXTNAME"])
    result = match(files)
    for path, old, image, factor in zip(
        result.write(tmp_path / "out"), files, result, FACTORS, strict=True
    ):
        with fits.open(path) as after, fits.open(old) as before:
            assert_array_equal(after["SCI"].data, image.data)
            assert_array_equal(after["ERR"].data, image.uncertainty.array)
            for name, power in {"ERR": 1, "VAR_POISSON": 2, "VAR_RNOISE": 2, "AREA": 0}.items():
                assert after[name].data.dtype == before[name].data.dtype
                assert_allclose(after[name].data, before[name].data * factor**power, rtol=1e-6)
            assert_array_equal(after["DQ"].data, before["DQ"].data)


PLANES = {"RMS": 1, "Sigma": 1, "ERROR": 1, "VARIANCE": 2, "IVAR": -2, "WHT": 0, "MODEL": 0}


@pytest.mark.parametrize(("plane", "power"), PLANES.items())
def test_uncertainties_of_other_observatories_go_along(files, tmp_path, plane, power):
    for path in files:
        with fits.open(path, mode="update") as hdus:
            hdus["ERR"].header["EXTNAME"] = plane
    outputs = match(files).write(tmp_path / "out")
    for path, factor in zip(outputs, FACTORS, strict=True):
        assert_allclose(fits.getdata(path, plane), 0.5 * factor**power, rtol=1e-6)


def test_a_second_run_goes_on_from_the_scale_of_the_first(files, tmp_path):
    first = match(files, flux_scale="MAGZP")
    paths = first.write(tmp_path / "one")
    originals = [CCDData.read(path, hdu="SCI", format="fits").data for path in files]
    again = {"flux_scale": "MAGZP", "rematch": True, "reference": "mean"}
    by_files = match(paths, **again)
    by_memory = match(first, **again)
    assert_allclose([f.output_factor for f in by_files.frames], 1, rtol=1e-12)
    for file, memory, original in zip(by_files, by_memory, originals, strict=True):
        assert_allclose(file.data, memory.data, rtol=1e-5, atol=1e-5)
        for header in (file.meta, memory.meta):
            back = file.data / header.get("LMFLUX", 1.0) + header["LMMLEV"]
            assert_allclose(back, original, rtol=1e-5, atol=2e-5)


def test_provenance_is_removed_as_it_was_added(files, tmp_path):
    first = match(files, flux_scale="MAGZP")
    paths = first.write(tmp_path / "one")
    second = match(paths, flux_scale=[2.0] * 3, rematch=True, reference="mean")
    # Runs are distinguished by their time.
    second.run = replace(second.run, created="2031-05-06T07:08:09")
    outputs = second.write(tmp_path / "two")
    for k, output in enumerate(outputs):
        with fits.open(output) as hdus:
            header = hdus["SCI"].header
        for result, stage in ((second, paths[k]), (first, files[k])):
            remove_provenance(header, result.frames[k], result.provenance)
            with fits.open(stage) as hdus:
                expected = hdus["SCI"].header
            assert list(header) == list(expected)
            # The error and the reference are those of the last remaining run.
            for key in (k for k in expected if k not in ("HISTORY", "LMMERR", "LMMREF")):
                if isinstance(expected[key], float):
                    assert_allclose(header[key], expected[key], rtol=1e-10, atol=1e-12)
                else:
                    assert header[key] == expected[key]


@pytest.mark.parametrize("length", range(130, 150))
def test_history_of_any_length_is_found_again(length):
    header = fits.Header()
    header.add_history("x" * 72)
    words = ("levelmatch 1 2026 mosaic: " + "ab " * 60)[: length - 1] + "z"
    add_history(header, words)
    header.add_history("levelmatch 1 2027 another run")
    header.add_history("another program")
    own = own_history(header, "levelmatch 1 2026")
    assert own == list(range(1, len(header["HISTORY"]) - 2))
    assert history_texts(header)[1].removesuffix(" .") == words


def test_a_record_undoes_and_repeats_it(files, tmp_path):
    result = match(files, flux_scale="MAGZP")
    paths = result.write(tmp_path / "out")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert lm.verify_record(record, paths, files) == result.names
    for back, old in zip(lm.undo_record(record, paths, tmp_path / "back"), files, strict=True):
        with fits.open(back) as after, fits.open(old) as before:
            assert_allclose(after["SCI"].data, before["SCI"].data, rtol=1e-5, atol=1e-5)
            for name in ("ERR", "VAR_POISSON", "AREA"):
                assert_allclose(after[name].data, before[name].data, rtol=1e-6)
            assert list(after["SCI"].header) == list(before["SCI"].header)
            assert_allclose(after["SCI"].header["MAGZP"], before["SCI"].header["MAGZP"])


# Chips of one file


def opened(path):
    """Return a file's HDUs in memory."""
    with fits.open(path, lazy_load_hdus=False, memmap=False) as hdus:
        return fits.HDUList([hdu.copy() for hdu in hdus])


@pytest.fixture
def chips(tmp_path):
    """Return the three images as the chips of one file, with errors and without EXTVER."""
    images, _ = images_of(uncertainty=None)
    hdus = [fits.PrimaryHDU()]
    for image in images:
        header = image.wcs.to_header()
        header["MAGZP"] = image.meta["MAGZP"]
        hdus.append(fits.ImageHDU(image.data, header))
        hdus.append(fits.ImageHDU(np.full((96, 96), 0.5, "f4")))
    for hdu, name in zip(hdus[1:], ["SCI", "ERR"] * 3, strict=True):
        hdu.header["EXTNAME"] = name
    fits.HDUList(hdus).writeto(tmp_path / "chips.fits")
    return tmp_path / "chips.fits"


@pytest.mark.parametrize("read", [str, opened])
def test_errors_of_chips_without_extver_go_along(chips, tmp_path, read):
    result = match([read(chips)], flux_scale="MAGZP", reference="mean")
    with fits.open(*result.write(tmp_path / "out")) as hdus:
        for image, hdu, factor in zip(result, hdus[2::2], FACTORS, strict=True):
            assert_allclose(hdu.data, 0.5 * factor, rtol=1e-6)
            assert_array_equal(image.uncertainty.array, hdu.data)
    if read is str:
        lm.undo_record(tmp_path / "out" / "levelmatch.asdf", tmp_path / "out", tmp_path / "back")
        with fits.open(tmp_path / "back" / "chips.fits") as hdus:
            for hdu in hdus[2::2]:
                assert_allclose(hdu.data, 0.5, rtol=1e-6)


@pytest.mark.parametrize("read", [str, opened])
def test_errors_of_unknown_chips_are_refused_before_writing(chips, tmp_path, read):
    with fits.open(chips, mode="update") as hdus:
        del hdus[-1]
    result = match([read(chips)], flux_scale="MAGZP", reference="mean")
    with pytest.raises(lm.FrameError, match=r"\[3\]: .*2 extensions are called ERR"):
        result.write(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.fits"))
