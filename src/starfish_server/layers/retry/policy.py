"""When `Retry` retries: its settings, the classification of errors, and the budget."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from starfish_server.checks import positive_int
from starfish_server.errors import (
    NOT_THE_BACKEND,
    DeleteManyError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
    is_undetermined,
)
from starfish_server.forks import reset_in_child
from starfish_server.redis import check_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.operations import Operation
    from starfish_server.redis.limits import RedisLimits

TRANSIENT: tuple[type[Exception], ...] = (StoreUnavailableError, ConnectionError, TimeoutError)
PERMANENT = (*NOT_THE_BACKEND, VersionConflictError)
FOREVER = 1e9  # seconds; a wait as long as this is never begun, whatever the deadline


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """The argument of `on_retry`, before each back-off.

    operation: the operation that failed; its `name` is "put", for example.
    attempt: number of the attempt that failed, from 1.
    wait: seconds of back-off before the next one.
    error: what it failed with.
    """

    operation: Operation[Any]
    attempt: int
    wait: float
    error: Exception


@dataclass(slots=True)
class Policy:
    """The settings of a `Retry` layer; no budget after it was closed."""

    attempts: int
    initial: float
    maximum: float
    deadline: float
    transient: tuple[type[Exception], ...]
    budget: RetryBudget | None
    on_retry: Callable[[RetryEvent], None] | None

    def is_transient(self, error: BaseException) -> bool:
        """Return whether another attempt may succeed, for at least one key."""
        if isinstance(error, DeleteManyError):
            return any(map(self.is_transient, error.failures.values()))
        return isinstance(error, self.transient) and not isinstance(error, PERMANENT)


def may_have_written(error: Exception) -> bool:
    """Return whether a failed attempt may have written.

    Yes for any error of another library: a `ValueError` that `retry_on` names may come from a reply that
    could not be read.
    """
    return not isinstance(error, StoreError) or is_undetermined(error)


def retry_after(error: Exception) -> float:
    """Return the seconds that the backend asked to wait, the longest of any key; 0 if it did not."""
    if isinstance(error, DeleteManyError):
        return max(map(retry_after, error.failures.values()))
    seconds = error.retry_after if isinstance(error, StoreUnavailableError) else None
    if not isinstance(seconds, int | float) or not seconds > 0:
        return 0.0
    return seconds if seconds < FOREVER else inf


class RetryBudget:
    """A token bucket that retries draw on; share one between the `Retry` layers that call the same backend.

    Works as in the standard mode of the AWS SDKs (SDKs and Tools Reference Guide, "Retry behavior"), with the
    costs of botocore's `RetryQuotaChecker`. Each retry takes tokens, and a retry that succeeds returns them.
    An operation whose first attempt succeeds adds `refund`. With too few tokens left, failures are not
    retried, so a full bucket allows 100 retries in an outage, however many operations fail. Thread-safe.

    capacity: tokens at the start, and the most there can be, 500 by default.
    retry_cost: tokens of one retry, 5 by default.
    timeout_cost: tokens of one retry after a timeout, 10 by default.
    refund: tokens added by an operation whose first attempt succeeds, 1 by default.
    shared: a `RedisLimits`, where all processes draw on one bucket; None, the default, for one in each
        process. Each retry asks Redis once and reports what was added since; an operation whose first
        attempt succeeds never asks it. If Redis does not reply, this process decides alone. A retry that is
        cancelled before the reply may have taken tokens, which are not returned.

    Raises `ValueError` for a figure under 1 and for a cost over the capacity.
    """

    def __init__(
        self,
        capacity: int = 500,
        *,
        retry_cost: int = 5,
        timeout_cost: int = 10,
        refund: int = 1,
        shared: RedisLimits | None = None,
    ) -> None:
        self._capacity = positive_int("capacity", capacity)
        self._retry_cost = positive_int("retry_cost", retry_cost)
        self._timeout_cost = positive_int("timeout_cost", timeout_cost)
        self._refund = positive_int("refund", refund)
        if max(retry_cost, timeout_cost) > capacity:
            raise ValueError(f"a cost over the capacity of {capacity} tokens would never allow a retry")
        if shared is not None:
            check_limits(shared)
        self._shared = shared
        self._tokens = capacity
        self._unreported = 0  # tokens added here, minus those taken here, since the last report to Redis
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Take a new lock: in a forked child, a thread of the parent may hold the old one."""
        # Reentrant: the garbage collector may end an operation that waits for Redis, anywhere.
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        shared = "" if self._shared is None else f", shared={self._shared!r}"
        return f"RetryBudget({self._tokens} of {self._capacity} tokens{shared})"

    @property
    def tokens(self) -> int:
        """Tokens left."""
        return self._tokens

    async def take(self, error: BaseException) -> int:
        """Take the tokens of a retry after `error`, and return how many: 0 if too few are left."""
        cost = self._timeout_cost if isinstance(error, TimeoutError) else self._retry_cost
        if self._shared is not None:
            with self._lock:
                unreported, self._unreported = self._unreported, 0
            answer = None
            try:
                answer = await self._shared.take_tokens(self._capacity, cost, unreported)
            finally:
                if answer is None:
                    with self._lock:
                        self._unreported += unreported
            if answer is not None:
                taken, left = answer
                with self._lock:
                    self._tokens = max(0, min(self._capacity, left + self._unreported))
                return taken
        with self._lock:
            if self._tokens < cost:
                return 0
            self._tokens -= cost
            self._unreported -= cost
        return cost

    def give_back(self, taken: int = 0) -> None:
        """Give back the tokens `taken` by a retry that succeeded or was never made, or add `refund` if 0."""
        if self._tokens < self._capacity:
            with self._lock:  # call nothing here: in a call, the garbage collector may end another retry
                added = taken or self._refund
                if self._tokens + added > self._capacity:
                    added = self._capacity - self._tokens
                self._tokens += added
                self._unreported += added

    async def close(self) -> None:
        """End the connections of `shared`; another retry begins them again."""
        if self._shared is not None:
            await self._shared.close()
