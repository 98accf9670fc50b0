# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""JWST: file names and keywords, data-quality bits, the Lyot region, the short-wavelength chips."""

import copy
import io
import re
import warnings
from collections.abc import Mapping

import numpy as np
from astropy.nddata import NDData

from levelmatch.images.gwcs_trees import wcs_content
from levelmatch.option_values import check_type

__all__ = [
    "DEFAULT_BAD_BITS",
    "DQ_BITS",
    "NIRCAM_SHORT",
    "exposure_of",
    "fitted_region",
    "jwst_keys",
    "load_gwcs",
    "lyot_region",
    "module_of",
    "read_gwcs",
    "separate_lyot",
]


# Names of the data-quality bits of imaging, from bit 0, see stdatamodels.dqflags.pixel.
_NAMES = (
    "DO_NOT_USE SATURATED JUMP_DET DROPOUT OUTLIER PERSISTENCE AD_FLOOR UNDERSAMP "
    "UNRELIABLE_ERROR NON_SCIENCE DEAD HOT WARM LOW_QE RC TELEGRAPH NONLINEAR BAD_REF_PIXEL "
    "NO_FLAT_FIELD NO_GAIN_VALUE NO_LIN_CORR NO_SAT_CHECK UNRELIABLE_BIAS UNRELIABLE_DARK "
    "UNRELIABLE_SLOPE UNRELIABLE_FLAT OPEN ADJ_OPEN FLUX_ESTIMATED MSA_FAILED_OPEN "
    "OTHER_BAD_PIXEL REFERENCE_PIXEL"
)
DQ_BITS = {name: 1 << bit for bit, name in enumerate(_NAMES.split())}
DEFAULT_BAD_BITS = DQ_BITS["DO_NOT_USE"] | DQ_BITS["NON_SCIENCE"]

# The Lyot coronagraph on the full MIRI array: first row and last column, counted from 0.
LYOT_FIRST_ROW = 735
LYOT_LAST_COLUMN = 290
# Largest distance, in pixels, from these edges to the edges of images split elsewhere.
LYOT_MARGIN = 24

NIRCAM_SHORT = re.compile(r"nrc([ab])[1-4]$")

_FILE_NAME = re.compile(
    r"jw(?P<program>\d{5})(?P<observation>\d{3})(?P<visit>\d{3})"
    r"_(?P<group>\d{2})(?P<sequence>\d)(?P<activity>[0-9a-z]{2})"
    r"_(?P<exposure>\d{5})(?:-seg\d{3})?_(?P<detector>[a-z0-9]+)",
    re.IGNORECASE,
)
_HEADER = {
    "program": "PROGRAM",
    "observation": "OBSERVTN",
    "visit": "VISIT",
    "group": "VISITGRP",
    "sequence": "SEQ_ID",
    "activity": "ACT_ID",
    "exposure": "EXPOSURE",
    "detector": "DETECTOR",
}


def module_of(detector):
    """Return the NIRCam module of a short-wavelength detector, or another detector unchanged."""
    return detector[:4] if NIRCAM_SHORT.match(detector) else detector


def jwst_keys(name, meta):
    """Return the keys of a JWST exposure, or `None` for other images.

    The file name has priority over the header, because only the name distinguishes a Lyot image
    (``mirimagel``) from its science partner (``mirimages``).

    Parameters
    ----------
    name : str
        File name.
    meta : mapping
        Header.

    Returns
    -------
    keys : dict or None
        ``tile``, ``detector`` and ``part``. The tile is named ``jwPPPPPOOOVVV_GGSAA``: program,
        observation, visit, group, sequence and activity.
    """
    match = _FILE_NAME.match(name)
    if match is not None:
        values = {key: value.lower() for key, value in match.groupdict().items()}
    elif meta.get("TELESCOP") == "JWST" and all(meta.get(key) for key in _HEADER.values()):
        values = {key: str(meta[card]).strip().lower() for key, card in _HEADER.items()}
    else:
        return None
    tile = "jw{program:0>5}{observation:0>3}{visit:0>3}_{group:0>2}{sequence}{activity:0>2}"
    detector = values["detector"]
    part = "science"
    if detector in ("mirimages", "mirimagel"):
        part = "lyot" if detector.endswith("l") else "science"
        detector = "mirimage"
    return {"tile": tile.format(**values), "detector": detector, "part": part}


