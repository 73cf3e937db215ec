"""No read in flight when a write ends puts the old value back, whatever the outcome of the write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from layers.gated import GatedStore, Held, until
from starfish_server.errors import (
    BucketNotFoundError,
    CircuitOpenError,
    DeleteManyError,
    KeyConflictError,
    StoreAccessDeniedError,
    StoreError,
    StoreOverloadedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers.caching import Caching
from starfish_server.layers.retry import Retry
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

Write = Callable[[Caching], Coroutine[None, None, object]]
WRITES: dict[str, Write] = {
    "put": lambda store: store.put("k", "new"),
    "put_bytes": lambda store: store.put_bytes("k", b"new", content_type="text/plain"),
    "write": lambda store: store.write("k", "new"),
    "upload": lambda store: store.upload("k", [b"n", b"ew"]),
    "copy": lambda store: store.copy("source", "k"),
    "delete": lambda store: store.delete("k"),
    "delete_many": lambda store: store.delete_many(["other", "k"]),
}
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


async def read(store: AbstractObjectStore) -> list[object]:
    """Read the object in every way, each of which replaces or widens what is cached."""
    return [
        await store.get_string("k"),
        await store.get_bytes("k"),
        await store.read("k"),
        await store.stat("k"),
        await store.list_keys(""),
        await store.list_objects(""),
    ]


def stored() -> GatedStore:
    return GatedStore({"k": "old", "source": "new"})


def cached(leaf: GatedStore) -> Caching:
    return Caching(leaf, negative_ttl=9.0, list_ttl=9.0)


@every_write
async def test_write_is_seen_by_the_next_read(write: Write) -> None:
    leaf = stored()
    store = cached(leaf)
    await read(store)
    await write(store)
    assert await read(store) == await read(leaf)


@every_write
@pytest.mark.parametrize("operation", ["get_string", "get_bytes", "read", "list_keys", "list_objects"])
async def test_read_begun_before_a_write_is_not_cached(write: Write, operation: str) -> None:
    leaf = Held(operation)
    leaf.data["source"] = "new"
    store = cached(leaf)
    early = asyncio.create_task(read(store))
    await until(lambda: operation in leaf.calls)
    await write(store)
    leaf.release.set()
    await early
    assert await read(store) == await read(leaf)


async def test_read_begun_before_a_write_ended_is_not_shared_after_it() -> None:
    leaf = Held("get_string")
    store = cached(leaf)
    early = asyncio.create_task(store.get_string("k"))
    await leaf.reached(1)
    await store.put("k", "new")
    assert await store.get_string("k") == "new"
    leaf.release.set()
    assert await early == "old"


async def test_read_begun_during_a_write_is_not_cached() -> None:
    leaf = Held("put")
    store = cached(leaf)
    write = asyncio.create_task(store.put("k", "new"))
    await leaf.reached(1)
    leaf.data["k"] = "old"  # as if the write had not landed yet
    assert await store.get_string("k") == "old"
    leaf.data["k"] = "new"
    assert await store.get_string("k") == "new"
    leaf.release.set()
    await write


async def test_read_during_a_write_does_not_get_what_was_cached_before_it() -> None:
    leaf = Held("put")
    store = cached(leaf)
    await store.get_string("k")
    write = asyncio.create_task(store.put("k", "new"))
    await leaf.reached(2)
    assert await store.get_string("k") == "new"
    leaf.release.set()
    await write


async def test_read_begun_during_a_write_is_not_shared_after_it() -> None:
    leaf = Held("put")
    store = cached(leaf)
    write = asyncio.create_task(store.put("k", "new"))
    await leaf.reached(1)
    leaf.data["k"] = "old"
    leaf.gate.clear()
    early = asyncio.create_task(store.get_string("k"))
    await leaf.reached(2)
    leaf.data["k"] = "new"
    leaf.release.set()
    await write
    late = asyncio.create_task(store.get_string("k"))
    await leaf.reached(3)
    leaf.gate.set()
    assert (await early, await late) == ("old", "new")


async def test_read_begun_during_a_write_and_answered_after_it_is_not_cached() -> None:
    leaf = Held("put")
    store = cached(leaf)
    write = asyncio.create_task(store.put("k", "new"))
    await leaf.reached(1)
    leaf.data["k"] = "old"
    leaf.gate.clear()
    early = asyncio.create_task(store.get_string("k"))
    await leaf.reached(2)
    leaf.data["k"] = "new"
    leaf.release.set()
    await write
    leaf.gate.set()
    assert await early == "old"
    assert await store.get_string("k") == "new"


@every_write
async def test_failed_write_leaves_nothing_cached(write: Write) -> None:
    leaf = stored()
    store = cached(leaf)
    await read(store)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await write(store)
    assert await read(store) == await read(leaf)


@every_write
async def test_cancelled_write_that_lands_later_is_seen(write: Write) -> None:
    leaf = stored()
    store = cached(leaf)
    await read(store)
    leaf.gate.clear()
    before = len(leaf.calls)
    task = asyncio.ensure_future(write(store))
    await leaf.reached(before + 1)
    task.cancel()
    await asyncio.wait([task])
    leaf.gate.set()
    leaf.data["k"] = "old"
    await read(store)
    leaf.data["k"] = "landed late"
    assert await read(store) == await read(leaf)


async def test_key_is_cached_again_once_an_undetermined_write_can_no_longer_land() -> None:
    now = 1000.0
    leaf = GatedStore()
    store = Caching(leaf, ttl=300.0, clock=lambda: now)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await store.put("k", "new")
    for turn in range(3):
        now = 1000.0 + 30.5 * turn
        await store.get_string("k")
        await store.get_string("k")
    assert (store.stats().hits, store.stats().misses) == (1, 5)


async def test_key_is_kept_out_of_the_cache_no_longer_than_an_entry_may_live() -> None:
    now = 1000.0
    leaf = GatedStore({"k": "body"})
    store = Caching(leaf, ttl=5.0, clock=lambda: now)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await store.put("k", "new")
    now += 5.1
    assert [await store.get_string("k"), await store.get_string("k")] == ["new", "new"]
    assert store.stats().hits == 1


async def test_key_that_fails_again_does_not_keep_another_one_out_for_longer() -> None:
    now = 1000.0
    leaf = GatedStore({"first": "body", "second": "body"})
    store = Caching(leaf, ttl=300.0, clock=lambda: now)
    for moment, key in ((1000.0, "first"), (1001.0, "second"), (1050.0, "first")):
        now = moment
        leaf.failure = StoreUnavailableError("reply lost")
        with pytest.raises(StoreUnavailableError):
            await store.put(key, "new")
    now = 1062.0
    for key in ("first", "second"):
        assert [await store.get_string(key), await store.get_string(key)] == ["new", "new"]
    assert store.stats().hits == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.put("../k", "new"),
        lambda store: store.put("k", "\ud800"),
        lambda store: store.put("k", b"bytes"),
        lambda store: store.put("k", "new", content_type="a\nb"),
        lambda store: store.put_bytes("k", "text", content_type="text/plain"),
        lambda store: store.write("k", "new", if_version="stale"),
        lambda store: store.write("k", "new", metadata={"a b": "c"}),
        lambda store: store.upload("k", b"body"),
        lambda store: store.copy("missing", "k"),
        lambda store: store.delete_many(["k", "../k"]),
    ],
    ids=["key", "text", "body", "header", "bytes", "version", "metadata", "chunks", "source", "keys"],
)
async def test_refused_write_does_not_keep_the_key_out_of_the_cache(write: Write) -> None:
    store = Caching(MemoryObjectStore(data={"k": "body"}))
    with pytest.raises((StoreError, ValueError, TypeError)):
        await write(store)
    assert [await store.get_string("k"), await store.get_string("k")] == ["body", "body"]
    assert (store.stats().hits, store.stats().misses) == (1, 1)


async def test_conflict_that_may_be_with_an_earlier_attempt_keeps_the_key_out_of_the_cache() -> None:
    lost, unreadable = Fault(StoreUnavailableError, after=True), Fault(StoreAccessDeniedError)
    leaf = FaultyStore(MemoryObjectStore(data={}), {"write": [lost], "read": [unreadable]})
    store = Caching(Retry(leaf, initial=1e-6))
    with pytest.raises(VersionConflictError):
        await store.write("k", "new", if_version=None)
    assert [await store.get_string("k"), await store.get_string("k")] == ["new", "new"]
    assert store.stats().hits == 0


@pytest.mark.parametrize(
    "error", [CircuitOpenError, StoreAccessDeniedError, BucketNotFoundError, KeyConflictError]
)
async def test_write_that_was_not_done_does_not_keep_the_key_out(error: type[StoreError]) -> None:
    leaf = GatedStore({"k": "body"})
    store = Caching(leaf)
    leaf.failure = error("no")
    with pytest.raises(error):
        await store.put("k", "new")
    await store.get_string("k")
    await store.get_string("k")
    assert store.stats().hits == 1


async def test_copy_leaves_its_source_cached() -> None:
    leaf = stored()
    store = Caching(leaf)
    await store.get_string("source")
    await store.copy("source", "k")
    await store.get_string("source")
    assert store.stats().hits == 1


@pytest.mark.parametrize(
    "failure", [UnicodeError("unreadable reply"), OSError("reset"), StoreOverloadedError("full")]
)
async def test_write_that_may_have_reached_the_backend_keeps_the_key_out(failure: Exception) -> None:
    leaf = GatedStore({"k": "body"})
    store = Caching(leaf)
    leaf.failure = failure
    with pytest.raises(type(failure)):
        await store.put("k", "new")
    await store.get_string("k")
    await store.get_string("k")
    assert store.stats().hits == 0


async def test_concurrent_reads_after_an_undetermined_write_make_at_most_two_backend_reads() -> None:
    leaf = GatedStore({"k": "body"})
    store = Caching(leaf)
    leaf.failure = StoreOverloadedError("full")
    with pytest.raises(StoreOverloadedError):
        await store.put("k", "new")
    leaf.gate.clear()
    first = asyncio.create_task(store.get_string("k"))
    await leaf.reached(2)
    others = [asyncio.create_task(store.get_string("k")) for _ in range(50)]
    await until(lambda: store.stats().shared == 49)
    leaf.gate.set()
    assert await asyncio.gather(first, *others) == ["new"] * 51
    assert leaf.calls == ["put", "get_string", "get_string"]


async def test_read_after_an_undetermined_write_shares_no_read_that_began_before_it() -> None:
    leaf = GatedStore({"k": "old"})
    store = Caching(leaf)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await store.put("k", "new")
    leaf.data["k"] = "old"
    leaf.gate.clear()
    early = asyncio.create_task(store.get_string("k"))
    await leaf.reached(2)
    leaf.data["k"] = "landed late"
    late = asyncio.create_task(store.get_string("k"))
    await until(lambda: store.stats().misses == 2)
    leaf.gate.set()
    assert (await early, await late) == ("old", "landed late")


async def test_cancelling_a_read_that_waits_behind_another_one_leaves_that_one_alone() -> None:
    leaf = GatedStore({"k": "body"})
    store = Caching(leaf)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await store.delete("k")
    leaf.gate.clear()
    first = asyncio.create_task(store.get_string("k"))
    await leaf.reached(2)
    second = asyncio.create_task(store.get_string("k"))
    await until(lambda: store.stats().misses == 2)
    second.cancel()
    await asyncio.wait([second])
    leaf.gate.set()
    assert await first is None
    assert leaf.calls == ["delete", "get_string"]


async def test_only_the_keys_that_delete_many_failed_on_are_undetermined() -> None:
    leaf = GatedStore()
    store = Caching(leaf, negative_ttl=9.0)
    leaf.failure = DeleteManyError({"failed": StoreUnavailableError("down")})
    with pytest.raises(DeleteManyError):
        await store.delete_many(["deleted", "failed"])
    for key in ("deleted", "failed"):
        for _ in range(2):
            await store.get_string(key)
    assert (store.stats().hits, store.stats().misses) == (1, 3)


async def test_two_concurrent_writes_keep_the_key_out_until_both_end() -> None:
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


def test_an_abandoned_write_may_be_collected_while_the_cache_is_at_work() -> None:
    """The collector runs at any moment, also in a thread that is changing the cache."""
    collected: list[bool] = []

    class Stuck(MemoryObjectStore):
        context_dependent = False

        async def put(self, *_: Any, **__: Any) -> None:
            await asyncio.get_running_loop().create_future()

    def clock() -> float:
        if not collected:
            collected.append(True)
            writing.close()
        return 0.0

    store = Caching(Stuck(data={"k": "body", "other": "body"}), clock=clock)
    writing = store.put("k", "v")
    loop = asyncio.new_event_loop()
    loop.call_soon(writing.send, None)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()

    async def reads() -> list[str | None]:
        return [await store.get_string("other") for _ in range(3)]

    asyncio.run(asyncio.wait_for(reads(), 100.0))
    assert collected == [True]
    assert store.stats().hits == 2
