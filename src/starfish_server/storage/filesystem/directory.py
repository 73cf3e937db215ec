"""The objects below one directory, by plain system calls: what `FilesystemObjectStore` does in a thread."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from starfish_server.checks import check_keys, decode_text
from starfish_server.errors import DeleteManyError, ObjectNotFoundError, StoreError
from starfish_server.objects import ObjectList, StoredObject
from starfish_server.storage.filesystem.attributes import LEGACY_SUFFIX
from starfish_server.storage.filesystem.bodies import copy_body, read_range
from starfish_server.storage.filesystem.changes import key_lock
from starfish_server.storage.filesystem.info import check_unedited
from starfish_server.storage.filesystem.levels import list_level, list_objects
from starfish_server.storage.filesystem.listing import list_keys
from starfish_server.storage.filesystem.names import to_key, to_path
from starfish_server.storage.filesystem.os_errors import DurableSync, typed_errors
from starfish_server.storage.filesystem.paths import Parent, nearest_directory, open_base, prune
from starfish_server.storage.filesystem.reading import legacy_content_type, open_object, read_body_only
from starfish_server.storage.filesystem.side_files import remove_side_file
from starfish_server.storage.filesystem.streams import FileStream
from starfish_server.storage.filesystem.unlistable import Unlistable, unlistable
from starfish_server.storage.filesystem.writing import Writer, is_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.filesystem.changes import Commit
    from starfish_server.storage.filesystem.names import Names
    from starfish_server.storage.filesystem.reading import OpenObject, ReadBody


class Directory:
    """Reads, writes, deletes and lists the objects below `path`, from any thread.

    Raises typed errors with the operation and the key. A change of a key holds the lock of that key while it
    becomes visible; a reader takes none.
    """

    def __init__(self, path: str, *, fsync: bool, names: Names, read_body: ReadBody) -> None:
        self._path = path
        self._names = names
        self._read_body = read_body
        self._sync = DurableSync(path, enabled=fsync)
        self.writer = Writer(path, self._sync)

    def get_string(self, key: str) -> str | None:
        with self._existing("get_string", key) as base:
            body = None if base is None else read_body_only(base, to_path(key), self._read_body)
            return None if body is None else decode_text(body, "get_string", key)

    def get_bytes(self, key: str) -> tuple[bytes, str] | None:
        with self._open("get_bytes", key) as found:
            if found is None:
                return None
            return self._read_body(found.file, found.status.st_size), found.attributes.content_type

    def stat(self, key: str) -> ObjectInfo | None:
        with self._open("stat", key) as found:
            return None if found is None else found.info(key)

    def read(self, key: str, start: int, stop: int | None) -> StoredObject | None:
        with self._open("read", key) as found:
            if found is None:
                return None
            if start == 0 and stop is None:
                body = self._read_body(found.file, found.status.st_size)
                info = found.info(key, size=len(body))
            else:
                end = found.status.st_size if stop is None else min(stop, found.status.st_size)
                body = read_range(found.file, min(start, end), end)
                info = found.info(key)
            check_unedited(found.file, found.status, "read", key)
            return StoredObject(info, body)

    def open(self, key: str, start: int, stop: int | None) -> FileStream | None:
        """Open the object; the stream holds its file."""
        with self._existing("open", key) as base:
            found = None if base is None else open_object(base, to_path(key))
            return None if found is None else FileStream(found, self._path, key, start, stop)

    def copy(self, commit: Commit, source: str, target: str, if_version: IfVersion) -> ObjectInfo:
        with self._open("copy", source) as found:
            if found is None:
                raise ObjectNotFoundError("there is no object to copy", operation="copy", key=source)

            def proceed() -> None:
                with commit:  # raises if the caller was cancelled
                    pass

            with self.writer.draft("copy", target, found.attributes, if_version) as draft:
                with typed_errors(self._path, "copy", target):
                    copy_body(found.file, draft.descriptor, proceed)
                check_unedited(found.file, found.status, "copy", source)
                return draft.put_with_info(commit)

    def list_keys(self, prefix: str, start_after: str | None, limit: int | None) -> list[str]:
        with self._existing("list_keys", prefix) as base:
            if base is None:
                return []
            after = to_path(start_after or "")
            paths = list_keys(base, self._path, self._names, to_path(prefix), after, limit)
            return paths if self._names.portable else [to_key(path) for path in paths]

    def list_objects(
        self, prefix: str, start_after: str | None, limit: int | None, delimiter: str | None
    ) -> ObjectList:
        with self._existing("list_objects", prefix) as base:
            if base is None:
                return ObjectList([], [])
            list_paths = list_keys if delimiter is None else list_level
            after = to_path(start_after or "")
            return list_objects(list_paths, base, self._path, self._names, to_path(prefix), after, limit)

    def unlistable(self, prefix: str) -> list[Unlistable]:
        with self._existing("unlistable", prefix) as base:
            return [] if base is None else unlistable(base, prefix, self._names)

    def delete(self, commit: Commit, key: str) -> None:
        """Remove the object and the folders that it leaves empty."""
        with self._existing("delete", key) as base:
            path = to_path(key)
            if base is not None and self._remove(base, path, commit):
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
                            if self._remove(base, path, commit):
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

    def _remove(self, base: int, path: str, commit: Commit) -> bool:
        """Remove the object and what is known of it; False if there was none."""
        with Parent(base, path) as (parent, name):
            if parent is None or not is_file(name, parent):
                return False
            with key_lock(base, path, make=False), commit:
                if not is_file(name, parent) or legacy_content_type(base, path) is not None:
                    return False
                os.unlink(name, dir_fd=parent)
                with contextlib.suppress(OSError):  # the object is gone, whatever else stays
                    remove_side_file(base, path)
            with contextlib.suppress(OSError):
                self._remove_legacy(base, path + LEGACY_SUFFIX, parent)
            return True

    def _remove_legacy(self, base: int, side_path: str, parent: int) -> None:
        if legacy_content_type(base, side_path) is not None:
            with key_lock(base, side_path, make=False):
                if legacy_content_type(base, side_path) is not None:
                    os.unlink(side_path.rpartition("/")[2], dir_fd=parent)

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
                yield found
