# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Store of measured pairs, with keys of all data on which a measurement depends."""

import hashlib
import os
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np

from levelmatch.atomic import space_errors
from levelmatch.exceptions import RecordError
from levelmatch.measure.table import PAIR

__all__ = ["PairFile", "known_rows", "pair_keys"]


KEY_SIZE = 32
# Version of the measurement. Increase it with each change of results for the same data.
ALGORITHM = 12
ENTRY = np.dtype([("key", "u1", KEY_SIZE), ("row", PAIR.newbyteorder("<")), ("check", "<u4")])
MAGIC = b"levelmatch pairs 6\n"
# First bytes of older files, whose pairs have other columns and are not used.
OLDER = tuple(b"levelmatch pairs %d\n" % version for version in (1, 2, 3, 4, 5))


def _image_key(frame):
    """Return a digest, 32 bytes, of an image's pixels, position, scale and corrections."""
    frame = frame.opened()
    own = frame.source.identity
    plain = (
        own["digest"],
        own["mask_digest"],
        frame.dq_bits,
        frame.part,
        frame.region,
        frame.scale,
    )
    if frame.box is not None:
        plain += frame.box
    if frame.selection is not None:
        plain += frame.selection.key
    content = hashlib.sha256(repr(plain).encode())
    content.update(np.array(frame.whole_grid.box).tobytes())
    content.update(np.ascontiguousarray(frame.whole_grid.nodes).tobytes())
    correction = frame.correction
    content.update(np.array([correction.constant, *correction.vector]).tobytes())
    if correction.pattern.any():
        content.update(correction.pattern.tobytes())
    return content.digest()


def pair_keys(frames, overlaps, options):
    """Return a function of the index of a pair, which returns the key of the pair, 32 bytes.

    A key is a digest of all data on which a measurement depends: the two images, the options and
    the version of the measurement, and the outlines of other images that overlap both and
    therefore share their noise.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images; pixels that were not yet read are read when a key needs them.
    overlaps : `~levelmatch.measure.pair_selection.Overlaps`
        The pairs.
    options : `~levelmatch.options.MeasureOptions`
        How pairs are measured.
    """
    how = repr((ALGORITHM, sorted(options.identity.items()))).encode()
    image_key, outlines = cache(lambda k: _image_key(frames[k])), {}

    def key_of(p):
        first, second = map(image_key, overlaps.pairs[p].tolist())
        content = hashlib.sha256(how + first + second)
        grids = _company(*overlaps.depth_maps[p])
        for outline in sorted(_outline(grid, outlines) for grid in grids):
            content.update(outline)
        return content.digest()

    return key_of


def _company(first, second):
    """Return the grids of the images that overlap both images of a pair."""
    other = {id(grid) for grid in second.others}
    return [grid for grid in first.others if id(grid) in other]


def _outline(grid, known):
    if id(grid) not in known:
        known[id(grid)] = hashlib.sha256(grid.polygon.tobytes()).digest()
    return known[id(grid)]


def known_rows(rows, file, frames, overlaps, options):
    """Return the known rows of pairs, by index, and a function that stores new rows.

    Parameters
    ----------
    rows : dict of bytes to `~numpy.void`
        Known rows by key, of the type `~levelmatch.measure.table.PAIR`.
    file : `PairFile` or None
        File of known rows, to which new rows are appended.
    frames, overlaps, options
        See `pair_keys`.
    """
    n_pairs, key_of = len(overlaps.pairs), pair_keys(frames, overlaps, options)
    if file is not None:
        rows = rows | file.read()
    # Without known pairs, the keys are computed after the images are read for measuring.
    known = {}
    if rows:
        found = ((p, rows.get(key_of(p))) for p in range(n_pairs))
        known = {p: row for p, row in found if row is not None}
    # Otherwise the first new pair creates the file, so that errors of the input leave none.
    if file is not None and len(known) == n_pairs:
        file.create()

    def keep(indices, new):
        if file is not None:
            file.append([key_of(p) for p in indices], new)

    return known, keep


class PairFile:
    """File of pairs to which entries with checksums are appended.

    A killed process leaves at most one unfinished entry. It is ignored, and overwritten by the next
    entry.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    """

    def __init__(self, path):
        self.path = Path(path)

    def exists(self):
        """Return whether the file exists; refuse a folder of that name."""
        if self.path.is_file() or not os.path.lexists(self.path):
            return self.path.is_file()
        msg = f"{self.path}: not a file of pairs; move it away"
        raise RecordError(msg)

    def create(self):
        """Create the file and its folder if they are missing."""
        if not self.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(MAGIC)

    def read(self):
        """Return the rows by their keys.

        Raises
        ------
        RecordError
            If the file is not a file of pairs.
        """
        return {e["key"].tobytes(): e["row"].astype(PAIR)[()] for e in self._entries()}

    def _entries(self):
        if not self.exists():
            return np.zeros(0, ENTRY)
        content = self.path.read_bytes()
        if content.startswith(OLDER):
            return np.zeros(0, ENTRY)
        if not MAGIC.startswith(content[: len(MAGIC)]):
            msg = f"{self.path}: not a file of pairs; move it away"
            raise RecordError(msg)
        content = content[len(MAGIC) :]
        entries = np.frombuffer(content[: len(content) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)
        good = np.array([_check(entry) == entry["check"] for entry in entries], dtype=bool)
        return entries[good]

    def append(self, keys, rows):
        """Append pairs; overwrite an unfinished entry."""
        entries = np.zeros(len(rows), ENTRY)
        for entry, key, row in zip(entries, keys, rows, strict=True):
            entry["key"] = np.frombuffer(key, "u1")
            entry["row"] = row
            entry["check"] = _check(entry)
        with space_errors(self.path):
            self._append(entries)

    def _append(self, entries):
        self.create()
        with open(self.path, "r+b") as stream:
            if stream.read(len(MAGIC)) in OLDER:
                stream.truncate(0)
            stream.seek(0)
            stream.write(MAGIC)
            whole = (stream.seek(0, 2) - len(MAGIC)) // ENTRY.itemsize
            stream.seek(len(MAGIC) + whole * ENTRY.itemsize)
            stream.write(entries.tobytes())


def _check(entry):
    return crc32(entry.tobytes()[: -ENTRY["check"].itemsize])
