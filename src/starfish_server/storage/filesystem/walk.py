"""Steps below a directory that no link can lead astray: one segment at a time, relative to an open parent.

File descriptors returned here belong to the caller.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starfish_server.storage.filesystem.openat2 import BENEATH, NO_LINKS, opener

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK the opening of a FIFO would wait for a writer.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_open_beneath = opener(DIRECTORY, NO_LINKS | BENEATH)


def open_base(path: str) -> int:
    """The one directory that may be reached through links."""
    try:
        return os.open(path, DIRECTORY)
    except NotADirectoryError as error:
        raise NotADirectoryError(error.errno, f"base_dir {path!r} is not a directory") from error


def make_base(path: str, *, fsync: bool) -> int:
    """As `open_base`; it and its parents are made where they are missing."""
    try:
        return open_base(path)
    except FileNotFoundError:
        pass
    parent = make_base(str(Path(path).parent), fsync=fsync)
    try:
        with contextlib.suppress(FileExistsError):
            Path(path).mkdir()
        if fsync:
            os.fsync(parent)
    finally:
        os.close(parent)
    return open_base(path)


def open_directory(name: str, parent: int) -> int:
    """`NotADirectoryError` for a regular file; ELOOP for a link, pipe, device or socket."""
    try:
        return os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        _refuse_special(os.lstat(name, dir_fd=parent))
        raise


def make_directory(name: str, parent: int, *, fsync: bool) -> int:
    """As `open_directory`, and made if missing. `FileNotFoundError` if one of the two was pruned since."""
    with contextlib.suppress(FileNotFoundError):
        return open_directory(name, parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
    if fsync:  # also when another writer was first: it may not have got here yet
        os.fsync(parent)
    return open_directory(name, parent)


def make_folder(base: int, path: str, *, fsync: bool) -> int:
    """The directory at `path`, made where it is missing; `base` itself, opened again, if it is empty."""
    try:
        return _open_beneath(base, path.encode() or b".")
    except OSError:
        pass  # the steps meet it again, and say what it means or mend it
    return walk(base, path.split("/") if path else (), partial(make_directory, fsync=fsync))


def walk(start: int, segments: Sequence[str], step: Callable[[str, int], int] = open_directory) -> int:
    """The directory that `segments` lead to from `start`; `start` itself, opened again, without any."""
    if not segments:
        return os.dup(start)
    if len(segments) > 1:
        with contextlib.suppress(OSError):  # the steps meet it again, and say what it means or mend it
            return _open_beneath(start, os.fsencode("/".join(segments)))
    here = step(segments[0], start)
    for segment in segments[1:]:
        try:
            below = step(segment, here)
        finally:
            os.close(here)
        here = below
    return here


class Parent:
    """`with Parent(base, key) as (parent, name)`: the open folder of `key`, None if there is none, and the
    last segment of `key`.
    """

    __slots__ = ("_base", "_key", "_parent")

    def __init__(self, base: int, key: str) -> None:
        self._base = base
        self._key = key

    def __enter__(self) -> tuple[int | None, str]:
        *parents, name = self._key.split("/")
        try:
            self._parent: int | None = walk(self._base, parents)
        except (FileNotFoundError, NotADirectoryError):
            self._parent = None
        return self._parent, name

    def __exit__(self, *_: object) -> None:
        if self._parent is not None:
            os.close(self._parent)


def nearest_directory(start: int, segments: Sequence[str]) -> int:
    """As `walk`, or the nearest directory above that is still there if others pruned it."""
    while True:
        try:
            return walk(start, segments)
        except (FileNotFoundError, NotADirectoryError):
            segments = segments[:-1]


def open_file(name: str, parent: int) -> tuple[int, os.stat_result] | None:
    """The regular file `name`, or None if there is nothing or a directory; ELOOP for anything else."""
    try:
        file = os.open(name, FILE, dir_fd=parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            _refuse_special(os.lstat(name, dir_fd=parent))
        raise
    try:
        status = os.fstat(file)
        _refuse_special(status)
    except BaseException:
        os.close(file)
        raise
    if stat.S_ISREG(status.st_mode):
        return file, status
    os.close(file)
    return None


def entry_status(name: str, parent: int) -> os.stat_result | None:
    """Status of the file or directory `name`, or None if there is none; ELOOP for anything else."""
    try:
        status = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return None
    _refuse_special(status)
    return status


def is_same_file(name: str, parent: int, status: os.stat_result) -> bool:
    """Whether `name` still leads to the file that had `status`."""
    try:
        now = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_dev) == (status.st_ino, status.st_dev)


def read_all(file: int, size: int) -> bytes:
    """The first `size` bytes, or fewer if the file ends before."""
    body = os.read(file, size)
    if len(body) == size:
        return body
    parts = [body]
    missing = size - len(body)
    while missing and parts[-1]:
        parts.append(os.read(file, missing))
        missing -= len(parts[-1])
    return b"".join(parts)


def write_all(file: int, body: bytes) -> None:
    """All of `body`, in as many system calls as it takes."""
    written = os.write(file, body)
    if written < len(body):
        rest = memoryview(body)
        while written < len(body):
            written += os.write(file, rest[written:])


def prune(base: int, parents: Sequence[str]) -> None:
    """Remove the directories at the end of `parents` that are empty, never `base` itself; best effort."""
    with contextlib.suppress(OSError):
        for depth in reversed(range(len(parents))):
            with contextlib.suppress(FileNotFoundError):
                above = walk(base, parents[:depth])
                try:
                    os.rmdir(parents[depth], dir_fd=above)
                finally:
                    os.close(above)


def remove_empty_tree(name: str, parent: int) -> None:
    """Remove the directory `name` if there is no file in it at any depth; ENOTEMPTY otherwise."""
    path = [name]
    while path:
        try:
            child = _first_directory(parent, path)
            if child is not None:
                path.append(child)
                continue
            above = walk(parent, path[:-1])
            try:
                os.rmdir(path[-1], dir_fd=above)
            finally:
                os.close(above)
        except FileNotFoundError:
            pass  # somebody else removed it
        path.pop()


def _first_directory(start: int, path: Sequence[str]) -> str | None:
    """A directory in the one at `path`, None if that is empty, ENOTEMPTY if it holds anything else."""
    here = walk(start, path)
    try:
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    return entry.name
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    finally:
        os.close(here)
    return None


def _refuse_special(status: os.stat_result) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.ELOOP, "neither a file nor a directory, but a link, pipe, device or socket")
