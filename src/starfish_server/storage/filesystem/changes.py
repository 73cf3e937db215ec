"""`Commit`: whether a change that a thread makes may still take effect, for a caller that was cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Self

from starfish_server.threads import wait_to_end


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
