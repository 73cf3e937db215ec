"""When a change may become visible: file locks, and the commit of the caller.

`~locks/<two hex digits>` are locked, between processes and threads, around each change of the keys that hash
to them. A thread enters the `Commit` of its caller around what becomes visible to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Self
from zlib import crc32

from starfish_server.forks import reset_in_child
from starfish_server.storage.filesystem.paths import WRITABLE, reserved_opener
from starfish_server.threads import wait_to_end

if TYPE_CHECKING:
    from collections.abc import Iterator

_open_lock = reserved_opener("~locks", WRITABLE | os.O_CREAT)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _LockedFiles:
    """The descriptors of the files that this process has locked."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def reset_after_fork(self) -> None:
        """Close a forked child's copies, which would keep the locks of a parent that died."""
        while self.numbers:
            with contextlib.suppress(OSError):
                os.close(self.numbers.pop())


_locked = _LockedFiles()
reset_in_child(_locked)


def lock(file: int) -> None:
    """Lock the open file against other processes and threads, waiting for it; `close_locked` ends that."""
    _locked.numbers.add(file)
    fcntl.flock(file, fcntl.LOCK_EX)


def close_locked(file: int) -> None:
    """Unlock and close the file. Closing alone would not unlock it while a forked child holds a copy."""
    _locked.numbers.discard(file)  # first, or a child might close a file that gets the number next
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


@contextlib.contextmanager
def key_lock(base: int, path: str) -> Iterator[None]:
    """Hold the lock of the object at `path` below the open base directory. Not reentrant.

    Where its file is missing and the disk is full, that of `base` is held: a deletion must work even then.
    """
    try:
        file = _open_lock(base, f"{crc32(path.encode()) & 0xFF:02x}")
    except OSError as error:
        if error.errno not in _FULL:
            raise
        # This does not keep a writer out that makes the file once space was freed, before the deletion ends.
        # Making it under the lock of `base` would, but not every file system can lock a folder.
        file = os.dup(base)
    try:
        lock(file)
        yield
    finally:
        close_locked(file)


class WithdrawnError(Exception):
    """The caller was cancelled before the change took effect, so it must not."""


class Commit:
    """The decision whether a change takes effect, shared by a worker thread and the coroutine that awaits it.

    The thread enters it (`with commit:`) around each step that becomes visible to others. It gets
    `WithdrawnError` once the coroutine was cancelled.
    """

    def __init__(self) -> None:
        self._visible = threading.Lock()
        self._withdrawn = False
        self._ended: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._visible.acquire()
        if self._withdrawn:
            self._leave()
            raise WithdrawnError
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    async def withdraw(self) -> None:
        """Return once nothing more of the change can take effect, however often the caller is cancelled."""
        # Both are set before the lock is tried: a thread that holds it reads them after it released it.
        self._ended = ended = asyncio.get_running_loop().create_future()
        self._withdrawn = True
        if self._visible.acquire(blocking=False):
            self._visible.release()
            return
        await wait_to_end(ended)

    def _leave(self) -> None:
        self._visible.release()
        ended = self._ended
        if ended is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits any more
                ended.get_loop().call_soon_threadsafe(_end, ended)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
