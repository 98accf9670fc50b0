# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Notes on images; each kind yields one sentence per run that names its images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from levelmatch.exceptions import warn_user

__all__ = ["Notes", "chips_are_left_out"]

# Largest number of images that a sentence names.
MAX_NAMED = 5
# Sentence for each kind of note. Details of an image follow its name in brackets.
SENTENCES = {
    "extensions": (
        "several images of a file show the same sky, and only one is matched: {images}; hdu "
        "chooses another, several, or 'all'"
    ),
    "chosen extensions": (
        "only the images chosen by hdu are matched, the others are left as they are: {images}"
    ),
    "same sky": (
        "images of one file show the same sky, are matched to each other, and no header names "
        "their filters: {images}. Their emission differs if their filters do: hdu chooses one "
        "image of each file, so match each filter by itself, or add FILTER to the headers"
    ),
    "unread mask": (
        "an extension looks like a mask and is not read, so pixels that it marks count as good: "
        "{images}. Rename it to DQ if it holds flags, or to MASK if it is not 0 at bad pixels"
    ),
    "unread flags": (
        "flags of images in memory are not read, so pixels that they mark count as good: {images}. "
        "Give the bad pixels as mask; mask_extensions=False ignores flags"
    ),
    "unnamed": (
        "an extension of integers has the shape of the image and no name. It is not read, and if "
        "it is a mask, pixels that it marks count as good: {images}. Name it DQ if it holds flags, "
        "or MASK if it is not 0 at bad pixels; mask_extensions=False ignores it"
    ),
    "unknown errors": (
        "the uncertainty is NaN at pixels that count as good: {images}; mask them if they are bad"
    ),
    "no wcs": "images without celestial WCS, beside others with one, are not matched: {images}",
    "gwcs": "the gwcs cannot be read, the FITS WCS is used: {images}",
    "fill": (
        "large regions of one value are missing data: {images}; "
        "blank=False treats them as data, blank=0 names the value"
    ),
    "zeros": (
        "scattered pixels are exactly 0 and count as good: {images}. Levels are wrong if they have "
        "no data (blank=0 masks them) or were negative, and errors are too small if they are rates "
        "of few photons (bin the pixels, or give clip=5); blank=False omits this warning"
    ),
    "masked": (
        "most pixels are masked, although they have values: {images}. A mask is not 0 at bad "
        "pixels, and a weight is positive at good ones: see whether it is inverted"
    ),
    "overscan": (
        "the overscan (BIASSEC) is part of the image and counts as sky, so that levels are wrong: "
        "{images}. Trim the images, or mask the overscan by mask_files"
    ),
    "constant": (
        "all pixels have one value; the image is compared with no other, and not corrected: "
        "{images}"
    ),
    "dead": ("no pixel is good; the image is compared with no other, and not corrected: {images}"),
    "lyot": (
        "the region of MIRI's Lyot coronagraph has good pixels: {images}. It has a background of "
        "its own, so it is left out of the comparison and gets the correction of the main chip; "
        "recombine_lyot=True matches it as well"
    ),
    "lyot left out": (
        "the region of MIRI's Lyot coronagraph is left out of the comparison, and gets the "
        "correction of the main chip: {images}"
    ),
    "sky level": (
        "the header has a sky level that is not subtracted yet: {images}. The pixels are matched "
        "with it; the card is set to 0 in the corrected image, so that no later step subtracts "
        "it again"
    ),
    "kept level": (
        "the header has a sky level that is not subtracted yet: {images}. The pixels are matched "
        "with it; the new level replaces it"
    ),
    "kept rate": (
        "the level is kept in DN/s: {images}. The flux step of roman_mos converts the pixels to "
        "MJy/sr and not the level; match after that step, in a hook of skymatch, or subtract"
    ),
    "area": (
        "values per pixel are compared after division by the pixel area of each camera, as "
        "pixel_area says, relative to the first image by name: {images}"
    ),
    "beam": (
        "values per beam are compared after division by the solid angle of the beam, relative to "
        "the first image by name: {images}"
    ),
    "skipped": "left out because of on_error='skip': {images}",
}
# Kinds that cause no warning, because they follow from the user's choices.
QUIET = {"kept level", "chosen extensions", "lyot left out", "area", "beam"}


@dataclass(eq=False)
class Notes:
    """Notes on the images of a run, collected while they are read."""

    _items: dict = field(default_factory=dict)
    _warned: set = field(default_factory=set)

    def add(self, kind: str, name: str, detail: str = "") -> None:
        """Add a note on an image, unless it has one of this kind."""
        items = self._items.setdefault(kind, {})
        items.setdefault(name, detail)

    def merge(self, other: "Notes") -> None:
        """Add the notes of another collection, as a worker returns."""
        for kind, items in other._items.items():
            for name, detail in items.items():
                self.add(kind, name, detail)

    def add_fills(self, name: str, fills: tuple) -> None:
        """Add a note on the fill values of an image, a tuple of `Fill`."""
        masked = [fill for fill in fills if np.isnan(fill.value) and not fill.alone]
        if masked:
            self.add("masked", name, f"{masked[0].fraction:.2g} of the pixels")
        zeros = [fill for fill in fills if fill.scattered]
        if zeros:
            self.add("zeros", name, f"{zeros[0].fraction:.2g} of the pixels")
        fills = tuple(fill for fill in fills if fill not in masked + zeros)
        if not fills:
            return
        if np.isnan(fills[0].value):
            self.add("dead", name)
            return
        if fills[0].alone:
            self.add("constant", name, ", ".join(_number(fill.value) for fill in fills))
            return
        parts = [f"{_number(f.value)} in {f.fraction:.2g} of the pixels" for f in fills]
        self.add("fill", name, " and ".join(parts))

    @property
    def sentences(self) -> list[str]:
        """One sentence per kind of note."""
        return [self._sentence(kind) for kind in SENTENCES if kind in self._items]

    @property
    def noted(self) -> dict[str, list[str]]:
        """Names of the images of each kind of note."""
        return {kind: list(items) for kind, items in self._items.items()}

    def _sentence(self, kind):
        items = self._items[kind]
        named = [f"{name} ({detail})" if detail else name for name, detail in items.items()]
        more = f", and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
        return SENTENCES[kind].format(images=", ".join(named[:MAX_NAMED]) + more)

    def warn(self) -> None:
        """Issue one warning for each kind that has not been reported before."""
        for kind in SENTENCES:
            if kind in self._items and kind not in self._warned | QUIET:
                self._warned.add(kind)
                warn_user(self._sentence(kind))


def chips_are_left_out(file: str, options: Mapping) -> bool:
    """Return whether the notes of a run say that some images of a file are not matched.

    Parameters
    ----------
    file : str
        The file.
    options : mapping
        Recorded options of the run, with the sentences of `Notes` and their kinds.
    """
    kinds = ("extensions", "chosen extensions", "no wcs")
    if "noted" in options:
        return any(Path(file).name in options["noted"].get(kind, ()) for kind in kinds)
    # Earlier records have only sentences. One on many files does not name all, and may mean any.
    starts = tuple(SENTENCES[kind].partition("{")[0] for kind in kinds)
    notes = options.get("notes", ())
    return any(note.startswith(starts) and (file in note or " more" in note) for note in notes)


def _number(value):
    """Return a value as text, with the seven digits of float32."""
    return str(int(value)) if value == int(value) and abs(value) < 1e12 else f"{value:.7g}"
