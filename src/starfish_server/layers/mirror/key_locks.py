"""`KeyLocks`: one writer of a key at a time, in whatever event loop or thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starfish_server.forks import reset_in_child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Turn = asyncio.Future[None]


class KeyLocks:
    """Locks by key, taken in the order of asking. In a forked child none is taken.

    Unlike an `asyncio.Lock`, a lock holds for all event loops, and waiting for it blocks none of them.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        # Reentrant: the garbage collector may end an abandoned holder anywhere.
        self._lock = threading.RLock()
        self._queues: dict[str, deque[Turn]] = {}  # the holder of each key, then those that wait for it

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Wait for the key and hold it."""
        turn: Turn = asyncio.get_running_loop().create_future()
        with self._lock:
            queue = self._queues.setdefault(key, deque())
            queue.append(turn)
            waits = queue[0] is not turn
        try:
            if waits:
                await turn
            yield
        finally:
            self._leave(key, turn)

    def _leave(self, key: str, turn: Turn) -> None:
        with self._lock:
            queue = self._queues.get(key)
            if queue is None or turn not in queue:
                return  # in a forked child, an operation of its parent
            held = queue[0] is turn
            queue.remove(turn)
            while held and queue:
                try:
                    queue[0].get_loop().call_soon_threadsafe(_wake, queue[0])
                except RuntimeError:  # that event loop was closed
                    queue.popleft()
                else:
                    return
            if not queue:
                del self._queues[key]


def _wake(turn: Turn) -> None:
    if not turn.done():
        turn.set_result(None)
