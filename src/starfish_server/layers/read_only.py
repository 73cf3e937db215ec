"""`ReadOnly`: a guard that refuses every write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.errors import ReadOnlyStoreError
from starfish_server.layers.base import Around, Operation, Proceed, Slot, T, Target
from starfish_server.layers.operations import OPERATIONS, describe, key_of

if TYPE_CHECKING:
    from starfish_server.context import StoreContext

__all__ = ["ReadOnly"]


class ReadOnly(Around):
    """Refuses every operation that writes with `ReadOnlyStoreError`, before anything else sees it.

    A guard: outside namespaces and cache, inside audit and tracing, which show what was refused.
    """

    slot = Slot.GUARD
    context_dependent = False

    def supports(self, operation: str) -> bool:
        return not OPERATIONS[operation].writes and super().supports(operation)

    async def around(
        self, operation: Operation, target: Target, context: StoreContext | None, proceed: Proceed[T]
    ) -> T:
        if operation.writes:
            raise ReadOnlyStoreError(
                f"{describe(operation, target)} refused: the store is read-only",
                operation=operation.name,
                key=key_of(target),
            )
        return await proceed()
