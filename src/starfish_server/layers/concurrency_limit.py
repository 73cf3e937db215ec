"""`ConcurrencyLimit`: a limit on operations in flight, with a bounded queue."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from starfish_server.checks import positive_int
from starfish_server.errors import StoreOverloadedError
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.streams import around_chunks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["ConcurrencyLimit"]


class ConcurrencyLimit(Layer):
    """Lets `max_in_flight` operations run concurrently; others wait for a permit, first come, first served.

    Stands inside `Retry`, so that no permit is held during back-off and a refusal is retried, and outside
    `Timeout`, so that waiting does not count as the backend's time.

    A reader holds a permit while it fetches a chunk, not between chunks; an upload holds one to its end.

    max_in_flight: operations in flight per event loop, 64 by default.
    max_waiting: operations that may wait for a permit; one more raises `StoreOverloadedError` immediately.
        None, the default, for any number; 0 for no waiting.
    """

    slot = Slot.LIMIT
    context_dependent = False

    def __init__(
        self, inner: AbstractObjectStore, *, max_in_flight: int = 64, max_waiting: int | None = None
    ) -> None:
        super().__init__(inner)
        self._max_in_flight = positive_int("max_in_flight", max_in_flight)
        if max_waiting != 0 and max_waiting is not None:
            positive_int("max_waiting", max_waiting)
        self._max_waiting = max_waiting
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate] = WeakKeyDictionary()
        self._latest: _Gate | None = None  # a dictionary look-up would take longer than all else here

    def settings(self) -> dict[str, object]:
        return {"max_in_flight": self._max_in_flight, "max_waiting": self._max_waiting}

    async def perform(self, operation: Operation[T]) -> T:
        result = await self._permitted(operation, lambda: self._inner.perform(operation))
        return around_chunks(result, lambda fetch: self._permitted(operation, fetch))

    async def _permitted(self, operation: Operation[Any], call: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        gate = self._latest
        if gate is None or gate.loop() is not loop:
            gate = self._latest = self._gate_of(loop)
        if not gate.enter():
            if self._max_waiting is not None and len(gate.waiting) >= self._max_waiting:
                reason = f"{self._max_in_flight} operations are in flight and {self._max_waiting} wait"
                raise operation.error(StoreOverloadedError, reason)
            await gate.wait(loop.create_future())
        try:
            return await call()
        finally:
            gate.leave()

    def _gate_of(self, loop: asyncio.AbstractEventLoop) -> _Gate:
        gate = self._gates.get(loop)
        if gate is None:
            gate = self._gates[loop] = _Gate(loop, self._max_in_flight)
        return gate


class _Gate:
    """The permits of one event loop. A returned permit goes straight to the first in line.

    Not an `asyncio.Semaphore`: supported patch releases of Python differ in what happens if a waiter is
    cancelled just as it wakes up.
    """

    __slots__ = ("_free", "loop", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, permits: int) -> None:
        self.loop = ref(loop)
        self._free = permits
        self.waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def enter(self) -> bool:
        """Take a permit if one is free."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self, turn: asyncio.Future[None]) -> None:
        """Wait in line for a permit."""
        self.waiting[turn] = None
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # cancelled after the permit was handed over
            else:
                self.waiting.pop(turn, None)
            raise

    def leave(self) -> None:
        """Hand the permit to the first in line, or put it back."""
        while self.waiting:
            turn, _ = self.waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
