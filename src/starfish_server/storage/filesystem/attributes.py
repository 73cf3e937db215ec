"""Content type, cache control and metadata of objects.

They are extended attributes of the file itself, `user.mime_type` (the name that desktops use),
`user.starfish.cache_control` and `user.starfish.metadata` (JSON), so that one rename switches body and
attributes together. The content type is set last, so a file that has it has all of them.

Where the file system has no such attributes, or no room for them, they are in a side file,
`~attributes/<sha256 of the path>`. It is JSON, with an entry for each of the last bodies of a key. An entry
belongs to a file by inode, time and size, or by the digest of the body, which survives a copy, a restore and
a remount. The side file is written before the body's rename, with entries for the current and the next body,
so that a reader finds the attributes of the body it opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from starfish_server.checks import check_metadata, header_or_none
from starfish_server.storage.filesystem.open_files import digest, read_all, write_all
from starfish_server.storage.filesystem.paths import FILE, Descriptor, open_beneath, open_folder
from starfish_server.storage.filesystem.staging import StagedFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.storage.filesystem.paths import Sync

_TYPE = "user.mime_type"
_CACHE_CONTROL = "user.starfish.cache_control"
_METADATA = "user.starfish.metadata"
_ABSENT = (errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)
_FOLDER = "~attributes"
_MAX_KEPT = 7  # earlier entries, if none matches the current body's status


@dataclass(slots=True)
class Attributes:
    """The attributes stored with a body."""

    content_type: str
    cache_control: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Entry:
    """The attributes of one body of a key. The inode number tells apart bodies with the same digest."""

    sha256: str
    inode: int
    modified_ns: int
    size: int
    content_type: str
    cache_control: str | None
    metadata: str

    def is_of(self, status: os.stat_result) -> bool:
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        return (self.inode, self.modified_ns, self.size) == seen


def own_attributes(base: int, path: str, file: int, status: os.stat_result) -> Attributes | None:
    """Return the attributes stored with the body of the open file, or None."""
    return attributes_on_file(file) or _in_side_file(base, path, file, status)


def set_on_file(file: int, attributes: Attributes) -> bool:
    """Store extended attributes; return False if that fails and a side file is needed."""
    if not hasattr(os, "setxattr"):
        return False
    try:
        if attributes.metadata:
            os.setxattr(file, _METADATA, json.dumps(dict(attributes.metadata)).encode())
        if attributes.cache_control is not None:
            os.setxattr(file, _CACHE_CONTROL, attributes.cache_control.encode())
        os.setxattr(file, _TYPE, attributes.content_type.encode())
    except OSError:  # not supported, or too large; a full or broken disk fails the side file, too
        return False
    return True


def type_on_file(file: int) -> str | None:
    """Return the content type in the extended attribute; None if there is none, or an invalid one."""
    return header_or_none(_text_on_file(file, _TYPE))


def attributes_on_file(file: int) -> Attributes | None:
    """Return the attributes in extended attributes; None if there is no content type among them."""
    if not hasattr(os, "getxattr"):
        return None
    content_type = type_on_file(file)
    if content_type is None:
        return None
    with contextlib.suppress(OSError):  # a file system that cannot list them
        if len(os.listxattr(file)) == 1:
            return Attributes(content_type)
    cache_control = header_or_none(_text_on_file(file, _CACHE_CONTROL))
    return Attributes(content_type, cache_control, _parse_metadata(_text_on_file(file, _METADATA)))


def _text_on_file(file: int, name: str) -> str | None:
    try:
        return os.getxattr(file, name).decode("ascii", "replace")
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def write_side_file(
    base: int, path: str, file: int, current: os.stat_result | None, attributes: Attributes, sync: Sync
) -> None:
    """Add the attributes of a new body, which is in the open `file`, to the side file of `path`.

    Those of the current body, whose status is `current`, are kept. The caller holds the lock of `path`, and
    renames `file` after this.
    """
    status = os.fstat(file)
    entry = _Entry(
        digest(file),
        status.st_ino,
        status.st_mtime_ns,
        status.st_size,
        attributes.content_type,
        attributes.cache_control,
        json.dumps(dict(attributes.metadata)),
    )
    known = [] if current is None else _entries(base, path)
    kept = [each for each in known if current and each.is_of(current)] or known[-_MAX_KEPT:]
    content = {"path": path, "bodies": [asdict(each) for each in (*kept, entry)]}
    with StagedFile(base) as staged:
        write_all(staged.descriptor, json.dumps(content).encode())
        sync(staged.descriptor)
        with open_folder(base, _FOLDER, sync) as folder:
            staged.move(_side_name(path), folder)
            sync(folder)


def remove_side_file(base: int, path: str) -> None:
    """Remove the side file of `path`, after its body is gone."""
    with contextlib.suppress(FileNotFoundError), open_folder(base, _FOLDER) as folder:
        os.unlink(_side_name(path), dir_fd=folder)


def _in_side_file(base: int, path: str, file: int, status: os.stat_result) -> Attributes | None:
    entries = _entries(base, path)
    found = [entry for entry in entries if entry.is_of(status)]
    if entries and not found:
        sha256 = digest(file)
        matching = [entry for entry in entries if entry.sha256 == sha256]
        found = [entry for entry in matching if entry.inode == status.st_ino] or matching
    content_type = header_or_none(found[-1].content_type) if found else None
    if content_type is None:
        return None
    cache_control = header_or_none(found[-1].cache_control)
    return Attributes(content_type, cache_control, _parse_metadata(found[-1].metadata))


def _entries(base: int, path: str) -> list[_Entry]:
    try:
        file = Descriptor(open_beneath(base, f"{_FOLDER}/{_side_name(path)}", FILE))
    except FileNotFoundError:
        return []
    with file:
        try:
            bodies = json.loads(read_all(file, os.fstat(file).st_size))["bodies"]
            return [_Entry(**body) for body in bodies]
        except (ValueError, KeyError, TypeError, RecursionError):  # changed by hand
            return []


def _side_name(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()


def _parse_metadata(text: str | None) -> dict[str, str]:
    """Return the metadata in JSON; {} if another program stored anything else."""
    if text is None:
        return {}
    try:
        content = json.loads(text)
        return check_metadata(content) if isinstance(content, dict) else {}
    except (ValueError, TypeError, RecursionError):
        return {}
