"""`SharedLevel`: the second level of `Caching`, in Redis, and what keeps the first levels coherent."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any

from starfish_server.errors import StackError
from starfish_server.forks import reset_in_child
from starfish_server.layers.base import Layer, Slot, stores_of
from starfish_server.layers.caching.member import Member
from starfish_server.layers.caching.redis import RedisCache
from starfish_server.redis.link import PerLoop

if TYPE_CHECKING:
    from starfish_server.layers.caching.cache import Cache, Keys
    from starfish_server.layers.caching.entries import Subject
    from starfish_server.layers.caching.member import SharedWrite
    from starfish_server.operations import Operation
    from starfish_server.storage.base import AbstractObjectStore


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
        self.counts = {"remote_hits": 0, "remote_damaged": 0}
        self._lock = threading.Lock()

    def trusted(self, subject: Subject) -> bool:
        """Return whether what the first level has may be returned.

        If not, a read of the subject that began too long ago is not shared either.
        """
        member = self._members.get()
        if member is None:
            return False  # the first read through Redis makes one
        session = member.link.session
        if session is None or session.heard_all_until(self.options.max_delay):
            return True
        self.cache.unshare(subject, self.options.max_delay)
        return False

    @property
    def connected(self) -> bool:
        return any(member.link.session is not None for member in self._members)

    async def read(self, operation: Operation[Any]) -> Any:
        """Return the result of a read, from Redis if it has it; `Aged` for one that may be cached."""
        if self._closed:
            return await self.inner.perform(operation)
        return await self._members.get_or_make().read(operation)

    async def open_write(self, keys: Keys) -> SharedWrite | None:
        """Tell the other processes that a write of `keys` begins."""
        return None if self._closed else await self._members.get_or_make().begin(keys)

    async def close(self) -> None:
        self._closed = True
        await self._members.close()

    def count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1
