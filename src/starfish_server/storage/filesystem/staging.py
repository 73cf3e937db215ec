"""Files that are written in `~staging` before they are renamed into place.

A writer holds a lock on each of its files, so a file that can be locked was left by a process that died.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from typing import Self

from starfish_server.storage.filesystem.changes import close_locked, lock
from starfish_server.storage.filesystem.paths import ATTEMPTS, WRITABLE, make_directory, reserved_opener

_FOLDER = "~staging"
_create = reserved_opener(_FOLDER, WRITABLE | os.O_CREAT | os.O_EXCL)


class StagedFile:
    """A new file, open for writing. At the end of a `with` it is closed, and removed unless it was moved."""

    __slots__ = ("_base", "_moved", "_path", "descriptor")

    def __init__(self, base: int) -> None:
        self._base = base
        self._moved = False
        for _ in range(ATTEMPTS):
            name = secrets.token_hex(8)
            self._path = f"{_FOLDER}/{name}"
            self.descriptor = _create(base, name)
            try:
                lock(self.descriptor)
                os.lstat(self._path, dir_fd=base)
            except FileNotFoundError:  # swept before it was locked
                close_locked(self.descriptor)
            except BaseException:
                StagedFile.close(self)  # not a subclass's, which is not made yet
                raise
            else:
                return
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
        if not self._moved:
            with contextlib.suppress(OSError):  # swept later if it stays
                os.unlink(self._path, dir_fd=self._base)
        close_locked(self.descriptor)


def prepare(base: int) -> None:
    """Make the folder, remove files left by dead processes, and refuse a file system that ignores case."""
    folder = make_directory(_FOLDER, base, lambda _: None)
    try:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(_FOLDER.upper(), dir_fd=base), os.fstat(folder)):
                raise OSError(
                    errno.ENOTSUP,
                    "base_dir is on a file system that ignores case, where keys that differ in case alone "
                    "would be one object; use a folder or volume that does not",
                )
        for name in os.listdir(folder):  # noqa: PTH208 - it is open, and has no path
            with contextlib.suppress(OSError):
                _sweep(name, folder)
    finally:
        os.close(folder)


def _sweep(name: str, folder: int) -> None:
    file = os.open(name, WRITABLE, dir_fd=folder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(file)
