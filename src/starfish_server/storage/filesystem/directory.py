"""The operations of `FilesystemObjectStore` as blocking functions, which it runs in threads."""

from __future__ import annotations

import contextlib
import os
import stat
from functools import partial
from typing import TYPE_CHECKING

from starfish_server.checks import check_keys, conflict, decode_text, version_of
from starfish_server.errors import DeleteManyError, KeyConflictError, StoreError
from starfish_server.storage.filesystem.attributes import (
    LEGACY_SUFFIX,
    Attributes,
    remove_side_file,
    set_on_file,
    write_all,
    write_side_file,
)
from starfish_server.storage.filesystem.changes import key_lock
from starfish_server.storage.filesystem.listing import list_keys
from starfish_server.storage.filesystem.os_errors import DurableSync, typed_errors
from starfish_server.storage.filesystem.paths import (
    ATTEMPTS,
    entry_status,
    make_base,
    make_directory,
    nearest_directory,
    open_base,
    parent_of,
    prune,
    remove_empty_tree,
    walk,
)
from starfish_server.storage.filesystem.reading import legacy_content_type, read_object
from starfish_server.storage.filesystem.staging import StagedFile, prepare
from starfish_server.storage.filesystem.unlistable import Unlistable, unlistable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from starfish_server.storage.filesystem.changes import Commit
    from starfish_server.storage.filesystem.reading import ReadBody

    CheckCurrent = Callable[[bytes | None], None]


