# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Shared descriptions of parameters, which are inserted into docstrings."""

import re

__all__ = ["share_parameters"]

PARAMETERS = {
    "images": """
images : iterable, mapping, `~ccdproc.ImageFileCollection` or `MatchResult`
    The images, or a mapping of tile names to lists of images. An image is a path (FITS, or ASDF
    of Roman), a `~astropy.nddata.CCDData` or `~astropy.nddata.NDData` object, an HDU, an
    `~astropy.io.fits.HDUList` of one or several images, a tuple of an array and its WCS or
    header, or a `SkyCells` object or its table in place of pixels. A path of an association
    (``asn.json``) stands for its science members. A catalogue of outlines or its path, see
    `write_catalogue`, can replace the list. Images are two-dimensional and have a celestial WCS.
    They are never changed.
""",
    "group_by": """
group_by : {"auto", "jwst", "overlap", "exposure"}, str, list of str or callable
    Assigns images to tiles: by JWST's program, observation, visit, visit group, sequence
    and activity (``"jwst"``); by overlaps of more than half of their area (``"overlap"``); by
    file (``"exposure"``); by header keywords, where ``"FILENAME"`` is the name of the image; or
    by a function of the name and header of an image. ``"auto"`` uses the keys of a mapping,
    ``"jwst"`` if all images are of JWST, and ``"overlap"`` otherwise. If all chips of one file
    form a tile, they get one level.
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
reference : str, `~pathlib.Path` or int
    The image (or tile) whose correction is zero: its name, its path, or its index in the input.
    ``"mean"`` sets the mean correction to zero. ``"auto"`` selects the image closest in time to
    dedicated backgrounds, or the image with the most overlaps. If several have the same number,
    it selects the flattest by its own pairs, then the one with the largest overlapping area, and
    then the first by name. An image that disagrees with its neighbours is selected only if there
    is no other, and a Lyot image never. If all images are one tile,
    `match_levels` holds a named image in the last pass that has pairs.
""",
    "raises": """
TypeError, ValueError
    If an argument is not understood.
FrameError
    If an image cannot be used, or is already matched.
`~astropy.units.UnitsError`
    If units cannot be compared.
""",
    "run": """
frames : list of `~levelmatch.images.frame.Frame`
    The images with their corrections, in the order of the input.
passes : list of `~levelmatch.solve.passes.Pass`
    The solved passes; their images are sorted by name.
measured : `~levelmatch.measure.table.PairTable`
    The measured pairs; their images are sorted by name.
run : `~levelmatch.record.run.Run`
    The run.
""",
    "files": """
directory : str or `~pathlib.Path`
    Output folder of the images, and of the record if the corrections are applied.
overwrite : bool
    Whether existing files may be replaced.
force : bool
    Whether to accept images whose pixels, positions or record differ from the record.
progress_bar : callable or None
    Wraps an iterable over the files.

Returns
-------
paths : list of `~pathlib.Path`
    The written images.
""",
    "result": """
result : `~levelmatch.MatchResult` or record
    The result, or its record.
""",
    "ax": """
ax : `~matplotlib.axes.Axes` or None
    Axes to draw into; by default the axes of a new figure.
""",
    "axes": """
Returns
-------
ax : `~matplotlib.axes.Axes`
    The axes.
""",
    "originals": """
files : path, list of path or None
    For a record, its uncorrected images or their folder.
""",
    "written": """
overwrite : bool
    Whether an existing file may be replaced.

Returns
-------
path : `~pathlib.Path`
    The file.
""",
    "noise": """
noise : float, optional
    Standard deviation of the noise per pixel where there is no signal, in MJy/sr.
offset_rms : float, optional
    Standard deviation of the level of each image, in MJy/sr.
slope : float, optional
    Rms over images of the change of their planes across half the detector, in MJy/sr.
""",
    "pointing": """
dither_size : float, optional
    Side of the box, in arcsec on the full detector, that the dithers fill.
center : tuple of float, optional
    Right ascension and declination of the mosaic's centre in degrees.
pa : float, optional
    Position angle of the telescope's V3 axis, East of North, in degrees.
filter_name : str, optional
    Value of the ``FILTER`` keyword.
backgrounds : bool, optional
    Whether to give the ``DT_BGR`` keyword: days from dedicated background observations.
""",
    "scene": """
stars, nebula, galaxy, cosmic_rays, bad_pixels : bool, optional
    Sources to include in the scene.
star_density : float, optional
    Number of stars per 10**6 pixels.
seed : int, optional
    Seed of all random numbers. The same seed gives the same images to the bit.

Returns
-------
sim : `SimulatedSet`
    The images, rendered on access, and the truth.

Raises
------
ValueError
    If an argument is out of its range, or a detector is not known.
""",
}


def share_parameters(documented):
    """Replace the lines ``<<name>>`` in a docstring of a function or class by descriptions."""
    if documented.__doc__:
        text = documented.__doc__
        documented.__doc__ = re.sub(r"^( *)<<(\w+)>>$", _described, text, flags=re.MULTILINE)
    return documented


def _described(match):
    lines = PARAMETERS[match[2]].strip().splitlines()
    return "\n".join(match[1] + line if line else "" for line in lines)
