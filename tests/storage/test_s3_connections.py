"""Event loops, threads, forks, cancellation and close: who holds which connection, and gives it back."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp
import pytest

from faulty_proxy import FaultyProxy, held_until, passed_on, stalled, trickled
from starfish_server.errors import StoreClosedError, StoreError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions, connections
from starfish_server.storage.s3.credentials import FixedKeys

if TYPE_CHECKING:
    from servers import S3Server

MakeS3 = Callable[..., S3ObjectStore]


def store_on(server: S3Server) -> S3ObjectStore:
    return S3ObjectStore(
        S3StorageOptions(
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            endpoint=server.endpoint,
            bucket=server.make_bucket(),
        )
    )


async def test_gets_cancelled_in_mid_body_leave_nothing_behind(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    """Far more than the pool has connections; the link delivers a tenth of each body and then nothing."""
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_connections=4)
    await store.put("k", "v" * 10_000)
    proxy.fault = trickled(1000)
    before = asyncio.all_tasks()
    for _ in range(25):
        proxy.begun = 0
        gets = [asyncio.create_task(store.get_string("k")) for _ in range(4)]
        await proxy.in_mid_body(4)
        for get in gets:
            get.cancel()
        outcomes = await asyncio.gather(*gets, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 4
    proxy.fault = None
    async with asyncio.timeout(2.0):
        assert await store.get_string("k") == "v" * 10_000
    assert not {task for task in asyncio.all_tasks() - before if "_s3_" in repr(task)}


async def test_puts_cancelled_in_mid_body_leave_nothing_behind(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_connections=1)
    proxy.fault = stalled
    for _ in range(5):
        proxy.seen.clear()
        put = asyncio.create_task(store.put("k", "v" * 1_000_000))
        await proxy.arrived(1)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
    proxy.fault = None
    async with asyncio.timeout(5.0):
        assert await store.get_string("k") is None


def test_a_store_works_in_one_loop_after_another(seaweedfs: S3Server) -> None:
    store = store_on(seaweedfs)
    asyncio.run(store.put("k", "v"))
    assert [asyncio.run(store.get_string("k")) for _ in range(3)] == ["v"] * 3
    asyncio.run(store.close())


def test_a_store_that_nobody_closes_ends_with_its_loop(seaweedfs: S3Server) -> None:
    """Warnings are errors here: an unclosed session, connector or transport would be one."""
    store = store_on(seaweedfs)
    asyncio.run(store.put("k", "v"))
    connections = list(store._transport._connections._by_loop.values())
    assert [connection.session.closed for connection in connections] == [True]
    del store, connections
    gc.collect()


def test_a_store_works_in_two_threads_at_once(seaweedfs: S3Server) -> None:
    store = store_on(seaweedfs)
    together = threading.Barrier(2)
    failures: list[BaseException] = []

    async def work(name: str) -> None:
        together.wait(10.0)
        for n in range(20):
            await store.put(f"{name}/{n}", name)
            assert await store.get_string(f"{name}/{n}") == name

    def run(name: str) -> None:
        try:
            asyncio.run(work(name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert failures == []
    assert len(asyncio.run(store.list_keys(""))) == 40
    asyncio.run(store.close())


def test_close_closes_the_sessions_of_other_threads_loops(seaweedfs: S3Server) -> None:
    store = store_on(seaweedfs)
    used, closed = threading.Event(), threading.Event()
    outcome: list[object] = []

    async def use_and_wait() -> None:
        await store.put("k", "v")
        used.set()
        await asyncio.to_thread(closed.wait, 10.0)
        connections = store._transport._connections._by_loop
        outcome.append(connections[asyncio.get_running_loop()].session.closed)
        try:
            await store.get_string("k")
        except StoreClosedError as error:
            outcome.append(type(error))

    thread = threading.Thread(target=lambda: asyncio.run(use_and_wait()))
    thread.start()
    assert used.wait(10.0)
    asyncio.run(store.close())
    closed.set()
    thread.join(10.0)
    assert outcome == [True, StoreClosedError]


def test_a_forked_child_has_connections_of_its_own(seaweedfs: S3Server) -> None:
    """In a process of its own, since this one has threads. The parent's connections survive the child."""
    bucket = seaweedfs.make_bucket()
    script = f"""
        import asyncio, gc, os, sys, warnings
        warnings.simplefilter("error")
        from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

        store = S3ObjectStore(S3StorageOptions(
            access_key_id={seaweedfs.access_key_id!r}, secret_access_key={seaweedfs.secret_access_key!r},
            endpoint={seaweedfs.endpoint!r}, bucket={bucket!r}, max_attempts=1, max_connections=1))

        async def child():
            assert store._transport._connections._by_loop == {{}}
            assert await store.get_string("k") == "parent"
            await store.put("k", "child")
            async with asyncio.timeout(3.0):
                await store.close()

        async def parent():
            await store.put("k", "parent")
            session = next(iter(store._transport._connections._by_loop.values())).session
            connection = next(iter(session.connector._conns.values()))[0][0]
            pid = os.fork()
            if pid == 0:
                try:
                    asyncio.run(child())
                    gc.collect()
                except BaseException as error:
                    print("child:", repr(error), file=sys.stderr)
                    os._exit(1)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert await store.get_string("k") == "child"
            assert next(iter(session.connector._conns.values()))[0][0] is connection
            await store.close()

        asyncio.run(parent())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_requests_under_way_finish_before_close_does(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    release, begun = asyncio.Event(), asyncio.Event()
    proxy.next_faults += [held_until(release, begun)]
    put = asyncio.create_task(store.put("k", "v"))
    await begun.wait()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreClosedError):
        await store.get_string("k")
    release.set()
    await asyncio.gather(put, closing)


async def test_requests_that_do_not_finish_fail_typed_when_the_store_closes(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait for one of the two connections as well as those that hold one."""
    monkeypatch.setattr(connections, "CLOSE_GRACE_SECONDS", 0.05)
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_connections=2, max_attempts=1)
    proxy.next_faults += [trickled(10), stalled]
    gets = [asyncio.create_task(store.get_bytes("k")) for _ in range(5)]
    await proxy.arrived(2)
    async with asyncio.timeout(5.0):
        await store.close()
        outcomes = await asyncio.gather(*gets, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 5


async def test_close_may_be_called_twice_and_side_by_side_and_ends_all_use(
    seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs)
    await store.put("k", "v")
    await asyncio.gather(store.close(), store.close())
    await store.close()
    operations = [
        store.get_string("../k"),
        store.get_bytes("k"),
        store.put("k", "v"),
        store.put_bytes("k", b"v", content_type="a/b"),
        store.list_keys(""),
        store.delete("k"),
        store.delete_many(["k"]),
    ]
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * len(operations)
    assert [o.operation for o in outcomes if isinstance(o, StoreError)][:2] == ["get_string", "get_bytes"]


async def test_a_close_that_is_cancelled_can_be_called_again(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    release, begun = asyncio.Event(), asyncio.Event()
    proxy.next_faults += [held_until(release, begun), passed_on]
    put = asyncio.create_task(store.put("k", "v"))
    await begun.wait()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    release.set()
    await asyncio.gather(put, return_exceptions=True)
    await store.close()
    assert all(c.session.closed for c in store._transport._connections._by_loop.values())


async def test_a_close_that_is_cancelled_fails_requests_typed(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    """Those that wait for one of the two connections as well as those that hold one."""
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_connections=2, max_attempts=1)
    proxy.next_faults += [trickled(10), stalled]
    gets = [asyncio.create_task(store.get_bytes("k")) for _ in range(5)]
    await proxy.arrived(2)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(5.0):
        outcomes = await asyncio.gather(*gets, closing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 5 + [asyncio.CancelledError]


async def test_a_session_made_while_another_thread_closes_the_store_is_closed() -> None:
    def close_meanwhile() -> FixedKeys:
        closing.start()
        closing.join(0.2)
        return FixedKeys(None)

    made = connections.Connections(aiohttp.ClientSession, close_meanwhile, 30.0)
    closing = threading.Thread(target=lambda: asyncio.run(made.close()))
    connection = await made.current()
    await asyncio.to_thread(closing.join, 10.0)
    assert connection.session.closed


def test_a_loop_that_was_closed_with_sessions_open_is_let_go(seaweedfs: S3Server) -> None:
    """In a process of its own: what a closed loop leaves open warns whenever it is collected."""
    bucket = seaweedfs.make_bucket()
    script = f"""
        import asyncio
        from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

        store = S3ObjectStore(S3StorageOptions(
            access_key_id={seaweedfs.access_key_id!r}, secret_access_key={seaweedfs.secret_access_key!r},
            endpoint={seaweedfs.endpoint!r}, bucket={bucket!r}))
        for _ in range(5):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(store.get_string("k"))
            loop.close()
        assert len(store._transport._connections._by_loop) == 1
        asyncio.run(store.close())
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "never awaited" not in done.stderr


@pytest.mark.parametrize("connections", [1, 3])
async def test_no_more_connections_are_opened_than_allowed(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, connections: int
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_connections=connections)
    before = len(os.listdir("/proc/self/fd"))
    await asyncio.gather(*(store.get_string("k") for _ in range(50)))
    session = next(iter(store._transport._connections._by_loop.values())).session
    assert session.connector is not None
    assert sum(len(idle) for idle in session.connector._conns.values()) <= connections
    assert len(os.listdir("/proc/self/fd")) - before <= 3 * connections
