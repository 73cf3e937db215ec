"""`Hedge`: a second attempt at reads that take longer than most."""

from __future__ import annotations

import asyncio
import math
import re
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starfish_server.checks import positive_number
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.logs import SafeLogger
from starfish_server.objects import ObjectReader
from starfish_server.operations import OPERATIONS, Bodies

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starfish_server.storage.base import AbstractObjectStore

_log = SafeLogger(__name__)
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")
_FASTEST = 0.0001  # seconds; a second attempt cannot overtake a faster read
_GRACE = 0.1  # seconds that a cancelled attempt gets to end


class Hedge(Layer):
    """Sends a read a second time if it takes unusually long, and uses the first result.

    Stands outside breaker, retries and limits, so that both attempts pass them. Never sends a write twice.

    delay: seconds after which the second attempt begins, or a percentile such as "p95" (default) or "p99.9"
        of the times of recent successes of the same operation. No read is hedged until 20 times are known,
        nor while the percentile is under 0.1 ms, since a second attempt could not overtake the first.
    budget: second attempts per read, over 0 and at most 1; 0.05 by default, so that the backend gets at most
        5% more reads. At most one is saved up, so that an outage does not begin with a full budget.
    clock: returns monotonic seconds, `time.monotonic` by default. The event loop times the delay itself.

    The first success is the result; the other attempt is cancelled and awaited. An attempt that ignores its
    cancellation for 0.1 seconds is logged and left to end in the background. If one attempt fails, the result
    is the other's; if both fail, the first one's error is raised. A read that fails before the delay has
    passed is not sent again: that is the task of `Retry`.

    A stream is hedged until it opens; its chunks are not. The note `hedged` marks reads that were sent twice.
    """

    slot = Slot.REDUNDANCY
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        delay: float | str = "p95",
        budget: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        if positive_number("budget", budget) > 1:
            raise ValueError(f"budget must be at most 1, not {budget}")
        self._delay = delay
        self._budget = budget
        self._price = 1 / budget  # reads that pay for one second attempt
        self._saved = 0.0  # reads not spent yet, up to about that price
        self._clock = clock
        self._endings: set[asyncio.Task[None]] = set()
        reads = [kind for kind in OPERATIONS.values() if not kind.writes and kind.bodies is not Bodies.URL]
        self._delays = {kind.name: _Delay(delay) for kind in reads}

    def settings(self) -> dict[str, object]:
        return {"delay": self._delay, "budget": self._budget}

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        delay = self._delays.get(operation.name)
        return self._inner.perform(operation) if delay is None else self._timed(operation, delay)

    async def _timed(self, operation: Operation[T], delay: _Delay) -> T:
        if self._saved < self._price:
            self._saved += 1
        began = self._clock()
        if delay.seconds is None:
            result = await self._inner.perform(operation)
        else:
            result = await self._hedged(operation, delay.seconds)
        delay.add(self._clock() - began)
        return result

    async def _hedged(self, operation: Operation[T], delay: float) -> T:
        attempts = [_start(self._attempt(operation))]
        second = operation
        try:
            if not attempts[0].done():
                await asyncio.wait(attempts, timeout=delay)
            if not attempts[0].done() and self._saved >= self._price:
                self._saved -= self._price
                operation.note("hedged", True)
                fields = {"operation": operation.name, "delay": delay}
                message = "%(operation)s: no result after %(delay).3f s, a second attempt begins"
                _log.debug(message, fields, extra=fields)
                second = operation.replace(notes={})  # notes of the slower attempt must not show
                attempts.append(_start(self._attempt(second)))
                await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
            if not any(map(_succeeded, attempts)):
                await asyncio.wait(attempts)
            winner = next(filter(_succeeded, attempts), attempts[0])
            await self._end([task for task in attempts if task is not winner])
        except asyncio.CancelledError as error:
            await self._end(attempts, *error.args)
            raise
        if operation.notes is not None and winner is not attempts[0]:
            operation.notes.update(second.notes or {})
        try:
            return winner.result()
        finally:
            del winner, attempts  # break the cycle between an error and this frame

    async def _attempt(self, operation: Operation[T]) -> T:
        return await self._inner.perform(operation)

    async def _end(self, losers: list[asyncio.Task[Any]], *message: object) -> None:
        """Cancel attempts and wait until they have ended, for at most `_GRACE` seconds."""
        for loser in losers:
            loser.cancel(*message)
        endings = {asyncio.create_task(_discard(loser)) for loser in losers}
        self._endings |= endings
        for ending in endings:
            ending.add_done_callback(self._endings.discard)
        if endings and (await asyncio.wait(endings, timeout=_GRACE))[1]:
            _log.warning("an attempt ignores its cancellation; it is left to end by itself")


def _start(attempt: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run an attempt in a task, eagerly where Python can, so that one that never waits ends in this call."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(attempt, loop=asyncio.get_running_loop(), eager_start=True)
    return asyncio.create_task(attempt)


def _succeeded(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _discard(task: asyncio.Task[Any]) -> None:
    """Wait for a cancelled attempt, and close the reader that it may still have opened."""
    await asyncio.wait([task])
    if _succeeded(task) and isinstance(reader := task.result(), ObjectReader):
        with suppress(Exception):
            await reader.aclose()


class _Delay:
    """The delay of one operation: fixed, or a percentile of recent times; None if unknown."""

    def __init__(self, delay: float | str) -> None:
        self.seconds: float | None = None
        self._part: float | None = None
        self._times: list[float] = []
        self._window = 20
        if not isinstance(delay, str):
            self.seconds = positive_number("delay", delay)
        elif (match := _PERCENTILE.fullmatch(delay)) and float(match[1]) > 0:
            self._part = float(match[1]) / 100
        else:
            raise ValueError(f'delay is a number of seconds or a percentile such as "p95", not {delay!r}')

    def add(self, seconds: float) -> None:
        """Add the time of a success."""
        if self._part is None:
            return
        self._times.append(seconds)
        if len(self._times) >= self._window:
            times, self._times, self._window = sorted(self._times), [], 100
            percentile = times[math.ceil(self._part * len(times)) - 1]
            self.seconds = percentile if percentile >= _FASTEST else None
