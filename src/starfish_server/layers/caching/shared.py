"""`SharedLevel`: the second level of `Caching`, in Redis, and what keeps the first levels coherent."""

from __future__ import annotations

import itertools
import math
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from starfish_server.errors import StackError
from starfish_server.forks import reset_in_child
from starfish_server.layers.base import Layer, Slot, stores_of
from starfish_server.layers.caching import protocol
from starfish_server.layers.caching.member import Member, SharedWrite
from starfish_server.layers.caching.redis import RedisCache
from starfish_server.redis.link import PerLoop
from starfish_server.redis.session import RedisDownError

if TYPE_CHECKING:
    from collections.abc import Collection

    from starfish_server.layers.caching.cache import Cache, Keys
    from starfish_server.layers.caching.entries import Subject
    from starfish_server.operations import Operation
    from starfish_server.storage.base import AbstractObjectStore

MAX_UNCONFIRMED_KEYS = 10_000
MAX_REMOTE_KEYS = 1_000_000  # of writes in flight; more end the session


class SharedLevel:
    """The second level of one `Caching` layer, for all its event loops and threads.

    Reads go through `read`, which asks Redis and then `inner`; writes through `open_write`. Each event
    loop has a `Member`, which talks to Redis. Raises `StackError` if bodies that are encrypted inside would
    be plain in Redis.
    """

    def __init__(self, shared: RedisCache, cache: Cache, inner: AbstractObjectStore, ttl: float) -> None:
        if not isinstance(shared, RedisCache):
            raise TypeError(f"shared must be a RedisCache, not {type(shared).__name__}")
        encrypts = any(isinstance(part, Layer) and part.slot is Slot.ENCRYPTION for part in stores_of(inner))
        if encrypts and not shared.sealed:
            raise StackError(
                "Caching(shared=RedisCache(...)) outside Encryption would put plain objects into Redis: give"
                " RedisCache a secret=, which seals them"
            )
        self.options = shared
        self.cache = cache
        self.inner = inner
        self.ttl = ttl
        self._closed = False
        self._members = PerLoop(lambda: Member(self))
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Start as a new process, with another name."""
        self.client = secrets.token_hex(8)
        self.remote = RemoteWrites(self.cache)
        self._tokens = itertools.count()
        self._unconfirmed: set[SharedWrite] = set()  # ended, and Redis may not know
        self._unconfirmed_keys = 0
        self._lock = threading.RLock()  # reentrant: the garbage collector may end a write anywhere

    def trusted(self, subject: Subject) -> bool:
        """Return whether the first level has missed no message that is older than `max_delay`.

        If it has, its entries may be outdated, and in-flight reads of the subject that began earlier than
        that are no longer shared.
        """
        member = self._members.get()
        if member is None:
            return False  # the first read through Redis makes one
        session = member.session
        if session is None or session.has_heard_all(self.options.max_delay):
            return True
        self.cache.unshare(subject, self.options.max_delay)
        return False

    @property
    def connected(self) -> bool:
        return any(member.session is not None for member in self._members)

    async def read(self, operation: Operation[Any]) -> Any:
        """Return the result of a read, from Redis if it is there; `Aged` if that limits its caching."""
        if self._closed:
            return await self.inner.perform(operation)
        return await self._members.get_or_make().read(operation)

    async def open_write(self, keys: Keys) -> SharedWrite | None:
        """Announce to the other processes that a write of `keys` begins."""
        return None if self._closed else await self._members.get_or_make().begin(keys)

    def token(self) -> str:
        """Return a name for a write or a lease, unique among all processes."""
        return f"{self.client}-{next(self._tokens)}"

    def ended(self, write: SharedWrite, *, merge: bool) -> None:
        """Keep an ended write until Redis has confirmed it; `merge` many into one if that may take long."""
        with self._lock:
            self._unconfirmed.add(write)
            self._unconfirmed_keys += write.size
            if merge and self._unconfirmed_keys > MAX_UNCONFIRMED_KEYS:
                undetermined: Keys = {None} if any(each.ended for each in self._unconfirmed) else set()
                merged = SharedWrite(write.member, {self.token(): [None]}, 0.0, ended=undetermined)
                self._unconfirmed, self._unconfirmed_keys = {merged}, merged.size

    def confirmed(self, write: SharedWrite) -> None:
        with self._lock:
            if write in self._unconfirmed:
                self._unconfirmed.remove(write)
                self._unconfirmed_keys -= write.size

    def unconfirmed(self) -> list[SharedWrite]:
        with self._lock:
            return list(self._unconfirmed)

    def is_unconfirmed_elsewhere(self, member: Member) -> bool:
        """Return whether Redis may have an entry that another event loop of this process has replaced."""
        return bool(self._unconfirmed) and any(write.member is not member for write in self.unconfirmed())

    async def close(self) -> None:
        self._closed = True
        await self._members.close()


class RemoteWrites:
    """The writes in flight in other processes. The first level treats each like a write of this process.

    Every event loop of this process hears of them, in any order.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._writes: dict[str, tuple[Keys, float]] = {}  # by token: the keys, and when it is overdue
        self._size = 0
        self._lock = threading.RLock()  # reentrant: the garbage collector may end a session anywhere

    def began(self, token: str, keys: Keys) -> None:
        """Handle the message that a write has begun or is still in flight."""
        with self._lock:
            if token in self._writes:
                keys, _ = self._writes[token]
            else:
                if self._size + len(keys) > MAX_REMOTE_KEYS:
                    raise RedisDownError("too many writes of other processes are in flight")
                self._size += len(keys)
                self._cache.begin_write(keys)
            self._writes[token] = (keys, time.monotonic() + protocol.WRITER_SECONDS)

    def ended(self, token: str, keys: Keys, undetermined: Collection[str | None]) -> None:
        """Handle the message that a write ended."""
        with self._lock:
            self.began(token, keys)
            self._end(token, undetermined)

    def give_up(self, now: float = math.inf) -> None:
        """End the writes that are overdue, by default all: their outcome is undetermined."""
        with self._lock:
            for token, (keys, until) in [*self._writes.items()]:
                if until <= now:
                    self._end(token, keys)

    def _end(self, token: str, undetermined: Collection[str | None]) -> None:
        keys, _ = self._writes.pop(token)
        self._size -= len(keys)
        self._cache.end_write(keys, undetermined)
