"""`Mirror`: sends every write to several stores."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Literal

from starfish_server.checks import check_keys, check_text, positive_int
from starfish_server.errors import (
    DeleteManyError,
    StoreError,
    StoreNotSupportedError,
    StoreUnavailableError,
    is_undetermined,
)
from starfish_server.gather import bounded_gather
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.mirror.key_locks import KeyLocks
from starfish_server.layers.mirror.pending import PendingLog
from starfish_server.layers.mirror.repair import RepairReport, copy_or_delete, repair_object
from starfish_server.logs import SafeLogger
from starfish_server.objects import ANY
from starfish_server.operations import OPERATIONS, Copy, SignedUrl, Upload, Write

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from starfish_server.layers.mirror.pending import Changes, Entry
    from starfish_server.storage.base import AbstractObjectStore

_log = SafeLogger(__name__)


class Mirror(Layer):
    """Writes to the first store and then to every replica, concurrently; reads come from the first.

    Stands outside breaker, retries and limits, since each store has its own, and inside encryption, so that
    replicas hold encrypted bodies. The first store decides conditional writes. Writes of one object through
    this layer run one after another, in all event loops together, so a replica gets them in the order of the
    first store. Writes of other processes are not ordered: if two overlap, a replica may keep the older
    object.

    replicas: the other stores.
    require: "all" (default) raises `StoreUnavailableError` if a replica failed, though the first store has
        the write; "first" only logs it. In both cases the key is pending.
    pending_log: path of a file in which pending keys outlive the process; None (default) keeps them in
        memory. A write cut off by the end of the process is pending after the restart. One process at a time
        uses the file, from its first write until `close()`. In any other process writes and `repair` raise
        `StoreUnavailableError`, and nothing is written.
    clock: returns the time in seconds since 1970, `time.time` by default.

    `pending()` returns what replicas missed, and `repair()` brings them up to date.
    """

    slot = Slot.REDUNDANCY
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *replicas: AbstractObjectStore,
        require: Literal["all", "first"] = "all",
        pending_log: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not replicas:
            raise TypeError("Mirror needs at least one replica")
        if require not in ("all", "first"):
            raise ValueError(f'require is "all" or "first", not {require!r}')
        super().__init__(inner, *replicas)
        self._replicas = dict(enumerate(replicas, 1))
        self._require = require
        self._pending = PendingLog(pending_log, clock)
        self._pending_log = pending_log
        self._locks = KeyLocks()

    def settings(self) -> dict[str, object]:
        shown: dict[str, object] = {"require": self._require, "replicas": len(self._replicas)}
        return shown if self._pending_log is None else shown | {"pending_log": str(self._pending_log)}

    def supports(self, operation: str) -> bool:
        if operation == "conditional_write" or not OPERATIONS[operation].writes:
            return self._inner.supports(operation)
        return super().supports(operation)

    def pending(self) -> set[tuple[int, str]]:
        """Return the writes that replicas may have missed: the number of the replica, from 1, and the key.

        They stay until `repair`, even if the key is written again: a write that timed out may arrive late. It
        is not noticed if it arrives after `repair`, or after a retry inside the replica succeeded.
        """
        return set(self._pending.entries())

    async def perform(self, operation: Operation[T]) -> T:
        asked: Operation[Any] = operation  # not narrowed, so that the result stays a T
        if isinstance(asked, SignedUrl) and asked.method == "PUT":
            raise operation.error(
                StoreNotSupportedError, "a write through a URL would not reach the replicas"
            )
        if not operation.writes:
            return await self._inner.perform(operation)
        # Checked here, since an invalid key would corrupt the pending log.
        keys = check_keys(
            (asked.target,) if isinstance(asked, Copy) else operation.keys,
            lambda key, _: check_text("key", key, operation.name),
        )
        async with self._locks.hold(*keys):
            missed = {(number, key) for number in self._replicas for key in keys}
            previous = self._add(operation, missed)
            try:
                result = await self._inner.perform(operation)
            except Exception as error:
                refused = {entry: previous[entry] for entry in missed if not _may_be_done(error, entry[1])}
                self._pending.change(refused)
                raise
            failures = await self._replicate(operation, keys)
            # An entry of an earlier write stays until `repair`: that write may still arrive after this one.
            done = {entry for entry in missed - failures.keys() if previous[entry] is None}
            self._pending.change(dict.fromkeys(done))
        if failures:
            self._report(operation, failures)
        return result

    async def repair(
        self, *, force: bool = False, concurrency: int = 8, report: RepairReport | None = None
    ) -> RepairReport:
        """Bring every replica up to date with the first store, for the keys that are pending.

        An object that is missing from the first store is deleted from the replica. An object of a replica
        that differs and is newer than the missed write is left alone and reported as ahead, unless `force` is
        True. The error of one key does not end the repair. If it is cancelled, unfinished keys stay pending.

        The time of the replica's object comes from its service and the time of the missed write from this
        machine, so their clocks should agree. If the service reports whole seconds, as S3 does, a write
        within the same second as the missed one is not newer. A replica without times is never ahead.

        concurrency: entries in flight, 8 by default.
        report: filled while the repair runs, and returned; a new one by default.

        Raises `StoreUnavailableError` if another process uses the pending log.
        """
        positive_int("concurrency", concurrency)
        found = RepairReport() if report is None else report
        try:
            self._pending.hold()
        except OSError as error:
            raise StoreUnavailableError(_log_reason(error), operation="repair") from error
        entries = sorted(self._pending.entries())
        await bounded_gather(
            lambda entry: self._repair_entry(entry, force, found), entries, limit=concurrency
        )
        return found

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            self._pending.close()

    def _add(self, operation: Operation[Any], entries: set[Entry]) -> Changes:
        """Add entries to the log before anything is written, or refuse the operation."""
        try:
            return self._pending.add(entries)
        except (StoreError, OSError) as error:
            if isinstance(error, StoreError):
                refused = operation.error(type(error), error.reason)
            else:
                refused = operation.error(StoreUnavailableError, _log_reason(error))
            refused.undetermined = False
            raise refused from error

    async def _repair_entry(self, entry: Entry, force: bool, report: RepairReport) -> None:
        number, key = entry
        async with self._locks.hold(key):
            since = self._pending.since(entry)
            if since is None:
                return
            try:
                replica = self._replicas.get(number)
                if replica is None:
                    raise StoreError(f"the mirror has no replica {number} now", operation="repair", key=key)
                outcome = await repair_object(self._inner, replica, key, since, force=force)
            except Exception as error:  # noqa: BLE001 - reported by key
                report.failed[entry] = error
                return
            getattr(report, outcome).add(entry)
            if outcome != "ahead":
                self._pending.change({entry: None})

    async def _replicate(self, operation: Operation[Any], keys: Iterable[str]) -> dict[Entry, Exception]:
        """Repeat a write of the first store on every replica; return the failures."""
        failures: dict[Entry, Exception] = {}

        async def one(number: int, replica: AbstractObjectStore) -> None:
            try:
                if isinstance(operation, Upload | Copy):
                    for key in keys:
                        await copy_or_delete(self._inner, replica, key, operation.context)
                elif isinstance(operation, Write):
                    await replica.perform(operation.replace(if_version=ANY))
                else:
                    await replica.perform(operation)
            except DeleteManyError as error:
                failures.update({(number, key): failure for key, failure in error.failures.items()})
            except Exception as error:  # noqa: BLE001 - the key is pending, and the caller is told
                failures.update({(number, key): error for key in keys})

        works = [one(number, replica) for number, replica in self._replicas.items()]
        # Returns when all have ended, cancelled or not: a later write of the key must not overtake this one.
        for outcome in await asyncio.gather(*works, return_exceptions=True):
            if outcome is not None:
                raise outcome
        return failures

    def _report(self, operation: Operation[Any], failures: dict[Entry, Exception]) -> None:
        numbers = sorted({number for number, _ in failures})
        error = next(iter(failures.values()))
        behind = ", ".join(map(str, numbers))
        message = "%(operation)s: missed by replicas %(replicas)s: %(failure)s"
        _log.failure(logging.WARNING, message, error, operation=operation.name, replicas=numbers)
        if self._require == "all":
            reason = f"the first store has it, but replica {behind} failed; repair() will bring it up to date"
            raise operation.error(StoreUnavailableError, reason) from error


def _may_be_done(error: Exception, key: str) -> bool:
    """Return whether the first store may have changed this key, in spite of the error."""
    if isinstance(error, DeleteManyError):  # it deleted the keys that have no failure
        return key not in error.failures or is_undetermined(error.failures[key])
    return is_undetermined(error)


def _log_reason(error: OSError) -> str:
    return f"the pending log cannot be used: {error.strerror or error} ({error.filename})"
