"""`Link`: the connection of one event loop to Redis, kept up in the background."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections import deque
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import NoScriptError, RedisError, ResponseError

from starfish_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from redis.asyncio.connection import AbstractConnection

    from starfish_server.layers.caching.redis import RedisCache

_log = logging.getLogger(__package__)

_CONNECT_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between attempts to connect
_TICKS = 4  # how often Redis is asked for the time within `max_delay`
_UNANSWERED_TICKS = 20  # so many in a row end a connection
_MAX_PENDING = 10_000  # commands that wait for a reply; more end a connection
_PUSHES = (b"message", b"subscribe", b"unsubscribe")
# Where the system has it, a clock that goes on while the machine sleeps: what was missed then must count.
_now: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)

Command = tuple[float, "asyncio.Future[Any]", bytes]
"""When it was sent, where its reply goes, and its bytes."""


class RedisDownError(Exception):
    """The connection ended before the reply."""


class LinkUser(Protocol):
    """What uses a link."""

    def began(self, session: Session) -> None:
        """Take a new session into use."""

    def lost(self) -> None:
        """Do without the session, which ended."""

    def received(self, session: Session, message: bytes) -> None:
        """Handle a message of the channel."""

    def tick(self) -> None:
        """Do what is done from time to time, while there is a session."""


class Link:
    """Keeps a session of the running event loop up, in the background, until it is closed.

    session: the session in use; None while there is none.
    """

    def __init__(self, cache: RedisCache, user: LinkUser, channel: str, scripts: Mapping[str, str]) -> None:
        self.session: Session | None = None
        self.loop = asyncio.get_running_loop()
        self._cache = cache
        self._user = user
        self._channel = channel
        self._scripts = scripts
        self._pause = _FIRST_PAUSE
        self._told = False
        self._tried: asyncio.Future[None] = self.loop.create_future()
        # In a context of its own: it outlives the operation that needs it first.
        self._task = self.loop.create_task(self._run(), context=Context())

    async def first_try(self) -> None:
        """Wait until it was tried to connect for the first time, but only once as long as `timeout`."""
        if not self._tried.done():
            await asyncio.wait([self._tried], timeout=self._cache.timeout)
            self._end_of_first_try()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Close it from another thread."""
        with suppress(RuntimeError):  # the loop is closed, and the task with it
            self.loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        while True:
            try:
                await self._connect_and_serve()
            except Exception as error:  # noqa: BLE001 - whatever the client raises, the cache must not fail
                if not self._told:
                    self._told = True
                    address, failed = printable(self._cache.address), type(error).__name__
                    _log.warning(
                        "shared cache at %s is not used: %s: %s",
                        *(address, failed, printable(str(error))),
                        extra={"address": address, "error_type": failed},
                    )
            finally:
                self._end_of_first_try()
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _connect_and_serve(self) -> None:
        connection = self._cache.connection()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                session = await Session.start(connection, self._cache, self._channel, self._scripts)
            try:
                self.session = session
                self._user.began(session)
                self._end_of_first_try()
                address = printable(self._cache.address)
                _log.info("shared cache at %s is used", address, extra={"address": address})
                await session.serve(self._user)
            finally:
                self.session = None
                if session.age > _LONGEST_PAUSE:
                    self._pause, self._told = _FIRST_PAUSE, False
                session.end()
                self._user.lost()
        finally:
            await connection.disconnect(nowait=True)
            await asyncio.sleep(0)  # the transport closes its socket in a callback

    def _end_of_first_try(self) -> None:
        if not self._tried.done():
            self._tried.set_result(None)


