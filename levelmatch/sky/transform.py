# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Transformation between pixel coordinates and the sky, for any celestial WCS."""

import re
from functools import cached_property

import numpy as np
from astropy import units as u
from astropy.coordinates import (
    FK5,
    ICRS,
    ITRS,
    AltAz,
    BarycentricMeanEcliptic,
    Galactic,
    HADec,
    SkyCoord,
    Supergalactic,
)
from astropy.time import Time
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import wcs_to_celestial_frame
from astropy.wcs.wcsapi import BaseLowLevelWCS, HighLevelWCSWrapper

from levelmatch.exceptions import FrameError
from levelmatch.sky.vectors import lonlat, unit_vectors

__all__ = ["IcrsWCS", "SkyTransform", "wcs_error"]


# Lines of wcslib's messages that name its source files.
_IN_WCSLIB = re.compile(r"ERROR \d+ in \w+\(\) at line")
# Frames of the FITS longitudes that imply a frame.
_LONGITUDES = {"GLON": Galactic, "SLON": Supergalactic}
# Types of longitudes that astropy takes for right ascensions, or has no frame of.
_MISREAD = ("pos.ecliptic.lon", None)


class SkyTransform:
    """Transformation between pixel coordinates and ICRS unit vectors, for any 2D celestial WCS.

    Parameters
    ----------
    wcs : APE 14 WCS
        The WCS, such as an `astropy.wcs.WCS` (including SIP, TPV and tabular distortions) or a
        `gwcs.wcs.WCS`.
    name : str
        The image, for error messages.
    original : callable or None
        Function that returns the complete WCS, if ``wcs`` has only some of its cards.
    rebuild : tuple or None
        Function and arguments that make the transformation in another process.
    cards : callable or None
        Function that returns the FITS cards of ``wcs`` as text, faster than ``wcs`` does.

    Raises
    ------
    FrameError
        If there is no WCS, or it is not two-dimensional and celestial.
    """

    def __init__(self, wcs, name, *, original=None, rebuild=None, cards=None):
        if wcs is None:
            msg = f"{name}: the image has no WCS; solve its astrometry first"
            raise FrameError(msg)
        self.name = name
        self.wcs = getattr(wcs, "low_level_wcs", wcs)
        self._original = original or (lambda: wcs)
        self._rebuild = rebuild or (SkyTransform, (wcs, name))
        self.cards = cards
        try:
            self._find_axes()
        except FrameError:
            raise
        except Exception as error:
            raise wcs_error(name, error) from error

    def __reduce__(self):
        return self._rebuild

    @cached_property
    def original(self):
        """The complete WCS given by the user."""
        try:
            return self._original()
        except Exception as error:
            raise wcs_error(self.name, error) from error

    def for_others(self, shape):
        """Return the WCS of an image for other packages, which use astropy's frames.

        Parameters
        ----------
        shape : tuple of int
            Shape of the image, (ny, nx).
        """
        if self.wcs.world_axis_physical_types[self._lon] not in _MISREAD:
            return self.original
        return HighLevelWCSWrapper(IcrsWCS(self, shape))

    def _find_axes(self):
        """Set the index of the longitude, the frame, and the units of the axes in degrees."""
        low = self.wcs
        if _is_icrs(low):
            self._lon, self._frame, self._degrees = low.wcs.lng, ICRS(), [1.0, 1.0]
            return
        if low.pixel_n_dim != 2 or low.world_n_dim != 2:
            msg = (
                f"{self.name}: the WCS has {low.pixel_n_dim} pixel and {low.world_n_dim} world "
                "axes, not 2 and 2; give the WCS of one plane"
            )
            raise FrameError(msg)
        frame = _fits_frame(self.name, low) if isinstance(low, WCS) else None
        if frame is None:
            self._lon, self._frame = self._declared_axes()
        else:
            self._lon, self._frame = low.wcs.lng, frame
        self._degrees = [_unit_in_degrees(unit) for unit in low.world_axis_units]

    def _declared_axes(self):
        """Return the index of the longitude and the frame declared by the WCS."""
        low = self.wcs
        components = low.world_axis_object_components
        classes = low.world_axis_object_classes
        kinds = [classes[component[0]][0] for component in components]
        if any(kind is not SkyCoord for kind in kinds):
            kinds = list(low.world_axis_physical_types)
            msg = f"{self.name}: the WCS is not celestial, its axes are {kinds}; give one that is"
            raise FrameError(msg)
        lon = [component[1] for component in components].index(0)
        kind = low.world_axis_physical_types[lon]
        # The class's keywords hold the frame, with its equinox and epoch.
        declared = classes[components[0][0]][2].get("frame", ICRS())
        return lon, _declared_frame(self.name, kind, declared)

    def to_sky(self, x, y):
        """Return unit vectors, shape (..., 3), of pixel coordinates; NaN where undefined."""
        try:
            world = self.wcs.pixel_to_world_values(np.asarray(x, float), np.asarray(y, float))
        except Exception as error:
            raise wcs_error(self.name, error) from error
        world = [np.asarray(w, float) * f for w, f in zip(world, self._degrees, strict=True)]
        lon, lat = world[self._lon], world[1 - self._lon]
        if not isinstance(self._frame, ICRS):
            lon, lat = self._converted(lon, lat, self._frame, ICRS())
        return unit_vectors(lon, lat)

    def _converted(self, lon, lat, old, new):
        """Convert longitude and latitude, in degrees, from one frame to another."""
        try:
            sky = SkyCoord(lon, lat, unit="deg", frame=old).transform_to(new)
        except Exception as error:
            raise wcs_error(self.name, error) from error
        return sky.spherical.lon.deg, sky.spherical.lat.deg

    def to_pixel(self, vectors):
        """Return pixel coordinates (x, y) of unit vectors; NaN where undefined."""
        lon, lat = lonlat(vectors)
        if not isinstance(self._frame, ICRS):
            lon, lat = self._converted(lon, lat, ICRS(), self._frame)
        world = [lon, lat] if self._lon == 0 else [lat, lon]
        world = [w / f for w, f in zip(world, self._degrees, strict=True)]
        try:
            x, y = self.wcs.world_to_pixel_values(*world)
        except NoConvergence as error:
            x, y = error.best_solution.T
        return np.asarray(x, float), np.asarray(y, float)

    def defined_box(self, shape):
        """Return the limits (y0, y1, x0, x1) of the pixels where the WCS is defined.

        A gwcs is defined in its bounding box and NaN outside.
        """
        box = [0, shape[0], 0, shape[1]]
        bounds = getattr(self.wcs, "pixel_bounds", None)
        if bounds is None:
            return tuple(box)
        for axis, limits in enumerate(bounds):
            if limits is None:
                continue
            k = 2 * (1 - axis)
            box[k] = max(box[k], int(np.ceil(limits[0])))
            box[k + 1] = min(box[k + 1], int(np.floor(limits[1])) + 1)
            if box[k + 1] - box[k] < 2:
                msg = f"{self.name}: the bounding box {bounds} of its WCS holds no pixel; widen it"
                raise FrameError(msg)
        return tuple(box)


