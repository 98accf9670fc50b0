# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Catalogues of outlines: images of which a run plans all without opening their files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from astropy.table import Table
from scipy.spatial import ConvexHull

from levelmatch.exceptions import FrameError
from levelmatch.images.binding import Binding
from levelmatch.images.filters import FAMILIES
from levelmatch.images.frame import Frame
from levelmatch.images.notes import Notes
from levelmatch.images.sources import FileSource
from levelmatch.images.units import read_unit
from levelmatch.options import ReadOptions
from levelmatch.sky._geometry import convex_overlap
from levelmatch.sky.footprint import Footprint
from levelmatch.sky.grid import N_VERTICES
from levelmatch.sky.vectors import tangent_axes, unit_vectors
from levelmatch.table_files import read_table

__all__ = ["PLANNED", "CatalogueMeta", "catalogue_frames", "read_catalogue", "sky_outlines"]

# Columns that are no header keywords.
OWN = (
    *("name", "file", "hdu", "extension", "ra", "dec", "s_region", "ra_centre", "dec_centre"),
    *("ny", "nx", "unit", "tile", "detector"),
)
# Keys of a frame that the file lacks, or the run has changed.
KEPT = (
    *("name", "tile", "detector", "part", "region", "whole", "subset", "scale", "corrections"),
    *("output_factor", "zero_point", "selection", "role", "extension", "exposure", "associations"),
)
# Header keywords that the planning of a run looks up.
PLANNED = (
    *(key for family in FAMILIES.values() for key in family),
    *("TELESCOP", "INSTRUME", "DETECTOR", "CCDNUM", "CCDCHIP", "CHIPID", "CCDNAME"),
    *("PROGRAM", "OBSERVTN", "VISIT", "VISITGRP", "SEQ_ID", "ACT_ID", "EXPOSURE"),
    *("SUBSTRT1", "SUBSTRT2", "BMAJ", "BMIN", "BITPIX", "DT_BGR", "BKGLEVEL", "BKGSUB"),
    *("MDRIZSKY", "LMSKY", "LMRECORD", "DATE-OBS", "MJD-OBS", "EXPSTART", "EXPTIME"),
    *(f"LM{letter}LEV" for letter in "DLNCMX"),
)
# Shape of an image whose catalogue has none: for planning, where only its size counts roughly.
UNKNOWN_SHAPE = (1000, 1000)
# An image lies within this fraction of its radius of where its catalogue says.
MOST_OFF = 0.1
# Filters of warnings are of the whole process: files are opened one by one.
_OPENING = Lock()


# --------------------------------------------------------------------------------------
# Tables


def read_catalogue(path: str | Path) -> Table:
    """Read a catalogue of outlines, for the functions of this package in place of images.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        A table of one row per image, as .ecsv, .fits or .parquet; see `~levelmatch.write_catalogue`
        for its columns. Paths in its column ``file`` are relative to its folder.

    Returns
    -------
    catalogue : `~astropy.table.Table`
        The table, with paths relative to the current folder.

    Raises
    ------
    ValueError
        If the file is no table, or lacks columns.
    """
    path = Path(path)
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


# --------------------------------------------------------------------------------------
# Outlines


