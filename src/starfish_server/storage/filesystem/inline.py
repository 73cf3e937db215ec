"""Reads on the event loop: of what is in memory, by calls that fail rather than wait for the disk."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from starfish_server.storage.filesystem.attributes import LEGACY_SUFFIX
from starfish_server.storage.filesystem.openat2 import BENEATH, CACHED, FROM_HERE, NO_LINKS, opener
from starfish_server.storage.filesystem.reading import UNSETTLED, Found, read_plain
from starfish_server.storage.filesystem.walk import DIRECTORY, FILE, read_all

MAX_BYTES = 64 * 1024
_NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)
# There is no openat2 or no RESOLVE_CACHED here, or no RWF_NOWAIT on this file system.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_open_whole = opener(FILE, NO_LINKS | CACHED)
_open_base = opener(DIRECTORY, CACHED)
_open_beneath = opener(FILE, NO_LINKS | BENEATH | CACHED)


class InlineReads:
    """Objects below `path` whose folders, file and pages are all in memory, up to 64 KiB.

    Anything else is `UNSETTLED`, errors too: a thread looks again. Nothing is kept open.

    Nothing is opened on the event loop before a thread has read an object here without waiting: a file
    system of another process (FUSE) or machine (NFS), which cannot, may make even an `open` wait for long.
    """

    def __init__(self, path: str, *, enabled: bool) -> None:
        self._base = os.fsencode(path)
        self._prefix = self._base.rstrip(b"/") + b"/"
        self._untried = enabled and bool(_NO_WAIT)
        self._enabled = False
        self._base_is_linked = False

    def read_all(self, file: int, size: int) -> bytes:
        """The body, read by a thread, which learns from it whether reads here need one."""
        if self._untried:
            self._untried = False
            with suppress(OSError):
                with suppress(BlockingIOError):
                    os.preadv(file, [bytearray(1)], 0, _NO_WAIT)
                self._enabled = True
        return read_all(file, size)

    def read(self, key: str, *, with_type: bool) -> Found:
        """The object, or None, or `UNSETTLED`."""
        if not self._enabled or key.endswith(LEGACY_SUFFIX):
            return UNSETTLED
        try:
            file = self._open(key.encode())
            try:
                return read_plain(file, _read_cached, with_type=with_type)
            finally:
                os.close(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                self._enabled = False
            return UNSETTLED

    def _open(self, key: bytes) -> int:
        if not self._base_is_linked:
            try:
                return _open_whole(FROM_HERE, self._prefix + key)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
        # The base directory alone may be reached through links.
        base = _open_base(FROM_HERE, self._base)
        try:
            file = _open_beneath(base, key)
        finally:
            os.close(base)
        self._base_is_linked = True
        return file


def _read_cached(file: int, size: int) -> bytes | None:
    """The whole body; None if it is large or not all in memory."""
    if size > MAX_BYTES:
        return None
    body = bytearray(size)
    return bytes(body) if os.preadv(file, [body], 0, _NO_WAIT) == size else None
