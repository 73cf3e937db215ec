"""A memory store that plays a script of failures and keeps a log of what reached it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starfish_server.layers.base import Layer, Operation, T
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Scripted(Layer):
    """Each call takes the next step: an error, seconds to wait first, or None; after the last it passes."""

    context_dependent = False

    def __init__(self, *script: Exception | float | None, data: dict[str, str] | None = None) -> None:
        super().__init__(MemoryObjectStore(data={} if data is None else data))
        self.script = list(script)
        self.calls: list[tuple[str, str | list[str]]] = []
        self.times: list[float] = []
        self.called_twice = asyncio.Event()

    async def perform(self, operation: Operation[T]) -> T:
        target = operation.key if operation.prefix is None else operation.prefix
        self.calls.append((operation.name, list(operation.keys) if target is None else target))
        self.times.append(asyncio.get_running_loop().time())
        if len(self.calls) == 2:
            self.called_twice.set()
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            await asyncio.sleep(step)
        return await self._inner.perform(operation)


class Versioned(Layer):
    """A memory store whose writes lose their replies or are refused.

    lost: errors to raise in place of the result of a write or copy that was done. refused: before it is done.
    unreadable: errors of `read`. before_retry: called before the second write; `writes` counts them.
    """

    context_dependent = False

    def __init__(
        self,
        *,
        lost: list[Exception] | None = None,
        refused: list[Exception] | None = None,
        unreadable: list[Exception] | None = None,
    ) -> None:
        super().__init__(MemoryObjectStore(data={}))
        self.lost = lost or []
        self.refused = refused or []
        self.unreadable = unreadable or []
        self.before_retry: Callable[[], Awaitable[object]] | None = None
        self.writes = 0

    async def perform(self, operation: Operation[T]) -> T:
        if not operation.writes:
            if self.unreadable:
                raise self.unreadable.pop(0)
            return await self._inner.perform(operation)
        self.writes += 1
        if self.writes == 2 and self.before_retry is not None:
            await self.before_retry()
        if self.refused:
            raise self.refused.pop(0)
        result = await self._inner.perform(operation)
        if self.lost:
            raise self.lost.pop(0)
        return result
