# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The extensions of a FITS file, and the choice of those with images to match."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from astropy.io import fits

from levelmatch.exceptions import FrameError
from levelmatch.images.filters import filters_of
from levelmatch.images.mask_arrays import BESIDE, KINDS, companions, image_shape
from levelmatch.option_values import hdu_choices
from levelmatch.options import ReadOptions
from levelmatch.sky.overlaps import overlap_groups

__all__ = [
    "Extension",
    "ExtensionChoice",
    "extensions_of",
    "sky_images",
]


_CELESTIAL = re.compile(r"(RA--|DEC-|[GESH]L(ON|AT))")
# Names of extensions that look like masks, and the names of which are read.
_MASKS = re.compile(r"MASK|FLAG|QUAL|BAD|DQ")
_READ = {*KINDS["flags"], *KINDS["mask"]}
# Names of extensions that have none; compression gives the second.
_UNNAMED = ("", "COMPRESSED_IMAGE")


@dataclass(frozen=True)
class Extension:
    """An HDU of a file, as its header describes it.

    Parameters
    ----------
    name : str
        EXTNAME in upper case, or EXTTYPE without it; ``PRIMARY`` for a first HDU without name.
    version : int
        EXTVER.
    is_image : bool
        Whether it can hold an image.
    shape : tuple of int
        Shape of its data; empty without data.
    is_celestial : bool
        Whether its header has a celestial WCS.
    is_integer : bool
        Whether its stored values are integers.
    """

    name: str
    version: int
    is_image: bool
    shape: tuple
    is_celestial: bool
    is_integer: bool = False

    @classmethod
    def of(cls, name: str, hdu: Any, version: Any, ctype: Any) -> "Extension":
        """Return an extension from an HDU and from values of its header."""
        is_celestial = _CELESTIAL.match(str(ctype).upper()) is not None
        shape = tuple(getattr(hdu, "shape", None) or ())
        is_integer = bool(shape) and hdu.header["BITPIX"] > 0
        return cls(name.strip().upper(), version, hdu.is_image, shape, is_celestial, is_integer)

    @property
    def is_flat(self) -> bool:
        """True for a 2D image with a celestial WCS."""
        return self.is_image and len(image_shape(self.shape)) == 2 and self.is_celestial


def sky_images(extensions: Sequence[Extension]) -> list[int]:
    """Return the indices of the images of the sky, without arrays that accompany one."""
    beside = companions(tuple((e.name, e.version) for e in extensions))
    return [
        i
        for i, e in enumerate(extensions)
        if e.is_flat and i not in beside and BESIDE.fullmatch(e.name) is None
    ]


def extensions_of(hdus: fits.HDUList) -> list[Extension]:
    """Return the extensions of an open file."""
    return [_extension(hdu) for hdu in hdus]


def _extension(hdu):
    name = hdu.name or str(hdu.header.get("EXTTYPE", ""))
    return Extension.of(name, hdu, hdu.ver, hdu.header.get("CTYPE1", ""))


def _labels(extensions: Sequence[Extension]) -> list[str]:
    """Return a unique label for each extension of a file, such as ``CCD1``, ``SCI,2`` or ``3``."""
    names = [e.name for e in extensions]
    both = [(e.name, e.version) for e in extensions]
    labels = []
    for i, e in enumerate(extensions):
        if not e.name or both.count((e.name, e.version)) > 1:
            labels.append(str(i))
        else:
            labels.append(f"{e.name},{e.version}" if names.count(e.name) > 1 else e.name)
    # Labels become part of image names, which must not contain path separators.
    return [re.sub(r"[/\\\0\[\]]", "_", label) for label in labels]


# --------------------------------------------------------------------------------------
# Selection


def _chosen(name: str, extensions: Sequence[Extension], hdu: Any) -> list[int]:
    """Return the indices of the extensions that hold the images to match.

    They are in the order of the file for ``"auto"``, ``"all"`` and a name; otherwise in the order
    of the choices.
    """
    choices = hdu_choices(hdu)
    if choices == "all":
        found = sky_images(extensions)
        if not found:
            msg = f"{name}: hdu='all': there is no image with a celestial WCS; leave the file out"
            raise FrameError(msg)
        return found
    if choices == "auto":
        return _automatic(name, extensions)
    found = [i for choice in choices for i in _named(name, extensions, choice)]
    return list(dict.fromkeys(found))


