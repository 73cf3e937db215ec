"""Event loops, threads, forks, cancellation, dead connections and close."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from faulty_proxy import (
    FaultyProxy,
    Forward,
    cut_short,
    held_until,
    lost_reply,
    passed_on,
    reply,
    reset,
    s3_error,
    stalled,
    trickled,
)
from starfish_server.context import retries_outside
from starfish_server.errors import StoreClosedError, StoreError, StoreUnavailableError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions, sessions, transport
from waiting import turns

if TYPE_CHECKING:
    from servers import S3Server

MakeS3 = Callable[..., S3ObjectStore]
ANONYMOUS = S3StorageOptions(bucket="b", anonymous=True)


def store_on(server: S3Server, endpoint: str | None = None) -> S3ObjectStore:
    return S3ObjectStore(
        S3StorageOptions(
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            endpoint=endpoint or server.endpoint,
            bucket=server.make_bucket(),
        )
    )


async def no_connection_is_left(proxy: FaultyProxy) -> None:
    while proxy.open_connections:  # noqa: ASYNC110 - the proxy's server has no event for it
        await asyncio.sleep(0)


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
    assert await store.get_string("k") is None


def test_a_store_works_in_one_loop_after_another(seaweedfs: S3Server) -> None:
    store = store_on(seaweedfs)
    asyncio.run(store.put("k", "v"))
    assert [asyncio.run(store.get_string("k")) for _ in range(3)] == ["v"] * 3
    asyncio.run(store.close())


def test_a_store_that_is_not_closed_ends_with_its_loop(seaweedfs: S3Server) -> None:
    """Warnings are errors here: an unclosed session, connector or transport would be one."""
    store = store_on(seaweedfs)
    asyncio.run(store.put("k", "v"))
    del store
    gc.collect()


def test_a_store_works_in_two_concurrent_threads(seaweedfs: S3Server) -> None:
    store = store_on(seaweedfs)
    together = threading.Barrier(2)
    failures: list[BaseException] = []

    async def work(name: str) -> None:
        together.wait(100.0)
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
        thread.join(100.0)
    assert failures == []
    assert len(asyncio.run(store.list_keys(""))) == 40
    asyncio.run(store.close())


async def test_close_closes_the_sessions_of_other_threads_loops(
    proxy: FaultyProxy, seaweedfs: S3Server
) -> None:
    store = store_on(seaweedfs, proxy.endpoint)
    used, closed = threading.Event(), threading.Event()

    async def use_and_wait() -> None:
        await store.put("k", "v")
        used.set()
        await asyncio.to_thread(closed.wait, 100.0)
        with pytest.raises(StoreClosedError):
            await store.get_string("k")

    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(use_and_wait())))
    assert await asyncio.to_thread(used.wait, 100.0)
    assert proxy.open_connections == 1
    await store.close()
    await no_connection_is_left(proxy)
    closed.set()
    await other


async def test_a_forked_child_has_connections_and_threads_of_its_own(
    proxy: FaultyProxy, seaweedfs: S3Server
) -> None:
    """In a process of its own, since this one has threads. The parent's connection survives the child.

    The bodies are long enough to be hashed in a thread.
    """
    bucket = seaweedfs.make_bucket()
    script = f"""
        import asyncio, gc, os, sys, warnings
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions, sessions

        sessions.CLOSE_GRACE_SECONDS = 600.0
        store = S3ObjectStore(S3StorageOptions(
            access_key_id={seaweedfs.access_key_id!r}, secret_access_key={seaweedfs.secret_access_key!r},
            endpoint={proxy.endpoint!r}, bucket={bucket!r}, max_attempts=1, max_connections=1))

        async def child():
            assert await store.get_string("k") == "parent" * 2**18
            await store.put("k", "child" * 2**18)
            await store.close()

        async def parent():
            await store.put("k", "parent" * 2**18)
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
            assert await store.get_string("k") == "child" * 2**18
            await store.close()

        asyncio.run(parent())
    """
    program = [sys.executable, "-c", textwrap.dedent(script)]
    process = await asyncio.create_subprocess_exec(*program, stderr=subprocess.PIPE)
    async with asyncio.timeout(60.0):
        _, errors = await process.communicate()
    assert errors == b""
    assert process.returncode == 0
    first, *childs, last = [seen.connection for seen in proxy.seen]
    assert (first == last, len(childs), len({first, *childs})) == (True, 2, 2)


async def test_requests_in_flight_finish_before_close_does(
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
    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 0.05)
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_connections=2, max_attempts=1)
    proxy.next_faults += [trickled(10), stalled]
    gets = [asyncio.create_task(store.get_bytes("k")) for _ in range(5)]
    await proxy.arrived(2)
    await store.close()
    outcomes = await asyncio.gather(*gets, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 5


async def test_a_write_that_close_cuts_off_may_have_been_done(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 0.05)
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    proxy.next_faults += [stalled]
    put = asyncio.create_task(store.put("k", "v"))
    await proxy.arrived(1)
    await store.close()
    with pytest.raises(StoreClosedError) as cut_off:
        await put
    with pytest.raises(StoreClosedError) as refused:
        await store.put("k", "v")
    assert (cut_off.value.undetermined, bool(refused.value.undetermined)) == (True, False)


async def test_a_write_whose_body_is_hashed_when_the_store_closes_was_not_done(
    seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, hashed = asyncio.Event(), asyncio.Event()

    async def hex_digest(*_: object) -> str:
        begun.set()
        await hashed.wait()
        return ""

    monkeypatch.setattr(transport, "hex_digest", hex_digest)
    store = make_s3(seaweedfs, bucket="b")
    put = asyncio.create_task(store.put("k", "v"))
    await begun.wait()
    await store.close()
    hashed.set()
    with pytest.raises(StoreClosedError) as refused:
        await put
    assert not refused.value.undetermined


@pytest.mark.parametrize("reply_lost", [True, False])
async def test_a_write_that_close_keeps_from_being_corrected_was_not_done_unless_a_reply_was_lost(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, reply_lost: bool
) -> None:
    """Its first reply is lost on a reused connection, and the second corrects this machine's clock."""

    async def skewed(request: web.Request, forward: Forward) -> web.StreamResponse:
        closing.append(asyncio.create_task(store.close()))
        await turns()
        return await s3_error(403, "RequestTimeTooSkewed")(request, forward)

    closing: list[asyncio.Task[None]] = []
    bucket = seaweedfs.make_bucket()
    store = make_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint)
    await store.put("k", "old")
    proxy.next_faults += [lost_reply, skewed] if reply_lost else [skewed]
    with pytest.raises(StoreClosedError) as caught:
        await store.put("k", "new")
    await closing[0]
    assert caught.value.undetermined is reply_lost
    assert await make_s3(seaweedfs, bucket=bucket).get_string("k") == ("new" if reply_lost else "old")


