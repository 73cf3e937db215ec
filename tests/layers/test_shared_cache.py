"""`Caching(shared=RedisCache(...))` against a real redis-server: hits, coherence, leases."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from layers.gated import GatedStore
from layers.processes import settled
from starfish_server import MemoryObjectStore, StoreContext
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers import AccessLog, Caching, RedisCache
from starfish_server.objects import ObjectInfo, StoredObject
from starfish_server.testing import check_store
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from layers.processes import Processes
    from redis_server import RedisServer


async def test_what_one_process_read_another_gets_from_redis(process: Processes) -> None:
    leaf = GatedStore({"k": "v"})
    first, second = process(leaf), process(leaf)
    assert await first.get_string("k") == "v"
    await settled(first)
    await settled(second)
    calls = len(leaf.calls)
    assert await second.get_string("k") == "v"
    assert len(leaf.calls) == calls
    assert second.stats().remote_hits == 1
    assert second.stats().connected
    assert await second.get_string("k") == "v"
    assert (second.stats().hits, second.stats().remote_hits) == (1, 1)


async def test_a_whole_object_answers_every_kind_of_read(process: Processes) -> None:
    leaf = MemoryObjectStore(data={})
    first, second = process(leaf), process(leaf)
    await leaf.write("k", b"0123456789", content_type="text/x", cache_control="no-cache", metadata={"a": "b"})
    found = await first.read("k")
    assert found is not None
    await settled(first)
    assert await second.stat("k") == found.info
    part = await second.read("k", start=2, stop=5)
    assert part == StoredObject(found.info, b"234")
    reader = await second.open("k")
    assert reader is not None
    assert await reader.read() == b"0123456789"
    assert await second.get_bytes("k") == (b"0123456789", "text/x")
    third = process(leaf)
    assert await third.get_string("k") == "0123456789"
    assert await third.read("k") == found
    assert (second.stats().remote_hits, third.stats().remote_hits) == (4, 2)


async def test_an_entry_that_knows_too_little_is_not_used(process: Processes) -> None:
    leaf = MemoryObjectStore(data={})
    await leaf.write("k", b"v", content_type="text/x")
    first, second = process(leaf), process(leaf)
    await first.get_string("k")
    await settled(first)
    assert await second.get_bytes("k") == (b"v", "text/x")
    info = await second.stat("k")
    assert info is not None
    assert info.content_type == "text/x"
    assert second.stats().remote_hits == 0


async def test_a_hit_from_redis_is_noted_and_counted_as_remote(process: Processes) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    records: list[Any] = []

    first = process(leaf)
    await first.get_string("k")
    await settled(first)
    log = AccessLog(process(leaf), sink=records.append)
    await log.get_string("k")
    assert [record.cache for record in records] == ["remote-hit"]


async def test_after_a_write_returned_every_process_reads_the_new_value(
    process: Processes,
) -> None:
    leaf = MemoryObjectStore(data={"k": "old"})
    stores = [process(leaf) for _ in range(3)]
    for store in stores:
        assert await store.get_string("k") == "old"
    for number, writer in enumerate(stores):
        await writer.put("k", f"new {number}")
        assert await writer.get_string("k") == f"new {number}"
        for other in stores:
            await settled(other)  # its reply comes after the message
            assert await other.get_string("k") == f"new {number}"


async def test_every_kind_of_write_shows_in_other_processes(process: Processes) -> None:
    leaf = MemoryObjectStore(data={"k": "old", "other": "copied"})
    writer, reader = process(leaf), process(leaf, negative_ttl=60.0, list_ttl=60.0)
    writes: list[tuple[Callable[[], Any], str | None]] = [
        (lambda: writer.put("k", "1"), "1"),
        (lambda: writer.put_bytes("k", b"2", content_type="text/plain"), "2"),
        (lambda: writer.write("k", "3"), "3"),
        (lambda: writer.upload("k", [b"4"]), "4"),
        (lambda: writer.copy("other", "k"), "copied"),
        (lambda: writer.delete("k"), None),
        (lambda: writer.put("k", "5"), "5"),
        (lambda: writer.delete_many(["k", "m"]), None),
    ]
    for write, expected in writes:
        await reader.get_string("k")
        await reader.list_keys("")
        await write()
        await settled(reader)
        assert await reader.get_string("k") == expected
        assert ("k" in await reader.list_keys("")) == (expected is not None)


async def test_delete_many_of_thousands_of_keys_shows_in_other_processes(
    process: Processes,
) -> None:
    keys = [f"k{number}" for number in range(2500)]
    leaf = MemoryObjectStore(data=dict.fromkeys(keys, "v"))
    writer, reader = process(leaf), process(leaf)
    for key in keys[::100]:
        assert await reader.get_string(key) == "v"
    await writer.delete_many(keys)
    await settled(reader)
    assert [await reader.get_string(key) for key in keys[::100]] == [None] * 25


async def test_a_fill_that_began_before_a_write_never_lands_after_it(process: Processes) -> None:
    leaf = GatedStore({"k": "old"})
    slow, writer = process(leaf), process(MemoryObjectStore(data=leaf.data))
    leaf.gate.clear()
    reading = asyncio.ensure_future(slow.get_string("k"))
    await eventually(lambda: leaf.calls == ["get_string"])
    await writer.put("k", "new")
    leaf.gate.set()
    assert await reading == "old"
    await settled(slow)
    assert await process(MemoryObjectStore(data=leaf.data)).get_string("k") == "new"
    assert await slow.get_string("k") == "new"


async def test_a_read_while_another_process_writes_is_cached_nowhere(
    process: Processes, server: RedisServer
) -> None:
    leaf = GatedStore({"k": "old"})
    writer, reader = process(leaf), process(MemoryObjectStore(data=leaf.data))
    leaf.gate.clear()
    writing = asyncio.ensure_future(writer.put("k", "new"))
    await eventually(lambda: leaf.calls == ["put"])
    leaf.data["k"] = "old"  # the write has not landed yet
    late = process(MemoryObjectStore(data=leaf.data))  # was not there to hear of it
    for store in (reader, late):
        assert await store.get_string("k") == "old"
        await settled(store)
        assert store.stats().bytes == 0
    assert [name for name in server.names() if ":e:" in name] == []
    leaf.data["k"] = "new"
    leaf.gate.set()
    await writing
    for store in (reader, late):
        await settled(store)
        assert await store.get_string("k") == "new"


async def test_only_one_of_the_processes_that_miss_fills(process: Processes) -> None:
    leaf = GatedStore({"k": "v"})
    stores = [process(leaf) for _ in range(3)]
    for store in stores:
        await settled(store)
    leaf.gate.clear()
    reads = [asyncio.ensure_future(store.get_string("k")) for store in stores]
    await eventually(lambda: leaf.calls.count("get_string") == 3)
    leaf.gate.set()
    assert await asyncio.gather(*reads) == ["v"] * 3
    for store in stores:
        await settled(store)
    assert await process(leaf).get_string("k") == "v"
    assert leaf.calls.count("get_string") == 3


async def test_a_read_that_fails_gives_its_lease_back(process: Processes, server: RedisServer) -> None:
    leaf = GatedStore({"k": "v"})
    store = process(leaf)
    leaf.failure = StoreUnavailableError("down")
    with pytest.raises(StoreUnavailableError):
        await store.get_string("k")
    assert await store.get_string("missing") is None
    leaf.gate.clear()
    reading = asyncio.ensure_future(store.get_string("k"))
    await eventually(lambda: leaf.calls.count("get_string") == 3)
    reading.cancel()
    await asyncio.wait([reading])
    leaf.gate.set()
    await settled(store)
    assert server.names() == []


async def test_a_write_of_undetermined_outcome_keeps_its_key_out_of_every_cache(
    process: Processes,
) -> None:
    leaf = GatedStore({"k": "old"})
    writer, reader = process(leaf), process(MemoryObjectStore(data=leaf.data))
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await writer.put("k", "lost")
    await settled(reader)
    leaf.data["k"] = "old"
    assert await reader.get_string("k") == "old"
    await settled(reader)
    leaf.data["k"] = "landed late"
    assert await reader.get_string("k") == "landed late"
    assert await process(MemoryObjectStore(data=leaf.data)).get_string("k") == "landed late"


async def test_a_write_of_undetermined_outcome_keeps_its_lists_out_of_every_cache(
    process: Processes,
) -> None:
    leaf = GatedStore({})
    writer, reader = process(leaf), process(MemoryObjectStore(data=leaf.data), list_ttl=60.0)
    await settled(reader)
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await writer.put("k", "lost")
    await settled(reader)
    del leaf.data["k"]
    assert await reader.list_keys("") == []
    leaf.data["k"] = "landed late"
    assert await reader.list_keys("") == ["k"]


async def test_a_write_that_wrote_nothing_leaves_the_key_cacheable(process: Processes) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    writer, reader = process(leaf), process(leaf)
    with pytest.raises(ValueError, match="content_type"):
        await writer.put("k", "v", content_type="\n")
    await settled(reader)
    assert await reader.get_string("k") == "v"
    await settled(reader)
    assert await writer.get_string("k") == "v"
    assert writer.stats().remote_hits == 1


async def test_a_cancelled_write_is_told_to_the_others(process: Processes) -> None:
    leaf = GatedStore({"k": "old"})
    writer, reader = process(leaf), process(MemoryObjectStore(data=leaf.data))
    assert await reader.get_string("k") == "old"
    leaf.gate.clear()
    writing = asyncio.ensure_future(writer.put("k", "new"))
    await eventually(lambda: leaf.calls == ["put"])
    writing.cancel()
    await asyncio.wait([writing])
    await settled(reader)
    assert await reader.get_string("k") == "new"


async def test_reads_that_precede_a_write_ask_the_backend_and_drop_the_entry(
    process: Processes, server: RedisServer
) -> None:
    leaf = MemoryObjectStore(data={"k": "old"})
    store = process(leaf)
    await store.read("k")
    await settled(store)
    await leaf.put("k", "new")  # not through a cache
    found = await store.read("k", context=StoreContext("c", {}, None, (), "push"))
    assert found is not None
    assert found.body == b"new"
    await settled(store)
    assert server.names() == []
    assert await process(leaf).get_string("k") == "new"


async def test_a_write_that_tells_no_keys_drops_everything(process: Processes) -> None:
    from dataclasses import dataclass

    from starfish_server.operations import Bodies, Kind, Operation

    @dataclass(slots=True, eq=False)
    class Wipe(Operation[None]):
        context: StoreContext | None = None
        notes: dict[str, Any] | None = None
        kind = Kind("wipe", "delete", Bodies.NONE, True)

        @property
        def keys(self) -> tuple[str, ...]:
            return ()

        async def send(self, store: Any) -> None:
            store.data.clear()

        def rename(self, change: Any) -> Any:
            return self

        def restore(self, result: Any, change: Any) -> Any:
            return result

    leaf = GatedStore({"a": "1", "b": "2"})
    writer, reader = process(leaf), process(leaf)
    await reader.get_string("a")
    await writer.get_string("b")
    await settled(writer)
    await settled(reader)
    await writer.perform(Wipe())
    await settled(reader)
    for store in (writer, reader, process(leaf)):
        assert [await store.get_string("a"), await store.get_string("b")] == [None, None]
    await writer.put("a", "3")
    await settled(reader)
    assert await reader.get_string("a") == "3"
    await settled(reader)
    assert await process(MemoryObjectStore(data={})).get_string("a") == "3"


async def test_an_entry_is_never_older_than_ttl_whichever_level_had_it(
    process: Processes,
) -> None:
    """What others wrote to the backend shows after `ttl`, counted from the read of the first process."""
    leaf = MemoryObjectStore(data={"k": "old"})
    now = 0.0
    first = process(leaf, ttl=60.0)
    second = process(leaf, ttl=60.0, clock=lambda: now)
    await first.get_string("k")
    await settled(first)
    await settled(second)
    assert await second.get_string("k") == "old"
    now = 30.0  # far from its end, as the read of the first process was a while ago
    assert await second.get_string("k") == "old"
    assert second.stats().hits == 1
    short = process(leaf, ttl=0.001)
    await leaf.put("k", "new")
    await asyncio.sleep(0.002)
    assert await short.get_string("k") == "new"
    assert short.stats().remote_hits == 0


async def test_bodies_over_max_value_bytes_are_not_shared(process: Processes, server: RedisServer) -> None:
    data: dict[str, str | bytes] = {"fits": b"x" * 100, "large": b"x" * 101}
    leaf = MemoryObjectStore(data=data)
    store = process(leaf, cache={"max_value_bytes": 100})
    for key in ("fits", "large"):
        await store.get_bytes(key)
    await settled(store)
    assert [name.rsplit(":", 1)[1] for name in server.names()] == ["fits"]


async def test_names_in_redis_hold_namespace_and_format_and_end(
    process: Processes, server: RedisServer
) -> None:
    store = process(MemoryObjectStore(data={"k": "v"}), ttl=60.0)
    await store.get_string("k")
    await settled(store)
    (name,) = server.names()
    assert name.startswith("test:1:")
    assert name.endswith(":e:k")
    with server.client() as client:
        left: Any = client.pttl(name)
    assert 0 < left <= 60_000


async def test_a_stack_with_it_behaves_like_every_store(server: RedisServer) -> None:
    made = itertools.count()

    def make() -> Caching:
        shared = RedisCache(server.url, namespace=f"store{next(made)}", timeout=10.0)
        return Caching(MemoryObjectStore(data={}), shared=shared)

    await check_store(make)


@pytest.mark.parametrize("name", ["RedisCache", "RedisLimits"])
def test_without_the_package_redis_the_error_says_what_to_install(name: str) -> None:
    code = f"""if True:
        import sys
        sys.modules["redis"] = None
        from starfish_server.layers import Caching, RateLimit
        from starfish_server.layers import {name}
    """
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "pip install 'starfish-server[redis]'" in done.stderr.splitlines()[-1]


async def test_namespaces_share_nothing(process: Processes) -> None:
    one = process(MemoryObjectStore(data={"k": "1"}), cache={"namespace": "one"})
    two = process(MemoryObjectStore(data={"k": "2"}), cache={"namespace": "two"})
    assert [await one.get_string("k"), await two.get_string("k")] == ["1", "2"]
    await settled(one)
    assert await process(MemoryObjectStore(), cache={"namespace": "two"}).get_string("k") == "2"


async def test_any_text_can_be_a_key(process: Processes) -> None:
    keys = ["a:b", "*", "#", "é\n\x00", "\ud800", "x" * 5000, "x" * 4999 + "y"]
    data = {key: f"value {number}" for number, key in enumerate(keys)}

    class AnyKeys(MemoryObjectStore):
        context_dependent = False

        async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
            return data.get(key)

        async def put(self, key: str, body: str, **_: Any) -> None:
            data[key] = body

    first, second = process(AnyKeys()), process(AnyKeys())
    for key in keys:
        assert await first.get_string(key) == data[key]
    await settled(first)
    for key in keys:
        assert await second.get_string(key) == data[key]
    assert second.stats().remote_hits == len(keys)
    for key in keys:
        await first.put(key, "new")
    await settled(second)
    assert [await second.get_string(key) for key in keys] == ["new"] * len(keys)


@pytest.mark.parametrize(
    "info",
    [
        ObjectInfo("k"),
        ObjectInfo("k", 1, "a/b", "no-store", {"n": "v"}, "version", None),
    ],
    ids=["bare", "full"],
)
async def test_what_is_known_of_an_object_survives(process: Processes, info: ObjectInfo) -> None:
    class Leaf(MemoryObjectStore):
        context_dependent = False

        async def read(self, key: str, **_: Any) -> StoredObject:
            return StoredObject(info, b"x")

    await process(Leaf()).read("k")
    store = process(Leaf())
    assert await store.read("k") == StoredObject(info, b"x")
