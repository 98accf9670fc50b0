# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Roman images in ASDF: frames from the tree; pixels are read when needed."""

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy import units as u
from astropy.io.fits import Header
from astropy.nddata import StdDevUncertainty

from levelmatch.exceptions import FrameError, RecordError
from levelmatch.images.asdf_file import ArrayPlace, AsdfFile, plain_value
from levelmatch.images.digests import pixel_digests
from levelmatch.images.file_checks import is_of_option
from levelmatch.images.file_state import FileState
from levelmatch.images.frame import Frame
from levelmatch.images.gwcs_trees import lone_wcs
from levelmatch.images.jwst import DEFAULT_BAD_BITS, DQ_BITS, load_gwcs
from levelmatch.images.mask_arrays import bad_bits
from levelmatch.images.sources import FileSource, flagged, float_type
from levelmatch.images.units import read_unit
from levelmatch.options import ReadOptions
from levelmatch.sky.transform import SkyTransform

__all__ = [
    "ROMAN_BITS",
    "AsdfSource",
    "add_entries",
    "is_asdf",
    "roman_frame",
    "run_entries",
]


# Exceptions raised by files that are damaged or not ASDF.
DAMAGED = (RecordError, ValueError, OSError, KeyError, AttributeError, yaml.YAMLError)
SUFFIX = ".asdf"
# Node of the tree that holds the value of each header keyword.
KEYWORDS = {
    "FILENAME": "filename",
    "TELESCOP": "telescope",
    "INSTRUME": "instrument.name",
    "DETECTOR": "instrument.detector",
    "FILTER": "instrument.optical_element",
    "PROGRAM": "observation.program",
    "EXECPLAN": "observation.execution_plan",
    "PASS": "observation.pass",
    "SEGMENT": "observation.segment",
    "OBSERVTN": "observation.observation",
    "VISIT": "observation.visit",
    "VISIT_ID": "observation.visit_id",
    "EXPOSURE": "observation.exposure",
    "EXP_TYPE": "exposure.type",
    "EXPTIME": "exposure.exposure_time",
    "PHOTMJSR": "photometry.conversion_megajanskys",
    "BKGLEVEL": "background.level",
    "BKGMETH": "background.method",
    "BKGSUB": "background.subtracted",
}
# Placeholders for unknown metadata.
UNKNOWN = (None, "?", -999999, -999999.0)
# Bits whose names differ from those of JWST.
ROMAN_BITS = DQ_BITS | {"GW_AFFECTED_DATA": 1 << 4, "OUTLIER": 1 << 7}
# Power by which each uncertainty array scales with a factor of the data.
UNCERTAINTIES = {"err": 1, "var_rnoise": 2, "var_poisson": 2, "var_flat": 2}


def is_asdf(path: Path) -> bool:
    """Return whether a path is an ASDF file, by its suffix."""
    return path.suffix.lower() == SUFFIX


@dataclass(frozen=True, eq=False)
class AsdfSource(FileSource):
    """A Roman image in an ASDF file.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    hdu : int
        Always 0.
    arrays : dict of str to `~levelmatch.images.asdf_file.ArrayPlace`
        Places of its arrays by name: ``data``, and ``dq`` and the uncertainties if present.
    """

    arrays: dict[str, ArrayPlace] = field(default_factory=dict)

    @property
    def data(self) -> np.ndarray:
        """The stored pixels, read-only."""
        return np.asarray(self.array("data"))

    def array(self, name: str) -> np.ndarray | None:
        """Return an array of the file, or `None` if it has no array of this name.

        Raises
        ------
        FrameError
            If the file cannot be read; the message names it.
        """
        place = self.arrays.get(name)
        try:
            return None if place is None else place.load(self.path)
        except (*DAMAGED, ImportError) as error:
            msg = f"{self.path.name}: the pixels cannot be read: {error}; get the file again"
            if isinstance(error, ImportError):
                msg = f"{self.path.name}: the pixels are compressed: {error}; see the extra roman"
            raise FrameError(msg) from error

    def _read(self, dq_bits: int) -> tuple:
        data = self.data
        digests = pixel_digests(data, [self.array("dq")])
        return np.array(data, float_type(data), order="C"), self.bad_pixels(dq_bits), digests

    def bad_pixels(self, dq_bits: int) -> np.ndarray | None:
        """Return the mask of flagged pixels, or `None` without flags."""
        dq = self.array("dq")
        return None if dq is None else flagged(np.asarray(dq), dq_bits)

    def uncertainty(self) -> StdDevUncertainty | None:
        """Return the uncertainty in its stored type, or `None` without one."""
        err = self.array("err")
        return None if err is None else StdDevUncertainty(native(err))


def native(array: np.ndarray) -> np.ndarray:
    """Return a copy of an array in native byte order."""
    return np.array(array, dtype=array.dtype.newbyteorder("="))


# --------------------------------------------------------------------------------------
# Frames


