# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Catalogues of outlines, with which a run is planned without opening files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table
from scipy.spatial import ConvexHull

from levelmatch.exceptions import FrameError
from levelmatch.images.file_state import FileState
from levelmatch.images.filters import FAMILIES
from levelmatch.images.frame import ASSIGNED, Frame
from levelmatch.images.notes import Notes
from levelmatch.images.sources import FileSource
from levelmatch.images.table_files import filled, read_table
from levelmatch.images.units import read_unit
from levelmatch.option_values import as_path
from levelmatch.options import ReadOptions
from levelmatch.pass_names import PASS_OF, PASSES
from levelmatch.sky._geometry import convex_overlap
from levelmatch.sky.grid import N_VERTICES, Footprint
from levelmatch.sky.vectors import tangent_axes, unit_vectors

__all__ = ["PLANNED", "CatalogueMeta", "catalogue_frames", "read_catalogue", "sky_outlines"]

# Columns that are not header keywords.
COLUMNS = (
    *("name", "file", "hdu", "extension", "ra", "dec", "s_region", "ra_centre", "dec_centre"),
    *("ny", "nx", "unit", "tile", "detector"),
)
# Header keywords that the planning of a run uses.
PLANNED = (
    *(key for family in FAMILIES.values() for key in family),
    *("TELESCOP", "INSTRUME", "DETECTOR", "CCDNUM", "CCDCHIP", "CHIPID", "CCDNAME"),
    *("PROGRAM", "OBSERVTN", "VISIT", "VISITGRP", "SEQ_ID", "ACT_ID", "EXPOSURE"),
    *("SUBSTRT1", "SUBSTRT2", "BMAJ", "BMIN", "BITPIX", "DT_BGR", "BKGLEVEL", "BKGSUB"),
    *("MDRIZSKY", "LMSKY", "LMRECORD", "DATE-OBS", "MJD-OBS", "EXPSTART", "EXPTIME"),
    *(f"LM{PASSES[name].letter}LEV" for name in (*PASS_OF.values(), "fit_exclude")),
)
# Shape of an image without shape in the catalogue. Planning needs only its approximate size.
UNKNOWN_SHAPE = (1000, 1000)
# Largest distance of an image from its position in the catalogue, as a fraction of its radius.
MOST_OFF = 0.1
# Lock that opens files one at a time, because threads share the warning filters.
_OPENING = Lock()


# --------------------------------------------------------------------------------------
# Tables


def read_catalogue(path: str | Path) -> Table:
    """Read a catalogue of outlines, an input of the functions of this package.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        A table with one row per image: .ecsv, .fits or .parquet. For its columns see
        `~levelmatch.write_catalogue`. Paths in the column ``file`` are relative to its folder.

    Returns
    -------
    catalogue : `~astropy.table.Table`
        The table, with paths relative to the current folder.

    Raises
    ------
    ValueError
        If the file is not a table, or lacks columns or rows; the message names it.
    FileNotFoundError
        If there is no such file.
    ImportError
        If the file is parquet and pyarrow is not installed.
    """
    path = as_path("path", path)
    table = read_table(path)
    _check_columns(table, str(path))
    if "file" in table.colnames:
        table["file"] = [str(path.parent / file) if file else "" for file in table["file"]]
    return table


def _check_columns(table, what):
    """Refuse a table without the columns of a catalogue."""
    names = set(table.colnames)
    if not ("s_region" in names or {"ra", "dec"} <= names):
        msg = f"{what}: a catalogue needs the columns ra and dec, of vertices, or s_region"
        raise ValueError(msg)
    if not {"file", "name"} & names:
        msg = f"{what}: a catalogue needs the column file, or name to plan without pixels"
        raise ValueError(msg)
    if len(table) == 0:
        msg = f"{what}: the catalogue has no rows"
        raise ValueError(msg)


# --------------------------------------------------------------------------------------
# Outlines


