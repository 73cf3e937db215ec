"""`Caching(shared=RedisCache(...))` while Redis, the network or a process fails."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import pytest
import uvloop

from layers.gated import GatedStore
from layers.processes import Processes, settled
from redis_server import Proxy, RedisServer
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, MemoryObjectStore
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers import Caching, RedisCache
from starfish_server.layers.caching import member, protocol, shared
from waiting import eventually, open_sockets, turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


def connected(*stores: Caching) -> bool:
    return all(store.stats().connected for store in stores)


async def test_without_redis_everything_works_as_without_shared(process: Processes) -> None:
    leaf = GatedStore({"k": "v"})
    store = process(leaf, cache={"url": "redis://127.0.0.1:1/0"})
    assert [await store.get_string("k"), await store.get_string("k")] == ["v", "v"]
    assert store.stats().hits == 1
    await store.put("k", "new")
    assert await store.get_string("k") == "new"
    assert not store.stats().connected


async def test_when_redis_dies_the_first_level_is_forgotten_and_works_alone(
    fragile: RedisServer,
) -> None:
    leaf = GatedStore({"k": "old"})
    async with Processes(fragile.url) as process:
        store = process(leaf)
        await settled(store)
        await store.get_string("k")
        fragile.kill()
        await eventually(lambda: not connected(store))
        leaf.data["k"] = "written while this process could not hear of it"
        assert await store.get_string("k") == leaf.data["k"]
        hits = store.stats().hits
        assert await store.get_string("k") == leaf.data["k"]
        assert store.stats().hits == hits + 1
        await store.put("k", "new")
        assert await store.get_string("k") == "new"


async def test_when_redis_is_back_the_first_level_is_forgotten_and_shared_again(fragile: RedisServer) -> None:
    leaf = MemoryObjectStore(data={"k": "old"})
    async with Processes(fragile.url) as process:
        first, second = process(leaf), process(leaf)
        for store in (first, second):
            await settled(store)
        fragile.kill()
        await eventually(lambda: not first.stats().connected and not second.stats().connected)
        assert await second.get_string("k") == "old"
        await first.put("k", "new")
        fragile.start()
        await eventually(lambda: connected(first, second))
        assert await second.get_string("k") == "new"
        await settled(second)
        await first.get_string("k")
        assert first.stats().remote_hits == 1


async def test_a_write_that_redis_could_not_hear_of_is_told_when_it_is_back(server: RedisServer) -> None:
    """The writer alone has lost its connection; the others have what Redis has."""
    data: dict[str, str | bytes] = {f"k{number}": "old" for number in range(3)}
    async with Proxy(server.port) as proxy, Processes(server.url) as process:
        reader = process(MemoryObjectStore(data=data))
        writer = process(MemoryObjectStore(data=data), cache={"url": proxy.url})
        for key in data:
            assert await reader.get_string(key) == "old"
        await settled(writer)
        proxy.to_server.clear()  # the next connections hang
        proxy.cut()
        await eventually(lambda: not connected(writer))
        await writer.put("k0", "new")
        await writer.delete("k1")
        proxy.to_server.set()
        await eventually(lambda: connected(writer))
        await settled(writer)
        await settled(reader)
        assert [await reader.get_string(key) for key in ("k0", "k1", "k2")] == ["new", None, "old"]


@pytest.mark.parametrize("lost", [False, True], ids=["all returned", "one may land later"])
async def test_more_unheard_writes_than_are_kept_drop_everything(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    monkeypatch.setattr(shared, "MAX_UNCONFIRMED_KEYS", 3)
    keys = [f"k{number}" for number in range(10)]
    leaf = GatedStore(dict.fromkeys([*keys, "other"], "old"))
    async with Proxy(server.port) as proxy, Processes(server.url) as process:
        reader = process(MemoryObjectStore(data=leaf.data))
        writer = process(leaf, cache={"url": proxy.url})
        for key in leaf.data:
            await reader.get_string(key)
        await settled(writer)
        proxy.to_server.clear()
        proxy.cut()
        await eventually(lambda: not connected(writer))
        if lost:
            leaf.failure = StoreUnavailableError("reply lost")
            with pytest.raises(StoreUnavailableError):
                await writer.put("k0", "new")
        for key in keys:
            await writer.put(key, "new")
        leaf.data["other"] = "not through a cache"
        with server.client() as client:
            messages = client.pubsub()
            messages.subscribe("test:1")
            proxy.to_server.set()
            await eventually(lambda: connected(writer))
            await settled(writer)
            await settled(reader)
            heard = [message["type"] for message in iter(partial(messages.get_message, timeout=0.1), None)]
        assert 1 <= heard.count("message") <= 5  # not one for each write
        late = process(MemoryObjectStore(data=leaf.data))
        for key in leaf.data:
            assert [await reader.get_string(key), await late.get_string(key)] == [leaf.data[key]] * 2
        hits = reader.stats().hits
        await reader.get_string("other")
        assert reader.stats().hits - hits == (0 if lost else 1)


async def test_a_write_in_flight_when_redis_comes_back_keeps_old_reads_out(fragile: RedisServer) -> None:
    """The server that has come back knows no writer, until the writer registers again."""
    leaf = GatedStore({"k": "old"})
    async with Processes(fragile.url) as process:
        writer, reader = process(leaf), process(MemoryObjectStore(data=leaf.data))
        for store in (writer, reader):
            await settled(store)
        leaf.gate.clear()
        writing = asyncio.ensure_future(writer.put("k", "new"))
        await eventually(lambda: "put" in leaf.calls)
        leaf.data["k"] = "old"  # the write has not landed yet
        fragile.kill()
        await eventually(lambda: not writer.stats().connected and not reader.stats().connected)
        fragile.start()
        await eventually(lambda: connected(writer, reader))
        assert await reader.get_string("k") == "old"
        leaf.data["k"] = "new"
        leaf.gate.set()
        await writing
        await settled(reader)
        assert await reader.get_string("k") == "new"
        assert await process(MemoryObjectStore(data=leaf.data)).get_string("k") == "new"


async def test_what_a_restarted_server_loads_from_disk_is_not_used(tmp_path: Path) -> None:
    """A write may be missing in the snapshot."""
    leaf = MemoryObjectStore(data={"k": "old"})
    with RedisServer(tmp_path, "--save", "3600 1") as saving:
        async with Processes(saving.url) as process:
            first = process(leaf)
            await first.get_string("k")
            await settled(first)
            with saving.client() as client:
                client.save()
            await first.put("k", "new")
            saving.kill()
            saving.start()
            assert any(name.endswith(":e:k") for name in saving.names())
            assert await process(leaf).get_string("k") == "new"


async def test_a_redis_that_hangs_costs_one_timeout_and_no_more(fragile: RedisServer) -> None:
    """With one timeout for each operation, this would take five minutes."""
    leaf = MemoryObjectStore(data={f"k{number}": "v" for number in range(200)})
    async with Processes(fragile.url) as process:
        store = process(leaf, cache={"timeout": 0.5})
        await settled(store)
        fragile.signal(signal.SIGSTOP)
        for number in range(200):
            assert await store.get_string(f"k{number}") == "v"
            await store.put(f"k{number}", "new")
            assert await store.get_string(f"k{number}") == "new"
        fragile.signal(signal.SIGCONT)
        await eventually(lambda: not any(":e:" in name for name in fragile.names()))
        other = process(MemoryObjectStore(data={}))
        assert await other.get_string("k1") is None  # nothing that was old was filled


async def test_a_server_that_becomes_a_replica_is_not_used(fragile: RedisServer, server: RedisServer) -> None:
    """After a failover the others write elsewhere."""
    leaf = MemoryObjectStore(data={"k": "v"})
    async with Processes(fragile.url) as process:
        store = process(leaf, cache={"max_delay": 0.2})
        await settled(store)
        with fragile.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", server.port)
            await eventually(lambda: not connected(store))
            late = process(leaf)
            await settled(late)
            assert not connected(late)
            client.execute_command("REPLICAOF", "NO", "ONE")
        await eventually(lambda: connected(store, late))


async def test_a_server_that_forgets_its_scripts_is_used_again(
    process: Processes, server: RedisServer
) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    store = process(leaf)
    await settled(store)
    with server.client() as client:
        client.script_flush()
    assert await store.get_string("k") == "v"
    await eventually(lambda: not connected(store))
    await eventually(lambda: connected(store))
    await store.get_string("k")
    await settled(store)
    assert await process(MemoryObjectStore(data={})).get_string("k") == "v"


async def test_a_read_that_began_long_ago_is_not_shared_while_messages_may_be_missing(
    server: RedisServer,
) -> None:
    leaf = GatedStore({"k": "old"})
    async with Proxy(server.port) as proxy, Processes(server.url) as process:
        options = {"url": proxy.url, "max_delay": 0.2, "timeout": 0.01}
        reader = process(leaf, cache=options)
        writer = process(MemoryObjectStore(data=leaf.data))
        await eventually_connected(reader)
        leaf.gate.clear()
        first = asyncio.ensure_future(reader.get_string("k"))
        await eventually(lambda: leaf.calls.count("get_string") == 1)
        proxy.to_client.clear()
        await writer.put("k", "new")
        await asyncio.sleep(0.25)  # max_delay, and some more
        second = asyncio.ensure_future(reader.get_string("k"))
        await asyncio.sleep(0.02)  # its timeout, and some more
        leaf.gate.set()
        assert (await first, await second) == ("old", "new")


async def test_a_server_that_never_answers_costs_one_timeout_and_no_more(
    set_forward: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the attempt to connect ends: an operation that waited for that would not end, as time stops."""
    loop, seconds = asyncio.get_running_loop(), itertools.count()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with Processes(f"redis://127.0.0.1:{port}/0") as process:
            leaf = MemoryObjectStore(data={"k": "v"})
            store = process(leaf, cache={"timeout": 0.5}, ttl=0.1, clock=lambda: next(seconds))
            first = asyncio.create_task(store.get_string("k"))
            await turns()
            set_forward(0.5)
            assert await first == "v"
            with monkeypatch.context() as stopped:
                now = loop.time()
                stopped.setattr(loop, "time", lambda: now)
                for _ in range(20):
                    assert await store.get_string("k") == "v"
            assert store.stats().misses == 21


