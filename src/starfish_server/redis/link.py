"""`Link` keeps a connection to Redis up in the background; `PerLoop` has one link for each event loop."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

from starfish_server.forks import reset_in_child
from starfish_server.logs import SafeLogger
from starfish_server.printable import printable
from starfish_server.redis.session import RedisDownError, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starfish_server.redis.server import RedisServer

_log = SafeLogger(__package__)

_CONNECT_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between attempts to connect


class Link:
    """Keeps a session of the running event loop up, in the background, until it is closed.

    session: the session in use; None while there is none.
    what: names the user of Redis in the log, as in "shared cache".
    scripts: Lua by name.
    interval: seconds between the commands whose replies prove that the connection works.

    A subclass overrides the methods that the session calls; here they do nothing.
    """

    def __init__(self, server: RedisServer, what: str, scripts: Mapping[str, str], interval: float) -> None:
        self.session: Session | None = None
        self.loop = asyncio.get_running_loop()
        self.scripts = scripts
        self.interval = interval
        self._server = server
        self._what = what
        self._pause = _FIRST_PAUSE
        self._warned = False
        self._attempted = asyncio.Event()
        # In an empty context: it outlives the operation that needs it first.
        self._task = self.loop.create_task(self._run(), context=Context())

    async def prepare(self, session: Session) -> None:
        """Prepare a new session before it is used."""

    def began(self) -> None:
        """Called when the new session is ready."""

    def lost(self) -> None:
        """Called when the session has ended."""

    def received(self, message: bytes) -> None:
        """Called with each message of the channel."""

    def tick(self) -> None:
        """Called at each interval, while there is a session."""

    def deadline(self) -> float:
        """Return the loop's time until which an operation that begins now may wait for Redis."""
        return self.loop.time() + self._server.timeout

    async def usable(self, deadline: float) -> Session | None:
        """Return the session, or None if there is none or it is stalled.

        Operations that come during the first attempt to connect wait for it, until their deadline.
        """
        if not self._attempted.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._attempted.wait()
            self._attempted.set()
        session = self.session
        return None if session is None or session.stalled else session

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def abandon(self) -> None:
        """End the link from another thread, without waiting."""
        with suppress(RuntimeError):  # the loop is closed, and the task with it
            self.loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        while True:
            try:
                await self._connect_and_serve()
            except Exception as error:  # noqa: BLE001 - no error of the client may fail an operation
                if not self._warned:
                    self._warned = True
                    fields = {"address": printable(self._server.address), "error_type": type(error).__name__}
                    what, where = self._what, fields["address"]
                    _log.warning("%s at %s is not used: %s", what, where, _reason(error), extra=fields)
            finally:
                self._attempted.set()
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _connect_and_serve(self) -> None:
        connection = self._server.connection()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                session = await Session.start(self._server, connection, self)
            try:
                self.session = session
                self.began()
                self._attempted.set()
                address = printable(self._server.address)
                _log.info("%s at %s is used", self._what, address, extra={"address": address})
                await session.serve(self)
            finally:
                self.session = None
                if session.age > _LONGEST_PAUSE:
                    self._pause, self._warned = _FIRST_PAUSE, False
                self.lost()
                session.end()
        finally:
            await connection.disconnect(nowait=True)
            await asyncio.sleep(0)  # the transport closes its socket in a callback


def _reason(error: BaseException) -> str:
    """Describe an error without the server's text, which may repeat the password that was sent to it."""
    safe = error
    while not isinstance(safe, OSError | RedisDownError):
        if safe.__context__ is None:
            return type(error).__name__
        safe = safe.__context__
    return printable(f"{type(error).__name__}: {safe}")


T = TypeVar("T", bound=Link)


class PerLoop(Generic[T]):
    """One link for each event loop, made when that loop first needs it. Iterates over all links."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._all: dict[asyncio.AbstractEventLoop, T] = {}
        self._parents: list[object] = []
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Start empty. Keep the parent's links: closing them would reach into the parent's event loop."""
        self._parents.append(self._all)
        self._all = {}

    def get(self) -> T | None:
        """Return the link of the running event loop; None if there is no link or no event loop."""
        try:
            return self._all.get(asyncio.get_running_loop())
        except RuntimeError:
            return None

    def get_or_make(self) -> T:
        """Return the link of the running event loop; make it if there is none."""
        loop = asyncio.get_running_loop()
        found = self._all.get(loop)
        if found is None:
            for ended in [other for other in self._all.copy() if other.is_closed()]:
                self._all.pop(ended, None)
            found = self._all[loop] = self._make()
        return found

    def __iter__(self) -> Iterator[T]:
        return iter(self._all.copy().values())

    async def close(self) -> None:
        """Close all links. A loop that needs one later gets a new one."""
        here = self._all.pop(asyncio.get_running_loop(), None)
        others, self._all = self._all, {}
        for other in others.values():
            other.abandon()
        if here is not None:
            await here.close()
