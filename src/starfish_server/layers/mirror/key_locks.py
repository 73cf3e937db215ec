"""`KeyLocks`: one writer of a key at a time, in whatever event loop or thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starfish_server.forks import reset_in_child
from starfish_server.threads import wake

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection


@dataclass(slots=True, eq=False)
class _Turn:
    """A request for locks. keys: those wanted. ready: done when it holds all. missing: how many it lacks."""

    keys: Collection[str]
    ready: asyncio.Future[None]
    missing: int = 0


class KeyLocks:
    """Locks by key, granted in the order of the requests. A forked child starts with none taken.

    Unlike an `asyncio.Lock`, a lock holds for all event loops, and waiting for it blocks none of them.
    """

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        # Reentrant: the garbage collector may end an abandoned holder anywhere.
        self._lock = threading.RLock()
        self._queues: dict[str, deque[_Turn]] = {}  # the holder of each key, then those that wait for it

    @asynccontextmanager
    async def hold(self, *keys: str) -> AsyncIterator[None]:
        """Wait for all keys, each given once, and hold them."""
        turn = _Turn(keys, asyncio.get_running_loop().create_future())
        with self._lock:  # for all keys together, so that no two turns wait for each other
            for key in keys:
                while (queue := self._queues.get(key)) and queue[0].ready.get_loop().is_closed():
                    self._leave(queue[0])  # its event loop was closed in the middle of a write
            for key in keys:
                queue = self._queues.setdefault(key, deque())
                queue.append(turn)
                turn.missing += queue[0] is not turn
        try:
            if turn.missing:
                await turn.ready
            yield
        finally:
            self._leave(turn)

    def _leave(self, turn: _Turn) -> None:
        with self._lock:
            for key in turn.keys:
                queue = self._queues.get(key)
                if queue is None or turn not in queue:
                    continue  # in a forked child, an operation of its parent
                held = queue[0] is turn
                queue.remove(turn)
                if not queue:
                    del self._queues[key]
                elif held:
                    self._grant(queue[0])

    def _grant(self, turn: _Turn) -> None:
        """Give a turn one more of its keys."""
        turn.missing -= 1
        if not turn.missing:
            try:
                turn.ready.get_loop().call_soon_threadsafe(wake, turn.ready)
            except RuntimeError:  # that event loop was closed
                self._leave(turn)
