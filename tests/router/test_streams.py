"""Blobs in motion: bounded memory both ways, and nothing left over when a transfer breaks off."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from router.application import client_of, make_app, one_collection, serving
from starfish_server import MemoryObjectStore, StoreUnavailableError
from starfish_server.objects import ObjectInfo, ObjectReader
from starfish_server.router.blobs import WHOLE_BYTES
from starfish_server.testing import RecordingStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from fastapi import FastAPI

    from starfish_server import AbstractObjectStore

CHUNK = os.urandom(2**18)
CHUNKS = 256
SIZE = CHUNKS * len(CHUNK)
CONFIG = one_collection(allowedMimeTypes=["image/*"], maxBodyBytes=SIZE)
PATH = "notes/large"
PNG = {"Content-Type": "image/png"}
# Else the buffers of sockets grow to what the system allows, which may be half of the body.
BUFFERS = [(socket.SOL_SOCKET, option, 2**18) for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)]
# For the buffers of two sockets, the server and the client; a body in memory is eight times as much.
IN_FLIGHT = SIZE // 8


def http_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=None, transport=httpx.AsyncHTTPTransport(socket_options=BUFFERS))


def application(store: AbstractObjectStore) -> FastAPI:
    return make_app(store, CONFIG)


class Readable(MemoryObjectStore):
    """One object of 64 MiB that is never in memory.

    given: bytes that its reader gave so far.
    breaks_at: the chunk at which the reader fails, or hangs if `error` is None.
    reached: set at that chunk. closed: set at the end of the reader's close, which takes a moment.
    """

    context_dependent = False

    def __init__(self, *, breaks_at: int = -1, error: Exception | None = None) -> None:
        super().__init__(data={})
        self.given = 0
        self.reached, self.closed = asyncio.Event(), asyncio.Event()
        self._breaks_at, self._error = breaks_at, error

    async def open(self, key: str, **_: Any) -> ObjectReader | None:
        async def fetch() -> bytes:
            await asyncio.sleep(0)
            number = self.given // len(CHUNK)
            if number == self._breaks_at:
                self.reached.set()
                if self._error is not None:
                    raise self._error
                await asyncio.Event().wait()
            if number == CHUNKS:
                return b""
            self.given += len(CHUNK)
            return CHUNK

        async def close() -> None:
            await asyncio.sleep(0)
            self.closed.set()

        return ObjectReader(ObjectInfo(key, SIZE, "image/png", version="1"), fetch, close)


async def test_a_large_blob_is_pulled_as_fast_as_the_client_reads_it() -> None:
    store = Readable()
    received = most = 0
    async with (
        serving(application(store), BUFFERS) as url,
        http_client() as client,
        client.stream("GET", f"{url}/v1/pull/{PATH}") as response,
    ):
        assert response.headers["content-length"] == str(SIZE)
        async for part in response.aiter_raw():
            most = max(most, store.given - received)
            received += len(part)
    assert received == SIZE
    assert most < IN_FLIGHT
    assert store.closed.is_set()


@pytest.mark.parametrize("breaks_at", [-1, 4], ids=["sending", "waiting for the store"])
async def test_a_client_that_leaves_closes_the_reader(breaks_at: int) -> None:
    store = Readable(breaks_at=breaks_at)
    async with serving(application(store)) as url, httpx.AsyncClient(timeout=None) as client:
        async with client.stream("GET", f"{url}/v1/pull/{PATH}") as response:
            await anext(response.aiter_raw())
            if breaks_at > 0:
                await store.reached.wait()
        await store.closed.wait()
    assert store.given < SIZE


async def test_a_client_that_leaves_while_it_is_sent_to_closes_the_reader() -> None:
    store = Readable()
    sending = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await sending.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sending.set()
            await asyncio.Event().wait()

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/v1/pull/{PATH}",
        "raw_path": f"/v1/pull/{PATH}".encode(),
        "query_string": b"",
        "headers": [],
    }
    await application(store)(scope, receive, send)
    assert store.closed.is_set()


async def test_a_reader_is_closed_to_the_end_behind_a_middleware_that_gives_up() -> None:
    store = Readable(breaks_at=4)
    app = application(store)

    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    async with serving(app) as url, httpx.AsyncClient(timeout=None) as client:
        async with client.stream("GET", f"{url}/v1/pull/{PATH}") as response:
            await anext(response.aiter_raw())
            await store.reached.wait()
        await store.closed.wait()


async def test_a_cancelled_response_closes_the_reader() -> None:
    store = Readable(breaks_at=4)
    async with client_of(application(store)) as client:
        pulling = asyncio.create_task(client.get(f"/pull/{PATH}"))
        await store.reached.wait()
        pulling.cancel()
        await asyncio.wait([pulling])
    assert store.closed.is_set()


async def test_a_stream_that_breaks_is_never_taken_for_the_whole(caplog: pytest.LogCaptureFixture) -> None:
    store = Readable(breaks_at=4, error=StoreUnavailableError("the disk is gone"))
    async with serving(application(store)) as url, httpx.AsyncClient(timeout=None) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{url}/v1/pull/{PATH}")
    assert store.closed.is_set()
    [record] = [record for record in caplog.records if record.name.startswith("starfish_server")]
    assert record.getMessage() == f"GET '/v1/pull/{PATH}' broke off"
    assert "the disk is gone" in caplog.text


@pytest.mark.parametrize(
    "headers",
    [{"Range": f"bytes={SIZE}-"}, {"Range": "bytes=-0", "If-Range": '"1"'}],
    ids=["after opening", "before opening"],
)
async def test_a_range_that_cannot_be_sent_leaves_no_reader_open(headers: dict[str, str]) -> None:
    class Opened(Readable):
        opened = False

        async def open(self, key: str, **options: Any) -> ObjectReader | None:
            self.opened = True
            return await super().open(key, **options)

        async def stat(self, key: str, **_: Any) -> ObjectInfo | None:
            return ObjectInfo(key, SIZE, "image/png", version="1")

    store = Opened()
    async with client_of(application(store)) as client:
        assert (await client.get(f"/pull/{PATH}", headers=headers)).status_code == 416
    assert store.opened == store.closed.is_set() == ("If-Range" not in headers)


class Writable(MemoryObjectStore):
    """Counts the bytes of uploads instead of keeping them.

    taken: bytes so far. begun: set with the first. ended: the error that ended an upload, or None.
    """

    context_dependent = False

    def __init__(self) -> None:
        super().__init__(data={})
        self.sent = self.taken = self.most = 0
        self.begun = asyncio.Event()
        self.ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def upload(self, key: str, chunks: AsyncIterable[bytes], **options: Any) -> ObjectInfo:  # type: ignore[override]  # given async chunks only
        try:
            async for chunk in chunks:
                self.most = max(self.most, self.sent - self.taken)
                self.taken += len(chunk)
                self.begun.set()
        except BaseException as error:
            self.ended.set_result(error)
            raise
        self.ended.set_result(None)
        return await self.write(key, "uploaded", **options)

    async def body(self, count: int = CHUNKS) -> AsyncIterator[bytes]:
        """Yield what a client sends, and count it."""
        for _ in range(count):
            self.sent += len(CHUNK)
            yield CHUNK


@pytest.mark.parametrize("length", [{"Content-Length": str(SIZE)}, {}], ids=["known", "unknown"])
async def test_a_large_blob_is_pushed_as_fast_as_the_store_takes_it(length: dict[str, str]) -> None:
    store = Writable()
    async with serving(application(store), BUFFERS) as url, http_client() as client:
        response = await client.post(f"{url}/v1/push/{PATH}", content=store.body(), headers=PNG | length)
    assert (response.status_code, store.taken) == (200, SIZE)
    assert store.most < IN_FLIGHT


async def test_a_push_over_the_limit_ends_the_upload() -> None:
    store = Writable()
    # In process: over TCP, a client that is still sending may lose the response when the server closes.
    async with client_of(application(store)) as client:
        response = await client.post(f"/push/{PATH}", content=store.body(CHUNKS + 1), headers=PNG)
    assert (response.status_code, response.json()) == (413, {"error": "too_large"})
    assert await store.ended is not None
    assert await store.get_string(PATH) is None


async def test_a_client_that_leaves_ends_its_upload() -> None:
    store = Writable()

    async def breaking() -> AsyncIterator[bytes]:
        yield CHUNK
        await store.begun.wait()
        raise ConnectionAbortedError

    async with serving(application(store)) as url, httpx.AsyncClient(timeout=None) as client:
        with pytest.raises(ConnectionAbortedError):
            await client.post(f"{url}/v1/push/{PATH}", content=breaking(), headers=PNG)
        assert await store.ended is not None
    assert await store.get_string(PATH) is None


async def test_a_cancelled_push_ends_its_upload() -> None:
    store = Writable()

    async def endless() -> AsyncIterator[bytes]:
        yield CHUNK
        await asyncio.Event().wait()

    async with client_of(application(store)) as client:
        pushing = asyncio.create_task(client.post(f"/push/{PATH}", content=endless(), headers=PNG))
        await store.begun.wait()
        pushing.cancel()
        assert isinstance(await store.ended, asyncio.CancelledError)


@pytest.mark.parametrize(("size", "operation"), [(WHOLE_BYTES, "write"), (WHOLE_BYTES + 1, "upload")])
async def test_a_short_body_is_written_whole_so_that_it_can_be_retried(size: int, operation: str) -> None:
    store = RecordingStore(MemoryObjectStore(data={}))
    async with client_of(application(store)) as client:
        assert (await client.post(f"/push/{PATH}", content=bytes(size), headers=PNG)).status_code == 200
    assert [call.name for call in store.calls] == [operation]
