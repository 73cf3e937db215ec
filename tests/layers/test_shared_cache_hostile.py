"""The shared cache against a Redis that hangs, is written to by others, or repeats what it was sent."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from layers.gated import GatedStore
from layers.processes import Processes, settled
from redis_server import Proxy, RedisServer
from starfish_server import MemoryObjectStore
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers import RedisCache
from starfish_server.layers.caching import cache, shared
from waiting import eventually, turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)

HOUR = 3600.0


async def test_what_a_server_repeats_of_a_password_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that does not know HELLO answers with all that was sent."""
    options = ("--rename-command", "HELLO", "")
    with RedisServer(tmp_path, *options, password="opensesame") as closed:
        async with Processes(closed.url) as process:
            store = process(MemoryObjectStore(data={"k": "v"}))
            assert await store.get_string("k") == "v"
            assert not store.stats().connected
    assert "shared cache at redis://127.0.0.1" in caplog.text
    assert "ResponseError" in caplog.text
    assert "opensesame" not in caplog.text


async def test_a_redis_package_that_hides_its_connection_is_told_and_not_used(
    process: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Hiding:
        async def connect(self) -> None: ...

        async def disconnect(self, nowait: bool) -> None: ...

    monkeypatch.setattr(RedisCache, "connection", lambda _: Hiding())
    store = process(MemoryObjectStore(data={"k": "v"}))
    assert await store.get_string("k") == "v"
    assert not store.stats().connected
    assert "this version of redis hides its connection" in caplog.text


async def test_a_read_waits_for_redis_once_and_not_for_each_of_its_questions(
    fragile: RedisServer, set_forward: Callable[[float], None]
) -> None:
    async with Processes(fragile.url) as process:
        store = process(MemoryObjectStore(data={"k": "v"}), cache={"timeout": HOUR})
        await settled(store)
        fragile.signal(signal.SIGSTOP)
        reading = asyncio.ensure_future(store.get_string("k"))
        await turns()
        assert not reading.done()
        set_forward(HOUR)
        assert await reading == "v"
        fragile.signal(signal.SIGCONT)


async def test_a_write_waits_for_redis_no_longer_before_and_after_than_once(
    server: RedisServer, set_forward: Callable[[float], None]
) -> None:
    leaf = GatedStore({})
    async with Proxy(server.port) as proxy, Processes(server.url) as process:
        store = process(leaf, cache={"url": proxy.url, "timeout": HOUR})
        await store.stat("none")
        await eventually(lambda: store.stats().connected)
        leaf.gate.clear()
        proxy.to_client.clear()
        writing = asyncio.ensure_future(store.put("k", "v"))
        await turns()
        set_forward(0.6 * HOUR)  # most of what it may wait
        await turns()
        assert "put" not in leaf.calls
        proxy.to_client.set()
        await eventually(lambda: "put" in leaf.calls)
        proxy.to_client.clear()
        leaf.gate.set()
        await turns()
        assert not writing.done()
        set_forward(0.6 * HOUR)
        await writing


async def test_writes_while_redis_hangs_take_bounded_memory(fragile: RedisServer) -> None:
    async with Processes(fragile.url) as process:
        store = process(MemoryObjectStore(data={}), cache={"timeout": 0.05})
        await settled(store)
        fragile.signal(signal.SIGSTOP)
        batch = [f"{number}/{'x' * 200}/{'y' * 200}/{'z' * 200}" for number in range(1000)]
        for _ in range(60):  # a quarter of a gigabyte
            await store.delete_many(batch)
            await asyncio.sleep(0)
        assert not store.stats().connected  # what waited has been dropped
        fragile.signal(signal.SIGCONT)
        await eventually(lambda: store.stats().connected)


async def test_entries_while_redis_hangs_take_bounded_memory(fragile: RedisServer) -> None:
    data: dict[str, str | bytes] = {f"k{number}": b"x" * 2**20 for number in range(40)}
    leaf = GatedStore(data)
    async with Processes(fragile.url) as process:
        store = process(leaf)
        await settled(store)
        leaf.gate.clear()
        reads = [asyncio.ensure_future(store.get_bytes(key)) for key in data]
        await eventually(lambda: leaf.calls.count("get_bytes") == 40)
        fragile.signal(signal.SIGSTOP)
        leaf.gate.set()
        await asyncio.gather(*reads)
        fragile.signal(signal.SIGCONT)
        await settled(store)
        names = fragile.names()
        assert 0 < sum(":e:" in name for name in names) < 20
        assert not any(":l:" in name for name in names)  # the others gave their leases back


async def test_an_entry_of_another_key_is_refused_without_a_secret_too(
    process: Processes, server: RedisServer
) -> None:
    first = process(MemoryObjectStore(data={"tenant1/k": "secret of 1"}))
    await first.get_string("tenant1/k")
    await settled(first)
    (name,) = server.names()
    with server.client() as client:
        client.rename(name, name.replace("tenant1", "tenant2"))
    second = process(MemoryObjectStore(data={}))
    assert await second.get_string("tenant2/k") is None
    assert second.stats().remote_damaged == 1


@pytest.mark.parametrize("read", ["get_string", "get_bytes"])
async def test_an_entry_that_lost_its_end_is_refused(
    process: Processes, server: RedisServer, read: str
) -> None:
    leaf = MemoryObjectStore(data={"k": "whole"})
    first = process(leaf)
    expected = await getattr(first, read)("k")
    await settled(first)
    (name,) = server.names()
    with server.client() as client:
        value: Any = client.get(name)
        client.set(name, value[:-1])
    second = process(leaf)
    assert await getattr(second, read)("k") == expected
    assert second.stats().remote_damaged == 1


async def test_of_an_entry_that_is_too_long_only_a_part_is_read(
    process: Processes, server: RedisServer
) -> None:
    """Its writer allowed larger values, or was another program."""
    data: dict[str, str | bytes] = {"k": b"x" * 2**20}
    leaf = MemoryObjectStore(data=data)
    first = process(leaf, cache={"max_value_bytes": 2**20})
    await first.get_bytes("k")
    await settled(first)
    second = process(leaf, cache={"max_value_bytes": 100})
    await settled(second)
    with server.client() as client:
        before = client.info("stats")["total_net_output_bytes"]
        assert await second.get_bytes("k") == await leaf.get_bytes("k")
        assert client.info("stats")["total_net_output_bytes"] - before < 2**18
    assert second.stats().remote_hits == 0


async def test_a_value_of_another_type_in_place_of_the_writers_is_dropped(
    process: Processes, server: RedisServer
) -> None:
    leaf = GatedStore({"k": "old"})
    writer, reader = process(leaf), process(leaf)
    await reader.get_string("k")
    await settled(reader)
    (entry,) = server.names()
    with server.client() as client:
        client.rpush(entry.replace(":e:", ":w:"), "a list")
    await writer.put("k", "new")
    await settled(writer)
    await settled(reader)
    assert await reader.get_string("k") == "new"
    assert writer.stats().connected
    leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await writer.put("k", "may land later")
    await settled(writer)
    with server.client() as client:
        assert client.type(entry.replace(":e:", ":w:")) == b"zset"


def publish(server: RedisServer, *content: object) -> None:
    with server.client() as client:
        client.publish("test:1", json.dumps(content))


async def test_messages_that_contradict_each_other_leave_every_key_cacheable(
    process: Processes, server: RedisServer
) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    store = process(leaf)
    await settled(store)
    publish(server, "begin", "other", "token", ["k"], [])
    publish(server, "begin", "other", "token", ["m"], [])
    publish(server, "end", "other", "token", ["n"], [])
    await settled(store)
    await store.get_string("k")
    await store.get_string("k")
    assert store.stats().hits == 1


async def test_more_writes_of_others_than_can_be_kept_end_the_session(
    process: Processes, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "MAX_REMOTE_KEYS", 3)
    store = process(MemoryObjectStore(data={"k": "v"}))
    await settled(store)
    publish(server, "begin", "other", "1", ["a", "b"], [])
    publish(server, "end", "other", "1", ["a", "b"], [])
    publish(server, "begin", "other", "2", ["a", "b"], [])
    await settled(store)
    assert store.stats().connected
    publish(server, "begin", "other", "3", ["c", "d"], [])
    await eventually(lambda: not store.stats().connected)
    await eventually(lambda: store.stats().connected)
    assert await store.get_string("k") == "v"


async def test_more_undetermined_keys_than_are_kept_keep_every_key_out(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_UNDETERMINED_KEYS", 2)
    leaf = GatedStore({"k": "v"})
    store = process(leaf)
    for key in ("a", "b", "c"):
        leaf.failure = StoreUnavailableError("reply lost")
        with pytest.raises(StoreUnavailableError):
            await store.put(key, "may land later")
    await store.get_string("k")
    await store.get_string("k")
    assert store.stats().hits == 0
