"""`Session`: one connection to Redis, on which commands and replies keep their order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from starfish_server.redis.server import NoScriptError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis.asyncio.connection import AbstractConnection

    from starfish_server.redis.link import Link
    from starfish_server.redis.server import RedisServer

_UNANSWERED_TICKS = 20  # intervals without a reply after which a session ends
_MAX_PENDING = 10_000  # commands that wait for a reply, and the bytes that they take; more end a session
_MAX_PENDING_BYTES = 64 * 2**20
_BACKLOG_BYTES = 16 * 2**20  # with more waiting, optional commands are skipped
_PUSHES = (b"message", b"subscribe", b"unsubscribe")
# If possible a clock that runs while the machine sleeps: messages may be missed in that time, too.
_now: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)

Command = tuple[float, "asyncio.Future[Any]", int]
"""When it was sent, where its reply goes, and how many bytes it has."""


class RedisDownError(Exception):
    """Redis cannot be used, or the connection ended before the reply. Its text is safe to log."""


class Session:
    """One connection to one run of a Redis server.

    Redis replies in the order in which commands were sent, and messages of a channel arrive between the
    replies. So each reply proves that every message published before its command ran has been handled.

    stalled: whether Redis does not reply within the timeout at present.
    """

    def __init__(
        self, connection: AbstractConnection, transport: asyncio.WriteTransport, timeout: float
    ) -> None:
        self.stalled = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._connection = connection
        self._transport = transport
        self._timeout = timeout
        self._outbox: deque[tuple[asyncio.Future[Any], bytes]] = deque()
        self._pending: deque[Command] = deque()  # sent, without a reply yet
        self._pending_bytes = 0
        self._transmitting = False
        self._failed: asyncio.Future[Exception] = self._loop.create_future()
        self._began = self._proved = _now()
        self._unanswered = 0
        self._ahead = (0.0, 0.0)  # bounds of the server's clock minus this one's
        self._scripts: dict[str, str] = {}

    @classmethod
    async def start(cls, server: RedisServer, connection: AbstractConnection, link: Link) -> Session:
        """Connect, load the scripts, and let the link prepare what it needs."""
        await connection.connect()  # type: ignore[no-untyped-call]  # of the package
        # Not public. The public way to send waits in between, so it could not keep commands in order, and no
        # public way closes a connection whose server hangs.
        writer: asyncio.StreamWriter | None = getattr(connection, "_writer", None)
        if writer is None:
            raise RedisDownError("this version of redis hides its connection")
        session = cls(connection, writer.transport, server.timeout)
        _check_role(await session.ask("ROLE"))
        for name, script in link.scripts.items():
            session._scripts[name] = (await session.ask("SCRIPT", "LOAD", script)).decode()
        asked = _now()
        session._set_time(asked, await session.ask("TIME"))
        await link.prepare(session)
        session._proved = asked
        return session

    async def ask(self, *command: str | bytes) -> Any:
        """Return the reply to a command, before the session serves."""
        await self._connection.send_command(*command)
        while _is_push(reply := await self._connection.read_response(push_request=True)):
            pass
        return reply

    async def subscribe(self, channel: str) -> None:
        """Receive the messages of a channel from now on; those before the next reply are ignored."""
        await self._connection.send_command("SUBSCRIBE", channel)

    @property
    def age(self) -> float:
        return _now() - self._began

    @property
    def backlogged(self) -> bool:
        """Whether the connection is so far behind that optional commands should be skipped."""
        return self.stalled or self._pending_bytes > _BACKLOG_BYTES

    def has_heard_all(self, older_than: float) -> bool:
        """Return whether every message published more than `older_than` seconds ago has been handled."""
        return _now() - self._proved < older_than

    def earliest_time(self) -> float:
        """Return the least that the server's clock can show now, in seconds."""
        return _now() + self._ahead[0]

    def latest_time(self) -> float:
        """Return the most that the server's clock can show now, in seconds."""
        return _now() + self._ahead[1]

    def send(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        """Send a command, in order. The result is the reply, or an exception as a value.

        May be called from any thread: the garbage collector may end a read or a write anywhere.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._outbox.append((future, b"".join(self._connection.pack_command(*command))))
        try:
            if threading.get_ident() == self._thread:
                self._transmit()
            else:
                self._loop.call_soon_threadsafe(self._transmit)
        except RuntimeError:
            if not self._loop.is_closed():  # else nothing waits for the reply
                raise
        return future

    def _transmit(self) -> None:
        if self._transmitting:
            return  # the garbage collector ended a write while another one was sent
        self._transmitting = True
        try:
            while self._outbox:
                waiting, packed = self._outbox.popleft()
                if not self._failed.done():
                    self._pending.append((_now(), waiting, len(packed)))
                    self._pending_bytes += len(packed)
                    self._transport.write(packed)
                elif not waiting.done():
                    waiting.set_result(RedisDownError("the connection has ended"))
        except BaseException as error:
            # uvloop raises if the connection was lost a moment ago. After any error the command may not have
            # been sent, and the next reply would be taken for its own.
            self.fail(RedisDownError("a command was not sent"))
            if not isinstance(error, Exception):
                raise
        finally:
            self._transmitting = False
        if len(self._pending) > _MAX_PENDING or self._pending_bytes > _MAX_PENDING_BYTES:
            self.fail(RedisDownError("too much waits for replies"))

    def run(self, script: str, keys: list[bytes], *args: str | bytes | float) -> asyncio.Future[Any]:
        """Send a script, in order, as `send` does."""
        return self.send("EVALSHA", self._scripts[script], len(keys), *keys, *args)

    async def reply(self, future: asyncio.Future[Any], deadline: float) -> Any:
        """Return the reply, or an exception as a value: a `TimeoutError` after `deadline`.

        The deadline is of the event loop's clock. A reply that comes after it, or after the caller was
        cancelled, is received and ignored.
        """
        timer = self._loop.call_at(deadline, self._give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    def _give_up(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            self.stalled = True
            future.set_result(TimeoutError("no reply in time"))

    async def wait(self, replies: Iterable[asyncio.Future[Any]], seconds: float) -> None:
        """Wait for all replies, at most `seconds`."""
        if replies := [reply for reply in replies if not reply.done()]:
            _, late = await asyncio.wait(replies, timeout=seconds)
            if late:
                self.stalled = True

    def fail(self, error: Exception) -> None:
        """Make `serve` end the session with this error."""
        if not self._failed.done():
            self._failed.set_result(error)

    def end(self) -> None:
        """Close the connection, and answer what is pending with `RedisDownError`."""
        self.fail(RedisDownError("the connection has ended"))
        # Not `close`, which would wait until all buffered data is sent, and a server that hangs reads none.
        self._transport.abort()
        while self._pending:
            _, future, _ = self._pending.popleft()
            if not future.done():
                future.set_result(RedisDownError("the connection has ended"))

    async def serve(self, link: Link) -> None:
        """Receive replies and measure the connection until one of them fails, and raise that error."""
        tasks: list[asyncio.Task[None]] = [
            self._loop.create_task(self._receive(link)),
            self._loop.create_task(self._measure(link)),
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
        errors = (error for error in outcomes if isinstance(error, Exception))
        raise next(errors, RedisDownError("the connection has ended"))

    async def _receive(self, link: Link) -> None:
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
                    link.received(reply[2])
                continue
            sent, future, size = self._pending.popleft()
            self._pending_bytes -= size
            self._proved = sent
            self._unanswered = 0
            self.stalled = _now() - sent >= self._timeout
            if not future.done():
                future.set_result(reply)

    async def _measure(self, link: Link) -> None:
        """Ask for time and role at each interval: each reply proves that the connection works."""
        while True:
            await asyncio.sleep(link.interval)
            self._unanswered += 1
            if self._unanswered > _UNANSWERED_TICKS:
                raise RedisDownError("no reply")
            self.send("TIME").add_done_callback(partial(self._on_time, _now()))
            self.send("ROLE").add_done_callback(self._on_role)
            link.tick()

    def _on_time(self, asked: float, future: asyncio.Future[Any]) -> None:
        if not isinstance(reply := future.result(), Exception):
            self._set_time(asked, reply)

    def _set_time(self, asked: float, reply: Any) -> None:
        seconds = int(reply[0]) + int(reply[1]) / 1e6
        self._ahead = (seconds - _now(), seconds - asked)

    def _on_role(self, future: asyncio.Future[Any]) -> None:
        try:
            _check_role(future.result())
        except RedisDownError as error:
            self.fail(error)


def _check_role(reply: Any) -> None:
    """Raise `RedisDownError` if the server is a replica, as after a failover: writes go to another server."""
    if isinstance(reply, list) and reply[0] != b"master":
        raise RedisDownError("it is a replica")


def _is_push(reply: Any) -> bool:
    # Of the commands used here, only TIME and ROLE are answered with a list, and neither list begins like a
    # message. A script must not return a list that does.
    return isinstance(reply, list) and reply[0] in _PUSHES
