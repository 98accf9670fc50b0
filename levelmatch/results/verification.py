# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Verification of the outputs of a record."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy.io import fits

from levelmatch.exceptions import FrameError, RecordError
from levelmatch.images.file_checks import named_warnings
from levelmatch.images.inputs import collect_frames
from levelmatch.images.roman import AsdfSource, native
from levelmatch.images.sources import decoded_image
from levelmatch.options import ReadOptions
from levelmatch.record.record import Record
from levelmatch.record.record_files import as_record
from levelmatch.results.apply_undo import recorded_result
from levelmatch.results.asdf_files import corrected_pixels
from levelmatch.results.files import corrected_data, open_decoded
from levelmatch.results.kept_levels import kept_cards
from levelmatch.results.products import Product
from levelmatch.results.recorded_frames import find_files, recorded_files

__all__ = ["verify_record"]


def verify_record(
    record: Record | str | Path,
    outputs: Iterable[str | Path],
    inputs: Iterable[str | Path] | None = None,
) -> list[str]:
    """Check that outputs equal the corrected inputs of a record, bit by bit.

    Parameters
    ----------
    record : `~levelmatch.Record`, str or `~pathlib.Path`
        The record.
    outputs : iterable of str or `~pathlib.Path`
        All of the corrected images, their folder, or associations that list them.
    inputs : iterable of str or `~pathlib.Path`, or None
        The recorded inputs or their folder; by default their recorded paths are used.

    Returns
    -------
    names : list of str
        Names of the verified images.

    Raises
    ------
    RecordError
        If an image is missing, has other pixels or kept levels, or names another record; the
        message names it.
    """
    record = as_record(record)
    try:
        result = recorded_result(record, recorded_files(record) if inputs is None else inputs)
    except RecordError as error:
        # Other functions accept what differs.
        msg = str(error).partition("; force=True")[0]
        raise RecordError(msg) from error
    files = [product.file for product in result.products]
    names = [record.outputs.get(file, file) for file in files]
    paths, _ = find_files(record, outputs, names)
    for product, name in zip(result.products, names, strict=True):
        with named_warnings(product.name):
            _verify_product(record, product, paths[name])
    return [product.name for product in result.products]


def _verify_product(record: Record, product: Product, path: Path) -> None:
    """Compare an output with its input and the record; refuse any difference."""
    source, keep = product.frame.source, record.provenance.keep
    found: np.ndarray | None
    try:
        if isinstance(source, AsdfSource):
            expected = native(source.data) if keep else corrected_pixels(product.frame)
            (output,) = collect_frames([path], ReadOptions(rematch=True))
            sha256, found = output.meta.get("LMRECSHA", ""), native(output.source.data)
        else:
            with open_decoded(source.path) as hdus:
                pixels = decoded_image(hdus[source.hdu])
                expected = pixels if keep else corrected_data(product, pixels)
            sha256, found = _output(record, product, path)
    except (OSError, IndexError, ValueError, FrameError) as error:
        msg = f"{path.name}: the output cannot be read: {error}"
        raise RecordError(msg) from error
    if not sha256:
        msg = f"{path.name}: its header names no record; name the corrected images"
        raise RecordError(msg)
    if found is None or found.shape != expected.shape:
        msg = f"{path.name}: the output's image does not have the shape {expected.shape}"
        raise RecordError(msg)
    _check_pixels(path, found, expected)
    if sha256 != record.sha256:
        msg = f"{path.name}: its header names another record ({sha256[:8]}) than this one"
        raise RecordError(msg)


def _output(record: Record, product: Product, path: Path) -> tuple[str, np.ndarray | None]:
    """Return the record's SHA-256 and the pixels of a FITS output; check a kept level."""
    hdu = product.frame.source.hdu
    if record.of_models:
        (output,) = collect_frames([path], ReadOptions(rematch=True))
        hdu = output.source.hdu
    with open_decoded(path) as hdus:
        if record.provenance.keep:
            _check_cards(path, product, hdus, record)
        sha256 = hdus[hdu].header.get("LMRECSHA", "")
        return sha256, None if hdus[hdu].data is None else decoded_image(hdus[hdu])


def _check_cards(path: Path, product: Product, hdus: fits.HDUList, record: Record) -> None:
    """Refuse an output whose header lacks the kept level."""
    index = product.frame.source.hdu
    cards = zip((0, index), kept_cards(product.frame, record.provenance), strict=True)
    for hdu, expected in cards:
        for key, value in expected.items():
            if record.of_models and key == "BKGMETH":
                # The pipeline's step has its own word for the method.
                continue
            found = hdus[hdu].header.get(key)
            if not _agrees(found, value):
                msg = f"{path.name}: its header has {key} = {found!r} instead of {value!r}"
                raise RecordError(msg)


def _agrees(found: object, value: object) -> bool:
    """Return whether a card has a value, of which its 20 characters hold at least 13 digits."""
    if isinstance(value, float) and isinstance(found, float):
        return abs(found - value) <= 1e-12 * abs(value)
    return found == value


def _check_pixels(path: Path, found: np.ndarray, expected: np.ndarray) -> None:
    """Refuse pixels that differ in any bit; all NaN count as equal."""
    bits = np.asarray(found, dtype=expected.dtype).view(f"u{expected.dtype.itemsize}")
    differ = bits != expected.view(bits.dtype)
    differ &= ~(np.isnan(found) & np.isnan(expected))
    if differ.any():
        y, x = np.argwhere(differ)[0]
        msg = (
            f"{path.name}: {int(differ.sum())} pixels do not follow from the input, the first at "
            f"(y, x) = ({y}, {x}): {found[y, x]!s} instead of {expected[y, x]!s}"
        )
        raise RecordError(msg)
