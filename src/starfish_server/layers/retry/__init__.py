"""`Retry`: more attempts after transient failures."""

from __future__ import annotations

from inspect import iscoroutinefunction
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from starfish_server.checks import positive_int, positive_number
from starfish_server.context import retries_outside
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.deadline import Deadlines, rest_of
from starfish_server.layers.retry.policy import FOREVER, PERMANENT, TRANSIENT, Policy, RetryBudget, RetryEvent
from starfish_server.layers.retry.recovery import count_attempt, end_attempt
from starfish_server.layers.retry.special_cases import recovery_of
from starfish_server.layers.retry.streams import ResumableReader, UploadChunks
from starfish_server.objects import ObjectReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starfish_server.layers.retry.recovery import Recovery
    from starfish_server.storage.base import AbstractObjectStore, Result

_STREAMS = ("open", "upload")


class Retry(Layer):
    """Retries transient failures after an exponential back-off with full jitter.

    Stands inside cache and redundancy and outside `ConcurrencyLimit` and `Timeout`, so that each attempt has
    its own permit and its own limit. Inside a `Retry`, a leaf with retries of its own makes one attempt only,
    and another `Retry` passes operations on, so attempts never multiply.

    attempts: attempts in all, the first included, 4 by default.
    initial: seconds up to which the first back-off may last, 0.1 by default; doubled for each further one.
    maximum: seconds that no back-off is over, 5.0 by default. A longer `retry_after` of the backend is
        respected.
    deadline: seconds for all attempts and the back-off between them, 30.0 by default. A back-off that would
        end after it does not begin. An attempt in flight at the deadline, even the first, is cancelled
        (`StoreTimeoutError`), and a write may have been done. The deadline of `open` covers opening, and then
        each chunk; an upload in progress has none. The clock is the event loop's.
    retry_on: exception types retried besides `StoreUnavailableError`, `ConnectionError` and `TimeoutError`.
        Permanent errors (`InvalidKeyError`, `StoreClosedError`, ...) and cancellation never are.
    budget: a `RetryBudget`, usually shared with other layers; None, the default, for no budget.
    on_retry: called with a `RetryEvent` before each back-off; an exception in it is logged.

    When it gives up, it raises the last error, with a note (`__notes__`) of how many attempts were made and
    how long they took. Each retry is logged at DEBUG, giving up at WARNING.

    Special cases:

    - `delete_many`: retries the keys that failed; one `DeleteManyError` names those that failed in the end.
    - `write` with an `if_version`: a retry may conflict with an earlier attempt whose reply was lost. After
      such a conflict the object is read; if it is what was to be written (body, content type, cache control
      and metadata), the write has succeeded.
    - `copy` with an `if_version`: after such a conflict the failure of the earlier attempt is raised.
    - `open`: a broken stream resumes at the byte where it broke, in a new reader. If the object has been
      replaced, or has no version, the error that broke the stream is raised. The count of attempts starts
      again after each chunk.
    - `upload`: retried only until its first chunk is taken. The leaf retries later parts.

    Other operations that are not idempotent are not retried.
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
        if any(issubclass(kind, PERMANENT) for kind in retry_on):
            never = ", ".join(kind.__name__ for kind in PERMANENT)
            raise ValueError(f"retry_on: these errors are permanent and never retried: {never}")
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
        self._deadlines = Deadlines(
            min(self._policy.deadline, FOREVER), f"the deadline of {deadline:g} s has passed"
        )
        self._no_deadlines = Deadlines(FOREVER, "took longer than an upload may")

    def settings(self) -> dict[str, object]:
        policy = self._policy
        shown = {name: getattr(policy, name) for name in ("attempts", "initial", "maximum", "deadline")}
        if len(policy.transient) > len(TRANSIENT):
            shown["retry_on"] = [kind.__name__ for kind in policy.transient[len(TRANSIENT) :]]
        if policy.budget is not None:
            shown["budget"] = policy.budget
        return shown

    async def close(self) -> None:
        budget, self._policy.budget = self._policy.budget, None
        try:
            await super().close()
        finally:
            if budget is not None:
                await budget.close()

    def perform(self, operation: Operation[T]) -> Result[T]:
        if retries_outside.get():
            return self._inner.perform(operation)
        if operation.name in _STREAMS:
            return self._stream(operation)
        return self._attempts(operation, self._inner, self._deadlines)

    async def _stream(self, operation: Any) -> Any:
        if operation.name == "upload":
            operation = operation.replace(chunks=UploadChunks(operation.chunks))
            return await self._attempts(operation, self._inner, self._no_deadlines)
        reader = await self._attempts(operation, self._inner, self._deadlines)
        if reader is None:
            return None
        rest = ResumableReader(self._inner, operation, reader)
        return ObjectReader(
            reader.info, lambda: self._attempts(operation, rest, self._deadlines), rest.aclose
        )

    async def _attempts(self, operation: Operation[Any], source: Any, deadlines: Deadlines) -> Any:
        """Make the first attempt, and let a `Recovery` make more if it fails.

        source: the store inside, or the reader whose next chunk is fetched.
        """
        if operation.notes is not None and source is self._inner:
            count_attempt(operation)
        recovery: Recovery[Any] | None = None
        outside = [None]
        token = retries_outside.set(outside)
        try:
            attempt = source.perform(operation)
            try:
                if type(attempt) is CoroutineType:
                    attempt = rest_of(attempt, attempt.send(None))
            except StopIteration as done:  # the attempt never waited, so it needs no deadline
                retries_outside.reset(token)
                outside.clear()
                if self._policy.budget is not None and source is self._inner:
                    self._policy.budget.give_back()
                return done.value
        except BaseException as error:  # noqa: BLE001 - raised again below
            attempt = _raise(error)
        try:
            limit = deadlines.limit(operation)
        except BaseException:
            end_attempt(token, outside)
            raise
        try:
            with limit:
                try:
                    result = await attempt
                except Exception as error:
                    started = limit.at - deadlines.seconds
                    recovery = recovery_of(self._policy, operation, source, error, started)
                    if recovery is None:
                        raise
                else:
                    if self._policy.budget is not None and source is self._inner:
                        self._policy.budget.give_back()
                    return result
                finally:
                    end_attempt(token, outside)
                return await recovery.run()
        except Exception as error:
            if recovery is not None:
                recovery.end(error)
            raise
        finally:
            if recovery is not None:
                recovery.release()


async def _raise(error: BaseException) -> NoReturn:
    try:
        raise error
    finally:
        del error  # break the cycle between the error and this frame
