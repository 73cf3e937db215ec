"""`InFlightRead`: one backend read that any number of callers wait for."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from starfish_server.layers.copy_error import copy_error
from starfish_server.threads import wake

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class InFlightRead(Generic[T]):
    """One backend read that any number of callers of one event loop wait for.

    began: when it began, by the cache's clock, or None. cacheable: whether its result may be cached.
    after: the read that must end before this one begins, or None.
    """

    __slots__ = ("_waiting", "after", "began", "cacheable", "task")
    task: asyncio.Task[T]

    def __init__(self, *, cacheable: bool, after: InFlightRead[T] | None) -> None:
        self.cacheable = cacheable
        self._waiting = 0
        self.after = after
        self.began: float | None = None

    def start(self, read: Coroutine[Any, Any, T], ended: Callable[[], None]) -> None:
        """Run `read` in a copy of the first caller's context variables, then call `ended`."""

        def done(task: asyncio.Task[T]) -> None:
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio never logs an error that no caller waits for
            ended()

        self.task = asyncio.get_running_loop().create_task(read)
        self.task.add_done_callback(done)

    async def result(self, *, shared: bool) -> T:
        """Wait for the result. An error is raised as a copy if the caller shares it."""
        self._waiting += 1
        # `asyncio.wait` would make a miss take a seventh longer.
        ended: asyncio.Future[None] = self.task.get_loop().create_future()
        self.task.add_done_callback(partial(wake, ended))
        try:
            await ended
        except asyncio.CancelledError:
            if self._waiting == 1:
                self.task.cancel()
                # As without a cache: a cancelled caller leaves nothing running behind.
                await asyncio.wait([self.task])
            raise
        finally:
            self._waiting -= 1
        if shared and not self.task.cancelled() and (error := self.task.exception()) is not None:
            raise copy_error(error)
        return self.task.result()
