# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The detector of each image."""

from levelmatch.exceptions import FrameError

__all__ = ["with_detectors"]

# Keywords that identify the detector of a camera.
KEYWORDS = ("DETECTOR", "CCDNUM", "CCDCHIP", "CHIPID", "CCDNAME")


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
