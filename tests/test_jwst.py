# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of file names, keywords and regions of JWST."""

import pytest
from astropy.io import fits

from levelmatch.images.jwst import (
    DEFAULT_BAD_BITS,
    DQ_BITS,
    jwst_keys,
    lyot_region,
    module_of,
    part_name,
    read_gwcs,
    recombined_name,
)
from levelmatch.images.mask_arrays import bad_bits

HEADER = {
    "TELESCOP": "JWST",
    "PROGRAM": "02107",
    "OBSERVTN": "003",
    "VISIT": "001",
    "VISITGRP": "02",
    "SEQ_ID": "1",
    "ACT_ID": "01",
    "EXPOSURE": "00002",
    "DETECTOR": "NRCB1",
}


@pytest.mark.parametrize(
    ("name", "tile", "detector", "part", "module"),
    [
        (
            "jw02107003001_02101_00002_mirimage_cal.fits",
            "jw02107003001_02101",
            "mirimage",
            "science",
            "mirimage",
        ),
        (
            "jw02107003001_02101_00002_mirimages_cal.fits",
            "jw02107003001_02101",
            "mirimage",
            "science",
            "mirimage",
        ),
        (
            "jw02107003001_02101_00002_mirimagel_cal.fits",
            "jw02107003001_02101",
            "mirimage",
            "lyot",
            "mirimage",
        ),
        (
            "JW02107003001_02101_00002_NRCA3_crf.fits.gz",
            "jw02107003001_02101",
            "nrca3",
            "science",
            "nrca",
        ),
        (
            "jw02107003001_0210b_00002-seg002_nrcb4_cal.fits",
            "jw02107003001_0210b",
            "nrcb4",
            "science",
            "nrcb",
        ),
        (
            "jw02107003001_02101_00002_nrcalong_cal.fits",
            "jw02107003001_02101",
            "nrcalong",
            "science",
            "nrcalong",
        ),
    ],
)
def test_keys_of_names(name, tile, detector, part, module):
    keys = jwst_keys(name, {})
    assert keys == {"tile": tile, "detector": detector, "part": part}
    assert module_of(keys["detector"]) == module


def test_keys_of_a_header():
    keys = jwst_keys("renamed.fits", HEADER)
    assert keys == jwst_keys("jw02107003001_02101_00002_nrcb1_cal.fits", {})
    # The name has priority.
    assert jwst_keys("jw02107003001_02101_00002_nrcb2_cal.fits", HEADER)["detector"] == "nrcb2"


@pytest.mark.parametrize("missing", sorted(HEADER))
def test_no_keys_without_every_keyword(missing):
    assert jwst_keys("a.fits", {k: v for k, v in HEADER.items() if k != missing}) is None


@pytest.mark.parametrize("name", ["a.fits", "hst_12345.fits", "jw0210_nrcb1.fits", "xjw.fits"])
def test_names_that_are_not_jwst_s(name):
    assert jwst_keys(name, {}) is None


@pytest.mark.parametrize("part", ["science", "lyot"])
@pytest.mark.parametrize("name", ["jw1_mirimage_cal.fits", "jw1_mirimage.fits"])
def test_part_names_come_back(name, part):
    assert recombined_name(part_name(name, part)) == name


def test_part_names_of_others():
    assert part_name("a.fits.gz", "lyot") == "a_l.fits.gz"
    assert recombined_name("jw1_mirimage_cal.fits") == "jw1_mirimage_cal.fits"
    assert recombined_name("mirimagelong.fits") == "mirimagelong.fits"


def test_names_of_bits():
    assert DQ_BITS["NON_SCIENCE"] == 512
    assert DQ_BITS["REFERENCE_PIXEL"] == 2**31
    assert sorted(DQ_BITS.values()) == [1 << k for k in range(32)]
    assert DEFAULT_BAD_BITS == 513


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, 513),
        (0, 0),
        (512, 512),
        ("512", 512),
        ("4,8", 12),
        ([4, 8], 12),
        ("JUMP_DET", 4),
        ("jump_det + HOT", 4 + 2048),
        ("JUMP_DET|HOT", 4 + 2048),
        (["JUMP_DET", "HOT"], 4 + 2048),
        (("HOT",), 2048),
        (1 << 31, 1 << 31),
    ],
)
def test_bad_bits(flags, expected):
    assert bad_bits(flags, True) == expected


def test_every_bit_is_bad_for_others():
    assert bad_bits(None, False) == ~0


@pytest.mark.parametrize(
    ("meta", "shape", "expected"),
    [
        ({}, (1024, 1032), (735, 1024, 0, 291)),
        ({"SUBSTRT1": 1, "SUBSTRT2": 717}, (304, 320), (19, 304, 0, 291)),
        ({"SUBSTRT1": 101, "SUBSTRT2": 1}, (1024, 932), (735, 1024, 0, 191)),
        ({"SUBSTRT1": 1, "SUBSTRT2": 889}, (128, 136), (0, 128, 0, 136)),
        ({"SUBSTRT1": 457, "SUBSTRT2": 51}, (512, 512), None),
        ({"SUBSTRT1": 1, "SUBSTRT2": 1}, (512, 512), None),
        ({"SUBSTRT1": 292, "SUBSTRT2": 701}, (300, 300), None),
        ({"SUBSTRT1": 291, "SUBSTRT2": 736}, (10, 10), (0, 10, 0, 1)),
        # The pixels of resampled images are not those of the detector.
        ({"SUBSTRT1": 1, "SUBSTRT2": 1, "S_RESAMP": "COMPLETE"}, (1100, 1100), None),
        ({"SUBSTRT1": 1, "SUBSTRT2": 1, "S_RESAMP": "SKIPPED"}, (1024, 1032), (735, 1024, 0, 291)),
    ],
)
def test_lyot_region(meta, shape, expected):
    region = lyot_region(meta, shape)
    if expected is None:
        assert region is None
    else:
        y, x = region
        assert (y.start, y.stop, x.start, x.stop) == expected


def test_gwcs_that_cannot_be_had():
    primary = fits.PrimaryHDU()
    assert read_gwcs(fits.HDUList([primary])) == (None, "")
