"""The objects below one directory, by plain system calls: what `FilesystemObjectStore` does in a thread."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from starfish_server.checks import check_keys, conflict, version_of
from starfish_server.errors import DeleteManyError, KeyConflictError, StoreError
from starfish_server.storage.filesystem.attributes import Attributes, is_legacy_name, set_on_file
from starfish_server.storage.filesystem.listing import list_keys
from starfish_server.storage.filesystem.objects import (
    keep_legacy_type,
    place_object,
    remove_object,
)
from starfish_server.storage.filesystem.os_errors import os_errors
from starfish_server.storage.filesystem.reading import StoredObject, read_object
from starfish_server.storage.filesystem.staging import Staging, locked
from starfish_server.storage.filesystem.unlistable import Unlistable, unlistable
from starfish_server.storage.filesystem.walk import make_base, nearest_directory, open_base, prune, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from starfish_server.storage.filesystem.commit import Commit
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
        self._fsync = fsync
        # By process, so that a forked child has its own.
        self._stagings: dict[int, Staging] = {}
        self._closed = False

    def close(self) -> None:
        """Let go of the lock and the temporary files, once the writes under way are done."""
        self._closed = True
        staging = self._stagings.get(os.getpid())
        if staging is not None:
            staging.close()

    def read(self, operation: str, key: str, *, with_type: bool) -> StoredObject | None:
        """Body and, if asked for, content type of the object, both of the same write, or None."""
        with os_errors(operation, key), self._existing() as base:
            if base is None:
                return None
            return read_object(base, key, with_type=with_type, read_body=self._read_body)

    def read_versioned(self, key: str) -> tuple[bytes, str] | None:
        """Body of the object and its version, or None."""
        found = self.read("get_versioned", key, with_type=False)
        return None if found is None else (found.body, version_of(found.body))

    def list_keys(self, prefix: str, start_after: str | None, limit: int | None) -> list[str]:
        with os_errors("list_keys", prefix), self._existing() as base:
            return [] if base is None else list_keys(base, prefix, start_after or "", limit)

    def unlistable(self, prefix: str) -> list[Unlistable]:
        with os_errors("unlistable", prefix), self._existing() as base:
            return [] if base is None else unlistable(base, prefix)

    def write(
        self,
        operation: str,
        key: str,
        body: bytes,
        attributes: Attributes,
        commit: Commit,
        check_current: CheckCurrent | None = None,
    ) -> None:
        """Put the object in place, whole or not at all; not if `check_current` raises on what is there."""
        with os_errors(operation, key):
            base = make_base(self._path, fsync=self._fsync)
            try:
                self._write(base, operation, key, body, attributes, commit, check_current)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # Another file system was mounted here since the temporary files got their place.
                self._stagings.pop(os.getpid()).close()
                self._write(base, operation, key, body, attributes, commit, check_current)
            finally:
                os.close(base)

    def write_if(
        self, key: str, body: bytes, attributes: Attributes, commit: Commit, version: str | None
    ) -> str:
        """As `write`, if the object has this version, and return the new one.

        Nothing comes between the look and the write: both are under the lock that every change takes.
        """

        def check_current(current: bytes | None) -> None:
            if (None if current is None else version_of(current)) != version:
                raise conflict(key, version, current is not None)

        self.write("put_if", key, body, attributes, commit, check_current)
        return version_of(body)

    def delete(self, key: str, commit: Commit) -> None:
        """Remove the object and the folders that it leaves empty."""
        with os_errors("delete", key), self._existing() as base:
            if base is not None and remove_object(base, key, commit, fsync=self._fsync):
                self._tidy(base, key.split("/")[:-1])

    def delete_many(self, keys: Iterable[str], commit: Commit) -> None:
        """As `delete` for each; a folder is made durable once for all its keys."""
        keys = check_keys(keys)
        failures: dict[str, Exception] = {}
        removed: dict[str, list[str]] = {}
        try:
            for key in keys:
                try:
                    with os_errors("delete_many", key), self._existing() as base:
                        if base is not None and remove_object(base, key, commit, fsync=self._fsync):
                            removed.setdefault(key.rpartition("/")[0], []).append(key)
                except StoreError as error:
                    failures[key] = error
        finally:
            for folder, gone in removed.items():
                try:
                    with os_errors("delete_many", gone[0]), self._existing() as base:
                        if base is not None:
                            self._tidy(base, folder.split("/") if folder else [])
                except StoreError as error:
                    failures.update(dict.fromkeys(gone, error))
        if failures:
            raise DeleteManyError({key: failures[key] for key in keys if key in failures})

    def _write(
        self,
        base: int,
        operation: str,
        key: str,
        body: bytes,
        attributes: Attributes,
        commit: Commit,
        check_current: CheckCurrent | None,
    ) -> None:
        staging = self._staging()
        with staging.temporary_file(base) as staged:
            write_all(staged.descriptor, body)
            side = None if set_on_file(staged.descriptor, attributes) else attributes
            if self._fsync:
                os.fsync(staged.descriptor)
            if is_legacy_name(key):
                keep_legacy_type(base, key, staging, fsync=self._fsync)
            with locked(base, key, fsync=self._fsync), commit:
                if check_current is not None:
                    current = read_object(base, key, with_type=False)
                    check_current(None if current is None else current.body)
                try:
                    while not place_object(base, key, staging, staged, side, fsync=self._fsync):
                        pass
                except BaseException as error:
                    prune(base, key.split("/")[:-1])
                    if isinstance(error, OSError) and error.errno in _CONFLICTS:
                        raise KeyConflictError(
                            f"{key!r} cannot be stored: {_CONFLICTS[error.errno]}",
                            operation=operation,
                            key=key,
                        ) from error
                    raise

    def _tidy(self, base: int, parents: Sequence[str]) -> None:
        """Make a removal durable, and remove the folders that it left empty."""
        if self._fsync:
            folder = nearest_directory(base, parents)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        prune(base, parents)

    @contextlib.contextmanager
    def _existing(self) -> Iterator[int | None]:
        """The open base directory, or None before the first write has made it."""
        try:
            base = open_base(self._path)
        except FileNotFoundError:
            yield None
            return
        try:
            yield base
        finally:
            os.close(base)

    def _staging(self) -> Staging:
        process = os.getpid()
        staging = self._stagings.get(process)
        if staging is None:
            staging = self._stagings.setdefault(process, Staging(fsync=self._fsync))
            for other in list(self._stagings):  # a copy: other threads of the child may be here too
                inherited = self._stagings.pop(other, None) if other != process else None
                if inherited is not None:
                    inherited.abandon()
            if self._closed:  # by now, while this write was under way: it goes when the write is done
                staging.close()
        return staging


_CONFLICTS = {
    errno.ENOTDIR: "one of its parents is an object",
    errno.ENOTEMPTY: "there are objects below it",
}