def roman_frame(path: Path, read: ReadOptions) -> Frame:
    """Return the frame of a Roman image.

    Parameters
    ----------
    path : `~pathlib.Path`
        An ASDF file of level 2 or 3 with the tree ``roman``.
    read : `~levelmatch.ReadOptions`
        How it is read.

    Returns
    -------
    frame : `Frame`
        The frame.

    Raises
    ------
    FrameError
        If the image cannot be used; the message names it.
    """
    for name in ("weight_files", "mask_files"):
        if getattr(read, name) is not None:
            msg = f"{path.name}: {name}: images in ASDF do not use it; flag pixels in dq"
            raise FrameError(msg)
    try:
        state = FileState(path)
        file = AsdfFile(path)
        return _frame(file, read, state)
    except FileNotFoundError as error:
        msg = f"{path}: there is no such file; check its path"
        raise FrameError(msg) from error
    except FrameError:
        raise
    except DAMAGED as error:
        if is_of_option(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"{path.name}: not a readable ASDF file: {reason}"
        raise FrameError(msg) from error


def _frame(file: AsdfFile, read: ReadOptions, state: FileState) -> Frame:
    """Return the frame of an ASDF file; refuse arrays that are not images."""
    name, data = file.path.name, file.find("roman", "data")
    if data is None:
        msg = f"{name}: it has no image roman.data; images in ASDF are Roman's"
        raise FrameError(msg)
    node, unit = _quantity(data)
    nodes = {"data": node}
    nodes |= {k: _quantity(file.find("roman", k))[0] for k in ("dq", *UNCERTAINTIES)}
    arrays = {k: file.place(n, f"roman.{k}") for k, n in nodes.items() if n is not None}
    shape = arrays["data"].shape
    if len(shape) != 2 or min(shape) < 2:
        msg = f"{name}: roman.data has the shape {shape}, not that of an image"
        raise FrameError(msg)
    if "dq" in arrays and arrays["dq"].shape != shape:
        msg = f"{name}: roman.dq has the shape {arrays['dq'].shape}, the data {shape}"
        raise FrameError(msg)
    meta = roman_header(file)
    return Frame(
        name=name,
        source=AsdfSource(file.path, 0, state=state, arrays=arrays),
        shape=shape,
        meta=meta,
        unit=read_unit(unit) if unit else _unit(file),
        transform=SkyTransform(_gwcs(file), name),
        dq_bits=DEFAULT_BAD_BITS
        if read.dq_bits is None
        else bad_bits(read.dq_bits, names=ROMAN_BITS),
        detector=str(meta.get("DETECTOR", "")).lower(),
        blank=read.blank,
    )


def _quantity(node: Any) -> tuple[Any, str]:
    """Return the node of an array, and the unit (or an empty string) if it is a quantity."""
    fields = {}
    if node is not None and node.id == "mapping":
        fields = {k.value: v for k, v in node.value if k.id == "scalar"}
    if "value" in fields and "unit" in fields:
        return fields["value"], str(plain_value(fields["unit"]) or "")
    return node, ""


def _unit(file: AsdfFile) -> u.UnitBase:
    """Return the unit of data that state none.

    The unit is MJy/sr for mosaics and after the flux step of the pipeline, and DN/s before.
    """
    if plain_value(file.find("roman", "meta", "cal_step", "flux")) == "COMPLETE":
        return u.MJy / u.sr
    product = file.find("roman").tag.rpartition("/")[2]
    return u.MJy / u.sr if "mosaic" in product else u.DN / u.s


def _gwcs(file: AsdfFile) -> Any:
    """Return the gwcs of a file; asdf opens only the nodes of the gwcs."""
    name, node = file.path.name, file.find("roman", "meta", "wcs")
    if node is None or plain_value(node) is not None or node.id != "mapping":
        msg = f"{name}: it has no WCS (roman.meta.wcs); run assign_wcs first"
        raise FrameError(msg)
    try:
        import gwcs
    except ImportError as error:
        msg = f"{name}: gwcs is not installed; see the extra roman"
        raise FrameError(msg) from error
    import asdf

    content = lone_wcs(file, node)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", asdf.exceptions.AsdfWarning)
        with asdf.open(io.BytesIO(content), memmap=False, lazy_load=False) as tree:
            wcs = tree.tree["meta"]["wcs"]
            if not isinstance(wcs, gwcs.WCS):
                msg = f"{name}: its WCS is of a type that gwcs does not know: {node.tag[:80]}"
                raise FrameError(msg)
            return load_gwcs(wcs)


# --------------------------------------------------------------------------------------
# Metadata


def roman_header(file: AsdfFile) -> Header:
    """Return metadata of a tree as a header: keywords used for matching, and cards of runs."""
    header = Header()
    for key, place in KEYWORDS.items():
        value = plain_value(file.find("roman", "meta", *place.split(".")))
        if value not in UNKNOWN:
            header[key] = value
    return add_entries(header, run_entries(file))


def add_entries(header: Header, entries: list[dict[str, Any]]) -> Header:
    """Add the cards of runs that corrected an image to its header; return the header."""
    for entry in entries:
        for key, value in entry.get("cards", {}).items():
            header[key] = value
        header["LMRECORD"], header["LMRECSHA"] = entry["record"], entry["record_sha256"]
    return header


def run_entries(file: AsdfFile) -> list[dict[str, Any]]:
    """Return the entries of the lists ``levelmatch``, one for each run that corrected the image.

    Pipeline steps write their list in the metadata, other runs at the root of the tree.
    """
    nodes = [file.find("roman", "meta", "levelmatch"), file.find("levelmatch")]
    trees = [yaml.safe_load(yaml.serialize(node)) for node in nodes if node is not None]
    entries = [entry for tree in trees if isinstance(tree, list) for entry in tree]
    return [e for e in entries if isinstance(e, dict) and {"record", "record_sha256"} <= set(e)]
