"""`SharedLevel`: the second level of `Caching`, in Redis, and what keeps the first levels coherent.

Keys in Redis, under `{namespace}:1:{run of the server}:`, where 1 is the version of this format:

    e:{key}  an entry
    l:{key}  the lease of the one reader that may fill it
    w:{key}  the writers of the key, each with the time at which it counts as gone
    g        the generation; entries of another one are outdated

A reader that misses takes the lease, unless there is a writer, and its fill lands only while it still has the
lease. A writer registers and drops the entry and the lease before it writes, and does so again afterwards; so
nothing that was read before a write ended lands after it. Both times it tells the other processes, which
treat it as a write of their own. A writer that dies leaves its registration, and its key is not cached until
that expires.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.errors import StackError
from starfish_server.forks import reset_in_child
from starfish_server.layers.base import Layer, Slot
from starfish_server.layers.caching.cache import UNDETERMINED_SECONDS, Keys
from starfish_server.layers.caching.entries import NEEDS, WHOLE, Aged, answer
from starfish_server.layers.caching.wire import Shared, key_bytes
from starfish_server.operations import Open, Operation, Read, Stat

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from starfish_server.layers.caching.cache import Cache
    from starfish_server.layers.caching.entries import Subject
    from starfish_server.layers.caching.redis import Link, RedisCache, Session
    from starfish_server.storage.base import AbstractObjectStore

T = TypeVar("T")

LEASE_MILLISECONDS = 5_000
# A registration of a writer lasts so long, and one that still writes renews it.
WRITER_SECONDS = UNDETERMINED_SECONDS
RENEW_SECONDS = 20.0
MAX_MESSAGE_KEYS = 1_000
MAX_UNCONFIRMED_KEYS = 10_000
LONGEST_TTL = 24 * 3600.0  # of an entry in Redis; the generation, kept for longer, outlives all entries
MAX_KEY_BYTES = 1_024  # a longer key is hashed
CLOSE_SECONDS = 1.0
FORMAT = 1

# KEYS: e, l and w of each key, then g. ARGV: token, milliseconds, channel, message, whether the generation
# changes, and for each key whether the token stays registered. What frees memory comes first: a script that
# has written is not refused when Redis is full.
WRITE = """
local count = (#KEYS - 1) / 3
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, count do
  redis.call('UNLINK', KEYS[3 * i - 2], KEYS[3 * i - 1])
  local writers = KEYS[3 * i]
  if ARGV[5 + i] == '1' then
    redis.call('ZREMRANGEBYSCORE', writers, '-inf', now)
    redis.call('ZADD', writers, now + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', writers, ARGV[2])
  else
    redis.call('ZREM', writers, ARGV[1])
  end
end
if ARGV[5] == '1' then
  local last = tonumber(redis.call('GET', KEYS[#KEYS]) or '0')
  local generation = math.max(last + 1, time[1] * 1000000 + time[2])
  redis.call('SET', KEYS[#KEYS], generation, 'PX', 7 * 24 * 3600 * 1000)
  redis.call('PUBLISH', ARGV[3], generation)
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""
# KEYS: l, w of the key, w of all keys, g. ARGV: token, milliseconds. Returns the generation, -1 if another
# reader has the lease, -2 if there is a writer.
LEASE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZCOUNT', KEYS[2], now, '+inf') + redis.call('ZCOUNT', KEYS[3], now, '+inf') > 0 then
  return -2
end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return -1
end
redis.call('PEXPIRE', KEYS[4], 7 * 24 * 3600 * 1000)
return tonumber(redis.call('GET', KEYS[4]) or '0')
"""
# KEYS: e, l, g. ARGV: token, generation, milliseconds, entry; an empty one only gives the lease back.
FILL = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', KEYS[2])
if ARGV[4] == '' or (redis.call('GET', KEYS[3]) or '0') ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
return 1
"""
SCRIPTS = {"write": WRITE, "lease": LEASE, "fill": FILL}
LEASED, WRITER = -1, -2
NOT_CACHED = math.inf


def check_shared(shared: RedisCache, inner: AbstractObjectStore) -> None:
    """Raise `StackError` if what is encrypted inside would lie plain in Redis."""
    if not shared.sealed and _encrypts(inner):
        raise StackError(
            "Caching(shared=RedisCache(...)) outside Encryption would put plain objects into Redis: give"
            " RedisCache a secret=, which seals them"
        )


def _encrypts(store: AbstractObjectStore) -> bool:
    if not isinstance(store, Layer):
        return False
    return store.slot is Slot.ENCRYPTION or any(map(_encrypts, store.inners))


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


class SharedLevel:
    """The part of one `Caching` layer in what processes share; event loops and threads may use it.

    Reads go through `perform`, which asks Redis and then `inner`; writes through `open_write`.
    """

    def __init__(self, shared: RedisCache, cache: Cache, inner: AbstractObjectStore, ttl: float) -> None:
        self.options = shared
        self.cache = cache
        self.inner = inner
        self.ttl = ttl
        self.closed = False
        self._of_the_parent: list[object] = []
        self._begin()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Begin as another process, and leave the parent's connections alone.

        They are kept, since closing one would reach into the parent's event loop.
        """
        self._of_the_parent.append(self.members)
        self._begin()

    def _begin(self) -> None:
        self.client = secrets.token_hex(8)
        self.remote_hits = self.remote_damaged = 0
        self.members: dict[asyncio.AbstractEventLoop, Member] = {}
        # Writes of other processes in flight, by token: their keys, and when they are overdue.
        self._remote: dict[str, tuple[Keys, float]] = {}
        self._lock = threading.RLock()  # held for moments, never across an await

    def trusted(self, subject: Subject) -> bool:
        """Return whether what the first level has may be returned.

        If not, a read of the subject that began too long ago is not shared either.
        """
        member = self.members.get(asyncio.get_running_loop())
        if member is None:
            return False  # asking Redis makes one
        session = member.link.session
        if session is None or session.fresh:
            return True
        self.cache.unshare(subject, self.options.max_delay)
        return False

    @property
    def connected(self) -> bool:
        return any(member.link.session is not None for member in self.members.copy().values())

    async def perform(self, operation: Operation[T]) -> Any:
        """Return the result of a read, from Redis if it has it; `Aged` for one that may be cached."""
        member = self._member()
        if member is None:
            return await self.inner.perform(operation)
        return await member.read(operation)

    async def open_write(self, keys: Keys) -> SharedWrite | None:
        """Tell the other processes that a write of `keys` begins."""
        member = self._member()
        if member is None:
            return None
        await member.link.first_try()
        return member.begin(keys)

    async def close(self) -> None:
        self.closed = True
        here = self.members.pop(asyncio.get_running_loop(), None)
        others, self.members = self.members, {}
        for member in others.values():
            member.link.abandon()
        if here is not None:
            await here.close()

    def _member(self) -> Member | None:
        loop = asyncio.get_running_loop()
        member = self.members.get(loop)
        if member is None and not self.closed:
            for ended in [other for other in self.members.copy() if other.is_closed()]:
                self.members.pop(ended, None)
            member = self.members[loop] = Member(self)
        return member

    def count_hit(self) -> None:
        with self._lock:
            self.remote_hits += 1

    def count_damaged(self) -> None:
        with self._lock:
            self.remote_damaged += 1

    def flush(self) -> None:
        """Forget the first level: messages may be missing."""
        self.cache.drop({None})

    def lost(self) -> None:
        """A session ended."""
        with self._lock:
            self.flush()
            if not self.connected:
                self._give_up(list(self._remote))

    def began(self, token: str, keys: Keys) -> None:
        """A write of another process began, or goes on."""
        with self._lock:
            if token not in self._remote:
                self.cache.begin_write(keys)
            self._remote[token] = (keys, time.monotonic() + WRITER_SECONDS)

    def ended(self, token: str, keys: Keys, undetermined: Collection[str | None]) -> None:
        """A write of another process ended."""
        with self._lock:
            if token not in self._remote:
                self.cache.begin_write(keys)
            self._remote.pop(token, None)
            self.cache.end_write(keys, undetermined)

    def expire(self) -> None:
        """End the writes of other processes that are overdue."""
        if self._remote:
            with self._lock:
                now = time.monotonic()
                self._give_up([token for token, (_, until) in self._remote.items() if until <= now])

    def _give_up(self, tokens: Iterable[str]) -> None:
        """End writes of other processes without knowing their outcome."""
        for token in tokens:
            keys, _ = self._remote.pop(token)
            self.cache.end_write(keys, keys)


class Member:
    """The part of one event loop: its link to Redis, and its writes that Redis has to hear of."""

    def __init__(self, level: SharedLevel) -> None:
        self._level = level
        self._options = level.options
        self._channel = f"{level.options.namespace}:{FORMAT}"
        self._writes: set[SharedWrite] = set()  # in flight, or ended and not confirmed yet
        self._unconfirmed = 0  # keys of those that ended
        # There were too many to keep: all keys have to be told, and whether one of them is undetermined.
        self._forget_all = self._forget_all_undetermined = False
        self._tokens = 0
        self.link: Link = level.options.link(self, self._channel, SCRIPTS)

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
        asked = session.run("lease", [lease, writers, everything, generation_key], token, LEASE_MILLISECONDS)
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
                left = min(self._level.ttl, LONGEST_TTL) - (session.latest_time() - read)
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
            left -= 1
            outcome = reply.result()
            if isinstance(outcome, Exception):
                # A session that failed is followed by one in which all is told again.
                session.fail(outcome)
            elif ended and not left:
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
        milliseconds = int(WRITER_SECONDS * 1000)
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
