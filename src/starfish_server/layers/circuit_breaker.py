"""`CircuitBreaker`: refuses operations while the backend fails, and probes whether it has recovered."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

from starfish_server.checks import positive_int, positive_number
from starfish_server.errors import (
    NOT_THE_BACKEND,
    CircuitOpenError,
    DeleteManyError,
    StoreError,
    StoreUnavailableError,
)
from starfish_server.forks import reset_in_child
from starfish_server.layers.base import Layer, Operation, Slot, T, stores_of
from starfish_server.layers.streams import CountedChunks, around_chunks
from starfish_server.logs import SafeLogger
from starfish_server.operations import Bodies
from starfish_server.printable import mask, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import Fetch
    from starfish_server.storage.base import AbstractObjectStore

_log = SafeLogger(__name__)
_CHUNKS, _READER, _URL = Bodies.CHUNKS, Bodies.READER, Bodies.URL  # a look-up in an Enum takes long on 3.11


class CircuitBreaker(Layer):
    """Refuses operations with `CircuitOpenError` while too many of the recent ones have failed.

    Stands outside `Retry`, so that it counts operations and not attempts, and inside `Fallback`, which reads
    from its backup while the circuit is open.

    failure_rate: fraction of failed operations that opens the circuit, over 0 and at most 1; 0.5 by default.
    minimum_calls: the circuit never opens with fewer outcomes than this in `window`, 20 by default.
    window: seconds for which an outcome counts, 30.0 by default; it slides in steps of a sixtieth.
    open_seconds: seconds for which everything is refused, 10.0 by default. Then the circuit is half-open.
    probes: operations let through while half-open, 3 by default; all others are refused. The circuit closes
        when all of them have succeeded; one failure opens it again.
    clock: returns monotonic seconds, `time.monotonic` by default.

    Only a `StoreUnavailableError` is a failure; in `delete_many` that of a single key is enough. Any other
    reply of the backend is a success: a miss, a conflict, a denial. A cancelled operation, an operation
    refused before it reaches the backend, and an exception that is not a `StoreError` count as neither.
    `open` counts when it returns its reader, and again if a chunk fails. `signed_url` sends nothing and
    always passes.

    Opening is logged at WARNING, closing at INFO, each probe at DEBUG.
    """

    slot = Slot.BREAKER
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        failure_rate: float = 0.5,
        minimum_calls: int = 20,
        window: float = 30.0,
        open_seconds: float = 10.0,
        probes: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        if positive_number("failure_rate", failure_rate) > 1:
            raise ValueError(f"failure_rate must be at most 1, not {failure_rate}")
        self._failure_rate = failure_rate
        self._minimum_calls = positive_int("minimum_calls", minimum_calls)
        self._window = positive_number("window", window)
        self._open_seconds = positive_number("open_seconds", open_seconds)
        self._probes = positive_int("probes", probes)
        self._clock = clock
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Start closed, with a new lock: in a forked child, a thread of the parent may hold the old one."""
        self._lock = threading.RLock()  # reentrant: the garbage collector may end a probe anywhere
        self._phase = _Phase()
        self._in_flight = 0  # probes of all phases; those of the parent never end here

    def settings(self) -> dict[str, object]:
        names = ("failure_rate", "minimum_calls", "window", "open_seconds", "probes")
        return {name: getattr(self, f"_{name}") for name in names}

    @property
    def state(self) -> str:
        """Either "closed", "open" or, as soon as a probe may pass, "half_open"."""
        until = self._phase.open_until
        return "closed" if until is None else "open" if self._clock() < until else "half_open"

    async def perform(self, operation: Operation[T]) -> T:
        bodies, source = operation.bodies, None
        if bodies is _URL:
            return await self._inner.perform(operation)
        if bodies is _CHUNKS:
            source = CountedChunks(operation.chunks)
            operation = operation.replace(chunks=source)
        phase = self._phase
        if phase.open_until is not None:
            phase = self._enter(operation)
        try:
            if phase.open_until is not None:
                self._log(logging.DEBUG, "half_open", "half-open: a probe passes")
            result = await self._inner.perform(operation)
        except BaseException as error:
            self._count(phase, None if source is not None and source.failed else _is_failure(error))
            raise
        self._count(phase, False)
        return result if bodies is not _READER else self._counting_chunks(result, phase)

    def _enter(self, operation: Operation[Any]) -> _Phase:
        """Let the operation pass as a probe, or refuse it."""
        with self._lock:
            phase = self._phase
            if phase.open_until is None:
                return phase  # another thread has just closed the circuit
            wait = phase.open_until - self._clock()
            if wait <= 0 and max(phase.passed, self._in_flight) < self._probes:
                phase.passed += 1
                self._in_flight += 1
                return phase
        state = "open after too many failures"
        if wait <= 0:
            state, wait = "half-open, its probes are in flight", self._open_seconds  # the longest wait
        raise operation.error(CircuitOpenError, f"the circuit is {state}; nothing was sent", retry_after=wait)

    def _count(self, phase: _Phase, failed: bool | None) -> None:
        """Count an outcome in the phase that the operation began in; None if it tells nothing."""
        if phase.open_until is not None:
            with self._lock:
                self._in_flight -= 1
                phase.passed -= failed is None
                phase.succeeded += failed is False
            if failed:
                self._end(phase, "a probe failed")
            elif phase.succeeded == self._probes:
                self._end(phase, "its probes succeeded", opens=False)
        elif failed is not None:
            now = self._clock()
            if now >= phase.slice_ends:
                phase.slide(now, self._window)
            phase.calls += 1
            if failed:
                phase.failures += 1
            if failures := phase.failures - phase.old_failures:
                calls = phase.calls - phase.old_calls
                if calls >= self._minimum_calls and failures >= self._failure_rate * calls:
                    self._end(phase, f"{failures} of {calls} operations failed")

    def _counting_chunks(self, result: T, opened_in: _Phase) -> T:
        async def counted(fetch: Fetch) -> bytes:
            try:
                return await fetch()
            except Exception as error:
                if _is_failure(error):  # opening the stream was counted as a success
                    if self._phase.open_until is None:
                        self._count(self._phase, True)
                    else:
                        self._end(opened_in, "a chunk of a probe failed")
                raise

        return around_chunks(result, counted)

    def _end(self, phase: _Phase, why: str, *, opens: bool = True) -> None:
        """End a phase and begin another one, unless that has happened already."""
        with self._lock:
            if phase is not self._phase:
                return
            self._phase = _Phase(self._clock() + self._open_seconds if opens else None)
        if opens:
            self._log(logging.WARNING, "open", f"open for {self._open_seconds:g} s: {why}")
        else:
            self._log(logging.INFO, "closed", f"closed: {why}")

    def _log(self, level: int, state: str, text: str) -> None:
        if _log.isEnabledFor(level):
            leaf = next(store for store in stores_of(self) if not isinstance(store, Layer))
            store = printable(mask(repr(leaf)))
            _log.log(level, "the circuit of %s is %s", store, text, extra={"state": state, "store": store})


