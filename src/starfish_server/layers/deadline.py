"""`Deadlines`: a time limit for each of many operations, with one timer for all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from starfish_server.errors import StoreTimeoutError

if TYPE_CHECKING:
    from types import TracebackType

    from starfish_server.operations import Operation

__all__ = ["DEADLINE_PASSED", "Deadlines"]

DEADLINE_PASSED = "the deadline of the operation has passed"
"""The message of a `CancelledError` by which an operation is ended at its deadline."""


class Deadlines:
    """Ends operations that run longer than `seconds` with `StoreTimeoutError`; `reason` is its text.

    Every operation gets the same time, so the first one to start is the first one to end. One timer for the
    first is enough then: asyncio's own timeout costs several microseconds for each operation.

    Use as `with deadlines.limit(operation): ...` around the awaiting code. Event loops are kept apart.
    """

    def __init__(self, seconds: float, reason: str) -> None:
        self.seconds = seconds
        self.reason = reason
        self._clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Clock] = WeakKeyDictionary()
        self._latest: _Clock | None = None  # a look into the dictionary takes longer than all else here

    def limit(self, operation: Operation[Any]) -> Deadline:
        """Begin the time of `operation`, which the current task performs."""
        loop = asyncio.get_running_loop()
        clock = self._latest
        if clock is None or clock.loop() is not loop:
            clock = self._clocks.get(loop)
            if clock is None:
                clock = self._clocks[loop] = _Clock(loop)
            self._latest = clock
        return Deadline(self, clock, loop, operation)


class _Clock:
    """The operations in flight of one event loop, in the order of their deadlines, and the timer."""

    __slots__ = ("in_flight", "loop", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = ref(loop)
        self.in_flight: dict[Deadline, None] = {}
        self.timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        first = next(iter(self.in_flight))
        self.timer = loop.call_at(first.at, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timer = None
        now = loop.time()
        for deadline in list(self.in_flight):
            if deadline.at > now:
                self.start(loop)
                return
            del self.in_flight[deadline]
            deadline.expire()


class Deadline:
    """The time of one operation: a context manager that raises `StoreTimeoutError` at its end."""

    __slots__ = ("_cancelling", "_clock", "_expired", "_limits", "_loop", "_operation", "_task", "at")

    def __init__(
        self, limits: Deadlines, clock: _Clock, loop: asyncio.AbstractEventLoop, operation: Operation[Any]
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._loop = loop  # asking for it again takes as long as half of this class
        self._operation = operation
        self._expired = False

    def __enter__(self) -> None:
        loop = self._loop
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit needs a task: await the operation in one")
        self._task = task
        self._cancelling = task.cancelling()
        self.at = loop.time() + self._limits.seconds
        self._clock.in_flight[self] = None
        if self._clock.timer is None:
            self._clock.start(loop)

    def expire(self) -> None:
        self._expired = True
        self._task.cancel(DEADLINE_PASSED)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._expired:
            del self._clock.in_flight[self]
        elif self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise self._operation.error(StoreTimeoutError, self._limits.reason) from error
