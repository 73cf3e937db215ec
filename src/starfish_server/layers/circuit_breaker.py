"""`CircuitBreaker`: refuses operations while the backend fails, and finds out when it is back."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from starfish_server.checks import positive_int, positive_number
from starfish_server.errors import (
    CircuitOpenError,
    ContextRequiredError,
    DeleteManyError,
    InvalidKeyError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreError,
    StoreNotSupportedError,
    StoreUnavailableError,
)
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.streams import around_chunks
from starfish_server.operations import Bodies

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import Fetch
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["CircuitBreaker"]

_READER, _URL = Bodies.READER, Bodies.URL

_log = logging.getLogger(__name__)
# Raised before the backend was asked, so they say nothing about it.
_IGNORED = (
    ContextRequiredError,
    InvalidKeyError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreNotSupportedError,
)


class CircuitBreaker(Layer):
    """Refuses operations with `CircuitOpenError` while too many of the recent ones have failed.

    Stands outside `Retry`, so that it counts what retries gave up on, and inside `Fallback`, which answers
    from its backup while the circuit is open.

    failure_rate: part of the operations (over 0, at most 1) whose failure opens the circuit, 0.5 by default.
    minimum_calls: outcomes within `window` below which it never opens, 20 by default.
    window: seconds for which an outcome counts, 30.0 by default; it slides in steps of a sixtieth.
    open_seconds: seconds for which everything is refused, 10.0 by default. Then the circuit is half-open.
    probes: operations let through while half-open, 3 by default; all others are refused. When so many have
        succeeded the circuit closes; one failure opens it again.
    clock: returns monotonic seconds, `time.monotonic` by default.

    Only a `StoreUnavailableError` is a failure, alone or of a key of `delete_many`. Any other reply of the
    backend is a success: a miss, a conflict, a denial. A cancelled operation, one that was refused before the
    backend was asked, and an exception that is not a `StoreError` count as neither. `open` counts when it
    returns its reader, and again if a chunk fails. `signed_url` asks no backend and always passes.

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
        self._outcomes: _Outcomes | None = _Outcomes(window)  # None unless closed
        self._trial: _Trial | None = None  # None unless half-open
        self._half_open_at = 0.0
        self._in_flight = 0  # probes, those of earlier trials included

    def settings(self) -> dict[str, object]:
        names = ("failure_rate", "minimum_calls", "window", "open_seconds", "probes")
        return {name: getattr(self, f"_{name}") for name in names}

    @property
    def state(self) -> str:
        """Either "closed", "open" or, as soon as a probe may pass, "half_open"."""
        if self._outcomes is not None:
            return "closed"
        return "open" if self._trial is None and self._clock() < self._half_open_at else "half_open"

    async def perform(self, operation: Operation[T]) -> T:
        bodies = operation.bodies
        if bodies is _URL:
            return await self._inner.perform(operation)
        outcomes = self._outcomes
        if outcomes is None:
            return await self._probe(operation)
        try:
            result = await self._inner.perform(operation)
        except Exception as error:
            self._count(outcomes, _is_failure(error))
            raise
        self._count(outcomes, failed=False)
        return result if bodies is not _READER else self._counting_chunks(result, None)

    def _count(self, outcomes: _Outcomes, failed: bool | None) -> None:
        """Count an outcome of the closed circuit, and open it if too many have failed; None is ignored."""
        if failed is None:
            return
        outcomes.add(self._clock(), failed)
        failures, calls = outcomes.failures, outcomes.calls
        if failures and calls >= self._minimum_calls and failures >= self._failure_rate * calls:
            with self._lock:
                if outcomes is self._outcomes:
                    self._open(f"{failures} of {calls} operations failed")

    async def _probe(self, operation: Operation[T]) -> T:
        """Perform the operation as a probe, or refuse it."""
        trial = self._enter(operation)
        failed: bool | None = None
        try:
            result = await self._inner.perform(operation)
            failed = False
        except Exception as error:
            failed = _is_failure(error)
            raise
        finally:
            self._leave(trial, failed)
        return self._counting_chunks(result, trial)

    def _enter(self, operation: Operation[Any]) -> _Trial:
        with self._lock:
            wait = self._half_open_at - self._clock()
            trial = self._trial
            if self._outcomes is not None:
                trial = _Trial()  # another thread has just closed the circuit: this one counts for nothing
            elif trial is None and wait <= 0:
                trial = self._trial = _Trial()
                _log.info("the circuit is half-open: probes may pass", extra={"state": "half_open"})
            if trial is not None:
                if max(self._in_flight, trial.in_flight + trial.successes) < self._probes:
                    self._in_flight += 1
                    trial.in_flight += 1
                    return trial
                wait = self._open_seconds  # what it takes at most until the next probes
        state = "open after too many failures" if trial is None else "half-open, its probes are in flight"
        raise operation.error(CircuitOpenError, f"the circuit is {state}; nothing was sent", retry_after=wait)

    def _leave(self, trial: _Trial, failed: bool | None) -> None:
        """Give the probe back, and decide by its outcome whether the circuit closes or opens."""
        with self._lock:
            self._in_flight -= 1
            trial.in_flight -= 1
            if trial is not self._trial:
                return
            if failed:
                self._open("a probe failed")
            elif failed is False:
                trial.successes += 1
                if trial.successes >= self._probes:
                    self._trial, self._outcomes = None, _Outcomes(self._window)
                    _log.info("the circuit is closed: its probes succeeded", extra={"state": "closed"})

    def _open(self, why: str) -> None:
        self._trial = self._outcomes = None
        self._half_open_at = self._clock() + self._open_seconds
        _log.warning("the circuit is open for %g s: %s", self._open_seconds, why, extra={"state": "open"})

    def _counting_chunks(self, result: T, trial: _Trial | None) -> T:
        async def counted(fetch: Fetch) -> bytes:
            try:
                return await fetch()
            except Exception as error:
                outcomes = self._outcomes
                if outcomes is not None:
                    self._count(outcomes, _is_failure(error) or None)  # its opening was the success
                elif trial is not None and _is_failure(error):
                    with self._lock:
                        if trial is self._trial:
                            self._open("a chunk of a probe failed")
                raise

        return around_chunks(result, counted)


