"""Work in a thread of an executor, and waits for work that cannot be stopped."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

T = TypeVar("T")
_POLL_SECONDS = 0.01


def start_in_thread(
    work: Callable[[], T], executor: Executor | None = None, *, key: str | None = None
) -> asyncio.Future[T]:
    """Begin `work` in a thread of `executor`, by default the event loop's.

    Raises `StoreUnavailableError`, with `key`, if no thread can be started; the work is then never done.
    """
    loop = asyncio.get_running_loop()
    waiting = [work]  # empty once it was taken
    ended: list[T | BaseException] = []
    try:
        return loop.run_in_executor(executor, _work, waiting, ended)
    except RuntimeError as error:
        # The executor queued the work before it failed to start a thread for it: take it back.
        with suppress(IndexError):
            waiting.pop()
            raise StoreUnavailableError(f"no thread is available: {error}", key=key) from error
        return loop.create_task(_outcome(ended))  # another of its threads has taken it already


async def wait_to_end(running: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until `running` is done, however often cancelled; return the last cancellation, if any."""
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def wake(waiter: asyncio.Future[None], _: object = None) -> None:
    """End the wait for `waiter`, unless it has ended or was cancelled."""
    if not waiter.done():
        waiter.set_result(None)


def _work(waiting: list[Callable[[], T]], ended: list[T | BaseException]) -> T:
    try:
        work = waiting.pop()
    except IndexError:
        raise asyncio.CancelledError from None  # `start_in_thread` took it back
    try:
        result = work()
    except BaseException as error:
        ended.append(error)
        del ended  # with the traceback's frame it would be a reference cycle
        raise
    ended.append(result)
    return result


async def _outcome(ended: list[T | BaseException]) -> T:
    while not ended:  # noqa: ASYNC110 - a thread sets no asyncio.Event
        await asyncio.sleep(_POLL_SECONDS)
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]
