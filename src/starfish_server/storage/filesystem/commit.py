"""Who decides whether a write in a worker thread takes effect: the thread, or the caller's cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Self


class WithdrawnError(Exception):
    """The caller was cancelled before the write took effect, so it must not."""


class Commit:
    """The point from which a write counts, shared by a worker thread and the coroutine that awaits it.

    The thread enters it (`with commit:`) around what becomes visible to others, several times if need be, and
    gets `WithdrawnError` once the coroutine was cancelled.
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
        """Return once nothing more of the write can take effect, however often the caller is cancelled."""
        # Both are set before the lock is tried: a thread that holds it reads them after it lets go.
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
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                ended.get_loop().call_soon_threadsafe(_end, ended)


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
