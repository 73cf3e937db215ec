"""`RedisCache`: what lies in Redis, sealed or not, whatever others do to it; and its options."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from layers.processes import Processes, settled
from starfish_server import MemoryObjectStore, StoreBuilder, explain, load_stack
from starfish_server.errors import StackError
from starfish_server.layers import Caching, Encryption, KeyRing, Mirror, RedisCache
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_server import RedisServer

SECRET = b"s" * 32
OTHER = b"t" * 32


def entry(server: RedisServer, key: str = "k") -> tuple[str, bytes]:
    """Return the name and the value of a key's entry."""
    (name,) = (name for name in server.names() if name.endswith(f":e:{key}"))
    with server.client() as client:
        value: Any = client.get(name)
    return name, value


def put(server: RedisServer, name: str, value: bytes) -> None:
    with server.client() as client:
        client.set(name, value)


async def test_sealed_entries_hide_what_they_hold_and_are_opened_again(
    process: Processes, server: RedisServer
) -> None:
    leaf = MemoryObjectStore(data={})
    await leaf.write("k", b"plain body", content_type="text/plain", metadata={"name": "metadata"})
    first = process(leaf, cache={"secret": SECRET})
    found = await first.read("k")
    await settled(first)
    _, value = entry(server)
    assert b"plain body" not in value
    assert b"metadata" not in value
    second = process(MemoryObjectStore(data={}), cache={"secret": SECRET.decode()})
    assert await second.read("k") == found
    assert second.stats().remote_hits == 1


def flip(value: bytes, place: int) -> bytes:
    changed = bytearray(value)
    changed[place] ^= 1
    return bytes(changed)


BAD: dict[str, Callable[[bytes], bytes]] = {
    "nonsense": lambda value: b"nonsense",
    "truncated": lambda value: value[:-1],
    "cut in the header": lambda value: value[:20],
    "length too large": lambda value: value[:4] + b"\xff\xff\xff\xff" + value[8:],
    "header not JSON": lambda value: flip(value, 8),
    "header of another shape": lambda value: b"\x00SC1\x00\x00\x00\x02[]",
    "header without fields": lambda value: b"\x00SC1\x00\x00\x00\x02{}",
    "deeply nested": lambda value: b"\x00SC1\x00\x01\x86\xa0" + b"[" * 100_000,
    "another format": lambda value: b"\x00SC2" + value[4:],
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
@pytest.mark.parametrize("secret", [None, SECRET], ids=["plain", "sealed"])
async def test_an_entry_that_is_damaged_is_dropped_and_counted(
    process: Processes, server: RedisServer, spoil: Callable[[bytes], bytes], secret: bytes | None
) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    first = process(leaf, cache={"secret": secret})
    await first.read("k")
    await settled(first)
    name, value = entry(server)
    put(server, name, spoil(value))
    second = process(leaf, cache={"secret": secret})
    assert await second.get_string("k") == "v"
    assert (second.stats().remote_damaged, second.stats().remote_hits) == (1, 0)
    await settled(second)
    third = process(MemoryObjectStore(data={}), cache={"secret": secret})
    assert await third.get_string("k") == "v"  # filled again


async def test_an_entry_that_is_damaged_is_dropped_by_a_read_that_fills_nothing(
    process: Processes, server: RedisServer
) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    store = process(leaf)
    await store.read("k")
    await settled(store)
    name, value = entry(server)
    put(server, name, value[:-1])
    assert await process(leaf).stat("k") == await leaf.stat("k")
    await eventually(lambda: server.names() == [])


async def test_no_changed_byte_of_a_sealed_entry_goes_unnoticed(
    process: Processes, server: RedisServer
) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    first = process(leaf, cache={"secret": SECRET})
    await first.get_string("k")
    await settled(first)
    name, value = entry(server)
    second = process(MemoryObjectStore(data={}), cache={"secret": SECRET})
    for place in range(len(value)):
        put(server, name, flip(value, place))
        assert await second.get_string("k") is None
    assert second.stats().remote_damaged == len(value)


async def test_a_sealed_entry_that_was_moved_or_sealed_otherwise_is_refused(
    process: Processes, server: RedisServer
) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    first = process(leaf, cache={"secret": SECRET})
    await first.get_string("k")
    await settled(first)
    name, value = entry(server)
    put(server, name.removesuffix("k") + "moved", value)
    empty = MemoryObjectStore(data={})
    same, other = process(empty, cache={"secret": SECRET}), process(empty, cache={"secret": OTHER})
    assert await same.get_string("moved") is None
    assert await other.get_string("k") is None
    assert (same.stats().remote_damaged, other.stats().remote_damaged) == (1, 1)
    plain = process(leaf)
    await plain.read("k")
    await settled(plain)
    assert await process(empty, cache={"secret": SECRET}).get_string("k") is None


async def test_an_empty_value_is_a_miss(process: Processes, server: RedisServer) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    first = process(leaf)
    await first.get_string("k")
    await settled(first)
    put(server, entry(server)[0], b"")
    second = process(leaf)
    assert await second.get_string("k") == "v"
    await settled(second)
    assert await process(MemoryObjectStore(data={})).get_string("k") == "v"  # filled again


async def test_values_of_another_type_are_no_entries(process: Processes, server: RedisServer) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    first = process(leaf)
    await first.get_string("k")
    await settled(first)
    name, _ = entry(server)
    with server.client() as client:
        client.delete(name)
        client.rpush(name, "a list")
    second = process(leaf)
    assert await second.get_string("k") == "v"
    await second.put("k", "new")
    assert await second.get_string("k") == "new"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'["begin", "x", 1, ["k"], []]',
        b'["end", "x", "t", [1], []]',
        b'["end"]',
        b"[" * 99_999,
    ],
    ids=repr,
)
async def test_messages_of_others_are_ignored(
    process: Processes, server: RedisServer, message: bytes
) -> None:
    store = process(MemoryObjectStore(data={"k": "v"}))
    await settled(store)
    await store.get_string("k")
    with server.client() as client:
        client.publish("test:1", message)
    await settled(store)
    await store.get_string("k")
    assert store.stats().hits == 1
    assert store.stats().connected


