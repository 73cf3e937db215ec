"""Random interleavings of reads with writes of every outcome, and of tenants with each other."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from layers.racing import Racing
from starfish_server.context import StoreContext
from starfish_server.errors import ObjectNotFoundError, StoreUnavailableError
from starfish_server.layers.caching import Caching
from starfish_server.layers.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from starfish_server.storage.base import AbstractObjectStore

T = TypeVar("T")
WORKERS = 16
KEYS = [f"{folder}/{name}" for folder in "abcd" for name in range(4)]
TENANTS = ["t1", "t10", "t2"]


class Race:
    """Workers that use one store at random and note every stale result."""

    def __init__(self, store: AbstractObjectStore, leaf: Racing, operations: int) -> None:
        self.store = store
        self.leaf = leaf
        self.turns = iter(range(operations))
        self.names: Iterator[int] = itertools.count()
        self.reads = 0
        self.stale: list[str] = []

    async def run(self) -> None:
        await asyncio.gather(*(self.work() for _ in range(WORKERS)))
        await self.leaf.settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def work(self) -> None:
        choose = self.leaf.random
        for _ in self.turns:
            tenant, key = choose.choice(TENANTS), choose.choice(KEYS)
            context = StoreContext("c", {"write": str(next(self.names))}, "alice", (), "pull", tenant)
            with suppress(asyncio.CancelledError, StoreUnavailableError, ObjectNotFoundError):
                await (self.write(key, context) if choose.random() < 0.12 else self.read(key, context))

    async def write(self, key: str, context: StoreContext) -> None:
        choose, store = self.leaf.random, self.store
        body = f"{context.namespace} {context.params['write']}"
        writes: list[Callable[..., Coroutine[None, None, object]]] = [
            partial(store.put, key, body),
            partial(store.put_bytes, key, body.encode(), content_type="text/plain"),
            partial(store.write, key, body),
            partial(store.upload, key, [body[:2].encode(), body[2:].encode()]),
            partial(store.copy, choose.choice(KEYS), key),
            partial(store.delete, key),
            partial(store.delete_many, [key, choose.choice(KEYS)]),
        ]
        write = choose.choice(writes)(context=context)
        try:
            await self.perhaps_cancelled(write)
        finally:
            self.leaf.ended[context.params["write"]] = self.leaf.now

    async def read(self, key: str, context: StoreContext) -> None:
        asked, store = self.leaf.now, self.store
        kind = self.leaf.random.choice(["text", "bytes", "whole", "whole", "stat", "range", "open", "list"])
        self.reads += 1
        if kind == "list":
            folder = key[:2]
            listed = await self.perhaps_cancelled(store.list_keys(folder, context=context))
            for other in KEYS:
                if other.startswith(folder):
                    self.check_listed(other, context, asked, other in listed)
        elif kind == "stat":
            info = await self.perhaps_cancelled(store.stat(key, context=context))
            self.check(key, context, asked, info and info.version, version_of_text)
        elif kind == "range":
            part = await self.perhaps_cancelled(store.read(key, start=1, context=context))
            self.check(key, context, asked, part and part.body, lambda text: text[1:].encode())
        else:
            self.check(key, context, asked, await self.perhaps_cancelled(self.whole(kind, key, context)))

    async def whole(self, kind: str, key: str, context: StoreContext) -> str | None:
        if kind == "text":
            return await self.store.get_string(key, context=context)
        if kind == "bytes":
            pair = await self.store.get_bytes(key, context=context)
            return pair and pair[0].decode()
        if kind == "open":
            reader = await self.store.open(key, context=context)
            return None if reader is None else (await reader.read()).decode()
        found = await self.store.read(key, context=context)
        if found is None:
            return None
        assert found.info.version == hashlib.sha256(found.body).hexdigest()
        return found.body.decode()

    def check(
        self,
        key: str,
        context: StoreContext,
        asked: float,
        seen: object,
        shown: Callable[[str], object] = str,
    ) -> None:
        """Note what was `seen` unless it is what may be there, as `shown`."""

        def fits(value: str | None) -> bool:
            return seen == (None if value is None else shown(value))

        if self.leaf.is_stale(self.full_key(context, key), asked, fits):
            self.stale.append(f"{key}: {seen!r}")

    def check_listed(self, key: str, context: StoreContext, asked: float, listed: bool) -> None:
        if self.leaf.is_stale(
            self.full_key(context, key), asked, lambda value: (value is not None) is listed
        ):
            self.stale.append(f"{key} listed: {listed}")

    def full_key(self, context: StoreContext, key: str) -> str:
        return f"{context.namespace}/{key}" if isinstance(self.store, Namespace) else key

    async def perhaps_cancelled(self, operation: Coroutine[None, None, T]) -> T:
        task = asyncio.ensure_future(operation)
        if self.leaf.random.random() < 0.15:
            await self.leaf.pause()
            task.cancel()
        return await task


def version_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cached(leaf: Racing) -> Caching:
    """Make a cache whose clock is the leaf's count of events, so that entries expire in the race too."""
    return Caching(leaf, ttl=360.0, negative_ttl=240.0, list_ttl=240.0, clock=lambda: leaf.now * 0.12)


async def test_no_stale_read_after_a_write_is_over(full: bool) -> None:
    leaf = Racing(seed=16)
    store = cached(leaf)
    race = Race(store, leaf, 100_000 if full else 10_000)
    await race.run()
    assert race.stale == []
    assert store.stats().hits > race.reads / 10, "most of the race must be about what is cached"


async def test_no_tenant_reads_what_another_wrote_or_what_it_overwrote(full: bool) -> None:
    leaf = Racing(seed=16)
    cache = cached(leaf)
    race = Race(Namespace(cache, "{namespace}/"), leaf, 100_000 if full else 10_000)
    await race.run()
    assert race.stale == []
    assert cache.stats().hits > race.reads / 10, "most of the race must be about what is cached"
