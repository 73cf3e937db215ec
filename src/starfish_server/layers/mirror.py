"""`Mirror`: every write to several stores."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

from starfish_server.errors import (
    DeleteManyError,
    StoreNotSupportedError,
    StoreUnavailableError,
)
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.objects import ANY
from starfish_server.operations import (
    OPERATIONS,
    Copy,
    Delete,
    Open,
    SignedUrl,
    Stat,
    Upload,
    Write,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["Mirror", "RepairReport"]

_log = logging.getLogger(__name__)
_MOST_LINES = 10_000  # of the log, before it is written again with what is pending alone


@dataclass(slots=True)
class RepairReport:
    """What `Mirror.repair` did, by the number of the replica (from 1) and the key.

    repaired: copied from the first store. deleted: deleted, as in the first store.
    ahead: left as they are, since the replica has another object that was written later.
    failed: the errors of those that could not be repaired.
    """

    repaired: set[tuple[int, str]] = field(default_factory=set)
    deleted: set[tuple[int, str]] = field(default_factory=set)
    ahead: set[tuple[int, str]] = field(default_factory=set)
    failed: dict[tuple[int, str], Exception] = field(default_factory=dict)


class Mirror(Layer):
    """Writes to the first store and then to every replica, concurrently; reads come from the first.

    Stands outside breaker, retries and limits, of which each store has its own, and inside encryption, so
    that replicas hold encrypted bodies. The first store decides conditional writes. An object's writes
    through this layer are made one after the other, so a replica gets them in the order of the first store.
    Writers in other processes are not waited for: repair what they may have crossed.

    replicas: the other stores.
    require: "all" (default) raises `StoreUnavailableError` if a replica failed, though the first store has
        the write; "first" logs it. In both cases the key is pending.
    pending_log: path of a file in which pending keys outlive the process; None (default) keeps them in
        memory. A write that the process did not live to finish is pending after its restart. One process at
        a time may use the file.

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
    ) -> None:
        if not replicas:
            raise TypeError("Mirror needs at least one replica")
        if require not in ("all", "first"):
            raise ValueError(f'require is "all" or "first", not {require!r}')
        super().__init__(inner, *replicas)
        self._replicas = dict(enumerate(replicas, 1))
        self._require = require
        self._pending = _PendingLog(pending_log)
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, asyncio.Lock]] = (
            WeakKeyDictionary()
        )

    def settings(self) -> dict[str, object]:
        return {"require": self._require, "replicas": len(self._replicas)}

    def supports(self, operation: str) -> bool:
        if operation == "conditional_write" or not OPERATIONS[operation].writes:
            return self._inner.supports(operation)
        return super().supports(operation)

    def pending(self) -> set[tuple[int, str]]:
        """Return what replicas may have missed: the number of the replica, from 1, and the key."""
        return set(self._pending.entries)

    async def perform(self, operation: Operation[T]) -> T:
        asked: Operation[Any] = operation  # what it is decides here, while its result stays a T
        if isinstance(asked, SignedUrl) and asked.method == "PUT":
            raise operation.error(
                StoreNotSupportedError, "what is written by a URL would not reach the replicas"
            )
        if not operation.writes:
            return await self._inner.perform(operation)
        keys = (asked.target,) if isinstance(asked, Copy) else tuple(dict.fromkeys(operation.keys))
        async with contextlib.AsyncExitStack() as stack:
            for key in sorted(key for key in keys if isinstance(key, str)):
                await stack.enter_async_context(self._lock(key))
            missed = {(number, key) for number in self._replicas for key in keys}
            added = self._pending.add(missed)
            try:
                result = await self._inner.perform(operation)
            except Exception as error:
                if not _may_be_done(error):
                    self._pending.remove(added)
                raise
            failures = await self._replicate(operation, keys)
            self._pending.remove({entry for entry in missed if entry not in failures})
        if failures:
            self._report(operation, failures)
        return result

    async def repair(self, *, force: bool = False) -> RepairReport:
        """Bring every replica up to date with the first store, for the keys that are pending.

        An object that is not in the first store is deleted from the replica: it was deleted. An object of a
        replica that differs and is newer than the missed write is left alone and reported as ahead, unless
        `force` is True. An error of one key does not end the repair.
        """
        report = RepairReport()
        for number, key in sorted(self._pending.entries):
            async with self._lock(key):
                since = self._pending.entries.get((number, key))
                if since is None:
                    continue
                try:
                    await self._repair_one(number, key, since, report, force)
                except Exception as error:  # noqa: BLE001 - reported by key
                    report.failed[number, key] = error
        return report

    def _lock(self, key: str) -> asyncio.Lock:
        locks = self._locks.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
        lock = locks.get(key)
        if lock is None:
            lock = locks[key] = asyncio.Lock()
        return lock

    async def _replicate(
        self, operation: Operation[Any], keys: Iterable[str]
    ) -> dict[tuple[int, str], Exception]:
        """Repeat a write that the first store has done on every replica; return what failed."""
        failures: dict[tuple[int, str], Exception] = {}

        async def one(number: int, replica: AbstractObjectStore) -> None:
            try:
                if isinstance(operation, Upload | Copy):
                    for key in keys:
                        await self._copy(replica, key, operation.context)
                elif isinstance(operation, Write):
                    await replica.perform(operation.replace(if_version=ANY))
                else:
                    await replica.perform(operation)
            except DeleteManyError as error:
                failures.update({(number, key): failure for key, failure in error.failures.items()})
            except Exception as error:  # noqa: BLE001 - the key is pending, and the caller is told
                failures.update({(number, key): error for key in keys})

        await asyncio.gather(*(one(number, replica) for number, replica in self._replicas.items()))
        return failures

    def _report(self, operation: Operation[Any], failures: dict[tuple[int, str], Exception]) -> None:
        numbers = sorted({number for number, _ in failures})
        error = next(iter(failures.values()))
        behind = ", ".join(map(str, numbers))
        _log.warning("replica %s has missed a %s: %s", behind, operation.name, type(error).__name__)
        if self._require == "all":
            reason = f"the first store has it, but replica {behind} failed; repair() will bring it up to date"
            raise operation.error(StoreUnavailableError, reason) from error

    async def _repair_one(
        self, number: int, key: str, since: float, report: RepairReport, force: bool
    ) -> None:
        replica = self._replicas[number]
        first, theirs = await self._inner.perform(Stat(key)), await replica.perform(Stat(key))
        same = first is None and theirs is None
        if first is not None and theirs is not None and first.size == theirs.size:
            same = await _equal(self._inner, replica, key)
        newer = theirs is not None and theirs.modified is not None and theirs.modified.timestamp() > since
        if not same and newer and not force:
            report.ahead.add((number, key))
            return
        if not same and first is None:
            await replica.perform(Delete(key))
            report.deleted.add((number, key))
        elif not same:
            await self._copy(replica, key, None)
            report.repaired.add((number, key))
        self._pending.remove({(number, key)})

    async def _copy(self, replica: AbstractObjectStore, key: str, context: Any) -> None:
        """Stream the first store's object to a replica, or delete it there if there is none."""
        reader = await self._inner.perform(Open(key, context=context))
        if reader is None:
            await replica.perform(Delete(key, context))
            return
        async with reader:
            info = reader.info
            metadata = info.metadata if replica.native("write") else None
            await replica.perform(
                Upload(key, reader, info.content_type, info.cache_control, metadata, ANY, context)
            )