class Directory:
    """Reads, writes, deletes and lists the objects below `path`, from any thread.

    Raises typed errors with the operation and the key. A change of a key holds the lock of that key while it
    becomes visible; a reader takes none.
    """

    def __init__(self, path: str, *, fsync: bool, read_body: ReadBody) -> None:
        self._path = path
        self._read_body = read_body
        self._sync = DurableSync(path, enabled=fsync)
        self._prepared = False

    def get_string(self, key: str) -> str | None:
        with self._existing("get_string", key) as base:
            found = self._read(base, key, with_type=False)
            return None if found is None else decode_text(found[0], "get_string", key)

    def get_bytes(self, key: str) -> tuple[bytes, str] | None:
        with self._existing("get_bytes", key) as base:
            return self._read(base, key, with_type=True)

    def get_versioned(self, key: str) -> tuple[str, str] | None:
        with self._existing("get_versioned", key) as base:
            found = self._read(base, key, with_type=False)
            if found is None:
                return None
            return decode_text(found[0], "get_versioned", key), version_of(found[0])

    def list_keys(self, prefix: str, start_after: str | None, limit: int | None) -> list[str]:
        with self._existing("list_keys", prefix) as base:
            return [] if base is None else list_keys(base, self._path, prefix, start_after or "", limit)

    def unlistable(self, prefix: str) -> list[Unlistable]:
        with self._existing("unlistable", prefix) as base:
            return [] if base is None else unlistable(base, prefix)

    def write(
        self,
        commit: Commit,
        operation: str,
        key: str,
        body: bytes,
        attributes: Attributes,
        check_current: CheckCurrent | None = None,
    ) -> None:
        """Write the object, whole or not at all; not if `check_current` raises on the current body."""
        with typed_errors(self._path, operation, key):
            base = make_base(self._path, self._sync)
            try:
                if not self._prepared:
                    prepare(base)
                    self._prepared = True
                with StagedFile(base) as staged:
                    write_all(staged.descriptor, body)
                    side = None if set_on_file(staged.descriptor, attributes) else attributes
                    self._sync(staged.descriptor)
                    with key_lock(base, key), commit:
                        if check_current is not None:
                            current = read_object(base, key, with_type=False)
                            check_current(None if current is None else current[0])
                        try:
                            self._place(base, key, staged, body, side)
                        except BaseException:
                            self._clean_up(base, key)
                            raise
            finally:
                os.close(base)

    def write_if(
        self, commit: Commit, key: str, body: bytes, attributes: Attributes, version: str | None
    ) -> str:
        """Write the object if it has this version, and return the new one.

        Nothing comes between the comparison and the write: both hold the lock that every change takes.
        """

        def check_current(current: bytes | None) -> None:
            if (None if current is None else version_of(current)) != version:
                raise conflict(key, version, current is not None)

        self.write(commit, "put_if", key, body, attributes, check_current)
        return version_of(body)

    def delete(self, commit: Commit, key: str) -> None:
        """Remove the object and the folders that it leaves empty."""
        with self._existing("delete", key) as base:
            if base is not None and self._remove(base, key, commit):
                self._tidy(base, key.rpartition("/")[0])

    def delete_many(self, commit: Commit, keys: Iterable[str]) -> None:
        """Remove each object; a folder is made durable once for all its keys."""
        keys = check_keys(keys)
        failures: dict[str, Exception] = {}
        removed: dict[str, list[str]] = {}
        with self._existing("delete_many", None) as base:
            if base is None:
                return
            try:
                for key in keys:
                    try:
                        with typed_errors(self._path, "delete_many", key):
                            if self._remove(base, key, commit):
                                removed.setdefault(key.rpartition("/")[0], []).append(key)
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

    def _read(self, base: int | None, key: str, *, with_type: bool) -> tuple[bytes, str] | None:
        if base is None:
            return None
        return read_object(base, key, with_type=with_type, read_body=self._read_body)

    def _place(self, base: int, key: str, staged: StagedFile, body: bytes, side: Attributes | None) -> None:
        """Move the written file into its place; `side` is the attributes if it cannot hold them itself.

        The caller holds the lock of `key`. A folder that a deletion prunes in between is made again.
        """
        if legacy_content_type(base, key) is not None:
            raise KeyConflictError(
                f"an earlier server keeps the content type of {key.removesuffix(LEGACY_SUFFIX)!r} there"
            )
        *parents, name = key.split("/")
        make = partial(make_directory, sync=self._sync)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                parent = walk(base, parents, make)
                try:
                    current = entry_status(name, parent)
                    if current is not None and stat.S_ISDIR(current.st_mode):
                        remove_empty_tree(name, parent)
                        current = None
                    if side is not None:
                        inodes = (current and current.st_ino, os.fstat(staged.descriptor).st_ino)
                        write_side_file(base, key, body, inodes, side, self._sync)
                    staged.move(name, parent)
                    self._sync(parent)
                    return
                finally:
                    os.close(parent)
            except (FileNotFoundError, IsADirectoryError):
                if attempt == ATTEMPTS:
                    raise

    def _clean_up(self, base: int, key: str) -> None:
        """Remove what a failed write made, if there is no object; best effort."""
        with contextlib.suppress(OSError), parent_of(base, key) as (parent, name):
            if parent is None or not _is_file(name, parent):
                remove_side_file(base, key)
        prune(base, key.split("/")[:-1])

    def _remove(self, base: int, key: str, commit: Commit) -> bool:
        """Remove the object and its side files; False if there was none."""
        with parent_of(base, key) as (parent, name):
            if parent is None or not _is_file(name, parent):
                return False
            with key_lock(base, key, make=False), commit:
                if not _is_file(name, parent) or legacy_content_type(base, key) is not None:
                    return False
                os.unlink(name, dir_fd=parent)
                with contextlib.suppress(OSError):  # the object itself is gone
                    remove_side_file(base, key)
            with contextlib.suppress(OSError):
                self._remove_legacy(base, key + LEGACY_SUFFIX, parent)
            return True

    def _remove_legacy(self, base: int, side_key: str, parent: int) -> None:
        if legacy_content_type(base, side_key) is not None:
            with key_lock(base, side_key, make=False):
                if legacy_content_type(base, side_key) is not None:
                    os.unlink(side_key.rpartition("/")[2], dir_fd=parent)

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
        """Open the base directory, None before the first write has made it, and type the block's errors."""
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


def _is_file(name: str, parent: int) -> bool:
    status = entry_status(name, parent)
    return status is not None and stat.S_ISREG(status.st_mode)
