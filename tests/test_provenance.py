# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of header cards of runs: complete comments, and units of numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits

import levelmatch as lm
from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.pass_names import PASSES
from levelmatch.record.run import Provenance
from levelmatch.results.header import add_provenance
from levelmatch.testing import simulate_generic

# astropy warns of a shortened comment, and warnings are errors here.
PROVENANCE = Provenance("1.0", "2026-01-01T00:00:00", "levelmatch.asdf", "0" * 64)


def header_of(name="mosaic", *, unit=u.MJy / u.sr, reference="a.fits"):
    """Return the header of an image that one pass corrected by numbers with many digits."""
    correction = Correction(0.0, np.array([-1.2345678901234567e-101] * 3))
    applied = AppliedCorrection(name, correction, np.full(3, 1e-101 / 3), reference)
    frame = SimpleNamespace(
        corrections=[applied],
        whole_grid=SimpleNamespace(axes=np.eye(3)),
        output_factor=1.0,
        unit=unit,
    )
    header = fits.Header()
    add_provenance(header, frame, PROVENANCE)
    return fits.Header.fromstring(header.tostring())


@pytest.mark.parametrize("unit", [None, u.MJy / u.sr, u.erg / u.s / u.cm**2 / u.AA / u.sr])
@pytest.mark.parametrize("name", PASSES)
def test_no_comment_is_cut(name, unit):
    for reference in ("a.fits", "jw02107001001_02101_00001_mirimage_cal.fits", "x" * 70):
        header = header_of(name, unit=unit, reference=reference)
        assert all(len(card.image) % 80 == 0 for card in header.cards)
        letter = PASSES[name].letter
        assert header.comments[f"LM{letter}LEV"].endswith(": level subtracted")
        assert header.comments[f"LM{letter}SLV"].endswith(": its slope to North")


def test_comments_have_units():
    header = header_of()
    assert header.comments["LMMLEV"] == "[MJy/sr] mosaic: level subtracted"
    assert header.comments["LMMERR"] == "[MJy/sr] mosaic: error of the level"
    assert header.comments["LMMSLU"] == "[MJy/sr/arcmin] mosaic: its slope to East"
    assert header.comments["LMMREF"] == "mosaic: relative to"
    assert header.comments["LMRECORD"] == "record of the run; LMRECSHA: SHA-256"
    assert header_of(unit=None).comments["LMMLEV"] == "mosaic: level subtracted"


def test_history_breaks_at_words():
    from astropy.io.fits import Header

    from levelmatch.results.header import add_history, history_texts, own_history

    header = Header()
    text = (
        "levelmatch 0.1.0 2026-11-26T14:22:12.191453 mosaic: subtracted level -0.21218854 +- "
        "0.0084123, slopes E 0 N 0 per arcmin relative to "
        "jw02107001001_02101_00001_mirimage_cal.fits"
    )
    add_history(header, text)
    header.add_history("another program")
    lines = [str(line) for line in header["HISTORY"]]
    assert len(lines) > 3
    # Each word is complete in one card.
    words = " ".join(lines).split()
    assert words == [*text.split(), "another", "program"]
    assert history_texts(header) == [text, "another program"]
    assert own_history(header, "levelmatch 0.1.0 2026") == list(range(len(lines) - 1))


def test_a_pass_with_nothing_to_match_writes_no_cards(tmp_path):
    """Each tile has one image, so its dithers pass has nothing to match."""
    sim = simulate_generic(n_images=4, shape=(64, 64), overlap=0.4, seed=3)
    paths = sim.write(tmp_path / "raw")
    found = lm.match_levels(paths)
    reference = found.reference
    outputs = found.write(tmp_path / "out")
    for path in outputs:
        header = fits.getheader(path, "SCI")
        assert not [key for key in header if key.startswith("LMD")]
        assert " dithers: " not in "".join(map(str, header["HISTORY"]))
        # The reference was matched, although its level is zero.
        assert header["LMMREF"] == reference
    record = tmp_path / "out" / "levelmatch.asdf"
    assert len(lm.verify_record(record, outputs, paths)) == 4
    back = lm.undo_record(record, outputs, tmp_path / "back")
    for one, other in zip(back, paths, strict=True):
        assert fits.getheader(one, "SCI").tostring() == fits.getheader(other, "SCI").tostring()