class _Trial:
    """One half-open time: its probes in flight, and those that succeeded."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.successes = 0


class _Outcomes:
    """The outcomes of the last `window` seconds, counted in slices of a sixtieth of it."""

    def __init__(self, window: float) -> None:
        self.calls = 0
        self.failures = 0
        self._window = window
        self._slices: deque[list[float]] = deque()  # [began, calls, failures]
        self._until = -math.inf  # when a slice ends, or the first one is over the window

    def add(self, now: float, failed: bool) -> None:
        if now >= self._until:
            self._slide(now)
        latest = self._slices[-1]
        latest[1] += 1
        self.calls += 1
        if failed:
            latest[2] += 1
            self.failures += 1

    def _slide(self, now: float) -> None:
        slices, step = self._slices, self._window / 60
        while slices and now >= slices[0][0] + self._window:
            _, calls, failures = slices.popleft()
            self.calls -= int(calls)
            self.failures -= int(failures)
        if not slices or now >= slices[-1][0] + step:
            slices.append([now, 0, 0])
        self._until = min(slices[-1][0] + step, slices[0][0] + self._window)


def _is_failure(error: Exception) -> bool | None:
    """Return whether an error means that the backend is unavailable; None if it says nothing about it."""
    if isinstance(error, DeleteManyError):
        return any(map(_is_failure, error.failures.values()))
    if not isinstance(error, StoreError) or isinstance(error, _IGNORED):
        return None
    return isinstance(error, StoreUnavailableError)
