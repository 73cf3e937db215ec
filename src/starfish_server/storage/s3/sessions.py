"""HTTP sessions, one for each event loop that uses the store, and the requests in flight on each."""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import TYPE_CHECKING, Self

import aiohttp

from starfish_server.errors import StoreClosedError
from starfish_server.forks import reset_in_child
from starfish_server.storage.s3.http import StaleConnectionError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from aiohttp.client_proto import ResponseHandler

    from starfish_server.storage.s3.credentials import Credentials, CredentialSource
    from starfish_server.storage.s3.streaming import OpenBody

# How long `close` lets requests in flight finish before it cuts them off.
CLOSE_GRACE_SECONDS = 5.0
# How long requests that were cut off get to clean up.
_END_SECONDS = 1.0


class InFlight:
    """A request from before it waits for a connection until its reply is read.

    `reused`: its connection has carried another request before, and nothing has come of the reply yet.
    Connections keep the context of the task that opened them, and so this object, which therefore lets go of
    the task once the request has ended.
    """

    __slots__ = ("_session", "due", "reused", "timeout")

    def __init__(self, session: Session, timeout: asyncio.Timeout) -> None:
        self._session = session
        self.timeout: asyncio.Timeout | None = timeout
        self.due = inf
        self.reused = False

    def progress(self, extra: float = 0.0) -> None:
        """Allow `read_timeout` and `extra` seconds from now to the next call."""
        self.due = self._session.due_from_now() + extra

    def got_connection(self, protocol: ResponseHandler) -> None:
        """Start the time limit, or refuse a connection that must not be used again."""
        self.reused = self._session.use(protocol)
        self.progress()

    def expire(self) -> None:
        """End the request with a `TimeoutError`."""
        if self.reused:
            self._session.reused_connection_broke()
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(0.0)