def recombined_name(name):
    """Return a file's name without the ``s`` or ``l`` of a separated MIRI image."""
    return re.sub(r"mirimage[sl](?=[_.]|$)", "mirimage", name, count=1, flags=re.IGNORECASE)


def exposure_of(name):
    """Return the name of a file's exposure and detector, the same for the parts of a MIRI image.

    It is the part of a JWST file name that all versions of an exposure share; of other names, the
    whole one.
    """
    match = _FILE_NAME.match(name)
    return recombined_name(name if match is None else match[0].lower())


def part_name(name, part):
    """Return the name of the science or Lyot part of a MIRI image."""
    letter = {"science": "s", "lyot": "l"}[part]
    if "mirimage" in name:
        return name.replace("mirimage", f"mirimage{letter}", 1)
    stem, dot, suffix = name.partition(".")
    return f"{stem}_{letter}{dot}{suffix}"


def lyot_region(meta, shape):
    """Return the region of the Lyot coronagraph in an image.

    Parameters
    ----------
    meta : mapping
        Header; ``SUBSTRT1`` and ``SUBSTRT2`` give a subarray's origin, 1-based.
    shape : tuple of int
        The image's shape, (ny, nx).

    Returns
    -------
    region : tuple of slice, or None
        Rows and columns; `None` for a subarray without the region, and for a resampled image,
        whose pixels are not those of the detector.
    """
    if str(meta.get("S_RESAMP", "")).strip() == "COMPLETE":
        return None
    y0 = max(LYOT_FIRST_ROW - (_whole_number(meta, "SUBSTRT2") - 1), 0)
    x1 = min(LYOT_LAST_COLUMN + 1 - (_whole_number(meta, "SUBSTRT1") - 1), shape[1])
    if y0 >= shape[0] or x1 <= 0:
        return None
    return slice(y0, shape[0]), slice(0, x1)


def _whole_number(meta, key):
    """Return the value of a card, by default 1."""
    try:
        return int(meta.get(key, 1))
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"the card {key} = {meta.get(key)!r} is not a whole number"
        raise ValueError(msg) from error


def fitted_region(science, lyot, region):
    """Fit the Lyot region of an image that was split elsewhere to the good pixels of its parts.

    Each edge is moved by at most `LYOT_MARGIN` pixels. The fit maximizes the number of good
    pixels of the Lyot part inside of the region and of the science part outside of it.

    Parameters
    ----------
    science, lyot : 2D `~numpy.ndarray` of bool
        Good pixels of the two parts.
    region : tuple of slice
        The region according to the header, see `lyot_region`.

    Returns
    -------
    region : tuple of slice
        Rows and columns.
    """
    rows, columns = region
    inside = lyot[rows].sum(axis=0, dtype=int) - science[rows].sum(axis=0, dtype=int)
    x1 = _best_edge(inside, columns.stop)
    inside = lyot[:, :x1].sum(axis=1, dtype=int) - science[:, :x1].sum(axis=1, dtype=int)
    y0 = len(inside) - _best_edge(inside[::-1], len(inside) - rows.start)
    return slice(y0, rows.stop), slice(columns.start, x1)


def _best_edge(gain, edge):
    """Return the edge with the largest cumulative gain; if several, the nearest to ``edge``."""
    total = np.concatenate([[0], np.cumsum(gain)])
    edges = np.arange(max(edge - LYOT_MARGIN, 0), min(edge + LYOT_MARGIN, len(gain)) + 1)
    best = edges[total[edges] == total[edges].max()]
    return int(best[np.abs(best - edge).argmin()])


