# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images that are held at a level, or that do not influence the others."""

from collections.abc import Iterable, Mapping

import numpy as np

from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.images.frame import EXCLUDE, HOLD
from levelmatch.images.known import KNOWN, known_correction

__all__ = ["with_roles"]


def with_roles(frames, hold, exclude):
    """Return frames with their roles, and with the levels that are held.

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
        If a name is that of no image, an image has both roles, or none remains.
    """
    if hold is None and exclude is None:
        return frames
    held = _found(frames, hold, "hold")
    left_out = _found(frames, exclude, "fit_exclude")
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


def _found(frames, names, option):
    """Return the value of each named frame, by its index; zero without values."""
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
        own = [k for k, f in enumerate(frames) if name in (f.name, f.product, f.file)]
        if not own:
            msg = f"{option}: there is no image {name!r}; the first is {frames[0].name!r}"
            raise ValueError(msg)
        out |= dict.fromkeys(own, value)
    return out


def _with_level(frame, value):
    """Return a frame with the level that it is held at in place of other known levels."""
    if value is None:
        level = Correction()
    else:
        level = known_correction(frame, value, "hold")
        before = [a.correction for a in frame.corrections if a.name != KNOWN]
        level += sum(before, Correction()).scaled(-1)
    own = [a for a in frame.corrections if a.name == KNOWN]
    others = tuple(a for a in frame.corrections if a.name != KNOWN)
    if own and value is None:
        return frame
    applied = AppliedCorrection(KNOWN, level, np.zeros(3), "levels")
    return frame.with_keys(corrections=(*others, applied))
