# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Assign images to tiles."""

import numpy as np

from levelmatch.exceptions import FrameError, warn_user
from levelmatch.sky.overlaps import overlap_groups

__all__ = ["assign_tiles"]


def assign_tiles(frames, group_by):
    """Return the frames with their tiles.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        In the order of the input.
    group_by : str, list of str or callable
        See `~levelmatch.match_dithers`.

    Raises
    ------
    FrameError
        If an image lacks a keyword, or its value; the message names it.
    """
    if callable(group_by):
        tiles = [str(group_by(f.whole or f.name, f.meta.copy())) for f in frames]
    elif not isinstance(group_by, str):
        tiles = _tiles_by_cards(frames, list(group_by))
        _warn_apart(frames, tiles, group_by)
    elif group_by == "auto":
        if all(frame.tile for frame in frames):
            return frames
        is_jwst = all(frame.jwst is not None for frame in frames)
        return assign_tiles(frames, "jwst" if is_jwst else "overlap")
    elif group_by == "overlap":
        tiles = _tiles_by_overlap(frames)
    elif group_by == "jwst":
        tiles = _tiles_by_jwst(frames)
    else:
        tiles = _tiles_by_cards(frames, [group_by])
        _warn_apart(frames, tiles, group_by)
    return [frame.with_keys(tile=tile) for frame, tile in zip(frames, tiles, strict=True)]


def _tiles_by_overlap(frames):
    """Return the tile of each frame: the name of the first image of its group."""
    label = overlap_groups([frame.whole_grid for frame in frames])
    first = {}
    for k in np.argsort([frame.name for frame in frames]):
        first.setdefault(label[k], frames[k].product)
    return [first[k] for k in label]


def _tiles_by_jwst(frames):
    for frame in frames:
        if frame.jwst is None:
            msg = f"{frame.name}: group_by='jwst', but neither name nor header are JWST's"
            raise FrameError(msg)
    return [frame.jwst.tile for frame in frames]


def _tiles_by_cards(frames, keywords):
    return ["_".join(_card(frame, key) for key in keywords) for frame in frames]


def _card(frame, key):
    if key == "FILENAME":
        # The card may be that of an earlier file; the two parts of one image have one name.
        return frame.product
    text = str(frame.meta[key]).strip() if key in frame.meta else ""
    if not text:
        what = "has no value for" if key in frame.meta else "has no"
        msg = f"{frame.name}: group_by: the header {what} keyword {key!r}; name another"
        raise FrameError(msg)
    return text


def _warn_apart(frames, tiles, group_by):
    """Warn of tiles, by header keywords, whose images do not overlap."""
    label = overlap_groups([frame.whole_grid for frame in frames], fraction=0.0)
    first = {}
    for frame, tile, group in zip(frames, tiles, label, strict=True):
        other = first.setdefault(tile, (group, frame))
        if other[0] != group:
            msg = (
                f"{other[1].name} and {frame.name} are one tile by group_by={group_by!r} "
                f"({tile!r}), and do not overlap, nor through others: each gets its own "
                "correction"
            )
            warn_user(msg)
            return
