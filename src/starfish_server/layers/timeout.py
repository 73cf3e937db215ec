"""`Timeout`: a limit on how long each operation may take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starfish_server.checks import positive_number
from starfish_server.errors import StoreTimeoutError
from starfish_server.layers.base import Around, Operation, Proceed, Slot, T, Target
from starfish_server.layers.operations import describe, key_of
from starfish_server.storage.base import AbstractObjectStore, operation_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.context import StoreContext

__all__ = ["Timeout"]


class Timeout(Around):
    """Cancels an operation that takes longer than `seconds` and raises `StoreTimeoutError`.

    Stands inside `Retry`, so that each attempt has its own limit and a cut one is tried again, and inside
    `ConcurrencyLimit`, so that waiting for a turn does not count. A write that was cut may have been done.

    seconds: limit of every operation, 10.0 by default.
    operations: other limits in seconds by operation name, as in `{"list_keys": 60.0}`; None for no limit.

    A timeout that the store inside raises by itself passes as it is. `ValueError` for a limit that is not
    over 0 and for an operation that does not exist.
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
        names = operation_names()
        for name, limit in self._operations.items():
            if name not in names:
                raise ValueError(f"operations: there is no operation {name!r}, only {', '.join(names)}")
            if limit is not None:
                positive_number(f"operations[{name!r}]", limit)
        self._limits = {name: self._operations.get(name, seconds) for name in names}

    def settings(self) -> dict[str, object]:
        shown: dict[str, object] = {"seconds": self._seconds}
        return shown | {"operations": self._operations} if self._operations else shown

    async def around(
        self, operation: Operation, target: Target, context: StoreContext | None, proceed: Proceed[T]
    ) -> T:
        limit = self._limits[operation.name]
        inner_error: TimeoutError | None = None
        try:
            async with asyncio.timeout(limit):
                try:
                    return await proceed()
                except TimeoutError as error:
                    inner_error = error
                    raise
        except TimeoutError as error:
            if error is inner_error:
                raise
            raise StoreTimeoutError(
                f"{describe(operation, target)} took longer than {limit:g} s",
                operation=operation.name,
                key=key_of(target),
            ) from error
