"""`ReadOnly`: a guard that refuses every write."""

from __future__ import annotations

from starfish_server.errors import ReadOnlyStoreError
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.operations import OPERATIONS


class ReadOnly(Layer):
    """Refuses every operation that writes with `ReadOnlyStoreError`, before anything inside sees it.

    That includes a `signed_url` for writing.

    A guard: stands outside namespaces and cache, and inside audit and tracing, so that refusals are recorded.
    """

    slot = Slot.GUARD
    context_dependent = False

    def supports(self, operation: str) -> bool:
        writes = operation == "conditional_write" or OPERATIONS[operation].writes
        return not writes and super().supports(operation)

    async def perform(self, operation: Operation[T]) -> T:
        if operation.writes:
            raise operation.error(ReadOnlyStoreError, "the store is read-only")
        return await self._inner.perform(operation)
