# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Names of the passes in sentences, headings and header cards."""

from dataclasses import dataclass

__all__ = ["PASSES", "PASS_OF", "PassName"]

# Name of the pass for each name in keywords such as ``fit_type_mosaic_tiles``.
PASS_OF = {
    "dithers": "dithers",
    "recombine_lyot": "lyot",
    "combine_nircam_short": "nircam_short",
    "combine_detectors": "detectors",
    "mosaic_tiles": "mosaic",
}


@dataclass(frozen=True)
class PassName:
    """Names of a pass, or of another correction such as the local sky.

    Parameters
    ----------
    letter : str
        Letter in header keywords such as ``LMDLEV``.
    short : str
        Short name in comments of header cards.
    heading : str
        Heading of a column.
    words : str
        Name in sentences.
    lone : str
        Reason why the pass matches nothing, if each group is alone.
    """

    letter: str
    short: str
    heading: str
    words: str
    lone: str = ""


PASSES = {
    "dithers": PassName(
        "D", "dithers", "Dithers", "dithers of each tile", "each tile has one image"
    ),
    "known": PassName("K", "known", "Known", "levels known before"),
    "local": PassName("B", "local sky", "Local sky", "local sky of each tile"),
    "lyot": PassName(
        "L", "lyot", "Lyot", "Lyot coronagraph to main chip", "no tile has both parts"
    ),
    "nircam_short": PassName(
        "N",
        "NIRCam",
        "NIRCam short",
        "NIRCam short-wavelength chips",
        "no module has more than one chip",
    ),
    "detectors": PassName(
        "C",
        "detectors",
        "Detectors",
        "detectors of each tile",
        "no tile has more than one detector",
    ),
    "fit_exclude": PassName(
        "X", "excluded", "Excluded", "images left out of the fit", "no such image overlaps others"
    ),
    "mosaic": PassName("M", "mosaic", "Mosaic", "mosaic tiles", "all images are one tile"),
    "anchor": PassName("A", "anchor", "Anchor", "absolute level"),
}
