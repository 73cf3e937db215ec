"""The HTTP client of this leaf: aiohttp with its own time limits and checks of reused connections."""

from __future__ import annotations

import inspect
import ssl
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from starfish_server.storage.s3.options import S3StorageOptions
    from starfish_server.storage.s3.sessions import InFlight

current: ContextVar[InFlight] = ContextVar("starfish_s3_in_flight")
"""The request of this task, for the connector."""

# Keeps aiohttp from adding a Content-Type of its own, which the signature would not cover.
UNTYPED = ("Content-Type",)
# As many bytes as one read of a socket takes. With less, reading a large body pauses and resumes constantly.
_READ_BUFFER_BYTES = 256 * 1024
# 2 KB of metadata may come in many headers, and proxies add long ones.
_HEADER_LIMITS = {"max_field_size": 64 * 1024, "max_line_size": 64 * 1024, "max_headers": 4096}


def open_client(options: S3StorageOptions, tls: ssl.SSLContext | bool) -> aiohttp.ClientSession:
    """Open a client session for the running event loop."""
    known = inspect.signature(aiohttp.ClientSession).parameters
    limits: dict[str, Any] = {name: size for name, size in _HEADER_LIMITS.items() if name in known}
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


def tls_of(verify: bool | str) -> ssl.SSLContext | bool:
    """Return aiohttp's `ssl` for the option `verify`. Raises `ValueError` if it has no certificates."""
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
            if not request.reused or (protocol in request.session.reusable and not unread):
                request.progress()
                return connection
            connection.close()

    async def _create_connection(self, req: Any, traces: list[Trace], timeout: Any) -> ResponseHandler:
        request = current.get()
        request.reused = False
        # aiohttp's limit is for a socket; a proxy may accept it and never open a tunnel.
        request.progress(timeout.sock_connect)
        protocol = await super()._create_connection(req, traces, timeout)
        request.session.reusable.add(protocol)
        return protocol


class _Response(aiohttp.ClientResponse):
    def close(self) -> None:
        """Cut the connection: aiohttp would keep it open until the other end has read all that was sent."""
        transport = self.connection and self.connection.transport
        if transport is not None:
            transport.abort()  # first: over TLS, aiohttp's `close` reads once more
        super().close()
