# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Regions of pixels to compare, and images that are held or excluded from the fit."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.images.frame import EXCLUDE, HOLD
from levelmatch.images.known_levels import KNOWN, known_correction
from levelmatch.sky.vectors import lonlat

__all__ = ["Selection", "selection_of", "with_roles"]


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

    def left_out(self, frame: Any) -> np.ndarray:
        """Return the pixels of an image that are not compared.

        Parameters
        ----------
        frame : `~levelmatch.images.frame.Frame`
            The image.

        Returns
        -------
        mask : 2D `~numpy.ndarray` of bool
            True for pixels whose centre lies in a region or, with ``only``, in no region.

        Raises
        ------
        ValueError
            If a region has no area, or no place in the pixels of the image.
        """
        inside = np.zeros(frame.shape, dtype=bool)
        for region in self.regions:
            # A projection may have no place for a region far away, or a wrong one.
            if _is_far(region, frame.grid.centre, frame.grid.radius):
                continue
            covered = _covered(region, frame)
            if covered is not None:
                inside[covered > 0] = _is_included(region)
        return ~inside if self.only else inside


def _covered(region, frame):
    """Return which pixels of an image a region covers, or `None` if it covers none."""
    kind = type(region).__name__
    try:
        is_sky = hasattr(region, "to_pixel")
        pixel = region.to_pixel(frame.transform.for_others(frame.shape)) if is_sky else region
        return pixel.to_mask(mode="center").to_image(frame.shape)
    except (NotImplementedError, AttributeError) as error:
        msg = f"{frame.name}: regions: {kind} has no area; leave it out"
        raise ValueError(msg) from error
    except Exception as error:
        msg = f"{frame.name}: regions: {region} has no place in the image: {error}; leave it out"
        raise ValueError(msg) from error


# Sizes of regions that may add up to their extent.
_SIZES = ("radius", "outer_radius", "width", "height", "outer_width", "outer_height")


def _is_far(region, centre, radius):
    """Return whether a region of the sky cannot reach a circle around a unit vector.

    Parameters
    ----------
    region : `~regions.Region`
        The region; one of pixels is never far.
    centre : `~numpy.ndarray`
        The unit vector.
    radius : float
        Radius of the circle, in radian.
    """
    if hasattr(region, "region1"):
        return all(_is_far(part, centre, radius) for part in (region.region1, region.region2))
    places = getattr(region, "vertices", getattr(region, "center", None))
    if not isinstance(places, SkyCoord):
        return False
    places = places.icrs.reshape(-1)
    extent = places.separation(places[0]).rad.max()
    extent += sum(u.Quantity(getattr(region, name, 0 * u.rad)).to_value("rad") for name in _SIZES)
    away = places[0].separation(SkyCoord(*lonlat(centre), unit="deg")).rad
    # Sides of polygons are straight in the pixels, not on the sky.
    return bool(0 < extent < 1 and away > radius + 1.1 * extent)


def _is_included(region: Any) -> bool:
    """Return whether a region has no minus sign in DS9 text."""
    return bool(region.meta.get("include", True))


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
        If there is no region, all regions are excluded, or the text cannot be read.
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
    if not any(map(_is_included, all_regions)):
        msg = "regions: each has a minus sign, which excludes it from earlier regions; give these"
        raise ValueError(msg)
    text = regions if isinstance(regions, str) else Regions(all_regions).serialize(format="ds9")
    return Selection(text, only, all_regions)


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
        msg = f"{both}: it is named by hold and by fit_exclude; name it in one of the two"
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
