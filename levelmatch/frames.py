# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Any input as frames: what an image is, known from its header; its pixels only when asked."""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData
from astropy.wcs import WCS, FITSFixedWarning

from levelmatch import headers, jwst
from levelmatch.corrections import Correction
from levelmatch.exceptions import FluxScaleWarning, FrameError, LevelMatchWarning
from levelmatch.sky import Grid, SkyTransform, default_spacing, wcs_error
from levelmatch.units import UnknownUnit, is_extensive, is_logarithmic, read_unit

__all__ = [
    "FileSource",
    "Frame",
    "MemorySource",
    "collect_frames",
    "compare_scales",
    "flux_factors",
    "flagged",
    "image_values",
    "partner_hdu",
    "scaled_frames",
]

# Pixels whose areas differ by less than this part are of one scale.
SAME_AREA = 0.02


@dataclass(frozen=True, eq=False)
class MemorySource:
    """An image in memory."""

    image: NDData

    @cached_property
    def identity(self):
        """What tells the image: no file, and the SHA-256 of data and mask."""
        data, mask = np.asarray(self.image.data), _as_mask(self.image.mask)
        return {"file": "", "path": "", "size": 0, "hdu": 0, **_digests(data, [mask])}

    def read(self, dq_bits):
        """Return a copy of the data as floats, and a boolean array (or `None`) of bad pixels."""
        data = np.asarray(self.image.data)
        return np.array(data, dtype=_float_type(data), order="C"), _as_mask(self.image.mask)


@dataclass(frozen=True, eq=False)
class FileSource:
    """An image in a FITS file.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    hdu : int
        Index of the image's HDU.
    dq_hdu : int or None
        Index of the HDU with its data quality.
    mask_hdu : int or None
        Index of the HDU with its mask, which `~astropy.nddata.CCDData` writes.
    planes : tuple of `~levelmatch.headers.Plane` or None
        The image and its data quality (or `None`) in a plain file.
    """

    path: Path
    hdu: int
    dq_hdu: int | None
    mask_hdu: int | None = None
    planes: tuple | None = None

    @cached_property
    def identity(self):
        """What tells the image: its file, and the SHA-256 of data and mask planes.

        That is of the bytes in FITS's order, once scaled and decompressed. Read when first
        asked for.

        Raises
        ------
        FrameError
            If the file cannot be read.
        """
        with self._opened() as hdus:
            planes = [hdus[i].data for i in (self.dq_hdu, self.mask_hdu) if i is not None]
            digests = _digests(hdus[self.hdu].data, planes)
        path = self.path.absolute()
        size = path.stat().st_size
        return {"file": path.name, "path": str(path), "size": size, "hdu": self.hdu, **digests}

    @contextmanager
    def _opened(self):
        """Open the file; what goes wrong with it names it."""
        try:
            # In threads too, where no filter of warnings may be set.
            with fits.open(self.path, memmap=False) as hdus:
                self._check_length(hdus)
                yield hdus
        except (OSError, EOFError, TypeError, ValueError, IndexError, UserWarning) as error:
            msg = f"{self.path.name}: the pixels cannot be read: {error}; get the file anew"
            raise FrameError(msg) from error

    def _check_length(self, hdus):
        """Refuse a truncated file: astropy only warns, and fills in zeros."""
        used = [i for i in (self.hdu, self.dq_hdu, self.mask_hdu) if i is not None]
        places = [hdus[i].fileinfo() for i in used]
        with open(self.path, "rb") as stream:
            compressed = stream.read(6) != b"SIMPLE"
            size = stream.seek(0, 2)
        if not compressed and max(p["datLoc"] + p["datSpan"] for p in places) > size:
            msg = f"it is truncated to {size} bytes"
            raise OSError(msg)

    def read(self, dq_bits):
        """Return the data as floats, and a boolean array (or `None`) of pixels still to mask."""
        plain = self._read_plain(dq_bits)
        if plain is not None:
            return plain, None
        with self._opened() as hdus:
            data = hdus[self.hdu].data
            bad = None
            if self.dq_hdu is not None:
                bad = flagged(hdus[self.dq_hdu].data, dq_bits)
            if self.mask_hdu is not None:
                masked = hdus[self.mask_hdu].data != 0
                bad = masked if bad is None else bad | masked
            return np.require(data, _float_type(data), "CW"), bad

    def _read_plain(self, dq_bits):
        """The pixels of a plain file, or `None`: then astropy reads it, or says what is wrong."""
        if self.planes is None:
            return None
        try:
            return headers.read_plane(self.path, *self.planes, dq_bits & 0xFFFFFFFF)
        except OSError:
            return None


