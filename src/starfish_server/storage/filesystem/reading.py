"""One object opened, body and attributes of the same write, without a lock."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from starfish_server.checks import DEFAULT_BYTES_TYPE
from starfish_server.storage.filesystem.attributes import Attributes, own_attributes
from starfish_server.storage.filesystem.legacy import (
    LEGACY_SUFFIX,
    is_legacy_name,
    legacy_content_type,
    legacy_type_in,
)
from starfish_server.storage.filesystem.open_files import make_info, version_of_file
from starfish_server.storage.filesystem.paths import ATTEMPTS, entry_status, open_file, parent_of

if TYPE_CHECKING:
    from starfish_server.objects import ObjectInfo
    from starfish_server.storage.filesystem.paths import Descriptor


@dataclass(slots=True)
class OpenObject:
    """An object whose file is open; closed at the end of a `with`."""

    file: Descriptor
    status: os.stat_result
    attributes: Attributes

    def info(self, key: str, size: int | None = None) -> ObjectInfo:
        """Return the info of the object. `size` is that of the body, if the caller has read it."""
        info = make_info(key, self.status, self.attributes, self.version())
        if size is not None:
            return info.resized(size)
        unknown = info.size == 0 and os.pread(self.file, 1, 0)
        return info.resized(None) if unknown else info

    def version(self) -> str:
        """Return the version of the object."""
        return version_of_file(self.file, self.status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)


def open_object(base: int, path: str) -> OpenObject | None:
    """Open the object at `path` below the open `base`, with the attributes of the same body, or None."""
    for _ in range(ATTEMPTS):
        opened = open_file(base, path)
        if opened is None:
            return None
        file, status = opened
        kept = False
        try:
            own = own_attributes(base, path, file, status)
            if own is None:
                content_type = legacy_content_type(base, path + LEGACY_SUFFIX) or DEFAULT_BYTES_TYPE
                own = Attributes(content_type)
                if not _is_current(base, path, file, status):
                    continue  # the attributes of a body that was replaced may be gone already
                if is_legacy_name(path) and legacy_type_in(file, status) is not None:
                    return None
            kept = True
            return OpenObject(file, status, own)
        finally:
            if not kept:
                os.close(file)
    raise OSError(errno.EBUSY, "the file is replaced each time that it is read")


def open_body(base: int, path: str) -> tuple[Descriptor, os.stat_result] | None:
    """Open the file of an object, where its attributes do not matter."""
    if not is_legacy_name(path):
        return open_file(base, path)
    found = open_object(base, path)
    return None if found is None else (found.file, found.status)


def _is_current(base: int, path: str, file: int, status: os.stat_result) -> bool:
    """Return whether the open file is still at `path`."""
    with parent_of(base, path) as (parent, name):
        now = None if parent is None else entry_status(name, parent)
    if now is None:
        return False
    if os.fstat(file).st_ino != status.st_ino:  # inode numbers mean nothing on this file system
        return (now.st_size, now.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    return os.path.samestat(now, status)