def sky_outlines(catalogue: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the outlines of a catalogue, as `~levelmatch.sky.overlaps.find_outline_pairs` does.

    Parameters
    ----------
    catalogue : `~astropy.table.Table`
        With the columns ``ra`` and ``dec``, shape (n, k) each, or ``s_region``: texts such as
        ``POLYGON ICRS ra dec ra dec ...``.

    Returns
    -------
    centres : `~numpy.ndarray`, shape (n, 3)
        Unit vectors of the centres.
    radii : `~numpy.ndarray`, shape (n,)
        Angle in radian from each centre to its farthest vertex.
    outlines : `~numpy.ndarray`, shape (n, 16, 3)
        Unit vectors of the vertices of convex outlines, counter-clockwise; the last repeated.

    Raises
    ------
    FrameError
        If an image has no outline; the message names it.
    """
    if "ra" in catalogue.colnames:
        given = unit_vectors(
            np.asarray(catalogue["ra"], float), np.asarray(catalogue["dec"], float)
        )
    else:
        given = _of_regions(catalogue)
    flat, axes = _flat(given, given.sum(axis=1))
    outlines = np.empty((len(given), N_VERTICES, 3))
    turns = _turns(flat)
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
    """Return twice the area of the triangle at each vertex: positive where it turns left."""
    before = flat - np.roll(flat, 1, axis=1)
    after = np.roll(flat, -1, axis=1) - flat
    return before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]


def _hull(name, vectors, flat):
    """Return the convex outline of vertices in any order, of at most 16."""
    if not np.isfinite(flat).all() or not np.linalg.det(np.cov(flat.T, bias=True)) > 1e-30:
        msg = f"{name}: its outline has no area on the sky; mend the catalogue"
        raise FrameError(msg)
    hull = vectors[ConvexHull(flat).vertices]
    if len(hull) > N_VERTICES:
        hull = hull[np.linspace(0, len(hull) - 1, N_VERTICES).round().astype(int)]
    return np.concatenate([hull, np.repeat(hull[-1:], N_VERTICES - len(hull), axis=0)])


def _of_regions(catalogue):
    """Return the vertices of polygons in the syntax of STC-S, shape (n, k, 3)."""
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
            msg = f"{_name(catalogue, k)}: s_region: {str(text)[:60]!r} is no POLYGON ICRS"
            raise FrameError(msg) from error
        lists.append(numbers)
    most = max(map(len, lists))
    padded = [np.concatenate([v, np.repeat(v[-1:], most - len(v), axis=0)]) for v in lists]
    return unit_vectors(*np.moveaxis(np.array(padded), -1, 0))


def _name(catalogue, k):
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
        The columns named as header keywords, shared by all rows.
    row : int
        The row.
    """

    __slots__ = ("columns", "row")

    def __init__(self, columns, row):
        self.columns, self.row = columns, row

    def __getitem__(self, key):
        value = self.columns[key][self.row]
        if value == "" or value != value:
            raise KeyError(key)
        return value

    def __iter__(self):
        return (key for key in self.columns if key in self)

    def __len__(self):
        return len(list(iter(self)))

    def copy(self):
        """Return the row as a dictionary."""
        return dict(self)


@dataclass(frozen=True, eq=False)
class CatalogueSource(FileSource):
    """A file of which only a row of a catalogue is known until its pixels are needed.

    Parameters
    ----------
    reader : callable
        Returns the frames of a file, given its path, its place, the options and the notes.
    options : `~levelmatch.ReadOptions`
        How the file is read.
    place : int
        Its place in the input.
    """

    reader: Any = None
    options: Any = None
    place: int = 0

    def opened_frame(self, frame: Frame) -> Frame:
        """Return a frame of the catalogue with the header, position and pixels of its file.

        Raises
        ------
        FrameError
            If the file is not the image of the catalogue; the message names it.
        """
        options = self.options if self.hdu < 0 else replace(self.options, hdu=self.hdu)
        notes = Notes()
        with _OPENING:
            if self.binding is not None:
                self.binding.check_files(self.label)
            found = self.reader(self.path, self.place, options, notes)
            notes.warn()
        if len(found) > 1:
            msg = f"{frame.name}: the file has {len(found)} images; add the column hdu"
            raise FrameError(msg)
        own = found[0]
        source = replace(own.source, binding=self.binding, name=self.name)
        _check_opened(frame, own)
        return own.with_keys(source=source, **{key: getattr(frame, key) for key in KEPT})

    @property
    def identity(self) -> dict:
        """Refuse to identify an image that is not open."""
        msg = f"{self.label}: the file is not open"
        raise FrameError(msg)


def _check_opened(frame, own):
    """Refuse a file that is not the image of the catalogue."""
    if frame.shape not in (own.shape, UNKNOWN_SHAPE):
        raise _not_that(frame, "shape", own.shape, frame.shape)
    if own.unit != frame.unit:
        raise _not_that(frame, "unit", own.unit, frame.unit)
    off = np.linalg.norm(own.grid.polygon.mean(axis=0) - frame.grid.polygon.mean(axis=0))
    if not off < MOST_OFF * frame.grid.radius:
        arcsec = 3600 * np.degrees(off)
        msg = f"{frame.name}: its WCS is {arcsec:.3g} arcsec off its outline in the catalogue"
        raise FrameError(msg)
    cards = [key for key in frame.meta if key.isupper()]
    for key in dict.fromkeys([*cards, *(key for key in PLANNED if key.startswith("LM"))]):
        here, there = own.meta.get(key), frame.meta.get(key)
        if here is not None and not _equal(here, there):
            raise _not_that(frame, key, here, there)


def _equal(here, there):
    try:
        return bool(np.isclose(float(here), float(there), rtol=1e-12, atol=0))
    except (TypeError, ValueError):
        return str(here).strip() == str(there).strip()


def _not_that(frame, what, here, there):
    return FrameError(
        f"{frame.name}: its {what} is {here}, that of the catalogue is {there}; make the "
        "catalogue anew"
    )


def catalogue_frames(
    table: Table, read: ReadOptions, reader: Callable[..., list[Frame]]
) -> list[Frame]:
    """Return the frames of a catalogue of outlines; no file is opened.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The catalogue, see `read_catalogue`.
    read : `~levelmatch.ReadOptions`
        How the files are read later.
    reader : callable
        See `CatalogueSource`.

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
    hdus = table["hdu"].tolist() if "hdu" in table.colnames else [-1] * len(table)
    shapes = _shapes(table)
    columns = {key: table[key].tolist() for key in table.colnames if key not in OWN}
    units = {word: read_unit(word) if word else None for word in set(text["unit"])}
    each = np.arange(len(table), dtype=np.intp)
    size = np.array([max(ny - 1, 1) * max(nx - 1, 1) for ny, nx in shapes])
    area = convex_overlap(outlines, np.stack([each, each], axis=1)) / size
    frames: list[Frame] = []
    for k in range(len(table)):
        footprint = Footprint(axes[k], outlines[k], area[k], centres[k], shapes[k])
        frame = Frame(
            name=text["name"][k] or Path(text["file"][k]).name,
            source=_source(text["file"][k], int(hdus[k]), k, read, reader),
            shape=shapes[k],
            meta=CatalogueMeta(columns, k),
            unit=units[text["unit"][k]],
            # A footprint takes its place.
            transform=None,  # type: ignore[arg-type]
            tile=text["tile"][k],
            extension=text["extension"][k],
            blank=read.blank,
            footprint=footprint,
        )
        # JWST's names also tell the part of an image.
        own = text["detector"][k] if frame.jwst is None else ""
        frames.append(frame.with_keys(detector=own) if own else frame)
    return frames


def _middles(table, centres):
    """Return unit vectors to the images' middle pixels, by default to the centres of outlines."""
    if not {"ra_centre", "dec_centre"} <= set(table.colnames):
        return centres
    return unit_vectors(*(np.asarray(table[key], float) for key in ("ra_centre", "dec_centre")))


def _texts(table, key):
    return [str(v).strip() for v in table[key]] if key in table.colnames else [""] * len(table)


def _shapes(table):
    if not {"ny", "nx"} <= set(table.colnames):
        return [UNKNOWN_SHAPE] * len(table)
    return [(int(ny), int(nx)) for ny, nx in zip(table["ny"], table["nx"], strict=True)]


def _source(file, hdu, place, read, reader) -> Any:
    """Return the source of an image, `None` if the catalogue names no file."""
    if not file:
        return None
    path = Path(file)
    try:
        binding = Binding(path)
    except OSError as error:
        msg = f"{path}: there is no such file; check the column file of the catalogue"
        raise FrameError(msg) from error
    return CatalogueSource(
        path,
        hdu,
        binding=binding,
        max_bytes=read.max_bytes,
        reader=reader,
        options=read,
        place=place,
    )
