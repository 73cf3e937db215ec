"""`start_in_thread`: work in a thread of an executor; `wait_to_end`: for work that cannot be stopped."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from concurrent.futures import Future as ExecutorFuture

    _Waiting = tuple[Callable[[], Any], asyncio.Future[Any]]

T = TypeVar("T")


def start_in_thread(
    work: Callable[[], T],
    executor: Executor | None = None,
    *,
    operation: str | None = None,
    key: str | None = None,
) -> asyncio.Future[T]:
    """Begin `work` in a thread of `executor`, by default the event loop's.

    Work that no thread has begun is never done once the future is cancelled. Raises `StoreUnavailableError`
    if no thread can be started; the work is then never done.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    waiting = [(work, future)]  # empty once it was taken
    if executor is None:
        # `run_in_executor` is public, but takes a fifth of the time of a hop for a future of its own.
        executor = getattr(loop, "_default_executor", None)
    submit = partial(loop.run_in_executor, None) if executor is None else executor.submit
    try:
        submit(_work, waiting).add_done_callback(partial(_drop, waiting))
    except RuntimeError as error:
        # The executor keeps what it was given before it failed to start a thread for it.
        with suppress(IndexError):  # another of its threads has taken it already
            waiting.pop()
            reason = f"no thread is available: {error}"
            raise StoreUnavailableError(reason, operation=operation, key=key) from error
    return future


async def wait_to_end(running: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until `running` is done, however often cancelled; return the last cancellation, if any."""
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _work(waiting: list[_Waiting]) -> None:
    try:
        work, future = waiting.pop()
    except IndexError:
        return
    if future.cancelled():
        return
    try:
        outcome, settle = work(), future.set_result
    except BaseException as error:  # noqa: BLE001 - the future raises it
        outcome, settle = error, future.set_exception
    try:
        future.get_loop().call_soon_threadsafe(_settle, future, settle, outcome)
    finally:
        del future, settle, outcome  # with the traceback's frame they would be a reference cycle


def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
    if not future.done():
        settle(outcome)


def _drop(waiting: list[_Waiting], running: ExecutorFuture[None] | asyncio.Future[None]) -> None:
    """Cancel the future if a shutdown of the executor dropped its work."""
    if running.cancelled():
        _, future = waiting.pop()
        loop = future.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(future.cancel)
