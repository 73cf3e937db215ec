"""Bodies of 256 KiB and more, which go from the socket straight into the result, past aiohttp's reader."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import threading
from typing import TYPE_CHECKING

import aiohttp
import pytest

from bare_server import FOUND, read_request, received, server, store_at
from servers import make_certificate
from starfish_server.errors import StoreClosedError, StoreTimeoutError, StoreUnavailableError
from starfish_server.storage.s3 import S3StorageOptions, sessions
from starfish_server.storage.s3.bodies import receive
from starfish_server.storage.s3.errors import IncompleteReplyError
from starfish_server.storage.s3.sessions import InFlight, Session

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starfish_server.storage.s3 import S3ObjectStore

    MakeStore = Callable[..., S3ObjectStore]

BODY = bytes(range(256)) * 20_480  # 5 MiB, enough for huge pages
WHOLE = FOUND % len(BODY) + BODY
HALF = WHOLE[: len(WHOLE) // 2]
HOUR = 3600.0


class Server:
    """Sends `replies` in turn, the last one again and again.

    After one that is not whole it ends the connection if `cut`, and else waits for the client to do so.

    connections: how many there were.
    halted: set when a reply that is not whole was sent.
    ended: set when the client has ended one.
    pause: called after each piece of a reply.
    """

    def __init__(self) -> None:
        self.replies = [WHOLE]
        self.cut = False
        self.pause: Callable[[], None] = lambda: None
        self.connections = 0
        self.halted = threading.Event()
        self.ended = threading.Event()
        self.tls: ssl.SSLContext | None = None
        self.authority = ""

    def serve(self, connection: socket.socket) -> None:
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True)
        self.connections += 1
        with connection, contextlib.suppress(ConnectionError):
            while True:
                read_request(connection)
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                for start in itertools.count(0, 700_001):
                    if start >= len(reply):
                        break
                    connection.sendall(reply[start : start + 700_001])
                    self.pause()
                if len(reply) < len(WHOLE):
                    self.halted.set()
                    if self.cut:
                        return
                    with contextlib.suppress(OSError):
                        received(connection, 1)
                    self.ended.set()


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(scheme: str, tmp_path: Path) -> Iterator[tuple[Server, MakeStore]]:
    """The server, and a function that makes a store of it."""
    running, options = Server(), {}
    if scheme == "https":
        certificate = make_certificate(tmp_path)
        running.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        running.tls.load_cert_chain(certificate.chain)
        running.authority = str(certificate.authority)
        options["verify"] = str(certificate.authority)
    with server(running.serve) as endpoint:
        address = endpoint.replace("http", scheme, 1)
        yield running, lambda **more: store_at(address, **options, **more)


async def test_a_body_is_whole_and_its_connection_is_used_again(served: tuple[Server, MakeStore]) -> None:
    running, make_store = served
    async with make_store() as store:
        for _ in range(3):
            assert await store.get_bytes("k") == (BODY, "application/octet-stream")
    assert running.connections == 1


async def test_a_slow_body_is_read_whole_as_long_as_it_comes(
    served: tuple[Server, MakeStore], set_forward: Callable[[float], None]
) -> None:
    running, make_store = served
    running.pause = lambda: set_forward(0.8 * HOUR)
    async with make_store(read_timeout=HOUR) as store:
        assert await store.get_bytes("k") == (BODY, "application/octet-stream")


async def test_a_body_that_is_cut_short_is_an_error(served: tuple[Server, MakeStore]) -> None:
    running, make_store = served
    running.replies, running.cut = [HALF, WHOLE], True
    async with make_store() as store:
        with pytest.raises(StoreUnavailableError, match=rf"cut short after \d+ of {len(BODY)} bytes"):
            await store.get_bytes("k")
        assert await store.get_bytes("k") == (BODY, "application/octet-stream")


async def test_a_body_that_stops_is_a_timeout(
    served: tuple[Server, MakeStore], set_forward: Callable[[float], None]
) -> None:
    running, make_store = served
    running.replies = [HALF, WHOLE]
    async with make_store(read_timeout=HOUR) as store:
        reading = asyncio.create_task(store.get_bytes("k"))
        assert await asyncio.to_thread(running.halted.wait, 60.0)
        while not reading.done():
            set_forward(HOUR)
            await asyncio.sleep(0)  # until it has read what was sent
        with pytest.raises(StoreTimeoutError):
            await reading
        assert await asyncio.to_thread(running.ended.wait, 60.0)
        assert await store.get_bytes("k") == (BODY, "application/octet-stream")


async def test_a_cancelled_get_ends_its_connection_without_a_word(
    served: tuple[Server, MakeStore], caplog: pytest.LogCaptureFixture
) -> None:
    running, make_store = served
    running.replies = [HALF, WHOLE]
    async with make_store() as store:
        reading = asyncio.create_task(store.get_bytes("k"))
        assert await asyncio.to_thread(running.halted.wait, 60.0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await asyncio.to_thread(running.ended.wait, 60.0)
        assert await store.get_bytes("k") == (BODY, "application/octet-stream")
    assert running.connections == 2
    assert caplog.messages == []


async def test_a_store_that_closes_ends_the_body(
    served: tuple[Server, MakeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 0.1)
    running, make_store = served
    running.replies = [HALF]
    store = make_store()
    reading = asyncio.create_task(store.get_bytes("k"))
    assert await asyncio.to_thread(running.halted.wait, 60.0)
    await store.close()
    with pytest.raises(StoreClosedError):
        await reading
    assert await asyncio.to_thread(running.ended.wait, 60.0)


async def test_what_follows_a_body_is_not_taken_for_the_next_reply(served: tuple[Server, MakeStore]) -> None:
    running, make_store = served
    running.replies = [WHOLE + FOUND % 4 + b"evil", WHOLE]
    async with make_store() as store:
        for _ in range(3):
            assert await store.get_bytes("k") == (BODY, "application/octet-stream")
    assert running.connections == 2


async def test_memory_is_not_taken_for_a_size_that_is_only_stated(served: tuple[Server, MakeStore]) -> None:
    running, make_store = served
    running.replies, running.cut = [FOUND % 2**50 + b"x"], True
    async with make_store() as store:
        with pytest.raises(StoreUnavailableError, match="cut short after 1 of"):
            await store.get_bytes("k")


async def test_the_http_client_learns_that_a_connection_broke_while_it_was_received(
    served: tuple[Server, MakeStore],
) -> None:
    """Else it would wait for the end of that connection for ever when it closes."""
    running, make_store = served
    running.replies, running.cut = [HALF], True
    tls = ssl.create_default_context(cafile=running.authority) if running.tls else True
    session = Session(S3StorageOptions(bucket="b", anonymous=True), True)
    async with session.client, aiohttp.ClientSession(read_bufsize=2**18) as client:
        response = await client.get(make_store().endpoint, ssl=tls)
        transport = response.connection and response.connection.transport
        assert transport
        async with InFlight(session) as request:
            with pytest.raises(IncompleteReplyError):
                await receive(response.content, len(BODY), transport, request)
        await client.close()
