"""`ConcurrencyLimit`: a limit on operations in flight, with a bounded queue."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from starfish_server.checks import positive_int
from starfish_server.chunks import asynchronous
from starfish_server.errors import StoreOverloadedError
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.streams import around_chunks
from starfish_server.operations import Bodies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starfish_server.objects import Fetch
    from starfish_server.storage.base import AbstractObjectStore

_CHUNKS, _READER = Bodies.CHUNKS, Bodies.READER  # a look-up in an Enum takes long on 3.11


class ConcurrencyLimit(Layer):
    """Lets `max_in_flight` operations run concurrently; others wait for a permit, first come, first served.

    Stands inside `Retry`, so that no permit is held during back-off and a refusal is retried, and outside
    `Timeout`, so that waiting does not count as the backend's time.

    A reader holds a permit while it fetches a chunk, not between chunks. An upload holds one except while its
    source makes the next chunk, since the source may read from the same store. To send that chunk, it gets a
    permit before operations that wait to begin, and is never refused.

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
        gate = self._gate()
        if not gate.enter():
            await self._queue(gate, operation)
        if operation.bodies is _CHUNKS and isinstance(operation.chunks, AsyncIterable):
            return await self._upload(operation, gate)
        try:
            result = await self._inner.perform(operation)
        finally:
            gate.leave()
        if operation.bodies is not _READER:
            return result

        async def permitted(fetch: Fetch) -> bytes:
            gate = self._gate()
            if not gate.enter():
                await self._queue(gate, operation)
            try:
                return await fetch()
            finally:
                gate.leave()

        return around_chunks(result, permitted)

    async def _upload(self, operation: Operation[T], gate: _Gate) -> T:
        chunks = _UploadChunks(operation.chunks, gate)  # type: ignore[arg-type]  # they are asynchronous
        try:
            return await self._inner.perform(operation.replace(chunks=chunks))
        finally:
            chunks.end()

    async def _queue(self, gate: _Gate, operation: Operation[Any]) -> None:
        """Wait for a permit, or refuse the operation."""
        if self._max_waiting is not None and len(gate.waiting) >= self._max_waiting:
            reason = f"{self._max_in_flight} operations are in flight and {self._max_waiting} wait"
            error = operation.error(StoreOverloadedError, reason)
            error.undetermined = False
            raise error
        await gate.wait(gate.waiting)

    def _gate(self) -> _Gate:
        loop = asyncio.get_running_loop()
        gate = self._latest
        if gate is None or gate.loop() is not loop:
            gate = self._latest = self._gates.setdefault(loop, _Gate(loop, self._max_in_flight))
        return gate


class _Gate:
    """The permits of one event loop. A returned permit goes straight to the first in line.

    waiting: operations that wait to begin. resuming: uploads with their next chunk, which go first.

    Not an `asyncio.Semaphore`: supported patch releases of Python differ in what happens if a waiter is
    cancelled just as it wakes up.
    """

    __slots__ = ("_free", "loop", "resuming", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, permits: int) -> None:
        self.loop = ref(loop)
        self._free = permits
        self.waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self.resuming: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def enter(self) -> bool:
        """Take a permit if one is free."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self, line: OrderedDict[asyncio.Future[None], None]) -> None:
        """Wait in `line`, one of the two here, for a permit."""
        turn = asyncio.get_running_loop().create_future()
        line[turn] = None
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # cancelled after the permit was handed over
            else:
                line.pop(turn, None)
            raise

    def leave(self) -> None:
        """Hand the permit to the first in line, or put it back."""
        while line := self.resuming or self.waiting:
            turn, _ = line.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class _UploadChunks:
    """The chunks of an upload that has a permit, which is given back while the source makes the next one."""

    def __init__(self, chunks: AsyncIterable[bytes], gate: _Gate) -> None:
        self._chunks = chunks
        self._gate = gate
        self._has_permit = True
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(asynchronous(self._chunks)) as source:
            self._give_back()
            async for chunk in source:
                await self._take()
                yield chunk
                self._give_back()
            await self._take()

    def end(self) -> None:
        """Give the permit back for good."""
        self._ended = True
        self._give_back()

    def _give_back(self) -> None:
        if self._has_permit:
            self._has_permit = False
            self._gate.leave()

    async def _take(self) -> None:
        if not self._gate.enter():
            await self._gate.wait(self._gate.resuming)
        self._has_permit = True
        if self._ended:  # by a store inside that still asks for chunks
            self._give_back()
