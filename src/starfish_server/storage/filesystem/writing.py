"""How an object comes into its place: written into a staged file, then renamed under the lock of its key."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Self, TypeVar

from starfish_server.checks import check_unchanged
from starfish_server.errors import KeyConflictError
from starfish_server.objects import ANY
from starfish_server.storage.filesystem.attributes import LEGACY_SUFFIX, set_on_file
from starfish_server.storage.filesystem.bodies import write_all
from starfish_server.storage.filesystem.changes import key_lock
from starfish_server.storage.filesystem.info import make_info, stamp, version_of_file
from starfish_server.storage.filesystem.names import to_path
from starfish_server.storage.filesystem.os_errors import typed_errors
from starfish_server.storage.filesystem.paths import (
    ATTEMPTS,
    Parent,
    entry_status,
    make_base,
    make_folder,
    prune,
    remove_empty_tree,
)
from starfish_server.storage.filesystem.reading import legacy_content_type, open_object
from starfish_server.storage.filesystem.side_files import remove_side_file, write_side_file
from starfish_server.storage.filesystem.staging import StagedFile, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.filesystem.attributes import Attributes
    from starfish_server.storage.filesystem.changes import Commit
    from starfish_server.storage.filesystem.os_errors import DurableSync

T = TypeVar("T")


class Writer:
    """Makes drafts of objects below `path`."""

    def __init__(self, path: str, sync: DurableSync) -> None:
        self.path = path
        self.sync = sync
        self._prepared = False

    def draft(self, operation: str, key: str, attributes: Attributes, if_version: IfVersion = ANY) -> Draft:
        """Begin an object; the base directory is made where it is missing."""
        with typed_errors(self.path, operation, key):
            base = make_base(self.path, self.sync)
            try:
                if not self._prepared:
                    prepare(base)
                    self._prepared = True
                staged = StagedFile(base)
            except BaseException:
                os.close(base)
                raise
        return Draft(self, base, staged, operation, key, attributes, if_version)

    def put(self, commit: Commit, operation: str, key: str, body: bytes, attributes: Attributes) -> None:
        """Put the object in place, whole or not at all."""
        with self.draft(operation, key, attributes) as draft:
            draft.append(body)
            draft.put_in_place(commit)

    def write(
        self,
        commit: Commit,
        operation: str,
        key: str,
        body: bytes,
        attributes: Attributes,
        if_version: IfVersion,
    ) -> ObjectInfo:
        """Put the object in place, if the one there has the version, and return its info."""
        with self.draft(operation, key, attributes, if_version) as draft:
            draft.append(body)
            return draft.put_with_info(commit)


class Draft:
    """An object that is not in its place yet; no step of it runs while another does.

    As a context manager it is discarded at the end, unless it was put in place.
    """

    __slots__ = ("_attributes", "_base", "_if_version", "_key", "_operation", "_staged", "_writer")

    def __init__(
        self,
        writer: Writer,
        base: int,
        staged: StagedFile,
        operation: str,
        key: str,
        attributes: Attributes,
        if_version: IfVersion,
    ) -> None:
        self._writer = writer
        self._base = base
        self._staged = staged
        self._operation = operation
        self._key = key
        self._attributes = attributes
        self._if_version = if_version

    @property
    def descriptor(self) -> int:
        return self._staged.descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def discard(self) -> None:
        """Remove what was written, and close the draft; nothing is removed once it is in its place."""
        try:
            self._staged.close()
        finally:
            os.close(self._base)

    def append(self, body: bytes) -> None:
        """Write the next bytes of the body."""
        with self._typed_errors():
            write_all(self.descriptor, body)

    def put_in_place(self, commit: Commit) -> None:
        """Make the object visible. Raises `WithdrawnError` or `VersionConflictError` if it must not be."""
        self._put_in_place(commit, lambda _: None)

    def put_with_info(self, commit: Commit) -> ObjectInfo:
        """Put it in place and return its info."""
        # The rename changed a time of the file, and the next write of the key will change it again.
        status = self._put_in_place(commit, os.fstat)
        version = version_of_file(self.descriptor, status)
        return make_info(self._key, status, self._attributes, version)

    def _put_in_place(self, commit: Commit, then: Callable[[int], T]) -> T:
        """Put it in place, and return what `then` returns of the open file before it can be replaced.

        Nothing comes between the comparison of versions and the rename: both hold the lock that every change
        takes.
        """
        path = to_path(self._key)
        with self._typed_errors():
            stamp(self.descriptor)
            on_file = set_on_file(self.descriptor, self._attributes)
            self._writer.sync(self.descriptor)
            with key_lock(self._base, path), commit:
                self._check_version(path)
                try:
                    self._place(path, on_file)
                except BaseException:
                    self._clean_up(path)
                    raise
                return then(self.descriptor)

    def _typed_errors(self) -> typed_errors:
        return typed_errors(self._writer.path, self._operation, self._key)

    def _check_version(self, path: str) -> None:
        if self._if_version is ANY:
            return
        found = open_object(self._base, path)
        version = None
        if found is not None:
            with found:
                version = version_of_file(found.file, found.status)
        check_unchanged(self._if_version, version, self._operation, self._key)

    def _place(self, path: str, on_file: bool) -> None:
        """Move the written file into its place. A folder that is pruned meanwhile is made again."""
        base, sync = self._base, self._writer.sync
        if legacy_content_type(base, path) is not None:
            raise KeyConflictError(
                f"an earlier server keeps the content type of {path.removesuffix(LEGACY_SUFFIX)!r} there"
            )
        folder, _, name = path.rpartition("/")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                parent = make_folder(base, folder, sync)
                try:
                    current = entry_status(name, parent)
                    if current is not None and stat.S_ISDIR(current.st_mode):
                        remove_empty_tree(name, parent)
                        current = None
                    if not on_file:
                        write_side_file(base, path, self.descriptor, current, self._attributes, sync)
                    self._staged.move(name, parent)
                    sync(parent)
                    return
                finally:
                    os.close(parent)
            except (FileNotFoundError, IsADirectoryError):
                if attempt == ATTEMPTS:
                    raise

    def _clean_up(self, path: str) -> None:
        """After a failed write, remove what it made for an object that does not exist; best effort."""
        with contextlib.suppress(OSError), Parent(self._base, path) as (parent, name):
            if parent is None or not is_file(name, parent):
                remove_side_file(self._base, path)
        prune(self._base, path.split("/")[:-1])


def is_file(name: str, parent: int) -> bool:
    """Return whether there is a regular file, and not nothing or a folder; ELOOP for anything else."""
    status = entry_status(name, parent)
    return status is not None and stat.S_ISREG(status.st_mode)
