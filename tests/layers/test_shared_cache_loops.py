"""What layers share in Redis, under several event loops of one process, and across threads."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys
import threading
import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from layers.gated import GatedStore
from layers.limits import caller
from layers.processes import Processes, settled
from starfish_server import MemoryObjectStore
from starfish_server.layers import Caching, RateLimit, RedisCache, RedisLimits
from starfish_server.redis import link
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from redis_server import RedisServer

pytestmark = [
    pytest.mark.timeout(60),
    # About connections and tasks whose event loop was closed before them.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test leaves of its event loops is collected before the next one."""
    yield
    gc.collect()


def make(url: str, leaf: MemoryObjectStore, **options: Any) -> Caching:
    chosen: dict[str, Any] = {"namespace": "test", "timeout": 10.0, "max_delay": 60.0} | options
    return Caching(leaf, shared=RedisCache(url, **chosen), ttl=600.0)


class Loop:
    """An event loop that runs only when it is told to, and is closed without ending its tasks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # it would log each task that never ended

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.to_thread(self.run_here, work)

    def run_here(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self._loop.close()


@contextmanager
def another_loop() -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


async def eventually_hit(store: Caching, key: str) -> None:
    hits = store.stats().hits
    while store.stats().hits == hits:
        await store.get_string(key)
        await asyncio.sleep(0.01)


async def test_a_write_of_another_process_that_a_closed_loop_heard_of_leaves_the_key_cacheable(
    process: Processes,
) -> None:
    leaf = GatedStore({"k": "old"})
    writer, reader = process(leaf), process(MemoryObjectStore(data=leaf.data))
    await settled(reader)
    with another_loop() as other:
        await other.run(settled(reader))
        leaf.gate.clear()
        writing = asyncio.ensure_future(writer.put("k", "new"))
        await eventually(lambda: "put" in leaf.calls)
        await other.run(settled(reader))
    leaf.gate.set()
    await writing
    await settled(reader)
    assert await reader.get_string("k") == "new"
    await eventually_hit(reader, "k")


def test_a_write_that_redis_could_not_hear_of_shows_in_the_next_event_loop(fragile: RedisServer) -> None:
    """The event loop of the write ends before there is a connection."""
    store = make(fragile.url, MemoryObjectStore(data={"k": "old"}), timeout=0.5)

    async def fill() -> None:
        while not any(":e:k" in name for name in fragile.names()):
            await store.get_string("k")
            await settled(store)

    async def read() -> str | None:
        await store.stat("none")
        await eventually(lambda: store.stats().connected)
        return await store.get_string("k")

    asyncio.run(fill())
    fragile.signal(signal.SIGSTOP)
    asyncio.run(store.put("k", "new"))
    fragile.signal(signal.SIGCONT)
    assert asyncio.run(read()) == "new"
    asyncio.run(store.close())


async def lose_connection_but_in(
    other: Any,
    store: Caching,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Connect the store to Redis in both event loops, and cut the connection of this one off for a minute."""
    monkeypatch.setattr(link, "_FIRST_PAUSE", 60.0)
    with server.client() as client:
        before = {found["id"] for found in client.client_list()}
        await settled(store)
        (writers,) = {found["id"] for found in client.client_list()} - before
        await other.run(store.get_string("k"))
        await other.run(settled(store))
        client.client_kill_filter(_id=writers)
    await eventually(lambda: "is not used" in caplog.text)


