"""When a change of a key may become visible: the lock of the key, and the commit of the caller.

`~locks/<two hex digits>` are locked, between processes and threads, around each change of the keys that hash
to them. A thread enters the `Commit` of its caller around what becomes visible to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from typing import TYPE_CHECKING, Self
from zlib import crc32

from starfish_server.storage.filesystem.paths import BENEATH, NO_LINKS, WRITABLE, open_reserved, opener

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = "~locks"
_MADE = WRITABLE | os.O_CREAT
_open_lock = opener(WRITABLE, NO_LINKS | BENEATH)
_make_lock = opener(_MADE, NO_LINKS | BENEATH, 0o666)
# Files that this process has locked. A forked child closes its copies, lest it keep a dead parent's locks.
_held: set[int] = set()


def lock(file: int) -> None:
    """Lock the open file against other processes and threads, waiting for it.

    `unlock` it before it is closed.
    """
    _held.add(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except BaseException:
        _held.discard(file)
        raise


def unlock(file: int) -> None:
    """Unlock the file. Closing alone is not enough while a forked child holds a copy of the descriptor."""
    _held.discard(file)  # first, or a child might close a file that gets the number next
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)


def _close_in_child() -> None:
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def key_lock(base: int, key: str, *, make: bool = True) -> Iterator[None]:
    """Hold the lock of `key` below the open directory `base`. Not reentrant.

    Where its file is missing, the lock of `base` itself is taken: a writer makes the file under it, and a
    deletion (`make=False`), which must work on a full disk, keeps it instead.
    """
    name = f"{crc32(os.fsencode(key)) & 0xFF:02x}"
    file = _open(base, name)
    if file is None:
        with _locked(base):
            file = _open(base, name)
            if file is None and make:
                file = open_reserved(base, _FOLDER, name, _MADE, _make_lock)
            if file is None:
                yield
                return
    try:
        with _locked(file):
            yield
    finally:
        os.close(file)


@contextlib.contextmanager
def _locked(file: int) -> Iterator[None]:
    lock(file)
    try:
        yield
    finally:
        unlock(file)


def _open(base: int, name: str) -> int | None:
    try:
        return open_reserved(base, _FOLDER, name, WRITABLE, _open_lock)
    except FileNotFoundError:
        return None


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
        while not ended.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((ended,))

    def _leave(self) -> None:
        self._visible.release()
        ended = self._ended
        if ended is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits any more
                ended.get_loop().call_soon_threadsafe(_end, ended)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
