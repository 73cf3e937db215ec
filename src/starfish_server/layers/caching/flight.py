"""Single flight: one backend read that any number of callers wait for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from starfish_server.layers.copy_error import copy_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Flight(Generic[T]):
    """A read under way, of one event loop.

    started: when it began, in seconds of the cache's clock. keep: whether its result may be remembered; false
    from the moment a write of what it reads is under way.
    """

    __slots__ = ("_abandoned", "_task", "_waiters", "keep", "started")

    def __init__(self, started: float, *, keep: bool) -> None:
        self.started = started
        self.keep = keep
        self._task: asyncio.Task[T] | None = None
        self._waiters = 0
        self._abandoned = False

    @property
    def joinable(self) -> bool:
        """Whether another caller may wait for it: it has neither ended nor been given up."""
        return self._task is not None and not self._task.done() and not self._abandoned

    async def lead(self, read: Coroutine[None, None, T], landed: Callable[[], None]) -> T:
        """Start it, in a copy of the first caller's context variables, and wait for its outcome.

        `landed` is called once it has ended, whoever waits.
        """
        self._task = asyncio.get_running_loop().create_task(read)
        self._task.add_done_callback(_retrieve)
        self._task.add_done_callback(lambda _: landed())
        await self._landing(self._task)
        return self._task.result()

    async def join(self) -> T:
        """Wait for its outcome. Every caller but the first gets a copy of an error."""
        assert self._task is not None, "a flight is led before it is joined"  # noqa: S101 - for the type checker
        await self._landing(self._task)
        error = None if self._task.cancelled() else self._task.exception()
        if error is not None:
            raise copy_error(error)
        return self._task.result()

    async def _landing(self, task: asyncio.Task[T]) -> None:
        self._waiters += 1
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if self._waiters == 1:
                self._abandoned = True
                task.cancel()
                # As without a cache: a cancelled read has let go of everything when its caller goes on.
                await asyncio.wait([task])
            raise
        finally:
            self._waiters -= 1


def _retrieve(task: asyncio.Task[T]) -> None:
    """An error that no caller is left to hear of is not asyncio's to log."""
    if not task.cancelled():
        task.exception()
