"""HTTP sessions as this leaf needs them, with TLS and proxies settled once."""

from __future__ import annotations

import ssl
import sys
import urllib.request
from base64 import b64encode
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from starfish_server.storage.s3.begun import begun

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiohttp.connector import Connection

    from starfish_server.storage.s3.address import Address
    from starfish_server.storage.s3.connections import Progress
    from starfish_server.storage.s3.options import S3StorageOptions

current: ContextVar[Progress] = ContextVar("starfish_s3_progress")
"""Of the request of this task. aiohttp itself says when that has got a connection."""
# As much as a socket is read for at once. With less, reading a large body stops and starts all the time.
_READ_BUFFER_BYTES = 256 * 1024


class SessionFactory:
    """Makes the session of each event loop. `ValueError` if `verify` names no certificates."""

    def __init__(self, options: S3StorageOptions, proxy: Proxy) -> None:
        self._options = options
        self._proxied = proxy.url is not None
        self._tls = _tls(options.verify)

    def __call__(self) -> aiohttp.ClientSession:
        options = self._options
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=options.max_connections, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(
                # No `sock_read`: a timer for each read from a socket takes 8 us of each small request.
                total=None,
                sock_connect=options.connect_timeout,
            ),
            headers={"Accept-Encoding": "identity", "User-Agent": "starfish-server"},
            request_class=_Request,
            response_class=_Response,
            skip_auto_headers=("Content-Type", "Accept"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[_limit_connecting(options.connect_timeout)] if self._proxied else None,
            read_bufsize=_READ_BUFFER_BYTES,
        )
        # aiohttp would send again, unasked, when a reused connection breaks: attempts are counted here alone.
        session._retry_connection = False  # noqa: SLF001 - there is no public switch
        return session


def _limit_connecting(seconds: float) -> aiohttp.TraceConfig:
    """Begin the time limit early: a proxy may take connections and never open a tunnel."""

    async def begin(*_: object) -> None:
        current.get()(seconds)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(begin)
    return trace


class _Request(aiohttp.ClientRequest):
    if sys.version_info < (3, 12):

        def write_bytes(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]:
            """Begin to send a body at once, not in the loop's next turn: aiohttp itself does from 3.12 on."""
            return begun(super().write_bytes(*args, **kwargs))


class _Response(aiohttp.ClientResponse):
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for the headers, within the time limit of the request: it has a connection now."""
        current.get()()
        if connection.protocol is not None and len(connection.protocol):
            # Somebody's, and the reply to this request would be taken for the next one's.
            raise aiohttp.ClientConnectionError("there was a reply before the request")
        return await super().start(connection)

    def close(self) -> None:
        """Cut the connection: aiohttp would keep it open until the other end has read all that was sent."""
        transport = self.connection and self.connection.transport
        super().close()
        if transport is not None:
            transport.abort()


class Proxy:
    """The proxy that the environment names for an address, if any, read once. `ValueError` for a wrong one.

    aiohttp's own `trust_env` looks it up in a thread for each request, and sends the passwords of ~/.netrc.
    """

    def __init__(self, address: Address) -> None:
        self.url: URL | None = None
        # On a request that a plain-text proxy passes on, and on the CONNECT that opens a tunnel.
        self.request_headers: dict[str, str] = {}
        self.tunnel_headers: dict[str, str] | None = None
        found = urllib.request.getproxies().get(address.scheme)
        if not found or urllib.request.proxy_bypass(address.request_host):
            return
        url = _proxy_url(address.scheme, found)
        if url.user is not None:
            login = b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
            header = {"Proxy-Authorization": f"Basic {login}"}
            if address.secure:
                self.tunnel_headers = header
            else:
                self.request_headers = header
        self.url = url.with_user(None)


def _proxy_url(scheme: str, found: str) -> URL:
    try:
        url = URL(found if "://" in found else f"http://{found}")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        # The URL itself is not shown: it may hold a password.
        raise ValueError(f"the proxy for {scheme} that the environment names has no URL of http or https")
    return url


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
