"""Reading one object, body and attributes of the same write, without a lock."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from starfish_server.checks import DEFAULT_BYTES_TYPE
from starfish_server.storage.filesystem.attributes import (
    LEGACY_SUFFIX,
    MAX_LEGACY_BYTES,
    Attributes,
    is_legacy_name,
    parse_legacy,
    type_on_file,
)
from starfish_server.storage.filesystem.bodies import read_all, read_range
from starfish_server.storage.filesystem.info import make_info, version_of_file
from starfish_server.storage.filesystem.paths import (
    ATTEMPTS,
    BENEATH,
    FILE,
    NO_LINKS,
    open_file,
    opener,
    parent_of,
)
from starfish_server.storage.filesystem.side_files import own_attributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import ObjectInfo

    ReadBody = Callable[[int, int], bytes | None]

_open_beneath = opener(FILE, NO_LINKS | BENEATH)


class Undetermined(Enum):
    """Returned in place of an object by a fast read that cannot tell; a slower one then reads."""

    UNDETERMINED = 0


UNDETERMINED: Final = Undetermined.UNDETERMINED
Found: TypeAlias = "tuple[bytes, str] | Literal[Undetermined.UNDETERMINED] | None"


@dataclass(frozen=True, slots=True)
class OpenObject:
    """An object whose file is open; `close` it, or use it as a context manager."""

    file: int
    status: os.stat_result
    attributes: Attributes

    def info(self, key: str, size: int | None = None) -> ObjectInfo:
        """Return the info of the object, under its key."""
        info = make_info(key, self.status, self.attributes, version_of_file(self.file, self.status))
        return info if size is None else replace(info, size=size)

    def close(self) -> None:
        os.close(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_text(base: int, path: str, read_body: ReadBody) -> bytes | None:
    """Return the body of the object below the open `base`, or None."""
    found = _read_found(base, path, read_body, with_type=False)
    return None if found is None else found[0]


def read_bytes(base: int, path: str, read_body: ReadBody) -> tuple[bytes, str] | None:
    """Return body and content type of the object below the open `base`, or None."""
    return _read_found(base, path, read_body, with_type=True)


def read_plain(file: int, read_body: ReadBody, *, with_type: bool) -> Found:
    """Read the open file; `UNDETERMINED` if its content type is in another file or `read_body` gives up."""
    content_type = type_on_file(file) if with_type else ""
    status = os.fstat(file)
    if content_type is None or not stat.S_ISREG(status.st_mode):
        return UNDETERMINED
    body = read_body(file, status.st_size)
    return UNDETERMINED if body is None else (body, content_type)


def open_object(base: int, path: str) -> OpenObject | None:
    """Open the object at `path` below the open `base`, with the attributes of that very body, or None."""
    for _ in range(ATTEMPTS):
        with parent_of(base, path) as (parent, name):
            opened = None if parent is None else open_file(name, parent)
            if parent is None or opened is None:
                return None
            file, status = opened
            kept = False
            try:
                own = own_attributes(base, path, file, status)
                if own is None:
                    content_type = legacy_content_type(base, path + LEGACY_SUFFIX) or DEFAULT_BYTES_TYPE
                    own = Attributes(content_type)
                    if not _is_current(name, parent, file, status):
                        continue
                    if is_legacy_name(path) and _legacy_in(file, status) is not None:
                        return None
                kept = True
                return OpenObject(file, status, own)
            finally:
                if not kept:
                    os.close(file)
    raise OSError(errno.EBUSY, "the file is replaced each time that it is read")


def legacy_content_type(base: int, path: str) -> str | None:
    """Return what the legacy side file at `path` says; None if there is none, or an object."""
    if not is_legacy_name(path):
        return None
    with parent_of(base, path) as (parent, name):
        opened = None if parent is None else _open_if_plain(name, parent)
        if opened is None:
            return None
        file, status = opened
        try:
            content_type = _legacy_in(file, status)
            if content_type is None or own_attributes(base, path, file, status) is not None:
                return None
            return content_type
        finally:
            os.close(file)


def _read_found(base: int, path: str, read_body: ReadBody, *, with_type: bool) -> tuple[bytes, str] | None:
    found = _read_directly(base, path, read_body, with_type=with_type)
    if found is not UNDETERMINED:
        return found
    opened = open_object(base, path)
    if opened is None:
        return None
    with opened:
        return read_all(opened.file, opened.status.st_size), opened.attributes.content_type


def _read_directly(base: int, path: str, read_body: ReadBody, *, with_type: bool) -> Found:
    """Read in as few system calls as possible. Errors are `UNDETERMINED`: the steps raise them again."""
    if is_legacy_name(path):
        return UNDETERMINED
    try:
        file = _open_beneath(base, path.encode())
        try:
            return read_plain(file, read_body, with_type=with_type)
        finally:
            os.close(file)
    except FileNotFoundError:
        return None
    except OSError:
        return UNDETERMINED


def _legacy_in(file: int, status: os.stat_result) -> str | None:
    if status.st_size > MAX_LEGACY_BYTES:
        return None
    return parse_legacy(read_range(file, 0, MAX_LEGACY_BYTES + 1))


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