async def test_a_password_opens_the_server_and_a_wrong_one_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, password="opensesame") as closed:
        async with Processes(closed.url) as process:
            store = process(MemoryObjectStore(data={"k": "v"}))
            assert await store.get_string("k") == "v"
            assert connected(store)
            wrong = process(MemoryObjectStore(), cache={"url": closed.url.replace("sesame", "wrong")})
            assert await wrong.get_string("k") is None
            assert not connected(wrong)
    assert "not used" in caplog.text
    assert "open" not in caplog.text


async def test_a_first_level_that_may_have_missed_messages_is_not_used(server: RedisServer) -> None:
    data: dict[str, str | bytes] = {"k": "old"}
    async with Proxy(server.port) as proxy, Processes(server.url) as process:
        reader = process(
            MemoryObjectStore(data=data), cache={"url": proxy.url, "max_delay": 0.2, "timeout": 0.01}
        )
        writer = process(MemoryObjectStore(data=data))
        await eventually_connected(reader)
        await eventually_hit(reader, "k")
        proxy.to_client.clear()  # messages do not arrive any more
        await writer.put("k", "new")
        await asyncio.sleep(0.25)  # max_delay, and some more
        assert await reader.get_string("k") == "new"


async def test_what_was_cached_before_a_pause_is_used_again_once_all_messages_are_handled(
    server: RedisServer,
) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    async with Proxy(server.port) as proxy, Processes(server.url) as process:
        reader = process(leaf, cache={"url": proxy.url, "max_delay": 0.4, "timeout": 0.01}, ttl=60.0)
        await eventually_connected(reader)
        await eventually_hit(reader, "k")
        proxy.to_client.clear()
        await asyncio.sleep(0.45)
        misses = reader.stats().misses
        await reader.get_string("k")
        assert reader.stats().misses == misses + 1
        proxy.to_client.set()
        await eventually_hit(reader, "k")