async def test_another_error_of_a_request_that_close_waits_for_is_that_error(
    seaweedfs: S3Server, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_s3(seaweedfs, bucket="b")

    async def request(*_: object, **_options: object) -> None:
        closing.append(asyncio.create_task(store.close()))
        await asyncio.sleep(0)
        raise RuntimeError("of a tracing hook")

    closing: list[asyncio.Task[None]] = []
    monkeypatch.setattr(aiohttp.ClientSession, "request", request)
    with pytest.raises(RuntimeError, match="of a tracing hook"):
        await store.get_string("k")
    await closing[0]


async def test_close_may_be_called_twice_and_concurrently_and_ends_all_use(
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
    await no_connection_is_left(proxy)


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
    outcomes = await asyncio.gather(*gets, closing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 5 + [asyncio.CancelledError]


async def test_a_session_made_while_another_thread_closes_the_store_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients: list[aiohttp.ClientSession] = []

    def open_client(*_: object) -> aiohttp.ClientSession:
        clients.append(aiohttp.ClientSession())
        closing.start()
        closing.join(100.0)
        return clients[0]

    monkeypatch.setattr(sessions, "open_client", open_client)
    made = sessions.Sessions(ANONYMOUS)
    closing = threading.Thread(target=lambda: asyncio.run(made.close()))
    with pytest.raises(StoreClosedError):
        await made.current()
    await asyncio.to_thread(closing.join, 100.0)
    assert [client.closed for client in clients] == [True]


async def test_a_session_closes_after_its_background_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)

    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 0.0)
    session = sessions.Session(ANONYMOUS, True)
    await anext(session.guard)
    task = session.background(work())
    await asyncio.sleep(0)
    await session.close()
    assert task.done()


def test_a_loop_that_was_closed_with_sessions_open_is_let_go(seaweedfs: S3Server) -> None:
    """In a process of its own: what a closed loop leaves open warns whenever it is collected."""
    bucket = seaweedfs.make_bucket()
    script = f"""
        import asyncio, gc, weakref
        from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

        store = S3ObjectStore(S3StorageOptions(
            access_key_id={seaweedfs.access_key_id!r}, secret_access_key={seaweedfs.secret_access_key!r},
            endpoint={seaweedfs.endpoint!r}, bucket={bucket!r}))
        loops = weakref.WeakSet()
        for _ in range(5):
            loop = asyncio.new_event_loop()
            loops.add(loop)
            loop.run_until_complete(store.get_string("k"))
            loop.close()
        gc.collect()
        assert len(loops) == 1
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
    await asyncio.gather(*(store.get_string("k") for _ in range(50)))
    assert len({seen.connection for seen in proxy.seen}) <= connections


async def test_a_request_on_a_dead_connection_goes_out_on_a_new_one_and_is_one_attempt(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1)
    await store.put("k", "v")
    proxy.next_faults += [reset, passed_on, reset, passed_on]
    assert await store.get_string("k") == "v"
    await store.put("k", "w")
    assert len({seen.connection for seen in proxy.seen}) == 3


async def test_a_request_that_breaks_on_a_new_connection_too_has_failed(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_attempts=1)
    proxy.next_faults += [reply(200, "v", ETag='"e"'), reset, reset]
    assert await store.get_string("k") == "v"
    with pytest.raises(StoreUnavailableError, match="the connection broke"):
        await store.get_string("k")
    assert len(proxy.seen) == 3


@pytest.mark.parametrize("outside", [False, True], ids=["own attempts", "under Retry"])
async def test_one_dead_connection_empties_the_pool(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, outside: bool
) -> None:
    """As after a restart of the server that the network did not tell the client about."""
    store = make_s3(seaweedfs, bucket="b", endpoint=proxy.endpoint, max_attempts=1 if outside else 3)
    release, found = asyncio.Event(), reply(200, "v", ETag='"e"')

    async def held(request: web.Request, forward: Forward) -> web.StreamResponse:
        await release.wait()
        return await found(request, forward)

    proxy.fault = held
    gets = [asyncio.create_task(store.get_string("k")) for _ in range(20)]
    await proxy.arrived(20)
    release.set()
    await asyncio.gather(*gets)
    dead = {seen.connection for seen in proxy.seen}
    assert len(dead) == 20

    async def restarted(request: web.Request, forward: Forward) -> web.StreamResponse:
        return await (reset if proxy.seen[-1].connection in dead else found)(request, forward)

    proxy.fault = restarted
    proxy.seen.clear()
    retries_outside.set([None] if outside else ())
    assert [await store.get_string("k") for _ in range(10)] == ["v"] * 10
    assert sum(seen.connection in dead for seen in proxy.seen) == 1


async def test_a_conditional_write_is_never_sent_twice(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    """The second would be refused because of the first."""
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    version = (await store.write("k", "1", if_version=None)).version
    version = (await store.write("k", "2", if_version=version)).version
    proxy.seen.clear()
    proxy.next_faults += [lost_reply]
    with pytest.raises(StoreUnavailableError):
        await store.write("k", "3", if_version=version)
    assert len(proxy.seen) == 1


async def test_a_reply_that_breaks_after_its_first_byte_is_a_failed_attempt(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1)
    await store.put("k", "v" * 1000)
    proxy.next_faults += [cut_short(10)]
    with pytest.raises(StoreUnavailableError, match="cut short"):
        await store.get_string("k")
    assert len(proxy.seen) == 2
