"""Writing an object: a `Draft` is a staged file, renamed under the lock of its key unless it is withdrawn."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, TypeVar

from starfish_server.checks import check_unchanged
from starfish_server.errors import KeyConflictError
from starfish_server.logs import SafeLogger
from starfish_server.objects import ANY
from starfish_server.storage.filesystem.attributes import remove_side_file, set_on_file, write_side_file
from starfish_server.storage.filesystem.legacy import LEGACY_SUFFIX, legacy_content_type
from starfish_server.storage.filesystem.names import to_path
from starfish_server.storage.filesystem.open_files import make_info, stamp, version_of_file
from starfish_server.storage.filesystem.os_errors import after_change
from starfish_server.storage.filesystem.paths import (
    ATTEMPTS,
    entry_status,
    open_folder,
    parent_of,
    prune,
    remove_empty_tree,
)
from starfish_server.storage.filesystem.reading import open_object
from starfish_server.storage.filesystem.staging import KeyLock, StagedFile
from starfish_server.threads import wait_to_end, wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.filesystem.attributes import Attributes
    from starfish_server.storage.filesystem.paths import Sync

T = TypeVar("T")

_log = SafeLogger(__package__)
# Errors of file systems that cannot sync a folder (CIFS, FUSE, older NFS). EIO means that a sync failed.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


class DurableSync:
    """Make an open file or folder durable: the one place where this leaf calls `fsync`.

    Where the file system cannot, it logs one warning.
    """

    def __init__(self, base_dir: str) -> None:
        self._base_dir = base_dir
        self._warned = False

    def __call__(self, file: int) -> None:
        try:
            os.fsync(file)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
            if not self._warned:
                self._warned = True
                _log.warning(
                    "%r: this file system cannot sync (%s), so a write may not survive a power failure",
                    self._base_dir,
                    error.strerror,
                )


class WithdrawnError(Exception):
    """The caller was cancelled before the change took effect, so it must not."""


class Commit:
    """The decision whether a change takes effect, shared by a worker thread and the coroutine that awaits it.

    The thread enters it (`with commit:`) around each step that becomes visible to others. It
    gets `WithdrawnError` once the coroutine has been cancelled.
    """

    def __init__(self) -> None:
        self._visible = threading.Lock()
        self._withdrawn = False
        self._ended: asyncio.Future[None] | None = None

    def __enter__(self) -> None:
        self._visible.acquire()
        if self._withdrawn:
            self.__exit__()
            raise WithdrawnError

    def __exit__(self, *_: object) -> None:
        self._visible.release()
        ended = self._ended
        if ended is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits any more
                ended.get_loop().call_soon_threadsafe(wake, ended)

    def check(self) -> None:
        """Raise `WithdrawnError` if the coroutine has been cancelled."""
        with self:
            pass

    async def withdraw(self) -> None:
        """Return once nothing more of the change can take effect, however often the caller is cancelled."""
        # Both are set before the lock is tried: a thread that holds the lock reads them after releasing it.
        self._ended = ended = asyncio.get_running_loop().create_future()
        self._withdrawn = True
        if self._visible.acquire(blocking=False):
            self._visible.release()
            return
        await wait_to_end(ended)


class Draft(StagedFile):
    """An object being written. Its steps must not run concurrently.

    It owns the open `base`, and closes it. At the end of a `with` it is discarded unless it was put in place.
    """

    def __init__(
        self, base: int, sync: Sync, key: str, attributes: Attributes, if_version: IfVersion
    ) -> None:
        super().__init__(base)
        self._sync = sync
        self._key = key
        self._place = to_path(key)
        self._attributes = attributes
        self._if_version = if_version

    def close(self) -> None:
        """Close the draft, and remove its file unless it was put in place."""
        try:
            super().close()
        finally:
            os.close(self._base)

    def put_with_info(self, commit: Commit) -> ObjectInfo:
        """Make the object visible and return its info."""
        # The rename changed a time of the file, and the next write of the key will change it again.
        status = self.put_in_place(commit, os.fstat)
        version = version_of_file(self.descriptor, status)
        return make_info(self._key, status, self._attributes, version)

    def put_in_place(self, commit: Commit, then: Callable[[int], T]) -> T:
        """Make the object visible, and return `then(file)`, called before the file can be replaced.

        The version check and the rename are one atomic step, since every change of the key takes its lock.
        Raises `WithdrawnError` or `VersionConflictError`.
        """
        file = self.descriptor
        on_file = set_on_file(file, self._attributes)
        self._sync(file)
        with KeyLock(self._base, self._place), commit:
            if self._if_version is not ANY:
                self._check_version()
            stamp(file)  # under the lock, so that no two writes of a key read the same time
            try:
                self._move_to_place(on_file)
            except BaseException:
                self._clean_up()
                raise
            return then(file)

    def _check_version(self) -> None:
        found = open_object(self._base, self._place)
        version = None
        if found is not None:
            with found:
                version = found.version()
        check_unchanged(self._if_version, version)

    def _move_to_place(self, on_file: bool) -> None:
        """Rename the written file. Make its folder again if a deletion pruned it."""
        base, sync, path = self._base, self._sync, self._place
        if path.endswith(LEGACY_SUFFIX) and legacy_content_type(base, path) is not None:
            raise KeyConflictError(
                f"an earlier server keeps the content type of {path.removesuffix(LEGACY_SUFFIX)!r} there"
            )
        folder, _, name = path.rpartition("/")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                parent = open_folder(base, folder, sync)
                try:
                    # Not `os.access`, which is faster, but takes every error for an empty place.
                    current = entry_status(name, parent)
                    if current is not None and stat.S_ISDIR(current.st_mode):
                        remove_empty_tree(name, parent)
                        current = None
                    if not on_file:
                        write_side_file(base, path, self.descriptor, current, self._attributes, sync)
                    self.move(name, parent)
                    with after_change():
                        sync(parent)
                    return
                finally:
                    os.close(parent)
            except (FileNotFoundError, IsADirectoryError):
                if attempt == ATTEMPTS:
                    raise

    def _clean_up(self) -> None:
        """After a failed write of a new object, remove its side file and empty folders; best effort."""
        base, path = self._base, self._place
        with contextlib.suppress(OSError), parent_of(base, path) as (parent, name):
            if parent is None or not is_file(name, parent):
                remove_side_file(base, path)
        prune(base, path.rpartition("/")[0])


def is_file(name: str, parent: int) -> bool:
    """Return whether `name` is a regular file. Anything but that, a folder or nothing raises ELOOP."""
    status = entry_status(name, parent)
    return status is not None and stat.S_ISREG(status.st_mode)
