# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images that still contain the overscan of their detector."""

import re

__all__ = ["note_overscan"]

_SECTION = re.compile(r"\[(\d+):(\d+),(\d+):(\d+)\]")
# Smallest part of an image that its sections cover, if they are those of this image.
COVERED = 0.9


def note_overscan(frames, notes):
    """Add notes on images whose header names an overscan within the image.

    Trimmed images may keep the cards of the raw image. Their sections then reach beyond the image.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    notes : `~levelmatch.images.notes.Notes`
        Receives the notes.
    """
    for frame in frames:
        overscan = _section(frame.meta, "BIASSEC", frame.shape)
        if overscan is None:
            continue
        sky = [_section(frame.meta, key, frame.shape) for key in ("DATASEC", "TRIMSEC")]
        if any(s is not None and _are_parts(overscan, s, frame.shape) for s in sky):
            notes.add("overscan", frame.product, f"BIASSEC = {frame.meta['BIASSEC']}")


def _section(meta, key, shape):
    """Return the first and last pixel of a section in x and in y, or `None` if it is not inside."""
    found = _SECTION.fullmatch("".join(str(meta.get(key, "")).split()))
    if found is None:
        return None
    numbers = [int(text) for text in found.groups()]
    x, y = sorted(numbers[:2]), sorted(numbers[2:])
    inside = x[0] >= 1 and y[0] >= 1 and x[1] <= shape[1] and y[1] <= shape[0]
    return (x, y) if inside else None


def _are_parts(one, other, shape):
    """Return whether two sections share no pixel, and together cover nearly all of an image."""
    if all(a[0] <= b[1] and b[0] <= a[1] for a, b in zip(one, other, strict=True)):
        return False
    pixels = sum((x[1] - x[0] + 1) * (y[1] - y[0] + 1) for x, y in (one, other))
    return pixels >= COVERED * shape[0] * shape[1]
