"""A memory leaf whose replies a test can hold back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.context import StoreContext
    from starfish_server.objects import ObjectInfo, ObjectList, StoredObject


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until `condition` holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("waited in vain")


class GatedStore(MemoryObjectStore):
    """Does its work immediately and replies when the gate is open; `calls` has what reached it.

    data: what is stored, live. failure: raised in place of the next reply, after the work was done.
    """

    context_dependent = False

    def __init__(self, data: dict[str, str | bytes] | None = None) -> None:
        self.data: dict[str, str | bytes] = {} if data is None else data
        super().__init__(data=self.data)
        self.calls: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.cancelled = 0

    async def reached(self, calls: int) -> None:
        """Wait until that many calls have reached the store."""
        await until(lambda: len(self.calls) >= calls)

    async def answer(self, operation: str) -> None:
        self.calls.append(operation)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        body = await super().get_string(key)
        await self.answer("get_string")
        return body

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        body = await super().get_bytes(key)
        await self.answer("get_bytes")
        return body

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> StoredObject | None:
        found = await super().read(key, start=start, stop=stop)
        await self.answer("read")
        return found

    async def write(self, key: str, body: str | bytes, **options: Any) -> ObjectInfo:
        info = await super().write(key, body, **options)
        await self.answer("write")
        return info

    async def list_objects(self, prefix: str, **options: Any) -> ObjectList:
        found = await super().list_objects(prefix, **options)
        await self.answer("list_objects")
        return found

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        keys = await super().list_keys(prefix, start_after=start_after, limit=limit)
        await self.answer("list_keys")
        return keys

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        await super().put(key, body, content_type=content_type)
        await self.answer("put")

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        await super().put_bytes(key, body, content_type=content_type)
        await self.answer("put_bytes")

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        await super().delete(key)
        await self.answer("delete")

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        await super().delete_many(keys)
        await self.answer("delete_many")


class Held(GatedStore):
    """Holds back the reply to the first call of one operation; it replies to all others immediately."""

    def __init__(self, operation: str) -> None:
        super().__init__({"k": "old"})
        self.operation = operation
        self.release = asyncio.Event()

    async def answer(self, operation: str) -> None:
        first = operation == self.operation and operation not in self.calls
        await super().answer(operation)
        if first:
            await self.release.wait()