def _float_type(data):
    """The type of floats that holds the values of an array, in single precision if they are."""
    small = data.dtype.kind == "f" and data.dtype.itemsize <= 4
    small |= data.dtype.kind in "iu" and data.dtype.itemsize <= 2
    return np.dtype(np.float32 if small else np.float64)


def _digests(data, planes):
    """The type of an image's data, their SHA-256, and that of its mask planes."""
    masks = hashlib.sha256()
    for plane in planes:
        if plane is not None:
            masks.update(_in_fits_order(np.asarray(plane)))
    return {
        "dtype": data.dtype.newbyteorder("=").str[1:],
        "sha256": hashlib.sha256(_in_fits_order(data)).hexdigest(),
        "mask_sha256": masks.hexdigest() if any(p is not None for p in planes) else "",
    }


def _in_fits_order(data):
    """An array's bytes, C-contiguous and big-endian, as FITS has them."""
    return np.ascontiguousarray(data, dtype=data.dtype.newbyteorder(">")).data


def flagged(dq, bits):
    """Return where any of some bits is set in an array of integers, its sign bit among them."""
    unsigned = dq.view(dq.dtype.str.replace("i", "u"))
    bits = bits & int(np.iinfo(unsigned.dtype).max)
    return (unsigned & unsigned.dtype.type(bits)) != 0


class FileMeta(Mapping):
    """The primary header of a file and its image's, as one; the image's goes first.

    Looked up card by card: to merge them takes longer than to read them.

    Parameters
    ----------
    primary, header : `~astropy.io.fits.Header` or `~levelmatch.headers.RawHeader`
        The two headers; they may be the same.
    """

    def __init__(self, primary, header):
        self.primary = primary
        self.header = header

    def __getitem__(self, key):
        return self.header[key] if key in self.header else self.primary[key]

    def __contains__(self, key):
        return key in self.header or key in self.primary

    def __iter__(self):
        return iter(self.copy())

    def __len__(self):
        return len(self.copy())

    def copy(self):
        """Return the merged header, a new one."""
        merged = self.primary.copy()
        if self.header is not self.primary:
            merged.extend(self.header.copy(), strip=True, update=True)
        return merged


