"""What the status of a file tells of its object, and the version that is made of it.

A version is a digest of the times and the size of the file. Every write sets the file's time of modification
to the clock, to the nanosecond, so that no two writes have the same; what another program does to a file
shows in its times. File systems with coarser times than 10 ms are known by their round numbers: there the
body is part of the digest.
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
from starfish_server.storage.filesystem.bodies import digest

if TYPE_CHECKING:
    from starfish_server.storage.filesystem.attributes import Attributes

COARSE_NS = 10_000_000
_NO_TIMES = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def stamp(file: int) -> None:
    """Set the time of modification of a file that was written, for its version."""
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
    return _digest_of(status, "")


def version_of_file(file: int, status: os.stat_result) -> str:
    """Return the version of the open file with this status."""
    return version_of_status(status) or _digest_of(status, digest(file))


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
    """Return the time of modification; None for one that no datetime can be."""
    with suppress(OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(status.st_mtime, UTC)
    return None


def check_unedited(file: int, status: os.stat_result, operation: str, key: str) -> None:
    """Raise `VersionConflictError` if another program changed the open file in place since `status`.

    One that was replaced or removed stays as it was.
    """
    now = os.fstat(file)
    if (now.st_mtime_ns, now.st_size) != (status.st_mtime_ns, status.st_size):
        reason = "another program changed the file in place while it was read; read it again"
        raise VersionConflictError(reason, operation=operation, key=key)


def _digest_of(status: os.stat_result, body: str) -> str:
    seen = f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_size} {body}"
    return hashlib.blake2b(seen.encode(), digest_size=16).hexdigest()
