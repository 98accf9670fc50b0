# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Regions that are excluded from the comparison, or to which it is restricted."""

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
        The regions as DS9 text.
    only : bool
        Whether to compare only pixels inside of the regions; by default only pixels outside.
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
            True for pixels whose centre lies in a region or, with ``only``, in no region.

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
                covered = pixel.to_mask(mode="center").to_image(shape)
            except NotImplementedError as error:
                msg = f"{name}: regions: {type(region).__name__} has no area; leave it out"
                raise ValueError(msg) from error
            if covered is not None:
                # In DS9 text, a minus sign excludes a region.
                inside[covered > 0] = bool(region.meta.get("include", True))
        return ~inside if self.only else inside


def selection_of(regions: Any, *, only: bool) -> Selection | None:
    """Return the selection given by an option, or `None` without regions.

    Parameters
    ----------
    regions : None, str, `~regions.Region`, `~regions.Regions` or sequence of `~regions.Region`
        Regions, or their DS9 text.
    only : bool
        See `Selection`.

    Raises
    ------
    ImportError
        If the package regions is not installed.
    TypeError
        If a member of the sequence is not a region.
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
        # A record holds a list of texts.
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
            msg = f"regions: {wrong!r} is not a region of the package regions"
            raise TypeError(msg)
    all_regions = list(parsed)
    if not all_regions:
        msg = "regions: the file or the list has no region; give one"
        raise ValueError(msg)
    text = regions if isinstance(regions, str) else Regions(all_regions).serialize(format="ds9")
    return Selection(text, only, all_regions)
