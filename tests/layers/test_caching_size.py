"""How much `Caching` holds: bodies, and what sets one entry apart from another."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import suppress

import pytest

from layers.gated import GatedStore
from starfish_server.context import StoreContext
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers.caching import Caching, VaryBy
from starfish_server.storage.memory import MemoryObjectStore


async def test_object_over_max_object_bytes_is_not_cached() -> None:
    leaf = GatedStore()
    store = Caching(leaf, max_object_bytes=10)
    for key, body in (("fits", "x" * 10), ("large", "x" * 11)):
        await leaf.put(key, body)
        for _ in range(2):
            await store.get_string(key)
            await store.get_bytes(key)
    assert store.stats().hits == 2


async def test_least_recently_used_object_goes_when_max_bytes_are_held() -> None:
    leaf = GatedStore()
    store = Caching(leaf, max_bytes=30_000)
    for key in ("a", "b", "c"):
        await leaf.put(key, "x" * 10_000)
    for key in ("a", "b", "a", "c", "a", "b"):
        await store.get_string(key)
    stats = store.stats()
    assert (stats.hits, stats.misses, stats.evictions) == (2, 4, 2)
    assert 20_000 < stats.bytes <= 30_000


async def test_object_larger_than_the_whole_cache_is_still_read() -> None:
    store = Caching(MemoryObjectStore(data={"k": "x" * 5000}), max_bytes=1000)
    assert await store.get_string("k") == "x" * 5000
    assert store.stats().bytes == 0


@pytest.mark.parametrize(
    "vary_by",
    [("params.q",), ("identity", "params.q"), ("roles",), lambda context: frozenset(context.roles)],
    ids=["param", "fields", "roles", "function"],
)
async def test_what_sets_callers_apart_counts_as_held(vary_by: VaryBy) -> None:
    store = Caching(MemoryObjectStore(data={"k": "v"}), vary_by=vary_by, max_bytes=30_000)
    for n in range(4):
        text = f"{n:010000}"
        await store.get_string("k", context=StoreContext("c", {"q": text}, None, (text,), "pull"))
    stats = store.stats()
    assert stats.evictions == 2
    assert 20_000 < stats.bytes <= 30_000


async def test_where_a_list_starts_counts_as_held() -> None:
    store = Caching(MemoryObjectStore(data={}), list_ttl=5.0, max_bytes=4000)
    for n in range(4):
        await store.list_keys("", start_after=f"{n}" + "/k" * 500)
    stats = store.stats()
    assert stats.evictions == 2
    assert 2000 < stats.bytes <= 4000


async def test_metadata_and_infos_count_as_held() -> None:
    leaf = MemoryObjectStore(data={})
    store = Caching(leaf, list_ttl=5.0)
    await leaf.write("k", "v", metadata={"a": "x" * 1000, "b": "x" * 1000})
    await store.read("k")
    of_object = store.stats().bytes
    assert of_object > 2000
    await store.list_objects("")
    assert store.stats().bytes > of_object + 2000


async def test_evicted_objects_leave_nothing_behind() -> None:
    store = Caching(MemoryObjectStore(data={}), negative_ttl=5.0, max_bytes=10_000)

    async def read(first: int) -> int:
        for number in range(first, first + 3000):
            await store.get_string(f"folder/{number}")
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await read(0)
        after = await read(3000)
    finally:
        tracemalloc.stop()
    assert after - before < 200_000


async def test_failed_writes_leave_nothing_behind() -> None:
    now = 0.0
    leaf = GatedStore()
    store = Caching(leaf, clock=lambda: now)

    async def fail(first: int) -> int:
        nonlocal now
        for number in range(first, first + 3000):
            now += 1.0
            leaf.failure = StoreUnavailableError("down")
            with suppress(StoreUnavailableError):
                await store.delete(f"folder/{number}")
        leaf.calls.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await fail(0)
        after = await fail(3000)
    finally:
        tracemalloc.stop()
    assert after - before < 200_000
