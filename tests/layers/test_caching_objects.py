"""What `Caching` answers from an object that it holds, and what it asks the backend for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from layers.gated import GatedStore, Held, until
from starfish_server.context import StoreContext
from starfish_server.errors import StoreDecodeError, StoreNotSupportedError, VersionConflictError
from starfish_server.layers.caching import Caching
from starfish_server.objects import ObjectReader
from starfish_server.operations import Stat
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing import RecordingStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


READS: dict[str, Callable[[AbstractObjectStore], Awaitable[Any]]] = {
    "get_string": lambda store: store.get_string("k"),
    "get_bytes": lambda store: store.get_bytes("k"),
    "stat": lambda store: store.stat("k"),
    "read": lambda store: store.read("k"),
    "range": lambda store: store.read("k", start=1, stop=3),
    "range past the end": lambda store: store.read("k", start=99),
    "open": lambda store: store.open("k"),
    "open range": lambda store: store.open("k", start=2),
}
every_read = pytest.mark.parametrize("read", READS.values(), ids=READS)


async def result(reading: Awaitable[Any]) -> Any:
    """Return the result of a read, of a stream its info and its bytes."""
    found = await reading
    return (found.info, await found.read()) if isinstance(found, ObjectReader) else found


async def answered(*, first: str, then: str) -> bool:
    """Return whether what one operation cached answers another one."""
    store = Caching(GatedStore({"k": "body"}))
    await result(READS[first](store))
    await result(READS[then](store))
    return store.stats().hits == 1


@every_read
async def test_whole_object_answers_as_the_leaf_does(read: Callable[[AbstractObjectStore], Any]) -> None:
    leaf = GatedStore()
    await leaf.write("k", "body", content_type="text/x", cache_control="no-store", metadata={"a": "b"})
    store = Caching(leaf)
    await store.read("k")
    calls = len(leaf.calls)
    from_cache = [await result(read(store)) for _ in range(2)]
    assert len(leaf.calls) == calls
    assert from_cache == [await result(read(leaf))] * 2


async def test_whole_object_that_is_not_text_is_refused_as_text() -> None:
    store = Caching(GatedStore({"k": b"\xff"}))
    for read in (store.read, store.get_bytes):
        await read("k")
        with pytest.raises(StoreDecodeError) as caught:
            await store.get_string("k")
        assert (caught.value.operation, caught.value.key) == ("get_string", "k")


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ("get_bytes", "get_string", True),
        ("get_string", "get_bytes", False),
        ("get_string", "read", False),
        ("get_bytes", "stat", False),
        ("get_bytes", "open", False),
        ("range", "range", False),
        ("range", "stat", False),
        ("open", "open", False),
        ("stat", "stat", False),
    ],
)
async def test_what_is_cached_answers_only_what_it_tells(first: str, then: str, expected: bool) -> None:
    assert await answered(first=first, then=then) is expected


async def test_range_that_is_not_cached_reaches_the_backend_as_a_range() -> None:
    leaf = RecordingStore(MemoryObjectStore(data={"k": "body"}))
    store = Caching(leaf)
    await store.read("k", start=1, stop=3)
    await result(store.open("k", start=2))
    seen = [(call.name, getattr(call, "start", None), getattr(call, "stop", None)) for call in leaf.calls]
    assert seen == [("read", 1, 3), ("open", 2, None)]


@pytest.mark.parametrize(
    "options", [{"start": -1}, {"start": 2, "stop": 1}, {"start": False}, {"stop": True}]
)
@pytest.mark.parametrize("cached", [True, False])
async def test_invalid_range_is_refused(options: dict[str, Any], cached: bool) -> None:
    store = Caching(GatedStore({"k": "body"}))
    if cached:
        await store.read("k")
    for read in (store.read, store.open):
        with pytest.raises((ValueError, TypeError)):
            await read("k", **options)


@every_read
async def test_missing_object_is_missing_for_every_read(read: Callable[[AbstractObjectStore], Any]) -> None:
    leaf = GatedStore()
    store = Caching(leaf, negative_ttl=5.0)
    assert await store.get_string("k") is None
    assert await result(read(store)) is None
    assert leaf.calls == ["get_string"]


async def test_operation_that_the_store_does_not_have_is_not_answered() -> None:
    class TextOnly(AbstractObjectStore):
        context_dependent = False

        async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
            return "body"

        put = list_keys = delete = delete_many = get_string  # type: ignore[assignment]  # never called

    store = Caching(TextOnly())
    assert (await result(store.read("k"))).body == b"body"
    with pytest.raises(StoreNotSupportedError):
        await store.get_bytes("k")


async def test_signed_urls_are_made_by_the_backend() -> None:
    class Signing(GatedStore):
        context_dependent = False

        async def signed_url(self, key: str, **_: Any) -> str:
            self.calls.append("signed_url")
            return "https://example.org"

    leaf = Signing()
    store = Caching(leaf)
    assert [await store.signed_url("k"), await store.signed_url("k")] == ["https://example.org"] * 2
    assert leaf.calls == ["signed_url"] * 2


async def test_concurrent_reads_of_a_whole_object_are_shared() -> None:
    leaf = GatedStore({"k": "body"})
    store = Caching(leaf)
    leaf.gate.clear()
    tasks = [asyncio.create_task(result(store.read("k"))) for _ in range(5)]
    await until(lambda: store.stats().misses + store.stats().shared == 5)
    leaf.gate.set()
    assert {found.body for found in await asyncio.gather(*tasks)} == {b"body"}
    assert leaf.calls == ["read"]


async def test_invalid_range_is_refused_though_a_read_of_the_whole_object_is_in_flight() -> None:
    leaf = GatedStore({"k": "body"})
    store = Caching(leaf)
    leaf.gate.clear()
    valid = asyncio.create_task(result(store.read("k")))
    await leaf.reached(1)
    invalid = asyncio.create_task(result(store.read("k", start=False)))
    await until(invalid.done)
    assert isinstance(invalid.exception(), TypeError)
    leaf.gate.set()
    assert (await valid).body == b"body"


async def test_read_that_is_not_cached_is_a_miss() -> None:
    store = Caching(MemoryObjectStore(data={"k": "body"}))
    operation = Stat("k").observed()
    await store.perform(operation)
    assert (operation.notes, store.stats().misses) == ({"cache": "miss"}, 1)


@pytest.mark.parametrize("cached", ["get_string", "get_bytes"])
@pytest.mark.parametrize("seen_by", ["stat", "range", "open", "read"])
async def test_caller_that_has_seen_an_object_is_not_answered_with_an_older_one(
    cached: str, seen_by: str
) -> None:
    leaf = GatedStore({"k": "old"})
    store = Caching(leaf)
    await result(READS[cached](store))
    leaf.data["k"] = "by another process"
    await result(READS[seen_by](store))
    assert await store.get_string("k") == "by another process"


async def test_whole_object_too_large_to_cache_drops_what_was_cached() -> None:
    leaf = GatedStore({"k": "old"})
    store = Caching(leaf, max_object_bytes=10)
    await store.get_string("k")
    leaf.data["k"] = "by another process"
    await store.read("k")
    assert await store.get_string("k") == "by another process"


@pytest.mark.parametrize("seen_by", ["stat", "get_bytes", "read"])
async def test_read_that_ends_after_a_newer_one_is_not_cached(seen_by: str) -> None:
    leaf = Held("get_string")
    store = Caching(leaf)
    early = asyncio.create_task(result(store.get_string("k")))
    await leaf.reached(1)
    leaf.data["k"] = "by another process"
    await result(READS[seen_by](store))
    leaf.release.set()
    assert await early == "old"
    assert await store.get_string("k") == "by another process"


async def test_read_begun_before_a_newer_one_is_not_shared_after_it() -> None:
    leaf = Held("get_bytes")
    store = Caching(leaf)
    early = asyncio.create_task(result(store.get_bytes("k")))
    await leaf.reached(1)
    leaf.data["k"] = "by another process"
    assert await store.get_string("k") == "by another process"
    late = asyncio.create_task(result(store.get_bytes("k")))
    await until(late.done)
    assert late.result()[0] == b"by another process"
    leaf.release.set()
    assert (await early)[0] == b"old"


@pytest.mark.parametrize("name", ["read", "stat", "open"])
async def test_read_before_a_push_asks_the_backend_and_drops_what_was_cached(name: str) -> None:
    leaf = GatedStore({"k": "old"})
    store = Caching(leaf)
    await store.read("k")
    leaf.data["k"] = "by another process"
    context = StoreContext("c", {}, "alice", (), "push")
    found = await result(getattr(store, name)("k", context=context))
    assert found == await result(READS[name](leaf))
    assert await store.get_string("k") == "by another process"


async def test_conditional_write_with_a_stale_version_is_a_conflict() -> None:
    leaf = MemoryObjectStore(data={})
    store = Caching(leaf)
    await leaf.write("k", "old")
    await store.read("k")
    newer = await leaf.write("k", "by another process")
    stale = (await result(store.read("k"))).info.version
    with pytest.raises(VersionConflictError):
        await store.write("k", "mine", if_version=stale)
    assert (await result(leaf.read("k"))).info == newer


@pytest.mark.parametrize("name", ["write", "upload", "copy"])
async def test_reader_that_loops_on_conflicts_gets_the_version_that_is_there(name: str) -> None:
    leaf = MemoryObjectStore(data={})
    store = Caching(leaf)
    await leaf.write("source", "mine")
    await leaf.write("k", "old")
    await store.read("k")
    await leaf.write("k", "by another process")
    conflicts = 0
    while True:
        version = (await result(store.read("k"))).info.version
        try:
            if name == "copy":
                await store.copy("source", "k", if_version=version)
            elif name == "upload":
                await store.upload("k", [b"mine"], if_version=version)
            else:
                await store.write("k", "mine", if_version=version)
            break
        except VersionConflictError:
            conflicts += 1
            assert conflicts == 1
    assert (await store.get_string("k"), conflicts) == ("mine", 1)