@dataclass(frozen=True, eq=False)
class Frame:
    """One image, or one part of it, as the rest of the package sees it.

    Parameters
    ----------
    name : str
        Unique in a collection; a file's name.
    source : `FileSource` or `MemorySource`
        Where its pixels are.
    shape : tuple of int
        (ny, nx).
    meta : mapping
        Header.
    unit : `~astropy.units.Unit` or None
        Unit of the data.
    transform : `~levelmatch.sky.SkyTransform`
        Its WCS.
    dq_bits : int
        The data-quality bits that make a pixel bad.
    tile, detector, part : str
        What it is grouped by; ``part`` is ``"science"`` or ``"lyot"``.
    region : tuple of slice or None
        The part of the image that a Lyot frame is, or that a science frame is not.
    whole : str
        The name of the image that the part is of.
    subset : int
        Which of the sets, without overlap between them, that an earlier pass left.
    scale : float
        Factor from the data's unit to that in which images are compared.
    corrections : tuple of `~levelmatch.corrections.AppliedCorrection`
        What is subtracted before the pixels are used.
    output_factor : float
        What the corrected pixels that come out are multiplied by, to be on one flux scale.
    zero_point : str
        Header keyword of the zero point, in magnitudes, that goes with that factor.
    """

    name: str
    source: object
    shape: tuple
    meta: Mapping
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

    @cached_property
    def whole_grid(self):
        """Where the whole image lies on the sky, a `~levelmatch.sky.Grid`."""
        box = self.transform.defined_box(self.shape)
        return Grid(self.transform, self.shape, box, default_spacing(box))

    @cached_property
    def grid(self):
        """Where the frame's own part of the image lies on the sky."""
        if self.part != "lyot" or self.region is None:
            return self.whole_grid
        (y, x), whole = self.region, self.whole_grid.box
        box = (
            max(y.start, whole[0]),
            min(y.stop, whole[1]),
            max(x.start, whole[2]),
            min(x.stop, whole[3]),
        )
        return Grid(self.transform, self.shape, box, default_spacing(box))

    def load(self):
        """Return the pixels, C-contiguous float32 or float64 in native order, NaN where bad.

        Raises
        ------
        FrameError
            If the file cannot be read, or no pixel is good.
        """
        out, bad = self.source.read(self.dq_bits)
        if bad is not None:
            out[bad] = np.nan
        if self.region is not None:
            _mask_region(out, self.region, keep=self.part == "lyot")
        if self.corrections:
            out -= self.correction.evaluate(self.whole_grid)
        if self.scale != 1.0:
            out *= self.scale
        if self.region is None and not np.isfinite(out).any():
            msg = f"{self.name}: the image has no good pixel; leave it out, or see dq_bits"
            raise FrameError(msg)
        return out

    @property
    def correction(self):
        """Everything that is subtracted, a `~levelmatch.corrections.Correction`."""
        return sum((applied.correction for applied in self.corrections), Correction())

    @property
    def product(self):
        """The name of the image that the frame, or with it its partner, makes."""
        return self.whole or jwst.recombined_name(self.name)

    @cached_property
    def jwst(self):
        """The frame's `~levelmatch.jwst.JWSTKeys`, or `None`."""
        return jwst.jwst_keys(self.name, self.meta)

    def with_keys(self, **keys):
        """Return the frame with other keys, its geometry kept."""
        new = replace(self, **keys)
        same_box = new.part == self.part and new.region == self.region
        for name in ("whole_grid", "grid") if same_box else ("whole_grid",):
            if name in self.__dict__:
                new.__dict__[name] = self.__dict__[name]
        return new

    def for_workers(self):
        """Return the frame with what it takes to load it and no more, for another process.

        The header stays behind; of an image in memory, all but its pixels and their mask.
        """
        source = self.source
        if isinstance(source, MemorySource):
            source = MemorySource(NDData(source.image.data, mask=source.image.mask))
        return self.with_keys(meta={}, source=source)

    def split_lyot(self):
        """Return the frame's science and Lyot parts, or itself alone if it has no Lyot region."""
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
    """Make the pixels outside of the region NaN, or those inside, in place."""
    if keep:
        inside = data[region].copy()
        data[:] = np.nan
        data[region] = inside
    else:
        data[region] = np.nan


def _as_mask(mask):
    return None if mask is None else np.asarray(mask, dtype=bool)


def collect_frames(images, *, dq_bits=None, hdu=None):
    """Return the frames of any kind of input.

    Parameters
    ----------
    images : iterable, mapping, `~ccdproc.ImageFileCollection` or `~levelmatch.MatchResult`
        `~astropy.nddata.CCDData` or `~astropy.nddata.NDData` objects, paths of FITS
        files, or a mapping of tile name to such a list.
    dq_bits : None, int, str or list
        Data-quality bits that make a pixel bad, see `~levelmatch.jwst.bad_bits`.
    hdu : None, int, str or tuple
        The image's extension in files; by default SCI, else the first image.

    Returns
    -------
    frames : list of `Frame`
        In the order of the input.

    Raises
    ------
    TypeError
        If an input is none of these.
    FrameError
        If an image cannot be used; the message names it.
    """
    if hasattr(images, "frames"):
        return list(images.frames)
    if isinstance(images, Mapping):
        frames = [
            frame.with_keys(tile=str(tile))
            for tile, members in images.items()
            for frame in collect_frames(members, dq_bits=dq_bits, hdu=hdu)
        ]
        return _check_names(frames)
    if hasattr(images, "files_filtered"):
        images = images.files_filtered(include_path=True)
    if isinstance(images, str | Path | NDData) or not isinstance(images, Iterable):
        msg = (
            "images: expected a list of images or paths, a mapping of tile to images or an "
            f"ImageFileCollection, not {type(images).__name__}"
        )
        raise TypeError(msg)
    frames = [_frame(image, i, dq_bits, hdu) for i, image in enumerate(images)]
    return _check_names(frames)


