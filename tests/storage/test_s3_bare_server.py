"""Servers that misbehave in ways that only raw bytes can show."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from bare_server import FOUND, STORED, read_request, received, server, store_at
from starfish_server import StoreClosedError, StoreError, StoreTimeoutError, StoreUnavailableError
from starfish_server.storage.s3 import sessions
from waiting import turns

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class ReadsNothing:
    """Reads one byte, and no more before `resume`; `ended` counts clients that hung up."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.resume = threading.Event()
        self.ended = threading.Semaphore(0)

    def __call__(self, connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):  # also of a client that hung up before the first byte
            connection.recv(1)
            self.begun.release()
            self.resume.wait()
            while connection.recv(65536):
                pass
        self.ended.release()


async def test_a_write_that_was_sent_before_the_server_went_away_may_have_been_done() -> None:
    """It is sent on a reused connection that breaks, and no other one can be made."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"old")
        writer.write(STORED)
        await reader.readuntil(b"new")
        listener.close()
        writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with store_at(f"http://127.0.0.1:{port}") as store:
        await store.put("k", "old")
        with pytest.raises(StoreUnavailableError, match="no connection could be made") as caught:
            await store.put("k", "new")
    assert caught.value.undetermined is True


async def test_a_reply_that_was_not_asked_for_is_not_taken_for_the_next_one() -> None:
    stored: dict[bytes, bytes] = {}
    done, strayed = threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        while True:
            line, body = read_request(connection)
            stored[line.split()[1]] = body
            connection.sendall(STORED)
            if line.startswith(b"PUT /b/first"):
                done.wait(100.0)
                connection.sendall(STORED)
                strayed.set()

    with server(serve) as endpoint:
        async with store_at(endpoint, max_connections=1, max_attempts=3) as store:
            await store.put("first", "1")
            done.set()
            await asyncio.to_thread(strayed.wait, 100.0)
            await turns()
            for number in range(3):
                await store.put_bytes(f"k{number}", b"%d" % number * 1_000_000, content_type="a/b")
            for number in range(3):
                assert stored[b"/b/k%d" % number] == b"%d" % number * 1_000_000


@pytest.mark.parametrize("coding", [b"xchunked", b"chunked, identity"])
async def test_a_body_of_unknown_length_is_not_taken_for_whole(coding: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nTransfer-Encoding: %s\r\n\r\nhello' % coding)

    with server(serve) as endpoint:
        async with store_at(endpoint) as store:
            with pytest.raises(StoreError, match="does not say how long it is"):
                await store.get_string("k")


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/plain; name=r\xe9sum\xe9.txt",
        "text/plain; name=résumé.txt".encode(),
        b"a/b;\tc",
        b"a" * 1025,
        b"",
    ],
    ids=["latin-1", "utf-8", "tab", "too long", "empty"],
)
async def test_a_content_type_that_no_store_would_take_reads_as_unknown_bytes(content_type: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(FOUND[:-2] % 1 + b"Content-Type: %s\r\n\r\nv" % content_type)

    with server(serve) as endpoint:
        async with store_at(endpoint) as store:
            assert await store.get_bytes("k") == (b"v", "application/octet-stream")


async def test_a_body_that_came_while_the_event_loop_was_blocked_is_not_late(
    set_forward: Callable[[float], None],
) -> None:
    begun, rest, sent = threading.Event(), threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(FOUND % 20 + b"x" * 10)
        begun.set()
        rest.wait(100.0)
        connection.sendall(b"x" * 10)
        sent.set()

    with server(serve) as endpoint:
        async with store_at(endpoint, read_timeout=300.0) as store:
            get = asyncio.create_task(store.get_bytes("k"))
            await asyncio.to_thread(begun.wait, 100.0)
            await turns()
            rest.set()
            assert sent.wait(100.0)
            set_forward(1000.0)  # as if the line above had taken so long
            assert await get == (b"x" * 20, "application/octet-stream")


async def test_a_body_that_the_server_takes_slowly_is_not_late(set_forward: Callable[[float], None]) -> None:
    step, steps, hour = 2**20, 16, 3600.0

    def serve(connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += received(connection, 1)
        for _ in range(steps):
            set_forward(0.12 * hour)  # buffers hold fewer than 8 steps, and so less than an hour
            left = step
            while left:
                left -= len(received(connection, left))
        connection.sendall(STORED)

    with server(serve) as endpoint:
        async with store_at(endpoint, read_timeout=hour) as store:
            await store.put_bytes("k", bytes(steps * step), content_type="a/b")


async def test_an_upload_that_is_not_read_leaves_no_connection_when_its_time_is_over() -> None:
    ignores = ReadsNothing()
    with server(ignores) as endpoint:
        async with store_at(endpoint, max_connections=1, read_timeout=0.2) as store:
            for _ in range(3):
                with pytest.raises(StoreTimeoutError):
                    await store.put_bytes("k", bytes(8_000_000), content_type="a/b")
            ignores.resume.set()
            for _ in range(3):
                assert await asyncio.to_thread(ignores.ended.acquire, timeout=100.0)


async def test_close_does_not_wait_for_a_server_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 0.2)
    ignores = ReadsNothing()
    with server(ignores) as endpoint:
        store = store_at(endpoint)
        put = asyncio.create_task(store.put_bytes("k", bytes(8_000_000), content_type="a/b"))
        assert await asyncio.to_thread(ignores.begun.acquire, timeout=100.0)
        await store.close()
        with pytest.raises(StoreClosedError):
            await put
        ignores.resume.set()


async def test_a_connection_does_not_keep_the_result_of_the_task_that_opened_it() -> None:
    def serve(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            connection.sendall(FOUND % 5 + b"hello")

    with server(serve) as endpoint:
        async with store_at(endpoint) as store:
            task = asyncio.create_task(store.get_bytes("k"))
            assert await task == (b"hello", "application/octet-stream")
            kept = weakref.ref(task)
            del task
            await turns()
            gc.collect()
            assert kept() is None
