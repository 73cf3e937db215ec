"""HTTP sessions, one for each event loop that uses the store."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Self

from starfish_server.errors import StoreClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import aiohttp

    from starfish_server.storage.s3.credentials import Keys, KeySource

# How long `close` lets requests under way finish before it cuts them off.
CLOSE_GRACE_SECONDS = 5.0
# How long requests that were cut off get to clean up.
_END_SECONDS = 1.0
# How long tasks get to take what has come before a time limit that is over counts.
_GRACE_SECONDS = 0.05


class Progress:
    """A request under way, called when it has got a connection and at each step from then on.

    The context of whatever the request started may keep it for long, so it holds nothing once that has ended.
    """

    __slots__ = ("connection", "limit", "until")

    def __init__(self, connection: Connection, limit: asyncio.Timeout) -> None:
        self.connection: Connection | None = connection
        self.limit: asyncio.Timeout | None = limit
        self.until = inf

    def __call__(self, seconds: float = 0.0) -> None:
        """It may now take `read_timeout` and this many seconds more before the next call."""
        # The task that sends a body may call after the reply has ended the request.
        if self.connection is not None:
            self.connection.extend(self, seconds)

    def expire(self) -> None:
        """End it with a `TimeoutError`."""
        if self.limit is not None and not self.limit.expired():
            self.limit.reschedule(0.0)


class Connection:
    """What one event loop holds: its session, its source of keys, and the requests under way."""

    def __init__(self, session: aiohttp.ClientSession, keys: KeySource, read_timeout: float) -> None:
        self.session = session
        self.keys = keys
        self._read_timeout = read_timeout
        self._loop = asyncio.get_running_loop()
        self._guard = _close_with_loop(session)
        self._closing = asyncio.Lock()
        self._under_way: set[Progress] = set()
        # One timer watches them all: one for each would cost each 7 us.
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> Self:
        await anext(self._guard)
        return self

    def begin(self, limit: asyncio.Timeout) -> Progress:
        """A request begins inside of `limit`, which `close` lets expire when it waits no longer."""
        progress = Progress(self, limit)
        self._under_way.add(progress)
        self._idle.clear()
        return progress

    def end(self, progress: Progress) -> None:
        """The request has ended."""
        progress.connection = progress.limit = None
        self._under_way.discard(progress)
        if not self._under_way:
            self._idle.set()

    def extend(self, progress: Progress, seconds: float) -> None:
        """Let the request expire after this many seconds and `read_timeout` without progress."""
        progress.until = until = self._loop.time() + self._read_timeout + seconds
        if self._timer is None or until < self._timer.when():
            self._look_at(until)

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        # A task whose data came while the loop was held up has its turn first, and says so.
        # No longer than the limit itself, so that no request that begins meanwhile sets the timer anew.
        grace = min(_GRACE_SECONDS, self._read_timeout)
        self._timer = self._loop.call_later(grace, self._expire, self._loop.time())

    def _expire(self, looked_at: float) -> None:
        """Let those expire that were due, and look again when the next one is."""
        earliest = inf
        for progress in self._under_way:
            if progress.until <= looked_at:
                progress.expire()
            else:
                earliest = min(earliest, progress.until)
        self._timer = None
        if earliest < inf:
            self._look_at(earliest)

    async def close(self, grace: float) -> None:
        """Close the session once nothing is under way, or after `grace` seconds."""
        async with self._closing:
            try:
                await self._ended(grace)
            finally:
                await self._cut_off()

    async def _cut_off(self) -> None:
        # aiohttp would let those who read a body wait for ever, cancel those who wait to connect, and itself
        # wait for a server that does not read what they send.
        for progress in self._under_way:
            progress.expire()
        try:
            await self._ended(_END_SECONDS)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            await self._guard.aclose()

    async def _ended(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()


class Connections:
    """The `Connection` of each event loop, made on first use.

    Those of loops that ended are let go. A forked child starts with none: what its parent had open stays
    the parent's, untouched.
    """

    def __init__(
        self,
        open_session: Callable[[], aiohttp.ClientSession],
        open_keys: Callable[[], KeySource],
        read_timeout: float,
    ) -> None:
        self.closed = False
        self._open_session = open_session
        self._open_keys = open_keys
        self._read_timeout = read_timeout
        self._by_loop: dict[asyncio.AbstractEventLoop, Connection] = {}
        self._lock = threading.Lock()
        _all.add(self)

    async def current(self) -> Connection:
        """The connection of the running loop. `StoreClosedError` after `close`."""
        loop = asyncio.get_running_loop()
        connection = self._by_loop.get(loop)
        if connection is not None and not connection.session.closed and not self.closed:
            return connection
        with self._lock:  # so that a `close` in another thread comes before it or closes what it makes
            if self.closed:
                raise StoreClosedError("this S3ObjectStore was closed")
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            connection = self._by_loop[loop] = Connection(
                self._open_session(), self._open_keys(), self._read_timeout
            )
        return await connection.open()

    def drop_keys(self, expired: Keys) -> bool:
        """Use these keys no more in the running loop; whether there may be others."""
        connection = self._by_loop.get(asyncio.get_running_loop())
        return connection is not None and connection.keys.drop(expired)

    async def close(self) -> None:
        """Refuse new requests, let those under way finish for a while, and close every session.

        Sessions of other threads' loops are closed there; one whose loop does not run now is closed with it.
        """
        self.closed = True
        with self._lock:
            connections = list(self._by_loop.items())
        here = asyncio.get_running_loop()
        elsewhere = [_close_on(loop, c) for loop, c in connections if loop is not here and loop.is_running()]
        for loop, connection in connections:
            if loop is here:
                await connection.close(CLOSE_GRACE_SECONDS)
        waiting = [future for future in elsewhere if future is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=CLOSE_GRACE_SECONDS + 2.0)

    def forget(self) -> None:
        """Start anew in a forked child. The lock, too: another thread may have held it during the fork."""
        _inherited.append(self._by_loop)
        self._by_loop = {}
        self._lock = threading.Lock()


async def _close_with_loop(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Suspended while the session is in use. `asyncio.run` ends asynchronous generators before the loop."""
    try:
        yield
    finally:
        await session.close()


def _close_on(loop: asyncio.AbstractEventLoop, connection: Connection) -> asyncio.Future[None] | None:
    closing = connection.close(CLOSE_GRACE_SECONDS)
    try:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing, loop))
    except RuntimeError:  # the loop ended meanwhile, and its sessions with it
        closing.close()
        return None


_all: weakref.WeakSet[Connections] = weakref.WeakSet()
# Never closed and never collected: closing would end TLS connections that the parent still uses.
_inherited: list[dict[asyncio.AbstractEventLoop, Connection]] = []


def _forget_all() -> None:
    for connections in list(_all):
        connections.forget()


os.register_at_fork(after_in_child=_forget_all)
