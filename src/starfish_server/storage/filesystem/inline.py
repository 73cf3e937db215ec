"""Small reads on the event loop, of what is in the page cache."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from enum import Enum
from typing import Final, Literal, TypeAlias

from starfish_server.objects import StoredObject
from starfish_server.storage.filesystem.attributes import attributes_on_file, is_legacy_name, type_on_file
from starfish_server.storage.filesystem.bodies import read_all
from starfish_server.storage.filesystem.info import make_info, version_of_status
from starfish_server.storage.filesystem.paths import (
    BENEATH,
    CACHED,
    DIRECTORY,
    FILE,
    FROM_HERE,
    NO_LINKS,
    opener,
)

MAX_INLINE_BYTES = 64 * 1024
_NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)
# There is no openat2 or no RESOLVE_CACHED here, or no RWF_NOWAIT on this file system.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_open_cached_path = opener(FILE, NO_LINKS | CACHED)
_open_cached_base = opener(DIRECTORY, CACHED)
_open_cached_beneath = opener(FILE, NO_LINKS | BENEATH | CACHED)


class Undetermined(Enum):
    """In place of what is stored: this way of looking cannot tell, and a slower one has to."""

    UNDETERMINED = 0


UNDETERMINED: Final = Undetermined.UNDETERMINED
Found: TypeAlias = "tuple[bytes, str] | Literal[Undetermined.UNDETERMINED] | None"
FoundObject: TypeAlias = "StoredObject | Literal[Undetermined.UNDETERMINED] | None"


class InlineReads:
    """Reads on the event loop, by calls that fail rather than wait for the disk.

    They find objects below `base_dir` whose folders, file and pages are all in memory, up to 64 KiB. Anything
    else is `UNDETERMINED`, errors too: a thread looks again. Nothing is kept open.

    Nothing is opened on the event loop before a thread has read an object here without waiting: a file
    system of another process (FUSE) or machine (NFS), which cannot, may make even an `open` wait for long.
    """

    def __init__(self, base_dir: str, *, enabled: bool) -> None:
        self._base = os.fsencode(base_dir)
        self._prefix = self._base.rstrip(b"/") + b"/"
        self._untried = enabled and bool(_NO_WAIT)
        self._enabled = False
        self._base_is_linked = False

    def read_in_thread(self, file: int, size: int) -> bytes:
        """Read a whole body, and learn from it whether reads here may wait."""
        if self._untried:
            self._untried = False
            with suppress(OSError):
                with suppress(BlockingIOError):
                    os.preadv(file, [bytearray(1)], 0, _NO_WAIT)
                self._enabled = True
        return read_all(file, size)

    def read(self, path: str, *, with_type: bool) -> Found:
        """Return body and content type of the object, or None, or `UNDETERMINED`."""
        file = self._open(path)
        if not isinstance(file, int):
            return file
        try:
            body = _read_cached(file)
            if body is None:
                return UNDETERMINED
            content_type = type_on_file(file) if with_type else ""
            return UNDETERMINED if content_type is None else (body, content_type)
        except OSError as error:
            return self._learn(error)
        finally:
            os.close(file)

    def read_object(self, key: str, path: str, start: int, stop: int | None) -> FoundObject:
        """Return the range with the info of the object, or None, or `UNDETERMINED`."""
        file = self._open(path)
        if not isinstance(file, int):
            return file
        try:
            status = os.fstat(file)
            version = version_of_status(status)
            attributes = attributes_on_file(file)
            if version is None or attributes is None or not stat.S_ISREG(status.st_mode):
                return UNDETERMINED
            end = status.st_size if stop is None else min(stop, status.st_size)
            body = _read_cached_range(file, min(start, end), end, at_end=stop is None)
            if body is None:
                return UNDETERMINED
            return StoredObject(make_info(key, status, attributes, version), body)
        except OSError as error:
            return self._learn(error)
        finally:
            os.close(file)

    def _open(self, path: str) -> int | Literal[Undetermined.UNDETERMINED] | None:
        if not self._enabled or is_legacy_name(path):
            return UNDETERMINED
        try:
            return self._open_cached(path.encode())
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._learn(error)

    def _learn(self, error: OSError) -> Literal[Undetermined.UNDETERMINED]:
        if error.errno in _UNSUPPORTED:
            self._enabled = False
        return UNDETERMINED

    def _open_cached(self, key: bytes) -> int:
        if not self._base_is_linked:
            try:
                return _open_cached_path(FROM_HERE, self._prefix + key)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
        # The base directory alone may be reached through links.
        base = _open_cached_base(FROM_HERE, self._base)
        try:
            file = _open_cached_beneath(base, key)
        finally:
            os.close(base)
        self._base_is_linked = True
        return file


def _read_cached(file: int) -> bytes | None:
    """Read the whole body; None if it is large, not all in memory, or not of the size stated."""
    status = os.fstat(file)
    size = status.st_size
    if size > MAX_INLINE_BYTES or not stat.S_ISREG(status.st_mode):
        return None
    body = bytearray(size + 1)
    if os.preadv(file, [body], 0, _NO_WAIT) != size:
        return None
    body.pop()
    return bytes(body)


def _read_cached_range(file: int, start: int, stop: int, *, at_end: bool) -> bytes | None:
    """Read the range; None if it is large, not all in memory, or does not end where the file should."""
    size = stop - start
    if size > MAX_INLINE_BYTES:
        return None
    body = bytearray(size + at_end)
    if body and os.preadv(file, [body], start, _NO_WAIT) != size:
        return None
    return bytes(body[:size])
