"""`Timeout`: a limit on how long each operation may take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from starfish_server.checks import positive_number
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.deadline import Deadlines
from starfish_server.layers.streams import around_chunks
from starfish_server.operations import OPERATIONS, Bodies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starfish_server.storage.base import AbstractObjectStore, Result

R = TypeVar("R")
_READER = Bodies.READER  # a look-up in an Enum takes long on 3.11


class Timeout(Layer):
    """Cancels an operation that takes longer than `seconds` and raises `StoreTimeoutError`.

    The limit of `open` covers opening, then each chunk, and closing the reader. `upload` has no limit unless
    `operations` gives one, since its chunks may come slowly.

    Stands inside `Retry`, so that each attempt has its own limit and a timeout is retried, and inside
    `ConcurrencyLimit`, so that waiting for a permit does not count. A write that timed out may have been
    done.

    seconds: limit of every operation, 10.0 by default.
    operations: other limits in seconds by operation name, as in `{"list_keys": 60.0}`; None for no limit.

    A timeout raised by the store inside passes unchanged. Raises `ValueError` for a limit that is not over 0
    and for an operation that does not exist.
    """

    slot = Slot.TIMEOUT
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        seconds: float = 10.0,
        operations: Mapping[str, float | None] | None = None,
    ) -> None:
        super().__init__(inner)
        self._seconds = positive_number("seconds", seconds)
        self._operations = dict(operations or {})
        if unknown := sorted(self._operations.keys() - OPERATIONS.keys()):
            raise ValueError(
                f"operations: there is no operation {unknown[0]!r}, only {', '.join(OPERATIONS)}"
            )
        limits = dict.fromkeys(OPERATIONS, seconds) | {"upload": None} | self._operations
        self._default = self._limit(self._seconds)  # for operations that are added later
        self._limits = {name: self._limit(limit) for name, limit in limits.items()}

    @staticmethod
    def _limit(seconds: float | None) -> Deadlines | None:
        if seconds is None or positive_number("operations", seconds) == math.inf:
            return None
        return Deadlines(seconds, f"took longer than {seconds:g} s")

    def settings(self) -> dict[str, object]:
        shown: dict[str, object] = {"seconds": self._seconds}
        return shown | {"operations": dict(self._operations)} if self._operations else shown

    def perform(self, operation: Operation[T]) -> Result[T]:
        limit = self._limits.get(operation.name, self._default)
        if limit is None:
            return self._inner.perform(operation)
        if operation.bodies is _READER:
            return self._stream(operation, limit)
        return limit.run(operation, self._inner)

    async def _stream(self, operation: Operation[T], limit: Deadlines) -> T:
        async def limited(step: Callable[[], Awaitable[R]]) -> R:
            with limit.limit(operation):
                return await step()

        return around_chunks(await limit.run(operation, self._inner), limited, limited)
