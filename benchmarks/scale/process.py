"""One real process of a fleet: `python -m scale.process FLEET SEED NUMBER REDIS_URL`, the fleet in JSON.

It prints "ready", begins when a line of input comes, and prints what it counted, in JSON, at the end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from scale.fleet import CAPACITIES, Call, Fleet
from scale.simulation import Counts
from starfish_server import AbstractObjectStore, MemoryObjectStore, StoreBuilder, StoreError
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers import Caching, Layer, RedisCache, Retry, RetryBudget

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starfish_server.operations import Operation

T = TypeVar("T")


class Bucket(Layer):
    """A bucket as far away as the fleet's, with its outage, that counts requests."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, *, fleet: Fleet, counts: Counts) -> None:
        super().__init__(inner)
        self._fleet, self._counts = fleet, counts
        self.began = 0.0

    async def perform(self, operation: Operation[T]) -> T:
        now = asyncio.get_running_loop().time() - self.began
        if operation.writes:
            self._counts.puts += 1
        else:
            self._counts.gets += 1
        await asyncio.sleep(self._fleet.backend_seconds)
        if self._fleet.outage[0] <= now < self._fleet.outage[1]:
            raise StoreUnavailableError("an outage")
        return await self.inner.perform(operation)


async def begin() -> None:
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def run(
    fleet: Fleet, seed: int, number: int, redis_url: str, begin: Callable[[], Awaitable[None]]
) -> Counts:
    """Return what one process counts; it waits for `begin` before its first operation."""
    loop = asyncio.get_running_loop()
    counts = Counts()
    bucket = Bucket(MemoryObjectStore(data={}), fleet=fleet, counts=counts)
    builder = StoreBuilder()
    if fleet.ttl:
        shared = RedisCache(redis_url, namespace="scale", timeout=5.0) if fleet.shared else None
        builder = builder.layer(Caching, ttl=fleet.ttl, shared=shared, clock=loop.time)
    if fleet.retries:
        capacity = CAPACITIES.get(fleet.budget)
        budget = None if capacity is None else RetryBudget(capacity)
        builder = builder.layer(Retry, budget=budget)
    store = builder.over(bucket)
    calls = [call for call in fleet.calls(seed) if call.process == number]
    for key in {call.key for call in calls}:
        await bucket.inner.put(f"k{key}", "a body")
    await store.get_string("connect")
    counts.gets = 0
    before = store.stats() if isinstance(store, Caching) else None
    await begin()
    began = bucket.began = loop.time()

    async def make(call: Call) -> None:
        try:
            if call.writes:
                await store.put(f"k{call.key}", "a body")
            else:
                await store.get_string(f"k{call.key}")
        except StoreError:
            counts.failed += 1

    async with asyncio.timeout(fleet.seconds + 30.0), asyncio.TaskGroup() as tasks:
        for call in calls:
            await asyncio.sleep(began + call.at - loop.time())
            tasks.create_task(make(call))
    counts.operations = len(calls)
    if before is not None and isinstance(store, Caching):
        after = store.stats()
        counts.hits, counts.joined = after.hits - before.hits, after.shared - before.shared
        counts.remote_hits = after.remote_hits - before.remote_hits
        if fleet.shared:
            counts.commands = after.misses - before.misses  # a GET each; the scripts are counted by Redis
    await store.close()
    return counts


if __name__ == "__main__":
    logging.disable()  # that operations fail in an outage
    options, seed, number, redis_url = sys.argv[1:]
    counted = asyncio.run(run(Fleet(**json.loads(options)), int(seed), int(number), redis_url, begin))
    print(json.dumps(asdict(counted)))
