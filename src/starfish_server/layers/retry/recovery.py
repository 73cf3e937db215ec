"""What `Retry` does once a first try has failed. The only file that knows tenacity."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Generic

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from starfish_server.errors import (
    ContextRequiredError,
    DeleteManyError,
    InvalidKeyError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreNotSupportedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers.base import Operation, Proceed, T, Target, note_attempt
from starfish_server.layers.operations import describe, key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.layers.retry.budget import RetryBudget

__all__ = ["GAVE_UP", "POINTLESS", "TRANSIENT", "Policy", "Recovery", "RetryEvent"]

TRANSIENT: tuple[type[Exception], ...] = (StoreUnavailableError, ConnectionError, TimeoutError)
POINTLESS = (
    ContextRequiredError,
    InvalidKeyError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreClosedError,
    StoreNotSupportedError,
    VersionConflictError,
)
# Set on an error after the last try, to the time of giving up, so that a `Retry` further out does not start
# over. A time rather than True: a store may raise the same object again in a later operation.
GAVE_UP = "_starfish_gave_up"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """What `on_retry` is told before each back-off.

    operation: name, as in "put". target: the key, the prefix, or the keys of `delete_many`.
    attempt: number of the try that failed, from 1. wait: seconds of back-off before the next.
    error: what it failed with.
    """

    operation: str
    target: Target
    attempt: int
    wait: float
    error: Exception


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of a `Retry` layer, and what they say about an error."""

    attempts: int
    initial: float
    maximum: float
    deadline: float
    transient: tuple[type[Exception], ...]
    budget: RetryBudget | None
    on_retry: Callable[[RetryEvent], None] | None

    def may_retry(self, error: BaseException, started: float) -> bool:
        """Whether another try may help; not if a `Retry` inside has given up on `error` since `started`."""
        if getattr(error, GAVE_UP, -inf) >= started:
            return False
        if isinstance(error, DeleteManyError):
            return any(self.may_retry(failure, started) for failure in error.failures.values())
        return isinstance(error, self.transient) and not isinstance(error, POINTLESS)


class Recovery(Generic[T]):
    """One operation whose first try has failed: tenacity drives the tries that follow."""

    def __init__(
        self,
        policy: Policy,
        operation: Operation,
        target: Target,
        proceed: Proceed[T],
        started: float,
        failure: Exception,
    ) -> None:
        self._policy = policy
        self._operation = operation
        self._target = target
        self._proceed = proceed
        self._started = started
        self._failure = failure
        self._attempts = 0
        self._wait = 0.0
        self._paid = 0
        self._gave_up: str | None = None
        self._jitter = wait_random_exponential(multiplier=policy.initial, max=policy.maximum)

    async def run(self) -> T:
        retrying = AsyncRetrying(
            sleep=self._sleep,
            retry=retry_if_exception(self._may_retry),
            wait=self._back_off,
            stop=self._gives_up,
            before_sleep=self._announce,
            reraise=True,
        )
        try:
            result: T = await retrying(self._attempt)
        except Exception as error:
            if self._gave_up is not None:
                self._mark(error, self._gave_up)
            raise
        if self._policy.budget is not None:
            self._policy.budget.give_back(self._paid)
        return result

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except BaseException:
            if self._policy.budget is not None:
                self._policy.budget.give_back(self._paid)
            raise

    async def _attempt(self) -> T:
        self._attempts += 1
        if self._attempts == 1:
            raise self._failure  # that try was made before tenacity came in
        note_attempt(self._wait)
        try:
            async with asyncio.timeout(self._started + self._policy.deadline - monotonic()):
                try:
                    return await self._proceed()
                except Exception as error:
                    self._failure = error
                    raise
        except TimeoutError as error:
            if error is self._failure:
                raise
            before, self._failure = self._failure, self._cut_short()
            raise self._failure from before

    def _cut_short(self) -> Exception:
        """The error of a try that was under way at the deadline: a write may have been done."""
        timeout = StoreTimeoutError(
            f"{describe(self._operation, self._target)} was cut at the deadline "
            f"of {self._policy.deadline:g} s",
            operation=self._operation.name,
            key=key_of(self._target),
        )
        if not isinstance(self._failure, DeleteManyError):
            return timeout
        failures = self._failure.failures
        return DeleteManyError(
            {key: timeout if self._may_retry(error) else error for key, error in failures.items()}
        )

    def _may_retry(self, error: BaseException) -> bool:
        return self._policy.may_retry(error, self._started)

    def _back_off(self, state: RetryCallState) -> float:
        return max(self._jitter(state), _retry_after(self._failure))

    def _gives_up(self, state: RetryCallState) -> bool:
        policy = self._policy
        if self._attempts >= policy.attempts:
            self._gave_up = ""
        elif monotonic() - self._started + state.upcoming_sleep >= policy.deadline:
            self._gave_up = f": the deadline of {policy.deadline:g} s leaves no time for another"
        elif policy.budget is not None:
            self._paid = policy.budget.take(self._failure)
            if not self._paid:
                self._gave_up = ": the retry budget is spent"
        return self._gave_up is not None

    def _announce(self, state: RetryCallState) -> None:
        self._wait = state.upcoming_sleep
        if self._policy.on_retry is None:
            return
        event = RetryEvent(self._operation.name, self._target, self._attempts, self._wait, self._failure)
        try:
            self._policy.on_retry(event)
        except Exception:  # noqa: BLE001 - a hook is to break nothing
            _log.exception("on_retry failed; the operation goes on")

    def _mark(self, error: Exception, why: str) -> None:
        now = monotonic()
        tries = "1 attempt" if self._attempts == 1 else f"{self._attempts} attempts"
        error.add_note(
            f"Retry gave up on {describe(self._operation, self._target)} after {tries} "
            f"in {now - self._started:.3f} s{why}"
        )
        failures = error.failures.values() if isinstance(error, DeleteManyError) else ()
        for marked in (error, *failures):
            setattr(marked, GAVE_UP, now)


def _retry_after(error: Exception) -> float:
    """Seconds that the server asked to wait, the longest of any key; 0 if it did not."""
    if isinstance(error, DeleteManyError):
        return max(map(_retry_after, error.failures.values()))
    return (isinstance(error, StoreUnavailableError) and error.retry_after) or 0.0
