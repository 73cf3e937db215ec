"""`CircuitBreaker`: refuses operations while the backend fails, and probes whether it has recovered."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from starfish_server.checks import positive_int, positive_number
from starfish_server.chunks import check_chunks
from starfish_server.errors import (
    NOT_SENT,
    CircuitOpenError,
    DeleteManyError,
    StoreError,
    StoreUnavailableError,
)
from starfish_server.layers.base import Layer, Operation, Slot, T
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

    Opening is logged at WARNING, the other changes of state at INFO.
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
        self._lock = threading.Lock()
        self._phase: _Closed | _HalfOpen | None = _Closed(window)  # None while open
        self._half_open_at = 0.0
        self._in_flight: list[_HalfOpen] = []  # the phase of each probe, which may be over

    def settings(self) -> dict[str, object]:
        names = ("failure_rate", "minimum_calls", "window", "open_seconds", "probes")
        return {name: getattr(self, f"_{name}") for name in names}

    @property
    def state(self) -> str:
        """Either "closed", "open" or, as soon as a probe may pass, "half_open"."""
        if isinstance(self._phase, _Closed):
            return "closed"
        return "open" if self._phase is None and self._clock() < self._half_open_at else "half_open"

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
                check_chunks(operation.chunks, operation.name)
                source = CountedChunks(operation.chunks)
                operation = operation.replace(chunks=source)
            result = await self._inner.perform(operation)
        except BaseException as error:
            self._count(phase, None if source is not None and source.failed else _is_failure(error))
            raise
        self._count(phase, failed=False)
        return result if bodies is not _READER else self._counting_chunks(result, phase)

    def _enter(self, operation: Operation[Any]) -> _Closed | _HalfOpen:
        """Let the operation pass as a probe, or refuse it."""
        with self._lock:
            phase, wait = self._phase, self._half_open_at - self._clock()
            if isinstance(phase, _Closed):
                return phase  # another thread has just closed the circuit
            if phase is None and wait <= 0:
                phase = self._phase = _HalfOpen()
                self._changed(logging.DEBUG, "half_open", "half-open: probes may pass")
            if phase is not None:
                used = phase.successes + self._in_flight.count(phase)
                if max(used, len(self._in_flight)) < self._probes:
                    self._in_flight.append(phase)
                    return phase
                wait = self._open_seconds  # the longest time until the next probes
        state = "open after too many failures" if phase is None else "half-open, its probes are in flight"
        raise operation.error(CircuitOpenError, f"the circuit is {state}; nothing was sent", retry_after=wait)

    def _count(self, phase: _Closed | _HalfOpen, failed: bool | None) -> None:
        """Count an outcome in the phase in which the operation began; None only releases a probe."""
        if isinstance(phase, _HalfOpen):
            with self._lock:
                self._in_flight.remove(phase)
                phase.successes += failed is False
                if phase.successes >= self._probes and phase is self._phase:
                    self._phase = _Closed(self._window)
                    self._changed(logging.INFO, "closed", "closed: its probes succeeded")
            if failed:
                self._open(phase, "a probe failed")
        elif failed is not None:
            phase.add(self._clock(), failed)
            failures, calls = phase.failures, phase.calls
            if failures and calls >= self._minimum_calls and failures >= self._failure_rate * calls:
                self._open(phase, f"{failures} of {calls} operations failed")

    def _counting_chunks(self, result: T, opened_in: _Closed | _HalfOpen) -> T:
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

    def _open(self, phase: _Closed | _HalfOpen, why: str) -> None:
        """Open the circuit, unless `phase` is over."""
        with self._lock:
            if phase is not self._phase:
                return
            self._phase, self._half_open_at = None, self._clock() + self._open_seconds
        self._changed(logging.WARNING, "open", f"open for {self._open_seconds:g} s: {why}")

    def _changed(self, level: int, state: str, text: str) -> None:
        if _log.isEnabledFor(level):
            leaf: AbstractObjectStore = self
            while isinstance(leaf, Layer):
                leaf = leaf.inner
            store = printable(mask(repr(leaf)))
            _log.log(level, "the circuit of %s is %s", store, text, extra={"state": state, "store": store})


class _HalfOpen:
    """The successful probes of one half-open phase."""

    successes = 0


class _Closed:
    """The outcomes of the last `window` seconds, counted in slices of a sixtieth of it."""

    def __init__(self, window: float) -> None:
        self.calls = self.failures = 0
        self._window = window
        self._slices: deque[list[float]] = deque()  # [expires at, calls, failures]
        self._latest_ends = -math.inf

    def add(self, now: float, failed: bool) -> None:
        slices = self._slices
        if now >= self._latest_ends:
            self._latest_ends = now + self._window / 60
            slices.append([now + self._window, 0, 0])
            while now >= slices[0][0]:
                _, calls, failures = slices.popleft()
                self.calls -= int(calls)
                self.failures -= int(failures)
        latest = slices[-1]
        latest[1] += 1
        latest[2] += failed
        self.calls += 1
        self.failures += failed


def _is_failure(error: BaseException) -> bool | None:
    """Return whether an error means that the backend is unavailable; None if it does not tell."""
    if isinstance(error, DeleteManyError):
        return any(map(_is_failure, error.failures.values()))
    if not isinstance(error, StoreError) or isinstance(error, NOT_SENT):
        return None
    return isinstance(error, StoreUnavailableError)
