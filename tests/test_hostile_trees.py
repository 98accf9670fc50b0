# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of ASDF trees that refer to other files, expand without end or declare too much."""

import io
import struct
import threading
import time
import warnings
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer

import asdf
import numpy as np
import pytest
from helpers import write_with_tree

import levelmatch as lm
from levelmatch.images.gwcs_trees import wcs_content

BEGIN = b"#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- "
ARRAY = "!core/ndarray-1.0.0 {{source: {}, datatype: float64, byteorder: little, shape: [{}]}}"
# Paths of an array in a tree: within the WCS, and elsewhere.
PLACES = {
    "wcs": "meta: {{wcs: {{name: w, steps: [{{table: {}}}]}}}}",
    "transform": "meta: {{wcs: !transform/tabular-1.2.0 {{lookup_table: {}, points: [[0, 1]]}}}}",
    "elsewhere": "meta: {{wcs: {{name: w}}, other: {}}}",
    "root": "levelmatch: {}",
}


@pytest.fixture(scope="module")
def server():
    """Return the address of a local server, and the list of requested paths."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(BEGIN + b"!core/asdf-1.1.0\na: 1\n...\n")

        def log_message(self, *arguments):
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}", asked
    web.shutdown()
    web.server_close()


def tree(place, value):
    return BEGIN + f"!core/asdf-1.1.0\n{PLACES[place].format(value)}\n...\n".encode()


def block(data, kind=bytes(4), size=None, used=None):
    used = len(data) if used is None else used
    size = len(data) if size is None else size
    head = struct.pack(">HI4sQQQ16s", 48, 0, kind, used, used, size, bytes(16))
    return b"\xd3BLK" + head + data


def aliases(levels=60):
    """Return a tree of a kilobyte that expands to 10**60 nodes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for k in range(levels):
        members = ", ".join([f"*a{k}"] * 10)
        lines.append(f"a{k + 1}: &a{k + 1} [{members}]")
    return "\n".join(f"    {line}" for line in lines)


def matched(paint, folder, content):
    """Match two images with a tree, write them, and return the warnings."""
    paths = [
        write_with_tree(
            paint(f"{n}.fits", (0, 20.5 * k), level=k), folder / f"{n}_cal.fits", content
        )
        for k, n in enumerate("ab")
    ]
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = lm.match_mosaic(paths, group_by="FILENAME")
        outputs = result.write(folder / "out")
        lm.undo_record(result.record, outputs, folder / "back")
    assert time.perf_counter() - start < 10
    assert abs(np.diff(result.table["level"].value)[0] - 1) < 0.01
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["array", "url", "file", "reference", "external"])
def test_no_other_file_is_opened(paint, tmp_path, server, place, kind):
    url, asked = server
    asked.clear()
    secret = tmp_path / "secret.asdf"
    secret.write_bytes(BEGIN + b"!core/asdf-1.1.0\na: 1\n...\n")
    value = {
        "array": ARRAY.format(f"{url}/array.asdf", 4),
        "url": ARRAY.format(f"'{url}/x.asdf#0'", 4),
        "file": ARRAY.format(secret.as_uri(), 4),
        "reference": f'{{$ref: "{url}/reference.asdf#/a"}}',
        "external": f"!core/externalarray-1.0.0 {{fileuri: {url}/e.fits, target: 1, "
        "datatype: float64, shape: [4]}",
    }[kind]
    told = matched(paint, tmp_path, tree(place, value))
    assert not asked
    if place != "root":
        assert any("a_cal.fits" in text and "gwcs cannot be read" in text for text in told)


