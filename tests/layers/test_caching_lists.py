"""Lists that `Caching` caches, and the writes that make it forget them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from layers.gated import GatedStore, Held
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers.caching import Caching


def cached(leaf: GatedStore) -> Caching:
    return Caching(leaf, list_ttl=9.0)


async def test_lists_are_asked_for_each_time_by_default() -> None:
    leaf = GatedStore()
    store = Caching(leaf)
    assert [await store.list_keys(""), await store.list_keys("")] == [[], []]
    assert leaf.calls == ["list_keys"] * 2


async def test_list_is_cached_by_prefix_and_page_and_returned_as_a_copy() -> None:
    leaf = GatedStore()
    store = Caching(leaf, list_ttl=5.0)
    for key in ("a/1", "a/2", "b"):
        await leaf.put(key, "x")
    first = await store.list_keys("a/")
    first.append("spoilt")
    (await store.list_keys("a/")).append("spoilt")
    assert await store.list_keys("a/") == ["a/1", "a/2"]
    assert await store.list_keys("a/", limit=1) == ["a/1"]
    assert await store.list_keys("a/", start_after="a/1") == ["a/2"]
    assert leaf.calls.count("list_keys") == 3


async def test_list_of_objects_is_cached_by_prefix_and_page_and_returned_as_a_copy() -> None:
    leaf = GatedStore({"a/1": "x", "a/b/2": "x"})
    store = Caching(leaf, list_ttl=5.0)
    for _ in range(2):
        found = await store.list_objects("a/", delimiter="/")
        assert ([info.key for info in found.objects], found.prefixes) == (["a/1"], ["a/b/"])
        found.objects.clear()
        found.prefixes.clear()
    assert [info.key for info in (await store.list_objects("a/")).objects] == ["a/1", "a/b/2"]
    assert [info.key for info in (await store.list_objects("a/", limit=1)).objects] == ["a/1"]
    assert await store.list_keys("a/") == ["a/1", "a/b/2"]
    assert (leaf.calls.count("list_objects"), leaf.calls.count("list_keys")) == (3, 1)


async def test_list_of_objects_is_dropped_by_a_write_below_its_prefix() -> None:
    leaf = GatedStore()
    store = Caching(leaf, list_ttl=5.0)
    await store.list_objects("a/", delimiter="/")
    await store.write("a/b/2", "x")
    assert (await store.list_objects("a/", delimiter="/")).prefixes == ["a/b/"]


async def test_cached_list_does_not_answer_for_an_invalid_limit() -> None:
    store = Caching(GatedStore(), list_ttl=5.0)
    await store.list_keys("", limit=1)
    with pytest.raises(TypeError, match="limit must be an int"):
        await store.list_keys("", limit=True)


async def test_read_that_asks_the_backend_drops_no_list() -> None:
    leaf = GatedStore({"a/1": "x"})
    store = cached(leaf)
    for _ in range(2):
        await store.list_keys("a/")
        await store.stat("a/1")
    assert leaf.calls.count("list_keys") == 1


@pytest.mark.parametrize(
    ("prefix", "dropped"), [("", True), ("users/al", True), ("users/alice", True), ("users/b", False)]
)
async def test_write_drops_the_lists_of_its_prefixes_only(prefix: str, dropped: bool) -> None:
    leaf = GatedStore()
    store = cached(leaf)
    await store.list_keys(prefix)
    await store.put("users/alice", "x")
    await store.list_keys(prefix)
    assert leaf.calls.count("list_keys") == (2 if dropped else 1)


async def test_large_delete_many_drops_every_list_and_its_own_objects_only() -> None:
    leaf = GatedStore()
    store = cached(leaf)
    keys = [f"a/{number}" for number in range(5000)]
    await leaf.put("b/kept", "x")
    for _ in range(2):
        await store.list_keys("b/")
        await store.get_string("b/kept")
        await store.get_string(keys[0])
        await store.delete_many(keys)
    calls: dict[str, Any] = {name: leaf.calls.count(name) for name in ("list_keys", "get_string")}
    assert calls == {"list_keys": 2, "get_string": 3}


async def test_list_read_during_a_write_is_not_cached() -> None:
    leaf = Held("put")
    store = cached(leaf)
    write = asyncio.create_task(store.put("new", "x"))
    await leaf.reached(1)
    del leaf.data["new"]  # as if the write had not landed yet
    assert await store.list_keys("") == ["k"]
    leaf.data["new"] = "x"
    assert await store.list_keys("") == ["k", "new"]
    leaf.release.set()
    await write


async def test_list_is_not_cached_while_an_undetermined_write_may_land() -> None:
    leaf = GatedStore()
    store = cached(leaf)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await store.delete("k")
    leaf.data["k"] = "landed late"
    assert await store.list_keys("") == ["k"]
    del leaf.data["k"]
    assert await store.list_keys("") == []
