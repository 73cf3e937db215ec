"""A store in memory that fails when a test says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server import MemoryObjectStore
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers.base import Layer

if TYPE_CHECKING:
    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation


def memory(**data: str) -> MemoryObjectStore:
    """A new store with this text by key."""
    return MemoryObjectStore(data=dict(data))


async def contents(store: AbstractObjectStore) -> dict[str, Any]:
    """Bodies and content types by key."""
    return {key: await store.get_bytes(key) for key in await store.list_keys("")}


class Switched(Layer):
    """A store that can be unavailable, before or after it did the work."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.fails: str | None = None

    async def perform(self, operation: Operation[T]) -> T:
        if self.fails == "before":
            raise StoreUnavailableError("down")
        result = await self._inner.perform(operation)
        if self.fails == "after":
            raise StoreUnavailableError("the reply was lost")
        return result