async def eventually_connected(store: Caching) -> None:
    await store.stat("no/such/key")
    await eventually(lambda: connected(store))


async def eventually_hit(store: Caching, key: str) -> None:
    hits = store.stats().hits
    while store.stats().hits == hits:
        await store.get_string(key)
        await asyncio.sleep(0.01)


WRITER = """
import asyncio, os, sys
from starfish_server import MemoryObjectStore
from starfish_server.layers import Caching, RedisCache

class Dying(MemoryObjectStore):
    context_dependent = False

    async def put(self, *args, **options):
        os._exit(7)

async def main():
    shared = RedisCache(sys.argv[1], namespace="test", timeout=10.0)
    await Caching(Dying(), shared=shared).put("k", "may land later")

asyncio.run(main())
"""


async def test_a_writer_that_dies_leaves_nothing_stale(process: Processes, server: RedisServer) -> None:
    leaf = MemoryObjectStore(data={"k": "old"})
    reader = process(leaf)
    assert await reader.get_string("k") == "old"
    command = [sys.executable, "-c", WRITER, server.url]
    done = await asyncio.to_thread(subprocess.run, command, timeout=50)
    assert done.returncode == 7
    await settled(reader)
    for store in (reader, process(leaf)):
        assert await store.get_string("k") == "old"
    await leaf.put("k", "landed later")
    for store in (reader, process(leaf)):
        assert await store.get_string("k") == "landed later"
    with server.client() as client:
        (name,) = (name for name in server.names() if ":w:" in name)
        left: Any = client.pttl(name)
    assert 0 < left <= 60_000


