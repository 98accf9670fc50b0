# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A frame: an image, or a part of a MIRI image, with its position and pixels."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from astropy import units as u
from astropy.nddata import NDData

from levelmatch.exceptions import FrameError
from levelmatch.images import jwst
from levelmatch.images.corrections import Correction
from levelmatch.images.file_checks import named_errors
from levelmatch.images.fill import (
    Fill,
    find_fill,
    mask_fill,
    masked_values,
    mostly_bad,
    scattered_zeros,
)
from levelmatch.images.sources import MemorySource, float_type, image_mask
from levelmatch.sky.grid import Footprint, Grid, default_spacing
from levelmatch.sky.transform import SkyTransform

__all__ = [
    "ASSIGNED",
    "EXCLUDE",
    "Frame",
    "HOLD",
    "all_held",
]


# Attributes of a frame that a run assigns, and that do not follow from its file alone.
ASSIGNED = (
    *("name", "tile", "detector", "part", "region", "whole", "subset", "scale", "corrections"),
    *("output_factor", "zero_point", "role", "extension", "exposure", "box"),
)
# Role of images that are held at a level.
HOLD = "hold"
# Role of images that are corrected without influence on the others.
EXCLUDE = "exclude"


@dataclass(frozen=True, eq=False)
class Frame:
    """An image, or a part of a MIRI image, with its position and pixels.

    Parameters
    ----------
    name : str
        Name, unique in a collection. An image of a file has the file's name.
    source : `FileSource` or `MemorySource`
        Source of its pixels.
    shape : tuple of int
        Its shape (ny, nx).
    meta : mapping
        Header.
    unit : `~astropy.units.Unit` or None
        Unit of the data.
    transform : `~levelmatch.sky.transform.SkyTransform`
        Its WCS.
    dq_bits : int
        The data-quality bits that make a pixel bad.
    tile, detector, part : str
        Names that assign the image to groups; ``part`` is ``"science"`` or ``"lyot"``.
    region : tuple of slice or None
        Pixels of the Lyot part, which are left out of the science part.
    whole : str
        Name of the image to which the part belongs.
    subset : int
        Index of the disconnected set assigned by an earlier pass.
    scale : float
        Factor from the data's unit to the common unit.
    corrections : tuple of `~levelmatch.images.corrections.AppliedCorrection`
        Corrections that are subtracted when the pixels are loaded.
    output_factor : float
        Factor that brings the corrected pixels of the output to one flux scale.
    zero_point : str
        Header keyword of the zero point, in magnitudes, that is adjusted to this factor.
    blank : None, False, float or list of float
        Values of missing pixels, see `~levelmatch.ReadOptions`.
    selection : `~levelmatch.images.selection.Selection` or None
        Regions that are left out of the comparison.
    role : {"", "hold", "exclude"}
        Whether the image is held at a level, or does not influence the others.
    extension : str
        Label of the image, such as ``SCI,2``, if several images of its file are matched.
    exposure : str
        Name of the tile, if all chips of one file form this tile and get one level.
    box : tuple of int or None
        Limits (y0, y1, x0, x1) of the good pixels, if they are few, see `with_boxes`.
    footprint : `~levelmatch.sky.grid.Footprint` or None
        Position of a recorded image, which has no WCS; by default computed from the WCS.
    associations : tuple of `~pathlib.Path`
        Association files that list the image.
    """

    name: str
    source: Any
    shape: tuple
    meta: Any
    unit: u.UnitBase | None
    transform: SkyTransform
    dq_bits: int = ~0
    tile: str = ""
    detector: str = ""
    part: str = "science"
    region: tuple | None = None
    whole: str = ""
    subset: int = 0
    scale: float = 1.0
    corrections: tuple = field(default=())
    output_factor: float = 1.0
    zero_point: str = ""
    blank: object = None
    selection: Any = None
    role: str = ""
    extension: str = ""
    exposure: str = ""
    box: tuple | None = None
    footprint: Footprint | None = None
    associations: tuple = ()

    @property
    def whole_grid(self):
        """Position of the whole image on the sky.

        A `~levelmatch.sky.grid.Grid`, or the `~levelmatch.sky.grid.Footprint` of an image
        in a record or a catalogue.
        """
        # An image in a record or a catalogue has an outline and no WCS.
        return self._whole_grid if self.footprint is None else self.footprint

    @cached_property
    def _whole_grid(self):
        box = self.transform.defined_box(self.shape)
        return Grid(self.transform, self.shape, box, default_spacing(box))

    @property
    def grid(self):
        """Position of the frame's part of the image, or of its box, on the sky."""
        is_lyot = self.part == "lyot" and self.region is not None
        if self.footprint is not None or not (is_lyot or self.box is not None):
            return self.whole_grid
        return self._part_grid

    @cached_property
    def _part_grid(self):
        whole = self.whole_grid.box
        if self.box is not None:
            y0, y1, x0, x1 = self.box
        else:
            y0, y1, x0, x1 = (edge for part in self.region for edge in (part.start, part.stop))
        box = max(y0, whole[0]), min(y1, whole[1]), max(x0, whole[2]), min(x1, whole[3])
        return Grid(self.transform, self.shape, box, default_spacing(box))

    def load(self):
        """Return the corrected pixels in the common unit, NaN where bad.

        They are C-contiguous float32 or float64 in native byte order.

        Raises
        ------
        FrameError
            See `read`.
        """
        return self.read()[0]

    def opened(self):
        """Return the frame with its header and WCS; open the file of an image in a catalogue."""
        opener = getattr(self.source, "opened_frame", None)
        return self if opener is None else opener(self)

    def read(self):
        """Return the pixels, see `load`, and their fill values.

        Returns
        -------
        data : 2D `~numpy.ndarray`
            The pixels.
        fills : tuple of `~levelmatch.images.fill.Fill`
            The fill values.

        Raises
        ------
        FrameError
            If the file cannot be read. Also if no pixel is good, unless the image has a region
            or a selection, or is one of several in its file.
        """
        if hasattr(self.source, "opened_frame"):
            return self.opened().read()
        if self.source is None:
            msg = f"{self.name}: the catalogue names no file of it, so it has no pixels"
            raise FrameError(msg)
        out, bad = self.source.read(self.dq_bits)
        if out.shape != tuple(self.shape):
            msg = f"{self.name}: its pixels have shape {out.shape}, its header {self.shape}"
            raise FrameError(msg)
        fills = self._masked(out, bad)
        if bad is not None:
            out[bad] = np.nan
        fills = mask_fill(out, self.blank) + fills + scattered_zeros(out, self.blank)
        if self.selection is not None:
            out[self.selection.left_out(self)] = np.nan
        if self.region is not None:
            _mask_region(out, self.region, keep=self.part == "lyot")
        if self.corrections:
            out -= self.correction.evaluate(self.whole_grid)
        if self.scale != 1.0:
            out *= self.scale
        whole = self.region is None and self.selection is None
        # Most images have a good pixel in the first rows.
        if whole and not any(np.isfinite(rows).any() for rows in out):
            if self.extension:
                # A dead chip does not stop the run of the others.
                return out, (Fill(np.nan, 1.0, alone=True),)
            msg = (
                f"{self.name}: the image has no good pixel; leave it out, or see dq_bits and "
                "mask_extensions"
            )
            raise FrameError(msg)
        return out, fills

    def _masked(self, data, bad):
        """Return a `Fill` of NaN if the mask may be inverted, see `masked_values`."""
        # A Lyot image masks the main chip.
        if self.part == "lyot":
            return ()
        if bad is None:
            # Flags of plain files are applied while they are read.
            if getattr(self.source, "dq_hdu", None) is None or not mostly_bad(data):
                return ()
            data, bad = self.source.read(0)[0], np.isnan(data)
        return masked_values(data, bad)

    def has_good_pixels(self, region):
        """Return whether a region has a good pixel; read only its rows if possible.

        Parameters
        ----------
        region : tuple of slice
            Rows and columns of the whole image.
        """
        if hasattr(self.source, "opened_frame"):
            return self.opened().has_good_pixels(region)
        y, x = region
        rows = None
        if self.selection is None and hasattr(self.source, "read_rows"):
            if self.source.all_flagged(y, x, self.dq_bits):
                return False
            rows = self.source.read_rows(y.start, y.stop, self.dq_bits)
        if rows is None:
            return bool(np.isfinite(self.load()[region]).any())
        mask_fill(rows, self.blank)
        return bool(np.isfinite(rows[:, x]).any())

    def missing(self, data):
        """Return where an image has no data, or `None` if it has data everywhere.

        Parameters
        ----------
        data : 2D `~numpy.ndarray`
            The stored pixels of the whole image.

        Returns
        -------
        missing : 2D `~numpy.ndarray` of bool, or None
            True where the pixel has a fill value.
        """
        # Floats stay in FITS's byte order: few images have fill values, and converting takes time.
        is_plain = data.dtype.kind == "f" and data.dtype.itemsize >= 4
        values = data if is_plain else np.asarray(data, dtype=float_type(data))
        fills, missing = find_fill(values, self.blank)
        if missing is None or not missing.any():
            return None
        return None if fills and fills[0].alone else missing

    @property
    def correction(self):
        """Sum of all corrections, a `~levelmatch.images.corrections.Correction`."""
        return sum((applied.correction for applied in self.corrections), Correction())

    @property
    def product(self):
        """Name of the output image, which a Lyot part shares with its science part."""
        return self.whole or jwst.recombined_name(self.name)

    @property
    def file(self):
        """Name of the output file, which the images of one file share."""
        if not self.extension:
            return self.product
        return self.product.removesuffix(f"[{self.extension}]")

    def has_pass(self, name):
        """Return whether a pass has corrected the frame."""
        return any(applied.name == name for applied in self.corrections)

    @cached_property
    def jwst(self):
        """Tile, detector and part of a JWST image, see `~levelmatch.images.jwst.jwst_keys`."""
        return jwst.jwst_keys(self.name, self.meta)

    def with_keys(self, **keys):
        """Return a copy with some attributes replaced; keep the computed geometry."""
        new = replace(self, **keys)
        if "footprint" in keys:
            return new
        same_box = (new.part, new.region, new.box) == (self.part, self.region, self.box)
        for name in ("_whole_grid", "_part_grid") if same_box else ("_whole_grid",):
            if name in self.__dict__:
                new.__dict__[name] = self.__dict__[name]
        return new

    def for_workers(self):
        """Return the frame without its header, for another process.

        An image in memory is reduced to its pixels and their mask.
        """
        source = self.source
        if isinstance(source, MemorySource):
            image = source.image
            image = NDData(image.data, mask=image_mask(image), unit=image.unit)
            source = MemorySource(image, name=self.name, checksums=source.checksums)
        return self.with_keys(meta={}, source=source)

    def split_lyot(self):
        """Return the science and Lyot parts, or the frame itself if it has no Lyot region."""
        if hasattr(self.source, "opened_frame"):
            return self.opened().split_lyot()
        with named_errors(self.name, "its Lyot region is not known"):
            region = jwst.lyot_region(self.meta, self.shape)
        if region is None:
            return [self]
        return [
            self.with_keys(
                part=part, region=region, name=jwst.part_name(self.name, part), whole=self.name
            )
            for part in ("science", "lyot")
        ]


def _mask_region(data, region, *, keep):
    """Set the pixels outside of the region (``keep``) or inside of it to NaN, in place."""
    if keep:
        inside = data[region].copy()
        data[:] = np.nan
        data[region] = inside
    else:
        data[region] = np.nan


def all_held(frames: Iterable[Frame]) -> bool:
    """Return whether the caller holds all images, see ``SolveOptions(hold=...)``."""
    return all(frame.role == HOLD for frame in frames)
