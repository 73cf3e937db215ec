"""`Member`: the shared cache in one event loop. It reads and fills entries, and announces writes."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.layers.caching import protocol
from starfish_server.layers.caching.entries import NEEDS, WHOLE, Aged, is_whole, result_from
from starfish_server.layers.caching.protocol import LEASED, WRITER, Run
from starfish_server.redis.link import Link
from starfish_server.redis.session import RedisDownError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from starfish_server.layers.caching.cache import Keys
    from starfish_server.layers.caching.redis import Shared
    from starfish_server.layers.caching.shared import SharedLevel
    from starfish_server.operations import Operation
    from starfish_server.redis.session import Session

T = TypeVar("T")

RENEW_SECONDS = 20.0
MAX_MESSAGE_KEYS = 1_000
CLOSE_SECONDS = 1.0
NOT_CACHED = math.inf
_TICKS = 4  # proofs within `max_delay` that the connection works


@dataclass(slots=True, eq=False)
class SharedWrite:
    """A write that is announced to other processes.

    parts: the keys of each message, by the message's token.
    wait_left: seconds that it may still wait for Redis.
    announced: when it was announced last, by `time.monotonic`.
    ended: the undetermined keys among its keys; None while it is in flight.
    """

    member: Member
    parts: dict[str, list[str | None]]
    wait_left: float
    announced: float = 0.0
    ended: Collection[str | None] | None = None
    replies: list[asyncio.Future[Any]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(map(len, self.parts.values()))

    async def confirmed(self) -> None:
        """Wait until Redis has confirmed what was sent for this write, but not longer than `wait_left`."""
        session = self.member.session
        if session is not None and not session.stalled and self.wait_left > 0:
            now = asyncio.get_running_loop().time
            began = now()
            await session.wait(self.replies, self.wait_left)
            self.wait_left -= now() - began

    def end(self, undetermined: Collection[str | None]) -> None:
        """Announce to the other processes that it ended."""
        self.ended = frozenset(undetermined)
        self.member.end(self)


class Member(Link):
    """The shared cache in one event loop, and its writes in flight."""

    def __init__(self, level: SharedLevel) -> None:
        super().__init__(level.options, "shared cache", protocol.SCRIPTS, level.options.max_delay / _TICKS)
        self._level = level
        self._channel = f"{level.options.namespace}:{protocol.FORMAT}"
        self._names = Run(self._channel, "")
        self._in_flight: set[SharedWrite] = set()

    async def close(self) -> None:
        """Close the link, once Redis has confirmed the ends of writes or `CLOSE_SECONDS` have passed."""
        session = self.session
        ended = [write for write in self._level.unconfirmed() if write.member is self]
        try:
            if session is not None and not session.stalled:
                await session.wait([reply for write in ended for reply in write.replies], CLOSE_SECONDS)
        finally:
            await super().close()

    async def read(self, operation: Operation[T]) -> Any:
        key, kind, inner = operation.key, type(operation), self._level.inner
        context = operation.context
        precedes_write = context is not None and context.action == "push" and NEEDS.get(kind) == WHOLE
        deadline = self.deadline()
        session = await self.usable(deadline)
        if session is None:
            return await inner.perform(operation)
        outdated = precedes_write or self._level.is_unconfirmed_elsewhere(self)
        if kind not in NEEDS or not isinstance(key, str) or outdated:
            result = await inner.perform(operation)
            self._drop(operation.keys)
            return result
        found = await self._find(session, key, deadline)
        whole = is_whole(operation)
        if found is not None and found.knows >= NEEDS[kind]:
            self._level.cache.count("remote_hits")
            operation.note("cache", "remote-hit")
            result = result_from(found.value, operation)
            return Aged(result, session.latest_time() - found.read) if whole else result
        if whole and not session.stalled:
            return await self._read_and_fill(session, key, operation, deadline)
        result = await inner.perform(operation)
        if found is not None:
            self._drop([key])  # it may be older than this result
        return result

    async def _find(self, session: Session, key: str, deadline: float) -> Shared | None:
        codec, name = self._level.options.codec, self._names.name(b"e", key)
        # Not GET: another program may have put any amount there.
        raw = await session.reply(session.send("GETRANGE", name, 0, codec.max_entry_bytes), deadline)
        if not raw or isinstance(raw, Exception):
            return None
        found = codec.decode(key, raw)
        if found is None:
            self._level.cache.count("remote_damaged")
            self._drop([key])
            return None
        in_time = 0 <= session.latest_time() - found.read < self._level.ttl
        return found if in_time and found.generation == self._names.generation else None

    async def _read_and_fill(
        self, session: Session, key: str, operation: Operation[T], deadline: float
    ) -> Any:
        """Read with a lease, without which nothing is put into Redis."""
        codec, run, token = self._level.options.codec, self._names, self._level.token()
        lease = run.name(b"l", key)
        names = [lease, run.name(b"w", key), run.name(b"w", None), run.generation_name]
        asked = session.run("lease", names, token, protocol.LEASE_MILLISECONDS)
        reply: Any = None
        generation, milliseconds, entry = 0, 0, None
        try:
            reply = await session.reply(asked, deadline)
            read = session.earliest_time()
            result = await self._level.inner.perform(operation)
            if reply == WRITER:
                return Aged(result, NOT_CACHED)
            if isinstance(reply, int) and reply >= 0 and not session.backlogged:
                generation = reply
                entry = codec.encode(key, result, read=read, generation=generation)
                left = min(self._level.ttl, protocol.LONGEST_TTL) - (session.latest_time() - read)
                milliseconds = int(left * 1000)
            return result
        finally:
            if session is self.session and reply not in (LEASED, WRITER):  # it may have given the lease
                body = b"" if entry is None or milliseconds < 1 else entry
                names = [run.name(b"e", key), lease, run.generation_name]
                session.run("fill", names, token, generation, milliseconds, body)

    def _drop(self, keys: Iterable[str]) -> None:
        """Drop entries without waiting: Redis runs later commands of this connection after it."""
        session = self.session
        names = [
            self._names.name(letter, key) for key in keys if isinstance(key, str) for letter in (b"e", b"l")
        ]
        if session is not None and names:
            session.send("UNLINK", *names)

    async def begin(self, keys: Keys) -> SharedWrite:
        """Announce to the other processes that a write begins."""
        deadline = self.deadline()
        await self.usable(deadline)
        ordered = list(keys)
        starts = range(0, len(ordered), MAX_MESSAGE_KEYS)
        parts = {self._level.token(): ordered[start : start + MAX_MESSAGE_KEYS] for start in starts}
        write = SharedWrite(self, parts, deadline - self.loop.time())
        self._announce(write)
        self._in_flight.add(write)
        return write

    def end(self, write: SharedWrite) -> None:
        self._in_flight.discard(write)
        self._level.ended(write, merge=self.session is None)
        self._announce(write)

    def _ended(self) -> list[SharedWrite]:
        """Return the ended writes to announce again: those of this event loop and of closed ones."""
        ended = self._level.unconfirmed()
        return [write for write in ended if write.member is self or write.member.loop.is_closed()]

    def _announce(self, write: SharedWrite) -> None:
        """Announce that a write is in flight, or that it has ended."""
        session = self.session
        if session is None or self.loop.is_closed():
            return  # the next session announces it, or another member
        ended = write.ended
        write.member, write.announced = self, time.monotonic()
        write.replies = [self._send(session, token, keys, ended) for token, keys in write.parts.items()]
        left = len(write.replies)

        def replied(reply: asyncio.Future[Any]) -> None:
            nonlocal left
            outcome = reply.result()
            if isinstance(outcome, Exception):
                session.fail(outcome)  # the next session announces everything again
                return
            left -= 1
            if ended is not None and not left:
                self._level.confirmed(write)

        for reply in write.replies:
            reply.add_done_callback(replied)
        if ended is not None and not write.replies:
            self._level.confirmed(write)

    def _send(
        self,
        session: Session,
        token: str,
        keys: list[str | None],
        ended: Collection[str | None] | None,
    ) -> asyncio.Future[Any]:
        names = [self._names.name(letter, key) for key in keys for letter in (b"e", b"l", b"w")]
        undetermined = [] if ended is None else [key for key in keys if key in ended]
        stays = [1 if ended is None or key in ended else 0 for key in keys]
        kind = "begin" if ended is None else "end"
        message = json.dumps([kind, self._level.client, token, keys, undetermined], separators=(",", ":"))
        milliseconds, bump = int(protocol.WRITER_SECONDS * 1000), int(None in keys)
        names.append(self._names.generation_name)
        return session.run("write", names, token, milliseconds, self._channel, message, bump, *stays)

    async def prepare(self, session: Session) -> None:
        found = re.search(rb"^run_id:(\w+)", await session.ask("INFO", "server"), re.MULTILINE)
        if found is None:
            raise RedisDownError("INFO shows no run_id")
        run = Run(self._channel, found[1].decode())
        await session.subscribe(self._channel)
        # Last: a message before this reply is about what this process has not cached yet.
        run.generation = int(await session.ask("GET", run.generation_name) or 0)
        self._names = run

    def began(self) -> None:
        self._level.cache.drop({None})  # messages may be missing
        for write in [*self._in_flight, *self._ended()]:
            self._announce(write)

    def lost(self) -> None:
        self._level.cache.drop({None})
        self._level.remote.give_up()

    def received(self, message: bytes) -> None:
        try:
            content = json.loads(message)
            if isinstance(content, int):
                self._names.generation = max(self._names.generation, content)
                return
            kind, client, token, keys, undetermined = content
            keys, undetermined = _keys(keys), _keys(undetermined)
        except (ValueError, TypeError, RecursionError):
            return  # not a message of this format: any client may publish anything
        if client != self._level.client and isinstance(token, str):
            if kind == "begin":
                self._level.remote.began(token, keys)
            elif kind == "end":
                self._level.remote.ended(token, keys, undetermined)

    def tick(self) -> None:
        now = time.monotonic()
        self._level.remote.give_up(now)
        for write in [*self._in_flight, *self._ended()]:
            if write.announced < now - RENEW_SECONDS or write.member is not self:
                self._announce(write)


def _keys(keys: Any) -> Keys:
    if not all(key is None or isinstance(key, str) for key in keys):
        raise TypeError("not keys")
    return set(keys)
