# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Selection of the images of one file that are matched."""

from dataclasses import dataclass
from functools import cached_property

from levelmatch.exceptions import FrameError
from levelmatch.images.extensions import Extension, chosen_extensions, extension_labels
from levelmatch.option_values import hdu_choices
from levelmatch.options import ReadOptions
from levelmatch.sky.overlaps import overlap_groups

__all__ = ["ExtensionChoice"]


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
        return cls(name, extensions, chosen_extensions(name, extensions, read.hdu), read)

    @cached_property
    def labels(self):
        """Labels of all extensions."""
        return extension_labels(self.extensions)

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
        self._note_others(frames, notes)
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

    def _note_others(self, frames, notes):
        """Note images of the sky that are not matched; warn unless the user chose this."""
        matched = [frame.source.hdu for frame in frames]
        # Skipped images have a note of their own.
        noted = matched if len(frames) == 1 and not frames[0].extension else self.indices
        names = {self.extensions[i].name for i in matched}
        others = [
            self.labels[i]
            for i, e in enumerate(self.extensions)
            if i not in noted and e.is_sky and (names != {"SCI"} or e.name == "SCI")
        ]
        if not others or not matched:
            return
        kind = "extensions" if hdu_choices(self.read.hdu) == "auto" else "chosen extensions"
        labels = [*(self.labels[i] for i in matched), *others]
        first = ", ".join(labels[: len(matched)])
        notes.add(kind, self.name, f"{first} of {len(labels)}: {', '.join(labels)}")