def _automatic(name, extensions):
    """Return the default choice: the SCI images, else all images of the sky, else the first.

    If the first image has the name of an accompanying array, it is the only choice.
    """
    science = [i for i, e in enumerate(extensions) if e.name == "SCI"]
    if science:
        sky = [i for i in sky_images(extensions) if i in science]
        return sky or _images(name, extensions, science[:1], "'SCI'")
    images = [i for i, e in enumerate(extensions) if e.is_image and e.shape]
    if not images:
        msg = f"{name}: there is no image extension; leave the file out"
        raise FrameError(msg)
    if BESIDE.fullmatch(extensions[images[0]].name):
        return images[:1]
    return sky_images(extensions) or images[:1]


def _named(name, extensions, choice):
    """Return the indices of the images that match one choice."""
    if isinstance(choice, int):
        n = len(extensions)
        found = [choice % n] if -n <= choice < n else []
    else:
        text, version = choice if isinstance(choice, tuple) else (choice, None)
        text = text.strip().upper()
        found = [
            i
            for i, e in enumerate(extensions)
            if (e.name == text or (i == 0 and text == "PRIMARY")) and version in (None, e.version)
        ]
    if not found:
        names = [e.name or str(i) for i, e in enumerate(extensions)]
        msg = f"{name}: there is no extension {choice!r}; there are {names}"
        raise FrameError(msg)
    if isinstance(choice, str) and len(found) > 1:
        # A name selects the images of the sky among its versions.
        found = [i for i in sky_images(extensions) if i in found] or found
    return _images(name, extensions, found, repr(choice))


def _images(name, extensions, indices, choice):
    """Return the indices; refuse a table."""
    for i in indices:
        if not extensions[i].is_image:
            msg = f"{name}: hdu={choice} is a table, not an image; name another extension"
            raise FrameError(msg)
    return indices


# --------------------------------------------------------------------------------------
# Frames of the selected extensions


