"""The objects below one directory, by plain system calls: what `FilesystemObjectStore` does in a thread."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from starfish_server.checks import check_keys, decode_text
from starfish_server.errors import DeleteManyError, ObjectNotFoundError, StoreError
from starfish_server.objects import ANY, ObjectList, StoredObject
from starfish_server.storage.filesystem.attributes import remove_side_file
from starfish_server.storage.filesystem.changes import key_lock
from starfish_server.storage.filesystem.durable import DurableSync
from starfish_server.storage.filesystem.legacy import legacy_content_type, remove_legacy
from starfish_server.storage.filesystem.listing import Listing
from starfish_server.storage.filesystem.names import to_path
from starfish_server.storage.filesystem.open_files import check_unedited, read_all, read_range
from starfish_server.storage.filesystem.os_errors import typed_errors
from starfish_server.storage.filesystem.paths import (
    make_base,
    nearest_directory,
    open_base,
    parent_of,
    prune,
)
from starfish_server.storage.filesystem.reading import open_body, open_object
from starfish_server.storage.filesystem.staging import prepare
from starfish_server.storage.filesystem.streams import FileStream
from starfish_server.storage.filesystem.unlistable import Unlistable, unlistable
from starfish_server.storage.filesystem.writing import Draft, is_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.filesystem.attributes import Attributes
    from starfish_server.storage.filesystem.changes import Commit
    from starfish_server.storage.filesystem.inline import InlineReads
    from starfish_server.storage.filesystem.names import Names
    from starfish_server.storage.filesystem.reading import OpenObject


class Directory:
    """Reads, writes, deletes and lists the objects below `path`, from any thread.

    Raises typed errors with the operation and the key. A change of a key holds the lock of that key while it
    becomes visible; a reader takes none.
    """

    def __init__(self, path: str, *, fsync: bool, names: Names, inline: InlineReads) -> None:
        self._path = path
        self._names = names
        self._inline = inline
        self._sync = DurableSync(path, enabled=fsync)
        self._prepared = False

    def get_string(self, key: str) -> str | None:
        with self._existing("get_string", key) as base:
            opened = None if base is None else open_body(base, to_path(key))
            if opened is None:
                return None
            file, status = opened
            try:
                self._inline.learn(file)
                body = read_all(file, status.st_size)
            finally:
                os.close(file)
            return decode_text(body, "get_string", key)

    def get_bytes(self, key: str) -> tuple[bytes, str] | None:
        with self._open("get_bytes", key) as found:
            if found is None:
                return None
            return read_all(found.file, found.status.st_size), found.attributes.content_type

    def stat(self, key: str) -> ObjectInfo | None:
        with self._open("stat", key) as found:
            return None if found is None else found.info(key)

    def read(self, key: str, start: int, stop: int | None) -> StoredObject | None:
        with self._open("read", key) as found:
            if found is None:
                return None
            size = found.status.st_size
            if size == 0 or (start == 0 and stop is None):  # 0: empty, or of unknown size, as in /proc
                body = read_all(found.file, size)
                info = found.info(key, size=len(body))
                body = body[start:stop]
            else:
                end = size if stop is None else min(stop, size)
                body = read_range(found.file, min(start, end), end)
                info = found.info(key)
            check_unedited(found.file, found.status, "read", key)
            return StoredObject(info, body)

    def open(self, key: str, start: int, stop: int | None) -> FileStream | None:
        """Open the object; the stream holds its file."""
        with self._existing("open", key) as base:
            found = None if base is None else open_object(base, to_path(key))
            return None if found is None else FileStream(found, self._path, key, start, stop)

    def draft(self, operation: str, key: str, attributes: Attributes, if_version: IfVersion = ANY) -> Draft:
        """Begin an object; the base directory is made where it is missing."""
        typed = typed_errors(self._path, operation, key)
        with typed:
            base = make_base(self._path, self._sync)
            try:
                if not self._prepared:
                    prepare(base)
                    self._prepared = True
                return Draft(base, self._sync, typed, key, attributes, if_version)
            except BaseException:
                os.close(base)
                raise

    def put(self, commit: Commit, operation: str, key: str, body: bytes, attributes: Attributes) -> None:
        with self.draft(operation, key, attributes) as draft:
            draft.append(body)
            draft.put_in_place(commit)

    def write(
        self, commit: Commit, key: str, body: bytes, attributes: Attributes, if_version: IfVersion
    ) -> ObjectInfo:
        with self.draft("write", key, attributes, if_version) as draft:
            draft.append(body)
            return draft.put_with_info(commit)

    def copy(self, commit: Commit, source: str, target: str, if_version: IfVersion) -> ObjectInfo:
        with self._open("copy", source) as found:
            if found is None:
                raise ObjectNotFoundError("there is no object to copy", operation="copy", key=source)
            with self.draft("copy", target, found.attributes, if_version) as draft:
                draft.fill_from(found.file, commit)
                check_unedited(found.file, found.status, "copy", source)
                return draft.put_with_info(commit)

    def list_keys(self, prefix: str, start_after: str | None, limit: int | None) -> list[str]:
        with self._existing("list_keys", prefix) as base:
            return [] if base is None else self._listing(base, prefix).keys(start_after, limit)

    def list_objects(
        self, prefix: str, start_after: str | None, limit: int | None, delimiter: str | None
    ) -> ObjectList:
        with self._existing("list_objects", prefix) as base:
            if base is None:
                return ObjectList([], [])
            return self._listing(base, prefix).objects(start_after, limit, delimiter)

    def unlistable(self, prefix: str) -> list[Unlistable]:
        with self._existing("unlistable", prefix) as base:
            return [] if base is None else unlistable(base, prefix, self._names)

    def delete(self, commit: Commit, key: str) -> None:
        """Remove the object and the folders that it leaves empty."""
        with self._existing("delete", key) as base:
            path = to_path(key)
            if base is not None and _remove(base, path, commit):
                self._tidy(base, path.rpartition("/")[0])

    def delete_many(self, commit: Commit, keys: Iterable[str]) -> None:
        """Remove each object; a folder is made durable once for all its keys."""
        keys = check_keys(keys, self._names.check_key)
        failures: dict[str, Exception] = {}
        removed: dict[str, list[str]] = {}
        with self._existing("delete_many", None) as base:
            if base is None:
                return
            try:
                for key in keys:
                    try:
                        with typed_errors(self._path, "delete_many", key):
                            path = to_path(key)
                            if _remove(base, path, commit):
                                removed.setdefault(path.rpartition("/")[0], []).append(key)
                    except StoreError as error:
                        failures[key] = error
            finally:
                for folder, gone in removed.items():
                    try:
                        with typed_errors(self._path, "delete_many", gone[0]):
                            self._tidy(base, folder)
                    except StoreError as error:
                        failures.update(dict.fromkeys(gone, error))
        if failures:
            raise DeleteManyError({key: failures[key] for key in keys if key in failures})

    def _tidy(self, base: int, folder: str) -> None:
        """Make a removal from `folder` durable, and remove the folders that it left empty."""
        parents = folder.split("/") if folder else []
        nearest = nearest_directory(base, parents)
        try:
            self._sync(nearest)
        finally:
            os.close(nearest)
        prune(base, parents)

    @contextlib.contextmanager
    def _existing(self, operation: str, key: str | None) -> Iterator[int | None]:
        """Open the base directory, None before the first write has made it; make typed errors of others."""
        with typed_errors(self._path, operation, key):
            try:
                base = open_base(self._path)
            except FileNotFoundError:
                yield None
                return
            try:
                yield base
            finally:
                os.close(base)

    @contextlib.contextmanager
    def _open(self, operation: str, key: str) -> Iterator[OpenObject | None]:
        """Open the object of `key`, None if there is none; make typed errors of others."""
        with self._existing(operation, key) as base:
            found = None if base is None else open_object(base, to_path(key))
            if found is None:
                yield None
                return
            with found:
                self._inline.learn(found.file)
                yield found

    def _listing(self, base: int, prefix: str) -> Listing:
        return Listing(base, self._path, self._names, to_path(prefix))


def _remove(base: int, path: str, commit: Commit) -> bool:
    """Remove the object and what is known of it; False if there was none."""
    with parent_of(base, path) as (parent, name):
        if parent is None or not is_file(name, parent):
            return False
        with key_lock(base, path), commit:
            if not is_file(name, parent) or legacy_content_type(base, path) is not None:
                return False
            os.unlink(name, dir_fd=parent)
            with contextlib.suppress(OSError):  # the object is gone, whatever else stays
                remove_side_file(base, path)
        with contextlib.suppress(OSError):
            remove_legacy(base, path, parent)
        return True
