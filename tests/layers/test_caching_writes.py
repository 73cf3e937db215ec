"""No read that began before a write ended puts the old value back, whatever became of the write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from layers.gated import GatedStore, Held, until
from starfish_server.errors import DeleteManyError, InvalidKeyError, StoreUnavailableError
from starfish_server.layers.caching import Caching, entries, memory
from starfish_server.storage.memory import MemoryObjectStore

Write = Callable[[Caching], Coroutine[None, None, object]]
WRITES: dict[str, Write] = {
    "put": lambda store: store.put("k", "new"),
    "put_bytes": lambda store: store.put_bytes("k", b"new", content_type="text/plain"),
    "put_if": lambda store: store.put_if("k", "new", version="1"),
    "delete": lambda store: store.delete("k"),
    "delete_many": lambda store: store.delete_many(["other", "k"]),
}
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


async def read(store: Caching) -> tuple[str | None, tuple[bytes, str] | None, list[str]]:
    return await store.get_string("k"), await store.get_bytes("k"), await store.list_keys("")


async def truth(leaf: GatedStore) -> tuple[str | None, tuple[bytes, str] | None, list[str]]:
    return await leaf.get_string("k"), await leaf.get_bytes("k"), await leaf.list_keys("")


def cached(leaf: GatedStore) -> Caching:
    return Caching(leaf, negative_ttl=9.0, list_ttl=9.0)


@every_write
async def test_write_is_seen_by_the_next_read(write: Write) -> None:
    leaf = GatedStore()
    leaf._data["k"] = "old"
    store = cached(leaf)
    await read(store)
    await write(store)
    assert await read(store) == await truth(leaf)


@every_write
@pytest.mark.parametrize("operation", ["get_string", "get_bytes", "list_keys"])
async def test_read_begun_before_a_write_is_not_remembered(write: Write, operation: str) -> None:
    leaf = Held(operation)
    store = cached(leaf)
    early = asyncio.create_task(read(store))
    await until(lambda: operation in leaf.calls)
    await write(store)
    leaf.release.set()
    await early
    assert await read(store) == await truth(leaf)


async def test_read_begun_before_a_write_ended_is_not_joined_after_it() -> None:
    leaf = Held("get_string")
    store = cached(leaf)
    early = asyncio.create_task(store.get_string("k"))
    await leaf.reached(1)
    await store.put("k", "new")
    assert await store.get_string("k") == "new"
    leaf.release.set()
    assert await early == "old"


async def test_read_begun_during_a_write_is_not_remembered() -> None:
    leaf = Held("put")
    store = cached(leaf)
    write = asyncio.create_task(store.put("k", "new"))
    await leaf.reached(1)
    leaf._data["k"] = "old"  # as if the write had not landed yet
    assert await store.get_string("k") == "old"
    leaf._data["k"] = "new"
    assert await store.get_string("k") == "new"
    leaf.release.set()
    await write


async def test_read_during_a_write_does_not_get_what_was_remembered_before_it() -> None:
    leaf = Held("put")
    store = cached(leaf)
    await store.get_string("k")
    write = asyncio.create_task(store.put("k", "new"))
    await leaf.reached(2)
    assert await store.get_string("k") == "new"
    leaf.release.set()
    await write


async def test_read_begun_during_a_write_is_not_joined_after_it() -> None:
    leaf = Held("put")
    store = cached(leaf)
    write = asyncio.create_task(store.put("k", "new"))
    await leaf.reached(1)
    leaf._data["k"] = "old"
    leaf.gate.clear()
    early = asyncio.create_task(store.get_string("k"))
    await leaf.reached(2)
    leaf._data["k"] = "new"
    leaf.release.set()
    await write
    late = asyncio.create_task(store.get_string("k"))
    await leaf.reached(3)
    leaf.gate.set()
    assert (await early, await late) == ("old", "new")


async def test_read_begun_during_a_write_and_answered_after_it_is_not_remembered() -> None:
    leaf = Held("put")
    store = cached(leaf)
    write = asyncio.create_task(store.put("k", "new"))
    await leaf.reached(1)
    leaf._data["k"] = "old"
    leaf.gate.clear()
    early = asyncio.create_task(store.get_string("k"))
    await leaf.reached(2)
    leaf._data["k"] = "new"
    leaf.release.set()
    await write
    leaf.gate.set()
    assert await early == "old"
    assert await store.get_string("k") == "new"


@every_write
async def test_failed_write_leaves_nothing_remembered(write: Write) -> None:
    leaf = GatedStore()
    leaf._data["k"] = "old"
    store = cached(leaf)
    await read(store)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await write(store)
    assert await read(store) == await truth(leaf)


@every_write
async def test_cancelled_write_that_lands_later_is_seen(write: Write) -> None:
    leaf = GatedStore()
    leaf._data["k"] = "old"
    store = cached(leaf)
    await read(store)
    leaf.gate.clear()
    task = asyncio.ensure_future(write(store))
    await leaf.reached(4)
    task.cancel()
    await asyncio.wait([task])
    leaf.gate.set()
    leaf._data["k"] = "old"
    await read(store)
    leaf._data["k"] = "landed late"
    assert await read(store) == await truth(leaf)


async def test_key_is_remembered_again_once_an_unclear_write_can_no_longer_land(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    for module in (memory, entries):
        monkeypatch.setattr(module, "monotonic", lambda: now)
    leaf = GatedStore()
    store = Caching(leaf, ttl=300.0)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await store.put("k", "new")
    for turn in range(3):
        now = 1000.0 + 30.5 * turn
        await store.get_string("k")
        await store.get_string("k")
    assert (store.stats().hits, store.stats().misses) == (1, 5)


async def test_refused_write_does_not_keep_the_key_out_of_the_cache() -> None:
    leaf = GatedStore()
    store = Caching(leaf)
    await leaf.put("k", "body")
    leaf.failure = InvalidKeyError("refused")
    with pytest.raises(InvalidKeyError):
        await store.put("k", "new")
    await store.get_string("k")
    await store.get_string("k")
    assert store.stats().hits == 1


async def test_only_the_keys_that_delete_many_failed_on_are_unclear() -> None:
    leaf = GatedStore()
    store = Caching(leaf, negative_ttl=9.0)
    leaf.failure = DeleteManyError({"failed": StoreUnavailableError("down")})
    with pytest.raises(DeleteManyError):
        await store.delete_many(["deleted", "failed"])
    for key in ("deleted", "failed"):
        for _ in range(2):
            await store.get_string(key)
    assert (store.stats().hits, store.stats().misses) == (1, 3)


async def test_two_writes_at_once_keep_the_key_out_until_both_end() -> None:
    leaf = Held("put")
    store = cached(leaf)
    first = asyncio.create_task(store.put("k", "first"))
    await leaf.reached(1)
    await store.put("k", "second")
    for _ in range(2):
        await store.get_string("k")
    assert store.stats().hits == 0
    leaf.release.set()
    await first
    for _ in range(2):
        await store.get_string("k")
    assert store.stats().hits == 1


def test_a_write_given_up_may_be_collected_while_the_cache_is_at_work() -> None:
    """The collector runs at any moment, also in a thread that has the cache locked."""

    class Stuck(MemoryObjectStore):
        async def put(self, *_: Any, **__: Any) -> None:
            await asyncio.get_running_loop().create_future()

    store = Caching(Stuck(data={}))
    writing = store.put("k", "v")
    loop = asyncio.new_event_loop()
    loop.call_soon(writing.send, None)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    with store._memory._lock:
        writing.close()
    assert store._memory._writing == {}
