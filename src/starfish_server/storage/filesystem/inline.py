"""Small reads on the event loop, of what is in the page cache."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from starfish_server.checks import decode_text
from starfish_server.objects import StoredObject
from starfish_server.storage.filesystem.attributes import attributes_on_file, type_on_file
from starfish_server.storage.filesystem.legacy import LEGACY_SUFFIX
from starfish_server.storage.filesystem.names import to_path
from starfish_server.storage.filesystem.open_files import make_info, version_of_status
from starfish_server.storage.filesystem.paths import (
    BENEATH,
    CACHED,
    DIRECTORY,
    FILE,
    FROM_HERE,
    NO_LINKS,
    opener,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import ObjectInfo
    from starfish_server.operations import GetBytes, GetString, Read, Stat

MAX_INLINE_BYTES = 64 * 1024
_NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)
# Raised where openat2, RESOLVE_CACHED or, on this file system, RWF_NOWAIT is missing.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_open_cached_path = opener(FILE, NO_LINKS | CACHED)
_open_cached_base = opener(DIRECTORY, CACHED)
_open_cached_beneath = opener(FILE, NO_LINKS | BENEATH | CACHED)


UNDETERMINED: Final = object()
"""Returned by a read that would have to wait for the disk; a thread then reads the object."""


class InlineReads:
    """Reads on the event loop, by calls that fail rather than wait for the disk.

    They find up to 64 KiB of objects below `base_dir` whose folders, file and pages are all in memory.
    Anything else, an `OSError` included, is `UNDETERMINED`, and a thread reads again. Nothing stays open.

    Nothing is opened on the event loop until a thread has read an object here without waiting. On a file
    system of another process (FUSE) or machine (NFS) that fails, and even an `open` may wait for long.
    """

    def __init__(self, base_dir: str, *, enabled: bool) -> None:
        self._base = base_dir
        self._prefix = base_dir.rstrip("/") + "/"
        self._untried = enabled and bool(_NO_WAIT)
        self._enabled = False
        self._base_is_linked = False

    def learn(self, file: int) -> None:
        """Find out, the first time, whether reads here can avoid waiting; a thread calls this."""
        if self._untried:
            self._untried = False
            with suppress(OSError):
                with suppress(BlockingIOError):
                    os.preadv(file, [bytearray(1)], 0, _NO_WAIT)
                self._enabled = True

    def read(self, call: GetString | GetBytes | Stat | Read) -> Any:
        """Return the result of the operation, or `UNDETERMINED`."""
        path = to_path(call.key)
        if not self._enabled or path.endswith(LEGACY_SUFFIX):
            return UNDETERMINED
        try:
            try:
                file = self._open(path)
            except FileNotFoundError:
                return None
            try:
                status = os.fstat(file)
                found = _READS[call.name](file, status, call) if stat.S_ISREG(status.st_mode) else None
                return UNDETERMINED if found is None else found
            finally:
                os.close(file)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                self._enabled = False
            return UNDETERMINED

    def _open(self, path: str) -> int:
        if not self._base_is_linked:
            try:
                return _open_cached_path(FROM_HERE, self._prefix + path)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
        # The base directory alone may be reached through links.
        base = _open_cached_base(FROM_HERE, self._base)
        try:
            file = _open_cached_beneath(base, path)
        finally:
            os.close(base)
        self._base_is_linked = True
        return file


def _text(file: int, status: os.stat_result, call: GetString) -> str | None:
    body = _read_cached(file, 0, status.st_size, at_end=True)
    return None if body is None else decode_text(body, "get_string", call.key)


def _bytes_and_type(file: int, status: os.stat_result, _: GetBytes) -> tuple[bytes, str] | None:
    content_type = type_on_file(file)
    body = _read_cached(file, 0, status.st_size, at_end=True)
    return None if content_type is None or body is None else (body, content_type)


def _info(file: int, status: os.stat_result, call: Stat | Read) -> ObjectInfo | None:
    version = version_of_status(status)
    attributes = attributes_on_file(file)
    if version is None or attributes is None:
        return None
    if status.st_size == 0 and os.preadv(file, [bytearray(1)], 0, _NO_WAIT):
        return None  # of unknown size, as in /proc
    return make_info(call.key, status, attributes, version)


def _object(file: int, status: os.stat_result, call: Read) -> StoredObject | None:
    info = _info(file, status, call)
    if info is None:
        return None
    end = status.st_size if call.stop is None else min(call.stop, status.st_size)
    body = _read_cached(file, min(call.start, end), end, at_end=call.stop is None)
    return None if body is None else StoredObject(info, body)


def _read_cached(file: int, start: int, stop: int, *, at_end: bool) -> bytes | None:
    """Read the range; None if it is large, not all in memory, or does not end where the file should."""
    size = stop - start
    if size > MAX_INLINE_BYTES:
        return None
    body = bytearray(size + at_end)
    if body and os.preadv(file, [body], start, _NO_WAIT) != size:
        return None
    return bytes(body[:size])


# By the name of the operation. None means that a thread must read the object.
_READS: dict[str, Callable[[int, os.stat_result, Any], object]] = {
    "get_string": _text,
    "get_bytes": _bytes_and_type,
    "stat": _info,
    "read": _object,
}