class Session:
    """What one event loop holds: an HTTP session, a source of credentials, and the requests in flight."""

    def __init__(
        self, client: aiohttp.ClientSession, credentials: CredentialSource, read_timeout: float
    ) -> None:
        self.client = client
        self.credentials = credentials
        self._read_timeout = read_timeout
        self._loop = asyncio.get_running_loop()
        self.readers: weakref.WeakSet[OpenBody] = weakref.WeakSet()
        self.holders = 0
        self._guard = _close_with_loop(client)
        self._closing = asyncio.Lock()
        self._in_flight: set[InFlight] = set()
        self._overdue: set[InFlight] = set()
        # One timer for all requests: one for each would cost each 7 us.
        self._sweep_seconds = min(1.0, read_timeout / 8)
        self._sweeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        # A connection carries requests of one generation: when a reused one breaks, the next one begins.
        self._generation = 0
        self._opened_in: weakref.WeakKeyDictionary[ResponseHandler, int] = weakref.WeakKeyDictionary()

    async def open(self) -> Self:
        await anext(self._guard)
        return self

    def begin(self, timeout: asyncio.Timeout) -> InFlight:
        """Register a request, which `timeout` ends when it stops making progress or the store closes."""
        request = InFlight(self, timeout)
        self._in_flight.add(request)
        self._idle.clear()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)
        return request

    def end(self, request: InFlight) -> None:
        request.timeout = None
        self._in_flight.discard(request)
        if not self._in_flight:
            self._idle.set()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Send requests of the block even when the store closes, until the time for those in flight is over.

        The block then ends with a `TimeoutError`.
        """
        self.holders += 1
        try:
            async with asyncio.timeout(None) as timeout:
                block = self.begin(timeout)
                try:
                    yield
                finally:
                    self.end(block)
        finally:
            self.holders -= 1

    def due_from_now(self) -> float:
        return self._loop.time() + self._read_timeout

    def _sweep(self) -> None:
        """Time out requests that are overdue for the second time.

        One whose data came while the event loop was blocked has had its turn since the first.
        """
        now = self._loop.time()
        seen, self._overdue = self._overdue, {each for each in self._in_flight if each.due <= now}
        for request in seen & self._overdue:
            request.expire()
        again = bool(self._in_flight)
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep) if again else None

    def use(self, protocol: ResponseHandler) -> bool:
        """Note that a connection is used; return whether it was used before.

        A reply that came before the request would be taken for the reply to it. Raises `StaleConnectionError`
        for a used connection with such a reply, or older than the last one that broke.
        """
        last = self._opened_in.get(protocol)
        if last is not None and (last < self._generation or len(protocol)):
            raise StaleConnectionError
        if len(protocol):
            raise aiohttp.ClientConnectionError("the server replied before it was asked")
        if last is None:
            self._opened_in[protocol] = self._generation
        return last is not None

    def reused_connection_broke(self) -> None:
        """Use no connection again that is idle now: the server may have restarted, and all are dead."""
        self._generation += 1

    async def close(self, grace: float) -> None:
        """Cut off readers, and close the session once nothing is in flight, or after `grace` seconds."""
        for reader in list(self.readers):
            reader.cut_off()
        async with self._closing:
            try:
                await self._ended(grace)
            finally:
                await self._cut_off()

    async def _cut_off(self) -> None:
        # aiohttp itself would let readers of a body wait for ever, cancel requests that wait to connect, and
        # wait for a server that does not read.
        for request in self._in_flight:
            request.expire()
        try:
            await self._ended(_END_SECONDS)
        finally:
            if self._sweeper is not None:
                self._sweeper.cancel()
            await self.credentials.close()
            await self._guard.aclose()

    async def _ended(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()


class Sessions:
    """The `Session` of each event loop, made on first use.

    Those of loops that ended are dropped. A forked child starts with none: what its parent had open stays
    the parent's, untouched.
    """

    def __init__(
        self,
        open_client: Callable[[], aiohttp.ClientSession],
        open_credentials: Callable[[], CredentialSource],
        read_timeout: float,
    ) -> None:
        self.closed = False
        self._open_client = open_client
        self._open_credentials = open_credentials
        self._read_timeout = read_timeout
        self._by_loop: dict[asyncio.AbstractEventLoop, Session] = {}
        self._lock = threading.Lock()
        reset_in_child(self)

    async def current(self) -> Session:
        """Return the session of the running loop. Raises `StoreClosedError` after `close`."""
        loop = asyncio.get_running_loop()
        session = self._by_loop.get(loop)
        if session is not None and not session.client.closed and (not self.closed or session.holders):
            return session
        with self._lock:  # a `close` in another thread comes before this, or closes what this makes
            if self.closed:
                raise StoreClosedError("this S3ObjectStore was closed")
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            session = Session(self._open_client(), self._open_credentials(), self._read_timeout)
            self._by_loop[loop] = session
        return await session.open()

    def drop_credentials(self, expired: Credentials) -> bool:
        """Stop using these credentials in the running loop; return whether there may be others."""
        session = self._by_loop.get(asyncio.get_running_loop())
        return session is not None and session.credentials.drop(expired)

    async def close(self) -> None:
        """Refuse new requests, let those in flight finish for a while, and close every session.

        Sessions of other threads' loops are closed there; one whose loop does not run now closes with it.
        """
        self.closed = True
        with self._lock:
            sessions = list(self._by_loop.items())
        here = asyncio.get_running_loop()
        elsewhere = [_close_on(loop, s) for loop, s in sessions if loop is not here and loop.is_running()]
        for loop, session in sessions:
            if loop is here:
                await session.close(CLOSE_GRACE_SECONDS)
        waiting = [future for future in elsewhere if future is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=CLOSE_GRACE_SECONDS + 2.0)

    def reset_after_fork(self) -> None:
        _inherited.append(self._by_loop)
        self._by_loop = {}
        self._lock = threading.Lock()


async def _close_with_loop(client: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Stay suspended while the client is in use: `asyncio.run` closes generators before the loop."""
    try:
        yield
    finally:
        await client.close()


def _close_on(loop: asyncio.AbstractEventLoop, session: Session) -> asyncio.Future[None] | None:
    closing = session.close(CLOSE_GRACE_SECONDS)
    try:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing, loop))
    except RuntimeError:  # the loop ended meanwhile, and its sessions with it
        closing.close()
        return None


# Never closed and never collected: closing would end TLS connections that the parent still uses.
_inherited: list[dict[asyncio.AbstractEventLoop, Session]] = []
