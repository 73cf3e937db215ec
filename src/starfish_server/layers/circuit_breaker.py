"""`CircuitBreaker`: refuses operations while the backend fails, and probes whether it has recovered."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from functools import partial
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
from starfish_server.operations import Bodies
from starfish_server.printable import mask, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import Fetch
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["CircuitBreaker"]

_log = logging.getLogger(__name__)
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

    Only a `StoreUnavailableError` is a failure, also of a single key of `delete_many`. Any other reply of the
    backend is a success: a miss, a conflict, a denial. A cancelled operation, an operation refused before it
    reaches the backend, and an exception that is not a `StoreError` count as neither. `open` counts when it
    returns its reader, and again if a chunk fails. `signed_url` sends nothing and always passes.

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
        self._closed = partial(_Closed, window, minimum_calls, failure_rate)
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Start closed, with a new lock: in a forked child, a thread of the parent may hold the old one."""
        # Reentrant: the garbage collector may end a probe anywhere.
        self._lock = threading.RLock()
        self._phase: _Closed | _Open = self._closed()
        self._in_flight = 0  # probes, also of phases that are over; those of the parent never end here

    def settings(self) -> dict[str, object]:
        names = ("failure_rate", "minimum_calls", "window", "open_seconds", "probes")
        return {name: getattr(self, f"_{name}") for name in names}

    @property
    def state(self) -> str:
        """Either "closed", "open" or, as soon as a probe may pass, "half_open"."""
        phase = self._phase
        if isinstance(phase, _Closed):
            return "closed"
        return "open" if self._clock() < phase.until else "half_open"

    async def perform(self, operation: Operation[T]) -> T:
        bodies = operation.bodies
        if bodies is _URL:
            return await self._inner.perform(operation)
        phase = self._phase
        if not isinstance(phase, _Closed):
            phase = self._enter(operation)
        source: CountedChunks | None = None
        try:
            if bodies is _CHUNKS:
                source = CountedChunks(operation.chunks)
                operation = operation.replace(chunks=source)
            result = await self._inner.perform(operation)
        except BaseException as error:
            self._count(phase, None if source is not None and source.failed else _is_failure(error))
            raise
        if not isinstance(phase, _Closed):
            self._count(phase, failed=False)
        elif why := phase.add(self._clock()):
            self._open(phase, why)
        return result if bodies is not _READER else self._counting_chunks(result, phase)

    def _enter(self, operation: Operation[Any]) -> _Closed | _Open:
        """Let the operation pass as a probe, or refuse it."""
        with self._lock:
            phase = self._phase
            if isinstance(phase, _Closed):
                return phase  # another thread has just closed the circuit
            wait, state = phase.until - self._clock(), "open after too many failures"
            passes = wait <= 0 and phase.passed < self._probes and self._in_flight < self._probes
            if passes:
                phase.passed += 1
                self._in_flight += 1
        if passes:
            try:
                self._log(logging.DEBUG, "half_open", "half-open: a probe passes")
            except BaseException:  # of a handler, or of the leaf's `repr`
                self._count(phase, None)
                raise
            return phase
        if wait <= 0:
            wait, state = self._open_seconds, "half-open, its probes are in flight"  # the longest wait
        raise operation.error(CircuitOpenError, f"the circuit is {state}; nothing was sent", retry_after=wait)

    def _count(self, phase: _Closed | _Open, failed: bool | None) -> None:
        """Count an outcome in the phase in which the operation began; None only releases a probe."""
        if isinstance(phase, _Closed):
            if failed is not None and (why := phase.add(self._clock(), failed)):
                self._open(phase, why)
            return
        with self._lock:
            self._in_flight -= 1
            phase.passed -= failed is None
            phase.successes += failed is False
            closes = phase.successes >= self._probes and phase is self._phase
            if closes:
                self._phase = self._closed()
        if closes:
            self._log(logging.INFO, "closed", "closed: its probes succeeded")
        elif failed:
            self._open(phase, "a probe failed")

    def _counting_chunks(self, result: T, opened_in: _Closed | _Open) -> T:
        async def counted(fetch: Fetch) -> bytes:
            try:
                return await fetch()
            except Exception as error:
                if _is_failure(error):  # opening the stream was counted as a success
                    phase = self._phase
                    if isinstance(phase, _Closed):
                        self._count(phase, failed=True)
                    else:
                        self._open(opened_in, "a chunk of a probe failed")
                raise

        return around_chunks(result, counted)

    def _open(self, phase: _Closed | _Open, why: str) -> None:
        """Open the circuit, unless `phase` is over."""
        with self._lock:
            if phase is not self._phase:
                return
            self._phase = _Open(self._clock() + self._open_seconds)
        self._log(logging.WARNING, "open", f"open for {self._open_seconds:g} s: {why}")

    def _log(self, level: int, state: str, text: str) -> None:
        if _log.isEnabledFor(level):
            leaf = next(store for store in stores_of(self) if not isinstance(store, Layer))
            store = printable(mask(repr(leaf)))
            _log.log(level, "the circuit of %s is %s", store, text, extra={"state": state, "store": store})


class _Open:
    """The phase after the circuit opened. From `until` on it is half-open, and counts successful probes."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.passed = self.successes = 0  # `passed` also has the probes in flight


class _Closed:
    """The phase after the circuit closed, with the outcomes of the last `window` seconds."""

    def __init__(self, window: float, minimum_calls: int, failure_rate: float) -> None:
        self._window = window
        self._minimum_calls = minimum_calls
        self._failure_rate = failure_rate
        self._calls = self._failures = 0  # since the circuit closed
        self._calls_before = self._failures_before = 0  # those that have left the window
        self._slices: deque[tuple[float, int, int]] = deque()  # when each leaves it; the counts before
        self._slice_ends = -math.inf

    def add(self, now: float, failed: bool = False) -> str | None:
        """Add an outcome, and return why the circuit opens; None if it stays closed."""
        if now >= self._slice_ends:
            self._slice_ends = now + self._window / 60
            self._slices.append((now + self._window, self._calls, self._failures))
            while now >= self._slices[0][0]:
                self._slices.popleft()
            _, self._calls_before, self._failures_before = self._slices[0]
        self._calls += 1
        if failed:
            self._failures += 1
        if self._failures == self._failures_before:
            return None
        calls, failures = self._calls - self._calls_before, self._failures - self._failures_before
        if calls < self._minimum_calls or failures < self._failure_rate * calls:
            return None
        return f"{failures} of {calls} operations failed"


def _is_failure(error: BaseException) -> bool | None:
    """Return whether an error means that the backend is unavailable; None if it does not tell."""
    if isinstance(error, DeleteManyError):
        return any(map(_is_failure, error.failures.values()))
    if not isinstance(error, StoreError) or isinstance(error, NOT_THE_BACKEND):
        return None
    return isinstance(error, StoreUnavailableError)