def read_gwcs(hdus):
    """Return the gwcs of a JWST file.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
        The open file.

    Returns
    -------
    wcs : `~gwcs.wcs.WCS` or None
        The gwcs in the ASDF extension, or `None` if it is missing or cannot be read. The FITS
        WCS with SIP distortion agrees with it to about 0.01 pixel.
    reason : str
        Reason why the gwcs cannot be read; otherwise empty.
    """
    if "ASDF" not in hdus:
        return None, ""
    import asdf

    with warnings.catch_warnings():
        # asdf warns of types that only the pipeline knows.
        warnings.simplefilter("ignore", asdf.exceptions.AsdfWarning)
        try:
            content = wcs_content(hdus["ASDF"].data.tobytes())
            if content is None:
                return None, ""
            with asdf.open(io.BytesIO(content), lazy_load=True, memmap=False) as tree:
                return _checked_gwcs(tree)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            return None, f"{type(error).__name__}: {reason[:120]}"


def _checked_gwcs(tree):
    """Return the gwcs of a tree, with loaded arrays, and the reason why it cannot be read."""
    meta = tree.tree.get("meta")
    if not isinstance(meta, Mapping) or meta.get("wcs") is None:
        return None, ""
    import gwcs

    if not isinstance(meta["wcs"], gwcs.WCS):
        return None, "the transforms of JWST are not installed; see the extra jwst"
    return load_gwcs(meta["wcs"]), ""


def load_gwcs(wcs):
    """Load the arrays of a gwcs, so that its file can be closed; return the gwcs."""
    for step in wcs.pipeline:
        _load_arrays(step.transform)
    return wcs


def _load_arrays(model):
    """Load the arrays of a model, such as distortion tables, and of its inverse."""
    from asdf.tags.core.ndarray import NDArrayType

    if model is None:
        return
    for part in model.traverse_postorder() if hasattr(model, "traverse_postorder") else [model]:
        for name, value in list(vars(part).items()):
            if name == "_user_inverse" and value is not part:
                _load_arrays(value)
            elif isinstance(value, NDArrayType):
                setattr(part, name, np.array(value))
            elif isinstance(value, tuple) and any(isinstance(v, NDArrayType) for v in value):
                setattr(part, name, tuple(map(np.array, value)))


def separate_lyot(image):
    """Split a full MIRI image into its main chip and its Lyot coronagraph.

    Parameters
    ----------
    image : `~astropy.nddata.CCDData`
        The image; ``SUBSTRT1`` and ``SUBSTRT2`` in its header give a subarray's origin.

    Returns
    -------
    science, lyot : `~astropy.nddata.CCDData`
        Copies of the image, masked inside and outside of the Lyot region, respectively. The
        region has the rows from 735 and the columns up to 290 of the full array, counted from
        0. ``lyot`` is `None` for a subarray without the region, and for a resampled image. In
        images with flags, the masked pixels get DO_NOT_USE and NON_SCIENCE.
    """
    check_type("image", image, NDData, "CCDData")
    region = lyot_region(image.meta, image.data.shape)
    science = copy.deepcopy(image)
    if region is None:
        return science, None
    lyot = copy.deepcopy(image)
    inside = np.zeros(image.data.shape, dtype=bool)
    inside[region] = True
    for part, away, name in ((science, inside, "science"), (lyot, ~inside, "lyot")):
        mask = np.zeros_like(inside) if part.mask is None else np.array(part.mask, dtype=bool)
        part.mask = mask | away
        if getattr(part, "flags", None) is not None:
            part.flags[away] |= part.flags.dtype.type(DEFAULT_BAD_BITS)
        if image.meta.get("FILENAME"):
            part.meta["FILENAME"] = part_name(str(image.meta["FILENAME"]), name)
    return science, lyot