async def test_a_write_that_takes_long_stays_registered(
    process: Processes, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "RENEW_SECONDS", 0.01)
    leaf = GatedStore({"k": "old"})
    writer = process(leaf, cache={"max_delay": 0.1})
    await settled(writer)
    leaf.gate.clear()
    writing = asyncio.ensure_future(writer.put("k", "new"))
    await eventually(lambda: "put" in leaf.calls)

    def until() -> float:
        (name,) = (name for name in server.names() if ":w:" in name)
        with server.client() as client:
            ((_, score),) = cast("list[tuple[bytes, float]]", client.zrange(name, 0, -1, withscores=True))
        return score

    first = until()
    await eventually(lambda: until() > first)
    leaf.gate.set()
    await writing
    assert server.names() == []


async def test_a_key_whose_writer_is_not_heard_of_again_is_cached_again(
    process: Processes, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "WRITER_SECONDS", 0.2)
    leaf = MemoryObjectStore(data={"k": "old"})
    reader = process(leaf, cache={"max_delay": 0.1}, ttl=0.3)
    await settled(reader)
    command = [sys.executable, "-c", WRITER, server.url]
    await asyncio.to_thread(subprocess.run, command, timeout=50)
    with server.client() as client:
        for name in server.names():
            client.delete(name)
    await eventually_hit(reader, "k")


async def test_a_key_that_another_process_wrote_when_redis_died_is_cached_again(fragile: RedisServer) -> None:
    leaf = GatedStore({"k": "old"})
    async with Processes(fragile.url) as process:
        writer, reader = process(leaf), process(MemoryObjectStore(data=leaf.data), ttl=0.2)
        for store in (writer, reader):
            await settled(store)
        leaf.gate.clear()
        writing = asyncio.ensure_future(writer.put("k", "new"))
        await eventually(lambda: "put" in leaf.calls)
        await settled(reader)
        fragile.kill()
        await eventually(lambda: not reader.stats().connected)
        await eventually_hit(reader, "k")
        leaf.gate.set()
        await writing


READER = """
import asyncio, sys
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.layers import Caching, RedisCache

async def main():
    shared = RedisCache(sys.argv[1], namespace="test", timeout=5.0, max_delay=0.5)
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=sys.argv[2]))
    store = Caching(leaf, shared=shared, ttl=600.0)
    await store.stat("none")
    while not store.stats().hits:
        await store.get_string("k")
    print("cached", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(await store.get_string("k"), flush=True)
    await store.close()

asyncio.run(main())
"""


