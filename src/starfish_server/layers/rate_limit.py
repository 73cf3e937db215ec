"""`RateLimit`: a limit on operations per second for each caller."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from starfish_server.checks import positive_int, positive_number
from starfish_server.errors import StoreOverloadedError
from starfish_server.forks import reset_in_child
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.fields import context_field
from starfish_server.redis import check_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.redis.limits import RedisLimits
    from starfish_server.storage.base import AbstractObjectStore

_CALLERS = 100_000
_ROUNDING = 1e-6  # seconds; a caller that waits exactly `retry_after` must not be refused again


class RateLimit(Layer):
    """Lets each caller perform `rate` operations per second, with bursts of up to `burst`.

    A guard: stands outside namespaces and cache, so that hits count too. More operations raise
    `StoreOverloadedError`; `retry_after` is the time until the next one may pass, in seconds.

    rate: operations per second, any number over 0.
    burst: operations that may pass immediately after a pause, 1 or more.
    by: the field of the context that tells callers apart: "identity" (default), "namespace", "collection" or
        `"params.<name>"`. Operations without a context or without that field share one limit.
    max_wait: seconds that an operation may wait for its turn instead of being refused; 0.0, the default, for
        no waiting.
    shared: a `RedisLimits`, where all processes count together; None, the default, for each process by
        itself. Each operation then asks Redis, and if Redis does not reply, this process decides alone. An
        operation that is cancelled before the reply may have taken a turn, which counts.
    clock: returns monotonic seconds, `time.monotonic` by default; not for `shared`, where the time is that of
        Redis.

    The algorithm is GCRA: it stores one number per caller, the time at which the full burst is available
    again. The table holds 100,000 callers that have used part of their burst. None of them is evicted for
    another, so invented names do not reset a limit; while the table is full, all new callers share one limit.
    An operation counts once, however many keys or chunks it has.
    """

    slot = Slot.GUARD
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        rate: float,
        burst: int,
        by: str = "identity",
        max_wait: float = 0.0,
        shared: RedisLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._rate = positive_number("rate", rate)
        self._burst = positive_int("burst", burst)
        self._by = by
        self._max_wait = 0.0 if max_wait == 0 else positive_number("max_wait", max_wait)
        self._longest_wait = self._max_wait + _ROUNDING
        self._field = context_field(by)
        self._clock = clock
        self._interval = 1 / self._rate
        self._slack = (burst - 1) * self._interval
        self._settings: dict[str, object] = {"rate": self._rate, "burst": burst, "by": by}
        if self._max_wait:
            self._settings["max_wait"] = self._max_wait
        if shared is not None:
            check_limits(shared)
            self._settings["shared"] = shared
        self._shared = shared
        # When each caller's burst is full again, by the hash of the name: long names take no memory.
        self._whole_at: OrderedDict[int | None, float] = OrderedDict()
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Take a new lock: in a forked child, a thread of the parent may hold the old one."""
        # Reentrant: the garbage collector may end an operation that waits, anywhere.
        self._lock = threading.RLock()

    def settings(self) -> dict[str, object]:
        return dict(self._settings)

    async def close(self) -> None:
        shared, self._shared = self._shared, None
        try:
            await super().close()
        finally:
            if shared is not None:
                await shared.close()

    async def perform(self, operation: Operation[T]) -> T:
        context = operation.context
        caller = None if context is None else self._field(context)
        turn = None
        if self._shared is not None:
            turn = await self._shared.take_turn(caller, self._rate, self._burst, self._by, self._max_wait)
        if turn is not None:
            wait, give_back = turn
        else:
            give_back = None
            name: int | None = hash(caller)
            now = self._clock()
            with self._lock:  # not in a method of its own, which would make this layer a tenth slower
                whole_at = self._whole_at.get(name)
                if whole_at is None:
                    name = self._make_room(name, now)
                    whole_at = self._whole_at.get(name, now)
                if whole_at < now:
                    whole_at = now
                wait = whole_at - now - self._slack
                if wait <= self._longest_wait:
                    self._whole_at[name] = whole_at = whole_at + self._interval
                    if wait > _ROUNDING:
                        give_back = partial(self._give_back, name, whole_at)
        if wait > _ROUNDING:
            if give_back is None:
                reason = f"over {self._rate:g} operations a second for one {self._by}"
                error = operation.error(StoreOverloadedError, reason, retry_after=wait)
                error.undetermined = False
                raise error
            try:
                await asyncio.sleep(wait)
            except BaseException:
                give_back()
                raise
        return await self._inner.perform(operation)

    def _give_back(self, name: int | None, whole_at: float) -> None:
        """Give a turn back, unless others wait behind it: two would then have the same turn."""
        with self._lock:
            if self._whole_at.get(name) == whole_at:
                self._whole_at[name] = whole_at - self._interval

    def _make_room(self, name: int | None, now: float) -> int | None:
        """Drop callers with a full burst; return `name`, or None, the shared limit, if there is no room."""
        table = self._whole_at
        for _ in range(min(len(table), 2 if len(table) < _CALLERS else 64)):
            other, whole_at = table.popitem(last=False)
            if whole_at > now:
                table[other] = whole_at  # at the end, so that the others are examined first
        return name if len(table) < _CALLERS else None
