# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Files of weights, masks and errors that are given together with their images."""

import numpy as np
import pytest

from levelmatch import FrameError, LevelMatchWarning, ReadOptions, match_levels, match_mosaic
from levelmatch.images.inputs import collect_frames
from levelmatch.testing import level_errors, simulate_generic


@pytest.fixture
def images(tmp_path):
    sky = simulate_generic(n_images=4, shape=(48, 48), seed=4)
    return sky, sky.write(tmp_path)


def add_files(paths, make_name, seed=0):
    """Write a file of positive numbers beside each image; return their paths."""
    from astropy.io import fits

    rng, out = np.random.default_rng(seed), []
    for path in paths:
        out.append(path.with_name(make_name(path.name)))
        with fits.open(path) as hdus:
            hdu = next(hdu for hdu in hdus if hdu.shape)
            values = rng.normal(10, 0.1, hdu.shape).astype("f4")
            fits.PrimaryHDU(values, hdu.header).writeto(out[-1])
    return out


NAMES = {
    "swarp": lambda name: name.replace(".fits", ".weight.fits"),
    "casu": lambda name: name.replace(".fits", "_conf.fits"),
    "montage": lambda name: name.replace(".fits", "_area.fits"),
    "packed": lambda name: name.replace(".fits", "-rms.fits.gz"),
    "another word": lambda name: name.replace("image_", "wht_"),
}


@pytest.mark.parametrize("make_name", NAMES.values(), ids=NAMES)
def test_companions_are_refused(images, make_name):
    _, paths = images
    beside = add_files(paths, make_name)
    with pytest.raises(FrameError, match=r"belongs to image_00000.fits.* So do 3 other files"):
        match_levels([*paths, *beside])


def test_companions_are_skipped(images):
    sky, paths = images
    beside = add_files(paths, NAMES["swarp"])
    read = ReadOptions(on_error="skip")
    with pytest.warns(LevelMatchWarning, match=r"image_00000.weight.fits \(it belongs to image_0"):
        result = match_levels([*beside, *paths], read=read)
    assert list(result.table["name"]) == [path.name for path in paths]
    assert np.abs(level_errors(result.table["level"], sky.truth).value).max() < 0.1


def test_companions_in_another_folder_are_refused(images, tmp_path):
    _, paths = images
    (tmp_path / "weights").mkdir()
    beside = [
        path.rename(tmp_path / "weights" / path.name) for path in add_files(paths, NAMES["swarp"])
    ]
    with pytest.raises(FrameError, match=r"image_00000.weight.fits: .*belongs to image_00000.fits"):
        match_levels({"one": paths, "two": beside})


def test_such_names_elsewhere_are_images(images):
    """Pointings may be named so, and lie apart."""
    sky, paths = images
    named = [paths[0], paths[0].with_name("image_00000_area.fits"), *paths[2:]]
    paths[1].rename(named[1])
    result = match_mosaic(named, group_by="FILENAME")
    assert np.abs(level_errors(result.table["level"], sky.truth).value).max() < 0.1


def test_companions_alone_are_images(images):
    _, paths = images
    assert len(match_levels(add_files(paths, NAMES["swarp"]))) == 4


@pytest.mark.parametrize("option", ["weight_files", "mask_files"])
@pytest.mark.parametrize("make_name", [NAMES["swarp"], NAMES["another word"], "folder"])
def test_lists_in_another_order_are_refused(images, tmp_path, make_name, option):
    _, paths = images
    folder = tmp_path / "beside"
    folder.mkdir()
    beside = add_files(paths, NAMES["swarp"] if make_name == "folder" else make_name)
    if make_name == "folder":
        beside = [b.rename(folder / path.name) for b, path in zip(beside, paths, strict=True)]
    given = [beside[1], beside[0], *beside[2:]]
    with pytest.raises(FrameError, match=rf"fits: {option}: .* belongs to image_0000\d.fits by"):
        match_levels(paths, read=ReadOptions(**{option: given}))
    read = ReadOptions(**{option: {p.name: b for p, b in zip(paths, given, strict=True)}})
    assert len(collect_frames(paths, read)) == 4
    assert len(collect_frames(paths, ReadOptions(**{option: beside}))) == 4


def test_numbers_that_are_not_those_of_the_images_are_accepted(images):
    """Masks may be counted from 1."""
    _, paths = images
    given = add_files(paths, lambda name: f"mask_{int(name[6:11]) + 1:05d}.fits")
    assert len(collect_frames(paths, ReadOptions(mask_files=given))) == 4
    same = [given[0]] * 4
    assert len(collect_frames(paths, ReadOptions(mask_files=same))) == 4