async def test_a_process_that_was_stopped_does_not_return_what_it_missed(
    process: Processes, server: RedisServer, tmp_path: Path
) -> None:
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(tmp_path)))
    await leaf.put("k", "old")
    writer = process(leaf)
    command = [sys.executable, "-c", READER, server.url, str(tmp_path)]
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert child.stdin is not None
    assert child.stdout is not None
    assert await child.stdout.readline() == b"cached\n"
    child.send_signal(signal.SIGSTOP)
    await writer.put("k", "new")
    await asyncio.sleep(0.6)  # more than its max_delay
    child.stdin.write(b"go\n")
    child.send_signal(signal.SIGCONT)
    assert await child.stdout.readline() == b"new\n"
    assert await child.wait() == 0


async def test_half_the_traffic_is_lost_and_nothing_stale_is_returned(server: RedisServer) -> None:
    """Each connection is cut or held now and then; every read is checked against the last write."""
    data: dict[str, str | bytes] = {}
    async with Proxy(server.port) as proxy, Processes(server.url) as process:
        options = {"url": proxy.url, "timeout": 0.02, "max_delay": 0.1}
        stores = [process(MemoryObjectStore(data=data), cache=options, ttl=0.5) for _ in range(3)]
        loop = asyncio.get_running_loop()
        written = {"k": ("0", loop.time())}
        data["k"] = "0"

        async def disturb() -> None:
            for number in range(20):
                gate = proxy.to_client if number % 2 else proxy.to_server
                gate.clear()
                await asyncio.sleep(0.03)
                if number % 3 == 0:
                    proxy.cut()
                gate.set()
                await asyncio.sleep(0.02)

        disturbing = asyncio.ensure_future(disturb())
        failed: list[str] = []
        number = 0
        while not disturbing.done():
            number += 1
            store = stores[number % 3]
            if number % 5 == 0:
                await store.put("k", str(number))
                written["k"] = (str(number), loop.time())
                assert await store.get_string("k") == str(number)  # the writer's process sees it at once
            value, since = written["k"]
            asked = loop.time()
            found = await store.get_string("k")
            if found != value and asked - since > 0.6:
                failed.append(f"{found} instead of {value}")
            await asyncio.sleep(0)
        await disturbing
        assert failed == []


async def test_nothing_is_left_after_close(server: RedisServer) -> None:
    before = server.connections()
    tasks = asyncio.all_tasks()
    leaf = MemoryObjectStore(data={"k": "v"})
    async with Processes(server.url) as process:
        store = process(leaf)
        await store.get_string("k")
        await store.put("k", "new")
        assert server.connections() == before + 1
    assert asyncio.all_tasks() == tasks
    await eventually(lambda: server.connections() == before)
    with pytest.raises(Exception, match="closed"):
        await store.get_string("k")
    await store.close()


async def test_close_while_redis_hangs_leaves_nothing(fragile: RedisServer) -> None:
    gc.collect()  # what earlier tests left open
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    store = Caching(
        MemoryObjectStore(data={"k": "v"}),
        shared=RedisCache(fragile.url, namespace="test", timeout=0.1, max_delay=60.0),
    )
    await store.stat("none")
    await eventually(lambda: connected(store))
    fragile.signal(signal.SIGSTOP)
    for batch in range(20):  # more than the sockets hold
        await store.delete_many([f"{batch}-{number}/{'x' * 200}/{'y' * 200}" for number in range(1000)])
    await store.close()
    assert asyncio.all_tasks() == tasks
    await eventually(lambda: open_sockets() <= sockets)  # uvloop closes them a turn later


