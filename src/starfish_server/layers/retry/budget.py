"""`RetryBudget`: a limit on the traffic that retries add in an outage."""

from __future__ import annotations

import threading

from starfish_server.checks import positive_int

__all__ = ["RetryBudget"]


class RetryBudget:
    """A token bucket that retries draw on; share one between the `Retry` layers that call the same backend.

    As in the standard mode of the AWS SDKs (SDKs and Tools Reference Guide, "Retry behavior"), with the costs
    of botocore's `RetryQuotaChecker`. Each retry takes tokens, and a retry that succeeds gives them back. An
    operation whose first attempt succeeds adds `refund`. With too few tokens left, failures are raised and
    not retried. So a full bucket allows 100 retries in an outage, however many operations fail. Thread-safe.

    capacity: tokens at the start, and the most there can be, 500 by default.
    retry_cost: tokens of one retry, 5 by default.
    timeout_cost: tokens of one retry after a timeout, 10 by default.
    refund: tokens added by an operation whose first attempt succeeds, 1 by default.

    Raises `ValueError` for a figure under 1 and for a cost over the capacity.
    """

    def __init__(
        self, capacity: int = 500, *, retry_cost: int = 5, timeout_cost: int = 10, refund: int = 1
    ) -> None:
        self._capacity = positive_int("capacity", capacity)
        self._retry_cost = positive_int("retry_cost", retry_cost)
        self._timeout_cost = positive_int("timeout_cost", timeout_cost)
        self._refund = positive_int("refund", refund)
        if max(retry_cost, timeout_cost) > capacity:
            raise ValueError(f"a cost over the capacity of {capacity} tokens would never allow a retry")
        self._tokens = capacity
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"RetryBudget({self._tokens} of {self._capacity} tokens)"

    @property
    def tokens(self) -> int:
        """Tokens left."""
        return self._tokens

    def take(self, error: BaseException) -> int:
        """Take the tokens of a retry after `error` and return how many: 0, and no retry, if too few are left."""
        cost = self._timeout_cost if isinstance(error, TimeoutError) else self._retry_cost
        with self._lock:
            if self._tokens < cost:
                return 0
            self._tokens -= cost
        return cost

    def give_back(self, taken: int = 0) -> None:
        """Give back what a retry took that succeeded or was never made; or add `refund` if none was needed."""
        if self._tokens < self._capacity:
            with self._lock:
                self._tokens = min(self._capacity, self._tokens + (taken or self._refund))
