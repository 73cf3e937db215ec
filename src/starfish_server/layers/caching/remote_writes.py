"""`RemoteWrites`: the writes of other processes, as one event loop hears of them."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from starfish_server.layers.caching import protocol
from starfish_server.redis.session import RedisDownError

if TYPE_CHECKING:
    from collections.abc import Collection

    from starfish_server.layers.caching.cache import Cache, Keys

MAX_REMOTE_KEYS = 1_000_000  # of writes in flight; more end the session


class RemoteWrites:
    """Writes of other processes in flight: for the first level, each is a write of its own process."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._writes: dict[str, tuple[Keys, float]] = {}  # by token: the keys, and when it is overdue
        self._size = 0

    def began(self, token: str, keys: Keys) -> None:
        """Handle the message that a write has begun or is still in flight."""
        if token in self._writes:
            keys, _ = self._writes[token]
        else:
            if self._size + len(keys) > MAX_REMOTE_KEYS:
                raise RedisDownError("it tells of too many writes")
            self._size += len(keys)
            self._cache.begin_write(keys)
        self._writes[token] = (keys, time.monotonic() + protocol.WRITER_SECONDS)

    def ended(self, token: str, keys: Keys, undetermined: Collection[str | None]) -> None:
        """Handle the message that a write ended."""
        self.began(token, keys)
        self._end(token, undetermined)

    def give_up(self, now: float = math.inf) -> None:
        """End the writes that are overdue, by default all: their outcome is undetermined."""
        for token, (keys, until) in [*self._writes.items()]:
            if until <= now:
                self._end(token, keys)

    def _end(self, token: str, undetermined: Collection[str | None]) -> None:
        keys, _ = self._writes.pop(token)
        self._size -= len(keys)
        self._cache.end_write(keys, undetermined)
