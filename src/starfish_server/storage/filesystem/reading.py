"""One object as its readers see it: body and attributes are of the same write. No lock is taken."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from starfish_server.checks import DEFAULT_BYTES_TYPE
from starfish_server.storage.filesystem.attributes import (
    LEGACY_SUFFIX,
    MAX_LEGACY_BYTES,
    Attributes,
    is_legacy_name,
    parse_legacy,
)
from starfish_server.storage.filesystem.bodies import read_range
from starfish_server.storage.filesystem.info import make_info, version_of_file
from starfish_server.storage.filesystem.paths import ATTEMPTS, Parent, open_file
from starfish_server.storage.filesystem.side_files import own_attributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import ObjectInfo

    ReadBody = Callable[[int, int], bytes]


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


def read_body_only(base: int, path: str, read_body: ReadBody) -> bytes | None:
    """Return the body of the object below the open `base`, whose attributes are not looked for, or None."""
    if not is_legacy_name(path):
        with Parent(base, path) as (parent, name):
            opened = None if parent is None else open_file(name, parent)
        if opened is None:
            return None
        file, status = opened
        try:
            return read_body(file, status.st_size)
        finally:
            os.close(file)
    found = open_object(base, path)
    if found is None:
        return None
    with found:
        return read_body(found.file, found.status.st_size)


def open_object(base: int, path: str) -> OpenObject | None:
    """Open the object at `path` below the open `base`, with the attributes of that very body, or None."""
    for _ in range(ATTEMPTS):
        with Parent(base, path) as (parent, name):
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
    with Parent(base, path) as (parent, name):
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


def _legacy_in(file: int, status: os.stat_result) -> str | None:
    if status.st_size > MAX_LEGACY_BYTES:
        return None
    return parse_legacy(read_range(file, 0, MAX_LEGACY_BYTES + 1))


def _is_current(name: str, parent: int, file: int, status: os.stat_result) -> bool:
    """Return whether the open file is still at `name`; one that was replaced may look as if without type."""
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
