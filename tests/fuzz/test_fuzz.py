# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Drivers that mutate FITS files, records and configurations.

Each runs for ``LEVELMATCH_FUZZ_SECONDS``, by default 2: ``tox -e fuzz`` gives each a minute. An
input that fails is kept in the folder ``found``; it belongs into ``seeds``, whose files are run
first.
"""

import os
import time
import warnings
from hashlib import sha256
from pathlib import Path

import pytest
from astropy.units import UnitsError
from click.testing import CliRunner
from hypothesis import HealthCheck, given, seed, settings, strategies as st

import levelmatch as lm
from levelmatch.cli import main
from levelmatch.images.inputs import collect_frames

SECONDS = float(os.environ.get("LEVELMATCH_FUZZ_SECONDS", "2"))
# Largest time for one input, in seconds.
MOST = 10
HERE = Path(__file__).parent
SEEDS, FOUND = HERE / "seeds", HERE / "found"

VALUES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"T",
            b"'text'",
            b"''",
            b"NaN",
            b"-1",
            b"0",
            b"1E400",
            b"(1,2)",
            b"999999999",
            b"4294967296",
            b"9223372036854775808",
            b"-32",
            b"64",
            b"'RA---TAN'",
            b"'GLON-CAR'",
            b"'\x1b[31m'",
            b"'a\tb'",
            b"1D5",
            b"1,5",
        ]
    ),
    st.binary(max_size=12),
    st.integers(-(2**40), 2**40).map(lambda n: str(n).encode()),
    st.floats().map(lambda x: repr(x).upper().encode()),
)


def edits(size):
    """Return a strategy of edits of a file: (kind, place, content)."""
    place = st.integers(0, size)
    return st.lists(
        st.one_of(
            st.tuples(st.just("value"), place, VALUES),
            st.tuples(st.just("keyword"), place, st.binary(min_size=1, max_size=8)),
            st.tuples(st.just("bytes"), place, st.binary(min_size=1, max_size=16)),
            st.tuples(st.just("copy"), place, st.just(b"")),
            st.tuples(st.just("drop"), place, st.just(b"")),
            st.tuples(st.just("cut"), place, st.just(b"")),
            st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=16)),
        ),
        min_size=1,
        max_size=4,
    )


def edited(content, changes):
    """Return a file with edits; edits of cards change the card at their place."""
    for kind, place, value in changes:
        place %= max(len(content), 1)
        card = place // 80 * 80
        if kind == "value":
            new = (content[card : card + 10] + value).ljust(80)[:80]
            content = content[:card] + new + content[card + 80 :]
        elif kind == "keyword":
            content = content[:card] + value.ljust(8)[:8] + content[card + 8 :]
        elif kind == "bytes":
            content = content[:place] + value + content[place + len(value) :]
        elif kind == "copy":
            other = (card * 7 + 80) % max(len(content) - 80, 80) // 80 * 80
            content = content[:card] + content[other : other + 80] + content[card + 80 :]
        elif kind == "drop":
            content = content[:card] + b" " * 80 + content[card + 80 :]
        elif kind == "cut":
            content = content[:place]
        else:
            content = content[:place] + value + content[place:]
    return content


def drive(name, check, strategy):
    """Run a check on the seeds, then on examples of a strategy for some seconds."""
    for path in sorted(SEEDS.glob(f"{name}-*")):
        check(path.read_bytes())
    FOUND.mkdir(exist_ok=True)
    end, number, failed = time.monotonic() + SECONDS, 0, []

    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(content):
        if time.monotonic() > end and not failed:
            return
        start = time.monotonic()
        kept = FOUND / f"{name}-{sha256(content).hexdigest()[:12]}"
        # This also works if the interpreter crashes.
        kept.write_bytes(content)
        failed.append(kept)
        check(content)
        assert time.monotonic() - start < MOST, "it takes too long"
        failed.pop()
        kept.unlink()

    while time.monotonic() < end:
        number += 1
        seed(number)(run)()


@pytest.mark.parametrize("kind", ["plain", "planes", "compressed"])
def test_fits_files(paint, write, with_planes, tmp_path, kind):
    image = paint("base.fits")
    base = tmp_path / "base.fits"
    if kind == "plain":
        image.write(base)
    elif kind == "planes":
        with_planes(image)
        write(image, base, err=image.uncertainty.array, dq=image.flags)
    else:
        from astropy.io import fits

        hdu = fits.CompImageHDU(image.data, image.wcs.to_header(), name="SCI")
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(base)
    content = base.read_bytes()
    path = tmp_path / "odd.fits"

    def check(changed):
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for frame in collect_frames([path]):
                    frame.load()
                    frame.grid.polygon  # noqa: B018
                    frame.whole_grid.nodes  # noqa: B018
                    assert frame.transform.original is not None
            except (lm.LevelMatchError, UnitsError) as error:
                text = str(error)
            else:
                text = path.name
        assert path.name in text

    headers = edits(min(len(content), 20000))
    drive(f"fits-{kind}", check, headers.map(lambda changes: edited(content, changes)))


def test_records(row, tmp_path):
    result = lm.match_levels(row[1])
    content = result.record.content
    path = tmp_path / "odd.asdf"

    def check(changed):
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                record = lm.read_record(path)
            except lm.RecordError as error:
                record, text = None, str(error)
        if record is None:
            assert path.name in text
            return
        for arguments in (["show", path], ["show", path, "--json"], ["show", path, "--pairs"]):
            found = CliRunner().invoke(main, list(map(str, arguments)))
            assert found.exit_code in (0, 2), found.output
            assert found.exit_code == 0 or "odd.asdf" in found.output, found.output
        assert len(record) > 0

    drive("record", check, edits(len(content)).map(lambda changes: edited(content, changes)))


CONFIG = b"""
files = ["in/*.fits"]
output = "out"
fit-type-mosaic-tiles = "level+slope"
recombine-lyot = false
dq-bits = ["DO_NOT_USE", "~64"]
group-by = "FILENAME"
clip = 3.0
hdu = ["SCI", 1]
max-pairs = 10
[table]
a = {b = 1}
"""


def test_configurations(tmp_path):
    path = tmp_path / "odd.toml"

    def check(changed):
        path.write_bytes(changed)
        found = CliRunner().invoke(main, ["run", "--config", str(path), "--dry-run"])
        assert found.exit_code == 2, found.output
        assert not isinstance(found.exception, AssertionError)

    tokens = st.lists(
        st.one_of(
            st.sampled_from(CONFIG.split(b"\n")),
            st.sampled_from([b"[[", b"]]", b"=", b'"""', b"1e999", b"0x", b"inf", b"[" * 2000]),
            st.binary(max_size=10),
            st.sampled_from([b"clip = true", b"hdu = [[1]]", b"blank = [nan]", b"files = [1]"]),
            st.text(max_size=10).map(lambda t: t.encode("utf-8", "surrogatepass")),
        ),
        max_size=12,
    )
    drive("config", check, tokens.map(b"\n".join))
