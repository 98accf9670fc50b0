# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The state of an image's files when they were first read."""

import os
from pathlib import Path

from levelmatch.exceptions import FrameError

__all__ = ["FileState", "changed", "file_identity"]


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which a file shares with its links, or `None` without a file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class FileState:
    """State of an image's files when they were first read: sizes, times, digests of the pixels.

    The corrections of a run are valid only for the pixels that it measured. A file that
    changes before its corrected image is written is refused.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file of the image.

    Attributes
    ----------
    digests : dict or None
        Digests of the pixels, see `~levelmatch.images.digests.pixel_digests`; `None` before they
        are read.
    """

    def __init__(self, path: Path) -> None:
        self.digests: dict | None = None
        self._files: dict[Path, os.stat_result] = {}
        self.watch(path)

    def copy(self) -> "FileState":
        """Return the state of the same files, for another image in them."""
        new = object.__new__(FileState)
        new._files, new.digests = dict(self._files), None
        return new

    def watch(self, path: Path) -> None:
        """Add a file that holds masks of the image."""
        self._files[path] = os.stat(path)

    def check_digests(self, name: str, digests: dict) -> None:
        """Check that the digests of the pixels equal those of the first that were read.

        Parameters
        ----------
        name : str
            The image, for error messages.
        digests : dict
            See `~levelmatch.images.digests.pixel_digests`.

        Raises
        ------
        FrameError
            If they differ.
        """
        if self.digests is None:
            self.digests = digests
        if digests != self.digests:
            raise changed(name, "its pixels differ")

    def check_files(self, name: str) -> bool:
        """Check that the files have the same size and modification time as before.

        Parameters
        ----------
        name : str
            The image, for error messages.

        Returns
        -------
        untouched : bool
            Whether inodes and status times show that no file was written or replaced. If
            false, only a comparison of the pixels shows whether they changed.

        Raises
        ------
        FrameError
            If a file changed, or cannot be found.
        """
        untouched = True
        for path, before in self._files.items():
            try:
                now = os.stat(path)
            except OSError as error:
                msg = f"{name}: the pixels cannot be read: {error}; get the file again"
                raise FrameError(msg) from error
            if now.st_size != before.st_size:
                raise changed(name, f"{now.st_size} bytes, formerly {before.st_size}", path)
            if now.st_mtime_ns != before.st_mtime_ns:
                raise changed(name, "its modification time differs", path)
            same = (now.st_ino, now.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
            untouched &= same
        return untouched


def changed(name: str, reason: str, path: Path | None = None) -> FrameError:
    """Return the error of an image whose file changed."""
    file = "the file" if path is None or path.name == name else f"its file {path.name}"
    return FrameError(f"{name}: {file} changed after it was read ({reason}); match it again")
