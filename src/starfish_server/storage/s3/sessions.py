"""HTTP sessions, one for each event loop that uses the store, and the requests in flight on each."""

from __future__ import annotations

import asyncio
import os
import weakref
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import TYPE_CHECKING, Self

from starfish_server.storage.s3.credentials import credential_source
from starfish_server.storage.s3.errors import closed_error
from starfish_server.storage.s3.http import current, open_client, tls_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
    from types import TracebackType

    import aiohttp
    from aiohttp.client_proto import ResponseHandler

    from starfish_server.storage.s3.credentials import Credentials
    from starfish_server.storage.s3.options import S3StorageOptions
    from starfish_server.storage.s3.reading import OpenBody

# How long `close` lets requests in flight finish before it cuts them off.
CLOSE_GRACE_SECONDS = 5.0
# How long requests that were cut off get to clean up.
_END_SECONDS = 1.0


class InFlight:
    """A request, from before it waits for a connection until its reply is read; used by `async with`.

    It ends with a `TimeoutError` when it has made no progress for `read_timeout`, or when the store closes.

    reused: its connection has carried another request before.
    """

    __slots__ = ("_timeout", "due", "reused", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.due = inf
        self.reused = False
        self._timeout: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(None)
        await self._timeout.__aenter__()
        self.session.begin(self)
        current.set(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.end(self)
        # A connection keeps the context of the task that opened it, and so this object, but not the task.
        timeout, self._timeout = self._timeout, None
        if timeout is not None:
            await timeout.__aexit__(kind, error, trace)

    def progress(self, extra: float = 0.0) -> None:
        """Restart the time limit: `read_timeout` plus `extra` seconds from now."""
        self.due = self.session.loop.time() + self.session.read_timeout + extra

    def expire(self) -> None:
        """End the request with a `TimeoutError`."""
        if self.reused:
            self.session.drop_idle_connections()
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0.0)


class Session:
    """What one event loop holds: an HTTP session, a source of credentials, and the requests in flight.

    reusable: the connections that may be used again.
    readers: the bodies that are being read as streams.
    holders: blocks of `Sessions.held`.
    """

    def __init__(self, options: S3StorageOptions, tls: ssl.SSLContext | bool) -> None:
        self.client = open_client(options, tls)
        self.credentials = credential_source(options)
        self.read_timeout = options.read_timeout
        self.reusable: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()
        self.readers: weakref.WeakSet[OpenBody] = weakref.WeakSet()
        self.process = os.getpid()
        self.loop = asyncio.get_running_loop()
        self.guard = _close_with_loop(self.client)
        self._closing = asyncio.Lock()
        self.holders = 0
        self._in_flight: set[InFlight] = set()
        self._overdue: set[InFlight] = set()
        self._background: set[asyncio.Task[None]] = set()
        # One timer for all requests: one for each would cost each 7 us.
        self._sweep_seconds = min(1.0, self.read_timeout / 8)
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self, request: InFlight) -> None:
        self._in_flight.add(request)
        self._idle.clear()
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self._sweep_seconds, self._sweep)

    def end(self, request: InFlight) -> None:
        self._in_flight.discard(request)
        if not self._in_flight:
            self._idle.set()

    def background(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run `work` as a task of its own, which its caller need not await.

        When the store closes, the task may continue as long as a block of `Sessions.held` may; then it is
        cancelled.
        """
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    @property
    def is_held(self) -> bool:
        """Whether requests may still be sent while the store closes."""
        return bool(self.holders or self._background)

    def drop_idle_connections(self) -> None:
        """Stop reusing idle connections: one broke, so the server may have restarted, and all may be dead."""
        self.reusable.clear()

    def _sweep(self) -> None:
        """Time out requests that are overdue for the second time.

        Between the two, a request can read data that came while the event loop was blocked.
        """
        now = self.loop.time()
        seen, self._overdue = self._overdue, {each for each in self._in_flight if each.due <= now}
        for request in seen & self._overdue:
            request.expire()
        again = bool(self._in_flight)
        self._sweeper = self.loop.call_later(self._sweep_seconds, self._sweep) if again else None

    async def close(self) -> None:
        """Cut off readers, and close the session once nothing is in flight, or after the time for that."""
        for reader in list(self.readers):
            reader.cut_off()
        async with self._closing:
            try:
                await self._ended(CLOSE_GRACE_SECONDS)
            finally:
                await self._cut_off()

    async def _cut_off(self) -> None:
        # aiohttp itself would let readers of a body wait forever, cancel requests that wait to connect, and
        # wait for a server that does not read.
        for request in self._in_flight:
            request.expire()
        try:
            await self._ended(_END_SECONDS)
        finally:
            for task in self._background:
                task.cancel()
            if self._sweeper is not None:
                self._sweeper.cancel()
            await self.credentials.close()
            await self.guard.aclose()
            await asyncio.gather(*self._background, return_exceptions=True)

    async def _ended(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._in_flight or self._background:
                    await self._idle.wait()
                    if self._background:
                        await asyncio.wait(self._background)


async def _close_with_loop(client: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Stay suspended while the client is in use: `asyncio.run` closes generators before the loop."""
    try:
        yield
    finally:
        await client.close()


class Sessions:
    """The `Session` of each event loop, made on first use.

    Those of loops that ended are dropped. A forked child has other loops, and leaves its parent's untouched.
    Raises `ValueError` if the option `verify` has no certificates.
    """

    def __init__(self, options: S3StorageOptions) -> None:
        self.closed = False
        self._options = options
        self._tls = tls_of(options.verify)
        self._by_loop: dict[asyncio.AbstractEventLoop, Session] = {}

    async def current(self) -> Session:
        """Return the session of the running loop. Raises `StoreClosedError` after `close`."""
        loop = asyncio.get_running_loop()
        session = self._by_loop.get(loop)
        if session is not None and not session.client.closed and (not self.closed or session.is_held):
            return session
        if not self.closed:
            for other in list(self._by_loop):
                if other.is_closed():
                    self._by_loop.pop(other, None)
            session = self._by_loop[loop] = Session(self._options, self._tls)
            await anext(session.guard)
            if not self.closed:
                return session
            await session.close()  # another thread closed the store, perhaps before it could see this session
        raise closed_error()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Session]:
        """Let the block send requests while the store closes, for as long as those in flight may take.

        After that the block ends with a `StoreClosedError`.
        """
        session = await self.current()
        session.holders += 1
        try:
            async with InFlight(session):
                yield session
        except TimeoutError as error:
            if not self.closed:
                raise
            raise closed_error(error) from error
        finally:
            session.holders -= 1

    def drop_credentials(self, expired: Credentials) -> bool:
        """Stop using these credentials in the running loop; return whether there may be others."""
        session = self._by_loop.get(asyncio.get_running_loop())
        return session is not None and session.credentials.drop(expired)

    async def close(self) -> None:
        """Refuse new requests, let those in flight finish for a while, and close every session.

        The session of another thread's loop is closed in that loop, or with it if it is not running.
        """
        self.closed = True
        here = asyncio.get_running_loop()
        elsewhere = []
        for loop, session in list(self._by_loop.items()):
            if loop is not here and loop.is_running() and session.process == os.getpid():
                with suppress(RuntimeError):  # that loop has just ended, and its session with it
                    closing = asyncio.run_coroutine_threadsafe(session.close(), loop)
                    elsewhere.append(asyncio.wrap_future(closing))
        if here in self._by_loop:
            await self._by_loop[here].close()
        if elsewhere:
            await asyncio.wait(elsewhere, timeout=CLOSE_GRACE_SECONDS + 2.0)
