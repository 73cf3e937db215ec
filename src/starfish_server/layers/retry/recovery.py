"""The attempts of `Retry` after the first one has failed. The only file that uses tenacity."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Generic, cast

from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential

from starfish_server.context import retries_outside
from starfish_server.errors import mark_undetermined
from starfish_server.layers.base import Operation, T
from starfish_server.layers.retry.policy import RetryEvent, may_have_written, retry_after
from starfish_server.logs import SafeLogger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import Token

    from tenacity import RetryCallState

    from starfish_server.layers.retry.policy import Policy

_NOTE = "Retry gave up after "
_log = SafeLogger(__package__)


def count_attempt(operation: Operation[Any]) -> None:
    """Tell observers of one more attempt."""
    if operation.notes is not None:
        operation.notes["attempts"] = operation.notes.get("attempts", 0) + 1


def end_attempt(token: Token[Sequence[None]], outside: list[None]) -> None:
    """Reset `retries_outside` after an attempt that set it to `outside`."""
    outside.clear()
    try:  # noqa: SIM105 - each attempt comes here, and suppress takes longer
        retries_outside.reset(token)
    except ValueError:
        pass  # an attempt that is abandoned may be closed in another context


class Recovery(Generic[T]):
    """The attempts of one operation after the first has failed; tenacity decides on each.

    An error raised through tenacity would refer to itself by its traceback and keep bodies in memory until
    the cyclic collector runs. So attempts return their errors, and `release` drops all other references.

    source: the store inside or another object with `perform`. failure: the error of the first attempt.
    started: when that attempt began, on the clock of the event loop.
    """

    def __init__(
        self, policy: Policy, operation: Operation[T], source: Any, failure: Exception, started: float
    ) -> None:
        self._policy = policy
        self._operation: Any = operation  # of the class that the recovery is for
        self._source = source
        self._started = started
        self._first = self._failure = failure
        self._error: BaseException | None = None
        self._undetermined = failure if may_have_written(failure) else None
        self._result = cast("T", None)
        self._made = 0
        self._paid = 0
        self._gave_up: str | None = None
        self._jitter = wait_random_exponential(multiplier=policy.initial, max=policy.maximum)

    async def run(self) -> T:
        """Make attempts until one succeeds or the policy gives up; raise the error of the last one."""
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda _: self.may_retry(self._error)),
            wait=lambda state: max(self._jitter(state), retry_after(self._failure)),
            stop=self._must_stop,  # type: ignore[arg-type]  # tenacity awaits it, its types do not say so
            sleep=self._sleep,
            retry_error_callback=lambda _: None,
        )
        await retrying(self._next)
        if self._error is not None:
            raise self._error
        self._refund()
        return self._result

    def end(self, error: Exception) -> None:
        """Add the number of attempts to `error`, which ends the operation, and log it."""
        if error is not self._failure:  # the deadline ended an attempt
            error.__cause__ = self._failure
        elif self._gave_up is None:
            return
        self._noted(error)

    def release(self) -> None:
        """Drop all references: tenacity's objects refer to this one until the cyclic collector runs."""
        vars(self).clear()

    async def attempt(self) -> T:
        """Make one attempt."""
        return await self._source.perform(self._operation)  # type: ignore[no-any-return]  # of any class

    @property
    def repeatable(self) -> bool:
        """Whether another attempt is safe."""
        return bool(self._operation.idempotent)

    def may_retry(self, error: BaseException | None) -> bool:
        """Return whether an attempt that ended with `error` may be followed by another one."""
        if error is None or self._gave_up is not None:
            return False
        return self._policy.is_transient(error) and self.repeatable

    async def _next(self) -> None:
        # The error is not returned: its traceback leads to tenacity's frame, which would refer back to it.
        self._made += 1
        if self._made == 1:
            self._error = self._failure  # the first attempt was made without tenacity
            return
        count_attempt(self._operation)
        outside = [None]
        token = retries_outside.set(outside)
        try:
            self._result = await self.attempt()
            self._error = None
        except BaseException as error:  # noqa: BLE001 - run raises it
            self._error = error
            if isinstance(error, Exception):
                earlier, self._failure = self._undetermined, error
                self._undetermined = error if may_have_written(error) else earlier
                if earlier is not None and self._operation.writes:
                    mark_undetermined(error)
        finally:
            end_attempt(token, outside)

    async def _must_stop(self, state: RetryCallState) -> bool:
        left = self._started + self._policy.deadline - asyncio.get_running_loop().time()
        if self._made >= self._policy.attempts:
            self._gave_up = ""
        elif state.upcoming_sleep >= left:
            self._gave_up = f": the deadline of {self._policy.deadline:g} s leaves no time for another"
        elif self._policy.budget is not None:
            self._paid = await self._policy.budget.take(self._failure)
            if not self._paid:
                self._gave_up = ": the retry budget is spent"
        return self._gave_up is not None

    def _announce(self, wait: float) -> None:
        _log.failure(
            logging.DEBUG,
            "%(operation)s: attempt %(attempts)d failed, the next one follows in %(wait).3f s: %(failure)s",
            self._failure,
            operation=self._operation.name,
            attempts=self._made,
            wait=wait,
        )
        if self._policy.on_retry is not None:
            try:
                self._policy.on_retry(RetryEvent(self._operation, self._made, wait, self._failure))
            except Exception:  # noqa: BLE001 - a hook must not break the operation
                _log.exception("on_retry failed; the operation continues")

    async def _sleep(self, seconds: float) -> None:
        try:
            self._announce(seconds)
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
        # A store may raise the same error object every time: keep only the latest note.
        others = [text for text in getattr(error, "__notes__", ()) if not text.startswith(_NOTE)]
        error.__notes__ = [*others, note]
        _log.failure(
            logging.WARNING,
            "%(operation)s: %(note)s: %(failure)s",
            error,
            operation=self._operation.name,
            attempts=self._made,
            duration=took,
            note=note,
        )
        return error
