# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Roles of images: held at a level, or without influence on other images."""

from collections.abc import Iterable, Mapping

import numpy as np

from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.images.frame import EXCLUDE, HOLD
from levelmatch.images.known_levels import KNOWN, known_correction

__all__ = ["with_roles"]


def with_roles(frames, hold, exclude):
    """Return the frames with their roles and held levels.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        In the order of the input.
    hold : None, str, sequence or mapping
        See `~levelmatch.SolveOptions`.
    exclude : None, str or sequence
        See ``fit_exclude`` of `~levelmatch.SolveOptions`.

    Raises
    ------
    ValueError
        If a name matches no image, an image has both roles, or all images are excluded.
    TypeError
        If an option is neither a name nor a list of names.
    """
    if hold is None and exclude is None:
        return frames
    held = _values_by_index(frames, hold, "hold")
    left_out = _values_by_index(frames, exclude, "fit_exclude")
    both = next((f.name for k, f in enumerate(frames) if k in held and k in left_out), None)
    if both is not None:
        msg = f"{both}: hold and fit_exclude name it; name it in one"
        raise ValueError(msg)
    if len(left_out) == len(frames):
        msg = "fit_exclude: it names all images; leave out fewer"
        raise ValueError(msg)
    frames = [
        frame.with_keys(role=HOLD if k in held else EXCLUDE if k in left_out else frame.role)
        for k, frame in enumerate(frames)
    ]
    if isinstance(hold, Mapping):
        return [_with_level(frame, held.get(k)) for k, frame in enumerate(frames)]
    return frames


def _values_by_index(frames, names, option):
    """Return the value for each index of a named frame; zero if the names have no values."""
    if names is None:
        return {}
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, Iterable):
        msg = f"{option}: {names!r} is neither a name nor a list of names"
        raise TypeError(msg)
    values = names if isinstance(names, Mapping) else dict.fromkeys(names, 0.0)
    out = {}
    for name, value in values.items():
        indices = [k for k, f in enumerate(frames) if name in (f.name, f.product, f.file)]
        if not indices:
            msg = f"{option}: there is no image {name!r}; the first is {frames[0].name!r}"
            raise ValueError(msg)
        out |= dict.fromkeys(indices, value)
    return out


def _with_level(frame, value):
    """Return a frame whose total correction is a level; without a value, keep its known level.

    A frame with neither gets a known level of zero.
    """
    others = tuple(a for a in frame.corrections if a.name != KNOWN)
    if value is not None:
        level = known_correction(frame, value, "hold")
        level += sum((a.correction for a in others), Correction()).scaled(-1)
    elif frame.has_pass(KNOWN):
        return frame
    else:
        level = Correction()
    applied = AppliedCorrection(KNOWN, level, np.zeros(3), "levels")
    return frame.with_keys(corrections=(*others, applied))
