# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the bytes of records, against asdf's own reading and writing."""

import io
import warnings

import asdf
import numpy as np
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as npst
from numpy.testing import assert_array_equal

from levelmatch.record.asdf_writer import asdf_bytes

PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text()
TYPES = st.sampled_from(["f4", "f8", "i8", "i4", "u1", "?", "U5", "S3", ">f8"])
# The ASDF standard takes a block's checksum of the packed data, asdf before 5 of the unpacked data.
STANDARD_CHECKSUMS = int(asdf.__version__.split(".")[0]) >= 5
ARRAYS = npst.arrays(TYPES, npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))


def read(content, **options):
    """Return the tree of a record, read by asdf without levelmatch's extension."""
    with asdf.config_context() as config, warnings.catch_warnings():
        warnings.simplefilter("ignore", asdf.exceptions.AsdfWarning)
        config.remove_extension(package="levelmatch")
        with asdf.open(io.BytesIO(content), lazy_load=False, memmap=False, **options) as file:
            return dict(file["levelmatch"])


@settings(max_examples=25, deadline=None)
@given(array=ARRAYS, value=PLAIN)
def test_asdf_reads_arrays_and_values(array, value):
    tree = {"a": {"b": [array, value]}, "value": value, "last": array.T}
    found = read(asdf_bytes("levelmatch", tree, "1.0"), validate_checksums=STANDARD_CHECKSUMS)
    assert_array_equal(np.array(found["a"]["b"][0]), array)
    assert_array_equal(np.array(found["last"]), array.T)
    assert found["value"] == value or value != value
    assert type(found["value"]) is type(value)


def test_the_blocks_are_those_of_asdf():
    array = np.linspace(0, 1, 1000).reshape(10, 100)
    buffer = io.BytesIO()
    asdf.AsdfFile({"levelmatch": {"a": array}}).write_to(buffer, all_array_compression="zlib")
    own = asdf_bytes("levelmatch", {"a": array}, "1.0")
    start = [content.index(b"\xd3BLK") for content in (own, buffer.getvalue())]
    end = [content.rindex(b"#ASDF BLOCK INDEX") for content in (own, buffer.getvalue())]
    blocks = [own[start[0] : end[0]], buffer.getvalue()[start[1] : end[1]]]
    if not STANDARD_CHECKSUMS:
        blocks = [block[:38] + block[54:] for block in blocks]
    assert blocks[0] == blocks[1]
    index = own[end[0] :].decode().split()
    assert int(index[index.index("-") + 1]) == start[0]
