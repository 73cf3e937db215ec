"""Attributes of objects on file systems that have no extended attributes: `~attributes/<sha256 of the path>`.

A side file is JSON, with an entry for each of the last bodies of a key. An entry belongs to a file by inode,
time and size, or by the digest of the body, which a copy, a restore and a remount keep. It is written before
the body's rename, with the entry of the body that is there and one for the body to come, so that a reader
finds the attributes of the one it opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import partial

from starfish_server.checks import header_or_none
from starfish_server.storage.filesystem.attributes import Attributes, attributes_on_file, parse_metadata
from starfish_server.storage.filesystem.bodies import digest, read_all, write_all
from starfish_server.storage.filesystem.paths import Sync, make_directory, open_directory, open_file, walk
from starfish_server.storage.filesystem.staging import StagedFile

_FOLDER = "~attributes"
# Entries kept of earlier bodies where inode numbers do not tell which is the current one's.
_MAX_KEPT = 7


@dataclass(frozen=True, slots=True)
class _Entry:
    """The attributes of one body of a key. Of several with the same digest the inode number tells."""

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
    """Return the attributes that this very body, of the open file, was stored with, or None."""
    on_file = attributes_on_file(file)
    if on_file is not None:
        return on_file
    entries = _read(base, path)
    if not entries:
        return None
    found = [entry for entry in entries if entry.is_of(status)]
    if not found:
        sha256 = digest(file)
        matching = [entry for entry in entries if entry.sha256 == sha256]
        found = [entry for entry in matching if entry.inode == status.st_ino] or matching
    content_type = header_or_none(found[-1].content_type) if found else None
    if content_type is None:
        return None
    entry = found[-1]
    return Attributes(content_type, header_or_none(entry.cache_control), parse_metadata(entry.metadata))


def write_side_file(
    base: int, path: str, file: int, current: os.stat_result | None, attributes: Attributes, sync: Sync
) -> None:
    """Write the attributes of the body to come, in the open file, into the side file of `path`.

    Those of the current body, whose status is `current`, are kept. The caller holds the lock of `path`, and
    renames the file after this.
    """
    known = [] if current is None else _read(base, path)
    kept = [entry for entry in known if current and entry.inode == current.st_ino][-1:] or known[-_MAX_KEPT:]
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
    content = {"path": path, "bodies": [asdict(entry) for entry in [*kept, entry]]}
    with StagedFile(base) as staged:
        write_all(staged.descriptor, json.dumps(content).encode())
        sync(staged.descriptor)
        folder = walk(base, (_FOLDER,), partial(make_directory, sync=sync))
        try:
            staged.move(_side_name(path), folder)
            sync(folder)
        finally:
            os.close(folder)


def remove_side_file(base: int, path: str) -> None:
    """Remove what is known of `path`, after its body is gone."""
    with contextlib.suppress(FileNotFoundError):
        folder = open_directory(_FOLDER, base)
        try:
            os.unlink(_side_name(path), dir_fd=folder)
        finally:
            os.close(folder)


def _read(base: int, path: str) -> list[_Entry]:
    try:
        folder = open_directory(_FOLDER, base)
    except FileNotFoundError:
        return []
    try:
        opened = open_file(_side_name(path), folder)
    finally:
        os.close(folder)
    if opened is None:
        return []
    file, status = opened
    try:
        bodies = json.loads(read_all(file, status.st_size))["bodies"]
        return [_Entry(**body) for body in bodies]
    except (ValueError, KeyError, TypeError, RecursionError):  # changed by hand
        return []
    finally:
        os.close(file)


def _side_name(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()
