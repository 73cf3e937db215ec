"""The bytes of an open file, and the version and info of its object.

A version is made of the times and the size of the file. Every write sets the modification time from the
clock, to the nanosecond and under the lock of the key, so that no two writes have the same version; changes
by other programs show in the times. File systems with times coarser than 10 ms are recognised by round
numbers: there the version has a digest of the body.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starfish_server.errors import VersionConflictError
from starfish_server.objects import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.storage.filesystem.attributes import Attributes

PIECE_BYTES = 1024 * 1024
COARSE_NS = 10_000_000
_NO_TIMES = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_COPIED_AT_ONCE = 64 * 1024 * 1024  # bytes between two checks whether the caller was cancelled


def read_all(file: int, size: int) -> bytes:
    """Read an open file to its end; `size` is the expected number of bytes."""
    body = os.read(file, size + 1)
    if len(body) == size:
        return body
    parts = [body]
    while parts[-1]:
        parts.append(os.read(file, PIECE_BYTES))
    return b"".join(parts)


def read_range(file: int, start: int, stop: int) -> bytes:
    """Read the bytes from `start` to before `stop`, or to the end."""
    parts: list[bytes] = []
    while start < stop and (part := os.pread(file, stop - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def write_all(file: int, body: bytes) -> None:
    """Write all of `body`, in as many system calls as it takes."""
    written = os.write(file, body)
    while written < len(body):
        written += os.write(file, memoryview(body)[written:])


def copy_body(source: int, target: int, proceed: Callable[[], None]) -> None:
    """Copy an open file into an empty one: by the kernel, which shares blocks where it can, or by hand.

    `proceed` is called between pieces, and may raise.
    """
    offset = 0
    if hasattr(os, "copy_file_range"):
        with suppress(OSError):  # if it cannot; a disk that is full or broken fails the writes below, too
            while copied := os.copy_file_range(source, target, _COPIED_AT_ONCE, offset, offset):
                offset += copied
                proceed()
    while piece := os.pread(source, PIECE_BYTES, offset):
        os.lseek(target, offset, os.SEEK_SET)
        write_all(target, piece)
        offset += len(piece)
        proceed()


def digest(file: int) -> str:
    """Return the SHA-256 of the body of an open file."""
    sha256 = hashlib.sha256()
    offset = 0
    while piece := os.pread(file, PIECE_BYTES, offset):
        sha256.update(piece)
        offset += len(piece)
    return sha256.hexdigest()


def stamp(file: int) -> None:
    """Set the modification time of a written file, for its version. The caller holds the lock of its key."""
    now = time.time_ns()
    try:
        os.utime(file, ns=(now, now))
    except OSError as error:
        if error.errno not in _NO_TIMES:
            raise


def version_of_status(status: os.stat_result) -> str | None:
    """Return the version of the file with this status; None where its times are too coarse to tell."""
    if status.st_ctime_ns % COARSE_NS == 0:
        return None
    times_and_size = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
    return "%x-%x-%x" % times_and_size  # noqa: UP031 - an f-string takes nearly twice as long


def version_of_file(file: int, status: os.stat_result) -> str:
    """Return the version of the open file with this status."""
    return version_of_status(status) or f"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{digest(file)}"


def make_info(key: str, status: os.stat_result, attributes: Attributes, version: str | None) -> ObjectInfo:
    """Return the info of an object with its attributes."""
    return ObjectInfo(
        key,
        status.st_size,
        attributes.content_type,
        attributes.cache_control,
        attributes.metadata,
        version,
        modified(status),
    )


def modified(status: os.stat_result) -> datetime | None:
    """Return the time of modification; None if it is outside the range of `datetime`."""
    try:
        return datetime.fromtimestamp(status.st_mtime, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def check_unedited(file: int, status: os.stat_result) -> None:
    """Raise `VersionConflictError` if another program changed the open file in place since `status`.

    A file that was replaced or removed passes: what is open is still the old body.
    """
    now = os.fstat(file)
    if (now.st_mtime_ns, now.st_size) != (status.st_mtime_ns, status.st_size):
        reason = "another program changed the file in place while it was read; read it again"
        raise VersionConflictError(reason)