class Session:
    """One connection to one run of a Redis server.

    Redis replies in the order in which commands were sent, and messages of the channel arrive between the
    replies. So each reply proves that every message published before its command ran has been handled.

    run_id: names the run of the server: data that a server loads when it starts belongs to another one.
    generation: entries of another generation are outdated.
    stalled: whether Redis does not reply within the timeout at present.
    """

    def __init__(
        self, connection: AbstractConnection, transport: asyncio.WriteTransport, cache: RedisCache
    ) -> None:
        self.run_id = ""
        self.generation = 0
        self.stalled = False
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._transport = transport
        self._timeout = cache.timeout
        self._max_delay = cache.max_delay
        self._outbox: deque[Command] = deque()
        self._pending: deque[Command] = deque()  # what waits for a reply
        self._transmitting = False
        self._failed: asyncio.Future[Exception] = self._loop.create_future()
        self._began = _now()
        self._proved = 0.0
        self._unanswered = 0
        self._ahead = (0.0, 0.0)  # the least and the most that the server's clock is ahead of ours
        self._scripts: dict[str, str] = {}

    @classmethod
    async def start(
        cls, connection: AbstractConnection, cache: RedisCache, channel: str, scripts: Mapping[str, str]
    ) -> Session:
        """Connect, subscribe to the channel and load the scripts."""
        await connection.connect()  # type: ignore[no-untyped-call]  # of the package
        # Not public. Its own way to send waits in between, and could not keep commands in order.
        writer: asyncio.StreamWriter | None = getattr(connection, "_writer", None)
        if writer is None:
            raise RedisError("this version of redis hides its connection")
        session = cls(connection, writer.transport, cache)
        session._check_role(await session._ask("ROLE"))
        info = await session._ask("INFO", "server")
        found = re.search(rb"^run_id:(\w+)", info, re.MULTILINE)
        if found is None:
            raise RedisError("INFO tells no run_id")
        session.run_id = found[1].decode()
        for name, script in scripts.items():
            session._scripts[name] = (await session._ask("SCRIPT", "LOAD", script)).decode()
        asked = _now()
        session._set_time(asked, await session._ask("TIME"))
        await connection.send_command("SUBSCRIBE", channel)
        # Last: a message before this reply is about what this process has not cached yet.
        session.generation = int(await session._ask("GET", f"{channel}:{session.run_id}:g") or 0)
        session._proved = asked
        return session

    async def _ask(self, *command: str) -> Any:
        """Return the reply to a command, before the session serves."""
        await self._connection.send_command(*command)
        while True:
            reply = await self._connection.read_response(push_request=True)
            if not _is_push(reply):
                return reply

    @property
    def age(self) -> float:
        return _now() - self._began

    @property
    def fresh(self) -> bool:
        """Whether every message published more than `max_delay` seconds ago has been handled."""
        return _now() - self._proved < self._max_delay

    def earliest_time(self) -> float:
        """Return the least that the server's clock can show now, in seconds."""
        return _now() + self._ahead[0]

    def latest_time(self) -> float:
        """Return the most that the server's clock can show now, in seconds."""
        return _now() + self._ahead[1]

    def send(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        """Send a command, in order. The result is the reply, or an exception as a value."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._failed.done() or self._loop.is_closed():
            future.set_result(RedisDownError())
            return future
        self._outbox.append((_now(), future, b"".join(self._connection.pack_command(*command))))
        if not self._transmitting:  # else the garbage collector ended a write while another one was sent
            self._transmitting = True
            while self._outbox:
                self._pending.append(self._outbox[0])
                self._transport.write(self._outbox.popleft()[2])
            self._transmitting = False
        if len(self._pending) > _MAX_PENDING:
            self.fail(TimeoutError("too many commands wait for replies"))
        return future

    def run(self, script: str, keys: list[bytes], *args: str | bytes | float) -> asyncio.Future[Any]:
        """Send a script, in order, as `send` does."""
        return self.send("EVALSHA", self._scripts[script], len(keys), *keys, *args)

    async def reply(self, future: asyncio.Future[Any]) -> Any:
        """Return the reply, or an exception as a value: a `TimeoutError` if Redis takes too long.

        A reply that comes after that, or after the caller was cancelled, is received and ignored.
        """
        timer = self._loop.call_later(self._timeout, self._give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    def _give_up(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            self.stalled = True
            future.set_result(TimeoutError("no reply in time"))

    async def wait(self, replies: Iterable[asyncio.Future[Any]]) -> None:
        """Wait for all replies, but no longer than the timeout."""
        if replies := [reply for reply in replies if not reply.done()]:
            _, late = await asyncio.wait(replies, timeout=self._timeout)
            if late:
                self.stalled = True

    def fail(self, error: Exception) -> None:
        """End the session, soon."""
        if not self._failed.done():
            self._failed.set_result(error)

    def end(self) -> None:
        """Close the connection, and answer what is pending with `RedisDownError`."""
        self.fail(RedisDownError())
        # Not closed: while the server hangs, it would stay until all that it holds is sent.
        self._transport.abort()
        while self._pending:
            _, future, _ = self._pending.popleft()
            if not future.done():
                future.set_result(RedisDownError())

    async def serve(self, user: LinkUser) -> None:
        """Receive and measure until something fails; raise what."""
        tasks: list[asyncio.Task[None]] = [
            self._loop.create_task(self._receive(user)),
            self._loop.create_task(self._measure(user)),
        ]
        try:
            ends: list[asyncio.Future[Any]] = [*tasks, self._failed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if self._failed.done():
            raise self._failed.result()
        raise next((error for error in outcomes if isinstance(error, Exception)), RedisDownError())

    async def _receive(self, user: LinkUser) -> None:
        while True:
            reply: Any
            try:
                reply = await self._connection.read_response(push_request=True, disconnect_on_error=False)
            except NoScriptError:
                raise  # a new session loads them again
            except ResponseError as error:
                reply = error
            if _is_push(reply):
                if reply[0] == b"message":
                    user.received(self, reply[2])
                continue
            sent, future, _ = self._pending.popleft()
            self._proved = sent
            self._unanswered = 0
            self.stalled = _now() - sent >= self._timeout
            if not future.done():
                future.set_result(reply)

    async def _measure(self, user: LinkUser) -> None:
        """Ask for the time, again and again: each reply tells what the first level may be trusted with."""
        while True:
            await asyncio.sleep(self._max_delay / _TICKS)
            self._unanswered += 1
            if self._unanswered > _UNANSWERED_TICKS:
                raise TimeoutError("no reply")
            self.send("TIME").add_done_callback(partial(self._told_time, _now()))
            self.send("ROLE").add_done_callback(self._told_role)
            user.tick()

    def _told_time(self, asked: float, future: asyncio.Future[Any]) -> None:
        if not isinstance(reply := future.result(), Exception):
            self._set_time(asked, reply)

    def _set_time(self, asked: float, reply: Any) -> None:
        seconds = int(reply[0]) + int(reply[1]) / 1e6
        self._ahead = (seconds - _now(), seconds - asked)

    def _told_role(self, future: asyncio.Future[Any]) -> None:
        try:
            self._check_role(future.result())
        except RedisError as error:
            self.fail(error)

    def _check_role(self, reply: Any) -> None:
        """Raise `RedisError` if the server is a replica, perhaps since a failover: others write elsewhere."""
        if isinstance(reply, list) and reply[0] != b"master":
            raise RedisError("it is a replica")


def _is_push(reply: Any) -> bool:
    # Of the commands here TIME and ROLE are answered with a list, and neither begins like a message.
    return isinstance(reply, list) and reply[0] in _PUSHES