class IcrsWCS(BaseLowLevelWCS):
    """APE 14 WCS of a transformation, in ICRS.

    Parameters
    ----------
    transform : `SkyTransform`
        The transformation.
    shape : tuple of int
        Shape of the image, (ny, nx).
    """

    pixel_n_dim = world_n_dim = 2
    world_axis_physical_types = ("pos.eq.ra", "pos.eq.dec")
    world_axis_units = ("deg", "deg")
    world_axis_object_components = (
        ("celestial", 0, "spherical.lon.degree"),
        ("celestial", 1, "spherical.lat.degree"),
    )

    def __init__(self, transform, shape):
        self.transform = transform
        self.shape = shape

    @property
    def array_shape(self):
        """Shape of the image."""
        return self.shape

    @property
    def world_axis_object_classes(self):
        """Class of the positions."""
        return {"celestial": (SkyCoord, (), {"frame": "icrs", "unit": "deg"})}

    def pixel_to_world_values(self, x, y):
        """Return longitude and latitude."""
        return lonlat(self.transform.to_sky(x, y))

    def world_to_pixel_values(self, lon, lat):
        """Return pixel coordinates."""
        return self.transform.to_pixel(unit_vectors(lon, lat))


def wcs_error(name, error):
    """Return the error of an image with an unusable WCS, without names of wcslib's sources."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not _IN_WCSLIB.match(line)]
    lines = lines or [type(error).__name__]
    first = lines[0][0].lower() + lines[0][1:] if lines[0][1:2].islower() else lines[0]
    return FrameError(f"{name}: its WCS cannot be used: {'; '.join([first, *lines[1:]])}")


def _is_icrs(wcs):
    """Return whether an astropy WCS has exactly the axes RA and Dec of ICRS, in degrees.

    This test avoids astropy's description of the axes, which takes most of the time.
    """
    if not isinstance(wcs, WCS) or wcs.naxis != 2 or wcs.pixel_n_dim != 2:
        return False
    prm = wcs.wcs
    # Without RADESYS, wcslib now sets its default. Later calls must not find another state.
    prm.set()
    return (
        prm.radesys == "ICRS"
        and {prm.lng, prm.lat} == {0, 1}
        and prm.lngtyp == "RA"
        and all(unit == u.deg for unit in prm.cunit)
    )


def _fits_frame(name, low):
    """Return the frame of a FITS WCS from its longitude's name, or `None` if not celestial.

    astropy would treat ecliptic longitudes as right ascensions.
    """
    if not low.has_celestial:
        return None
    kind = low.wcs.lngtyp.strip()
    if kind == "RA":
        return wcs_to_celestial_frame(low)
    if kind in _LONGITUDES:
        return _LONGITUDES[kind]()
    if kind == "ELON" and low.wcs.radesys in ("ICRS", "FK5", ""):
        return _ecliptic(low.wcs.equinox if low.wcs.radesys == "FK5" else 2000.0)
    of = f" of {low.wcs.radesys}" if low.wcs.radesys else ""
    msg = (
        f"{name}: the WCS has the axes {kind} and {low.wcs.lattyp.strip()}{of}, which cannot be "
        "converted to right ascension and declination; give a WCS in RA and Dec"
    )
    raise FrameError(msg)


def _ecliptic(equinox):
    """Return the mean ecliptic frame of a Julian year."""
    return BarycentricMeanEcliptic(equinox=Time(equinox, format="jyear"))


def _declared_frame(name, kind, frame):
    """Return the frame declared by a WCS; refuse a frame that rotates with the Earth.

    Parameters
    ----------
    name : str
        The image, for error messages.
    kind : str or None
        Physical type of the longitude, such as ``"pos.eq.ra"``.
    frame : `~astropy.coordinates.BaseCoordinateFrame`, class or str
        The declared frame.
    """
    frame = SkyCoord(0, 0, unit="deg", frame=frame).frame.replicate_without_data()
    if isinstance(frame, ITRS | AltAz | HADec):
        msg = (
            f"{name}: the WCS is in the frame {type(frame).__name__}, which is not fixed to the "
            "sky; give a WCS in RA and Dec"
        )
        raise FrameError(msg)
    # A slice of a FITS WCS declares an equatorial frame for ecliptic axes, see `_fits_frame`.
    if kind == "pos.ecliptic.lon" and isinstance(frame, ICRS | FK5):
        return _ecliptic(frame.equinox.jyear if isinstance(frame, FK5) else 2000.0)
    return frame


def _unit_in_degrees(unit):
    return u.Unit(unit).to(u.deg)
