"""`Deadlines`: a time limit for each of many operations, with one timer for all of them."""

from __future__ import annotations

import asyncio
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakKeyDictionary, ref

from starfish_server.errors import StoreTimeoutError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator
    from types import TracebackType

    from starfish_server.operations import Operation
    from starfish_server.storage.base import AbstractObjectStore

T = TypeVar("T")

DEADLINE_PASSED = "the deadline of the operation has passed"
"""The message of the `CancelledError` that ends an operation at its deadline."""


class Deadlines:
    """Ends operations that run longer than `seconds` with `StoreTimeoutError` and the text `reason`.

    Every operation gets the same time, so the oldest one always ends first, and one timer for it is enough.
    asyncio's own timeout costs several microseconds for each operation.

    Use `await deadlines.run(operation, store)`, or `with deadlines.limit(operation): ...` around the code
    that awaits. Each event loop has its own timer.
    """

    def __init__(self, seconds: float, reason: str) -> None:
        self.seconds = seconds
        self.reason = reason
        self._clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Clock] = WeakKeyDictionary()
        self._latest: _Clock | None = None  # a dictionary look-up would take longer than all else here

    async def run(self, operation: Operation[T], store: AbstractObjectStore) -> T:
        """Perform `operation` in `store`. Its time begins when it first waits.

        An operation that never waits, such as a read of a cached file, needs neither a timer nor a clock.
        """
        performing = store.perform(operation)
        if type(performing) is not CoroutineType:  # another awaitable, such as a task
            with self.limit(operation):
                return await performing
        try:
            waits_for = performing.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the coroutine returned
        with self.limit(operation):
            return await rest_of(performing, waits_for)

    def limit(self, operation: Operation[Any]) -> Deadline:
        """Start the time limit of `operation`, which the current task performs."""
        loop = asyncio.get_running_loop()
        clock = self._latest
        if clock is None or clock.loop() is not loop:
            clock = self._latest = self._clocks.setdefault(loop, _Clock(loop))
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a time limit needs a task: await the operation in one")
        deadline = Deadline()  # filled in here, since an __init__ would take as long as all the rest
        deadline.at = loop.time() + self.seconds
        deadline.task = task
        deadline.cancelling = task.cancelling()
        deadline.limits = self
        deadline.operation = operation
        deadline.in_flight = in_flight = clock.in_flight
        in_flight[deadline] = None
        if clock.timer is None:
            clock.start(loop)
        return deadline


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
            deadline.in_flight = None
            deadline.task.cancel(DEADLINE_PASSED)


class Deadline:
    """The time limit of one operation: a context manager that raises `StoreTimeoutError` once it expires.

    in_flight: the limits of the event loop, with this one among them; None once it has expired.
    cancelling: how many requests to cancel the task were pending at the start.
    """

    __slots__ = ("at", "cancelling", "in_flight", "limits", "operation", "task")

    at: float
    cancelling: int
    in_flight: dict[Deadline, None] | None
    limits: Deadlines
    operation: Operation[Any]
    task: asyncio.Task[Any]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.in_flight is not None:
            del self.in_flight[self]
        elif self.task.uncancel() <= self.cancelling:
            if isinstance(error, asyncio.CancelledError):
                raise self.operation.error(StoreTimeoutError, self.limits.reason) from error
        elif error is not None and error.args == (DEADLINE_PASSED,):
            error.args = ()  # the task was cancelled from outside as well, so this is no time-out


@coroutine
def rest_of(begun: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Await the rest of a coroutine that this task began with `send(None)`, which returned `waits_for`."""
    while True:
        try:
            yield waits_for
        except BaseException as error:  # noqa: BLE001 - passed to the coroutine
            thrown = error
        else:
            return (yield from begun.__await__())
        try:
            waits_for = begun.throw(thrown)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # what the coroutine returned
        finally:
            del thrown  # its traceback refers to this frame
