# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Parameters that several functions share, described once."""

import re

__all__ = ["share_parameters"]

PARAMETERS = {
    "images": """
images : iterable, mapping, `~ccdproc.ImageFileCollection` or `MatchResult`
    `~astropy.nddata.CCDData` or `~astropy.nddata.NDData` objects; HDUs, or
    `~astropy.io.fits.HDUList` objects, of one or several images; tuples of an array and its
    WCS or header; paths of files (FITS, or ASDF of Roman) or of associations (``asn.json``,
    whose science members are taken); or a mapping of tile name to such a list. Or the path of
    one association, or a catalogue of outlines (see `write_catalogue`) or its path.
    Two-dimensional, of any shapes, each with a celestial WCS. Never changed.
""",
    "group_by": """
group_by : {"auto", "jwst", "overlap", "exposure"}, str, list of str or callable
    Assigns images to tiles: by JWST's program, observation, visit, visit group, sequence
    and activity (``"jwst"``); images that share more than half of their area
    (``"overlap"``); the images of each file (``"exposure"``); the value of header keywords,
    where ``"FILENAME"`` is the image's own name; or a function of an image's name and header.
    The chips of one file that are a tile of their own get one level. ``"auto"`` is the
    mapping's key, else ``"jwst"`` where all images have its keys, else ``"overlap"``.
""",
    "options": """
progress_bar : callable or None
    Wraps an iterable over the pairs, such as `tqdm.tqdm`.
read : `ReadOptions` or None
    How images are read, and the flux scale in which they are compared.
measure : `MeasureOptions` or None
    How pairs are measured.
solve : `SolveOptions` or None
    How pairs are weighted, rejected and solved.
""",
    "moved": """
**moved
    Keywords of earlier releases that are now fields of the option classes, such as
    ``weights`` or ``hdu``. They work in this release, with a warning.
""",
    "reference": """
reference : str or int
    The image (or tile) whose correction is zero: its name, its index in the input,
    ``"mean"`` for a mean correction of zero, or ``"auto"``: the image closest in time to
    dedicated backgrounds, else the one with the most overlaps; ties go to the flattest by its
    own pairs, then to the largest overlapping area and to the first name. Never a Lyot image.
    If all images are one tile, `match_levels` holds a named image in the last pass that has
    pairs.
""",
    "raises": """
TypeError, ValueError
    If an argument is not understood.
FrameError
    If an image cannot be used, or is already matched.
`~astropy.units.UnitsError`
    If units cannot be compared.
""",
}


def share_parameters(function):
    """Fill the lines ``<<name>>`` of a function's docstring with the shared descriptions."""
    if function.__doc__:
        function.__doc__ = re.sub(
            r"^( *)<<(\w+)>>$", _described, function.__doc__, flags=re.MULTILINE
        )
    return function


def _described(match):
    lines = PARAMETERS[match[2]].strip().splitlines()
    return "\n".join(match[1] + line if line else "" for line in lines)
