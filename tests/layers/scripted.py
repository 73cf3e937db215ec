"""A memory store that plays a script of failures and keeps a log of what reached it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starfish_server.errors import VersionConflictError
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.context import StoreContext


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


class Versioned(MemoryObjectStore):
    """A memory store with conditional writes: each write counts up the version.

    lost: errors to raise in place of the result of a `put_if` that was done. refused: before it is done.
    unreadable: errors of `get_versioned`. before_retry: called before the second `put_if`.
    """

    def __init__(
        self,
        *,
        lost: list[Exception] | None = None,
        refused: list[Exception] | None = None,
        unreadable: list[Exception] | None = None,
    ) -> None:
        self.objects: dict[str, tuple[str, int]] = {}
        self.lost = lost or []
        self.refused = refused or []
        self.unreadable = unreadable or []
        self.before_retry: Callable[[], None] = lambda: None
        self.puts = 0
        super().__init__(data={})

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        if self.unreadable:
            raise self.unreadable.pop(0)
        return self._find(key)

    async def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        self.puts += 1
        if self.puts == 2:
            self.before_retry()
        if self.refused:
            raise self.refused.pop(0)
        current = self._find(key)
        if (None if current is None else current[1]) != version:
            raise VersionConflictError("changed", operation="put_if", key=key)
        self.write(key, body)
        if self.lost:
            raise self.lost.pop(0)
        return f"v{self.objects[key][1]}"

    def _find(self, key: str) -> tuple[str, str] | None:
        found = self.objects.get(key)
        return None if found is None else (found[0], f"v{found[1]}")

    def write(self, key: str, body: str) -> None:
        """Store `body` as another writer would."""
        self.objects[key] = (body, self.objects.get(key, ("", 0))[1] + 1)
