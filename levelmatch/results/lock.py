# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Lock on an output folder, so that one run at a time writes to it."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident
from typing import Any
from uuid import uuid4

from levelmatch.atomic import space_errors
from levelmatch.exceptions import LevelMatchError
from levelmatch.images.compression import open_raw
from levelmatch.images.file_checks import named_errors
from levelmatch.option_values import as_path
from levelmatch.record.run import now

__all__ = ["LOCK_NAME", "OutputLock", "output_lock"]

LOCK_NAME = ".levelmatch-lock"
# Error numbers of file systems without locks.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
# Number of bytes of an output that are searched at a time.
CHUNK = 1 << 22

# Locks of this process, by folder and thread.
_HELD: dict[tuple[Path, int], "OutputLock"] = {}


@contextmanager
def output_lock(folder: str | Path, *, keep: bool = False) -> Iterator["OutputLock"]:
    """Hold the lock on an output folder, which is created if it is missing.

    A thread may take a lock that it already holds.

    Parameters
    ----------
    folder : str or `~pathlib.Path`
        The folder.
    keep : bool
        Whether the lock file stays after an exception. The next run may then replace the
        outputs, as after a run that was killed.

    Yields
    ------
    lock : `OutputLock`
        The lock.

    Raises
    ------
    NotADirectoryError
        If ``folder`` is a file.
    LevelMatchError
        If another run holds the lock; the message names the run.
    """
    folder = as_path("directory", folder)
    if folder.exists() and not folder.is_dir():
        msg = f"directory: {folder} is not a folder; name another"
        raise NotADirectoryError(msg)
    # The deepest first.
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    key = folder.resolve(), get_ident()
    if key in _HELD:
        yield _HELD[key]
        return
    lock = OutputLock(folder)
    _HELD[key] = lock
    try:
        yield lock
    except BaseException:
        lock.release(forget=not keep and bool(lock.own))
        raise
    else:
        lock.release(forget=True)
    finally:
        del _HELD[key]
        for path in made:
            with suppress(OSError):
                # A folder with content is not removed.
                path.rmdir()


class OutputLock:
    """Lock on an output folder: a locked file with the identity of the run.

    An interrupted run leaves the file, unlocked, with the checksum of its record. The next run
    may replace the outputs of the interrupted run, but no other files.

    Parameters
    ----------
    folder : `~pathlib.Path`
        The folder.

    Raises
    ------
    LevelMatchError
        If another run holds the lock; the message names the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._handle = self._acquire()
        self.earlier = str(self._content().get("record", ""))
        self.own = ""
        self._write()

    def _acquire(self) -> int:
        """Open and lock the file; return its descriptor."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK
        while True:
            self._handle = os.open(self.path, flags, 0o666)
            try:
                if not _is_locked(self._handle):
                    self._refuse_if_alive()
                own, there = os.fstat(self._handle), os.stat(self.path)
            except FileNotFoundError:
                # Another run has removed the file in the meantime.
                os.close(self._handle)
                continue
            except BlockingIOError as error:
                holder = _identity(self._content())
                os.close(self._handle)
                msg = (
                    f"{self.path.parent}: another run writes to this folder{holder}; wait for it, "
                    "or name another folder"
                )
                raise LevelMatchError(msg) from error
            if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
                return self._handle
            os.close(self._handle)

    def _refuse_if_alive(self) -> None:
        """Without locks in the file system, refuse a folder whose run may be alive."""
        content = self._content()
        pid = content.get("process")
        if not isinstance(pid, int) or pid == os.getpid():
            return
        if content.get("host") == socket.gethostname():
            try:
                os.kill(pid, 0)
            except OSError:
                return
        raise BlockingIOError

    def _content(self) -> dict[str, Any]:
        """Return the content of the file, or an empty dictionary if it is not readable."""
        try:
            content = json.loads(os.pread(self._handle, 1 << 16, 0))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self) -> None:
        """Write the identity of the run and the checksum of its record to the lock file."""
        content = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": now()[:19],
            "run": uuid4().hex,
            "record": self.own or self.earlier,
        }
        with space_errors(self.path):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps(content).encode(), 0)

    def declare(self, sha256: str) -> None:
        """Store the checksum of the record whose outputs are written next."""
        self.own = sha256
        self._write()

    def may_replace(self, path: Path) -> bool:
        """Return whether the interrupted run wrote a file.

        Parameters
        ----------
        path : `~pathlib.Path`
            A record, or an image or association that names a record.
        """
        if not self.earlier or not path.is_file():
            return False
        with named_errors(path.name):
            return _names_record(path, self.earlier)

    def release(self, *, forget: bool) -> None:
        """Unlock the folder, and remove the file unless it names the record of an unfinished run.

        Parameters
        ----------
        forget : bool
            Whether to remove the file in any case.
        """
        if forget or not (self.own or self.earlier):
            self.forget()
        os.close(self._handle)

    def forget(self) -> None:
        """Remove the file and forget unfinished runs."""
        self.own = self.earlier = ""
        with suppress(OSError):
            own, there = os.fstat(self._handle), os.stat(self.path)
            # Another run may have created a new file in the meantime.
            if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
                self.path.unlink()


def _is_locked(handle: int) -> bool:
    """Lock an open file; return `False` if the system has no locks."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        return False
    try:
        flock(handle, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


def _identity(content: dict[str, Any]) -> str:
    """Return the identity of the run that holds a lock, as text for a message."""
    if not content:
        return ""
    process, host, since = (str(content.get(key, "?"))[:60] for key in ("process", "host", "since"))
    return f" (process {process} on {host}, since {since})"


def _names_record(path: Path, sha256: str) -> bool:
    """Return whether a file has a SHA-256, as the record itself, or contains it as text."""
    import hashlib

    text, rest = sha256.encode(), b""
    digest = hashlib.sha256()
    with open_raw(path) as stream:
        while chunk := stream.read(CHUNK):
            if text in rest + chunk:
                return True
            rest = chunk[-len(text) :]
            digest.update(chunk)
    return digest.hexdigest() == sha256