class _Phase:
    """The time from one change of the circuit to the next, and the outcomes of the operations begun in it.

    open_until: when an open circuit becomes half-open; None while it is closed.
    passed, succeeded: probes that were let through, and those of them that succeeded.
    calls, failures: outcomes while it is closed. old_calls, old_failures: those that have left the window.
    """

    def __init__(self, open_until: float | None = None) -> None:
        self.open_until = open_until
        self.passed = self.succeeded = 0
        self.calls = self.failures = self.old_calls = self.old_failures = 0
        self.slice_ends = -math.inf
        self._slices: list[tuple[float, int, int]] = []  # when each leaves the window; the counts before it

    def slide(self, now: float, window: float) -> None:
        """Begin a slice, and drop those that have left the window."""
        self.slice_ends = now + window / 60
        latest = (now + window, self.calls, self.failures)
        self._slices = [*(each for each in self._slices if now < each[0]), latest]
        _, self.old_calls, self.old_failures = self._slices[0]


def _is_failure(error: BaseException) -> bool | None:
    """Return whether an error means that the backend is unavailable; None if it does not tell."""
    if isinstance(error, DeleteManyError):
        return any(map(_is_failure, error.failures.values()))
    if not isinstance(error, StoreError) or isinstance(error, NOT_THE_BACKEND):
        return None
    return isinstance(error, StoreUnavailableError)
