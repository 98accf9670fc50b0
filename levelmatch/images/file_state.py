# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The state of an image's files when they were first read."""

import os
from pathlib import Path
from zlib import crc32

import numpy as np

from levelmatch.exceptions import FrameError

__all__ = ["FileState", "changed", "checksum_of", "file_identity"]

# Number of bytes per sum of a checksum.
BLOCK = 4096


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which a file shares with its links, or `None` without a file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class FileState:
    """State of an image's files when they were first read: sizes, times, checksum of the pixels.

    The corrections of a run are valid only for the pixels that it measured. A file that
    changes before its corrected image is written is refused.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file of the image.

    Attributes
    ----------
    hashed : bool
        Whether reading the pixels also computes their SHA-256.
    digests : dict or None
        Digests of the pixels, see `~levelmatch.images.sources.pixel_digests`; `None` before they
        are computed.
    """

    def __init__(self, path: Path) -> None:
        self.hashed = False
        self.digests: dict | None = None
        self._files: dict[Path, os.stat_result] = {}
        self._checksum: int | None = None
        self.watch(path)

    def copy(self) -> "FileState":
        """Return the state of the same files, for another image in them."""
        new = object.__new__(FileState)
        new._files, new._checksum = dict(self._files), None
        new.hashed, new.digests = self.hashed, None
        return new

    def watch(self, path: Path) -> None:
        """Add a file that holds masks of the image."""
        self._files[path] = os.stat(path)

    def check_pixels(
        self,
        name: str,
        pixels: np.ndarray,
        bad: np.ndarray | None = None,
        sums: np.ndarray | None = None,
    ) -> None:
        """Check that pixels equal the first that were read.

        Parameters
        ----------
        name : str
            The image, for error messages.
        pixels, bad : `~numpy.ndarray`
            The pixels and their mask, C-contiguous.
        sums : `~numpy.ndarray` of uint64 or None
            Sums of the pixels' bytes in blocks of 4096, as 64-bit words; by default computed.

        Raises
        ------
        FrameError
            If they differ.
        """
        checksum = checksum_of(pixels, sums=sums)
        if bad is not None:
            checksum = checksum_of(np.ascontiguousarray(bad), checksum)
        if self._checksum is None:
            self._checksum = checksum
        if checksum != self._checksum:
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

    @property
    def is_read(self) -> bool:
        """True after this process has read the pixels."""
        return self._checksum is not None


def checksum_of(array: np.ndarray, start: int = 0, sums: np.ndarray | None = None) -> int:
    """Return a checksum of an array: the CRC of the sums of its bytes in blocks.

    It takes a tenth of the time of a CRC of all bytes, which would slow down reading.
    """
    content = array.reshape(-1).view(np.uint8)
    n = len(content) // BLOCK * BLOCK
    if sums is None:
        sums = content[:n].view(np.uint64).reshape(-1, BLOCK // 8).sum(axis=1)
    return crc32(content[n:].data, crc32(sums.data, start))


def changed(name: str, reason: str, path: Path | None = None) -> FrameError:
    """Return the error of an image whose file changed."""
    file = "the file" if path is None or path.name == name else f"its file {path.name}"
    return FrameError(f"{name}: {file} changed after it was read ({reason}); match it again")