@dataclass(frozen=True)
class ExtensionChoice:
    """The extensions of a file that are matched.

    Parameters
    ----------
    name : str
        The file.
    extensions : list of `~levelmatch.images.extensions.Extension`
        All of its extensions.
    indices : list of int
        Indices of the extensions that are matched.
    read : `~levelmatch.ReadOptions`
        How images are read.
    """

    name: str
    extensions: list[Extension]
    indices: list[int]
    read: ReadOptions

    @classmethod
    def of(cls, name, extensions, read):
        """Return the extensions selected by the options."""
        return cls(name, extensions, _chosen(name, extensions, read.hdu), read)

    @cached_property
    def labels(self):
        """Labels of all extensions."""
        return _labels(self.extensions)

    def frames(self, make, notes):
        """Return the frames of the images.

        Parameters
        ----------
        make : callable
            Function of the name and index of an image, which returns its `Frame`.
        notes : `~levelmatch.images.notes.Notes`
            Receives the notes on the images.

        Returns
        -------
        frames : list of `Frame`
            The frames.
        """
        if len(self.indices) == 1:
            frames = [make(self.name, self.indices[0])]
        else:
            frames = [frame for i in self.indices for frame in self._one_of_many(make, i, notes)]
            frames = self._without_copies(frames)
            self._note_same_sky(frames, notes)
        self._note_others(frames, notes)
        matched = [frame.source.hdu for frame in frames]
        self._note_beside("unread mask", self._unread_masks(matched), notes)
        self._note_beside("unnamed", self._unnamed_integers(matched), notes)
        self._note_beside("no wcs", self._without_wcs(matched), notes)
        return frames

    def _one_of_many(self, make, index, notes):
        """Return a list of one frame, or an empty list if the image is skipped."""
        label = self.labels[index]
        name = f"{self.name}[{label}]"
        try:
            return [make(name, index).with_keys(extension=label)]
        except FrameError as error:
            if self.read.on_error != "skip":
                raise
            notes.add("skipped", name, str(error).partition(": ")[2])
            return []

    def _without_copies(self, frames):
        """Return the frames, or only the first if images of one file show the same sky.

        Chips lie side by side. Images that share more than half of their area are versions of
        the first image, such as another filter, a model or a coadd.
        """
        if len(frames) < 2 or hdu_choices(self.read.hdu) != "auto":
            return frames
        if len(set(overlap_groups([frame.whole_grid for frame in frames]))) == len(frames):
            return frames
        return [frames[0].with_keys(name=self.name, extension="")]

    def _note_same_sky(self, frames, notes):
        """Note images that may be of different filters: of other names, at the same sky."""
        unknown = [f for f in frames if f.extension and not filters_of(f.meta)]
        names = [self.extensions[frame.source.hdu].name for frame in unknown]
        if len(set(names)) < 2:
            return
        groups = overlap_groups([frame.whole_grid for frame in unknown])
        for group in dict.fromkeys(groups):
            alike = [k for k, other in enumerate(groups) if other == group]
            if len({names[k] for k in alike}) > 1:
                labels = ", ".join(unknown[k].extension for k in alike)
                notes.add("same sky", self.name, labels)

    def _note_others(self, frames, notes):
        """Note images of the sky that are not matched; warn unless the user chose this."""
        matched = [frame.source.hdu for frame in frames]
        # Skipped images have a note of their own.
        noted = matched if len(frames) == 1 and not frames[0].extension else self.indices
        names = {self.extensions[i].name for i in matched}
        others = [
            self.labels[i]
            for i in sky_images(self.extensions)
            if i not in noted and (names != {"SCI"} or self.extensions[i].name == "SCI")
        ]
        if not others or not matched:
            return
        kind = "extensions" if hdu_choices(self.read.hdu) == "auto" else "chosen extensions"
        labels = [*(self.labels[i] for i in matched), *others]
        first = ", ".join(labels[: len(matched)])
        notes.add(kind, self.name, f"{first} of {len(labels)}: {', '.join(labels)}")

    def _note_beside(self, kind, indices, notes):
        """Add a note that names extensions of the file, if there are any."""
        if indices:
            notes.add(kind, self.name, ", ".join(self.labels[i] for i in indices))

    def _unread_masks(self, matched):
        """Return the extensions of matched images' shapes that look like masks and are not read."""
        words = companions(tuple((e.name, e.version) for e in self.extensions))
        return [
            i
            for i in self._possible_masks(matched)
            if _MASKS.search(self.extensions[i].name)
            and not {self.extensions[i].name, words.get(i, ("",))[0]} & _READ
        ]

    def _unnamed_integers(self, matched):
        """Return the extensions of integers without name and WCS, which may be masks.

        Beside an image of integers without name, they are rather images of the same kind.
        """
        kinds = {_kind(self.extensions[i]) for i in matched}
        return [
            i
            for i in self._possible_masks(matched)
            if self.extensions[i].name in _UNNAMED
            and self.extensions[i].is_integer
            and not self.extensions[i].is_celestial
            and _kind(self.extensions[i]) not in kinds
        ]

    def _possible_masks(self, matched):
        """Return the other images of the shape of a matched one, if masks are to be read."""
        if not self.read.mask_extensions or self.read.mask_files is not None:
            return []
        shapes = {image_shape(self.extensions[i].shape) for i in matched}
        return [
            i
            for i, e in enumerate(self.extensions)
            if e.is_image and i not in matched and image_shape(e.shape) in shapes
        ]

    def _without_wcs(self, matched):
        """Return the images without WCS of the same kind as those that are matched."""
        choices = hdu_choices(self.read.hdu)
        if not isinstance(choices, str) and not all(isinstance(c, str) for c in choices):
            return []
        kinds = {_kind(self.extensions[i]) for i in matched}
        return [
            i
            for i, e in enumerate(self.extensions)
            if e.is_image and not e.is_celestial and i not in matched and _kind(e) in kinds
        ]


def _kind(extension):
    """Return the name of an extension without its number, its shape, and whether of integers."""
    name = extension.name.rstrip("0123456789")
    return name, image_shape(extension.shape), extension.is_integer