async def test_a_write_that_redis_could_not_hear_of_shows_in_every_event_loop_of_its_process(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other event loop still has a connection to Redis, where the old entry is."""
    store = make(server.url, MemoryObjectStore(data={"k": "old"}))
    with another_loop() as other:
        await lose_connection_but_in(other, store, server, monkeypatch, caplog)
        await store.put("k", "new")
        assert await other.run(store.get_string("k")) == "new"
        await other.run(store.close())


async def test_a_read_in_another_thread_while_a_write_ends_does_not_cache_the_old_entry(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis could not hear of the write, and the other event loop still has a connection to it."""
    store = make(server.url, MemoryObjectStore(data={"k": "old"}))
    with another_loop() as other:
        await lose_connection_but_in(other, store, server, monkeypatch, caplog)

        def read(frame: types.FrameType, event: str, called: object) -> None:
            if event == "return" and frame.f_code.co_name in ("end", "end_write"):
                thread = threading.Thread(target=other.run_here, args=(store.get_string("k"),))
                thread.start()
                thread.join()

        sys.setprofile(read)
        await store.put("k", "new")
        sys.setprofile(None)
        assert await store.get_string("k") == "new"
        assert await other.run(store.get_string("k")) == "new"
        await other.run(store.close())


@types.coroutine
def step(work: Any, reached: Callable[[], bool]) -> Iterator[object]:
    """Run a coroutine in this task until it is there: a task of its own could not be abandoned."""
    while not reached():
        waiting = work.send(None)
        if not reached():
            yield waiting


@contextmanager
def ends_heard(server: RedisServer) -> Iterator[Callable[[], bool]]:
    """Gives a function that returns whether a process has announced that its write ended."""
    with server.client() as client:
        messages = client.pubsub()
        messages.subscribe("test:1")

        def ended() -> bool:
            message = messages.get_message(ignore_subscribe_messages=True)
            return message is not None and json.loads(message["data"])[0] == "end"

        yield ended


@contextmanager
def begins_heard(server: RedisServer) -> Iterator[Callable[[], list[list[str]]]]:
    """Gives a function that returns the keys of each write whose beginning was announced."""
    with server.client() as client:
        messages = client.pubsub()
        messages.subscribe("test:1")

        def begun() -> list[list[str]]:
            heard: list[list[str]] = []
            while message := messages.get_message(timeout=0.2):
                if message["type"] == "message":
                    kind, _, _, keys, _ = json.loads(message["data"])
                    heard += [keys] * (kind == "begin")
            return heard

        yield begun


async def test_a_write_that_a_closed_loop_left_is_told_by_another_loop(server: RedisServer) -> None:
    leaf = GatedStore({})
    store = make(server.url, leaf, max_delay=0.1)
    await settled(store)
    leaf.gate.clear()
    writing: Any = store.put("k", "new")
    with another_loop() as other:
        await other.run(step(writing, lambda: "put" in leaf.calls))
    with ends_heard(server) as ended:
        writing.close()
        await eventually(ended)
    await store.close()


async def test_a_write_that_another_thread_ends_is_told_by_the_thread_of_its_event_loop(
    process: Processes, server: RedisServer
) -> None:
    """The garbage collector may end an abandoned write in any thread."""
    leaf = GatedStore({})
    leaf.gate.clear()
    store = process(leaf)
    writing: Any = store.put("k", "v")
    await step(writing, lambda: "put" in leaf.calls)
    used: list[object] = []

    def note(called: object) -> None:
        connection = getattr(called, "__self__", None)
        if isinstance(connection, socket.socket) and connection.family == socket.AF_INET:
            used.append(called)

    def end() -> None:
        sys.setprofile(lambda frame, event, called: note(called))
        writing.close()
        sys.setprofile(None)

    with ends_heard(server) as ended:
        await asyncio.to_thread(end)
        await eventually(ended)
    assert used == []


async def test_a_read_of_a_closed_loop_may_be_ended_by_another_thread(server: RedisServer) -> None:
    leaf = GatedStore({"k": "v"})
    store = make(server.url, leaf)

    async def begin() -> set[asyncio.Task[Any]]:
        await settled(store)
        leaf.gate.clear()
        before = asyncio.all_tasks()
        reading = asyncio.create_task(store.get_string("k"))
        await eventually(lambda: "get_string" in leaf.calls)
        return asyncio.all_tasks() - before | {reading}

    with another_loop() as other:
        coroutines: list[Any] = [task.get_coro() for task in await other.run(begin())]
    for coroutine in coroutines:
        coroutine.close()  # in the main thread, and the loop ran in another one
    await store.close()


def fail_to_send(number: int) -> None:
    """Let the sending of a command fail in this thread, that of the first, second, ... from now."""
    left = number

    def fail(frame: types.FrameType, event: str, called: object) -> None:
        nonlocal left
        if event == "call" and frame.f_code.co_name == "_transmit":
            left -= 1
            if not left:
                sys.setprofile(None)
                raise RecursionError

    sys.setprofile(fail)


async def test_an_error_while_a_command_is_sent_is_raised_unless_the_loop_is_closed(
    server: RedisServer,
) -> None:
    limits = RedisLimits(server.url, namespace="test", timeout=10.0)
    assert await limits.take_turn("alice", 0.001, 1, "identity", 0.0) is not None

    fail_to_send(1)
    with pytest.raises(RecursionError):
        await limits.take_turn("alice", 0.001, 1, "identity", 0.0)
    await limits.close()


async def test_a_write_whose_end_could_not_be_sent_leaves_its_key_cacheable(server: RedisServer) -> None:
    store = make(server.url, MemoryObjectStore(data={"k": "old"}))
    await settled(store)
    fail_to_send(2)
    with pytest.raises(RecursionError):
        await store.put("k", "new")
    await store.put("other", "v")  # which sends what is left
    assert [await store.get_string("k") for _ in range(2)] == ["new"] * 2
    assert store.stats().hits == 1
    await store.close()


async def test_a_write_whose_beginning_could_not_be_sent_is_not_announced_later(
    server: RedisServer,
) -> None:
    store = make(server.url, MemoryObjectStore(data={"k": "old"}))
    with begins_heard(server) as begun, server.client() as client:
        before = {found["id"] for found in client.client_list()}
        await settled(store)
        (connection,) = {found["id"] for found in client.client_list()} - before
        fail_to_send(1)
        with pytest.raises(RecursionError):
            await store.put("k", "new")
        await settled(store)
        begun()
        client.client_kill_filter(_id=connection)
        await eventually(lambda: not store.stats().connected)
        await eventually(lambda: store.stats().connected)
        await store.put("other", "v")
        assert begun() == [["other"]]
    await store.close()


async def test_a_turn_of_a_closed_loop_may_be_ended_by_another_thread(server: RedisServer) -> None:
    limits = RedisLimits(server.url, namespace="test", timeout=10.0)
    layer = RateLimit(MemoryObjectStore(), rate=0.001, burst=1, max_wait=10_000.0, shared=limits)

    async def begin() -> asyncio.Task[str | None]:
        await layer.get_string("k")
        with server.client() as client:
            before = client.get(*server.names())
            waiting = asyncio.create_task(layer.get_string("k"))
            await eventually(lambda: client.get(*server.names()) != before)
        await layer.get_string("k", context=caller("alice"))  # whose reply comes after that of `waiting`
        return waiting

    with another_loop() as other:
        coroutine: Any = (await other.run(begin())).get_coro()
    await asyncio.to_thread(coroutine.close)  # a thread without an event loop