LOOP = "meta: &m {wcs: {name: w, steps: *m}}"
DEEP = "[" * 5000 + "]" * 5000
HOSTILE = {
    "aliases in the WCS": f"meta:\n  wcs:\n{aliases()}\n",
    "aliases elsewhere": f"meta:\n  wcs: {{name: w}}\n  other:\n{aliases()}\n",
    "a loop": LOOP,
    "deep": f"meta: {{wcs: {DEEP}}}",
    "many inputs": "meta: {wcs: !transform/identity-1.2.0 {n_dims: 1000000000}}",
    "huge array": f"meta: {{wcs: {{t: {ARRAY.format(0, 10**12)}}}}}",
    "streamed array": f"meta: {{wcs: {{t: {ARRAY.format(-1, '*')}}}}}",
    "broken": "meta: {wcs: [1, 2",
    "tags of python": "meta: {wcs: !!python/object/apply:os.system ['false']}",
    "keys that are no words": "meta: {wcs: {[1, 2]: 3, {a: 1}: 4}}",
    "control characters": 'meta: {wcs: "\\e[31mred\\a"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_trees_end_and_name_the_image(paint, tmp_path, text):
    content = BEGIN + f"!core/asdf-1.1.0\n{text}\n...\n".encode()
    told = matched(paint, tmp_path, content)
    told = [t for t in told if "gwcs cannot be read" in t]
    assert any("a_cal.fits" in t for t in told)
    assert all(t.isprintable() for t in told)


@pytest.mark.parametrize("cut", ["no end", "no tree", "empty", "noise"])
def test_trees_that_are_damaged(paint, tmp_path, cut):
    content = {
        "no end": BEGIN + b"!core/asdf-1.1.0\nmeta: {wcs: 1}\n",
        "no tree": b"#ASDF 1.0.0\n",
        "empty": b" ",
        "noise": bytes(np.random.default_rng(0).integers(0, 256, 500, np.uint8)),
    }[cut]
    told = matched(paint, tmp_path, content)
    assert any("gwcs cannot be read" in text and "a_cal.fits" in text for text in told)


def test_bombs_are_not_unpacked():
    big = zlib.compress(bytes(1 << 28), 9)
    text = tree("wcs", ARRAY.format(0, 1 << 25))
    for size in (1 << 28, 1 << 40, 10):
        with pytest.raises(lm.RecordError, match="declares"):
            wcs_content(text + block(big, b"zlib", size=size))
    cut = text + block(bytes(64), used=1 << 40)
    with pytest.raises(lm.RecordError, match=r"ends before|declares"):
        wcs_content(cut)


def test_a_small_tree_is_kept_with_its_blocks():
    values = np.arange(6.0)
    buffer = io.BytesIO()
    asdf.AsdfFile({"meta": {"wcs": {"t": values}, "other": {"u": values[:2] * 1}}}).write_to(buffer)
    content = wcs_content(buffer.getvalue())
    with asdf.open(io.BytesIO(content), memmap=False, lazy_load=False) as file:
        assert list(file["meta"]) == ["wcs"]
        np.testing.assert_array_equal(file["meta"]["wcs"]["t"], values)


@pytest.mark.parametrize("kind", ["array", "reference"])
def test_records_open_no_other_file(tmp_path, server, kind):
    url, asked = server
    asked.clear()
    value = ARRAY.format(f"{url}/a.asdf", 4) if kind == "array" else f"{{$ref: '{url}/b#/a'}}"
    path = tmp_path / "levelmatch.asdf"
    path.write_bytes(tree("root", value))
    with pytest.raises(lm.RecordError, match="levelmatch.asdf"):
        lm.read_record(path)
    assert not asked


def test_asdf_alone_opens_other_files(tmp_path):
    # The tests above could otherwise not fail.
    other = tmp_path / "other.asdf"
    asdf.AsdfFile({"a": np.arange(4.0)}).write_to(other)
    content = tree("wcs", ARRAY.format(other.as_uri(), 4))
    with asdf.open(io.BytesIO(content), memmap=False) as file:
        np.testing.assert_array_equal(file["meta"]["wcs"]["steps"][0]["table"], np.arange(4.0))
    with pytest.raises(lm.RecordError, match="whole number"):
        wcs_content(content)