def sky_outlines(catalogue: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the outlines of a catalogue for `~levelmatch.sky.overlaps.find_outline_pairs`.

    Parameters
    ----------
    catalogue : `~astropy.table.Table`
        The catalogue. It has the columns ``ra`` and ``dec`` of shape (n, k), or ``s_region``
        with texts such as ``POLYGON ICRS ra dec ra dec ...``.

    Returns
    -------
    centres : `~numpy.ndarray`, shape (n, 3)
        Unit vectors to the centres.
    radii : `~numpy.ndarray`, shape (n,)
        Angle from each centre to its farthest vertex, in radian.
    outlines : `~numpy.ndarray`, shape (n, 16, 3)
        Unit vectors to the vertices of convex outlines, counter-clockwise. The last vertex is
        repeated if there are fewer than 16.

    Raises
    ------
    FrameError
        If an image has no outline; the message names it.
    """
    if "ra" in catalogue.colnames:
        given = _directions(catalogue, "ra", "dec")
    else:
        given = _of_regions(catalogue)
    flat, axes = _flat(given, given.sum(axis=1))
    outlines = np.empty((len(given), N_VERTICES, 3))
    turns = _turns(flat)
    # Vertices along a side turn by rounding errors, either way.
    turns[np.abs(turns) < 1e-9 * np.abs(turns).max(axis=1, keepdims=True)] = 0
    plain = (turns >= 0).all(axis=1) | (turns <= 0).all(axis=1)
    plain &= given.shape[1] <= N_VERTICES
    backward = turns.sum(axis=1) < 0
    ordered = np.where(backward[:, None, None], given[:, ::-1], given)[:, :N_VERTICES]
    outlines[:, : ordered.shape[1]] = ordered
    outlines[:, ordered.shape[1] :] = ordered[:, -1:]
    for k in np.flatnonzero(~plain | ~(np.abs(turns).sum(axis=1) > 0)):
        outlines[k] = _hull(_name(catalogue, k), given[k], flat[k])
    centres = _centroids(*_flat(outlines, axes[:, 0]))
    cosines = np.einsum("nkc,nc->nk", outlines, centres).min(axis=1)
    return centres, np.arccos(np.clip(cosines, -1, 1)), outlines


def _directions(table, ra, dec):
    """Return the unit vectors of two columns; NaN where they are masked or no position."""
    lon, lat = (_degrees(table, key) for key in (ra, dec))
    known = np.isfinite(lon) & (np.abs(lat) <= 90)
    return unit_vectors(*(np.where(known, angle, np.nan) for angle in (lon, lat)))


def _degrees(table, key):
    """Return a column of angles in degrees, which is the unit of a column without one."""
    unit = table[key].unit or u.deg
    try:
        return (filled(table[key]).astype(float) * unit).to_value(u.deg)
    except u.UnitsError as error:
        msg = f"the column {key} of the catalogue is in {unit}, not in degrees"
        raise u.UnitsError(msg) from error


def _flat(vectors, centres):
    """Return gnomonic coordinates of vertices about centres, shape (n, k, 2), and the axes."""
    axes = tangent_axes(centres)
    along = np.einsum("nkc,nac->nka", vectors, axes)
    return along[..., 1:] / np.where(along[..., :1] > 0, along[..., :1], np.nan), axes


def _centroids(flat, axes):
    """Return unit vectors to the centroids of polygons in the plane, shape (n, 3)."""
    after = np.roll(flat, -1, axis=1)
    area = flat[..., 0] * after[..., 1] - flat[..., 1] * after[..., 0]
    middle = ((flat + after) * area[..., None]).sum(axis=1) / (3 * area.sum(axis=1)[:, None])
    vectors = axes[:, 0] + np.einsum("na,nac->nc", middle, axes[:, 1:])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _turns(flat):
    """Return twice the signed area of the triangle at each vertex, positive for a left turn."""
    before = flat - np.roll(flat, 1, axis=1)
    after = np.roll(flat, -1, axis=1) - flat
    return before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]


def _hull(name, vectors, flat):
    """Return the convex outline, with at most 16 vertices, of vertices in any order."""
    if not np.isfinite(flat).all() or not np.linalg.det(np.cov(flat.T, bias=True)) > 1e-30:
        msg = f"{name}: its outline has no area on the sky; correct the catalogue"
        raise FrameError(msg)
    kept = ConvexHull(flat).vertices
    while len(kept) > N_VERTICES:
        # Without the vertex of the smallest triangle, corners stay.
        kept = np.delete(kept, np.argmin(_turns(flat[np.newaxis, kept])))
    hull = vectors[kept]
    return np.concatenate([hull, np.repeat(hull[-1:], N_VERTICES - len(hull), axis=0)])


def _of_regions(catalogue):
    """Return the vertices of polygons given in STC-S syntax, shape (n, k, 3)."""
    lists = []
    for k, text in enumerate(np.asarray(catalogue["s_region"]).tolist()):
        words = str(text).split()
        try:
            if words[0].upper() != "POLYGON" or words[1].upper() not in ("ICRS", "J2000", "FK5"):
                raise ValueError
            numbers = np.array(words[2:], dtype=float).reshape(-1, 2)
            if len(numbers) < 3:
                raise ValueError
        except (ValueError, IndexError) as error:
            msg = f"{_name(catalogue, k)}: s_region: {str(text)[:60]!r} is not a POLYGON ICRS"
            raise FrameError(msg) from error
        lists.append(numbers)
    most = max(map(len, lists))
    padded = [np.concatenate([v, np.repeat(v[-1:], most - len(v), axis=0)]) for v in lists]
    return unit_vectors(*np.moveaxis(np.array(padded), -1, 0))


def _name(catalogue, k):
    """Return the name of an image in a catalogue, for error messages."""
    for column in ("name", "file"):
        if column in catalogue.colnames and catalogue[column][k]:
            return Path(str(catalogue[column][k])).name
    return f"row {k}"


# --------------------------------------------------------------------------------------
# Frames


class CatalogueMeta(Mapping):
    """A row of a catalogue as the header of an image.

    Parameters
    ----------
    columns : dict of str to list
        The columns with names of header keywords, shared by all rows.
    row : int
        Index of the row.
    """

    __slots__ = ("columns", "row")

    def __init__(self, columns, row):
        self.columns, self.row = columns, row

    def __getitem__(self, key):
        value = self.columns[key][self.row]
        if value is None or value == "" or value != value:
            raise KeyError(key)
        return value

    def __iter__(self):
        return (key for key in self.columns if key in self)

    def __len__(self):
        return len(list(iter(self)))

    def __reduce__(self):
        # Another process needs this row alone.
        return CatalogueMeta, ({key: [value] for key, value in self.items()}, 0)

    def copy(self):
        """Return the row as a dictionary."""
        return dict(self)


@dataclass(frozen=True, eq=False)
class CatalogueSource(FileSource):
    """An image in a catalogue, whose file is opened when its pixels are needed.

    Parameters
    ----------
    reader : callable
        Function of the path, the index in the input, the options and the notes, which returns
        the frames of a file.
    options : `~levelmatch.ReadOptions`
        How the file is read.
    place : int
        Index of the image in the input.
    """

    reader: Any = None
    options: Any = None
    place: int = 0

    def opened_frame(self, frame: Frame) -> Frame:
        """Return a frame of the catalogue with the header, position and pixels of its file.

        Raises
        ------
        FrameError
            If the file differs from the catalogue, or cannot be used; the message names it.
        """
        options = self.options if self.hdu < 0 else replace(self.options, hdu=self.hdu)
        notes = Notes()
        with _OPENING:
            if self.state is not None:
                self.state.check_files(self.label)
            images = self.reader(self.path, self.place, options, notes)
            notes.warn()
        if len(images) > 1:
            msg = f"{frame.name}: the file has {len(images)} images; add the column hdu"
            raise FrameError(msg)
        opened = images[0]
        source = replace(opened.source, state=self.state, name=self.name)
        kept = (*ASSIGNED, "selection", "associations")
        _check_opened(frame, opened)
        return opened.with_keys(source=source, **{key: getattr(frame, key) for key in kept})

    @property
    def identity(self) -> dict:
        """Refuse to identify an image that is not open."""
        msg = f"{self.label}: the file is not open"
        raise FrameError(msg)


def _check_opened(frame, opened):
    """Refuse an opened image that differs from its row in the catalogue."""
    if frame.shape not in (opened.shape, UNKNOWN_SHAPE):
        raise _differs(frame, "shape", opened.shape, frame.shape)
    if opened.unit != frame.unit:
        raise _differs(frame, "unit", opened.unit, frame.unit)
    polygon = opened.grid.polygon[None]
    (centre,) = _centroids(*_flat(polygon, opened.grid.centre[None]))
    off = np.linalg.norm(centre - frame.grid.centre)
    if not off < MOST_OFF * frame.grid.radius:
        arcsec = 3600 * np.degrees(off)
        msg = f"{frame.name}: its WCS is {arcsec:.3g} arcsec off its outline in the catalogue"
        raise FrameError(msg)
    cards = [key for key in frame.meta if key.isupper()]
    for key in dict.fromkeys([*cards, *(key for key in PLANNED if key.startswith("LM"))]):
        here, there = opened.meta.get(key), frame.meta.get(key)
        if here is not None and not _equal(here, there):
            raise _differs(frame, key, here, there)


def _equal(here, there):
    """Return whether two header values are equal, as numbers or as texts."""
    try:
        return bool(np.isclose(float(here), float(there), rtol=1e-12, atol=0))
    except (TypeError, ValueError):
        return str(here).strip() == str(there).strip()


def _differs(frame, what, here, there):
    """Return the error of an opened image that differs from its row in the catalogue."""
    return FrameError(
        f"{frame.name}: its {what} is {here}, in the catalogue it is {there}; make the "
        "catalogue again"
    )


def catalogue_frames(
    table: Table, read: ReadOptions, reader: Callable[..., list[Frame]]
) -> list[Frame]:
    """Return the frames of a catalogue of outlines without opening files.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The catalogue, see `read_catalogue`.
    read : `~levelmatch.ReadOptions`
        How the files are read when they are opened.
    reader : callable
        See `CatalogueSource`.

    Returns
    -------
    frames : list of `Frame`
        One frame per row.

    Raises
    ------
    FrameError
        If a row cannot be used, or its file does not exist; the message names it.
    """
    _check_columns(table, "images")
    centres, _, outlines = sky_outlines(table)
    axes = tangent_axes(_middles(table, centres))
    text = {
        key: _texts(table, key) for key in ("file", "name", "extension", "unit", "tile", "detector")
    }
    hdus = _whole_numbers(table, "hdu", -1, unknown=-1)
    shapes = _shapes(table)
    columns = {key: table[key].tolist() for key in table.colnames if key not in COLUMNS}
    units = {word: read_unit(word) if word else None for word in set(text["unit"])}
    each = np.arange(len(table), dtype=np.intp)
    size = np.array([max(ny - 1, 1) * max(nx - 1, 1) for ny, nx in shapes])
    area = convex_overlap(outlines, np.stack([each, each], axis=1)) / size
    frames: list[Frame] = []
    for k in range(len(table)):
        footprint = Footprint(axes[k], outlines[k], area[k], centres[k], shapes[k])
        name = text["name"][k] or Path(text["file"][k]).name
        if not name:
            msg = f"{_name(table, k)} of the catalogue: it has neither a file nor a name"
            raise FrameError(msg)
        frame = Frame(
            name=name,
            source=_source(text["file"][k], hdus[k], k, read, reader),
            shape=shapes[k],
            meta=CatalogueMeta(columns, k),
            unit=units[text["unit"][k]],
            # The footprint takes the place of the transformation.
            transform=None,  # type: ignore[arg-type]
            tile=text["tile"][k],
            extension=text["extension"][k],
            blank=read.blank,
            footprint=footprint,
        )
        # The detector of a JWST image follows from its name or header, which also name its part.
        detector = text["detector"][k] if frame.jwst is None else ""
        frames.append(frame.with_keys(detector=detector) if detector else frame)
    return frames


def _middles(table, centres):
    """Return unit vectors to the middle pixels of images, by default the centres of outlines."""
    if not {"ra_centre", "dec_centre"} <= set(table.colnames):
        return centres
    middles = _directions(table, "ra_centre", "dec_centre")
    for k in np.flatnonzero(~np.isfinite(middles).all(axis=1))[:1]:
        msg = f"{_name(table, k)}: its ra_centre and dec_centre are no position on the sky"
        raise FrameError(msg)
    return middles


def _texts(table, key):
    """Return a column as a list of stripped texts; empty texts if the column is missing."""
    if key not in table.colnames:
        return [""] * len(table)
    # Equal texts share one string, because a catalogue may have a million rows.
    known = {}
    texts = (str(value).strip() for value in filled(table[key]).tolist())
    return [known.setdefault(text, text) for text in texts]


def _shapes(table):
    """Return the shapes of the images, or a typical shape if the columns are missing."""
    if not {"ny", "nx"} <= set(table.colnames):
        return [UNKNOWN_SHAPE] * len(table)
    sides = (_whole_numbers(table, key, 1) for key in ("ny", "nx"))
    return list(zip(*sides, strict=True))


def _whole_numbers(table, key, least, unknown=None):
    """Return a column as a list of whole numbers.

    ``unknown`` replaces a missing column and masked values, or `None` to refuse these.
    """
    if key not in table.colnames:
        return [unknown] * len(table)
    numbers = []
    for k, value in enumerate(table[key].tolist()):
        number = unknown if value is None or value != value else value
        try:
            whole = int(number)
            valid = whole == float(number) and whole >= least
        except (TypeError, ValueError, OverflowError):
            valid = False
        if not valid:
            msg = f"{_name(table, k)}: its {key} in the catalogue ({value}) is not a whole number"
            raise FrameError(msg if least < 0 else f"{msg} above 0")
        numbers.append(whole)
    return numbers


def _source(file, hdu, place, read, reader) -> Any:
    """Return the source of an image, or `None` if the catalogue names no file."""
    if not file:
        return None
    path = Path(file)
    try:
        state = FileState(path)
    except OSError as error:
        msg = f"{path}: there is no such file; check the column file of the catalogue"
        raise FrameError(msg) from error
    return CatalogueSource(
        path,
        hdu,
        state=state,
        max_bytes=read.max_bytes,
        reader=reader,
        options=read,
        place=place,
    )