def _check_names(frames):
    if not frames:
        msg = "images: there are none; look at the list, or at the pattern of the files"
        raise FrameError(msg)
    seen = {}
    for i, frame in enumerate(frames):
        if frame.name in seen and isinstance(frame.source, FileSource):
            both = f"{seen[frame.name]} and {frame.source.path}"
            msg = f"{frame.name}: two files have this name: {both}; rename one"
            raise FrameError(msg)
        if frame.name in seen:
            frames[i] = frame.with_keys(name=f"{frame.name}#{i}")
        seen[frames[i].name] = getattr(frame.source, "path", frame.name)
    return frames


def _frame(image, index, dq_bits, hdu):
    if isinstance(image, NDData):
        return _memory_frame(image, index, dq_bits)
    if isinstance(image, str | Path):
        return _file_frame(Path(image), dq_bits, hdu)
    msg = f"images: image {index} is a {type(image).__name__}, not a CCDData, NDData or path"
    raise TypeError(msg)


def _memory_frame(image, index, dq_bits):
    meta = image.meta
    name = Path(str(meta.get("FILENAME") or f"image{index:04d}")).name
    data = np.asarray(image.data)
    shape = _check_shape(name, data.shape)
    if data.dtype.kind not in "fiu":
        msg = f"{name}: the data are of type {data.dtype}, not real numbers; convert them"
        raise FrameError(msg)
    planes = {"mask": image.mask}
    if image.uncertainty is not None:
        planes["uncertainty"] = image.uncertainty.array
    for what, plane in planes.items():
        if plane is not None and np.ndim(plane) != 0 and np.shape(plane) != shape:
            msg = f"{name}: the {what} has shape {np.shape(plane)}, the data {shape}; cut one"
            raise FrameError(msg)
    mask = _as_mask(image.mask)
    if mask is not None and mask.all():
        msg = f"{name}: every pixel is masked; leave the image out"
        raise FrameError(msg)
    return Frame(
        name=name,
        source=MemorySource(image),
        shape=shape,
        meta=meta,
        unit=image.unit,
        transform=SkyTransform(image.wcs, name),
    )


def _check_shape(name, shape):
    if len(shape) != 2:
        msg = (
            f"{name}: the image has {len(shape)} dimensions (shape {tuple(shape)}), not 2; "
            "give a plane of it, or name another extension by hdu"
        )
        raise FrameError(msg)
    if min(shape) < 2:
        msg = (
            f"{name}: the image is empty or a single line, its shape is {tuple(shape)}; "
            "leave it out, or name another extension by hdu"
        )
        raise FrameError(msg)
    return tuple(int(n) for n in shape)


# Kinds of compression that astropy opens and that are not written again.
_PACKED = {b"PK": "a zip archive", b"\x1f\x9d": "packed by compress (.Z)"}


def _check_packing(path):
    """Refuse a file whose output would not be what its name says."""
    try:
        with open(path, "rb") as stream:
            packed = _PACKED.get(stream.read(2))
    except OSError:
        return
    if packed is not None:
        msg = f"{path.name}: it is {packed}; unpack it, or pack it by gzip, bzip2 or xz"
        raise FrameError(msg)


