"""What `Retry` does once the first attempt of an operation has failed. The only file that knows tenacity."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Generic, cast

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random_exponential

from starfish_server.context import retries_outside
from starfish_server.errors import DeleteManyError, VersionConflictError
from starfish_server.layers.base import Operation, T
from starfish_server.layers.retry.policy import RetryEvent, is_undetermined, retry_after
from starfish_server.operations import GetVersioned

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tenacity import RetryCallState

    from starfish_server.layers.retry.policy import Policy
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["Recovery", "as_attempt", "recovery_of"]

_NOTE = "Retry gave up after "
_log = logging.getLogger(__name__)


async def as_attempt(operation: Operation[Any], attempt: Coroutine[Any, Any, T]) -> T:
    """Await one attempt: count it, and tell what is inside that its failures are retried here."""
    notes = operation.notes
    if notes is not None:
        notes["attempts"] = notes.get("attempts", 0) + 1
    token = retries_outside.set(True)
    try:
        return await attempt
    finally:
        try:  # noqa: SIM105 - each attempt comes here, and suppress takes longer
            retries_outside.reset(token)
        except ValueError:
            pass  # an attempt that is abandoned may be closed in another context


class Recovery(Generic[T]):
    """The attempts of one operation that follow a failed one; tenacity decides on each.

    An error that tenacity raised would refer to itself through its traceback, which keeps the bodies in
    memory until the cyclic collector runs. So attempts return their errors, and `release` drops the rest.

    started: when the operation began, on the clock of the event loop.
    """

    def __init__(
        self,
        policy: Policy,
        operation: Operation[T],
        inner: AbstractObjectStore,
        failure: Exception,
        started: float,
    ) -> None:
        self._policy = policy
        self._operation = operation
        self._inner = inner
        self._started = started
        self._failure = failure
        self._undetermined = is_undetermined(failure)
        self._result = cast("T", None)
        self._made = 0
        self._paid = 0
        self._gave_up: str | None = None
        self._jitter = wait_random_exponential(multiplier=policy.initial, max=policy.maximum)

    async def run(self) -> T:
        """Make attempts until one succeeds or the policy gives up; raise the error of the last one."""
        stop: Any = stop_after_attempt(self._policy.attempts)
        retrying = AsyncRetrying(
            retry=retry_if_result(self._may_retry),
            wait=self._back_off,
            stop=stop | self._is_late | self._is_over_budget,
            before_sleep=self._announce,
            sleep=self._sleep,
            retry_error_callback=self._give_up,
        )
        error: BaseException | None = await retrying(self._next)
        if error is not None:
            try:
                raise error
            finally:
                del error
        self._refund()
        return self._result

    def end(self, error: Exception) -> None:
        """Add to `error`, which ends the operation, how many attempts were made, and log it."""
        if error is not self._failure:  # the deadline ended an attempt
            error.__cause__ = self._failure
            self._noted(error)
        elif self._gave_up is not None:
            self._noted(error)

    def release(self) -> None:
        """Drop all references: objects of tenacity refer to this one until the cyclic collector runs."""
        vars(self).clear()

    async def attempt(self) -> T:
        """Make one attempt."""
        return await self._inner.perform(self._operation)

    async def _next(self) -> BaseException | None:
        self._made += 1
        if self._made == 1:
            return self._failure  # that attempt was made before tenacity came in
        try:
            self._result = await as_attempt(self._operation, self.attempt())
        except BaseException as error:  # noqa: BLE001 - run raises it
            if isinstance(error, Exception):
                self._failure = error
                self._undetermined |= is_undetermined(error)
            return error
        return None

    def _may_retry(self, error: BaseException | None) -> bool:
        return error is not None and self._policy.is_transient(error)

    def _back_off(self, state: RetryCallState) -> float:
        return max(self._jitter(state), retry_after(self._failure))

    def _is_late(self, state: RetryCallState) -> bool:
        left = self._started + self._policy.deadline - asyncio.get_running_loop().time()
        if state.upcoming_sleep >= left:
            self._gave_up = f": the deadline of {self._policy.deadline:g} s leaves no time for another"
        return self._gave_up is not None

    def _is_over_budget(self, state: RetryCallState) -> bool:
        if self._policy.budget is not None:
            self._paid = self._policy.budget.take(self._failure)
            if not self._paid:
                self._gave_up = ": the retry budget is spent"
        return self._gave_up is not None

    def _give_up(self, state: RetryCallState) -> Exception:
        self._gave_up = self._gave_up or ""
        return self._failure

    def _announce(self, state: RetryCallState) -> None:
        name, failed, wait = self._operation.name, type(self._failure).__name__, state.upcoming_sleep
        _log.debug(
            "%s: attempt %d failed with %s, the next one follows in %.3f s",
            *(name, self._made, failed, wait),
            extra={"operation": name, "attempts": self._made, "error_type": failed, "wait": wait},
        )
        if self._policy.on_retry is not None:
            try:
                self._policy.on_retry(RetryEvent(self._operation, self._made, wait, self._failure))
            except Exception:  # noqa: BLE001 - a hook must not break the operation
                _log.exception("on_retry failed; the operation continues")

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except BaseException:
            self._refund()
            raise
        notes = self._operation.notes
        if notes is not None:
            notes["waited"] = notes.get("waited", 0.0) + seconds

    def _refund(self) -> None:
        if self._policy.budget is not None:
            self._policy.budget.give_back(self._paid)

    def _noted(self, error: Exception) -> Exception:
        took = asyncio.get_running_loop().time() - self._started
        attempts = "1 attempt" if self._made == 1 else f"{self._made} attempts"
        note = f"{_NOTE}{attempts} in {took:.3f} s{self._gave_up or ''}"
        # A store may raise one object again and again: it keeps the latest note only.
        others = [text for text in getattr(error, "__notes__", ()) if not text.startswith(_NOTE)]
        error.__notes__ = [*others, note]
        name, failed = self._operation.name, type(error).__name__
        _log.warning(
            *("%s: %s; the last error is %s", name, note, failed),
            extra={"operation": name, "attempts": self._made, "error_type": failed, "duration": took},
        )
        return error


class _ConditionalRecovery(Recovery[str]):
    """Recognises a write whose reply was lost, which the next attempt finds as a conflict with itself.

    An object with the same body is taken for that write. One that another writer stored with the same body
    cannot be told apart from it, unless every failure was certain to have written nothing.
    """

    async def attempt(self) -> str:
        try:
            return await super().attempt()
        except VersionConflictError:
            if not self._undetermined:
                raise
        operation = self._operation
        try:
            found = await self._inner.perform(
                GetVersioned(operation.keys[0], operation.context, operation.notes)
            )
        except Exception as error:
            if self._policy.is_transient(error):
                raise
            raise self._conflict() from error
        if found is None or found[0] != operation.body:
            raise self._conflict()
        return found[1]

    def _conflict(self) -> VersionConflictError:
        reason = "the object has changed, and an earlier attempt may have written it; read it and try again"
        return self._operation.error(VersionConflictError, reason)


class _DeletionRecovery(Recovery[None]):
    """Retries the keys that failed and may succeed.

    Once keys have failed one by one, every error is a `DeleteManyError` of all keys that are still not
    deleted, in the order given.
    """

    async def attempt(self) -> None:
        left = self._left()
        try:
            await self._inner.perform(self._operation.replace(keys=left))
        except DeleteManyError as error:
            raise self._still_failed(left, error.failures) from error
        except Exception as error:
            if not self._failures:
                raise
            raise self._still_failed(left, dict.fromkeys(left, error)) from error
        if not self._failures.keys() <= set(left):
            raise self._still_failed(left, {})

    def end(self, error: Exception) -> None:
        if error is self._failure or not self._failures:
            super().end(error)
        else:
            left = self._left()
            raise self._noted(self._still_failed(left, dict.fromkeys(left, error))) from error

    @property
    def _failures(self) -> dict[str, Exception]:
        return self._failure.failures if isinstance(self._failure, DeleteManyError) else {}

    def _left(self) -> list[str]:
        failures = self._failures or dict.fromkeys(self._operation.keys, self._failure)
        return [key for key, error in failures.items() if self._policy.is_transient(error)]

    def _still_failed(self, tried: list[str], failed: dict[str, Exception]) -> DeleteManyError:
        failures = {key: error for key, error in self._failures.items() if key not in tried} | failed
        in_order = dict.fromkeys((*self._operation.keys, *failures))
        return DeleteManyError({key: failures[key] for key in in_order if key in failures})


def recovery_of(
    policy: Policy, operation: Operation[T], inner: AbstractObjectStore, failure: Exception, started: float
) -> Recovery[T] | None:
    """Make the recovery of an operation, or return None if `failure` must be raised.

    An operation that must not be done twice is retried only in a way that is known to be safe.
    """
    kind: Any = _KINDS.get(operation.name, Recovery if operation.idempotent else None)
    if kind is None or not policy.is_transient(failure):
        return None
    recovery: Recovery[T] = kind(policy, operation, inner, failure, started)
    return recovery


_KINDS: dict[str, type[Recovery[Any]]] = {
    "delete_many": _DeletionRecovery,
    "put_if": _ConditionalRecovery,
}
