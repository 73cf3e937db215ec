"""`Fallback`: reads from a second store while the first is unavailable."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starfish_server.checks import flag
from starfish_server.errors import (
    DeleteManyError,
    StoreUnavailableError,
    is_undetermined,
    mark_undetermined,
)
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.logs import SafeLogger
from starfish_server.operations import OPERATIONS, Bodies

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

_log = SafeLogger(__name__)


class Fallback(Layer):
    """Reads from `backup` while the first store is unavailable. Writes go to the first store alone.

    Stands outside breaker, retries and limits; each store has its own. With a `CircuitBreaker` over the first
    store, reads go to the backup without waiting for the first.

    backup: the second store, such as a replica in another region. This layer does not fill it.
    writes: send writes to the backup while the first store is unavailable; False by default. The write may
        then have been done in both stores; copying it back to the first is up to you. Conditional writes are
        never sent, since the backup has versions of its own, nor are uploads, whose chunks can be read only
        once.

    Only a `StoreUnavailableError` of the first store leads to the backup; for `delete_many`, also one for
    each key that failed. A miss, a denial or a conflict is returned or raised. A stream that has begun does
    not switch stores. An error of the backup is raised, with the error of the first store as its
    `__context__`; an object missing from the backup is a miss. `signed_url` signs for the first store only.

    The note `source` says which store was used: "primary" or "backup".
    """

    slot = Slot.REDUNDANCY
    context_dependent = False

    def __init__(
        self, inner: AbstractObjectStore, backup: AbstractObjectStore, *, writes: bool = False
    ) -> None:
        super().__init__(inner, backup)
        self._backup = backup
        self._writes = flag("writes", writes)

    def settings(self) -> dict[str, object]:
        return {"writes": True} if self._writes else {}

    def supports(self, operation: str) -> bool:
        kind = OPERATIONS.get(operation)  # None for "conditional_write"
        if kind is None or (kind.writes and not self._writes) or operation in ("signed_url", "upload"):
            return self._inner.supports(operation)
        return super().supports(operation)

    async def perform(self, operation: Operation[T]) -> T:
        try:
            result = await self._inner.perform(operation)
        except (StoreUnavailableError, DeleteManyError) as error:
            if not self._may_use_backup(operation) or not _is_outage(error):
                raise
            message = "%(operation)s: the backup is used: %(failure)s"
            _log.failure(logging.DEBUG, message, error, operation=operation.name)
            operation.note("source", "backup")
            try:
                return await self._backup.perform(operation)
            except Exception as failure:
                if is_undetermined(error):  # the first store may have done the write
                    many = failure.failures.values() if isinstance(failure, DeleteManyError) else [failure]
                    for each in many:
                        mark_undetermined(each)
                raise
        if operation.notes is not None:
            operation.notes["source"] = "primary"
        return result

    def _may_use_backup(self, operation: Operation[Any]) -> bool:
        if operation.bodies is Bodies.URL:
            return False
        return not operation.writes or (self._writes and operation.idempotent)


def _is_outage(error: StoreUnavailableError | DeleteManyError) -> bool:
    failures = error.failures.values() if isinstance(error, DeleteManyError) else [error]
    return all(isinstance(failure, StoreUnavailableError) for failure in failures)
