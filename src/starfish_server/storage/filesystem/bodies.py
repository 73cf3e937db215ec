"""The bytes of open files: read and written whole, digested and copied in bounded memory."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 1024 * 1024
_CLONE = 0x40049409  # FICLONE
_COPIED_AT_ONCE = 64 * 1024 * 1024  # between two looks whether the caller was cancelled
_CANNOT_COPY = (
    errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM,
    errno.ETXTBSY, errno.EXDEV,
)  # fmt: skip


def read_all(file: int, size: int) -> bytes:
    """Read an open file of `size` bytes, as far as is known, to its end."""
    body = os.read(file, size + 1)
    if len(body) == size:
        return body
    parts = [body]
    missing = size - len(body)
    while parts[-1]:
        parts.append(os.read(file, max(missing, PIECE_BYTES)))
        missing -= len(parts[-1])
    return b"".join(parts)


def read_range(file: int, start: int, stop: int) -> bytes:
    """Read the bytes from `start` to before `stop`, or to the end."""
    body = os.pread(file, stop - start, start)
    if len(body) == stop - start:
        return body
    parts = [body]
    start += len(body)
    while parts[-1] and start < stop:
        parts.append(os.pread(file, stop - start, start))
        start += len(parts[-1])
    return b"".join(parts)


def write_all(file: int, body: bytes) -> None:
    """Write all of `body`, in as many system calls as it takes."""
    written = os.write(file, body)
    if written < len(body):
        rest = memoryview(body)
        while written < len(body):
            written += os.write(file, rest[written:])


def digest(file: int) -> str:
    """Return the SHA-256 of the body of an open file."""
    sha256 = hashlib.sha256()
    offset = 0
    while piece := os.pread(file, PIECE_BYTES, offset):
        sha256.update(piece)
        offset += len(piece)
    return sha256.hexdigest()


def copy_body(source: int, target: int, proceed: Callable[[], None]) -> None:
    """Copy an open file into an empty one: as a clone that shares its blocks, by the kernel, or by hand.

    `proceed` is called between pieces, and may raise.
    """
    if _clone(source, target):
        return
    offset = 0
    while copied := _copy_in_kernel(source, target, offset):
        offset += copied
        proceed()
    while piece := os.pread(source, PIECE_BYTES, offset):
        os.lseek(target, offset, os.SEEK_SET)
        write_all(target, piece)
        offset += len(piece)
        proceed()


def _clone(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _CLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_COPY:
            return False
        raise
    return True


def _copy_in_kernel(source: int, target: int, offset: int) -> int:
    """Return how many bytes were copied; 0 at the end, and where the system cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source, target, _COPIED_AT_ONCE, offset, offset)
    except OSError as error:
        if error.errno in _CANNOT_COPY:
            return 0
        raise
