"""The HTTP client of this leaf: aiohttp with its own time limits and checks of reused connections."""

from __future__ import annotations

import inspect
import io
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from starfish_server.storage.s3.errors import IncompleteReplyError, MalformedReplyError
from starfish_server.storage.s3.receiving import RECEIVED_BYTES, receive
from starfish_server.threads import start_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from starfish_server.storage.s3.options import S3StorageOptions
    from starfish_server.storage.s3.sessions import InFlight

current: ContextVar[InFlight] = ContextVar("starfish_s3_in_flight")
"""The request of this task, for the connector."""

# As they are, without a type that aiohttp would guess and that the signature would not cover.
UNTYPED = ("Content-Type",)
# A socket's send buffer takes this much; a longer body is sent in pieces, each within the time limit.
SMALL_BODY_BYTES = 48 * 1024
_PIECE_BYTES = 256 * 1024
# As many bytes as one read of a socket takes. With less, reading a large body pauses and resumes constantly.
_READ_BUFFER_BYTES = 256 * 1024
# Error replies are short; the rest of a longer one is not waited for.
_FAULT_BYTES = 64 * 1024
# 2 KB of metadata may come in many headers, and proxies add long ones.
_HEADER_LIMITS = {"max_field_size": 64 * 1024, "max_line_size": 64 * 1024, "max_headers": 4096}
_HASHED_INLINE_BYTES = 2**20


def client_opener(options: S3StorageOptions) -> Callable[[], aiohttp.ClientSession]:
    """Return a function that opens a client session. Raises `ValueError` if `verify` has no certificates."""
    tls = _tls(options.verify)
    known = inspect.signature(aiohttp.ClientSession).parameters
    limits: dict[str, Any] = {name: size for name, size in _HEADER_LIMITS.items() if name in known}

    def open_client() -> aiohttp.ClientSession:
        client = aiohttp.ClientSession(
            connector=_Connector(limit=options.max_connections, ssl=tls),
            # No `sock_read`: a timer for each read from a socket takes 8 us of each small request.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=options.connect_timeout),
            headers={"Accept-Encoding": "identity", "User-Agent": "starfish-server"},
            response_class=_Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            **limits,
        )
        # aiohttp would resend even after a new connection broke; `Transport` resends only on another one.
        client._retry_connection = False  # noqa: SLF001 - there is no public switch
        return client

    return open_client


def _tls(verify: bool | str) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        return verify
    path = Path(verify)
    try:
        return ssl.create_default_context(
            cafile=None if path.is_dir() else verify, capath=verify if path.is_dir() else None
        )
    except OSError as error:
        raise ValueError(f"verify={verify!r} holds no certificates that can be read") from error


class _Connector(aiohttp.TCPConnector):
    """Gives a request a connection that is fit for it, and starts its time limit then."""

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: Any) -> Connection:
        request = current.get()
        while True:
            request.reused = True
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            # What came before the request would be taken for the reply to it.
            unread = protocol is None or len(protocol)
            if not request.reused or (protocol in request.session.fit and not unread):
                request.progress()
                return connection
            connection.close()

    async def _create_connection(self, req: Any, traces: list[Trace], timeout: Any) -> ResponseHandler:
        request = current.get()
        request.reused = False
        # aiohttp's limit is for a socket; a proxy may accept it and never open a tunnel.
        request.progress(timeout.sock_connect)
        protocol = await super()._create_connection(req, traces, timeout)
        request.session.fit.add(protocol)
        return protocol


class _Response(aiohttp.ClientResponse):
    def close(self) -> None:
        """Cut the connection: aiohttp would keep it open until the other end has read all that was sent."""
        transport = self.connection and self.connection.transport
        super().close()
        if transport is not None:
            transport.abort()


async def pieces(body: bytes | memoryview, request: InFlight) -> AsyncIterator[memoryview]:
    """Yield `body` in pieces; sending each of them is progress."""
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        request.progress()
        yield view[start : start + _PIECE_BYTES]
    request.progress()


async def hex_digest(body: bytes | memoryview, algorithm: Callable[..., Any]) -> str:
    """Return a digest of `body`, of a long one in a thread of its own.

    Not in the event loop's executor: all its threads may be waiting for this request.
    """

    def digest() -> str:
        return str(algorithm(body, usedforsecurity=False).hexdigest())

    if len(body) <= _HASHED_INLINE_BYTES:
        return digest()
    threads = ThreadPoolExecutor(1, "starfish-s3-hash")
    try:
        return await start_in_thread(digest, threads)
    finally:
        threads.shutdown(wait=False)


async def read_body(response: aiohttp.ClientResponse, request: InFlight) -> bytes:
    """Return the whole body; of an error reply, the first 64 KiB.

    Raises `MalformedReplyError` if the reply's end is unknown, `IncompleteReplyError` if it is cut short.
    """
    content, size = response.content, response.content_length
    if response.status >= 300:
        return await _read(content, request, limit=_FAULT_BYTES)
    require_framing(response)
    try:
        if content.is_eof():  # a small body comes with its headers
            return content.read_nowait()
        transport = response.connection and response.connection.transport
        if size is not None and size in RECEIVED_BYTES and transport is not None:
            return await receive(content, size, transport, request)
        return await _read(content, request)
    except aiohttp.ClientPayloadError as error:
        whole = "an unknown number of" if size is None else size
        raise IncompleteReplyError(
            f"the body was cut short after {content.total_bytes} of {whole} bytes"
        ) from error


def require_framing(response: aiohttp.ClientResponse) -> None:
    """Raise `MalformedReplyError` if the end of the body is unknown, so that a part may look like all."""
    if response.content_length is not None or response.status == 204 or response.method == "HEAD":
        return
    if response.headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise MalformedReplyError("the reply does not say how long it is")


async def _read(content: aiohttp.StreamReader, request: InFlight, limit: int | None = None) -> bytes:
    """Read into one growing buffer, which becomes the result without a copy."""
    buffer = io.BytesIO()
    request.progress()
    async for chunk in content.iter_any():
        buffer.write(chunk)
        if limit is not None and buffer.tell() > limit:
            break
        request.progress()
    return buffer.getvalue()