async def test_a_full_redis_still_drops_what_is_written(process: Processes, server: RedisServer) -> None:
    leaf = MemoryObjectStore(data={"k": "old"})
    store = process(leaf)
    await store.get_string("k")
    await settled(store)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        client.config_set("maxmemory-policy", "noeviction")
        try:
            await store.put("k", "new")
            assert await store.get_string("k") == "new"
            await settled(store)
            assert not any(":e:" in name for name in server.names())
            assert store.stats().connected
        finally:
            client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"url": "http://localhost"}, ValueError),
        ({"url": "redis://localhost/0?no_such_option=1"}, ValueError),
        ({"url": 1}, TypeError),
        ({"namespace": ""}, ValueError),
        ({"namespace": "a:b"}, ValueError),
        ({"namespace": "a\n"}, ValueError),
        ({"secret": b"short"}, ValueError),
        ({"secret": 1}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"max_delay": -1}, ValueError),
        ({"max_value_bytes": 0}, ValueError),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        RedisCache(**{"url": "redis://localhost", "namespace": "n"} | options)


def test_a_namespace_is_required() -> None:
    """With one for all, two stores on one Redis would get each other's objects."""
    with pytest.raises(TypeError, match="namespace"):
        RedisCache("redis://localhost")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@localhost:6380/3",
        "rediss://:hunter2@localhost",
        "redis://localhost/0?password=hunter2",
        "unix://user:hunter2@/run/redis.sock",
    ],
)
def test_no_password_and_no_secret_is_shown(url: str) -> None:
    cache = RedisCache(url, namespace="n", secret="hunter2" * 10)
    store = Caching(MemoryObjectStore(), shared=cache)
    for shown in (repr(cache), str(cache), repr(store), explain(store), repr(store.settings())):
        assert "hunter2" not in shown
    assert "namespace='n'" in explain(store)
    for work in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            work(cache)


@pytest.mark.parametrize(
    "url", ["hunter2://hunter2@x", "redis://:hunter2@localhost/0?no_such_option=hunter2"]
)
def test_an_error_about_the_url_shows_no_password(url: str) -> None:
    with pytest.raises(ValueError, match="url") as caught:
        RedisCache(url, namespace="n")
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def test_over_an_encryption_a_secret_is_required() -> None:
    ring = KeyRing({"1": SECRET}, active="1")
    encrypted = Encryption(MemoryObjectStore(), ring)
    plain, sealed = (
        RedisCache("redis://localhost", namespace="n", secret=secret) for secret in (None, SECRET)
    )
    builder = StoreBuilder().layer(Caching, shared=plain).layer(Encryption, ring)
    with pytest.raises(StackError, match="secret"):
        builder.over(MemoryObjectStore())
    with pytest.raises(StackError, match="secret"):
        Caching(Mirror(MemoryObjectStore(), encrypted), shared=plain)
    Caching(encrypted, shared=sealed)
    Caching(MemoryObjectStore(), shared=plain)


def test_what_is_no_redis_cache_or_depends_on_the_caller_is_refused() -> None:
    with pytest.raises(TypeError, match="RedisCache"):
        Caching(MemoryObjectStore(), shared="redis://localhost")  # type: ignore[arg-type]
    with pytest.raises(StackError, match="vary_by"):
        Caching(
            MemoryObjectStore(),
            shared=RedisCache("redis://localhost", namespace="n"),
            vary_by=("identity",),
        )


def test_a_stack_file_names_it_as_a_part() -> None:
    store = load_stack(
        {
            "leaf": {"type": "memory"},
            "layer": [
                {
                    "type": "Caching",
                    "shared": {"type": "RedisCache", "url": "redis://:hunter2@h:1/2", "namespace": "n"},
                }
            ],
        }
    )
    assert "RedisCache('redis://h:1/2', namespace='n', sealed=False" in explain(store)
