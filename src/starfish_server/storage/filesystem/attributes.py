"""Content type and cache control of the objects that are files.

They are extended attributes of the file itself, `user.mime_type` (the name that desktops use) and
`user.starfish.cache_control`, so that one rename switches body and type together. Where the file system has
none, they stand in a JSON side file `~attributes/<sha256 of the key>`, beside the identity of the body they
belong to: it is written before the body's rename, with an entry for the body that is there and one for the
body to come, so that a reader finds the type of whichever it has open.

Earlier servers wrote `<key>.__meta__` beside `<key>`, holding `{"contentType": ...}`. Such a legacy side file
carries no attributes of its own, which tells it from an object.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from starfish_server.checks import DEFAULT_BYTES_TYPE, header_or_none
from starfish_server.storage.filesystem.walk import (
    is_same_file,
    make_directory,
    open_directory,
    open_file,
    read_all,
    walk,
    write_all,
)

if TYPE_CHECKING:
    from starfish_server.storage.filesystem.staging import Staging

LEGACY_SUFFIX = ".__meta__"
_TYPE = "user.mime_type"
_CACHE_CONTROL = "user.starfish.cache_control"
_FOLDER = ("~attributes",)
_MAX_SIDE_FILE_BYTES = 64 * 1024
_ABSENT = (errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)
# The last four: there are attributes, but not of this size. A disk that is full fails the side file too.
_UNSUPPORTED = (*_ABSENT, errno.E2BIG, errno.ERANGE, errno.ENOSPC, errno.EDQUOT)
# A link in its place, or a name that the file system cannot hold.
_NO_SIDE_FILE = (errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is stored with a body."""

    content_type: str
    cache_control: str | None = None


@dataclass(frozen=True, slots=True)
class _Body:
    """Identity of a body: a rename keeps it, and no other body of the key has it."""

    inode: int
    mtime_ns: int
    size: int


def set_on_file(file: int, attributes: Attributes, flags: int = 0) -> bool:
    """Store them as extended attributes; False where there are none, and a side file must do."""
    if not hasattr(os, "setxattr"):
        return False
    try:
        os.setxattr(file, _TYPE, attributes.content_type.encode(), flags)
        if attributes.cache_control is not None:
            os.setxattr(file, _CACHE_CONTROL, attributes.cache_control.encode())
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def type_on_file(file: int) -> str | None:
    """The content type in the extended attribute, None if it is no header's; `OSError` if there is none."""
    return header_or_none(os.getxattr(file, _TYPE).decode("ascii", "replace"))


def own_content_type(base: int, key: str, file: int, status: os.stat_result) -> str | None:
    """The content type that this very body was stored with, or None."""
    if hasattr(os, "getxattr"):
        try:
            return type_on_file(file)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    attributes = _read_side_file(base, key).get(_body(status))
    return header_or_none(attributes.content_type) if attributes else None


def legacy_content_type(base: int, key: str, name: str, parent: int) -> str | None:
    """What the legacy side file `name` says, the last part of `key` in `parent`; None if it is not one."""
    if not _could_be_legacy(name):
        return None
    while True:
        try:
            opened = open_file(name, parent)
        except OSError as error:
            if error.errno in _NO_SIDE_FILE:
                return None
            raise
        if opened is None:
            return None
        file, status = opened
        try:
            if own_content_type(base, key, file, status) is not None:
                return None
            content_type = _parse_legacy(file, status.st_size)
            # An object that has just been replaced can look as if it had no attributes.
            if content_type is None or _is_settled(base, key, name, parent, file, status):
                return content_type
        finally:
            os.close(file)


def content_type_of(
    base: int, key: str, name: str, parent: int, file: int, status: os.stat_result
) -> tuple[bool, str | None]:
    """Whether the answer holds, and the content type of the open file, its legacy side file included.

    The answer does not hold when the file was replaced, or given attributes, while one looked: open it again.
    """
    own = own_content_type(base, key, file, status)
    if own is not None:
        return True, own
    legacy = legacy_content_type(base, key + LEGACY_SUFFIX, name + LEGACY_SUFFIX, parent)
    return _is_settled(base, key, name, parent, file, status), legacy


def is_legacy_name(key: str) -> bool:
    """Whether `key` is named as the side file of another key is."""
    return _could_be_legacy(key.rpartition("/")[2])


def write_side_file(
    base: int,
    key: str,
    staging: Staging,
    bodies: tuple[os.stat_result | None, os.stat_result],
    attributes: Attributes,
    *,
    fsync: bool,
) -> None:
    """Say in the side file of `key` what belongs to the second of `bodies`, the one to come, and keep what
    belongs to the first, the one that is there, if any.

    The caller holds the lock of `key`, and renames the body after this.
    """
    current, to_come = bodies
    known = _read_side_file(base, key)
    entries = {_body(to_come): attributes}
    if current is not None and _body(current) in known:
        entries[_body(current)] = known[_body(current)]
    content = {"key": key, "bodies": [asdict(body) | asdict(stored) for body, stored in entries.items()]}
    with staging.temporary_file(base) as staged:
        write_all(staged.descriptor, json.dumps(content).encode())
        if fsync:
            os.fsync(staged.descriptor)
        folder = walk(base, _FOLDER, partial(make_directory, fsync=fsync))
        try:
            os.rename(staged.name, _side_name(key), src_dir_fd=staged.folder, dst_dir_fd=folder)
            if fsync:
                os.fsync(folder)
        finally:
            os.close(folder)


def remove_side_file(base: int, key: str) -> None:
    """Forget what is known of `key`, after its body is gone."""
    with contextlib.suppress(FileNotFoundError):
        folder = walk(base, _FOLDER)
        try:
            os.unlink(_side_name(key), dir_fd=folder)
        finally:
            os.close(folder)


def _read_side_file(base: int, key: str) -> dict[_Body, Attributes]:
    try:
        folder = open_directory(*_FOLDER, base)
    except FileNotFoundError:
        return {}
    try:
        opened = open_file(_side_name(key), folder)
    finally:
        os.close(folder)
    if opened is None:
        return {}
    file, status = opened
    try:
        bodies = json.loads(read_all(file, status.st_size))["bodies"]
        return {
            _Body(entry["inode"], entry["mtime_ns"], entry["size"]): Attributes(
                entry["content_type"], entry["cache_control"]
            )
            for entry in bodies
        }
    except (ValueError, KeyError, TypeError, RecursionError):  # changed by hand
        return {}
    finally:
        os.close(file)


def _is_settled(base: int, key: str, name: str, parent: int, file: int, status: os.stat_result) -> bool:
    """Whether the open file is still the one at `name` and still without attributes."""
    return is_same_file(name, parent, status) and own_content_type(base, key, file, status) is None


def _could_be_legacy(name: str) -> bool:
    return name.endswith(LEGACY_SUFFIX) and name != LEGACY_SUFFIX


def _parse_legacy(file: int, size: int) -> str | None:
    if size > _MAX_SIDE_FILE_BYTES:
        return None
    try:
        content = json.loads(read_all(file, size))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("contentType"), str):
        return None
    return header_or_none(content["contentType"]) or DEFAULT_BYTES_TYPE


def _body(status: os.stat_result) -> _Body:
    return _Body(status.st_ino, status.st_mtime_ns, status.st_size)


def _side_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
