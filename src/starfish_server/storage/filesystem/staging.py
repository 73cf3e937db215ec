"""Where bodies are written before they are renamed into place, and who may sweep what a dead process left.

`~staging/<id>.<n>` are the temporary files of one writer, and `~staging/<id>.lock` is locked for as long as
that writer lives. `~locks/<two hex digits>` are locked around each change of the keys that hash to them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import threading
from functools import partial
from typing import Self
from zlib import crc32

from starfish_server.storage.filesystem.openat2 import BENEATH, NO_LINKS, opener
from starfish_server.storage.filesystem.walk import make_directory, walk

# Descriptors of locks that are held, for a forked child to close: it would keep the locks of a dead parent.
_held: set[int] = set()
_CREATE = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCKS = "~locks"
_open_lock = opener(os.O_RDWR | os.O_NONBLOCK, NO_LINKS | BENEATH)


class locked:  # noqa: N801 - reads as the `with` statement that it stands in
    """Hold the lock, between processes and threads, of every change of `key`. Not reentrant."""

    __slots__ = ("_base", "_fsync", "_lock", "_stripe")

    def __init__(self, base: int, key: str, *, fsync: bool) -> None:
        self._base = base
        self._fsync = fsync
        self._stripe = f"{crc32(key.encode()) & 0xFF:02x}"

    def __enter__(self) -> None:
        self._lock = lock = self._open()
        _held.add(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except BaseException:
            self._close()
            raise

    def __exit__(self, *_: object) -> None:
        # Closing would not do if a child forked meanwhile holds a copy of the descriptor.
        try:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        except OSError:
            pass
        finally:
            self._close()

    def _close(self) -> None:
        _held.discard(self._lock)  # first, or a child might close what gets the number next
        os.close(self._lock)

    def _open(self) -> int:
        try:
            return _open_lock(self._base, f"{_LOCKS}/{self._stripe}".encode())
        except OSError:
            pass  # the steps below meet it again, and say what it means or mend it
        folder = walk(self._base, (_LOCKS,), partial(make_directory, fsync=self._fsync))
        try:
            return os.open(self._stripe, _CREATE | os.O_RDWR, 0o666, dir_fd=folder)
        finally:
            os.close(folder)


def _close_held() -> None:
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_close_held)


class TemporaryFile:
    """A file that is open for writing under a name of its own. As a context manager it is closed at the end,
    and discarded if the block raises; otherwise it must have been renamed.
    """

    def __init__(self, name: str, staging: Staging, folder: int) -> None:
        self.name = name
        self.folder = folder
        self._staging = staging
        self.descriptor = os.open(name, _CREATE | os.O_EXCL | os.O_WRONLY, 0o666, dir_fd=folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if error is not None:
                with contextlib.suppress(OSError):  # whatever stays is swept later
                    os.unlink(self.name, dir_fd=self.folder)
            os.close(self.descriptor)
        finally:
            self._staging.leave()

    def exists(self) -> bool:
        return os.fstat(self.descriptor).st_nlink > 0


class Staging:
    """The temporary files of one store in one process. Made on first use; that is also when it sweeps.

    After `close` it is gone as soon as the last file in use is.
    """

    def __init__(self, *, fsync: bool) -> None:
        self._fsync = fsync
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._users = 0
        self._closed = False
        self._numbers = itertools.count()
        self._id = ""
        self._folder = -1
        self._lock = -1

    def temporary_file(self, base: int) -> TemporaryFile:
        """A new temporary file."""
        with self._guard:
            if not self._users and not self._is_open():
                self._release()
                self._open(base)
            self._users += 1
        try:
            return TemporaryFile(f"{self._id}.{next(self._numbers)}", self, self._folder)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """A temporary file is done with."""
        with self._guard:
            self._users -= 1
            if self._closed and not self._users:
                self._release()

    def close(self) -> None:
        with self._guard:
            self._closed = True
            if not self._users:
                self._release()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's descriptors, and leave its lock and files alone."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        self._abandon_lock()

    def __del__(self) -> None:
        if self._process == os.getpid():
            self._release()
        else:
            self.abandon()

    def _is_open(self) -> bool:
        """False also when somebody removed the whole folder."""
        return self._lock >= 0 and os.fstat(self._lock).st_nlink > 0

    def _open(self, base: int) -> None:
        self._folder = walk(base, ("~staging",), partial(make_directory, fsync=self._fsync))
        _refuse_ignored_case(base, self._folder)
        owned = False
        while not owned:
            self._abandon_lock()
            self._id = secrets.token_hex(8)
            name = f"{self._id}.lock"
            self._lock = os.open(name, _CREATE | os.O_EXCL | os.O_RDWR, 0o666, dir_fd=self._folder)
            try:
                # False if a sweeper was quicker and took the new file for a dead writer's.
                owned = _lock_now(self._lock)
            except OSError:
                self._release()
                raise
        with contextlib.suppress(OSError):
            sweep(self._folder)

    def _abandon_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _release(self) -> None:
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                os.unlink(f"{self._id}.lock", dir_fd=self._folder)
            with contextlib.suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_UN)
        self.abandon()


def _refuse_ignored_case(base: int, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat("~STAGING", dir_fd=base), os.fstat(folder)):
            raise OSError(
                errno.ENOTSUP,
                "base_dir is on a file system that ignores case, where keys that differ in case alone would "
                "be one object; use a folder or volume that does not",
            )


def sweep(folder: int) -> None:
    """Remove what writers that no longer hold their lock left in the staging folder; best effort."""
    files: dict[str, list[str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            writer, _, kind = entry.name.partition(".")
            names = files.setdefault(writer, [])
            if kind != "lock":
                names.append(entry.name)
    for writer, names in files.items():
        with contextlib.suppress(OSError):
            _sweep_writer(folder, f"{writer}.lock", names)


def _sweep_writer(folder: int, lock_name: str, names: list[str]) -> None:
    try:
        lock = os.open(lock_name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        # A writer's lock is there before its files and goes after them: nobody owns these any more.
        for name in names:
            os.unlink(name, dir_fd=folder)
        return
    try:
        if _lock_now(lock):
            for name in names:
                os.unlink(name, dir_fd=folder)
            os.unlink(lock_name, dir_fd=folder)  # last: until then the rest is known as a dead writer's
    finally:
        os.close(lock)


def _lock_now(lock: int) -> bool:
    """Lock the file without waiting; False if another has it, or swept it away before."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(lock).st_nlink > 0
