"""Content type and cache control of the objects that are files.

They are extended attributes of the file itself, `user.mime_type` (the name that desktops use) and
`user.starfish.cache_control`, so that one rename switches body and type together. Where the file system has
none, they are in a JSON side file `~attributes/<sha256 of the key>`, with the digest of the body they belong
to, so that they survive a copy, a restore and a remount. The side file is written before the body is renamed.
It has entries for the current body and for the next, so that a reader finds the type of the one it opened.

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

from starfish_server.checks import DEFAULT_BYTES_TYPE, header_or_none
from starfish_server.storage.filesystem.paths import (
    BENEATH,
    FILE,
    NO_LINKS,
    Sync,
    make_directory,
    open_directory,
    open_reserved,
    opener,
)
from starfish_server.storage.filesystem.staging import StagedFile

LEGACY_SUFFIX = ".__meta__"
_TYPE = "user.mime_type"
_CACHE_CONTROL = "user.starfish.cache_control"
_FOLDER = "~attributes"
MAX_LEGACY_BYTES = 64 * 1024
# Entries kept of earlier bodies where inode numbers do not show which belongs to the current one.
_MAX_KEPT = 7
_READ_BYTES = 1024 * 1024
_ABSENT = (errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)
# The last four mean that attributes of this size do not fit. On a full disk the side file fails too.
_UNSUPPORTED = (*_ABSENT, errno.E2BIG, errno.ERANGE, errno.ENOSPC, errno.EDQUOT)

_open_side_file = opener(FILE, NO_LINKS | BENEATH)


@dataclass(frozen=True, slots=True)
class Attributes:
    """Metadata stored with a body."""

    content_type: str
    cache_control: str | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    """The attributes of one body of a key. The inode number decides between equal bodies."""

    sha256: str
    inode: int
    content_type: str
    cache_control: str | None


def read_all(file: int, size: int) -> bytes:
    """Read an open file to its end, which may not be at the `size` that its status says."""
    body = os.read(file, size + 1)
    if len(body) == size:
        return body
    parts = [body]
    while parts[-1]:
        parts.append(os.read(file, _READ_BYTES))
    return b"".join(parts)


def write_all(file: int, body: bytes) -> None:
    """Write all of `body`, in as many system calls as it takes."""
    rest = memoryview(body)
    while rest:
        rest = rest[os.write(file, rest) :]


def set_on_file(file: int, attributes: Attributes) -> bool:
    """Store them as extended attributes; False if a side file is needed instead."""
    if not hasattr(os, "setxattr"):
        return False
    try:
        os.setxattr(file, _TYPE, attributes.content_type.encode())
        if attributes.cache_control is not None:
            os.setxattr(file, _CACHE_CONTROL, attributes.cache_control.encode())
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def type_on_file(file: int) -> str | None:
    """Return the content type in the extended attribute, None if it is not valid; `OSError` without one."""
    return header_or_none(os.getxattr(file, _TYPE).decode("ascii", "replace"))


def own_content_type(base: int, key: str, file: int, body: bytes) -> str | None:
    """Return the content type stored with the body of the open file, or None."""
    if hasattr(os, "getxattr"):
        try:
            return type_on_file(file)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    entries = _read_side_file(base, key)
    if not entries:
        return None
    digest = _digest(body)
    matching = [entry for entry in entries if entry.sha256 == digest]
    inode = os.fstat(file).st_ino
    found = [entry for entry in matching if entry.inode == inode] or matching
    return header_or_none(found[-1].content_type) if found else None


def parse_legacy(body: bytes) -> str | None:
    """Return the content type in a legacy side file with this body; None if it is not one."""
    if len(body) > MAX_LEGACY_BYTES:
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("contentType"), str):
        return None
    return header_or_none(content["contentType"]) or DEFAULT_BYTES_TYPE


def is_legacy_name(key: str) -> bool:
    """Return whether `key` is named as the side file of another key is."""
    return key.endswith(LEGACY_SUFFIX) and not key.endswith(f"/{LEGACY_SUFFIX}") and key != LEGACY_SUFFIX


def write_side_file(
    base: int,
    key: str,
    body: bytes,
    inodes: tuple[int | None, int],
    attributes: Attributes,
    sync: Sync,
) -> None:
    """Add the attributes of the next body to the side file of `key`; keep those of the current one.

    inodes: of the current body, if there is one, and of the next.

    The caller holds the lock of `key`, and renames the body afterwards.
    """
    current, next_inode = inodes
    known = [] if current is None else _read_side_file(base, key)
    kept = [entry for entry in known if entry.inode == current][-1:] or known[-_MAX_KEPT:]
    entry = _Entry(_digest(body), next_inode, attributes.content_type, attributes.cache_control)
    content = {"key": key, "bodies": [asdict(entry) for entry in [*kept, entry]]}
    with StagedFile(base) as staged:
        write_all(staged.descriptor, json.dumps(content).encode())
        sync(staged.descriptor)
        folder = make_directory(_FOLDER, base, sync)
        try:
            staged.move(_side_name(key), folder)
            sync(folder)
        finally:
            os.close(folder)


def remove_side_file(base: int, key: str) -> None:
    """Remove the side file of `key`, after its body."""
    with contextlib.suppress(FileNotFoundError):
        folder = open_directory(_FOLDER, base)
        try:
            os.unlink(_side_name(key), dir_fd=folder)
        finally:
            os.close(folder)


def _read_side_file(base: int, key: str) -> list[_Entry]:
    try:
        file = open_reserved(base, _FOLDER, _side_name(key), FILE, _open_side_file)
    except FileNotFoundError:
        return []
    try:
        bodies = json.loads(read_all(file, os.fstat(file).st_size))["bodies"]
        return [_Entry(**body) for body in bodies]
    except (ValueError, KeyError, TypeError, RecursionError):  # changed by hand
        return []
    finally:
        os.close(file)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _side_name(key: str) -> str:
    return hashlib.sha256(os.fsencode(key)).hexdigest()
