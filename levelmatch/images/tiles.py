# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Assign images to tiles and to detectors."""

import numpy as np

from levelmatch.exceptions import FrameError, warn_user
from levelmatch.images.catalogue import CatalogueMeta
from levelmatch.sky.overlaps import overlap_groups

__all__ = ["assign_tiles", "with_detectors"]

# Keywords that identify the detector of a camera.
KEYWORDS = ("DETECTOR", "CCDNUM", "CCDCHIP", "CHIPID", "CCDNAME")


def assign_tiles(frames, group_by):
    """Return the frames with their tiles.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        In the order of the input.
    group_by : str, list of str or callable
        See `~levelmatch.match_dithers`.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        The frames, with ``tile`` set, and ``exposure`` if all chips of one file form a tile.

    Raises
    ------
    FrameError
        If an image lacks a keyword or its value, or is not of JWST; the message names it.
    """
    if callable(group_by):
        tiles = [_tile_by_function(frame, group_by) for frame in frames]
    elif not isinstance(group_by, str):
        tiles = _tiles_by_cards(frames, list(group_by))
        _warn_apart(frames, tiles, group_by)
    elif group_by == "auto":
        if all(frame.tile for frame in frames):
            return _with_exposures(frames)
        is_jwst = all(frame.jwst is not None for frame in frames)
        return assign_tiles(frames, "jwst" if is_jwst else "overlap")
    elif group_by == "overlap":
        return _with_tiles(frames, _tiles_by_overlap(frames))
    elif group_by == "exposure":
        tiles = [_exposure(frame) for frame in frames]
    elif group_by == "jwst":
        tiles = _tiles_by_jwst(frames)
    else:
        tiles = _tiles_by_cards(frames, [group_by])
        _warn_apart(frames, tiles, group_by)
    return _with_exposures(_with_tiles(frames, tiles))


def _tile_by_function(frame, function):
    """Return the tile that a function gives an image; refuse `None`, as a lacking keyword."""
    name = frame.whole or frame.name
    tile = function(name, frame.meta.copy())
    if tile is None:
        msg = f"{name}: group_by: the function returned None; return the name of a tile"
        raise FrameError(msg)
    return str(tile)


def _with_tiles(frames, tiles):
    return [frame.with_keys(tile=tile) for frame, tile in zip(frames, tiles, strict=True)]


def _with_exposures(frames):
    """Return the frames, marked as one exposure where the chips of one file form a tile."""
    by_tile = {}
    for frame in frames:
        by_tile.setdefault(frame.tile, []).append(frame)
    alone = {
        tile
        for tile, members in by_tile.items()
        if len(members) > 1 and all(f.extension and f.file == members[0].file for f in members)
    }
    return [
        frame.with_keys(exposure=frame.tile)
        if frame.tile in alone and not frame.corrections
        else frame
        for frame in frames
    ]


def _tiles_by_overlap(frames):
    """Return the tile of each frame, named by the first image of its group.

    The chips of one exposure share a tile only if another exposure of the field exists.
    """
    grids = [frame.whole_grid for frame in frames]
    files = [frame.file if frame.extension else frame.name for frame in frames]
    number = {file: k for k, file in enumerate(dict.fromkeys(files))}
    exposure = np.array([number[file] for file in files])
    label = overlap_groups(grids, exposure=exposure)
    if any(frame.extension for frame in frames):
        alone = overlap_groups(grids)
        for group in set(label.tolist()):
            members = np.flatnonzero(label == group)
            if len(set(exposure[members].tolist())) == 1:
                # The offset keeps these labels distinct from the labels of groups.
                label[members] = len(frames) + alone[members]
    first = {}
    for k in np.argsort([frame.name for frame in frames]):
        first.setdefault(label[k], frames[k].product)
    return [first[k] for k in label]


def _exposure(frame):
    """Return the exposure of a frame: a column of its catalogue, or else its file."""
    exposure = frame.meta.get("exposure", "") if isinstance(frame.meta, CatalogueMeta) else ""
    return str(exposure) or frame.file


def _tiles_by_jwst(frames):
    for frame in frames:
        if frame.jwst is None:
            msg = f"{frame.name}: group_by='jwst', but neither name nor header are JWST's"
            raise FrameError(msg)
    return [frame.jwst["tile"] for frame in frames]


def _tiles_by_cards(frames, keywords):
    return ["_".join(_card(frame, key) for key in keywords) for frame in frames]


def _card(frame, key):
    """Return the value of a keyword that assigns a frame to a tile; refuse a missing one."""
    if key == "FILENAME":
        # The card may name an earlier file. The two parts of one image share the product.
        return frame.product
    text = str(frame.meta[key]).strip() if key in frame.meta else ""
    if not text:
        what = "has no value for" if key in frame.meta else "has no"
        msg = f"{frame.name}: group_by: the header {what} keyword {key!r}; name another"
        raise FrameError(msg)
    return text


def _warn_apart(frames, tiles, group_by):
    """Warn of a tile, assigned by header keywords, whose images do not overlap."""
    files = {}
    for frame, tile in zip(frames, tiles, strict=True):
        files.setdefault(tile, set()).add(frame.file)
    label = overlap_groups([frame.whole_grid for frame in frames], fraction=0.0)
    first = {}
    for frame, tile, group in zip(frames, tiles, label, strict=True):
        other = first.setdefault(tile, (group, frame))
        if other[0] != group and len(files[tile]) > 1:
            msg = (
                f"{other[1].name} and {frame.name} are one tile by group_by={group_by!r} "
                f"({tile!r}), and do not overlap, nor through others: each gets its own "
                "correction"
            )
            warn_user(msg)
            return


def with_detectors(frames, keyword):
    """Return the frames with their detectors.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The frames. A frame that has a detector keeps it.
    keyword : str
        Header keyword of the detector, or ``"auto"``, see `~levelmatch.combine_detectors`.

    Raises
    ------
    FrameError
        If the header has no detector; the message names the image.
    """
    return [
        frame if frame.detector else frame.with_keys(detector=_detector(frame, keyword))
        for frame in frames
    ]


def _detector(frame, keyword):
    """Return the detector of a frame from its extension or header; refuse a missing one."""
    if keyword == "auto" and frame.extension:
        return frame.extension
    for key in KEYWORDS if keyword == "auto" else [keyword]:
        text = str(frame.meta.get(key, "")).strip()
        if text:
            return text
    what = ", ".join(KEYWORDS) if keyword == "auto" else repr(keyword)
    msg = f"{frame.name}: combine_detectors: the header has none of the keywords {what}; name one"
    if keyword != "auto":
        msg = f"{frame.name}: combine_detectors: the header has no keyword {what}; name another"
    raise FrameError(msg)
