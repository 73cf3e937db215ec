"""`Member`: the part of one event loop in the shared cache."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.layers.caching import protocol
from starfish_server.layers.caching.entries import NEEDS, WHOLE, Aged, answer
from starfish_server.layers.caching.protocol import LEASED, WRITER
from starfish_server.layers.caching.wire import Shared, key_bytes
from starfish_server.operations import Open, Operation, Read, Stat

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from starfish_server.layers.caching.cache import Keys
    from starfish_server.layers.caching.link import Link, Session
    from starfish_server.layers.caching.shared import SharedLevel

T = TypeVar("T")

RENEW_SECONDS = 20.0
MAX_MESSAGE_KEYS = 1_000
MAX_UNCONFIRMED_KEYS = 10_000
MAX_KEY_BYTES = 1_024  # a longer key is hashed
CLOSE_SECONDS = 1.0
NOT_CACHED = math.inf


@dataclass(slots=True, eq=False)
class SharedWrite:
    """A write that other processes are told of: the keys of each of its messages, by the message's token.

    ended: the undetermined keys among them; None while it is in flight.
    """

    member: Member
    parts: dict[str, list[str | None]]
    renewed: float
    ended: Collection[str | None] | None = None
    replies: list[asyncio.Future[Any]] = field(default_factory=list)

    async def confirmed(self) -> None:
        """Wait until Redis has what was sent for this write, but no longer than the timeout."""
        session = self.member.session
        if session is not None and not session.stalled:
            await session.wait(self.replies)

    def end(self, undetermined: Collection[str | None]) -> None:
        """Tell the other processes that it ended."""
        self.member.end(self, undetermined)


class Member:
    """The part of one event loop: its link to Redis, and its writes that Redis has to hear of."""

    def __init__(self, level: SharedLevel) -> None:
        self._level = level
        self._options = level.options
        self._channel = f"{level.options.namespace}:{protocol.FORMAT}"
        self._writes: set[SharedWrite] = set()  # in flight, or ended and not confirmed yet
        self._unconfirmed = 0  # keys of those that ended
        # There were too many to keep: all keys have to be told, and whether one of them is undetermined.
        self._forget_all = self._forget_all_undetermined = False
        self._tokens = 0
        self.link: Link = level.options.link(self, self._channel, protocol.SCRIPTS)

    @property
    def session(self) -> Session | None:
        return self.link.session

    async def close(self) -> None:
        """Close the link, when Redis has what is left to tell, but not much later."""
        session = self.session
        waiting = {reply for write in self._writes if write.ended is not None for reply in write.replies}
        waiting = {reply for reply in waiting if not reply.done()}
        try:
            if waiting and session is not None and not session.stalled:
                await asyncio.wait(waiting, timeout=CLOSE_SECONDS)
        finally:
            await self.link.close()

    # Reads

    async def read(self, operation: Operation[T]) -> Any:
        key, kind, inner = operation.key, type(operation), self._level.inner
        context = operation.context
        precedes_write = context is not None and context.action == "push" and NEEDS.get(kind) == WHOLE
        await self.link.first_try()
        session = self.session
        if session is None or session.stalled:
            return await inner.perform(operation)
        if kind not in NEEDS or not isinstance(key, str) or precedes_write:
            result = await inner.perform(operation)
            self._drop(operation.keys)
            return result
        found = await self._find(session, key)
        if found is not None and found.knows >= NEEDS[kind]:
            self._level.count_hit()
            operation.note("cache", "remote-hit")
            result = answer(operation, found.value)
            return Aged(result, self._age(session, found)) if self._is_whole(operation) else result
        if not self._is_whole(operation):
            result = await inner.perform(operation)
            if found is not None:
                self._drop([key])  # it may be older than this result
            return result
        return await self._read_and_fill(session, key, operation)

    async def _find(self, session: Session, key: str) -> Shared | None:
        raw = await session.reply(session.send("GET", self._name(session, "e", key)))
        if raw is None or isinstance(raw, Exception):
            return None
        found = self._options.codec.decode(key, raw)
        if found is None:
            self._level.count_damaged()
            self._drop([key])
            return None
        in_time = 0 <= self._age(session, found) < self._level.ttl
        return found if in_time and found.generation == session.generation else None

    def _age(self, session: Session, found: Shared) -> float:
        return session.latest_time() - found.read

    async def _read_and_fill(self, session: Session, key: str, operation: Operation[T]) -> Any:
        inner, token = self._level.inner, self._token()
        lease, writers = self._name(session, "l", key), self._name(session, "w", key)
        everything, generation_key = self._name(session, "w", None), self._generation_key(session)
        asked = session.run(
            "lease", [lease, writers, everything, generation_key], token, protocol.LEASE_MILLISECONDS
        )
        entry: bytes | None = None
        generation, milliseconds = 0, 0
        try:
            reply = await session.reply(asked)
            read = session.earliest_time()
            result = await inner.perform(operation)
            if reply == WRITER:
                return Aged(result, NOT_CACHED)
            if isinstance(reply, int) and reply >= 0:
                generation = reply
                entry = self._options.codec.encode(key, result, read=read, generation=generation)
                left = min(self._level.ttl, protocol.LONGEST_TTL) - (session.latest_time() - read)
                milliseconds = int(left * 1000)
            return result
        finally:
            refused = asked.done() and not asked.cancelled() and asked.result() in (LEASED, WRITER)
            if session is self.session and not refused:
                names = [self._name(session, "e", key), lease, generation_key]
                body = b"" if entry is None or milliseconds < 1 else entry
                session.run("fill", names, token, generation, milliseconds, body)

    def _drop(self, keys: Iterable[str]) -> None:
        """Drop entries without waiting: what this process sends later comes after it."""
        session = self.session
        names = [
            self._name(session, letter, key)
            for key in keys
            if session is not None and isinstance(key, str)
            for letter in "el"
        ]
        if session is not None and names:
            session.send("UNLINK", *names)

    @staticmethod
    def _is_whole(operation: Any) -> bool:
        if type(operation) is Read:
            return operation.start == 0 and operation.stop is None
        return type(operation) not in (Stat, Open)

    # Writes

    def begin(self, keys: Keys) -> SharedWrite:
        ordered = list(keys)
        parts = {
            self._token(): ordered[start : start + MAX_MESSAGE_KEYS]
            for start in range(0, len(ordered), MAX_MESSAGE_KEYS)
        }
        write = SharedWrite(self, parts, time.monotonic())
        self._writes.add(write)
        self._tell(write)
        return write

    def end(self, write: SharedWrite, undetermined: Collection[str | None]) -> None:
        write.ended = frozenset(undetermined)
        self._unconfirmed += sum(map(len, write.parts.values()))
        if self._unconfirmed > MAX_UNCONFIRMED_KEYS:
            self._forget_all = True
            for other in [other for other in self._writes if other.ended is not None]:
                self._forget_all_undetermined |= bool(other.ended)
                self._forget_write(other)
        self._tell(write)

    def _forget_write(self, write: SharedWrite) -> None:
        if write in self._writes:
            self._writes.remove(write)
            self._unconfirmed -= sum(map(len, write.parts.values()))

    def _tell(self, write: SharedWrite) -> None:
        """Send what there is to say of a write: that it goes on, or that it ended."""
        session = self.session
        if session is None or not _runs(self.link.loop):
            return
        write.renewed = time.monotonic()
        write.replies = [self._send(session, token, keys, write.ended) for token, keys in write.parts.items()]
        ended = write.ended is not None
        left = len(write.replies)

        def replied(reply: asyncio.Future[Any]) -> None:
            nonlocal left
            outcome = reply.result()
            if isinstance(outcome, Exception):
                session.fail(outcome)  # in the session after it, all is told again
                return
            left -= 1
            if ended and not left:
                self._forget_write(write)

        for reply in write.replies:
            reply.add_done_callback(replied)
        if ended and not write.replies:
            self._forget_write(write)

    def _send(
        self,
        session: Session,
        token: str,
        keys: list[str | None],
        ended: Collection[str | None] | None,
    ) -> asyncio.Future[Any]:
        names = [self._name(session, letter, key) for key in keys for letter in "elw"]
        stays = [1 if ended is None or key in ended else 0 for key in keys]
        open_keys = [] if ended is None else [key for key in keys if key in ended]
        kind = "begin" if ended is None else "end"
        message = json.dumps([kind, self._level.client, token, keys, open_keys], separators=(",", ":"))
        milliseconds = int(protocol.WRITER_SECONDS * 1000)
        bump = int(None in keys)
        return session.run(
            "write",
            [*names, self._generation_key(session)],
            token,
            milliseconds,
            self._channel,
            message,
            bump,
            *stays,
        )

    # What the link calls

    def began(self, session: Session) -> None:
        self._level.flush()
        for write in list(self._writes):
            self._tell(write)
        if self._forget_all:
            undetermined: Keys = {None} if self._forget_all_undetermined else set()
            self._forget_all = self._forget_all_undetermined = False
            self.end(self.begin({None}), undetermined)

    def lost(self) -> None:
        self._level.lost()

    def received(self, session: Session, message: bytes) -> None:
        try:
            content = json.loads(message)
            if isinstance(content, int):
                session.generation = max(session.generation, content)
                return
            kind, client, token, keys, undetermined = content
            if client != self._level.client and isinstance(token, str) and kind == "begin":
                self._level.began(token, _keys(keys))
            elif client != self._level.client and isinstance(token, str) and kind == "end":
                self._level.ended(token, _keys(keys), _keys(undetermined))
        except (ValueError, TypeError, RecursionError):
            return  # not a message of this format: any client may publish anything

    def tick(self) -> None:
        self._level.expire()
        due = time.monotonic() - RENEW_SECONDS
        for write in list(self._writes):
            if write.ended is None and write.renewed < due:
                self._tell(write)

    # Names

    def _token(self) -> str:
        self._tokens += 1
        return f"{self._level.client}-{id(self):x}-{self._tokens}"

    def _prefix(self, session: Session) -> bytes:
        return f"{self._channel}:{session.run_id}:".encode()

    def _generation_key(self, session: Session) -> bytes:
        return self._prefix(session) + b"g"

    def _name(self, session: Session, letter: str, key: str | None) -> bytes:
        """Return the key in Redis; `*` is for all keys, `#` for the hash of a long one."""
        if key is None:
            return self._prefix(session) + letter.encode() + b"*"
        raw = key_bytes(key)
        if len(raw) > MAX_KEY_BYTES:
            return self._prefix(session) + letter.encode() + b"#" + hashlib.sha256(raw).hexdigest().encode()
        return self._prefix(session) + letter.encode() + b":" + raw


def _runs(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether this is the thread of the loop: the garbage collector may end a write in another one."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _keys(keys: Any) -> Keys:
    if not all(key is None or isinstance(key, str) for key in keys):
        raise TypeError("not keys")
    return set(keys)
