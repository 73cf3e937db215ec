"""`Retry`: another try for what failed in passing."""

from __future__ import annotations

from inspect import iscoroutinefunction
from time import monotonic
from typing import TYPE_CHECKING

from starfish_server.checks import positive_int, positive_number
from starfish_server.layers.base import (
    DELETE_MANY,
    PUT_IF,
    Around,
    Operation,
    Proceed,
    Slot,
    T,
    Target,
    note_attempt,
    take_over_retries,
)
from starfish_server.layers.retry.budget import RetryBudget
from starfish_server.layers.retry.recovery import POINTLESS, TRANSIENT, Policy, Recovery, RetryEvent
from starfish_server.layers.retry.repeat import RepeatableDeleteMany, RepeatablePutIf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["Retry", "RetryBudget", "RetryEvent"]


class Retry(Around):
    """Tries an operation again that failed in passing, after an exponential back-off with full jitter.

    Stands inside cache and redundancy and outside `ConcurrencyLimit` and `Timeout`: each try has its own
    permit and its own limit. It stops the leaf's own retries, and outside another `Retry` it does not start
    over, so attempts never multiply.

    attempts: tries in all, the first included, 4 by default.
    initial, maximum: the n-th back-off is up to `initial * 2**(n - 1)` and never over `maximum`, 0.1 and
        5.0 seconds by default; a longer `retry_after` of the server is waited for.
    deadline: seconds for the whole operation, 30.0 by default. No back-off begins that would end after it,
        and a repeated try is cut then (`StoreTimeoutError`). The first try is not watched, which would cost
        more than all else here: give it a `Timeout` inside.
    retry_on: exception types tried again besides `StoreUnavailableError`, `ConnectionError` and
        `TimeoutError`. Errors that another try cannot help (`InvalidKeyError`, `StoreClosedError`, ...) and
        cancellation never are.
    budget: a `RetryBudget`, usually shared with other layers; None, the default, for no budget.
    on_retry: called with a `RetryEvent` before each back-off; what it raises is logged.

    When the tries are used up, the last error is raised as it came, with a note (`__notes__`) of how many
    were made and how long they took. `delete_many` repeats the keys that failed and raises one
    `DeleteManyError` of those that still do. `put_if` reads back before it is tried again, so that a write
    whose answer was lost is not taken for another writer's.
    """

    slot = Slot.RETRY
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        attempts: int = 4,
        initial: float = 0.1,
        maximum: float = 5.0,
        deadline: float = 30.0,
        retry_on: Sequence[type[Exception]] = (),
        budget: RetryBudget | None = None,
        on_retry: Callable[[RetryEvent], None] | None = None,
    ) -> None:
        super().__init__(inner)
        if isinstance(retry_on, type) or not all(
            isinstance(kind, type) and issubclass(kind, Exception) for kind in retry_on
        ):
            raise TypeError(f"retry_on takes a sequence of subclasses of Exception, not {retry_on!r}")
        if any(issubclass(kind, POINTLESS) for kind in retry_on):
            never = ", ".join(kind.__name__ for kind in POINTLESS)
            raise ValueError(f"retry_on: another try cannot help after any of {never}")
        if on_retry is not None and (not callable(on_retry) or iscoroutinefunction(on_retry)):
            raise TypeError("on_retry must be a plain function; start a task in it for asynchronous work")
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget, not {type(budget).__name__}")
        self._policy = Policy(
            attempts=positive_int("attempts", attempts),
            initial=positive_number("initial", initial),
            maximum=positive_number("maximum", maximum),
            deadline=positive_number("deadline", deadline),
            transient=(*TRANSIENT, *retry_on),
            budget=budget,
            on_retry=on_retry,
        )
        take_over_retries(inner)

    def settings(self) -> dict[str, object]:
        policy = self._policy
        shown: dict[str, object] = {
            "attempts": policy.attempts,
            "initial": policy.initial,
            "maximum": policy.maximum,
            "deadline": policy.deadline,
        }
        if len(policy.transient) > len(TRANSIENT):
            shown["retry_on"] = [kind.__name__ for kind in policy.transient[len(TRANSIENT) :]]
        if policy.budget is not None:
            shown["budget"] = policy.budget
        return shown

    async def around(
        self, operation: Operation, target: Target, context: StoreContext | None, proceed: Proceed[T]
    ) -> T:
        policy = self._policy
        started = monotonic()
        note_attempt()
        try:
            result = await proceed()
        except Exception as error:
            if not policy.may_retry(error, started):
                raise
            failure = error
        else:
            if policy.budget is not None:
                policy.budget.give_back()
            return result
        return await Recovery(policy, operation, target, proceed, started, failure).run()

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        # A copy, to be repeated from; one str stays as it is, for the leaf to refuse.
        given = keys if isinstance(keys, str) else list(keys)
        inner, policy, started = self._inner, self._policy, monotonic()
        proceed = RepeatableDeleteMany(
            lambda left: inner.delete_many(left, context=context),
            given,
            lambda error: policy.may_retry(error, started),
        )
        await self.around(DELETE_MANY, given, context, proceed)

    async def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        inner = self._inner
        proceed = RepeatablePutIf(
            lambda: inner.put_if(
                key,
                body,
                version=version,
                content_type=content_type,
                cache_control=cache_control,
                context=context,
            ),
            lambda: inner.get_versioned(key, context=context),
            key,
            body,
            version,
        )
        return await self.around(PUT_IF, key, context, proceed)
