"""An HTTP proxy in front of an S3 server: caps list pages as AWS does, and answers wrongly on demand."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp import web
from yarl import URL

from waiting import turns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

PAGE = 1000
_HOP_BY_HOP = {"transfer-encoding", "content-length", "connection", "date", "server"}


@dataclass(frozen=True)
class Forwarded:
    """The reply of the server behind the proxy."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def response(self) -> web.Response:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        if not self.body and "Content-Length" in self.headers:  # of what a GET would return
            headers["Content-Length"] = self.headers["Content-Length"]
        return web.Response(status=self.status, headers=headers, body=self.body)


Forward = Callable[[], Awaitable[Forwarded]]
Fault = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    connection: object = field(repr=False)  # the same for requests on one connection


class FaultyProxy:
    """`async with FaultyProxy(upstream) as proxy` answers at `proxy.endpoint`.

    The requests that arrive are in `seen`; `begun` counts trickled replies. `next_faults` are used up one a
    request; after them `fault`, if set, answers every request, and otherwise all pass through.
    """

    def __init__(self, upstream: str = "") -> None:
        self.endpoint = ""
        self.seen: list[Seen] = []
        self.begun = 0
        self.next_faults: deque[Fault] = deque()
        self.fault: Fault | None = None
        self._upstream = upstream
        self._news = asyncio.Condition()
        self._underway = defaultdict[str, list[asyncio.Event]](list)

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.endpoint = f"http://{host}:{port}"
        self._session = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._runner.cleanup()

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    async def arrived(self, count: int) -> None:
        """Wait until `count` requests were seen."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.seen) >= count)

    async def in_mid_body(self, count: int) -> None:
        """Wait until `count` trickled replies were begun, and their clients had turns to read what came."""
        async with self._news:
            await self._news.wait_for(lambda: self.begun >= count)
        await turns()

    async def settled(self, path: str) -> None:
        """Wait until nothing for `path` is on its way to the server, not even what its caller gave up."""
        while self._underway[path]:
            await self._underway[path][0].wait()

    @contextmanager
    def _on_its_way(self, path: str) -> Iterator[None]:
        arrived = asyncio.Event()
        self._underway[path].append(arrived)
        try:
            yield
        finally:
            self._underway[path].remove(arrived)
            arrived.set()

    async def note_begun(self) -> None:
        async with self._news:
            self.begun += 1
            self._news.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        with self._on_its_way(request.path):
            body = await request.read()
        # Not told by its port: the system may give that of a closed connection to the next one.
        self.seen.append(
            Seen(request.method, request.raw_path, dict(request.headers), body, request.protocol)
        )
        async with self._news:
            self._news.notify_all()

        async def forward() -> Forwarded:
            url = URL(self._upstream + request.raw_path, encoded=True)
            asked = url.query.get("max-keys")
            if asked is not None and int(asked) > PAGE:
                url = url.update_query({"max-keys": str(PAGE)})
            with self._on_its_way(request.path):
                async with self._session.request(
                    request.method, url, headers=request.headers, data=io.BytesIO(body), allow_redirects=False
                ) as reply:
                    return Forwarded(reply.status, dict(reply.headers), await reply.read())

        _proxy.set(self)
        fault = self.next_faults.popleft() if self.next_faults else self.fault
        if fault is not None:
            return await fault(request, forward)
        return (await forward()).response()


_flips = itertools.count()

# The one that answers the current request, for faults that tell it how far they are.
_proxy: ContextVar[FaultyProxy] = ContextVar("proxy")


def reply(status: int, body: str | bytes = b"", **headers: str) -> Fault:
    """Answer with this instead of asking the server; `_` in a header's name stands for `-`."""
    content = body.encode() if isinstance(body, str) else body

    async def fault(_request: web.Request, _forward: Forward) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=content, headers=named)

    return fault


def s3_error(status: int, code: str, message: str = "", **headers: str) -> Fault:
    """Answer as S3 does when it refuses."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return reply(status, body, Content_Type="application/xml", **headers)


async def passed_on(_request: web.Request, forward: Forward) -> web.StreamResponse:
    """Let one request through."""
    return (await forward()).response()


async def reset(request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Break the connection before the server sees the request."""
    return _abort(request)


async def lost_reply(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Let the server do the work, and break the connection before it can say so."""
    await forward()
    return _abort(request)


async def stalled(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


def cut_short(sent: int) -> Fault:
    """Send the head of the server's reply and the first bytes of its body, then break the connection."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        whole = await forward()
        response = await _begin(request, whole)
        await response.write(whole.body[:sent])
        return _abort(request, response)

    return fault


def trickled(sent: int) -> Fault:
    """Send the head of the server's reply and the first bytes of its body, and never the rest."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        whole = await forward()
        response = await _begin(request, whole)
        await response.write(whole.body[:sent])
        await _proxy.get().note_begun()
        await asyncio.Event().wait()
        raise AssertionError

    return fault


def paced(wait: Callable[[], None]) -> Fault:
    """Send the server's body in ten pieces, call `wait` before each, and let the client read it."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        whole = await forward()
        response = await _begin(request, whole)
        size = -(-len(whole.body) // 10)
        for start in range(0, len(whole.body), size):
            wait()
            await response.write(whole.body[start : start + size])
            await turns()
        return response

    return fault


async def flipped(_request: web.Request, forward: Forward) -> web.StreamResponse:
    """Damage one bit of the server's body, if it has one: another one each time."""
    whole = await forward()
    body = bytearray(whole.body)
    if body:
        body[(len(body) // 2 + next(_flips)) % len(body)] ^= 1
    return Forwarded(whole.status, whole.headers, bytes(body)).response()


def held_until(event: asyncio.Event, begun: asyncio.Event | None = None) -> Fault:
    """Say through `begun` that the request arrived, and let it through after `event`."""

    async def fault(_request: web.Request, forward: Forward) -> web.StreamResponse:
        if begun is not None:
            begun.set()
        await event.wait()
        return (await forward()).response()

    return fault


async def _begin(request: web.Request, whole: Forwarded) -> web.StreamResponse:
    headers = {name: value for name, value in whole.headers.items() if name.lower() not in _HOP_BY_HOP}
    response = web.StreamResponse(status=whole.status, headers=headers)
    response.content_length = len(whole.body)
    await response.prepare(request)
    return response


def _abort(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()
