"""`AccessLog`: one record of every operation, with its caller and its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from starfish_server.audit.records import AccessRecord, Sink, make_record
from starfish_server.audit.sinks import Delivery, LoggingSink, shown_sink
from starfish_server.checks import positive_number
from starfish_server.errors import StoreClosedError, StoreUnavailableError
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.outcome import (
    WatchedReader,
    outcome_of_error,
    outcome_of_result,
    size_of_body,
    size_written,
)
from starfish_server.layers.streams import CountedChunks
from starfish_server.logs import SafeLogger
from starfish_server.objects import ObjectReader
from starfish_server.operations import OPERATIONS, Bodies
from starfish_server.printable import name_of

if TYPE_CHECKING:
    from starfish_server.layers.outcome import Outcome
    from starfish_server.storage.base import AbstractObjectStore

_log = SafeLogger(__name__)
_ACTIONS = frozenset({"pull", "push", "list", "delete", "system"})
_OPERATIONS = frozenset(OPERATIONS)
_CHUNKS, _READER = Bodies.CHUNKS, Bodies.READER  # a look-up in an Enum takes long on 3.11


class AccessLog(Layer):
    """Hands an `AccessRecord` of every operation to its sinks: misses, failures and cancellations included.

    Stands outermost: each operation is recorded once, as the caller made it and with its final outcome.

    sink: a function of the record, plain or async, or several; by default a `LoggingSink`. A plain one runs
        on the event loop and must not block (see `QueuedSink`). A sink may have a `close()`, plain or async,
        called after the store is closed. It may also have an async `keep(record)` that returns once the
        record is safe; under `on_sink_failure="fail"` that is called instead of the sink.
    actions: record only these of "pull", "push", "list", "delete" and "system" (operations without a
        context); all by default. Without "system", an operation without a context counts by its kind, a `put`
        as "push", so that no write goes unrecorded. Actions of other names are always recorded.
    operations: record only operations of these names, as in {"put", "put_bytes"}; all by default.
    predicate: record only if this function of the record is true; it also sees "started" records. If it
        raises, the record is kept.
    on_sink_failure: "log" (default) logs the failure; the operation succeeds. "fail" is for audits: a write
        is recorded as "started" first, and is not done unless every sink kept that record. Its outcome is
        a second record with the same timestamp. If a sink cannot keep the second record,
        `StoreUnavailableError` is raised *though the write was done*. A "started" record without an outcome
        is therefore a write that may or may not have been done. A read whose record cannot be kept fails too.
        An operation that failed or was cancelled keeps its own error: its lost record is only logged.
    sink_timeout: seconds after which an async sink has failed, 5 by default.

    A stream is one record, made when it ends, with the bytes that were read; under "fail" a "started" record
    comes first, as for a write. `close()` ends the records of streams that are still open.

    A cancelled operation does not wait for async sinks: they end in the background, and `close()` waits for
    them. Raises `ValueError` for an unknown action, operation or policy.
    """

    slot = Slot.AUDIT
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        sink: Sink | Sequence[Sink] | None = None,
        actions: Collection[str] | None = None,
        operations: Collection[str] | None = None,
        predicate: Callable[[AccessRecord], bool] | None = None,
        on_sink_failure: Literal["log", "fail"] = "log",
        sink_timeout: float = 5.0,
    ) -> None:
        super().__init__(inner)
        if on_sink_failure not in ("log", "fail"):
            raise ValueError(f'on_sink_failure is "log" or "fail", not {on_sink_failure!r}')
        if predicate is not None and not callable(predicate):
            raise TypeError(f"predicate must be a function of the record, not {predicate!r}")
        self._must_keep = on_sink_failure == "fail"
        self._sinks = _sinks(LoggingSink() if sink is None else sink)
        self._delivery = Delivery(
            self._sinks, keep=self._must_keep, timeout=positive_number("sink_timeout", sink_timeout)
        )
        self._actions = _ACTIONS if actions is None else _known("actions", actions, _ACTIONS)
        self._only = None if operations is None else _known("operations", operations, _OPERATIONS)
        self._left_out = _ACTIONS - self._actions - {"system"}
        self._by_system = "system" in self._actions
        self._predicate = predicate
        self._sink_timeout = sink_timeout
        self._in_flight = 0
        self._readers: WeakSet[WatchedReader] = WeakSet()
        self._idle: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def settings(self) -> dict[str, object]:
        sinks = [shown_sink(sink) for sink in self._sinks]
        shown: dict[str, object] = {"sink": sinks[0] if len(sinks) == 1 else sinks}
        if self._actions != _ACTIONS:
            shown["actions"] = sorted(self._actions)
        if self._only is not None:
            shown["operations"] = sorted(self._only)
        if self._predicate is not None:
            shown["predicate"] = name_of(self._predicate)
        return shown | ({"on_sink_failure": "fail"} if self._must_keep else {})

    # A plain function, so that an operation that is not recorded costs no coroutine.
    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        if operation.context is not None:
            action = operation.context.action
        else:
            action = "system" if self._by_system else operation.action
        if action in self._left_out or (self._only is not None and operation.name not in self._only):
            return self._inner.perform(operation)
        return self._recorded(operation.observed())

    async def _recorded(self, operation: Operation[T]) -> T:
        """Perform and record the operation; `close` waits for it."""
        make = make_record(operation.name, operation.keys, operation.prefix, operation.context)
        began = perf_counter()

        def record(
            outcome: Outcome | Literal["started"], error_type: str | None, size: int | None
        ) -> AccessRecord:
            notes: dict[str, Any] = operation.notes or {}
            duration = 0.0 if outcome == "started" else perf_counter() - began
            attempts, cache, source = notes.get("attempts", 0), notes.get("cache"), notes.get("source")
            return make(outcome, error_type, duration, size, attempts, cache, source)

        self._in_flight += 1
        try:
            if operation.bodies is _CHUNKS:
                operation = operation.replace(chunks=CountedChunks(operation.chunks))
            if self._must_keep and (operation.writes or operation.bodies is _READER):
                started = record("started", None, size_of_body(operation.body))
                await self._keep(started, "nothing was done")
            result = await self._inner.perform(operation)
        except BaseException as error:
            failed = record(*outcome_of_error(error), size_written(operation))
            if self._wants(failed):
                if isinstance(error, Exception):
                    await self._delivery.deliver(failed)
                else:
                    self._delivery.hand_over(failed)
            raise
        else:
            if isinstance(result, ObjectReader):
                reader: T = self._recorded_reader(result, record)
                return reader
            outcome, size = outcome_of_result(operation, result)
            await self._keep(record(outcome, None, size), "though it was done")
            return result
        finally:
            self._in_flight -= 1
            if not self._in_flight and self._idle is not None:
                loop, idle = self._idle
                with suppress(RuntimeError):  # that loop is closed, so nothing waits
                    loop.call_soon_threadsafe(idle.set)

    def _recorded_reader(self, reader: ObjectReader, record: Callable[..., AccessRecord]) -> Any:
        def ended(
            outcome: Outcome, error_type: str | None, error: BaseException | None, size: int | None
        ) -> None:
            finished = record(outcome, error_type, size)
            if self._wants(finished):
                self._delivery.hand_over(finished)

        made = WatchedReader(reader, ended)
        self._readers.add(made)
        return made

    async def _keep(self, record: AccessRecord, consequence: str) -> None:
        if not self._wants(record):
            return
        failures = await self._delivery.deliver(record)
        if failures and self._must_keep:
            error = StoreUnavailableError(
                f"the access record could not be kept, {consequence}",
                operation=record.operation,
                key=record.keys[0] if len(record.keys) == 1 else record.prefix,
            )
            error.undetermined = record.outcome != "started"
            raise error from failures[0]

    def _wants(self, record: AccessRecord) -> bool:
        if self._predicate is None:
            return True
        try:
            return self._predicate(record)
        except Exception as error:  # noqa: BLE001 - a filter that fails must not hide what happened
            # No traceback: its last line would hold the error's text unescaped.
            _log.error("access log predicate failed, record kept: %s", ascii(error))
            return True

    async def close(self) -> None:
        """Close the store, wait for unfinished records, then close every sink.

        Waits at most `sink_timeout` for operations that do not end when their store closes.
        """
        try:
            await self._inner.close()
        finally:
            await self._wait_for_operations()
            for reader in list(self._readers):
                reader.end(StoreClosedError("the store was closed"))
            failures = await self._delivery.close()
        if failures and self._must_keep:
            raise StoreUnavailableError("an access log sink could not be closed") from failures[0]

    async def _wait_for_operations(self) -> None:
        idle = asyncio.Event()
        self._idle = (asyncio.get_running_loop(), idle)
        if self._in_flight:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sink_timeout):
                    await idle.wait()


def _sinks(given: Sink | Sequence[Sink]) -> list[Sink]:
    sinks = list(given) if isinstance(given, Sequence) else [given]
    if not sinks:
        raise ValueError("sink is empty: nothing would be recorded")
    for sink in sinks:
        if not callable(sink):
            raise TypeError(
                f"a sink is a callable that takes an AccessRecord, such as JsonLinesSink(path), not {given!r}"
            )
    return sinks


def _known(option: str, given: Collection[str], known: frozenset[str]) -> frozenset[str]:
    if isinstance(given, str):
        raise TypeError(f"{option} is a set of names, not one str; write {{{given!r}}}")
    if not given or set(given) - known:
        raise ValueError(f"{option} must be some of {sorted(known)}, not {sorted(given)}")
    return frozenset(given)
