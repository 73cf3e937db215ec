"""Paths below a directory, opened so that no link is ever followed.

`opener` uses `openat2` of Linux, which opens a file many folders down in one system call. Where it is missing
(other systems, kernels before 5.6, some sandboxes) it raises `OSError`, as for any other obstacle. The
functions here then open one segment at a time, each relative to its open parent, and raise that step's error.

File descriptors returned here belong to the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Opener = Callable[[int, bytes], int]

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


def opener(flags: int, resolve: int) -> Opener:
    """Return a function that opens a path relative to an open folder.

    With `CACHED` it fails with EAGAIN rather than wait for the disk, so it holds the interpreter's lock.
    """
    if sys.platform != "linux":
        return _missing
    library = ctypes.PyDLL if resolve & CACHED else ctypes.CDLL
    call = library(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, _MODE if flags & os.O_CREAT else 0, resolve)
    size = len(how)

    def open_path(folder: int, path: bytes) -> int:
        file: int = call(_OPENAT2, folder, path, how, size)
        if file < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return file

    return open_path


def _missing(_folder: int, _path: bytes) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


_open_directory_beneath = opener(DIRECTORY, NO_LINKS | BENEATH)
_open_file_beneath = opener(FILE, NO_LINKS | BENEATH)


def open_base(path: str) -> int:
    """Open the base directory, the only one that may be reached through links."""
    try:
        return os.open(path, DIRECTORY)
    except OSError as error:  # these two would be reported as errors of a key
        if error.errno == errno.ENOTDIR:
            raise OSError(errno.EINVAL, f"base_dir {path!r} is not a directory") from error
        if error.errno == errno.ENAMETOOLONG:
            raise OSError(errno.EINVAL, f"base_dir {path!r} has too long a name") from error
        raise


def make_base(path: str, sync: Sync) -> int:
    """Open the base directory; make it and its parents where they are missing."""
    try:
        return open_base(path)
    except FileNotFoundError:
        parent = make_base(str(Path(path).parent), sync)
        try:
            with contextlib.suppress(FileExistsError):
                Path(path).mkdir()
            sync(parent)
        finally:
            os.close(parent)
        return open_base(path)


def open_directory(name: str, parent: int) -> int:
    """Raise `NotADirectoryError` for a regular file, ELOOP for a link, pipe, device or socket."""
    try:
        return os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        _refuse_special(os.lstat(name, dir_fd=parent))
        raise


def make_directory(name: str, parent: int, sync: Sync) -> int:
    """Open a directory, made if missing. `FileNotFoundError` if a deletion pruned it or its parent."""
    try:
        return open_directory(name, parent)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
        sync(parent)  # even if another writer made it, which may not have synced it yet
        return open_directory(name, parent)


def reserved_opener(folder: str, flags: int) -> Callable[[int, str], int]:
    """Return a function that opens, below the open base directory, a file of the store's own by its name.

    With O_CREAT its folder is made too, which a power failure may undo.
    """
    direct = opener(flags, NO_LINKS | BENEATH)

    def open_reserved(base: int, name: str) -> int:
        try:
            return direct(base, f"{folder}/{name}".encode())
        except OSError:  # the steps raise it again, or make the folder
            make = flags & os.O_CREAT
            parent = make_directory(folder, base, lambda _: None) if make else open_directory(folder, base)
            try:
                return os.open(name, flags, _MODE, dir_fd=parent)
            finally:
                os.close(parent)

    return open_reserved


def walk(start: int, segments: Sequence[str], make: Sync | None = None) -> int:
    """Open the directory that `segments` lead to from `start`; `start` itself, opened again, without any.

    make: makes durable the folders that are missing, which are then made.
    """
    if not segments:
        return os.dup(start)
    if len(segments) > 1:
        with contextlib.suppress(OSError):  # the steps below raise it again or make the folder
            return _open_directory_beneath(start, os.fsencode("/".join(segments)))
    here = start
    for segment in segments:
        try:
            below = open_directory(segment, here) if make is None else make_directory(segment, here, make)
        finally:
            if here != start:
                os.close(here)
        here = below
    return here


@contextlib.contextmanager
def parent_of(base: int, key: str) -> Iterator[tuple[int | None, str]]:
    """Open the folder of `key`, None if there is none; with it comes the last segment of `key`."""
    *parents, name = key.split("/")
    try:
        parent = walk(base, parents)
    except (FileNotFoundError, NotADirectoryError):
        yield None, name
        return
    try:
        yield parent, name
    finally:
        os.close(parent)


def nearest_directory(start: int, segments: Sequence[str]) -> int:
    """Open the directory as `walk` does, or the nearest one above it that still exists."""
    while True:
        try:
            return walk(start, segments)
        except (FileNotFoundError, NotADirectoryError):
            segments = segments[:-1]  # `start` itself always opens


def open_file(base: int, path: str) -> tuple[int, os.stat_result] | None:
    """Open the regular file at `path`; None if there is nothing or a directory, ELOOP for anything else."""
    try:
        file = _open_file_beneath(base, path.encode())
    except FileNotFoundError:
        return None
    except OSError:  # the steps raise it again, unless `openat2` is missing
        with parent_of(base, path) as (parent, name):
            try:
                if parent is None:
                    return None
                file = os.open(name, FILE, dir_fd=parent)
            except FileNotFoundError:
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


def entry_status(name: str, parent: int) -> os.stat_result | None:
    """Return the status of the file or directory `name`; None if there is none, ELOOP for anything else."""
    try:
        status = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return None
    _refuse_special(status)
    return status


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
    with contextlib.suppress(FileNotFoundError):  # another writer removed it
        for _, folders, files, here in os.fwalk(name, topdown=False, dir_fd=parent):
            if files:  # at once, however much more there is
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            for folder in folders:
                os.rmdir(folder, dir_fd=here)
        os.rmdir(name, dir_fd=parent)


def _refuse_special(status: os.stat_result) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.ELOOP, "neither a file nor a directory, but a link, pipe, device or socket")
