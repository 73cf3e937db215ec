"""`Directory`: what `FilesystemObjectStore` does in a thread, by plain system calls."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from starfish_server.checks import check_keys, decode_text
from starfish_server.errors import DeleteManyError, ObjectNotFoundError, StoreError
from starfish_server.objects import ObjectList, StoredObject
from starfish_server.storage.filesystem.attributes import remove_side_file
from starfish_server.storage.filesystem.legacy import legacy_content_type, remove_legacy
from starfish_server.storage.filesystem.listing import Listing, Unlistable, unlistable
from starfish_server.storage.filesystem.names import to_path
from starfish_server.storage.filesystem.open_files import (
    check_unedited,
    copy_body,
    read_all,
    read_range,
    write_all,
)
from starfish_server.storage.filesystem.os_errors import after_change, typed_errors
from starfish_server.storage.filesystem.paths import nearest_folder, open_base, parent_of, prune
from starfish_server.storage.filesystem.reading import open_body, open_object
from starfish_server.storage.filesystem.staging import KeyLock, not_durable, prepare
from starfish_server.storage.filesystem.streams import FileStream
from starfish_server.storage.filesystem.writing import Draft, DurableSync, is_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.operations import (
        Copy,
        Delete,
        DeleteMany,
        GetBytes,
        GetString,
        ListKeys,
        ListObjects,
        Open,
        Put,
        PutBytes,
        Read,
        Stat,
        Write,
    )
    from starfish_server.storage.filesystem.attributes import Attributes
    from starfish_server.storage.filesystem.inline import InlineReads
    from starfish_server.storage.filesystem.names import Names
    from starfish_server.storage.filesystem.reading import OpenObject
    from starfish_server.storage.filesystem.writing import Commit


class Directory:
    """Reads, writes, deletes and lists the objects below `path`, from any thread.

    Each operation has a method of its name. A change holds the lock of its key while it becomes visible; a
    reader takes no lock. An `OSError` is raised unchanged, and mapped to an error of this library where the
    operation is awaited.
    """

    def __init__(self, path: str, *, fsync: bool, names: Names, inline: InlineReads) -> None:
        self.path = path
        self._names = names
        self._inline = inline
        self._sync = DurableSync(path) if fsync else not_durable
        self._prepared = False

    def get_string(self, call: GetString) -> str | None:
        with self._existing() as base:
            opened = None if base is None else open_body(base, to_path(call.key))
            if opened is None:
                return None
            file, status = opened
            with file:
                self._inline.learn(file)
                body = read_all(file, status.st_size)
            return decode_text(body, "get_string", call.key)

    def get_bytes(self, call: GetBytes) -> tuple[bytes, str] | None:
        found = self._open(call.key)
        if found is None:
            return None
        with found:
            return read_all(found.file, found.status.st_size), found.attributes.content_type

    def stat(self, call: Stat) -> ObjectInfo | None:
        found = self._open(call.key)
        if found is None:
            return None
        with found:
            return found.info(call.key)

    def read(self, call: Read) -> StoredObject | None:
        found = self._open(call.key)
        if found is None:
            return None
        start, stop = call.start, call.stop
        with found:
            size = found.status.st_size
            if size == 0 or (start == 0 and stop is None):  # 0: empty, or of unknown size, as in /proc
                body = read_all(found.file, size)
                info = found.info(call.key, size=len(body))
                body = body[start:stop]
            else:
                end = size if stop is None else min(stop, size)
                body = read_range(found.file, min(start, end), end)
                info = found.info(call.key)
            check_unedited(found.file, found.status)
            return StoredObject(info, body)

    def open(self, call: Open) -> FileStream | None:
        """Open the object; the stream holds its file."""
        found = self._open(call.key)
        return None if found is None else FileStream(found, call, self.path)

    def draft(self, key: str, attributes: Attributes, if_version: IfVersion) -> Draft:
        """Begin an object; the base directory is made where it is missing."""
        base = open_base(self.path, self._sync)
        try:
            if not self._prepared:
                prepare(base)
                self._prepared = True
            return Draft(base, self._sync, key, attributes, if_version)
        except BaseException:
            os.close(base)
            raise

    def put(self, call: Put | PutBytes, commit: Commit, body: bytes, attributes: Attributes) -> None:
        with self.draft(call.key, attributes, call.if_version) as draft:
            write_all(draft.descriptor, body)
            draft.put_in_place(commit, lambda _: None)

    put_bytes = put

    def write(self, call: Write, commit: Commit, body: bytes, attributes: Attributes) -> ObjectInfo:
        with self.draft(call.key, attributes, call.if_version) as draft:
            write_all(draft.descriptor, body)
            return draft.put_with_info(commit)

    def copy(self, call: Copy, commit: Commit) -> ObjectInfo:
        source, target = call.source, call.target
        with typed_errors(self.path, "copy", source):
            found = self._open(source)
            if found is None:
                raise ObjectNotFoundError("there is no object to copy", operation="copy", key=source)
            with (
                found,
                typed_errors(self.path, "copy", target),
                self.draft(target, found.attributes, call.if_version) as draft,
            ):
                copy_body(found.file, draft.descriptor, commit.check)
                with typed_errors(self.path, "copy", source):
                    check_unedited(found.file, found.status)
                return draft.put_with_info(commit)

    def list_keys(self, call: ListKeys) -> list[str]:
        with self._existing() as base:
            return [] if base is None else self._listing(base, call).keys(call.start_after, call.limit)

    def list_objects(self, call: ListObjects) -> ObjectList:
        with self._existing() as base:
            if base is None:
                return ObjectList([], [])
            return self._listing(base, call).objects(call.start_after, call.limit, call.delimiter)

    def unlistable(self, prefix: str) -> list[Unlistable]:
        with self._existing() as base:
            return [] if base is None else unlistable(base, prefix, self._names)

    def delete(self, call: Delete, commit: Commit) -> None:
        """Remove the object and the folders that it leaves empty."""
        with self._existing() as base:
            path = to_path(call.key)
            if base is not None and _remove(base, path, commit):
                self._tidy(base, path.rpartition("/")[0])

    def delete_many(self, call: DeleteMany, commit: Commit) -> None:
        """Remove each object; a folder is made durable once for all its keys."""
        keys = check_keys(call.keys, self._names.check_key)
        failures: dict[str, Exception] = {}
        removed: dict[str, list[str]] = {}
        with self._existing() as base:
            if base is None:
                return
            try:
                for key in keys:
                    try:
                        with typed_errors(self.path, "delete_many", key):
                            path = to_path(key)
                            if _remove(base, path, commit):
                                removed.setdefault(path.rpartition("/")[0], []).append(key)
                    except StoreError as error:
                        failures[key] = error
            finally:
                for folder, gone in removed.items():
                    try:
                        with typed_errors(self.path, "delete_many", gone[0]):
                            self._tidy(base, folder)
                    except StoreError as error:
                        failures.update(dict.fromkeys(gone, error))
        if failures:
            raise DeleteManyError({key: failures[key] for key in keys if key in failures})

    def _tidy(self, base: int, folder: str) -> None:
        """Make a removal from `folder` durable, and remove the folders that it left empty."""
        with after_change(), nearest_folder(base, folder) as nearest:
            self._sync(nearest)
        prune(base, folder)

    @contextlib.contextmanager
    def _existing(self) -> Iterator[int | None]:
        """Open the base directory; yield None if no write has made it yet."""
        try:
            base = open_base(self.path)
        except FileNotFoundError:
            yield None
            return
        with base:
            yield base

    def _open(self, key: str) -> OpenObject | None:
        """Open the object of `key`, or return None if there is none."""
        with self._existing() as base:
            found = None if base is None else open_object(base, to_path(key))
        if found is not None:
            self._inline.learn(found.file)
        return found

    def _listing(self, base: int, call: ListKeys | ListObjects) -> Listing:
        return Listing(base, self.path, self._names, to_path(call.prefix))


def _remove(base: int, path: str, commit: Commit) -> bool:
    """Remove the object and its attributes; return False if there was none."""
    with parent_of(base, path) as (parent, name):
        if parent is None or not is_file(name, parent):
            return False
        with KeyLock(base, path), commit:
            if not is_file(name, parent) or legacy_content_type(base, path) is not None:
                return False
            os.unlink(name, dir_fd=parent)
            with contextlib.suppress(OSError):  # the object is gone, whatever else stays
                remove_side_file(base, path)
        with contextlib.suppress(OSError):
            remove_legacy(base, path, parent)
        return True
