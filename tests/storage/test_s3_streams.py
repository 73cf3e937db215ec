"""`open`: connections given back, back-pressure, bodies cut short, and stores closed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from bare_server import FOUND, read_request, server, store_at
from faulty_proxy import FaultyProxy, cut_short, reply, trickled
from starfish_server.errors import StoreClosedError, StoreTimeoutError, StoreUnavailableError
from starfish_server.storage.s3 import sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import S3Server
    from starfish_server.objects import ObjectReader
    from starfish_server.storage.s3 import S3ObjectStore

BODY = bytes(range(256)) * 4096  # 1 MiB
ENDLESS = 2**30
HOUR = 3600.0


@pytest.fixture
def store(make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server) -> S3ObjectStore:
    """One attempt a request and one connection, through the proxy."""
    return make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1, max_connections=1)


async def opened(store: S3ObjectStore, start: int = 0, stop: int | None = None) -> ObjectReader:
    reader = await store.open("k", start=start, stop=stop)
    assert reader is not None
    return reader


class Endless:
    """A server that sends 1 GiB as fast as it is taken; `sent` counts the bytes."""

    def __init__(self) -> None:
        self.sent = 0
        self.hung_up = threading.Semaphore(0)

    def __call__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        read_request(connection)
        connection.sendall(FOUND % ENDLESS)
        with contextlib.suppress(OSError):
            while self.sent < ENDLESS:
                self.sent += connection.send(bytes(65536))
        self.hung_up.release()


async def test_a_stream_is_one_request(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    await store.put_bytes("k", BODY, content_type="image/png")
    proxy.seen.clear()
    reader = await opened(store, start=1000)
    assert (reader.info.size, reader.info.content_type) == (len(BODY), "image/png")
    assert await reader.read() == BODY[1000:]
    assert [(seen.method, seen.headers["Range"]) for seen in proxy.seen] == [("GET", "bytes=1000-")]


async def test_a_stream_read_to_its_end_gives_its_connection_back(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    await store.put_bytes("k", BODY, content_type="a/b")
    for _ in range(3):
        assert await (await opened(store)).read() == BODY
    assert len({seen.connection for seen in proxy.seen}) == 1


async def test_a_closed_or_forgotten_stream_frees_its_connection() -> None:
    endless = Endless()
    with server(endless) as endpoint:
        async with store_at(endpoint, max_connections=1) as store:
            for _ in range(2):
                async with await opened(store) as reader:
                    assert await reader.next_chunk()
                assert await asyncio.to_thread(endless.hung_up.acquire, timeout=100.0)
                reader = await opened(store)
                assert await reader.next_chunk()
                del reader
                gc.collect()
                assert await asyncio.to_thread(endless.hung_up.acquire, timeout=100.0)


async def test_a_reader_that_waits_holds_the_server_back() -> None:
    endless = Endless()
    with server(endless) as endpoint:
        async with store_at(endpoint) as store:
            reader = await opened(store)
            size = 0
            while size < 8 * 2**20:
                size += len(await reader.next_chunk())
            before = -1
            while before != endless.sent:  # until nothing fits into any buffer
                before = endless.sent
                await asyncio.to_thread(endless.hung_up.acquire, timeout=0.3)
            assert endless.sent - size < 16 * 2**20
            await reader.aclose()


async def test_closing_the_store_ends_open_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 600.0)  # what requests in flight get
    endless = Endless()
    with server(endless) as endpoint:
        store = store_at(endpoint)
        waiting, idle = await opened(store), await opened(store)
        assert await idle.next_chunk()
        await store.close()
        for reader in (waiting, idle):
            with pytest.raises(StoreClosedError):
                await reader.read()


async def test_a_reader_waiting_for_bytes_is_ended_by_close(
    store: S3ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 600.0)
    await store.put_bytes("k", BODY, content_type="a/b")
    proxy.fault = trickled(10)
    reader = await opened(store)
    assert await reader.next_chunk() == BODY[:10]
    waiting = asyncio.create_task(reader.next_chunk())
    await proxy.in_mid_body(1)
    await store.close()
    with pytest.raises(StoreClosedError):
        await waiting


async def test_a_reader_whose_body_has_come_already_is_ended_by_close(store: S3ObjectStore) -> None:
    await store.put_bytes("k", b"v", content_type="a/b")
    reader = await opened(store)
    await store.close()
    with pytest.raises(StoreClosedError) as caught:
        await reader.read()
    assert (caught.value.operation, caught.value.key) == ("open", "k")


async def test_a_body_that_is_cut_short_is_an_error(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    await store.put_bytes("k", BODY, content_type="a/b")
    proxy.fault = cut_short(500_000)
    with pytest.raises(StoreUnavailableError) as caught:
        await (await opened(store)).read()
    assert (caught.value.operation, caught.value.key) == ("open", "k")


async def test_a_range_that_ends_early_is_an_error(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    proxy.fault = reply(206, b"12345", ETag='"e"', Content_Range="bytes 0-9/100")
    reader = await opened(store, stop=10)
    with pytest.raises(StoreUnavailableError, match="5 bytes before its end"):
        await reader.read()


async def test_a_stream_that_stalls_times_out(
    make_s3: Callable[..., S3ObjectStore],
    proxy: FaultyProxy,
    seaweedfs: S3Server,
    set_forward: Callable[[float], None],
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=1, read_timeout=HOUR)
    await store.put_bytes("k", BODY, content_type="a/b")
    proxy.fault = trickled(10)
    reader = await opened(store)
    assert await reader.next_chunk() == BODY[:10]
    waiting = asyncio.create_task(reader.next_chunk())
    await asyncio.sleep(0)
    set_forward(HOUR)
    with pytest.raises(StoreTimeoutError):
        await waiting
    proxy.fault = None
    assert await (await opened(store)).read() == BODY


async def test_time_between_two_chunks_is_the_readers_own(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server, set_forward: Callable[[float], None]
) -> None:
    store, body = make_s3(seaweedfs, read_timeout=300.0, max_attempts=1), BODY * 8
    await store.put_bytes("k", body, content_type="a/b")
    reader = await opened(store)
    first = await reader.next_chunk()
    set_forward(1000.0)
    assert first + await reader.read() == body


async def test_a_cancelled_read_frees_the_connection(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    await store.put_bytes("k", BODY, content_type="a/b")
    proxy.next_faults.append(trickled(10))
    reader = await opened(store)
    assert await reader.next_chunk() == BODY[:10]
    waiting = asyncio.create_task(reader.next_chunk())
    await proxy.in_mid_body(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await (await opened(store)).read() == BODY


async def test_a_service_that_ignores_the_range_is_found_out(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.fault = reply(200, BODY, ETag='"e"')
    for start, stop in ((3, 9), (700_000, 900_000), (len(BODY) - 1, len(BODY) + 5), (len(BODY), 2**30)):
        reader = await opened(store, start=start, stop=stop)
        assert (await reader.read(), reader.info.size) == (BODY[start:stop], len(BODY))


async def test_a_refused_open_leaves_no_connection(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    proxy.fault = reply(200, BODY)  # without an ETag, which is no object of S3
    for _ in range(3):
        with pytest.raises(Exception, match="not an object of S3"):
            await store.open("k")


async def test_a_replaced_object_is_read_to_its_end_as_it_was(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    store = make_s3(seaweedfs)
    body = BODY * 8
    await store.put_bytes("k", body, content_type="a/b")
    reader = await opened(store)
    first = await reader.next_chunk()
    await store.put_bytes("k", bytes(len(body)), content_type="a/b")
    with contextlib.suppress(StoreUnavailableError):  # the service may have thrown the rest away
        assert first + await reader.read() == body