def test_each_event_loop_has_its_own_connection_and_ends_it(server: RedisServer) -> None:
    leaf = MemoryObjectStore(data={"k": "v"})
    before = server.connections()
    store = Caching(leaf, shared=RedisCache(server.url, namespace="test", timeout=10.0, max_delay=60.0))

    async def twice() -> None:
        await store.stat("none")
        assert await store.get_string("k") == "v"
        assert await store.get_string("k") == "v"
        assert server.connections() > before

    asyncio.run(twice())
    asyncio.run(twice())
    assert server.connections() == before
    results: list[BaseException | None] = []

    def run() -> None:
        try:
            asyncio.run(twice())
            results.append(None)
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [None] * 3
    asyncio.run(store.close())


def test_a_write_in_one_event_loop_shows_in_another_immediately(server: RedisServer) -> None:
    leaf = MemoryObjectStore(data={"k": "old"})
    store = Caching(leaf, shared=RedisCache(server.url, namespace="test", timeout=10.0, max_delay=60.0))
    read, written = threading.Event(), threading.Event()
    found: list[str | None] = []

    async def reader() -> None:
        found.append(await store.get_string("k"))
        read.set()
        await asyncio.to_thread(written.wait, 50.0)
        found.append(await store.get_string("k"))

    async def writer() -> None:
        await store.put("k", "new")

    thread = threading.Thread(target=lambda: asyncio.run(reader()))
    thread.start()
    assert read.wait(50.0)
    asyncio.run(writer())
    written.set()
    thread.join()
    assert found == ["old", "new"]
    asyncio.run(store.close())


FORKING = """
import asyncio, os, signal, sys, threading
from starfish_server import MemoryObjectStore
from starfish_server.layers import Caching, RedisCache

data = {"k": "old"}
store = Caching(MemoryObjectStore(data=data),
                shared=RedisCache(sys.argv[1], namespace="test", timeout=10.0, max_delay=60.0))

async def in_child():
    assert await store.get_string("k") == "old"
    await store.put("k", "new")  # in the child's memory
    await store.close()

async def in_parent():
    await store.stat("none")
    assert await store.get_string("k") == "old"
    child = []

    def fork():
        pid = os.fork()
        if pid == 0:
            signal.alarm(40)
            try:
                asyncio.run(in_child())
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        child.append(os.waitpid(pid, 0)[1])

    await asyncio.to_thread(fork)
    assert child == [0], child
    await store.stat("none")
    data["k"] = "new"
    assert await store.get_string("k") == "new"  # the child's write was heard of
    assert store.stats().connected
    await store.close()

asyncio.run(in_parent())
"""


def test_a_forked_child_has_a_connection_of_its_own(server: RedisServer) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING, server.url]
    done = subprocess.run(command, timeout=50, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_an_operation_that_meets_a_connection_just_lost_works_alone(
    server: RedisServer, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The transports of uvloop raise in that moment."""

    async def run() -> None:
        async with Processes(server.url) as process:
            store = process(MemoryObjectStore(data={"k": "v", "m": "v"}))
            await settled(store)
            level: Any = store._shared
            level._members.get().session._transport.abort()
            assert await store.get_string("k") == "v"
            await store.put("k", "new")
            await eventually(lambda: not connected(store))
            await eventually(lambda: connected(store))
            assert await store.get_string("k") == "new"

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


class Stop(BaseException):
    """Ends a program, as `KeyboardInterrupt` does."""


@pytest.mark.parametrize("error", [MemoryError, Stop])
def test_a_command_that_cannot_be_sent_ends_the_connection(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Else Redis would not be used for long, or a later reply would be taken for that of this command."""
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]

    async def run() -> None:
        async with Processes(server.url) as process:
            store = process(MemoryObjectStore(data={"k": "v"}))
            await settled(store)
            with monkeypatch.context() as patched:
                patched.setattr(transport, "write", Mock(side_effect=error))
                if error is Stop:
                    with pytest.raises(Stop):
                        await store.get_string("k")
                else:
                    assert await store.get_string("k") == "v"
                await eventually(lambda: not connected(store))
            await eventually(lambda: connected(store))
            await settled(store)
            await store.get_string("k")
            assert await process(MemoryObjectStore(data={})).get_string("k") == "v"

    asyncio.run(run())  # even where the others have loops of uvloop, whose transports cannot be patched
