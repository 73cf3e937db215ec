"""Reading one object, body and content type of the same write, without a lock."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from starfish_server.checks import DEFAULT_BYTES_TYPE
from starfish_server.storage.filesystem.attributes import (
    LEGACY_SUFFIX,
    MAX_LEGACY_BYTES,
    is_legacy_name,
    own_content_type,
    parse_legacy,
    read_all,
    type_on_file,
)
from starfish_server.storage.filesystem.paths import (
    ATTEMPTS,
    BENEATH,
    CACHED,
    DIRECTORY,
    FILE,
    FROM_HERE,
    NO_LINKS,
    open_file,
    opener,
    parent_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    ReadBody = Callable[[int, int], bytes | None]

MAX_INLINE_BYTES = 64 * 1024
_NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)
# Raised where openat2, RESOLVE_CACHED or, on this file system, RWF_NOWAIT is missing.
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_open_beneath = opener(FILE, NO_LINKS | BENEATH)
_open_cached = opener(FILE, NO_LINKS | CACHED)
_open_cached_base = opener(DIRECTORY, CACHED)
_open_cached_beneath = opener(FILE, NO_LINKS | BENEATH | CACHED)


class Undetermined(Enum):
    """Returned in place of an object by a fast read that cannot tell; a slower one then reads."""

    UNDETERMINED = 0


UNDETERMINED: Final = Undetermined.UNDETERMINED
Found: TypeAlias = "tuple[bytes, str] | Literal[Undetermined.UNDETERMINED] | None"


class InlineReads:
    """Reads on the event loop, by calls that fail rather than wait for the disk.

    They find objects below `base_dir` of at most 64 KiB whose folders, file and pages are all in memory.
    Anything else, errors included, is `UNDETERMINED`, and a thread reads again. Nothing stays open.

    Nothing is opened on the event loop until a thread has read an object here without waiting. On a file
    system of another process (FUSE) or machine (NFS) that fails, and even an `open` may wait for long.
    """

    def __init__(self, base_dir: str, *, enabled: bool) -> None:
        self._base = os.fsencode(base_dir)
        self._prefix = self._base.rstrip(b"/") + b"/"
        self._untried = enabled and bool(_NO_WAIT)
        self._enabled = False
        self._base_is_linked = False

    def read_in_thread(self, file: int, size: int) -> bytes:
        """Read a whole body; the first time, find out whether reads here can avoid waiting."""
        if self._untried:
            self._untried = False
            with suppress(OSError):
                with suppress(BlockingIOError):
                    os.preadv(file, [bytearray(1)], 0, _NO_WAIT)
                self._enabled = True
        return read_all(file, size)

    def read(self, key: str, *, with_type: bool) -> Found:
        """Return body and content type of the object, or None, or `UNDETERMINED`."""
        if not self._enabled or is_legacy_name(key):
            return UNDETERMINED
        try:
            file = self._open(key.encode())
            try:
                return _read_plain(file, _read_cached, with_type=with_type)
            finally:
                os.close(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                self._enabled = False
            return UNDETERMINED

    def _open(self, key: bytes) -> int:
        if not self._base_is_linked:
            try:
                return _open_cached(FROM_HERE, self._prefix + key)
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


def read_object(
    base: int, key: str, *, with_type: bool, read_body: ReadBody = read_all
) -> tuple[bytes, str] | None:
    """Return body and content type, `""` if not asked for, of the object below the open `base`, or None."""
    found = _read_directly(base, key, read_body, with_type=with_type)
    return _read_by_steps(base, key, with_type=with_type) if found is UNDETERMINED else found


def _read_by_steps(base: int, key: str, *, with_type: bool) -> tuple[bytes, str] | None:
    """Read an object whose type may be in another file, again until both are of the same write."""
    for _ in range(ATTEMPTS):
        with parent_of(base, key) as (parent, name):
            opened = None if parent is None else open_file(name, parent)
            if parent is None or opened is None:
                return None
            file, status = opened
            try:
                body = read_all(file, status.st_size)
                if not with_type and not is_legacy_name(key):
                    return body, ""
                own = own_content_type(base, key, file, body)
                if own is not None:
                    return body, own
                is_side_file = is_legacy_name(key) and parse_legacy(body) is not None
                content_type = legacy_content_type(base, key + LEGACY_SUFFIX) or DEFAULT_BYTES_TYPE
                if _is_current(name, parent, file, status):
                    return None if is_side_file else (body, content_type)
            finally:
                os.close(file)
    raise OSError(errno.EBUSY, "the file is replaced each time that it is read")


def legacy_content_type(base: int, key: str) -> str | None:
    """Return what the legacy side file at `key` says; None if there is none, or an object."""
    if not is_legacy_name(key):
        return None
    with parent_of(base, key) as (parent, name):
        opened = None if parent is None else _open_if_plain(name, parent)
        if opened is None:
            return None
        file, status = opened
        try:
            if status.st_size > MAX_LEGACY_BYTES:
                return None
            body = read_all(file, status.st_size)
            return parse_legacy(body) if own_content_type(base, key, file, body) is None else None
        finally:
            os.close(file)


def _read_plain(file: int, read_body: ReadBody, *, with_type: bool) -> Found:
    """Read the open file; `UNDETERMINED` if its content type is in another file or `read_body` gives up."""
    content_type = type_on_file(file) if with_type else ""
    status = os.fstat(file)
    if content_type is None or not stat.S_ISREG(status.st_mode):
        return UNDETERMINED
    body = read_body(file, status.st_size)
    return UNDETERMINED if body is None else (body, content_type)


def _read_cached(file: int, size: int) -> bytes | None:
    """Read the whole body; None if it is large, not all in memory, or not of the size stated."""
    if size > MAX_INLINE_BYTES:
        return None
    body = bytearray(size + 1)
    if os.preadv(file, [body], 0, _NO_WAIT) != size:
        return None
    body.pop()
    return bytes(body)


def _read_directly(base: int, key: str, read_body: ReadBody, *, with_type: bool) -> Found:
    """Read in as few system calls as possible. Errors are `UNDETERMINED`: the steps raise them again."""
    if is_legacy_name(key):
        return UNDETERMINED
    try:
        file = _open_beneath(base, key.encode())
        try:
            return _read_plain(file, read_body, with_type=with_type)
        finally:
            os.close(file)
    except FileNotFoundError:
        return None
    except OSError:
        return UNDETERMINED


def _is_current(name: str, parent: int, file: int, status: os.stat_result) -> bool:
    """Return whether the open file is still at `name`. The type of a replaced one may be gone already."""
    try:
        now = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return False
    if os.fstat(file).st_ino != status.st_ino:  # inode numbers mean nothing on this file system
        return (now.st_size, now.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    return os.path.samestat(now, status)


def _open_if_plain(name: str, parent: int) -> tuple[int, os.stat_result] | None:
    """Open a file that may be anything; None also for a link, or a name that the file system cannot hold."""
    try:
        return open_file(name, parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise
