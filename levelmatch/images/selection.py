# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Regions that are left out of the comparison, or the only ones compared."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Selection", "selection_of"]


@dataclass(frozen=True, eq=False)
class Selection:
    """Regions of the sky or of an image's pixels.

    Parameters
    ----------
    text : str
        The regions in DS9's language.
    only : bool
        Whether only pixels inside of the regions are compared, else only those outside.
    regions : list of `~regions.Region`
        The regions.
    """

    text: str
    only: bool
    regions: list = field(repr=False)

    @cached_property
    def key(self) -> tuple[str, bool]:
        """Identity of the selection."""
        return self.text, self.only

    def left_out(self, wcs: Any, shape: tuple[int, int], name: str) -> np.ndarray:
        """Return the pixels of an image that are not compared.

        Parameters
        ----------
        wcs : APE 14 WCS
            WCS of the image.
        shape : tuple of int
            Its shape (ny, nx).
        name : str
            The image, for error messages.

        Returns
        -------
        mask : 2D `~numpy.ndarray` of bool
            True where the centre of a pixel lies in a region, or in none with ``only``.

        Raises
        ------
        ValueError
            If a region has no area.
        """
        inside = np.zeros(shape, dtype=bool)
        for region in self.regions:
            pixel = region.to_pixel(wcs) if hasattr(region, "to_pixel") else region
            if not hasattr(pixel, "to_mask"):
                msg = f"{name}: regions: {type(region).__name__} has no area; leave it out"
                raise ValueError(msg)
            try:
                part = pixel.to_mask(mode="center").to_image(shape)
            except NotImplementedError as error:
                msg = f"{name}: regions: {type(region).__name__} has no area; leave it out"
                raise ValueError(msg) from error
            if part is not None:
                # DS9 excludes a region by a minus sign.
                inside[part > 0] = bool(region.meta.get("include", True))
        return ~inside if self.only else inside


def selection_of(regions: Any, *, only: bool) -> Selection | None:
    """Return the selection of an option, `None` without regions.

    Parameters
    ----------
    regions : None, str, `~regions.Region`, `~regions.Regions` or sequence of `~regions.Region`
        Regions, or their text in DS9's language.
    only : bool
        See `Selection`.

    Raises
    ------
    ImportError
        If the package regions is not installed.
    ValueError
        If there is no region, or the text cannot be read.
    """
    if regions is None:
        return None
    try:
        from regions import Region, Regions
    except ImportError as error:
        msg = 'regions: the package regions is needed: pip install "levelmatch[regions]"'
        raise ImportError(msg) from error
    if isinstance(regions, list | tuple) and all(isinstance(r, str) for r in regions):
        # As a record has a list of regions.
        regions = "\n".join(regions)
    if isinstance(regions, str):
        try:
            parsed = Regions.parse(regions, format="ds9")
        except Exception as error:
            msg = f"regions: the text cannot be read as DS9's regions: {error}"
            raise ValueError(msg) from error
    else:
        parsed = [regions] if isinstance(regions, Region) else regions
        wrong = next((r for r in parsed if not isinstance(r, Region)), None)
        if wrong is not None:
            msg = f"regions: {wrong!r} is no region of the package regions"
            raise TypeError(msg)
    found = list(parsed)
    if not found:
        msg = "regions: there is none in the file or the list; give one"
        raise ValueError(msg)
    text = regions if isinstance(regions, str) else Regions(found).serialize(format="ds9")
    return Selection(text, only, found)
