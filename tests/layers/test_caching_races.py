"""Random interleavings of reads with writes of every outcome, and of tenants with each other."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from layers.racing import Racing
from starfish_server.context import StoreContext
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers.caching import Caching
from starfish_server.layers.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

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
            with suppress(asyncio.CancelledError, StoreUnavailableError):
                await (self.write(key, context) if choose.random() < 0.12 else self.read(key, context))

    async def write(self, key: str, context: StoreContext) -> None:
        choose, store = self.leaf.random, self.store
        body = f"{context.namespace} {context.params['write']}"
        write: Coroutine[None, None, None] = choose.choice(
            [
                partial(store.put, key, body),
                partial(store.put_bytes, key, body.encode(), content_type="text/plain"),
                partial(store.delete, key),
                partial(store.delete_many, [key, choose.choice(KEYS)]),
            ]
        )(context=context)
        try:
            await self.perhaps_cancelled(write)
        finally:
            self.leaf.ended[context.params["write"]] = self.leaf.now

    async def read(self, key: str, context: StoreContext) -> None:
        asked, kind = self.leaf.now, self.leaf.random.randrange(3)
        self.reads += 1
        if kind == 0:
            body = await self.perhaps_cancelled(self.store.get_string(key, context=context))
            self.check(key, context, asked, body)
        elif kind == 1:
            found = await self.perhaps_cancelled(self.store.get_bytes(key, context=context))
            self.check(key, context, asked, found and found[0].decode())
        else:
            folder = key[:2]
            listed = await self.perhaps_cancelled(self.store.list_keys(folder, context=context))
            for other in KEYS:
                if other.startswith(folder):
                    self.check_listed(other, context, asked, other in listed)

    def check(self, key: str, context: StoreContext, asked: float, body: str | None) -> None:
        if self.leaf.is_stale(self.full_key(context, key), asked, lambda value: value == body):
            self.stale.append(f"{key}: {body}")

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
