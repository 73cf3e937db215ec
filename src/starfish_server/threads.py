"""`start_in_thread`: work in a thread of an executor; `wait_to_end`: for work that cannot be stopped."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

T = TypeVar("T")


def start_in_thread(
    work: Callable[[], T],
    executor: Executor | None = None,
    *,
    operation: str | None = None,
    key: str | None = None,
) -> asyncio.Future[T]:
    """Begin `work` in a thread of `executor`, by default the event loop's.

    Raises `StoreUnavailableError` if no thread can be started; the work is then never done. If nothing awaits
    the future any more, an exception of it is not reported.
    """
    loop = asyncio.get_running_loop()
    outcome: Future[T] = Future()
    try:
        started = loop.run_in_executor(executor, _work, work, outcome)
    except RuntimeError as error:
        # The executor keeps what it was given before it failed to start a thread for it.
        if outcome.cancel():
            reason = f"no thread is available: {error}"
            raise StoreUnavailableError(reason, operation=operation, key=key) from error
        started = asyncio.wrap_future(outcome)  # another of its threads has taken it already
    started.add_done_callback(lambda done: done.cancelled() or done.exception())
    return started


async def wait_to_end(running: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until `running` is done, however often cancelled; return the last cancellation, if any."""
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def _work(work: Callable[[], T], outcome: Future[T]) -> T:
    if not outcome.set_running_or_notify_cancel():
        raise asyncio.CancelledError
    try:
        result = work()
    except BaseException as error:
        outcome.set_exception(error)
        del outcome  # with the traceback's frame it would be a reference cycle
        raise
    outcome.set_result(result)
    return result