def _file_frame(path, dq_bits, hdu):
    name = path.name
    if hdu is None:
        frame = _plain_frame(path, dq_bits)
        if frame is not None:
            return frame
    _check_packing(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            warnings.filterwarnings("error", message=".*truncated.*")
            # astropy leaves a file open whose header it cannot read.
            with open(path, "rb") as file, fits.open(file, memmap=False) as hdus:
                return _header_frame(path, hdus, dq_bits, hdu)
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file; look at its path"
        raise FrameError(msg) from error
    except (OSError, UserWarning) as error:
        msg = f"{name}: not a readable FITS file: {error}"
        raise FrameError(msg) from error


def _plain_frame(path, dq_bits):
    """The frame of a plain file, or `None`: then astropy reads it, and says what is wrong."""
    try:
        planes = headers.scan(path)
    except OSError:
        return None
    index = None if planes is None else _plain_image(planes)
    if index is None:
        return None
    image = planes[index]
    named = {(p.name, p.version): i for i, p in reversed(list(enumerate(planes)))}
    if any((plane, image.version) in named for plane in ("MASK", "ASDF")) or image.name == "DQ":
        return None
    dq_hdu = named.get(("DQ", image.version))
    dq = None if dq_hdu is None else planes[dq_hdu]
    if dq is not None and dq.header["BITPIX"] < 0:
        return None
    transform = headers.plain_transform(path.name, image.header)
    if transform is None or min(image.shape) < 2 or (dq is not None and dq.shape != image.shape):
        return None
    meta = FileMeta(planes[0].header, image.header)
    return Frame(
        name=path.name,
        source=FileSource(path, index, dq_hdu, planes=(image, dq)),
        shape=image.shape,
        meta=meta,
        unit=_header_unit(image.header),
        transform=transform,
        dq_bits=jwst.bad_bits(dq_bits, meta.get("TELESCOP") == "JWST"),
    )


def _plain_image(planes):
    """Index of the HDU that holds the image, `None` if that is not plain to see."""
    images = [i for i, p in enumerate(planes) if p.is_image and len(p.shape)]
    science = [i for i, p in enumerate(planes) if p.name == "SCI"]
    if len(science) > 1 or not set(science) <= set(images) or not images:
        return None
    index = (science or images)[0]
    return index if len(planes[index].shape) == 2 else None


def _header_frame(path, hdus, dq_bits, hdu):
    name = path.name
    index = _image_hdu(name, hdus, hdu)
    header = hdus[index].header
    shape = _check_shape(name, hdus[index].shape)
    meta = FileMeta(hdus[0].header, header)
    is_jwst = meta.get("TELESCOP") == "JWST"
    dq_hdu, mask_hdu = (partner_hdu(hdus, index, plane) for plane in ("DQ", "MASK"))
    bits = jwst.bad_bits(dq_bits, is_jwst)
    dq_hdu, mask_hdu = (
        None if i is None or not _has_flags(name, hdus[i], shape, bits) else i
        for i in (dq_hdu, mask_hdu)
    )
    wcs = jwst.read_gwcs(hdus) if is_jwst else None
    if wcs is None:
        wcs = _fits_wcs(name, header, hdus)
    return Frame(
        name=name,
        source=FileSource(path, index, dq_hdu, mask_hdu),
        shape=shape,
        meta=meta,
        unit=_header_unit(header),
        transform=SkyTransform(wcs, name),
        dq_bits=bits,
    )


def _has_flags(name, hdu, shape, bits):
    """Whether a plane of flags has any, checked; HST's may be one number for all pixels."""
    what = f"{name}: the {hdu.name} extension"
    if not hdu.is_image:
        msg = f"{what} is a table, not an image; rename it"
        raise FrameError(msg)
    if not hdu.shape:
        if int(hdu.header.get("PIXVALUE", 0)) & bits:
            msg = f"{what} flags every pixel; leave the image out, or see dq_bits"
            raise FrameError(msg)
        return False
    if tuple(hdu.shape) != shape:
        msg = f"{what} has shape {tuple(hdu.shape)}, the data {shape}"
        raise FrameError(msg)
    is_dq = hdu.name.strip().upper() == "DQ"
    if is_dq and (hdu.header["BITPIX"] < 0 or hdu.header.get("BSCALE", 1) != 1):
        msg = f"{what} is not of whole numbers; convert it, or rename it"
        raise FrameError(msg)
    return True


def partner_hdu(hdus, index, name):
    """Return the index of the image's other plane of a name, of its version, or `None`."""
    key = (name, hdus[index].ver)
    return hdus.index_of(key) if key in hdus and hdus.index_of(key) != index else None


def _image_hdu(name, hdus, hdu):
    """Return the index of the HDU that holds the image."""
    if hdu is not None:
        try:
            index = hdus.index_of(hdu)
            hdus[index]
        except (KeyError, IndexError) as error:
            names = [h.name or str(i) for i, h in enumerate(hdus)]
            msg = f"{name}: there is no extension {hdu!r}; there are {names}"
            raise FrameError(msg) from error
        if not hdus[index].is_image:
            msg = f"{name}: hdu={hdu!r} is a table, not an image; name another extension"
            raise FrameError(msg)
        return index
    science = [i for i, h in enumerate(hdus) if h.name.strip().upper() == "SCI"]
    if len(science) > 1:
        msg = f"{name}: there are {len(science)} SCI extensions; name one by hdu=('SCI', n)"
        raise FrameError(msg)
    if science:
        return science[0]
    images = [i for i, h in enumerate(hdus) if h.is_image and h.shape]
    if not images:
        msg = f"{name}: there is no image extension; leave the file out"
        raise FrameError(msg)
    return images[0]


def _fits_wcs(name, header, hdus):
    # Repairs of old forms of headers take half of the time to read a new one.
    modern = str(header.get("CTYPE1", ""))[4:] in headers.MODERN and header.get("CUNIT1") == "deg"
    try:
        wcs = WCS(header, hdus, naxis=2, fix=not modern)
    except Exception as error:
        raise wcs_error(name, error) from error
    if not wcs.has_celestial:
        msg = (
            f"{name}: the header has no celestial WCS (CTYPE {list(wcs.wcs.ctype)}); "
            "find its astrometry first"
        )
        raise FrameError(msg)
    return wcs


def _header_unit(header):
    return read_unit(str(header.get("BUNIT", "")))


def compare_scales(frames):
    """Return the factors that bring the frames to one unit, and that unit.

    Surface brightness and brightness temperature compare directly; counts, fluxes and
    what is per pixel are scaled by the solid angle of the pixel, to that of the first frame
    by name.

    Parameters
    ----------
    frames : list of `Frame`
        The frames.

    Returns
    -------
    scales : `~numpy.ndarray`, shape (n,)
        Factors from each frame's unit to the common one, and to the flux scale in which
        it comes out.
    unit : `~astropy.units.Unit` or None
        The common unit: that of the first frame by name.

    Raises
    ------
    `~astropy.units.UnitsError`
        If units differ in kind, or are logarithmic.

    Warns
    -----
    LevelMatchWarning
        If the common unit is not understood.
    FluxScaleWarning
        If pixel scales differ, and the unit does not tell whether values grow with them.
    """
    first = min(frames, key=lambda frame: frame.name)
    factors = np.array([_unit_factor(frame, first) for frame in frames])
    factors *= [frame.output_factor for frame in frames]
    if isinstance(first.unit, UnknownUnit):
        msg = (
            f"{first.name}: the unit {str(first.unit)!r} of all images is not understood, and "
            "taken as it is; write BUNIT as astropy does"
        )
        warnings.warn(msg, LevelMatchWarning, stacklevel=4)
    extensive = is_extensive(first.unit)
    if extensive is False:
        return factors, first.unit
    areas = first.grid.pixel_area / np.array([frame.grid.pixel_area for frame in frames])
    if extensive:
        return factors * areas, first.unit
    k = int(np.abs(np.log(areas)).argmax())
    if abs(np.log(areas[k])) > SAME_AREA:
        name = "no unit" if first.unit is None else f"the unit {str(first.unit)!r}"
        msg = (
            f"{frames[k].name} and {first.name} differ in pixel scale and have {name}: taken as "
            "surface brightness, which does not depend on it; give a unit, such as ct, if it does"
        )
        warnings.warn(msg, FluxScaleWarning, stacklevel=4)
    return factors, first.unit


def flux_factors(frames, flux_scale):
    """Return the factors that bring the frames to one flux scale, shape (n,).

    Parameters
    ----------
    frames : list of `Frame`
        In the order of the input.
    flux_scale : None, str, sequence or mapping
        A header keyword with the zero point in magnitudes, factors in the order of
        the images, or by their names.

    Raises
    ------
    ValueError
        If a factor is missing or not a positive number; the message names the image.
    """
    if flux_scale is None:
        return np.ones(len(frames))
    if isinstance(flux_scale, str):
        points = {f.product: _zero_point(f, flux_scale) for f in frames}
        first = points[min(points)]
        values = {name: _zero_point_factor(point, first) for name, point in points.items()}
        return _positive(frames, values, "flux_scale", f"the keyword {flux_scale!r}")
    return image_values(frames, flux_scale, "flux_scale")


def image_values(frames, values, argument):
    """Return a positive number for each frame.

    Parameters
    ----------
    frames : list of `Frame`
        In the order of the input.
    values : str, sequence or mapping
        A header keyword with the numbers, numbers in the order of the images, or by
        their names.
    argument : str
        What they are, for error messages.

    Raises
    ------
    ValueError
        If a number is missing or not positive; the message names the image.
    """
    images = list(dict.fromkeys(frame.product for frame in frames))
    if isinstance(values, str):
        found = {f.product: f.meta.get(values) for f in frames}
        return _positive(frames, found, argument, f"the keyword {values!r}")
    if isinstance(values, Mapping):
        found = {f.product: values.get(f.product, values.get(f.name)) for f in frames}
    else:
        if len(values) != len(images):
            msg = f"{argument}: {len(values)} factors for {len(images)} images"
            raise ValueError(msg)
        found = dict(zip(images, values, strict=True))
    return _positive(frames, found, argument, "the factor")


def _positive(frames, values, argument, source):
    """Return the numbers of frames by the names of their images, all of them positive."""
    for name, value in values.items():
        if not (isinstance(value, Real) and np.isfinite(value) and value > 0):
            msg = f"{name}: {argument}: {source} is missing or not a positive number: {value!r}"
            raise ValueError(msg)
    return np.array([float(values[frame.product]) for frame in frames])


def scaled_frames(frames, factors, flux_scale):
    """Return the frames with factors that their pixels are to be multiplied by in the end.

    Parameters
    ----------
    frames : list of `Frame`
        The frames.
    factors : `~numpy.ndarray`, shape (n,)
        See `flux_factors`.
    flux_scale : None, str, sequence or mapping
        Where they come from; a keyword's zero point changes along.
    """
    keyword = flux_scale if isinstance(flux_scale, str) else ""
    return [
        frame.with_keys(
            output_factor=float(frame.output_factor * factor),
            zero_point=keyword or frame.zero_point,
        )
        for frame, factor in zip(frames, factors, strict=True)
    ]


def _zero_point(frame, keyword):
    """Zero point of a frame's header, moved by what an earlier function has done to it."""
    point = frame.meta.get(keyword)
    if frame.zero_point != keyword:
        return point
    try:
        return float(point) + 2.5 * np.log10(frame.output_factor)
    except (TypeError, ValueError):
        return None


def _zero_point_factor(point, first):
    """Factor from the counts of one magnitude zero point to those of another, or `None`."""
    try:
        return float(10 ** (-0.4 * (float(point) - float(first))))
    except (TypeError, ValueError):
        return None


def _unit_factor(frame, first):
    if frame.unit == first.unit:
        if is_logarithmic(frame.unit):
            msg = (
                f"{frame.name}: levels of a logarithmic unit ({frame.unit}) cannot be matched; "
                "convert the images to linear units"
            )
            raise u.UnitsError(msg)
        return 1.0
    if frame.unit is None or first.unit is None:
        bare, other = (frame, first) if frame.unit is None else (first, frame)
        key = "BUNIT" if isinstance(bare.source, FileSource) else "unit"
        msg = f"{bare.name} has no {key}, {other.name} has {other.unit}; add {key}"
        raise u.UnitsError(msg)
    try:
        return float(frame.unit.to(first.unit))
    except (TypeError, u.UnitsError) as error:
        msg = (
            f"{frame.name}: its unit ({frame.unit}) cannot be compared with that of "
            f"{first.name} ({first.unit}); convert one of them"
        )
        raise u.UnitsError(msg) from error
