"""A leaf of random delays and failures that knows which answers are stale; time is a count of events."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from starfish_server.errors import StoreUnavailableError
from starfish_server.objects import ObjectInfo
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starfish_server.context import StoreContext
    from starfish_server.objects import StoredObject


class Landing(NamedTuple):
    """What a write left at a key, when, and which write it was."""

    value: str | None
    time: float
    write: str


class Racing(MemoryObjectStore):
    """Lets other tasks run before and after each effect; a write may also fail before it lands, fail after it
    landed, or land when its caller has given up. Writes carry their name in the context's param "write".

    ended: when the caller of a write knew its outcome, whichever, by name.
    """

    context_dependent = False

    def __init__(self, seed: int) -> None:
        self.data: dict[str, str | bytes] = {}
        super().__init__(data=self.data)
        self.random = random.Random(seed)
        self.now = 0.0
        self.ended: dict[str, float] = {}
        self._landings: dict[str, list[Landing]] = {}
        self._late: set[asyncio.Task[None]] = set()

    def is_stale(self, key: str, asked: float, fits: Callable[[str | None], bool]) -> bool:
        """Whether an answer was wrong since before it was asked for.

        It is if, since `key` last held what fits it, another write landed and was over when the read began.
        """
        for landing in reversed(self._landings.get(key, [])):
            if fits(landing.value):
                return False
            if max(landing.time, self.ended.get(landing.write, float("inf"))) < asked:
                return True
        return not fits(None)

    async def settle(self) -> None:
        """Wait for the writes that land late."""
        await asyncio.gather(*self._late)

    async def pause(self, longest: int = 4) -> None:
        for _ in range(self.random.randint(0, longest)):
            await asyncio.sleep(0)
            self.now += 1

    async def reply(self) -> None:
        """Most replies are quick; a slow one outlasts the writes that begin after the read."""
        await self.pause(longest=self.random.choice([4, 40]))

    async def change(self, keys: Iterable[str], value: str | None, context: StoreContext | None) -> None:
        assert context is not None
        write, fate = context.params["write"], self.random.random()
        await self.pause(longest=20)
        if fate < 0.1:
            raise StoreUnavailableError("failed before it landed")
        if fate < 0.2:
            task = asyncio.ensure_future(self.land(keys, value, write, late=True))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        else:
            await self.land(keys, value, write, late=False)
        await self.pause()
        if fate < 0.3:
            raise StoreUnavailableError("reply lost")

    async def land(self, keys: Iterable[str], value: str | None, write: str, *, late: bool) -> None:
        for _ in range(5 * late):
            await self.pause()
        for key in keys:
            self.now += 1
            self._landings.setdefault(key, []).append(Landing(value, self.now, write))
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value

    async def put(self, key: str, body: str, *, context: StoreContext | None = None, **_: Any) -> None:
        await self.change([key], body, context)

    async def put_bytes(
        self, key: str, body: bytes, *, context: StoreContext | None = None, **_: Any
    ) -> None:
        await self.change([key], body.decode(), context)

    async def write(
        self, key: str, body: str | bytes, *, context: StoreContext | None = None, **_: Any
    ) -> ObjectInfo:
        text = body if isinstance(body, str) else body.decode()
        await self.change([key], text, context)
        return ObjectInfo(key, len(text))

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        await self.change([key], None, context)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        await self.change(keys, None, context)

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        await self.pause()
        body = await super().get_string(key)
        await self.reply()
        return body

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        await self.pause()
        body = await super().get_bytes(key)
        await self.reply()
        return body

    async def read(self, key: str, **options: Any) -> StoredObject | None:
        await self.pause()
        found = await super().read(key, start=options.get("start", 0), stop=options.get("stop"))
        await self.reply()
        return found

    async def list_keys(self, prefix: str, **_: Any) -> list[str]:
        await self.pause()
        keys = await super().list_keys(prefix)
        await self.reply()
        return keys
