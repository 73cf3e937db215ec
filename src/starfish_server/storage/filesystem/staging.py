"""The lock of each key, and the temporary files of writers.

The files `~locks/<two hex digits>` are locked, across processes and threads, around each change of the keys
that hash to them. Bodies are written in `~staging`, then renamed into place. A writer keeps its files there
locked, so a file that can be locked was left by a process that died.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Self
from zlib import crc32

from starfish_server.forks import reset_in_child
from starfish_server.storage.filesystem.paths import (
    ATTEMPTS,
    DIRECTORY,
    WRITABLE,
    Descriptor,
    open_beneath,
    open_folder,
)

_FOLDER = "~staging"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOCKS_NO_FOLDERS = (errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_NEW = WRITABLE | os.O_CREAT | os.O_EXCL


class _LockedFiles:
    """The descriptors of the files that this process has locked."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def reset_after_fork(self) -> None:
        """Close the child's copies, which would hold the locks even after the parent has died."""
        while self.numbers:
            with contextlib.suppress(OSError):
                os.close(self.numbers.pop())


_locked = _LockedFiles()
reset_in_child(_locked)


class KeyLock:
    """The lock of the object at `path` below the open base directory, held in a `with`. Not reentrant.

    It excludes other processes and threads. Its file is made under the lock of `base`. If the disk has no
    room for the file, the lock of `base` is held instead, so that deletions still work.
    """

    __slots__ = ("_base", "_file", "_path")

    def __init__(self, base: int, path: str) -> None:
        self._base = base
        self._path = path
        self._file: int | None = None

    def __enter__(self) -> None:
        name = f"~locks/{crc32(self._path.encode()) & 0xFF:02x}"
        try:
            self._hold(open_beneath(self._base, name, WRITABLE))
        except FileNotFoundError:
            self._make(name)

    def _make(self, name: str) -> None:
        try:
            # Opened again, since a duplicate of `base` would share its locks.
            self._hold(os.open(".", DIRECTORY, dir_fd=self._base))
        except OSError as error:
            if error.errno not in _LOCKS_NO_FOLDERS:
                raise
        try:
            file = open_beneath(self._base, name, WRITABLE | os.O_CREAT, not_durable)
        except OSError as error:
            if error.errno in _FULL and self._file is not None:
                return
            self.__exit__()
            raise
        self.__exit__()
        self._hold(file)

    def _hold(self, file: int) -> None:
        self._file = file
        _locked.numbers.add(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        _locked.numbers.discard(file)  # first, or a child might close a file that gets the number next
        try:
            # Closing alone would not unlock it while a forked child holds a copy.
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError:
            pass
        finally:
            os.close(file)


class StagedFile:
    """A new file, open for writing. At the end of a `with` it is closed, and removed unless it was moved."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._moved = False
        for _ in range(ATTEMPTS):
            self._path = path = f"{_FOLDER}/{os.urandom(8).hex()}"
            self.descriptor = file = open_beneath(base, path, _NEW, not_durable)
            _locked.numbers.add(file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.access(path, os.F_OK, dir_fd=base, effective_ids=True):
                    return
            except BaseException:
                StagedFile.close(self)  # not a subclass's, which is not made yet
                raise
            StagedFile.close(self)  # swept before it was locked
        raise OSError(errno.EBUSY, f"files in {_FOLDER} disappear while they are made")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def move(self, name: str, parent: int) -> None:
        """Rename it to `name` in the open folder `parent`, replacing any file there."""
        os.rename(self._path, name, src_dir_fd=self._base, dst_dir_fd=parent)
        self._moved = True

    def close(self) -> None:
        """Close it, and remove it unless it was moved."""
        _locked.numbers.discard(self.descriptor)
        if not self._moved:
            with contextlib.suppress(OSError):  # swept later if it stays
                os.unlink(self._path, dir_fd=self._base)
        os.close(self.descriptor)


def prepare(base: int) -> None:
    """Make the folder, remove files left by dead processes, and refuse a file system that ignores case."""
    with open_folder(base, _FOLDER, not_durable) as folder:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(_FOLDER.upper(), dir_fd=base), os.fstat(folder)):
                raise OSError(
                    errno.ENOTSUP,
                    "base_dir is on a file system that ignores case, where keys that differ in case alone "
                    "would be one object; use a folder or volume that does not",
                )
        for name in os.listdir(folder):  # noqa: PTH208 - it is open, and has no path
            with contextlib.suppress(OSError), Descriptor(open_beneath(folder, name, WRITABLE)) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if its writer lives
                os.unlink(name, dir_fd=folder)


def not_durable(_folder: int) -> None:
    """Sync nothing: without `fsync`, and for the store's own folders, which are made again where missing."""
