"""`ConcurrencyLimit`: a limit on operations under way at once, with a bounded queue."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from starfish_server.checks import positive_int
from starfish_server.errors import StoreOverloadedError
from starfish_server.layers.base import Around, Operation, Proceed, Slot, T, Target
from starfish_server.layers.operations import describe, key_of

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["ConcurrencyLimit"]


class ConcurrencyLimit(Around):
    """Lets `max_in_flight` operations run at once and makes others wait their turn, first come, first served.

    Stands inside `Retry`, so that no permit is held during back-off and a refusal is tried again, and outside
    `Timeout`, so that waiting does not count as the backend's time.

    max_in_flight: operations under way at once, 64 by default. Event loops are counted apart: a store used
        from two threads with a loop each lets through twice as many.
    max_waiting: operations that may wait for their turn; one more raises `StoreOverloadedError` at once.
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
        self._latest: _Gate | None = None  # asking the dictionary takes longer than all else here

    def settings(self) -> dict[str, object]:
        return {"max_in_flight": self._max_in_flight, "max_waiting": self._max_waiting}

    async def around(
        self, operation: Operation, target: Target, context: StoreContext | None, proceed: Proceed[T]
    ) -> T:
        loop = asyncio.get_running_loop()
        gate = self._latest
        if gate is None or gate.loop() is not loop:
            gate = self._latest = self._gate_of(loop)
        if not gate.enter():
            if self._max_waiting is not None and len(gate.waiting) >= self._max_waiting:
                raise StoreOverloadedError(
                    f"{describe(operation, target)} refused: {self._max_in_flight} operations are in flight "
                    f"and {self._max_waiting} wait",
                    operation=operation.name,
                    key=key_of(target),
                )
            await gate.wait(loop.create_future())
        try:
            return await proceed()
        finally:
            gate.leave()

    def _gate_of(self, loop: asyncio.AbstractEventLoop) -> _Gate:
        gate = self._gates.get(loop)
        if gate is None:
            gate = self._gates[loop] = _Gate(loop, self._max_in_flight)
        return gate


class _Gate:
    """The permits of one event loop. One that is left goes straight to the first in line, so none overtakes.

    Not `asyncio.Semaphore`: how it behaves when a waiter is cancelled at the moment of its wake-up differs
    between the patch releases of Python that are supported.
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
