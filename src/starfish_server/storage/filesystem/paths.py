"""Paths below an open folder, opened so that no link is ever followed.

`opener` uses `openat2` of Linux, which opens a file many folders down in one system call. Where it is missing
(other systems, kernels before 5.6, some sandboxes) it raises `OSError`, as for any other obstacle. The
functions here then open one segment at a time, each relative to its open parent, and raise the error of the
segment that fails.

Descriptors returned here belong to the caller. Regular files and folders aside, whatever is at a path
(a link, pipe, device or socket) is refused with ELOOP.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Opener = Callable[[int, str], int]

Sync: TypeAlias = "Callable[[int], None]"

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK the opening of a FIFO would wait for a writer.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
WRITABLE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NO_LINKS = 0x02 | 0x04  # RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS
BENEATH = 0x08
CACHED = 0x20
FROM_HERE = -100  # AT_FDCWD: an absolute path needs no folder to start from
ATTEMPTS = 100
"""Attempts at a step that other processes can undo. Losing a hundred races in a row is a defect."""

_OPENAT2 = 437  # the number of the system call
_MODE = 0o666  # of new files, less the umask


class Descriptor(int):
    """The number of an open file or folder, closed at the end of a `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self)


@cache
def opener(flags: int, resolve: int) -> Opener:
    """Return a function that opens a path relative to an open folder.

    With `CACHED` it fails with EAGAIN rather than wait for the disk, so it holds the interpreter's lock.
    """
    if sys.platform != "linux":
        return _missing
    library = ctypes.PyDLL if resolve & CACHED else ctypes.CDLL
    call = library(None, use_errno=True).syscall
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, _MODE if flags & os.O_CREAT else 0, resolve)
    size = len(how)
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

    def open_path(folder: int, path: str) -> int:
        file: int = call(_OPENAT2, folder, path.encode(encoding, errors), how, size)
        if file < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return file

    return open_path


def _missing(_folder: int, _path: str) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def open_base(path: str, make: Sync | None = None) -> Descriptor:
    """Open the base directory, the only one that may be reached through links.

    make: if given, missing folders are made, and it is called with the parent of each to make it durable.
    """
    try:
        return Descriptor(os.open(path, DIRECTORY))
    except FileNotFoundError:
        if make is None:
            raise
    except OSError as error:  # these two would be reported as errors of a key
        if error.errno == errno.ENOTDIR:
            raise OSError(errno.EINVAL, f"base_dir {path!r} is not a directory") from error
        if error.errno == errno.ENAMETOOLONG:
            raise OSError(errno.EINVAL, f"base_dir {path!r} has too long a name") from error
        raise
    with open_base(str(Path(path).parent), make) as parent:
        with contextlib.suppress(FileExistsError):
            Path(path).mkdir()
        make(parent)
    return open_base(path)


def open_folder(start: int, path: str, make: Sync | None = None) -> Descriptor:
    """Open the folder at `path` below the open folder `start`; `start` itself, opened again, if it is empty.

    make: that of `open_base`. If given, a `FileNotFoundError` means that a deletion pruned a folder.
    """
    if not path:
        return Descriptor(os.dup(start))
    if "/" in path:
        try:
            return Descriptor(opener(DIRECTORY, NO_LINKS | BENEATH)(start, path))
        except OSError:  # raised again below, unless the folder is made there
            pass
    here = start
    for name in path.split("/"):
        try:
            below = _open_segment(name, here, make)
        finally:
            if here != start:
                os.close(here)
        here = below
    return Descriptor(here)


def _open_segment(name: str, parent: int, make: Sync | None) -> int:
    try:
        return os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        _refuse_special(os.lstat(name, dir_fd=parent))
        raise
    except FileNotFoundError:
        if make is None:
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
        make(parent)  # even if another writer made it, which may not have synced it yet
        return _open_segment(name, parent, None)


def open_beneath(start: int, path: str, flags: int, make: Sync | None = None) -> int:
    """Open the file at `path` below the open folder `start`. `make` is that of `open_folder`."""
    try:
        return opener(flags, NO_LINKS | BENEATH)(start, path)
    except OSError as error:  # raised again below, unless the folder is made there
        if make is None and error.errno == errno.ENOENT:
            raise
    folder, _, name = path.rpartition("/")
    with open_folder(start, folder, make) as parent:
        return os.open(name, flags, _MODE, dir_fd=parent)


def open_file(base: int, path: str) -> tuple[Descriptor, os.stat_result] | None:
    """Open the regular file at `path`; None if there is nothing or a folder."""
    try:
        file = Descriptor(open_beneath(base, path, FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None
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


@contextlib.contextmanager
def parent_of(base: int, path: str) -> Iterator[tuple[int | None, str]]:
    """Yield the open folder of `path`, or None if there is none, and the last segment of `path`."""
    folder, _, name = path.rpartition("/")
    try:
        parent = open_folder(base, folder)
    except (FileNotFoundError, NotADirectoryError):
        yield None, name
        return
    with parent:
        yield parent, name


def nearest_folder(start: int, path: str) -> Descriptor:
    """Open the folder as `open_folder` does, or the nearest one above it that still exists."""
    while True:
        try:
            return open_folder(start, path)
        except (FileNotFoundError, NotADirectoryError):
            path = path.rpartition("/")[0]  # `start` itself always opens


def entry_status(name: str, parent: int) -> os.stat_result | None:
    """Return the status of the file or folder `name`; None if there is none."""
    try:
        status = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return None
    _refuse_special(status)
    return status


def prune(base: int, path: str) -> None:
    """Remove the folder at `path` and those above it that are empty, never `base` itself; best effort."""
    with contextlib.suppress(OSError):
        while path:
            with contextlib.suppress(FileNotFoundError), parent_of(base, path) as (parent, name):
                if parent is not None:
                    os.rmdir(name, dir_fd=parent)
            path = path.rpartition("/")[0]


def remove_empty_tree(name: str, parent: int) -> None:
    """Remove the folder `name` if there is no file in it at any depth; ENOTEMPTY otherwise."""
    with contextlib.suppress(FileNotFoundError):  # another writer removed it
        for _, folders, files, here in os.fwalk(name, topdown=False, dir_fd=parent):
            if files:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            for folder in folders:
                os.rmdir(folder, dir_fd=here)
        os.rmdir(name, dir_fd=parent)


def _refuse_special(status: os.stat_result) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.ELOOP, "neither a file nor a directory, but a link, pipe, device or socket")