def _may_be_done(error: Exception) -> bool:
    """Return whether a write that failed in the first store may have been done there all the same."""
    return isinstance(error, StoreUnavailableError | OSError | DeleteManyError)


async def _equal(one: AbstractObjectStore, other: AbstractObjectStore, key: str) -> bool:
    """Return whether two stores hold the same bytes and content type at a key, in bounded memory."""
    first, second = await one.perform(Open(key)), await other.perform(Open(key))
    try:
        if first is None or second is None or first.info.content_type != second.info.content_type:
            return False
        left, right = first.next_chunk, second.next_chunk
        ahead, behind = b"", b""
        while True:
            ahead, behind = ahead or await left(), behind or await right()
            length = min(len(ahead), len(behind))
            if ahead[:length] != behind[:length] or not length:
                return not ahead and not behind
            ahead, behind = ahead[length:], behind[length:]
    finally:
        for reader in (first, second):
            if reader is not None:
                await reader.aclose()


class _PendingLog:
    """Pending keys with the time of the write, and the file that they are appended to."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.entries: dict[tuple[int, str], float] = {}
        self._path = None if path is None else Path(path)
        self._lines = 0
        if self._path is not None and self._path.exists():
            for line in self._path.read_text().splitlines():
                with contextlib.suppress(ValueError, TypeError):  # a line that a crash cut short
                    sign, number, key, since = json.loads(line)
                    if sign == "+":
                        self.entries[number, key] = since
                    else:
                        self.entries.pop((number, key), None)
            self._rewrite()

    def add(self, entries: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
        """Add entries with the time of now; return those that were not there."""
        entries = set(entries)
        added = entries - self.entries.keys()
        now = time.time()
        self.entries.update(dict.fromkeys(entries, now))
        self._append([("+", number, key, now) for number, key in entries])
        return added

    def remove(self, entries: Iterable[tuple[int, str]]) -> None:
        """Remove entries; those that are not there are no error."""
        removed = [entry for entry in entries if self.entries.pop(entry, None) is not None]
        self._append([("-", number, key, 0.0) for number, key in removed])

    def _append(self, lines: list[tuple[str, int, str, float]]) -> None:
        if self._path is None or not lines:
            return
        with self._path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        self._lines += len(lines)
        if self._lines > max(_MOST_LINES, 4 * len(self.entries)):
            self._rewrite()

    def _rewrite(self) -> None:
        path = cast("Path", self._path)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(
            "".join(json.dumps(("+", *entry, since)) + "\n" for entry, since in self.entries.items())
        )
        fresh.replace(path)
        self._lines = len(self.entries)
